"""Arrays put together from parts: parts are computed where they belong, and sums of parts padded with zeros are such arrays.

The derivative of a slice places its cotangent into zeros; where neighbours are coupled, several such arrays are added. Cotangents of the
same slice are added before they are placed, and each is stored by its own kernel at its place: only the zeros around it are extra work.
Invariant: matches on the traits `sums`, `places` and `joins` of rows. May import: L0-L3, views. Read next: simplify.py, schedule.py.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

from ..core.aval import Aval
from ..core.graph import Atom, Graph, Node, Var
from ..core.primitive import TABLE
from ..primitives.structure import outside_slice
from .hoist import broadcast_scalar
from .regions import by_regions

SHORTEST_ROW = 32        # elements that follow each other at a place, below which a kernel rather stores its values densely


def join_parts(graph: Graph) -> Graph:
    """zeros with a in one slice + zeros with b in the next + ...: a and b joined; in the same slice: a + b there. That is what the
    derivative of slicing leaves."""
    if not any(n.primitive.traits.get("places") for n in graph.nodes):
        return graph
    maker = {v: n for n in graph.nodes for v in n.outs}
    count = Counter([a for n in graph.nodes for a in dict.fromkeys(n.inputs)] + list(graph.outputs))
    inner: set[Node] = set()                    # sums that are terms of a larger one
    for n in graph.nodes:
        if n.primitive.traits.get("sums"):
            inner.update(maker[a] for a in n.inputs if a in maker and count[a] == 1 and _same_sum(maker[a], n))
    nodes: list[Node] = []
    for n in graph.nodes:
        terms = _terms(n, maker, inner) if n.primitive.traits.get("sums") and n not in inner else []
        nodes += _joined(n, terms, maker, count) or [n]
    return Graph(graph.inputs, nodes, graph.outputs, graph.captures)


def _same_sum(term: Node, total: Node) -> bool:
    return bool(term.primitive.traits.get("sums")) and term.outs[0].aval == total.outs[0].aval


def _terms(node: Node, maker: dict, inner: set[Node]) -> list[Atom]:
    found: list[Atom] = []
    for a in node.inputs:
        found += _terms(maker[a], maker, inner) if a in maker and maker[a] in inner else [a]
    return found


def _joined(node: Node, terms: list[Atom], maker: dict, count: Counter) -> list[Node]:
    """The nodes in the place of a sum, some of whose terms are parts of one array; none if there is nothing to join."""
    found, terms = _added_in_place(node, terms, maker, count)
    alone = [_part(maker.get(a), maker) if count[a] == 1 and a.aval.shape == node.outs[0].aval.shape else None for a in terms]
    regions = by_regions(node, terms, alone, maker, count)
    if regions:
        return found + regions
    parts: dict[int, list[tuple[int, int, Atom]]] = {}
    rest = []
    for a in terms:
        part = _part(maker.get(a), maker)
        if part is None or a.aval.shape != node.outs[0].aval.shape:
            rest.append(a)
        else:
            parts.setdefault(part[0], []).append((*part[1:], a))
    for axis, pieces in parts.items():
        pieces.sort(key=lambda p: p[:2])
        starts, stops = [p[0] for p in pieces], [p[1] for p in pieces]
        if len(pieces) < 2 or starts != [0, *stops[:-1]] or stops[-1] != node.outs[0].aval.shape[axis]:
            rest += [a for _, _, a in pieces]
            continue
        out = Var(Aval(node.outs[0].aval.shape, node.outs[0].aval.dtype))
        values = tuple(maker[a].inputs[1] for _, _, a in pieces)
        found.append(Node(TABLE["concatenate"], values, (out,), {"axis": axis}, where=node.where))
        rest.append(out)
    if not found:
        return []
    total = rest[0]
    for k, a in enumerate(rest[1:], 2):
        out = node.outs[0] if k == len(rest) else Var(node.outs[0].aval)
        found.append(Node(node.primitive, (total, a), (out,), {}, where=node.where))
        total = out
    if len(rest) == 1:
        last = found[-1]
        found[-1] = Node(last.primitive, last.inputs, node.outs, last.params, where=last.where)
    return found


def _added_in_place(node: Node, terms: list[Atom], maker: dict, count: Counter) -> tuple[list[Node], list[Atom]]:
    """(nodes, terms): terms that fill the same slice of zeros, and that only this sum reads, become one term."""
    found: list[Node] = []
    rest: list[Atom] = []
    first: dict[tuple, int] = {}
    for a in terms:
        placed = maker.get(a)
        if count[a] != 1 or a.aval != node.outs[0].aval or not _is_placed_in_zeros(placed, maker):
            rest.append(a)
            continue
        bounds = placed.params["bounds"]
        if first.setdefault(bounds, len(rest)) == len(rest):
            rest.append(a)
            continue
        before, value, out = maker[rest[first[bounds]]], Var(placed.inputs[1].aval), Var(a.aval)
        count[value] = count[out] = 1
        maker[value] = Node(node.primitive, (before.inputs[1], placed.inputs[1]), (value,), {}, where=node.where)
        maker[out] = Node(placed.primitive, (placed.inputs[0], value), (out,), placed.params, where=placed.where)
        found = [n for n in found if n is not before]
        found += [maker[value], maker[out]]
        rest[first[bounds]] = out
    return found, rest


def _is_placed_in_zeros(node: Node | None, maker: dict) -> bool:
    """Does a node put its second argument into zeros?"""
    if node is None or not node.primitive.traits.get("places"):
        return False
    base, value = node.inputs
    number = broadcast_scalar(base, maker)
    return number is not None and number.value == 0 and value.aval.dtype == node.outs[0].aval.dtype


def _part(node: Node | None, maker: dict) -> tuple[int, int, int] | None:
    """(axis, start, stop) if a node puts its second argument into zeros, along one axis; else None."""
    if not _is_placed_in_zeros(node, maker):
        return None
    base = node.inputs[0]
    cut = [(i, *b) for i, (b, n) in enumerate(zip(node.params["bounds"], base.aval.shape, strict=True)) if tuple(b) != (0, n, 1)]
    if len(cut) != 1 or cut[0][3] != 1:
        return None
    return cut[0][:3]


def parts_of_joins(groups: Iterable[Any]) -> dict[Var, tuple[Var, tuple]]:
    """Values of elementwise kernels that are parts of a joined array, or fill a slice of one: where in it they lie, as (array, bounds)."""
    groups = list(groups)
    made = {v for g in groups if g.kind == "map" for n in g.all_nodes() for v in n.outs}
    found: dict[Var, tuple[Var, tuple]] = {}
    for g in groups:
        if g.kind != "general":
            continue
        out = g.head.outs[0]
        for a, bounds in _places(g.head):
            if a in made and a not in found and a.aval.dtype == out.aval.dtype and g.head.inputs.count(a) == 1:
                found[a] = out, bounds
    return found


def _places(node: Node) -> list[tuple[Atom, tuple]]:
    """Arguments of a node that its result contains as they are, and the slice that each fills."""
    out = node.outs[0].aval
    if node.primitive.traits.get("places"):
        bounds = node.params["bounds"]
        return [(node.inputs[1], bounds)] if _leaves_out(out.shape, bounds) and _lies_well(out.shape, bounds) else []
    found, start = [], 0
    if node.primitive.traits.get("joins"):
        axis = node.params["axis"]
        for a in node.inputs:
            stop = start + a.aval.shape[axis]
            found.append((a, tuple((start, stop, 1) if i == axis else (0, n, 1) for i, n in enumerate(a.aval.shape))))
            start = stop
    return found


def _leaves_out(shape: tuple, bounds: tuple) -> bool:
    """May the slice be filled before the rest of the array is?"""
    return tuple((0, n, 1) for n in shape) not in outside_slice(shape, bounds)


def _lies_well(shape: tuple, bounds: tuple) -> bool:
    """Does a slice lie in one piece, or at least in long rows?"""
    extents = [stop - start for start, stop, _ in bounds]
    last = max((i for i, n in enumerate(shape) if extents[i] != n), default=0)
    return math.prod(extents[:last]) <= 1 or math.prod(extents[last:]) >= SHORTEST_ROW
