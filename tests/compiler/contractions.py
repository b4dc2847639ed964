"""A small driver for the tests of matmul.py: one native module of contractions, their arrays, and an oracle in libm's fma."""

from __future__ import annotations

import ctypes
import ctypes.util
from dataclasses import dataclass, field

import llvmlite.binding as llvm
import llvmlite.ir as ir
import numpy as np

from adjoint.compiler import flow, jit, matmul
from adjoint.compiler.loops import Contraction, Index, Let, Load, Operand, Statement, Store, Value, Var
from adjoint.compiler.plan import Plan, plan_contraction
from adjoint.compiler.target import Target

GUARD = 32               # elements around every array that nothing may change
STEP = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)


@dataclass(frozen=True)
class Layout:
    """Where element (b, i, j) of an operand lies: `base` elements into its buffer plus strides."""

    strides: tuple[int, int, int]
    base: int
    size: int


def layout(shape: tuple[int, int, int], order: str) -> Layout:
    """order: "N" rows, "T" columns, "R" rows and columns reversed, "S" every second element, "B" one matrix for all of the batch,
    "V" one row for all rows."""
    b, i, j = shape
    area = i * j
    known = {
        "N": ((area, j, 1), 0, b * area),
        "T": ((area, 1, i), 0, b * area),
        "R": ((area, -j, -1), area - 1 if area else 0, b * area),
        "S": ((2 * area, 2 * j, 2), 0, 2 * b * area),
        "B": ((0, j, 1), 0, area),
        "V": ((j, 0, 1), 0, b * j),
    }
    return Layout(*known[order])


@dataclass
class Case:
    """One contraction with its arrays: buffers 0, 1 and 2 are A, B and C, 3 a bias along n, 4 a bias along m, 5 a matrix like C."""

    shape: tuple[int, int, int, int]
    orders: str = "NN"
    dtype: str = "float32"
    epilogue: str = "store"
    seed: int = 0
    contraction: Contraction = field(init=False)

    def __post_init__(self) -> None:
        batch, m, n, k = self.shape
        rng = np.random.default_rng([self.seed, batch, m, n, k])
        self.a, self.b = layout((batch, m, k), self.orders[0]), layout((batch, k, n), self.orders[1])
        sizes = (self.a.size, self.b.size, batch * m * n, n, m, batch * m * n)
        self.memory = [rng.standard_normal(size + 2 * GUARD).astype(self.dtype) for size in sizes]
        self.before = [array.copy() for array in self.memory]
        operands = [Operand(number, GUARD + each.base, each.strides) for number, each in enumerate((self.a, self.b))]
        variables, accumulator = (Var(), Var(), Var()), Value(np.dtype(self.dtype))
        statements = _epilogue(self.epilogue, variables, accumulator, m, n)
        self.contraction = Contraction(
            "product", np.dtype(self.dtype), batch, m, n, k, *operands, variables, accumulator, statements
        )

    def view(self, number: int) -> np.ndarray:
        """A, B or C as an array of three axes."""
        batch, m, n, k = self.shape
        if number == 2:
            return self.memory[2][GUARD:-GUARD].reshape(batch, m, n)
        shape, each = ((batch, m, k), self.a) if number == 0 else ((batch, k, n), self.b)
        array = self.memory[number]
        bytes_ = [stride * array.itemsize for stride in each.strides]
        return np.lib.stride_tricks.as_strided(array[GUARD + each.base :], shape, bytes_)

    def clear(self) -> None:
        self.memory[2][GUARD:-GUARD] = np.nan

    def intact(self) -> bool:
        """Nothing but C was written."""
        others = all(np.array_equal(self.memory[i], self.before[i]) for i in (0, 1, 3, 4, 5))
        edges = [np.r_[each[2][:GUARD], each[2][-GUARD:]] for each in (self.memory, self.before)]
        return others and np.array_equal(*edges)

    def expected(self, b: int, m: int, n: int) -> float:
        """Element (b, m, n): libm's fma, serially over k, then the epilogue."""
        total = serial_fma(self.view(0)[b, m], self.view(1)[b, :, n])
        if self.epilogue == "store":
            return total
        rows, columns = self.memory[4][GUARD:-GUARD], self.memory[3][GUARD:-GUARD]
        like = self.memory[5][GUARD:-GUARD].reshape(self.view(2).shape)
        return ((total + columns[n]) + rows[m]) * like[b, m, n]


def serial_fma(a: np.ndarray, b: np.ndarray) -> np.floating:
    """sum of a[i] b[i], each step rounded once."""
    scalar = a.dtype.type
    function = _fma(a.dtype.itemsize)
    total = 0.0
    for x, y in zip(a.tolist(), b.tolist(), strict=True):
        total = function(x, y, total)
    return scalar(total)


def _fma(size: int):
    library = ctypes.CDLL(ctypes.util.find_library("m"))
    function, kind = (library.fmaf, ctypes.c_float) if size == 4 else (library.fma, ctypes.c_double)
    function.argtypes, function.restype = [kind] * 3, kind
    return function


def _epilogue(kind: str, variables: tuple[Var, ...], accumulator: Value, m: int, n: int) -> tuple[Statement, ...]:
    vb, vm, vn = variables
    place = Index(GUARD, ((vb, m * n), (vm, n), (vn, 1)))
    if kind == "store":
        return (Store(2, place, accumulator),)
    columns, rows, like, first, second, third = (Value(accumulator.dtype) for _ in range(6))
    return (
        Load(columns, 3, Index(GUARD, ((vn, 1),))),
        Let(first, "add", (accumulator, columns)),
        Load(rows, 4, Index(GUARD, ((vm, 1),))),
        Let(second, "add", (first, rows)),
        Load(like, 5, place),
        Let(third, "mul", (second, like)),
        Store(2, place, third),
    )


class Native:
    """Native code of several cases in one module, linked."""

    def __init__(self, cases: list[Case], target: Target, emit_poll: matmul.EmitPoll | None = None) -> None:
        self.cases, self.target = cases, target
        module = ir.Module(name="contractions")
        module.triple = target.triple
        steps = [matmul.lower_contraction(module, c.contraction, emit_epilogue, target, emit_poll) for c in cases]
        for function in (step.function for each in steps for step in each):
            function.linkage = ""
        self.text = str(module)
        parsed = llvm.parse_assembly(self.text)
        parsed.verify()
        names = [step.function.name for each in steps for step in each]
        self.code = jit.load([target.machine().emit_object(parsed)], names)
        self.steps = [[(STEP(self.code[step.function.name]), step.extent) for step in each] for each in steps]

    def plan(self, number: int) -> Plan:
        return plan_contraction(self.cases[number].contraction, self.target)

    def run(self, number: int, parts: int = 1, control: int | None = None) -> np.ndarray:
        """C of one case, each step cut into `parts` ranges run in reverse order; C starts as NaN."""
        case = self.cases[number]
        case.clear()
        scratch = np.full(self.plan(number).scratch_bytes + 64, 0xFF, np.uint8)
        start = scratch.ctypes.data + -scratch.ctypes.data % 64
        table = (ctypes.c_void_p * len(case.memory))(*(array.ctypes.data for array in case.memory))
        for function, extent in self.steps[number]:
            for part in reversed(range(parts)):
                begin, end = extent * part // parts, extent * (part + 1) // parts
                function(ctypes.addressof(table), begin, end, start, control)
        return case.view(2).copy()


def emit_epilogue(builder, contraction, buffers, accumulator, b, m, n, mask) -> None:
    """The epilogues of `_epilogue` for one vector, gathered and scattered."""
    values = {contraction.accumulator: accumulator}
    places = dict(zip(contraction.variables, (b, m, n), strict=True))
    lane_variable, size = contraction.variables[2], contraction.dtype.itemsize
    for statement in contraction.epilogue:
        if isinstance(statement, Let):
            operation = {"add": builder.fadd, "mul": builder.fmul}[statement.op]
            values[statement.out] = operation(*(values[each] for each in statement.args))
            continue
        base = builder.load(flow.at(builder, buffers, flow.i64(8 * statement.buffer)), typ=flow.PTR)
        offsets = [flow.times(builder, places[var], stride * size) for var, stride in statement.index.terms]
        address = flow.at(builder, base, flow.i64(statement.index.offset * size), *offsets)
        step = dict(statement.index.terms).get(lane_variable, 0) * size
        if isinstance(statement, Store):
            _scatter(builder, values[statement.value], address, step, mask)
        else:
            values[statement.out] = _gather(builder, accumulator.type, address, step, mask)


def _scatter(builder, vector, address, step, mask) -> None:
    mask = mask or ir.Constant(ir.VectorType(flow.I1, vector.type.count), [1] * vector.type.count)
    pointers = flow.at(builder, flow.splat(builder, address, vector.type.count), _steps(vector.type.count, step))
    lanes = f"v{vector.type.count}"
    name = f"llvm.masked.scatter.{lanes}{vector.type.element.intrinsic_name}.{lanes}p0"
    kind = ir.FunctionType(flow.VOID, [vector.type, pointers.type, flow.I32, mask.type])
    builder.call(flow.declared(builder.module, name, kind), [vector, pointers, ir.Constant(flow.I32, 4), mask])


def _gather(builder, vector, address, step, mask):
    mask = mask or ir.Constant(ir.VectorType(flow.I1, vector.count), [1] * vector.count)
    pointers = flow.at(builder, flow.splat(builder, address, vector.count), _steps(vector.count, step))
    name = f"llvm.masked.gather.v{vector.count}{vector.element.intrinsic_name}.v{vector.count}p0"
    kind = ir.FunctionType(vector, [pointers.type, flow.I32, mask.type, vector])
    zero = ir.Constant(vector, [0.0] * vector.count)
    return builder.call(
        flow.declared(builder.module, name, kind), [pointers, ir.Constant(flow.I32, 4), mask, zero]
    )


def _steps(count: int, step: int) -> ir.Constant:
    return ir.Constant(ir.VectorType(flow.I64, count), [lane * step for lane in range(count)])
