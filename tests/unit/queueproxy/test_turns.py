"""The layer that takes turns, around an app that is a list; the loop is the test."""

from kncore.net.overload import Limits, Overloaded, Turns
from queueproxy.proxy import take_turns


class Loop:
    def __init__(self) -> None:
        self.now = 0.0
        self.soon: list = []

    def time(self) -> float:
        return self.now

    def call_soon(self, callback) -> None:
        self.soon.append(callback)

    def call_later(self, delay: float, callback):
        raise AssertionError("one party alone has no window")

    def turn(self) -> None:
        due, self.soon = self.soon, []
        for callback in due:
            callback()


class Exchange:
    """As much of one as the layer uses."""

    def __init__(self, loop: Loop) -> None:
        self.started = loop.now
        self.hooks: list = []
        self.status = 0
        self.lines: tuple = ()
        self.error: Exception | None = None

    def on_done(self, hook) -> None:
        self.hooks.append(hook)

    def respond(self, status: int, body: bytes, lines: tuple) -> None:
        self.status, self.lines = status, lines
        self.finish()

    def finish(self) -> None:
        for hook in self.hooks:
            hook(self)


def test_all_go_in_order_a_round_at_a_time_and_nothing_is_left() -> None:
    loop, went = Loop(), []
    turns = Turns(loop, Limits(burst_alone=10))
    handle = take_turns(turns)(went.append)
    exchanges = [Exchange(loop) for _ in range(50)]
    for exchange in exchanges:
        handle(exchange)
    assert went == exchanges[:18]
    assert not went[0].hooks, "who goes at once is not remembered"
    exchanges[30].finish()
    while loop.soon:
        loop.turn()
    assert went == exchanges[:30] + exchanges[31:]
    for exchange in went:
        exchange.finish()
    assert turns.statistics().queued == 0


def test_what_comes_too_late_is_refused() -> None:
    loop, went = Loop(), []
    handle = take_turns(Turns(loop, Limits(burst_alone=10, patience=0.5)))(went.append)
    exchanges = [Exchange(loop) for _ in range(40)]
    for exchange in exchanges:
        handle(exchange)
    loop.now += 1.0
    while loop.soon:
        loop.turn()
    (*refused,) = [exchange for exchange in exchanges if exchange.status]
    assert refused
    assert {exchange.status for exchange in refused} == {503}
    assert all(b"Retry-After: 1" in exchange.lines and isinstance(exchange.error, Overloaded) for exchange in refused)
    assert len(went) + len(refused) == 40
