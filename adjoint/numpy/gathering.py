"""Gather and scatter along any axes, by the rows that index leading axes.

Invariant: the axes of the broadcast indices stand at `place` among the axes that are not indexed. May import: L0-L2, registry.
Read next: indexing.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.aval import aval_of
from ..core.primitive import TABLE
from .registry import permuted


def _indexed_first(x: Any, axes: tuple) -> tuple[int, ...]:
    """The order of x's axes with the indexed ones in front."""
    return (*axes, *(i for i in range(aval_of(x).ndim) if i not in axes))


def _index_rank(indices: tuple) -> int:
    return max(aval_of(i).ndim for i in indices)


def _moved(count: int, place: int, rest: int) -> tuple[int, ...]:
    """The order of axes that moves `count` leading axes behind `place` of the others."""
    others = range(count, count + rest)
    return (*others[:place], *range(count), *others[place:])


def gather(x: Any, axes: tuple, indices: tuple, place: int) -> Any:
    """The elements of x at index arrays along `axes`."""
    y = TABLE["gather"](permuted(x, _indexed_first(x, axes)), *indices)
    return permuted(y, _moved(_index_rank(indices), place, aval_of(x).ndim - len(axes)))


def _scattered(row: str, x: Any, axes: tuple, indices: tuple, place: int, value: Any) -> Any:
    order = _indexed_first(x, axes)
    back = np.argsort(_moved(_index_rank(indices), place, aval_of(x).ndim - len(axes)))
    y = TABLE[row](permuted(x, order), permuted(value, tuple(int(a) for a in back)), *indices)
    return permuted(y, tuple(int(a) for a in np.argsort(order)))


def scatter(x: Any, axes: tuple, indices: tuple, place: int, value: Any) -> Any:
    """x with the elements at the index arrays replaced; of equal places the last wins."""
    return _scattered("scatter", x, axes, indices, place, value)


def scatter_add(x: Any, axes: tuple, indices: tuple, place: int, value: Any) -> Any:
    """x with values added at the index arrays; equal places receive every value."""
    return _scattered("scatter_add", x, axes, indices, place, value)
