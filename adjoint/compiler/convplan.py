"""How a Convolution is cut for the machine: tiles, chunks of rows, blocks of the sum; and the tables that its loops read.

Rows at equal distances go by stretches, each a tile with one address; the others by tables that say where every row lies, so tiles run
across the ends of image rows. Terms of the sum are blocks of constant steps, listed in a table too: the microkernel keeps its sums in
registers from block to block. Long sums (the gradients of weights) are taken a part of their first axis at a time, for all rows of all
spans of a thread, so A and B are read from memory once. A plan is a pure function of the convolution and the target.
May import: loops, microkernel, pieces, target. Read next: conv.py.
"""

from __future__ import annotations

import itertools
from functools import cached_property
from math import gcd, lcm

from msgspec import Struct
from msgspec.structs import replace

from .loops import Convolution
from .microkernel import Tile, narrow_tile, wide_tile
from .pieces import Piece, cut
from .target import Target

K_BLOCK = 1024           # terms taken at a time: their rows of B stay in the second cache level
CHUNK_ROWS = 96          # rows of a work item whose sum is short
SPAN_ROWS = 384          # most rows of a span: their sums wait in the cache
MOST_SPANNED = 1 << 14   # rows of a result that may be listed span by span
FIRST_CACHE = 5 * 2**12  # bytes that surely stay in it
BAND_BYTES = 2**17       # of the result that pieces fill by turns
SHORT = 128              # most terms of a short sum
LONGEST = 16             # most rows of a stretch
MOST_ROWS = 9            # most rows of a tile whose addresses, told by a table, stay in registers
FEWEST_SUMS = 8          # vectors of a tile that hide the latency of fma
TABLE = 512              # entries of the table of blocks that stay in the first cache level


class Segment(Struct, frozen=True):
    """Rows first .. first + rows of a piece, in chunks; its sums begin `place` rows into the buffer of its span."""

    piece: int
    first: int
    rows: int
    chunk_rows: int
    place: int


class Stretch(Struct, frozen=True):
    """Rows at equal distances that one entry of the tables stands for: how many, how far apart in A (in elements) and in m."""

    rows: int
    a: int
    m: int


class ConvPlan(Struct, frozen=True, dict=True):
    """The cut of one convolution, or of some of its pieces. stretch: the rows of a piece count stretches, each a tile."""

    convolution: Convolution
    target: Target
    wide: Tile
    narrow: Tile
    wide_panels: int
    narrow_panels: int
    pieces: tuple[Piece, ...]
    stretch: Stretch | None = None

    # -- columns ------------------------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        return self.convolution.dtype.itemsize

    @property
    def lanes(self) -> int:
        return self.target.lanes(self.convolution.dtype)

    def entries(self, tile: Tile) -> int:
        """Entries of the tables of rows for one tile."""
        return 1 if self.stretch else tile.rows

    @property
    def is_short(self) -> bool:
        """Whether so few terms are summed that the epilogue should take the sums from registers, in a kernel of its own."""
        return self.stretch is not None and self.convolution.k <= SHORT

    @property
    def panels(self) -> int:
        return self.wide_panels + self.narrow_panels

    @property
    def wide_columns(self) -> int:
        return self.wide_panels * self.wide.vectors * self.lanes

    @property
    def unit(self) -> int:
        """Rows are listed in multiples of it."""
        return lcm(*map(self.entries, self.tiles))

    @property
    def tiles(self) -> dict[Tile, int]:
        """Tiles in use, and how many panels have them."""
        return {tile: n for tile, n in ((self.wide, self.wide_panels), (self.narrow, self.narrow_panels)) if n}

    # -- the sum ------------------------------------------------------------------------------------------------------

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
            rows = max(1, CHUNK_ROWS // self.stretch.rows) if self.stretch else CHUNK_ROWS // unit * unit
            return [[Segment(i, 0, piece.row_count // self.bands, rows, 0)] for i, piece in enumerate(self.pieces)]
        total = sum(piece.row_count for piece in self.pieces)
        count = -(-total // SPAN_ROWS)
        count += count % 2
        rows = -(-total // count)
        most = rows if rows < unit else -(-rows // unit) * unit
        spans: list[list[Segment]] = [[]]
        room, place = most, 0
        for i, piece in enumerate(self.pieces):
            first = 0
            while first < piece.row_count:
                if room <= 0:
                    spans.append([])
                    room, place = most, place if total <= SPAN_ROWS else 0
                rows = min(room, piece.row_count - first)
                spans[-1].append(Segment(i, first, rows, rows, place))
                place += -(-rows // unit) * unit
                first, room = first + rows, room - rows
        return spans

    @cached_property
    def bands(self) -> int:
        """Equal shares of the rows, done one after the other where rows of all pieces take turns in m: so they meet in the cache."""
        c, rows = self.convolution, gcd(*(piece.row_count for piece in self.pieces))
        wanted = c.m * c.n * self.size // BAND_BYTES if self.stretch and self.stretch.m > 1 else 1
        return max((n for n in range(1, min(wanted, rows) + 1) if rows % n == 0), default=1)

    @property
    def joint(self) -> int:
        """Work items that go through the sum together where one thread has them: all spans, if the buffer has room for their sums."""
        return len(self.spans) if self.turns > 1 and sum(piece.row_count for piece in self.pieces) <= SPAN_ROWS else 1

    @property
    def segments(self) -> list[Segment]:
        return [segment for span in self.spans for segment in span]

    @property
    def chunks(self) -> int:
        """Work items of one panel of one band of one batch element."""
        return sum(-(-span[0].rows // span[0].chunk_rows) if len(span) == 1 else 1 for span in self.spans)

    @property
    def extent(self) -> int:
        return self.convolution.batch * self.bands * self.chunks * self.panels

    @property
    def table_rows(self) -> int:
        """Entries of the tables of rows."""
        return max(s.place + -(-s.chunk_rows // self.unit) * self.unit for s in self.segments)

    @property
    def buffer_rows(self) -> int:
        return self.table_rows if self.buffered else self.stretch.rows if self.stretch else self.unit

    @property
    def tile_bytes(self) -> int:
        return self.buffer_rows * max(self.wide.vectors if self.wide_panels else 1, 1) * self.lanes * self.size

    @property
    def cycles(self) -> float:
        """A rough count: two fma a cycle, a block that begins, a tile that ends."""
        total = 0.0
        for piece, (blocks, _, _) in zip(self.pieces, self.cuts, strict=True):
            for tile, panels in self.tiles.items():
                step = max(4.0, tile.rows * tile.vectors * 0.55)
                count = -(-piece.row_count // self.entries(tile)) * panels
                total += count * (100.0 + piece.terms * step + 6.0 * len(blocks) * self.turns)
        return total * self.convolution.batch

    # -- records ------------------------------------------------------------------------------------------------------

    def shape_record(self) -> dict[str, int]:
        """The fields of conv.SHAPE."""
        c, size = self.convolution, self.size
        a_turn, b_turn = (self.part * s * size if self.part else 0 for s in (c.a.strides[1 + len(c.free)], c.b.strides[1]))
        return {
            "joint": max(1, self.joint), "panels": max(1, self.panels), "wide_panels": self.wide_panels,
            "chunks": 1 if self.joint > 1 else max(1, self.chunks), "bands": self.bands, "n": c.n,
            "a_batch": c.a.strides[0] * size, "b_batch": c.b.strides[0] * size, "turns": self.turns,
            "ranges": max(len(ranges) for _, ranges, _ in self.cuts), "a_turn": a_turn, "b_turn": b_turn,
            "buffered": int(self.buffered), "finishes_tiles": int(not self.buffered and not self.is_short),
            "stretch": self.stretch.rows if self.stretch else 1, "m_step": self.stretch.m if self.stretch else 0,
        }  # fmt: skip

    def panels_record(self, tile: Tile) -> dict[str, int]:
        """The fields of conv.PANELS."""
        width, first = tile.vectors * self.lanes, 0 if tile == self.wide else self.wide_columns
        rows = self.spans[0][0].chunk_rows if self.is_short else self.entries(tile)
        return {"rows": rows, "width": width, "first_column": first, "tile_row": width * self.size, "b_panel": width * self.size}

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


def plan_convolution(c: Convolution, target: Target) -> tuple[ConvPlan, ...]:
    """Tiles as wide as the columns allow. Sums that stay in registers go by stretches, and what these leave over by rows."""
    vectors, widest = -(-c.n // target.lanes(c.dtype)), wide_tile(target, 0)
    wide = wide_tile(target, vectors)
    if vectors > widest.vectors and vectors % widest.vectors and vectors % 3 == 0 and widest.vectors > 3:
        wide = wide_tile(target, 3)
    wide_panels, narrow_panels = divmod(vectors, wide.vectors)
    plan = ConvPlan(c, target, wide, narrow_tile(2), wide_panels, narrow_panels, tuple(cut(c)))
    return (_of_least_work(plan),) if plan.buffered else _in_stretches(plan)


def _of_least_work(plan: ConvPlan) -> ConvPlan:
    """The plan with as many rows in its tiles as compute least: the slowest span counts, as threads share them."""
    def work(plan: ConvPlan) -> tuple[int, int]:
        of = lambda rows: sum(-(-rows // tile.rows) * _issued(tile.rows, tile.vectors) * panels for tile, panels in plan.tiles.items())
        return len(plan.spans) * max(sum(of(segment.rows) for segment in span) for span in plan.spans), -plan.unit

    def choices(tile: Tile, panels: int) -> list[Tile]:
        most = min(MOST_ROWS, _most_rows(plan.target, tile.vectors))
        return [Tile(rows, tile.vectors) for rows in range(2, most + 1)] if panels else [tile]
    tiles = itertools.product(choices(plan.wide, plan.wide_panels), choices(plan.narrow, plan.narrow_panels))
    return min((replace(plan, wide=wide, narrow=narrow) for wide, narrow in tiles), key=work)


def _issued(rows: int, vectors: int) -> int:
    """What a term of a tile takes, in half cycles: as many fma, or as many loads, and no less than the latency of fma."""
    return max(rows * vectors, rows + vectors, FEWEST_SUMS)


def _most_rows(target: Target, vectors: int) -> int:
    """Rows whose sums fit into registers, beside a row of B and an element of A."""
    return (target.vector_registers - 2) // vectors - 1


def _in_stretches(plan: ConvPlan) -> tuple[ConvPlan, ...]:
    """The plan in two: stretches that suit the longest run in the piece with most work, then the rows that no stretch covers."""
    vectors = plan.wide.vectors if plan.wide_panels else 1
    run, a, m = _merged(plan.pieces[0].rows)[-1]
    most, fewest = min(run, LONGEST, _most_rows(plan.target, vectors)), -(-FEWEST_SUMS // vectors)
    if most < fewest:
        return (plan,)
    effort = lambda rows: (run // rows * (rows * vectors + 4) + run % rows * 2 * vectors, run % rows)
    stretch = Stretch(min(range(fewest, most + 1), key=effort), a, m)
    covered, left = [], []
    for piece in plan.pieces:
        *outer, (count, a, m) = _merged(piece.rows)
        whole = count - count % stretch.rows if (a, m) == (stretch.a, stretch.m) else 0
        if whole:
            covered.append(replace(piece, rows=(*outer, (whole // stretch.rows, a * stretch.rows, m * stretch.rows))))
        if count > whole:
            left.append(replace(piece, rows=(*outer, (count - whole, a, m)), a=piece.a + whole * a, m=piece.m + whole * m))
    tiles = {"wide": Tile(stretch.rows, plan.wide.vectors), "narrow": Tile(stretch.rows, 1)}
    first = replace(plan, **tiles, pieces=tuple(covered), stretch=stretch)
    return (first, replace(plan, pieces=tuple(left))) if left else (first,)


def _merged(rows: tuple[tuple[int, int, int], ...]) -> list[tuple[int, int, int]]:
    """As many axes, with the last ones that are one walk together as one."""
    *outer, last = rows
    while outer and (last[0] == 1 or outer[-1][0] == 1 or outer[-1][1:] == (last[0] * last[1], last[0] * last[2])):
        above = outer.pop()
        last = above if last[0] == 1 else (above[0] * last[0], *last[1:])
    return [(1, 0, 0)] * (len(rows) - 1 - len(outer)) + outer + [last]


def row_words(free: int) -> int:
    """Words of a segment with this many free axes."""
    return len(SEGMENT) + 3 * free


SEGMENT = ("first", "rows", "chunk_rows", "place", "a", "b", "m", "blocks", "ranges", "range_count", "a_step", "b_step")
