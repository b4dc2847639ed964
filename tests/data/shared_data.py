"""Where the shared data lies, for tests that read it, and what they say when it is absent."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def folder(name):
    """A folder of the shared data; skips the test, with the reason, where it is not there."""
    path = SHARED / name
    if not path.is_dir():
        pytest.skip(f"the data folder {name} of ../shared/data is not there")
    return path
