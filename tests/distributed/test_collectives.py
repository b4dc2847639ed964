"""Collectives: right sums on every communicator, and exactly the rounds, bytes and neighbours that the algorithms promise."""

import math
import threading

import numpy as np
import pytest

from adjoint.distributed import (
    ALGORITHMS,
    Links,
    Simulator,
    all_gather_in_place,
    all_reduce_in_place,
    broadcast_in_place,
    reduce_scatter_in_place,
    run_threads,
    schedules,
    world,
)
from adjoint.distributed.collectives import COMBINES
from adjoint.distributed.schedules import NOBODY, bounds
from adjoint.errors import CommunicationError, ConfigError, DtypeError, ShapeError

RANKS = [1, 2, 3, 4, 5, 6, 7, 8, 13]
SIZES = [0, 1, 3, 8, 37]


def buffers(n, size, seed=0):
    return np.random.default_rng(seed).integers(-50, 50, (n, size)).astype(np.float64)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("n", RANKS)
def test_every_rank_gets_the_sum(algorithm, n):
    for size in SIZES:
        given = buffers(n, size)
        found = run_threads(n, lambda c, given=given: all_reduce_in_place(given[c.rank].copy(), c, algorithm=algorithm), seconds=10)
        assert all(np.array_equal(x, given.sum(axis=0)) for x in found)             # whole numbers: exact in any order


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_all_ranks_hold_the_same_bits(algorithm):
    given = np.random.default_rng(0).standard_normal((6, 1001)).astype(np.float32)
    found = run_threads(6, lambda c: all_reduce_in_place(given[c.rank].copy(), c, algorithm=algorithm), seconds=10)
    assert all(x.tobytes() == found[0].tobytes() for x in found)
    assert np.allclose(found[0], given.sum(axis=0, dtype=np.float64), atol=1e-5)


@pytest.mark.parametrize("n", RANKS)
def test_the_parts_of_a_ring_and_the_other_collectives(n):
    given, limits = buffers(n, 37), bounds(37, n)

    def program(c):
        part = reduce_scatter_in_place(given[c.rank].copy(), c)
        whole = np.zeros(37)
        chunk = (c.rank + 1) % n
        whole[limits[chunk]:limits[chunk + 1]] = part
        return part, all_gather_in_place(whole, c), broadcast_in_place(given[c.rank].copy(), c)
    for rank, (part, whole, first) in enumerate(run_threads(n, program, seconds=10)):
        chunk = (rank + 1) % n
        assert np.array_equal(part, given.sum(axis=0)[limits[chunk]:limits[chunk + 1]])
        assert np.array_equal(whole, given.sum(axis=0)) and np.array_equal(first, given[0])


@pytest.mark.parametrize("n", RANKS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_simulator_does_to_data_what_the_ranks_do(n, algorithm):
    given = buffers(n, 37)
    simulator = Simulator(n, Links(1e-6, 1e9))
    simulator.run(ALGORITHMS[algorithm](n, 37), bytes_per_element=8, data=given)
    assert (given == buffers(n, 37).sum(axis=0)).all()


@pytest.mark.mission(66)
@pytest.mark.parametrize("n", [2, 3, 4, 8])
def test_a_ring_takes_two_n_minus_one_rounds_and_two_n_minus_one_nths_of_the_bytes(n, figure):
    size = 840                                              # divisible by all n: no remainder
    counts = run_threads(n, lambda c: (all_reduce_in_place(np.ones(size), c, algorithm="ring"), c.counts)[1], seconds=10)
    for c in counts:
        figure.equal(c.rounds, 2 * (n - 1))
        figure.equal(c.bytes_sent, 2 * (n - 1) * 8 * size // n)
        figure.equal(c.bytes_received, 2 * (n - 1) * 8 * size // n)
        figure.equal(len(c.neighbours), 1)                  # it depends on one worker rather than on n


def test_a_ring_whose_buffer_does_not_divide_sends_every_chunk_but_its_own_twice():
    for n, size in ((3, 7), (4, 1001), (5, 3)):
        counts = run_threads(n, lambda c, size=size: (all_reduce_in_place(np.ones(size), c, algorithm="ring"), c.counts)[1], seconds=10)
        assert sum(c.bytes_sent for c in counts) == 2 * (n - 1) * 8 * size
        largest = -(-size // n)
        assert all(abs(c.bytes_sent - 2 * (n - 1) / n * 8 * size) <= 2 * (n - 1) * 8 * largest / n + 16 for c in counts)


def test_rounds_of_the_other_algorithms():
    for n in (2, 4, 8, 16):
        rounds = lambda name, n=n: len(list(ALGORITHMS[name](n, 64)))
        assert rounds("recursive_doubling") == math.log2(n)
        assert rounds("halving_doubling") == 2 * math.log2(n)
        assert rounds("tree") == 2 * math.log2(n)
        assert rounds("parameter_server") == 2 * (n - 1)


@pytest.mark.parametrize("n", RANKS)
def test_a_round_pairs_each_message_with_its_receiver(n):
    made = {**ALGORITHMS, "hierarchical": lambda n, size: schedules.hierarchical(n, size, local=1)}
    for name, algorithm in made.items():
        for each in algorithm(n, 37):
            for rank in np.flatnonzero(each.to != NOBODY):
                other = each.to[rank]
                assert other != rank and each.source[other] == rank, name
                assert each.sent[1][rank] - each.sent[0][rank] == each.received[1][other] - each.received[0][other], name
            assert (each.source != NOBODY).sum() == (each.to != NOBODY).sum(), name


@pytest.mark.parametrize(("n", "local"), [(8, 4), (8, 2), (6, 3), (12, 4), (4, 1), (4, 4)])
def test_hosts_meet_only_through_their_first_ranks(n, local):
    given = buffers(n, 37)
    simulator = Simulator(n, Links(1e-6, 1e9))
    rounds = list(schedules.hierarchical(n, 37, local=local))
    simulator.run(rounds, bytes_per_element=8, data=given)
    assert (given == buffers(n, 37).sum(axis=0)).all()
    for each in rounds:
        senders = np.flatnonzero(each.to != NOBODY)
        outside = senders[senders // local != each.to[senders] // local]
        assert (outside % local == 0).all() and (each.to[outside] % local == 0).all()


def test_the_clock_follows_the_formulas_of_each_algorithm():
    latency, bandwidth, size = 50e-6, 117.7e6, 1_000_000
    payload = 4 * size
    for n in (2, 4, 8, 16):
        log = math.log2(n)
        expected = {"ring": 2 * (n - 1) * latency + 2 * (n - 1) / n * payload / bandwidth,
                    "recursive_doubling": log * (latency + payload / bandwidth),
                    "halving_doubling": 2 * log * latency + 2 * (n - 1) / n * payload / bandwidth,
                    "tree": 2 * log * (latency + payload / bandwidth),
                    "parameter_server": 2 * (n - 1) * (latency + payload / bandwidth)}
        for name, seconds in expected.items():
            found = Simulator(n, Links(latency, bandwidth)).run(ALGORITHMS[name](n, size), bytes_per_element=4)
            assert found == pytest.approx(seconds, rel=1e-4), (name, n)


def test_a_thousand_ranks_with_data_and_ten_thousand_by_the_clock():
    data = np.ones((1024, 1024), np.float32)
    Simulator(1024, Links(1e-6, 1e9)).run(ALGORITHMS["halving_doubling"](1024, 1024), bytes_per_element=4, data=data)
    assert (data == 1024).all()
    simulator = Simulator(10_000, Links(1e-6, 1e9))
    simulator.run(ALGORITHMS["tree"](10_000, 1_000_000), bytes_per_element=4)
    assert simulator.rounds == 2 * 14


def test_a_rank_that_fails_ends_the_world_and_is_named():
    def program(c):
        if c.rank == 2:
            raise ValueError("out of coffee")
        all_reduce_in_place(np.ones(4), c)
    with pytest.raises(CommunicationError, match="rank 2 of 3 failed: ValueError: out of coffee"):
        run_threads(3, program, seconds=10)
    assert not [t for t in threading.enumerate() if t.name.startswith("rank ")]


def test_ranks_with_other_sizes_and_ranks_that_do_not_come_are_named():
    with pytest.raises(CommunicationError, match=r"expected float64\[\d\] from rank \d, found float64"):
        run_threads(2, lambda c: all_reduce_in_place(np.ones(4 + 4 * c.rank), c, algorithm="recursive_doubling"), seconds=10)
    with pytest.raises(CommunicationError, match=r"rank 1 has waited 0.2 s for rank 0"):
        run_threads(2, lambda c: all_reduce_in_place(np.ones(4), c) if c.rank else None, seconds=0.2)


def test_arrays_of_any_shape_and_dtype_are_summed_in_place():
    def program(c):
        given = [np.full((2, 3), c.rank, np.int64), np.full((3, 2, 2), 0.5, np.float32), np.array(c.rank * 1.5)]
        return all(all_reduce_in_place(x, c) is x and broadcast_in_place(y, c) is y and all_gather_in_place(z, c) is z
                   for x, y, z in ((x, x.copy(), x.copy()) for x in given)), given
    for same, (whole, half, number) in run_threads(3, program, seconds=10):
        assert same and (whole == 3).all() and whole.shape == (2, 3) and (half == 1.5).all() and number == 4.5


@pytest.mark.parametrize("combine", COMBINES, ids=lambda combine: combine.__name__)
def test_every_combination_is_that_of_all_ranks_by_every_algorithm(combine):
    """Integers where it has them, else halves of them: by all algorithms what one process finds."""
    kinds = [dtype for dtype in (np.int64, np.float64) if f"{np.dtype(dtype).char * 2}->{np.dtype(dtype).char}" in combine.types]
    dtype = kinds[0] if kinds else bool
    given = np.random.default_rng(0).integers(0, 7, (5, 9)).astype(dtype) / (2 if dtype is np.float64 else 1)
    given, expected = given.astype(dtype), combine.reduce(given.astype(dtype), axis=0)
    for algorithm in ALGORITHMS:
        found = run_threads(5, lambda c, by=algorithm: all_reduce_in_place(given[c.rank].copy(), c, algorithm=by, combine=combine))
        assert all(x.tobytes() == found[0].tobytes() for x in found), algorithm
        assert np.allclose(found[0], expected, rtol=1e-14), algorithm


def test_bad_arguments():
    alone = world()
    with pytest.raises(ConfigError, match="algorithm is 'star'"):
        all_reduce_in_place(np.ones(2), alone, algorithm="star")
    with pytest.raises(ShapeError, match="contiguous"):
        all_reduce_in_place(np.ones((4, 4))[:, 1], alone)
    fixed = np.ones(2)
    fixed.flags.writeable = False
    for wrong in (fixed, [1.0, 2.0], 3.0):
        with pytest.raises(ShapeError, match="expected a contiguous array that may be written"):
            all_reduce_in_place(wrong, alone)
    for wrong in (np.negative, np.divmod, max):
        with pytest.raises(ConfigError, match="expected a ufunc of two arrays"):
            all_reduce_in_place(np.ones(2), alone, combine=wrong)
    for wrong in (np.subtract, np.less, np.arctan2, np.power, np.frompyfunc(max, 2, 1)):        # another value by another algorithm
        with pytest.raises(ConfigError, match=r"(?s)associative and commutative.*np.add, np.multiply, np.maximum"):
            all_reduce_in_place(np.ones(2), alone, combine=wrong)
    for wrong, dtype in ((np.gcd, np.float64), (np.bitwise_or, np.float32), (np.hypot, np.int64), (np.logaddexp, np.complex128)):
        with pytest.raises(DtypeError, match=f"ufunc '{wrong.__name__}'> of {np.dtype(dtype)} gives no {np.dtype(dtype)}"):
            all_reduce_in_place(np.ones(2, dtype), alone, combine=wrong)
    with pytest.raises(ConfigError, match="algorithm is 'mpi'"):
        all_reduce_in_place(np.ones(2), alone, algorithm="mpi")
    with pytest.raises(CommunicationError, match="adjoint launch"):
        alone.exchange(np.ones(2), 1, None, NOBODY)
    with pytest.raises(ConfigError, match="6 ranks with 4 to a host"):
        list(schedules.hierarchical(6, 8, local=4))
    with pytest.raises(ConfigError, match="latency"):
        Links(-1.0, 1.0)
    assert all_reduce_in_place(np.array([2.0]), alone) == 2.0
