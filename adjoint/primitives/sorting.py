"""Sorting: sort and argsort along an axis, stable; derivatives follow the elements to their new places.

Invariant: among equal elements the order stays, a choice of subgradient at ties. May import: L0, core, kinds, indexing.
Read next: contraction.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.aval import Aval, aval_of
from ..core.primitive import bind
from ..dtypes import INT64
from .broadcasting import move_front
from .indexing import gather, iota
from .kinds import constant, general


def take_along(x: Any, places: Any, axis: int) -> Any:
    """x at these places along one axis, all other axes in step (NumPy's take_along_axis for arrays that agree elsewhere)."""
    shape = aval_of(places).shape
    indices = [places if i == axis else iota(shape=tuple(n if i == j else 1 for j, n in enumerate(shape)), axis=i, dtype=INT64)
               for i in range(len(shape))]
    return gather(x, *indices)


def _batch(row: Any, args: tuple, bdims: tuple, *, axis: int) -> tuple:
    return bind(row, move_front(args[0], bdims[0]), axis=axis + 1), 0


def _samples(rng: np.random.Generator) -> list:
    cases = [((3, 4), 1), ((3, 4), 0), ((5,), 0), ((2, 0), 1), ((1,), 0), ((2, 3, 2), 1)]
    return [((rng.standard_normal(s),), {"axis": a}) for s, a in cases]


@constant(reason="positions: piecewise constant", shape=lambda x, *, axis: Aval(x.shape, INT64), batch=_batch, lowering=None,
          samples=_samples)
def argsort(x, *, axis):
    """The places of the elements in ascending order along an axis, int64, stable; NaN last."""
    return np.argsort(x, axis=axis, kind="stable")


def _sort_jvp(primals: tuple, tangents: tuple, y: Any, *, axis: int) -> Any:
    return None if tangents[0] is None else take_along(tangents[0], argsort(primals[0], axis=axis), axis)


def _sort_vjp(primals: tuple, y: Any, y_bar: Any, active: tuple, *, axis: int) -> list:
    """The inverse of a permutation is its argsort: every cotangent returns to where its element came from."""
    return [take_along(y_bar, argsort(argsort(primals[0], axis=axis), axis=axis), axis) if active[0] else None]


@general(shape=lambda x, *, axis: Aval(x.shape, x.dtype), jvp=_sort_jvp, vjp=_sort_vjp, lowering=None, samples=_samples, bound=0.0,
         batch=lambda args, bdims, *, axis: _batch(sort, args, bdims, axis=axis), selects=True)
def sort(x, *, axis):
    """Elements in ascending order along an axis, NaN last; the derivative permutes as the elements did."""
    return np.sort(x, axis=axis)
