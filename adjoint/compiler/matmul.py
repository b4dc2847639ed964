"""The matrix product: a Contraction becomes at most two parallel steps, packing and computing, around shared microkernels.

`lower_contraction` gives Steps; a program calls each as `void f(ptr buffers, i64 begin, i64 end, ptr scratch, ptr control)` for any
split of [0, extent) over threads, with a barrier after each. Every element of C is summed serially over k with fma from zero, so tiles,
packing, threads and vector width never change a bit. The code wants no IR passes: run none on it, codegen level 2 is enough.
May import: llvmlite, loops.py, flow.py, target.py, microkernel.py, pack.py. Read next: plan.py, microkernel.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import llvmlite.ir as ir

from adjoint.compiler.flow import (
    BYTE,
    I1,
    I64,
    PTR,
    VOID,
    at,
    counted_loop,
    element_type,
    i64,
    lanes_below,
    minimum,
    times,
)  # fmt: skip
from adjoint.compiler.loops import Contraction, Operand
from adjoint.compiler.microkernel import ASK, GROUP, Tile, microkernel
from adjoint.compiler.pack import copy_blocks, copy_panels, turn_group
from adjoint.compiler.plan import K_ROWS, Plan, plan_contraction
from adjoint.compiler.target import Target, mark

# emit_epilogue(builder, contraction, buffers, accumulator, b, m, n, mask): emit contraction.epilogue for the vector `accumulator`, whose
# lanes are elements (b, m, n), (b, m, n + 1) ... ; `contraction` may be the transpose of the one lowered (its m and n, operands and
# `variables` exchanged), so the lanes always run along variables[2]. `mask` is a vector of i1, or None when all lanes are valid:
# loads and stores of the other lanes must not happen. `buffers` is the table of pointers in the function being emitted.
EmitEpilogue = Callable[
    [ir.IRBuilder, Contraction, ir.Value, ir.Value, ir.Value, ir.Value, ir.Value, ir.Value | None], None
]
# emit_poll(builder, control) -> i1: true where the step should return at once (its results are then worthless).
EmitPoll = Callable[[ir.IRBuilder, ir.Value], ir.Value]

STEP_TYPE = ir.FunctionType(VOID, [PTR, I64, I64, PTR, PTR])


@dataclass(frozen=True)
class Step:
    """One function over [0, extent): any split gives the same bits. `cost` estimates scalar operations, for the choice of threads."""

    function: ir.Function
    extent: int
    cost: float


def scratch_bytes(contraction: Contraction, target: Target) -> int:
    """Bytes of the one block, 64-byte aligned and shared by all threads, that lives while the steps of this contraction run."""
    return plan_contraction(contraction, target).scratch_bytes


def estimated_flops(contraction: Contraction) -> float:
    """2 b m n k."""
    return 2.0 * contraction.batch * contraction.m * contraction.n * contraction.k


def lower_contraction(
    module: ir.Module,
    contraction: Contraction,
    emit_epilogue: EmitEpilogue,
    target: Target,
    emit_poll: EmitPoll | None = None,
) -> tuple[Step, ...]:
    """Functions added to `module`, in the order in which a program runs them."""
    plan = plan_contraction(contraction, target)
    steps = []
    if plan.pack_extent:
        steps.append(Step(_emit_pack_step(module, plan), plan.pack_extent, 4.0 * plan.packed_elements))
    compute = _Compute(module, plan, emit_epilogue, emit_poll)
    return (*steps, Step(compute.function, plan.tiles, estimated_flops(contraction)))


def _step_function(module: ir.Module, name: str, target: Target) -> tuple[ir.Function, ir.IRBuilder]:
    function = mark(ir.Function(module, STEP_TYPE, module.get_unique_name(name)), target)
    function.linkage = "internal"
    return function, ir.IRBuilder(function.append_basic_block("entry"))


def _operand_address(builder: ir.IRBuilder, buffers: ir.Value, operand: Operand, size: int) -> ir.Value:
    """Where element (0, 0, 0) of the operand lies."""
    base = builder.load(at(builder, buffers, i64(8 * operand.buffer)), typ=PTR, align=8)
    return at(builder, base, i64(operand.offset * size)) if operand.offset else base


def _emit_pack_step(module: ir.Module, plan: Plan) -> ir.Function:
    """[0, extent) = the units of B, then the units of A."""
    function, builder = _step_function(module, plan.contraction.name + "_pack", plan.target)
    buffers, begin, end, scratch, _ = function.args
    units = plan.b_units * plan.b_batches if plan.packs_b else 0
    if plan.packs_b:
        source = _operand_address(builder, buffers, plan.contraction.b, plan.size)
        emit = _emit_copy_b if plan.b_runs_across else _emit_turn_b
        with counted_loop(builder, begin, minimum(builder, end, i64(units))) as index:
            emit(builder, plan, source, scratch, index)
    if plan.packs_a:
        source = _operand_address(builder, buffers, plan.contraction.a, plan.size)
        after = builder.select(builder.icmp_signed("<", begin, i64(units)), i64(units), begin)
        with counted_loop(builder, after, end) as index:
            _emit_copy_a(builder, plan, source, scratch, builder.sub(index, i64(units)))
    builder.ret_void()
    return function


def _emit_turn_b(builder: ir.IRBuilder, plan: Plan, source: ir.Value, scratch: ir.Value, index: ir.Value) -> None:
    """One vector's width of columns of B, all k, into its panel."""
    c, size, lanes = plan.contraction, plan.size, plan.lanes
    batch_stride, k_stride, n_stride = c.b.strides
    b, group = _split(builder, index, plan.b_units)
    n0 = times(builder, group, lanes)
    panel = builder.udiv(group, i64(plan.wide.vectors))
    wide = builder.icmp_signed("<", panel, i64(plan.wide_panels))
    panel_n0 = builder.select(wide, times(builder, panel, plan.wide_width), n0)
    width = builder.select(wide, i64(plan.wide_width), i64(lanes))
    place = at(builder, scratch, times(builder, b, plan.b_bytes), times(builder, panel_n0, c.k * size))
    place = at(builder, place, times(builder, builder.sub(n0, panel_n0), size))
    start = at(builder, source, times(builder, b, batch_stride * size), times(builder, n0, n_stride * size))
    valid = minimum(builder, builder.sub(i64(c.n), n0), i64(lanes))
    function = turn_group(builder.module, plan.target, c.dtype, k_stride, c.k)
    strides = [i64(n_stride * size), i64(k_stride * size), times(builder, width, size)]
    builder.call(function, [place, start, valid, i64(c.k), *strides])


def _emit_copy_b(builder: ir.IRBuilder, plan: Plan, source: ir.Value, scratch: ir.Value, index: ir.Value) -> None:
    """Some rows of B into all wide panels, then into all narrow ones."""
    c, size = plan.contraction, plan.size
    batch_stride, k_stride, _ = c.b.strides
    b, unit = _split(builder, index, plan.k_units)
    k0 = times(builder, unit, K_ROWS)
    depth = minimum(builder, builder.sub(i64(c.k), k0), i64(K_ROWS))
    start = at(builder, source, times(builder, b, batch_stride * size), times(builder, k0, k_stride * size))
    out = at(builder, scratch, times(builder, b, plan.b_bytes))
    split = min(c.n, plan.wide_panels * plan.wide_width)
    function = copy_panels(builder.module, plan.target, c.dtype)
    for first, columns, width in ((0, split, plan.wide_width), (split, c.n - split, plan.lanes)):
        if columns:
            place = at(builder, out, i64(first * c.k * size), times(builder, k0, width * size))
            begin = at(builder, start, i64(first * size))
            widths = [i64(k_stride * size), i64(width), i64(width * c.k * size)]
            builder.call(function, [place, begin, i64(columns), depth, *widths])


def _emit_copy_a(builder: ir.IRBuilder, plan: Plan, source: ir.Value, scratch: ir.Value, index: ir.Value) -> None:
    """Some columns of A (rows of its transpose) into all blocks of rows."""
    c, size = plan.contraction, plan.size
    batch_stride, _, k_stride = c.a.strides
    b, unit = _split(builder, index, plan.k_units)
    k0 = times(builder, unit, K_ROWS)
    depth = minimum(builder, builder.sub(i64(c.k), k0), i64(K_ROWS))
    start = at(builder, source, times(builder, b, batch_stride * size), times(builder, k0, k_stride * size))
    offsets = (i64(plan.a_offset), times(builder, b, plan.a_bytes), times(builder, k0, plan.wide.rows * size))
    function = copy_blocks(builder.module, plan.target, c.dtype, plan.wide.rows)
    strides = [i64(k_stride * size), i64(0), i64(plan.a_block_bytes)]
    builder.call(function, [at(builder, scratch, *offsets), start, i64(c.m), depth, *strides])


def _split(builder: ir.IRBuilder, index: ir.Value, extent: int) -> tuple[ir.Value, ir.Value]:
    """index -> (index // extent, index % extent)."""
    if extent == 1:
        return index, i64(0)
    quotient = builder.udiv(index, i64(extent))
    return quotient, builder.sub(index, builder.mul(quotient, i64(extent)))


def _first_column(builder: ir.IRBuilder, plan: Plan, panel: ir.Value) -> ir.Value:
    """Wide panels first, then narrow ones."""
    if not plan.narrow_panels:
        return times(builder, panel, plan.wide_width)
    if not plan.wide_panels:
        return times(builder, panel, plan.lanes)
    narrow = builder.sub(panel, i64(plan.wide_panels))
    narrow_column = builder.add(i64(plan.wide_panels * plan.wide_width), times(builder, narrow, plan.lanes))
    inside = builder.icmp_signed("<", narrow, i64(0))
    return builder.select(inside, times(builder, panel, plan.wide_width), narrow_column)


class _Compute:
    """The computing step while it is written: tiles (b, chunk of rows, panel of columns), panels fastest."""

    def __init__(
        self, module: ir.Module, plan: Plan, emit_epilogue: EmitEpilogue, emit_poll: EmitPoll | None
    ) -> None:
        self.module, self.plan, self.emit_epilogue = module, plan, emit_epilogue
        self.finish = self._emit_finish() if self._may_finish() else None
        self.function, builder = _step_function(module, plan.contraction.name, plan.target)
        buffers, begin, end, _, control = self.function.args
        self.tile = builder.alloca(ir.ArrayType(BYTE, plan.tile_bytes))
        self.tile.align = 64
        self.a = _operand_address(builder, buffers, plan.contraction.a, plan.size)
        self.b = _operand_address(builder, buffers, plan.contraction.b, plan.size)
        self.c = _operand_address(builder, buffers, plan.direct, plan.size) if plan.direct else self.tile
        with counted_loop(builder, begin, end) as index:
            if emit_poll is not None:
                with builder.if_then(emit_poll(builder, control)):
                    builder.ret_void()
            self._emit_tile(builder, index)
        builder.ret_void()

    def _emit_tile(self, builder: ir.IRBuilder, index: ir.Value) -> None:
        plan = self.plan
        rest, panel = _split(builder, index, plan.panels)
        b, chunk = _split(builder, rest, plan.chunks)
        if plan.wide_panels and plan.narrow_panels:
            with builder.if_else(builder.icmp_signed("<", panel, i64(plan.wide_panels))) as (wide, narrow):
                with wide:
                    self._emit_panel(builder, plan.wide, b, chunk, panel)
                with narrow:
                    self._emit_panel(builder, plan.narrow, b, chunk, panel)
        else:
            self._emit_panel(builder, plan.wide if plan.wide_panels else plan.narrow, b, chunk, panel)

    def _emit_panel(self, builder: ir.IRBuilder, tile: Tile, b: ir.Value, chunk: ir.Value, panel: ir.Value) -> None:
        """All rows of the chunk times one panel of B, one block of k after the other."""
        plan, c = self.plan, self.plan.contraction
        width = tile.vectors * plan.lanes
        n0 = _first_column(builder, plan, panel)
        columns = minimum(builder, builder.sub(i64(c.n), n0), i64(width))
        m0 = times(builder, chunk, plan.chunk_rows)
        m1 = minimum(builder, builder.add(m0, i64(plan.chunk_rows)), i64(c.m))
        left, b_address, b_step = self._b_panel(builder, b, n0, width)
        shift = times(builder, builder.sub(n0, left), plan.size)
        kernel = microkernel(self.module, plan.target, c.dtype, tile)
        for first in range(0, max(c.k, 1), plan.k_block):
            last = first + plan.k_block >= c.k
            depth = i64(min(plan.k_block, c.k - first))
            panel_b = at(builder, b_address, i64(first * b_step))
            with counted_loop(builder, m0, m1, tile.rows) as m:
                rows = builder.sub(m1, m)
                a_address, a_row, a_step = self._a_rows(builder, tile, b, m, first)
                place, c_row, whole = self._c_tile(builder, tile, b, m, m0, n0, columns)
                resume = ir.Constant(I1, int(first > 0))
                strides = [i64(a_row), i64(a_step), i64(b_step), c_row]
                ahead = self._ahead(builder, b, m, m0, panel, b_address, tile)
                builder.call(kernel, [a_address, panel_b, place, depth, *strides, rows, resume, *ahead])
                if last and whole is not True:
                    self._call_finish(builder, whole, [b, m, minimum(builder, rows, i64(tile.rows)), n0, columns], place, shift, c_row)

    def _ahead(self, builder, b, m, m0, panel, panel_b, tile) -> list[ir.Value]:  # noqa: ANN001
        """What the microkernel fetches meanwhile, and its step: the panel that this thread reads next, in as many pieces as calls."""
        plan, c = self.plan, self.plan.contraction
        if not plan.packs_b:
            return [panel_b, i64(0)]
        following = at(builder, panel_b, i64(tile.vectors * self.plan.lanes * c.k * plan.size))
        last = builder.icmp_signed("==", panel, i64(plan.panels - 1))
        following = builder.select(last, self._b_place(builder, b), following)
        call = builder.udiv(builder.sub(m, m0), i64(tile.rows))
        covered = 64 * ASK * max(1, c.k // GROUP)
        pieces = max(1, plan.wide_width * c.k * plan.size // covered)
        return [at(builder, following, times(builder, minimum(builder, call, i64(pieces - 1)), covered)), i64(64 * ASK)]

    def _call_finish(self, builder, whole, where, place, shift, c_row) -> None:
        buffers = builder.function.args[0]
        arguments = [buffers, *where, at(builder, place, shift), c_row]
        if whole is False:
            builder.call(self.finish, arguments)
            return
        with builder.if_then(builder.not_(whole)):
            builder.call(self.finish, arguments)

    def _b_panel(self, builder: ir.IRBuilder, b: ir.Value, n0: ir.Value, width: int) -> tuple[ir.Value, ir.Value, int]:
        """(first column that the panel holds, its address, bytes from one k to the next)."""
        plan, c, size = self.plan, self.plan.contraction, self.plan.size
        batch_stride, k_stride, _ = c.b.strides
        if plan.packs_b:
            return n0, at(builder, self._b_place(builder, b), times(builder, n0, c.k * size)), width * size
        left = minimum(builder, n0, i64(c.n - width)) if plan.overlaps else n0
        address = at(builder, self.b, times(builder, b, batch_stride * size), times(builder, left, size))
        return left, address, k_stride * size

    def _b_place(self, builder: ir.IRBuilder, b: ir.Value) -> ir.Value:
        """Where the packed panels of batch element b begin."""
        place = times(builder, b, self.plan.b_bytes) if self.plan.b_batches > 1 else i64(0)
        return at(builder, builder.function.args[3], place)

    def _a_rows(self, builder, tile, b, m, first) -> tuple[ir.Value, int, int]:
        """(address of A[m, first], bytes between rows, bytes between k)."""
        plan, c, size = self.plan, self.plan.contraction, self.plan.size
        batch_stride, m_stride, k_stride = c.a.strides
        if plan.packs_a and tile == plan.wide:
            b_place = times(builder, b, plan.a_bytes) if plan.a_batches > 1 else i64(0)
            block = times(builder, builder.udiv(m, i64(tile.rows)), plan.a_block_bytes)
            offsets = (i64(plan.a_offset + first * tile.rows * size), b_place, block)
            return at(builder, builder.function.args[3], *offsets), size, plan.wide.rows * size
        offsets = (times(builder, b, batch_stride * size), times(builder, m, m_stride * size), i64(first * k_stride * size))
        return at(builder, self.a, *offsets), m_stride * size, k_stride * size

    def _c_tile(self, builder, tile, b, m, m0, n0, columns):
        """(address, bytes between rows, whether C itself takes the tile) of the tile of C, in C or in the buffer on the stack."""
        plan, size = self.plan, self.plan.size
        width = tile.vectors * plan.lanes
        inner = times(builder, builder.sub(m, m0), width * size) if plan.k_blocks > 1 else i64(0)
        buffer = at(builder, self.tile, inner)
        if plan.direct is None:
            return buffer, i64(width * size), False
        batch_stride, m_stride, _ = plan.direct.strides
        offsets = [times(builder, i, s * size) for i, s in ((b, batch_stride), (m, m_stride), (n0, 1))]
        place = at(builder, self.c, *offsets)
        if plan.fills(tile):
            return place, i64(m_stride * size), True
        whole = builder.icmp_signed("==", columns, i64(width))
        stride = builder.select(whole, i64(m_stride * size), i64(width * size))
        return builder.select(whole, place, buffer), stride, whole

    def _may_finish(self) -> bool:
        """Whether some tile goes through the buffer."""
        plan = self.plan
        return plan.direct is None or not all(plan.fills(tile) for tile in plan.used_tiles)

    def _emit_finish(self) -> ir.Function:
        """void(buffers, b, m, rows, n, columns, tile, tile_row): the epilogue over the rows and vectors of a buffered tile."""
        plan, c = self.plan, self.plan.contraction
        name = self.module.get_unique_name(c.name + "_epilogue")
        kind = ir.FunctionType(VOID, [PTR, I64, I64, I64, I64, I64, PTR, I64])
        function = mark(ir.Function(self.module, kind, name), plan.target)
        function.linkage = "internal"
        builder = ir.IRBuilder(function.append_basic_block("entry"))
        buffers, b, m, rows, n, columns, tile, tile_row = function.args
        vector = ir.VectorType(element_type(c.dtype), plan.lanes)
        with counted_loop(builder, i64(0), rows) as row:
            line = at(builder, tile, builder.mul(row, tile_row))
            with counted_loop(builder, i64(0), columns, plan.lanes) as column:
                value = builder.load(at(builder, line, times(builder, column, plan.size)), typ=vector, align=plan.size)
                left = builder.sub(columns, column)
                mask = lanes_below(builder, left, plan.lanes) if c.n % plan.lanes else None
                where = [builder.add(m, row), builder.add(n, column)]
                self.emit_epilogue(builder, c, buffers, value, b, *where, mask)
        builder.ret_void()
        return function
