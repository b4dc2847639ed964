"""Layout: elementwise regions and reductions between rearranged arrays are computed in the order in which those arrays lie.

A rearrangement (permute, reshape, chains of them) of a whole array has a normal form: reshape, then permute. Where most of the large
arguments of a connected region of elementwise nodes are the same rearrangement of other arrays, the region works on these, and its results
are rearranged instead: so rearrangements sink towards the outputs, meet their inverses, and vanish; and what is computed behind a
convolution or a product has its shape, and joins its kernel. Arguments that lie otherwise are read through the inverse.
Invariant: no value changes; a graph output is computed as it is wanted.
May import: L0-L3, simplify's rebuild, views. Read next: fuse.py.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from functools import cached_property
from typing import Any

from msgspec import Struct, field

from ..core.aval import Aval
from ..core.graph import Atom, Graph, Literal, Node, Var
from ..core.primitive import TABLE
from ..primitives.kinds import Contract, Convolve, Reduce, Scalar, Strided
from .views import row_major

ROUNDS = 4               # a rearrangement that has sunk may meet its next region

Shape = tuple[int, ...]


class Arrangement(Struct, frozen=True, dict=True):
    """All elements of an array in row-major memory, in another order: `shape`, and how far each axis moves (0 for axes of one element)."""

    shape: Shape
    steps: Shape

    @classmethod
    def of(cls, shape: Shape, strides: Shape) -> Arrangement:
        return cls(tuple(shape), tuple(0 if n == 1 else s for n, s in zip(shape, strides, strict=True)))

    @property
    def plain(self) -> bool:
        step = 1
        for n, found in zip(reversed(self.shape), reversed(self.steps), strict=True):
            if n != 1 and found != step:
                return False
            step *= n
        return True

    @cached_property
    def order(self) -> tuple[int, ...]:
        """The axes as memory has them; those of one element first."""
        return tuple(sorted(range(len(self.shape)), key=lambda i: -self.steps[i] if self.steps[i] else -math.inf))

    @property
    def whole(self) -> bool:
        """Whether every element stands in it once."""
        return Arrangement(tuple([self.shape[i] for i in self.order]), tuple([self.steps[i] for i in self.order])).plain

    def through(self, node: Node) -> Arrangement | None:
        """What a view makes of it, if that is a rearrangement too."""
        found = node.primitive.lowering.view(0, self.shape, self.steps, **node.params)
        if found is None or found[0] != 0 or math.prod(found[1]) != math.prod(self.shape) or min(found[2], default=0) < 0:
            return None
        made = Arrangement.of(found[1], found[2])
        return made if made.whole else None


Origins = dict[Var, tuple[Var, Arrangement]]


def sink(graph: Graph) -> Graph:
    """Normal forms of rearrangements, then regions and reductions, until nothing changes."""
    if not any(isinstance(n.primitive.lowering, Convolve) for n in graph.nodes):
        return graph
    for _ in range(ROUNDS):
        graph, changed = _Round(*normal_forms(graph)).run()
        if not changed:
            return graph
    return normal_forms(graph)[0]


def is_view(node: Node) -> bool:
    return isinstance(node.primitive.lowering, Strided) and len(node.inputs) == 1 and isinstance(node.inputs[0], Var)


def node_of(name: str, x: Atom, out: Var | None, aval: Aval, where: str, **params: Any) -> Node:
    return Node(TABLE[name], (x,), (out or Var(aval),), params, where=where)


def rearranged(x: Atom, made: Arrangement, out: Var | None, where: str) -> list[Node]:
    """The normal form: nodes whose last result is this arrangement of x (as `out`); none if that is x itself and no `out` is asked for."""
    shaped = lambda shape: Aval(shape, x.aval.dtype, x.aval.weak)
    if made.plain:
        if made.shape == x.aval.shape and out is None:
            return []
        return [node_of("reshape", x, out, shaped(made.shape), where, shape=made.shape)]
    order, nodes = made.order, []
    inner = tuple(made.shape[i] for i in order)
    if inner != x.aval.shape:
        nodes.append(node_of("reshape", x, None, shaped(inner), where, shape=inner))
        x = nodes[-1].outs[0]
    axes = tuple(order.index(i) for i in range(len(order)))
    return [*nodes, node_of("permute", x, out, shaped(made.shape), where, axes=axes)]


def normal_forms(graph: Graph) -> tuple[Graph, Origins]:
    """Every chain of rearrangements as reshape and permute of what it began with, which is noted; nothing where it ends as it began."""
    origins: Origins = {}
    known: dict[Any, Atom] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        node = Node(node.primitive, tuple(known.get(a, a) for a in node.inputs), node.outs, node.params, node.effects, node.where)
        if not is_view(node) or not node.outs[0].aval.size:
            nodes.append(node)
            continue
        root, before = origins.get(node.inputs[0], (node.inputs[0], None))
        found = (before or Arrangement.of(root.aval.shape, row_major(root.aval.shape))).through(node)
        if found is None:
            nodes.append(node)
            continue
        if found.plain and found.shape == root.aval.shape:
            known[node.outs[0]] = root
            continue
        origins[node.outs[0]] = (root, found)
        nodes += [node] if before is None else rearranged(root, found, node.outs[0], node.where)
    return Graph(graph.inputs, nodes, [known.get(a, a) for a in graph.outputs], graph.captures), origins


class _Region(Struct, eq=False):
    """Elementwise nodes of one shape that read each other."""

    nodes: list[Node] = field(default_factory=list)
    made: Arrangement | None = None
    shape: Shape = ()                                       # of the arrays that it then works on


class _Round:
    """One pass over a graph in normal form."""

    def __init__(self, graph: Graph, origins: Origins) -> None:
        self.graph, self.origins, self.outputs = graph, origins, set(graph.outputs)
        self.maker = {v: node for node in graph.nodes for v in node.outs}
        self.region_of: dict[Node, _Region] = {}
        self.inner: dict[Var, Var] = {}                     # results of regions, as they are computed now

    def run(self) -> tuple[Graph, bool]:
        self._join()
        for region in dict.fromkeys(self.region_of.values()):
            self._decide(region)
        nodes: list[Node] = []
        for node in self.graph.nodes:
            region = self.region_of.get(node)
            if region is not None and region.made is not None:
                nodes += self._moved(node, region)
            else:
                nodes += self._reduced(node) or [node]
        return Graph(self.graph.inputs, nodes, self.graph.outputs, self.graph.captures), len(nodes) != len(self.graph.nodes)

    # -- regions ------------------------------------------------------------------------------------------------------

    def _large(self, node: Node) -> list[Var]:
        """The arguments with as many elements as the result."""
        return [a for a in node.inputs if isinstance(a, Var) and a.aval.shape == node.outs[0].aval.shape]

    def _join(self) -> None:
        for node in self.graph.nodes:
            out = node.outs[0]
            if not isinstance(node.primitive.lowering, Scalar) or node.effects or out in self.outputs or out.aval.size < 2:
                continue
            region = self.region_of[node] = _Region([node])
            for a in self._large(node):
                other = self.region_of.get(self.maker.get(a))
                if other is not None and other is not region:
                    for each in region.nodes:
                        self.region_of[each] = other
                    other.nodes += region.nodes
                    region = other

    def _decide(self, region: _Region) -> None:
        """Work on what is rearranged, if more large arguments from outside are rearranged alike than are not."""
        own = {v for node in region.nodes for v in node.outs}
        if any(isinstance(a, Literal) and a.aval.size > 1 for node in region.nodes for a in node.inputs):
            return
        large = dict.fromkeys(a for node in region.nodes for a in self._large(node) if a not in own and self._repeated(a) is None)
        votes: dict[Arrangement, list[Var]] = defaultdict(list)
        for a in large:
            root, found = self.origins.get(a, (a, None))
            if found is not None and not (found.plain and len(found.shape) == len(root.aval.shape)):
                votes[found].append(root)
        made = max(votes, key=lambda each: len(votes[each]), default=None)
        if made is None or 2 * len(votes[made]) <= len(large):
            return
        heads = [r for r in votes[made] if r in self.maker and isinstance(self.maker[r].primitive.lowering, Convolve | Contract)]
        region.shape = (heads or votes[made])[0].aval.shape
        small = [self._small(a, node.outs[0].aval) for node in region.nodes for a in node.inputs if self._is_small(a, node, own)]
        if all(laid_out(a.aval.shape, made, region.shape) is not None for a in small):
            region.made = made

    def _repeated(self, a: Var) -> Atom | None:
        """What a large argument repeats, if it is a broadcast of fewer elements."""
        node = self.maker.get(a)
        if node is None or not isinstance(node.primitive.lowering, Strided) or len(node.inputs) != 1:
            return None
        source = node.inputs[0]
        lead = a.aval.ndim - source.aval.ndim
        if source.aval.size >= a.aval.size or lead < 0:
            return None
        aligned = all(n in (1, m) for n, m in zip(source.aval.shape, a.aval.shape[lead:], strict=True))
        plain = node.primitive.lowering.view(0, source.aval.shape, row_major(source.aval.shape), **node.params)
        repeated = TABLE["broadcast"].lowering.view(0, source.aval.shape, row_major(source.aval.shape), shape=a.aval.shape)
        return source if aligned and plain == repeated else None

    def _is_small(self, a: Atom, node: Node, own: set[Var]) -> bool:
        if a in own or (a.aval.shape == node.outs[0].aval.shape and self._repeated(a) is None):
            return False
        return a.aval.size > 1 or isinstance(a, Var)

    def _small(self, a: Atom, out: Aval) -> Atom:
        source = self._repeated(a) if isinstance(a, Var) and a.aval.shape == out.shape else None
        return a if source is None else source

    def _moved(self, node: Node, region: _Region) -> list[Node]:
        """The node on the arrays that are rearranged, then its result rearranged."""
        nodes: list[Node] = []
        inputs = tuple(self._argument(a, node, region, nodes) for a in node.inputs)
        out = node.outs[0]
        new = Var(Aval(region.shape, out.aval.dtype, out.aval.weak))
        self.inner[out] = new
        nodes.append(Node(node.primitive, inputs, (new,), node.params, node.effects, node.where))
        return nodes + rearranged(new, region.made, out, node.where)

    def _argument(self, a: Atom, node: Node, region: _Region, nodes: list[Node]) -> Atom:
        own = {v for each in region.nodes for v in each.outs}
        if a in own:
            return self.inner[a]
        if isinstance(a, Literal) and a.aval.size == 1 and not a.aval.shape:
            return a
        if self._is_small(a, node, own):
            return _through(nodes, laid_out_nodes(self._small(a, node.outs[0].aval), region.made, region.shape, node.where), a)
        root, found = self.origins.get(a, (a, None))
        if found != region.made:
            return _through(nodes, laid_out_nodes(a, region.made, region.shape, node.where), a)
        made = Arrangement.of(region.shape, row_major(region.shape))
        return _through(nodes, rearranged(root, made, None, node.where), root)

    # -- reductions ---------------------------------------------------------------------------------------------------

    def _reduced(self, node: Node) -> list[Node] | None:
        """A reduction of a rearranged array as one of the array itself, if its axes are axes of that."""
        if not isinstance(node.primitive.lowering, Reduce) or len(node.inputs) != 1 or not isinstance(node.inputs[0], Var):
            return None
        root, made = self.origins.get(node.inputs[0], (None, None))
        if made is None or node.effects or not node.params["axes"]:
            return None
        groups, axes = _groups(made, root.aval.shape), set(node.params["axes"])
        if groups is None:
            return None
        gone: list[int] = [i for i, n in enumerate(root.aval.shape) if n == 1]
        for outer, inner in groups:
            if axes.intersection(outer) not in (set(), set(outer)):
                return None
            gone += inner if axes.intersection(outer) else []
        out = node.outs[0]
        kept = [i for i in made.order if i not in axes]
        shape = tuple(n for i, n in enumerate(root.aval.shape) if i not in gone)
        new = Var(Aval(shape, out.aval.dtype, out.aval.weak))
        reduced = Node(node.primitive, (root,), (new,), {**node.params, "axes": tuple(sorted(gone))}, node.effects, node.where)
        sizes = [made.shape[i] for i in kept]
        steps = dict(zip(kept, row_major(sizes), strict=True))
        rest = [i for i in range(len(made.shape)) if i not in axes]
        left = Arrangement.of(tuple(made.shape[i] for i in rest), tuple(steps[i] for i in rest))
        return [reduced, *rearranged(new, left, out, node.where)]


def _through(nodes: list[Node], more: list[Node], otherwise: Atom) -> Atom:
    nodes += more
    return more[-1].outs[0] if more else otherwise


def _groups(made: Arrangement, shape: Shape) -> list[tuple[list[int], list[int]]] | None:
    """Axes of an arrangement, as memory has them, beside the axes of the array that cover the same elements."""
    outer = [(i, made.shape[i]) for i in made.order if made.shape[i] != 1]
    inner = [(i, n) for i, n in enumerate(shape) if n != 1]
    groups: list[tuple[list[int], list[int]]] = []
    while outer or inner:
        if not outer or not inner:
            return None
        (i, n), (j, m) = outer.pop(0), inner.pop(0)
        left, right = [i], [j]
        while n != m:
            source, taken = (outer, left) if n < m else (inner, right)
            if not source:
                return None
            k, size = source.pop(0)
            taken.append(k)
            n, m = (n * size, m) if n < m else (n, m * size)
        groups.append((left, right))
    return groups


def laid_out(small: Shape, made: Arrangement, shape: Shape) -> Shape | None:
    """The shape in which a small argument goes with arrays of `shape`: each group of axes is repeated or is not."""
    full = (1,) * (len(made.shape) - len(small)) + tuple(small)
    found, groups = [1] * len(shape), _groups(made, shape)
    if groups is None:
        return None
    for outer, inner in groups:
        sizes = [full[i] for i in outer]
        if sizes == [made.shape[i] for i in outer]:
            for j in inner:
                found[j] = shape[j]
        elif any(n != 1 for n in sizes):
            return None
    return tuple(found)


def laid_out_nodes(a: Atom, made: Arrangement, shape: Shape, where: str) -> list[Node]:
    """Nodes that lay a small argument out so."""
    full = (1,) * (len(made.shape) - a.aval.ndim) + a.aval.shape
    order, nodes = made.order, []
    step: Callable[..., None] = lambda name, aval_shape, **params: nodes.append(node_of(
        name, nodes[-1].outs[0] if nodes else a, None, Aval(aval_shape, a.aval.dtype, a.aval.weak), where, **params))
    if [i for i in order if full[i] != 1] != [i for i in range(len(full)) if full[i] != 1]:
        if full != a.aval.shape:
            step("reshape", full, shape=full)
        step("permute", tuple(full[i] for i in order), axes=order)
    wanted = laid_out(a.aval.shape, made, shape)
    if (nodes[-1].outs[0] if nodes else a).aval.shape != wanted:
        step("reshape", wanted, shape=wanted)
    return nodes
