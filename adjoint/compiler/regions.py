"""Sums of slices placed into zeros, computed region by region: nothing is stored on the way, and nothing is added that is zero.

Where neighbours are coupled by cheap arithmetic, what the slices hold costs less to compute again, at another place, than to store and to
load: memory is the limit. Between the ends of the slices every element is a sum of the same terms, so each region is one kernel over
shifted views of what is stored anyway. Invariant: values stay; only additions, products and choices are done again.
May import: L0-L3, lower. Read next: joins.py.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..core.aval import Aval
from ..core.graph import Atom, Literal, Node, Var
from ..core.primitive import TABLE
from ..primitives.kinds import Scalar
from .loops import Let, Value
from .lower import KernelEmitter, Lowering, emit_node, literal_dtype

MOST_REGIONS = 5         # of one sum
MOST_WORK = 40           # nodes that are done again in every region
LITTLE_WORK = 8          # nodes that are done again although their result is there
SMALL = 64               # elements up to which memory costs nothing
CHEAP = frozenset("const add sub mul neg fma abs eq ne lt le gt ge and or xor not select copysign convert".split())

Part = tuple[int, int, int]      # axis, start, stop


def by_regions(node: Node, terms: Sequence[Atom], parts: Sequence[Part | None], maker: dict[Var, Node], count: Counter) -> list[Node]:
    """The nodes in the place of a sum. parts: where each term has its slice, None for terms that are whole; [] if it does not pay.

    maker, count: who makes a value, and how many nodes and outputs read it.
    """
    axes = {part[0] for part in parts if part is not None}
    aval = node.outs[0].aval
    if len(axes) != 1 or aval.size <= SMALL:
        return []
    axis = axes.pop()
    ends = sorted({0, aval.shape[axis], *(end for part in parts if part is not None for end in part[1:])})
    regions = list(itertools.pairwise(ends))
    values = [a if part is None else maker[a].inputs[1] for a, part in zip(terms, parts, strict=True)]
    work, dear = _cheap_work(values, maker, count)
    if len(regions) > MOST_REGIONS or len(work) > MOST_WORK or dear >= len(parts) - parts.count(None):
        return []                                           # as many arrays would be stored as there are slices
    shifted, joined = _Shifted(axis, work, maker), []
    for start, stop in regions:
        spans = [(0, aval.shape[axis]) if part is None else part[1:] for part in parts]
        here = [shifted.at(v, start - first, stop - first) for v, (first, last) in zip(values, spans, strict=True)
                if first <= start and stop <= last]
        if not here:
            return []
        total = here[0]
        for a in here[1:]:
            total = shifted.node(node, (total, a), Aval(total.aval.shape, aval.dtype, aval.weak))
        joined.append(total)
    return [*shifted.nodes, Node(TABLE["concatenate"], tuple(joined), node.outs, {"axis": axis}, where=node.where)]


def _cheap_work(values: Sequence[Atom], maker: dict[Var, Node], count: Counter) -> tuple[dict[Var, Node], int]:
    """(what these values need and is cheap, by what it makes; how much else only they need, which has to be stored then)."""
    found: dict[Var, Node] = {}
    inside, dear = Counter(values), 0
    pending = [a for a in dict.fromkeys(values) if a in maker]
    while True:
        ready = next((a for a in pending if count[a] == inside[a]), None)
        if ready is None:
            for a in pending:                               # what others read too is rather done again than stored, if it is little
                found |= _little_work(a, maker)
            return found, dear
        pending.remove(ready)
        made = maker[ready]
        if not isinstance(made.primitive.lowering, Scalar):
            continue
        if not is_cheap(made):
            dear += 1
            continue
        found[ready] = made
        for a in dict.fromkeys(made.inputs):
            inside[a] += 1
            if a in maker and a not in pending:
                pending.append(a)


def _little_work(a: Var, maker: dict[Var, Node]) -> dict[Var, Node]:
    """The cheap nodes between a value and what is stored anyway; none if something on the way is not cheap, or if they are many."""
    found, pending = {}, [a]
    while pending:
        made = maker.get(pending.pop())
        if made is None or not isinstance(made.primitive.lowering, Scalar) or made.outs[0] in found:
            continue
        if len(found) == LITTLE_WORK or not is_cheap(made):
            return {}
        found[made.outs[0]] = made
        pending += made.inputs
    return found


def is_cheap(node: Node) -> bool:
    """Is an elementwise node a few additions, products and choices, of arrays of its own shape?"""
    if node.effects or any(a.aval.shape not in ((), node.outs[0].aval.shape) for a in node.inputs):
        return False
    e = KernelEmitter(Lowering())
    dtype = literal_dtype(node)
    emit_node(e, node, lambda a: Value(dtype if a.aval.weak else a.aval.dtype))
    return all(isinstance(s, Let) and s.op in CHEAP for s in e.statements)


class _Shifted:
    """Values at a range of indices along one axis: cheap work is done there, the rest is looked at through a slice."""

    def __init__(self, axis: int, work: dict[Var, Node], maker: dict[Var, Node]):
        self.axis, self.work, self.maker = axis, work, maker
        self.nodes: list[Node] = []
        self.known: dict[Any, Atom] = {}

    def node(self, like: Node, inputs: tuple[Atom, ...], aval: Aval) -> Var:
        self.nodes.append(Node(like.primitive, inputs, (Var(aval),), like.params, where=like.where))
        return self.nodes[-1].outs[0]

    def at(self, a: Atom, start: int, stop: int) -> Atom:
        """Elements start .. stop-1 of a value, along the axis; of a single number, that number."""
        if a.aval.shape == ():
            return a
        if not isinstance(a, Literal) and a in self.work:
            key = a, start, stop
            if key not in self.known:
                made = self.work[a]
                inputs = tuple(self.at(x, start, stop) for x in made.inputs)
                self.known[key] = self.node(made, inputs, self._cut(a.aval, start, stop))
            return self.known[key]
        return self._slice(a, start, stop)

    def _slice(self, a: Atom, start: int, stop: int) -> Atom:
        bounds = tuple((start, stop, 1) if i == self.axis else (0, n, 1) for i, n in enumerate(a.aval.shape))
        before = None if isinstance(a, Literal) else self.maker.get(a)
        if before is not None and before.primitive is TABLE["slice"] and all(step == 1 for _, _, step in before.params["bounds"]):
            a = before.inputs[0]                            # a slice of a slice is a slice, and the same one may be wanted twice
            bounds = tuple((first + low, first + high, 1) for (first, _, _), (low, high, _) in zip(
                before.params["bounds"], bounds, strict=True))
        key = a if isinstance(a, Var) else id(a), bounds
        if key not in self.known:
            out = Var(Aval(tuple(high - low for low, high, _ in bounds), a.aval.dtype, a.aval.weak))
            self.nodes.append(Node(TABLE["slice"], (a,), (out,), {"bounds": bounds}))
            self.known[key] = out
        return self.known[key]

    def _cut(self, aval: Aval, start: int, stop: int) -> Aval:
        return Aval(tuple(stop - start if i == self.axis else n for i, n in enumerate(aval.shape)), aval.dtype, aval.weak)
