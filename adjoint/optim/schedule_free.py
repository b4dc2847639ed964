"""Schedule-free AdamW: an average of the iterates takes the place of a falling rate.

Invariant: the model's parameters are y, where the gradient is taken; x, the weights to evaluate and to keep, come from
`evaluation_parameters`. May import: L0-L3, rule, scaling. Read next: sharpness.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..tree import flatten, unflatten
from . import hyperparameters as hyper
from .rule import Optimizer, Where, counter, like, on_leaves, positions, selection, zeros_like
from .scaling import Rate, over_root, rate_at


class ScheduleFreeState(NamedTuple):
    """t, a 0-d int64; sum of eta^2, a 0-d float64; z, x and nu, trees like the parameters."""

    count: Any
    weight: Any
    z: Any
    x: Any
    nu: Any


def schedule_free_adamw(learning_rate: Rate, *, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8, weight_decay: float = 0.0,
                        warmup: int = 0, where: Where | None = None) -> Optimizer:
    """y = (1-b1) z + b1 x, g = gradient at y; nu <- b2 nu + (1-b2) g^2; eta_t = eta sqrt(1 - b2^(t+1)) min(1, (t+1) / warmup);
    z <- z - eta_t (g / (sqrt(nu) + epsilon) + lambda y); c = eta_t^2 / sum of eta_i^2; x <- (1-c) x + c z.

    The parameters that the step sees are y. epsilon is outside the root of the uncorrected nu. lambda: weight_decay, decoupled, of y;
    where as in adamw. All three sequences start at the parameters; x is kept in the state (the authors' code keeps z alone and
    solves for x). Source: Defazio et al., The road less scheduled, NeurIPS 2024, arXiv 2405.15682, algorithm 1.

    >>> rule = schedule_free_adamw(0.5)
    >>> state = rule.init(np.array([1.0]))
    >>> u, state = rule.update(np.array([2.0]), state, np.array([1.0]))
    >>> u.round(6), evaluation_parameters(state, np.array([1.0]) + u).round(6)
    (array([-0.5]), array([0.5]))
    """
    rate = rate_at("schedule_free_adamw", learning_rate)
    hyper.fraction("schedule_free_adamw", "beta1", beta1)
    hyper.fraction("schedule_free_adamw", "beta2", beta2)
    hyper.non_negative("schedule_free_adamw", "epsilon", epsilon)
    hyper.non_negative("schedule_free_adamw", "weight_decay", weight_decay)
    hyper.whole("schedule_free_adamw", "warmup", warmup, 0)

    def update(gradients: Any, state: ScheduleFreeState, y: Any) -> tuple[Any, ScheduleFreeState]:
        count = state.count + 1
        eta = rate(state.count) * np.sqrt(1.0 - np.power(float(beta2), count * 1.0))
        eta = eta * np.minimum(1.0, count / warmup) if warmup else eta
        weight = state.weight + eta * eta
        share = np.where(weight > 0, eta * eta / np.where(weight > 0, weight, 1.0), 0.0)
        decays = iter(selection(where, gradients) if where else [True] * len(flatten(gradients)[0]))

        def leaf(g: Any, z: Any, x: Any, nu: Any, y: Any) -> tuple[Any, ...]:
            nu = beta2 * nu + (1.0 - beta2) * (g * g)
            direction = over_root(g, nu, epsilon)
            direction = direction + weight_decay * y if next(decays) else direction
            z = z - like(eta, g) * direction
            x = x + like(share, g) * (z - x)
            return ((1.0 - beta1) * z + beta1 * x) - y, z, x, nu
        updates, z, x, nu, _ = on_leaves(leaf, gradients, state.z, state.x, state.nu, y)
        return updates, ScheduleFreeState(count, weight, z, x, nu)
    return Optimizer(_start, update)


def _start(parameters: Any) -> ScheduleFreeState:
    own = lambda: on_leaves(lambda zero, p: (p + zero,), zeros_like(parameters), parameters)[0]
    return ScheduleFreeState(counter(), np.zeros(()), own(), own(), zeros_like(parameters))


def evaluation_parameters(state: Any, parameters: Any) -> Any:
    """The weights to evaluate and to keep: x of the schedule-free state inside `state`; the parameters where there is no such average.

    >>> rule = schedule_free_adamw(0.1)
    >>> model = {"w": np.array([1.0]), "n": np.array(3)}
    >>> evaluation_parameters((rule.init(model), ()), model)
    {'n': array(3), 'w': array([1.])}
    """
    found = _find(state)
    if found is None:
        return parameters
    leaves, structure = flatten(parameters)
    averages, own = flatten(found.x)
    for at, x in zip(positions(own, structure), averages, strict=True):
        leaves[at] = x
    return unflatten(structure, leaves)


def _find(state: Any) -> ScheduleFreeState | None:
    if isinstance(state, ScheduleFreeState):
        return state
    parts = state if isinstance(state, (tuple, list)) else ()
    return next((found for found in map(_find, parts) if found is not None), None)
