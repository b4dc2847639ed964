"""The probe by a made clock, and an all-reduce of the library's own that leaves other bits on other ranks."""

import functools
import sys
import time

import msgspec
import numpy as np
import pytest

from adjoint.distributed import Alone, DataParallel, run_threads, schedules
from adjoint.distributed.collectives import carry_out
from adjoint.distributed.probe import BATCHES, MOST, SIZES, described, line_through, probe, slowest, timed
from adjoint.distributed.profile import Line


@pytest.mark.parametrize("seconds, calls", [(0.5, 2), (1.0, 2), (2.0, 3), (3.0, 1 + BATCHES), (4.0, 1 + BATCHES), (10.0, 1 + 3 * BATCHES),
                                            (1e9, 1 + MOST * BATCHES)])
def test_as_many_calls_as_there_is_time_for(seconds, calls, monkeypatch):
    """Calls of one second: the first, which touches pages and makes connections, is never the only one."""
    now, made = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def call():
        made.append(None)
        now[0] += 1.0
    assert timed(Alone(), call, seconds) == pytest.approx(1.0) and len(made) == calls


def test_the_best_batch_counts(monkeypatch):
    now, costs = [0.0], iter([1.0, 3.0, 0.25, 2.0])
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def call():
        now[0] += next(costs)
    assert timed(Alone(), call, 4.0) == 0.25 and next(costs, None) is None


@pytest.mark.parametrize("same", [True, False])
def test_the_librarys_own_sum_is_a_candidate_if_all_ranks_get_the_same_bits(same):
    def program(c):
        def natively(buffer, combine):
            carry_out(schedules.tree, buffer, c, combine)
            if not same:
                buffer += c.rank * 2.0 ** -20
        c.all_reduce_natively = natively
        return probe(c, seconds=0.3, keep=False).timings
    found, other = run_threads(2, program, seconds=60.0)
    assert found == other and ("mpi" in found) == same and len(found["ring"]) > 1
    assert all(size < larger for (size, _), (larger, _) in zip(found["ring"], found["ring"][1:], strict=False))


def test_lines_of_small_and_of_large_messages(monkeypatch):
    """By a made law: a microsecond and 1 GB/s up to 8 KiB, five and 2 GB/s beyond; in a round messages go both ways, which takes twice."""
    def made(c, call, seconds):
        before = c.counts.bytes_sent + c.counts.bytes_received
        call()
        moved = c.counts.bytes_sent + c.counts.bytes_received - before
        return slowest(c, 1e-6 + moved / 1e9 if moved <= 8192 else 5e-6 + moved / 2e9)
    monkeypatch.setattr(sys.modules["adjoint.distributed.probe"], "timed", made)
    found = run_threads(2, lambda c: probe(c, seconds=3.0, keep=False), seconds=60.0)[1]
    lines = [each for line in (found.eager, found.rendezvous, found.rounds) for each in (line.latency, line.bandwidth)]
    assert lines == pytest.approx([1e-6, 1e9, 5e-6, 2e9, 5e-6, 1e9], rel=1e-3)


def test_an_all_reduce_that_is_slow_for_small_messages_is_timed_for_large_ones_too(monkeypatch):
    """The ring, by a made law: one that is slow for large messages is not tried again for larger ones."""
    def made(c, call, seconds):
        before = c.counts.bytes_sent + c.counts.bytes_received
        call()
        moved = c.counts.bytes_sent + c.counts.bytes_received - before
        algorithm = call.args[0] if isinstance(call, functools.partial) else None
        slow = (algorithm is schedules.ring and moved < 2 ** 21) or (algorithm is schedules.tree and moved > 2 ** 21)
        return slowest(c, (6.0 if slow else 1.0) * (1e-6 + moved / 1e9))
    monkeypatch.setattr(sys.modules["adjoint.distributed.probe"], "timed", made)
    found = run_threads(2, lambda c: probe(c, seconds=3.0, keep=False), seconds=60.0)[1].timings
    assert [size for size, _ in found["ring"]] == list(SIZES) and [size for size, _ in found["tree"]] == list(SIZES[:-1])


def test_larger_sizes_are_given_more_of_the_time(monkeypatch):
    """Half of it is for all-reduces: of 21 parts the smallest size is given one, the largest six, each shared by the algorithms."""
    given = {}

    def made(c, call, seconds):
        before = c.counts.bytes_sent
        call()
        if isinstance(call, functools.partial) and c.rank == 0:
            given.setdefault(call.args[0], []).append(seconds)
        return slowest(c, 1e-6 + (c.counts.bytes_sent - before) / 1e9)
    monkeypatch.setattr(sys.modules["adjoint.distributed.probe"], "timed", made)
    found = run_threads(2, lambda c: probe(c, seconds=42.0, keep=False), seconds=60.0)[0].timings
    for part, (size, shares) in enumerate(zip(SIZES, zip(*given.values(), strict=True), strict=True), 1):
        assert sum(shares) == pytest.approx(part) and len(shares) == sum(size in dict(pairs) for pairs in found.values())


KNOWN = Line(1e-6, 1e8)
FLAT = {"flat": [1.0] * 4, "falling": [1.3, 1.1, 1.0, 0.8], "one in the way": [1.0, 3.0, 1.0, 1.0]}


@pytest.mark.parametrize("times", FLAT.values(), ids=list(FLAT))
def test_bytes_that_take_too_little_to_be_seen_are_given_no_rate_of_their_own(times):
    """On a busy machine larger messages take no longer: the line passes near them, and eight times as many bytes are not for nothing."""
    pairs = [(8 ** k, 358e-6 * time) for k, time in zip((1, 2, 3, 4), times, strict=True)]
    line = line_through(pairs)
    assert line.bandwidth <= pairs[-1][0] / (0.1 * pairs[-1][1]) * 1.001
    usual = np.median([seconds for _, seconds in pairs])
    assert all(0.7 < line.seconds(size) / usual < 1.4 for size, _ in pairs)
    assert line.seconds(8 ** 6) > 4 * usual


def test_a_probe_of_a_busy_machine_says_what_it_could_not_measure(monkeypatch):
    """Every message takes 358 microseconds: the profile goes through what was measured, and its words say that this is a bound."""
    monkeypatch.setattr(sys.modules["adjoint.distributed.probe"], "timed", lambda c, call, seconds: (call(), slowest(c, 358e-6))[1])
    found = run_threads(2, lambda c: probe(c, seconds=3.0, keep=False), seconds=60.0)[0]
    largest, seconds = found.ladder[-1]
    for line in (found.rendezvous, found.rounds):
        assert line.seconds(largest) == pytest.approx(seconds) and largest / line.bandwidth == pytest.approx(0.1 * seconds)
    words = described(found).splitlines()[1]
    assert words.count("(at least: too little to measure)") == 2 and "1000000.00" not in words
    assert "too little" not in described(msgspec.structs.replace(found, eager=KNOWN, rendezvous=KNOWN))


def test_settling_returns_what_was_given_and_no_loss():
    assert run_threads(2, lambda c: DataParallel(c).settle(np.ones(2), ()), seconds=60.0)[0][1:] == ((), 0.0)
