"""Schedules: the learning rate as a function of the step count t, a 0-d int64, t = 0 at the first update.

Invariant: a schedule is arithmetic on t alone, so that a compiled step serves the whole run. May import: L0, hyperparameters.
Read next: plateau.py, a rate that follows the measured loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import ConfigError, explain
from . import hyperparameters as hyper

Schedule = Callable[[Any], Any]


def _positive(name: str, steps: Any) -> None:
    if isinstance(steps, bool) or not isinstance(steps, (int, float, np.integer, np.floating)) or not (
            0 < steps < math.inf and steps == int(steps)):
        raise ConfigError(explain(f"{name}: steps is {steps!r:.40}, expected a positive whole number of updates.",
                                  remedy="Epochs times batches per epoch, for instance."))


def _rates(name: str, *rates: Any) -> None:
    for rate in rates:
        hyper.non_negative(name, "rate", rate)


def constant(rate: float) -> Schedule:
    """eta(t) = rate.

    >>> constant(0.1)(np.array(7))
    0.1
    """
    _rates("constant", rate)
    return lambda t: rate


def cosine(rate: float, steps: int, *, final: float = 0.0) -> Schedule:
    """eta(t) = final + (rate - final) (1 + cos(pi t / steps)) / 2 for t <= steps, then final.

    rate: eta at t = 0; steps: T, in updates. Source: Loshchilov and Hutter, SGDR, ICLR 2017, arXiv 1608.03983, eq. 5 (one period).

    >>> [round(float(cosine(1.0, 4)(np.array(t))), 6) for t in (0, 2, 4, 9)]
    [1.0, 0.5, 0.0, 0.0]
    """
    _positive("cosine", steps)
    _rates("cosine", rate, final)
    return lambda t: final + (0.5 * (rate - final)) * (1.0 + np.cos(np.minimum(t, steps) * (np.pi / steps)))


def step(rate: float, every: int, *, factor: float = 0.1) -> Schedule:
    """eta(t) = rate * factor^floor(t / every). every: in updates; factor: gamma.

    >>> [round(float(step(1.0, 2)(np.array(t))), 6) for t in (0, 1, 2, 4)]
    [1.0, 1.0, 0.1, 0.01]
    """
    _positive("step", every)
    _rates("step", rate, factor)
    return lambda t: rate * np.power(float(factor), np.floor(t / every))


def exponential(rate: float, factor: float) -> Schedule:
    """eta(t) = rate * factor^t. factor: gamma per update.

    >>> float(exponential(1.0, 0.5)(np.array(3)))
    0.125
    """
    _rates("exponential", rate, factor)
    return lambda t: rate * np.power(float(factor), t * 1.0)


def polynomial(rate: float, steps: int, *, power: float = 1.0, final: float = 0.0) -> Schedule:
    """eta(t) = final + (rate - final) (1 - min(t, T) / T)^power, T = steps.

    >>> float(polynomial(1.0, 4)(np.array(1)))
    0.75
    """
    _positive("polynomial", steps)
    _rates("polynomial", rate, final)
    hyper.positive("polynomial", "power", power)
    return lambda t: final + (rate - final) * np.power(1.0 - np.minimum(t, steps) / steps, float(power))


def linear(first: float, last: float, steps: int) -> Schedule:
    """eta(t) = first + (last - first) min(t, T) / T, T = steps: up or down a straight line, then `last`.

    >>> [float(linear(1.0, 0.0, 4)(np.array(t))) for t in (0, 1, 4, 9)]
    [1.0, 0.75, 0.0, 0.0]
    """
    _positive("linear", steps)
    _rates("linear", first, last)
    return lambda t: first + (last - first) * (np.minimum(t, steps) / steps)


def inverse_sqrt(rate: float) -> Schedule:
    """eta(t) = rate / sqrt(t + 1): the rate of the regret bounds of online learning.

    >>> float(inverse_sqrt(1.0)(np.array(3)))
    0.5
    """
    _rates("inverse_sqrt", rate)
    return lambda t: rate / np.sqrt(t + 1.0)


def warmup(steps: int, then: Schedule) -> Schedule:
    """Linear from then(0) / steps to then(0) over the first `steps` updates, then the schedule `then`, counted from there.

    Source: Goyal et al., Accurate, large minibatch SGD, arXiv 1706.02677, section 2.2.

    >>> [float(warmup(2, constant(1.0))(np.array(t))) for t in (0, 1, 2)]
    [0.5, 1.0, 1.0]
    """
    _positive("warmup", steps)
    if not callable(then):
        raise ConfigError(explain(f"warmup: then is {then!r:.40}, expected a schedule.", remedy="For instance constant(0.1), or cosine."))
    return lambda t: np.minimum((t + 1.0) / steps, 1.0) * then(np.maximum(t - steps, 0))


def piecewise(boundaries: Sequence[int], rates: Sequence[float]) -> Schedule:
    """eta(t) = rates[k] for boundaries[k-1] <= t < boundaries[k].

    >>> [float(piecewise([2, 4], [1.0, 0.5, 0.1])(np.array(t))) for t in (0, 2, 5)]
    [1.0, 0.5, 0.1]
    """
    if any(isinstance(x, str) or not np.iterable(x) for x in (boundaries, rates)) or any(isinstance(b, str) or b < 0 for b in boundaries):
        raise ConfigError(explain(f"piecewise: boundaries are {boundaries!r:.40}, rates are {rates!r:.40}, expected counts of updates, "
                                  "at least 0, and numbers.", remedy="For instance piecewise([1000], [0.1, 0.01])."))
    if len(rates) != len(boundaries) + 1 or list(boundaries) != sorted(boundaries):
        raise ConfigError(explain(f"piecewise: {len(boundaries)} boundaries, ascending, need {len(boundaries) + 1} rates, "
                                  f"found {len(rates)}.", remedy="Give the rate before the first boundary too."))
    _rates("piecewise", *rates)

    def rate(t: Any) -> Any:
        value = rates[0]
        for boundary, following in zip(boundaries, rates[1:], strict=True):
            value = np.where(t >= boundary, following, value)
        return value
    return rate


# ------------------------------------------------------------------------------------------------ rates that go up again


def warm_restarts(rate: float, steps: int, *, multiple: int = 1, final: float = 0.0) -> Schedule:
    """A cosine from rate to final over T_i updates, again and again: T_0 = steps, T_(i+1) = multiple T_i.

    eta = final + (rate - final) (1 + cos(pi s / T_i)) / 2, s: updates since the last restart.
    Source: Loshchilov and Hutter, SGDR, ICLR 2017, arXiv 1608.03983, eq. 5 (eta_max, eta_min, T_mult).

    >>> [round(float(warm_restarts(1.0, 2, multiple=2)(np.array(t))), 6) for t in (0, 1, 2, 4, 6)]
    [1.0, 0.5, 1.0, 0.5, 1.0]
    """
    _positive("warm_restarts", steps)
    _rates("warm_restarts", rate, final)
    hyper.whole("warm_restarts", "multiple", multiple)

    def eta(t: Any) -> Any:
        if multiple == 1:
            share = t / steps - np.floor(t / steps)
        else:
            begins = lambda n: steps * (np.power(float(multiple), n) - 1.0) / (multiple - 1.0)
            n = np.floor(np.log(t * (multiple - 1.0) / steps + 1.0) / math.log(multiple))
            n = n + (t >= begins(n + 1.0)) - (t < begins(n))            # the logarithm may be a rounding off at a restart
            share = (t - begins(n)) / (steps * np.power(float(multiple), n))
        return final + (0.5 * (rate - final)) * (1.0 + np.cos(share * np.pi))
    return eta


def one_cycle(rate: float, steps: int, *, rise: float = 0.3, first: float = 0.04, last: float = 4e-6, shape: str = "cosine") -> Schedule:
    """From first * rate up to rate over the first rise * steps updates, then down to last * rate at update steps - 1, and there it stays.

    shape: "cosine" or "linear". Variant: PyTorch's OneCycleLR in two phases (pct_start = rise, div_factor = 1 / first,
    final_div_factor = first / last), without its cycle of the momentum.
    Source: Smith and Topin, Super-convergence, arXiv 1708.07120, section 3.

    >>> [round(float(one_cycle(1.0, 10, rise=0.5)(np.array(t))), 6) for t in (0, 4, 9)]
    [0.04, 1.0, 4e-06]
    """
    hyper.whole("one_cycle", "steps", steps, 3)
    _rates("one_cycle", rate, first, last)
    top, end = hyper.fraction("one_cycle", "rise", rise) * steps - 1.0, steps - 1.0
    if top <= 0:
        raise ConfigError(explain(f"one_cycle: the rise of {rise} times {steps} updates is no more than one.",
                                  remedy="Give a longer rise, or warmup and cosine."))
    if shape not in ("cosine", "linear"):
        raise ConfigError(explain(f"one_cycle: shape is {shape!r:.40}, expected 'cosine' or 'linear'.", remedy="Leave it out for cosine."))

    def between(a: float, b: float, share: Any) -> Any:
        return a + (b - a) * share if shape == "linear" else b + (a - b) / 2.0 * (1.0 + np.cos(np.pi * share))

    def eta(t: Any) -> Any:
        t = np.minimum(t, end)
        return np.where(t <= top, between(first * rate, rate, t / top), between(rate, last * rate, (t - top) / (end - top)))
    return eta


def cyclic(low: float, high: float, half: int, *, mode: str = "triangular", factor: float = 1.0) -> Schedule:
    """low + (high - low) triangle(t) a: the triangle goes 0 to 1 to 0 in 2 * half updates, another rate for each batch.

    mode: "triangular" (a = 1), "triangular2" (a halves with each cycle) or "exp_range" (a = factor^t). half: Smith's stepsize.
    Source: Smith, Cyclical learning rates for training neural networks, WACV 2017, arXiv 1506.01186, section 3.

    >>> [float(cyclic(0.0, 1.0, 2)(np.array(t))) for t in range(5)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    _positive("cyclic", half)
    _rates("cyclic", low, high)
    if mode not in ("triangular", "triangular2", "exp_range"):
        raise ConfigError(explain(f"cyclic: mode is {mode!r:.40}, expected 'triangular', 'triangular2' or 'exp_range'.",
                                  remedy="Leave it out for 'triangular'."))
    hyper.positive("cyclic", "factor", factor)

    def eta(t: Any) -> Any:
        cycle = np.floor(t / (2.0 * half))
        height = 1.0 - np.abs(t / half - 2.0 * cycle - 1.0)
        if mode == "triangular2":
            height = height * np.power(0.5, cycle)
        elif mode == "exp_range":
            height = height * np.power(float(factor), t * 1.0)
        return low + (high - low) * height
    return eta
