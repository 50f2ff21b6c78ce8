"""What the tests of kncore.kube share."""

import pytest

from kncore.testing.kube import MemoryClient


@pytest.fixture
def client() -> MemoryClient:
    return MemoryClient()
