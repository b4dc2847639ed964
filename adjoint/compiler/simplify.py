"""Rewrites of the graph, each a named pass Graph -> Graph that leaves every value as it was: identities, cse, finite scale, look-ups, dce.

Invariant: passes match on rows' traits and lowering records, never on names, and use only what they can prove. May import: L0-L3,
views. Read next: fuse.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ..core.aval import Aval
from ..core.graph import Atom, Graph, Literal, Node, Var, param_key
from ..core.primitive import TABLE
from ..core.trace import trace_graph
from ..dtypes import INT64
from ..primitives.kinds import Contract, Scalar, Strided, full
from .hoist import around_loops, inside, is_control
from .joins import join_parts
from .layout import sink
from .masks import early_masks
from .views import row_major

Rewrite = Callable[[Node, Callable[[Any], Node | None]], Atom | Node | None]


def simplify(graph: Graph, done: dict[int, Graph] | None = None) -> Graph:
    """All passes, in order; bodies of loops and branches first."""
    if any(map(is_control, graph.nodes)):
        known = {} if done is None else done            # bodies that are as simple as they get, so that depth does not cost

        def once(body: Graph) -> Graph:
            if id(body) not in known:
                body = simplify(body, known)
                known[id(body)] = body
            return body
        graph = inside(around_loops(drop_unused(inside(graph, once))), once)
    for one_pass in (identities, share, fold_scalars, plain_scale, identities, early_masks, sink, share, drop_unused, join_parts, look_ups,
                     swap_products, share, drop_unused):
        graph = one_pass(graph)
    return graph


def rebuild(graph: Graph, step: Callable[[Node, dict], list[Node] | None]) -> Graph:
    """Walk the nodes with a substitution; step may return replacement nodes, or None after having put the outs into the substitution."""
    known: dict[Any, Atom] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        node = substitute(node, known)
        nodes += step(node, known) or []
    return Graph(graph.inputs, nodes, [known.get(a, a) for a in graph.outputs], graph.captures)


def substitute(node: Node, known: dict) -> Node:
    if not any(a in known for a in node.inputs):
        return node
    return Node(node.primitive, tuple(known.get(a, a) for a in node.inputs), node.outs, node.params, node.effects, node.where)


# ------------------------------------------------------------------------------------------------ passes


def identities(graph: Graph) -> Graph:
    """Drop what changes nothing: x * 1, x / 1, -(-x), a view or conversion to what x already is, a view of a view of the same kind."""
    made: dict[Var, Node] = {}

    def step(node: Node, known: dict) -> list[Node] | None:
        same = _identity(node, made)
        if same is not None:
            known[node.outs[0]] = same
            return None
        made[node.outs[0]] = node
        return [node]
    return rebuild(graph, step)


def _identity(node: Node, made: dict) -> Atom | None:
    """The input that this node returns as it is, if it does: by its view rule, its traits `neutral` and `involution`, or its dtype."""
    if len(node.outs) != 1 or not node.inputs or node.effects:
        return None
    row, out = node.primitive, node.outs[0].aval
    unchanged = [isinstance(a, Var) and a.aval.shape == out.shape and a.aval.dtype == out.dtype for a in node.inputs]
    if isinstance(row.lowering, Strided) and len(node.inputs) == 1 and unchanged[0]:     # with two inputs it waits for the second
        plain = (0, out.shape, row_major(out.shape))
        return node.inputs[0] if row.lowering.view(*plain, **node.params) == plain else None
    if row.traits.get("converts") and unchanged[0]:
        return node.inputs[0]
    for k, number in enumerate(row.traits.get("neutral", ())):
        if number is not None and _is(node.inputs[k], number, made) and unchanged[1 - k]:
            return node.inputs[1 - k]
    before = made.get(node.inputs[0])
    if row.traits.get("involution") and before is not None and before.primitive is row:
        return before.inputs[0]
    return None


def _is(atom: Atom, number: float, made: dict) -> bool:
    """True for the literal of this number, and for views that repeat it."""
    while atom in made and isinstance(made[atom].primitive.lowering, Strided):
        atom = made[atom].inputs[0]
    return isinstance(atom, Literal) and atom.aval.shape == () and atom.value == number


def share(graph: Graph) -> Graph:
    """Common subexpressions: equal nodes without effects are computed once."""
    seen: dict[tuple, Node] = {}

    def step(node: Node, known: dict) -> list[Node] | None:
        if node.effects:
            return [node]
        key = (node.primitive.name, tuple(a.key() if isinstance(a, Literal) else id(a) for a in node.inputs), param_key(node.params))
        first = seen.setdefault(key, node)
        if first is node:
            return [node]
        known.update(zip(node.outs, first.outs, strict=True))
        return None
    return rebuild(graph, step)


def plain_scale(graph: Graph) -> Graph:
    """A row with the trait `plain` (scale: t * p with 0 times infinity 0) becomes that row where the inputs it names are proven finite:
    a literal, a selection among finite values, a row with the trait `finite`."""
    finite: set[Any] = set()

    def proven(a: Atom) -> bool:
        return bool(np.all(np.isfinite(a.value))) if isinstance(a, Literal) else a in finite or a.aval.dtype.kind in "biu"

    def step(node: Node, known: dict) -> list[Node]:
        p = node.primitive
        if p.traits.get("finite") or (_keeps_finite(node) and all(map(proven, _numbers(node)))):
            finite.update(node.outs)
        plain, finite_inputs = p.traits.get("plain", (None, ()))
        if plain and all(proven(node.inputs[i]) for i in finite_inputs):
            return [Node(TABLE[plain], node.inputs, node.outs, {}, node.effects, node.where)]
        return [node]
    return rebuild(graph, step)


def fold_scalars(graph: Graph) -> Graph:
    """Elementwise nodes of literal scalars are computed now, by the row's NumPy body."""
    def step(node: Node, known: dict) -> list[Node] | None:
        scalars = all(isinstance(a, Literal) and a.aval.shape == () for a in node.inputs)
        if not (scalars and node.inputs and isinstance(node.primitive.lowering, Scalar)) or node.effects:
            return [node]
        out = node.outs[0]
        with np.errstate(all="ignore"):
            value = node.primitive.body(*[a.value for a in node.inputs], **node.params)
        known[out] = Literal(np.asarray(value, out.aval.dtype), out.aval)
        return None
    return rebuild(graph, step)


def look_ups(graph: Graph) -> Graph:
    """A product with rows of an identity matrix (a row with the trait `selects_rows`: labels -> [..., classes]) looks rows up, and its
    transpose adds rows where they belong: no product is left. Zeros of the identity count as such beside infinities."""
    chosen: dict[Any, Node] = {}

    def step(node: Node, known: dict) -> list[Node] | None:
        if node.primitive.traits.get("selects_rows"):
            chosen[node.outs[0]] = node
        side = next((i for i, a in enumerate(node.inputs) if a in chosen), None)
        if side is None or not isinstance(node.primitive.lowering, Contract):
            return [node]
        *inputs, out = node.primitive.lowering.spec(*[a.aval for a in node.inputs], **node.params)
        labels, other = chosen[node.inputs[side]].inputs[0], node.inputs[1 - side]
        function = _selection(inputs[side], inputs[1 - side], out, node.inputs[side].aval.shape[-1])
        if function is None or not isinstance(labels, Var) or not isinstance(other, Var) or other.aval.dtype != node.outs[0].aval.dtype:
            return [node]
        small = trace_graph(lambda *args: [function(*args)], [labels.aval, other.aval])
        inside: dict[Any, Atom] = dict(zip(small.inputs, (labels, other), strict=True))
        known[node.outs[0]] = inside.get(small.outputs[0], small.outputs[0])
        return [replace(substitute(n, inside), where=node.where) for n in small.nodes]
    return rebuild(graph, step)


def _selection(hot: str, other: str, out: str, classes: int) -> Callable | None:
    """What a product of an identity's rows [*labels, class] is: function(labels, other), or None if it is something else.

    The class is contracted: rows of other are read. The labels are contracted: rows of other are added where their label says.
    """
    labels, label = hot[:-1], hot[-1]
    reads = label in other and label not in out and not set(labels) & set(other)
    adds = label in out and label not in other and set(labels) <= set(other) and not set(labels) & set(out)
    rest = "".join(c for c in other if c not in hot)
    if not reads and not adds:
        return None

    def function(x: Any, w: Any) -> Any:
        x = TABLE["convert"](x, dtype=INT64)
        x = TABLE["where"](TABLE["less"](x, 0), classes, x)             # a label does not count from the end
        w = TABLE["permute"](w, axes=tuple(other.index(c) for c in (label if reads else labels) + rest))
        empty = Aval((classes, *w.aval.shape[len(labels):]), w.aval.dtype)
        y = TABLE["gather"](w, x) if reads else TABLE["scatter_add"](full(0, empty), w, x)
        return TABLE["permute"](y, axes=tuple(((labels if reads else label) + rest).index(c) for c in out))
    return function


def swap_products(graph: Graph) -> Graph:
    """A product that is only read with its two sides exchanged is computed so: the result then lies as its reader wants it."""
    readers: dict[Any, list[Node]] = defaultdict(list)
    for node in graph.nodes:
        for a in dict.fromkeys(node.inputs):
            readers[a].append(node)
    outputs = set(graph.outputs)

    def step(node: Node, known: dict) -> list[Node] | None:
        swapped, out = node.primitive.traits.get("swapped"), node.outs[0]
        if swapped is None or out in outputs or len(readers[out]) != 1:
            return [node]
        reader = readers[out][0]
        params, order = swapped(*[a.aval for a in node.inputs], **node.params)
        shape = tuple(out.aval.shape[i] for i in order)
        if not isinstance(reader.primitive.lowering, Strided) or shape != reader.outs[0].aval.shape or order == tuple(range(len(order))):
            return [node]
        plain = (0, out.aval.shape, row_major(out.aval.shape))
        wanted = (0, shape, tuple(plain[2][i] for i in order))
        if reader.primitive.lowering.view(*plain, **reader.params) != wanted:
            return [node]
        moved.add(reader)
        return [Node(node.primitive, node.inputs[::-1], reader.outs, params, node.effects, node.where)]
    moved: set[Node] = set()
    rebuilt = rebuild(graph, step)
    gone = {v for n in moved for v in n.outs}
    kept = [n for n in rebuilt.nodes if not (isinstance(n.primitive.lowering, Strided) and n.outs[0] in gone)]
    return Graph(rebuilt.inputs, kept, rebuilt.outputs, rebuilt.captures)


def _numbers(node: Node) -> tuple[Atom, ...]:
    """The inputs whose numbers reach the output."""
    return tuple(a for a in node.inputs if a.aval.dtype == node.outs[0].aval.dtype or a.aval.dtype.kind == "f")


def _keeps_finite(node: Node) -> bool:
    """True if finite inputs give finite outputs: selections and views do, and conversions that do not narrow."""
    if node.primitive.traits.get("converts"):
        return node.inputs[0].aval.dtype.kind != "f" or node.inputs[0].aval.dtype.itemsize <= node.outs[0].aval.dtype.itemsize
    return isinstance(node.primitive.lowering, Strided) or node.primitive.traits.get("selects", False)


def drop_unused(graph: Graph) -> Graph:
    """Nodes that no output and no effect needs."""
    needed = {a for a in graph.outputs if isinstance(a, Var)}
    kept = []
    for node in reversed(graph.nodes):
        if node.effects - {"tap"} or any(v in needed for v in node.outs):
            kept.append(node)
            needed.update(a for a in node.inputs if isinstance(a, Var))
    return Graph(graph.inputs, reversed(kept), graph.outputs, graph.captures)


