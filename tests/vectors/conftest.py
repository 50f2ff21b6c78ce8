"""Golden vectors recorded from the original implementation: where they are and how tests read them.

The folder is named by `TORPOR_VECTORS` (default: `../shared/vectors` beside the repository). Without it these tests
are skipped, visibly. A second folder of the same layout is used for acceptance, so tests loop over whatever cases a
file holds.
"""

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Load = Callable[[str], dict[str, Any]]


def folder() -> Path:
    """Where the vectors should be."""
    default = Path(__file__).resolve().parents[2].parent / "shared" / "vectors"
    return Path(os.environ.get("TORPOR_VECTORS") or default)


@pytest.fixture(scope="session")
def vectors() -> Load:
    """`vectors("serving/windows.json")` is that file, decoded; each file is read once per session. Treat it as
    read-only.
    """
    root = folder()

    @functools.cache
    def load(name: str) -> dict[str, Any]:
        path = root / name
        if not path.is_file():
            pytest.skip(f"no golden vectors at {path}; set TORPOR_VECTORS")
        return json.loads(path.read_bytes())  # type: ignore[no-any-return]

    return load
