"""Calls: rows that carry a program. `call_row` makes a primitive with a Graph param whose derivatives and batches are again such calls.

Invariant: a derived graph is a function of the graph and a mask alone, is cached on them, and closes over nothing: what its
derivation captured travels as trailing arguments. May import: L0-L2, reverse, forward, batch. Read next: custom.py, checkpoint.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..core.aval import Aval, aval_of
from ..core.graph import Atom, Graph, Literal, Node, Var
from ..core.interpreter import EVALUATION, Tracer, current, interpreting
from ..core.primitive import TABLE, Primitive, bind, register
from ..core.trace import Tracing, effects_of, freeze, trace_graph
from ..primitives.kinds import move_front
from ..tree import Structure, flatten, unflatten
from .batch import Batch
from .forward import Forward
from .reverse import Tape

DERIVED_GRAPHS = 512            # derived graphs that are kept


class Closed(NamedTuple):
    """A function traced at its arguments: graph (without captures), the values of all its inputs, the structure of its result."""

    graph: Graph
    leaves: list[Any]
    structure: Structure


class Derived(NamedTuple):
    """A graph made from another: `captures` are the values of its last inputs, `flags` say which of its outputs are what."""

    graph: Graph
    captures: tuple[Any, ...]
    flags: tuple[Any, ...]


def close(function: Callable, *args: Any) -> Closed:
    """Trace function(*trees) into a Graph whose captured arrays and outer traced values are lifted to inputs."""
    leaves, structure = flatten(args)
    graph, out_structure = trace_at(lambda cells: function(*unflatten(structure, cells)), list(map(aval_of, leaves)))
    return Closed(without_captures(graph), [*map(freeze, leaves), *graph.captures], out_structure)


def numbers_of(args: tuple) -> tuple[list[Any], list[bool], Callable[[Any], tuple]]:
    """The leaves that a call traces, which leaves they are, and how args are rebuilt from them: Python's ints stay as they are."""
    leaves, structure = flatten(args)
    mask = [not isinstance(x, int) for x in leaves]

    def rebuild(cells: Any) -> tuple:
        rest = iter(cells)
        return unflatten(structure, [next(rest) if traced else x for x, traced in zip(leaves, mask, strict=True)])
    return [x for x, traced in zip(leaves, mask, strict=True) if traced], mask, rebuild


def trace_at(function: Callable, avals: list[Aval]) -> tuple[Graph, Structure]:
    """Trace function([cells]) -> tree: the graph with its captures, and the structure of the result."""
    found: list[Structure] = []

    def flat(*cells: Any) -> list:
        outputs, structure = flatten(function(cells))
        found.append(structure)
        return outputs
    return trace_graph(flat, avals), found[0]


def without_captures(graph: Graph) -> Graph:
    return Graph(graph.inputs, graph.nodes, graph.outputs)


def perform(graph: Graph, *args: Any, **params: Any) -> tuple:
    """Evaluate a graph on plain arrays, whatever interpreter is current."""
    with interpreting(EVALUATION):
        return tuple(graph.evaluate(bind, *args))


def at_ground_level(*leaves: Any) -> bool:
    """True if nothing is being transformed: a function may then simply be called."""
    return current() is EVALUATION and not any(isinstance(x, Tracer) for x in leaves)


@functools.lru_cache(DERIVED_GRAPHS)
def silence(graph: Graph) -> Graph:
    """The graph without its taps: what is computed a second time is not collected a second time."""
    if not graph.effects:
        return graph
    atoms: dict = {}
    read = lambda a: atoms.get(a, a)
    nodes = []
    for node in graph.nodes:
        if node.effects and "identity" in node.primitive.traits:
            atoms[node.outs[0]] = read(node.inputs[0])
            continue
        params = {k: silence(p) if isinstance(p, Graph) else p for k, p in node.params.items()}
        nodes.append(Node(node.primitive, tuple(map(read, node.inputs)), node.outs, params, effects_of(node.primitive, params), node.where))
    return Graph(graph.inputs, nodes, map(read, graph.outputs), graph.captures)


# ------------------------------------------------------------------------------------------------ graphs from graphs


def derive(function: Callable, avals: list[Aval], flags: list) -> Derived:
    """Trace a derived program at the ground level: it depends on nothing that surrounds the call."""
    with interpreting(EVALUATION):
        graph = trace_graph(function, avals)
    return Derived(without_captures(graph), graph.captures, tuple(flags))


def input_avals(graph: Graph) -> list[Aval]:
    return [v.aval for v in graph.inputs]


def pick(values: Any, mask: tuple) -> list:
    """The values whose flag is set."""
    return [x for x, wanted in zip(values, mask, strict=True) if wanted]


def merge(mask: tuple, values: Any) -> list:
    """The values at the set flags, None elsewhere."""
    rest = iter(values)
    return [next(rest) if wanted else None for wanted in mask]


@functools.lru_cache(DERIVED_GRAPHS)
def jvp_graph(graph: Graph, mask: tuple) -> Derived:
    """(xs, tangents of the masked xs) -> tangents of the outputs that have one (flags)."""
    avals, flags = input_avals(graph), []

    def tangents(*args: Any) -> list:
        forward = Forward(current())
        pairs = zip(args, merge(mask, args[len(avals):]), strict=False)
        cells = [Tracer(forward, (x, t), aval_of(x), True) for x, t in pairs]
        with interpreting(forward, closing=True):
            outputs = [x.payload[1] if forward.holds(x) else None for x in silence(graph).evaluate(bind, *cells)]
        flags.extend(t is not None for t in outputs)
        return [t for t in outputs if t is not None]
    return derive(tangents, [*avals, *(a.strong() for a in pick(avals, mask))], flags)


def tape_of(graph: Graph, mask: tuple, xs: Any) -> tuple[Tape, list, list]:
    """Evaluate a graph on a tape: (tape, the lifted inputs, the outputs)."""
    tape = Tape(current())
    cells = [tape.lift(x) if wanted else x for x, wanted in zip(xs, mask, strict=True)]
    with interpreting(tape, closing=True):
        outputs = graph.evaluate(bind, *cells)
    return tape, pick(cells, mask), outputs


def pull(tape: Tape, inputs: list, outputs: list, y_bars: Any) -> list:
    """The cotangents of lifted inputs, None where nothing arrives."""
    bars: list = [None] * (tape.count + 1)
    for y, y_bar in zip(outputs, y_bars, strict=True):
        if isinstance(y, Tracer) and y.owner is tape and y.payload[1] and y_bar is not None:
            key = y.payload[1]
            bars[key] = y_bar if bars[key] is None else bars[key] + y_bar
    tape.pull_back(bars)
    return [bars[x.payload[1]] for x in inputs]


def floating(atoms: Any) -> tuple[bool, ...]:
    return tuple(a.aval.dtype.kind == "f" for a in atoms)


@functools.lru_cache(DERIVED_GRAPHS)
def vjp_graph(graph: Graph, mask: tuple) -> Derived:
    """(xs, cotangents of the floating outputs) -> cotangents of the masked xs that have one (flags). Recomputes what it needs."""
    avals, flags = input_avals(graph), []
    wanted_outputs = floating(graph.outputs)

    def cotangents(*args: Any) -> list:
        tape, inputs, outputs = tape_of(silence(graph), mask, args[:len(avals)])
        found = pull(tape, inputs, outputs, merge(wanted_outputs, args[len(avals):]))
        flags.extend(merge(mask, [bar is not None for bar in found]))
        return [bar for bar in found if bar is not None]
    return derive(cotangents, [*avals, *(a.aval.strong() for a in pick(graph.outputs, wanted_outputs))], flags)


@functools.lru_cache(DERIVED_GRAPHS)
def saving_graphs(graph: Graph, mask: tuple) -> tuple[Derived, Derived]:
    """The vjp cut in two: xs -> (outputs, residuals), and (residuals, cotangents) -> cotangents of the masked xs (flags)."""
    with interpreting(EVALUATION):
        tracing = Tracing(EVALUATION)
        inputs = [Var(v.aval) for v in graph.inputs]
        bar_vars = [Var(a.aval.strong()) if a.aval.dtype.kind == "f" else None for a in graph.outputs]
        cell = lambda v: None if v is None else Tracer(tracing, v, v.aval)
        with interpreting(tracing, closing=True):
            tape, lifted, outputs = tape_of(graph, mask, list(map(cell, inputs)))
            cut = len(tracing.nodes)
            ys = [tracing.atom(y.payload[0] if isinstance(y, Tracer) and y.owner is tape else y) for y in outputs]
            found = pull(tape, lifted, outputs, list(map(cell, bar_vars)))
            bars = [tracing.atom(bar) for bar in found if bar is not None]
    captured = [v for v, _ in tracing.captured.values()]
    captures = tuple(x for _, x in tracing.captured.values())
    forward, backward = tracing.nodes[:cut], tracing.nodes[cut:]
    before = {*inputs, *captured}.union(*(node.outs for node in forward))
    read = [a for node in backward for a in node.inputs] + bars
    residuals = list(dict.fromkeys(a for a in read if not isinstance(a, Literal) and a in before))
    flags = tuple(merge(mask, [bar is not None for bar in found]))
    return (Derived(Graph([*inputs, *captured], forward, [*ys, *residuals]), captures, ()),
            Derived(Graph([*residuals, *(v for v in bar_vars if v is not None)], backward, bars), (), flags))


@functools.lru_cache(DERIVED_GRAPHS)
def batch_graph(graph: Graph, mask: tuple, size: int, everything: bool = False) -> Derived:
    """The graph with axis 0 of the masked inputs as batch; flags: the batch axis of each output (everything: all are 0)."""
    flags: list = []

    def batched(*args: Any) -> list:
        interpreter = Batch(current())
        cells = [interpreter.cell(x, 0) if wanted else x for x, wanted in zip(args, mask, strict=True)]
        with interpreting(interpreter, closing=True):
            pairs = [x.payload if interpreter.holds(x) else (x, None) for x in graph.evaluate(bind, *cells)]
        if everything:
            pairs = [(repeat(y, size), 0) if axis is None else (y, axis) for y, axis in pairs]
        flags.extend(None if axis is None else 0 for _, axis in pairs)
        return [y if axis is None else move_front(y, axis) for y, axis in pairs]
    avals = [Aval((size, *a.shape), a.dtype) if wanted else a for a, wanted in zip(input_avals(graph), mask, strict=True)]
    return derive(batched, avals, flags)


def repeat(x: Any, size: int) -> Any:
    """x once for each example of a batch."""
    return bind(TABLE["broadcast"], x, shape=(size, *aval_of(x).shape))


def fronted(args: tuple, axes: tuple) -> tuple[list, tuple, int]:
    """Batch axes moved to the front: (arguments, mask, size of the batch)."""
    mask = tuple(axis is not None for axis in axes)
    args = [move_front(x, axis) if axis is not None else x for x, axis in zip(args, axes, strict=True)]
    return args, mask, next(aval_of(x).shape[0] for x, wanted in zip(args, mask, strict=True) if wanted)


def inline(graph: Graph) -> Graph:
    """Every call replaced by the nodes of its graph, every identity (tap, stop_gradient) by its argument: what is left to compute."""
    nodes: list[Node] = []

    def strong(atom: Atom, where: str) -> Atom:
        if not atom.aval.weak:
            return atom
        if isinstance(atom, Literal):
            return Literal(np.asarray(atom.value, atom.aval.dtype), atom.aval.strong())
        out = Var(atom.aval.strong())
        nodes.append(Node(TABLE["convert"], (atom,), (out,), {"dtype": atom.aval.dtype}, where=where))
        return out

    def visit(inner: Graph, inputs: Any) -> list[Atom]:
        atoms = dict(zip(inner.inputs, inputs, strict=True))
        read = lambda a: a if isinstance(a, Literal) else atoms[a]
        for node in inner.nodes:
            args = tuple(map(read, node.inputs))
            if node.primitive.kind == "call" and node.primitive.lowering is None:
                outs = [strong(a, node.where) for a in visit(node.params["graph"], args)]
            elif "identity" in node.primitive.traits:
                outs = args[:1]
            else:
                outs = tuple(Var(v.aval) for v in node.outs)
                params = {k: inline(p) if isinstance(p, Graph) else p for k, p in node.params.items()}
                nodes.append(Node(node.primitive, args, outs, params, node.effects, node.where))
            atoms.update(zip(node.outs, outs, strict=True))
        return list(map(read, inner.outputs))
    outputs = visit(graph, graph.inputs)
    return Graph(graph.inputs, nodes, outputs, graph.captures)


# ------------------------------------------------------------------------------------------------ the row


def call_row(name: str, run: Callable | None = None, *, saves: bool = False, wait: Callable | None = None, doc: str = "") -> Primitive:
    """A row that performs its param `graph`; every other param is static and handed on to the calls derived from it.

    run(graph, *arrays, **params) performs it at the ground level (default: node by node). saves: reverse mode keeps residuals of
    the forward pass instead of recomputing them. wait(primals, y_bars) -> primals that are not ready before y_bars are, so that a compiler
    does not compute early, and keep, what is to be computed again. Its derivatives and batches are the same row with a derived graph.
    """
    run = run or perform

    def call(derived: Derived, args: list, params: dict) -> tuple:
        return bind(row, *args, *derived.captures, graph=derived.graph, **params)

    def jvp(primals: tuple, tangents: tuple, ys: tuple, *, graph: Graph, **params: Any) -> tuple | None:
        derived = jvp_graph(graph, tuple(t is not None for t in tangents))
        if not any(derived.flags):
            return None
        return tuple(merge(derived.flags, call(derived, [*primals, *(t for t in tangents if t is not None)], params)))

    def vjp(primals: tuple, ys: tuple, y_bars: tuple, active: tuple, *, graph: Graph, residuals: tuple | None = None,
            **params: Any) -> list:
        mask, bars = tuple(map(bool, active)), pick(y_bars, floating(graph.outputs))
        if wait and bars:
            primals = wait(primals, bars)
        derived = vjp_graph(graph, mask) if residuals is None else saving_graphs(graph, mask)[1]
        if not any(derived.flags):
            return [None] * len(primals)
        return merge(derived.flags, call(derived, [*(primals if residuals is None else residuals), *bars], params))

    def augment(primals: tuple, active: tuple, params: dict) -> tuple:
        rest = {name: p for name, p in params.items() if name != "graph"}
        found = call(saving_graphs(params["graph"], active)[0], list(primals), rest)
        count = len(params["graph"].outputs)
        return found[:count], {**params, "residuals": found[count:]}

    def batch(args: tuple, axes: tuple, *, graph: Graph, **params: Any) -> tuple:
        args, mask, size = fronted(args, axes)
        derived = batch_graph(graph, mask, size)
        return call(derived, args, params), derived.flags

    row = register(Primitive(
        name, "call", lambda *args, graph, **params: tuple(run(graph, *args, **params)),
        lambda *avals, graph, **params: tuple(a.aval.strong() for a in graph.outputs), jvp, vjp, batch,
        samples=lambda rng: [], multiple=True, doc=doc, augment=augment if saves else None,
        traits={"transparent": True}))
    return row
