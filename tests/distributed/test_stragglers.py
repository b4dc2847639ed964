"""The order statistics of stragglers: closed forms, and simulated steps within three deviations of them."""

import numpy as np
import pytest

from adjoint.distributed import Links, Simulator, schedules
from adjoint.distributed.stragglers import expected_wait, harmonic, variance_of_wait, waits
from adjoint.errors import ConfigError

WORKED = {2: 1.5, 4: 2.08333, 8: 2.717857, 10: 2.928968, 16: 3.380729, 32: 4.058495, 64: 4.743891, 100: 5.187378, 1000: 7.485471}


@pytest.mark.mission(64)
def test_the_slowest_of_n_is_the_harmonic_number_and_the_fastest_one_nth(figure):
    for n, value in WORKED.items():
        figure.equal(harmonic(n), value, rel=5e-6)
        figure.equal(expected_wait(n, 1), 1.0 / n)
        figure.equal(expected_wait(n), harmonic(n))


@pytest.mark.mission(65)
def test_the_last_tenth_of_the_jobs_takes_longer_than_the_first_nine(figure):
    figure.equal(expected_wait(100, 90), 2.2584, rel=5e-5)
    figure.equal(expected_wait(100), 5.1874, rel=5e-5)


@pytest.mark.mission(62)
@pytest.mark.mission(63)
@pytest.mark.mission(64)
@pytest.mark.parametrize(("n", "k"), [(8, 8), (8, 7), (8, 6), (4, 4), (100, 90), (100, 1)])
def test_simulated_steps_follow_the_law(n, k, figure):
    steps = 4000
    found = waits(np.random.default_rng(n + k).exponential(size=(steps, n)), k).mean()
    figure.equal(found, expected_wait(n, k), abs=3 * np.sqrt(variance_of_wait(n, k) / steps))


def test_variance_of_the_wait():
    times = np.random.default_rng(0).exponential(size=(200_000, 5))
    for k in (1, 3, 5):
        assert waits(times, k).var() == pytest.approx(variance_of_wait(5, k), rel=0.03)


def test_backup_workers_need_cancellation():
    """Waiting for 6 of 8 costs 1.22 if late workers abandon their work. If they finish it, 2 of 8 begin every step with a rest that is
    again Exp(1), before their own Exp(1): the step is the 6th smallest of 6 Exp(1) and 2 Gamma(2), about 1.53."""
    rng = np.random.default_rng(0)
    times, begun = rng.exponential(size=(20_000, 8)), rng.exponential(size=(200_000, 8))
    begun[:, 6:] += rng.exponential(size=(200_000, 2))
    assert waits(times, 6).mean() == pytest.approx(1.218, abs=0.02)
    assert waits(times, 6, cancel=False).mean() == pytest.approx(np.partition(begun, 5, axis=1)[:, 5].mean(), abs=0.02)
    assert waits(times, 8, cancel=False).mean() == pytest.approx(waits(times, 8).mean())


def test_a_ring_waits_for_the_slowest_rank_too():
    """It is synchronous: its step is the maximum of the compute times, as the parameter server's."""
    rng, total = np.random.default_rng(1), 0.0
    for _ in range(400):
        simulator = Simulator(8, Links(0.0, 1e12))
        simulator.compute(rng.exponential(size=8))
        total += simulator.run(schedules.ring(8, 8), bytes_per_element=4)
    assert total / 400 == pytest.approx(expected_wait(8), abs=3 * np.sqrt(variance_of_wait(8) / 400))


def test_bad_arguments():
    with pytest.raises(ConfigError, match="the 9-th of 8 workers"):
        expected_wait(8, 9)
    for call in (lambda: variance_of_wait(8, 9), lambda: waits(np.ones((2, 8)), 9), lambda: expected_wait(8, 0)):
        with pytest.raises(ConfigError):
            call()
    for call, said in ((lambda: expected_wait(0), "expected_wait: n is 0"), (lambda: waits(np.ones((2, 0))), "waits: times are"),
                       (lambda: waits(np.ones(2)), "waits: times are"), (lambda: variance_of_wait(8, 0), "k is 0")):
        with pytest.raises(ConfigError, match=said):
            call()
    assert harmonic(0) == 0.0 and expected_wait(1) == variance_of_wait(1) == 1.0


def test_late_workers_without_cancellation_by_hand():
    """Worker 1 needs 5 and is dropped: it goes on until 5, and begins nothing before it is free; then the step waits for it again."""
    times = np.array([[1.0, 5.0], [1.0, 9.0], [2.0, 9.0], [9.0, 1.0]])
    assert waits(times, 1, cancel=False).tolist() == [1.0, 1.0, 2.0, 2.0]           # at 4 worker 1 is free at 5, and done at 6
    assert waits(times[:2], 2, cancel=False).tolist() == [5.0, 9.0]
    assert waits(times, 2).tolist() == [5.0, 9.0, 9.0, 9.0] and waits(times).tolist() == [5.0, 9.0, 9.0, 9.0]
