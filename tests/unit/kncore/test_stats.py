from kncore.stats import Report, RequestStats


def test_a_request_weighs_as_long_as_it_lasts() -> None:
    stats = RequestStats(0)
    stats.arrive(0.5)
    stats.leave(0.75)
    assert stats.report(1) == Report(0.25, 0, 1, 0)


def test_what_is_in_flight_stays_after_a_report() -> None:
    stats = RequestStats(0)
    stats.arrive(0, proxied=True)
    stats.arrive(0)
    assert stats.report(1) == Report(2, 1, 2, 1)
    assert stats.report(2) == Report(2, 1, 0, 0)
    stats.leave(2, proxied=True)
    assert stats.report(3) == Report(1, 0, 0, 0)
    stats.leave(3)
    assert stats.concurrency == 0


def test_a_clock_that_steps_back_is_waited_for() -> None:
    stats = RequestStats(10)
    stats.arrive(5)
    assert stats.report(9) == Report(0, 0, 1, 0)
    assert stats.report(11) == Report(1, 0, 0, 0)


def test_two_reports_at_one_moment_divide_by_nothing() -> None:
    stats = RequestStats(0)
    stats.arrive(0)
    stats.report(1)
    assert stats.report(1) == Report(0, 0, 0, 0)
