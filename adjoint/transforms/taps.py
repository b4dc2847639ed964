"""Taps: values named inside a function and collected by a transformation outside, through gradients, batches, traces and calls.

collect_taps : (a -> b) -> a -> (b, {name: value}). Invariant: a tap changes nothing; without a collector it vanishes.
May import: L0-L2, calls. Read next: linearize.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ..core.aval import aval_of
from ..core.graph import Graph
from ..core.interpreter import Interpreter, Tracer, current, interpreting
from ..core.primitive import bind
from ..core.trace import effects_of, freeze
from ..errors import EffectError, explain
from ..primitives.kinds import Scalar, linear, move_front
from ..tree import flatten, is_array, unflatten
from .calls import derive, silence

TAP = "tap"


@linear(shape=lambda x, *, name: x.strong(), transposes=(lambda y_bar, x, *, name: y_bar,),
        batch=lambda row, args, axes, *, name: (bind(row, move_front(args[0], axes[0]), name=name), 0),
        lowering=Scalar(lambda e, x, *, name: x), samples=lambda rng: [((rng.standard_normal((2, 3)),), {"name": "h"})], identity=True)
def tap_(x, *, name):
    """y = x, and whoever collects taps sees y under its name."""
    return x


tap_.effects = frozenset({TAP})
tap_.jvp = lambda primals, tangents, y, *, name: tangents[0]            # the tangent passes by: only values are collected


def tap(name: str, tree: Any) -> Any:
    """The same tree; a collector outside finds its value under `name`, the leaves of a larger tree under `name.0`, `name.1`.

    >>> import numpy as np
    >>> from adjoint.transforms.reverse import grad
    >>> f = lambda x: tap("square", x * x) + 1.0
    >>> f(np.float64(3.0)), collect_taps(f)(np.float64(3.0)), grad(f)(np.float64(3.0))
    (np.float64(10.0), (np.float64(10.0), {'square': np.float64(9.0)}), np.float64(6.0))
    """
    leaves, structure = flatten(tree)
    names = [name] if len(leaves) == 1 else [f"{name}.{i}" for i in range(len(leaves))]
    return unflatten(structure, [bind(tap_, x, name=n) for n, x in zip(names, leaves, strict=True)])


class Collector(Interpreter):
    """payload = the value in the enclosing interpreter."""

    name = "collect_taps"

    def __init__(self, outer: Interpreter):
        super().__init__(outer)
        self.found: dict[str, Any] = {}

    def underlying(self, x: Tracer) -> Any:
        return x.payload

    def interpret(self, primitive: Any, args: tuple, params: dict) -> Any:
        xs = [a.payload if self.holds(a) else freeze(a) for a in args]
        with interpreting(self.outer):
            if primitive is tap_:
                y = self.collect(params["name"], xs[0])
            elif primitive.kind == "call" and TAP in effects_of(primitive, params):
                y = self.open_call(primitive, xs, params)
            else:
                y = bind(primitive, *xs, **params)
        return tuple(map(self.cell, y)) if primitive.multiple else self.cell(y)

    def cell(self, y: Any) -> Tracer:
        return Tracer(self, y, aval_of(y))

    def collect(self, name: str, x: Any) -> Any:
        """Note a value under its name; the second of that name is `name#2`."""
        unique, count = name, 1
        while unique in self.found:
            count += 1
            unique = f"{name}#{count}"
        self.found[unique] = x
        return x

    def open_call(self, primitive: Any, xs: list, params: dict) -> tuple:
        """A call with taps inside: its outputs, the taps collected as further outputs of its graph."""
        if "graph" not in params:
            raise EffectError(explain(f"a tap inside {primitive.name}: it is not known how often it is reached, or whether.",
                                      remedy="Return the value from the function, or tap it after the call."))
        graph: Graph = params["graph"]
        names: list[str] = []

        def tapped(*cells: Any) -> list:
            collector, outputs = collected(lambda *xs: graph.evaluate(bind, *xs), current(), *cells)
            names.extend(collector.found)
            return [*outputs, *collector.found.values()]
        derived = derive(tapped, [v.aval for v in graph.inputs], names)
        if "extend" in primitive.traits:                # a loop: taps are collected step by step
            xs, params = primitive.traits["extend"](xs, params, derived)
            found = bind(primitive, *xs, **params)
            taps = found[len(graph.outputs):]
        elif "transparent" in primitive.traits:
            rest = {k: p for k, p in params.items() if k != "graph"}
            found = bind(primitive, *xs, *derived.captures, graph=derived.graph, **rest)
            taps = found[len(graph.outputs):]
        else:                                           # a custom rule knows nothing of further outputs: compute the taps beside it
            found = bind(primitive, *xs, **{k: silence(p) if isinstance(p, Graph) else p for k, p in params.items()})
            taps = derived.graph.evaluate(bind, *xs, *derived.captures)[len(graph.outputs):]
        for name, value in zip(names, taps, strict=True):
            self.collect(name, value)
        return tuple(found[:len(graph.outputs)])


def collected(function: Callable, outer: Interpreter, *leaves: Any) -> tuple[Collector, list]:
    """Run function(*cells) -> leaves under a collector."""
    collector = Collector(outer)
    cells = [Tracer(collector, freeze(x), aval_of(x), True) if is_array(x) else x for x in leaves]
    with interpreting(collector, closing=True):
        outputs = [x.payload if collector.holds(x) else freeze(x) for x in function(*cells)]
    return collector, outputs


def collect_taps(function: Callable) -> Callable:
    """The function, returning (y, taps): taps maps each tap's name to its value, in the order of evaluation.

    Type: collect_taps : (a -> b) -> a -> (b, {name: array}). A repeated name is numbered: h, h#2, h#3. Inside grad, the values are the
    primal ones; inside vmap they have the batch axis first.

    >>> import numpy as np
    >>> collect_taps(lambda x: tap("square", x * x) + 1.0)(np.float64(3.0))
    (np.float64(10.0), {'square': np.float64(9.0)})
    """
    @functools.wraps(function)
    def collecting(*args: Any, **kwargs: Any) -> tuple:
        leaves, structure = flatten(args)
        found: list = []

        def flat(*cells: Any) -> list:
            outputs, out_structure = flatten(function(*unflatten(structure, cells), **kwargs))
            found.append(out_structure)
            return outputs
        collector, outputs = collected(flat, current(), *leaves)
        return unflatten(found[0], outputs), collector.found
    return collecting
