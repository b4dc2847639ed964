"""The birth certificate of a NaN: the first operation whose result is not finite though its operands are, and its source line.

Invariant: finding it changes nothing; it evaluates the traced program node by node on plain arrays. May import: L0-L3. Read next: loop.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..core.aval import aval_of
from ..core.graph import Graph, Literal, Var
from ..core.interpreter import EVALUATION, interpreting
from ..transforms.calls import close, inline
from ..tree import paths


class Birth(NamedTuple):
    """Where the first NaN or infinity arose: an operation with its source line, or an input."""

    operation: str
    where: str
    detail: str

    def __str__(self) -> str:
        return f"{self.operation}: {self.detail}" + (f", at {self.where}" if self.where else "")


def _bad(x: Any) -> str:
    """How many elements of x are not finite, in words; empty if none is."""
    x = np.asarray(x)
    if x.dtype.kind != "f":
        return ""
    nan, infinite = int(np.count_nonzero(np.isnan(x))), int(np.count_nonzero(np.isinf(x)))
    counts = [f"{n} {word}" for n, word in ((nan, "NaN"), (infinite, "infinite")) if n]
    return f"{' and '.join(counts)} of {x.size} values" if counts else ""


def birth_of_nonfinite(function: Callable, *args: Any) -> Birth | None:
    """The first operation of function(*args) that makes NaN or infinity, None if every value is finite.

    Cost: one trace and one evaluation, node by node. An infinity that a later `where` hides counts as well: it comes first.

    >>> birth_of_nonfinite(lambda x: np.log(x) * 0.0, np.array([1.0, -1.0])).detail
    '1 NaN of 2 values, from float64[2] between -1 and 1'
    """
    with interpreting(EVALUATION):
        closed = close(function, *args)
        names = [*paths(args), *("a captured array" for _ in closed.leaves)]
        for name, x in zip(names, closed.leaves, strict=False):
            if found := _bad(x):
                return Birth(f"argument {name}", "", found)
        with np.errstate(all="ignore"):
            return _evaluate(inline(closed.graph), closed.leaves)


def _evaluate(graph: Graph, leaves: list) -> Birth | None:
    values: dict[Var, Any] = dict(zip(graph.inputs, leaves, strict=True))
    for node in graph.nodes:
        xs = [a.value if isinstance(a, Literal) else values[a] for a in node.inputs]
        found = node.primitive.body(*xs, **node.params)
        for var, y in zip(node.outs, found if node.primitive.multiple else (found,), strict=True):
            values[var] = y
            if bad := _bad(y):
                return Birth(node.primitive.name, node.where, f"{bad}, from {', '.join(map(_range, xs))}")
    return None


def _range(x: Any) -> str:
    array = np.asarray(x)
    if array.size == 0 or array.dtype.kind not in "fiu":
        return str(aval_of(x))
    if array.ndim == 0:
        return f"{array.item():.6g}"
    return f"{aval_of(x)} between {array.min():.6g} and {array.max():.6g}"
