"""The microkernel: a tile of C, held in registers, accumulates A B serially over k with fma.

C[r, :] += sum over k of A[r, k] B[k, :] for `rows` x (`vectors` x lanes) elements. All strides are arguments in bytes:
one function serves every layout of A (plain, transposed, packed) and B (packed, in place), and all calls of a module. It
has no masks: rows past the last are clamped onto it (they recompute and store the same values), and tiles that C cannot
take whole go through a buffer. The window kernel is the same with tables: where each row of A begins, and where the blocks of
a sum lie, through which it keeps its sums in registers; where rows lie at equal distances, a stretch kernel has one address for all.
May import: llvmlite, flow.py, target.py. Read next: product.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import llvmlite.ir as ir
import numpy as np
from msgspec import Struct

from .flow import (
    I1,
    I64,
    PTR,
    VOID,
    at,
    counted_loop,
    element_type,
    fused_multiply_add,
    i64,
    minimum,
    prefetch,
    repeated,
    splat,
    times,
)  # fmt: skip
from .target import Target, mark

# void(a, b, c, k, a_row, a_step, b_step, c_row, rows, resume, ahead, ahead_step)
KERNEL_TYPE = ir.FunctionType(VOID, [PTR, PTR, PTR, *[I64] * 6, I1, PTR, I64])

# void(a, rows, b, blocks, count, terms, a_step, b_step, c, resume, buffers, batch, ms, n, left); the last five for stretch kernels only
WINDOW_TYPE = ir.FunctionType(VOID, [PTR, PTR, PTR, PTR, *[I64] * 4, PTR, I1, PTR, I64, PTR, I64, I64])

# finish(builder, (buffers, batch, m, n), tile): emit what becomes of a tile of [(row, vector, value)], inside a stretch kernel.
Finish = Callable[[ir.IRBuilder, tuple[ir.Value, ...], list[tuple[int, int, ir.Value]]], None]

GROUP = 4                # steps of k between two requests for memory ahead
ASK = 2                  # lines of 64 bytes in one request


class Tile(Struct, frozen=True):
    """The part of C that one call of a microkernel holds in registers: `rows` x `vectors` vectors."""

    rows: int
    vectors: int


def wide_tile(target: Target, vectors: int) -> Tile:
    """Hides the latency of fma and loads least per fma: 24 accumulators of 32 registers, or 12 of 16.

    Where all columns are only two or three vectors, a tile of that width.
    """
    widest = Tile(6, 4) if target.vector_registers >= 32 else Tile(6, 2)
    return Tile(8, vectors) if 1 < vectors < widest.vectors else widest


def narrow_tile(m: int) -> Tile:
    """For columns that fill no wide tile; one row alone needs no others to hide latency that its k has anyway."""
    return Tile(1, 1) if m == 1 else Tile(8, 1)


def row_tile(vectors: int) -> Tile:
    """For one row of `vectors` vectors: up to eight sums run side by side, as many as hide the latency of fma."""
    return Tile(1, max(1, min(8, vectors)))


def microkernel(module: ir.Module, target: Target, dtype: np.dtype, tile: Tile) -> ir.Function:
    """The function of KERNEL_TYPE for this tile: one per tile and dtype in a module. Strides are in bytes.

    k >= 0 and rows >= 1, of which at most tile.rows are used. resume: start from the tile in C (a later block of k)
    instead of zero. Meanwhile ASK lines at `ahead`, then at every further `ahead_step`, are fetched into the cache.
    """
    name = f"microkernel_{np.dtype(dtype).name}_{tile.rows}x{tile.vectors}"
    if name in module.globals:
        return module.globals[name]
    function = mark(ir.Function(module, KERNEL_TYPE, name), target)
    function.linkage = "internal"
    function.attributes.add("noinline")
    _Emission(function, target, dtype, tile).emit()
    return function


def window_kernel(module: ir.Module, target: Target, dtype: np.dtype, tile: Tile) -> ir.Function:
    """The function of WINDOW_TYPE for this tile: C[r, :] += sum over blocks, then over the terms of each, of A[r, k] B[k, :].

    rows: for every row of the tile how many bytes after `a` it begins; blocks: `count` pairs, how many bytes after the rows of A
    and after `b` each block begins; inside it A and B advance by a_step and b_step. C is a buffer of whole rows.
    """
    name = f"window_kernel_{np.dtype(dtype).name}_{tile.rows}x{tile.vectors}"
    if name in module.globals:
        return module.globals[name]
    function = mark(ir.Function(module, WINDOW_TYPE, name), target)
    function.linkage = "internal"
    function.attributes.add("noinline")
    _WindowEmission(function, target, dtype, tile).emit()
    return function


def stretch_kernel(module: ir.Module, target: Target, dtype: np.dtype, tile: Tile, distance: int, finish: Finish | None) -> ir.Function:
    """A function of WINDOW_TYPE for `left` tiles: rows[i] is where the first row of tile i begins, ms[i] its m.

    The rows of a tile lie `distance` bytes apart, so all have one address. `finish` takes the sums from registers, so C is written once;
    without it they go to c, and all calls of a module share the function.
    """
    name = f"stretch_kernel_{np.dtype(dtype).name}_{tile.rows}x{tile.vectors}_by_{distance}"
    if name in module.globals and finish is None:
        return module.globals[name]
    function = mark(ir.Function(module, WINDOW_TYPE, module.get_unique_name("finishing_kernel") if finish else name), target)
    function.linkage = "internal"
    function.attributes.add("noinline")
    _StretchEmission(function, target, dtype, tile).emit_stretches(distance, finish)
    return function


class _Emission:
    """One microkernel while it is written: entry, (resume), groups of k, in each a loop over k, finish."""

    a_step_argument = 5

    def __init__(self, function: ir.Function, target: Target, dtype: np.dtype, tile: Tile) -> None:
        self.function, self.tile = function, tile
        self.lanes = target.lanes(dtype)
        self.element = element_type(dtype)
        self.vector = ir.VectorType(self.element, self.lanes)
        self.align = np.dtype(dtype).itemsize
        self.places = [(r, v) for r in range(tile.rows) for v in range(tile.vectors)]

    def emit(self) -> None:
        a, b, c, k, a_row, _, _, c_row, rows, resume, ahead, _ = self.function.args
        names = ("entry", "resume", "ready", "group", "loop", "next", "finish")
        entry, again, ready, group, loop, following, finish = (self.function.append_basic_block(n) for n in names)
        builder = ir.IRBuilder(entry)
        self.a_rows = self._clamped_rows(builder, a, a_row, rows)
        self.c_rows = self._clamped_rows(builder, c, c_row, rows)
        builder.cbranch(resume, again, ready)
        builder.position_at_end(again)
        spilled = [self._load(builder, self.c_rows[r], v) for r, v in self.places]
        builder.branch(ready)
        builder.position_at_end(ready)
        zero = ir.Constant(self.vector, None)
        start = [_phi(builder, (zero, entry), (value, again)) for value in spilled]
        builder.cbranch(builder.icmp_signed("<", i64(0), k), group, finish)
        builder.position_at_end(group)
        left = _phi(builder, (k, ready))
        soon = _phi(builder, (ahead, ready))
        c_soon, c_left = _phi(builder, (c, ready)), _phi(builder, (i64(self.tile.rows), ready))
        outer = [_phi(builder, (value, ready)) for value in (i64(0), b, *start)]
        soon_after = self._ask_ahead(builder, soon)
        c_after = self._ask_for_c(builder, c_soon, c_left, c_row)
        count = minimum(builder, left, i64(GROUP))
        before = builder.block
        builder.branch(loop)
        state = self._accumulate(builder, before, loop, following, count, outer)
        builder.position_at_end(following)
        left_after = builder.sub(left, count)
        phis = (left, soon, c_soon, c_left, *outer)
        for phi, value in zip(phis, (left_after, soon_after, *c_after, *state), strict=True):
            phi.add_incoming(value, following)
        builder.cbranch(builder.icmp_signed("!=", left_after, i64(0)), group, finish)
        builder.position_at_end(finish)
        pairs = zip(start, state[2:], strict=True)
        tile = [_phi(builder, (before, ready), (after, following)) for before, after in pairs]
        for (r, v), value in zip(self.places, tile, strict=True):
            builder.store(value, self._place(builder, self.c_rows[r], v), align=self.align)
        builder.ret_void()

    def _ask_ahead(self, builder: ir.IRBuilder, soon: ir.Value) -> ir.Value:
        """Prefetch ASK lines of the panel that comes after this one, and step on."""
        step = self.function.args[11]
        for line in range(ASK):
            prefetch(builder, at(builder, soon, i64(64 * line)))
        return at(builder, soon, step)

    def _ask_for_c(
        self, builder: ir.IRBuilder, row: ir.Value, left: ir.Value, c_row: ir.Value
    ) -> tuple[ir.Value, ir.Value]:
        """Prefetch a row of C while there are some left: asked for all at once, at the end, they would hold up loads."""
        with builder.if_then(builder.icmp_signed("<", i64(0), left)):
            for line in range(max(1, self.tile.vectors * self.lanes * self.align // 64)):
                prefetch(builder, at(builder, row, i64(64 * line)), write=True, nearness=3)
        return at(builder, row, c_row), builder.sub(left, i64(1))

    def _accumulate(
        self, builder: ir.IRBuilder, before: ir.Block, loop: ir.Block, after: ir.Block, count: ir.Value,
        outer: list[ir.Value],
    ) -> list[ir.Value]:  # fmt: skip
        """`count` steps of k: each one column of A times one row of B, an outer product of registers."""
        a_step, b_step = self.function.args[self.a_step_argument : self.a_step_argument + 2]
        builder.position_at_end(loop)
        left, a_offset, b_row, *sums = phis = [_phi(builder, (value, before)) for value in (count, *outer)]
        state = self._term(builder, [at(builder, row, a_offset) for row in self.a_rows], b_row, sums)
        state = [builder.sub(left, i64(1)), builder.add(a_offset, a_step), at(builder, b_row, b_step), *state]
        for phi, value in zip(phis, state, strict=True):
            phi.add_incoming(value, loop)
        builder.cbranch(builder.icmp_signed("!=", state[0], i64(0)), loop, after)
        return state[1:]

    def _term(self, builder: ir.IRBuilder, elements: list[ir.Value], b_row: ir.Value, sums: Sequence[ir.Value]) -> list[ir.Value]:
        """The sums with one more term: the elements of A at these addresses times a row of B."""
        columns = [self._load(builder, b_row, v) for v in range(self.tile.vectors)]
        state = []
        for r, element in enumerate(elements):
            row = splat(builder, builder.load(element, typ=self.element, align=self.align), self.lanes)
            for v, column in enumerate(columns):
                state.append(fused_multiply_add(builder, row, column, sums[r * self.tile.vectors + v]))
        return state

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


class _WindowEmission(_Emission):
    """A window kernel while it is written: entry, (resume), blocks, in each a loop over its terms, finish."""

    a_step_argument = 6

    def emit(self) -> None:
        a, rows, b, blocks, count, terms, _, _, c, resume, *_ = self.function.args
        names = ("entry", "resume", "ready", "block", "loop", "next", "finish")
        entry, again, ready, block, loop, following, finish = (self.function.append_basic_block(n) for n in names)
        builder, row_bytes = ir.IRBuilder(entry), self.tile.vectors * self.lanes * self.align
        starts = [builder.load(at(builder, rows, i64(8 * r)), typ=I64, align=8) for r in range(self.tile.rows)]
        self.a_rows = [at(builder, a, start) for start in starts]
        self.c_rows = [at(builder, c, i64(r * row_bytes)) for r in range(self.tile.rows)]
        builder.cbranch(resume, again, ready)
        builder.position_at_end(again)
        spilled = [self._load(builder, self.c_rows[r], v) for r, v in self.places]
        builder.branch(ready)
        builder.position_at_end(ready)
        zero = ir.Constant(self.vector, None)
        start = [_phi(builder, (zero, entry), (value, again)) for value in spilled]
        builder.cbranch(builder.icmp_signed("<", i64(0), count), block, finish)
        builder.position_at_end(block)
        left, place, *sums = phis = [_phi(builder, (value, ready)) for value in (count, blocks, *start)]
        a_offset = builder.load(place, typ=I64, align=8)
        b_row = at(builder, b, builder.load(at(builder, place, i64(8)), typ=I64, align=8))
        builder.branch(loop)
        state = self._accumulate(builder, block, loop, following, terms, [a_offset, b_row, *sums])[2:]
        builder.position_at_end(following)
        after = [builder.sub(left, i64(1)), at(builder, place, i64(16)), *state]
        for phi, value in zip(phis, after, strict=True):
            phi.add_incoming(value, following)
        builder.cbranch(builder.icmp_signed("!=", after[0], i64(0)), block, finish)
        builder.position_at_end(finish)
        tile = [_phi(builder, (before, ready), (value, following)) for before, value in zip(start, state, strict=True)]
        for (r, v), value in zip(self.places, tile, strict=True):
            builder.store(value, self._place(builder, self.c_rows[r], v), align=self.align)
        builder.ret_void()


class _StretchEmission(_Emission):
    """A stretch kernel while it is written: loops over tiles, blocks and terms. Written out, the terms of a block are moved about by the
    scheduler until their loads fill the registers."""

    def emit_stretches(self, distance: int, finish: Finish | None) -> None:
        a, rows, b, blocks, count, terms, a_step, b_step, c, _, buffers, batch, ms, n, left = self.function.args
        builder = ir.IRBuilder(self.function.append_basic_block("entry"))
        places = [i64(r * distance) for r in range(self.tile.rows)]
        with counted_loop(builder, i64(0), left) as number:
            start, m = (builder.load(at(builder, table, times(builder, number, 8)), typ=I64, align=8) for table in (rows, ms))
            first = at(builder, a, start)

            def term(element: ir.Value, b_row: ir.Value, *sums: ir.Value) -> list[ir.Value]:
                after = self._term(builder, [at(builder, element, place) for place in places], b_row, sums)
                return [at(builder, element, a_step), at(builder, b_row, b_step), *after]

            def block(place: ir.Value, *sums: ir.Value) -> list[ir.Value]:
                begin = [at(builder, base, builder.load(at(builder, place, i64(offset)), typ=I64, align=8))
                         for base, offset in ((first, 0), (b, 8))]
                return [at(builder, place, i64(16)), *repeated(builder, terms, [*begin, *sums], term)[2:]]
            zeros = [ir.Constant(self.vector, None)] * len(self.places)
            _, *sums = repeated(builder, count, [blocks, *zeros], block)
            if finish:
                finish(builder, (buffers, batch, m, n), [(r, v, value) for (r, v), value in zip(self.places, sums, strict=True)])
            else:
                for i, value in enumerate(sums):
                    builder.store(value, self._place(builder, c, i), align=self.align)
        builder.ret_void()


def _phi(builder: ir.IRBuilder, *incoming: tuple[ir.Value, ir.Block]) -> ir.Value:
    phi = builder.phi(incoming[0][0].type)
    for value, block in incoming:
        phi.add_incoming(value, block)
    return phi
