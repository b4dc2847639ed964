"""Rewrites around loops: what a scan's body need not compute step by step is computed once, before the loop or behind it.

Invariant: passes match on the constructs of control flow, on kinds, lowering records and traits, never on names. May import: L0-L3.
Read next: simplify.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from msgspec import Struct

from ..core.aval import Aval
from ..core.graph import Atom, Graph, Literal, Node, Var
from ..core.primitive import TABLE
from ..primitives.kinds import Contract, Control, Reduce, Strided
from ..transforms.bodies import batched_graph, depends_on, literal_nodes

Pass = Callable[[Graph], Graph]
MOST_BYTES = 1 << 28         # of a value that is kept for all steps where the loop would keep it for one


def is_control(node: Node, construct: str = "") -> bool:
    record = node.primitive.lowering
    return isinstance(record, Control) and construct in ("", record.construct)


def inside(graph: Graph, one_pass: Pass) -> Graph:
    """The pass applied to the graphs that control nodes hold."""
    if not any(map(is_control, graph.nodes)):
        return graph
    nodes = []
    for node in graph.nodes:
        if is_control(node):
            params = {k: one_pass(p) if isinstance(p, Graph) else p for k, p in node.params.items()}
            node = Node(node.primitive, node.inputs, node.outs, params, node.effects, node.where)
        nodes.append(node)
    return Graph(graph.inputs, nodes, graph.outputs, graph.captures)


def around_loops(graph: Graph) -> Graph:
    """Every scan loosened: see Loosened. Bodies have been simplified."""
    if not any(is_control(node, "scan") for node in graph.nodes):
        return graph
    known: dict[Any, Atom] = {}
    nodes: list[Node] = []
    made: dict[Var, Node] = {}
    used = {a for n in graph.nodes for a in n.inputs} | set(graph.outputs)
    for node in graph.nodes:
        node = Node(node.primitive, tuple(known.get(a, a) for a in node.inputs), node.outs, node.params, node.effects, node.where)
        found = [node]
        if is_control(node, "scan") and node.params["length"] and not node.effects:
            found, renamed = Loosened(node, made, used).run()
            known.update(renamed)
        nodes += found
        made.update((v, n) for n in found for v in n.outs)
    return Graph(graph.inputs, nodes, [known.get(a, a) for a in graph.outputs], graph.captures)


def broadcast_scalar(atom: Atom, made: dict[Var, Node]) -> Literal | None:
    """The literal number that fills this array, if that is known."""
    while atom in made and isinstance(made[atom].primitive.lowering, Strided):
        atom = made[atom].inputs[0]
    return atom if isinstance(atom, Literal) and atom.aval.shape == () else None


class Carry(Struct, eq=False):
    """A carried value: what it is inside, at first, at the end of the body, and behind the loop."""

    inner: Var
    initial: Atom
    following: Atom
    outer: Var


class Loosened:
    """A scan taken apart, rewritten, and put together again: `before` and `behind` are the nodes around the loop.

    fixed and sequences map the body's variables to the atoms outside; collected maps the body's values to their sequences outside.
    """

    def __init__(self, node: Node, made: dict[Var, Node], used: set[Any]):
        params, body = node.params, node.params["graph"]
        consts, at = params["consts"], params["consts"] + params["carries"]
        self.node, self.made, self.used, self.length = node, made, used, params["length"]
        self.fixed: dict[Var, Atom] = dict(zip(body.inputs[:consts], node.inputs, strict=False))
        self.sequences: dict[Var, Atom] = dict(zip(body.inputs[at:], node.inputs[at:], strict=True))
        count = params["carries"]
        self.carries = [Carry(*each) for each in zip(body.inputs[consts:at], node.inputs[consts:at], body.outputs[:count],
                                                     node.outs[:count], strict=True)]
        self.nodes = list(body.nodes)
        self.collected: list[tuple[Atom, Var]] = list(zip(body.outputs[count:], node.outs[count:], strict=True))
        self.before: list[Node] = []
        self.behind: list[Node] = []
        self.renamed: dict[Var, Atom] = {}

    def run(self) -> tuple[list[Node], dict[Var, Atom]]:
        """(nodes in the place of the scan, atoms in the place of its outputs that have no node of their own)."""
        for rewrite in (self.trim, self.fill_in, self.lift_fixed, self.sum_behind, self.lift_products, self.sink_products, self.trim):
            rewrite()
        loop = self.rebuilt()
        return [*self.before, *([loop] if loop.outs else []), *self.behind], self.renamed

    def rebuilt(self) -> Node:
        """The scan as it is now; the node that was given, if nothing has changed."""
        before = self.node.params["graph"]
        body = Graph([*self.fixed, *(c.inner for c in self.carries), *self.sequences], self.nodes,
                     [*(c.following for c in self.carries), *(a for a, _ in self.collected)])
        params = {**self.node.params, "graph": body, "consts": len(self.fixed), "carries": len(self.carries)}
        inputs = (*self.fixed.values(), *(c.initial for c in self.carries), *self.sequences.values())
        outs = (*(c.outer for c in self.carries), *(v for _, v in self.collected))
        if (body.inputs, body.nodes, body.outputs) == (before.inputs, before.nodes, before.outputs):
            return self.node
        return Node(self.node.primitive, inputs, outs, params, self.node.effects, self.node.where)

    # -- the body as it is now ----------------------------------------------------------------------------------------

    def readers(self) -> dict[Any, list[Node]]:
        found: dict[Any, list[Node]] = {}
        for node in self.nodes:
            for a in dict.fromkeys(node.inputs):
                found.setdefault(a, []).append(node)
        return found

    def results(self) -> list[Atom]:
        return [*(c.following for c in self.carries), *(a for a, _ in self.collected)]

    def maker(self) -> dict[Any, Node]:
        return {v: n for n in self.nodes for v in n.outs}

    def collect(self, atom: Atom) -> Var:
        """The sequence of a value of the body, outside."""
        for known, outer in self.collected:
            if known is atom:
                return outer
        outer = Var(Aval((self.length, *atom.aval.shape), atom.aval.dtype))
        self.collected.append((atom, outer))
        return outer

    def stacked(self, atom: Atom) -> tuple[Atom, bool]:
        """An atom of the body as it is outside, and whether it has the axis of time there."""
        if isinstance(atom, Literal):
            return atom, False
        if atom in self.fixed:
            return self.fixed[atom], False
        return (self.sequences[atom] if atom in self.sequences else self.collect(atom)), True

    def over_time(self, nodes: list[Node], outputs: list[Atom]) -> tuple[list[Node], list[Atom]]:
        """These nodes of the body for all steps at once, outside: (nodes, the sequences of the outputs)."""
        inner = {v for n in nodes for v in n.outs}
        reads = list(dict.fromkeys(a for n in nodes for a in n.inputs if isinstance(a, Var) and a not in inner))
        sources = [self.stacked(a) for a in reads]
        derived = batched_graph(Graph(reads, nodes, outputs), tuple(timed for _, timed in sources), self.length, (True,) * len(outputs))
        return spliced(Graph(derived.graph.inputs, derived.graph.nodes, derived.graph.outputs), [a for a, _ in sources], self.node.where)

    # -- rewrites -----------------------------------------------------------------------------------------------------

    def trim(self) -> None:
        """Drop carried values that reach nothing that is read, nodes and inputs that nothing reads."""
        read = self.used | {a for n in self.behind for a in n.inputs} | set(self.renamed.values())
        wanted = {c for c in self.carries if c.outer in read}
        while True:
            needed = self._needed([c.following for c in wanted] + [a for a, v in self.collected if v in read])
            more = {c for c in self.carries if c.inner in needed} - wanted
            if not more:
                break
            wanted |= more
        self.carries = [c for c in self.carries if c in wanted]
        self.collected = [(a, v) for a, v in self.collected if v in read]
        self.nodes = [n for n in self.nodes if n.effects or any(v in needed for v in n.outs)]
        read_inside = {a for n in self.nodes for a in n.inputs} | set(self.results())
        self.fixed = {v: a for v, a in self.fixed.items() if v in read_inside}
        self.sequences = {v: a for v, a in self.sequences.items() if v in read_inside}

    def _needed(self, atoms: Iterable[Atom]) -> set[Any]:
        needed = set(atoms)
        for node in reversed(self.nodes):
            if node.effects or any(v in needed for v in node.outs):
                needed.update(node.inputs)
        return needed

    def fill_in(self) -> None:
        """A constant or a sequence that is one number everywhere is that number inside, where rewrites see it."""
        ahead = []
        for group, lead in ((self.fixed, 0), (self.sequences, 1)):
            for v, outer in list(group.items()):
                number = broadcast_scalar(outer, self.made)
                if number is not None:
                    ahead.append(Node(TABLE["broadcast"], (Literal(number.value, number.aval.strong()),), (v,),
                                      {"shape": outer.aval.shape[lead:]}, where=self.node.where))
                    del group[v]
        self.nodes = [*ahead, *self.nodes]

    def lift_fixed(self) -> None:
        """What depends on constants alone is computed before the loop."""
        literal = literal_nodes(Graph((), self.nodes, ()))
        known = depends_on(Graph(list(self.fixed), self.nodes, ()), self.fixed)
        lifted = [n for n in self.nodes if n.outs and n.outs[0] in known and n not in literal]
        if not lifted:
            return
        mapping: dict[Any, Atom] = dict(self.fixed)
        helped = [n for n in literal if any(v in a.inputs for a in lifted for v in n.outs)]
        self.before += _copied([n for n in self.nodes if n in lifted or n in helped], mapping)
        gone = set(lifted)
        self.nodes = [n for n in self.nodes if n not in gone]
        self.fixed |= {v: mapping[v] for n in lifted for v in n.outs}

    def sum_behind(self) -> None:
        """A carried sum whose terms do not depend on it: products become one product over all steps, their sums sums of that."""
        readers, maker = self.readers(), self.maker()
        for carry in list(self.carries):
            terms = self._terms(carry, readers)
            taken = [t for t in terms if self._may_sum(t, maker, readers)]
            if not taken or len(taken) < len(terms):
                continue
            self.carries.remove(carry)
            number = broadcast_scalar(carry.initial, self.made)
            total = None if number is not None and number.value == 0 else carry.initial
            for term in taken:
                summed = self._summed(term, maker)
                total = summed if total is None else self._add(total, summed)
            self.renamed[carry.outer] = total
            gone = {carry.inner}
            self.nodes = [n for n in self.nodes if not (gone & set(n.inputs) and not gone.update(n.outs))]

    def _terms(self, carry: Carry, readers: dict) -> list[Atom]:
        """What a step adds to a carried value that is read for nothing else; none if it is not such a sum."""
        at, terms, results = carry.inner, [], self.results()
        while at is not carry.following or not terms:
            found = readers.get(at, [])
            if len(found) != 1 or not found[0].primitive.traits.get("sums") or at in results or found[0].inputs.count(at) != 1:
                return []
            terms += [a for a in found[0].inputs if a is not at]
            at = found[0].outs[0]
        alone = results.count(at) == 1 and not readers.get(at)
        return terms if alone and all(isinstance(t, Var) and t.aval.shape == carry.inner.aval.shape for t in terms) else []

    def _may_sum(self, term: Atom, maker: dict, readers: dict) -> bool:
        node = maker.get(term)
        if node is None or not isinstance(term, Var):
            return False
        record = node.primitive.lowering
        if isinstance(record, Strided) and len(node.inputs) == 1:
            return self._may_sum(node.inputs[0], maker, readers)
        if not all(isinstance(a, Var) and a not in self.fixed and self._may_keep(a) for a in node.inputs):
            return False
        if isinstance(record, Reduce):
            return record.combine == "add" and term.aval.dtype.kind == "f"
        return "summed" in node.primitive.traits and isinstance(record, Contract)

    def _may_keep(self, atom: Atom) -> bool:
        return self.length * atom.aval.size * atom.aval.dtype.itemsize <= MOST_BYTES

    def _summed(self, term: Var, maker: dict) -> Atom:
        """The sum of a term over all steps, outside."""
        node = maker[term]
        record = node.primitive.lowering
        out = Var(Aval(term.aval.shape, term.aval.dtype))
        if isinstance(record, Strided):
            inputs, params = (self._summed(node.inputs[0], maker),), node.params
        elif isinstance(record, Reduce):
            inputs, params = (self.stacked(node.inputs[0])[0],), {"axes": (0, *(a + 1 for a in node.params["axes"]))}
        else:
            inputs, params = tuple(self.stacked(a)[0] for a in node.inputs), node.primitive.traits["summed"](**node.params)
        self.behind.append(Node(node.primitive, inputs, (out,), params, where=node.where))
        return out

    def _add(self, x: Atom, y: Atom) -> Var:
        out = Var(Aval(y.aval.shape, y.aval.dtype))
        self.behind.append(Node(TABLE["add"], (x, y), (out,), {}, where=self.node.where))
        return out

    def lift_products(self) -> None:
        """Products of the sequences with constants, for all steps at once, before the loop."""
        plain = depends_on(Graph((), self.nodes, ()), [*self.fixed, *self.sequences])
        literal = {v for n in literal_nodes(Graph((), self.nodes, ())) for v in n.outs}
        maker = self.maker()
        for node in list(self.nodes):
            timed = [a in plain and a not in self.fixed for a in node.inputs]
            constant = all(t or a in self.fixed for a, t in zip(node.inputs, timed, strict=True))
            if not (isinstance(node.primitive.lowering, Contract) and timed.count(True) == 1 and constant and self._may_keep(node.outs[0])):
                continue
            needed = self._ancestors(node, maker, literal | plain)
            made, (outer,) = self.over_time(needed, [node.outs[0]])
            self.before += made
            self.nodes.remove(node)
            self.sequences[node.outs[0]] = outer

    def _ancestors(self, node: Node, maker: dict, among: set) -> list[Node]:
        found, pending = {node}, list(node.inputs)
        while pending:
            made = maker.get(pending.pop())
            if made is not None and made not in found and made.outs[0] in among and made.outs[0] not in self.sequences:
                found.add(made)
                pending += made.inputs
        return [n for n in self.nodes if n in found]

    def sink_products(self) -> None:
        """Products with constants that only collected values depend on, and what follows from them, behind the loop."""
        needed = self._needed([c.following for c in self.carries])
        sunk: set[Node] = set()
        for node in self.nodes:
            if any(v in needed for v in node.outs) or node.effects:
                continue
            product = isinstance(node.primitive.lowering, Contract) and any(a in self.fixed for a in node.inputs)
            if (product and all(map(self._may_keep, node.outs))) or any(a in n.outs for n in sunk for a in node.inputs):
                sunk.add(node)
        nodes = [n for n in self.nodes if n in sunk]
        results = {v for n in nodes for v in n.outs}
        wanted = [(a, v) for a, v in self.collected if a in results]
        if not wanted or any(is_control(n) for n in nodes):
            return
        self.collected = [(a, v) for a, v in self.collected if a not in results]
        literal = literal_nodes(Graph((), self.nodes, ()))
        made, outers = self.over_time([n for n in self.nodes if n in sunk or n in literal], [a for a, _ in wanted])
        self.nodes = [n for n in self.nodes if n not in sunk]
        self.behind += made
        self.renamed |= {v: outer for (_, v), outer in zip(wanted, outers, strict=True)}


def spliced(graph: Graph, atoms: list[Atom], where: str) -> tuple[list[Node], list[Atom]]:
    """The nodes of a graph with these atoms as its inputs, and its outputs."""
    mapping: dict[Any, Atom] = dict(zip(graph.inputs, atoms, strict=True))
    nodes = _copied(graph.nodes, mapping)
    return nodes, [mapping.get(a, a) for a in graph.outputs]


def _copied(nodes: Iterable[Node], mapping: dict[Any, Atom]) -> list[Node]:
    """Nodes with fresh outputs, read by way of `mapping`, which learns them."""
    found = []
    for n in nodes:
        outs = tuple(Var(v.aval) for v in n.outs)
        found.append(Node(n.primitive, tuple(mapping.get(a, a) for a in n.inputs), outs, n.params, n.effects, n.where))
        mapping.update(zip(n.outs, outs, strict=True))
    return found


