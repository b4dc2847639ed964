"""Masks of chosen elements: what multiplies a cotangent by 0 or 1 is done where there are few elements, before they are put back.

where(m(r), put(t, places), 0) with (y, places) = choose(r) is put(where(m(y), t, 0), places): y is r at the places, and elsewhere put gives
0 anyway. So a ReLU in front of max pooling is not read again in the backward pass. Rows say that they choose and put back by the traits
`chooses` and `puts`; views may lie between. Invariant: no value changes. May import: L0-L3, views. Read next: layout.py.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

from ..core.aval import Aval
from ..core.graph import Graph, Literal, Node, Var
from ..core.primitive import TABLE
from ..primitives.kinds import Scalar, Strided
from .views import row_major


class _Found(NamedTuple):
    """where(mask, views(put(t, places)), 0), and the node that chose the places."""

    mask: Node
    put: Node
    views: list[Node]
    chosen: Node
    masked: Var                                  # what the mask reads and the windows are taken of


def early_masks(graph: Graph) -> Graph:
    """Every such mask moved in front of its `put`."""
    if not any("puts" in node.primitive.traits for node in graph.nodes):
        return graph
    made: dict[Var, Node] = {}
    readers = Counter(a for node in graph.nodes for a in dict.fromkeys(node.inputs)) + Counter(dict.fromkeys(graph.outputs, 2))
    known: dict[Any, Any] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        node = Node(node.primitive, tuple(known.get(a, a) for a in node.inputs), node.outs, node.params, node.effects, node.where)
        found = _find(node, made, readers)
        if found is None:
            nodes.append(node)
            made.update((v, node) for v in node.outs)
        else:
            more = _moved(node, found)
            nodes += more
            made.update((v, each) for each in more for v in each.outs)
            known[node.outs[0]] = more[-1].outs[0]
    return Graph(graph.inputs, nodes, [known.get(a, a) for a in graph.outputs], graph.captures)


def _find(node: Node, made: dict[Var, Node], readers: Counter) -> _Found | None:
    if node.primitive is not TABLE["where"] or not isinstance(node.inputs[2], Literal) or node.inputs[2].aval.shape or node.inputs[2].value:
        return None
    condition, bar, _ = node.inputs
    views, mask = [], made.get(condition)
    while isinstance(bar, Var) and bar in made and isinstance(made[bar].primitive.lowering, Strided) and readers[bar] == 1:
        views.insert(0, made[bar])
        bar, = made[bar].inputs
    put = made.get(bar)
    if put is None or "puts" not in put.primitive.traits or readers[bar] != 1 or mask is None or mask.effects:
        return None
    chosen, large = made.get(put.inputs[1]), [a for a in mask.inputs if isinstance(a, Var)]
    pointwise = isinstance(mask.primitive.lowering, Scalar) and len(large) == 1 and all(not a.aval.shape or a in large for a in mask.inputs)
    if not pointwise or chosen is None or "chooses" not in chosen.primitive.traits or chosen.params != put.params:
        return None
    found = _Found(mask, put, views, chosen, large[0])
    return found if large[0].aval.shape == node.outs[0].aval.shape and _same_place(found, made) else None


def _same_place(found: _Found, made: dict[Var, Node]) -> bool:
    """Whether the views before the choice and those behind the put cancel: element by element the mask is of what was chosen from."""
    a, before = found.chosen.inputs[0], []
    while a is not found.masked:
        node = made.get(a) if isinstance(a, Var) else None
        if node is None or not isinstance(node.primitive.lowering, Strided) or len(node.inputs) != 1:
            return False
        before.insert(0, node)
        a, = node.inputs
    plain = (0, found.masked.aval.shape, row_major(found.masked.aval.shape))
    place: tuple | None = plain
    for node in (*before, *found.views):
        place = node.primitive.lowering.view(*place, **node.params)
        if place is None:
            return False
    return tuple(map(_whole, zip(*place[1:], strict=True))) == tuple(map(_whole, zip(*plain[1:], strict=True))) and place[0] == 0


def _whole(axis: tuple[int, int]) -> tuple[int, int]:
    """(size, stride), the stride of a single element being nothing."""
    return axis if axis[0] != 1 else (1, 0)


def _moved(node: Node, found: _Found) -> list[Node]:
    """The mask of the chosen elements, the masked cotangent, put back, through the same views."""
    t, places = found.put.inputs
    y = found.chosen.outs[0]
    mask = Node(found.mask.primitive, tuple(y if a is found.masked else a for a in found.mask.inputs),
                (Var(Aval(y.aval.shape, found.mask.outs[0].aval.dtype)),), found.mask.params, where=found.mask.where)
    masked = Node(node.primitive, (mask.outs[0], t, node.inputs[2]), (Var(t.aval.strong()),), node.params, where=node.where)
    nodes = [mask, masked, _again(found.put, (masked.outs[0], places))]
    for view in found.views:
        nodes.append(_again(view, (nodes[-1].outs[0],)))
    return nodes


def _again(node: Node, inputs: tuple) -> Node:
    return Node(node.primitive, inputs, tuple(Var(v.aval) for v in node.outs), node.params, where=node.where)
