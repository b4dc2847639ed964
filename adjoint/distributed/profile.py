"""Profile: what a world of ranks was measured to do, kept as one small file, and the best all-reduce for each message size from it.

Invariant: all ranks of a world choose by one table, rank 0's; a file that cannot be understood is left aside with a warning, never trusted.
May import: errors, train.files, compiler.cache, planner, schedules, simulator, communicator. Read next: probe.py, which measures it.
"""

from __future__ import annotations

import functools
import hashlib
import math
import socket
import warnings
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from ..compiler.cache import directory
from ..errors import ConfigError, explain
from ..train import files
from .communicator import Communicator, uncounted
from .planner import COSTS, Cost
from .schedules import NOBODY
from .simulator import Links

VERSION = 1
NAMES = ("ring", "recursive_doubling", "halving_doubling", "tree", "parameter_server", "mpi", "hierarchical")     # only ever appended to
SMALL, MIDDLE = 32_768, 1_048_576        # bytes: without a profile, up to here the fewest rounds win, up to there few rounds and bytes
EAGER = 8192                             # bytes: up to here a message is sent at once, beyond the ends agree first
_LAST = np.iinfo(np.int64).max
_MOST = 16                               # entries of a table on its way to the other ranks: more than sizes are measured, and DEFAULT

Table = tuple[tuple[int, str], ...]      # (most bytes, algorithm), in growing order; the last has no limit
DEFAULT: Table = ((SMALL, "recursive_doubling"), (MIDDLE, "halving_doubling"), (_LAST, "ring"))


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds of a message: latency + bytes / bandwidth."""

    latency: float
    bandwidth: float

    def seconds(self, size: float) -> float:
        """Of a message of so many bytes."""
        return self.latency + size / self.bandwidth


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One world, measured: hosts[r] is the number of rank r's host; the ladder has (bytes, seconds) of a message one way, `eager` and
    `rendezvous` are its fits; `rounds` is that of a message while every rank sends and receives one, `adding` the bytes a second that are
    added up on arrival, `copying` those of a plain copy; timings: (bytes, seconds) of whole all-reduces."""

    version: int
    kind: str
    hosts: list[int]
    ladder: list[tuple[int, float]]
    eager: Line
    rendezvous: Line
    rounds: Line
    adding: float
    copying: float
    timings: dict[str, list[tuple[int, float]]]

    def links(self, size: float = math.inf) -> Links:
        """What the planner and the simulator take, for messages of so many bytes."""
        line = self.eager if size <= EAGER else self.rounds
        return Links(line.latency, line.bandwidth, self.adding)

    def costs(self) -> dict[str, Cost]:
        """Seconds of an all-reduce by name, as measured here (the links that a cost is given are not looked at).

        It is the formula, on the links of ranks that are all busy, or of a server that takes one at a time. Its latencies and its rest are
        stretched, so that it takes what the whole all-reduce took at the smallest and at the largest size that were timed: ranks on one
        processor take turns, a ring's blocks overlap.
        """
        one_by_one = Links(self.rendezvous.latency, self.rendezvous.bandwidth, self.copying)
        found: dict[str, Cost] = {}
        for name, cost in COSTS.items():
            links = one_by_one if name == "parameter_server" else self.links()
            by = _stretch(functools.partial(cost, len(self.hosts), at=links), self.timings.get(name, []))
            found[name] = functools.partial(_measured, cost, links, *by)
        return found

    def table(self, *, natively: bool = True) -> Table:
        """The fastest algorithm around every measured size; from one size to the next the border is their geometric mean, and far beyond
        the last, if that is not a large one, DEFAULT holds. natively: whether the library's own all-reduce is one of them.

        >>> line = Line(1e-6, 1e9)
        >>> timings = {"tree": [(100, 1.0), (10_000, 9.0)], "ring": [(100, 2.0), (10_000, 3.0)]}
        >>> Profile(VERSION, "threads", [0, 0], [], line, line, line, 1e9, 1e9, timings).table()[0]
        (1000, 'tree')
        """
        timings = {name: pairs for name, pairs in self.timings.items() if natively or name != "mpi"}
        sizes = sorted({size for pairs in timings.values() for size, _ in pairs})
        best = [min((seconds, name) for name, pairs in timings.items() for at, seconds in pairs if at == size)[1] for size in sizes]
        made: list[tuple[int, str]] = []
        for i, name in enumerate(best):
            limit = math.isqrt(sizes[i] * sizes[i + 1]) if i + 1 < len(sizes) else _LAST if sizes[i] >= MIDDLE else 2 * sizes[i]
            if made and made[-1][1] == name:
                made.pop()
            made.append((limit, name))
        reached = made[-1][0] if made else 0
        return (*made, *((limit, name) for limit, name in DEFAULT if limit > reached))


def _measured(cost: Cost, links: Links, latency: float, volume: float, n: int, size: float, _: Links) -> float:
    """The cost on `links`, its latencies and the rest of it each times a factor."""
    latencies = cost(n, 0.0, links)
    return latency * latencies + volume * (cost(n, size, links) - latencies)


def _stretch(cost: Callable[[float], float], pairs: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """The factors of a cost's latencies and of the rest of it with which it passes through the first and the last of some times; one
    factor for both, the last time's, where no two that are not negative do."""
    if not pairs:
        return 1.0, 1.0
    latencies, (small, first), (large, last) = cost(0.0), pairs[0], pairs[-1]
    if small < large and latencies > 0:
        volume = (last - first) / (cost(large) - cost(small))
        latency = (first - volume * (cost(small) - latencies)) / latencies
        if volume >= 0 and latency >= 0:
            return latency, volume
    return (last / cost(large),) * 2


def file_of(kind: str, names: Sequence[bytes]) -> Path | None:
    """Where the profile of a world lies: its kind (threads, an MPI library) and its ranks' hosts decide; None where nothing is kept."""
    folder = directory()
    digest = hashlib.blake2b(repr((VERSION, kind, list(names))).encode(), digest_size=8).hexdigest()
    return None if folder is None else folder / f"world-{len(names)}-{digest}.json"


def save(profile: Profile, path: Path) -> None:
    """Write a profile, whole: whoever reads sees the old file or the new one."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    files.write_whole(path, msgspec.json.encode(profile) + b"\n")


def read(path: Path) -> Profile:
    """The profile in a file, checked. Raises ConfigError for a file that cannot be used; FileNotFoundError."""
    if not isinstance(path, str | Path):
        raise ConfigError(explain(f"a profile: path is {path!r:.60}.", remedy="Name the file that adjoint probe has written."))
    try:
        profile = msgspec.json.decode(files.read_whole(path, follow_links=False), type=Profile)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:                              # msgspec's errors are ValueErrors
        fault = str(error)
    else:
        fault = _fault(profile)
    if fault:
        raise ConfigError(explain(f"{path} is not used: {fault}.", where="", remedy="Measure again: adjoint probe."))
    return profile


def load(path: Path | None) -> Profile | None:
    """The profile in a file, checked; None, after a warning where there is one that cannot be used."""
    try:
        return None if path is None else read(path)
    except FileNotFoundError:
        return None
    except ConfigError as error:
        warnings.warn(" ".join(str(error).split()), RuntimeWarning, stacklevel=2)
        return None


def _fault(profile: Profile) -> str:
    """What is wrong with numbers that have the right types, or nothing."""
    lines = (profile.eager, profile.rendezvous, profile.rounds)
    rates = (profile.adding, profile.copying, *(line.bandwidth for line in lines))
    pairs = [pair for each in (profile.ladder, *profile.timings.values()) for pair in each]
    if profile.version != VERSION:
        return f"version {profile.version}, expected {VERSION}"
    if not set(profile.timings) <= set(NAMES):
        return f"unknown algorithms {', '.join(sorted(set(profile.timings) - set(NAMES)))}"
    if not all(0 < rate < math.inf for rate in rates) or not all(0 <= line.latency < math.inf for line in lines):
        return "a latency or bandwidth that is none"
    if not all(size > 0 and 0 < seconds < math.inf for size, seconds in pairs):
        return "a time that is none"
    if len(profile.hosts) < 2 or min(profile.hosts) < 0:
        return "it has no two ranks"
    if any(pairs != sorted(set(dict(pairs).items())) for pairs in profile.timings.values()):
        return "sizes that do not grow"
    if len({size for pairs in profile.timings.values() for size, _ in pairs}) + len(DEFAULT) > _MOST:
        return "too many sizes"
    return ""


# ------------------------------------------------------------------------------------------------ one choice for all ranks

class Choice(NamedTuple):
    """What the ranks of a world have agreed on: the table; `ours`, that without the library's own all-reduce, which cannot combine
    everything; and how many consecutive ranks each host has (1: not as many on each)."""

    table: Table
    ours: Table
    local: int


_choices: weakref.WeakKeyDictionary[Communicator, Choice] = weakref.WeakKeyDictionary()


def agreed(communicator: Communicator) -> Choice:
    """The tables of this world's profile where rank 0 has one, else DEFAULT, and the ranks of a host.

    The first call on a communicator is a collective: hosts are told to rank 0, and its choice to all. Its messages are not counted.

    >>> from adjoint.distributed.threads import run_threads
    >>> [choice.local for choice in run_threads(2, agreed)]
    [2, 2]
    """
    choice = _choices.get(communicator)
    if choice is None:
        choice = _choices[communicator] = _agree(communicator)
    return choice


def chosen(size: int, communicator: Communicator, *, natively: bool = True) -> str:
    """The algorithm for a buffer of so many bytes, the same on all ranks: see `agreed`. natively: whether the library's own can do it.

    >>> from adjoint.distributed import Alone
    >>> chosen(10 ** 9, Alone())
    'ring'
    """
    if communicator.size == 1:
        return "ring"
    choice = agreed(communicator)
    return next(name for limit, name in (choice.table if natively else choice.ours) if size <= limit)


def forget(communicator: Communicator) -> None:
    """Look the profile up again at the next choice, on all ranks: it has been measured anew."""
    _choices.pop(communicator, None)


def local_ranks(names: Sequence[bytes]) -> int:
    """How many consecutive ranks each host has; 1 where they are not as many on each, or not together.

    >>> local_ranks([b"a", b"a", b"b", b"b"]), local_ranks([b"a", b"b", b"a"]), local_ranks([b"a", b"a", b"a"])
    (2, 1, 3)
    """
    local = names.index(next((name for name in names if name != names[0]), names[0])) or len(names)
    groups = [set(names[k:k + local]) for k in range(0, len(names), local)]
    alike = len(names) % local == 0 and all(len(group) == 1 for group in groups) and len(set.union(*groups)) == len(groups)
    return local if alike else 1


def kind_of(communicator: Communicator) -> str:
    """What moves the messages: threads, or the name and version of an MPI library."""
    return getattr(communicator, "kind", type(communicator).__name__)


def _agree(communicator: Communicator) -> Choice:
    names = host_names(communicator)
    sent = np.zeros((2 * _MOST + 1, 2), np.int64)
    if communicator.rank == 0:
        profile = load(file_of(kind_of(communicator), names))
        if profile is not None and len(profile.hosts) != communicator.size:
            warnings.warn(f"the profile of {len(profile.hosts)} ranks is not used: this world has {communicator.size}. "
                          "Measure again: adjoint probe.", RuntimeWarning, stacklevel=2)
            profile = None
        for start, natively in ((0, hasattr(communicator, "all_reduce_natively")), (_MOST, False)):
            table = DEFAULT if profile is None else profile.table(natively=natively)
            sent[start:start + len(table)] = [(limit, NAMES.index(name)) for limit, name in table]
        sent[-1, 1] = local_ranks(names)
    tell(communicator, sent)
    tables = (tuple((int(limit), NAMES[index]) for limit, index in part if limit) for part in (sent[:_MOST], sent[_MOST:-1]))
    return Choice(*tables, int(sent[-1, 1]))


def host_names(communicator: Communicator) -> list[bytes]:
    """The host of each rank, as eight bytes, on rank 0 (elsewhere: this rank's alone). Not counted."""
    own = np.frombuffer(hashlib.blake2b(socket.gethostname().encode(), digest_size=8).digest(), np.uint8).copy()
    with uncounted(communicator):
        if communicator.rank:
            communicator.exchange(own, 0, None, NOBODY)
            return [own.tobytes()]
        names = [own.tobytes()]
        for other in range(1, communicator.size):
            communicator.exchange(None, NOBODY, own, other)
            names.append(own.tobytes())
        return names


def tell(communicator: Communicator, array: np.ndarray) -> None:
    """Rank 0's array, on every rank, in place. Not counted.

    >>> from adjoint.distributed import Alone
    >>> tell(Alone(), np.zeros(3))
    """
    with uncounted(communicator):
        for other in range(1, communicator.size):
            if communicator.rank == 0:
                communicator.exchange(array, other, None, NOBODY)
            elif communicator.rank == other:
                communicator.exchange(None, NOBODY, array, 0)
