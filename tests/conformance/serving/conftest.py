"""A platform and the app of the conformance tests on it."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.platforms import Platform, http, load, own_platform, platform, shared_platform

__all__ = ["http", "load", "own_platform", "platform", "shared_platform"]

CONFORM = "test.local/conform:1"


@pytest.fixture
def deploy(platform: Platform) -> Callable[..., Awaitable[tuple[str, dict[str, str]]]]:
    """Apply a Service of the conformance app (fields as of `Platform.manifest`), wait until it is Ready; returns where
    it answers.
    """

    async def applied(name: str, *, within: float = 30, **changes: Any) -> tuple[str, dict[str, str]]:
        platform.apply(platform.manifest(name=name, **{"image": CONFORM, **changes}))
        await platform.ready(name, within)
        return platform.url(name)

    return applied
