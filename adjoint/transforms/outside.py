"""Code that no trace can enter (a factorization, SciPy, a solver): custom_vjp on plain arrays, where reverse mode alone is at work.

Invariant: `forward` and `backward` see plain arrays only; any other transformation on top raises the error that tracing met.
May import: L0-L2, reverse, forward. Read next: custom.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..core.aval import aval_of
from ..core.interpreter import EVALUATION, Tracer, current, interpreting
from ..core.primitive import Primitive, bind, register
from ..core.trace import freeze
from ..errors import EffectError, EscapedTracerError, NotDifferentiableError, ShapeError, TracerError, explain
from ..tree import Structure, flatten, is_array, unflatten
from .forward import flatten_like
from .reverse import Tape


class Rule(NamedTuple):
    """A rule at one call: its two functions, how arguments are rebuilt from leaves, which of all leaves those are, results so far."""

    forward: Callable
    backward: Callable
    rebuild: Callable[[Any], tuple]
    traced: list[bool]
    structures: list[Structure]
    opened: TracerError


def may_stay_outside(error: TracerError) -> bool:
    """True if a function that cannot be traced can be called as it is: numbers are known, and only a tape is watching."""
    return not isinstance(error, (EffectError, EscapedTracerError)) and isinstance(current(), Tape) and current().outer is EVALUATION


def call_outside(rule: Rule, leaves: list[Any]) -> Any:
    """The function's result by `forward`, with the rule on the tape."""
    found = bind(_OUTSIDE, *map(freeze, leaves), rule=rule)
    return unflatten(rule.structures[-1], found)


def _forward(primals: tuple, rule: Rule) -> tuple[tuple, Any]:
    if any(isinstance(x, Tracer) for x in primals):         # another derivative on top, which would have to enter the function
        raise rule.opened
    with interpreting(EVALUATION):
        result = rule.forward(*rule.rebuild(primals))
    if not (isinstance(result, tuple) and len(result) == 2):
        raise ShapeError(explain(f"custom_vjp: forward must return (y, residuals), it returned {type(result).__name__}.",
                                 remedy="Return the result, and as the second what backward needs (None if nothing)."))
    ys, structure = flatten(result[0])
    rule.structures.append(structure)
    return tuple([y if is_array(y) else np.asarray(y)[()] for y in ys]), result[1]


def _augment(primals: tuple, active: tuple, params: dict) -> tuple:
    ys, residuals = _forward(primals, params["rule"])
    return ys, {**params, "residuals": residuals}


def _vjp(primals: tuple, ys: tuple, y_bars: tuple, active: tuple, *, rule: Rule, residuals: Any = None) -> list:
    if any(isinstance(x, Tracer) for x in (*primals, *y_bars)):
        raise rule.opened
    floating = [bar if aval_of(y).dtype.kind == "f" else None for y, bar in zip(ys, y_bars, strict=True)]
    bars = rule.backward(residuals, unflatten(rule.structures[-1], floating))
    args = rule.rebuild(primals)
    bars = flatten_like(args, bars if isinstance(bars, (tuple, list)) and len(bars) == len(args) else (bars,))
    found = [bar for bar, traced in zip(bars, rule.traced, strict=True) if traced]
    for bar, x in zip(found, primals, strict=True):
        if bar is not None and np.shape(bar) != np.shape(x):
            raise ShapeError(explain(f"custom_vjp: backward returned shape {np.shape(bar)} for an argument of shape {np.shape(x)}.",
                                     remedy="A rule returns one cotangent per argument, of the argument's shape."))
    return [None if bar is None else np.asarray(bar, aval_of(x).dtype)[()] for bar, x in zip(found, primals, strict=True)]


def _refused(*_: Any, rule: Rule, **params: Any) -> Any:
    raise rule.opened


def _batch(args: tuple, axes: tuple, *, rule: Rule) -> Any:
    raise rule.opened


def _jvp(primals: tuple, tangents: tuple, ys: Any, *, rule: Rule) -> Any:
    raise NotDifferentiableError(explain("forward mode cannot enter a function that is called from outside.",
                                         remedy="Give the rule by custom_jvp, on operations that can be traced."))


_OUTSIDE = register(Primitive("outside", "call", lambda *primals, rule: _forward(primals, rule)[0], _refused, _jvp, _vjp, _batch,
                              samples=lambda rng: [], multiple=True, augment=_augment, doc="A call that no trace can enter, by its rule."))
