"""The way in and out of a compiled function: arguments checked, buffers pointed at, the program called, results built.

A Specialization is one signature with its program, written as words that native code reads; an Entry is the callable,
a chain of them with a Python slow path at its end. Invariant: native code holds no reference of its own between
calls; what it points to is owned by the block of words that Python owns. May import: errors, capi, control, runtime,
records, signature, threads, entry_python. Read next: entry_native.py.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Mapping

import numpy as np

from ..errors import DonationError, explain
from . import control as at
from .capi import layout
from .entry_python import PythonEntry
from .records import Records, Words, words
from .runtime import runtime
from .signature import Signature
from .threads import enable


class Specialization:
    """One signature and its program.

    `program` is the address of `i64 program(ptr buffers, i64 thread, i64 threads, ptr control)`; `owner` (its Code)
    is kept alive. `on_error(status)` must raise: status n > 0 is check n-1, -1 an interrupt without exception, -2
    donated data in use by another call. `hidden` maps buffers to captured arrays. `threads` is the most that the
    program is worth, `release_gil` whether the call is long enough. `rebuild` is called with the tuple of results
    where the tree is made of more than tuples, lists and dicts. `exclusive`: the program writes donated data, so a
    second call meanwhile is refused and no argument may overlap that data.
    """

    def __init__(self, signature: Signature, program: int, on_error: Callable[[int], object], *, owner: object = None,
                 hidden: Mapping[int, np.ndarray] | None = None, threads: int = 1, release_gil: bool = False,
                 rebuild: Callable[[tuple], object] | None = None, exclusive: bool = False):
        exclusive = exclusive or signature.slots > 0
        self.signature, self.on_error, self.rebuild, self.exclusive = signature, on_error, rebuild, exclusive
        self.threads, self.release_gil, self.program = threads, release_gil or threads > 1, program
        self.spare: list[np.ndarray] = []       # frames of the Python entry
        if threads > 1:
            enable()
        self.words = block = words(at.SPECIALIZATION_WORDS)
        self.cells = words(max(1, signature.slots) * at.CELL_BYTES // 8)
        block.owned += [owner, on_error, rebuild, self.cells]
        self.held: list[object] = [None] * signature.slots
        self._holds: list[object] = [None] * signature.slots
        written = Records(signature, self.cells.ctypes.data)
        block.owned.append(written)
        self._make_frame(written)
        self._set(at.KEEP, id(block))
        self._set(at.PROGRAM, program)
        self._set(at.THREADS, threads)
        self._set(at.RELEASE, int(self.release_gil))
        self._set(at.EXCLUSIVE, int(exclusive))
        self._set(at.SLOTS, signature.slots)
        self._set(at.CELLS, self.cells.ctypes.data)
        for field, value in written.fields().items():
            self._set(field, value)
        self._set(at.ON_ERROR, id(on_error))
        self._set(at.REBUILD, id(rebuild) if rebuild else 0)
        for buffer, array in (hidden or {}).items():
            self.point(buffer, array)

    def _make_frame(self, written: Records) -> None:
        """The primary frame, aligned to a cache line, with the pointers that never change."""
        self.frame_bytes, self.moved = written.head + self.signature.arena_bytes, written.moved
        memory = np.empty(self.frame_bytes + at.LINE, np.uint8)
        self.frame = memory[-memory.ctypes.data % at.LINE:][:self.frame_bytes]
        self.frame[:written.head] = 0
        self.table = self._table(self.frame)
        self.words.owned.append(memory)
        self._set(at.FRAME, self.frame.ctypes.data)
        self._set(at.FRAME_BYTES, self.frame_bytes)

    def _table(self, frame: np.ndarray) -> np.ndarray:
        """The pointers of the buffers, those into the frame itself filled in."""
        for slot, place in self.moved:
            frame[slot:slot + 8].view(np.int64)[0] = frame.ctypes.data + place
        return frame[at.CONTROL_BYTES:][:8 * self.signature.buffers].view(np.int64)

    def _set(self, field: int, value: int) -> None:
        self.words[field // 8] = value

    def get(self, field: int) -> int:
        return int(self.words[field // 8])

    @property
    def calls(self) -> int:
        """Calls that this specialization has served."""
        return self.get(at.CALLS)

    @property
    def busy(self) -> bool:
        """True while a call is inside the program."""
        return self.get(at.TAKEN) == runtime().get(at.GENERATION)

    def point(self, buffer: int, array: np.ndarray) -> None:
        """Let `buffer` be the memory of `array`, which is kept alive."""
        self.words.owned.append(array)
        self.table[buffer] = array.ctypes.data

    def hold(self, slot: int, value: object, leaves: Mapping[int, np.ndarray]) -> None:
        """Recognize `value` as handle `slot`; its leaves are the memory of these buffers. Keeps both alive.

        No other argument of an exclusive call may lie between the first and the last byte of the leaves (give them one
        block of memory): it goes the slow path, which must pass a copy.

        Raises: DonationError while `busy`: the running call has read the old pointers.
        """
        if self.busy:
            raise DonationError(explain("Donated data was replaced while a call was using it.",
                                        remedy="Call it from one thread at a time, or compile a copy."))
        self.held[slot], self._holds[slot] = value, (value, list(leaves.values()))
        self.cells.owned[:] = self._holds
        spans = [(array.ctypes.data, array.ctypes.data + array.nbytes) for array in leaves.values() if array.nbytes]
        begin, end = min((a for a, _ in spans), default=0), max((b for _, b in spans), default=0)
        self.cells[3 * slot:3 * slot + 3] = id(value), begin, end
        for buffer, array in leaves.items():
            self.table[buffer] = array.ctypes.data
        self.spare.clear()

    def frame_for_python(self) -> np.ndarray:
        """A frame for one call of the Python entry: one that a call gave back, else a copy of the primary one."""
        try:
            return self.spare.pop()
        except IndexError:
            pass
        memory = np.empty(self.frame_bytes + at.LINE, np.uint8)
        frame = memory[-memory.ctypes.data % at.LINE:][:self.frame_bytes]
        end = self.get(at.TABLE_END)
        frame[:end] = self.frame[:end]
        self._table(frame)
        return frame


class _MethodDef(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("function", ctypes.c_void_p), ("flags", ctypes.c_int),
                ("doc", ctypes.c_char_p)]


_METHODS: list[_MethodDef] = []     # one for the process: builtins point to it


def _builtin(block: Words) -> Callable:
    """A builtin function bound to the words of an entry."""
    if not _METHODS:
        fastcall_with_keywords = 0x0080 | 0x0002
        _METHODS.append(_MethodDef(b"__call__", runtime().entry, fastcall_with_keywords, b"The compiled function."))
    kind = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)
    make = kind(("PyCFunction_NewEx", ctypes.pythonapi))
    return make(ctypes.addressof(_METHODS[0]), block, None)


class Entry:
    """The callable of a compiled function: `entry.call(*args, **kwargs)` tries each specialization, then `slow`."""

    def __init__(self, slow: Callable, *, native: bool | None = None):
        self.slow, self.specializations = slow, []
        self._changing = threading.RLock()
        self.native = layout() is not None if native is None else native
        if self.native:
            self._head = words(at.HEAD_WORDS)
            self._head[at.SLOW // 8] = id(slow)
            self._link()
            self.call = _builtin(self._head)
        else:
            self.call = PythonEntry(self)

    def add(self, special: Specialization) -> None:
        """Serve its signature natively from now on, before the slow path."""
        with self._changing:
            self.specializations = [*self.specializations, special]
            self._link()

    def remove(self, special: Specialization) -> None:
        """Forget a specialization. A call inside it ends undisturbed."""
        with self._changing:
            self.specializations = [s for s in self.specializations if s is not special]
            self._link()

    def _link(self) -> None:
        if not self.native:
            return
        blocks = [special.words for special in self.specializations]
        chain = np.array([len(blocks), *(block.ctypes.data for block in blocks)], np.int64)
        self._head[at.CHAIN // 8] = chain.ctypes.data      # one store, so that no other thread sees half a chain
        self._head.owned = [self.slow, chain, blocks]      # only now may the old chain and a removed block be freed

    def callable_class(self, name: str, base: type = object) -> type:
        """A class whose instances call this entry: the builtin is no descriptor, so it gets the arguments and no self."""
        return type(name, (base,), {"__call__": self.call, "__slots__": ()})
