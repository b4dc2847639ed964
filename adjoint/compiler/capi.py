"""Where CPython and NumPy keep things: addresses of C functions, and byte offsets inside an array's header.

Nothing is assumed: offsets are found on known arrays, slots of NumPy's C API are tried once, and where an answer is
not the expected one `layout()` is None, so that the portable entry is used. Every address leaves as a symbol for the
linker, never as a number inside code. May import: errors. Read next: runtime.py.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable
from functools import cache

import numpy as np
from msgspec import Struct

_API_SLOTS = {"PyArray_NewFromDescr": 94, "PyArray_Scalar": 60, "PyArray_ScalarAsCtype": 62}
_ABI_VERSION = 0x02000000       # NumPy 2.x; slot 0 of the table answers with it
_PYTHON = (
    "Py_IncRef", "Py_DecRef", "PyErr_CheckSignals", "PyErr_NoMemory", "PyErr_Clear", "PyErr_Occurred",
    "PyEval_SaveThread", "PyEval_RestoreThread", "PyGILState_Ensure", "PyGILState_Release", "PyFloat_AsDouble",
    "PyLong_AsLongLongAndOverflow", "PyLong_FromLongLong", "PyMem_RawMalloc", "PyMem_RawFree", "PyObject_Vectorcall",
    "PyTuple_New", "PyTuple_Size", "PyTuple_GetItem", "PyList_Size", "PyList_GetItem", "PyDict_Size",
    "PyDict_GetItemWithError", "PyObject_GetAttr", "PyObject_GenericSetAttr", "PyUnicode_Compare", "PyTuple_SetItem",
    "PyList_New", "PyList_SetItem", "PyDict_New", "PyDict_SetItem", "PyThread_acquire_lock", "PyThread_release_lock",
    "PyThread_acquire_lock_timed", "PyThread_get_thread_ident",
)


class Layout(Struct, frozen=True):
    """Byte offsets: of an object's type, of the fields of an ndarray and of a dtype."""

    type: int
    data: int
    ndim: int
    shape: int
    flags: int
    descr: int
    type_num: int
    byte_order: int


def address(function: object) -> int:
    """The address of a function that ctypes knows."""
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def held_lock() -> int:
    """The address of a new lock that is taken, and that native code may release. Raises: MemoryError."""
    allocate = ctypes.pythonapi.PyThread_allocate_lock
    allocate.restype = ctypes.c_void_p
    if not (lock := allocate()):
        raise MemoryError
    ctypes.pythonapi.PyThread_acquire_lock(ctypes.c_void_p(lock), 1)
    return lock


def free_lock(lock: int) -> None:
    """Give a lock's memory back, once nobody uses it any more."""
    ctypes.pythonapi.PyThread_free_lock(ctypes.c_void_p(lock))


@cache
def python_symbols() -> dict[str, int]:
    """Names and addresses of the C functions and objects of CPython and NumPy that native code uses."""
    found = {name: address(getattr(ctypes.pythonapi, name)) for name in _PYTHON}
    found |= _numpy_api() or {}
    objects = {"PyFloat_Type": float, "PyLong_Type": int, "PyUnicode_Type": str, "PyArray_Type": np.ndarray,
               "_Py_TrueStruct": True, "_Py_FalseStruct": False}
    return found | {name: id(value) for name, value in objects.items()}


@cache
def _numpy_api() -> dict[str, int] | None:
    """Addresses of the functions of NumPy's C API, or None where its table is not the expected one."""
    capsule = getattr(np._core._multiarray_umath, "_ARRAY_API", None)
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(address(pointer))
    if type(capsule).__name__ != "PyCapsule":
        return None
    table = ctypes.cast(pointer(capsule, None), ctypes.POINTER(ctypes.c_void_p))
    if ctypes.PYFUNCTYPE(ctypes.c_uint)(table[0])() != _ABI_VERSION:
        return None
    return {name: table[slot] for name, slot in _API_SLOTS.items()}


def _words(start: int, size: int) -> list[int]:
    return [ctypes.c_uint64.from_address(start + offset).value for offset in range(0, size, 8)]


def _only(offsets: Iterable[int]) -> int:
    """The one element, or -1: an ambiguous or absent field means that the layout is not known."""
    found = sorted(offsets)
    return found[0] if len(found) == 1 else -1


def _integers(start: int, size: int) -> list[int]:
    return [ctypes.c_int32.from_address(start + offset).value for offset in range(0, size, 4)]


def _array_offsets(size: int) -> dict[str, int]:
    """Offsets in ndarray, found on arrays whose fields all differ."""
    samples = [np.zeros((5, 7), np.float32), np.zeros((2, 3, 4), np.int64)[:, :, 1:], np.zeros((6,), np.uint8)]
    samples[2].flags.writeable = False
    sets: dict[str, list[set[int]]] = {"data": [], "ndim": [], "shape": [], "flags": [], "descr": []}
    for x in samples:
        words, integers = _words(id(x), size), _integers(id(x), size)
        wide = range(16, size, 8)
        sets["data"].append({o for o in wide if words[o // 8] == x.ctypes.data})
        sets["descr"].append({o for o in wide if words[o // 8] == id(x.dtype)})
        # Extents and strides share one allocation, the strides right after the extents.
        after = {o: words[o // 8] + 8 * x.ndim for o in wide[:-1] if words[o // 8]}
        sets["shape"].append({o for o, address in after.items() if words[o // 8 + 1] == address})
        sets["ndim"].append({o for o in range(16, size, 4) if integers[o // 4] == x.ndim})
        sets["flags"].append({o for o in range(16, size, 4) if integers[o // 4] == x.flags.num})
    return {name: _only(set.intersection(*found)) for name, found in sets.items()}


def _dtype_offsets(size: int) -> dict[str, int]:
    samples = [np.dtype(code) for code in ("?", "u1", "i4", "i8", "f4", "f8", ">f4", ">i8")]
    numbers, orders = [], []
    for dtype in samples:
        integers, letters = _integers(id(dtype), size), ctypes.string_at(id(dtype), size)
        numbers.append({o for o in range(16, size, 4) if integers[o // 4] == dtype.num})
        orders.append({o for o in range(16, size) if letters[o] == ord(dtype.byteorder)})
    return {"type_num": _only(set.intersection(*numbers)), "byte_order": _only(set.intersection(*orders))}


@cache
def layout() -> Layout | None:
    """The layout of this interpreter's objects, or None where the emitted entry must not be used."""
    free_threaded = not getattr(sys, "_is_gil_enabled", lambda: True)()
    foreign = sys.implementation.name != "cpython" or ctypes.sizeof(ctypes.c_void_p) != 8
    if free_threaded or foreign or _numpy_api() is None:
        return None
    samples = (1.5, object(), np.zeros(1))
    kind = _only(o for o in (0, 8) if all(_words(id(x), 16)[o // 8] == id(type(x)) for x in samples))
    found = _array_offsets(np.ndarray.__basicsize__) | _dtype_offsets(np.dtype.__basicsize__)
    if kind < 0 or min(found.values()) < 0 or not _shape_is_right(found["shape"]):
        return None
    return Layout(type=kind, **found)


def _shape_is_right(offset: int) -> bool:
    x = np.zeros((5, 7, 11))
    extents = ctypes.c_uint64.from_address(id(x) + offset).value
    return _words(extents, 24) == list(x.shape)
