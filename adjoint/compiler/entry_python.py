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
from .signature import Array, Fresh, Given, Handle, Held, Named, Record, Scalar, Static, children_of

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
    leaves: dict[int, np.ndarray] = {}
    if len(args) != len(wanted) or not all(_fits(special, value, tree, leaves) for value, tree in zip(args, wanted, strict=True)):
        return None
    return None if special.exclusive and _overlaps(special, leaves) else leaves


def _fits(special: Specialization, value: object, tree: object, leaves: dict[int, np.ndarray]) -> bool:
    """Does a value fit its place in the signature? Adds the memory of its leaves."""
    children = children_of(tree)
    if children is not None:
        parts = _parts(value, tree)
        return parts is not None and all(_fits(special, part, child, leaves) for part, child in zip(parts, children, strict=True))
    if isinstance(tree, Handle):
        return value is special.held[tree.slot]
    if isinstance(tree, Static):
        same = type(value) is type(tree.value) and type(value) in (int, float, str) and value == tree.value
        return value is tree.value or same
    array = _number(value, tree) if isinstance(tree, Scalar) else _array(value, tree)
    if array is not None:
        leaves[tree.buffer] = array
    return array is not None


def _parts(value: object, tree: object) -> list | None:
    """The parts of a node of exactly the expected type and size, in the order of the signature."""
    if isinstance(tree, Record):
        fits = type(value) is tree.type and all(hasattr(value, name) for name in tree.names)
        return [getattr(value, name) for name in tree.names] if fits else None
    kind = tree.type if isinstance(tree, Named) else type(tree)
    if type(value) is not kind or len(value) != len(children_of(tree)):
        return None
    if kind is not dict:
        return list(value)
    return [value[key] for key in tree] if value.keys() == tree.keys() else None


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
    arrays = _leaves_of(special.signature.arguments, Array)
    spans = [(*_span(leaves[a.buffer]), a.donated) for a in arrays]
    owned = special.cells.reshape(-1, at.CELL_BYTES // 8)[:, 1:].tolist()
    if any(start < end and stop > begin for start, stop, _ in spans for begin, end in owned):
        return True
    return any(one[0] < two[1] and one[1] > two[0] and (one[2] or two[2])
               for i, one in enumerate(spans) for two in spans[:i])


def _call(special: Specialization, args: tuple, leaves: dict[int, np.ndarray]) -> object:
    frame = special.frame_for_python()
    table = frame[at.CONTROL_BYTES:][:8 * special.signature.buffers].view(np.int64)
    fresh = {result.buffer: np.empty(result.shape, result.dtype) for result in _leaves_of(special.signature.results, Fresh)}
    for buffer, array in (leaves | fresh).items():
        table[buffer] = array.ctypes.data
    status = runtime().run(special.words.ctypes.data, frame.ctypes.data)
    special.spare.append(frame)     # a frame that an exception keeps from coming here is garbage, and nothing more
    if status:
        return special.on_error(status)
    result = _build(special, special.signature.results, args, fresh)
    return special.rebuild(result) if special.rebuild else result


def _leaves_of(tree: object, kind: type) -> list:
    children = children_of(tree)
    if children is None:
        return [tree] if isinstance(tree, kind) else []
    return [leaf for child in children for leaf in _leaves_of(child, kind)]


def _build(special: Specialization, tree: object, args: tuple, fresh: dict[int, np.ndarray]) -> object:
    children = children_of(tree)
    if children is not None:
        return _node(tree, [_build(special, child, args, fresh) for child in children])
    if isinstance(tree, Fresh):
        return fresh[tree.buffer] if tree.shape else fresh[tree.buffer][()]
    if isinstance(tree, Held):
        return special.held[tree.slot]
    if isinstance(tree, Given):
        return args[tree.argument]
    return tree.value if isinstance(tree, Static) else tree


def _node(tree: object, parts: list) -> object:
    if isinstance(tree, Record):
        made = object.__new__(tree.type)
        for name, part in zip(tree.names, parts, strict=True):
            object.__setattr__(made, name, part)
        return made
    if isinstance(tree, Named):
        return tree.type(*parts)
    return dict(zip(tree, parts, strict=True)) if type(tree) is dict else type(tree)(parts)
