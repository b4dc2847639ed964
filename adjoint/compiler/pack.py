"""Packing: an operand laid out as the microkernel reads it, so that a panel of B or a block of rows of A is one stream.

B becomes panels [k][width], A blocks [k][rows]. Where the source runs along k, squares of lanes x lanes are turned in registers;
where it runs across, whole rows of the source are copied, every panel of a row in turn, so each page is read once. Lanes past the
last valid column hold anything: they end in lanes of C that nobody stores. May import: llvmlite, flow.py, target.py.
Read next: matmul.py.
"""

from __future__ import annotations

from collections.abc import Callable

import llvmlite.ir as ir
import numpy as np

from adjoint.compiler.flow import (
    I32, I64, PTR, VOID, at, counted_loop, element_type, i64, lanes_below, masked_load, minimum, times,
)  # fmt: skip
from adjoint.compiler.target import Target, mark


def copy_panels(module: ir.Module, target: Target, dtype: np.dtype) -> ir.Function:
    """void(dst, src, columns, k, src_row, width, panel): rows of consecutive columns into panels; src_row and panel in bytes."""
    return _function(module, target, dtype, "copy_panels", _emit_copy_panels)


def copy_blocks(module: ir.Module, target: Target, dtype: np.dtype, rows: int) -> ir.Function:
    """void(dst, src, m, k, src_row, _, block): rows of consecutive m into blocks of `rows`; the last block may be partial."""
    emit = lambda *arguments: _emit_copy_blocks(*arguments, rows)
    return _function(module, target, dtype, f"copy_blocks_{rows}", emit)


def turn_group(module: ir.Module, target: Target, dtype: np.dtype, stride_k: int, k: int) -> ir.Function:
    """void(dst, src, width, k, src_w, src_k, dst_row): at most a vector's width of columns, whose source does not run across."""
    if stride_k == 1 and k >= target.lanes(dtype):
        return _function(module, target, dtype, "transpose_group", _emit_transpose)
    return _function(module, target, dtype, "gather_group", _emit_gather)


STREAMS = 8              # blocks of A written side by side: eight pages stay in the translation buffer

_Emit = Callable[[ir.IRBuilder, ir.Function, int, np.dtype], None]


def _function(module: ir.Module, target: Target, dtype: np.dtype, kind: str, emit: _Emit) -> ir.Function:
    name = f"pack_{kind}_{dtype.name}"
    if name in module.globals:
        return module.globals[name]
    function = mark(ir.Function(module, ir.FunctionType(VOID, [PTR, PTR, I64, I64, I64, I64, I64]), name), target)
    function.linkage = "internal"
    function.attributes.add("noinline")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    emit(builder, function, target.lanes(dtype), dtype)
    builder.ret_void()
    return function


def _emit_copy_panels(builder: ir.IRBuilder, function: ir.Function, lanes: int, dtype: np.dtype) -> None:
    """Whole vectors, then one masked vector if the columns end inside it."""
    dst, src, columns, k, src_row, width, panel = function.args
    size = dtype.itemsize
    vector = ir.VectorType(element_type(dtype), lanes)
    whole = builder.and_(columns, i64(-lanes))
    dst_row = times(builder, width, size)
    with counted_loop(builder, i64(0), k) as row:
        source = at(builder, src, builder.mul(row, src_row))
        target_row = at(builder, dst, builder.mul(row, dst_row))
        with counted_loop(builder, i64(0), columns, width) as first:
            out = at(builder, target_row, builder.mul(builder.sdiv(first, width), panel))
            last = minimum(builder, builder.add(first, width), whole)
            with counted_loop(builder, first, last, lanes) as w:
                value = builder.load(at(builder, source, times(builder, w, size)), typ=vector, align=size)
                place = at(builder, out, times(builder, builder.sub(w, first), size))
                builder.store(value, place, align=size)
            ends_here = builder.icmp_signed("<", builder.sub(columns, first), width)
            with builder.if_then(builder.and_(ends_here, builder.icmp_signed("<", whole, columns))):
                mask = lanes_below(builder, builder.sub(columns, whole), lanes)
                value = masked_load(builder, at(builder, source, times(builder, whole, size)), mask, vector)
                place = at(builder, out, times(builder, builder.sub(whole, first), size))
                builder.store(value, place, align=size)


def _emit_copy_blocks(
    builder: ir.IRBuilder, function: ir.Function, _: int, dtype: np.dtype, rows: int
) -> None:
    """STREAMS blocks at a time, so lines are read once and few pages written; one short vector of exactly `rows` elements each."""
    dst, src, m, k, src_row, _, block = function.args
    size, element = dtype.itemsize, element_type(dtype)
    vector = ir.VectorType(element, rows)
    blocks = builder.sdiv(m, i64(rows))
    with counted_loop(builder, i64(0), blocks, STREAMS) as first, counted_loop(builder, i64(0), k) as row:
        source = at(builder, src, builder.mul(row, src_row))
        out = at(builder, dst, times(builder, row, rows * size))
        last = minimum(builder, builder.add(first, i64(STREAMS)), blocks)
        with counted_loop(builder, first, last) as index:
            value = builder.load(at(builder, source, times(builder, index, rows * size)), typ=vector, align=size)
            builder.store(value, at(builder, out, builder.mul(index, block)), align=size)
    first_left = times(builder, blocks, rows)
    out = at(builder, dst, builder.mul(blocks, block))
    with counted_loop(builder, first_left, m) as left:
        source = at(builder, src, times(builder, left, size))
        place = at(builder, out, times(builder, builder.sub(left, first_left), size))
        with counted_loop(builder, i64(0), k) as row:
            value = builder.load(at(builder, source, builder.mul(row, src_row)), typ=element, align=size)
            builder.store(value, at(builder, place, times(builder, row, rows * size)), align=size)


def _emit_transpose(builder: ir.IRBuilder, function: ir.Function, lanes: int, dtype: np.dtype) -> None:
    """Squares of lanes x lanes; the last rows are clamped, the last columns of k overlap (the same values are stored again)."""
    dst, src, width, k, src_w, _, dst_row = function.args
    size = dtype.itemsize
    vector = ir.VectorType(element_type(dtype), lanes)
    last = builder.sub(width, i64(1))
    last_k = builder.sub(k, i64(lanes))
    rows = [minimum(builder, i64(i), last) for i in range(lanes)]
    sources = [at(builder, src, builder.mul(row, src_w)) for row in rows]
    with counted_loop(builder, i64(0), k, lanes) as step:
        first = minimum(builder, step, last_k)
        place = times(builder, first, size)
        square = [builder.load(at(builder, source, place), typ=vector, align=size) for source in sources]
        out = at(builder, dst, builder.mul(first, dst_row))
        for i, value in enumerate(_transposed(builder, square, 16 // size)):
            builder.store(value, at(builder, out, builder.mul(dst_row, i64(i))), align=size)


def _emit_gather(builder: ir.IRBuilder, function: ir.Function, _: int, dtype: np.dtype) -> None:
    """Element by element, for strides that no vector load follows (and for k shorter than a vector)."""
    dst, src, width, k, src_w, src_k, dst_row = function.args
    size, element = dtype.itemsize, element_type(dtype)
    with counted_loop(builder, i64(0), k) as row:
        source = at(builder, src, builder.mul(row, src_k))
        target_row = at(builder, dst, builder.mul(row, dst_row))
        with counted_loop(builder, i64(0), width) as w:
            value = builder.load(at(builder, source, builder.mul(w, src_w)), typ=element, align=size)
            builder.store(value, at(builder, target_row, times(builder, w, size)), align=size)


# Two-operand shuffles of four blocks, those of the second operand being 4 .. 7: all are single instructions on x86 and on ARM.
_UNPACK_LOW, _UNPACK_HIGH = (0, 4, 1, 5), (2, 6, 3, 7)
_PAIRS_LOW, _PAIRS_HIGH = (0, 1, 4, 5), (2, 3, 6, 7)
_EVEN, _ODD = (0, 2, 4, 6), (1, 3, 5, 7)


def _transposed(builder: ir.IRBuilder, rows: list[ir.Value], quarter: int) -> list[ir.Value]:
    """The transpose of lanes x lanes: first inside each 16 bytes (`quarter` lanes), then of the 16-byte blocks as units."""
    lanes = len(rows)
    blocks = lanes // quarter
    inside = []
    for first in range(0, lanes, quarter):
        group = rows[first : first + quarter]
        if quarter == 4:
            unpacked = [_inside(builder, *group[:2], _UNPACK_LOW), _inside(builder, *group[:2], _UNPACK_HIGH)]
            unpacked += [_inside(builder, *group[2:], _UNPACK_LOW), _inside(builder, *group[2:], _UNPACK_HIGH)]
            low, high = unpacked[0::2], unpacked[1::2]
            inside += [_inside(builder, *pair, half) for pair in (low, high) for half in (_PAIRS_LOW, _PAIRS_HIGH)]
        else:
            inside += [_inside(builder, *group, half) for half in ((0, 2), (1, 3))]
    columns: list[list[ir.Value]] = [_blocks_transposed(builder, inside[r::quarter], quarter) for r in range(quarter)]
    return [columns[r][g] for g in range(blocks) for r in range(quarter)]


def _blocks_transposed(builder: ir.IRBuilder, rows: list[ir.Value], width: int) -> list[ir.Value]:
    """rows[g] holds blocks x[g][0 ..]; out[g] holds x[0][g], x[1][g] ... for 1, 2 or 4 blocks of `width` lanes."""
    if len(rows) == 1:
        return rows
    if len(rows) == 2:
        return [_units(builder, *rows, pattern, width) for pattern in ((0, 2), (1, 3))]
    low = [_units(builder, *rows[g : g + 2], _PAIRS_LOW, width) for g in (0, 2)]
    high = [_units(builder, *rows[g : g + 2], _PAIRS_HIGH, width) for g in (0, 2)]
    return [_units(builder, *pair, half, width) for pair in (low, high) for half in (_EVEN, _ODD)]


def _units(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, pattern: tuple[int, ...], width: int) -> ir.Value:
    """Shuffle of whole blocks of `width` lanes."""
    indices = [unit * width + lane for unit in pattern for lane in range(width)]
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(indices)), indices))


def _inside(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, pattern: tuple[int, ...]) -> ir.Value:
    """The same shuffle of lanes inside each 16-byte block of a and b."""
    lanes, quarter = a.type.count, len(pattern)
    indices = [
        first + (p if p < quarter else lanes + p - quarter) for first in range(0, lanes, quarter) for p in pattern
    ]
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, lanes), indices))
