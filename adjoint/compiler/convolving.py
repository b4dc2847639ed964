"""From a row with a Convolve record to a Convolution step: letters become strides, the window is laid out for the lanes.

x is read where it lies, whatever its strides; the sum runs over its axes from the farthest to the nearest. May import: L0-L3, fuse, loops,
lower, pieces, views. Read next: pieces.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from ..core.graph import Atom
from .loops import LANE_BYTES, Convolution, Index, Operand, Value, Walk
from .loops import Var as LoopVar
from .lower import KernelEmitter, Lowering
from .pieces import Piece, cut
from .views import Ref, merged_stride

WASTE = 1.5              # a padded copy of x, where the tiles of pieces compute this many times as much as there is
MOST_PIECES = 64         # the same, where there are more pieces
TILE = 8                 # rows of a tile, about
UNROLLED = 32            # terms of a sum that are written one after the other


class Words(Struct, frozen=True):
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
    summed = farthest_first(words.summed, words, x)
    step = _step(lowering, words, x, _laid_out(lowering, words, w, summed), free, summed, dtype)
    pieces = cut(step)
    padded, room = words, x
    if len(pieces) > math.prod(min(walk.spread, walk.size) for walk in step.walks):
        terms, tiles = sum(p.row_count * p.terms for p in pieces), sum(-(-p.row_count // TILE) * p.terms for p in pieces)
        if len(pieces) > MOST_PIECES or TILE * tiles > WASTE * max(terms, TILE * step.k):
            padded, room = _padded(lowering, words, x)
    return step if room is x else _step(lowering, padded, room, step.b, free, summed, dtype)


def _step(lowering: Lowering, words: Words, x: Ref, b: Operand, free: list[str], summed: list[str], dtype: np.dtype) -> Convolution:
    sizes = words.sizes
    own = dict(zip(words.x, x.strides, strict=True))
    walks = tuple(Walk(free.index(place), summed.index(tap), stride, dilation, low, spread, sizes[axis], own[axis])
                  for axis, place, tap, stride, dilation, low, spread in words.walks)
    a = Operand(lowering.number(x.buffer), x.offset, tuple(own.get(c, 0) for c in (words.batch, *free, *summed)))
    variables = (LoopVar(), LoopVar(), LoopVar())
    return Convolution("convolve", dtype, sizes[words.batch], tuple(sizes[c] for c in free), sizes[words.n],
                       tuple(sizes[c] for c in summed), a, b, walks, variables, Value(dtype), ())


def _laid_out(lowering: Lowering, words: Words, w: Ref, summed: list[str]) -> Operand:
    """w as (batch, *summed, n) with consecutive n in whole lanes: where it lies, or copied so."""
    letters = (words.batch, *summed, words.n)
    ref = w.permuted([words.w.index(c) for c in letters])
    n, lanes = words.sizes[words.n], LANE_BYTES // w.dtype.itemsize
    if ref.strides[-1] != 1 or n % lanes:
        room = lowering.temporary(w.dtype, (*ref.shape[:-1], -(-n // lanes) * lanes))
        inside = room.sliced([(0, size, 1) for size in ref.shape])
        lowering.copy(ref, inside)
        ref = inside
    return Operand(lowering.number(ref.buffer), ref.offset, ref.strides)


# ------------------------------------------------------------------------------------------------ one channel behind each group


def is_alone(words: Words) -> bool:
    """Whether the lanes had better run along the groups (depthwise convolutions): no other axis fills them."""
    return words.sizes[words.n] == 1 and words.sizes[words.batch] > 1


def alone(lowering: Lowering, words: Words, x: Ref, w: Ref, y: Ref) -> None:
    """Kernels of such a convolution: every element of y is summed serially with fma in the order of a Convolution, piece by piece."""
    x = _groups_last(lowering, words, x)
    summed = farthest_first(words.summed, words, x)
    ref = w.permuted([words.w.index(c) for c in (*summed, words.batch, words.n)])
    if ref.strides[-2] != 1:
        laid = lowering.temporary(ref.dtype, ref.shape)
        lowering.copy(ref, laid)
        ref = laid
    b = Operand(lowering.number(ref.buffer), ref.offset, (ref.strides[-2], *ref.strides[:-2], 1))
    step, strides = _step(lowering, words, x, b, words.free, summed, y.dtype), dict(zip(words.y, y.strides, strict=True))
    by = merged_stride(step.free, [strides[c] for c in words.free])
    target = y if by is not None else lowering.temporary(y.dtype, (*step.free, step.batch))
    m_step, group_step = (by, strides[words.batch]) if by is not None else (step.batch, 1)
    for piece in cut(step):
        _sum_alone(lowering, step, piece, Operand(lowering.number(target.buffer), target.offset, (m_step, group_step)))
    if target is not y:
        order = [*words.free, words.batch]
        lowering.copy(target, y.permuted([words.y.index(c) for c in (*order, words.n)]).reshaped(target.shape))


def _groups_last(lowering: Lowering, words: Words, x: Ref) -> Ref:
    """x with consecutive groups: where it lies, or copied so."""
    if x.strides[words.x.index(words.batch)] == 1:
        return x
    order = [*(c for c in words.x if c != words.batch), words.batch]
    laid = lowering.temporary(x.dtype, [words.sizes[c] for c in order]).permuted([order.index(c) for c in words.x])
    lowering.copy(x, laid)
    return laid


def _sum_alone(lowering: Lowering, step: Convolution, piece: Piece, y: Operand) -> None:
    rows, depth = ([axis for axis in axes if axis[0] != 1] for axes in (piece.rows, piece.depth))

    def body(e: KernelEmitter, *indices: LoopVar) -> None:
        *places, group = indices
        at = lambda begin, terms, by: Index(begin, tuple((var, s) for var, s in (*terms, (group, by)) if s))

        def sums(left: list, taps: list, a: int, b: int, total: Value) -> list[Value]:
            if left and piece.terms <= UNROLLED:
                (n, a_step, b_step), *rest = left
                for tap in range(n):
                    total, = sums(rest, taps, a + tap * a_step, b + tap * b_step, total)
                return [total]
            if left:
                (n, *steps), *rest = left
                return list(e.carry(n, [total], lambda tap, inner: sums(rest, [*taps, (tap, *steps)], a, b, inner)))
            terms = [(place, s) for place, (_, s, _) in zip(places, rows, strict=True)] + [(tap, s) for tap, s, _ in taps]
            x = e.load(step.a.buffer, at(a, terms, step.a.strides[0]), step.dtype)
            w = e.load(step.b.buffer, at(b, [(tap, s) for tap, _, s in taps], step.b.strides[0]), step.dtype)
            return [e.fma(x, w, total)]
        total, = sums(depth, [], piece.a, piece.b, e.const(0.0, step.dtype))
        m = [(place, s * y.strides[0]) for place, (_, _, s) in zip(places, rows, strict=True)]
        e.store(y.buffer, at(y.offset + piece.m * y.strides[0], m, y.strides[1]), total)
    lowering.nest([*(n for n, _, _ in rows), step.batch], body, cost=2.0 * max(piece.terms, 1), label="convolve_groups")


# ------------------------------------------------------------------------------------------------ memory


def _padded(lowering: Lowering, words: Words, x: Ref) -> tuple[Words, Ref]:
    """x with a border of zeros wherever the walks step out of it, and the walks over that: every term exists then."""
    sizes, walks, inside = dict(words.sizes), [], {}
    for axis, place, tap, stride, dilation, low, spread in words.walks:
        n, last = sizes[axis], (sizes[place] - 1) * stride + (sizes[tap] - 1) * dilation - low
        before, behind = max(0, low // spread), max(0, last // spread - n + 1)
        inside[axis], sizes[axis] = (before, before + n, 1), before + n + behind
        walks.append((axis, place, tap, stride, dilation, low - before * spread, spread))
    steps = dict(zip(words.x, x.strides, strict=True))
    order = sorted(words.x, key=lambda c: -abs(steps[c]))
    room = lowering.temporary(x.dtype, [sizes[c] for c in order])
    lowering.fill(room, 0.0)
    lowering.copy(x.permuted([words.x.index(c) for c in order]), room.sliced([inside.get(c, (0, sizes[c], 1)) for c in order]))
    return Words(words.x, words.w, words.y, tuple(walks), sizes), room.permuted([order.index(c) for c in words.x])


def memory_order(lowering: Lowering, words: Words, free: list[str], dtype: np.dtype) -> Ref:
    """Memory for a result whose rows are counted along `free`."""
    order = [*free, words.batch, words.n]
    shape = [words.sizes[c] for c in order]
    ref = lowering.temporary(dtype, shape)
    return ref.permuted([order.index(c) for c in words.y])

