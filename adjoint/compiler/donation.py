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
from ..tree import Structure, flatten, unflatten
from .native import Native, buffer_numbers, fresh_records, results_of
from .signature import Held

ALIGNMENT = 64


class Donation:
    """Which inputs are replaced by which outputs, the handles given out, and the blocks of memory that hold their arrays."""

    def __init__(self, args: tuple, donate: tuple[int, ...], graph: Graph, result: Structure):
        for n in donate:
            if not 0 <= n < len(args):
                raise DonationError(explain(f"donate names argument {n}; the function was called with {len(args)} positional arguments.",
                                            remedy="Count positional arguments from 0, and pass the donated ones by position."))
        self.donate, self.result, self.graph = donate, result, graph
        self.ranges = _leaf_ranges(args)
        self.places: list[int] = []                          # position in the result of each donated argument's replacement
        self.pairs: dict[int, int] = {}                      # input leaf -> output leaf
        for n in donate:
            position, first = self._replacement(n, args)
            self.places.append(position)
            self.pairs.update(zip(self.ranges[n], range(first, first + len(self.ranges[n])), strict=True))
        self.handles: list[Any] = [None] * len(donate)
        self.blocks: list[np.ndarray] = [np.empty(0, np.uint8)] * len(donate)

    @property
    def parts(self) -> tuple[Structure, ...]:
        """The parts of the result that may replace an argument: its elements if it is a tuple, else all of it."""
        return self.result.children if self.result.kind == "tuple" else (self.result,)

    def _replacement(self, n: int, args: tuple) -> tuple[int, int]:
        """(position in the result, number of its first leaf) of the part that replaces argument n."""
        leaves, structure = flatten(args[n])
        avals = [aval_of(x).strong() for x in leaves]
        first = 0
        for position, part in enumerate(self.parts):
            found = [a.aval.strong() for a in self.graph.outputs[first:first + part.leaf_count]]
            if position not in self.places and found == avals and part == structure:
                return position, first
            first += part.leaf_count
        raise DonationError(explain(
            f"donated argument {n} is not returned: no part of the result has its structure, shapes and dtypes.",
            remedy="Return its replacement, as in `return model, state, loss`, with every leaf in its own dtype."))

    def result_records(self, native: Native) -> Any:
        """The result tree with the handles in their places."""
        records = fresh_records(native, self.graph, frozenset(self.pairs.values()))
        if self.result.kind != "tuple":
            return Held(0)
        found, first = [], 0
        for position, part in enumerate(self.parts):
            inside = records[first:first + part.leaf_count]
            found.append(Held(self.places.index(position)) if position in self.places else results_of(part, inside))
            first += part.leaf_count
        return tuple(found)

    def own(self, program: Any, args: tuple) -> tuple:
        """The arguments with every foreign donated tree copied into memory of our own: the copy becomes the live handle."""
        args = list(args)
        for slot, n in enumerate(self.donate):
            if args[n] is not self.handles[slot] or self.handles[slot] is None:
                self._copy(program, slot, args[n])
            args[n] = self.handles[slot]
        return tuple(args)

    def _copy(self, program: Any, slot: int, tree: Any) -> None:
        leaves, structure = flatten(tree)
        _check_apart(leaves)
        leaves = list(map(np.asarray, leaves))
        sizes = [-(-max(1, x.nbytes) // ALIGNMENT) * ALIGNMENT for x in leaves]
        block = np.empty(sum(sizes) + ALIGNMENT, np.uint8)
        block = block[-block.ctypes.data % ALIGNMENT:]
        arrays, begin = [], 0
        for x, size in zip(leaves, sizes, strict=True):
            array = block[begin:begin + x.nbytes].view(x.dtype).reshape(x.shape)
            array[...] = x
            arrays.append(array)
            begin += size
        at = buffer_numbers(program.native, "input")
        handle = unflatten(structure, arrays)
        inputs = self.ranges[self.donate[slot]]
        program.special.hold(slot, handle, {at[i]: a for i, a in zip(inputs, arrays, strict=True)})
        self.handles[slot], self.blocks[slot] = handle, block


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
