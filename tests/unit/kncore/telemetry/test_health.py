from kncore.telemetry.health import Health


def test_ready_when_everything_required_is_there() -> None:
    health = Health(["informers", "autoscaler"])
    assert (health.ready, health.alive) == (False, True)
    health.mark("informers", True)
    health.mark("autoscaler", False, "connection refused")
    assert health.statistics().missing == {"autoscaler": "connection refused"}
    health.mark("autoscaler", True)
    assert health.ready
    health.mark("autoscaler", False)
    assert not health.ready


def test_draining_is_not_ready_but_alive() -> None:
    health = Health()
    health.drain()
    assert (health.ready, health.alive, health.statistics().draining) == (False, True, True)


def test_stuck_means_restart() -> None:
    health = Health()
    health.mark_stuck("watch", "no event for 10 min")
    assert (health.ready, health.alive) == (False, False)
