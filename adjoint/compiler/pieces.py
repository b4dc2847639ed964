"""A convolution cut into pieces in which every term exists: no bounds, no zeros, only constant steps.

Along one axis, the rows that meet the same elements of the window form an arithmetic progression; so do those elements. Products of such
progressions are pieces. Padding, cropping and spread thus cost nothing where they are, and nothing is multiplied by zero.
Invariant: every element of the result lies in exactly one piece, its terms in the order of the sum. May import: loops.
Read next: convplan.py.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from msgspec import Struct

from .loops import Convolution, Walk


class Run(Struct, frozen=True):
    """first, first + step, ... : `count` indices."""

    first: int
    step: int
    count: int


class AxisPiece(Struct, frozen=True):
    """Free indices that meet the same summed ones; the place of the first pair, and how it moves with either."""

    free: Run
    summed: Run
    place: int
    by_free: int
    by_summed: int


class Piece(Struct, frozen=True):
    """Rows and terms of one piece. rows: (count, step of A, step of m) per free axis; depth: (count, step of A, step of B) per summed
    axis, in elements; a, b and m: where the first ones lie."""

    rows: tuple[tuple[int, int, int], ...]
    depth: tuple[tuple[int, int, int], ...]
    a: int
    b: int
    m: int

    @property
    def row_count(self) -> int:
        return math.prod(n for n, _, _ in self.rows)

    @property
    def terms(self) -> int:
        return math.prod(n for n, _, _ in self.depth)


def cut_axis(free: int, summed: int, walk: Walk) -> list[AxisPiece]:
    """The pieces of one walked axis."""
    by_free, by_summed = (walk.spread // math.gcd(n, walk.spread) for n in (walk.stride, walk.dilation))
    at = walk.stride * np.arange(free)[:, None] + walk.dilation * np.arange(summed) - walk.low
    meets = (at % walk.spread == 0) & (at >= 0) & (at < walk.size * walk.spread)
    firsts, counts = (meets.argmax(1) if summed else meets.sum(1)).tolist(), meets.sum(1).tolist()
    pieces = []
    for phase in range(min(by_free, free)):
        for (first, count), members in itertools.groupby(range(phase, free, by_free), key=lambda i: (firsts[i], counts[i])):
            i, *others = members
            place = (walk.stride * i + walk.dilation * first - walk.low) // walk.spread
            pieces.append(AxisPiece(Run(i, by_free, 1 + len(others)), Run(first, by_summed, count), place,
                                    walk.stride * by_free // walk.spread, walk.dilation * by_summed // walk.spread))
    return pieces


def cut(c: Convolution) -> list[Piece]:
    """The pieces, those with most work first."""
    if c.m == 0:
        return []
    ways = [cut_axis(c.free[w.free], c.summed[w.summed], w) for w in c.walks]
    found = [_piece(c, choice) for choice in itertools.product(*ways)]
    return sorted(found, key=lambda piece: -piece.row_count * piece.terms)


def _piece(c: Convolution, choice: tuple[AxisPiece, ...]) -> Piece:
    count = len(c.free)
    m_steps = [math.prod(c.free[i + 1:]) for i in range(count)]
    rows = [[n, s, m] for n, s, m in zip(c.free, c.a.strides[1:1 + count], m_steps, strict=True)]
    depth = [[n, s, t] for n, s, t in zip(c.summed, c.a.strides[1 + count:], c.b.strides[1:-1], strict=True)]
    a, b, m = c.a.offset, c.b.offset, 0
    for walk, part in zip(c.walks, choice, strict=True):
        (_, a_free, m_step), (_, a_summed, b_step) = rows[walk.free], depth[walk.summed]
        a += part.place * walk.step + part.free.first * a_free + part.summed.first * a_summed
        b += part.summed.first * b_step
        m += part.free.first * m_step
        rows[walk.free] = [part.free.count, part.by_free * walk.step + part.free.step * a_free, part.free.step * m_step]
        depth[walk.summed] = [part.summed.count, part.by_summed * walk.step + part.summed.step * a_summed, part.summed.step * b_step]
    return Piece(tuple(map(tuple, rows)), tuple(map(tuple, depth)), a, b, m)
