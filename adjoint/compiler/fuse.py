"""Fusion: which nodes become one kernel. Every node gets a level; elementwise nodes of one level and shape run in one loop nest.

Invariant: a group reads only what groups of lower levels, or its own nodes, have made. Contractions take the elementwise group behind
them as their epilogue; reductions take the elementwise nodes that only they read. May import: L0-L3, loops, views. Read next: schedule.py.
"""

from __future__ import annotations

from collections import defaultdict

from msgspec import Struct, field

from ..core.graph import Graph, Node, Var
from ..errors import NoLowering, explain
from ..primitives.kinds import Contract, Control, Convolve, General, Reduce, Scalar, Strided

PRODUCTS = ("contract", "convolve")      # kinds of kernels that take an epilogue


class Group(Struct, eq=False):
    """Nodes of one kernel. kind: "map" (elementwise), "reduce", "contract", "convolve", "general", "control", "view" (no kernel)."""

    kind: str
    nodes: list[Node]
    level: int
    inline: list[Node] = field(default_factory=list)        # elementwise nodes computed inside a reduction
    epilogue: list[Node] = field(default_factory=list)      # elementwise nodes computed on a contraction's result
    late: bool = False                                      # runs after the commit point

    @property
    def head(self) -> Node:
        return self.nodes[0]

    def all_nodes(self) -> list[Node]:
        return [*self.nodes, *self.inline, *self.epilogue]


class Uses:
    """Who reads and who makes each variable of a graph."""

    def __init__(self, graph: Graph):
        self.readers: dict[Var, list[Node]] = defaultdict(list)
        self.maker: dict[Var, Node] = {}
        self.outputs = {a for a in graph.outputs if isinstance(a, Var)}
        for node in graph.nodes:
            for v in node.outs:
                self.maker[v] = node
            for a in dict.fromkeys(node.inputs):
                if isinstance(a, Var):
                    self.readers[a].append(node)


def kind_of(node: Node) -> str:
    """The kind of kernel a node's lowering record asks for, or NoLowering."""
    record = node.primitive.lowering
    for cls, kind in ((Scalar, "map"), (Strided, "view"), (Reduce, "reduce"), (Contract, "contract"), (Convolve, "convolve"),
                      (General, "general"), (Control, "control")):
        if isinstance(record, cls):
            return kind
    raise NoLowering(explain(f"{node.primitive.name} has no native code yet.", where=node.where or None,
                             remedy="Leave this operation outside of compile, or compute the rest of the function compiled."))


def fuse(graph: Graph, late: frozenset[Var] = frozenset()) -> list[Group]:
    """The groups of a graph in an order of execution. `late`: values that are written after the commit point."""
    uses = Uses(graph)
    kinds = {node: kind_of(node) for node in graph.nodes}
    inlined = _inline_into_reductions(graph, uses, kinds)
    tail = _late_nodes(graph, uses, late)
    levels = _levels(graph, kinds, inlined)
    _delay(graph, uses, kinds, levels, tail)
    groups: list[Group] = []
    open_maps: dict[tuple, Group] = {}
    for node in graph.nodes:
        if node not in levels:
            continue
        if kinds[node] != "map":
            groups.append(Group(kinds[node], [node], levels[node], inlined.get(node, [])))
            continue
        key = (levels[node], node.outs[0].aval.shape, node in tail)
        if key not in open_maps:
            open_maps[key] = Group("map", [], levels[node], late=node in tail)
            groups.append(open_maps[key])
        open_maps[key].nodes.append(node)
    return _attach_epilogues(sorted(groups, key=lambda g: (g.level, g.kind in PRODUCTS)), uses, tail)


def results_soon(groups: list[Group]) -> list[Group]:
    """The same groups, but those between a product and a result follow what they read at once, so that the result is finished early."""
    maker = {v: g for g in groups for n in g.all_nodes() for v in n.outs}
    reads = {g: {maker[a] for n in g.all_nodes() for a in n.inputs if isinstance(a, Var) and a in maker} - {g} for g in groups}
    onward: set[Group] = set()                  # groups that something else than a result waits for
    for group in reversed(groups):
        if group.kind in PRODUCTS or group.late or group in onward:
            onward |= reads[group]
    waiting = [g for g in groups if not (g.kind in PRODUCTS or g.late or g in onward)]
    order: list[Group] = []
    done: set[Group] = set()
    for group in [g for g in groups if g not in set(waiting)]:
        order.append(group)
        done.add(group)
        for each in list(waiting):
            if reads[each] <= done:
                order.append(each)
                done.add(each)
                waiting.remove(each)
    return order + waiting


def _levels(graph: Graph, kinds: dict[Node, str], inlined: dict[Node, list[Node]]) -> dict[Node, int]:
    """The earliest level of every node that has a kernel of its own (nodes inlined into reductions have none)."""
    inside = {n for nodes in inlined.values() for n in nodes}
    levels: dict[Node, int] = {}
    maker: dict[Var, Node] = {}
    for node in graph.nodes:
        if node in inside:
            continue
        level = 0
        for v in _reads(node, inlined.get(node, [])):
            level = max(level, levels[maker[v]] + (not _shares_loops(kinds, maker[v], node)) if v in maker else 1)
        levels[node] = level
        maker.update((v, node) for v in node.outs)
    return levels


def _shares_loops(kinds: dict[Node, str], first: Node, second: Node) -> bool:
    return kinds[first] == kinds[second] == "map" and first.outs[0].aval.shape == second.outs[0].aval.shape


def _delay(graph: Graph, uses: Uses, kinds: dict[Node, str], levels: dict[Node, int], tail: set[Node]) -> None:
    """Compute elementwise nodes where they are read, if all their readers share one kernel with them: nothing is stored between."""
    for node in reversed(graph.nodes):
        readers = uses.readers[node.outs[0]]
        if kinds[node] != "map" or node not in levels or not readers or any(r not in levels for r in readers):
            continue
        if (node.outs[0] in uses.outputs and node not in tail) or any((r in tail) != (node in tail) for r in readers):
            continue
        if all(_shares_loops(kinds, node, r) for r in readers) and len({levels[r] for r in readers}) == 1:
            levels[node] = levels[readers[0]]


def _reads(node: Node, inline: list[Node]) -> list[Var]:
    made = {v for n in inline for v in n.outs}
    return [a for n in (node, *inline) for a in n.inputs if isinstance(a, Var) and a not in made]


def _inline_into_reductions(graph: Graph, uses: Uses, kinds: dict[Node, str]) -> dict[Node, list[Node]]:
    """For every reduction, the elementwise nodes of its operand's shape that nothing else reads, in order."""
    inlined: dict[Node, list[Node]] = {}
    for node in graph.nodes:
        if kinds[node] != "reduce":
            continue
        region: set[Node] = set()
        shape, pending = node.inputs[0].aval.shape, [node.inputs[0]]
        while pending:
            v = pending.pop()
            maker = uses.maker.get(v) if isinstance(v, Var) else None
            if maker is None or kinds[maker] != "map" or v.aval.shape != shape or v in uses.outputs or maker.effects:
                continue
            if all(r is node or r in region for r in uses.readers[v]):
                region.add(maker)
                pending += maker.inputs
        inlined[node] = [n for n in graph.nodes if n in region]
    return inlined


def _late_nodes(graph: Graph, uses: Uses, late: frozenset[Var]) -> set[Node]:
    """Elementwise nodes all of whose results are late values, or feed only such nodes: they may run after the commit point."""
    found: set[Node] = set()
    for node in reversed(graph.nodes):
        if not isinstance(node.primitive.lowering, Scalar) or node.effects:
            continue
        if all((v in late or v not in uses.outputs) and all(r in found for r in uses.readers[v]) for v in node.outs):
            found.add(node)
    return found


def _attach_epilogues(groups: list[Group], uses: Uses, tail: set[Node]) -> list[Group]:
    """Give each contraction the map group one level above it that reads its result and nothing made as late as it."""
    place = {g: i for i, g in enumerate(groups)}
    made_in = {v: g for g in groups for n in g.all_nodes() for v in n.outs}
    gone: set[Group] = set()
    for group in groups:
        if group.kind not in PRODUCTS:
            continue
        result = group.head.outs[0]
        for reader in dict.fromkeys(made_in.get(r.outs[0]) for r in uses.readers[result]):
            if reader is None or reader.kind != "map" or reader in gone or tail & set(reader.nodes):
                continue
            if reader.head.outs[0].aval.shape != result.aval.shape or result.aval.dtype.kind != "f":
                continue
            own = set(reader.nodes)
            sources = {made_in[a] for n in own for a in n.inputs if isinstance(a, Var) and a in made_in} - {reader, group}
            if all(place[s] < place[group] for s in sources):
                group.epilogue, _ = reader.nodes, gone.add(reader)
                break
    return [g for g in groups if g not in gone]

