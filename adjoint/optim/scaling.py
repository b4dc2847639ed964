"""The parts that every optimizer ends with: a factor, a learning rate, weight decay.

theta: parameters, g: gradient, u: update, eta: learning rate, t: updates done before this one (0 at the first).
Invariant: every number that changes between updates is an array of the state, so that a compiled step never recompiles.
May import: L0-L3, rule, schedules, plateau. Read next: momentum.py, adam.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..errors import ConfigError, explain
from ..tree import flatten, unflatten
from . import hyperparameters as hyper
from .plateau import Plateau, start
from .rule import Optimizer, Where, counter, like, on_leaves, selection, stateless
from .schedules import Schedule

Rate = float | Schedule | Plateau


def scale(factor: Any) -> Optimizer:
    """u = factor g.

    >>> scale(-0.5).update(np.array([2.0]), (), None)[0]
    array([-1.])
    """
    return stateless(lambda gradients, _: times(factor, gradients))


def times(factor: Any, tree: Any) -> Any:
    """A tree with every leaf multiplied by a scalar, in the leaf's dtype."""
    return on_leaves(lambda g: (g * like(factor, g),), tree)[0]


def over_root(u: Any, total: Any, epsilon: float) -> Any:
    """u / (sqrt(total) + epsilon); where epsilon is 0, it is 0 wherever total is 0 (0/0 := 0: a feature never seen does not move).

    >>> over_root(np.array([3.0, 0.0]), np.array([9.0, 0.0]), 0.0)
    array([1., 0.])
    """
    if not (isinstance(epsilon, (int, float)) and epsilon == 0):
        return u / (np.sqrt(total) + epsilon)
    seen = total > 0
    return np.where(seen, u / np.sqrt(np.where(seen, total, 1.0)), 0.0)


class CountState(NamedTuple):
    """t, a 0-d int64."""

    count: Any


def scale_by_learning_rate(learning_rate: Rate) -> Optimizer:
    """u = -eta g for a number, u = -eta(t) g for a schedule, and for a `plateau` the rate that `observe` has left in the state.

    >>> rule = scale_by_learning_rate(lambda t: 1.0 / (t + 1))
    >>> u, state = rule.update(np.array([2.0]), rule.init(None), None)
    >>> u, rule.update(np.array([2.0]), state, None)[0]
    (array([-2.]), array([-1.]))
    """
    if isinstance(learning_rate, Plateau):
        return Optimizer(lambda parameters: start(learning_rate),
                         lambda gradients, state, parameters: (times(-state.now.rate, gradients), state))
    if not callable(learning_rate):
        return scale(-hyper.rate(learning_rate))

    def update(gradients: Any, state: CountState, parameters: Any) -> tuple[Any, CountState]:
        return times(-learning_rate(state.count), gradients), CountState(state.count + 1)
    return Optimizer(lambda parameters: CountState(counter()), update)


def rate_at(rule: str, learning_rate: Rate) -> Callable[[Any], Any]:
    """The rate as a function of t, for rules that need its value and not only a last factor."""
    if isinstance(learning_rate, Plateau):
        raise ConfigError(explain(f"{rule}: the learning rate is a plateau, expected a number or a schedule.",
                                  remedy="Its rate is part of the average of weights; use optim.adamw with a plateau."))
    if callable(learning_rate):
        return learning_rate
    hyper.rate(learning_rate)
    return lambda t: learning_rate


def add_weight_decay(decay: float, where: Where | None = None) -> Optimizer:
    """u = g + lambda theta, decay: lambda. Before the moments it is L2 regularization of the loss, lambda/2 |theta|^2; after them it is
    decoupled weight decay (AdamW). Applies to every floating leaf that has a gradient, biases too, as in PyTorch; with where(name, leaf),
    to those alone for which it is true (`optim.matrices`: arrays of two axes or more).

    >>> add_weight_decay(0.1).update(np.array([1.0]), (), np.array([10.0]))[0]
    array([2.])
    """
    hyper.non_negative("weight decay", "weight_decay", decay)

    def add(gradients: Any, parameters: Any) -> Any:
        updates = on_leaves(lambda g, p: (g + decay * p,), gradients, parameters)[0]
        if where is None:
            return updates
        flags, (leaves, structure) = selection(where, gradients), flatten(gradients)
        return unflatten(structure, [u if flag else g for flag, u, g in zip(flags, flatten(updates)[0], leaves, strict=True)])
    return stateless(add)


def decayed_first(weight_decay: float, *rules: Optimizer) -> list[Optimizer]:
    """The rules behind L2 regularization, which is left out where lambda is 0 (a traced lambda is not)."""
    hyper.non_negative("weight decay", "weight_decay", weight_decay)
    none = isinstance(weight_decay, (int, float)) and weight_decay == 0
    return list(rules) if none else [add_weight_decay(weight_decay), *rules]
