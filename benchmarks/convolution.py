"""python -m benchmarks.convolution: GFLOP/s of the three passes of convolutions on one core, beside the roofline of each.

The roofline of a pass: its multiply-adds at the core's peak, or its arrays read and written once at the speed of streams as large;
whichever takes longer. Bursts of both are measured between the calls. Terms that fall on padding are not counted as flops.
Options: --layers TEXT (only layers whose name contains it), --rounds N, --dtype float32 or float64. Pin the process to a core that is free.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import roofline

SMALL = 1 << 15          # bytes of a stream at least
PROGRAM = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)


@dataclass(frozen=True)
class Layer:
    """A convolution of square images by square windows. image: its input is the data, channels first, and wants no gradient."""

    name: str
    batch: int
    side: int
    inner: int
    outer: int
    window: int = 3
    stride: int = 1
    padding: int = 0
    image: bool = False

    @property
    def places(self) -> int:
        return (self.side + 2 * self.padding - self.window) // self.stride + 1

    @property
    def flops(self) -> float:
        """Two for every term that exists."""
        along = sum(0 <= o * self.stride + t - self.padding < self.side for o in range(self.places) for t in range(self.window))
        return 2.0 * self.batch * self.inner * self.outer * along**2


LAYERS = [
    Layer("Fashion net, first, batch 32", 32, 28, 1, 32, image=True), Layer("Fashion net, first, batch 128", 128, 28, 1, 32, image=True),
    Layer("Fashion net, second, batch 32", 32, 26, 32, 64), Layer("Fashion net, second, batch 128", 128, 26, 32, 64),
    Layer("ResNet-20, first", 64, 32, 3, 16, padding=1, image=True), Layer("ResNet-20, 16 channels", 64, 32, 16, 16, padding=1),
    Layer("ResNet-20, 16 to 32, stride 2", 64, 32, 16, 32, stride=2, padding=1), Layer("ResNet-20, 32 channels", 64, 16, 32, 32, padding=1),
    Layer("ResNet-20, 32 to 64, stride 2", 64, 16, 32, 64, stride=2, padding=1), Layer("ResNet-20, 64 channels", 64, 8, 64, 64, padding=1),
    Layer("1x1, 16 to 32, stride 2", 64, 32, 16, 32, window=1, stride=2),
    Layer("1x1, 32 to 64, stride 2", 64, 16, 32, 64, window=1, stride=2),
    Layer("1x1, 64 to 128, stride 2", 32, 28, 64, 128, window=1, stride=2),
]


def passes(layer: Layer, dtype: np.dtype) -> dict[str, tuple[Callable, tuple]]:
    """name -> (function, arguments) of every pass, channels last but for an image."""
    from adjoint.nn import relu
    from adjoint.primitives.convolution import convolve
    from adjoint.transforms.reverse import vjp
    rng, n = np.random.default_rng(0), layer.side
    array = lambda *shape: rng.standard_normal(shape).astype(dtype)
    x = array(layer.batch, layer.inner, n, n) if layer.image else array(layer.batch, n, n, 1, layer.inner)
    w, y = array(layer.window, layer.window, 1, layer.inner, layer.outer), array(layer.batch, layer.places, layer.places, 1, layer.outer)
    last = (lambda x: np.transpose(x, (0, 2, 3, 1))[:, :, :, None]) if layer.image else lambda x: x
    pair = lambda n: (n, n)
    options = {"stride": pair(layer.stride), "padding": pair(pair(layer.padding)), "dilation": pair(1), "spread": pair(1)}
    run = lambda x, w: convolve(last(x), w, **options)
    found = {"forward": (lambda x, w: [run(x, w)], (x, w)),
             "forward, bias, ReLU": (lambda x, w, b: [relu(run(x, w) + b)], (x, w, array(layer.outer))),
             "gradient of x": (lambda x, w, y: [vjp(lambda x: run(x, w), x)[1](y)[0]], (x, w, y)),
             "gradient of w": (lambda x, w, y: [vjp(lambda w: run(x, w), w)[1](y)[0]], (x, w, y))}
    return {name: each for name, each in found.items() if not (layer.image and name == "gradient of x")}


class Pass:
    """One pass as a native program over its own memory, in the same place at every call as inside a training step."""

    def __init__(self, function: Callable, arguments: tuple) -> None:
        from adjoint.compiler import control
        from adjoint.compiler.llvm import emit_object, program_scratch
        from adjoint.compiler.memory import touched
        from adjoint.compiler.pipeline import build
        from adjoint.compiler.runtime import load_program
        from adjoint.compiler.target import host_target
        from adjoint.core.aval import aval_of
        from adjoint.core.trace import trace_graph
        program = build(trace_graph(function, list(map(aval_of, arguments))).check(), None).program
        self.buffers = [_aligned(b.dtype, b.size) for b in program.buffers] + [_aligned(np.uint8, program_scratch(program, host_target()))]
        for memory, buffer in zip(self.buffers, program.buffers, strict=False):
            memory[:] = arguments[buffer.slot].ravel() if buffer.role == "input" else 0
        used = set().union(*map(touched, program.steps))
        self.read, self.written = ([m for i, (m, b) in enumerate(zip(self.buffers, program.buffers, strict=False))
                                    if b.role == role and i in used] for role in ("input", "output"))
        self.code = load_program([emit_object(program, host_target()).data], ["program"])
        self.function = PROGRAM(self.code["program"])
        self.table, self.control = np.array([m.ctypes.data for m in self.buffers]), np.zeros(control.CONTROL_BYTES // 8, np.int64)
        self.control[control.DEADLINE // 8] = control.UNTIL_NEVER

    def seconds(self) -> float:
        start = time.perf_counter()
        self.function(self.table.ctypes.data, 0, 1, self.control.ctypes.data)
        return time.perf_counter() - start


def _aligned(dtype: Any, size: int) -> np.ndarray:
    """Memory that begins at a cache line, as the compiler's own does."""
    room = np.zeros(size * np.dtype(dtype).itemsize + 64, np.uint8)
    begin = -room.ctypes.data % 64
    return room[begin:begin + size * np.dtype(dtype).itemsize].view(dtype)


def measure(each: Pass, flops: float, rounds: int, width: int) -> dict[str, float]:
    """Rates a second: of the pass, best and median; of the roofline that follows from the bursts beside it; and of these."""
    size = lambda arrays: sum(a.nbytes for a in arrays)
    largest = lambda arrays: max([*arrays, _aligned(np.uint8, SMALL)], key=lambda a: a.nbytes)
    written, read = largest(each.written), largest(each.read)
    times, peaks, stores, loads = ([] for _ in range(4))
    each.seconds()
    for _ in range(rounds):
        peaks.append(roofline.flops() * 4 / width)
        stores.append(roofline.stream("store", written))
        loads.append(roofline.stream("load", read))
        times.append(each.seconds())
    least = max(flops / max(peaks), size(each.read) / max(loads) + size(each.written) / max(stores))
    return {"best": flops / min(times), "median": flops / statistics.median(times), "roofline": flops / least, "peak": max(peaks),
            "store": max(stores), "load": max(loads), "intensity": flops / (size(each.read) + size(each.written)) * 1e9}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.convolution", description=__doc__)
    parser.add_argument("--layers", default="", help="only layers whose name contains this")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    options = parser.parse_args()
    dtype = np.dtype(options.dtype)
    print("| layer | pass | GFLOP/s, best (median) | roofline | of it | flop a byte | peak | GB/s stored, loaded |\n" + "|---" * 8 + "|")
    for layer in LAYERS:
        for name, (function, arguments) in passes(layer, dtype).items() if options.layers in layer.name else ():
            each = Pass(function, arguments)
            found = {key: rate / 1e9 for key, rate in measure(each, layer.flops, options.rounds, dtype.itemsize).items()}
            print(f"| {layer.name} | {name} | {found['best']:.0f} ({found['median']:.0f}) | {found['roofline']:.0f} | "
                  f"{found['best'] / found['roofline']:.0%} | {found['intensity']:.1f} | {found['peak']:.0f} | "
                  f"{found['store']:.0f}, {found['load']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
