"""Does a row's native code compute what its NumPy body does? Its program, run by the reference executor, against eager NumPy.

Invariant: native code equals the reference executor bit for bit (the compiler's own tests), so here no machine code is made.
May import: L0-L4, rows. Read next: mutants.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..compiler import reference
from ..compiler.pipeline import build
from ..core.aval import aval_of
from ..core.primitive import Primitive
from ..core.trace import trace_graph
from ..primitives.kinds import Scalar
from .rows import castings, outputs, samples_of


def run_lowered(function: Callable, args: Sequence[Any]) -> tuple[list[np.ndarray], Any]:
    """(outputs of a function of arrays by way of its program, None), or ([], the failure) where a check of the program failed."""
    graph = trace_graph(lambda *xs: list(function(*xs)), list(map(aval_of, args))).check()
    built = build(graph, None)
    given = {}
    for i, buffer in enumerate(built.program.buffers):
        if buffer.role in ("input", "hidden"):
            source = args if buffer.role == "input" else built.hidden
            given[i] = np.array(source[buffer.slot], buffer.dtype)
    buffers = reference.buffers_for(built.program, given)
    status = reference.run(built.program, buffers)
    if status:
        return [], built.failures[status - 1]
    places = {b.slot: i for i, b in enumerate(built.program.buffers) if b.role == "output"}
    avals = [atom.aval for atom in graph.outputs]
    return [buffers[places[j]][:aval.size].reshape(aval.shape) for j, aval in enumerate(avals)], None


def check_lowering(row: Primitive) -> None:
    """Every sample, in every dtype that the row takes, within the row's bound of the body; integers and booleans exactly.

    The bound counts ulps of the value for elementwise rows (of 1 at least where the row says `absolute`), and per element that is
    combined for reductions and contractions.
    """
    for label, args, params in samples_of(row):
        for cast in castings(row, args, params):
            found, failure = run_lowered(lambda *xs: outputs(row, row(*xs, **params)), cast)  # noqa: B023
            assert failure is None, f"{label}: the check {failure} failed"
            for a, b in zip(found, outputs(row, row(*cast, **params)), strict=True):
                assert a.shape == np.shape(b) and a.dtype == np.asarray(b).dtype, f"{label}: native {a.dtype}{a.shape}"
                assert within(row, a, np.asarray(b), cast), f"{label}: native and NumPy differ by more than {row.bound} ulp"


def within(row: Primitive, found: np.ndarray, expected: np.ndarray, args: Sequence[np.ndarray]) -> bool:
    """Equal, both NaN, or as near as the bounds of both (NumPy's and native code's) allow."""
    if expected.dtype.kind != "f":
        return np.array_equal(found, expected)
    terms = 1 if row.kind in ("elementwise", "constant") else max(1, *(a.size for a in args))
    least = 1.0 if row.traits.get("absolute") or row.kind in ("bilinear", "linear") else np.finfo(expected.dtype).tiny
    with np.errstate(invalid="ignore", over="ignore"):
        unit = np.spacing(np.maximum(np.abs(expected), least).astype(expected.dtype))
        near = np.abs(found.astype(np.longdouble) - expected) <= 2 * row.bound * terms * unit
    return bool(np.all(near | (found == expected) | (np.isnan(found) & np.isnan(expected))))


def wrong_lowering(row: Primitive) -> Primitive:
    """An elementwise row whose native code gives numbers a thousandth too large, or the opposite boolean."""
    emit = row.lowering.emit

    def wrong(e: Any, *xs: Any, **params: Any) -> Any:
        y = emit(e, *xs, **params)
        return e.not_(y) if y.dtype.kind == "b" else e.mul(y, 1.001) if y.dtype.kind == "f" else e.add(y, 1)
    return dataclasses.replace(row, lowering=Scalar(wrong))


def lowering_is_caught(row: Primitive) -> bool:
    """True if check_lowering refuses the row's native code made wrong."""
    try:
        check_lowering(wrong_lowering(row))
    except AssertionError:
        return True
    return False
