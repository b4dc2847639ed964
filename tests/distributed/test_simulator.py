"""The simulator's clock: what it reads, and that a round costs as few calls for ten thousand ranks as for ten."""

import sys
import time

import numpy as np
import pytest

from adjoint.distributed import ALGORITHMS, Links, Simulator
from adjoint.distributed.schedules import NOBODY, Round


def calls(n, name):
    """Functions entered, Python's and C's, while a schedule is made and timed; and its rounds."""
    entered = 0

    def count(frame, event, argument):
        nonlocal entered
        entered += event in ("call", "c_call")
    simulator, schedule = Simulator(n, Links(1e-6, 1e9)), ALGORITHMS[name]
    before = sys.getprofile()
    sys.setprofile(count)
    try:
        simulator.run(schedule(n, 1000 * n), bytes_per_element=4)
    finally:
        sys.setprofile(before)
    return entered, simulator.rounds


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_round_is_as_many_calls_for_any_number_of_ranks(name):
    """Vectorized over ranks: 10,000 of them, 19,998 rounds of a ring, are then a few seconds of array arithmetic."""
    (few, few_rounds), (many, many_rounds) = calls(16, name), calls(256, name)
    assert many / many_rounds <= 1.2 * few / few_rounds <= 60


def test_ten_thousand_ranks_by_the_clock():
    for name, rounds in (("tree", 28), ("halving_doubling", 2 * 13 + 2)):
        simulator = Simulator(10_000, Links(1e-6, 1e9))
        simulator.run(ALGORITHMS[name](10_000, 1_000_000), bytes_per_element=4)
        assert simulator.rounds == rounds


@pytest.mark.alone
def test_a_ring_of_ten_thousand_ranks_in_ten_seconds():
    """All its 19,998 rounds, each of 4 kB a rank: 5 us of the virtual clock; less than 10 s of this one's processor."""
    began, world = time.process_time(), Simulator(10_000, Links(1e-6, 1e9))
    assert world.run(ALGORITHMS["ring"](10_000, 10_000_000), bytes_per_element=4) == pytest.approx(19_998 * 5e-6)
    assert world.rounds == 19_998 and (world.bytes_sent == 19_998 * 4000).all()
    assert time.process_time() - began < 10.0


def test_ranks_that_come_late_hold_up_those_that_wait_for_them():
    """Rank 2 is busy for 5 s; 0 sends to 1 meanwhile, and 1 then to 2: only that transfer waits."""
    world = Simulator(3, Links(1.0, 4.0))
    world.compute(np.array([0.0, 0.0, 5.0]))
    limits = np.zeros(3, int), np.full(3, 1)
    first = Round(np.array([1, NOBODY, NOBODY]), np.array([NOBODY, 0, NOBODY]), limits, limits, True)
    then = Round(np.array([NOBODY, 2, NOBODY]), np.array([NOBODY, NOBODY, 1]), limits, limits, True)
    assert world.run([first, then], bytes_per_element=4) == 7.0
    assert world.clocks.tolist() == [2.0, 7.0, 7.0] and world.bytes_sent.tolist() == [4, 4, 0]
