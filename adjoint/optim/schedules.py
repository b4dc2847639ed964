"""Schedules: the learning rate as a function of the step count t, a 0-d int64, t = 0 at the first update.

Invariant: a schedule is arithmetic on t alone, so that a compiled step serves the whole run. May import: L0. Read next: scaling.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import ConfigError, explain

Schedule = Callable[[Any], Any]


def _positive(name: str, steps: int) -> None:
    if not steps > 0:
        raise ConfigError(explain(f"{name}: steps is {steps}, expected a positive number of updates.",
                                  remedy="Epochs times batches per epoch, for instance."))


def constant(rate: float) -> Schedule:
    """eta(t) = rate.

    >>> constant(0.1)(np.array(7))
    0.1
    """
    return lambda t: rate


def cosine(rate: float, steps: int, *, final: float = 0.0) -> Schedule:
    """eta(t) = final + (rate - final) (1 + cos(pi t / steps)) / 2 for t <= steps, then final.

    rate: eta at t = 0; steps: T, in updates. Source: Loshchilov and Hutter, SGDR, ICLR 2017, arXiv 1608.03983, eq. 5 (one period).

    >>> [round(float(cosine(1.0, 4)(np.array(t))), 6) for t in (0, 2, 4, 9)]
    [1.0, 0.5, 0.0, 0.0]
    """
    _positive("cosine", steps)
    return lambda t: final + (0.5 * (rate - final)) * (1.0 + np.cos(np.minimum(t, steps) * (np.pi / steps)))


def step(rate: float, every: int, *, factor: float = 0.1) -> Schedule:
    """eta(t) = rate * factor^floor(t / every). every: in updates; factor: gamma.

    >>> [round(float(step(1.0, 2)(np.array(t))), 6) for t in (0, 1, 2, 4)]
    [1.0, 1.0, 0.1, 0.01]
    """
    _positive("step", every)
    return lambda t: rate * np.power(float(factor), np.floor(t / every))


def exponential(rate: float, factor: float) -> Schedule:
    """eta(t) = rate * factor^t. factor: gamma per update.

    >>> float(exponential(1.0, 0.5)(np.array(3)))
    0.125
    """
    return lambda t: rate * np.power(float(factor), t * 1.0)


def polynomial(rate: float, steps: int, *, power: float = 1.0, final: float = 0.0) -> Schedule:
    """eta(t) = final + (rate - final) (1 - min(t, T) / T)^power, T = steps.

    >>> float(polynomial(1.0, 4)(np.array(1)))
    0.75
    """
    _positive("polynomial", steps)
    return lambda t: final + (rate - final) * np.power(1.0 - np.minimum(t, steps) / steps, float(power))


def inverse_sqrt(rate: float) -> Schedule:
    """eta(t) = rate / sqrt(t + 1): the rate of the regret bounds of online learning.

    >>> float(inverse_sqrt(1.0)(np.array(3)))
    0.5
    """
    return lambda t: rate / np.sqrt(t + 1.0)


def warmup(steps: int, then: Schedule) -> Schedule:
    """Linear from then(0) / steps to then(0) over the first `steps` updates, then the schedule `then`, counted from there.

    Source: Goyal et al., Accurate, large minibatch SGD, arXiv 1706.02677, section 2.2.

    >>> [float(warmup(2, constant(1.0))(np.array(t))) for t in (0, 1, 2)]
    [0.5, 1.0, 1.0]
    """
    _positive("warmup", steps)
    return lambda t: np.minimum((t + 1.0) / steps, 1.0) * then(np.maximum(t - steps, 0))


def piecewise(boundaries: Sequence[int], rates: Sequence[float]) -> Schedule:
    """eta(t) = rates[k] for boundaries[k-1] <= t < boundaries[k].

    >>> [float(piecewise([2, 4], [1.0, 0.5, 0.1])(np.array(t))) for t in (0, 2, 5)]
    [1.0, 0.5, 0.1]
    """
    if len(rates) != len(boundaries) + 1 or list(boundaries) != sorted(boundaries):
        raise ConfigError(explain(f"piecewise: {len(boundaries)} boundaries, ascending, need {len(boundaries) + 1} rates, "
                                  f"found {len(rates)}.", remedy="Give the rate before the first boundary too."))

    def rate(t: Any) -> Any:
        value = rates[0]
        for boundary, following in zip(boundaries, rates[1:], strict=True):
            value = np.where(t >= boundary, following, value)
        return value
    return rate
