"""Object code becomes functions of this process: linked by LLJIT, one per compiled function, closed with it.

Invariant: object code names what it needs by symbol and holds nothing of a process, so the cache may store it; a
symbol that nobody defines is a CompileError, never a call into nothing. May import: capi, errors, llvmlite. Read
next: runtime.py, cache.py.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping
from functools import cache

import llvmlite.binding as llvm
import numpy as np

from ..errors import CompileError, explain
from . import capi

_LIBM = (
    "acos acosh asin asinh atan atan2 atanh cbrt ceil copysign cos cosh erf erfc exp exp2 expm1 fabs floor fma fmod "
    "frexp hypot ldexp lgamma log log10 log1p log2 nearbyint nextafter pow remainder rint round roundeven sin sincos "
    "sinh sqrt tan tanh tgamma trunc")
_LIBC = ("memcpy", "memset", "memmove", "memcmp", "bcmp", "sched_yield")     # LLVM may call the first five by itself


class Code:
    """Linked object code. `code[name]` is the address of an exported function, good until `close`."""

    def __init__(self, jit: llvm.LLJIT, library: llvm.ResourceTracker, exports: Iterable[str]):
        self._jit, self._library = jit, library
        self._addresses = {name: library[name] for name in exports}

    def __getitem__(self, name: str) -> int:
        return self._addresses[name]

    def close(self) -> None:
        """Unload the code. Its addresses must not be called any more."""
        self._addresses = {}
        self._library.close()
        self._jit.close()

    def __del__(self):
        if getattr(self, "_addresses", None):
            self.close()


@cache
def process_symbols() -> dict[str, int]:
    """Names and addresses that every program may use: CPython's and NumPy's C functions, libc and libm."""
    found = dict(capi.python_symbols())
    # Looking into a library also looks into those it needs, so NumPy's leads to libm wherever that is.
    libraries = [ctypes.CDLL(None), ctypes.CDLL(np._core._multiarray_umath.__file__)]
    for name in (*_LIBC, *_LIBM.split(), *(name + "f" for name in _LIBM.split())):
        address = next((capi.address(getattr(lib, name)) for lib in libraries if hasattr(lib, name)), 0)
        if address:
            found[name] = address
    return found


def load(objects: Iterable[bytes], exports: Iterable[str], symbols: Mapping[str, int] | None = None) -> Code:
    """Link object files into this process. `symbols` are addresses beyond `process_symbols`. Cost: about 2 ms.

    Raises: CompileError where a symbol is missing or the bytes are not object code for this machine.
    """
    images, exports = tuple(objects), tuple(exports)
    builder = llvm.JITLibraryBuilder()
    for image in images:
        _check_image(image)
        builder.add_object_img(image)
    for name, address in (process_symbols() | dict(symbols or {})).items():
        # Names in an object file end with a zero byte; naming only those that occur halves the time of linking.
        if any(name.encode() + b"\0" in image for image in images):
            builder.import_symbol(name, address)
    for name in exports:
        builder.export_symbol(name)
    jit = _new_jit()
    try:
        library = builder.link(jit, "program")
    except RuntimeError as error:
        jit.close()
        raise CompileError(explain(
            f"The linker refused the object code: {str(error)[:300]}", where="",
            remedy="A function that it calls is missing in this process; compile again without the cache.")) from None
    return Code(jit, library, exports)


def _new_jit() -> llvm.LLJIT:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    # Not the older loader: it places the sections of an object apart, and aborts the process where 2 GiB lie between them.
    return llvm.create_lljit_compiler(use_jit_link=True, suppress_errors=True)


def _check_image(image: bytes) -> None:
    """LLVM's loader trusts its input, so what is plainly not an object file stops here."""
    if not image.startswith((b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\x64\x86", b"\x64\xaa")):
        raise CompileError(explain(f"{len(image)} bytes that are not object code for this machine.", where=""))
