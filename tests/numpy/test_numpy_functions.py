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


SCALARS = [np.sum, np.prod, np.max, np.min, np.ptp, np.any, np.all, np.count_nonzero, np.nansum, np.nanmax, np.argmax, np.argmin]
RUNNING = [np.cumsum, np.cumprod, np.nancumsum]


@pytest.mark.parametrize("function", SCALARS + RUNNING, ids=lambda f: f.__name__)
def test_axis_0_and_minus_1_of_a_value_without_axes(function: Any) -> None:
    for options in [{}] if function in RUNNING else [{}, {"keepdims": True}]:
        for axis in (0, -1):
            take = lambda x, axis=axis, options=options: function(x, axis=axis, **options)
            expected = take(np.float64(3.0))
            avals, (found,) = in_trace(take, [3.0])
            assert avals == [aval_of(expected)] and np.array_equal(found, expected)
            assert np.array_equal(on_tape(take, [np.float64(3.0)])[0], expected)
        for axis in (1, -2, (0,)):
            with pytest.raises((ValueError, TypeError)):
                ad.vjp(lambda x, axis=axis, options=options: function(x, axis=axis, **options), 3.0)


def test_a_sum_of_a_sum_has_its_derivative() -> None:
    x = np.array([1.0, 2.0])
    np.testing.assert_array_equal(ad.grad(lambda x: x.sum().sum(0) + np.add.reduce(x.max()) + x[0].cumsum(-1)[0])(x), [2.0, 2.0])
    with pytest.raises(ValueError, match="axis 0"):
        ad.grad(lambda x: x.sum().mean(0))(x)


def test_no_indices_at_all() -> None:
    x = np.arange(6.0).reshape(2, 3)
    for function in (lambda x: np.take(x, []), lambda x: np.take(x, [], axis=1), lambda x: np.take(x, (), 0),
                     lambda x: x.take([], mode="clip"), lambda x: x[0, 0].take(0, 0)):
        _, (found,) = in_trace(lambda x, f=function: [f(x)], [x])
        assert found.shape == function(x).shape and np.array_equal(found, function(x))
    np.testing.assert_array_equal(ad.grad(lambda x: np.take(x, []).sum() + x[0, 0])(x), [[1, 0, 0], [0, 0, 0]])


# ------------------------------------------------------------------------------------------------ differences that docs/numpy.md names


def test_small_captured_arrays_are_read_once_and_larger_ones_at_each_call() -> None:
    for count, later in ((8, 8.0), (9, 108.0)):
        table = np.ones(count)
        f = ad.compile(lambda x, table=table: (table * x).sum())
        assert f(1.0) == count
        table[0] = 100.0
        assert f(1.0) == later


def test_floats_saturate_as_integers() -> None:
    f, x = (lambda x: x.astype(np.int32)), np.array([1e30, np.nan, -np.inf, -2.7])
    expected = [2**31 - 1, 0, -2**31, -2]
    assert in_trace(f, [x])[1][0].tolist() == expected and ad.compile(f)(x).tolist() == expected


def test_python_integers_that_do_not_fit_their_partner() -> None:
    x = np.ones(2, np.uint8)
    for transformed in (ad.compile, ad.trace):
        with pytest.raises(OverflowError):
            transformed(lambda x: x + 300)(x)
    assert ad.compile(lambda x, n: x + n)(x, 300).tolist() == [45, 45]
    assert ad.compile(lambda x, n: x == n)(x, 257).tolist() == [True, True]
    assert ad.compile(lambda x, n: x == n)(x, np.int64(257)).tolist() == [False, False]


def test_results_without_axes_are_scalars() -> None:
    for f in (np.sum, lambda x: x.reshape(()), lambda x: np.squeeze(x)):
        assert type(ad.compile(f)(np.ones(1))) is np.float64


def test_derivatives_that_do_not_exist_are_not_made_up() -> None:
    with np.errstate(all="ignore"):
        assert ad.grad(np.sqrt)(0.0) == np.inf and np.isnan(ad.grad(lambda x: np.sqrt(x * x))(0.0))
        assert np.isnan(ad.grad(np.std)(np.ones(3))).all()
    assert ad.grad(np.abs)(0.0) == 0 and not ad.grad(np.linalg.norm)(np.zeros(3)).any()
