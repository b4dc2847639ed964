"""Every row's native code against its NumPy body: samples in all dtypes, special values, derivatives, and checks that stop a program."""

import itertools

import numpy as np
import pytest

from adjoint.core.primitive import TABLE
from adjoint.primitives import comparison, cumulative, indexing, piecewise, reduction, sorting
from adjoint.primitives.kinds import Scalar
from adjoint.testing import rows
from adjoint.testing.lowering import check_lowering, lowering_is_caught, run_lowered, within
from adjoint.transforms import calls  # noqa: F401 (rows of the transformations join the table at import)
from adjoint.transforms.forward import jvp
from adjoint.transforms.reverse import vjp

OWED: set[str] = set()          # this list only shrinks
ROWS = [row for row in TABLE.values() if row.kind != "call" and row.lowering is not None]
SPECIAL = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 1.0, -1.0, 0.5, 2.5, -3.5, 1e30, -1e30, 1e-30, 88.0, -88.0, 800.0, 1e-45, 5e-324])
POINTWISE = [row for row in ROWS if "f" in row.traits.get("accepts", "")]


def test_the_rows_that_owe_native_code():
    assert {row.name for row in TABLE.values() if row.lowering is None and row.kind != "call"} == OWED


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_native_code_computes_the_body(row):
    check_lowering(row)


COMPUTED = [row for row in ROWS if isinstance(row.lowering, Scalar) and "identity" not in row.traits]      # an identity has no code


@pytest.mark.parametrize("row", COMPUTED, ids=lambda row: row.name)
def test_wrong_native_code_is_caught(row):
    assert lowering_is_caught(row)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("row", POINTWISE, ids=lambda row: row.name)
def test_special_values(row, dtype):
    """Infinities, NaN, zeros of both signs, subnormal and huge numbers, in all pairs."""
    (args, params), *_ = row.samples(np.random.default_rng(0))
    with np.errstate(all="ignore"):
        points = np.unique(SPECIAL.astype(dtype).view(f"i{np.dtype(dtype).itemsize}")).view(dtype)
        xs = tuple(np.array(column) for column in zip(*itertools.product(points, repeat=len(args)), strict=True))
        (found,), failure = run_lowered(lambda *xs: [row(*xs, **params)], xs)
        expected = np.asarray(row(*xs, **params))
    assert failure is None and within(row, found, expected, xs), f"{row.name} at {[x[~(found == expected)][:5] for x in xs]}"


@pytest.mark.parametrize("row", [row for row in ROWS if row.kind != "constant"], ids=lambda row: row.name)
def test_derivatives_run_natively(row):
    """The graphs of jvp and vjp lower, and agree with eager."""
    label, args, params = next(iter(rows.samples_of(row)))
    positions = rows.differentiable(row, args, params)
    function, xs = rows.variables_of(row, args, params, positions), [args[i] for i in positions]

    def both(*xs):
        ys, y_dots = jvp(function, xs, xs)
        return [*y_dots, *vjp(function, *xs)[1](ys)]
    found, failure = run_lowered(both, xs)
    assert failure is None
    for a, b in zip(found, both(*xs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13, err_msg=label)


# ------------------------------------------------------------------------------------------------ checks


DIVISIONS = (piecewise.floor_divide, piecewise.remainder, piecewise.fmod)


@pytest.mark.parametrize("row", DIVISIONS, ids=lambda row: row.name)
@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_integer_division_stops_the_program(row, dtype):
    low = np.iinfo(dtype).min
    for x, y in (([1, 2], [3, 0]), ([low, 1], [-1, 1])):
        _, failure = run_lowered(lambda x, y: [row(x, y)], [np.array(x, dtype), np.array(y, dtype)])
        assert failure is not None and failure.kind == "division"


def test_integers_divide_as_numpy():
    pairs = np.array([p for p in itertools.product(range(-7, 8), repeat=2) if p[1]])
    for row in DIVISIONS:
        (found,), failure = run_lowered(lambda x, y, row=row: [row(x, y)], list(pairs.T.copy()))
        assert failure is None
        np.testing.assert_array_equal(found, getattr(np, row.name)(*pairs.T))


def test_shifts_outside_the_width():
    pairs = np.array(list(itertools.product([5, -5, 0, 1 << 62], [0, 1, 63, 64, 200, -1])))
    for row in (comparison.left_shift, comparison.right_shift):
        (found,), _ = run_lowered(lambda x, y, row=row: [row(x, y)], list(pairs.T.copy()))
        np.testing.assert_array_equal(found, getattr(np, row.name)(*pairs.T))


@pytest.mark.parametrize("index", [[0, 4], [-5, 0]])
def test_an_index_outside_stops_the_program(index):
    x, index, updates = np.ones((4, 3)), np.array(index), np.ones((2, 3))
    for function, args in ((lambda x, i: [indexing.gather(x, i)], [x, index]),
                           (lambda x, u, i: [indexing.scatter_add(x, u, i)], [x, updates, index]),
                           (lambda x, u, i: [indexing.scatter(x, u, i)], [x, updates, index])):
        _, failure = run_lowered(function, args)
        assert failure is not None and failure.kind == "index" and failure.detail == {"axis": 0, "size": 4}


def test_positions_of_nan_and_ties():
    x = np.array([[3.0, np.nan, np.nan], [2.0, 2.0, 1.0], [np.inf, 1.0, np.inf], [-np.inf, -np.inf, -np.inf]])
    for row in (reduction.argmax, reduction.argmin):
        for axis in (0, 1):
            (found,), _ = run_lowered(lambda x, row=row, axis=axis: [row(x, axis=axis)], [x])
            np.testing.assert_array_equal(found, row(x, axis=axis))


def test_running_sums_have_the_bits_of_numpy(rng):
    x = rng.standard_normal((3, 50)).astype(np.float32)
    for row in (cumulative.cumsum, cumulative.cumprod):
        for reverse in (False, True):
            (found,), _ = run_lowered(lambda x, row=row, reverse=reverse: [row(x, axis=1, reverse=reverse)], [x])
            np.testing.assert_array_equal(found, row(x, axis=1, reverse=reverse))


def test_take_along_follows_an_argsort_that_is_given(rng):
    x = rng.standard_normal((3, 4))
    places = sorting.argsort(x, axis=1)
    (found,), _ = run_lowered(lambda x: [sorting.take_along(x, places, 1)], [x])
    np.testing.assert_array_equal(found, np.sort(x, axis=1))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 16, 17, 33])
def test_sorting_is_stable_and_puts_nan_last(n, rng):
    x = rng.integers(0, 4, (3, n)).astype(np.float64)
    x[rng.random((3, n)) < 0.2] = np.nan
    for axis, given in ((1, x), (0, x.T.copy())):
        (places, values), _ = run_lowered(lambda x, axis=axis: [sorting.argsort(x, axis=axis), sorting.sort(x, axis=axis)], [given])
        np.testing.assert_array_equal(places, np.argsort(given, axis=axis, kind="stable"))
        np.testing.assert_array_equal(values, np.sort(given, axis=axis))
