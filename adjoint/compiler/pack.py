"""Packing: one panel of an operand laid out as the microkernel reads it, dst[k][0 .. width), rows of `dst_step` bytes.

Three emitted functions share one signature, void(dst, src, width, k, stride_w, stride_k, dst_step) with strides in bytes: "copy"
where consecutive w lie together, "transpose" where consecutive k do (squares of lanes x lanes turned in registers), "gather" for any
strides. Lanes past `width` hold anything: they end in lanes of C that nobody stores. May import: llvmlite, flow.py, target.py.
Read next: matmul.py.
"""

from __future__ import annotations

import llvmlite.ir as ir
import numpy as np

from adjoint.compiler.flow import (
    I32,
    I64,
    PTR,
    VOID,
    at,
    counted_loop,
    element_type,
    i64,
    lanes_below,
    masked_load,
    minimum,
    times,
)  # fmt: skip
from adjoint.compiler.target import Target, mark


def packer(module: ir.Module, target: Target, dtype: np.dtype, stride_w: int, stride_k: int, k: int) -> ir.Function:
    """The function that packs panels whose source has these strides (in elements) and extent k."""
    if stride_w == 1:
        kind, emit = "copy", _emit_copy
    elif stride_k == 1 and k >= target.lanes(dtype):
        kind, emit = "transpose", _emit_transpose
    else:
        kind, emit = "gather", _emit_gather
    name = f"pack_{kind}_{np.dtype(dtype).name}"
    if name in module.globals:
        return module.globals[name]
    signature = ir.FunctionType(VOID, [PTR, PTR, I64, I64, I64, I64, I64])
    function = mark(ir.Function(module, signature, name), target)
    function.linkage = "internal"
    function.attributes.add("noinline")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    emit(builder, function, target.lanes(dtype), np.dtype(dtype))
    builder.ret_void()
    return function


def _emit_copy(builder: ir.IRBuilder, function: ir.Function, lanes: int, dtype: np.dtype) -> None:
    """Row by row of k: whole vectors, then one masked vector."""
    dst, src, width, k, _, stride_k, dst_step = function.args
    size = dtype.itemsize
    vector = ir.VectorType(element_type(dtype), lanes)
    whole = builder.and_(width, i64(-lanes))
    mask = lanes_below(builder, builder.sub(width, whole), lanes)
    with counted_loop(builder, i64(0), k) as row:
        source = at(builder, src, builder.mul(row, stride_k))
        target_row = at(builder, dst, builder.mul(row, dst_step))
        with counted_loop(builder, i64(0), whole, lanes) as w:
            place = times(builder, w, size)
            value = builder.load(at(builder, source, place), typ=vector, align=size)
            builder.store(value, at(builder, target_row, place), align=size)
        with builder.if_then(builder.icmp_signed("<", whole, width)):
            place = times(builder, whole, size)
            value = masked_load(builder, at(builder, source, place), mask, vector)
            builder.store(value, at(builder, target_row, place), align=size)


def _emit_transpose(builder: ir.IRBuilder, function: ir.Function, lanes: int, dtype: np.dtype) -> None:
    """Squares of lanes x lanes; the last rows are clamped, the last columns of k overlap (the same values are stored again)."""
    dst, src, width, k, stride_w, _, dst_step = function.args
    size = dtype.itemsize
    vector = ir.VectorType(element_type(dtype), lanes)
    last = builder.sub(width, i64(1))
    last_k = builder.sub(k, i64(lanes))
    with counted_loop(builder, i64(0), width, lanes) as w:
        rows = [minimum(builder, builder.add(w, i64(i)), last) for i in range(lanes)]
        sources = [at(builder, src, builder.mul(row, stride_w)) for row in rows]
        column = at(builder, dst, times(builder, w, size))
        with counted_loop(builder, i64(0), k, lanes) as step:
            first = minimum(builder, step, last_k)
            place = times(builder, first, size)
            square = [builder.load(at(builder, source, place), typ=vector, align=size) for source in sources]
            out = at(builder, column, builder.mul(first, dst_step))
            for i, value in enumerate(_transposed(builder, square, 16 // size)):
                builder.store(value, at(builder, out, builder.mul(dst_step, i64(i))), align=size)


def _emit_gather(builder: ir.IRBuilder, function: ir.Function, lanes: int, dtype: np.dtype) -> None:
    """Element by element, for strides that no vector load follows (and for k shorter than a vector)."""
    dst, src, width, k, stride_w, stride_k, dst_step = function.args
    element = element_type(dtype)
    with counted_loop(builder, i64(0), k) as row:
        source = at(builder, src, builder.mul(row, stride_k))
        target_row = at(builder, dst, builder.mul(row, dst_step))
        with counted_loop(builder, i64(0), width) as w:
            value = builder.load(at(builder, source, builder.mul(w, stride_w)), typ=element, align=dtype.itemsize)
            builder.store(value, at(builder, target_row, times(builder, w, dtype.itemsize)), align=dtype.itemsize)


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
