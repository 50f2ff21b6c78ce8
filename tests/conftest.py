"""What all tests share."""

import asyncio

import pytest


@pytest.fixture(scope="session", autouse=True)
def _no_implicit_loop() -> None:
    """Keep pytest-asyncio from making an event loop that it never closes.

    Before its first test it asks for the thread's loop, which Python 3.11 makes on the spot unless somebody said that
    there is none; with warnings as errors the leftover fails the run.
    """
    asyncio.set_event_loop(None)
