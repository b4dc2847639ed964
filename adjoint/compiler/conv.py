"""Convolution: tiles of C from A read in place, by the same microkernels as the matrix product, with tables of rows and of blocks.

One function serves all convolutions of a module with as many free axes. A work item is (batch element, band, chunk of rows or span, panel
of columns), panels fastest; or (batch element, panel, span), spans fastest, where a thread takes spans together. Every element of C is
summed serially over k with fma from zero: pieces, stretches, chunks, bands and parts never change a bit.
May import: llvmlite, loops, flow, target, microkernel, convplan, matmul. Read next: pieces.py.
"""

from __future__ import annotations

import hashlib

import llvmlite.ir as ir
from msgspec import Struct

from .convplan import SEGMENT, ConvPlan, plan_convolution, row_words
from .flow import (
    BYTE,
    I1,
    I64,
    PTR,
    VOID,
    Fields,
    at,
    call_pointer,
    counted_loop,
    element_type,
    i64,
    lanes_below,
    minimum,
    record,
    times,
)
from .loops import Convolution
from .matmul import COST_OF_CYCLE, STEP_TYPE, EmitEpilogue, Step
from .microkernel import WINDOW_TYPE, Tile, stretch_kernel, window_kernel
from .product import EmitPoll
from .target import Target, mark

SHAPE = ("joint", "panels", "wide_panels", "chunks", "bands", "n", "a_batch", "b_batch", "turns", "ranges", "a_turn", "b_turn", "buffered",
         "finishes_tiles", "stretch", "m_step")
PANELS = ("rows", "width", "first_column", "tile_row", "b_panel")
SPAN = ("begin", "end", "chunks")
RANGE = ("begin", "blocks", "terms")
# void(buffers, b, ms, count, n, columns, tile, tile_row, stretch, m_step): the epilogue over `columns` elements of the rows of a buffered
# tile: `count` stretches of so many rows, the first of each at its entry of ms, the others m_step further each.
EPILOGUE_TYPE = ir.FunctionType(VOID, [PTR, I64, PTR, I64, I64, I64, PTR, I64, I64, I64])
# void(begin, end, control, buffers, tile, rows, ms, epilogue, a, b, shape, spans, segments, blocks, ranges, then kernel and record
# of wide and of narrow panels)
TILES_TYPE = ir.FunctionType(VOID, [I64, I64, *[PTR] * 17])


def lower_convolution(module: ir.Module, c: Convolution, emit_epilogue: EmitEpilogue, target: Target,
                      emit_poll: EmitPoll | None = None) -> tuple[Step, ...]:
    """The functions of a convolution, added to `module`. See matmul.EmitEpilogue, product.EmitPoll."""
    plans = plan_convolution(c, target)
    outside = [plan for plan in plans if not plan.is_short]
    epilogue = _emit_epilogue_function(module, outside[0], emit_epilogue) if outside else ir.Constant(PTR, None)
    return tuple(_emit_step(module, plan, epilogue, emit_epilogue, emit_poll) for plan in plans)


def _emit_step(module: ir.Module, plan: ConvPlan, epilogue: ir.Value, emit_epilogue: EmitEpilogue, emit_poll: EmitPoll | None) -> Step:
    """One call of the shared loops."""
    c, target = plan.convolution, plan.target
    function = mark(ir.Function(module, STEP_TYPE, module.get_unique_name(c.name)), target)
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    buffers, begin, end, _, control = function.args
    tile, rows, ms = (builder.alloca(ir.ArrayType(BYTE, size)) for size in (plan.tile_bytes, 8 * plan.table_rows, 8 * plan.table_rows))
    tile.align = 64
    a, b = (builder.load(at(builder, buffers, i64(8 * operand.buffer)), typ=PTR, align=8) for operand in (c.a, c.b))
    segments, blocks, ranges = plan.segment_words()
    tables = [_table(module, words) for words in (plan.span_words(), segments, blocks, ranges)]
    shape = _table(module, list(plan.shape_record().values()))
    arguments = [begin, end, control, buffers, tile, rows, ms, epilogue, a, b, shape, *tables]
    kernels = [(_kernel(module, plan, each, emit_epilogue), _table(module, list(plan.panels_record(each).values()))) for each in plan.tiles]
    arguments += [*kernels[0], *kernels[-1]]
    builder.call(_tiles_function(module, target, len(c.free), emit_poll), arguments)
    builder.ret_void()
    return Step(function, plan.extent, COST_OF_CYCLE * plan.cycles)


def _kernel(module: ir.Module, plan: ConvPlan, tile: Tile, emit_epilogue: EmitEpilogue) -> ir.Function:
    """The microkernel of one tile, for rows of tables or for stretches; the epilogue is inside if the sum is short."""
    c, stretch, lanes = plan.convolution, plan.stretch, plan.lanes
    if stretch is None:
        return window_kernel(module, plan.target, c.dtype, tile)

    def finish(builder: ir.IRBuilder, place: tuple[ir.Value, ...], values: list[tuple[int, int, ir.Value]]) -> None:
        buffers, batch, m, n = place
        for r, v, value in values:
            column = builder.add(n, i64(v * lanes))
            mask = lanes_below(builder, builder.sub(i64(c.n), column), lanes) if c.n % lanes else None
            emit_epilogue(builder, c, buffers, value, batch, builder.add(m, i64(r * stretch.m)), column, mask)
    return stretch_kernel(module, plan.target, c.dtype, tile, stretch.a * plan.size, finish if plan.is_short else None)


def _table(module: ir.Module, words: list[int]) -> ir.GlobalVariable:
    """A constant with these words; equal ones are one."""
    name = "window_table_" + hashlib.sha256(repr(words).encode()).hexdigest()[:24]
    return module.globals.get(name) or record(module, name, dict(enumerate(words or [0])))


def _emit_epilogue_function(module: ir.Module, plan: ConvPlan, emit_epilogue: EmitEpilogue) -> ir.Function:
    """The function of EPILOGUE_TYPE of this convolution."""
    c = plan.convolution
    function = mark(ir.Function(module, EPILOGUE_TYPE, module.get_unique_name(c.name + "_epilogue")), plan.target)
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    buffers, b, ms, count, n, columns, tile, tile_row, stretch, m_step = function.args
    vector = ir.VectorType(element_type(c.dtype), plan.lanes)
    with counted_loop(builder, i64(0), count) as number, counted_loop(builder, i64(0), stretch) as row:
        line = at(builder, tile, builder.mul(builder.add(builder.mul(number, stretch), row), tile_row))
        m = builder.add(builder.load(at(builder, ms, times(builder, number, 8)), typ=I64, align=8), builder.mul(row, m_step))
        with counted_loop(builder, i64(0), columns, plan.lanes) as column:
            value = builder.load(at(builder, line, times(builder, column, plan.size)), typ=vector, align=plan.size)
            mask = lanes_below(builder, builder.sub(columns, column), plan.lanes) if c.n % plan.lanes else None
            emit_epilogue(builder, c, buffers, value, b, m, builder.add(n, column), mask)
    builder.ret_void()
    return function


def _tiles_function(module: ir.Module, target: Target, free: int, emit_poll: EmitPoll | None) -> ir.Function:
    """The function of TILES_TYPE for convolutions with this many free axes."""
    name = f"window_tiles_{free}" + ("_polled" if emit_poll else "")
    if name in module.globals:
        return module.globals[name]
    function = mark(ir.Function(module, TILES_TYPE, name), target)
    function.linkage = "internal"
    function.attributes.add("noinline")
    _Tiles(function, free, emit_poll)
    return function


class _Panel(Struct, frozen=True):
    """The panel of the current work item: its kernel, its record, where it begins in B and in C, its columns."""

    kernel: ir.Value
    fields: Fields
    a: ir.Value
    b: ir.Value
    batch: ir.Value
    n: ir.Value
    columns: ir.Value


class _Segment(Struct, frozen=True):
    """A segment and the rows of it that the work item takes: `count` from `begin` on, listed so many bytes into the tables."""

    record: ir.Value
    fields: Fields
    begin: ir.Value
    count: ir.Value
    listed: ir.Value


class _Tiles:
    """The function while it is written."""

    def __init__(self, function: ir.Function, free: int, emit_poll: EmitPoll | None) -> None:
        self.builder = builder = ir.IRBuilder(function.append_basic_block("entry"))
        begin, end, control, self.buffers, self.tile, self.rows, self.ms, self.epilogue, self.a, self.b, shape, *rest = function.args
        self.spans, self.segments, self.blocks, self.ranges, *self.kernels = rest
        self.free, self.shape = free, Fields(builder, shape, SHAPE)
        joint = self.shape["joint"]
        after = builder.udiv(builder.add(end, builder.sub(joint, i64(1))), joint)
        with counted_loop(builder, builder.udiv(begin, joint), after) as lot:
            if emit_poll is not None:
                with builder.if_then(emit_poll(builder, control)):
                    builder.ret_void()
            place = builder.mul(lot, joint)
            first = builder.select(builder.icmp_signed("<", place, begin), builder.sub(begin, place), i64(0))
            self.lot(lot, first, minimum(builder, builder.sub(builder.sub(end, place), i64(1)), builder.sub(joint, i64(1))))
        builder.ret_void()

    def lot(self, lot: ir.Value, first: ir.Value, last: ir.Value) -> None:
        """One panel of one chunk, or of the spans first .. last, which take every part of the sum together."""
        builder, shape = self.builder, self.shape
        rest = builder.udiv(lot, shape["panels"])
        panel = builder.sub(lot, builder.mul(rest, shape["panels"]))
        above = builder.udiv(rest, shape["chunks"])
        number = builder.sub(rest, builder.mul(above, shape["chunks"]))
        (span, chunk), (last_span, _) = (self.find(builder.add(number, each)) for each in (first, last))
        begin, end = span["begin"], last_span["end"]
        batch = builder.udiv(above, shape["bands"])
        band = builder.sub(above, builder.mul(batch, shape["bands"]))
        chosen = self.choose(panel, batch)
        with counted_loop(builder, begin, end) as number:
            self.list_rows(self.segment(number, band, chunk), chosen.fields["rows"])
        with (counted_loop(builder, i64(0), shape["turns"]) as turn, counted_loop(builder, i64(0), shape["ranges"]) as index,
              counted_loop(builder, begin, end) as number):
            segment = self.segment(number, band, chunk)
            with builder.if_then(builder.icmp_signed("<", index, segment.fields["range_count"])):
                self.sum(chosen, turn, index, segment)
        with (builder.if_then(self.is_buffered()), counted_loop(builder, begin, end) as number):
            segment = self.segment(number, band, chunk)
            tile = at(builder, self.tile, builder.mul(segment.fields["place"], chosen.fields["tile_row"]))
            self.finish(chosen, at(builder, self.ms, segment.listed), segment.count, tile)

    def find(self, number: ir.Value) -> tuple[Fields, ir.Value]:
        """The span that a chunk belongs to, and which of its chunks it is."""
        builder, before = self.builder, self.builder.block
        look, found = builder.append_basic_block("look"), builder.append_basic_block("found")
        builder.branch(look)
        builder.position_at_end(look)
        place, left = builder.phi(PTR), builder.phi(I64)
        chunks = Fields(builder, place, SPAN)["chunks"]
        further, less = at(builder, place, i64(8 * len(SPAN))), builder.sub(left, chunks)
        for phi, first, following in ((place, self.spans, further), (left, number, less)):
            phi.add_incoming(first, before)
            phi.add_incoming(following, look)
        builder.cbranch(builder.icmp_signed("<", left, chunks), found, look)
        builder.position_at_end(found)
        return Fields(builder, place, SPAN), left

    def choose(self, panel: ir.Value, batch: ir.Value) -> _Panel:
        """The wide panels come first."""
        builder, shape = self.builder, self.shape
        wide = builder.icmp_signed("<", panel, shape["wide_panels"])
        kernel, words = (builder.select(wide, a, b) for a, b in zip(self.kernels[:2], self.kernels[2:], strict=True))
        fields = Fields(builder, words, PANELS)
        number = builder.select(wide, panel, builder.sub(panel, shape["wide_panels"]))
        n = builder.add(fields["first_column"], builder.mul(number, fields["width"]))
        columns = minimum(builder, builder.sub(shape["n"], n), fields["width"])
        first = builder.mul(fields["first_column"], builder.udiv(fields["b_panel"], fields["width"]))
        b = at(builder, self.b, builder.mul(batch, shape["b_batch"]), first, builder.mul(number, fields["b_panel"]))
        return _Panel(kernel, fields, at(builder, self.a, builder.mul(batch, shape["a_batch"])), b, batch, n, columns)

    def segment(self, number: ir.Value, band: ir.Value, chunk: ir.Value) -> _Segment:
        """A segment's record, and the rows of it that belong to this chunk of this band."""
        builder = self.builder
        place = at(builder, self.segments, times(builder, number, 8 * row_words(self.free)))
        fields = Fields(builder, place, SEGMENT)
        begin = builder.mul(chunk, fields["chunk_rows"])
        count = minimum(builder, builder.sub(fields["rows"], begin), fields["chunk_rows"])
        begin = builder.add(begin, builder.mul(band, fields["rows"]))
        return _Segment(place, fields, begin, count, times(builder, fields["place"], 8))

    def sum(self, panel: _Panel, turn: ir.Value, index: ir.Value, segment: _Segment) -> None:
        """One range of blocks for the rows of a segment."""
        builder, shape, fields = self.builder, self.shape, segment.fields
        a = at(builder, panel.a, fields["a"], builder.mul(turn, shape["a_turn"]))
        b = at(builder, panel.b, fields["b"], builder.mul(turn, shape["b_turn"]))
        words = Fields(builder, at(builder, self.ranges, fields["ranges"], times(builder, index, 8 * len(RANGE))), RANGE)
        blocks = at(builder, self.blocks, fields["blocks"], words["begin"])
        arguments = [b, blocks, words["blocks"], words["terms"], fields["a_step"], fields["b_step"]]
        self.call_rows(panel, a, arguments, segment, builder.icmp_signed("<", i64(0), builder.or_(turn, index)))

    def is_buffered(self) -> ir.Value:
        return self.builder.trunc(self.shape["buffered"], I1)

    def call_rows(self, panel: _Panel, a: ir.Value, arguments: list[ir.Value], segment: _Segment, resume: ir.Value) -> None:
        """A call of the microkernel for every few rows."""
        builder, rows, tile_row = self.builder, panel.fields["rows"], panel.fields["tile_row"]
        tile = at(builder, self.tile, builder.mul(segment.fields["place"], tile_row))
        tile_row = builder.select(self.is_buffered(), tile_row, i64(0))
        with counted_loop(builder, i64(0), segment.count, rows) as row:
            place, listed = at(builder, tile, builder.mul(row, tile_row)), builder.add(segment.listed, times(builder, row, 8))
            ms = at(builder, self.ms, listed)
            left = minimum(builder, builder.sub(segment.count, row), rows)
            more = [place, resume, self.buffers, panel.batch, ms, panel.n, left]
            call_pointer(builder, panel.kernel, WINDOW_TYPE, [a, at(builder, self.rows, listed), *arguments, *more])
            with builder.if_then(builder.trunc(self.shape["finishes_tiles"], I1)):
                self.finish(panel, ms, left, place)

    def finish(self, panel: _Panel, ms: ir.Value, count: ir.Value, tile: ir.Value) -> None:
        """The epilogue over some rows."""
        place = [self.buffers, panel.batch, ms, count, panel.n, panel.columns, tile, panel.fields["tile_row"]]
        call_pointer(self.builder, self.epilogue, EPILOGUE_TYPE, [*place, self.shape["stretch"], self.shape["m_step"]])

    def list_rows(self, segment: _Segment, unit: ir.Value) -> None:
        """Where the rows of a segment lie in A, and their m; the last is repeated up to a multiple of `unit`."""
        builder, fields, count = self.builder, segment.fields, segment.count
        axes = [Fields(builder, at(builder, segment.record, i64(8 * (len(SEGMENT) + 3 * i))), ("n", "a", "m")) for i in range(self.free)]
        number, starts, a, m = builder.add(fields["first"], segment.begin), [], i64(0), fields["m"]
        for axis in reversed(axes):
            above = builder.udiv(number, axis["n"])
            starts.insert(0, builder.sub(number, builder.mul(above, axis["n"])))
            a, m = (builder.add(sum_, builder.mul(starts[0], axis[name])) for sum_, name in ((a, "a"), (m, "m")))
            number = above
        end = builder.mul(builder.udiv(builder.add(count, builder.sub(unit, i64(1))), unit), unit)
        before = builder.block
        with counted_loop(builder, i64(0), end) as row:
            phis = [builder.phi(I64) for _ in (a, m, *starts)]
            for table, value in ((self.rows, phis[0]), (self.ms, phis[1])):
                builder.store(value, at(builder, table, segment.listed, times(builder, row, 8)), align=8)
            carry = builder.zext(builder.icmp_signed("<", builder.add(row, i64(1)), count), I64)
            for phi, first, value in zip(phis, (a, m, *starts), self.following(axes, phis, carry), strict=True):
                phi.add_incoming(first, before)
                phi.add_incoming(value, builder.block)

    def following(self, axes: list[Fields], state: list[ir.Value], carry: ir.Value) -> list[ir.Value]:
        """The next row: (place in A, m, index along every axis), if carry is 1; the same one if it is 0."""
        builder, (a, m, *indices) = self.builder, state
        after: list[ir.Value] = []
        for axis, index in zip(reversed(axes), reversed(indices), strict=True):
            index, n = builder.add(index, carry), axis["n"]
            full = builder.icmp_signed("==", index, n)
            back = builder.select(full, builder.sub(carry, n), carry)
            a, m = (builder.add(sum_, builder.mul(back, axis[name])) for sum_, name in ((a, "a"), (m, "m")))
            after.insert(0, builder.select(full, i64(0), index))
            carry = builder.zext(full, I64)
        return [a, m, *after]
