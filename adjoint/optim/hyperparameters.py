"""The ranges that hyperparameters lie in: each check returns the value, or raises ConfigError in the user's words.

Invariant: a traced value passes, since its number is not known yet. May import: L0-L1. Read next: scaling.py.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from ..core.interpreter import Tracer
from ..errors import ConfigError, explain


def _number(rule: str, name: str, value: Any, holds: Callable[[Any], bool], expected: str, remedy: str) -> Any:
    if isinstance(value, Tracer):
        return value
    plain = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if isinstance(value, np.ndarray) and value.shape == () and value.dtype.kind in "iuf":
        plain, value = True, value[()]
    if not (plain and math.isfinite(value) and holds(value)):
        raise ConfigError(explain(f"{rule}: {name} is {value!r:.60}, expected {expected}.", remedy=remedy))
    return value


def fraction(rule: str, name: str, value: Any, *, zero: bool = True) -> Any:
    """A factor of an average: in [0, 1), or in (0, 1) with zero=False.

    >>> fraction("adam", "beta1", 0.9)
    0.9
    """
    expected = "a number in [0, 1)" if zero else "a number in (0, 1)"
    return _number(rule, name, value, lambda x: 0 <= x < 1 and (zero or x > 0), expected,
                   "It says how much of the past is kept: 0.9, for instance.")


def non_negative(rule: str, name: str, value: Any) -> Any:
    """A number that is at least 0.

    >>> non_negative("adamw", "weight_decay", 0.01)
    0.01
    """
    return _number(rule, name, value, lambda x: x >= 0, "a finite number >= 0", f"Leave out {name}, or give 0 for none.")


def above(rule: str, name: str, value: Any, least: float) -> Any:
    """A number above `least`.

    >>> above("plateau", "factor", 10.0, 1)
    10.0
    """
    return _number(rule, name, value, lambda x: x > least, f"a finite number > {least}", f"Give {name} a number above {least}.")


def positive(rule: str, name: str, value: Any) -> Any:
    """A number above 0.

    >>> positive("clip_by_value", "limit", 2.0)
    2.0
    """
    return above(rule, name, value, 0)


def whole(rule: str, name: str, value: Any, least: int = 1) -> int:
    """A whole number that is at least `least`.

    >>> whole("accumulate", "every", 4)
    4
    """
    try:
        found = operator.index(value)
    except TypeError:
        found = least - 1
    if found < least or isinstance(value, bool):
        raise ConfigError(explain(f"{rule}: {name} is {value!r:.60}, expected a whole number >= {least}.",
                                  remedy=f"Give {name} an int: {max(least, 10)}, for instance."))
    return found


def rate(value: Any) -> Any:
    """A learning rate that is a number: finite and at least 0.

    >>> rate(0.1)
    0.1
    """
    if not isinstance(value, Tracer):
        found = np.asarray(value)
        if found.dtype.kind not in "iuf" or found.shape or not (found >= 0 and np.isfinite(found)):
            raise ConfigError(explain(f"optimizer: the learning rate is {value!r:.80}, expected a finite number >= 0, or a schedule.",
                                      remedy="For instance 1e-3, or optim.schedules.cosine(1e-3, steps)."))
    return value
