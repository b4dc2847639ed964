"""Arithmetic: the rows of +, -, *, / and those that derivatives are made of: `scale`, `convert`, `where`.

Invariant: a reader with a calculus book can proof-read the partials. May import: L0, core, kinds. Read next: piecewise.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..core.aval import Aval, aval_of
from ..core.primitive import bind
from .kinds import (
    Scalar,
    align,
    along,
    broadcast_shape,
    draw,
    elementwise,
    elementwise_samples,
    fill_out,
    general,
    promote_args,
    unbroadcast,
)

_PYTHON = (float, int, bool)


def number(ufunc: Callable, x: Any, y: Any) -> Any:
    """ufunc(x, y) by NumPy (which never raises on floats); two Python scalars give a Python scalar, as the operator would."""
    z = ufunc(x, y)
    return z.item() if type(x) in _PYTHON and type(y) in _PYTHON else z


@elementwise(partials=(along(lambda t, z, x, y: t), along(lambda t, z, x, y: t)), operator=True, sums=True,
             lower=lambda e, x, y: e.add(x, y) if x.dtype.kind != "b" else e.or_(x, y))
def add(x, y):
    """Sum: z = x + y."""
    return x + y


@elementwise(partials=(along(lambda t, z, x, y: t), along(lambda t, z, x, y: negative(t))), operator=True, accepts="iuf",
             lower=lambda e, x, y: e.sub(x, y))
def subtract(x, y):
    """Difference: z = x - y."""
    return x - y


@elementwise(partials=(lambda z, x, y: y, lambda z, x, y: x), operator=True, neutral=(1, 1),
             lower=lambda e, x, y: e.mul(x, y) if x.dtype.kind != "b" else e.and_(x, y))
def multiply(x, y):
    """Product: z = x y, dz/dx = y, dz/dy = x: a switcher of gradients."""
    return x * y


@elementwise(partials=(lambda z, x, y: divide(1.0, y), lambda z, x, y: negative(divide(z, y))), lower=lambda e, x, y: e.div(x, y),
             domain=((-2.0, 2.0), (0.5, 2.0)), floating=True, neutral=(None, 1), operator=True)
def divide(x, y):
    """Quotient: z = x / y, dz/dx = 1/y, dz/dy = -z/y."""
    return number(np.true_divide, x, y)


@elementwise(partials=(along(lambda t, y, x: negative(t)),), lower=lambda e, x: e.neg(x), operator=True, accepts="iuf", selects=True,
             involution=True)
def negative(x):
    """Negation: y = -x."""
    return -x


# ------------------------------------------------------------------------------------------------ scale: 0 times anything is 0


def _terms(rule: Callable, primals: tuple, tangents: tuple, y: Any) -> Any:
    """The tangent of a product: rule(i, factor that moves, other factor) for each factor with a tangent."""
    terms = [rule(i, t, primals[1 - i]) for i, t in enumerate(tangents) if t is not None]
    return fill_out(terms[0] if len(terms) == 1 else add(*terms), aval_of(y)) if terms else None


def _bars(rule: Callable, primals: tuple, y_bar: Any, active: tuple) -> list:
    return [unbroadcast(rule(i, y_bar, primals[1 - i]), aval_of(primals[i])) if active[i] else None for i in (0, 1)]


def _product_shape(t: Aval, p: Aval) -> Aval:
    return Aval(broadcast_shape("scale", (t, p)), np.result_type(t.dtype, p.dtype) if not p.weak else t.dtype)


_PRODUCT = {"shape": _product_shape, "samples": lambda rng: elementwise_samples(rng, 2, (0.5, 2.0)), "prepare": promote_args, "bound": 0.5,
            "neutral": (1, 1)}


def _finite(x: Any) -> bool:
    return bool(np.isfinite(x).all()) if type(x) is np.ndarray else math.isfinite(x)


def _of_scale(i: int, t: Any, other: Any) -> Any:
    """A new cotangent meets the partial as before, but the old cotangent as its equal."""
    return bind(scale, t, other) if i == 0 else bind(couple, t, other)


@general(jvp=lambda primals, tangents, y: _terms(_of_scale, primals, tangents, y),
         vjp=lambda primals, y, y_bar, active: _bars(_of_scale, primals, y_bar, active),
         batch=lambda args, axes: (bind(scale, *align(args, axes)), 0),
         lowering=Scalar(lambda e, t, p: e.select(e.eq(t, e.const(0.0, t)), e.const(0.0, t), e.mul(t, p))),
         plain=("multiply", (1,)), **_PRODUCT)
def scale(t, p):
    """A tangent or cotangent t times a partial p, where t = 0 gives 0 even if p is infinite or NaN (the safe `where`)."""
    if _finite(p):
        return t * p
    return np.multiply(t, np.where(np.equal(t, 0), 0, np.asarray(p, t.dtype)))


def _of_couple(i: int, t: Any, other: Any) -> Any:
    return bind(couple, t, other)


def _emit_couple(e: Any, t: Any, u: Any) -> Any:
    zero = e.const(0.0, t)
    return e.select(e.or_(e.eq(t, zero), e.eq(u, zero)), zero, e.mul(t, u))


@general(jvp=lambda primals, tangents, y: _terms(_of_couple, primals, tangents, y),
         vjp=lambda primals, y, y_bar, active: _bars(_of_couple, primals, y_bar, active),
         batch=lambda args, axes: (bind(couple, *align(args, axes)), 0), lowering=Scalar(_emit_couple),
         plain=("multiply", (0, 1)), **_PRODUCT)
def couple(t, u):
    """The product of two tangents or cotangents, where a zero of either gives 0: of second order, both may stand for a branch not taken."""
    if _finite(t) and _finite(u):
        return t * u
    zero = np.equal(t, 0) | np.equal(u, 0)
    return np.multiply(np.where(zero, np.zeros_like(t), t), np.where(zero, np.zeros_like(u), u))


# ------------------------------------------------------------------------------------------------ convert


def _convert_jvp(primals: tuple, tangents: tuple, y: Any, *, dtype: np.dtype) -> Any:
    return None if tangents[0] is None or dtype.kind != "f" else bind(convert, tangents[0], dtype=dtype)


def _convert_vjp(primals: tuple, y: Any, y_bar: Any, active: tuple, *, dtype: np.dtype) -> list:
    source = aval_of(primals[0]).dtype
    return [bind(convert, y_bar, dtype=source) if active[0] and source.kind == "f" and dtype.kind == "f" else None]


def _convert_samples(rng: np.random.Generator) -> list:
    kinds = [((-2.0, 2.0), "float64"), ((-2.0, 2.0), "float32"), ((-5, 5), "float32"), ((-2.0, 2.0), "int32"), ((-2.0, 2.0), "bool")]
    return [((draw(rng, domain, shape),), {"dtype": np.dtype(name)}) for domain, name in kinds for shape in ((3, 4), (), (0, 2))]


@general(shape=lambda x, *, dtype: Aval(x.shape, dtype), jvp=_convert_jvp, vjp=_convert_vjp,
         batch=lambda args, axes, *, dtype: (bind(convert, args[0], dtype=dtype), axes[0]),
         lowering=Scalar(lambda e, x, *, dtype: e.convert(x, dtype)), bound=0.5, samples=_convert_samples, converts=True)
def convert(x, *, dtype):
    """The same numbers in another dtype; float to integer truncates towards zero and saturates."""
    x = np.asarray(x)
    return saturate(x, dtype)[()] if dtype.kind in "iu" and x.dtype.kind == "f" else x.astype(dtype)[()]


def saturate(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Float to integer as compiled code does it: NaN gives 0, what does not fit gives the nearest end of the range."""
    info = np.iinfo(dtype)
    low, high = float(info.min), float(info.max)
    inside = np.where((x > low) & (x < high), x, 0).astype(dtype)
    return np.where(x >= high, np.asarray(info.max, dtype), np.where(x <= low, np.asarray(info.min, dtype), inside))


# ------------------------------------------------------------------------------------------------ where


def _where_prepare(args: tuple) -> tuple:
    condition, x, y = args
    if aval_of(condition).dtype.kind != "b":
        condition = condition != 0
    return condition, *promote_args((x, y))


def _where_shape(c: Aval, x: Aval, y: Aval) -> Aval:
    if x.weak and y.weak:
        return Aval(broadcast_shape("where", (c, x, y)), np.result_type(x.dtype, y.dtype))
    return Aval(broadcast_shape("where", (c, x, y)), y.dtype if x.weak else x.dtype)


def _where_jvp(primals: tuple, tangents: tuple, y: Any) -> Any:
    c, x_dot, y_dot = primals[0], tangents[1], tangents[2]
    if (x_dot is None and y_dot is None) or aval_of(y).dtype.kind != "f":
        return None
    return fill_out(where(c, 0.0 if x_dot is None else x_dot, 0.0 if y_dot is None else y_dot), aval_of(y))


def _where_vjp(primals: tuple, y: Any, y_bar: Any, active: tuple) -> list:
    c, a, b = primals
    return [None, unbroadcast(where(c, y_bar, 0.0), aval_of(a)) if active[1] else None,
            unbroadcast(where(c, 0.0, y_bar), aval_of(b)) if active[2] else None]


def _where_samples(rng: np.random.Generator) -> list:
    return [((rng.integers(0, 2, s).astype(bool), draw(rng, (-2.0, 2.0), u), draw(rng, (-2.0, 2.0), v)), {})
            for s, u, v in [((3, 4), (3, 4), (3, 4)), ((3, 1), (4,), (3, 4)), ((), (), ()), ((0, 2), (2,), ()), ((2,), (), ())]]


@general(shape=_where_shape, jvp=_where_jvp, vjp=_where_vjp, batch=lambda args, axes: (bind(where, *align(args, axes)), 0),
         lowering=Scalar(lambda e, c, x, y: e.select(c, x, y)), samples=_where_samples, prepare=_where_prepare, bound=0.0, selects=True)
def where(condition, x, y):
    """x where the condition holds, else y; the gradient of the branch not taken is exactly 0, whatever that branch computes."""
    return np.where(condition, x, y)[()]
