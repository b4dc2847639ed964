"""The reference executor: what a Program means, in NumPy, bit for bit. It is the oracle for llvm.py.

Every independent loop becomes an axis of arrays (outer loops are trailing axes: broadcasting aligns them), serial
loops run in Python, folds follow the order of loops.Fold to the letter. A load or store outside its buffer raises.
May import: errors, loops, exact. Read next: llvm.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import CompileError
from . import communication, exact, lapack_meaning
from .loops import (
    FOLD_BLOCK,
    LANE_BYTES,
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
    Operand,
    Program,
    Statement,
    Store,
    Value,
    Var,
)
from .reference_control import perform

_LARGEST_DOMAIN = 1 << 20     # elements per array: longer kernels run in chunks


class _CheckFailed(Exception):
    """Leaves the program; `code` as in Check."""

    def __init__(self, code: int) -> None:
        self.code = code


def buffers_for(program: Program, given: Mapping[int, np.ndarray]) -> list[np.ndarray]:
    """Flat arrays for every buffer: those given (by number), views of one arena, poisoned outputs."""
    arena = np.full(program.arena_bytes + 64, 0xFF, np.uint8)
    arena = arena[-arena.ctypes.data % 64:]
    found = []
    for number, buffer in enumerate(program.buffers):
        size = buffer.size * buffer.dtype.itemsize
        if number in given:
            found.append(np.asarray(given[number], buffer.dtype).reshape(-1))
        elif buffer.role == "window":
            found.append(np.empty(0, buffer.dtype))                 # until a Repeat moves it
        elif buffer.role == "arena":
            found.append(arena[buffer.offset:buffer.offset + size].view(buffer.dtype))
        else:
            found.append(np.full(size, 0xFF, np.uint8).view(buffer.dtype))
    return found


def run(program: Program, buffers: Sequence[np.ndarray]) -> int:
    """Execute over flat arrays, one per buffer, in place. 0, or n > 0: errors[n - 1] stopped it."""
    try:
        with np.errstate(all="ignore"):
            perform(program, program.steps, list(buffers), lambda step, arrays: _STEPS[type(step)](step, arrays))
    except _CheckFailed as failed:
        return failed.code + 1
    return 0


def _run_kernel(kernel: Kernel, buffers: Sequence[np.ndarray]) -> None:
    chunk = max(1, _LARGEST_DOMAIN // max(1, _widest(kernel.body)))
    for begin in range(0, kernel.extent, chunk):
        state = _State(buffers)
        state.open(kernel.var, np.arange(begin, min(begin + chunk, kernel.extent)))
        state.execute(kernel.body)


def _widest(body: Sequence[Statement]) -> int:
    """The largest number of elements that one value of the body has, per element of the enclosing domain."""
    inner = [(1 if getattr(each, "kind", "") == "serial" else each.extent) * _widest(each.body)
             for each in body if isinstance(each, Loop | Fold)]
    return max(inner, default=1)


class _State:
    """Values of the statements executed so far, as arrays over the open axes (the innermost axis first)."""

    def __init__(self, buffers: Sequence[np.ndarray]) -> None:
        self.buffers = buffers
        self.values: dict[Value | Var, np.ndarray] = {}
        self.domain: tuple[int, ...] = ()

    def open(self, var: Var, numbers: np.ndarray) -> None:
        """A new innermost axis, on which `var` takes these values."""
        self.values[var] = numbers.astype(np.int64).reshape(-1, *(1,) * len(self.domain))
        self.domain = (len(numbers), *self.domain)

    def execute(self, body: Sequence[Statement]) -> None:
        for statement in body:
            _EXECUTE[type(statement)](self, statement)

    def let(self, statement: Let) -> None:
        values = [self.values[arg] for arg in statement.args]
        op, attr = statement.op, statement.attr
        if op == "const":
            result = np.asarray(attr, statement.out.dtype)
        elif op == "index":
            result = values[0]
        elif op == "convert":
            result = exact.convert(values[0], statement.out.dtype)
        elif op == "bitcast":
            result = np.asarray(values[0]).view(statement.out.dtype)
        elif op in ("call", "call_where"):
            result = getattr(exact, op)(attr, *values)
        else:
            result = exact.OPERATIONS[op](*values)
        result = np.asarray(result)
        if result.dtype != statement.out.dtype:
            raise CompileError(f"{op} gave {result.dtype}, not {statement.out.dtype}")
        self.values[statement.out] = result

    def address(self, buffer: int, index: Index) -> np.ndarray:
        """Element numbers over the open axes, all inside the buffer."""
        place = np.asarray(index.offset, np.int64)
        for term, stride in index.terms:
            place = place + self.values[term] * np.int64(stride)
        size = len(self.buffers[buffer])
        if place.size and (place.min() < 0 or place.max() >= size):
            raise CompileError(f"element {place.min()}..{place.max()} of buffer {buffer}, which has {size}")
        return place

    def load(self, statement: Load) -> None:
        if 0 in self.domain:
            self.values[statement.out] = np.zeros((0,) + (1,) * (len(self.domain) - 1), statement.out.dtype)
            return
        self.values[statement.out] = self.buffers[statement.buffer][self.address(statement.buffer, statement.index)]

    def store(self, statement: Store) -> None:
        if 0 in self.domain:
            return
        place = np.broadcast_to(self.address(statement.buffer, statement.index), self.domain)
        if len(np.unique(place)) != place.size:
            raise CompileError(f"independent iterations store to the same element of buffer {statement.buffer}")
        self.buffers[statement.buffer][place] = self.values[statement.value]

    def check(self, statement: Check) -> None:
        if not np.all(self.values[statement.ok]) and 0 not in self.domain:
            raise _CheckFailed(statement.code)

    def foreign(self, statement: Foreign) -> None:
        """One problem after the other, by NumPy."""
        begins = [np.broadcast_to(self.address(buffer, index), self.domain).ravel() for buffer, index, _ in statement.places]
        for places in zip(*begins, strict=True):
            given = [self.buffers[buffer][at:at + size] for at, (buffer, _, size) in zip(places, statement.places, strict=True)]
            if not (communication.perform(*given, statement.numbers) if statement.routine == communication.NAME else
                    lapack_meaning.perform(statement.routine, given, statement.numbers)):
                raise _CheckFailed(statement.code)

    def loop(self, loop: Loop) -> None:
        domain = self.domain
        if loop.kind == "vector":
            self.open(loop.var, np.arange(loop.extent))
            if loop.extent:
                self.execute(loop.body)
            self.domain = domain
            return
        current = [self.values[carry.initial] for carry in loop.carries]
        for number in range(loop.extent):
            self.values[loop.var] = np.asarray(number, np.int64)
            self.values.update(zip((carry.inside for carry in loop.carries), current, strict=True))
            self.execute(loop.body)
            current = [self.values[carry.following] for carry in loop.carries]
        self.values.update(zip((carry.result for carry in loop.carries), current, strict=True))

    def fold(self, fold: Fold) -> None:
        dtype = fold.result.dtype
        if fold.extent == 0:
            self.values[fold.result] = np.asarray(exact.identity(fold.combine, dtype))
            return
        domain = self.domain
        self.open(fold.var, np.arange(fold.extent))
        self.execute(fold.body)
        value = self.values[fold.value]
        shape = np.broadcast_shapes(value.shape, (fold.extent,) + (1,) * len(domain))
        self.values[fold.result] = folded(np.broadcast_to(value, shape), fold.combine)
        self.domain = domain


_EXECUTE = {Let: _State.let, Load: _State.load, Store: _State.store, Check: _State.check,
            Foreign: _State.foreign, Loop: _State.loop,
            Fold: _State.fold}


def folded(elements: np.ndarray, combine: str) -> np.ndarray:
    """The reduction over axis 0 in the order of loops.Fold."""
    dtype = elements.dtype
    neutral, function = exact.identity(combine, dtype), exact.COMBINES[combine]
    lanes = LANE_BYTES // dtype.itemsize
    total = np.full(elements.shape[1:], neutral, dtype)
    for first in range(0, len(elements), FOLD_BLOCK):
        block = elements[first:first + FOLD_BLOCK]
        partial = np.full((lanes, *block.shape[1:]), neutral, dtype)
        for start in range(0, len(block), lanes):
            row = block[start:start + lanes]
            partial[:len(row)] = function(partial[:len(row)], row)
        width = lanes
        while width > 1:
            width //= 2
            partial = function(partial[:width], partial[width:])
        total = partial[0] if first == 0 else function(total, partial[0])
    return np.asarray(total, dtype)


def _contract(step: Contraction, buffers: Sequence[np.ndarray]) -> None:
    left = _view(buffers, step.a, (step.batch, step.m, step.k))
    right = _view(buffers, step.b, (step.batch, step.k, step.n))
    accumulator = np.zeros((step.batch, step.m, step.n), step.dtype)
    for k in range(step.k):
        accumulator = exact.fma(left[:, :, k, None], right[:, k, None, :], accumulator)
    _finish(step, accumulator, buffers)


def _convolve(step: Convolution, buffers: Sequence[np.ndarray]) -> None:
    accumulator = np.zeros((step.batch, *step.free, step.n), step.dtype)
    right = _view(buffers, step.b, (step.batch, *step.summed, step.n))
    count, rank = len(step.free), 1 + len(step.free)
    along = lambda axis, n: np.arange(n).reshape(-1, *(1,) * (rank - 1 - axis))
    base = step.a.offset + sum(s * along(i, n) for i, (n, s) in enumerate(zip((step.batch, *step.free), step.a.strides, strict=False)))
    for k in np.ndindex(*step.summed):
        place, inside = base + sum(j * s for j, s in zip(k, step.a.strides[1 + count:], strict=True)), True
        for walk in step.walks:
            at = walk.stride * along(1 + walk.free, step.free[walk.free]) + walk.dilation * k[walk.summed] - walk.low
            inside = inside & (at % walk.spread == 0) & (at >= 0) & (at < walk.size * walk.spread)
            place = place + at // walk.spread * walk.step
        inside, place = (np.broadcast_to(each, accumulator.shape[:-1]) for each in (inside, place))
        if inside.any():
            left = _elements(buffers, step.a, place[inside])
            factors = np.broadcast_to(right[(slice(None), *k)].reshape(step.batch, *(1,) * count, step.n), accumulator.shape)
            accumulator[inside] = exact.fma(left[:, None], factors[inside], accumulator[inside])
    _finish(step, accumulator.reshape(step.batch, step.m, step.n), buffers)


def _finish(step: Contraction | Convolution, accumulator: np.ndarray, buffers: Sequence[np.ndarray]) -> None:
    """The epilogue on the sums [batch, m, n]."""
    state = _State(buffers)
    for var, extent in zip(step.variables, accumulator.shape, strict=True):
        state.open(var, np.arange(extent))
    state.values[step.accumulator] = accumulator.transpose(2, 1, 0)
    if accumulator.size:
        state.execute(step.epilogue)


_STEPS = {Kernel: _run_kernel, Contraction: _contract, Convolution: _convolve}


def _view(buffers: Sequence[np.ndarray], operand: Operand, shape: tuple[int, ...]) -> np.ndarray:
    """The operand as an array; an element outside the buffer raises."""
    place = np.asarray(operand.offset)
    for stride, extent in zip(operand.strides, shape, strict=True):
        place = place[..., None] + np.arange(extent) * stride
    return _elements(buffers, operand, place)


def _elements(buffers: Sequence[np.ndarray], operand: Operand, place: np.ndarray) -> np.ndarray:
    """Elements of an operand's buffer, all inside it."""
    size = len(buffers[operand.buffer])
    if place.size and (place.min() < 0 or place.max() >= size):
        covers = f"{place.min()}..{place.max()}"
        raise CompileError(f"an operand covers {covers} of buffer {operand.buffer}, which has {size}")
    return buffers[operand.buffer][place]
