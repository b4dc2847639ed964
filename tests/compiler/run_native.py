"""Runs loop programs natively on flat arrays, as the entry would; and compares bits with the reference executor."""

import ctypes

import numpy as np

from adjoint.compiler import control as at
from adjoint.compiler import reference
from adjoint.compiler.llvm import emit_object, program_scratch
from adjoint.compiler.runtime import load_program
from adjoint.compiler.target import host_target

PROGRAM = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)


class Native:
    """A program in machine code, called on one thread or as one of several."""

    def __init__(self, program, target=None):
        target = target or host_target()
        self.emitted = emit_object(program, target)
        self.code = load_program([self.emitted.data], ["program"])
        self.function = PROGRAM(self.code["program"])
        self.scratch = np.zeros(program_scratch(program, target) + 64, np.uint8)

    def table(self, buffers):
        scratch = -(-self.scratch.ctypes.data // 64) * 64
        return np.array([buffer.ctypes.data for buffer in buffers] + [scratch], np.int64)

    def __call__(self, buffers):
        table, control = self.table(buffers), np.zeros(at.CONTROL_BYTES // 8, np.int64)
        control[at.DEADLINE // 8] = at.UNTIL_NEVER
        return self.function(table.ctypes.data, 0, 1, control.ctypes.data)


def same_bits(x, y):
    """Equal bits, any NaN being equal to any NaN."""
    if x.dtype.kind == "f":
        both = np.isnan(x) & np.isnan(y)
        x, y = np.where(both, 0, x), np.where(both, 0, y)
    return x.tobytes() == y.tobytes()


def check_program(program, given, *targets):
    """Reference and machine code leave the same bits in every buffer that is not scratch, on every target; returns them."""
    expected = reference.buffers_for(program, {number: array.copy() for number, array in given.items()})
    status = reference.run(program, expected)
    for target in targets or (host_target(),):
        found = reference.buffers_for(program, {number: array.copy() for number, array in given.items()})
        assert Native(program, target)(found) == status
        for number, buffer in enumerate(program.buffers):
            if buffer.role != "arena" and status == 0:
                assert same_bits(found[number], expected[number]), f"buffer {number} differs for {target.vector_bytes} bytes"
    return expected
