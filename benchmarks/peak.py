"""The float32 peak of this machine, measured: fused multiply-adds on registers, nothing else, on some threads."""

from __future__ import annotations

import ctypes
import threading
import time

import llvmlite.binding as llvm

from adjoint.compiler.target import host_target

CHAINS = 24              # independent accumulators: enough to hide the latency of the multiply-add
STEPS = 1_000_000


def _source(lanes: int) -> str:
    vector = f"<{lanes} x float>"
    fma = f"llvm.fma.v{lanes}f32"
    phis = "".join(f"  %a{k} = phi {vector} [zeroinitializer, %entry], [%b{k}, %loop]\n" for k in range(CHAINS))
    work = "".join(f"  %b{k} = call {vector} @{fma}({vector} %a{k}, {vector} %c, {vector} %c)\n" for k in range(CHAINS))
    store = f"store {vector} %b{{0}}, ptr %p{{0}}, align 4"
    ends = "".join(f"  %p{k} = getelementptr {vector}, ptr %out, i64 {k}\n  {store.format(k)}\n" for k in range(CHAINS))
    head = f'define void @peak(i64 %n, ptr %out) "prefer-vector-width"="{lanes * 32}" {{\nentry:\n'
    return (f"{head}  %c = load {vector}, ptr %out, align 4\n"
            f"  br label %loop\nloop:\n  %i = phi i64 [0, %entry], [%j, %loop]\n{phis}{work}  %j = add i64 %i, 1\n"
            f"  %more = icmp slt i64 %j, %n\n  br i1 %more, label %loop, label %done\ndone:\n{ends}  ret void\n}}\n"
            f"declare {vector} @{fma}({vector}, {vector}, {vector})\n")


def measured_peak(threads: int) -> float:
    """Flops per second of `threads` threads together, the best of several tries."""
    target = host_target()
    lanes = target.vector_bytes // 4
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(_source(lanes)), target.machine(2))
    engine.finalize_object()
    run = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_void_p)(engine.get_function_address("peak"))
    blocks = [(ctypes.c_float * (lanes * CHAINS))() for _ in range(threads)]
    best = 0.0
    for _ in range(8):
        workers = [threading.Thread(target=run, args=(STEPS, block)) for block in blocks]
        start = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        best = max(best, 2.0 * lanes * CHAINS * STEPS * threads / (time.perf_counter() - start))
    return best
