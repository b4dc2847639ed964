"""The way in and out of a compiled function: arguments checked, buffers pointed at, the program called, results built.

A Specialization is one signature with its program, written as words that native code reads; an Entry is the callable,
a chain of them with a Python slow path at its end. Invariant: native code holds no reference of its own between
calls; what it points to is owned by the block of words that Python owns. May import: errors, capi, control, runtime,
signature, threads, entry_python. Read next: entry_native.py.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping

import numpy as np

from ..errors import DonationError, explain
from . import control as at
from .capi import layout
from .entry_python import PythonEntry
from .runtime import runtime
from .signature import Array, Fresh, Given, Handle, Held, Scalar, Signature
from .threads import enable

_KINDS = {float: at.FLOAT, int: at.INT, bool: at.BOOL}
_CODES = {"f8": at.FLOAT64, "f4": at.FLOAT32, "i8": at.INT64, "i4": at.INT32, "u1": at.UINT8, "b1": at.UINT8}
_TWINS = {np.dtype(a).num: np.dtype(b).num for a, b in ("lq", "ql", "il", "li") if np.dtype(a) == np.dtype(b)}
_C_ALIGNED = 0x0101         # NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED
_WRITEABLE = 0x0400


class Words(np.ndarray):
    """Int64 words that native code reads, and `owned`: the Python objects whose addresses are among them."""

    owned: list[object]


def words(count: int) -> Words:
    """A zeroed block."""
    block = np.zeros(count, np.int64).view(Words)
    block.owned = []
    return block


class _Frame:
    """Where things lie in a frame: control, table, scalars, result objects, stack; then the arena."""

    def __init__(self, signature: Signature):
        self.head = at.CONTROL_BYTES + 8 * signature.buffers
        self.moved: list[tuple[int, int]] = []
        self.objects: list[int] = []

    def take(self, size: int) -> int:
        place = self.head
        self.head += size
        return place

    def slot(self, buffer: int) -> int:
        return at.CONTROL_BYTES + 8 * buffer

    def storage(self, buffer: int) -> int:
        """Sixteen bytes for a scalar that the table points to."""
        self.head += self.head % 16
        place = self.take(16)
        self.moved.append((self.slot(buffer), place))
        return place


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
        frame = _Frame(signature)
        arguments = _argument_records(signature, frame, self.cells, block.owned)
        fresh, steps = _result_records(signature, frame, self.cells, block.owned)
        self._make_frame(frame)
        self._set(at.KEEP, id(block))
        self._set(at.PROGRAM, program)
        self._set(at.THREADS, threads)
        self._set(at.RELEASE, int(self.release_gil))
        self._set(at.EXCLUSIVE, int(exclusive))
        self._set(at.SLOTS, signature.slots)
        self._set(at.CELLS, self.cells.ctypes.data)
        for count, records, width in ((at.ARGUMENTS, arguments, at.RECORD), (at.FRESH, fresh, at.RECORD),
                                      (at.BUILD, steps, at.BUILD_RECORD), (at.MOVED, _pairs(frame.moved), 16)):
            self._set(count, 8 * len(records) // width)
            self._set(count + 8, records.ctypes.data)
            block.owned.append(records)
        self._set(at.ON_ERROR, id(on_error))
        self._set(at.REBUILD, id(rebuild) if rebuild else 0)
        for buffer, array in (hidden or {}).items():
            self.point(buffer, array)

    def _make_frame(self, frame: _Frame) -> None:
        """The primary frame, aligned to a cache line, with the pointers that never change."""
        signature = self.signature
        frame.head += -frame.head % at.LINE
        arena = [(frame.slot(buffer), frame.head + offset) for buffer, offset in signature.arena]
        frame.moved += arena
        self.frame_bytes = frame.head + signature.arena_bytes
        memory = np.empty(self.frame_bytes + at.LINE, np.uint8)
        skip = -memory.ctypes.data % at.LINE
        self.frame = memory[skip:skip + self.frame_bytes]
        self.frame_address = self.frame.ctypes.data
        self.table = self.frame[at.CONTROL_BYTES:at.CONTROL_BYTES + 8 * signature.buffers].view(np.int64)
        self.frame[:frame.head] = 0
        for slot, place in frame.moved:
            self.frame[slot:slot + 8].view(np.int64)[0] = self.frame_address + place
        self.moved = tuple(frame.moved)
        self.words.owned.append(memory)
        self._set(at.FRAME, self.frame_address)
        self._set(at.FRAME_BYTES, self.frame_bytes)
        self._set(at.FRAME_HEAD, frame.head)

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
        frame[:self.get(at.FRAME_HEAD)] = self.frame[:self.get(at.FRAME_HEAD)]
        for slot, place in self.moved:
            frame[slot:slot + 8].view(np.int64)[0] = frame.ctypes.data + place
        return frame


def _pairs(pairs: list[tuple[int, int]]) -> np.ndarray:
    return np.array(pairs, np.int64).reshape(-1)


def _extents(shape: tuple[int, ...], owned: list[object]) -> int:
    extents = np.array(shape or (0,), np.int64)
    owned.append(extents)
    return extents.ctypes.data


def _record(fields: Mapping[int, int]) -> list[int]:
    record = [0] * (at.RECORD // 8)
    for field, value in fields.items():
        record[field // 8] = value
    return record


def _argument_records(signature: Signature, frame: _Frame, cells: Words, owned: list[object]) -> np.ndarray:
    records: list[int] = []
    for argument in signature.arguments:
        if isinstance(argument, Handle):
            records += _record({at.KIND: at.HANDLE, at.CELL: cells.ctypes.data + at.CELL_BYTES * argument.slot})
            continue
        fields = {at.SLOT: frame.slot(argument.buffer)}
        if isinstance(argument, Scalar):
            code = _CODES[argument.dtype.str[1:]]
            fields |= {at.KIND: _KINDS[argument.kind], at.CODE: code, at.STORAGE: frame.storage(argument.buffer)}
        else:
            fields |= _array_fields(argument, owned)
            if argument.shape == () and not argument.donated:
                fields |= {at.STORAGE: frame.take(16), at.SCALAR_TYPE: id(argument.dtype.type)}
        records += _record(fields)
    return np.array(records, np.int64)


def _array_fields(argument: Array, owned: list[object]) -> dict[int, int]:
    dtype = argument.dtype
    return {
        at.KIND: at.ARRAY, at.TYPE_NUM: dtype.num, at.OTHER_NUM: _TWINS.get(dtype.num, dtype.num),
        at.ORDER: ord(dtype.byteorder), at.NDIM: len(argument.shape),
        at.FLAGS: _C_ALIGNED | (_WRITEABLE if argument.donated else 0), at.SHAPE: _extents(argument.shape, owned),
        at.BYTES: dtype.itemsize * int(np.prod(argument.shape, dtype=object)), at.DONATED: int(argument.donated),
    }


def _result_records(signature: Signature, frame: _Frame, cells: Words,
                    owned: list[object]) -> tuple[np.ndarray, np.ndarray]:
    """Records of the fresh results, and the steps that build the tree (leaves before their container)."""
    fresh: list[int] = []
    steps: list[int] = []
    depth = [0, 0]

    def step(kind: int, which: int, keys: int = 0, taken: int = 0) -> None:
        steps.extend((kind, which, keys))
        depth[0] += 1 - taken
        depth[1] = max(depth)

    def leaf(value: object) -> None:
        if isinstance(value, Fresh):
            place = frame.take(8)
            owned.append(value.dtype)
            fields = {at.SLOT: frame.slot(value.buffer), at.DESCR: id(value.dtype), at.OBJECT: place,
                      at.NDIM: len(value.shape), at.SHAPE: _extents(value.shape, owned)}
            if value.shape == ():
                fields[at.STORAGE] = frame.storage(value.buffer)
            fresh.extend(_record(fields))
            step(at.TAKE, place)
        elif isinstance(value, Held):
            step(at.HELD, cells.ctypes.data + at.CELL_BYTES * value.slot)
        elif isinstance(value, Given):
            step(at.GIVEN, 8 * value.argument)
        else:
            constant = words(1)
            constant[0], constant.owned = id(value), [value]
            owned.append(constant)
            step(at.HELD, constant.ctypes.data)

    def build(tree: object) -> None:
        if type(tree) not in (tuple, list, dict):
            leaf(tree)
            return
        for part in tree.values() if type(tree) is dict else tree:
            build(part)
        keys = np.array([id(key) for key in tree] if type(tree) is dict else [], np.int64)
        owned.extend((keys, list(tree) if type(tree) is dict else None))
        step({tuple: at.TUPLE, list: at.LIST, dict: at.DICT}[type(tree)], len(tree), keys.ctypes.data, len(tree))

    build(signature.results)
    frame.take(8 * depth[1])
    return np.array(fresh, np.int64), np.array(steps, np.int64)


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
        self.specializations = [*self.specializations, special]
        self._link()

    def remove(self, special: Specialization) -> None:
        """Forget a specialization. A call inside it ends undisturbed."""
        self.specializations = [s for s in self.specializations if s is not special]
        self._link()

    def _link(self) -> None:
        if not self.native:
            return
        blocks = [special.words for special in self.specializations]
        chain = np.array([block.ctypes.data for block in blocks] + [0], np.int64)
        self._head[at.CHAIN // 8] = chain.ctypes.data
        self._head.owned = [self.slow, chain, blocks]      # only now may the old chain and a removed block be freed

    def callable_class(self, name: str, base: type = object) -> type:
        """A class whose instances call this entry:

        The builtin is no descriptor, so it gets the arguments and no self.
        """
        return type(name, (base,), {"__call__": self.call, "__slots__": ()})
