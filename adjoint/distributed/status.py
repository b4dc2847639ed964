"""Where a rank is: a page in the launcher's folder says which collective it has entered, and whether it is still inside.

Invariant: outside `adjoint launch` nothing is written; a page is a text of fixed length, written in place and readable at any time.
May import: errors, settings. Read next: launch.py, which names the rank that hangs.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import functools
import mmap
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..settings import LAUNCH, text

LENGTH = 512            # bytes of a page
LEAVE = 10.0            # seconds in which the other ranks may leave with an error too, and save before, once one has
ASKS = getattr(signal, "SIGUSR1", None)         # the signal that asks a rank for its Python stack
_PAGE, _COMPLETED, _LEFT = re.compile(r"rank-(\d+)"), re.compile(r"completed-(\d+)"), re.compile(r"left-(\d+)-(\d+)")


class Place(NamedTuple):
    """What a page says: how many collectives the rank has entered, whether it is inside the last one, which that is, and where it runs."""

    rank: int
    entered: int
    inside: bool
    collective: str
    bucket: str
    host: str
    process: int
    shared: tuple[str, ...]

    def __str__(self) -> str:
        of = f" ({self.bucket})" if self.bucket else ""
        return f"{self.collective} #{self.entered}{of}" if self.entered else "no collective yet"


class _Page:
    """This process's page, and how deep it is inside collectives: the outermost counts."""

    def __init__(self, folder: Path, rank: int):
        path = folder / f"rank-{rank}"
        path.write_bytes(b" " * LENGTH)
        with path.open("r+b") as file:
            self.memory = mmap.mmap(file.fileno(), LENGTH)
        self.depth = self.entered = 0
        self.last, self.folder, self.rank = ("", ""), folder, rank
        if ASKS is not None:
            self.stack = (folder / f"stack-{rank}").open("w")
            faulthandler.register(ASKS, self.stack)
        self.about = f"{socket.gethostname()}\t{os.getpid()}\t{' '.join(_shared())}"
        self.write()

    def write(self) -> None:
        line = "\t".join((str(self.entered), str(int(self.depth > 0)), *self.last, self.about))
        self.memory[:] = line.encode("utf-8", "replace")[:LENGTH].ljust(LENGTH)


_page: _Page | None = None


def _shared() -> list[str]:
    """Names in /dev/shm that this process has mapped: MPI leaves them there when a rank is killed."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:                     # not Linux
        return []
    return sorted({line.rpartition("/")[2] for line in lines if " /dev/shm/" in line and "deleted" not in line})


def join(rank: int) -> None:
    """Open this rank's page, if `adjoint launch` started the process; it writes its completion record when its program has ended.

    >>> join(0)
    """
    global _page
    folder = text(LAUNCH)
    if folder and _page is None:
        os.makedirs(folder, exist_ok=True)          # another host has a folder of its own
        _page = _Page(Path(folder), rank)
        atexit.register(_complete, _page)


def _complete(page: _Page) -> None:
    """At the end of this rank's program, unless an exception has ended it."""
    if getattr(sys, "last_value", None) is None:
        (page.folder / f"completed-{page.rank}").write_text(f"rank {page.rank} has ended its program\n")


def completed(folder: Path) -> set[int]:
    """The ranks whose completion record is in a launcher's folder.

    >>> completed(Path("/nowhere"))
    set()
    """
    return {int(match[1]) for path in folder.glob("completed-*") if (match := _COMPLETED.fullmatch(path.name))}


def leave_with(code: int) -> None:
    """Say that this rank ends its program by an exception or sys.exit, with such a status, and waits a moment for the others to do so too.

    >>> leave_with(3)
    """
    if _page is not None:
        (_page.folder / f"left-{_page.rank}-{code}").touch()


def left(folder: Path) -> dict[int, int]:
    """The ranks that have left so, and their statuses.

    >>> left(Path("/nowhere"))
    {}
    """
    return {int(match[1]): int(match[2]) for path in folder.glob("left-*") if (match := _LEFT.fullmatch(path.name))}


def enter(collective: str, bucket: str = "", *, counts: bool = True) -> None:
    """Say that this rank enters a collective, of a bucket of gradients perhaps. Call `leave` afterwards, in a finally.

    counts: False where ranks may do so more or less often than others: the number of collectives stays that of the last one.

    >>> enter("all_reduce", "conv3.w..conv5.b")
    >>> leave()
    """
    page = _page
    if page is not None:
        page.depth += 1
        if page.depth == 1:
            page.entered += counts
            page.last = (collective[:80], bucket[:160])
            page.write()


def leave() -> None:
    """Say that the collective entered last is done."""
    page = _page
    if page is not None:
        page.depth -= 1
        if page.depth == 0:
            page.write()


@contextlib.contextmanager
def inside(collective: str, bucket: str = "", *, counts: bool = True) -> Iterator[None]:
    """`enter`, and `leave` at the end.

    >>> with inside("parameter_server", "step 3: the model"): pass
    """
    enter(collective, bucket, counts=counts)
    try:
        yield
    finally:
        leave()


def noted(function: Callable[..., Any]) -> Callable[..., Any]:
    """A collective that says when it is entered and left, under the function's name.

    >>> noted(len)([1, 2])
    2
    """
    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        enter(function.__name__.removesuffix("_in_place"))
        try:
            return function(*arguments, **options)
        finally:
            leave()
    return call


def places(folder: Path) -> list[Place]:
    """What the pages in a launcher's folder say, by rank; a page that is just being written may be missing.

    >>> places(Path("/nowhere"))
    []
    """
    found = []
    for path in folder.glob("rank-*"):
        match, fields = _PAGE.fullmatch(path.name), path.read_bytes().decode("utf-8", "replace").rstrip().split("\t")
        if match and len(fields) >= 6 and fields[0].isdecimal() and fields[5].isdecimal():
            entered, inside, collective, bucket, host, process, *shared = fields
            found.append(Place(int(match[1]), int(entered), inside == "1", collective, bucket, host, int(process),
                               tuple(" ".join(shared).split())))
    return sorted(found)
