"""A Program becomes object code: a function for every step, and `program`, which runs them on any number of threads.

Vector code is written as vectors, so no optimization pass has to find it: text, parser, code generator. Steps are split over
threads at fixed multiples, with a barrier between them; splits, lanes and unrolling never change a bit.
May import: errors, irtext, lanes, loops, matmul, nests, target, control. Read next: jit.py, compile.py.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import llvmlite.binding as binding
import llvmlite.ir as ir

from ..errors import CompileError
from . import control as at
from .irtext import Inserted, ModuleText, Writer
from .lanes import Cell, Frame, Lanes, overlap
from .loops import Check, Contraction, Fold, Foreign, Kernel, Load, Loop, Program, Statement, Store
from .matmul import lower_contraction, scratch_bytes
from .nests import Nest, walk
from .target import Target, host_target

PARALLEL_COST = 60_000       # scalar operations below which a second thread costs more than it saves
POLL_COST = 4_000_000        # scalar operations between two looks at the cancel flag, about a millisecond
_LISTS = 1000                # number of the first list of alias scopes


@dataclass(frozen=True)
class Step:
    """A function over [0, extent), to be cut at multiples of `grain`; it takes the pointers `buffers`, or the whole table."""

    function: str
    extent: int
    grain: int
    cost: float
    checks: bool = False
    buffers: tuple[int, ...] | None = None

    @property
    def parallel(self) -> bool:
        return self.cost >= PARALLEL_COST and self.extent > self.grain


@dataclass(frozen=True)
class Compiled:
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
    return max((scratch_bytes(step, target) for step in program.steps if isinstance(step, Contraction)), default=0)


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
    steps: list[Step] = []
    commit = 0
    for number, step in enumerate(program.steps):
        if number == program.commit:
            commit = len(steps)
        steps += products.emit(step) if isinstance(step, Contraction) else [kernels.emit(step)]
    if program.commit >= len(program.steps):
        commit = len(steps)
    ProgramWriter(text, program, steps, commit).write()
    head = f'target triple = "{target.triple}"\n'
    return head + str(text) + kernels.metadata(), (str(products) if products.steps else None), steps


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

    def emit(self, contraction: Contraction) -> list[Step]:
        """The steps of a contraction."""
        found = []
        for part in lower_contraction(self.module, contraction, self.epilogue, self.target, self.poll):
            part.function.linkage = ""
            self.text.declare(part.function.name, "void", "ptr, i64, i64, ptr, ptr")
            found.append(Step(part.function.name, part.extent, 1, part.cost))
        self.steps += len(found)
        return found

    def poll(self, builder: ir.IRBuilder, control: ir.Value) -> ir.Value:
        name, kind = "adjoint_poll", ir.FunctionType(ir.IntType(1), [ir.PointerType()])
        return builder.call(self.module.globals.get(name) or ir.Function(self.module, kind, name), [control])

    def epilogue(self, builder: ir.IRBuilder, contraction: Contraction, buffers: ir.Value, accumulator: ir.Value,
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


def load_pointer(out: Inserted | Writer, table: str, number: int) -> str:
    """An entry of the table of pointers."""
    place = out.op(f"getelementptr i8, ptr {table}, i64 {8 * number}")
    return out.op(f"load ptr, ptr {place}, align 8")


class ProgramWriter:
    """`i64 program(ptr buffers, i64 thread, i64 threads, ptr control)`: the steps in order, for one of the threads."""

    def __init__(self, text: ModuleText, program: Program, steps: list[Step], commit: int) -> None:
        self.text, self.program, self.steps, self.commit = text, program, steps, commit
        self.out = Writer(text, "program", "i64", "ptr %buffers, i64 %thread, i64 %threads, ptr %control", linkage="")
        self.barrier = text.declare("adjoint_barrier", "i64", "ptr, i64")
        self.poll = text.declare("adjoint_poll", "i1", "ptr")

    def write(self) -> None:
        out = self.out
        many = out.op("icmp sgt i64 %threads, 1")
        first = out.op("icmp eq i64 %thread, 0")
        scratch = "null"
        if any(step.buffers is None for step in self.steps):
            scratch = load_pointer(out, "%buffers", len(self.program.buffers))
        joined = ""                                           # where the other threads wait while the first runs alone
        for number, step in enumerate(self.steps):
            wait, look = self._needs(number)
            if joined and (wait or look or step.parallel or number == self.commit):
                joined = self._join(joined)
            if wait or look:
                self._between(number, many, look)
            if number == self.commit:
                self._commit(first)
            if step.parallel:
                begin, end = (self._cut(step, text) for text in ("%thread", out.op("add i64 %thread, 1")))
                self._call(step, begin, end, scratch, number)
                continue
            if not joined:
                run, joined = out.fresh("run"), out.fresh("after")
                out.branch(first, run, joined)
                out.enter(run)
            self._call(step, "0", str(step.extent), scratch, number)
        if joined:
            self._join(joined)
        if self.commit == len(self.steps) and self.steps:
            self._between(len(self.steps), many, True)
        out.do("ret i64 0")
        self.text.texts.append(out.finish())

    def _join(self, label: str) -> str:
        self.out.jump(label)
        self.out.enter(label)
        return ""

    def _needs(self, number: int) -> tuple[bool, bool]:
        """Between step number - 1 and this one: must threads wait for each other, must the status be looked at?"""
        if number == 0:
            return False, False
        before = self.steps[number - 1]
        look = number <= self.commit and (before.checks or before.cost >= POLL_COST or number == self.commit)
        return before.parallel or self.steps[number].parallel, look

    def _between(self, number: int, many: str, look: bool) -> None:
        """A barrier, and before the commit point a way out."""
        before, out = self.steps[number - 1], self.out
        late = number > self.commit
        together, alone, after = out.fresh("together"), out.fresh("alone"), out.fresh("after")
        out.branch(many, together, alone)
        out.enter(together)
        answer = out.op(f"call i64 {self.barrier}(ptr %control, i64 %threads)")
        out.jump(after)
        out.enter(alone)
        state = self._state_alone(before) if look else "0"
        came = out.label
        out.jump(after)
        out.enter(after)
        answer = out.op(f"phi i64 [ {answer}, %{together} ], [ {state}, %{came} ]")
        if late:
            return
        leave, go = out.fresh("leave"), out.fresh("go")
        out.branch(out.op(f"icmp ne i64 {answer}, 0"), leave, go)
        out.later(leave, [f"ret i64 {answer}"])
        out.enter(go)

    def _state_alone(self, before: Step) -> str:
        """-1 if a single thread was cancelled, else the status."""
        out = self.out
        state = out.op("load i64, ptr %control, align 8")
        if before.cost < POLL_COST:
            return state
        cancelled = out.op(f"call i1 {self.poll}(ptr %control)")
        return out.op(f"select i1 {cancelled}, i64 {at.CANCELLED}, i64 {state}")

    def _commit(self, first: str) -> None:
        """From here nothing may fail: the owner looks for no signal any more."""
        out = self.out
        owner, go = out.fresh("owner"), out.fresh("go")
        out.branch(first, owner, go)
        out.enter(owner)
        place = out.op(f"getelementptr i8, ptr %control, i64 {at.DEADLINE}")
        out.do(f"store i64 {at.UNTIL_NEVER}, ptr {place}, align 8")
        out.jump(go)
        out.enter(go)

    def _cut(self, step: Step, thread: str) -> str:
        """Where the part of a thread begins: thread * units / threads units, at most the extent."""
        out = self.out
        units = -(-step.extent // step.grain)
        share = out.op(f"udiv i64 {out.op(f'mul i64 {thread}, {units}')}, %threads")
        if step.grain == 1:
            return share
        place = out.op(f"mul i64 {share}, {step.grain}")
        return out.op(f"select i1 {out.op(f'icmp slt i64 {place}, {step.extent}')}, i64 {place}, i64 {step.extent}")

    def _call(self, step: Step, begin: str, end: str, scratch: str, number: int) -> None:
        """The step over [begin, end); a long one in pieces, with a look at the cancel flag before each."""
        out = self.out
        if step.buffers is None:
            out.do(f"call void @{step.function}(ptr %buffers, i64 {begin}, i64 {end}, ptr {scratch}, ptr %control)")
            return
        pointers = "".join(f"ptr {load_pointer(out, '%buffers', buffer)}, " for buffer in step.buffers)
        if step.cost < POLL_COST or number >= self.commit or step.extent <= step.grain:
            out.do(f"call void @{step.function}({pointers}i64 {begin}, i64 {end}, ptr %control)")
            return
        pieces = min(-(-step.extent // step.grain), int(step.cost / POLL_COST) + 1)
        size = -(-step.extent // (pieces * step.grain)) * step.grain
        entry, head, body, after = out.label, out.fresh("look"), out.fresh("piece"), out.fresh("after")
        out.jump(head)
        out.enter(head)
        start = out.phi("i64", begin, entry)
        inside = out.op(f"icmp slt i64 {start.name}, {end}")
        go = out.fresh("go")
        out.branch(inside, go, after)
        out.enter(go)
        out.branch(out.op(f"call i1 {self.poll}(ptr %control)"), after, body)
        out.enter(body)
        following = out.op(f"add i64 {start.name}, {size}")
        stop = out.op(f"select i1 {out.op(f'icmp slt i64 {following}, {end}')}, i64 {following}, i64 {end}")
        out.do(f"call void @{step.function}({pointers}i64 {start.name}, i64 {stop}, ptr %control)")
        out.close(start, following)
        out.jump(head)
        out.enter(after)
