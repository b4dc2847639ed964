"""How a Convolution is cut for the machine: tiles, chunks of rows, blocks of the sum; and the tables that its loops read.

Rows of a chunk are addressed by a table, so tiles run across the ends of image rows. Terms of the sum are blocks of constant steps, listed
in a table too: the microkernel keeps its sums in registers from block to block. Long sums (the gradients of weights) are taken a part
of their first axis at a time, for all rows of a span, so A and B are read from memory once per span.
A plan is a pure function of the convolution and the target. May import: loops, microkernel, pieces, target. Read next: conv.py.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from math import lcm

from .loops import Convolution
from .microkernel import Tile, narrow_tile, wide_tile
from .pieces import Piece, cut
from .target import Target

K_BLOCK = 1024           # terms taken at a time: their rows of B stay in the second cache level
CHUNK_ROWS = 96          # rows of a work item whose sum is short
SPAN_ROWS = 384          # most rows of a span: their sums wait in the cache
MOST_SPANNED = 1 << 14   # rows of a result that may be listed span by span
FIRST_CACHE = 5 * 2**12  # bytes that surely stay in it
TABLE = 512              # entries of the table of blocks that stay in the first cache level


@dataclass(frozen=True)
class Segment:
    """Rows first .. first + rows of a piece, in chunks; its sums begin `place` rows into the buffer of its span."""

    piece: int
    first: int
    rows: int
    chunk_rows: int
    place: int


@dataclass(frozen=True)
class ConvPlan:
    """The cut of one convolution."""

    convolution: Convolution
    target: Target
    wide: Tile
    wide_panels: int
    narrow_panels: int

    # -- columns ------------------------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        return self.convolution.dtype.itemsize

    @property
    def lanes(self) -> int:
        return self.target.lanes(self.convolution.dtype)

    @property
    def narrow(self) -> Tile:
        return narrow_tile(2)

    @property
    def panels(self) -> int:
        return self.wide_panels + self.narrow_panels

    @property
    def wide_columns(self) -> int:
        return self.wide_panels * self.wide.vectors * self.lanes

    @property
    def unit(self) -> int:
        """Rows are stored in multiples of it."""
        return lcm(*([self.wide.rows] if self.wide_panels else []), *([self.narrow.rows] if self.narrow_panels else []))

    # -- the sum ------------------------------------------------------------------------------------------------------

    @cached_property
    def pieces(self) -> list[Piece]:
        return cut(self.convolution)

    @cached_property
    def part(self) -> int:
        """How much of the first summed axis is taken at a time, for all rows of a span; 0: all of it, row by row."""
        c = self.convolution
        if not c.summed or c.k <= K_BLOCK or c.m > MOST_SPANNED or any(w.summed == 0 for w in c.walks):
            return 0
        terms = c.k // c.summed[0]
        blocks = max(terms // max(1, piece.depth[-1][0]) for piece in self.pieces)
        most = max(1, min(K_BLOCK // max(1, terms), TABLE // max(1, blocks)))
        return max(n for n in range(1, min(most, c.summed[0]) + 1) if c.summed[0] % n == 0)

    @property
    def range_terms(self) -> int:
        """Terms of a range: where all rows of a span use them in turn, as many as the first cache level holds of A and B."""
        width = (self.wide.vectors if self.wide_panels else 1) * self.target.vector_bytes
        return max(64, FIRST_CACHE // (width + 64)) if self.part else K_BLOCK

    @property
    def turns(self) -> int:
        """Parts that are taken one after the other."""
        return self.convolution.summed[0] // self.part if self.part else 1

    def blocks(self, piece: Piece) -> tuple[list[tuple[int, int]], list[tuple[int, int, int]], tuple[int, int]]:
        """(A and B of every block, (first block, blocks, terms of each) of every range, steps of A and B inside a block)."""
        depth = list(piece.depth)
        if self.part:
            depth[0] = (self.part, *depth[0][1:])
        depth = [axis for axis in depth if axis[0] != 1] or [(1, 0, 0)]
        if any(n == 0 for n, _, _ in depth):
            return [], [(0, 0, 0)], (0, 0)
        count, a_step, b_step = depth.pop()
        most = self.range_terms
        while depth and depth[-1][1:] == (count * a_step, count * b_step) and depth[-1][0] * count <= most:
            count *= depth.pop()[0]
        blocks, ranges = [], []
        for place in itertools.product(*(range(n) for n, _, _ in depth)):
            a, b = (sum(i * axis[which] for i, axis in zip(place, depth, strict=True)) for which in (1, 2))
            for begin in range(0, count, most):
                run = min(most, count - begin)
                if ranges and ranges[-1][2] == run and (ranges[-1][1] + 1) * run <= most:
                    ranges[-1] = (ranges[-1][0], ranges[-1][1] + 1, run)
                else:
                    ranges.append((len(blocks), 1, run))
                blocks.append((a + begin * a_step, b + begin * b_step))
        return blocks, ranges, (a_step, b_step)

    @cached_property
    def cuts(self) -> list[tuple]:
        return [self.blocks(piece) for piece in self.pieces]

    # -- the rows -----------------------------------------------------------------------------------------------------

    @property
    def buffered(self) -> bool:
        """Whether sums wait in the buffer of a chunk until their last block is done."""
        return self.turns > 1 or any(len(ranges) > 1 for _, ranges, _ in self.cuts)

    @cached_property
    def spans(self) -> list[list[Segment]]:
        """Work items of one panel: a span of several segments is one, a span of a single one has as many as its chunks."""
        unit = self.unit
        if self.turns == 1:
            rows = CHUNK_ROWS // unit * unit
            return [[Segment(i, 0, piece.row_count, rows, 0)] for i, piece in enumerate(self.pieces)]
        total = sum(piece.row_count for piece in self.pieces)
        count = -(-total // SPAN_ROWS)
        count += count % 2
        most = max(min(unit, -(-total // 2)), -(-total // count // unit) * unit)
        spans: list[list[Segment]] = [[]]
        room, place = most, 0
        for i, piece in enumerate(self.pieces):
            first = 0
            while first < piece.row_count:
                if room <= 0:
                    spans.append([])
                    room, place = most, 0
                rows = min(room, piece.row_count - first)
                spans[-1].append(Segment(i, first, rows, rows, place))
                place += -(-rows // unit) * unit
                first, room = first + rows, room - rows
        return spans

    @property
    def segments(self) -> list[Segment]:
        return [segment for span in self.spans for segment in span]

    @property
    def chunks(self) -> int:
        """Work items of one panel of one batch element."""
        return sum(-(-span[0].rows // span[0].chunk_rows) if len(span) == 1 else 1 for span in self.spans)

    @property
    def extent(self) -> int:
        return self.convolution.batch * self.chunks * self.panels

    @property
    def table_rows(self) -> int:
        """Entries of the tables of rows."""
        return max(s.place + -(-s.chunk_rows // self.unit) * self.unit for s in self.segments)

    @property
    def buffer_rows(self) -> int:
        return self.table_rows if self.buffered else self.unit

    @property
    def tile_bytes(self) -> int:
        return self.buffer_rows * max(self.wide.vectors if self.wide_panels else 1, 1) * self.lanes * self.size

    @property
    def cycles(self) -> float:
        """A rough count: two fma a cycle, a block that begins, a tile that ends."""
        total = 0.0
        for piece, (blocks, _, _) in zip(self.pieces, self.cuts, strict=True):
            for tile, panels in ((self.wide, self.wide_panels), (self.narrow, self.narrow_panels)):
                step = max(4.0, tile.rows * tile.vectors * 0.55)
                total += -(-piece.row_count // tile.rows) * panels * (100.0 + piece.terms * step + 6.0 * len(blocks) * self.turns)
        return total * self.convolution.batch

    # -- records ------------------------------------------------------------------------------------------------------

    def shape_record(self) -> dict[str, int]:
        """The fields of conv.SHAPE."""
        c, size = self.convolution, self.size
        a_turn, b_turn = (self.part * s * size if self.part else 0 for s in (c.a.strides[1 + len(c.free)], c.b.strides[1]))
        return {
            "panels": max(1, self.panels), "wide_panels": self.wide_panels, "chunks": max(1, self.chunks), "n": c.n,
            "a_batch": c.a.strides[0] * size, "b_batch": c.b.strides[0] * size, "turns": self.turns,
            "ranges": max(len(ranges) for _, ranges, _ in self.cuts), "a_turn": a_turn, "b_turn": b_turn,
            "buffered": int(self.buffered),
        }  # fmt: skip

    def panels_record(self, tile: Tile) -> dict[str, int]:
        """The fields of conv.PANELS."""
        width = tile.vectors * self.lanes
        return {"rows": tile.rows, "width": width, "first_column": 0 if tile == self.wide else self.wide_columns,
                "tile_row": width * self.size, "b_panel": width * self.size}

    def span_words(self) -> list[int]:
        """Per span: its first segment, the one after its last, its chunks."""
        words, at = [], 0
        for span in self.spans:
            chunks = -(-span[0].rows // span[0].chunk_rows) if len(span) == 1 else 1
            words += [at, at + len(span), chunks]
            at += len(span)
        return words

    def segment_words(self) -> tuple[list[int], list[int], list[int]]:
        """(words of conv.SEGMENT for every segment, of every block, of every range); addresses in bytes."""
        size, block_words, range_words, places = self.size, [], [], []
        for blocks, ranges, _ in self.cuts:
            places.append((len(block_words) * 8, len(range_words) * 8, len(ranges)))
            block_words += [word * size for block in blocks for word in block]
            range_words += [word for begin, count, run in ranges for word in (begin * 16, count, run)]
        words = []
        for s in self.segments:
            piece, (_, _, steps), place = self.pieces[s.piece], self.cuts[s.piece], places[s.piece]
            words += [s.first, s.rows, s.chunk_rows, s.place, piece.a * size, piece.b * size, piece.m, *place, *(n * size for n in steps)]
            words += [word for n, a, m in piece.rows for word in (n, a * size, m)]
        return words, block_words, range_words


def plan_convolution(c: Convolution, target: Target) -> ConvPlan:
    """Tiles as wide as the columns allow."""
    vectors, widest = -(-c.n // target.lanes(c.dtype)), wide_tile(target, 0)
    wide = wide_tile(target, vectors)
    if vectors > widest.vectors and vectors % widest.vectors and vectors % 3 == 0 and widest.vectors > 3:
        wide = wide_tile(target, 3)
    wide_panels, narrow_panels = divmod(vectors, wide.vectors)
    return ConvPlan(c, target, wide, wide_panels, narrow_panels)


def row_words(free: int) -> int:
    """Words of a segment with this many free axes."""
    return len(SEGMENT) + 3 * free


SEGMENT = ("first", "rows", "chunk_rows", "place", "a", "b", "m", "blocks", "ranges", "range_count", "a_step", "b_step")
