"""Whole platforms, one at a time."""

from tests.platforms import http, kubectl, load, own_platform, platform, shared_platform

__all__ = ["http", "kubectl", "load", "own_platform", "platform", "shared_platform"]
