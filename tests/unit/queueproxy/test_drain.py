import pytest

from queueproxy.drain import Drainer


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def drainer() -> Drainer:
    return Drainer(quiet=30.0)


def test_quiet_time_counts_from_the_last_request(drainer: Drainer, told: list[str]) -> None:
    drainer.begin(100.0, terminating=True)
    drainer.wait(lambda: told.append("drained"))
    assert drainer.visit(129.9)
    drainer.last = 125.0
    assert drainer.visit(130.0)
    assert drainer.visit(154.9)
    assert told == []
    assert not drainer.visit(155.0)
    assert told == ["drained"]
    assert drainer.draining


def test_prestop_without_sigterm_means_that_serving_goes_on(drainer: Drainer, told: list[str]) -> None:
    drainer.begin(100.0, terminating=False)
    drainer.wait(lambda: told.append("released"))
    drainer.visit(101.0)
    assert drainer.draining
    drainer.visit(101.1)
    assert (drainer.draining, told) == (False, ["released"])


def test_sigterm_within_a_second_of_the_prestop(drainer: Drainer, told: list[str]) -> None:
    drainer.begin(100.0, terminating=False)
    drainer.wait(lambda: told.append("prestop"))
    drainer.begin(100.5, terminating=True)
    drainer.wait(lambda: told.append("sigterm"))
    drainer.visit(120.0)
    assert told == []
    drainer.visit(130.0)
    assert told == ["prestop", "sigterm"]


def test_second_prestop_does_not_restart_the_quiet_time(drainer: Drainer, told: list[str]) -> None:
    drainer.begin(100.0, terminating=True)
    drainer.begin(120.0, terminating=False)
    drainer.wait(lambda: told.append("drained"))
    drainer.visit(130.0)
    assert told == ["drained"]


def test_serving_is_not_draining(drainer: Drainer) -> None:
    assert not drainer.visit(1000.0)
    assert not drainer.draining
