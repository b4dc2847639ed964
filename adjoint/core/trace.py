"""Tracing: the interpreter that records every operation as a Node of a Graph, constants too.

Invariant: a recorded graph closes over nothing: arrays over 64 bytes and values of enclosing transformations become captures, its last
inputs. May import: L0, aval, graph, interpreter. Read next: pretty.py, transforms/.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import MutationError, explain, user_location
from .aval import Aval, aval_of, is_weak_scalar
from .graph import Atom, Graph, Literal, Node, Var
from .interpreter import Interpreter, Tracer, current, interpreting

LITERAL_BYTES = 64
SUMMED_ELEMENTS = 1 << 18          # of a captured array, to notice that it was changed during the trace


class Tracing(Interpreter):
    """Records; performs nothing."""

    name = "a trace"

    def __init__(self, outer: Interpreter):
        super().__init__(outer)
        self.eager = False
        self.typing = ()                # a recorded body is one operation of its caller: types stop here
        self.nodes: list[Node] = []
        self.captured: dict[int, tuple[Var, Any]] = {}
        self.sums: dict[int, int] = {}

    def interpret(self, primitive: Any, args: tuple, params: dict) -> Any:
        atoms = tuple(map(self.atom, args))
        avals = primitive.out_avals(*[a.aval for a in atoms], **params)
        outs = tuple(map(Var, avals))
        self.nodes.append(Node(primitive, atoms, outs, params, effects_of(primitive, params), user_location()))
        tracers = tuple(Tracer(self, v, v.aval) for v in outs)
        return tracers if primitive.multiple else tracers[0]

    def atom(self, x: Any) -> Atom:
        """The variable or literal that stands for x; a large or outer value is captured."""
        if self.holds(x):
            return x.payload
        if is_weak_scalar(x):
            return Literal(x, aval_of(x))
        if not isinstance(x, Tracer):
            x = np.asarray(x)
            if x.nbytes <= LITERAL_BYTES:
                return Literal(x.copy(), aval_of(x))
            return self._capture(id(x), x)
        snapshot = freeze(x)
        return self._capture(id(snapshot.payload), snapshot)

    def _capture(self, key: int, x: Any) -> Var:
        if key not in self.captured:
            self.captured[key] = (Var(aval_of(x).strong()), x)
            if isinstance(x, np.ndarray):
                self.sums[key] = checksum(x)
        elif key in self.sums:
            self._check_unchanged(key)
        return self.captured[key][0]

    def _check_unchanged(self, key: int) -> None:
        x = self.captured[key][1]
        if checksum(x) != self.sums[key]:
            raise MutationError(explain(
                f"an array {aval_of(x)} was changed in place after the traced function had used it: the program would see its last value.",
                remedy="Use a copy, x * buf.copy(), or make the array inside: buf = adjoint.numpy.zeros(shape)."))

    def check_captured(self) -> None:
        """Raise MutationError if a captured array is not what it was when the trace first met it."""
        for key in self.sums:
            self._check_unchanged(key)


def checksum(x: np.ndarray) -> int:
    """A checksum of an array's bytes; of large arrays, of evenly spaced elements."""
    if x.size > SUMMED_ELEMENTS:
        x = x[tuple([slice(None, None, 1 + int((n - 1) / max(1.0, n * (SUMMED_ELEMENTS / x.size) ** (1 / x.ndim)))) for n in x.shape])]
    return zlib.crc32(np.ascontiguousarray(x))


def effects_of(primitive: Any, params: dict) -> frozenset[str]:
    """A primitive's own effects and those of the graphs among its parameters."""
    inner = [p.effects for p in params.values() if isinstance(p, Graph)]
    return primitive.effects.union(*inner) if inner else primitive.effects


def freeze(x: Any) -> Any:
    """x itself, or for a cell a second cell with the value it has now, which no later write reaches."""
    if isinstance(x, Tracer):
        x.owner.holds(x)
        return Tracer(x.owner, x.payload, x.aval)
    return x


def trace_graph(function: Callable[..., Sequence[Any]], avals: Sequence[Aval]) -> Graph:
    """The Graph of function(*tracers) -> list of leaves. Captures are the graph's last inputs (Graph.captures holds their values)."""
    tracing = Tracing(current())
    inputs = [Var(a) for a in avals]
    with interpreting(tracing, closing=True):
        outputs = function(*[Tracer(tracing, v, v.aval, argument=True) for v in inputs])
        atoms = [tracing.atom(x) for x in outputs]
        tracing.check_captured()
    captured = list(tracing.captured.values())
    return Graph([*inputs, *(v for v, _ in captured)], tracing.nodes, atoms, [x for _, x in captured])
