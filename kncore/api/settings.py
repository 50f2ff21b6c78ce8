"""The ConfigMaps that admission reads."""

from typing import Protocol

from kncore.config.autoscaler import Autoscaler
from kncore.config.defaults import Defaults
from kncore.config.features import Features

__all__ = ["Settings"]


class Settings(Protocol):
    """A snapshot of the ConfigMaps; `kncore.config.store.Store` is one."""

    @property
    def autoscaler(self) -> Autoscaler:
        """config-autoscaler"""

    @property
    def defaults(self) -> Defaults:
        """config-defaults"""

    @property
    def features(self) -> Features:
        """config-features"""
