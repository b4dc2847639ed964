"""What every test may use: random numbers and figures, and the rules of the marks `mission` and `alone`.

A test that carries a mission row's mark asserts a figure, or fails. Where several processes run the tests, one that is marked alone
measures time, and no other runs meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from figures import Figure

# A shell lets its background jobs ignore Ctrl-C, and Python then installs no handler: tests that interrupt would wait for ever.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Programs that tests start import byte code, as a user's do; where none may lie beside the sources, it goes to a folder of the tests.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
    os.environ.setdefault("PYTHONPYCACHEPREFIX", str(Path(__file__).resolve().parents[1] / ".pytest_cache" / "byte_code"))

FIGURE = pytest.StashKey[Figure]()
NOTES: set[str] = set()             # what the processes of a run have to say at its end


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


@contextlib.contextmanager
def turn(item: pytest.Item) -> Iterator[None]:
    """The room of this run's processes, which a test marked alone has to itself; who waits for it holds the door, so that it empties."""
    if sys.platform == "win32" or not hasattr(item.config, "workerinput"):
        yield
        return
    import fcntl
    with open(Path(item.config.getoption("basetemp")).parent / "door_and_room", "ab+") as file:
        fcntl.lockf(file, fcntl.LOCK_EX, 1, 0)
        fcntl.lockf(file, fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH, 1, 1)
        fcntl.lockf(file, fcntl.LOCK_UN, 1, 0)
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """Each test in its turn, with its fixtures."""
    with turn(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """A test that passed without a figure proves no row."""
    result = yield
    if item.get_closest_marker("mission") is not None:
        asserted = item.stash.get(FIGURE, None)
        if asserted is None or not asserted.count:
            pytest.fail("marked mission, yet no figure was asserted: use the fixture `figure` (tests/figures.py)", pytrace=False)
    return result


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes go by the name of their argument: compressed ones hold the time, and every process of a run must find the same tests."""
    return argname if isinstance(val, bytes) else None


def pytest_sessionfinish(session: pytest.Session) -> None:
    """What tests/distributed/worlds.py noted here, for the process that writes the summary."""
    NOTES.update(getattr(sys.modules.get("worlds"), "NOTES", ()))
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["notes"] = sorted(NOTES)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """One of several processes has ended: its notes."""
    NOTES.update(getattr(node, "workeroutput", {}).get("notes", ()))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Which runtimes were missing, and where a private namespace was not to be had: nothing is green in silence."""
    skipped = {str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", []) if "tests/distributed" in report.nodeid}
    for note in sorted(skipped | NOTES):
        terminalreporter.write_line(f"distributed: {note.removeprefix('Skipped: ')}")
