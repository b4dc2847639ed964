"""From a row with a Convolve record to a Convolution step: letters become strides, the window is laid out for the lanes.

x is read where it lies, whatever its strides; the sum runs over its axes from the farthest to the nearest. May import: L0-L3, fuse, loops,
lower, pieces, views. Read next: pieces.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..core.graph import Atom
from .loops import LANE_BYTES, Convolution, Operand, Value, Walk
from .loops import Var as LoopVar
from .lower import Lowering
from .pieces import cut
from .views import Ref

WASTE = 1.5              # a padded copy of x, where the rows of pieces fill tiles this much worse than all rows together would
TILE = 8                 # rows of a tile, about


@dataclass(frozen=True)
class Words:
    """The axes of a convolution by their letters, and their sizes."""

    x: str
    w: str
    y: str
    walks: tuple
    sizes: dict[str, int]

    @property
    def batch(self) -> str:
        """The one axis that all three share."""
        letter, = (c for c in self.y if c in self.x and c in self.w)
        return letter

    @property
    def n(self) -> str:
        """The one axis that is only in w and in the result."""
        letter, = (c for c in self.y if c in self.w and c not in self.x)
        return letter

    @property
    def free(self) -> list[str]:
        return [c for c in self.y if c not in self.w]

    @property
    def summed(self) -> list[str]:
        return [c for c in self.w if c not in self.y]

    def steps(self, x: Ref) -> dict[str, int]:
        """How far x moves with each free and each summed axis, by its walk or by itself."""
        stride = dict(zip(self.x, x.strides, strict=True))
        found = {c: stride[c] for c in self.free + self.summed if c in stride}
        for axis, place, tap, by, dilation, _, spread in self.walks:
            found[place], found[tap] = stride[axis] * by // spread, stride[axis] * dilation // spread
        return found


def words_of(spec: tuple, atoms: Sequence[Atom], result: Atom) -> Words:
    """The letters of a row's spec with the sizes that its arguments and result have."""
    x, w, y, walks = spec
    sizes = {c: n for word, a in zip((x, w, y), (*atoms, result), strict=True) for c, n in zip(word, a.aval.shape, strict=True)}
    return Words(x, w, y, walks, sizes)


def farthest_first(letters: list[str], words: Words, x: Ref) -> list[str]:
    """Axes in the order in which x's memory has them."""
    steps = words.steps(x)
    return sorted(letters, key=lambda c: -abs(steps[c]) if words.sizes[c] != 1 else 0)


def convolution(lowering: Lowering, words: Words, x: Ref, w: Ref, free: list[str], dtype: np.dtype) -> Convolution:
    """The step without its epilogue: x in place, or padded where too little of it would fill a tile; w in rows of whole lanes."""
    step = _step(lowering, words, x, w, free, dtype)
    computed = sum(-(-piece.row_count // TILE) * piece.terms for piece in cut(step))
    if computed > WASTE * -(-step.m // TILE) * step.k:
        words, x = _padded(lowering, words, x)
        step = _step(lowering, words, x, w, free, dtype)
    return step


def _step(lowering: Lowering, words: Words, x: Ref, w: Ref, free: list[str], dtype: np.dtype) -> Convolution:
    sizes, summed = words.sizes, farthest_first(words.summed, words, x)
    own = dict(zip(words.x, x.strides, strict=True))
    walks = tuple(Walk(free.index(place), summed.index(tap), stride, dilation, low, spread, sizes[axis], own[axis])
                  for axis, place, tap, stride, dilation, low, spread in words.walks)
    a = Operand(lowering.number(x.buffer), x.offset, tuple(own.get(c, 0) for c in (words.batch, *free, *summed)))
    laid = _laid_out(lowering, words, w, summed)
    b = Operand(lowering.number(laid.buffer), laid.offset, laid.strides)
    variables = (LoopVar(), LoopVar(), LoopVar())
    return Convolution("convolve", dtype, sizes[words.batch], tuple(sizes[c] for c in free), sizes[words.n],
                       tuple(sizes[c] for c in summed), a, b, walks, variables, Value(dtype), ())


def _laid_out(lowering: Lowering, words: Words, w: Ref, summed: list[str]) -> Ref:
    """w as (batch, *summed, n) with consecutive n in whole lanes: where it lies, or copied so."""
    letters = (words.batch, *summed, words.n)
    ref = w.permuted([words.w.index(c) for c in letters])
    n, lanes = words.sizes[words.n], LANE_BYTES // w.dtype.itemsize
    if ref.strides[-1] == 1 and n % lanes == 0:
        return ref
    shape = (*ref.shape[:-1], -(-n // lanes) * lanes)
    inside = lowering.temporary(w.dtype, shape).sliced([(0, size, 1) for size in ref.shape])
    lowering.copy(ref, inside)
    return inside


def _padded(lowering: Lowering, words: Words, x: Ref) -> tuple[Words, Ref]:
    """x with zeros at every place that the walks reach, and the walks over that."""
    sizes, walks, inside, taken = dict(words.sizes), [], {}, {}
    for axis, place, tap, stride, dilation, low, spread in words.walks:
        n, room = sizes[axis], (sizes[place] - 1) * stride + (sizes[tap] - 1) * dilation + 1
        first = max(0, -(low // spread))
        count = max(0, min(n - first, -((low + first * spread - room) // spread)))
        start = low + first * spread
        inside[axis] = (start, start + (count - 1) * spread + 1, spread) if count else (0, 0, 1)
        taken[axis] = (first, first + count, 1)
        sizes[axis] = room
        walks.append((axis, place, tap, stride, dilation, 0, 1))
    order = sorted(words.x, key=lambda c: -abs(dict(zip(words.x, x.strides, strict=True))[c]))
    room = lowering.temporary(x.dtype, [sizes[c] for c in order]).permuted([order.index(c) for c in words.x])
    lowering.fill(room, 0.0)
    whole = {c: (0, n, 1) for c, n in sizes.items()}
    lowering.copy(x.sliced([taken.get(c, whole[c]) for c in words.x]), room.sliced([inside.get(c, whole[c]) for c in words.x]))
    return Words(words.x, words.w, words.y, tuple(walks), sizes), room


def memory_order(lowering: Lowering, words: Words, free: list[str], dtype: np.dtype) -> Ref:
    """Memory for a result whose rows are counted along `free`."""
    order = [*free, words.batch, words.n]
    shape = [words.sizes[c] for c in order]
    ref = lowering.temporary(dtype, shape)
    return ref.permuted([order.index(c) for c in words.y])

