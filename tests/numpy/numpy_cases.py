"""The table of NumPy calls that traced values must answer as NumPy does: (name, function, shapes or arrays of its arguments).

A shape stands for random floats of that shape; "i" and a shape for integers, "b" for booleans; an array for itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

X, V, C = (3, 4), (5,), (2, 3, 4)
LINE = [1.0, 2.0, 3.0, 4.0]
NAN = np.array([[1.0, np.nan, 3.0], [np.nan, -2.0, 0.5]])


def case(name: str, function: Callable, *arguments: Any, smooth: bool = True, exact: bool = False) -> tuple:
    """smooth: derivatives are compared with differences. exact: values are equal, not only close."""
    return name, function, arguments, smooth, exact


def named(name: str, prepare: Callable = lambda *xs: xs, **options: Any) -> Callable:
    """NumPy's function of this name, with options, of prepared arguments."""
    function = getattr(np, name)
    return lambda *xs: function(*prepare(*xs), **options)


REDUCTIONS = [
    case(f"{name} {options}", named(name, **options), C, smooth=name not in ("any", "all", "argmax", "argmin"))
    for name in ("sum", "prod", "mean", "var", "std", "max", "min", "ptp", "any", "all", "nansum", "nanprod", "nanmean", "nanvar",
                 "nanstd", "nanmax", "nanmin", "median")
    for options in ({}, {"axis": 1}, {"axis": (0, 2)}, {"axis": -1, "keepdims": True}, {"axis": (1, 0), "keepdims": True})
] + [
    case("sum dtype", lambda x: np.sum(x, axis=0, dtype=np.float32), X, smooth=False),
    case("sum initial", lambda x: np.sum(x, axis=0, initial=2.5), X),
    case("prod initial", lambda x: np.prod(x, axis=0, initial=2.5), X), case("max initial", lambda x: np.max(x, axis=0, initial=0.3), X),
    case("min initial", lambda x: x.min(axis=0, initial=0.3), X), case("max of nothing", lambda x: np.max(x, axis=0, initial=1.5), (0, 3)),
    case("mean dtype", lambda x: np.mean(x, dtype=np.float32), X, smooth=False), case("sum axis ()", lambda x: np.sum(x, axis=()), X),
    case("var ddof", lambda x: np.var(x, axis=1, ddof=1), X), case("std ddof", lambda x: x.std(axis=0, ddof=2), X),
    case("nanvar ddof", lambda x: np.nanvar(x, axis=1, ddof=1), X), case("var correction", lambda x: np.var(x, correction=1), X),
    case("average", lambda x, w: np.average(x, axis=1, weights=w * w), X, X),
    case("average 1-d", lambda x, w: np.average(x, axis=0, weights=w * w), X, (3,)),
    case("average mean", lambda x: np.average(x, axis=1), X),
    case("average returned", lambda x, w: np.average(x, weights=w * w, returned=True), X, X),
    case("count_nonzero", lambda x: np.count_nonzero(x > 0, axis=1), X, smooth=False),
    *(case(f"{name} {options}", named(name, **options), C, smooth=False, exact=True)
      for name in ("argmax", "argmin") for options in ({}, {"axis": 1}, {"axis": -1, "keepdims": True}, {"keepdims": True})),
    *(case(f"{name} {options}", named(name, **options), C)
      for name in ("cumsum", "cumprod") for options in ({}, {"axis": 1}, {"axis": -1})),
    case("cumsum method", lambda x: x.cumsum(0).sum(), X), case("add.reduce", lambda x: np.add.reduce(x), X),
    case("multiply.reduce", lambda x: np.multiply.reduce(x, axis=1, keepdims=True), X),
    case("maximum.reduce", lambda x: np.maximum.reduce(x, axis=None), X),
    case("logical_and.reduce", lambda x: np.logical_and.reduce(x > -9.0), X, smooth=False),
    case("add.accumulate", lambda x: np.add.accumulate(x, axis=1), X),
    case("add.outer", lambda x, y: np.add.outer(x, y), X, V), case("multiply.outer", lambda x, y: np.multiply.outer(x, y), X, V),
    case("nan sums", lambda x: (np.nansum(x, 0), np.nanprod(x, 1), np.nanmean(x, 0), np.nanmax(x, 0), np.nanmin(x, 0), np.nanstd(x, 0)),
         NAN,
         smooth=False),
]

SHAPES = [
    case("reshape", lambda x: np.reshape(x, (4, 3)), X), case("reshape -1", lambda x: x.reshape(2, -1), X),
    case("reshape F", lambda x: np.reshape(x, (2, 6), order="F"), X),
    case("ravel", lambda x: np.ravel(x), C), case("ravel method", lambda x: x.ravel(), X), case("flatten", lambda x: x.flatten(), X),
    case("T", lambda x: x.T, C), case("mT", lambda x: x.mT, C), case("transpose", lambda x: np.transpose(x, (1, 2, 0)), C),
    case("transpose method", lambda x: x.transpose(2, 0, 1), C), case("permute_dims", lambda x: np.permute_dims(x, (2, 1, 0)), C),
    case("swapaxes", lambda x: np.swapaxes(x, 0, -1), C), case("moveaxis", lambda x: np.moveaxis(x, (0, 1), (-1, 0)), C),
    case("rollaxis", lambda x: np.rollaxis(x, 2), C), case("matrix_transpose", lambda x: np.matrix_transpose(x), C),
    case("expand_dims", lambda x: np.expand_dims(x, (0, 2)), X), case("squeeze", lambda x: np.squeeze(x), (1, 3, 1)),
    case("squeeze axis", lambda x: x.squeeze(axis=0), (1, 3, 1)),
    case("atleast", lambda x, y: (np.atleast_1d(x), np.atleast_2d(y), np.atleast_3d(y), *np.atleast_2d(x, y)), (), (3,)),
    case("broadcast_to", lambda x: np.broadcast_to(x, (2, 3, 4)), (3, 1)),
    case("broadcast_arrays", lambda x, y: np.broadcast_arrays(x, y), (3, 1), (4,)),
    case("flip", lambda x: (np.flip(x), np.flip(x, 1), np.flip(x, (0, 2)), np.fliplr(x), np.flipud(x)), C),
    *(case(f"rot90 {k}", lambda x, k=k: np.rot90(x, k, (1, 2)), C) for k in (0, 1, 2, 3, -1)),
    case("roll", lambda x: (np.roll(x, 2), np.roll(x, -1, 1), np.roll(x, (1, 2), (0, 1)), np.roll(x, 5, axis=(0, 1))), X),
    case("tile", lambda x: (np.tile(x, 2), np.tile(x, (2, 1, 3)), np.tile(x, ())), X),
    case("repeat", lambda x: (np.repeat(x, 3), np.repeat(x, 2, 1), x.repeat([1, 0, 2], axis=0)), X),
    case("concatenate", lambda x, y: (np.concatenate([x, y]), np.concatenate([x, y], axis=None), np.concat([x, x], axis=1)), X, (2, 4)),
    case("concatenate dtype", lambda x: np.concatenate([x, x], dtype=np.float32), V, smooth=False),
    case("concatenate mixed", lambda x: np.concatenate([x, np.arange(3)]), V),
    case("stack", lambda x, y: (np.stack([x, y]), np.stack((x, y), axis=-1), np.stack([x[0, 0], 1.0])), X, X),
    case("vstack", lambda x, y: (np.vstack([x, y]), np.vstack([x[0], y[0]]), np.hstack([x, y]), np.hstack([x[0], y[1]]),
                                 np.dstack([x, y]), np.column_stack([x, y[:, 0]])), X, X),
    case("append", lambda x: (np.append(x, 1.0), np.append(x, x, axis=0)), X),
    case("block", lambda x: np.block([[x, x], [x, np.zeros((3, 4))]]), X),
    case("insert", lambda x: np.insert(x, 1, 5.0, axis=1), X), case("delete", lambda x: np.delete(x, [0, 2], axis=1), X),
    case("split", lambda x: (*np.split(x, 2, axis=1), *np.array_split(x, 3, 1), *np.vsplit(x, [1]), *np.hsplit(x, 2)), X),
    case("dsplit", lambda x: np.dsplit(x, [1, 3]), C),
    case("unstack", lambda x: np.unstack(x, axis=1), X) if hasattr(np, "unstack") else case("iteration", lambda x: list(x), X),
    *(case(f"pad {mode}", lambda x, m=mode: np.pad(x, ((1, 2), (3, 1)), mode=m), X) for mode in ("constant", "edge", "reflect",
                                                                                                 "symmetric", "wrap")),
    case("pad values", lambda x: np.pad(x, (1, 2), constant_values=(3.0, 4.0)), X),
    case("pad one", lambda x: np.pad(x, 2, constant_values=1.5), V),
    case("tril", lambda x: (np.tril(x), np.tril(x, 1), np.triu(x), np.triu(x, -1)), C),
    case("diagonal", lambda x: (np.diagonal(x), x.diagonal(1), np.diagonal(x, -1, 0, 2)), C),
    case("trace", lambda x: (np.trace(x), x.trace(1)), C),
    case("diag", lambda x, v: (np.diag(x), np.diag(x, 1), np.diag(v), np.diag(v, -2), np.diagflat(v, 1)), X, V),
    case("meshgrid", lambda x, y: (*np.meshgrid(x, y), *np.meshgrid(x, y, indexing="ij"), *np.meshgrid(x, y, sparse=True)), (3,), (4,)),
    case("likes", lambda x: (np.zeros_like(x), np.ones_like(x), np.full_like(x, 2.5), np.full_like(x, 3, dtype=np.int64)), X, smooth=False),
    case("copy", lambda x: (np.copy(x), x.copy(), np.positive(x)), X),
    case("astype", lambda x: (x.astype(np.float32), x.astype(int), np.astype(x, np.float32)), X, smooth=False),
    case("linspace", lambda a, b: (np.linspace(a, b, 5), np.linspace(a, 1.0, 4, endpoint=False), np.linspace(0.0, b, 3, axis=-1)), (2,),
         (2,)),
    case("vander", lambda x: (np.vander(x), np.vander(x, 3, increasing=True)), V), case("polyval", lambda p, x: np.polyval(p, x), (3,), X),
]

STATISTICS = [
    case("cov", lambda x, y: (np.cov(x), np.cov(x, y), np.cov(x, rowvar=False), np.cov(x, bias=True), np.cov(x[0], y[0], ddof=2)), X, X),
    case("corrcoef", lambda x, y: (np.corrcoef(x), np.corrcoef(x[0], y[1])), X, X),
    case("nan running", lambda x: (np.nancumsum(x), np.nancumprod(x, axis=1), np.nanargmax(x, 1), np.nanargmin(x)), NAN, smooth=False),
    case("isin", lambda x: (np.isin(x, x[0]), np.isin(x, [1.0], invert=True)), X, smooth=False),
    case("partition", lambda x: (np.partition(x, 2)[:, 2], np.partition(x, 1, axis=0)[1]), X),
    case("argpartition", lambda x: np.argpartition(x, 2)[:, 2], X, smooth=False),
    case("windows", lambda x: (np.lib.stride_tricks.sliding_window_view(x, (2, 3)), np.lib.stride_tricks.sliding_window_view(x, 2, 1)), X),
]

INDICES = np.array([2, 0, -1, 2])
TAKING = [
    case("take", lambda x: (np.take(x, INDICES, axis=1), np.take(x, 3), np.take(x, [[0, 1], [2, 3]], axis=0, mode="wrap"),
                            x.take(9, mode="clip"), np.take(x, INDICES)), X),
    case("take_along_axis", lambda x: (np.take_along_axis(x, np.argsort(x, axis=1), axis=1),
                                       np.take_along_axis(x, np.array([[1], [0], [3]]), 1)), X),
    case("sort", lambda x: (np.sort(x), np.sort(x, axis=0), np.sort(x, axis=None)), X),
    case("argsort", lambda x: (np.argsort(x, kind="stable"), x.argsort(axis=0, kind="stable"), np.argsort(x, axis=None, stable=True)), X,
         smooth=False, exact=True),
    case("quantile", lambda x: (np.quantile(x, 0.3), np.quantile(x, [0.1, 0.9], axis=1), np.percentile(x, 75, axis=0, keepdims=True)), X),
    case("quantile methods", lambda x: tuple(np.quantile(x, 0.37, axis=0, method=m) for m in ("lower", "higher", "nearest", "midpoint")),
         X),
    case("searchsorted", lambda x, v: (np.searchsorted(np.sort(x), v), np.searchsorted(np.sort(x), v, side="right")), V, X, smooth=False),
    case("digitize", lambda x: np.digitize(x, [-1.0, 0.0, 1.0]), X, smooth=False),
    case("where", lambda x, y: np.where(x > 0, x * y, y), X, (4,)),
    case("select", lambda x: np.select([x > 1, x > 0], [x * 2, x * 3], -1.0), X),
    case("choose", lambda x: np.choose(np.array([0, 1, 1, 0]), [x, x * x]), X),
    case("compress", lambda x: (np.compress([True, False, True], x, axis=0), np.extract(x > 0, x)), X),
    case("nonzero", lambda x: np.nonzero(x > 0), X, smooth=False),
    case("put_along_axis", lambda x: _put_along(x), X),
]


def _put_along(x: Any) -> Any:
    y = np.copy(x)
    np.put_along_axis(y, np.array([[1], [0], [3]]), x[:, :1] * 2.0, 1)
    return y


EINSUMS = (
    ("ij,jk->ik", ((2, 3), (3, 4))), ("ij,jk", ((2, 3), (3, 4))), ("ii", ((3, 3),)), ("ii->i", ((3, 3),)), ("ij->ji", (X,)),
    ("ij->", (X,)), ("ij->j", (X,)), ("ij,ij->ij", (X, X)), ("ij,ij", (X, X)), ("i,j->ij", ((3,), (4,))),
    ("bij,bjk->bik", ((5, 2, 3), (5, 3, 4))), ("...ij,jk->...ik", ((5, 2, 3), (3, 4))), ("...ij,...jk", ((5, 1, 2, 3), (6, 3, 4))),
    ("ij,jk,kl->il", ((2, 3), (3, 4), (4, 5))), ("ij,kj,i->k", ((2, 3), (4, 3), (2,))), ("i...->...", (C,)), ("iij->j", ((3, 3, 4),)),
    ("ba", (X,)), ("ijk,ikl,jl->il", ((2, 3, 4), (2, 4, 5), (3, 5))), ("iii->i", ((3, 3, 3),)), ("ij,j", ((2, 3), (3,))),
    ("i,i,i->i", ((3,), (3,), (3,))), ("ij,i->", ((2, 3), (2,))),
)
NORMS = ((None, None), (None, 0), (1, 0), (2, 1), (np.inf, 0), (-np.inf, 1), (3, 0), (0.5, 1), ("fro", None), (1, (0, 1)),
         (np.inf, (0, 1)), (-1, (1, 0)), (np.inf, None))
PAIRS = (((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 4)), ((2, 3), (3, 4)), ((5, 2, 3), (3, 4)), ((2, 3), (5, 3, 4)), ((5, 2, 3), (5, 3, 4)),
         ((5, 1, 2, 3), (4, 3, 2)), ((1, 2, 3), (5, 3, 4)), ((5, 2, 3), (1, 3, 4)), ((3,), (5, 3, 4)), ((5, 2, 3), (3,)), ((2, 1), (1, 3)),
         ((1, 3), (3, 1)), ((2, 0), (0, 3)))

PRODUCTS = [
    *(case(f"matmul {a} {b}", lambda x, w: (x @ w, np.matmul(x, w)), a, b) for a, b in PAIRS),
    *(case(f"dot {a} {b}", lambda x, w: (np.dot(x, w), np.asarray(x).dot(w) if isinstance(x, np.generic) else x.dot(w)), a, b)
      for a, b in (((3,), (3,)), ((2, 3), (3,)), ((5, 2, 3), (4, 3, 2)), ((), (3,)))),
    case("inner", lambda x, w: np.inner(x, w), (2, 3), (4, 5, 3)), case("outer", lambda x, w: np.outer(x, w), (2, 3), (4,)),
    case("vdot", lambda x, w: np.vdot(x, w), X, X),
    case("tensordot", lambda x, w: (np.tensordot(x, w), np.tensordot(x, w, axes=[[1, 2], [0, 1]]), np.tensordot(x, w, axes=([2], [1])),
                                    np.tensordot(x, w, 0)), C, (3, 4, 5)),
    case("kron", lambda x, w: (np.kron(x, w), np.kron(x[0], w)), (2, 3), (4, 5)), case("cross", lambda x, w: np.cross(x, w), (4, 3), (3,)),
    case("vecdot", lambda x, w: np.vecdot(x, w), C, (3, 4)), case("multi_dot", lambda x, w: np.linalg.multi_dot([x, w, x]), (2, 3), (3, 2)),
    case("matrix_power", lambda x: (np.linalg.matrix_power(x, 3), np.linalg.matrix_power(x, 0)), (3, 3)),
    *(case(f"einsum {spec}", lambda *xs, s=spec: np.einsum(s, *xs), *shapes) for spec, shapes in EINSUMS),
    case("einsum lists", lambda x, w: (np.einsum(x, [0, 1], w, [1, 2], [0, 2]), np.einsum(x, [0, 1], w, [1, 2]),
                                       np.einsum(x, [Ellipsis, 1], [1, Ellipsis])), (2, 3), (3, 4)),
    *(case(f"norm {ord} {axis}", lambda x, o=ord, a=axis: np.linalg.norm(x, ord=o, axis=a), X) for ord, axis in NORMS),
    case("norm keepdims", lambda x: (np.linalg.norm(x, axis=1, keepdims=True), np.linalg.norm(x[0], 3)), X),
    case("vector_norm", lambda x: (np.linalg.vector_norm(x), np.linalg.vector_norm(x, axis=(0, 2), keepdims=True, ord=3),
                                   np.linalg.matrix_norm(x)), C),
]

CALCULUS = [
    case("diff", lambda x: (np.diff(x), np.diff(x, 2, axis=0), np.diff(x, prepend=0.0, append=x[:, :2])), X),
    case("ediff1d", lambda x: (np.ediff1d(x), np.ediff1d(x, to_end=1.0, to_begin=[2.0, 3.0])), X),
    case("gradient", lambda x: (np.gradient(x[0]), np.gradient(x[0], 0.5), *np.gradient(x, 2.0, 0.5),
                                np.gradient(x, axis=1, edge_order=2)), (4, 5)),
    case("gradient coordinates", lambda x: (np.gradient(x, np.array([0.0, 1.0, 3.0, 3.5, 5.0])),
                                            np.gradient(x, np.array([0.0, 1.0, 3.0, 3.5, 5.0]), edge_order=2)), (5,)),
    *(case(f"convolve {mode} {a} {b}", lambda x, w, m=mode: (np.convolve(x, w, m), np.correlate(x, w, m)), a, b)
      for mode in ("full", "same", "valid") for a, b in (((6,), (3,)), ((6,), (4,)), ((3,), (6,)), ((4,), (6,)), ((4,), (1,)))),
    case("interp", lambda x, f: (np.interp(x, [-1.0, 0.0, 0.4, 1.0], f), np.interp(x, [-1.0, 0.0, 0.4, 1.0], f, left=7.0, right=-7.0)), X,
         (4,)),
    case("trapezoid", lambda x: (np.trapezoid(x), np.trapezoid(x, dx=0.5, axis=0), np.trapezoid(x, np.array([0.0, 1.0, 3.0, 3.5]))), X),
]

UNARY = ("sin cos tan arctan sinh cosh tanh arcsinh exp exp2 expm1 square fabs absolute negative positive sign floor ceil trunc rint sinc "
         "deg2rad rad2deg radians degrees cbrt conjugate real nan_to_num fix isnan isinf isfinite signbit logical_not isposinf "
         "isneginf").split()
ABOVE_ZERO = "sqrt log log2 log10 log1p reciprocal".split()
INSIDE_ONE = "arcsin arccos arctanh".split()
BINARY = ("add subtract multiply divide true_divide maximum minimum fmax fmin arctan2 hypot logaddexp logaddexp2 copysign equal not_equal "
          "less less_equal greater greater_equal logical_and logical_or logical_xor floor_divide remainder mod fmod heaviside "
          "isclose").split()
INTEGER = "bitwise_and bitwise_or bitwise_xor left_shift right_shift floor_divide remainder fmod power".split()
PIECEWISE = ("sign floor ceil trunc rint fix isnan isinf isfinite signbit logical_not isposinf isneginf equal not_equal less less_equal "
             "greater greater_equal logical_and logical_or logical_xor floor_divide remainder mod fmod heaviside isclose copysign").split()

ELEMENTWISE = [
    *(case(f"{name}", named(name), X, smooth=name not in PIECEWISE) for name in UNARY),
    *(case(f"{name}", named(name, lambda x: (np.abs(x) + 0.5,)), X) for name in ABOVE_ZERO),
    *(case(f"{name}", named(name, lambda x: (x / (1.0 + np.abs(x)),)), X) for name in INSIDE_ONE),
    case("arccosh", lambda x: np.arccosh(np.abs(x) + 1.5), X),
    case("clip", lambda x: (np.clip(x, -0.5, 0.5), x.clip(0.0), np.clip(x, None, 0.3), np.clip(x, min=0.1)), X),
    *(case(f"{name}", named(name), X, (4,), smooth=name not in PIECEWISE) for name in BINARY),
    case("power", lambda x, y: (np.power(np.abs(x) + 0.5, y), x ** 2, x ** 3, np.abs(x) ** 0.5, 2.0 ** x, np.float_power(np.abs(x), y)),
         X, (4,)),
    case("round", lambda x: (np.round(x), np.round(x, 2), x.round(1), np.around(x, -1)), X, smooth=False),
    case("divmod", lambda x, y: (*np.divmod(x, y), *divmod(x, y), *np.modf(x)), X, (4,), smooth=False),
    case("operators", lambda x, y: (x + y, x - y, x * y, x / y, x // y, x % y, -x, +x, abs(x), 1 + x, 1 - x, 2 * x, 1 / x, x > y, x <= y,
                                    x == y, x != y, 3.5 // x, 3.5 % x), X, (4,), smooth=False),
    case("array operators", lambda x: (np.ones(4) + x, np.ones(4) - x, np.float64(2.0) * x, np.ones((2, 1, 1)) * x, np.ones(4) > x,
                                       LINE + x), X, smooth=False),
    case("nan_to_num", lambda x: np.nan_to_num(x, nan=-1.0), NAN, smooth=False),
    case("nan compare", lambda x: (x < 1, x != x, np.fmax(x, 0.0), np.fmin(x, 9.0)), NAN, smooth=False),
    case("allclose", lambda x: (np.ones(()) * np.allclose(x, x + 1e-12), np.ones(()) * np.array_equal(x, x),
                                np.isclose(x, x, equal_nan=True).all()), X, smooth=False),
    case("complex queries", lambda x: (np.isrealobj(x), np.iscomplexobj(x), np.isreal(x), np.imag(x), x.real, x.imag, np.angle(x)), X,
         smooth=False),
    case("ndim shape size", lambda x: (np.ndim(x), np.shape(x), np.size(x), np.size(x, 1), x.ndim, x.size, x.nbytes, x.itemsize, len(x),
                                       np.result_type(x, np.float32)), X, smooth=False),
    *(case(f"{name} integers", named(name, lambda x, y: (x, y % 5 + 1)), ("i", X), ("i", (4,)), smooth=False,
           exact=True) for name in INTEGER),
    case("integer operators", lambda x, y: (x & y, x | y, x ^ y, ~x, x << 2, x >> 1, x % 3, x // 2, -x, abs(x), x + 1, x * 2.5, x / 2,
                                            x ** 2), ("i", X), ("i", (4,)), smooth=False, exact=True),
    case("boolean operators", lambda x, y: (x & y, x | y, x ^ y, ~x, x + y, x * 2, x == y, np.logical_not(x)), ("b", X), ("b", (4,)),
         smooth=False, exact=True),
    case("dtype=", lambda x: (np.add(x, 1, dtype=np.float32), np.multiply(x, x, dtype=np.float64)), X, smooth=False),
]

ALL = REDUCTIONS + STATISTICS + SHAPES + TAKING + PRODUCTS + CALCULUS + ELEMENTWISE


def draw(rng: np.random.Generator, argument: Any, dtype: type) -> np.ndarray:
    """The array that an argument of a case stands for; integers and booleans replace floats where dtype says so."""
    if isinstance(argument, np.ndarray):
        return argument.astype(dtype) if dtype in (np.float32, np.float64) else np.nan_to_num(argument).astype(dtype)
    kind, shape = argument if len(argument) == 2 and isinstance(argument[0], str) else ("f", argument)
    if kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if kind == "i":
        return np.asarray(rng.integers(-9, 10, shape))
    if dtype in (np.float32, np.float64):                              # distinct numbers, whose sums are distinct too
        distinct = rng.permutation(np.arange(1, 1 + int(np.prod(shape, dtype=int)))).reshape(shape)
        return np.asarray(distinct * 0.31 - 1.3 + 0.02 * rng.random(shape), dtype)
    return np.asarray(rng.integers(-9 if dtype != np.uint8 else 0, 10, shape), dtype)
