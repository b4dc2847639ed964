"""Reductions: many elements to one, in an order that only the extent and the dtype decide (see compiler/loops.py, Fold).

Invariant: ties of max and min share the gradient equally, a subgradient. May import: L0, core, kinds, arithmetic,
comparison, cumulative. Read next: indexing.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..core.aval import Aval, aval_of
from ..core.primitive import TABLE, bind
from ..dtypes import BOOL, INT64
from .arithmetic import convert, divide, multiply, scale, where
from .comparison import equal
from .cumulative import cumprod, delayed
from .kinds import (
    General,
    Reduce,
    constant,
    general,
    keep_axes,
    linear,
    move_front,
    reduced_aval,
    reduction,
    reduction_samples,
    spread,
)


def _shift_axes(row: Any, args: tuple, bdims: tuple, *, axes: tuple) -> tuple:
    return bind(row, move_front(args[0], bdims[0]), axes=tuple(a + 1 for a in axes)), 0


@linear(shape=lambda x, *, axes: Aval(tuple(n for i, n in enumerate(x.shape) if i not in axes), x.dtype),
        transposes=(lambda y_bar, x, *, axes: spread(y_bar, x, axes),), batch=_shift_axes,
        lowering=Reduce("add"), samples=lambda rng: reduction_samples(rng, (-2.0, 2.0), True), bound=1.0)
def sum_(x, *, axes):
    """Sum over `axes` (sorted, non-negative), which vanish; the dtype stays."""
    return np.sum(x, axis=axes, dtype=aval_of(x).dtype)


def _share(y: Any, x: Any, axes: tuple) -> Any:
    """1 / (number of elements equal to the extreme one) at those elements, else 0 (0 everywhere if the extreme is NaN)."""
    aval = aval_of(x)
    chosen = bind(convert, equal(x, y), dtype=aval.dtype)
    count = keep_axes(sum_(chosen, axes=axes), aval, axes)
    return divide(chosen, where(equal(count, 0.0), 1.0, count))


@reduction(combine="max", partial=_share, empty=False, bound=0.0, selects=True)
def max_(x, *, axes):
    """The greatest element along `axes`, NaN if any is: the gradient goes to it; ties share equally. Raises: ShapeError if empty."""
    return np.max(x, axis=axes)


@reduction(combine="min", partial=_share, empty=False, bound=0.0, selects=True)
def min_(x, *, axes):
    """The least element along `axes`, NaN if any is: the gradient goes to it; ties share equally. Raises: ShapeError if empty."""
    return np.min(x, axis=axes)


def _truth(args: tuple) -> tuple:
    x, = args
    return (x if aval_of(x).dtype.kind == "b" else x != 0,)


_BOOLEAN = {"partial": None, "out": BOOL, "prepare": _truth, "domain": (False, True), "reason": "a boolean: piecewise constant"}


@reduction(combine="or", **_BOOLEAN)
def any_(x, *, axes):
    """Whether any element along `axes` is true."""
    return np.any(x, axis=axes)


@reduction(combine="and", **_BOOLEAN)
def all_(x, *, axes):
    """Whether every element along `axes` is true."""
    return np.all(x, axis=axes)


# ------------------------------------------------------------------------------------------------ prod


def _prod_samples(rng: np.random.Generator) -> list:
    zeros = np.array([[2.0, 0.0, 3.0, 1.5], [0.0, 0.0, 5.0, 2.0], [1.0, 2.0, 3.0, 4.0]])
    return [*reduction_samples(rng, (0.5, 1.5), True), ((zeros,), {"axes": (1,)}), ((zeros,), {"axes": (0, 1)})]


def _others(x: Any, axes: tuple) -> Any:
    """For each element the product of the others along `axes`, without a division: right where elements are 0."""
    aval = aval_of(x)
    kept = tuple(i for i in range(aval.ndim) if i not in axes)
    order = (*kept, *axes)
    moved = tuple(aval.shape[i] for i in order)
    count = int(np.prod([aval.shape[i] for i in axes], dtype=np.int64))
    flat = bind(TABLE["reshape"], bind(TABLE["permute"], x, axes=order), shape=(*moved[:len(kept)], count))
    last = len(kept)
    product = multiply(*[delayed(cumprod(flat, axis=last, reverse=side), last, side, 1) for side in (False, True)])
    return bind(TABLE["permute"], bind(TABLE["reshape"], product, shape=moved), axes=tuple(int(i) for i in np.argsort(order)))


def _prod_jvp(primals: tuple, tangents: tuple, y: Any, *, axes: tuple) -> Any:
    return None if tangents[0] is None else sum_(scale(tangents[0], _others(primals[0], axes)), axes=axes)


def _prod_vjp(primals: tuple, y: Any, y_bar: Any, active: tuple, *, axes: tuple) -> list:
    return [scale(spread(y_bar, aval_of(primals[0]), axes), _others(primals[0], axes)) if active[0] else None]


@general(shape=lambda x, *, axes: reduced_aval("prod", x, axes), jvp=_prod_jvp, vjp=_prod_vjp,
         batch=lambda args, bdims, *, axes: _shift_axes(prod, args, bdims, axes=axes), lowering=Reduce("mul"), samples=_prod_samples)
def prod(x, *, axes):
    """Product along `axes`: the derivative with respect to an element is the product of the others, exact with zeros at every order."""
    return np.prod(x, axis=axes, dtype=aval_of(x).dtype)


# ------------------------------------------------------------------------------------------------ positions of extremes


def _lower_position(beats: str) -> Callable:
    """A serial search along the axis for each result; the first NaN wins, of equal values the first."""
    def lower(e: Any, inputs: tuple, outputs: tuple, *, axis: int) -> None:
        (x,), (y,) = inputs, outputs
        with e.kernel(y.shape) as (k, index):
            def at(i: Any) -> Any:
                return k.get(x, *index[:axis], i, *index[axis:])

            def step(i: Any, best: Any, place: Any) -> tuple:
                value = at(i)
                better = getattr(k, beats)(value, best)
                if value.dtype.kind == "f":
                    better = k.and_(k.or_(better, k.ne(value, value)), k.eq(best, best))
                return k.select(better, value, best), k.select(better, k.index(i), place)
            _, place = k.carry(x.shape[axis], (at(0), k.const(0, INT64)), step)
            k.put(y, *index, value=place)
    return lower


def _position(name: str, beats: str) -> Callable:
    return constant(
        reason="a position: piecewise constant", shape=lambda x, *, axis: reduced_aval(name, x, (axis,), INT64, False),
        batch=lambda row, args, bdims, *, axis: (bind(row, move_front(args[0], bdims[0]), axis=axis + 1), 0),
        lowering=General(_lower_position(beats)),
        samples=lambda rng: [((rng.standard_normal(s),), {"axis": a}) for s, a in (((3, 4), 1), ((3, 4), 0), ((5,), 0), ((0, 2), 1))])


@_position("argmax", "gt")
def argmax(x, *, axis):
    """Position of the greatest element along an axis, int64; of equal ones the first, of NaN the first."""
    return np.argmax(x, axis=axis)


@_position("argmin", "lt")
def argmin(x, *, axis):
    """Position of the least element along an axis, int64; of equal ones the first, of NaN the first."""
    return np.argmin(x, axis=axis)
