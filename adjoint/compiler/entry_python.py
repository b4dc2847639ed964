"""The entry in Python: the same checks, the same calls, for interpreters whose objects native code cannot read.

Invariant: for every call it does what the native entry does, only slower (about 20 us). Used where the layout of an
array's header is not known and on free-threaded interpreters. May import: control, runtime, signature. Read next:
entry.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import control as at
from .runtime import runtime
from .signature import Array, Fresh, Given, Handle, Held, Scalar

if TYPE_CHECKING:
    from .entry import Entry, Specialization


class PythonEntry:
    """Callable like the builtin of a native entry; `entry` is the Entry that owns the chain."""

    def __init__(self, entry: Entry):
        self.entry = entry

    def __call__(self, *args: object, **kwargs: object) -> object:
        if not kwargs:
            for special in self.entry.specializations:
                leaves = _match(special, args)
                if leaves is not None:
                    return _call(special, args, leaves)
        return self.entry.slow(*args, **kwargs)


def _match(special: Specialization, args: tuple) -> dict[int, np.ndarray] | None:
    """The memory of each argument's buffer, or None where an argument does not fit."""
    wanted = special.signature.arguments
    if len(args) != len(wanted):
        return None
    leaves: dict[int, np.ndarray] = {}
    for value, argument in zip(args, wanted, strict=True):
        if isinstance(argument, Handle):
            if value is not special.held[argument.slot]:
                return None
            continue
        array = _number(value, argument) if isinstance(argument, Scalar) else _array(value, argument)
        if array is None:
            return None
        leaves[argument.buffer] = array
    return None if special.exclusive and _overlaps(special, leaves) else leaves


def _array(value: object, argument: Array) -> np.ndarray | None:
    if type(value) is argument.dtype.type and argument.shape == () and not argument.donated:
        return np.array(value)
    if type(value) is not np.ndarray or value.dtype != argument.dtype or value.shape != argument.shape:
        return None
    native, flags = value.dtype.isnative, value.flags
    fits = native and flags.aligned and flags.c_contiguous and (flags.writeable or not argument.donated)
    return value if fits else None


def _number(value: object, argument: Scalar) -> np.ndarray | None:
    if type(value) is not argument.kind:
        return None
    dtype = argument.dtype
    if argument.kind is int and not -(2**63) <= value < 2**63:
        return None
    if argument.kind is int and dtype.kind in "iu" and not np.iinfo(dtype).min <= value <= np.iinfo(dtype).max:
        return None
    with np.errstate(over="ignore"):
        return np.array(float(value) if dtype.kind == "f" else value).astype(dtype)


def _span(array: np.ndarray) -> tuple[int, int]:
    start = array.ctypes.data
    return start, start + array.nbytes


def _overlaps(special: Specialization, leaves: dict[int, np.ndarray]) -> bool:
    """Does an argument share memory with donated data?"""
    arrays = [a for a in special.signature.arguments if isinstance(a, Array)]
    spans = [(*_span(leaves[a.buffer]), a.donated) for a in arrays]
    owned = special.cells.reshape(-1, at.CELL_BYTES // 8)[:, 1:].tolist()
    if any(start < end and stop > begin for start, stop, _ in spans for begin, end in owned):
        return True
    return any(one[0] < two[1] and one[1] > two[0] and (one[2] or two[2])
               for i, one in enumerate(spans) for two in spans[:i])


def _call(special: Specialization, args: tuple, leaves: dict[int, np.ndarray]) -> object:
    frame = special.frame_for_python()
    table = frame[at.CONTROL_BYTES:][:8 * special.signature.buffers].view(np.int64)
    fresh = {result.buffer: np.empty(result.shape, result.dtype) for result in _fresh(special.signature.results)}
    for buffer, array in (leaves | fresh).items():
        table[buffer] = array.ctypes.data
    status = runtime().run(special.words.ctypes.data, frame.ctypes.data)
    special.spare.append(frame)     # a frame that an exception keeps from coming here is garbage, and nothing more
    if status:
        return special.on_error(status)
    result = _build(special, special.signature.results, args, fresh)
    return special.rebuild(result) if special.rebuild else result


def _parts(tree: object) -> tuple | None:
    if type(tree) is dict:
        return tuple(tree.values())
    return tuple(tree) if type(tree) in (tuple, list) else None


def _fresh(tree: object) -> list[Fresh]:
    parts = _parts(tree)
    if parts is None:
        return [tree] if isinstance(tree, Fresh) else []
    return [leaf for part in parts for leaf in _fresh(part)]


def _build(special: Specialization, tree: object, args: tuple, fresh: dict[int, np.ndarray]) -> object:
    parts = _parts(tree)
    if parts is not None:
        built = [_build(special, part, args, fresh) for part in parts]
        return dict(zip(tree, built, strict=True)) if type(tree) is dict else type(tree)(built)
    if isinstance(tree, Fresh):
        return fresh[tree.buffer] if tree.shape else fresh[tree.buffer][()]
    if isinstance(tree, Held):
        return special.held[tree.slot]
    return args[tree.argument] if isinstance(tree, Given) else tree
