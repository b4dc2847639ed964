"""Packing: an operand laid out as the microkernel reads it, so that a panel of B or a block of rows of A is one stream.

B becomes panels [k][width], A blocks [k][rows]. Where the source runs along k, squares are turned in registers; where
it runs across, rows of it are copied into all panels in turn, so each page is read once. Lanes past the last valid
column hold anything: they end in lanes of C that nobody stores. Each function is shared by all contractions of a module
and reads what it must know from a record. May import: llvmlite, flow.py, target.py. Read next: matmul.py.
"""

from __future__ import annotations

from collections.abc import Callable

import llvmlite.ir as ir
import numpy as np

from .flow import (
    I32,
    I64,
    PTR,
    VOID,
    Fields,
    at,
    counted_loop,
    element_type,
    i64,
    lanes_below,
    masked_load,
    minimum,
    prefetch,
    times,
)  # fmt: skip
from .target import Target, mark

STREAMS = 8              # blocks of A written side by side: few enough pages for the translation buffer
K_ROWS = 32              # rows of the source that one parallel work item copies
AHEAD = 32               # rows of a panel between a store and the line asked for meanwhile

# void(dst, src, begin, end, record): work items [begin, end) of packing one operand. Strides and steps in bytes.
PACK_TYPE = ir.FunctionType(VOID, [PTR, PTR, I64, I64, PTR])

# columns: of the source; k: its depth; groups: work items per batch element; dst_batch, src_batch, src_column, src_k:
# strides; the first `wide_columns` go into panels of `width` columns, the others into panels of one vector.
PACK_B = ("columns", "k", "groups", "dst_batch", "src_batch", "src_column", "src_k", "wide_columns", "width")
# m rows, k, work items per batch element, strides; `block` bytes from one block of rows to the next.
PACK_A = ("m", "k", "groups", "dst_batch", "src_batch", "src_k", "block")


def copy_panels(module: ir.Module, target: Target, dtype: np.dtype) -> ir.Function:
    """B with consecutive columns: a work item is K_ROWS rows, into all panels. Record: PACK_B."""
    return _function(module, target, dtype, "copy_panels", _CopyPanels)


def turn_panels(module: ir.Module, target: Target, dtype: np.dtype, stride_k: int, k: int) -> ir.Function:
    """B with other strides: a work item is one vector's width of columns, all k. Record: PACK_B."""
    along = stride_k == 1 and k >= _square(dtype)
    return _function(module, target, dtype, "turn_panels" if along else "gather_panels", _Turn if along else _Gather)


def copy_blocks(module: ir.Module, target: Target, dtype: np.dtype, rows: int) -> ir.Function:
    """A with consecutive m: a work item is K_ROWS of k, into all blocks of `rows` rows. Record: PACK_A."""
    return _function(module, target, dtype, f"copy_blocks_{rows}", lambda *each: _CopyBlocks(*each, rows))


def _square(dtype: np.dtype) -> int:
    """Side of the squares that are turned within the 16 bytes that every vector unit has."""
    return 16 // dtype.itemsize


def _function(
    module: ir.Module, target: Target, dtype: np.dtype, kind: str, emit: Callable[..., object]
) -> ir.Function:
    name = f"pack_{kind}_{dtype.name}"
    if name in module.globals:
        return module.globals[name]
    function = mark(ir.Function(module, PACK_TYPE, name), target)
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    emit(builder, function, target.lanes(dtype), dtype)
    builder.ret_void()
    return function


class _Packing:
    """A packing function while it is written: the loop over work items, each given as (batch element, number)."""

    names: tuple[str, ...] = PACK_B

    def __init__(self, builder: ir.IRBuilder, function: ir.Function, lanes: int, dtype: np.dtype) -> None:
        dst, src, begin, end, pointer = function.args
        self.builder, self.lanes, self.size = builder, lanes, dtype.itemsize
        self.element = element_type(dtype)
        self.vector = ir.VectorType(self.element, lanes)
        self.fields = fields = Fields(builder, pointer, self.names)
        groups = fields["groups"]
        with counted_loop(builder, begin, end) as item:
            b = builder.udiv(item, groups)
            number = builder.sub(item, builder.mul(b, groups))
            place = at(builder, dst, builder.mul(b, fields["dst_batch"]))
            self.emit(place, at(builder, src, builder.mul(b, fields["src_batch"])), number)

    def emit(self, dst: ir.Value, src: ir.Value, number: ir.Value) -> None:
        """One work item of one batch element."""
        raise NotImplementedError

    def move(self, source: ir.Value, place: ir.Value, kind: ir.Type) -> None:
        """One load and one store."""
        value = self.builder.load(source, typ=kind, align=self.size)
        self.builder.store(value, place, align=self.size)

    def rows_of(self, number: ir.Value) -> tuple[ir.Value, ir.Value]:
        """First k and first k after of a work item that copies rows."""
        first = times(self.builder, number, K_ROWS)
        return first, minimum(self.builder, self.builder.add(first, i64(K_ROWS)), self.fields["k"])


class _CopyPanels(_Packing):
    """Wide panels, then narrow ones; in each whole vectors, then one masked vector if the columns end inside it."""

    def emit(self, dst: ir.Value, src: ir.Value, number: ir.Value) -> None:
        builder, fields, size = self.builder, self.fields, self.size
        first, last = self.rows_of(number)
        columns, wide = fields["columns"], fields["wide_columns"]
        depth, src_k = times(builder, fields["k"], size), fields["src_k"]
        with counted_loop(builder, i64(0), i64(2)) as kind:
            is_wide = builder.icmp_signed("==", kind, i64(0))
            begin = builder.select(is_wide, i64(0), wide)
            end = builder.select(is_wide, minimum(builder, wide, columns), columns)
            width = builder.select(is_wide, fields["width"], i64(self.lanes))
            dst_row = times(builder, width, size)
            with counted_loop(builder, first, last) as row:
                source = at(builder, src, builder.mul(row, src_k))
                inside = builder.mul(row, dst_row)
                with counted_loop(builder, begin, end, width) as column:
                    out = at(builder, dst, builder.mul(column, depth), inside)
                    until = minimum(builder, builder.sub(end, column), width)
                    self.copy_row(at(builder, source, times(builder, column, size)), out, until)

    def copy_row(self, source: ir.Value, out: ir.Value, count: ir.Value) -> None:
        """`count` consecutive elements."""
        builder = self.builder
        whole = builder.and_(count, i64(-self.lanes))
        with counted_loop(builder, i64(0), whole, self.lanes) as w:
            place = times(builder, w, self.size)
            self.move(at(builder, source, place), at(builder, out, place), self.vector)
        with builder.if_then(builder.icmp_signed("<", whole, count)):
            place = times(builder, whole, self.size)
            mask = lanes_below(builder, builder.sub(count, whole), self.lanes)
            value = masked_load(builder, at(builder, source, place), mask, self.vector)
            builder.store(value, at(builder, out, place), align=self.size)


class _CopyBlocks(_Packing):
    """STREAMS blocks side by side, so lines are read once; a vector of exactly `rows` elements per block and k."""

    names = PACK_A

    def __init__(
        self, builder: ir.IRBuilder, function: ir.Function, lanes: int, dtype: np.dtype, rows: int
    ) -> None:
        self.rows = rows
        self.lines = rows * dtype.itemsize * STREAMS // 64
        super().__init__(builder, function, lanes, dtype)

    def emit(self, dst: ir.Value, src: ir.Value, number: ir.Value) -> None:
        builder, fields, size, rows = self.builder, self.fields, self.size, self.rows
        first_k, last_k = self.rows_of(number)
        m, src_k, block = fields["m"], fields["src_k"], fields["block"]
        blocks = builder.udiv(m, i64(rows))
        short = ir.VectorType(self.element, rows)
        with counted_loop(builder, i64(0), blocks, STREAMS) as first, counted_loop(builder, first_k, last_k) as row:
            source = at(builder, src, builder.mul(row, src_k))
            out = at(builder, dst, times(builder, row, rows * size))
            last = minimum(builder, builder.add(first, i64(STREAMS)), blocks)
            self.fetch_next_group(src, dst, first, row, first_k, src_k, block)
            with counted_loop(builder, first, last) as index:
                place = at(builder, out, builder.mul(index, block))
                self.move(at(builder, source, times(builder, index, rows * size)), place, short)
        done = times(builder, blocks, rows)
        tail = at(builder, dst, builder.mul(blocks, block))
        with counted_loop(builder, done, m) as left:
            source = at(builder, src, times(builder, left, size))
            out = at(builder, tail, times(builder, builder.sub(left, done), size))
            with counted_loop(builder, first_k, last_k) as row:
                place = at(builder, out, times(builder, row, rows * size))
                self.move(at(builder, source, builder.mul(row, src_k)), place, self.element)


    def fetch_next_group(
        self, src: ir.Value, dst: ir.Value, first: ir.Value, row: ir.Value, first_k: ir.Value, src_k: ir.Value,
        block: ir.Value,
    ) -> None:  # fmt: skip
        """Ask for what the next STREAMS blocks read of this row, and for a share of what they write: a load that shares
        its low address bits with a store still waiting for its line waits with it, and half of them would."""
        builder, size, rows = self.builder, self.size, self.rows
        following = builder.add(first, i64(STREAMS))
        source = at(builder, src, builder.mul(row, src_k), times(builder, following, rows * size))
        number = builder.sub(row, first_k)
        stream = builder.add(following, builder.and_(number, i64(STREAMS - 1)))
        piece = times(builder, builder.udiv(number, i64(STREAMS)), 64 * self.lines)
        begin = times(builder, first_k, rows * size)
        out = at(builder, dst, builder.mul(stream, block), begin, piece)
        for line in range(self.lines):
            prefetch(builder, at(builder, source, i64(64 * line)), nearness=3)
            prefetch(builder, at(builder, out, i64(64 * line)), write=True, nearness=3)


class _Columns(_Packing):
    """Packing by groups of one vector's width of columns, each inside a wide or a narrow panel."""

    def emit(self, dst: ir.Value, src: ir.Value, number: ir.Value) -> None:
        builder, fields, size = self.builder, self.fields, self.size
        n0 = times(builder, number, self.lanes)
        wide = builder.icmp_signed("<", n0, fields["wide_columns"])
        width = builder.select(wide, fields["width"], i64(self.lanes))
        within = builder.urem(n0, width)
        begin = builder.select(wide, builder.sub(n0, within), n0)
        inside = builder.select(wide, times(builder, within, size), i64(0))
        out = at(builder, dst, builder.mul(begin, times(builder, fields["k"], size)), inside)
        source = at(builder, src, builder.mul(n0, fields["src_column"]))
        valid = minimum(builder, builder.sub(fields["columns"], n0), i64(self.lanes))
        self.emit_group(source, out, valid, times(builder, width, size))

    def emit_group(self, source: ir.Value, out: ir.Value, valid: ir.Value, dst_row: ir.Value) -> None:
        """`valid` columns of the source into rows of `dst_row` bytes."""
        raise NotImplementedError


class _Turn(_Columns):
    """Squares inside 16 bytes, as many side by side as a vector holds. Columns past the last valid one are clamped onto
    it; the last k overlap those before, and store the same values again."""

    def emit_group(self, source: ir.Value, out: ir.Value, valid: ir.Value, dst_row: ir.Value) -> None:
        builder, size = self.builder, self.size
        side = 16 // size
        k, src_column = self.fields["k"], self.fields["src_column"]
        last = builder.sub(valid, i64(1))
        sources = [
            at(builder, source, builder.mul(minimum(builder, i64(i), last), src_column)) for i in range(self.lanes)
        ]
        last_k = builder.sub(k, i64(side))
        quarter = ir.VectorType(self.element, side)
        with counted_loop(builder, i64(0), k, side) as step:
            first = minimum(builder, step, last_k)
            place = times(builder, first, size)
            pieces = [builder.load(at(builder, each, place), typ=quarter, align=size) for each in sources]
            rows = [_joined(builder, pieces[i::side]) for i in range(side)]
            begin = at(builder, out, builder.mul(first, dst_row))
            ahead = at(builder, begin, times(builder, dst_row, AHEAD))
            for i in range(side):
                prefetch(builder, at(builder, ahead, times(builder, dst_row, i)), write=True, nearness=3)
            for i, value in enumerate(_turned(builder, rows)):
                builder.store(value, at(builder, begin, times(builder, dst_row, i)), align=size)


class _Gather(_Columns):
    """Element by element, for strides that no vector load follows."""

    def emit_group(self, source: ir.Value, out: ir.Value, valid: ir.Value, dst_row: ir.Value) -> None:
        builder, size = self.builder, self.size
        k, src_column, src_k = self.fields["k"], self.fields["src_column"], self.fields["src_k"]
        with counted_loop(builder, i64(0), k) as row:
            begin = at(builder, source, builder.mul(row, src_k))
            place = at(builder, out, builder.mul(row, dst_row))
            with counted_loop(builder, i64(0), valid) as w:
                element = at(builder, begin, builder.mul(w, src_column))
                self.move(element, at(builder, place, times(builder, w, size)), self.element)


def _joined(builder: ir.IRBuilder, pieces: list[ir.Value]) -> ir.Value:
    """Short vectors one after the other in a longer one."""
    while len(pieces) > 1:
        order = ir.Constant(ir.VectorType(I32, 2 * pieces[0].type.count), list(range(2 * pieces[0].type.count)))
        pieces = [builder.shuffle_vector(a, b, order) for a, b in zip(pieces[0::2], pieces[1::2], strict=True)]
    return pieces[0]


def _turned(builder: ir.IRBuilder, rows: list[ir.Value]) -> list[ir.Value]:
    """The transposes of the squares that lie side by side in `rows`, each 16 bytes wide."""
    if len(rows) == 2:
        return [_inside(builder, *rows, half) for half in ((0, 2), (1, 3))]
    low, high = [[_inside(builder, *rows[i : i + 2], half) for i in (0, 2)] for half in ((0, 4, 1, 5), (2, 6, 3, 7))]
    return [_inside(builder, *pair, half) for pair in (low, high) for half in ((0, 1, 4, 5), (2, 3, 6, 7))]


def _inside(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, pattern: tuple[int, ...]) -> ir.Value:
    """The same shuffle of lanes inside each 16 bytes of a and b; lanes of b follow those of a in `pattern`."""
    lanes, side = a.type.count, len(pattern)
    indices = [first + (p if p < side else lanes + p - side) for first in range(0, lanes, side) for p in pattern]
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, lanes), indices))
