"""Fakes that are tested against the real thing: clock, Kubernetes client, upstream, raw sockets."""

from kncore.testing.clock import FakeClock

__all__ = ["FakeClock"]
