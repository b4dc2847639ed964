"""Native routines written as one writes C: words of memory, `when`, `forever`, `count`, calls by symbol.

The idea: the runtime (entry, threads) is a few hundred instructions that no user program changes, so it is written by
hand through this thin layer over llvmlite.ir. Invariant: every process address is an external symbol; no pointer is
made from an integer constant. May import: llvmlite. Read next: runtime.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llvmlite import ir

I1, I8, I32, I64 = ir.IntType(1), ir.IntType(8), ir.IntType(32), ir.IntType(64)
F32, F64, PTR, VOID = ir.FloatType(), ir.DoubleType(), ir.PointerType(), ir.VoidType()
NULL = ir.Constant(PTR, None)
ONE = ir.Constant(I64, 1)


def word(value: int, kind: ir.Type = I64) -> ir.Constant:
    """An integer constant."""
    return ir.Constant(kind, value)


class _Callee:
    """A pointer with the type of the function that it points to:

    Llvmlite asks a callee for it, and pointers are untyped.
    """

    def __init__(self, pointer: ir.Value, kind: ir.FunctionType):
        self.function_type, self.type, self.get_reference = kind, pointer.type, pointer.get_reference


class Routine:
    """One native function being written; offsets are in bytes, integers given as Python ints are 64-bit."""

    def __init__(self, module: ir.Module, name: str, result: ir.Type, *parameters: ir.Type, internal: bool = False):
        self.module = module
        self.function = module.globals.get(name) or ir.Function(module, ir.FunctionType(result, parameters), name)
        if internal:
            self.function.linkage = "internal"
        self.args = self.function.args
        self.top = self.function.append_basic_block("entry")
        self.body = ir.IRBuilder(self.function.append_basic_block("body"))
        ir.IRBuilder(self.top).branch(self.body.block)

    def value(self, value: ir.Value | int, kind: ir.Type = I64) -> ir.Value:
        return word(value, kind) if isinstance(value, int) else value

    # memory

    def at(self, pointer: ir.Value, offset: ir.Value | int) -> ir.Value:
        return self.body.gep(pointer, [self.value(offset)], source_etype=I8)

    def get(self, pointer: ir.Value, offset: ir.Value | int = 0, kind: ir.Type = I64,
            order: str | None = None) -> ir.Value:
        place = self.at(pointer, offset)
        if order:
            return self.body.load_atomic(place, order, kind.width // 8, typ=kind)
        return self.body.load(place, typ=kind)

    def put(self, pointer: ir.Value, offset: ir.Value | int, value: ir.Value | int, order: str | None = None) -> None:
        value, place = self.value(value), self.at(pointer, offset)
        if order:
            # The builder's own store_atomic asks the pointer for the type it points to; pointers are untyped here.
            self.body._insert(ir.instructions.StoreAtomicInstr(self.body.block, value, place, order, 8))
        else:
            self.body.store(value, place)

    def exchange(self, pointer: ir.Value, offset: ir.Value | int, value: int) -> ir.Value:
        """Store and return what was there; a full fence."""
        return self.body.atomic_rmw("xchg", self.at(pointer, offset), word(value), "seq_cst")

    def variable(self, kind: ir.Type, initial: ir.Value | int | None = None) -> ir.Value:
        """A cell in the frame of the routine (LLVM turns it into a register)."""
        here = ir.IRBuilder(self.top)
        here.position_before(self.top.instructions[0])
        cell = here.alloca(kind)
        if initial is not None:
            self.body.store(self.value(initial, kind), cell)
        return cell

    # calls

    def call(self, name: str, result: ir.Type, *values: ir.Value | int) -> ir.Value:
        """Call the function called `name`, declaring it where it is new."""
        values = tuple(self.value(value) for value in values)
        function = self.module.globals.get(name)
        if function is None:
            function = ir.Function(self.module, ir.FunctionType(result, [value.type for value in values]), name)
        return self.body.call(function, values)

    def call_at(self, pointer: ir.Value, result: ir.Type, *values: ir.Value | int) -> ir.Value:
        """Call the function at an address."""
        values = tuple(self.value(value) for value in values)
        kind = ir.FunctionType(result, [value.type for value in values])
        return self.body.call(_Callee(pointer, kind), values)

    def external(self, name: str) -> ir.Value:
        """The address of the process that the symbol `name` stands for."""
        found = self.module.globals.get(name)
        if found is None:
            found = ir.GlobalVariable(self.module, I8, name)
            found.linkage = "external"
        return found

    # control flow

    def test(self, sign: str, left: ir.Value, right: ir.Value | int = 0) -> ir.Value:
        """Signed comparison of integers, or of pointers."""
        if isinstance(left.type, ir.PointerType):
            return self.body.icmp_unsigned(sign, left, NULL if isinstance(right, int) else right)
        return self.body.icmp_signed(sign, left, self.value(right, left.type))

    @contextmanager
    def when(self, condition: ir.Value, likely: bool | None = None) -> Iterator[None]:
        with self.body.if_then(condition, likely):
            yield

    @contextmanager
    def forever(self) -> Iterator[Callable[[ir.Value], None]]:
        """Repeat the block; call what it yields with a condition to leave."""
        head, done = self.function.append_basic_block("head"), self.function.append_basic_block("done")
        self.body.branch(head)
        self.body.position_at_end(head)

        def leave_if(condition: ir.Value) -> None:
            following = self.function.append_basic_block("on")
            self.body.cbranch(condition, done, following)
            self.body.position_at_end(following)

        yield leave_if
        if not self.body.block.is_terminated:
            self.body.branch(head)
        self.body.position_at_end(done)

    @contextmanager
    def count(self, start: ir.Value | int, stop: ir.Value) -> Iterator[ir.Value]:
        """Repeat the block for index = start .. stop-1; tests first."""
        cell = self.variable(I64, start)
        with self.forever() as leave_if:
            index = self.body.load(cell, typ=I64)
            leave_if(self.test(">=", index, stop))
            yield index
            self.body.store(self.body.add(index, word(1)), cell)

    def give(self, value: ir.Value | int | None = None) -> None:
        """Return from the routine."""
        if value is None:
            self.body.ret_void()
        else:
            self.body.ret(self.value(value, self.function.function_type.return_type))

