"""Derivatives that the user gives: custom_vjp and custom_jvp, rows whose Graph params survive a trace; stop_gradient.

Invariant: all graphs of a call take (what is their own, leaves, captured values); forward mode of custom_vjp and reverse mode of
custom_jvp are transposes of the linear map that was given. May import: L0-L2, calls. Read next: checkpoint.py, taps.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ..core.aval import Aval, aval_of
from ..core.graph import Graph, Var
from ..core.interpreter import current, interpreting
from ..core.primitive import TABLE, Primitive, bind, register
from ..core.trace import freeze
from ..errors import NotDifferentiableError, ShapeError, TracerError, TreeError, explain
from ..primitives.kinds import Scalar, constant, unbroadcast, zeros_of
from ..tree import Structure, flatten, is_array, unflatten
from .calls import (
    Derived,
    at_ground_level,
    batch_graph,
    derive,
    floating,
    fronted,
    merge,
    numbers_of,
    perform,
    pick,
    pull,
    silence,
    trace_at,
)
from .forward import flatten_like
from .outside import Rule, call_outside, may_stay_outside
from .reverse import Tape

# ------------------------------------------------------------------------------------------------ stop_gradient


@constant(reason="declared: its argument counts as a constant", shape=lambda x: x,
          batch=lambda row, args, axes: (bind(row, *args), axes[0]), lowering=Scalar(lambda e, x: x),
          samples=lambda rng: [((rng.standard_normal((2, 3)),), {})], identity=True)
def stop_gradient_(x):
    """y = x with dy/dx = 0."""
    return x


def stop_gradient(tree: Any) -> Any:
    """The same values, counted as constants by every derivative: y = x, dy/dx := 0.

    >>> from adjoint.transforms.reverse import grad
    >>> import numpy as np
    >>> grad(lambda x: x * stop_gradient(x))(np.float64(3.0))
    np.float64(3.0)
    """
    leaves, structure = flatten(tree)
    return unflatten(structure, [bind(stop_gradient_, x) if is_array(x) else x for x in leaves])


# ------------------------------------------------------------------------------------------------ shared by both


def _share_captures(*graphs: Graph) -> tuple[list[Graph], list[Any]]:
    """Graphs whose last inputs are their captures, rebuilt to take the captures of all: (graphs, captures)."""
    everything = [x for g in graphs for x in g.captures]
    rebuilt, before = [], 0
    for g in graphs:
        own = len(g.inputs) - len(g.captures)
        ahead = [Var(aval_of(x).strong()) for x in everything[:before]]
        behind = [Var(aval_of(x).strong()) for x in everything[before + len(g.captures):]]
        rebuilt.append(Graph([*g.inputs[:own], *ahead, *g.inputs[own:], *behind], g.nodes, g.outputs))
        before += len(g.captures)
    return rebuilt, everything


def _opened(derived: Derived) -> Graph:
    return Graph(derived.graph.inputs, derived.graph.nodes, derived.graph.outputs, derived.captures)


def _refuse_captured(name: str, active: tuple, arity: int) -> None:
    if any(active[arity:]):
        raise NotDifferentiableError(explain(f"{name}: the function closes over a value that is being differentiated.",
                                             remedy="Pass that value as an argument, so that the rule can state its derivative."))


def _check_result(name: str, expected: list[Aval], found: list[Aval]) -> None:
    if [a.shape for a in expected] != [a.shape for a in found]:
        raise ShapeError(explain(f"{name}: the rule returned {', '.join(map(str, found))}, expected {', '.join(map(str, expected))}.",
                                 remedy="A rule returns values of the function's shapes, and cotangents of the arguments' shapes."))


def _transpose(linear: Callable, avals: list[Aval], cotangents: list) -> list:
    """The cotangents of the arguments of a linear function of arrays of these avals (at zero, as good as anywhere)."""
    tape = Tape(current())
    cells = [tape.lift(zeros_of(a)) for a in avals]
    with interpreting(tape, closing=True):
        outputs = linear(cells)
    return pull(tape, cells, outputs, cotangents)


def _full(dots: Any, primals: Any, mask: tuple) -> list:
    """Tangents of the masked primals, zeros where there is none."""
    return [zeros_of(aval_of(x).strong()) if t is None else t for t, x in zip(pick(dots, mask), pick(primals, mask), strict=True)]


# ------------------------------------------------------------------------------------------------ custom_vjp


def _vjp_residuals(primals: Any, params: dict) -> tuple:
    found = params["forward"].evaluate(bind, *primals)
    count = len(params["graph"].outputs)
    return tuple(found[:count]), tuple(found[count:])


def _vjp_augment(primals: tuple, active: tuple, params: dict) -> tuple:
    ys, residuals = _vjp_residuals(primals, params)
    return ys, {**params, "residuals": residuals}


def _vjp_vjp(primals: tuple, ys: tuple, y_bars: tuple, active: tuple, *, residuals: tuple | None = None, **params: Any) -> list:
    _refuse_captured("custom_vjp", active, params["arity"])
    if residuals is None:
        residuals = _vjp_residuals(primals, params)[1]
    found = params["backward"].evaluate(bind, *residuals, *pick(y_bars, floating(params["graph"].outputs)), *primals)
    return [*merge(params["live"], found), *(None for _ in primals[params["arity"]:])]


def _vjp_jvp(primals: tuple, tangents: tuple, ys: tuple, **params: Any) -> tuple:
    _refuse_captured("custom_vjp", tuple(t is not None for t in tangents), params["arity"])
    residuals = _vjp_residuals(primals, params)[1]
    mask, count = floating(params["graph"].outputs), params["arity"]
    bars = _transpose(lambda cells: params["backward"].evaluate(bind, *residuals, *cells, *primals),
                      [a.aval.strong() for a in pick(params["graph"].outputs, mask)], pick(tangents[:count], params["live"]))
    return tuple(merge(mask, bars))


def _vjp_batch(args: tuple, axes: tuple, *, graph: Graph, forward: Graph, backward: Graph, arity: int, live: tuple) -> tuple:
    args, mask, size = fronted(args, axes)
    own = len(backward.inputs) - len(args)
    batched = batch_graph(backward, (True,) * own + mask, size, True)
    shared = [not wanted for wanted in pick(mask[:arity], live)]

    def summed(*xs: Any) -> list:
        found = batched.graph.evaluate(bind, *xs, *batched.captures)
        return [bind(TABLE["sum"], bar, axes=(0,)) if alone else bar for bar, alone in zip(found, shared, strict=True)]
    pulled = derive(summed, [v.aval for v in batched.graph.inputs[:own + len(args)]], [])
    graphs, captures = _share_captures(*(_opened(batch_graph(g, mask, size, True)) for g in (graph, forward)), _opened(pulled))
    y = bind(_CUSTOM_VJP, *args, *captures, graph=graphs[0], forward=graphs[1], backward=graphs[2], arity=arity, live=live)
    return y, (0,) * len(y)


def _primal_row(name: str, doc: str, **rules: Callable) -> Primitive:
    return register(Primitive(name, "call", lambda *args, graph, **params: perform(graph, *args),
                              lambda *avals, graph, **params: tuple(a.aval.strong() for a in graph.outputs),
                              samples=lambda rng: [], multiple=True, doc=doc, **rules))


_CUSTOM_VJP = _primal_row("custom_vjp", "A call whose pullback was given.",
                          jvp=_vjp_jvp, vjp=_vjp_vjp, batch=_vjp_batch, augment=_vjp_augment)


def custom_vjp(function: Callable, forward: Callable, backward: Callable) -> Callable:
    """The function with a pullback of your own: forward(*xs) -> (y, residuals), backward(residuals, y_bar) -> (x_bar, ...).

    backward returns one tree per argument, None where there is no cotangent; leaves of y that are not floating come as None.
    Forward mode transposes `backward`, so the result differentiates in every mode and again. Arguments are given by position; Python's
    ints are part of the program. Where a trace cannot enter the three functions (np.linalg.lstsq, SciPy), grad and vjp call them as they
    are, on plain arrays; compile, vmap and second derivatives of them raise.

    >>> import numpy as np
    >>> from adjoint.transforms.reverse import grad
    >>> clipped = custom_vjp(lambda x: x * x, lambda x: (x * x, x), lambda x, y_bar: (x * 0.5 * y_bar,))
    >>> grad(clipped)(np.float64(3.0))
    np.float64(1.5)
    """
    @functools.wraps(function)
    def call(*args: Any) -> Any:
        leaves, traced, tree = numbers_of(args)
        if at_ground_level(*leaves):
            return function(*args)
        avals = list(map(aval_of, leaves))
        try:
            graph, out_structure = trace_at(lambda cells: function(*tree(cells)), avals)
            ahead, both = trace_at(lambda cells: forward(*tree(cells)), avals)
            _check_forward(both, graph, ahead)
            backward_graph, live = _trace_backward(backward, args, ahead, out_structure, both.children[1])
        except TracerError as error:
            if not may_stay_outside(error):
                raise
            return call_outside(Rule(forward, backward, tree, traced, [], error), leaves)
        (graph, ahead, behind), captures = _share_captures(graph, ahead, backward_graph)
        found = bind(_CUSTOM_VJP, *map(freeze, leaves), *captures, graph=graph, forward=ahead, backward=behind,
                     arity=len(leaves), live=live)
        return unflatten(out_structure, found)
    return call


def _check_forward(both: Structure, graph: Graph, ahead: Graph) -> None:
    if both.kind != "tuple" or len(both.children) != 2:
        raise TreeError(explain(f"custom_vjp: forward must return (y, residuals), it returned {both}.",
                                remedy="Return the result, and as the second what backward needs (None if nothing)."))
    found = [a.aval for a in ahead.outputs[:both.children[0].leaf_count]]
    _check_result("custom_vjp: forward", [a.aval for a in graph.outputs], found)


def _trace_backward(backward: Callable, args: tuple, ahead: Graph, out_structure: Structure, residual_structure: Structure) -> tuple:
    """The graph (residuals, cotangents of floating outputs, leaves) -> cotangents, and which leaves get one."""
    leaves, traced, _ = numbers_of(args)
    outputs, residuals = ahead.outputs[:out_structure.leaf_count], ahead.outputs[out_structure.leaf_count:]
    mask, count, live = floating(outputs), len(residuals), []

    def pulled(cells: tuple) -> list:
        bars = unflatten(out_structure, merge(mask, cells[count:len(cells) - len(leaves)]))
        found = backward(unflatten(residual_structure, cells[:count]), bars)
        found = pick(flatten_like(args, found if isinstance(found, tuple) else (found,)), traced)
        live.extend(bar is not None and aval_of(x).dtype.kind == "f" for bar, x in zip(found, leaves, strict=True))
        kept, expected = pick(found, live), [aval_of(x).strong() for x in pick(leaves, live)]
        _check_result("custom_vjp: backward", expected, list(map(aval_of, kept)))
        return [unbroadcast(bar, aval) for bar, aval in zip(kept, expected, strict=True)]
    avals = [a.aval.strong() for a in (*residuals, *pick(outputs, mask))] + list(map(aval_of, leaves))
    return silence(trace_at(pulled, avals)[0]), tuple(live)


# ------------------------------------------------------------------------------------------------ custom_jvp


def _jvp_jvp(primals: tuple, tangents: tuple, ys: tuple, *, graph: Graph, rule: Graph, arity: int) -> tuple:
    _refuse_captured("custom_jvp", tuple(t is not None for t in tangents), arity)
    dots = _full(tangents[:arity], primals[:arity], floating(graph.inputs[:arity]))
    return tuple(merge(floating(graph.outputs), rule.evaluate(bind, *dots, *primals)))


def _jvp_vjp(primals: tuple, ys: tuple, y_bars: tuple, active: tuple, *, graph: Graph, rule: Graph, arity: int) -> list:
    _refuse_captured("custom_jvp", active, arity)
    mask = floating(graph.inputs[:arity])
    bars = _transpose(lambda cells: rule.evaluate(bind, *cells, *primals), [v.aval.strong() for v in pick(graph.inputs[:arity], mask)],
                      pick(y_bars, floating(graph.outputs)))
    return [*merge(mask, bars), *(None for _ in primals[arity:])]


def _jvp_batch(args: tuple, axes: tuple, *, graph: Graph, rule: Graph, arity: int) -> tuple:
    floats = floating(graph.inputs[:arity])
    args, mask, size = fronted(args, axes)
    rule_mask = (*pick(mask[:arity], floats), *mask)
    graphs, captures = _share_captures(_opened(batch_graph(graph, mask, size, True)), _opened(batch_graph(rule, rule_mask, size, True)))
    y = bind(_CUSTOM_JVP, *args, *captures, graph=graphs[0], rule=graphs[1], arity=arity)
    return y, (0,) * len(y)


_CUSTOM_JVP = _primal_row("custom_jvp", "A call whose tangent map was given.", jvp=_jvp_jvp, vjp=_jvp_vjp, batch=_jvp_batch)


def custom_jvp(function: Callable, jvp: Callable) -> Callable:
    """The function with a tangent map of your own: jvp(primals, tangents) -> (y, y_dot), linear in the tangents.

    primals and tangents are tuples of trees like the arguments; leaves that are not floating have the tangent None. Reverse mode
    transposes the map, so the result differentiates in every mode and again. Arguments are given by position.

    >>> import numpy as np
    >>> from adjoint.transforms.reverse import grad
    >>> half = custom_jvp(lambda x: x * x, lambda xs, dots: (xs[0] * xs[0], xs[0] * 0.5 * dots[0]))
    >>> grad(half)(np.float64(3.0))
    np.float64(1.5)
    """
    @functools.wraps(function)
    def call(*args: Any) -> Any:
        leaves, traced, tree = numbers_of(args)
        if at_ground_level(*leaves):
            return function(*args)
        avals, structure = list(map(aval_of, leaves)), flatten(args)[1]
        graph, out_structure = trace_at(lambda cells: function(*tree(cells)), avals)
        mask = floating(graph.inputs[:len(leaves)])
        expected = [a.aval.strong() for a in pick(graph.outputs, floating(graph.outputs))]

        def tangent(cells: tuple) -> list:
            dots, xs = cells[:len(cells) - len(leaves)], cells[len(cells) - len(leaves):]
            y, y_dot = jvp(tree(xs), unflatten(structure, merge(traced, merge(mask, dots))))
            found = pick(flatten_like(y, y_dot), floating(graph.outputs))
            _check_result("custom_jvp", expected, [a if t is None else aval_of(t) for t, a in zip(found, expected, strict=True)])
            return [zeros_of(a) if t is None else unbroadcast(t, a) for t, a in zip(found, expected, strict=True)]
        rule = silence(trace_at(tangent, [*(a.strong() for a in pick(avals, mask)), *avals])[0])
        (graph, rule), captures = _share_captures(graph, rule)
        found = bind(_CUSTOM_JVP, *map(freeze, leaves), *captures, graph=graph, rule=rule, arity=len(leaves))
        return unflatten(out_structure, found)
    return call
