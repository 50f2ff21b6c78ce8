"""What the data plane is to reach beside others: pure data, and the judgement of a ratio."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["GOALS", "ORIGINALS", "Goal"]

ORIGINALS = ("knative queue-proxy", "knative activator")


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A bound on ours / theirs."""

    at_least: float | None = None
    at_most: float | None = None

    def met(self, ratio: float) -> bool:
        """Whether a ratio is within the bound; NaN never is."""
        if self.at_least is not None:
            return ratio >= self.at_least
        return self.at_most is not None and ratio <= self.at_most

    def __str__(self) -> str:
        return f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:.2g}"


_BESIDE_ORIGINALS = {
    ("get-64", "requests/s"): Goal(at_least=3.0),
    ("get-64", "CPU us/request"): Goal(at_most=1 / 3),
    ("get-64", "p99 ms"): Goal(at_most=0.5),
    ("memory", "RSS MB, 1,000 connections"): Goal(at_most=1 / 3),
    ("download", "MB/s"): Goal(at_least=1.0),
    ("upload", "MB/s"): Goal(at_least=1.0),
    ("h2c-get", "requests/s"): Goal(at_least=2.5),
    ("grpc-unary", "requests/s"): Goal(at_least=2.5),
    ("websocket", "requests/s"): Goal(at_least=1.0),
}
GOALS: Mapping[tuple[str, str, str], Goal] = MappingProxyType(
    {
        **{(load, metric, peer): goal for (load, metric), goal in _BESIDE_ORIGINALS.items() for peer in ORIGINALS},
        ("get-64", "requests/s", "nginx"): Goal(at_least=0.7),
    }
)
"""(load, metric, peer): the goal; most figures have none."""
