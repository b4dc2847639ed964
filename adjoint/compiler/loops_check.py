"""check(program): is this loop IR well formed? Every value once, before use and in scope; dtypes of operations; indices in range.

Run it on what the middle of the compiler makes, before any backend sees it: a mistake is a CompileError that names the step and
the statement, never wrong code. May import: errors, loops. Read next: reference.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager

import numpy as np

from ..errors import CompileError
from .loops import (
    LANE_BYTES,
    Carry,
    Check,
    Contraction,
    Convolution,
    Fold,
    Foreign,
    Index,
    Kernel,
    Let,
    Load,
    Loop,
    Program,
    Statement,
    Store,
    Value,
    Var,
)
from .steps import check_windows, leaves

BOOL, INT64 = np.dtype(np.bool_), np.dtype(np.int64)
_KINDS = {                       # operation -> kinds of dtype that it takes; result of the same dtype
    **dict.fromkeys("add sub mul neg".split(), "fiu"),
    **dict.fromkeys("div fma sqrt abs floor ceil trunc rint copysign call".split(), "f"),
    **dict.fromkeys("sdiv srem shl lshr ashr".split(), "iu"),
    **dict.fromkeys("and or xor not".split(), "biu"), "mulhi": "u"}
_ARITY = {
    **dict.fromkeys("add sub mul div sdiv srem copysign and or xor shl lshr ashr eq ne lt le gt ge mulhi".split(), 2),
    **dict.fromkeys("neg sqrt abs floor ceil trunc rint not convert bitcast index".split(), 1),
    "fma": 3, "select": 3, "const": 0}
_COMPARISONS = frozenset("eq ne lt le gt ge".split())
_COMBINES = {"add": "fiu", "mul": "fiu", "max": "fiub", "min": "fiub", "and": "biu", "or": "biu"}


def check(program: Program) -> None:
    """Raise CompileError at the first thing that is not as loops.py says."""
    for buffer in program.buffers:
        _demand(buffer.role != "arena" or (buffer.offset % 64 == 0 and buffer.offset >= 0), "an arena buffer is not aligned")
        ends = buffer.offset + buffer.size * buffer.dtype.itemsize
        _demand(buffer.role != "arena" or ends <= program.arena_bytes, "a buffer lies outside the arena")
    _demand(0 <= program.commit <= len(program.steps), "the commit point is not a step")
    for number, outer in enumerate(program.steps):
        for step in leaves([outer]):
            try:
                _Checker(program, fails=number < program.commit).step(step)
            except CompileError as error:
                raise CompileError(f"step {number} ({step.name}): {error}") from None
    found = check_windows(program)
    _demand(not found, found)


def _demand(condition: bool, what: str) -> None:
    if not condition:
        raise CompileError(what)


class _Checker:
    """Scopes while the statements of one step are read."""

    def __init__(self, program: Program, fails: bool) -> None:
        self.program, self.fails = program, fails
        self.visible: set[Value] = set()
        self.seen: set[Value] = set()
        self.extents: dict[Var, int] = {}
        self.vector = self.pure = False

    def step(self, step: Kernel | Contraction | Convolution) -> None:
        if isinstance(step, Kernel):
            _demand(step.extent >= 0, "a negative extent")
            with self.scope(step.var, step.extent):
                self.body(step.body)
            return
        for operand in (step.a, step.b):
            _demand(self.buffer(operand.buffer).dtype == step.dtype, "an operand has another dtype than the contraction")
        if isinstance(step, Convolution):
            self.walked(step)
        else:
            for operand, shape in ((step.a, (step.batch, step.m, step.k)), (step.b, (step.batch, step.k, step.n))):
                self.within(operand.buffer, operand.offset, list(zip(operand.strides, shape, strict=True)))
        self.extents.update(zip(step.variables, (step.batch, step.m, step.n), strict=True))
        self.define(step.accumulator, step.dtype)
        for statement in step.epilogue:
            _demand(isinstance(statement, Let | Load | Store), "an epilogue holds more than straight-line code")
        self.body(step.epilogue)

    def walked(self, step: Convolution) -> None:
        """The operands of a convolution lie in their buffers: A at every place that a walk may reach, B with whole lanes."""
        _demand(len(step.b.strides) == len(step.summed) + 2 and len(step.a.strides) == 1 + len(step.free) + len(step.summed),
                "an operand has another number of axes than the convolution")
        steps = list(zip(step.a.strides, (step.batch, *step.free, *step.summed), strict=True))
        for walk in step.walks:
            _demand(min(walk.stride, walk.dilation, walk.spread) >= 1 and walk.size >= 0, "a walk that does not go forward")
            steps.append((walk.step, walk.size))
        self.within(step.a.buffer, step.a.offset, steps)
        lanes = LANE_BYTES // step.dtype.itemsize
        _demand(step.b.strides[-1] == 1, "the rows of B are not consecutive")
        whole = -(-step.n // lanes) * lanes
        self.within(step.b.buffer, step.b.offset, list(zip(step.b.strides, (step.batch, *step.summed, whole), strict=True)))

    @contextmanager
    def scope(self, var: Var, extent: int):
        """Inside, `var` and what the body defines are visible."""
        _demand(var not in self.extents, "a loop variable is used by two loops, one inside the other")
        before = set(self.visible)
        self.extents[var] = extent
        yield
        del self.extents[var]
        self.visible = before

    def define(self, value: Value, dtype: np.dtype | None = None) -> None:
        _demand(value not in self.seen, f"value {value.number} is defined twice")
        _demand(dtype is None or value.dtype == dtype, f"value {value.number} has dtype {value.dtype}, not {dtype}")
        self.seen.add(value)
        self.visible.add(value)

    def use(self, *values: Value | Var) -> None:
        for value in values:
            if isinstance(value, Var):
                _demand(value in self.extents, "a loop variable is used outside its loop")
            else:
                _demand(value in self.visible, f"value {value.number} ({value.dtype}) is used where it has no value")

    def buffer(self, number: int):
        _demand(0 <= number < len(self.program.buffers), f"there is no buffer {number}")
        return self.program.buffers[number]

    def index(self, number: int, index: Index) -> None:
        self.buffer(number)
        self.use(*(term for term, _ in index.terms))
        for term, _ in index.terms:
            _demand(isinstance(term, Var) or term.dtype == INT64, "an index is made of a value that is not int64")
        if all(isinstance(term, Var) for term, _ in index.terms):
            self.within(number, index.offset, [(stride, self.extents[term]) for term, stride in index.terms])

    def within(self, number: int, offset: int, steps: list[tuple[int, int]]) -> None:
        """Elements offset + sum of stride * (0 .. extent - 1) lie in the buffer."""
        if any(extent == 0 for _, extent in steps) or 0 in self.extents.values():
            return
        reach = [stride * (extent - 1) for stride, extent in steps]
        low, high = offset + sum(min(each, 0) for each in reach), offset + sum(max(each, 0) for each in reach)
        size = self.buffer(number).size
        _demand(low >= 0 and high < size, f"elements {low}..{high} of buffer {number}, which has {size}")

    def body(self, body: Sequence[Statement]) -> None:
        for statement in body:
            _RULES[type(statement)](self, statement)

    def load(self, statement: Load) -> None:
        self.index(statement.buffer, statement.index)
        self.define(statement.out, self.buffer(statement.buffer).dtype)

    def store(self, statement: Store) -> None:
        _demand(not self.pure, "a fold stores")
        self.index(statement.buffer, statement.index)
        self.use(statement.value)
        _demand(statement.value.dtype == self.buffer(statement.buffer).dtype, "a store converts")

    def check(self, statement: Check) -> None:
        self.use(statement.ok)
        _demand(statement.ok.dtype == BOOL, "a check needs a bool")
        _demand(not self.pure, "a fold checks")
        _demand(self.fails, "a step after the commit point can fail")

    def foreign(self, statement: Foreign) -> None:
        _demand(not self.pure and not self.vector, "a routine of the process is called in a fold or in lanes")
        _demand(self.fails, "a step after the commit point can fail")
        for buffer, index, size in statement.places:
            self.use(*(term for term, _ in index.terms))
            self.within(buffer, index.offset, [(stride, self.extents[term]) for term, stride in index.terms] + [(1, size)])

    def loop(self, loop: Loop) -> None:
        _demand(not (loop.kind == "vector" and self.vector), "a vector loop lies inside another")
        _demand(not loop.carries or (loop.kind == "serial" and not self.pure), "a loop carries values where it must not")
        self.use(*(carry.initial for carry in loop.carries))
        before, self.vector = self.vector, self.vector or loop.kind == "vector"
        with self.scope(loop.var, loop.extent):
            for carry in loop.carries:
                self.define(carry.inside, carry.initial.dtype)
            self.body(loop.body)
            self.use(*(carry.following for carry in loop.carries))
        self.vector = before
        for carry in loop.carries:
            self.carried(carry)

    def carried(self, carry: Carry) -> None:
        _demand(carry.following.dtype == carry.initial.dtype, "a carried value changes its dtype")
        self.define(carry.result, carry.initial.dtype)

    def fold(self, fold: Fold) -> None:
        dtype = fold.value.dtype
        _demand(dtype.kind in _COMBINES.get(fold.combine, ""), f"no fold {fold.combine!r} of {dtype}")
        before, self.pure = self.pure, True
        with self.scope(fold.var, fold.extent):
            self.body(fold.body)
            self.use(fold.value)
        self.pure = before
        self.define(fold.result, dtype)

    def let(self, let: Let) -> None:
        self.use(*let.args)
        op, dtypes = let.op, [arg.dtype for arg in let.args if isinstance(arg, Value)]
        _demand(len(let.args) == _ARITY.get(op, len(let.args)), f"{op} of {len(let.args)} operands")
        _demand((op == "index") == any(isinstance(arg, Var) for arg in let.args), f"{op} of a loop variable")
        self.define(let.out, self.result(let, dtypes))

    def result(self, let: Let, dtypes: list[np.dtype]) -> np.dtype:
        """The dtype that the operation gives."""
        op = let.op
        if op in ("const", "convert"):
            return let.out.dtype
        if op == "index":
            return INT64
        if op == "bitcast":
            _demand(dtypes[0].itemsize == let.out.dtype.itemsize and BOOL not in (dtypes[0], let.out.dtype), "a bitcast of another width")
            return let.out.dtype
        if op in ("select", "call_where"):
            _demand(dtypes[0] == BOOL, f"the condition of {op} is not bool")
            dtypes = dtypes[1:]
        _demand(len(set(dtypes)) == 1, f"{op} of {', '.join(map(str, dtypes))}")
        if op in ("select", "call_where"):
            return dtypes[0]
        if op in _COMPARISONS:
            return BOOL
        _demand(dtypes[0].kind in _KINDS.get(op, ""), f"no operation {op!r} of {dtypes[0]}")
        return dtypes[0]


_RULES = {Let: _Checker.let, Load: _Checker.load, Store: _Checker.store, Check: _Checker.check,
          Foreign: _Checker.foreign, Loop: _Checker.loop,
          Fold: _Checker.fold}
