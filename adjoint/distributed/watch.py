"""One world under mpiexec, watched from its start to its end: output by rank, Ctrl-C and SIGTERM handed on, a rank that hangs named.

Invariant: when `watched` returns or raises, nothing that the world has started on this machine and no shared memory of it is left.
May import: settings, status, processes, relay. Read next: processes.py, status.py, relay.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from typing import NamedTuple

from ..settings import GENERATION, LAUNCH
from . import status
from .processes import Family, belongs, end_all, environment
from .relay import Relay
from .status import Place

INTERRUPTED, TERMINATED, HUNG = 130, 143, 124
GRACE = 10.0            # seconds that ranks have to save and end after Ctrl-C, before they are killed
LOOK = 0.05             # seconds between looks
ANSWER = 0.3            # seconds that a rank has to write its stack
MOST_LINES = 40         # of a stack
_SHARED = re.compile(r"(mpich_shm_|sm_segment\.|vader_segment\.)[\w.-]+")
_SET_DEATH_SIGNAL = 1   # prctl


def hanging(places: list[Place]) -> tuple[list[Place], Place | None]:
    """(ranks that keep others waiting, a rank that waits): those that have not entered the collective in which others are.

    Of these the ones that do not wait themselves, if there are any.

    >>> waits = Place(0, 7, True, "all_reduce", "w..b", "a", 1, ())
    >>> late = Place(1, 6, False, "all_reduce", "w..b", "b", 2, ())
    >>> [place.rank for place in hanging([waits, late])[0]], hanging([late])[1]
    ([1], None)
    """
    waiting = max((place for place in places if place.inside), key=lambda place: place.entered, default=None)
    if waiting is None:
        return [], None
    behind = [place for place in places if place.entered < waiting.entered]
    return [place for place in behind if not place.inside] or behind or [place for place in places if not place.inside], waiting


def accusation(places: list[Place], ranks: int, seconds: float, completed: Set[int] = frozenset()) -> str:
    """The sentence that names the ranks that hang, their hosts, and the collective that they have not entered.

    completed: ranks that have ended their programs, for which others wait in vain.

    >>> accusation([Place(0, 7, True, "all_reduce", "w..b", "a", 1, ()), Place(1, 6, False, "all_reduce", "w..b", "b", 2, ())], 2, 5.0)
    'launch: nothing has moved for 5 s: rank 1 on b, process 2, has not entered all_reduce #7 (w..b), in which others wait'
    """
    guilty, waiting = hanging(places)
    names = [f"rank {place.rank} on {place.host}, process {place.process}," + " which has ended its program," * (place.rank in completed)
             for place in guilty]
    names += [f"rank {rank}, of which nothing is seen from here," for rank in sorted(set(range(ranks)) - {place.rank for place in places})]
    if not names:
        return f"launch: nothing has moved for {seconds:.3g} s: every rank has entered {waiting}; the network between them may be cut"
    verb = "has" if len(names) == 1 else "have"
    return f"launch: nothing has moved for {seconds:.3g} s: {' and '.join(names)} {verb} not entered {waiting}, in which others wait"


def _stacks(guilty: list[Place], folder: Path, say: Callable[[str], None]) -> None:
    """Say where in Python the ranks that hang are, if they still answer signals."""
    here = {place.rank: place.process for place in _of_this_machine(folder)}
    for place in guilty:
        if place.rank in here:
            with contextlib.suppress(ProcessLookupError):
                os.kill(here[place.rank], status.ASKS)
            time.sleep(ANSWER)
            stack = (folder / f"stack-{place.rank}").read_text(errors="replace").splitlines()
            for line in stack[:MOST_LINES] or ["it does not answer: it is stopped, or inside a call that holds it"]:
                say(f"launch: rank {place.rank}: {line}")


def _relay(stream: io.BufferedReader, say: Callable[[str], None], broken: list[BrokenPipeError]) -> None:
    """Say every line until the stream ends, or until nobody reads what is said, as after `| head`: then mpiexec cannot write either."""
    relay = Relay(say)
    try:
        with stream:
            while data := stream.read1():
                relay.take(data)
            relay.end()
    except BrokenPipeError as error:
        broken.append(error)


def _dies_with_us() -> None:
    """Before mpiexec begins: let the system kill it when the launcher is killed (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)


def _environment(folder: Path, start: int) -> dict[str, str]:
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"} if getattr(os, "geteuid", lambda: 1)() == 0 else {}
    return {**allowed, **os.environ, GENERATION: str(start), LAUNCH: str(folder)}


@contextlib.contextmanager
def _noted_signals() -> Iterator[list[int]]:
    """SIGINT and SIGTERM, noted in a list (in the main thread)."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = {number: signal.signal(number, lambda number, frame: came.append(number)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Ended(NamedTuple):
    """How a world has ended: the launcher's status, the hosts of ranks that hung, and a clause that says who ended first."""

    status: int
    hung: frozenset[str] = frozenset()
    first: str = ""


def watched(command: list[str], folder: Path, start: int, ranks: int, hang_seconds: float, say: Callable[[str], None], *,
            signals_ranks: bool = False) -> Ended:
    """Run one world to its end. Ctrl-C is handed on once, the second kills.

    signals_ranks: hand signals to the ranks of this machine themselves, since this mpiexec would end the world at once.
    Raises BrokenPipeError if say has, when the world has ended.
    """
    broken: list[BrokenPipeError] = []
    for path in folder.iterdir():
        path.unlink()
    with _noted_signals() as came:
        world = subprocess.Popen(command, env=_environment(folder, start), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                 start_new_session=True, preexec_fn=_dies_with_us)
        reader = threading.Thread(target=_relay, args=(world.stdout, say, broken), daemon=True)
        reader.start()
        hung, family = None, Family(world, ranks)
        try:
            hung = _until_it_ends(family, _Progress(folder, ranks, hang_seconds), came, say, signals_ranks)
            first = first_of(family, status.places(folder), status.completed(folder), status.left(folder))
        finally:
            family.close()
            _end(world, folder)
            reader.join(GRACE)
    if broken:
        raise broken[0]
    if hung is not None:
        return Ended(HUNG, frozenset(place.host for place in hung))
    if came:
        return Ended(128 + came[0])
    return Ended(world.returncode if world.returncode >= 0 else 128 - world.returncode, first=first)


def first_of(family: Family, places: list[Place], completed: set[int], left: dict[int, int]) -> str:
    """A clause that says what ended before everything else: the rest of a world is ended for it. Nothing if that was not seen, as where
    ranks are on other machines. Of ranks that were seen to have ended in the same moment, all are named. left: statuses of ranks that
    have ended their programs by sys.exit, for which others are ended only later.
    """
    if not environment(family.world.pid):                   # it ends now, or has: by itself, or was it killed?
        with contextlib.suppress(subprocess.TimeoutExpired):
            family.world.wait(1.0)
    if (family.world.poll() or 0) < 0:
        return ": mpiexec was killed"
    if family.orphaned:
        return ": a process between mpiexec and the ranks was killed"
    told = {place.rank: place for place in places}
    if left:
        names = [f"rank {rank} on {told[rank].host}, process {told[rank].process}, {_whereabouts(told[rank])} left with status {code}"
                 for rank, code in sorted(left.items()) if rank in told]
        return f": {' and '.join(names)}" if len(left) < family.size else ": every rank left so"
    for together in family.ended if family.is_whole else []:
        names = [f"rank {rank} on {socket.gethostname()}, process {process}, {_whereabouts(told.get(rank))}"
                 for rank, process in together if rank not in completed]
        if names:
            return f": {' or '.join(names)} was the first to end"
    return ""


def _whereabouts(place: Place | None) -> str:
    if place is None:
        return "not yet in the world,"
    return f"{'inside' if place.inside else 'after'} {place}," if place.entered else "in no collective yet,"


class _Progress:
    """Whether any rank moves: pages are looked at twenty times in the seconds after which a rank is said to hang, or to have ended."""

    def __init__(self, folder: Path, ranks: int, seconds: float):
        self.folder, self.ranks, self.seconds = folder, ranks, seconds
        self.soon = min(seconds, status.LEAVE)
        self.seen: list = []
        self.looked = self.moved = time.monotonic()

    def stalled(self, now: float) -> list[Place] | None:
        """The ranks, if one waits in a collective and none has moved for too long."""
        if now - self.looked < self.soon / 20:
            return None
        places = status.places(self.folder)
        counts = [place[:5] for place in places]            # its step too: not all that is entered counts
        self.looked = now
        if counts != self.seen or not any(place.inside for place in places):
            self.seen, self.moved = counts, now
        patience = self.seconds
        if status.left(self.folder):
            patience += status.LEAVE            # it has ended; soon it ends the others
        elif self._in_vain(places):
            patience = self.soon
        return places if now - self.moved > patience else None


    def _in_vain(self, places: list[Place]) -> bool:
        """Whether all ranks wait, for one that has ended its program: nothing can come any more."""
        ended = status.completed(self.folder)
        return (len(places) == self.ranks and all(place.inside or place.rank in ended for place in places)
                and any(place.rank in ended for place in hanging(places)[0]))


def _until_it_ends(family: Family, progress: _Progress, came: list[int], say: Callable[[str], None],
                   signals_ranks: bool) -> list[Place] | None:
    """Wait for the end of a world, or for the reason to end it: None, or the ranks that hang."""
    deadline = math.inf
    while True:
        family.look(LOOK)
        if family.world.poll() is not None or family.orphaned:
            return None
        now = time.monotonic()
        if len(came) > 1 or now > deadline:
            say(_killed(family, [signal.Signals(number).name for number in came]))
            return None
        if came and deadline == math.inf:
            deadline = now + GRACE
            _hand_on(came[0], family.world, progress.folder if signals_ranks else None)
        if places := progress.stalled(now):
            ended = status.completed(progress.folder)
            say(accusation(places, progress.ranks, now - progress.moved, ended))
            guilty = [place for place in hanging(places)[0] if place.rank not in ended]
            _stacks(guilty, progress.folder, say)
            return guilty


def _killed(family: Family, came: list[str]) -> str:
    """The sentence that names the ranks that are killed, since they have not ended after a signal: what they had not saved is lost."""
    names = [f"rank {rank}, process {process}," for rank, process in sorted((rank, process) for process, rank in family.ranks.items())
             if environment(process)] or ["what is left of the world"]
    when = f"{GRACE:g} s after {came[0]}" if len(came) == 1 else f"before a second signal, {came[1]}"
    return f"launch: {' and '.join(names)} {'had' if len(came) > 1 else 'has' if len(names) == 1 else 'have'} not ended {when}: killed"


def _hand_on(number: int, world: subprocess.Popen, folder: Path | None) -> None:
    places = _of_this_machine(folder) if folder else []
    if not places:
        world.send_signal(number)
    for place in places:
        with contextlib.suppress(ProcessLookupError):
            os.kill(place.process, number)


def _of_this_machine(folder: Path) -> list[Place]:
    """Ranks that still run here."""
    return [place for place in status.places(folder) if place.host == socket.gethostname() and belongs(place.process, folder)]


def _end(world: subprocess.Popen, folder: Path) -> None:
    """Kill what is left of a world, and remove the shared memory that MPI leaves behind when a rank is killed."""
    places = status.places(folder)
    if world.poll() is None:
        os.killpg(world.pid, signal.SIGKILL)
        world.wait()
    end_all(folder)
    for name in {name for place in places if place.host == socket.gethostname() for name in place.shared}:
        if _SHARED.fullmatch(name):
            with contextlib.suppress(OSError):
                os.unlink(f"/dev/shm/{name}")
