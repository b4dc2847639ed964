"""A Program becomes object code: a function for every step, and `program`, which runs them on any number of threads.

Vector code is written as vectors, so no optimization pass has to find it: text, parser, code generator. Steps are split over
threads at fixed multiples, with a barrier between them; splits, lanes and unrolling never change a bit.
May import: errors, irtext, lanes, loops, matmul, nests, target, control. Read next: jit.py, compile.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import llvmlite.binding as binding
import llvmlite.ir as ir
from msgspec import Struct, field

from ..errors import CompileError
from .control import READY
from .conv import lower_convolution
from .irtext import Inserted, ModuleText, Writer
from .lanes import Cell, Frame, Lanes
from .loops import Check, Contraction, Convolution, Fold, Foreign, Kernel, Load, Loop, Program, Statement, Store
from .matmul import lower_contraction, scratch_bytes
from .memory import written
from .nests import Nest, walk
from .sequence import Fork, Item, ProgramWriter, Step, load_pointer
from .sequence import Loop as LoopItem
from .steps import Branch, Repeat, leaves, overlap, parts, roots
from .target import Target, host_target

_LISTS = 1000                # number of the first list of alias scopes


class Compiled(Struct, frozen=True):
    """Object code exporting `program`, and the symbols that it needs from the process."""

    data: bytes
    symbols: tuple[str, ...]
    steps: tuple[Step, ...]
    stats: dict[str, float] = field(default_factory=dict)


def emit_object(program: Program, target: Target) -> Compiled:
    """Machine code of a Program. Raises: CompileError where LLVM refuses it."""
    stats: dict[str, float] = {}
    start = time.perf_counter()
    text, products, steps = emit_modules(program, target)
    stats["instructions"] = text.count("\n")
    start = _lap(stats, "emit_ms", start)
    module = _parse(text)
    if products is not None:
        stats["instructions"] += products.count("\n")
        module.link_in(_parse(products))
    start = _lap(stats, "parse_ms", start)
    data = target.machine().emit_object(module)
    _lap(stats, "codegen_ms", start)
    stats["kernels"] = len(steps)
    stats["bytes"] = len(data)
    symbols = tuple(function.name for function in module.functions
                    if function.is_declaration and not function.name.startswith("llvm."))
    return Compiled(data, symbols, tuple(steps), stats)


def program_scratch(program: Program, target: Target) -> int:
    """Bytes of the block that the table's entry number len(program.buffers) points to, 64-byte aligned."""
    return max((scratch_bytes(step, target) for step in leaves(program.steps) if isinstance(step, Contraction)), default=0)


def emit_text(program: Program, target: Target | None = None) -> str:
    """The LLVM text of a program, for reading."""
    text, products, _ = emit_modules(program, target or host_target())
    return text + (products or "")


def _lap(stats: dict[str, float], name: str, start: float) -> float:
    now = time.perf_counter()
    stats[name] = round(1e3 * (now - start), 3)
    return now


def _parse(text: str) -> binding.ModuleRef:
    try:
        module = binding.parse_assembly(text)
        module.verify()
    except RuntimeError as error:
        raise CompileError(f"LLVM refused the code of a program: {str(error)[:500]}") from None
    return module


def emit_modules(program: Program, target: Target) -> tuple[str, str | None, list[Step]]:
    """(LLVM text of the kernels and of `program`, text of the matrix products or None, the steps)."""
    text = ModuleText(target.attributes())
    kernels, products = Kernels(text, program, target), Products(text, program, target)
    emit = lambda step: products.emit(step) if isinstance(step, Contraction | Convolution) else [kernels.emit(step)]
    items: list[Item] = []
    ends = [0]                                          # where in the items each step begins, and the last one ends
    for step in program.steps:
        items += items_of([step], emit)
        ends.append(len(items))
    ProgramWriter(text, program, items, ends[program.commit], finished_outputs(program, ends)).write()
    steps = list(calls(items))
    head = f'target triple = "{target.triple}"\n'
    return head + str(text) + kernels.metadata(), (str(products) if products.steps else None), steps


def items_of(steps: Sequence[Any], emit: Callable[[Any], list[Step]]) -> tuple[Item, ...]:
    """The items of a sequence of steps, inner ones first; emit(step) writes the functions of a kernel or a product."""
    items: list[Item] = []
    for step in steps:
        if isinstance(step, Repeat):
            test, body, after = (items_of(part, emit) for part in parts(step))
            items.append(LoopItem(step.extent, step.windows, test, body, after, step.flag, step.passes))
        elif isinstance(step, Branch):
            items.append(Fork(step.flag, *(items_of(part, emit) for part in parts(step))))
        else:
            items += emit(step)
    return tuple(items)


def finished_outputs(program: Program, ends: Sequence[int]) -> dict[int, list[int]] | None:
    """item number -> outputs that it writes last, for programs with signals; -1: outputs that no step writes (those in donated memory)."""
    if program.signals < 0:
        return None
    last = dict.fromkeys(range(program.buffers[program.signals].size - READY // 8), -1)
    for number, outer in enumerate(program.steps):
        touched = {roots(program.buffers, buffer)[-1] for step in leaves([outer]) for buffer in written(step)}
        last |= {program.buffers[b].slot: ends[number + 1] - 1 for b in touched if program.buffers[b].role == "output"}
    found: dict[int, list[int]] = {}
    for slot, item in sorted(last.items()):
        found.setdefault(item, []).append(slot)
    return found


def calls(items: Sequence[Item]) -> Iterator[Step]:
    """Every function that the items call."""
    for item in items:
        if isinstance(item, Step):
            yield item
        else:
            yield from calls(item.items)


class Kernels:
    """The functions of the kernels; kernels whose text is the same share one."""

    def __init__(self, text: ModuleText, program: Program, target: Target) -> None:
        self.text, self.program, self.target = text, program, target
        self.names: dict[str, str] = {}
        self.lists: dict[tuple[int, ...], int] = {}

    def emit(self, kernel: Kernel) -> Step:
        """The step of a kernel."""
        used = tuple(dict.fromkeys(buffer for each in walk(kernel.body) for buffer in buffers_of(each)))
        name = f"kernel_{len(self.names)}"
        pointers = "".join(f"ptr %b{place}, " for place in range(len(used)))
        out = Writer(self.text, name, "void", f"{pointers}i64 %begin, i64 %end, ptr %control")
        bases = {buffer: f"%b{place}" for place, buffer in enumerate(used)}
        frame = Frame(out, self.text, self.program.buffers, bases, "%control", self.alias_facts(kernel.body, used))
        grain = Nest(frame, self.target).kernel(kernel.var, kernel.extent, kernel.body, "%begin", "%end")
        out.do("ret void")
        written = out.finish()
        key = written.replace(f"@{name}(", "@(", 1)
        if key not in self.names:
            self.names[key] = name
            self.text.texts.append(written)
        checks = any(isinstance(each, Check | Foreign) for each in walk(kernel.body))
        cost = kernel.cost or kernel.extent * operations(kernel.body)
        return Step(self.names[key], kernel.extent, grain, cost, checks, used)

    def alias_facts(self, body: Sequence[Statement], used: tuple[int, ...]) -> dict[int, tuple[str, str]]:
        """Which loads no store of the kernel can touch, as LLVM's alias scopes: scope n is the function's pointer n - 1."""
        stored = {buffer for each in walk(body) if isinstance(each, Store | Foreign) for buffer in buffers_of(each)}
        places = [(place, buffer) for place, buffer in enumerate(used, 1) if buffer in stored]
        found = {}
        for place, buffer in enumerate(used, 1):
            apart = tuple(other for other, there in places if not overlap(self.program.buffers, buffer, there))
            loads = f", !noalias !{self._list(apart)}" if apart else ""
            found[buffer] = (loads, f", !alias.scope !{self._list((place,))}{loads}")
        return found

    def _list(self, scopes: tuple[int, ...]) -> int:
        return self.lists.setdefault(scopes, _LISTS + len(self.lists))

    def metadata(self) -> str:
        """The scopes, and the lists of scopes that instructions name."""
        scopes = sorted({scope for scopes in self.lists for scope in scopes})
        lines = [f"!{scope} = distinct !{{!{scope}, !0}}" for scope in scopes]
        lines += [f"!{number} = !{{{', '.join(f'!{each}' for each in scopes)}}}" for scopes, number in self.lists.items()]
        return "\n".join(["!0 = distinct !{!0}", *lines, ""])


def buffers_of(statement: Statement) -> tuple[int, ...]:
    """The buffers that a statement itself reads or writes."""
    if isinstance(statement, Foreign):
        return tuple([buffer for buffer, _, _ in statement.places])
    return (statement.buffer,) if isinstance(statement, Load | Store) else ()


def operations(body: Sequence[Statement]) -> float:
    """Scalar operations of one pass through a body."""
    return sum(max(each.extent, 1) * operations(each.body) if isinstance(each, Loop | Fold) else 1.0 for each in body)


class Products:
    """The module of the matrix products, which llvmlite.ir builds, and the text that their epilogues add to it."""

    def __init__(self, text: ModuleText, program: Program, target: Target) -> None:
        self.text, self.program, self.target = text, program, target
        self.module = ir.Module(name="products")
        self.extra = ModuleText(target.attributes(), prefix="products.")
        self.steps = 0

    def emit(self, contraction: Contraction | Convolution) -> list[Step]:
        """The steps of a contraction or a convolution."""
        found = []
        lower = lower_contraction if isinstance(contraction, Contraction) else lower_convolution
        for part in lower(self.module, contraction, self.epilogue, self.target, self.poll):
            part.function.linkage = ""
            self.text.declare(part.function.name, "void", "ptr, i64, i64, ptr, ptr")
            found.append(Step(part.function.name, part.extent, 1, part.cost))
        self.steps += len(found)
        return found

    def poll(self, builder: ir.IRBuilder, control: ir.Value) -> ir.Value:
        name, kind = "adjoint_poll", ir.FunctionType(ir.IntType(1), [ir.PointerType()])
        return builder.call(self.module.globals.get(name) or ir.Function(self.module, kind, name), [control])

    def epilogue(self, builder: ir.IRBuilder, contraction: Contraction | Convolution, buffers: ir.Value, accumulator: ir.Value,
                 b: ir.Value, m: ir.Value, n: ir.Value, mask: ir.Value | None) -> None:
        """The epilogue for one vector of the product, into the block that `builder` writes; lanes run along columns."""
        out, body = Inserted(builder, self.extra), contraction.epilogue
        used = dict.fromkeys(each.buffer for each in body if isinstance(each, Load | Store))
        bases = {buffer: load_pointer(out, buffers.get_reference(), buffer) for buffer in used}
        lanes = Lanes(Frame(out, self.extra, self.program.buffers, bases))
        for var, value in zip(contraction.variables, (b, m, n), strict=True):
            lanes.vars[var] = Cell(value.get_reference())
        count = accumulator.type.count
        with lanes.along(contraction.variables[2], count):
            lanes.mask = None if mask is None else mask.get_reference()
            lanes.values[contraction.accumulator] = Cell(accumulator.get_reference(), count)
            for statement in body:
                lanes.statement(statement)

    def __str__(self) -> str:
        return str(self.module) + "\n" + self.extra.print(known=self.module.globals)
