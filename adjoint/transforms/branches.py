"""cond: one of two branches, chosen by a value that is known when the program runs: a row that holds both branches' Graphs.

Invariant: arguments are (predicate, operands), both graphs take the same operands and give the same avals; a derivative runs the branch
that was taken. May import: L0-L2, bodies. Read next: scan.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..core.aval import Aval, aval_of
from ..core.graph import Graph, Literal, Node, Var
from ..core.primitive import TABLE, Primitive, bind, register
from ..core.trace import freeze
from ..dtypes import BOOL
from ..errors import DtypeError, ShapeError, TreeError, explain
from ..primitives.arithmetic import where
from ..primitives.kinds import Control, move_front, zeros_of
from ..tree import flatten, unflatten
from .bodies import as_scalar, batched_graph, dual_graph, known_again, literal_nodes, shared, strong
from .calls import DERIVED_GRAPHS, Derived, derive, floating, input_avals, merge, perform, pick, saving_graphs, silence, trace_at


def _run(predicate: Any, *args: Any, on_true: Graph, on_false: Graph) -> tuple:
    return tuple(map(as_scalar, perform(on_true if predicate else on_false, *args)))


def _shape(predicate: Aval, *avals: Aval, on_true: Graph, on_false: Graph) -> tuple[Aval, ...]:
    return tuple(a.aval.strong() for a in on_true.outputs)


def _take(predicate: Any, deriveds: Sequence[Derived], args: Sequence[Any]) -> tuple:
    """The cond of two derived graphs of the same arguments."""
    graphs, captures = shared(*deriveds)
    return bind(COND, predicate, *captures, *args, on_true=graphs[0], on_false=graphs[1])


def _either(*flags: tuple) -> tuple[bool, ...]:
    return tuple(map(any, zip(*flags, strict=True)))


# ------------------------------------------------------------------------------------------------ derivatives


def _dual(primals: tuple, tangents: tuple, params: dict) -> tuple[tuple, tuple]:
    graphs, mask = (params["on_true"], params["on_false"]), tuple(t is not None for t in tangents[1:])
    least = (False,) * len(graphs[0].outputs)
    full = _either(*(dual_graph(g, mask, least).flags for g in graphs))
    found = _take(primals[0], [dual_graph(g, mask, full) for g in graphs], [*primals[1:], *pick(tangents[1:], mask)])
    return tuple(found[:len(full)]), tuple(merge(full, found[len(full):]))


def _jvp(primals: tuple, tangents: tuple, ys: tuple, *, on_true: Graph, on_false: Graph) -> tuple:
    return _dual(primals, tangents, {"on_true": silence(on_true), "on_false": silence(on_false)})[1]


class Saving(NamedTuple):
    """Both branches cut for reverse mode. aheads: args -> (outputs, residuals of either branch, zeros for those that the branch has
    not); behinds: (args, residuals, cotangents of floating outputs) -> cotangents of the masked inputs that have one in either (flags)."""

    aheads: tuple[Derived, Derived]
    behinds: tuple[Derived, Derived]
    flags: tuple[bool, ...]


@functools.lru_cache(DERIVED_GRAPHS)
def _saving(on_true: Graph, on_false: Graph, mask: tuple) -> Saving:
    cuts = [saving_graphs(g, mask) for g in (on_true, on_false)]
    kept = [_kept(ahead, len(on_true.outputs)) for ahead, _ in cuts]
    slots, numbers = _slots(kept)
    flags = _either(*(tuple(map(bool, behind.flags)) for _, behind in cuts))
    aheads = tuple(_ahead(ahead, len(on_true.outputs), atoms, at, slots)
                   for (ahead, _), atoms, at in zip(cuts, kept, numbers, strict=True))
    behinds = tuple(_behind(cut, len(on_true.outputs), atoms, at, slots, flags) for cut, atoms, at in zip(cuts, kept, numbers, strict=True))
    return Saving(aheads, behinds, flags)


def _kept(ahead: Derived, count: int) -> list[Var]:
    """The residuals that have to be handed on: neither arguments nor numbers that are known."""
    literal = {v for n in literal_nodes(ahead.graph) for v in n.outs}
    return [r for r in ahead.graph.outputs[count:] if r not in ahead.graph.inputs and r not in literal]


def _slots(kept: list[list[Var]]) -> tuple[list[Aval], list[list[int]]]:
    """Places for the residuals of either branch: those of equal avals share one."""
    slots: list[Aval] = []
    numbers = []
    for atoms in kept:
        free, mine = list(range(len(slots))), []
        for a in atoms:
            at = next((i for i in free if slots[i] == a.aval.strong()), None)
            if at is None:
                at = len(slots)
                slots.append(a.aval.strong())
            else:
                free.remove(at)
            mine.append(at)
        numbers.append(mine)
    return slots, numbers


def _ahead(ahead: Derived, count: int, kept: list[Var], at: list[int], slots: list[Aval]) -> Derived:
    wanted = Graph(ahead.graph.inputs, ahead.graph.nodes, [*ahead.graph.outputs[:count], *kept])

    def outputs(*args: Any) -> list:
        found = wanted.evaluate(bind, *args)
        rest: list = [None] * len(slots)
        for i, value in zip(at, found[count:], strict=True):
            rest[i] = value
        return [*map(strong, found[:count]), *(zeros_of(a) if x is None else x for x, a in zip(rest, slots, strict=True))]
    made = derive(outputs, input_avals(ahead.graph), [])
    return _joined(made, ahead.captures)


def _behind(cut: tuple[Derived, Derived], ys: int, kept: list[Var], at: list[int], slots: list[Aval], flags: tuple) -> Derived:
    """(args, residual slots, cotangents) -> cotangents of the flagged inputs, zeros where this branch has none."""
    ahead, behind = cut
    inputs, own, count = ahead.graph.inputs, len(ahead.graph.inputs) - len(ahead.captures), len(ahead.graph.outputs) - ys
    residuals, places = behind.graph.inputs[:count], dict(zip(at, kept, strict=True))
    again = known_again(ahead.graph, [r for r in residuals if r not in inputs and r not in kept])
    spare = [places.get(i) or Var(a) for i, a in enumerate(slots)]
    graph = Graph([*inputs[:own], *spare, *behind.graph.inputs[count:], *inputs[own:]], [*again, *behind.graph.nodes],
                  behind.graph.outputs)

    def cotangents(*args: Any) -> list:
        found = merge(tuple(map(bool, behind.flags)), graph.evaluate(bind, *args))
        return [zeros_of(v.aval.strong()) if bar is None else bar for bar, v, wanted in zip(found, inputs, flags, strict=False) if wanted]
    return _joined(derive(cotangents, input_avals(graph), []), ahead.captures)


def _joined(made: Derived, captures: tuple) -> Derived:
    """A graph whose last inputs stand for `captures`, with those that its own derivation captured behind them."""
    return Derived(made.graph, (*captures, *made.captures), made.flags)


def _augment(primals: tuple, active: tuple, params: dict) -> tuple:
    saving = _saving(params["on_true"], params["on_false"], tuple(map(bool, active[1:])))
    found = _take(primals[0], saving.aheads, primals[1:])
    count = len(params["on_true"].outputs)
    return found[:count], {**params, "residuals": found[count:]}


def _vjp(primals: tuple, ys: tuple, y_bars: tuple, active: tuple, *, residuals: Any = None, **params: Any) -> list:
    if residuals is None:
        residuals = _augment(primals, active, params)[1]["residuals"]
    saving = _saving(params["on_true"], params["on_false"], tuple(map(bool, active[1:])))
    if not any(saving.flags):
        return [None] * len(primals)
    found = _take(primals[0], saving.behinds, [*primals[1:], *residuals, *pick(y_bars, floating(params["on_true"].outputs))])
    return [None, *merge(saving.flags, found)]


# ------------------------------------------------------------------------------------------------ batches, and the row


def _batch(args: tuple, axes: tuple, *, on_true: Graph, on_false: Graph) -> tuple:
    size = next(aval_of(x).shape[axis] for x, axis in zip(args, axes, strict=True) if axis is not None)
    mask = tuple(axis is not None for axis in axes[1:])
    moved = [x if axis is None else move_front(x, axis) for x, axis in zip(args, axes, strict=True)]
    every = axes[0] is not None
    least = (every,) * len(on_true.outputs)
    full = _either(*(batched_graph(g, mask, size, least).flags for g in (on_true, on_false)))
    deriveds = [batched_graph(g, mask, size, full) for g in (on_true, on_false)]
    if not every:
        return _take(moved[0], deriveds, moved[1:]), tuple(0 if f else None for f in full)
    ys = [d.graph.evaluate(bind, *moved[1:], *d.captures) for d in deriveds]
    chosen = [where(bind(TABLE["reshape"], moved[0], shape=(size, *(1,) * (aval_of(a).ndim - 1))), a, b) for a, b in zip(*ys, strict=True)]
    return tuple(chosen), (0,) * len(chosen)


COND = register(Primitive("cond", "call", _run, _shape, _jvp, _vjp, _batch, Control("cond"), samples=lambda rng: [], multiple=True,
                          augment=_augment, dual=_dual, doc="One of two branches."))


def cond(predicate: Any, on_true: Callable, on_false: Callable, *operands: Any) -> Any:
    """on_true(*operands) if predicate else on_false(*operands), where the predicate may be a traced number: only that branch runs.

    Both functions are traced once and return trees of equal structure, shapes and dtypes (a Python scalar takes the dtype of its
    counterpart). Derivative: of the branch taken; the predicate has none. Under vmap with a predicate per example both branches are
    computed and np.where selects. Raises: ShapeError for a predicate that is no scalar; TreeError, ShapeError, DtypeError where the
    branches differ.

    >>> cond(np.float64(2.0) > 1.0, lambda x: x * 10.0, lambda x: x, np.float64(3.0))
    np.float64(30.0)
    """
    if aval_of(predicate).shape != ():
        raise ShapeError(explain(f"cond: the predicate is {aval_of(predicate)}, expected one number.",
                                 remedy="Choose element by element with np.where, or reduce it: p.any(), p.all()."))
    leaves, structure = flatten(operands)
    leaves = list(map(strong, leaves))
    traced = [trace_at(lambda cells, f=f: f(*unflatten(structure, cells)), list(map(aval_of, leaves))) for f in (on_true, on_false)]
    (graph, out), (other, found) = traced
    if out != found:
        raise TreeError(explain(f"cond: on_true returns {out}, on_false returns {found}.", remedy="Return the same tree from both."))
    dtypes = [_agreed(a.aval, b.aval) for a, b in zip(graph.outputs, other.outputs, strict=True)]
    (graph, other), captures = shared(*(Derived(_converted(g, dtypes), g.captures, ()) for g in (graph, other)))
    if aval_of(predicate).dtype != BOOL or not hasattr(predicate, "dtype"):
        predicate = bind(TABLE["convert"], predicate, dtype=BOOL)
    return unflatten(out, bind(COND, freeze(predicate), *captures, *map(freeze, leaves), on_true=graph, on_false=other))


def _agreed(a: Aval, b: Aval) -> np.dtype:
    """The dtype of both branches' value, or an error that names both."""
    dtype = b.dtype if a.weak else a.dtype
    if a.shape != b.shape:
        raise ShapeError(explain(f"cond: on_true returns {a}, on_false returns {b}.", remedy="Return values of the same shape."))
    if dtype != b.dtype and not b.weak:
        raise DtypeError(explain(f"cond: on_true returns {a}, on_false returns {b}.", remedy=f"Convert one: .astype(np.{a.dtype.name})."))
    return dtype


def _converted(graph: Graph, dtypes: list) -> Graph:
    """The graph with outputs of these dtypes."""
    nodes, outputs = list(graph.nodes), []
    for atom, dtype in zip(graph.outputs, dtypes, strict=True):
        if atom.aval.dtype == dtype and not atom.aval.weak:
            outputs.append(atom)
            continue
        if isinstance(atom, Literal):
            outputs.append(Literal(np.asarray(atom.value, dtype), Aval(atom.aval.shape, dtype)))
            continue
        outputs.append(Var(Aval(atom.aval.shape, dtype)))
        nodes.append(Node(TABLE["convert"], (atom,), (outputs[-1],), {"dtype": dtype}))
    return Graph(graph.inputs, nodes, outputs)
