"""Blocks and streams on a network that is as early, or as late, as MPI allows: no mpiexec, and no time decides what happens.

Early: a message is written as soon as both ends are known. Late: it is read only when somebody waits for it, so what is overwritten before
it has left is seen. Copied: whatever is sent has left at once. Memory in which something arrives holds rubbish until then.
"""

import threading
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from adjoint.distributed import mpi_blocks, run_threads, schedules
from adjoint.distributed.collectives import carry_out, turns
from adjoint.distributed.communicator import Counts
from adjoint.distributed.mpi_blocks import Blocks
from adjoint.distributed.mpi_stream import DEPTH
from adjoint.errors import ConfigError

MPI = SimpleNamespace(get_vendor=lambda: ("Made", (1, 2)), IN_PLACE="here", SUM="sum", MAX="max", MIN="min", PROD="product")
BLOCK = 64                                                  # bytes
EDGES = [0, 1, 7, 8, 9, 16, 17, 24, 25, 35, 100, 203]


every_network = pytest.mark.parametrize("how", ["early", "late", "copied"])


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(mpi_blocks, "BLOCK", BLOCK)


class Request:
    """A message at one end; key: the two ranks and its number between them; other: the rank at the other end. Its own status."""

    def __init__(self, key, array, other, tag=0):
        self.key, self.array, self.other, self.tag, self.done = key, array, other, tag, False

    def Get_count(self):
        return self.array.nbytes

    def Get_tag(self):
        return self.tag


class Network:
    """What all ranks share; late: nothing moves before it is waited for."""

    def __init__(self, how):
        self.how, self.news, self.begun, self.numbers = how, threading.Condition(), {}, Counter()

    def add(self, end, key, array, other, tag=0):
        with self.news:
            request = self.begun[end, key, self.numbers[end, key]] = Request((key, self.numbers[end, key]), array, other, tag)
            self.numbers[end, key] += 1
            if self.how == "copied" and end == "send":
                request.array, request.done = array.copy(), True
            if self.how != "late":
                self.move(request)
            self.news.notify_all()
            return request

    def move(self, request):
        """Send it if both ends are known."""
        sent, received = (self.begun.get((end, *request.key)) for end in ("send", "receive"))
        if sent is not None and received is not None and not received.done:
            assert sent.array.nbytes == received.array.nbytes
            received.array[...] = sent.array
            sent.done = received.done = True
            received.tag = sent.tag
        return request.done


class End:
    """A rank's MPI."""

    def __init__(self, network, rank):
        self.network, self.rank, self.ahead, self.most, self.sends, self.statuses = network, rank, 0, 0, 0, []

    def Isend(self, array, to, tag=0):
        return self.network.add("send", (self.rank, to), array, to, tag)

    def Irecv(self, array, source):
        array[...] = 0xEE
        self.ahead += 1                                     # of those that were waited for
        self.most = max(self.most, self.ahead)
        return self.network.add("receive", (source, self.rank), array, source)

    def Iallreduce(self, place, buffer, operation):
        assert place == MPI.IN_PLACE
        if buffer.dtype.kind == "f":                        # not the integers by which the ranks agree
            buffer[...] = {"sum": 1, "max": 2, "min": 3, "product": 4}[operation]
        return Request(None, None, None)

    def done(self, requests):
        return all(each.done for each in requests)

    def wait(self, requests, others):
        assert [each.other for each in requests] == list(others)
        with self.network.news:
            assert self.network.news.wait_for(lambda: all(map(self.network.move, requests)), timeout=20)
            self.network.news.notify_all()
        self.statuses[:] = requests
        self.sends += any(each.key[0] == (self.rank, each.other) for each in requests)          # waits for one at least
        self.ahead -= sum(each.key[0] == (each.other, self.rank) for each in requests)


class Ranks(Blocks):
    """A communicator of such a rank."""

    def __init__(self, network, rank, size):
        self.rank, self.size, self.counts, self._comm = rank, size, Counts(), End(network, rank)
        self._wait, self._all_done, self._statuses = self._comm.wait, self._comm.done, self._comm.statuses
        self._prepare_blocks(MPI)

    def exchange(self, sent, to, received, source):
        requests = [] if received is None else [self._comm.Irecv(received.view(np.uint8), source)]
        requests += [] if sent is None else [self._comm.Isend(sent.view(np.uint8), to)]
        self._wait(requests, [each.other for each in requests])
        self.counts.note(sent, to, received)


def given(n, size):
    return np.random.default_rng(size).integers(-50, 50, (n, size)).astype(float)


@every_network
@pytest.mark.parametrize("n", [2, 3, 4])
def test_a_ring_is_a_stream_of_blocks(n, how):
    """Blocks of 8 numbers; a chunk is of many, of one, of a part of one, or of none; up to DEPTH arrive at a time."""
    network = Network(how)

    def program(c):
        ranks, found, most = Ranks(network, c.rank, n), [], []
        end = ranks._comm
        for size in EDGES:
            for schedule in (schedules.ring, schedules.ring_reduce_scatter, schedules.ring_all_gather):
                found.append(given(n, size)[c.rank].copy())
                end.most = end.sends = 0
                carry_out(schedule, found[-1], ranks)
                assert end.sends == 1 or how != "copied"                # what has left is not waited for again
                most.append(end.most)
        return found, most[-3:]
    ranks = run_threads(n, program, seconds=60.0)
    for at, size in enumerate(EDGES):
        limits, total = schedules.bounds(size, n), given(n, size).sum(axis=0)
        for rank, (found, _) in enumerate(ranks):
            whole, scattered, gathered = found[3 * at:3 * at + 3]
            assert np.array_equal(whole, total), size
            for chunk, part in enumerate(map(slice, limits[:-1], limits[1:])):            # rank r begins with chunk r + 1, or ends there
                assert np.array_equal(gathered[part], given(n, size)[chunk - 1][part]), size
                assert chunk != (rank + 1) % n or np.array_equal(scattered[part], total[part]), size
    for _, most in ranks:                                   # those of the last are of many blocks
        assert most[:2] == [DEPTH] * 2 and (most[2] == DEPTH if how == "copied" else most[2] <= DEPTH)


@every_network
@pytest.mark.parametrize("name", ["recursive_doubling", "halving_doubling", "tree", "parameter_server", "ring"])
def test_other_sums_are_exchanges_of_blocks(name, how):
    """Messages around one block, where it is one message, and of several; counted as one, of all their bytes."""
    network, schedule = Network(how), getattr(schedules, name)

    def program(c):
        ranks = Ranks(network, c.rank, c.size)
        found = [given(c.size, size)[c.rank].copy() for size in EDGES]
        for buffer in found:
            carry_out(schedule, buffer, ranks)
        plain = Counts()
        for size in EDGES:
            buffer = np.empty(size)
            for turn in turns(schedule, c.size, size, c.rank):
                plain.note(None if turn.to < 0 else buffer[turn.sent], turn.to, None if turn.source < 0 else buffer[turn.received])
        return found, ranks.counts == plain, ranks._comm.most
    for found, counted, most in run_threads(3, program, seconds=60.0):
        assert counted and most <= DEPTH
        for buffer, size in zip(found, EDGES, strict=True):
            assert np.array_equal(buffer, given(3, size).sum(axis=0))


@every_network
def test_an_exchange_that_combines_sends_and_receives_what_it_is_given(how):
    """Both directions of other lengths, one of them missing, and what is sent is what is combined into."""
    network, items = Network(how), BLOCK // 8

    def program(c):
        ranks, other = Ranks(network, c.rank, 2), 1 - c.rank
        sent, target = np.arange((4.5, 0.5)[c.rank] * items), np.ones(int((0.5, 4.5)[c.rank] * items))
        ranks.exchange_combining(sent, other, target, other, np.add)
        one = np.full(3 * items, c.rank + 1.0)
        way = (one, other, None, -1) if c.rank else (None, -1, one, other)
        ranks.exchange_combining(*way, np.subtract)
        both = np.full(4 * items + 1, c.rank + 2.0)
        ranks.exchange_combining(both, other, both, other, np.multiply)
        nothing = np.empty(0)
        ranks.exchange_combining(nothing, other, nothing, other, np.add)
        return target, one, both, (ranks.counts.rounds, ranks.counts.bytes_sent, ranks.counts.bytes_received), ranks._comm.most
    (first, took, six, counts, most), (second, gave, same, _, _) = run_threads(2, program, seconds=60.0)
    assert np.array_equal(first, 1 + np.arange(0.5 * items)) and np.array_equal(second, 1 + np.arange(4.5 * items))
    assert (took == -1).all() and (gave == 2).all() and (six == 6).all() and (same == 6).all() and most == DEPTH
    assert counts == (4, 8 * (4.5 * items + 4 * items + 1), 8 * (0.5 * items + 3 * items + 4 * items + 1))


def test_mpis_own_operations_by_name():
    ranks, waited = Ranks(Network("early"), 1, 3), []
    ranks._wait = lambda requests, others: waited.append((len(requests), others))
    assert ranks.kind == "Made 1.2"
    for number, combine in enumerate((np.add, np.maximum, np.minimum, np.multiply), 1):
        buffer = np.zeros(2)
        ranks.all_reduce_natively(buffer, combine)
        assert buffer.tolist() == [number, number] and ranks.counts.rounds == number
    assert waited == [(1, ["0, 2"])] * 8                  # whether all ranks sum the same, and the sum itself
    with pytest.raises(ConfigError, match="Choose another algorithm"):
        ranks.all_reduce_natively(np.zeros(2), np.hypot)
