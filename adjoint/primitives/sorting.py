"""Sorting: sort and argsort along an axis, stable; derivatives follow the elements to their new places.

Invariant: among equal elements the order stays, a choice of subgradient at ties. May import: L0, core, kinds, indexing.
Read next: contraction.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..core.aval import Aval, aval_of
from ..core.primitive import bind
from ..dtypes import INT64
from .broadcasting import move_front
from .indexing import gather, iota
from .kinds import General, constant, general


def take_along(x: Any, places: Any, axis: int) -> Any:
    """x at these places along one axis, all other axes in step (NumPy's take_along_axis for arrays that agree elsewhere)."""
    shape = aval_of(places).shape
    indices = [places if i == axis else iota(shape=tuple(n if i == j else 1 for j, n in enumerate(shape)), axis=i, dtype=INT64)
               for i in range(len(shape))]
    return gather(x, *indices)


# ------------------------------------------------------------------------------------------------ native code: merging


def _lower_sorting(positions: bool) -> Callable:
    """A stable bottom-up merge sort of each line, of its elements or of their positions; lines are independent."""
    def lower(e: Any, inputs: tuple, outputs: tuple, *, axis: int) -> None:
        (x,), (y,) = inputs, outputs
        n, other = y.shape[axis], e.temporary(y.dtype, y.shape)
        with e.kernel((*y.shape[:axis], *y.shape[axis + 1:])) as (k, index):
            def at(i: Any) -> tuple:
                return (*index[:axis], i, *index[axis:])

            def key(element: Any) -> Any:
                return k.get(x, *at(element)) if positions else element
            with k.loop(n) as t:
                k.put(y, *at(t), value=k.index(t) if positions else k.get(x, *at(t)))
            with k.loop((max(0, n - 1).bit_length() + 1) // 2) as p:          # each turn merges twice, there and back
                width = k.shl(k.const(1, INT64), k.mul(k.index(p), 2))
                _emit_merge(k, y, other, at, n, width, key)
                _emit_merge(k, other, y, at, n, k.mul(width, 2), key)
    return lower


def _emit_merge(k: Any, source: Any, target: Any, at: Callable, n: int, width: Any, key: Callable) -> None:
    """Pairs of neighbouring sorted runs of `width` elements are merged: the right one goes first only where it is less."""
    double = k.mul(width, 2)

    def step(t: Any, i: Any, j: Any) -> tuple:
        place = k.index(t)
        start = k.and_(place, k.neg(double))                          # widths are powers of two
        fresh, middle = k.eq(place, start), k.add(start, width)
        i, j = k.select(fresh, start, i), k.select(fresh, middle, j)
        a, b = (k.get(source, *at(k.minimum(side, n - 1))) for side in (i, j))
        left = k.and_(k.lt(i, middle), k.lt(i, n))
        right = k.and_(k.lt(j, k.add(start, double)), k.lt(j, n))
        taken = k.and_(right, k.or_(k.not_(left), _emit_less(k, key(b), key(a))))
        k.put(target, *at(t), value=k.select(taken, b, a))
        return k.select(taken, i, k.add(i, 1)), k.select(taken, k.add(j, 1), j)
    zero = k.const(0, INT64)
    k.carry(n, (zero, zero), step)


def _emit_less(k: Any, x: Any, y: Any) -> Any:
    """x < y in the order of sorting: NaN after all numbers."""
    return k.or_(k.lt(x, y), k.and_(k.ne(y, y), k.eq(x, x))) if x.dtype.kind == "f" else k.lt(x, y)


# ------------------------------------------------------------------------------------------------ rows


def _batch(row: Any, args: tuple, bdims: tuple, *, axis: int) -> tuple:
    return bind(row, move_front(args[0], bdims[0]), axis=axis + 1), 0


def _samples(rng: np.random.Generator) -> list:
    cases = [((3, 4), 1), ((3, 4), 0), ((5,), 0), ((2, 0), 1), ((1,), 0), ((2, 3, 2), 1)]
    return [((rng.standard_normal(s),), {"axis": a}) for s, a in cases]


@constant(reason="positions: piecewise constant", shape=lambda x, *, axis: Aval(x.shape, INT64), batch=_batch,
          lowering=General(_lower_sorting(True)), samples=_samples)
def argsort(x, *, axis):
    """The places of the elements in ascending order along an axis, int64, stable; NaN last."""
    return np.argsort(x, axis=axis, kind="stable")


def _sort_jvp(primals: tuple, tangents: tuple, y: Any, *, axis: int) -> Any:
    return None if tangents[0] is None else take_along(tangents[0], argsort(primals[0], axis=axis), axis)


def _sort_vjp(primals: tuple, y: Any, y_bar: Any, active: tuple, *, axis: int) -> list:
    """The inverse of a permutation is its argsort: every cotangent returns to where its element came from."""
    return [take_along(y_bar, argsort(argsort(primals[0], axis=axis), axis=axis), axis) if active[0] else None]


@general(shape=lambda x, *, axis: Aval(x.shape, x.dtype), jvp=_sort_jvp, vjp=_sort_vjp, bound=0.0,
         lowering=General(_lower_sorting(False)), samples=_samples,
         batch=lambda args, bdims, *, axis: _batch(sort, args, bdims, axis=axis), selects=True)
def sort(x, *, axis):
    """Elements in ascending order along an axis, NaN last; the derivative permutes as the elements did."""
    return np.sort(x, axis=axis)
