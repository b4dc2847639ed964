"""The loop IR: what native code does, element by element, before any backend sees it.

A Program is a list of steps over numbered buffers. A step is a Kernel (loops over scalar statements) or a Contraction (the one
matrix-product block, with an epilogue of scalar statements). Every operation is one IEEE operation: a backend may choose lanes
and threads but never the order of a Fold, never a contraction of mul and add. May import: errors, dtypes. Read next: reference.py.
"""

from __future__ import annotations

import itertools
import math
from typing import Literal

import numpy as np
from msgspec import Struct, field

LANE_BYTES = 64          # width of the logical lanes of a Fold, on every target
FOLD_BLOCK = 4096        # elements that one block of a Fold covers

_serial = itertools.count()


class Value(Struct, frozen=True, eq=False):
    """A scalar in single assignment; its identity is its name. dtype may also be uint32 or uint64 (bit patterns)."""

    dtype: np.dtype
    number: int = field(default_factory=lambda: next(_serial))


class Var(Struct, frozen=True, eq=False):
    """A loop variable: an int64 that runs from 0 to the extent of its loop."""

    number: int = field(default_factory=lambda: next(_serial))


class Index(Struct, frozen=True):
    """An element offset into a buffer: offset + sum of stride * term, terms being loop variables or int64 values."""

    offset: int = 0
    terms: tuple[tuple[Var | Value, int], ...] = ()

    def with_terms(self, terms: tuple[tuple[Var | Value, int], ...]) -> Index:
        """From the same offset on."""
        return Index(self.offset, terms)


class Let(Struct, frozen=True):
    """out = op(*args), one operation on scalars of one dtype; each is exactly one IEEE or integer operation.

    const                               attr is the value
    add sub mul neg                     integers wrap around
    div fma sqrt abs floor ceil trunc   floats; fma(a, b, c) = a b + c rounded once
    rint copysign                       floats; rint takes halves to even
    sdiv srem                           integers as in C, unsigned ones unsigned; the divisor has been made safe
    eq ne lt le gt ge                   bool; with a NaN all are false but ne
    and or xor not                      bool: logical; integers: bitwise
    shl lshr ashr                       integers; the amount is below the width
    select                              (bool, x, y): x where the condition holds
    convert                             to out.dtype: float to integer truncates and saturates, NaN is 0; to bool: is it not 0
    bitcast                             the same bits as out.dtype, of the same width
    mulhi                               uint32, uint64: the high half of the product
    index                               (Var,): the loop variable as int64
    call                                attr is a function of the C library ("erf", "erff" for float32), of 1 or 2 floats
    call_where                          (bool, default, *args): the call where the condition holds (rarely), else default

    The sign and the payload of a NaN have no meaning. max and min are written with compares and selects.
    """

    out: Value
    op: str
    args: tuple[Value | Var, ...]
    attr: object = None


class Load(Struct, frozen=True):
    """out = buffer[index]. bool buffers hold bytes 0 and 1."""

    out: Value
    buffer: int
    index: Index


class Store(Struct, frozen=True):
    """buffer[index] = value."""

    buffer: int
    index: Index
    value: Value


class Check(Struct, frozen=True):
    """If `ok` is false anywhere, the program stops before its commit point with error `code` (an index into Program.errors)."""

    ok: Value
    code: int


class Foreign(Struct, frozen=True):
    """A routine of the process (lapack.py): 0 = routine(places, numbers), or the program stops with error `code`, as at a Check.

    places: (buffer, index of the first element, how many follow from there), each read and written. A kernel with such a statement
    holds nothing else, and its iterations share no memory.
    """

    routine: str
    places: tuple[tuple[int, Index, int], ...]
    numbers: tuple[int, ...]
    code: int


class Carry(Struct, frozen=True):
    """A value that a serial loop carries: `initial` before it, `inside` at the top of the body, `following` at its end, `result` after."""

    initial: Value
    inside: Value
    following: Value
    result: Value


class Loop(Struct, frozen=True):
    """Run body for var = 0 .. extent-1. kind "vector": iterations are independent and may run in lanes (no Carry); "serial": in order.

    A vector loop may contain serial loops and Folds (they run lane by lane), never another vector loop.
    """

    var: Var
    extent: int
    body: tuple[Statement, ...]
    kind: Literal["serial", "vector"] = "serial"
    carries: tuple[Carry, ...] = ()


class Fold(Struct, frozen=True):
    """result = the reduction of `value` (computed by body) over var = 0 .. extent-1, in an order fixed by extent and dtype alone.

    With lanes L = LANE_BYTES / itemsize: elements are cut into blocks of FOLD_BLOCK. Within a block, lane l starts from the
    identity and combines serially the elements with index % L == l, always as combine(so far, element). Lanes are combined as a
    tree, lane l with lane l + L/2, then L/4 and so on. Blocks are combined serially, the first block first.
    extent 0 gives the identity. combine: "add" (identity +0), "mul", "max", "min", "and", "or"; combine(x, y) of max and min is y
    if y is NaN or better, else x: NaN propagates, and of equal zeros the first one stays.
    body contains no Loop that carries, no Store, no Check.
    """

    var: Var
    extent: int
    body: tuple[Statement, ...]
    value: Value
    combine: str
    result: Value


Statement = Let | Load | Store | Check | Foreign | Loop | Fold


class Kernel(Struct, frozen=True):
    """One loop nest. `var` over `extent` is the axis that threads may split (statically); kernels with extent 1 run on one thread."""

    name: str
    var: Var
    extent: int
    body: tuple[Statement, ...]
    cost: float = 0.0            # estimated scalar operations, for the choice of threads


class Operand(Struct, frozen=True):
    """A strided view of a buffer: element (i, j, ...) lies at offset + sum of strides * index. Strides are in elements."""

    buffer: int
    offset: int
    strides: tuple[int, ...]


class Contraction(Struct, frozen=True):
    """C[b, m, n] = sum over k of A[b, m, k] B[b, k, n], accumulated serially over k with fma from zero, then the epilogue.

    The epilogue is statements in the variables (b, m, n) and the value `accumulator`; its Stores are the only writes. It holds no
    loops and no Checks. Strides: a is (batch, m, k), b is (batch, k, n).
    """

    name: str
    dtype: np.dtype
    batch: int
    m: int
    n: int
    k: int
    a: Operand
    b: Operand
    variables: tuple[Var, Var, Var]
    accumulator: Value
    epilogue: tuple[Statement, ...]


class Walk(Struct, frozen=True):
    """A window's walk along one axis of A: free index i and summed index j meet at place (stride i + dilation j - low) / spread.

    Where that is no whole number of 0 .. size - 1 the term is left out; else the element lies `step` elements per place further.
    """

    free: int                    # which of the free axes
    summed: int                  # which of the summed axes
    stride: int
    dilation: int
    low: int
    spread: int
    size: int
    step: int


class Convolution(Struct, frozen=True):
    """C[b, m, n] = sum over k of A[b, m, k] B[b, k, n], where m counts the `free` axes and k the `summed` axes, both row-major.

    Accumulated serially over k with fma from zero, as in a Contraction, terms outside A left out, then the epilogue. Strides: a is
    (batch, *free, *summed), with the walks' places added; b is (batch, *summed, n), and consecutive along n: rows of B may be read up
    to the next multiple of LANE_BYTES, so those bytes lie in its buffer.
    """

    name: str
    dtype: np.dtype
    batch: int
    free: tuple[int, ...]
    n: int
    summed: tuple[int, ...]
    a: Operand
    b: Operand
    walks: tuple[Walk, ...]
    variables: tuple[Var, Var, Var]
    accumulator: Value
    epilogue: tuple[Statement, ...]

    @property
    def m(self) -> int:
        return math.prod(self.free)

    @property
    def k(self) -> int:
        return math.prod(self.summed)


class Buffer(Struct, frozen=True):
    """Memory of `size` elements. role: "input", "output", "hidden" (captured array), "arena", "pack"; `slot` orders those of a role.

    An arena buffer's `offset` is its byte offset in the arena (64-byte aligned). A donated input is written in the commit tail.
    """

    dtype: np.dtype
    size: int
    role: Literal["input", "output", "hidden", "arena"]
    slot: int = 0
    offset: int = 0


class Program(Struct, frozen=True):
    """Steps over buffers. Steps before `commit` write no donated buffer; those from `commit` on cannot fail.

    signals: the buffer that holds the words of a Signals, or -1.
    """

    buffers: tuple[Buffer, ...]
    steps: tuple[Kernel | Contraction | Convolution, ...]
    commit: int
    arena_bytes: int
    errors: tuple[object, ...] = ()
    signals: int = -1
