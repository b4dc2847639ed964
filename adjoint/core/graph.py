"""The program as data: a Graph is typed, in single assignment, immutable, printable, hashable, and closes over nothing.

Invariant: `Graph.check()` holds for every graph that a pass returns. Source locations are outside hash, equality and text.
May import: L0, aval. Read next: trace.py, pretty.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .aval import Aval

NO_EFFECTS: frozenset[str] = frozenset()


class Var:
    """A value of a graph; its identity is its name."""

    __slots__ = ("aval",)

    def __init__(self, aval: Aval):
        self.aval = aval


class Literal:
    """A small constant of a graph: a Python scalar (weak) or an array of at most 64 bytes."""

    __slots__ = ("aval", "value")

    def __init__(self, value: Any, aval: Aval):
        self.value, self.aval = value, aval

    def key(self) -> tuple:
        data = self.value.tobytes() if isinstance(self.value, (np.ndarray, np.generic)) else repr(self.value)
        return ("literal", self.aval.shape, self.aval.dtype.str, self.aval.weak, data)


Atom = Var | Literal


@dataclass(frozen=True, eq=False, slots=True)
class Node:
    """outs = primitive(inputs, **params); `where` is the user's file:line."""

    primitive: Any
    inputs: tuple[Atom, ...]
    outs: tuple[Var, ...]
    params: dict[str, Any]
    effects: frozenset[str] = NO_EFFECTS
    where: str = field(default="")


class Graph:
    """inputs, then nodes in order, then outputs. `captures` are the arrays that the last inputs stand for (hidden inputs)."""

    __slots__ = ("_key", "captures", "inputs", "nodes", "outputs")

    def __init__(self, inputs: Iterable[Var], nodes: Iterable[Node], outputs: Iterable[Atom], captures: Iterable[Any] = ()):
        self.inputs, self.nodes, self.outputs = tuple(inputs), tuple(nodes), tuple(outputs)
        self.captures, self._key = tuple(captures), None

    @property
    def key(self) -> str:
        """A hexadecimal name of the program: equal for graphs that differ only in variables' identity and source lines."""
        if self._key is None:
            self._key = hashlib.sha256(repr(self._canonical()).encode()).hexdigest()
        return self._key

    def _canonical(self) -> tuple:
        number = {v: i for i, v in enumerate(self.inputs)}
        read = lambda a: a.key() if isinstance(a, Literal) else number[a]
        nodes = []
        for node in self.nodes:
            inputs = tuple(map(read, node.inputs))
            for out in node.outs:
                number[out] = len(number)
            nodes.append((node.primitive.name, inputs, tuple(map(_aval_key, node.outs)), param_key(node.params),
                          tuple(sorted(node.effects))))
        return tuple(map(_aval_key, self.inputs)), tuple(nodes), tuple(map(read, self.outputs)), len(self.captures)

    @property
    def effects(self) -> frozenset[str]:
        """The effects of all nodes."""
        return NO_EFFECTS.union(*(node.effects for node in self.nodes))

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Graph) and self.key == other.key)

    def check(self) -> Graph:
        """This graph, or AssertionError naming the node that breaks the rules of the language."""
        seen = set(self.inputs)
        for k, node in enumerate(self.nodes):
            for atom in node.inputs:
                assert isinstance(atom, Literal) or atom in seen, f"node {k} ({node.primitive.name}) reads a value not yet defined"
            found = node.primitive.out_avals(*[a.aval for a in node.inputs], **node.params)
            stated = tuple(v.aval for v in node.outs)
            assert tuple(a.strong() for a in found) == tuple(a.strong() for a in stated), \
                f"node {k} ({node.primitive.name}) states {', '.join(map(str, stated))}, its rule says {', '.join(map(str, found))}"
            assert not seen & set(node.outs), f"node {k} ({node.primitive.name}) defines a value twice"
            seen.update(node.outs)
        for atom in self.outputs:
            assert isinstance(atom, Literal) or atom in seen, "an output is not defined"
        return self

    def evaluate(self, bind: Callable, *args: Any) -> list[Any]:
        """The outputs for these inputs; each node is performed by `bind(primitive, *values, **params)`."""
        values: dict[Var, Any] = dict(zip(self.inputs, (*args, *self.captures), strict=True))
        read = lambda a: a.value if isinstance(a, Literal) else values[a]
        for node in self.nodes:
            found = bind(node.primitive, *map(read, node.inputs), **node.params)
            for var, value in zip(node.outs, found if node.primitive.multiple else (found,), strict=True):
                values[var] = value
        return list(map(read, self.outputs))

    def __str__(self) -> str:
        from_pretty = _PRINTERS[0]
        return from_pretty(self)

    def table(self) -> str:
        """The forward primal trace and the reverse adjoint trace, line by line (graphs of `trace(f)(x)`)."""
        raise TypeError("a table needs the values of a trace: use trace(f)(x).table()")


_PRINTERS: list[Callable[[Graph], str]] = []


_THEIR_OWN_KEYS = frozenset((int, float, bool, str, type(None)))          # most parameters


def _aval_key(v: Var) -> tuple:
    return v.aval.shape, v.aval.dtype.str, v.aval.weak


def param_key(value: Any) -> Any:
    """A printable, order-free key of a parameter; functions count by identity, graphs by their own key."""
    if type(value) in _THEIR_OWN_KEYS:
        return value
    if isinstance(value, Graph):
        return ("graph", value.key)
    if isinstance(value, dict):
        return tuple((k, param_key(v)) for k, v in sorted(value.items()))
    if isinstance(value, (tuple, list)):
        return tuple(map(param_key, value))
    if isinstance(value, np.ndarray):
        return ("array", value.shape, value.dtype.str, value.tobytes())
    if callable(value) and not isinstance(value, type):
        return ("function", getattr(value, "__qualname__", "?"), id(value))
    return value
