"""The matrix product: a Contraction becomes at most two parallel steps, packing and computing, around shared functions.

`lower_contraction` gives Steps: `void f(ptr buffers, i64 begin, i64 end, ptr scratch, ptr control)`, called for any split
of [0, extent) over threads, with a barrier after each. Every element of C is summed serially over k with fma from zero:
tiles, packing, threads and vector width never change a bit. A contraction adds to a module its records and its epilogue,
and that wants no IR passes: the module goes straight to the code generator, level 2. May import: llvmlite, loops.py,
flow.py, target.py, microkernel.py, pack.py, product.py. Read next: plan.py, product.py.
"""

from __future__ import annotations

from collections.abc import Callable

import llvmlite.ir as ir
from msgspec import Struct
from msgspec.structs import replace

from .flow import BYTE, I64, PTR, VOID, at, counted_loop, element_type, i64, lanes_below, minimum, record, times
from .loops import Contraction, Operand
from .microkernel import microkernel
from .pack import copy_blocks, copy_panels, turn_panels
from .plan import Plan, plan_contraction, transposed
from .product import EPILOGUE_TYPE, EmitPoll, product_function
from .target import Target, mark

# emit_epilogue(builder, contraction, buffers, accumulator, b, m, n, mask): emit contraction.epilogue for the vector
# `accumulator`, whose lanes are elements (b, m, n), (b, m, n + 1) ... ; `contraction` may be the transpose of the one
# lowered (its m and n, operands and `variables` exchanged), so the lanes always run along variables[2]. `mask` is a
# vector of i1, or None where all lanes are valid: the others must not be loaded or stored. `buffers` is the table of
# pointers in the function being emitted.
EmitEpilogue = Callable[
    [ir.IRBuilder, Contraction, ir.Value, ir.Value, ir.Value, ir.Value, ir.Value, ir.Value | None], None
]

COST_OF_CYCLE = 2.5      # operations of a vector loop in the time of one cycle

STEP_TYPE = ir.FunctionType(VOID, [PTR, I64, I64, PTR, PTR])


class Step(Struct, frozen=True):
    """A function over [0, extent); any split gives the same bits. cost: of as many operations of a vector loop."""

    function: ir.Function
    extent: int
    cost: float


def scratch_bytes(contraction: Contraction, target: Target) -> int:
    """Bytes of the one block, 64-byte aligned, shared by all threads, that lives while the steps of this one run."""
    return plan_contraction(contraction, target).scratch_bytes


def lower_contraction(
    module: ir.Module,
    contraction: Contraction,
    emit_epilogue: EmitEpilogue,
    target: Target,
    emit_poll: EmitPoll | None = None,
) -> tuple[Step, ...]:
    """Functions added to `module`, in the order in which a program runs them. See EmitEpilogue, EmitPoll."""
    plan = plan_contraction(contraction, target)
    steps = []
    if plan.pack_extent:
        steps.append(Step(_emit_pack_step(module, plan), plan.pack_extent, COST_OF_CYCLE * plan.pack_cycles))
    epilogue = None
    if plan.turns_back:
        epilogue = _emit_turning_epilogue(module, plan, emit_epilogue)
    elif plan.uses_buffer:
        epilogue = _emit_epilogue_function(module, plan, emit_epilogue)
    compute = _emit_compute_step(module, plan, epilogue, emit_poll)
    return (*steps, Step(compute, plan.tiles, COST_OF_CYCLE * plan.compute_cycles))


def _step_function(module: ir.Module, name: str, target: Target) -> tuple[ir.Function, ir.IRBuilder]:
    function = mark(ir.Function(module, STEP_TYPE, module.get_unique_name(name)), target)
    function.linkage = "internal"
    return function, ir.IRBuilder(function.append_basic_block("entry"))


def _address(builder: ir.IRBuilder, buffers: ir.Value, operand: Operand, size: int) -> ir.Value:
    """Where element (0, 0, 0) of the operand lies."""
    base = builder.load(at(builder, buffers, i64(8 * operand.buffer)), typ=PTR, align=8)
    return at(builder, base, i64(operand.offset * size)) if operand.offset else base


def _emit_pack_step(module: ir.Module, plan: Plan) -> ir.Function:
    """[0, extent) = the work items of B, then those of A."""
    c, target = plan.contraction, plan.target
    function, builder = _step_function(module, c.name + "_pack", target)
    buffers, begin, end, scratch, _ = function.args
    items = 0
    if plan.packs_b:
        items = plan.b_units * plan.b_batches
        if plan.b_runs_across:
            pack = copy_panels(module, target, c.dtype)
        else:
            pack = turn_panels(module, target, c.dtype, c.b.strides[1], c.k)
        source, fields = _address(builder, buffers, c.b, plan.size), record(module, c.name + "_b", plan.pack_b_record())
        builder.call(pack, [scratch, source, begin, minimum(builder, end, i64(items)), fields])
    if plan.packs_a:
        pack = copy_blocks(module, target, c.dtype, plan.wide.rows)
        source, fields = _address(builder, buffers, c.a, plan.size), record(module, c.name + "_a", plan.pack_a_record())
        first, after = builder.sub(begin, i64(items)), builder.sub(end, i64(items))
        first = builder.select(builder.icmp_signed("<", first, i64(0)), i64(0), first)
        builder.call(pack, [at(builder, scratch, i64(plan.a_offset)), source, first, after, fields])
    builder.ret_void()
    return function


def _emit_compute_step(
    module: ir.Module, plan: Plan, epilogue: ir.Function | None, emit_poll: EmitPoll | None
) -> ir.Function:
    """One call of the shared loops."""
    c, target = plan.contraction, plan.target
    function, builder = _step_function(module, c.name, target)
    buffers, begin, end, scratch, control = function.args
    buffer = builder.alloca(ir.ArrayType(BYTE, plan.tile_bytes))
    buffer.align = 64
    a, b = (_address(builder, buffers, operand, plan.size) for operand in (c.a, c.b))
    out = _address(builder, buffers, plan.direct, plan.size) if plan.direct else buffer
    a = at(builder, scratch, i64(plan.a_offset)) if plan.packs_a else a
    shape = record(module, c.name + "_shape", plan.shape_record())
    arguments = [begin, end, control, buffers, out, buffer, epilogue or ir.Constant(PTR, None), shape]
    for tile in (plan.wide if plan.wide_panels else plan.narrow, plan.narrow if plan.narrow_panels else plan.wide):
        fields = record(module, c.name + "_panels", plan.panels_record(tile))
        kernel = microkernel(module, target, c.dtype, tile)
        arguments += [a, scratch if plan.packs_b else b, kernel, fields]
    builder.call(product_function(module, target, emit_poll), arguments)
    builder.ret_void()
    return function


def _emit_turning_epilogue(module: ir.Module, plan: Plan, emit_epilogue: EmitEpilogue) -> ir.Function:
    """An epilogue that turns its tile, then hands rows and columns exchanged to the epilogue of the contraction given."""
    given = replace(plan, contraction=transposed(plan.contraction))
    inner = _emit_epilogue_function(module, given, emit_epilogue)
    function, builder = _epilogue_function(module, plan)
    buffers, b, m, rows, n, columns, tile, tile_row = function.args
    turned = builder.alloca(ir.ArrayType(BYTE, plan.turned_row * plan.wide_width * plan.size))
    turned.align = 64
    fields = [record(module, "turn", plan.turn_record(each)) for each in (plan.wide, plan.narrow)]
    is_wide = builder.icmp_signed("==", tile_row, i64(plan.wide_width * plan.size))
    turn = turn_panels(module, plan.target, plan.contraction.dtype, 1, plan.lanes)
    groups = i64(plan.turned_row // plan.lanes)
    builder.call(turn, [turned, tile, i64(0), groups, builder.select(is_wide, *fields)])
    builder.call(inner, [buffers, b, n, columns, m, rows, turned, i64(plan.turned_row * plan.size)])
    builder.ret_void()
    return function


def _epilogue_function(module: ir.Module, plan: Plan) -> tuple[ir.Function, ir.IRBuilder]:
    name = module.get_unique_name(plan.contraction.name + "_epilogue")
    function = mark(ir.Function(module, EPILOGUE_TYPE, name), plan.target)
    function.linkage = "internal"
    return function, ir.IRBuilder(function.append_basic_block("entry"))


def _emit_epilogue_function(module: ir.Module, plan: Plan, emit_epilogue: EmitEpilogue) -> ir.Function:
    """The function of EPILOGUE_TYPE of this contraction."""
    c = plan.contraction
    function, builder = _epilogue_function(module, plan)
    buffers, b, m, rows, n, columns, tile, tile_row = function.args
    vector = ir.VectorType(element_type(c.dtype), plan.lanes)
    with counted_loop(builder, i64(0), rows) as row:
        line = at(builder, tile, builder.mul(row, tile_row))
        with counted_loop(builder, i64(0), columns, plan.lanes) as column:
            value = builder.load(at(builder, line, times(builder, column, plan.size)), typ=vector, align=plan.size)
            left = builder.sub(columns, column)
            mask = lanes_below(builder, left, plan.lanes) if c.n % plan.lanes else None
            emit_epilogue(builder, c, buffers, value, b, builder.add(m, row), builder.add(n, column), mask)
    builder.ret_void()
    return function
