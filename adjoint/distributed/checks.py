"""What arguments may be: numbers of workers, seconds and bytes, communicators; each check returns the value, or raises.

Invariant: a check looks at one argument, and names it as the user does. May import: errors. Read next: planner.py, which uses most of them.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import ConfigError, ShapeError, explain

MOST = 2 ** 62          # of what is counted: elements, bytes, steps
RANKS = 10_000_000      # of ranks: arrays of one number for each fit in memory
FINITE = sys.float_info.max


def whole(of: str, name: str, value: Any, *, least: int = 1, most: int = MOST, remedy: str = "") -> int:
    """A whole number from `least` to `most`.

    >>> whole("Pipeline", "micro_batches", 4)
    4
    """
    try:
        found = least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        found = least - 1
    if not least <= found <= most:
        wanted = f"from {least} to {most}" if most < MOST else f">= {least}"
        raise ConfigError(explain(f"{of}: {name} is {value!r:.60}, expected a whole number {wanted}.",
                                  remedy=remedy or f"Give {name} an int, {max(least, min(4, most))} for instance."))
    return found


def number(of: str, name: str, value: Any, *, least: float = 0.0, above: bool = False, most: float = FINITE, remedy: str = "") -> float:
    """A number from `least` to `most`, `least` itself left out where `above` is true.

    >>> number("Links", "latency", 50e-6)
    5e-05
    """
    found = value.item() if isinstance(value, (np.generic, np.ndarray)) and np.ndim(value) == 0 else value
    plain = isinstance(found, (int, float)) and not isinstance(found, bool) and not (isinstance(found, int) and abs(found) > FINITE)
    if not (plain and (least < found if above else least <= found) and found <= most):
        limit = "" if most in (FINITE, math.inf) else f" and <= {most:g}"
        raise ConfigError(explain(f"{of}: {name} is {value!r:.60}, expected a number {'>' if above else '>='} {least:g}{limit}.",
                                  remedy=remedy or f"Give {name} a finite number."))
    return float(found)


def durations(of: str, name: str, value: Any, fits: Callable[[tuple[int, ...]], bool], wanted: str) -> np.ndarray:
    """An array of finite numbers >= 0 whose shape fits.

    >>> durations("waits", "times", [[1.0, 5.0]], lambda shape: len(shape) == 2, "[steps, workers]")
    array([[1., 5.]])
    """
    try:
        found = np.asarray(value)
    except ValueError:                              # rows of several lengths
        found = np.empty((), object)
    if found.dtype.kind not in "iuf" or not fits(found.shape) or not (np.isfinite(found).all() and (found >= 0).all()):
        bad = "" if found.dtype.kind not in "iuf" or not fits(found.shape) else ", some of them negative, infinite or NaN"
        raise ConfigError(explain(f"{of}: {name} are {found.dtype}{list(found.shape)}{bad}, expected finite numbers >= 0, {wanted}.",
                                  remedy="Give an array of floats of that shape."))
    return found


def examples_of(of: str, *arrays: Any) -> int:
    """How many examples arrays hold; raises ShapeError where that is not the same in all.

    >>> examples_of("share", np.ones((3, 2)), np.ones(3))
    3
    """
    if not arrays or any(np.ndim(x) == 0 or len(x) != len(arrays[0]) for x in arrays):
        raise ShapeError(explain(f"{of}: arrays of shapes {', '.join(str(np.shape(x)) for x in arrays) or 'none'}, expected as many "
                                 "examples in each.", remedy="The first axis counts examples."))
    return len(arrays[0])


def flag(of: str, name: str, value: Any) -> bool:
    """True or False: the text "no" would count as true.

    >>> flag("DataParallel", "exact_reduce", False)
    False
    """
    if not isinstance(value, bool | np.bool_):
        raise ConfigError(explain(f"{of}: {name} is {value!r:.60}, expected True or False.", remedy=f"{name}=True, or leave it out."))
    return bool(value)


def world_of(of: str, value: Any) -> Any:
    """A communicator: something with a rank, a size, and exchanges.

    >>> from adjoint.distributed import Alone
    >>> world_of("Pipeline", Alone()).size
    1
    """
    try:
        if value.rank < value.size and value.exchange and not isinstance(value, type):
            return value
    except (AttributeError, TypeError):
        pass
    found = getattr(value, "__name__", None) or type(value).__name__
    raise ConfigError(explain(f"{of}: found {found}, expected the world, a communicator.",
                              remedy="Under a launcher: distributed.world(); in threads what run_threads gives its function."))


def function_of(of: str, name: str, value: Any, *, remedy: str) -> Any:
    """Something that can be called.

    >>> function_of("run_threads", "function", len, remedy="") is len
    True
    """
    if not callable(value):
        raise ConfigError(explain(f"{of}: {name} is {value!r:.60}, expected a function.", remedy=remedy))
    return value
