"""Donated arguments: trees whose arrays a compiled function owns and updates in place, recognized by identity.

Invariant: an error before the commit point leaves the owned arrays as they were; a tree that is not the live handle is copied first.
May import: L0-L3, native, entry. Read next: compile.py.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from ..core.aval import aval_of
from ..core.graph import Graph
from ..errors import DonationError, explain
from ..tree import LEAF, Structure, flatten, unflatten
from .entry import Entry, Specialization
from .native import buffer_numbers, fresh_records, leaf_record, native_tree, specialize
from .signature import Handle, Held

ALIGNMENT = 64


class DonatedState:
    """Which inputs are replaced by which outputs, the arrays that hold them, and the handles given out."""

    def __init__(self, args: tuple, donate: tuple[int, ...], graph: Graph, result: Structure):
        for n in donate:
            if not 0 <= n < len(args):
                raise DonationError(explain(f"donate names argument {n}; the function was called with {len(args)} positional arguments."))
        self.donate, self.result, self.claimed = donate, result, set()
        self.ranges = _leaf_ranges(args)
        self.structures = [flatten(args[n])[1] for n in donate]
        self.outputs = [self._matching_output(n, s, args, graph, result) for n, s in zip(donate, self.structures, strict=True)]
        self.pairs = {i: j for n, (_, first) in zip(donate, self.outputs, strict=True)
                      for i, j in zip(self.ranges[n], range(first, first + len(self.ranges[n])), strict=True)}
        self.special: Specialization | None = None
        self.handles: list[Any] = [None] * len(donate)

    def _matching_output(self, n: int, structure: Structure, args: tuple, graph: Graph, result: Structure) -> tuple[int, int]:
        """(position in the result tuple, number of its first leaf) of the output that replaces argument n."""
        avals = [aval_of(x).strong() for x in flatten(args[n])[0]]
        parts = result.children if result.kind == "tuple" else (result,)
        first = 0
        for position, part in enumerate(parts):
            found = [a.aval.strong() for a in graph.outputs[first:first + part.leaf_count]]
            if position not in self.claimed and found == avals and part == structure:
                self.claimed.add(position)
                return position, first
            first += part.leaf_count
        raise DonationError(explain(
            f"donated argument {n} is not returned: no part of the result has its structure, shapes and dtypes.",
            remedy="Return its replacement, as in `return model, state, loss`, with every leaf in its own dtype."))

    # -- calls --------------------------------------------------------------------------------------------------------

    def call(self, program: Any, entry: Entry, args: tuple, kwargs: dict) -> Any:
        """A call that the native entry did not take: own what is foreign, then call with the handles."""
        if self.special is None:
            self._specialize(program, entry, args, kwargs)
        for slot, n in enumerate(self.donate):
            if args[n] is not self.handles[slot]:
                self._own(program, slot, args[n])
        rest = [x for i, arg in enumerate(args) if i not in self.donate for x in flatten(arg)[0]]
        rest += flatten(kwargs)[0]
        return program.entry.call(*self.handles, *[_apart(x, self.memory) for x in rest])

    def _specialize(self, program: Any, entry: Entry, args: tuple, kwargs: dict) -> None:
        """Two entries for one frame: handles then flat leaves; and, where every other argument is a leaf, the user's own order."""
        native, graph = program.native, program.graph
        at = buffer_numbers(native, "input")
        leaves = {i: x for i, x in enumerate(flatten((args, kwargs))[0])}
        handles = [Handle(slot) for slot in range(len(self.donate))]
        owned = {i for n in self.donate for i in self.ranges[n]}
        rest = [leaf_record(x, at[i]) for i, x in leaves.items() if i not in owned]
        records = fresh_records(native, graph, frozenset(self.pairs.values()))
        results, rebuild = self._results(records)
        self.special = specialize(native, [*handles, *rest], results, True, slots=len(self.donate), rebuild=rebuild)
        self.memory: list[np.ndarray] = [np.empty(0, np.uint8)] * len(self.donate)
        program.entry.add(self.special)
        flat = all(len(self.ranges[i]) == 1 and flatten(arg)[1].kind == "leaf" for i, arg in enumerate(args) if i not in self.donate)
        if flat and not kwargs and self.donate == tuple(range(len(self.donate))):
            entry.add(self.special)

    def _results(self, records: list) -> tuple[Any, Any]:
        """The result tree with the handles in their places; a rebuild function where it has more than tuples, lists and dicts."""
        if self.result.kind != "tuple":
            return Held(0), None
        slots = {position: slot for slot, (position, _) in enumerate(self.outputs)}
        flat: list[list] = []
        first = 0
        for position, part in enumerate(self.result.children):
            flat.append([Held(slots[position])] if position in slots else records[first:first + part.leaf_count])
            first += part.leaf_count
        shapes = [LEAF if position in slots else part for position, part in enumerate(self.result.children)]
        if all(map(native_tree, shapes)):
            return tuple(unflatten(s, xs) for s, xs in zip(shapes, flat, strict=True)), None
        whole = Structure("tuple", None, tuple(shapes))
        return tuple(x for xs in flat for x in xs), lambda leaves: unflatten(whole, leaves)

    def _own(self, program: Any, slot: int, tree: Any) -> None:
        """Copy a foreign tree into one block of memory and make the copy the live handle of this slot."""
        leaves, structure = flatten(tree)
        _check_apart(leaves)
        sizes = [-(-max(1, x.nbytes) // ALIGNMENT) * ALIGNMENT for x in map(np.asarray, leaves)]
        block = np.empty(sum(sizes) + ALIGNMENT, np.uint8)
        block = block[-block.ctypes.data % ALIGNMENT:]
        arrays, begin = [], 0
        for x, size in zip(map(np.asarray, leaves), sizes, strict=True):
            array = block[begin:begin + x.nbytes].view(x.dtype).reshape(x.shape)
            array[...] = x
            arrays.append(array)
            begin += size
        at = buffer_numbers(program.native, "input")
        inputs = self.ranges[self.donate[slot]]
        handle = unflatten(structure, arrays)
        self.special.hold(slot, handle, {at[i]: a for i, a in zip(inputs, arrays, strict=True)})
        self.handles[slot], self.memory[slot] = handle, block


def _leaf_ranges(args: tuple) -> list[range]:
    ranges, first = [], 0
    for arg in args:
        count = len(flatten(arg)[0])
        ranges.append(range(first, first + count))
        first += count
    return ranges


def _check_apart(leaves: list) -> None:
    """DonationError if two leaves share memory: each would be overwritten with the other's update."""
    spans = sorted((x.__array_interface__["data"][0], x.nbytes, i) for i, x in enumerate(leaves) if isinstance(x, np.ndarray) and x.nbytes)
    for (begin, size, i), (following, _, j) in itertools.pairwise(spans):
        if begin + size > following:
            raise DonationError(explain(f"donated leaves {min(i, j)} and {max(i, j)} share memory.",
                                        remedy="Copy one of them first: adjoint.copy(model)."))


def _apart(x: Any, memory: list[np.ndarray]) -> Any:
    """x, or a copy where it lies in memory that the call will write."""
    if isinstance(x, np.ndarray):
        if any(np.may_share_memory(x, block) for block in memory):
            return x.copy()
        if not (x.flags.c_contiguous and x.flags.aligned):
            return np.require(x, requirements=("C", "A")).reshape(x.shape)
    return x
