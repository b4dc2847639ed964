"""What one core can do at its best, in bursts between other measurements: multiply-adds in registers, streams of stores and of loads.

Invariant: a burst lasts well under a millisecond, so it sees the same clock and the same neighbours as what is measured beside it.
"""

from __future__ import annotations

import ctypes
import time
from functools import lru_cache

import llvmlite.binding as llvm
import numpy as np

from adjoint.compiler.target import host_target

from .peak import CHAINS
from .peak import _source as multiply_adds

STEPS = 10_000           # of a burst of multiply-adds
LEAST = 1 << 20          # bytes of a stream: what is smaller is streamed several times


def _stream(name: str, lanes: int, body: str) -> str:
    """A loop over n bytes from %p on, four vectors at a time, whose sum goes to %out."""
    vector = f"<{lanes} x float>"
    steps, total = [], "%sum"
    for k in range(4):
        steps.append(f"  %a{k} = getelementptr i8, ptr %p, i64 %i{k}\n" + body.format(k=k, v=vector, total=total))
        total = f"%t{k}"
    places = "".join(f"  %i{k} = add i64 %i, {4 * lanes * k}\n" for k in range(4))
    phis = f"  %i = phi i64 [0, %entry], [%j, %loop]\n  %sum = phi {vector} [zeroinitializer, %entry], [%t3, %loop]\n"
    return (f"define void @{name}(ptr %p, i64 %n, ptr %out) {{\nentry:\n  br label %loop\nloop:\n{phis}{places}{''.join(steps)}"
            f"  %j = add i64 %i, {16 * lanes}\n  %more = icmp slt i64 %j, %n\n  br i1 %more, label %loop, label %done\ndone:\n"
            f"  store {vector} %t3, ptr %out, align 4\n  ret void\n}}\n")


STORE = "  store {v} {total}, ptr %a{k}, align 4\n  %t{k} = bitcast {v} {total} to {v}\n"
LOAD = "  %x{k} = load {v}, ptr %a{k}, align 4\n  %t{k} = fadd {v} {total}, %x{k}\n"


@lru_cache(maxsize=1)
def _engine() -> tuple:
    target = host_target()
    lanes = target.vector_bytes // 4
    source = multiply_adds(lanes) + _stream("store", lanes, STORE) + _stream("load", lanes, LOAD)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(source), target.machine(2))
    engine.finalize_object()
    return engine, lanes


@lru_cache(maxsize=4)
def _function(name: str, *kinds: type) -> ctypes._CFuncPtr:
    return ctypes.CFUNCTYPE(None, *kinds)(_engine()[0].get_function_address(name))


def flops() -> float:
    """Multiply-adds in registers, flops per second."""
    lanes, out = _engine()[1], np.zeros(CHAINS * 16, np.float32)
    run = _function("peak", ctypes.c_int64, ctypes.c_void_p)
    run(STEPS, out.ctypes.data)                # wide units take some microseconds to wake up
    start = time.perf_counter()
    run(STEPS, out.ctypes.data)
    return 2.0 * lanes * CHAINS * STEPS / (time.perf_counter() - start)


def stream(kind: str, memory: np.ndarray) -> float:
    """kind "store" or "load" over this memory, bytes per second."""
    out, size = np.zeros(16, np.float32), memory.nbytes // 1024 * 1024
    run = _function(kind, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)
    times = max(1, LEAST // max(1, size))
    start = time.perf_counter()
    for _ in range(times):
        run(memory.ctypes.data, size, out.ctypes.data)
    return times * size / (time.perf_counter() - start)
