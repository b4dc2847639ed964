"""What every test may use, and the rule of the mission's tests: one that carries a row's mark asserts a figure, or fails."""

from __future__ import annotations

import signal
from collections.abc import Generator
from typing import Any

import numpy as np
import pytest
from figures import Figure

# A shell lets its background jobs ignore Ctrl-C, and Python then installs no handler: tests that interrupt would wait for ever.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

FIGURE = pytest.StashKey[Figure]()


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers that are the same in every run."""
    return np.random.default_rng(20)


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Figure:
    """Asserts numbers, and that each assertion can fail: see figures.py."""
    rows = tuple(row for mark in request.node.iter_markers("mission") for row in mark.args)
    request.node.stash[FIGURE] = Figure(request.node.nodeid, rows)
    return request.node.stash[FIGURE]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """A test that passed without a figure proves no row."""
    result = yield
    if item.get_closest_marker("mission") is not None:
        asserted = item.stash.get(FIGURE, None)
        if asserted is None or not asserted.count:
            pytest.fail("marked mission, yet no figure was asserted: use the fixture `figure` (tests/figures.py)", pytrace=False)
    return result
