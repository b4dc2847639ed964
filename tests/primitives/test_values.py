"""What rows compute: against 50-digit truth within the row's stated bound, NumPy's special values, promotion, and weak scalars."""

import math

import mpmath
import numpy as np
import pytest

from adjoint.core.aval import Aval, aval_of
from adjoint.core.primitive import TABLE, bind
from adjoint.core.trace import trace_graph
from adjoint.dtypes import FLOAT32, FLOAT64, INT64, UINT8
from adjoint.errors import DivisionError, DtypeError, IndexRangeError, ShapeError
from adjoint.primitives import arithmetic, comparison, cumulative, indexing, piecewise, reduction, sorting, special, structure
from adjoint.primitives import transcendental as tr
from adjoint.testing.lowering import run_lowered
from adjoint.transforms.forward import jvp
from adjoint.transforms.reverse import vjp

TRUTH = {
    "sqrt": mpmath.sqrt, "cbrt": mpmath.cbrt, "exp": mpmath.exp, "exp2": lambda x: mpmath.mpf(2) ** x, "expm1": mpmath.expm1,
    "log": mpmath.log, "log1p": mpmath.log1p, "log2": lambda x: mpmath.log(x, 2), "log10": mpmath.log10, "sin": mpmath.sin,
    "cos": mpmath.cos, "tan": mpmath.tan, "arcsin": mpmath.asin, "arccos": mpmath.acos, "arctan": mpmath.atan, "sinh": mpmath.sinh,
    "cosh": mpmath.cosh, "tanh": mpmath.tanh, "arcsinh": mpmath.asinh, "arccosh": mpmath.acosh, "arctanh": mpmath.atanh,
    "erf": mpmath.erf, "erfc": mpmath.erfc, "logistic": lambda x: 1 / (1 + mpmath.exp(-x)),
    "softplus": lambda x: mpmath.log1p(mpmath.exp(x)),
    "add": mpmath.fadd, "subtract": mpmath.fsub, "multiply": mpmath.fmul, "divide": mpmath.fdiv, "power": mpmath.power,
    "arctan2": mpmath.atan2, "hypot": mpmath.hypot, "logaddexp": lambda x, y: mpmath.log(mpmath.exp(x) + mpmath.exp(y)),
    "remainder": lambda x, y: x - y * mpmath.floor(x / y), "scale": mpmath.fmul,
}


def ulps(found, truth, dtype, absolute=False):
    """The error of a float in units of the last place of the truth (of 1 at least, where a row says so)."""
    size = max(abs(float(truth)), 1.0 if absolute else float(np.finfo(dtype).tiny))
    spacing = float(np.spacing(dtype(size)))
    return abs(float((mpmath.mpf(float(found)) - truth) / spacing))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", TRUTH)
def test_within_the_bound_of_the_truth(name, dtype, rng):
    row, truth = TABLE[name], TRUTH[name]
    domain = row.traits.get("domain", (0.5, 2.0))
    arity = 2 if name in ("add", "subtract", "multiply", "divide", "power", "arctan2", "hypot", "logaddexp", "remainder", "scale") else 1
    domains = [domain] * arity if np.ndim(domain[0]) == 0 else domain
    xs = [rng.uniform(*d, 60).astype(dtype) for d in domains]
    found = row(*xs)
    with mpmath.workdps(50):
        worst = max(ulps(y, truth(*map(lambda v: mpmath.mpf(float(v)), point)), dtype, row.traits.get("absolute", False))
                    for y, *point in zip(found, *xs, strict=True))
    assert worst <= row.bound + 0.5, f"{name}: {worst:.2f} ulp, stated {row.bound}"


@pytest.mark.parametrize("order", [0, 1, 2, 3, 5])
def test_sinc_and_its_derivatives_are_exact_at_and_around_zero(order):
    points = np.array([0.0, 1e-300, 1e-8, 1e-3, 0.2, (order + 1) / math.pi, (order + 1.001) / math.pi, 2.5, -1.3])
    found = special.sinc(points, order=order)
    with mpmath.workdps(80):
        for x, y in zip(points, found, strict=True):
            f = lambda t: mpmath.sin(mpmath.pi * t) / (mpmath.pi * t) if t else mpmath.mpf(1)
            if abs(x) > 1e-100:
                truth = mpmath.diff(f, mpmath.mpf(float(x)), order) if order else f(mpmath.mpf(float(x)))
            else:
                truth = mpmath.mpf(0) if order % 2 else (-1) ** (order // 2) * mpmath.pi ** order / (order + 1)
            assert abs(float(truth) - y) <= 64 * 2.3e-16 * math.pi ** order


def test_special_values_are_numpys():
    inf = math.inf
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(special.logistic(np.array([inf, -inf, -800.0, 800.0, 0.0])), [1, 0, 0, 1, 0.5])
        np.testing.assert_array_equal(special.softplus(np.array([-inf, inf, 800.0, -800.0])), [0, inf, 800, 0])
        assert special.logaddexp(-inf, -inf) == -inf and special.logaddexp(inf, 1.0) == inf
        assert np.isnan(piecewise.maximum(np.nan, 1.0)) and np.isnan(piecewise.minimum(1.0, np.nan))
        assert tr.power(np.float64(0.0), 0.0) == 1 and tr.power(np.float64(0.0), -1.0) == inf
        np.testing.assert_array_equal(special.erf(np.array([-inf, 0.0, inf])), [-1, 0, 1])
        assert tr.integer_power(np.float64(0.0), n=-1) == inf


def test_division_rounds_as_numpy(rng):
    for dtype in (np.float64, np.float32, np.int64, np.int32):
        x, y = (rng.uniform(-9, 9, 200).astype(dtype) for _ in range(2))
        y[y == 0] = 3
        for row, name in ((piecewise.floor_divide, "floor_divide"), (piecewise.remainder, "remainder"), (piecewise.fmod, "fmod")):
            np.testing.assert_array_equal(row(x, y), getattr(np, name)(x, y))


@pytest.mark.parametrize("row", [piecewise.floor_divide, piecewise.remainder, piecewise.fmod])
@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_integers_without_a_quotient_raise(row, dtype):
    with pytest.raises(DivisionError, match="by zero"):
        row(np.array([1, 2], dtype), np.array([1, 0], dtype))
    with pytest.raises(DivisionError, match="-1"):
        row(np.array([np.iinfo(dtype).min], dtype), np.array([-1], dtype))
    with pytest.raises(DivisionError):
        row(np.array([1, 2], np.uint8), np.array([0, 1], np.uint8))


def test_shifts_clamp_as_numpys():
    x, amount = np.array([5, -5, 1, -1]), np.array([64, 70, 63, 200])
    np.testing.assert_array_equal(comparison.left_shift(x, amount), np.left_shift(x, amount))
    np.testing.assert_array_equal(comparison.right_shift(x, amount), [0, -1, 0, -1])


# ------------------------------------------------------------------------------------------------ dtypes


PROMOTED = [("add", FLOAT32, FLOAT32, FLOAT32), ("add", FLOAT32, FLOAT64, FLOAT64), ("multiply", FLOAT32, INT64, FLOAT64),
            ("divide", INT64, INT64, FLOAT64), ("divide", UINT8, UINT8, FLOAT64), ("arctan2", UINT8, UINT8, FLOAT64),
            ("maximum", UINT8, INT64, INT64), ("less", FLOAT32, INT64, np.dtype(bool)), ("hypot", FLOAT32, FLOAT32, FLOAT32)]


@pytest.mark.parametrize(("name", "left", "right", "expected"), PROMOTED)
def test_promotion_is_numpys_eager_and_traced(name, left, right, expected):
    row, xs = TABLE[name], (np.ones(3, left), np.ones(3, right))
    assert row(*xs).dtype == expected
    graph = trace_graph(lambda x, y: [row(x, y)], list(map(aval_of, xs))).check()
    assert graph.outputs[0].aval == Aval((3,), expected)


@pytest.mark.parametrize("name", ["add", "multiply", "divide", "power", "maximum", "subtract", "arctan2"])
def test_python_scalars_are_weak(name):
    row, x = TABLE[name], np.ones(3, np.float32)
    for scalar in (2.0, 3):
        assert row(x, scalar).dtype == np.float32 and row(scalar, x).dtype == np.float32
        graph = trace_graph(lambda x, scalar=scalar: [row(x, scalar), row(scalar, x)], [aval_of(x)]).check()
        assert [a.aval.dtype for a in graph.outputs] == [np.float32, np.float32]


def test_functions_of_small_integers_are_never_half_precision():
    for row in (tr.sin, special.logistic, tr.sqrt, piecewise.rint):
        for x in (np.ones(2, np.uint8), np.ones(2, bool), True):
            assert row(x).dtype == np.float64


def test_operators_on_python_scalars_stay_pythons():
    for name in ("add", "subtract", "multiply", "divide", "floor_divide", "remainder", "power"):
        assert type(TABLE[name](3.0, 2.0)) is float, name
    with np.errstate(divide="ignore"):
        assert arithmetic.divide(1.0, 0.0) == math.inf


def test_integers_wrap_in_products():
    assert tr.power(np.int64(3), np.int64(40)) == np.power(np.int64(3), np.int64(40))
    with pytest.raises(DtypeError, match="negative"):
        tr.power(np.array([2]), np.array([-1]))


def test_floats_have_no_bits():
    with pytest.raises(DtypeError, match="bitwise_and"):
        trace_graph(lambda x: [comparison.bitwise_and(x, x)], [Aval((2,), FLOAT64)])


# ------------------------------------------------------------------------------------------------ errors


def test_an_index_outside_names_axis_size_and_value():
    x = np.zeros((4, 3))
    with pytest.raises(IndexRangeError, match="index 3 is outside of axis 1, which has size 3"):
        indexing.gather(x, np.array([0, 1]), np.array([2, 3]))
    with pytest.raises(IndexRangeError, match="index -5 is outside of axis 0, which has size 4"):
        indexing.scatter_add(x, np.zeros((2, 3)), np.array([0, -5]))
    with pytest.raises(IndexRangeError, match="index 4"):
        indexing.scatter(x, np.zeros((1, 3)), np.array([4]))
    with pytest.raises(DtypeError, match="mask"):
        trace_graph(lambda x: [indexing.gather(x, np.array([True]))], [aval_of(x)])


def test_shapes_that_do_not_fit():
    for wrong in (lambda: trace_graph(lambda x: [arithmetic.add(x, np.zeros(3))], [Aval((2,), FLOAT64)]),
                  lambda: trace_graph(lambda x: [structure.concatenate(x, np.zeros((2, 2)), axis=0)], [Aval((2, 3), FLOAT64)]),
                  lambda: trace_graph(lambda x: [reduction.max_(x, axes=(0,))], [Aval((0, 3), FLOAT64)]),
                  lambda: trace_graph(lambda x: [bind(structure.reshape, x, shape=(4,))], [Aval((2, 3), FLOAT64)])):
        with pytest.raises(ShapeError):
            wrong()


# ------------------------------------------------------------------------------------------------ order and ties


def test_positions_and_order():
    x = np.array([[3.0, np.nan, 1.0], [2.0, 2.0, 5.0]])
    np.testing.assert_array_equal(reduction.argmax(x, axis=1), [1, 2])
    np.testing.assert_array_equal(reduction.argmin(x, axis=1), [1, 0])
    np.testing.assert_array_equal(sorting.argsort(x, axis=1), [[2, 0, 1], [0, 1, 2]])


def test_the_last_assignment_wins():
    y = indexing.scatter(np.zeros(3), np.array([1.0, 2.0, 3.0]), np.array([1, 1, -2]))
    np.testing.assert_array_equal(y, [0, 3, 0])
    np.testing.assert_array_equal(indexing.scatter_add(np.zeros(3), np.array([1.0, 2.0, 3.0]), np.array([1, 1, -2])), [0, 6, 0])


def test_recurrence_by_hand():
    h = cumulative.recurrence(np.array([0.5, 2.0, 3.0]), np.array([1.0, 1.0, 1.0]), axis=0, reverse=False)
    np.testing.assert_array_equal(h, [1.0, 3.0, 10.0])


# ------------------------------------------------------------------------------------------------ weak values in a trace


WEAK = [lambda n, a, x: x * a, lambda n, a, x: a + x, lambda n, a, x: x / n, lambda n, a, x: (n * 0.5) * x, lambda n, a, x: a ** 2 * x,
        lambda n, a, x: arithmetic.where(x > a, a, x), lambda n, a, x: piecewise.maximum(x, a), lambda n, a, x: tr.power(x, a),
        lambda n, a, x: (n // 2) * x, lambda n, a, x: (a % 2) * x, lambda n, a, x: abs(-a) * x, lambda n, a, x: tr.arctan2(a, x),
        lambda n, a, x: x < a, lambda n, a, x: tr.sin(a) * x, lambda n, a, x: structure.concatenate(x, x, axis=0) * (a - n)]


@pytest.mark.parametrize("case", range(len(WEAK)))
def test_numbers_given_to_a_trace_are_as_weak_as_in_numpy(case):
    f, args = WEAK[case], (3, 1.5, np.array([0.5, 2.0], np.float32))
    graph = trace_graph(lambda *xs: [f(*xs)], list(map(aval_of, args))).check()
    expected = f(*args)
    found, = graph.evaluate(bind, *args)
    assert graph.outputs[0].aval.dtype == found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    (native,), _ = run_lowered(f_list(f), args)
    assert native.dtype == expected.dtype
    np.testing.assert_allclose(native, expected, rtol=1e-6)
    if expected.dtype.kind == "f":
        y_bar = np.ones_like(expected)
        for route in (vjp(lambda a, x: f(3, a, x), *args[1:])[1](y_bar), trace_bars(f, args, y_bar)):
            assert [np.asarray(bar).dtype for bar in route] == [np.float64, np.float32]
        y, y_dot = jvp(lambda a, x: f(3, a, x), args[1:], (1.0, args[2]))
        assert np.asarray(y).dtype == np.asarray(y_dot).dtype == expected.dtype


def f_list(f):
    return lambda *xs: [f(*xs)]


def trace_bars(f, args, y_bar):
    graph = trace_graph(lambda a, x: list(vjp(lambda a, x: f(3, a, x), a, x)[1](y_bar)), list(map(aval_of, args[1:]))).check()
    return graph.evaluate(bind, *args[1:])
