"""Reduce on plateau: a learning rate that falls when a measured loss has stopped to fall.

Invariant: the rate is an array of the optimizer's state, so that lowering it compiles nothing, and a checkpoint holds it.
May import: L0-L3, hyperparameters. Read next: scaling.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..errors import ConfigError, explain
from . import hyperparameters as hyper

WORST = np.finfo(np.float64).max        # before the first loss; infinity is no number that a checkpoint holds without a warning


@dataclass(frozen=True)
class Plateau:
    """What `plateau` was given."""

    rate: float
    factor: float
    patience: int
    tolerance: float
    minimum: float


class PlateauState(NamedTuple):
    """rate, best: 0-d float64; waited: epochs since the best, a 0-d int64."""

    rate: Any
    best: Any
    waited: Any


def plateau(rate: float, *, factor: float = 10.0, patience: int = 10, tolerance: float = 1e-4, minimum: float = 0.0) -> Plateau:
    """A rate to give to any optimizer: eta <- max(eta / factor, minimum) after `patience` observations in a row without improvement.

    An observation improves if it is below best - tolerance |best|; NaN does not. After a drop the waiting starts anew; the best stays.
    `observe` gives it the measurements; train.fit does so after each epoch, with the validation loss where there is one.
    Variant: PyTorch's ReduceLROnPlateau(factor=1/factor, patience=patience - 1, threshold=tolerance), which drops one observation later
    for the same number. Source: Krizhevsky, Sutskever and Hinton, ImageNet classification, NeurIPS 2012, section 5 (by 10, by hand).

    >>> from adjoint import optim
    >>> rule = optim.sgd(plateau(1.0, patience=2))
    >>> state = rule.init(np.zeros(1))
    >>> for loss in (5.0, 4.0, 4.0, 4.0):
    ...     state = observe(state, loss)
    >>> rule.update(np.array([1.0]), state, None)[0]
    array([-0.1])
    """
    return Plateau(hyper.rate(rate), hyper.above("plateau", "factor", factor, 1), hyper.whole("plateau", "patience", patience),
                   hyper.non_negative("plateau", "tolerance", tolerance), hyper.non_negative("plateau", "minimum", minimum))


class PlateauRule(NamedTuple):
    """The state of a rule whose rate is a Plateau: the rate now, and what decides of it (constants, so that the state says all)."""

    now: PlateauState
    factor: Any
    patience: Any
    tolerance: Any
    minimum: Any


def start(config: Plateau) -> PlateauRule:
    """The state before the first observation."""
    number = lambda x: np.asarray(x, np.float64)
    return PlateauRule(PlateauState(number(config.rate), number(WORST), np.zeros((), np.int64)), number(config.factor),
                       np.asarray(config.patience, np.int64), number(config.tolerance), number(config.minimum))


def _advance(rule: PlateauRule, loss: Any) -> PlateauRule:
    rate, best, waited = rule.now
    improved = loss < best - rule.tolerance * np.abs(best)
    waited = np.where(improved, 0, waited + 1)
    drop = waited >= rule.patience
    now = PlateauState(np.where(drop, np.maximum(rate / rule.factor, rule.minimum), rate), np.where(improved, loss, best),
                       np.where(drop, 0, waited))
    return rule._replace(now=PlateauState(*(np.asarray(x) if isinstance(x, np.generic) else x for x in now)))


def observe(state: Any, loss: Any) -> Any:
    """The optimizer's state after a measured loss: every `plateau` rate in it waits, or falls. Other states come back as they are.

    >>> observe(({"mu": 1.0}, ()), 3.0)
    ({'mu': 1.0}, ())
    """
    if loss is None or isinstance(loss, str) or np.shape(loss) != ():
        raise ConfigError(explain(f"observe: the loss is {loss!r:.60}, expected a number.", remedy="The mean over the validation set."))
    if isinstance(state, PlateauRule):
        return _advance(state, loss)
    if isinstance(state, tuple) and hasattr(state, "_fields"):
        return type(state)(*(observe(part, loss) for part in state))
    if isinstance(state, (tuple, list)):
        return type(state)(observe(part, loss) for part in state)
    if isinstance(state, dict):
        return {name: observe(part, loss) for name, part in state.items()}
    return state


def rate_now(state: Any) -> Any:
    """The rate of the first plateau in an optimizer's state, None if there is none.

    >>> from adjoint import optim
    >>> float(rate_now(optim.adam(plateau(0.5)).init(np.zeros(2))))
    0.5
    """
    if isinstance(state, PlateauRule):
        return state.now.rate
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, (tuple, list)) else ()
    return next((found for found in map(rate_now, parts) if found is not None), None)
