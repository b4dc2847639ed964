"""The probe: in a few seconds, what this world of ranks can do: a ladder of messages and its fits, and every all-reduce at some sizes.

Invariant: all ranks run the same calls in the same order; whatever depends on a time is decided from the slowest rank's, on all alike.
May import: errors, collectives, profile, planner. Read next: planner.py.
"""

from __future__ import annotations

import functools
import math
import os
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..errors import ConfigError, explain
from . import schedules
from .checks import number, world_of
from .collectives import ALGORITHMS, Turn, carry_out, perform, schedule_of
from .communicator import Communicator
from .planner import COSTS
from .profile import EAGER, MIDDLE, VERSION, Line, Profile, agreed, file_of, forget, host_names, kind_of, save, tell
from .schedules import NOBODY
from .simulator import Links

LADDER = tuple(8 ** k for k in range(1, 9))                 # bytes of a message: 8 B to 16 MiB
SIZES = tuple(2 ** k for k in (10, 13, 16, 19, 22, 25))     # bytes of an all-reduce: 1 KiB to 32 MiB
BATCHES = 3                                                 # a time is the best of so many batches of calls
MOST = 300                                                  # calls of a batch
LEAST = 0.1                                                 # of the time of a ladder's largest message is due to its bytes
_RATE = 1e15                                                # bytes a second of what takes no time that can be seen


def slowest(communicator: Communicator, seconds: float) -> float:
    """The largest of the ranks' numbers, on every rank."""
    most = np.array([seconds])
    carry_out(schedules.tree, most, communicator, np.maximum)
    return float(most[0])


def timed(communicator: Communicator, call: Callable[[], object], seconds: float) -> float:
    """Seconds of a collective call: the best of BATCHES batches, of which the slowest rank's clock counts; it takes about `seconds`.

    >>> from adjoint.distributed import Alone
    >>> 0.001 < timed(Alone(), lambda: time.sleep(0.001), 0.01) < 1.0
    True
    """
    def batch(calls: int) -> float:
        slowest(communicator, 0.0)                          # all begin together
        start = time.perf_counter()
        for _ in range(calls):
            call()
        return slowest(communicator, (time.perf_counter() - start) / calls)
    first = batch(1)                                        # pages are touched, connections made
    affordable = int(min(seconds / max(first, 1e-7), BATCHES * MOST))
    batches = min(max(affordable, 1), BATCHES)              # at least one more call: the first, or a disturbed one, says little
    return min(first, *(batch(max(affordable // BATCHES, 1)) for _ in range(batches)))


def line_through(pairs: Sequence[tuple[int, float]]) -> Line:
    """The line latency + size / bandwidth with the least squares of relative errors, sizes in growing order; neither is negative, and the
    bytes of the largest message take LEAST of its time at least: where others' work hides them, no bandwidth is made up.

    >>> line = line_through([(0, 1e-3), (1000, 2e-3), (3000, 4e-3)])
    >>> round(line.latency, 6), round(line.bandwidth)
    (0.001, 1000000)
    >>> line_through([(1000, 2e-3), (2000, 2e-3), (4000, 1e-3)]).bandwidth
    40000000.0
    """
    sizes, seconds = np.array(pairs, float).T
    (latency, slope), *_ = np.linalg.lstsq(np.stack([1.0 / seconds, sizes / seconds], axis=1), np.ones(len(pairs)), rcond=None)
    if latency < 0:
        share = sizes / seconds
        latency, slope = 0.0, share.sum() / (share @ share)
    if slope < (least := LEAST * seconds[-1] / sizes[-1]):
        latency, slope = max(0.0, ((1.0 - least * sizes / seconds) / seconds).sum() / (1.0 / seconds ** 2).sum()), least
    return Line(float(latency), float(1.0 / slope))


def _ladder(communicator: Communicator, make: Callable[[int], Callable[[], object]], seconds: float) -> list[tuple[int, float]]:
    """(bytes, seconds) of messages of growing size, up to one that takes about half the time there is; make(bytes): the call."""
    found: list[tuple[int, float]] = []
    for size in LADDER:
        if len(found) > 1 and 2 * 8 * found[-1][1] > seconds:       # the next is eight times as large; all ranks know the same time
            break
        found.append((size, timed(communicator, make(size), seconds / len(LADDER))))
    return found


def _one_way(communicator: Communicator, size: int) -> Callable[[], object]:
    """A message between the first rank and the last, there and back by turns; the others look on."""
    buffer, other, forward = np.zeros(size, np.uint8), communicator.size - 1, True

    def call() -> None:
        nonlocal forward
        sender, receiver = (0, other) if forward else (other, 0)
        forward = not forward
        if communicator.rank == sender:
            communicator.exchange(buffer, receiver, None, NOBODY)
        elif communicator.rank == receiver:
            communicator.exchange(None, NOBODY, buffer, sender)
    return call


def _round(communicator: Communicator, size: int, combines: bool) -> Callable[[], object]:
    """A round of a ring: every rank sends to the next and receives from the one before, and adds that up where the round combines."""
    n, rank, items = communicator.size, communicator.rank, max(size // 4, 1)
    buffer = np.zeros(2 * items, np.float32)
    turn = Turn((rank + 1) % n, (rank - 1) % n, slice(0, items), slice(items, 2 * items), combines)
    return lambda: perform([turn], buffer, communicator)


def _all_reduces(communicator: Communicator, size: int) -> dict[str, Callable[[], object]]:
    """Every all-reduce of a buffer of zeros (which stay zeros) of so many bytes, by name."""
    buffer, n = np.zeros(size // 4, np.float32), communicator.size
    run = lambda schedule: carry_out(schedule, buffer, communicator)
    names = [*ALGORITHMS, *["hierarchical"] * (1 < agreed(communicator).local < n)]
    calls: dict[str, Callable[[], object]] = {name: functools.partial(run, schedule_of(name, communicator)) for name in names}
    if hasattr(communicator, "all_reduce_natively") and _same_bits(communicator):
        calls["mpi"] = lambda: communicator.all_reduce_natively(buffer, np.add)
    return calls


def _same_bits(communicator: Communicator) -> bool:
    """Whether the library's own all-reduce leaves the same bits on all ranks, which MPI only recommends."""
    values = np.random.default_rng(communicator.rank).standard_normal(4099).astype(np.float32)
    communicator.all_reduce_natively(values, np.add)
    most, least = values.view(np.int32).copy(), values.view(np.int32).copy()
    for extreme, combine in ((most, np.maximum), (least, np.minimum)):
        carry_out(schedules.tree, extreme, communicator, combine)
    return bool(np.array_equal(most, least))


def _timings(communicator: Communicator, line: Line, seconds: float) -> dict[str, list[tuple[int, float]]]:
    """(bytes, seconds) of each all-reduce at each of SIZES that there is time for; one that is four times too slow for a large message
    is not tried again. The larger the size, the more of the time it gets: its calls are few."""
    found: dict[str, list[tuple[int, float]]] = {}
    slow: set[str] = set()
    for part, size in enumerate(SIZES, 1):
        calls = {name: call for name, call in _all_reduces(communicator, size).items() if name not in slow}
        expected = sum(COSTS.get(name, COSTS["ring"])(communicator.size, size, Links(line.latency, line.bandwidth)) for name in calls)
        if found and 2 * expected > seconds:
            break
        each = seconds * part / sum(range(len(SIZES) + 1)) / len(calls)
        times = {name: timed(communicator, call, each) for name, call in calls.items()}
        for name, took in times.items():
            found.setdefault(name, []).append((size, took))
            if took > 4 * min(times.values()) and size > MIDDLE:
                slow.add(name)
    return found


def _copying(communicator: Communicator) -> float:
    """Bytes a second of a copy in memory, while all ranks copy: the best of many parts on each, then the slowest rank's."""
    source, target, best = np.zeros((16, 2 ** 20), np.float32), np.zeros((16, 2 ** 20), np.float32), math.inf
    slowest(communicator, 0.0)
    for part in range(48):
        start = time.perf_counter()
        target[part % 16] = source[part % 16]
        best = min(best, time.perf_counter() - start)
    return source[0].nbytes / slowest(communicator, best)


def _adding(communicator: Communicator, size: int, copying: float, seconds: float) -> float:
    """Bytes a second that are added up on arrival: what a round that combines takes longer than one that does not, both timed here.

    The difference of two times is unsure, so it is kept between a copy's rate, which reads and writes as much memory, and half of it (less
    where ranks share cores).
    """
    combining, plain = (timed(communicator, _round(communicator, size, combines), seconds / 2) for combines in (True, False))
    share = min(1.0, (os.cpu_count() or 1) / agreed(communicator).local)
    return float(np.clip(size / max(combining - plain, size / _RATE), copying * share / 2, copying))


def probe(communicator: Communicator, *, seconds: float = 3.0, keep: bool = True) -> Profile:
    """Measure this world in about `seconds`; on rank 0 the profile is kept, and `all_reduce` chooses by it from then on, on all ranks.

    It is a collective: every rank calls it. The same profile is returned everywhere.
    Raises: ConfigError for a world of one rank.

    >>> from adjoint.distributed import run_threads
    >>> profile = run_threads(2, lambda c: probe(c, seconds=0.2, keep=False))[0]
    >>> profile.hosts, profile.links().bandwidth > 0
    ([0, 0], True)
    """
    number("probe", "seconds", seconds, above=True, most=3600.0, remedy="It is how long to measure: 3.0, for instance.")
    if world_of("probe", communicator).size == 1:
        raise ConfigError(explain("probe: a world of 1, expected two ranks at least.",
                                  remedy="Start more ranks: mpiexec -n 4 adjoint probe, or adjoint probe --threads 4."))
    names = host_names(communicator)
    copying = _copying(communicator)
    ladder = _ladder(communicator, lambda size: _one_way(communicator, size), 0.15 * seconds)
    plain = _ladder(communicator, lambda size: _round(communicator, size, False), 0.15 * seconds)
    rounds = _to_the_largest(plain)
    adding = _adding(communicator, plain[-1][0], copying, 0.1 * seconds)
    timings = _timings(communicator, rounds, 0.5 * seconds)
    hosts = np.zeros(communicator.size, np.int64)
    if communicator.rank == 0:                              # who alone knows all names
        hosts[:] = [names.index(name) for name in names]
    tell(communicator, hosts)
    profile = Profile(VERSION, kind_of(communicator), hosts.tolist(), ladder,
                      line_through([pair for pair in ladder if pair[0] <= EAGER] or ladder), _to_the_largest(ladder), rounds,
                      adding, copying, timings)
    if keep and communicator.rank == 0:
        _keep(profile, file_of(profile.kind, names))
    slowest(communicator, 0.0)                              # written before any rank looks for it
    forget(communicator)
    return profile


def _keep(profile: Profile, path: Path | None) -> None:
    """Save it where there is a place; one that cannot be written is a warning: the other ranks wait for this one."""
    try:
        if path is not None:
            save(profile, path)
    except OSError as error:
        warnings.warn(f"the profile cannot be kept in {path}: {error.strerror}.", RuntimeWarning, stacklevel=3)


def _to_the_largest(ladder: list[tuple[int, float]]) -> Line:
    """The latency of the fit, and the bandwidth of the largest message: smaller ones may have stayed in the cache."""
    size, seconds = ladder[-1]
    latency = min(line_through(_large(ladder)).latency, (1 - LEAST) * seconds)
    return Line(latency, size / (seconds - latency))


def _large(ladder: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """The messages of a ladder that are not sent at once, or the last two."""
    large = [pair for pair in ladder if pair[0] > EAGER]
    return large if len(large) > 1 else ladder[-2:]


def _hidden(line: Line, size: int, seconds: float) -> bool:
    """Whether the bytes of the largest message took too little to be seen, so that `line` has the least that they may take."""
    return size / line.bandwidth < 1.001 * LEAST * seconds


def described(profile: Profile) -> str:
    """A profile as lines of text: the fits, every timing, and what is chosen from which size on.

    >>> line = Line(1e-6, 1e9)
    >>> print(described(Profile(VERSION, "threads", [0, 0], [], line, line, line, 5e9, 9e9, {"ring": [(4096, 2e-5)]})))
    2 ranks on 1 host, threads
    a message           1.0 us + size / 1.00 GB/s up to 8192 bytes, then 1.0 us + size / 1.00 GB/s
    all ranks at once   1.0 us + size / 1.00 GB/s, adding at 5 GB/s, copying at 9 GB/s
                              4096 B
    ring                        20.0
    (microseconds) chosen: ring up to 8192 bytes, recursive_doubling up to 32768, halving_doubling up to 1048576, ring beyond
    """
    fit = lambda line: f"{line.latency * 1e6:.1f} us + size / {line.bandwidth / 1e9:.2f} GB/s"
    small = [pair for pair in profile.ladder if pair[0] <= EAGER][-1:]
    unsure = lambda line, last: " (at least: too little to measure)" if last and _hidden(line, *last[0]) else ""
    rate = lambda value: f"{value / 1e9:.3g} GB/s"
    hosts = len(set(profile.hosts))
    sizes = sorted({size for pairs in profile.timings.values() for size, _ in pairs})
    lines = [f"{len(profile.hosts)} ranks on {hosts} host{'s' * (hosts > 1)}, {profile.kind}",
             f"a message           {fit(profile.eager)}{unsure(profile.eager, small)} up to {EAGER} bytes, "
             f"then {fit(profile.rendezvous)}{unsure(profile.rendezvous, profile.ladder[-1:])}",
             f"all ranks at once   {fit(profile.rounds)}, adding at {rate(profile.adding)}, copying at {rate(profile.copying)}",
             " " * 20 + "".join(f"{size:10d} B" for size in sizes)]
    for name, pairs in profile.timings.items():
        times = dict(pairs)
        lines.append(f"{name:20s}" + "".join(f"{times[size] * 1e6:12.1f}" if size in times else " " * 12 for size in sizes).rstrip())
    table = profile.table()
    chosen = [f"{name} up to {limit}{' bytes' * (i == 0)}" for i, (limit, name) in enumerate(table[:-1])]
    return "\n".join([*lines, f"(microseconds) chosen: {', '.join([*chosen, table[-1][1] + ' beyond'])}"])
