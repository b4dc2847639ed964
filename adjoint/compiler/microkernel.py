"""The microkernel: a tile of C, held in registers, accumulates A B serially over k with fma.

C[r, :] += sum over k of A[r, k] B[k, :] for `rows` x (`vectors` x lanes) elements. All strides are arguments in bytes, so one
function serves every layout of A (plain, transposed, packed, broadcast) and of B (packed or in place) and all call sites of a
module. It has no masks: rows past the last are clamped onto it (they recompute and store the same values), and tiles that C
cannot take whole go through a buffer. May import: llvmlite, flow.py, target.py. Read next: matmul.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import llvmlite.ir as ir
import numpy as np

from adjoint.compiler.flow import I1, I64, PTR, VOID, at, element_type, fused_multiply_add, i64, minimum, splat
from adjoint.compiler.target import Target, mark


@dataclass(frozen=True)
class Tile:
    """The part of C that one call of a microkernel holds in registers: `rows` x `vectors` vectors."""

    rows: int
    vectors: int


def wide_tile(target: Target) -> Tile:
    """The tile that hides the latency of fma and loads least per fma: 24 accumulators of 32 registers, or 12 of 16."""
    return Tile(6, 4) if target.vector_registers >= 32 else Tile(6, 2)


NARROW = Tile(8, 1)
ROW = Tile(1, 8)


def microkernel(module: ir.Module, target: Target, dtype: np.dtype, tile: Tile) -> ir.Function:
    """void(a, b, c, k, a_row, a_step, b_step, c_row, rows, resume): one per tile and dtype in a module, strides in bytes.

    resume: start from the tile in C (a later block of k) instead of zero. 0 <= k; 1 <= rows, of which at most tile.rows are used.
    """
    name = f"microkernel_{np.dtype(dtype).name}_{tile.rows}x{tile.vectors}"
    if name in module.globals:
        return module.globals[name]
    kind = ir.FunctionType(VOID, [PTR, PTR, PTR, I64, I64, I64, I64, I64, I64, I1])
    function = mark(ir.Function(module, kind, name), target)
    function.linkage = "internal"
    function.attributes.add("noinline")
    _Emission(function, target, dtype, tile).emit()
    return function


class _Emission:
    """One microkernel while it is written: entry -> (resume) -> loop over k -> finish."""

    def __init__(self, function: ir.Function, target: Target, dtype: np.dtype, tile: Tile) -> None:
        self.function, self.tile = function, tile
        self.lanes = target.lanes(dtype)
        self.element = element_type(dtype)
        self.vector = ir.VectorType(self.element, self.lanes)
        self.align = np.dtype(dtype).itemsize
        self.places = [(r, v) for r in range(tile.rows) for v in range(tile.vectors)]

    def emit(self) -> None:
        a, b, c, k, a_row, a_step, b_step, c_row, rows, resume = self.function.args
        entry, again, ready, loop, finish = (
            self.function.append_basic_block(n) for n in ("entry", "resume", "ready", "loop", "finish")
        )
        builder = ir.IRBuilder(entry)
        self.a_rows = self._clamped_rows(builder, a, a_row, rows)
        self.c_rows = self._clamped_rows(builder, c, c_row, rows)
        builder.cbranch(resume, again, ready)
        builder.position_at_end(again)
        spilled = [self._load(builder, self.c_rows[r], v) for r, v in self.places]
        builder.branch(ready)
        builder.position_at_end(ready)
        zero = ir.Constant(self.vector, [0.0] * self.lanes)
        start = [self._phi(builder, (zero, entry), (value, again)) for value in spilled]
        builder.cbranch(builder.icmp_signed("<", i64(0), k), loop, finish)
        builder.position_at_end(loop)
        sums = self._accumulate(builder, start, b, k, a_step, b_step, finish)
        builder.position_at_end(finish)
        tile = [self._phi(builder, (before, ready), (after, loop)) for before, after in zip(start, sums, strict=True)]
        for (r, v), value in zip(self.places, tile, strict=True):
            builder.store(value, self._place(builder, self.c_rows[r], v), align=self.align)
        builder.ret_void()

    def _accumulate(self, builder, start, b, k, a_step, b_step, finish) -> list[ir.Value]:
        """The loop over k: one column of A times one row of B, an outer product of registers."""
        ready, loop = builder.function.blocks[2], builder.block
        left = self._phi(builder, (k, ready))
        a_offset = self._phi(builder, (i64(0), ready))
        b_row = self._phi(builder, (b, ready))
        sums = [self._phi(builder, (value, ready)) for value in start]
        columns = [self._load(builder, b_row, v) for v in range(self.tile.vectors)]
        after = []
        for r in range(self.tile.rows):
            scalar = builder.load(at(builder, self.a_rows[r], a_offset), typ=self.element, align=self.align)
            row = splat(builder, scalar, self.lanes)
            for v, column in enumerate(columns):
                after.append(fused_multiply_add(builder, row, column, sums[r * self.tile.vectors + v]))
        following = (builder.sub(left, i64(1)), builder.add(a_offset, a_step), at(builder, b_row, b_step))
        for phi, value in zip((left, a_offset, b_row, *sums), (*following, *after), strict=True):
            phi.add_incoming(value, loop)
        builder.cbranch(builder.icmp_signed("!=", following[0], i64(0)), loop, finish)
        return after

    def _clamped_rows(self, builder: ir.IRBuilder, base: ir.Value, stride: ir.Value, rows: ir.Value) -> list[ir.Value]:
        """Addresses of the tile's rows, those past the last valid one on it."""
        last = builder.sub(rows, i64(1))
        return [base] + [
            at(builder, base, builder.mul(minimum(builder, i64(r), last), stride)) for r in range(1, self.tile.rows)
        ]

    def _place(self, builder: ir.IRBuilder, row: ir.Value, v: int) -> ir.Value:
        return at(builder, row, i64(v * self.lanes * self.align)) if v else row

    def _load(self, builder: ir.IRBuilder, row: ir.Value, v: int) -> ir.Value:
        return builder.load(self._place(builder, row, v), typ=self.vector, align=self.align)

    @staticmethod
    def _phi(builder: ir.IRBuilder, *incoming: tuple[ir.Value, ir.Block]) -> ir.Value:
        phi = builder.phi(incoming[0][0].type)
        for value, block in incoming:
            phi.add_incoming(value, block)
        return phi
