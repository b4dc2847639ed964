"""Random loop nests: machine code equals the reference bit for bit, whatever lies inside what."""

import numpy as np
import pytest
from run_native import check_program

from adjoint.compiler.emitter import LoopEmitter
from adjoint.compiler.loops import Buffer, Index, Kernel, Program, Value, Var
from adjoint.compiler.loops_check import check
from adjoint.compiler.target import host_target

SIZE = 4000
DTYPES = tuple(map(np.dtype, (np.float32, np.float64, np.int32, np.int64, bool)))
EXTENTS = (1, 2, 3, 7, 8, 16, 17, 20, 33)


class RandomKernel:
    """Writes one kernel that reads buffers 0 .. 4 (one per dtype) and stores wherever its loops lead, each store to its own buffer."""

    def __init__(self, rng, buffers):
        self.rng, self.buffers, self.e = rng, buffers, LoopEmitter()

    def pick(self, choices):
        return choices[self.rng.integers(len(choices))]

    def place(self, loops):
        """An index inside SIZE elements: any strides, forwards or backwards, as far as the extents allow."""
        room, terms, offset = SIZE - 1, [], 0
        for var, extent in loops:
            stride = int(self.pick((0, 1, 1, 1, 2, 5, -1, 17)))
            reach = abs(stride) * (extent - 1)
            if reach > room:
                stride, reach = 0, 0
            room -= reach
            offset += reach if stride < 0 else 0
            terms.append((var, stride))
        return Index(offset + int(self.rng.integers(room + 1)), tuple(terms))

    def own_place(self, loops):
        """The index of a store: every iteration its own element."""
        terms, stride = [], 1
        for var, extent in loops[::-1]:
            terms.append((var, stride))
            stride *= extent
        return Index(0, tuple(terms)), stride

    def value(self, loops, values, dtype):
        """A value of this dtype: loaded, converted, computed."""
        known = [v for v in values if v.dtype == dtype]
        if known and self.rng.random() < 0.6:
            return self.pick(known)
        if values and self.rng.random() < 0.2:
            return self.e.convert(self.pick(values), dtype)
        return self.e.load(DTYPES.index(dtype), self.place(loops), dtype)

    def compute(self, loops, values):
        """One operation more."""
        e, dtype = self.e, self.pick(DTYPES)
        x, y = self.value(loops, values, dtype), self.value(loops, values, dtype)
        if dtype.kind == "f":
            ops = (e.add, e.sub, e.mul, e.div, e.maximum, e.minimum, e.copysign, lambda x, y: e.fma(x, y, x), lambda x, y: e.call("exp", x),
                   lambda x, y: e.call("tanh", y), e.lt, e.eq)
        elif dtype.kind == "i":
            ops = (e.add, e.sub, e.mul, e.and_, e.xor, e.maximum, e.floor_divide, e.remainder, e.le, e.ne)
        else:
            ops = (e.and_, e.or_, e.xor, lambda x, y: e.not_(x))
        values.append(self.pick(ops)(x, y))
        if self.rng.random() < 0.3:
            values.append(e.select(self.value(loops, values, np.dtype(bool)), x, y))

    def fold(self, loops, values, depth):
        extent, combine = int(self.pick(EXTENTS)), self.pick(("add", "max", "min", "mul"))
        dtype = self.pick(DTYPES[:4])

        def body(i):
            inner, inside = [*loops, (i, extent)], list(values)
            if depth and self.rng.random() < 0.4:
                self.fold(inner, inside, depth - 1)
            for _ in range(self.rng.integers(3)):
                self.compute(inner, inside)
            return self.value(inner, inside, dtype)

        values.append(self.e.fold(extent, body, combine))

    def carry(self, loops, values):
        extent, dtype = int(self.pick(EXTENTS)), self.pick(DTYPES[:4])

        def body(i, total):
            inner, inside = [*loops, (i, extent)], [*values, total]
            self.compute(inner, inside)
            return (self.e.add(total, self.value(inner, inside, dtype)),)

        values.extend(self.e.carry(extent, (self.value(loops, values, dtype),), body))

    def block(self, loops, values, vector, depth):
        """A few statements, then perhaps a loop, then a store."""
        for _ in range(self.rng.integers(1, 5)):
            self.pick((lambda: self.compute(loops, values), lambda: self.compute(loops, values), lambda: self.fold(loops, values, 1),
                       lambda: self.carry(loops, values)))()
        if depth and self.rng.random() < 0.6:
            extent = int(self.pick(EXTENTS))
            kind = self.pick(("serial", "vector")) if not vector else "serial"
            with self.e.loop(extent, kind) as var:
                self.block([*loops, (var, extent)], list(values), vector or kind == "vector", depth - 1)
        self.store(loops, self.pick(values))

    def store(self, loops, value: Value):
        place, size = self.own_place(loops)
        if value.dtype.kind == "f":
            value = self.e.select(self.e.ne(value, value), 0.0, value)      # a NaN's payload means nothing
        self.buffers.append(Buffer(value.dtype, size, "output", len(self.buffers)))
        self.e.store(len(self.buffers) - 1, place, value)


def random_program(seed, kernels=6):
    rng = np.random.default_rng(seed)
    buffers = [Buffer(dtype, SIZE, "input", i) for i, dtype in enumerate(DTYPES)]
    steps = []
    for number in range(kernels):
        var, extent = Var(), int(rng.choice(EXTENTS))
        writer = RandomKernel(rng, buffers)
        writer.block([(var, extent)], [], False, 2)
        steps.append(Kernel(f"random{number}", var, extent, writer.e.statements))
    return Program(tuple(buffers), tuple(steps), kernels, 0)


@pytest.mark.parametrize("seed", range(6))
def test_random_loop_nests(seed):
    program = random_program(seed)
    check(program)
    rng = np.random.default_rng(seed)
    given = {0: rng.standard_normal(SIZE), 1: rng.standard_normal(SIZE), 2: rng.integers(-50, 50, SIZE),
             3: rng.integers(-(2**62), 2**62, SIZE), 4: rng.random(SIZE) < 0.5}
    given = {i: array.astype(DTYPES[i]) for i, array in given.items()}
    check_program(program, given, host_target() if seed % 2 else host_target(32))
