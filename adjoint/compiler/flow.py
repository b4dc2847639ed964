"""Structured control flow, addresses and constant records in LLVM IR: what the emitters of native loops are written with.

Every loop tests first, so an extent of 0 runs nothing. Addresses are byte offsets from opaque pointers, in i64 that may
wrap (no nsw, no inbounds, never inttoptr). May import: llvmlite. Read next: matmul.py, pack.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import llvmlite.ir as ir
import numpy as np

I1 = ir.IntType(1)
I32 = ir.IntType(32)
I64 = ir.IntType(64)
PTR = ir.PointerType()
BYTE = ir.IntType(8)
VOID = ir.VoidType()


def i64(value: int) -> ir.Constant:
    """The constant `value`."""
    return ir.Constant(I64, int(value))


def element_type(dtype: np.dtype) -> ir.Type:
    """The LLVM type of a floating element."""
    return {4: ir.FloatType(), 8: ir.DoubleType()}[np.dtype(dtype).itemsize]


@contextmanager
def counted_loop(
    builder: ir.IRBuilder, begin: ir.Value, end: ir.Value, step: int | ir.Value = 1
) -> Iterator[ir.Value]:
    """for (i = begin; i < end; i += step): the `with` body is emitted inside and receives i."""
    before = builder.block
    inside = builder.append_basic_block("loop")
    after = builder.append_basic_block("after")
    builder.cbranch(builder.icmp_signed("<", begin, end), inside, after)
    builder.position_at_end(inside)
    index = builder.phi(I64)
    index.add_incoming(begin, before)
    yield index
    following = builder.add(index, i64(step) if isinstance(step, int) else step)
    index.add_incoming(following, builder.block)
    builder.cbranch(builder.icmp_signed("<", following, end), inside, after)
    builder.position_at_end(after)


def repeated(builder: ir.IRBuilder, count: ir.Value, state: list[ir.Value], body: Callable[..., list[ir.Value]]) -> list[ir.Value]:
    """The state after `state = body(*state)`, `count` times."""
    before, inside, after = builder.block, builder.append_basic_block("repeat"), builder.append_basic_block("repeated")
    builder.cbranch(builder.icmp_signed("<", i64(0), count), inside, after)
    builder.position_at_end(inside)
    left, *now = phis = [builder.phi(value.type) for value in (count, *state)]
    following = [builder.sub(left, i64(1)), *body(*now)]
    end = builder.block
    for phi, first, value in zip(phis, (count, *state), following, strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(value, end)
    builder.cbranch(builder.icmp_signed("!=", following[0], i64(0)), inside, after)
    builder.position_at_end(after)
    out = [builder.phi(value.type) for value in state]
    for phi, first, value in zip(out, state, following[1:], strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(value, end)
    return out


def minimum(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    """The smaller of two signed i64."""
    return builder.select(builder.icmp_signed("<", a, b), a, b)


def at(builder: ir.IRBuilder, base: ir.Value, *offsets: ir.Value) -> ir.Value:
    """The address base + the sum of byte offsets."""
    for offset in offsets:
        base = builder.gep(base, [offset], source_etype=BYTE)
    return base


def times(builder: ir.IRBuilder, value: ir.Value, factor: int) -> ir.Value:
    """value * factor, without an instruction where the factor is 0 or 1."""
    if factor == 0:
        return i64(0)
    return value if factor == 1 else builder.mul(value, i64(factor))


def splat(builder: ir.IRBuilder, scalar: ir.Value, lanes: int) -> ir.Value:
    """A vector whose lanes all hold `scalar`."""
    undefined = ir.Constant(ir.VectorType(scalar.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(I32, lanes), None))


def lanes_below(builder: ir.IRBuilder, count: ir.Value, lanes: int) -> ir.Value:
    """The mask of the lanes whose number is below the i64 `count`."""
    numbers = ir.Constant(ir.VectorType(I64, lanes), list(range(lanes)))
    return builder.icmp_signed("<", numbers, splat(builder, count, lanes))


def declared(module: ir.Module, name: str, kind: ir.FunctionType) -> ir.Function:
    """The declaration of an external function or intrinsic, made on first use."""
    return module.globals.get(name) or ir.Function(module, kind, name)


def masked_load(builder: ir.IRBuilder, pointer: ir.Value, mask: ir.Value, vector: ir.VectorType) -> ir.Value:
    """Lanes of `mask` read from memory, the others zero and not touched."""
    name = f"llvm.masked.load.v{vector.count}{vector.element.intrinsic_name}.p0"
    function = declared(builder.module, name, ir.FunctionType(vector, [PTR, mask.type, vector]))
    return builder.call(function, [pointer, mask, ir.Constant(vector, None)])


def fused_multiply_add(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    """a * b + c with one rounding, lane by lane."""
    vector = a.type
    name = f"llvm.fma.v{vector.count}{vector.element.intrinsic_name}"
    return builder.call(declared(builder.module, name, ir.FunctionType(vector, [vector] * 3)), [a, b, c])


def prefetch(builder: ir.IRBuilder, address: ir.Value, *, write: bool = False, nearness: int = 2) -> None:
    """Ask for the line at `address`, which may be any address: nearness 3 for the first cache level, 2 for the second."""
    function = declared(builder.module, "llvm.prefetch.p0", ir.FunctionType(VOID, [PTR, I32, I32, I32]))
    builder.call(function, [address, *(ir.Constant(I32, value) for value in (int(write), nearness, 1))])


class _Callee:
    """A pointer with the type that llvmlite wants to see when it writes a call."""

    def __init__(self, pointer: ir.Value, kind: ir.FunctionType) -> None:
        self.function_type, self.type, self._pointer = kind, pointer.type, pointer

    def get_reference(self) -> str:
        return self._pointer.get_reference()


def call_pointer(builder: ir.IRBuilder, pointer: ir.Value, kind: ir.FunctionType, args: list[ir.Value]) -> ir.Value:
    """Call the function of type `kind` that `pointer` points to."""
    return builder.call(_Callee(pointer, kind), args)


def record(module: ir.Module, name: str, fields: dict[str, int]) -> ir.GlobalVariable:
    """A constant of the module holding the values of `fields` as i64, in their order."""
    values = ir.Constant(ir.ArrayType(I64, len(fields)), [i64(value) for value in fields.values()])
    variable = ir.GlobalVariable(module, values.type, module.get_unique_name(name))
    variable.initializer, variable.global_constant, variable.linkage = values, True, "internal"
    return variable


class Fields:
    """Reads a `record` whose fields have these names, each where it is asked for."""

    def __init__(self, builder: ir.IRBuilder, pointer: ir.Value, names: tuple[str, ...]) -> None:
        self._builder, self._pointer, self._names = builder, pointer, names

    def __getitem__(self, name: str) -> ir.Value:
        place = at(self._builder, self._pointer, i64(8 * self._names.index(name)))
        return self._builder.load(place, typ=I64, align=8)
