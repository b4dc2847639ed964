"""Collective algorithms as data: a schedule is a sequence of rounds, each saying for all ranks at once who sends what to whom.

Invariant: in a round a rank sends at most one slice and receives at most one; every rank ends with the same bits. Whoever runs a schedule
(a rank of a real world, a simulator of all ranks) adds nothing to it. May import: errors, checks. Read next: collectives.py, simulator.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np

from ..errors import ConfigError, explain
from .checks import RANKS, whole

NOBODY = -1

Slices = tuple[np.ndarray, np.ndarray]          # first element and the one after the last, for every rank
Schedule = Iterator["Round"]


class Round(NamedTuple):
    """One round of `n` ranks: rank r sends elements [sent[0][r], sent[1][r]) to `to[r]` and receives [received...) from `source[r]`.

    to and source hold NOBODY where a rank has nothing to send or to receive. combines: what arrives is added to what is there, else it
    replaces it.
    """

    to: np.ndarray
    source: np.ndarray
    sent: Slices
    received: Slices
    combines: bool


def bounds(size: int, parts: int) -> np.ndarray:
    """The parts + 1 limits of `parts` chunks of nearly equal size.

    >>> bounds(7, 3)
    array([0, 2, 4, 7])
    """
    whole("bounds", "size", size, least=0, remedy="It counts elements or examples.")
    whole("bounds", "parts", parts, remedy="It counts parts: 4, for instance.")
    return np.arange(parts + 1) * size // parts


def _check(n: int, size: int) -> None:
    """Refuse a schedule of no ranks, or for no number of elements."""
    whole("a schedule", "n", n, most=RANKS, remedy="It counts ranks: ring(4, 1000).")
    whole("a schedule", "size", size, least=0, remedy="It counts elements: ring(4, 1000).")


def _from_sends(n: int, senders: np.ndarray, receivers: np.ndarray, first: np.ndarray | int, last: np.ndarray | int,
                combines: bool) -> Round:
    """The round in which senders[i] sends [first[i], last[i]) to receivers[i], which keeps it at the same place."""
    to, source = np.full(n, NOBODY), np.full(n, NOBODY)
    sent, received = (np.zeros(n, int), np.zeros(n, int)), (np.zeros(n, int), np.zeros(n, int))
    to[senders], source[receivers] = receivers, senders
    for where, ranks in ((sent, senders), (received, receivers)):
        where[0][ranks], where[1][ranks] = first, last
    return Round(to, source, sent, received, combines)


# ------------------------------------------------------------------------------------------------ ring


def _ring_rounds(n: int, size: int, first: int, combines: bool) -> Schedule:
    """n - 1 rounds; in round k rank r hands chunk (r + first - k) mod n to its neighbour r + 1."""
    _check(n, size)
    ranks, limits = np.arange(n), bounds(size, n)
    to, source = (ranks + 1) % n, (ranks - 1) % n
    twice = np.tile(limits[:-1], 2), np.tile(limits[1:], 2)         # chunks s .. s + n - 1 (mod n) are a window of it: nothing is copied
    for k in range(n - 1):
        s = (first - k) % n
        a = (s - 1) % n
        yield Round(to, source, (twice[0][s:s + n], twice[1][s:s + n]), (twice[0][a:a + n], twice[1][a:a + n]), combines)


def ring_reduce_scatter(n: int, size: int) -> Schedule:
    """n - 1 rounds of aggregation: afterwards chunk r + 1 (mod n) is complete on rank r.

    Payload: (n - 1)/n of the buffer sent by each rank, to one neighbour. Source: Patarasuk and Yuan, Bandwidth optimal all-reduce
    algorithms for clusters of workstations, JPDC 69 (2009).

    >>> len(list(ring_reduce_scatter(4, 8)))
    3
    """
    return _ring_rounds(n, size, 0, True)


def ring_all_gather(n: int, size: int) -> Schedule:
    """n - 1 rounds of exchange: chunk r + 1 (mod n) of rank r goes round to everybody.

    >>> len(list(ring_all_gather(4, 8)))
    3
    """
    return _ring_rounds(n, size, 1, False)


def ring(n: int, size: int) -> Schedule:
    """All-reduce in 2(n - 1) rounds: aggregation, then exchange; each rank sends 2(n - 1)/n of the buffer, to one neighbour.

    A ring is synchronous: it waits for the slowest rank as a parameter server does. What it removes is the server's link.

    >>> rounds = list(ring(4, 8))
    >>> len(rounds), sum(int(r.sent[1][0] - r.sent[0][0]) for r in rounds)
    (6, 12)
    """
    return chain(ring_reduce_scatter(n, size), ring_all_gather(n, size))


RINGS = frozenset((ring, ring_reduce_scatter, ring_all_gather))         # every round of these sends on what the one before it brought

# ------------------------------------------------------------------------------------------------ powers of two


def _folded(n: int, size: int, inner: Callable[[int], Schedule]) -> Schedule:
    """`inner` among the largest power of two of ranks; the ranks beyond it hand their part in before, and get the result after."""
    _check(n, size)
    power = 1 << (int(n).bit_length() - 1)
    extra = np.arange(n - power)
    if len(extra):
        yield _from_sends(n, extra + power, extra, 0, size, True)
    yield from inner(power)
    if len(extra):
        yield _from_sends(n, extra, extra + power, 0, size, False)


def _pairs(n: int, power: int, distance: int, sent: Slices, received: Slices, combines: bool) -> Round:
    """Ranks below `power` exchange with the rank that differs in one bit."""
    ranks, partner = np.arange(n), np.full(n, NOBODY)
    partner[:power] = ranks[:power] ^ distance
    widen = lambda x: np.concatenate([x, np.zeros(n - power, int)])
    return Round(partner, partner, (widen(sent[0]), widen(sent[1])), (widen(received[0]), widen(received[1])), combines)


def recursive_doubling(n: int, size: int) -> Schedule:
    """All-reduce in log2 n rounds of the whole buffer (two more if n is no power of two): the fewest rounds, for small messages.

    Source: Thakur, Rabenseifner and Gropp, Optimization of collective communication operations in MPICH, IJHPCA 19 (2005), section 4.5.

    >>> len(list(recursive_doubling(8, 5))), len(list(recursive_doubling(6, 5)))
    (3, 4)
    """
    def inner(power: int) -> Schedule:
        whole = (np.zeros(power, int), np.full(power, size))
        for bit in range(power.bit_length() - 1):
            yield _pairs(n, power, 1 << bit, whole, whole, True)
    return _folded(n, size, inner)


def halving_doubling(n: int, size: int) -> Schedule:
    """All-reduce in 2 log2 n rounds with the ring's payload (two rounds more if n is no power of two): between small and large.

    Halves of the buffer are exchanged and added, then quarters, ...; then the pieces return the same way (Rabenseifner's algorithm).
    Source: as recursive_doubling.

    >>> rounds = list(halving_doubling(4, 8))
    >>> len(rounds), sum(int(r.sent[1][0] - r.sent[0][0]) for r in rounds)
    (4, 12)
    """
    def inner(power: int) -> Schedule:
        ranks = np.arange(power)
        low, high, taken = np.zeros(power, int), np.full(power, size), []
        distance = power // 2
        while distance:
            middle, upper = (low + high) // 2, (ranks & distance) != 0
            kept = np.where(upper, middle, low), np.where(upper, high, middle)
            given = np.where(upper, low, middle), np.where(upper, middle, high)
            yield _pairs(n, power, distance, given, kept, True)
            taken.append((distance, given))
            low, high = kept
            distance //= 2
        for distance, given in reversed(taken):
            yield _pairs(n, power, distance, (low, high), given, False)
            low, high = np.minimum(low, given[0]), np.maximum(high, given[1])
    return _folded(n, size, inner)


# ------------------------------------------------------------------------------------------------ trees and servers


def tree_reduce(n: int, size: int) -> Schedule:
    """A binomial tree to rank 0: ceil(log2 n) rounds.

    >>> len(list(tree_reduce(5, 1)))
    3
    """
    _check(n, size)
    distance = 1
    while distance < n:
        senders = np.arange(distance, n, 2 * distance)
        yield _from_sends(n, senders, senders - distance, 0, size, True)
        distance *= 2


def tree_broadcast(n: int, size: int) -> Schedule:
    """The same tree from rank 0 down.

    >>> len(list(tree_broadcast(5, 1)))
    3
    """
    for each in reversed(list(tree_reduce(n, size))):
        yield Round(each.source, each.to, each.received, each.sent, False)


def tree(n: int, size: int) -> Schedule:
    """All-reduce by a binomial tree: 2 ceil(log2 n) rounds of the whole buffer.

    >>> len(list(tree(8, 1)))
    6
    """
    return chain(tree_reduce(n, size), tree_broadcast(n, size))


def parameter_server(n: int, size: int) -> Schedule:
    """All-reduce through rank 0: every other rank sends it the whole buffer, one after the other, and gets the sum back.

    The server's link carries 2(n - 1) times the buffer: (n times the ring's time; the lecture's synchronous parameter server).

    >>> len(list(parameter_server(4, 8)))
    6
    """
    _check(n, size)
    workers = np.arange(1, n)
    for worker in workers:
        yield _from_sends(n, np.array([worker]), np.array([0]), 0, size, True)
    for worker in workers:
        yield _from_sends(n, np.array([0]), np.array([worker]), 0, size, False)


def hierarchical(n: int, size: int, *, local: int) -> Schedule:
    """All-reduce with `local` consecutive ranks to a host: a tree inside each host, a ring between the hosts' first ranks.

    Between hosts each of n / local leaders sends 2(hosts - 1)/hosts of the buffer.

    >>> len(list(hierarchical(8, 16, local=4)))
    6
    """
    _check(n, size)
    if n % whole("hierarchical", "local", local, most=RANKS, remedy="It counts the ranks of one host."):
        raise ConfigError(explain(f"hierarchical: {n} ranks with {local} to a host.", remedy="Start as many ranks on every host."))
    hosts = n // local
    firsts = np.arange(hosts) * local

    def spread(inner: Schedule, members: list[np.ndarray]) -> Schedule:
        """A schedule of a group, run by every group at once: members[g][i] is the rank of the i-th of group g."""
        for each in inner:
            senders = np.flatnonzero(each.to != NOBODY)
            ranks = np.concatenate([group[senders] for group in members])
            receivers = np.concatenate([group[each.to[senders]] for group in members])
            first, last = (np.tile(limit[senders], len(members)) for limit in each.sent)
            made = _from_sends(n, ranks, receivers, first, last, each.combines)
            yield made
    inside = [np.arange(local) + first for first in firsts]
    yield from spread(tree_reduce(local, size), inside)
    yield from spread(ring(hosts, size), [firsts])
    yield from spread(tree_broadcast(local, size), inside)
