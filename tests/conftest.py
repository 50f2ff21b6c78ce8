"""What all tests share."""

import asyncio

import pytest

from tests import kubectl


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the kubectl binaries that selected tests need: it takes longer than a test may."""
    if session.config.option.collectonly:
        return
    calls = [item.callspec for item in session.items if hasattr(item, "callspec")]
    kubectl.build({value for call in calls for value in call.params.values() if isinstance(value, kubectl.Kubectl)})


@pytest.fixture(scope="session", autouse=True)
def _no_implicit_loop() -> None:
    """Keep pytest-asyncio from making an event loop that it never closes.

    Before its first test it asks for the thread's loop, which Python 3.11 makes on the spot unless somebody said that
    there is none; with warnings as errors the leftover fails the run.
    """
    asyncio.set_event_loop(None)
