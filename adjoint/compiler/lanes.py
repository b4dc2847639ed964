"""Straight-line statements of loop IR as LLVM vector instructions: each operation one instruction over all lanes.

At most one loop variable, the axis, runs over lanes; a value that does not depend on it stays scalar until it meets one that does.
Addresses are split into a scalar part and the stride of the axis: 0 is a scalar load, 1 a vector, all else a gather.
Nothing here may reorder or contract arithmetic. May import: errors, loops, irtext. Read next: nests.py.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from msgspec import Struct, field

from ..errors import CompileError
from .control import STATUS
from .irtext import Inserted, ModuleText, Writer, literal, memory_type, scalar_type, suffix, vector_literal, wide
from .loops import Buffer, Check, Index, Let, Load, Store, Value, Var
from .steps import overlap

BOOL = np.dtype(np.bool_)


class Cell(NamedTuple):
    """An operand: its text, how many lanes it has (1: the same for all), whether it is a literal."""

    text: str
    lanes: int = 1
    is_literal: bool = False


class Frame(Struct):
    """What a function shares among its statements: where it is written, the pointers to its buffers, the alias facts."""

    out: Writer | Inserted
    module: ModuleText
    buffers: tuple[Buffer, ...]
    bases: dict[int, str]                                                # buffer -> pointer to its element 0
    control: str | None = None
    scopes: dict[int, tuple[str, str]] = field(default_factory=dict)     # buffer -> suffix of its loads, of its stores

    def overlapping(self, buffer: int) -> list[int]:
        """The buffers here that may share memory with this one: itself, and what lies at the same place of the arena."""
        return [other for other in self.bases if overlap(self.buffers, buffer, other)]


class Lanes:
    """Writes statements where `axis` runs over `lanes` lanes (None: scalar code), of which `mask` are valid (None: all)."""

    def __init__(self, frame: Frame) -> None:
        self.frame, self.out = frame, frame.out
        self.values: dict[Value, Cell] = {}
        self.vars: dict[Var, Cell] = {}          # for the axis: the number in lane 0
        self.axis: Var | None = None
        self.lanes = 1
        self.mask: str | None = None
        self._written: list[dict[str, str]] = [{}]

    @contextmanager
    def region(self):
        """A stretch of code that what follows is not dominated by: what `pure` wrote inside is forgotten."""
        self._written.append({})
        yield
        self._written.pop()

    def pure(self, text: str) -> str:
        """The result of an instruction of addresses or splats, written once where it dominates."""
        for known in self._written:
            if text in known:
                return known[text]
        name = self._written[-1][text] = self.out.op(text)
        return name

    @contextmanager
    def along(self, axis: Var, lanes: int):
        """Inside, `axis` runs over lanes."""
        before = self.axis, self.lanes, self.mask
        self.axis, self.lanes, self.mask = axis, lanes, None
        with self.region():
            yield
        self.axis, self.lanes, self.mask = before

    # -- operands -----------------------------------------------------------------------------------------------------

    def widen(self, cell: Cell, kind: str, lanes: int | None = None) -> str:
        """The operand in all lanes."""
        lanes = self.lanes if lanes is None else lanes
        if cell.lanes == lanes:
            return cell.text
        if cell.is_literal:
            return f"splat ({kind} {cell.text})"
        vector = wide(kind, lanes)
        first = self.pure(f"insertelement {vector} poison, {kind} {cell.text}, i64 0")
        return self.pure(f"shufflevector {vector} {first}, {vector} poison, <{lanes} x i32> zeroinitializer")

    def numbers(self) -> Cell:
        """The axis variable in every lane."""
        start = self.widen(self.vars[self.axis], "i64")
        steps = vector_literal("i64", list(range(self.lanes)))
        return Cell(self.pure(f"add {wide('i64', self.lanes)} {start}, {steps}"), self.lanes)

    def intrinsic(self, name: str, kinds: list[str], result: str, lanes: int, texts: list[str]) -> str:
        """A call of llvm.<name> on operands of these scalar kinds."""
        full = f"llvm.{name}.{suffix(result, lanes)}"
        if name.startswith("fpto"):
            full += f".{suffix(kinds[0], lanes)}"
        types = [wide(kind, lanes) for kind in kinds]
        function = self.frame.module.declare(full, wide(result, lanes), ", ".join(types))
        arguments = ", ".join(f"{kind} {text}" for kind, text in zip(types, texts, strict=True))
        return self.out.op(f"call {wide(result, lanes)} {function}({arguments})")

    # -- operations ---------------------------------------------------------------------------------------------------

    def statement(self, statement: Let | Load | Store) -> None:
        """A statement of straight-line code."""
        {Let: self.let, Load: self.load, Store: self.store}[type(statement)](statement)

    def let(self, statement: Let) -> None:
        out, op = statement.out, statement.op
        if op == "const":
            self.values[out] = Cell(literal(statement.attr, out.dtype), 1, True)
            return
        if op == "index":
            var = statement.args[0]
            self.values[out] = self.numbers() if var is self.axis else self.vars[var]
            return
        cells = [self.values[arg] for arg in statement.args]
        lanes = max(cell.lanes for cell in cells)
        kinds = [scalar_type(arg.dtype) for arg in statement.args]
        texts = [self.widen(cell, kind, lanes) for cell, kind in zip(cells, kinds, strict=True)]
        write = _WRITERS.get(op)
        if write is None:
            raise CompileError(f"the loop IR has no operation {op!r}")
        self.values[out] = Cell(write(self, statement, _Operands(statement.args[0].dtype, kinds, texts, lanes)), lanes)

    def combine(self, name: str, dtype: np.dtype, x: str, y: str, lanes: int) -> str:
        """One step of a Fold: operands and result have `lanes` lanes."""
        kind = wide(scalar_type(dtype), lanes)
        if name in ("max", "min"):
            better = self.out.op(f"{_comparison('lt' if name == 'max' else 'gt', dtype)} {kind} {x}, {y}")
            condition = wide("i1", lanes)
            best = self.out.op(f"select {condition} {better}, {kind} {y}, {kind} {x}")
            if dtype.kind != "f":
                return best
            nan = self.out.op(f"fcmp uno {kind} {y}, {y}")
            return self.out.op(f"select {condition} {nan}, {kind} {y}, {kind} {best}")
        return self.out.op(f"{_opcode(name, dtype)} {kind} {x}, {y}")

    # -- memory -------------------------------------------------------------------------------------------------------

    def address(self, buffer: int, index: Index) -> tuple[str, int | str]:
        """(pointer of lane 0, stride of the axis), or (pointer, vector of offsets) where lanes are not evenly spaced."""
        stride, offset, vector = 0, Cell(str(index.offset), 1, True), None
        coefficients: dict[Var | Value, int] = {}
        for term, factor in index.terms:
            coefficients[term] = coefficients.get(term, 0) + factor
        for term, factor in coefficients.items():
            if factor == 0:
                continue
            cell = self.vars[term] if isinstance(term, Var) else self.values[term]
            if term is self.axis:
                stride = factor
            if cell.lanes == 1:
                offset = self._plus(offset, self._times(cell, factor), 1)
            else:
                scaled = self._times(cell, factor)
                vector = scaled if vector is None else self._plus(vector, scaled, self.lanes)
        kind = memory_type(self.frame.buffers[buffer].dtype)
        base = self.frame.bases[buffer]
        pointer = base if offset.text == "0" else self.pure(f"getelementptr {kind}, ptr {base}, i64 {offset.text}")
        if vector is None:
            return pointer, stride
        if stride:
            steps = Cell(vector_literal("i64", [stride * lane for lane in range(self.lanes)]), self.lanes)
            vector = self._plus(vector, steps, self.lanes)
        return pointer, vector.text

    def _times(self, cell: Cell, factor: int) -> Cell:
        if cell.is_literal:
            return Cell(str(int(cell.text) * factor), 1, True)
        if factor == 1:
            return cell
        by = f"splat (i64 {factor})" if cell.lanes > 1 else str(factor)
        return Cell(self.pure(f"mul {wide('i64', cell.lanes)} {cell.text}, {by}"), cell.lanes)

    def _plus(self, x: Cell, y: Cell, lanes: int) -> Cell:
        if x.is_literal and y.is_literal:
            return Cell(str(int(x.text) + int(y.text)), 1, True)
        if x.text == "0" or y.text == "0":
            return y if x.text == "0" else x
        return Cell(self.pure(f"add {wide('i64', lanes)} {x.text}, {y.text}"), lanes)

    def _pointers(self, pointer: str, spacing: int | str, kind: str) -> str:
        """The vector of addresses of a gather or scatter."""
        if isinstance(spacing, str):
            return self.pure(f"getelementptr {kind}, ptr {pointer}, <{self.lanes} x i64> {spacing}")
        steps = vector_literal("i64", [spacing * lane for lane in range(self.lanes)])
        return self.pure(f"getelementptr {kind}, ptr {pointer}, <{self.lanes} x i64> {steps}")

    def load(self, statement: Load) -> None:
        buffer, out = self.frame.buffers[statement.buffer], statement.out
        kind, size = memory_type(buffer.dtype), buffer.dtype.itemsize
        pointer, spacing = self.address(statement.buffer, statement.index)
        facts = self.frame.scopes.get(statement.buffer, ("", ""))[0]
        lanes = 1 if spacing == 0 else self.lanes
        vector = wide(kind, lanes)
        if spacing == 0 or (spacing == 1 and self.mask is None):
            text = self.out.op(f"load {vector}, ptr {pointer}, align {size}{facts}")
        elif spacing == -1 and self.mask is None:
            last = self.out.op(f"getelementptr {kind}, ptr {pointer}, i64 {1 - lanes}")
            text = self.out.op(f"load {vector}, ptr {last}, align {size}{facts}")
            order = vector_literal("i32", list(range(lanes - 1, -1, -1)))
            text = self.out.op(f"shufflevector {vector} {text}, {vector} poison, <{lanes} x i32> {order}")
        else:
            text = self._masked_load(pointer, spacing, kind, size)
        if buffer.dtype.kind == "b":
            zero = "0" if lanes == 1 else "zeroinitializer"
            text = self.out.op(f"icmp ne {vector} {text}, {zero}")
        self.values[out] = Cell(text, lanes)

    def _masked_load(self, pointer: str, spacing: int | str, kind: str, size: int) -> str:
        vector, condition = wide(kind, self.lanes), wide("i1", self.lanes)
        mask = self.mask or "splat (i1 true)"
        if spacing == 1:
            where, name, place = "ptr", f"llvm.masked.load.{suffix(kind, self.lanes)}.p0", pointer
        else:
            where, place = f"<{self.lanes} x ptr>", self._pointers(pointer, spacing, kind)
            name = f"llvm.masked.gather.{suffix(kind, self.lanes)}.v{self.lanes}p0"
        function = self.frame.module.declare(name, vector, f"{where}, {condition}, {vector}")
        return self.out.op(
            f"call {vector} {function}({where} align {size} {place}, {condition} {mask}, {vector} zeroinitializer)")

    def store(self, statement: Store) -> None:
        buffer = self.frame.buffers[statement.buffer]
        kind, size, lanes = memory_type(buffer.dtype), buffer.dtype.itemsize, self.lanes
        pointer, spacing = self.address(statement.buffer, statement.index)
        if spacing == 0 and lanes > 1:
            raise CompileError(f"iterations of an independent loop store to one element of buffer {statement.buffer}")
        text = self.widen(self.values[statement.value], scalar_type(statement.value.dtype))
        vector, condition = wide(kind, lanes), wide("i1", lanes)
        if buffer.dtype.kind == "b":
            text = self.out.op(f"zext {condition} {text} to {vector}")
        facts = self.frame.scopes.get(statement.buffer, ("", ""))[1]
        if lanes == 1 or (spacing == 1 and self.mask is None):
            self.out.do(f"store {vector} {text}, ptr {pointer}, align {size}{facts}")
            return
        mask = self.mask or "splat (i1 true)"
        if spacing == 1:
            where, name, place = "ptr", f"llvm.masked.store.{suffix(kind, lanes)}.p0", pointer
        else:
            where, place = f"<{lanes} x ptr>", self._pointers(pointer, spacing, kind)
            name = f"llvm.masked.scatter.{suffix(kind, lanes)}.v{lanes}p0"
        function = self.frame.module.declare(name, "void", f"{vector}, {where}, {condition}")
        self.out.do(f"call void {function}({vector} {text}, {where} align {size} {place}, {condition} {mask})")

    # -- conditions ---------------------------------------------------------------------------------------------------

    def any(self, cell: Cell, inverted: bool = False) -> str:
        """An i1: does the condition (or its inverse) hold in any valid lane?"""
        text, condition = cell.text, wide("i1", cell.lanes)
        if inverted:
            text = self.out.op(f"xor {condition} {text}, {'true' if cell.lanes == 1 else 'splat (i1 true)'}")
        if cell.lanes == 1:
            return text
        if self.mask is not None:
            text = self.out.op(f"and {condition} {text}, {self.mask}")
        bits = self.out.op(f"bitcast {condition} {text} to i{cell.lanes}")
        return self.out.op(f"icmp ne i{cell.lanes} {bits}, 0")

    def check(self, statement: Check) -> None:
        """Leave the kernel where the condition fails in any valid lane; the first code that is stored stays."""
        out, control = self.out, self.frame.control
        failed, fine = out.fresh("failed"), out.fresh("fine")
        out.branch(self.any(self.values[statement.ok], inverted=True), failed, fine, "")
        place = f"getelementptr i8, ptr {control}, i64 {STATUS}"
        code = f"i64 {statement.code + 1}"
        out.later(failed, [f"%{failed}.at = {place}",
                           f"%{failed}.was = cmpxchg ptr %{failed}.at, i64 0, {code} monotonic monotonic, align 8",
                           "ret void"])
        out.enter(fine)


class _Operands(Struct, frozen=True):
    """Arguments of a Let as texts of `lanes` lanes; `dtype` and `kinds` are theirs."""

    dtype: np.dtype
    kinds: list[str]
    texts: list[str]
    lanes: int

    def type(self, number: int = 0) -> str:
        return wide(self.kinds[number], self.lanes)


_ORDERED = {"eq": "oeq", "ne": "une", "lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge"}


def _comparison(op: str, dtype: np.dtype) -> str:
    if dtype.kind == "f":
        return f"fcmp {_ORDERED[op]}"
    if op in ("eq", "ne"):
        return f"icmp {op}"
    return f"icmp {'s' if dtype.kind == 'i' else 'u'}{op}"


def _opcode(op: str, dtype: np.dtype) -> str:
    if dtype.kind == "f":
        return {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}[op]
    if op in ("sdiv", "srem"):
        return op if dtype.kind == "i" else "u" + op[1:]
    return op


def _binary(lanes: Lanes, let: Let, given: _Operands) -> str:
    x, y = given.texts
    return lanes.out.op(f"{_opcode(let.op, given.dtype)} {given.type()} {x}, {y}")


def _compare(lanes: Lanes, let: Let, given: _Operands) -> str:
    x, y = given.texts
    return lanes.out.op(f"{_comparison(let.op, given.dtype)} {given.type()} {x}, {y}")


def _neg(lanes: Lanes, let: Let, given: _Operands) -> str:
    if given.dtype.kind == "f":
        return lanes.out.op(f"fneg {given.type()} {given.texts[0]}")
    zero = "0" if given.lanes == 1 else "zeroinitializer"
    return lanes.out.op(f"sub {given.type()} {zero}, {given.texts[0]}")


def _not(lanes: Lanes, let: Let, given: _Operands) -> str:
    ones = "true" if given.kinds[0] == "i1" else "-1"
    ones = ones if given.lanes == 1 else f"splat ({given.kinds[0]} {ones})"
    return lanes.out.op(f"xor {given.type()} {given.texts[0]}, {ones}")


def _select(lanes: Lanes, let: Let, given: _Operands) -> str:
    condition, x, y = given.texts
    kind = given.type(1)
    return lanes.out.op(f"select {given.type()} {condition}, {kind} {x}, {kind} {y}")


_INTRINSICS = {"fma": "fma", "sqrt": "sqrt", "abs": "fabs", "floor": "floor", "ceil": "ceil", "trunc": "trunc",
               "rint": "roundeven", "copysign": "copysign"}


def _intrinsic(lanes: Lanes, let: Let, given: _Operands) -> str:
    return lanes.intrinsic(_INTRINSICS[let.op], given.kinds, given.kinds[0], given.lanes, given.texts)


def _bitcast(lanes: Lanes, let: Let, given: _Operands) -> str:
    target = wide(scalar_type(let.out.dtype), given.lanes)
    return given.texts[0] if target == given.type() else lanes.out.op(f"bitcast {given.type()} {given.texts[0]} to {target}")


def _mulhi(lanes: Lanes, let: Let, given: _Operands) -> str:
    bits = 8 * given.dtype.itemsize
    double = wide(f"i{2 * bits}", given.lanes)
    x, y = (lanes.out.op(f"zext {given.type()} {text} to {double}") for text in given.texts)
    product = lanes.out.op(f"mul {double} {x}, {y}")
    shift = str(bits) if given.lanes == 1 else f"splat (i{2 * bits} {bits})"
    high = lanes.out.op(f"lshr {double} {product}, {shift}")
    return lanes.out.op(f"trunc {double} {high} to {given.type()}")


def _convert(lanes: Lanes, let: Let, given: _Operands) -> str:
    source, target = given.dtype, let.out.dtype
    text, kind = given.texts[0], wide(scalar_type(target), given.lanes)
    zero = "0" if given.lanes == 1 else "zeroinitializer"
    if target.kind == "b":
        if source.kind == "f":
            return lanes.out.op(f"fcmp une {given.type()} {text}, {'0.0' if given.lanes == 1 else zero}")
        return lanes.out.op(f"icmp ne {given.type()} {text}, {zero}")
    if source.kind == "f" and target.kind in "iu":
        name = "fptosi.sat" if target.kind == "i" else "fptoui.sat"
        return lanes.intrinsic(name, given.kinds, scalar_type(target), given.lanes, given.texts)
    if source.kind == "f":
        opcode = "fpext" if target.itemsize > source.itemsize else "fptrunc"
    elif target.kind == "f":
        opcode = "sitofp" if source.kind == "i" else "uitofp"
    elif source.kind != "b" and target.itemsize <= source.itemsize:
        opcode = "trunc"
    else:
        opcode = "sext" if source.kind == "i" else "zext"
    return text if kind == given.type() else lanes.out.op(f"{opcode} {given.type()} {text} to {kind}")


def _call(lanes: Lanes, let: Let, given: _Operands) -> str:
    function = lane_function(lanes.frame.module, let.attr, given.kinds[0], len(given.texts), given.lanes)
    arguments = ", ".join(f"{given.type()} {text}" for text in given.texts)
    return lanes.out.op(f"call {given.type()} {function}({arguments}) nobuiltin")


def _call_where(lanes: Lanes, let: Let, given: _Operands) -> str:
    condition, *xs = given.texts
    kind, arity = given.kinds[1], len(xs) - 1
    function = masked_lane_function(lanes.frame.module, let.attr, kind, arity, given.lanes)
    vector = wide(kind, given.lanes)
    arguments = ", ".join([f"{given.type()} {condition}", *(f"{vector} {text}" for text in xs)])
    out = lanes.out
    if isinstance(out, Inserted):
        return out.op(f"call {vector} {function}({arguments})")
    found = lanes.any(Cell(condition, given.lanes))
    before, rare, after = out.label, out.fresh("rare"), out.fresh("after")
    out.branch(found, rare, after)
    out.later(rare, [f"%{rare}.value = call {vector} {function}({arguments})", f"br label %{after}"])
    out.enter(after)
    return out.op(f"phi {vector} [ {xs[0]}, %{before} ], [ %{rare}.value, %{rare} ]")


_Write = Callable[[Lanes, Let, _Operands], str]
_WRITERS: dict[str, _Write] = {
    **dict.fromkeys("add sub mul div sdiv srem and or xor shl lshr ashr".split(), _binary),
    **dict.fromkeys("eq ne lt le gt ge".split(), _compare),
    **dict.fromkeys(_INTRINSICS, _intrinsic),
    "neg": _neg, "not": _not, "select": _select, "bitcast": _bitcast, "convert": _convert, "mulhi": _mulhi,
    "call": _call, "call_where": _call_where,
}


# -- calls of the C library, lane by lane -----------------------------------------------------------------------------


def lane_function(module: ModuleText, symbol: str, kind: str, arity: int, lanes: int) -> str:
    """A function that applies `symbol` to every lane; for one lane, the symbol itself."""
    if lanes == 1:
        return module.declare(symbol, kind, ", ".join([kind] * arity))
    name = f"{module.prefix}{symbol}.{lanes}"
    if name not in module.defined:
        _write_lane_function(module, name, symbol, kind, arity, lanes, masked=False)
    return f"@{name}"


def masked_lane_function(module: ModuleText, symbol: str, kind: str, arity: int, lanes: int) -> str:
    """(condition, default, operands): `symbol` in the lanes where the condition holds, elsewhere the default."""
    name = f"{module.prefix}{symbol}.where.{lanes}"
    if name not in module.defined:
        _write_lane_function(module, name, symbol, kind, arity, lanes, masked=True)
    return f"@{name}"


def _write_scalar_function(out: Writer, function: str, kind: str, arity: int) -> None:
    """One lane: the call if the condition holds, else the default."""
    out.branch("%c", "use", "none")
    out.later("none", [f"ret {kind} %d"])
    out.enter("use")
    arguments = ", ".join(f"{kind} %x{i}" for i in range(arity))
    out.do(f"ret {kind} {out.op(f'call {kind} {function}({arguments}) nobuiltin')}")


def _write_lane_function(module: ModuleText, name: str, symbol: str, kind: str, arity: int, lanes: int, masked: bool) -> None:
    function = module.declare(symbol, kind, ", ".join([kind] * arity))
    vector, flags = wide(kind, lanes), wide("i1", lanes)
    head = [f"{flags} %c, {vector} %d"] if masked else []
    out = Writer(module, name, vector, ", ".join(head + [f"{vector} %x{i}" for i in range(arity)]), linkage="internal")
    if lanes == 1:
        _write_scalar_function(out, function, kind, arity)
        module.texts.append(out.finish())
        return
    if masked:
        bits = out.op(f"bitcast {flags} %c to i{lanes}")
        out.branch(out.op(f"icmp eq i{lanes} {bits}, 0"), "none", "start")
        out.later("none", [f"ret {vector} %d"])
        out.enter("start")
    before = out.label
    out.jump("loop")
    out.enter("loop")
    lane = out.phi("i64", "0", before)
    total = out.phi(vector, "%d" if masked else "poison", before)
    if masked:
        out.branch(out.op(f"extractelement {flags} %c, i64 {lane.name}"), "use", "next")
        out.enter("use")
    xs = [out.op(f"extractelement {vector} %x{i}, i64 {lane.name}") for i in range(arity)]
    y = out.op(f"call {kind} {function}({', '.join(f'{kind} {x}' for x in xs)}) nobuiltin")
    changed = out.op(f"insertelement {vector} {total.name}, {kind} {y}, i64 {lane.name}")
    if masked:
        out.jump("next")
        out.enter("next")
        changed = out.op(f"phi {vector} [ {changed}, %use ], [ {total.name}, %loop ]")
    following = out.op(f"add i64 {lane.name}, 1")
    out.close(lane, following)
    out.close(total, changed)
    out.branch(out.op(f"icmp ult i64 {following}, {lanes}"), "loop", "done")
    out.enter("done")
    out.do(f"ret {vector} {changed}")
    module.texts.append(out.finish())


