"""Bodies of control flow: functions traced once into graphs that close over nothing, and the graphs made from them.

Invariant: a body graph takes its constants first (what it captured), then what the construct hands it; its outputs are strong.
May import: L0-L2, calls. Read next: scan.py, branches.py, while_loops.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..core.aval import Aval, aval_of
from ..core.graph import Atom, Graph, Literal, Node, Var
from ..core.interpreter import Tracer, current, interpreting
from ..core.primitive import TABLE, bind
from ..errors import DtypeError, ShapeError, TreeError, explain
from ..primitives.kinds import move_front, zeros_of
from ..tree import Structure, flatten, is_array, paths, unflatten
from .batch import Batch
from .calls import DERIVED_GRAPHS, Derived, derive, input_avals, merge, pick, repeat, trace_at
from .forward import Forward


class Body(NamedTuple):
    """graph(*consts, *inputs) -> outputs, the values of its constants, the structure of its result."""

    graph: Graph
    consts: list[Any]
    structure: Structure


def strong(x: Any) -> Any:
    """x as an array of its own dtype: Python's scalars are weak no longer."""
    aval = aval_of(x)
    return bind(TABLE["convert"], x, dtype=aval.dtype) if aval.weak or not is_array(x) else x


def trace_body(function: Callable, avals: Sequence[Aval]) -> Body:
    """Trace function(cells) -> tree at arrays of these avals; what it captures becomes its first inputs."""
    def strongly(cells: Any) -> Any:
        leaves, structure = flatten(function(cells))
        return unflatten(structure, list(map(strong, leaves)))
    graph, structure = trace_at(strongly, list(avals))
    return Body(captures_first(graph), list(graph.captures), structure)


def captures_first(graph: Graph) -> Graph:
    """The graph with its captures as its first inputs."""
    own = len(graph.inputs) - len(graph.captures)
    return Graph([*graph.inputs[own:], *graph.inputs[:own]], graph.nodes, graph.outputs)


def regroup(derived: Derived, order: Iterable[int]) -> Graph:
    """A derived graph with its captures first, then its inputs in this order."""
    inputs = derived.graph.inputs
    own = len(inputs) - len(derived.captures)
    return Graph([*inputs[own:], *(inputs[i] for i in order)], derived.graph.nodes, derived.graph.outputs)


def shared(*deriveds: Derived) -> tuple[list[Graph], list[Any]]:
    """Derived graphs of the same inputs, rebuilt to take the captures of all of them first: (graphs, captures)."""
    captures = [x for d in deriveds for x in d.captures]
    graphs, before = [], 0
    for d in deriveds:
        own, count = len(d.graph.inputs) - len(d.captures), len(d.captures)
        ahead = [Var(aval_of(x).strong()) for x in captures[:before]]
        behind = [Var(aval_of(x).strong()) for x in captures[before + count:]]
        graphs.append(Graph([*ahead, *d.graph.inputs[own:], *behind, *d.graph.inputs[:own]], d.graph.nodes, d.graph.outputs))
        before += count
    return graphs, captures


def strong_leaves(tree: Any) -> tuple[list[Any], Structure]:
    leaves, structure = flatten(tree)
    return list(map(strong, leaves)), structure


# ------------------------------------------------------------------------------------------------ what a loop carries


def trace_carrying(name: str, function: Callable, carry: Any, avals: Sequence[Aval], part: Callable) -> tuple[Body, list[Any], Structure]:
    """Trace a body whose result carries on: (body, initial leaves, their structure).

    function(carry, cells of `avals`) -> result; part(structure of the result) is the structure of what is carried, which must come first.
    A Python scalar among the initial values takes the dtype that the body gives it.
    """
    given, structure = flatten(carry)
    count = len(given)
    while True:
        weak = [aval_of(x).weak for x in given]
        body = trace_body(lambda cells: function(unflatten(structure, cells[:count]), cells[count:]), [*map(aval_of, given), *avals])
        found = part(body.structure)
        if found != structure:
            raise TreeError(explain(f"{name}: the carried value enters as {structure} and leaves the body as {found}.",
                                    remedy="Return from the body a tree like the one it was given (np.bool_ instead of bool)."))
        after = [a.aval for a in body.graph.outputs[:count]]
        if not any(weak):
            _check_carried(name, carry, [aval_of(x) for x in given], after)
            return body, given, structure
        given = [bind(TABLE["convert"], x, dtype=a.dtype) if w else x for x, a, w in zip(given, after, weak, strict=True)]


def _check_carried(name: str, carry: Any, before: Sequence[Aval], after: Sequence[Aval]) -> None:
    for path, a, b in zip(paths(carry), before, after, strict=True):
        if a == b:
            continue
        what = explain(f"{name}: the carried value {path + ' ' if path else ''}enters as {a} and leaves the body as {b}.",
                       remedy="A carried array keeps its shape: what grows is the second output of scan." if a.shape != b.shape else
                              f"Start with {b.dtype.name}, or convert in the body: .astype(np.{a.dtype.name}).")
        raise (ShapeError if a.shape != b.shape else DtypeError)(what)


# ------------------------------------------------------------------------------------------------ graphs from graphs


@functools.lru_cache(DERIVED_GRAPHS)
def reached(graph: Graph, mask: tuple) -> tuple[bool, ...]:
    """Which outputs the masked inputs may reach by a derivative."""
    active = set(pick(graph.inputs, mask))
    for node in graph.nodes:
        if node.primitive.kind != "constant" and not active.isdisjoint(node.inputs):
            active.update(v for v in node.outs if v.aval.dtype.kind == "f")
    return tuple(a in active and a.aval.dtype.kind == "f" for a in graph.outputs)


def closed_mask(graph: Graph, mask: tuple, at: int, count: int, reach: Callable = reached) -> tuple[bool, ...]:
    """The mask with every carried input set (count of them from `at` on) whose output is reached."""
    while True:
        found = reach(graph, mask)[:count]
        carried = tuple(a or b for a, b in zip(mask[at:at + count], found, strict=True))
        if carried == mask[at:at + count]:
            return mask
        mask = (*mask[:at], *carried, *mask[at + count:])


def dual_outputs(graph: Graph, mask: tuple, args: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Evaluate a graph in forward mode on (inputs, tangents of the masked inputs): values, and tangents or None."""
    count = len(graph.inputs)
    forward = Forward(current())
    pairs = zip(args[:count], merge(mask, args[count:]), strict=True)
    cells = [Tracer(forward, (x, t), aval_of(x), True) for x, t in pairs]
    with interpreting(forward, closing=True):
        outputs = [x.payload if forward.holds(x) else (x, None) for x in graph.evaluate(bind, *cells)]
    return [y for y, _ in outputs], [t for _, t in outputs]


def tangent_avals(graph: Graph, mask: tuple) -> list[Aval]:
    return [a.strong() for a in pick(input_avals(graph), mask)]


@functools.lru_cache(DERIVED_GRAPHS)
def dual_graph(graph: Graph, mask: tuple, full: tuple) -> Derived:
    """(inputs, tangents of the masked) -> (outputs, tangents of those that have one or must: `full`); flags say which have."""
    flags: list = []

    def both(*args: Any) -> list:
        ys, dots = dual_outputs(graph, mask, args)
        dots = [zeros_of(a.aval.strong()) if t is None and must else t for a, t, must in zip(graph.outputs, dots, full, strict=True)]
        flags.extend(t is not None for t in dots)
        return [*map(strong, ys), *(t for t in dots if t is not None)]
    return derive(both, [*input_avals(graph), *tangent_avals(graph, mask)], flags)


@functools.lru_cache(DERIVED_GRAPHS)
def batched_graph(graph: Graph, mask: tuple, size: int, full: tuple) -> Derived:
    """The graph with axis 0 of the masked inputs as batch; flags: the outputs that have it too, those of `full` always."""
    flags: list = []

    def batched(*args: Any) -> list:
        interpreter = Batch(current())
        cells = [interpreter.cell(x, 0) if wanted else x for x, wanted in zip(args, mask, strict=True)]
        with interpreting(interpreter, closing=True):
            pairs = [x.payload if interpreter.holds(x) else (x, None) for x in graph.evaluate(bind, *cells)]
        pairs = [(repeat(y, size), 0) if axis is None and must else (y, axis) for (y, axis), must in zip(pairs, full, strict=True)]
        flags.extend(axis is not None for _, axis in pairs)
        return [strong(y if axis is None else move_front(y, axis)) for y, axis in pairs]
    avals = [Aval((size, *a.shape), a.dtype) if wanted else a for a, wanted in zip(input_avals(graph), mask, strict=True)]
    return derive(batched, avals, flags)


def batch_reach(size: int) -> Callable:
    """Which outputs of a graph have a batch axis when the masked inputs have: for closed_mask."""
    return lambda graph, mask: batched_graph(graph, mask, size, (False,) * len(graph.outputs)).flags


class Split(NamedTuple):
    """A graph cut in two: outer(*fixed inputs) -> values, inner(*fixed inputs, *values, *other inputs) -> outputs."""

    outer: Graph
    inner: Graph


def depends_on(graph: Graph, sources: Iterable[Atom]) -> set[Var]:
    """The variables that are computed from these and from literals alone, at least one of these among them."""
    known: set[Any] = set(sources)
    for node in graph.nodes:
        variables = [a for a in node.inputs if not isinstance(a, Literal)]
        if variables and not node.effects and all(a in known for a in variables):
            known.update(node.outs)
    return known


def split_fixed(graph: Graph, fixed: int) -> Split:
    """Take out of a body what depends on its first `fixed` inputs alone. Not cached: callers join the result with the graph's own
    variables, and graphs that are equal by structure have others."""
    sources = graph.inputs[:fixed]
    known = depends_on(graph, sources)
    literal = literal_nodes(graph)
    outer_nodes = [n for n in graph.nodes if n not in literal and n.outs and n.outs[0] in known]
    inner_nodes = [n for n in graph.nodes if not (n.outs and n.outs[0] in known) or n in literal]
    made = {v for n in outer_nodes for v in n.outs}
    read = [a for n in inner_nodes for a in n.inputs] + list(graph.outputs)
    values = list(dict.fromkeys(a for a in read if a in made))
    return Split(pruned(Graph(sources, outer_nodes, values)),
                 Graph([*sources, *values, *graph.inputs[fixed:]], inner_nodes, graph.outputs))


def literal_nodes(graph: Graph) -> set[Node]:
    """Nodes computed from literals alone: a body keeps them, so that what is known of them stays known."""
    known: set[Any] = set()
    found: set[Node] = set()
    for node in graph.nodes:
        if not node.effects and all(isinstance(a, Literal) or a in known for a in node.inputs):
            known.update(node.outs)
            found.add(node)
    return found


def pruned(graph: Graph) -> Graph:
    """The graph without nodes that nothing needs."""
    needed = {a for a in graph.outputs if isinstance(a, Var)}
    kept = []
    for node in reversed(graph.nodes):
        if node.effects or any(v in needed for v in node.outs):
            kept.append(node)
            needed.update(a for a in node.inputs if isinstance(a, Var))
    return Graph(graph.inputs, reversed(kept), graph.outputs, graph.captures)


def known_again(graph: Graph, atoms: list[Var]) -> tuple[Node, ...]:
    """The nodes that compute these from literals, to be repeated where handing numbers on would cost memory."""
    literal = literal_nodes(graph)
    return pruned(Graph((), [n for n in graph.nodes if n in literal], atoms)).nodes


def as_scalar(x: Any) -> Any:
    """NumPy's scalar in place of an array without axes."""
    return x[()] if isinstance(x, np.ndarray) and x.ndim == 0 else x
