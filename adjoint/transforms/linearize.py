"""Linearize: the tangent map of a function at a point as a Graph; everything that does not depend on the tangents is computed once.

linearize : (a -> b) -> a -> (b, Ta -o Tb). Invariant: the graph is linear in its first inputs; its captures are known arrays.
May import: L0-L2, forward. Read next: derivatives.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..core.aval import aval_of
from ..core.graph import Graph, Var
from ..core.interpreter import Tracer, current, enter, interpreting, leave
from ..core.primitive import bind
from ..core.trace import Tracing, freeze
from ..tree import Structure, flatten, unflatten
from .forward import Forward, tangent_leaves, tangent_or_zeros


class PartialTrace(Tracing):
    """Records what depends on its inputs; performs everything else in the enclosing interpreter."""

    name = "linearize"

    def interpret(self, primitive: Any, args: tuple, params: dict) -> Any:
        if any([self.holds(a) for a in args]):
            return super().interpret(primitive, args, params)
        token = enter(self.outer)
        try:
            return self.outer.interpret(primitive, args, params)
        finally:
            leave(token)


class Linearizing(Forward):
    """Forward mode whose primals are performed outside and whose tangents are recorded."""

    together = False

    def __init__(self, outer: Any, tangents: PartialTrace):
        super().__init__(outer)
        self.tangents = tangents

    def push(self, primitive: Any, xs: tuple, dots: tuple, y: Any, params: dict) -> Any:
        token = enter(self.tangents)
        try:
            return super().push(primitive, xs, dots, y, params)
        finally:
            leave(token)


class LinearMap:
    """x_dot -> J x_dot as a value: call it with tangents (one tree per primal); `graph` is its program."""

    def __init__(self, graph: Graph, primals: tuple, live: list[bool], out_structure: Structure, outputs: list):
        self.graph, self._primals, self._live = graph, primals, live
        self._out_structure, self._outputs = out_structure, outputs

    def __call__(self, *tangents: Any) -> Any:
        leaves = flatten(self._primals)[0]
        dots = tangent_leaves(tangents, self._primals, leaves)
        given = [tangent_or_zeros(t, aval_of(x)) for t, x in zip(dots, leaves, strict=True) if aval_of(x).dtype.kind == "f"]
        found = iter(self.graph.evaluate(bind, *given))
        return unflatten(self._out_structure, [tangent_or_zeros(next(found) if flag else None, aval_of(y))
                                               for flag, y in zip(self._live, self._outputs, strict=True)])

    def __str__(self) -> str:
        return str(self.graph)


def linearize(function: Callable, *primals: Any) -> tuple[Any, LinearMap]:
    """(y, f_dot) with y = function(*primals) and f_dot(*tangents) = J(primals) tangents, whatever f costs computed only once.

    Type: linearize : (a -> b) -> a -> (b, Ta -o Tb). Cost: the function once; each f_dot(...) only the linear part. `print(f_dot)`
    shows the linear program.

    >>> import numpy as np
    >>> y, f_dot = linearize(lambda x: np.float64(2.0) * x * x, np.float64(3.0))
    >>> f_dot(np.float64(1.0)), f_dot(np.float64(10.0))
    (np.float64(12.0), np.float64(120.0))
    """
    outer = current()
    trace = PartialTrace(outer)
    forward = Linearizing(outer, trace)
    leaves, structure = flatten(tuple(map(_frozen, primals)))
    inputs, cells = [], []
    for x in leaves:
        aval = aval_of(x)
        if aval.dtype.kind == "f":
            inputs.append(Var(aval.strong()))
            x = Tracer(forward, (x, Tracer(trace, inputs[-1], inputs[-1].aval)), aval, argument=True)
        cells.append(x)
    with interpreting(forward, closing=True):
        outputs, out_structure = flatten(function(*unflatten(structure, cells)))
        pairs = [x.payload if forward.holds(x) else (x, None) for x in outputs]
    atoms = [trace.atom(t) for _, t in pairs if t is not None]
    trace.open = False
    captured = list(trace.captured.values())
    graph = Graph([*inputs, *(v for v, _ in captured)], trace.nodes, atoms, [x for _, x in captured])
    ys, live = [y for y, _ in pairs], [t is not None for _, t in pairs]
    return unflatten(out_structure, ys), LinearMap(graph, unflatten(structure, leaves), live, out_structure, ys)


def _frozen(tree: Any) -> Any:
    leaves, structure = flatten(tree)
    return unflatten(structure, list(map(freeze, leaves)))
