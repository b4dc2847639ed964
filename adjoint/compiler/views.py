"""Strided views of buffers, and the merging of axes: how an index space becomes few loops with constant strides.

Invariant: a Ref never leaves its buffer for indices within its shape. May import: L0, L2 (the reshape rule), loops. Read next: fuse.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec import Struct

from ..primitives.structure import reshape_view, slice_length
from .loops import Index


class Ref(Struct, frozen=True):
    """Elements of a buffer: (i, j, ...) lies at offset + sum of strides * index. `buffer` is a key of the memory plan."""

    buffer: Any
    dtype: np.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def contiguous(self) -> bool:
        return self.size <= 1 or all(n == 1 or s == t for n, s, t in zip(self.shape, self.strides, row_major(self.shape), strict=True))

    def with_view(self, view: tuple) -> Ref:
        offset, shape, strides = view
        return Ref(self.buffer, self.dtype, tuple(shape), tuple(strides), offset)

    def sliced(self, bounds: Sequence[tuple[int, int, int]]) -> Ref:
        offset = self.offset + sum(b[0] * s for b, s in zip(bounds, self.strides, strict=True))
        return Ref(self.buffer, self.dtype, tuple(slice_length(*b) for b in bounds),
                   tuple(s * b[2] for s, b in zip(self.strides, bounds, strict=True)), offset)

    def permuted(self, axes: Sequence[int]) -> Ref:
        return Ref(self.buffer, self.dtype, tuple(self.shape[a] for a in axes), tuple(self.strides[a] for a in axes), self.offset)

    def expanded(self, shape: Sequence[int]) -> Ref:
        lead = len(shape) - len(self.shape)
        strides = (0,) * lead + tuple(0 if n == 1 and m != 1 else s
                                      for n, m, s in zip(self.shape, tuple(shape)[lead:], self.strides, strict=True))
        return Ref(self.buffer, self.dtype, tuple(shape), strides, self.offset)

    def reshaped(self, shape: Sequence[int]) -> Ref | None:
        view = reshape_view(self.offset, self.shape, self.strides, new=tuple(shape))
        return None if view is None else self.with_view(view)

    def at(self, *indices: Any) -> Index:
        """The element offset for one Var, int64 Value or int per axis."""
        offset, terms = self.offset, []
        for i, s in zip(indices, self.strides, strict=True):
            if isinstance(i, (int, np.integer)):
                offset += int(i) * s
            elif s:
                terms.append((i, s))
        return Index(offset, tuple(terms))


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a contiguous array, in elements."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return tuple(reversed(strides))


def fresh(buffer: Any, dtype: np.dtype, shape: Sequence[int]) -> Ref:
    """A contiguous view of a whole buffer."""
    return Ref(buffer, np.dtype(dtype), tuple(shape), row_major(shape))


def merge_axes(shape: Sequence[int], columns: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """Fewest loops over an index space: (extents, strides of each column per loop). Axes of size 1 vanish; neighbours merge where the
    strides of every column allow it."""
    extents: list[int] = []
    merged: list[list[int]] = [[] for _ in columns]
    for axis, n in enumerate(shape):
        if n == 1:
            continue
        if extents and all(m[-1] == n * c[axis] for m, c in zip(merged, columns, strict=True)):
            extents[-1] *= n
            for m, c in zip(merged, columns, strict=True):
                m[-1] = c[axis]
        else:
            extents.append(n)
            for m, c in zip(merged, columns, strict=True):
                m.append(c[axis])
    return extents, merged


def merged_stride(shape: Sequence[int], strides: Sequence[int]) -> int | None:
    """The single stride that walks these axes in row-major order, or None."""
    extents, (found,) = merge_axes(shape, [strides])
    return 0 if not extents else found[0] if len(extents) == 1 else None
