"""Running sums, products and the linear recurrence h_i = a_i h_(i-1) + b_i, whose derivatives are again recurrences.

Invariant: nothing is divided, so zeros are exact at every order; the order of evaluation is serial, as NumPy's.
May import: L0, core, kinds, arithmetic, structure. Read next: reduction.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..core.aval import Aval, aval_of
from ..core.primitive import bind
from ..errors import ShapeError, explain
from .arithmetic import add, multiply
from .broadcasting import batch_together, full, move_front
from .kinds import General, general, linear
from .structure import concatenate, slice_


def delayed(x: Any, axis: int, reverse: bool, start: float) -> Any:
    """x moved one place along its running direction, `start` coming in: what each step sees of the step before."""
    aval = aval_of(x)
    n = aval.shape[axis]
    if n == 0:
        return x
    bounds = tuple(((1, n, 1) if reverse else (0, n - 1, 1)) if i == axis else (0, m, 1) for i, m in enumerate(aval.shape))
    first = full(start, Aval(tuple(1 if i == axis else m for i, m in enumerate(aval.shape)), aval.dtype))
    rest = slice_(x, bounds=bounds)
    return concatenate(*((rest, first) if reverse else (first, rest)), axis=axis)


def _flipped(x: np.ndarray, axis: int, reverse: bool) -> np.ndarray:
    return np.flip(x, axis) if reverse else x


def _batch_axis(row: Any, args: tuple, bdims: tuple, *, axis: int, reverse: bool) -> tuple:
    return bind(row, move_front(args[0], bdims[0]), axis=axis + 1, reverse=reverse), 0


def _samples(rng: np.random.Generator) -> list:
    cases = [((3, 4), 1, False), ((3, 4), 0, True), ((5,), 0, False), ((1, 2), 0, True), ((2, 0), 1, False), ((2, 3, 2), 1, True)]
    return [((rng.standard_normal(s),), {"axis": a, "reverse": r}) for s, a, r in cases]


def _lower_running(start: float, step: Callable) -> Callable:
    """A serial loop along the axis that carries the running value; the other axes are independent."""
    def lower(e: Any, inputs: tuple, outputs: tuple, *, axis: int, reverse: bool) -> None:
        (y,), n = outputs, outputs[0].shape[axis]
        with e.kernel((*y.shape[:axis], *y.shape[axis + 1:])) as (k, index):
            def body(i: Any, running: Any) -> tuple:
                place = k.sub(n - 1, k.index(i)) if reverse else i
                at = (*index[:axis], place, *index[axis:])
                following = step(k, running, *[k.get(x, *at) for x in inputs])
                k.put(y, *at, value=following)
                return (following,)
            k.carry(n, (k.const(start, y.dtype),), body)
    return lower


# ------------------------------------------------------------------------------------------------ rows


@linear(shape=lambda x, *, axis, reverse: Aval(x.shape, x.dtype), batch=_batch_axis, samples=_samples, bound=1.0,
        transposes=(lambda y_bar, x, *, axis, reverse: cumsum(y_bar, axis=axis, reverse=not reverse),),
        lowering=General(_lower_running(0, lambda k, total, x: k.add(total, x))))
def cumsum(x, *, axis, reverse):
    """Running sum along an axis: y_i = x_i + y_(i-1), or from the end with reverse; its transpose runs the other way."""
    return _flipped(np.cumsum(_flipped(x, axis, reverse), axis=axis, dtype=aval_of(x).dtype), axis, reverse)


def _recurrence_shape(a: Aval, b: Aval, *, axis: int, reverse: bool) -> Aval:
    if a.shape != b.shape:
        raise ShapeError(explain(f"recurrence: factors {a} and terms {b} differ in shape.", remedy="Broadcast them first."))
    return Aval(b.shape, np.result_type(a.dtype, b.dtype))


def _recurrence_jvp(primals: tuple, tangents: tuple, h: Any, *, axis: int, reverse: bool) -> Any:
    (a, _), (a_dot, b_dot) = primals, tangents
    terms = [b_dot] if b_dot is not None else []
    terms += [multiply(a_dot, delayed(h, axis, reverse, 0))] if a_dot is not None else []
    return recurrence(a, terms[0] if len(terms) == 1 else add(*terms), axis=axis, reverse=reverse) if terms else None


def _recurrence_vjp(primals: tuple, h: Any, h_bar: Any, active: tuple, *, axis: int, reverse: bool) -> list:
    g = recurrence(delayed(primals[0], axis, not reverse, 0), h_bar, axis=axis, reverse=not reverse)
    return [multiply(g, delayed(h, axis, reverse, 0)) if active[0] else None, g if active[1] else None]


@general(shape=_recurrence_shape, jvp=_recurrence_jvp, vjp=_recurrence_vjp,
         batch=lambda args, bdims, *, axis, reverse: (recurrence(*batch_together(args, bdims)[0], axis=axis + 1, reverse=reverse), 0),
         lowering=General(_lower_running(0, lambda k, h, a, b: k.add(k.mul(a, h), b))),
         samples=lambda rng: [((x, rng.standard_normal(x.shape)), params) for (x,), params in _samples(rng)])
def recurrence(a, b, *, axis, reverse):
    """Linear recurrence along an axis: h_i = a_i h_(i-1) + b_i from h = 0, or from the end with reverse.

    Forward: h_dot = recurrence(a, b_dot + a_dot h_before). Reverse: g_i = h_bar_i + a_(i+1) g_(i+1), b_bar = g, a_bar_i = g_i h_(i-1).
    """
    factors, terms = (np.moveaxis(_flipped(x, axis, reverse), axis, 0) for x in (a, b))
    h = np.empty(terms.shape, np.result_type(factors, terms))
    running = np.zeros(terms.shape[1:], h.dtype)
    for i in range(terms.shape[0]):
        running = h[i] = factors[i] * running + terms[i]
    return _flipped(np.moveaxis(h, 0, axis), axis, reverse)


def _cumprod_jvp(primals: tuple, tangents: tuple, y: Any, *, axis: int, reverse: bool) -> Any:
    x, = primals
    if tangents[0] is None:
        return None
    return recurrence(x, multiply(tangents[0], delayed(y, axis, reverse, 1)), axis=axis, reverse=reverse)


def _cumprod_vjp(primals: tuple, y: Any, y_bar: Any, active: tuple, *, axis: int, reverse: bool) -> list:
    if not active[0]:
        return [None]
    g = recurrence(delayed(primals[0], axis, not reverse, 0), y_bar, axis=axis, reverse=not reverse)
    return [multiply(g, delayed(y, axis, reverse, 1))]


def _cumprod_samples(rng: np.random.Generator) -> list:
    zeros = np.array([[2.0, 0.0, 3.0, 0.0], [0.5, 1.0, 2.0, 3.0]])
    return [*_samples(rng), ((zeros,), {"axis": 1, "reverse": False})]


@general(shape=lambda x, *, axis, reverse: Aval(x.shape, x.dtype), jvp=_cumprod_jvp, vjp=_cumprod_vjp,
         batch=lambda args, bdims, *, axis, reverse: _batch_axis(cumprod, args, bdims, axis=axis, reverse=reverse),
         lowering=General(_lower_running(1, lambda k, product, x: k.mul(product, x))), samples=_cumprod_samples)
def cumprod(x, *, axis, reverse):
    """Running product along an axis: y_i = x_i y_(i-1); y_dot_i = x_i y_dot_(i-1) + x_dot_i y_(i-1), a recurrence: exact with zeros."""
    return _flipped(np.cumprod(_flipped(x, axis, reverse), axis=axis, dtype=aval_of(x).dtype), axis, reverse)
