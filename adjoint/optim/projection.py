"""Constraints: optimizers whose parameters stay in a box, a ball or a simplex, and subgradient descent, which keeps its best iterate.

Invariant: parameters + updates lie in the set, to the rounding of that sum. May import: L0-L4, rule, momentum.
Read next: lbfgs.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..compiler.compile import compile
from ..errors import ConfigError, explain
from ..transforms.reverse import value_and_grad
from ..tree import flatten, unflatten
from . import hyperparameters as hyper
from .momentum import gd
from .rule import Optimizer, apply_updates, in_dtype, on_leaves
from .scaling import Rate

Projection = Callable[[Any], Any]


def box(low: float, high: float) -> Projection:
    """x -> max(low, min(high, x)), element by element: the nearest point with all elements in [low, high].

    >>> box(-1.0, 1.0)(np.array([-3.0, 0.5, 2.0]))
    array([-1. ,  0.5,  1. ])
    """
    if np.asarray(low).dtype.kind not in "iuf" or np.asarray(high).dtype.kind not in "iuf" or not np.all(np.asarray(low) <= high):
        raise ConfigError(explain(f"box: low is {low!r:.40}, high is {high!r:.30}, expected low <= high, numbers.", remedy="box(-1, 1)."))
    return lambda x: np.minimum(np.maximum(x, low), high)


def ball(radius: float) -> Projection:
    """x -> x min(1, r / |x|), r = radius, |.| the Euclidean norm of the whole array: the nearest point of the ball around 0.

    >>> ball(1.0)(np.array([3.0, 4.0]))
    array([0.6, 0.8])
    """
    hyper.positive("ball", "radius", radius)
    return lambda x: x * (radius / np.maximum(np.sqrt(np.sum(x * x)), radius))


def simplex(total: float = 1.0) -> Projection:
    """The nearest point with elements >= 0 along the last axis that sum to `total`: x -> max(x - theta, 0).

    theta = (u_1 + .. + u_k - total) / k, u: x in descending order, k: the largest with u_k > (u_1 + .. + u_k - total) / k. O(n log n).
    Source: Duchi, Shalev-Shwartz, Singer and Chandra, Efficient projections onto the l1-ball, ICML 2008, figure 1.

    >>> simplex()(np.array([0.5, 0.3, -2.0])).round(12)
    array([0.6, 0.4, 0. ])
    """
    hyper.positive("simplex", "total", total)

    def onto(x: Any) -> Any:
        if not np.ndim(x):
            raise ConfigError(explain("simplex: a parameter is a single number, expected a vector.",
                                      remedy="Project the other parameters: optim.masked(rule, where)."))
        size = np.shape(x)[-1]
        ranks = np.arange(1.0, size + 1.0, dtype=x.dtype)
        descending = -np.sort(-x, axis=-1)
        levels = (np.cumsum(descending, axis=-1) - total) / ranks
        # The levels rise as long as u_k is above them: the last such level is the largest of all.
        return np.maximum(x - np.max(levels, axis=-1, keepdims=True), 0.0)
    return onto


def project(rule: Optimizer, onto: Projection) -> Optimizer:
    """The rule, with u such that theta + u = onto(theta + the rule's u) for every leaf: projected (sub)gradient descent, and its kin.

    onto: box, ball, simplex, or a function of an array; for sets of some parameters alone, `masked` or `partition`. It comes last:
    project(chain(..., scale_by_learning_rate(eta)), onto). The projection is Euclidean; an adaptive rule's own metric is not used
    (for a box, and for a diagonal metric, both are the same). Source: Zinkevich, Online convex programming, ICML 2003, section 2.

    >>> from adjoint.optim import sgd
    >>> rule = project(sgd(1.0), box(-1.0, 1.0))
    >>> rule.update(np.array([5.0]), rule.init(np.zeros(1)), np.array([0.5]))[0]
    array([-1.5])
    """
    if not hasattr(rule, "update") or not callable(onto):
        raise ConfigError(explain(f"project: the rule is {rule!r:.60}, onto is {onto!r:.60}, expected an Optimizer and a projection.",
                                  remedy="For instance project(optim.sgd(0.1), optim.box(-1.0, 1.0))."))

    def update(gradients: Any, state: Any, parameters: Any) -> tuple[Any, Any]:
        updates, state = rule.update(gradients, state, parameters)
        return on_leaves(lambda u, p: (onto(p + u) - p,), updates, parameters)[0], state
    return Optimizer(rule.init, update)


# ------------------------------------------------------------------------------------------------ subgradient descent


class Best(NamedTuple):
    """The lowest value seen, a 0-d float64, and the parameters that had it.

    >>> Best(np.array(1.0), np.zeros(2)).parameters
    array([0., 0.])
    """

    value: Any
    parameters: Any


def best_of(parameters: Any) -> Best:
    """Nothing seen yet.

    >>> best_of(np.zeros(2)).value
    array(inf)
    """
    leaves, structure = flatten(parameters)
    return Best(np.array(np.inf), unflatten(structure, [np.array(x) for x in leaves]))


def keep_best(best: Best, value: Any, parameters: Any) -> Best:
    """`parameters` with their value if it is lower than the best, else the best. Pure: it may be part of a compiled step.

    >>> keep_best(keep_best(best_of(np.zeros(1)), 2.0, np.ones(1)), 3.0, np.full(1, 9.0)).parameters
    array([1.])
    """
    lower = value < best.value
    leaves, structure = flatten(best.parameters)
    pairs = zip(flatten(parameters)[0], leaves, strict=True)
    pick = lambda new, old: in_dtype(np.where(lower, new, old), np.asarray(old).dtype if isinstance(old, (int, float)) else old.dtype)
    return Best(in_dtype(np.where(lower, value, best.value), np.dtype(np.float64)), unflatten(structure, [pick(*pair) for pair in pairs]))


class Descent(NamedTuple):
    """What subgradient_descent found: the best iterate and its value, the last iterate, the value at every iterate.

    >>> subgradient_descent(lambda x: np.abs(x).sum(), np.ones(1), 0.5, 3, compiled=False).values
    array([1. , 0.5, 0. ])
    """

    best: Any
    value: float
    last: Any
    values: np.ndarray


def subgradient_descent(function: Callable, start: Any, learning_rate: Rate, steps: int, *, onto: Projection | None = None,
                        compiled: bool = True) -> Descent:
    """x_(t+1) = onto(x_t - eta(t) g_t), g_t a subgradient of a convex function at x_t; the best of x_0 .. x_(steps-1) is kept.

    No step need go down: |f(best) - min| <= (R^2 + G^2 sum of eta^2) / (2 sum of eta), R: distance to the solution, G: a bound of |g|.
    eta(t) = c / sqrt(t + 1) makes it fall as log t / sqrt t (schedules.inverse_sqrt). At kinks the table of primitives takes one
    subgradient: 0 for |x| and max(0, x) at 0, an equal share for a tie of np.max.
    Source: Shor 1962; Boyd, Xiao and Mutapcic, Subgradient methods, Stanford 2003, section 3.

    >>> from adjoint.optim.schedules import inverse_sqrt
    >>> found = subgradient_descent(lambda x: np.abs(x - 1.0).sum(), np.zeros(2), inverse_sqrt(0.5), 100, compiled=False)
    >>> bool(found.value < 0.1), found.values.shape
    (True, (100,))
    """
    hyper.whole("subgradient_descent", "steps", steps)
    rule = gd(learning_rate) if onto is None else project(gd(learning_rate), onto)

    def step(x: Any, state: Any, best: Best) -> tuple:
        value, gradients = value_and_grad(function)(x)
        best = keep_best(best, value, x)
        updates, state = rule.update(gradients, state, x)
        return apply_updates(x, updates), state, best, value
    step = compile(step) if compiled else step
    x, state, best, values = start, rule.init(start), best_of(start), np.empty(steps)
    for t in range(steps):
        x, state, best, values[t] = step(x, state, best)
    return Descent(best.parameters, float(best.value), x, values)
