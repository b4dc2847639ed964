"""The machine that code is made for: its name for LLVM, the width of its vectors, the number of its vector registers.

All that depends on the processor is read from a Target, so AVX-512, AVX2, SSE and NEON come from the same emission code,
and a test may ask for narrower vectors than the host has. Nothing here changes a result: only lanes, tiles, instructions.
May import: llvmlite. Read next: matmul.py, llvm.py.
"""

from __future__ import annotations

from functools import lru_cache

import llvmlite.binding as llvm
import llvmlite.ir as ir
import numpy as np
from msgspec import Struct

_WIDER_THAN_AVX2 = ("avx512", "avx10", "evex512")


class Target(Struct, frozen=True):
    """triple, cpu and features are LLVM's words; `vector_bytes` is 64 (AVX-512), 32 (AVX2) or 16 (SSE, NEON)."""

    triple: str
    cpu: str
    features: str
    vector_bytes: int
    vector_registers: int

    def lanes(self, dtype: np.dtype) -> int:
        """Elements of `dtype` in one vector register."""
        return self.vector_bytes // np.dtype(dtype).itemsize

    def attributes(self) -> tuple[str, ...]:
        """Attributes that LLVM's own vectorizer wants on every function, in the text form of the IR."""
        bits = self.vector_bytes * 8
        return (f'"prefer-vector-width"="{bits}"', f'"min-legal-vector-width"="{bits}"')

    def machine(self, level: int = 2) -> llvm.TargetMachine:
        """A new LLVM TargetMachine for position-independent JIT code."""
        target = llvm.Target.from_triple(self.triple)
        return target.create_target_machine(
            cpu=self.cpu, features=self.features, opt=level, reloc="pic", codemodel="small"
        )


def mark(function: ir.Function, target: Target) -> ir.Function:
    """Give `function` the attributes of `target`; llvmlite's `add` knows none with a value, so the set is filled."""
    set.update(function.attributes, target.attributes())
    function.attributes.add("nounwind")
    return function


@lru_cache(maxsize=8)
def host_target(vector_bytes: int | None = None) -> Target:
    """The processor that this process runs on, or the same with vectors of at most `vector_bytes`."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    triple = llvm.get_process_triple()
    present = dict(llvm.get_host_cpu_features())
    widest = _widest_vector(triple, present)
    width = widest if vector_bytes is None else min(vector_bytes, widest)
    if width < 64:
        present = {name: on and not name.startswith(_WIDER_THAN_AVX2) for name, on in present.items()}
    if width < 32:
        present = {name: on and name not in ("avx", "avx2", "fma", "f16c") for name, on in present.items()}
    features = ",".join(("+" if on else "-") + name for name, on in sorted(present.items()))
    if width == 64:
        features += ",-prefer-256-bit"
    many = width == 64 or triple.startswith(("aarch64", "arm64"))
    return Target(triple, llvm.get_host_cpu_name(), features, width, 32 if many else 16)


def _widest_vector(triple: str, present: dict[str, bool]) -> int:
    """Bytes of the widest vectors whose instructions the compiler emits well."""
    if not triple.startswith(("x86_64", "i686", "amd64")):
        return 16
    if all(present.get(f"avx512{part}") for part in ("f", "vl", "dq", "bw")):
        return 64
    return 32 if present.get("avx2") and present.get("fma") else 16
