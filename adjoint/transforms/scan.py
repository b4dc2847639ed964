"""scan: one body over a sequence, with carried values: a row that holds the body's Graph; every derivative is a scan again.

scan : (c -> x -> (c, y)) -> c -> [x] -> (c, [y]). Invariant: arguments are (constants, carried, sequences), a sequence's first axis is
time; reverse mode keeps what depends on the step, and only that, once a step. May import: L0-L2, bodies. Read next: while_loops.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..core.aval import Aval, aval_of
from ..core.graph import Graph
from ..core.primitive import Primitive, bind, register
from ..core.trace import freeze
from ..dtypes import INT64
from ..errors import ConfigError, ShapeError, TreeError, explain
from ..primitives.indexing import iota
from ..primitives.kinds import Control, move_axis, move_front, zeros_of
from ..tree import Structure, unflatten
from .bodies import (
    as_scalar,
    batch_reach,
    batched_graph,
    closed_mask,
    dual_graph,
    known_again,
    literal_nodes,
    pruned,
    regroup,
    split_fixed,
    strong_leaves,
    trace_carrying,
)
from .calls import DERIVED_GRAPHS, Derived, derive, floating, merge, perform, pick, repeat, saving_graphs, silence


class Layout(NamedTuple):
    """How the arguments of a scan are divided: constants, carried values, the rest are sequences."""

    consts: int
    carries: int

    def cut(self, values: Any) -> tuple[list, list, list]:
        values = list(values)
        at = self.consts + self.carries
        return values[:self.consts], values[self.consts:at], values[at:]


def _run(*args: Any, graph: Graph, consts: int, carries: int, length: int, reverse: bool) -> tuple:
    """One step after the other, in Python."""
    fixed, carry, xs = Layout(consts, carries).cut(args)
    ys = [np.empty((length, *a.aval.shape), a.aval.dtype) for a in graph.outputs[carries:]]
    for t in reversed(range(length)) if reverse else range(length):
        found = perform(graph, *fixed, *carry, *[x[t] for x in xs])
        carry = found[:carries]
        for y, value in zip(ys, found[carries:], strict=True):
            y[t] = value
    return (*map(as_scalar, carry), *ys)


def _shape(*avals: Aval, graph: Graph, consts: int, carries: int, length: int, reverse: bool) -> tuple[Aval, ...]:
    return (*(a.aval.strong() for a in graph.outputs[:carries]),
            *(Aval((length, *a.aval.shape), a.aval.dtype) for a in graph.outputs[carries:]))


# ------------------------------------------------------------------------------------------------ forward mode


def _dual(primals: tuple, tangents: tuple, params: dict) -> tuple[tuple, tuple]:
    """Values and tangents by one scan that carries both."""
    graph, layout = params["graph"], Layout(params["consts"], params["carries"])
    mask = closed_mask(graph, tuple(t is not None for t in tangents), *layout)
    carried = mask[layout.consts:sum(layout)]
    derived = dual_graph(graph, mask, (*carried, *(False,) * (len(graph.outputs) - layout.carries)))
    dots = [zeros_of(aval_of(x).strong()) if t is None else t for x, t in zip(pick(primals, mask), pick(tangents, mask), strict=True)]
    order, args = interleaved(layout, mask, list(primals), dots)
    outs = _paired_outputs(regroup(derived, order), layout.carries, carried, derived.flags)
    fresh = len(derived.captures) + layout.consts + sum(mask[:layout.consts])
    found = bind(SCAN, *derived.captures, *args, **{**params, "graph": outs, "consts": fresh, "carries": layout.carries + sum(carried)})
    count, many = layout.carries + sum(carried), len(graph.outputs)
    ys = (*found[:layout.carries], *found[count:count + many - layout.carries])
    return tuple(ys), tuple(merge(derived.flags, (*found[layout.carries:count], *found[count + many - layout.carries:])))


def interleaved(layout: Layout, mask: tuple, primals: list, dots: list) -> tuple[list[int], list[Any]]:
    """Every group of arguments followed by its tangents: positions in (primals, dots), and the values."""
    places = iter(range(len(primals), len(primals) + len(dots)))
    of_dot = {i: next(places) for i, wanted in enumerate(mask) if wanted}
    order: list[int] = []
    for group in layout.cut(range(len(primals))):
        order += [*group, *(of_dot[i] for i in group if i in of_dot)]
    values = [*primals, *dots]
    return order, [values[i] for i in order]


def _paired_outputs(graph: Graph, carries: int, carried: tuple, flags: tuple) -> Graph:
    """(all outputs, all tangents) -> (carried, their tangents, other outputs, their tangents)."""
    many = len(flags)
    ys, dots = graph.outputs[:many], graph.outputs[many:]
    count = sum(carried)
    return Graph(graph.inputs, graph.nodes, [*ys[:carries], *dots[:count], *ys[carries:], *dots[count:]])


def _jvp(primals: tuple, tangents: tuple, ys: tuple, **params: Any) -> tuple:
    return _dual(primals, tangents, {**params, "graph": silence(params["graph"])})[1]


# ------------------------------------------------------------------------------------------------ reverse mode


class Saving(NamedTuple):
    """A body cut for reverse mode. `outer`: what does not depend on the step; `ahead`: the body, then what it keeps at each step;
    `behind`: (fixed residuals, sequences, kept ones, cotangents of floating outputs) -> cotangents of the inputs that have `flags`.

    fixed: their numbers among (captures, constants, outer's values); sequences: those that behind reads again.
    """

    outer: Graph
    ahead: Graph
    behind: Graph
    fixed: tuple[int, ...]
    sequences: tuple[int, ...]
    flags: tuple
    captures: tuple


@functools.lru_cache(DERIVED_GRAPHS)
def _saving(graph: Graph, mask: tuple, consts: int, carries: int) -> Saving:
    both, behind = saving_graphs(graph, mask)
    arranged = regroup(both, range(len(graph.inputs)))
    consts += len(both.captures)
    split = split_fixed(arranged, consts)
    count = consts + len(split.outer.outputs)
    fixed_inputs, xs = split.inner.inputs[:count], split.inner.inputs[count + carries:]
    outputs, residuals = arranged.outputs[:len(graph.outputs)], arranged.outputs[len(graph.outputs):]
    literal = {v for n in literal_nodes(arranged) for v in n.outs}
    fixed = [r for r in residuals if r in fixed_inputs]
    sequences = [r for r in residuals if r in xs]
    kept = [r for r in residuals if r not in fixed_inputs and r not in xs and r not in literal]
    again = known_again(arranged, [r for r in residuals if r in literal])
    bars = behind.graph.inputs[len(residuals):]
    back = Graph([*fixed, *sequences, *kept, *bars], [*again, *behind.graph.nodes], behind.graph.outputs)
    ahead = pruned(Graph(split.inner.inputs, split.inner.nodes, [*outputs, *kept]))
    return Saving(split.outer, ahead, back, tuple(map(fixed_inputs.index, fixed)), tuple(map(xs.index, sequences)),
                  tuple(map(bool, behind.flags)), both.captures)


def augment(primals: tuple, active: tuple, params: dict) -> tuple:
    """The scan, and what its pullback needs: (outputs, params with residuals)."""
    graph, layout = params["graph"], Layout(params["consts"], params["carries"])
    saving = _saving(graph, closed_mask(graph, tuple(map(bool, active)), *layout), *layout)
    consts, carry, xs = layout.cut(primals)
    consts = [*saving.captures, *consts]
    fixed = [*consts, *saving.outer.evaluate(bind, *consts)]
    found = bind(SCAN, *fixed, *carry, *xs, **{**params, "graph": saving.ahead, "consts": len(fixed)})
    count = len(graph.outputs)
    kept = [*(xs[i] for i in saving.sequences), *found[count:]]
    return found[:count], {**params, "residuals": ([fixed[i] for i in saving.fixed], kept)}


@functools.lru_cache(DERIVED_GRAPHS)
def _pullback(graph: Graph, mask: tuple, layout: Layout) -> Derived:
    """One step backwards: (fixed residuals | carried cotangents, sums for the constants | kept residuals, cotangents) -> the same."""
    saving, wanted = _saving(graph, mask, *layout), floating(graph.outputs)
    carried, (summed, _, _) = mask[layout.consts:sum(layout)], layout.cut(saving.flags)
    fixed, rest = saving.behind.inputs[:len(saving.fixed)], saving.behind.inputs[len(saving.fixed):]
    carry_bars, sums = pick(graph.outputs[:layout.carries], carried), pick(graph.inputs[:layout.consts], summed)
    kept, bars = rest[:len(rest) - sum(wanted)], pick(graph.outputs[layout.carries:], wanted[layout.carries:])

    def step(*args: Any) -> list:
        given = iter(args)
        take = lambda atoms: [next(given) for _ in atoms]
        at_fixed, at_carries, at_sums, at_kept, at_bars = map(take, (fixed, carry_bars, sums, kept, bars))
        known = zip(merge(carried, at_carries), graph.outputs[:layout.carries], strict=True)
        ahead = [zeros_of(a.aval.strong()) if bar is None else bar for bar, a in known]
        found = saving.behind.evaluate(bind, *at_fixed, *at_kept, *pick(ahead, wanted[:layout.carries]), *at_bars)
        consts, carries, xs = layout.cut(merge(saving.flags, found))
        before = [zeros_of(v.aval.strong()) if bar is None else bar for bar, v in zip(pick(carries, carried), carry_bars, strict=True)]
        return [*before, *(total + bar for total, bar in zip(at_sums, pick(consts, summed), strict=True)),
                *(bar for bar in xs if bar is not None)]
    atoms = (*fixed, *carry_bars, *sums, *kept, *bars)
    return derive(step, [a.aval.strong() for a in atoms], [len(fixed), len(carry_bars), len(sums)])


def _vjp(primals: tuple, ys: tuple, y_bars: tuple, active: tuple, *, residuals: Any = None, **params: Any) -> list:
    if residuals is None:
        residuals = augment(primals, active, params)[1]["residuals"]
    graph, layout = params["graph"], Layout(params["consts"], params["carries"])
    mask = closed_mask(graph, tuple(map(bool, active)), *layout)
    flags, pullback = layout.cut(_saving(graph, mask, *layout).flags), _pullback(graph, mask, layout)
    carried, wanted = mask[layout.consts:sum(layout)], floating(graph.outputs)
    sums = [zeros_of(aval_of(x).strong()) for x in pick(primals[:layout.consts], flags[0])]
    count = sum(carried)
    found = bind(SCAN, *pullback.captures, *residuals[0], *pick(y_bars[:layout.carries], carried), *sums, *residuals[1],
                 *pick(y_bars[layout.carries:], wanted[layout.carries:]),
                 graph=regroup(pullback, range(len(pullback.graph.inputs) - len(pullback.captures))),
                 consts=len(pullback.captures) + len(residuals[0]), carries=count + len(sums), length=params["length"],
                 reverse=not params["reverse"])
    bars = [*merge(flags[0], found[count:count + len(sums)]), *merge(carried, found[:count]), *merge(flags[2], found[count + len(sums):])]
    return [bar if wanted else None for bar, wanted in zip(bars, active, strict=True)]


# ------------------------------------------------------------------------------------------------ batches, and the row


def _batch(args: tuple, axes: tuple, **params: Any) -> tuple:
    graph, layout = params["graph"], Layout(params["consts"], params["carries"])
    size = next(aval_of(x).shape[axis] for x, axis in zip(args, axes, strict=True) if axis is not None)
    mask = closed_mask(graph, tuple(axis is not None for axis in axes), *layout, batch_reach(size))
    carried = mask[layout.consts:sum(layout)]
    derived = batched_graph(graph, mask, size, (*carried, *(False,) * (len(graph.outputs) - layout.carries)))
    fixed, carry, xs = layout.cut(zip(args, axes, strict=True))
    front = lambda x, axis: x if axis is None else move_front(x, axis)
    moved = [*(front(x, axis) for x, axis in fixed),
             *(repeat(x, size) if axis is None and must else front(x, axis) for (x, axis), must in zip(carry, carried, strict=True)),
             *(x if axis is None else move_axis(x, axis, 1) for x, axis in xs)]
    params |= {"graph": regroup(derived, range(len(args))), "consts": layout.consts + len(derived.captures)}
    places = (0,) * layout.carries + (1,) * (len(graph.outputs) - layout.carries)
    return bind(SCAN, *derived.captures, *moved, **params), tuple(p if f else None for p, f in zip(places, derived.flags, strict=True))


def _extend(args: list, params: dict, derived: Derived) -> tuple[list, dict]:
    """The scan of a body that was made from its own and has further outputs, which are collected."""
    graph = regroup(derived, range(len(derived.graph.inputs) - len(derived.captures)))
    return [*derived.captures, *args], {**params, "graph": graph, "consts": params["consts"] + len(derived.captures)}


SCAN = register(Primitive("scan", "call", _run, _shape, _jvp, _vjp, _batch, Control("scan"), samples=lambda rng: [], multiple=True,
                          augment=augment, dual=_dual, doc="A body over a sequence, with carried values.", traits={"extend": _extend}))


def scan(body: Callable, carry: Any, xs: Any = None, *, length: int | None = None, reverse: bool = False) -> tuple[Any, Any]:
    """(carry after the last step, ys) with carry, y = body(carry, x) for each x along the first axis of xs: one loop, also natively.

    Type: scan : (c -> x -> (c, y)) -> c -> [x] -> (c, [y]). carry, x, y are trees; xs may be None where `length` is given; reverse goes
    from the last x to the first (ys stay in the order of xs). The body is traced once: it sees traced values only, and what it
    captures is constant over the steps. A Python scalar in carry takes the dtype that the body gives it.
    Derivative: reverse mode keeps per step what the step's pullback reads; a weight that is only multiplied has its gradient as one
    product over all steps when compiled. Cost: length times the body. Memory of reverse mode: length times the body's residuals.
    Raises: TreeError, ShapeError, DtypeError where the carried value changes its form; ShapeError where lengths differ.

    >>> total, sums = scan(lambda total, x: (total + x, total + x), 0.0, np.array([1.0, 2.0, 3.0]))
    >>> total, sums
    (np.float64(6.0), array([1., 3., 6.]))
    """
    leaves, structure = strong_leaves(xs)
    length = _length(leaves, length)
    slices = [Aval(aval_of(x).shape[1:], aval_of(x).dtype) for x in leaves]
    traced, carried, before = trace_carrying("scan", lambda c, cells: body(c, unflatten(structure, cells)), carry, slices, _carried_part)
    found = bind(SCAN, *traced.consts, *map(freeze, (*carried, *leaves)), graph=traced.graph, consts=len(traced.consts),
                 carries=len(carried), length=length, reverse=bool(reverse))
    return unflatten(before, found[:len(carried)]), unflatten(traced.structure.children[1], found[len(carried):])


def _carried_part(result: Structure) -> Structure:
    if result.kind != "tuple" or len(result.children) != 2:
        raise TreeError(explain(f"scan: the body must return (carry, y), it returned {result}.",
                                remedy="Return a pair; where there is nothing to collect, (carry, None)."))
    return result.children[0]


def _length(leaves: list, length: int | None) -> int:
    for x in leaves:
        aval = aval_of(x)
        if not aval.ndim:
            raise ShapeError(explain(f"scan: {aval} among xs has no axis to go along.",
                                     remedy="What stays the same at every step is captured by the body, or carried."))
        if length is not None and aval.shape[0] != length:
            raise ShapeError(explain(f"scan: a sequence is {aval}, expected length {length} along its first axis.",
                                     remedy="All of xs have one length; transpose a batch-first array, or cut it."))
        length = aval.shape[0]
    if not isinstance(length, (int, np.integer)) or length < 0:
        raise ConfigError(explain(f"scan: {'length is ' + repr(length) if length is not None else 'neither xs nor length is given'}.",
                                  remedy="Give xs, or length as a number of steps that is not negative."))
    return int(length)


def counted(body: Callable, lower: int, upper: int, carry: Any) -> Any:
    """fori_loop between two known numbers: a scan over them."""
    count = max(0, int(upper) - int(lower))
    numbers = iota(shape=(count,), axis=0, dtype=INT64) + np.int64(lower)
    def step(c: Any, cells: Any) -> Any:
        return body(cells[0], c)
    traced, carried, before = trace_carrying("fori_loop", step, carry, [Aval((), INT64)], lambda result: result)
    found = bind(SCAN, *traced.consts, *map(freeze, carried), numbers, graph=traced.graph, consts=len(traced.consts),
                 carries=len(carried), length=count, reverse=False)
    return unflatten(before, found)
