"""Forward mode: every value carries its tangent, pushed through the rows' jvps in the order of evaluation.

jvp : (a -> b) -> (a, Ta) -> (b, Tb). Invariant: a tangent has the aval of its primal; None is the zero tangent.
May import: L0-L2, reverse. Read next: linearize.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..core.aval import Aval, aval_of
from ..core.interpreter import Interpreter, Tracer, current, enter, interpreting, leave, typed_like
from ..core.primitive import TABLE, bind
from ..core.trace import freeze
from ..errors import ShapeError, TreeError, explain
from ..tree import flatten, unflatten


class Forward(Interpreter):
    """payload = (primal, tangent or None)."""

    name = "forward mode"
    together = True            # primals and tangents are performed by one interpreter, so a row may compute both in one pass

    def underlying(self, x: Tracer) -> Any:
        return x.payload[0]

    def differentiates(self, x: Tracer) -> bool:
        return x.payload[1] is not None

    def interpret(self, primitive: Any, args: tuple, params: dict) -> Any:
        pairs = [a.payload if self.holds(a) else (freeze(a), None) for a in args]
        xs, dots = tuple([x for x, _ in pairs]), tuple([t for _, t in pairs])
        token = enter(self.outer)
        try:
            if primitive.dual and self.together and any([t is not None for t in dots]):
                y, y_dot = primitive.dual(xs, dots, params)
            else:
                y = self.outer.interpret(primitive, xs, params)
                y_dot = self.push(primitive, xs, dots, y, params)
        finally:
            leave(token)
        if primitive.multiple:
            y_dot = y_dot or (None,) * len(y)
            return tuple(Tracer(self, (v, t), aval_of(v)) for v, t in zip(y, y_dot, strict=True))
        return Tracer(self, (y, y_dot), aval_of(y))

    def push(self, primitive: Any, xs: tuple, dots: tuple, y: Any, params: dict) -> Any:
        return None if all([t is None for t in dots]) else primitive.jvp(xs, dots, y, **params)


def jvp(function: Callable, primals: tuple, tangents: tuple) -> tuple[Any, Any]:
    """(y, y_dot) with y = function(*primals) and y_dot = J(primals) tangents.

    Type: jvp : (a -> b) -> (a, Ta) -> (b, Tb). Cost: at most a small multiple of the function; nothing is stored.
    Tangents are trees like the primals; leaves that are not floating take None. Source: Wengert, CACM 7 (1964).

    >>> import numpy as np
    >>> jvp(np.sin, (np.array([0.0, 1.0]),), (np.array([1.0, 0.0]),))[1]
    array([1., 0.])
    """
    return push_forward(Forward(current()), function, primals, tangents)


def push_forward(interpreter: Forward, function: Callable, primals: tuple, tangents: tuple) -> tuple[Any, Any]:
    """Run a function under a forward interpreter; the tangent of the output is a tree like the output."""
    leaves, structure = flatten(tuple(primals))
    dots = tangent_leaves(tuple(tangents), tuple(primals), leaves)
    cells = [Tracer(interpreter, (freeze(x), t), aval_of(x), argument=True) if aval_of(x).dtype.kind == "f" else x
             for x, t in zip(leaves, dots, strict=True)]
    with interpreting(interpreter, closing=True):
        outputs, out_structure = flatten(function(*unflatten(structure, cells)))
        pairs = [x.payload if interpreter.holds(x) else (x, None) for x in outputs]
    return (unflatten(out_structure, [y for y, _ in pairs]),
            unflatten(out_structure, [typed_like(tangent_or_zeros(t, aval_of(y)), y) for y, t in pairs]))


def tangent_or_zeros(t: Any, aval: Aval) -> Any:
    if t is not None:
        return t
    return np.zeros(aval.shape, aval.dtype)[()] if aval.dtype.kind == "f" else None


def tangent_leaves(tangents: Any, primals: Any, leaves: list) -> list:
    """One tangent (or None) per leaf of the primals, checked against it."""
    flat = flatten_like(primals, tangents)
    dots = []
    for x, t in zip(leaves, flat, strict=True):
        expected = aval_of(x)
        if t is None or expected.dtype.kind != "f":
            dots.append(None)
            continue
        given = aval_of(t)
        if given.shape != expected.shape:
            raise ShapeError(explain(f"jvp: a tangent is {given}, its primal is {expected}.",
                                     remedy="A tangent has the shape of its primal: np.ones_like(x)."))
        dots.append(bind(TABLE["convert"], t, dtype=expected.dtype) if given.dtype != expected.dtype or given.weak else t)
    return dots


def flatten_like(tree: Any, other: Any) -> list:
    """The leaves of `other` where `tree` has leaves; None stands for a missing leaf."""
    leaves, structure = flatten(tree)
    found, other_structure = flatten(other)
    if other_structure == structure or len(found) == len(leaves):
        return found
    marked: list = []
    _walk(structure, other_structure, iter(found), marked)
    return marked


def _walk(s: Any, o: Any, leaves: Any, marked: list) -> None:
    if s.kind == "leaf":
        marked.append(None if o.kind == "static" and o.meta.value is None else next(leaves))
        return
    if len(s.children) != len(o.children):
        raise TreeError(explain(f"two trees differ: expected {s}, found {o}.",
                                remedy="Give a tree like the primals, with None for leaves that have no tangent."))
    for a, b in zip(s.children, o.children, strict=True):
        _walk(a, b, leaves, marked)
