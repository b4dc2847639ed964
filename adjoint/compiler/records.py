"""A signature written as words: what native code reads to take arguments apart, to make results, to lay out a frame.

Invariant: every address among the words belongs to an object in `owned`. May import: control, signature.
Read next: match_native.py and entry_native.py, which read them.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Mapping

import numpy as np

from . import control as at
from .signature import Array, Fresh, Given, Handle, Held, Named, Record, Scalar, Signature, Static, children_of

_KINDS = {float: at.FLOAT, int: at.INT, bool: at.BOOL}
_CODES = {"f8": at.FLOAT64, "f4": at.FLOAT32, "i8": at.INT64, "i4": at.INT32, "u1": at.UINT8, "b1": at.UINT8}
_TWINS = {np.dtype(a).num: np.dtype(b).num for a, b in ("lq", "ql", "il", "li") if np.dtype(a) == np.dtype(b)}
_C_ALIGNED = 0x0101         # NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED
_WRITEABLE = 0x0400


_NODES = {tuple: at.TUPLE_NODE, list: at.LIST_NODE, dict: at.DICT_NODE}
_MADE = {tuple: at.TUPLE, list: at.LIST, dict: at.DICT}
_EQUAL = {int: at.SAME_INT, float: at.SAME_FLOAT, str: at.SAME_STR}


class Words(np.ndarray):
    """Int64 words that native code reads, and `owned`: the Python objects whose addresses are among them."""

    owned: list[object]


def words(count: int) -> Words:
    """A zeroed block."""
    block = np.zeros(count, np.int64).view(Words)
    block.owned = []
    return block


class Records:
    """The records of a signature, and the layout of its frame: control, table, references, scalars, stack; then the arena."""

    def __init__(self, signature: Signature, cells: int):
        self.signature, self.cells = signature, cells
        self.owned: list[object] = []
        self.arguments: list[int] = []
        self.fresh: list[int] = []
        self.build: list[int] = []
        self.head = self.table_end = at.CONTROL_BYTES + 8 * signature.buffers
        self.part_count = sum(map(_count_parts, signature.arguments)) + _count_fresh(signature.results)
        self.parts = self.next_part = self._take(8 * self.part_count)
        moved: list[tuple[int, int]] = []
        self._moved = moved
        for i, argument in enumerate(signature.arguments):
            self._argument(argument, 8 * i, 0)
        depth = self._result(signature.results, 0)
        self.stack = self._take(8 * depth)
        self.head += -self.head % at.LINE
        moved += [(self.slot(buffer), self.head + offset) for buffer, offset in signature.arena]
        self.moved = tuple(moved)

    # places in the frame

    def _take(self, size: int) -> int:
        place = self.head
        self.head += size
        return place

    def _take_parts(self, count: int) -> int:
        """Places of references, which the end of a call gives up."""
        place = self.next_part
        self.next_part += 8 * count
        return place

    def slot(self, buffer: int) -> int:
        return at.CONTROL_BYTES + 8 * buffer

    def _storage(self) -> int:
        """Sixteen bytes for a scalar."""
        self.head += self.head % 16
        return self._take(16)

    def _fixed(self, buffer: int) -> int:
        """A scalar's bytes, to which the table always points."""
        place = self._storage()
        self._moved.append((self.slot(buffer), place))
        return place

    def _array(self, values: list[int]) -> int:
        """The address of an array of words."""
        array = np.array(values or [0], np.int64)
        self.owned.append(array)
        return array.ctypes.data

    def _id(self, value: object) -> int:
        self.owned.append(value)
        return id(value)

    def _ids(self, values: tuple) -> int:
        return self._array([self._id(value) for value in values])

    # arguments

    def _argument(self, tree: object, source: int, nested: int) -> None:
        fields, children = {at.SOURCE: source, at.NESTED: nested}, children_of(tree)
        if children is None:
            self.arguments += _record(fields | self._leaf(tree))
            return
        place = self._take_parts(len(children))
        named = isinstance(tree, (Record, Named))
        fields |= {at.SIZE: len(children), at.PLACE: place, at.NODE_TYPE: self._id(tree.type if named else type(tree))}
        if named:
            fields[at.KIND] = at.RECORD_NODE if isinstance(tree, Record) else at.TUPLE_NODE
        else:
            fields[at.KIND] = _NODES[type(tree)]
        keys = tree.names if isinstance(tree, Record) else tuple(tree) if isinstance(tree, dict) else ()
        self.arguments += _record(fields | {at.KEYS: self._ids(keys)})
        for i, child in enumerate(children):
            self._argument(child, place + 8 * i, 1)

    def _leaf(self, leaf: object) -> dict[int, int]:
        if isinstance(leaf, Handle):
            return {at.KIND: at.HANDLE, at.CELL: self.cells + at.CELL_BYTES * leaf.slot}
        if isinstance(leaf, Static):
            return self._static(leaf.value)
        fields = {at.SLOT: self.slot(leaf.buffer)}
        if isinstance(leaf, Scalar):
            return fields | {at.KIND: _KINDS[leaf.kind], at.CODE: _CODES[leaf.dtype.str[1:]], at.STORAGE: self._fixed(leaf.buffer)}
        fields |= self._array_fields(leaf)
        if leaf.shape == () and not leaf.donated:
            fields |= {at.STORAGE: self._storage(), at.SCALAR_TYPE: id(leaf.dtype.type)}
        return fields

    def _array_fields(self, leaf: Array) -> dict[int, int]:
        dtype = leaf.dtype
        return {
            at.KIND: at.ARRAY, at.TYPE_NUM: dtype.num, at.OTHER_NUM: _TWINS.get(dtype.num, dtype.num),
            at.ORDER: ord(dtype.byteorder), at.NDIM: len(leaf.shape), at.SHAPE: self._array(list(leaf.shape)),
            at.FLAGS: _C_ALIGNED | (_WRITEABLE if leaf.donated else 0), at.DONATED: int(leaf.donated),
            at.BYTES: dtype.itemsize * int(np.prod(leaf.shape, dtype=object)),
        }

    def _static(self, value: object) -> dict[int, int]:
        kind = _EQUAL.get(type(value), at.SAME)
        fields = {at.SAME_OBJECT: self._id(value), at.NODE_TYPE: id(type(value))}
        if kind == at.SAME_INT:
            fits = -(2**63) <= value < 2**63
            return fields | ({at.KIND: kind, at.EXPECTED: value} if fits else {at.KIND: at.SAME})
        if kind == at.SAME_FLOAT:
            return fields | {at.KIND: kind, at.EXPECTED: struct.unpack("q", struct.pack("d", value))[0]}
        return fields | {at.KIND: kind}

    # results

    def _result(self, tree: object, below: int) -> int:
        """Steps for the tree when `below` objects are on the stack; the greatest depth that they reach."""
        children = children_of(tree)
        if children is None:
            self.build += self._made_leaf(tree)
            return below + 1
        depth = max([below + 1, *(self._result(child, below + i) for i, child in enumerate(children))])
        keys, make = 0, 0
        if isinstance(tree, Record):
            kind, keys = at.INSTANCE, self._ids(tree.names)
            make = self._id(functools.partial(object.__new__, tree.type))
        elif isinstance(tree, Named):
            kind, make = at.CALL, self._id(tree.type)
        else:
            kind, keys = _MADE[type(tree)], self._ids(tuple(tree)) if type(tree) is dict else 0
        self.build += (kind, len(children), keys, make)
        return depth

    def _made_leaf(self, leaf: object) -> tuple[int, int, int, int]:
        if isinstance(leaf, Fresh):
            place = self._take_parts(1)
            fields = {at.SLOT: self.slot(leaf.buffer), at.DESCR: self._id(leaf.dtype), at.OBJECT: place,
                      at.NDIM: len(leaf.shape), at.SHAPE: self._array(list(leaf.shape))}
            if leaf.shape == ():
                fields[at.STORAGE] = self._fixed(leaf.buffer)
            self.fresh += _record(fields)
            return at.TAKE, place, 0, 0
        if isinstance(leaf, Held):
            return at.HELD, self.cells + at.CELL_BYTES * leaf.slot, 0, 0
        if isinstance(leaf, Given):
            return at.GIVEN, 8 * leaf.argument, 0, 0
        return at.HELD, self._array([self._id(leaf.value if isinstance(leaf, Static) else leaf)]), 0, 0

    def fields(self) -> dict[int, int]:
        """The words of a specialization that lead to all this."""
        pairs = [number for pair in self.moved for number in pair]
        found = {at.POSITIONAL: len(self.signature.arguments), at.TABLE_END: self.table_end, at.PARTS: self.parts,
                 at.PART_COUNT: self.part_count, at.STACK: self.stack, at.FRAME_HEAD: self.head}
        for count, values, width in ((at.ARGUMENTS, self.arguments, at.RECORD), (at.FRESH, self.fresh, at.RECORD),
                                     (at.BUILD, self.build, at.BUILD_RECORD), (at.MOVED, pairs, 16)):
            found |= {count: 8 * len(values) // width, count + 8: self._array(values)}
        return found


def _record(fields: Mapping[int, int]) -> list[int]:
    record = [0] * (at.RECORD // 8)
    for field, value in fields.items():
        record[field // 8] = value
    return record


def _count_parts(tree: object) -> int:
    """References that reading a tree takes."""
    children = children_of(tree)
    return 0 if children is None else len(children) + sum(map(_count_parts, children))


def _count_fresh(tree: object) -> int:
    children = children_of(tree)
    return int(isinstance(tree, Fresh)) if children is None else sum(map(_count_fresh, children))
