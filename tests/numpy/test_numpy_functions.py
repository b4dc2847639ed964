"""Every function of the table equals NumPy's on traced values: shape, dtype, values; on a tape, in a trace, in a batch; its derivative."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from numpy_cases import ALL, draw

import adjoint as ad
from adjoint.core.aval import aval_of
from adjoint.core.interpreter import Tracer, current, interpreting, known
from adjoint.core.primitive import bind
from adjoint.core.trace import trace_graph
from adjoint.testing import check_grads
from adjoint.transforms.batch import vmap
from adjoint.transforms.reverse import Tape
from adjoint.tree import flatten

IDS = [c[0] for c in ALL]
HALF = "float16"


def leaves_of(tree: Any) -> list:
    return [np.asarray(x) for x in flatten(tree)[0]]


def on_tape(function: Any, arguments: list) -> list:
    """The results with the arguments as inputs of a tape."""
    tape = Tape(current())
    with interpreting(tape):
        found = flatten(function(*map(tape.lift, arguments)))[0]
        return [np.asarray(known(x)) for x in found]


def in_trace(function: Any, arguments: list) -> tuple[list, list]:
    """(stated avals, evaluated results) of the graph of the function."""
    kept: list = []

    def flat(*cells: Any) -> list:
        found = flatten(function(*cells))[0]
        kept.extend(not isinstance(x, Tracer) for x in found)
        return found
    graph = trace_graph(flat, [aval_of(x) for x in arguments]).check()
    return [a.aval for a in graph.outputs], [np.asarray(x) for x in graph.evaluate(bind, *arguments)]


def expected_of(function: Any, arguments: list) -> Any:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            return leaves_of(function(*arguments))
        except (TypeError, ValueError) as refused:
            return refused


@pytest.mark.parametrize(("name", "function", "shapes", "smooth", "exact"), ALL, ids=IDS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64])
def test_equals_numpy(name: str, function: Any, shapes: tuple, smooth: bool, exact: bool, dtype: type, rng: np.random.Generator) -> None:
    arguments = [draw(rng, shape, dtype) for shape in shapes]
    expected = expected_of(function, arguments)
    if isinstance(expected, Exception) or any(x.dtype.name == HALF for x in expected):
        pytest.skip("NumPy refuses this dtype, or answers in half precision")
    tolerance = 0.0 if exact else 1e-12 if dtype != np.float32 else 3e-5
    with np.errstate(all="ignore"):
        found = on_tape(function, arguments)
    assert len(found) == len(expected)
    for x, y in zip(found, expected, strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance * 10)


@pytest.mark.parametrize(("name", "function", "shapes", "smooth", "exact"), ALL, ids=IDS)
def test_traced_equals_eager(name: str, function: Any, shapes: tuple, smooth: bool, exact: bool, rng: np.random.Generator) -> None:
    if name in ("nonzero", "compress", "digitize"):
        pytest.skip("the size of the result depends on values")
    arguments = [draw(rng, shape, np.float32) for shape in shapes]
    with np.errstate(all="ignore"):
        expected = on_tape(function, arguments)
        avals, found = in_trace(function, arguments)
    for aval, x, y in zip(avals, found, expected, strict=True):
        assert (aval.shape, aval.dtype) == (x.shape, x.dtype) == (y.shape, y.dtype)
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(("name", "function", "shapes", "smooth", "exact"), ALL, ids=IDS)
def test_batched_equals_a_loop(name: str, function: Any, shapes: tuple, smooth: bool, exact: bool, rng: np.random.Generator) -> None:
    if name in ("nonzero", "compress", "digitize", "ndim shape size"):
        pytest.skip("the size of the result depends on values, or is not an array")
    batch = [np.stack([draw(rng, shape, np.float64) for _ in range(3)]) for shape in shapes]
    only_arrays = lambda *xs: [x for x in flatten(function(*xs))[0] if isinstance(x, Tracer | np.ndarray | np.generic)]
    with np.errstate(all="ignore"):
        found = vmap(only_arrays)(*batch)
        rows = [only_arrays(*[x[k] for x in batch]) for k in range(3)]
    for i, x in enumerate(found):
        np.testing.assert_allclose(x, np.stack([row[i] for row in rows]), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("name", "function", "shapes", "smooth", "exact"), [c for c in ALL if c[3]], ids=[c[0] for c in ALL if c[3]])
def test_derivative(name: str, function: Any, shapes: tuple, smooth: bool, exact: bool, rng: np.random.Generator) -> None:
    check_grads(function, *[draw(rng, shape, np.float64) for shape in shapes], order=2, rng=rng)


GROUPS = 24
SMOOTH = [c for c in ALL if c[3] and c[0] != "compress"]


@pytest.mark.parametrize("group", range(GROUPS))
def test_compiled_gradient_equals_eager(group: int, rng: np.random.Generator) -> None:
    """One program for several functions: the gradient of the sum of their results under weights that differ."""
    chosen = SMOOTH[group::GROUPS]
    arguments = [[draw(rng, shape, np.float64) for shape in c[2]] for c in chosen]

    def loss(groups: list) -> Any:
        total = 0.0
        for c, xs in zip(chosen, groups, strict=True):
            for k, y in enumerate(flatten(c[1](*xs))[0]):
                weights = np.cos(k + np.arange(aval_of(y).size)).reshape(aval_of(y).shape)
                total = total + np.sum(y * weights) if aval_of(y).dtype.kind == "f" else total
        return total
    with np.errstate(all="ignore"):
        expected = ad.grad(loss)(arguments)
        found = ad.compile(ad.grad(loss))(arguments)
    for x, y in zip(flatten(found)[0], flatten(expected)[0], strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-9)
