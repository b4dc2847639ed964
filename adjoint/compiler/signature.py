"""What a compiled function is called with and what it gives back: the records that an entry is made from.

Invariant: a signature is data; the native entry and the Python entry read the same one. Buffers are numbered as in
the Program. May import: tree. Read next: records.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from msgspec import Struct

from ..tree import Structure


class Array(Struct, frozen=True):
    """An argument: a native, aligned, C-contiguous array; without axes a NumPy scalar will do. Donated: must be writeable."""

    dtype: np.dtype
    shape: tuple[int, ...]
    buffer: int
    donated: bool = False


class Scalar(Struct, frozen=True):
    """An argument: a Python number of exactly the type `kind` (float, int, bool), stored as `dtype` in its buffer."""

    kind: type
    dtype: np.dtype
    buffer: int


class Handle(Struct, frozen=True):
    """An argument recognized by identity: the very object given to `Specialization.hold(slot, ...)`."""

    slot: int


class Record(Struct, frozen=True):
    """A node: an instance of exactly `type`, with a child for each attribute named. Made without calling `__init__`."""

    type: type
    names: tuple[str, ...]
    children: tuple[object, ...]


class Named(Struct, frozen=True):
    """A node: a named tuple of exactly `type`."""

    type: type
    children: tuple[object, ...]


class Static(Struct, frozen=True, eq=False):
    """A leaf of an argument that belongs to the program: the same object, or an equal int, float or str."""

    value: object


class Fresh(Struct, frozen=True):
    """A result in new memory: an array, or a NumPy scalar where there are no axes."""

    dtype: np.dtype
    shape: tuple[int, ...]
    buffer: int


class Held(Struct, frozen=True):
    """A result: the object that slot `slot` holds."""

    slot: int


class Given(Struct, frozen=True):
    """A result: the argument at this position, whose memory the program wrote (donated)."""

    argument: int


class Signature(Struct, frozen=True):
    """What a program is called with and what it gives back. Buffers are numbered as in its Program.

    `arguments` are trees of Array, Scalar, Handle and Static in tuples, lists, dicts, Records and Named; `results` is
    a tree of Fresh, Held and Given in the same nodes, and any other leaf of it is returned as it is. `arena` maps a
    buffer to its byte offset (a multiple of 64) in the arena.
    """

    arguments: tuple[object, ...]
    results: object
    buffers: int
    arena: tuple[tuple[int, int], ...] = ()
    arena_bytes: int = 0
    slots: int = 0


def tree_of(structure: Structure, leaves: Iterable[object]) -> object:
    """The leaves (of a Signature) in the nodes that a structure of user data names."""
    return _tree_of(structure, iter(leaves))


def _tree_of(s: Structure, leaves: Iterator[object]) -> object:
    if s.kind == "leaf":
        return next(leaves)
    if s.kind == "static":
        return Static(s.meta.value)
    children = tuple(_tree_of(child, leaves) for child in s.children)
    if s.kind == "dict":
        return dict(zip(s.meta, children, strict=True))
    if s.kind == "namedtuple":
        return Named(s.meta, children)
    if s.kind == "record":
        return Record(*s.meta, children)
    return children if s.kind == "tuple" else list(children)


def is_readable(tree: object) -> bool:
    """Can an entry take this argument apart without running code of the user? Else it belongs to the slow path."""
    if isinstance(tree, dict):
        return all(type(key) in (str, int) for key in tree) and all(map(is_readable, tree.values()))
    if isinstance(tree, Record):
        kind = tree.type
        plain = kind.__getattribute__ is object.__getattribute__ and not hasattr(kind, "__getattr__")
        return plain and not any(_is_computed(kind, name) for name in tree.names) and all(map(is_readable, tree.children))
    if isinstance(tree, (tuple, list, Named)):
        return all(map(is_readable, tree.children if isinstance(tree, Named) else tree))
    return True


def _is_computed(kind: type, name: str) -> bool:
    """Is the attribute a property or the like, which goes before what the instance holds? (A slot does too, but is C.)"""
    found = next((base.__dict__[name] for base in kind.__mro__ if name in base.__dict__), None)
    return hasattr(type(found), "__set__") and type(found).__name__ != "member_descriptor"


def children_of(tree: object) -> tuple | None:
    """The parts of a node in order; None for a leaf."""
    if type(tree) is dict:
        return tuple(tree.values())
    if type(tree) in (tuple, list):
        return tuple(tree)
    return tree.children if isinstance(tree, (Record, Named)) else None
