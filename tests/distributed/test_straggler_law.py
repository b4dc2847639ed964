"""The law of waiting with workers that run, and sleep for exponential times: python -m benchmarks.stragglers, in short."""

import threading
import time

import numpy as np
import pytest
import worlds

from adjoint.distributed import run_threads, stragglers
from adjoint.distributed.worker import Cancellation
from benchmarks.stragglers import POLICIES, WORKERS, draws_of, in_threads

SAVED = 0.5                     # of the sleep that cancellation saves by the law; without it nothing is
STEPS, MEAN = 24, 0.025
LATENESS = 0.1                  # what the conversation may add to a step here; the benchmark, with 400 steps, holds 0.05
WIDEST = 0.35                   # where other work adds more than this, nothing is measured
POLICY = {policy.name: policy for policy in POLICIES}


def lateness(draws):
    """How much longer than the slowest sleeper a bare barrier takes: what other work on this machine adds to any step."""
    barrier, times = threading.Barrier(WORKERS), []

    def sleep(c):
        for row in draws[:12]:
            time.sleep(row[c.rank])
            if barrier.wait(30) == 0:
                times.append(time.perf_counter())
    run_threads(WORKERS, sleep)
    return np.diff(times).sum() / draws[1:12].max(axis=1).sum() - 1


def measured(name, draws):
    """(seconds of the steps, how late the median step is beside the draws, tolerance) of the least disturbed of three runs; skips where
    other work disturbs them all."""
    expected, runs = POLICY[name].waits(draws), []
    for _ in range(3):
        before, found, after = lateness(draws), in_threads(POLICY[name], draws), lateness(draws)
        runs.append((float(np.median(found - expected)) / expected.mean(), found, LATENESS + 2 * max(before, after, 0.0)))
        if abs(runs[-1][0]) <= LATENESS:
            break
    late, found, tolerance = min(runs, key=lambda run: abs(run[0]))
    if tolerance > WIDEST and abs(late) > LATENESS:
        pytest.skip(f"this machine is busy: a bare barrier of sleepers is {100 * (tolerance - LATENESS) / 2:.0f} % late")
    return found, late, min(tolerance, WIDEST)


@pytest.fixture
def slept(monkeypatch):
    """Of all waits of workers: the seconds that were to be slept, those that were, and whether the wait was cancelled."""
    waits, wait = [], Cancellation.wait

    def noted(self, seconds):
        began = time.perf_counter()
        late = wait(self, seconds)
        waits.append((seconds, time.perf_counter() - began, late))
        return late
    monkeypatch.setattr(Cancellation, "wait", noted)
    return waits


def saved_by_law(draws, wait_for):
    """Seconds that the workers whom nobody waits for would sleep after the last that counts, in all steps."""
    ordered = np.sort(draws, axis=1)
    return (ordered[:, wait_for:] - ordered[:, wait_for - 1:wait_for]).sum()


@pytest.mark.alone
@pytest.mark.mission(62)
@pytest.mark.mission(63)
@pytest.mark.mission(64)
@pytest.mark.parametrize("name", ["all 8", "7 of 8", "6 of 8", "ring of 8"])
def test_a_step_takes_as_long_as_the_slowest_that_it_waits_for(name, figure, slept):
    """The same draws for all: 2.718, 1.718 and 1.218 times the mean by the law, and a ring is no cure. The clock may be as late as this
    machine is; so the sleep that cancelled workers were spared is counted too."""
    draws, policy = draws_of(STEPS, MEAN, seed=0), POLICY[name]
    sigma = np.sqrt(stragglers.variance_of_wait(WORKERS, policy.wait_for) / STEPS)
    figure.equal(policy.waits(draws).mean() / MEAN, policy.expected(), abs=3 * sigma)
    found, late, tolerance = measured(name, draws)
    figure.equal(1 + late, 1.0, abs=tolerance)
    if not policy.ring:                                     # nobody begins before the last gradient of the step before: never sooner
        assert (found >= policy.waits(draws)).all()
    runs = len(slept) / draws.size
    spared = sum(seconds - took for seconds, took, late in slept if late)
    assert spared >= SAVED * runs * saved_by_law(draws, policy.wait_for) and any(late for *_, late in slept) == (policy.wait_for < WORKERS)


@pytest.mark.alone
@pytest.mark.mission(65)
def test_backup_workers_that_are_not_cancelled_lose_a_fifth_of_the_gain(figure, slept):
    """Of what 6 of 8 saves beside all 8, a fifth is lost where the late two finish what they began."""
    draws, names = draws_of(STEPS, MEAN, seed=0), ("6 of 8", "6 of 8, late work not cancelled", "all 8")
    cancelled, finished, slowest = (POLICY[name].waits(draws).mean() for name in names)
    figure.equal((finished - cancelled) / (slowest - cancelled), 0.2, abs=0.05)
    _, late, tolerance = measured(names[1], draws)
    assert slept and not any(cancelled for *_, cancelled in slept)
    figure.equal(1 + late, 1.0, abs=tolerance)


@worlds.one_runtime
def test_the_benchmark_runs_under_mpiexec(runtime):
    status, output = worlds.run([runtime.python, "-m", "benchmarks.stragglers", "--mpi", "--steps", "10", "--only", "7 of 8, late"])
    assert status == 0 and output.splitlines()[-1].startswith("7 of 8, late work not cancelled"), output
