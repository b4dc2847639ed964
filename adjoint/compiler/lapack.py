"""LAPACK's routines for compiled code: NumPy's own, found by name in the library that it loads, else SciPy's; char and int arguments right.

Programs call `adjoint_lapack_<name>` by symbol, with 64-bit numbers and column-major matrices of float64 (NumPy computes float32 in it
too); those few routines are made here for this process, which alone knows the library's names and the width of its integers.
Invariant: nothing of that is in the code of a program. May import: errors, assembler, cache, capi, jit, target, SciPy where it is
installed. Read next: primitives/linalg.py.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from msgspec import Struct

from ..errors import NoLowering, explain
from . import cache as cache_files
from .assembler import F64, I8, I64, PTR, VOID, Routine
from .capi import address
from .jit import load
from .target import host_target

_NEEDED = ("dgesv", "dgetrf", "dpotrf", "dtrtrs", "dsyevd", "dgesdd")
_NAMES = ("scipy_{}_64_", "scipy_{}_", "{}_64_", "{}$NEWLAPACK$ILP64", "{}$NEWLAPACK", "{}_")      # wheels, distributions, Accelerate
PREFIX = "adjoint_lapack_"


class Library(Struct, frozen=True):
    """Where the process has LAPACK: address of each routine ("dgesv"), and bytes of its integers."""

    addresses: dict[str, int]
    width: int


@cache
def library() -> Library | None:
    """The first LAPACK of this process that solves a small system; None if there is none."""
    for find in (_in_numpy, _in_scipy):
        for addresses in find():
            width = _tried(addresses)
            if width:
                return Library(addresses, width)
    return None


def _in_numpy() -> list[dict[str, int]]:
    """The routines behind np.linalg: looking into its module also looks into the libraries that it needs."""
    try:
        module = ctypes.CDLL(np.linalg._umath_linalg.__file__)
    except (AttributeError, OSError):
        return []
    found = []
    for pattern in _NAMES:
        names = {name: pattern.format(name) for name in _NEEDED}
        if all(hasattr(module, name) for name in names.values()):
            found.append({name: address(getattr(module, symbol)) for name, symbol in names.items()})
    return found


def _in_scipy() -> list[dict[str, int]]:
    """The routines that SciPy hands to C code, as capsules."""
    try:
        from scipy.linalg import cython_lapack  # optional
        capsules = cython_lapack.__pyx_capi__
    except (ImportError, AttributeError):
        return []
    name_of = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(address(ctypes.pythonapi.PyCapsule_GetName))
    pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(address(ctypes.pythonapi.PyCapsule_GetPointer))
    if any(name not in capsules for name in _NEEDED):
        return []
    return [{name: pointer(capsules[name], name_of(capsules[name])) for name in _NEEDED}]


def _tried(addresses: dict[str, int]) -> int:
    """Bytes of an integer, by solving [[0, 2], [4, 0]] x = (2, 8): both pivots are 2. 0 if the answer is not the right one."""
    cell = lambda number: ctypes.byref(ctypes.c_int64(number))
    matrix, right = np.array([0.0, 4.0, 2.0, 0.0]), np.array([2.0, 8.0])
    pivots, failed = np.zeros(2, np.int64), ctypes.c_int64(0)
    solve = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 8)(addresses["dgesv"])
    solve(cell(2), cell(1), matrix.ctypes.data, cell(2), pivots.ctypes.data, right.ctypes.data, cell(2), ctypes.byref(failed))
    if failed.value or right.tolist() != [2.0, 1.0]:
        return 0
    return 8 if pivots.tolist() == [2, 2] else 4 if pivots.tolist() == [2 + (2 << 32), 0] else 0


# ------------------------------------------------------------------------------------------------ the routines that programs call


class _Caller(Routine):
    """A routine that calls Fortran: every number goes by address, in a cell of 64 bits whose low half is the number too."""

    def __init__(self, module: ir.Module, name: str, pointers: int, numbers: int):
        super().__init__(module, PREFIX + name, I64, *[PTR] * pointers, *[I64] * numbers)
        self.info = self.variable(I64, 0)

    def cell(self, value: ir.Value | int) -> ir.Value:
        """The address of a copy of this number."""
        place = self.variable(I64)
        self.body.store(self.value(value), place)
        return place

    def char(self, letter: str) -> ir.Value:
        """The address of a character."""
        place = self.variable(I8)
        self.body.store(ir.Constant(I8, ord(letter)), place)
        return place

    def side(self, lower: ir.Value) -> ir.Value:
        """The address of the letter of a triangle."""
        place = self.variable(I8)
        self.body.store(self.body.select(self.test("!=", lower), ir.Constant(I8, ord("L")), ir.Constant(I8, ord("U"))), place)
        return place

    def fortran(self, name: str, *arguments: ir.Value, chars: int = 0) -> None:
        """Call a routine of the library; compilers of Fortran append the length of every character argument."""
        self.call(PREFIX + name, VOID, *arguments, *[1] * chars)

    def memory(self, count: ir.Value) -> ir.Value:
        """Working memory of this call, in words; where there is none, the routine ends as one that failed."""
        size = self.body.add(self.body.mul(count, self.value(8)), self.value(8))
        found = self.call("PyMem_RawMalloc", PTR, size)
        with self.when(self.test("==", found), likely=False):
            self.give(1)
        return found

    def free(self, *places: ir.Value) -> None:
        for place in places:
            self.call("PyMem_RawFree", VOID, place)

    def status(self) -> ir.Value:
        """info, an integer of whatever width: small, so its low half says all."""
        return self.body.sext(self.body.trunc(self.body.load(self.info, typ=I64), ir.IntType(32)), I64)

    def at_least_one(self, n: ir.Value) -> ir.Value:
        return self.cell(self.body.select(self.test(">", n, 1), n, self.value(1)))

    def wanted(self, place: ir.Value) -> ir.Value:
        """The size of working memory that a routine has answered with."""
        return self.body.fptosi(self.body.load(place, typ=F64), I64)


def _emit_solve(module: ir.Module, width: int) -> None:
    """status solve(a, b, n, k): b := a^-1 b, a := its factors."""
    c = _Caller(module, "solve", 2, 2)
    a, b, n, k = c.args
    pivots, rows = c.memory(n), c.at_least_one(n)
    c.fortran("dgesv", c.cell(n), c.cell(k), a, rows, pivots, b, rows, c.info)
    c.free(pivots)
    c.give(c.status())


def _emit_factor(module: ir.Module, width: int) -> None:
    """0 factor(a, sign, n): a := its factors, sign := that of the permutation; a singular matrix shows as a zero pivot."""
    c = _Caller(module, "factor", 2, 1)
    a, sign, n = c.args
    pivots, rows = c.memory(n), c.at_least_one(n)
    c.fortran("dgetrf", c.cell(n), c.cell(n), a, rows, pivots, c.info)
    total = c.variable(F64, ir.Constant(F64, 1.0))
    with c.count(0, n) as i:
        place = c.at(pivots, c.body.mul(i, c.value(width)))
        pivot = c.body.load(place, typ=ir.IntType(8 * width))
        pivot = pivot if width == 8 else c.body.sext(pivot, I64)
        with c.when(c.test("!=", pivot, c.body.add(i, c.value(1)))):
            c.body.store(c.body.fneg(c.body.load(total, typ=F64)), total)
    c.body.store(c.body.load(total, typ=F64), sign)
    c.free(pivots)
    c.give(0)


def _emit_cholesky(module: ir.Module, width: int) -> None:
    """status cholesky(a, n): the lower triangle of a := its Cholesky factor."""
    c = _Caller(module, "cholesky", 1, 1)
    a, n = c.args
    c.fortran("dpotrf", c.char("L"), c.cell(n), a, c.at_least_one(n), c.info, chars=1)
    c.give(c.status())


def _emit_triangular(module: ir.Module, width: int) -> None:
    """status triangular(a, b, n, k, lower): b := a^-1 b."""
    c = _Caller(module, "triangular", 2, 3)
    a, b, n, k, lower = c.args
    rows = c.at_least_one(n)
    c.fortran("dtrtrs", c.side(lower), c.char("N"), c.char("N"), c.cell(n), c.cell(k), a, rows, b, rows, c.info, chars=3)
    c.give(c.status())


def _emit_eigh(module: ir.Module, width: int) -> None:
    """status eigh(a, w, n, lower): w := the eigenvalues of that triangle, a := the eigenvectors."""
    c = _Caller(module, "eigh", 2, 2)
    a, w, n, lower = c.args
    size, whole, ask = c.variable(F64), c.cell(0), c.cell(-1)
    fixed = (c.char("V"), c.side(lower), c.cell(n), a, c.at_least_one(n), w)
    c.fortran("dsyevd", *fixed, size, ask, whole, ask, c.info, chars=2)
    count = c.wanted(size)
    integers = c.body.sext(c.body.trunc(c.body.load(whole, typ=I64), ir.IntType(32)), I64)
    work, more = c.memory(count), c.memory(integers)
    c.fortran("dsyevd", *fixed, work, c.cell(count), more, c.cell(integers), c.info, chars=2)
    c.free(work, more)
    c.give(c.status())


def _emit_svd(module: ir.Module, width: int) -> None:
    """status svd(a, u, s, vt, m, n): the thin decomposition; a is used up."""
    c = _Caller(module, "svd", 4, 2)
    a, u, s, vt, m, n = c.args
    least = c.body.select(c.test("<", m, n), m, n)
    rows, inner, size = c.at_least_one(m), c.at_least_one(least), c.variable(F64)
    integers = c.memory(c.body.mul(least, c.value(8)))
    fixed = (c.char("S"), c.cell(m), c.cell(n), a, rows, s, u, rows, vt, inner)
    c.fortran("dgesdd", *fixed, size, c.cell(-1), integers, c.info, chars=1)
    count = c.wanted(size)
    work = c.memory(count)
    c.fortran("dgesdd", *fixed, work, c.cell(count), integers, c.info, chars=1)
    c.free(work, integers)
    c.give(c.status())


_EMITTERS: dict[str, Callable] = {"solve": _emit_solve, "factor": _emit_factor, "cholesky": _emit_cholesky,
                                  "triangular": _emit_triangular, "eigh": _emit_eigh, "svd": _emit_svd}


@cache
def symbols() -> dict[str, int]:
    """Names and addresses of the routines that programs call, linked at first use; none without a LAPACK."""
    found = library()
    if found is None:
        return {}
    exports = [PREFIX + name for name in _EMITTERS]
    stored = cache_files.key("lapack", str(found.width))
    image = cache_files.fetch(stored)
    if image is None:
        image = _compiled(found.width)
        cache_files.store(stored, image)
    code = load([image], exports, {PREFIX + name: place for name, place in found.addresses.items()})
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(code))          # programs hold these addresses: never unloaded, as the runtime is not
    return {name: code[name] for name in exports}


def _compiled(width: int) -> bytes:
    """Object code of the routines for integers of this width: about 20 ms, once per machine where the cache works."""
    target = host_target()
    module = ir.Module("adjoint_lapack")
    module.triple = target.triple
    for emit in _EMITTERS.values():
        emit(module, width)
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    return target.machine().emit_object(parsed)


def require(name: str, where: str) -> None:
    """NoLowering where this process has no LAPACK."""
    if library() is None:
        what = f"{name} has no native code here: this NumPy shows no LAPACK, and SciPy is not installed."
        raise NoLowering(explain(what, where=where or None, remedy="pip install scipy, or leave this operation outside of compile."))


def needed(image: bytes) -> dict[str, int]:
    """The symbols of this module that object code names; {} for most programs, which then look for no LAPACK."""
    return symbols() if PREFIX.encode() in image else {}
