"""The law of waiting: how long a step takes that waits for all, or for the first k, of n workers.

Invariant: times are in units of the mean compute time of one worker. May import: errors, checks. Read next: schedules.py.
"""

from __future__ import annotations

import numpy as np

from ..errors import ConfigError, explain
from .checks import RANKS, durations, flag, whole


def harmonic(n: int) -> float:
    """H_n = 1 + 1/2 + ... + 1/n, H_0 = 0; about log n + 0.5772.

    >>> round(harmonic(8), 6), round(harmonic(1000), 6)
    (2.717857, 7.485471)
    """
    return float(np.sum(1.0 / np.arange(whole("harmonic", "n", n, least=0, most=RANKS), 0, -1)))


def expected_wait(n: int, k: int | None = None) -> float:
    """E of the k-th smallest of n independent Exp(1) times: H_n - H_{n-k}; k = n (None): the maximum, H_n; k = 1: 1/n.

    Proof: the time between the (i-1)-th and the i-th arrival is exponential with rate n - i + 1. A step that waits for k of n takes this
    long only if the late workers abandon their work (stop computing) when the step ends.

    >>> [round(expected_wait(8, k), 3) for k in (1, 6, 7, 8)]
    [0.125, 1.218, 1.718, 2.718]
    """
    n = whole("expected_wait", "n", n, most=RANKS, remedy="n counts workers.")
    k = n if k is None else whole("expected_wait", "k", k, remedy="k counts the workers that are waited for.")
    if k > n:
        raise ConfigError(explain(f"expected_wait: the {k}-th of {n} workers.", remedy=f"k is from 1 to {n}."))
    return float(np.sum(1.0 / np.arange(n, n - k, -1)))


def variance_of_wait(n: int, k: int | None = None) -> float:
    """Variance of the k-th smallest of n independent Exp(1) times: the sum of 1/i^2 for i = n - k + 1 .. n.

    >>> round(variance_of_wait(1), 6), round(variance_of_wait(8), 6)
    (1.0, 1.527422)
    """
    k = n if k is None else k
    expected_wait(n, k)
    return float(np.sum(1.0 / np.arange(n - k + 1, n + 1, dtype=float) ** 2))


def waits(times: np.ndarray, k: int | None = None, *, cancel: bool = True) -> np.ndarray:
    """Durations [steps] of synchronous steps that wait for the first k workers; times [steps, workers]: how long each computes.

    cancel: late workers abandon their work and begin the next step with the others. Without it they finish what they began, which is
    dropped, and only then begin again: a step then waits for workers that are still busy with the last one. All of them (k = n): the same.

    >>> waits(np.array([[1.0, 5.0], [1.0, 1.0]]), 1)
    array([1., 1.])
    >>> waits(np.array([[1.0, 5.0], [1.0, 1.0]]), 2)
    array([5., 1.])
    """
    times = durations("waits", "times", times, lambda shape: len(shape) == 2 and shape[1] > 0, "[steps, workers]")
    flag("waits", "cancel", cancel)
    steps, workers = times.shape
    k = workers if k is None else k
    expected_wait(workers, k)
    if cancel:
        return np.partition(times, k - 1, axis=1)[:, k - 1]
    now, free, waited = 0.0, np.zeros(workers), np.empty(steps)
    for step, row in enumerate(times):
        done = np.maximum(free, now) + row
        end = np.partition(done, k - 1)[k - 1]
        # A worker that was not among the first k, and had begun, goes on with its stale work; one not yet free begins nothing.
        free = np.where(done <= end, end, np.where(free <= end, done, free))
        waited[step], now = end - now, end
    return waited
