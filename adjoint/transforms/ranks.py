"""The distributed trace: a function as every rank runs it, with each value typed varying (another on each rank) or replicated (the same).

Where a replicated value meets a varying one, `replicate_to_varying` is put between; its transpose is a sum over the ranks, so gradients of
replicated parameters come out summed. Invariant: the cotangent of a replicated value is replicated: equal on all ranks. Types exist while a
function runs; a graph has only the rows that they have put in. May import: L0-L2. Read next: distributed/values.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from ..core.aval import aval_of
from ..core.graph import Graph
from ..core.interpreter import Interpreter, Tracer, current, enter, interpreting, leave
from ..core.primitive import TABLE, bind
from ..core.trace import freeze
from ..errors import CollectiveError, TreeError, explain
from ..primitives.collective import REPLICATED, VARYING, Ranks
from ..tree import flatten, is_array, unflatten


class PerRank(Interpreter):
    """payload = (value, whether it varies over the ranks)."""

    name = "per_rank"

    def __init__(self, outer: Interpreter, ranks: Ranks):
        super().__init__(outer)
        self.ranks, self.row = ranks, TABLE["replicate_to_varying"]
        self.typing = (*self.typing, self)
        self.made: dict[int, tuple[Any, Any]] = {}

    def underlying(self, x: Tracer) -> Any:
        return x.payload[0]

    def differentiates(self, x: Tracer) -> bool:
        value = x.payload[0]
        return isinstance(value, Tracer) and value.owner.differentiates(value)

    def varies(self, x: Any) -> bool:
        """Whether a value of this trace, or of a transformation inside of it, varies."""
        while isinstance(x, Tracer):
            if x.owner is self:
                return x.payload[1]
            x = x.payload[0] if isinstance(x.payload, tuple) else x.payload
        return False

    def to_vary(self, primitive: Any, xs: Sequence, params: dict) -> list[int]:
        """Numbers of the replicated arguments that must vary before this operation; an ordinary one wants all arguments alike."""
        flags = list(map(self.varies, xs))
        if params.get("ranks") == self.ranks:
            if primitive.traits["takes"] == REPLICATED and any(flags):
                raise wrong_type(primitive.name, aval_of(xs[0]), REPLICATED)
            wanted = primitive.traits["takes"] == VARYING
        else:
            self._refuse_typed_graphs(primitive, params)
            wanted = any(flags)
        return [i for i, flag in enumerate(flags) if not flag] if wanted else []

    def vary(self, x: Any) -> Any:
        """x, a replicated value, as a varying one."""
        return bind(self.row, x, ranks=self.ranks)

    def typed_like(self, t: Any, x: Any) -> Any:
        """t, varying if x is."""
        return self.vary(t) if t is not None and self.varies(x) and not self.varies(t) else t

    def interpret(self, primitive: Any, args: tuple, params: dict) -> Any:
        cells = [a if self.holds(a) else Tracer(self, (freeze(a), False), aval_of(a)) for a in args]
        replicated = self.to_vary(primitive, cells, params)
        gives = primitive.traits.get("gives") if params.get("ranks") == self.ranks else None
        varying = gives == VARYING if gives else any(map(self.varies, cells))
        token = enter(self.outer)
        try:
            values = [self._made_to_vary(c.payload[0]) if i in replicated else c.payload[0] for i, c in enumerate(cells)]
            y = self.outer.interpret(primitive, tuple(values), params)
        finally:
            leave(token)
        if primitive.multiple:
            return tuple([Tracer(self, (v, varying), aval_of(v)) for v in y])
        return Tracer(self, (y, varying), aval_of(y))

    def _made_to_vary(self, value: Any) -> Any:
        """A value of the enclosing interpreter, each passed through the row once; where nothing watches, the value is all there is."""
        if not isinstance(value, Tracer) or value.aval.dtype.kind != "f":
            return value
        if id(value) not in self.made:
            self.made[id(value)] = value, bind(self.row, value, ranks=self.ranks)
        return self.made[id(value)][1]

    def _refuse_typed_graphs(self, primitive: Any, params: dict) -> None:
        """A recorded body with collectives knows its own types, which this trace cannot see."""
        if any(isinstance(p, Graph) and _mentions(p, self.ranks) for p in params.values()):
            raise CollectiveError(explain(f"{primitive.name}: a function with collectives was recorded inside of per_rank.",
                                          remedy="Put per_rank inside: compile(per_rank(f, world)), not per_rank(compile(f), world)."))


def _mentions(graph: Graph, ranks: Ranks) -> bool:
    return any(node.params.get("ranks") == ranks or any(isinstance(p, Graph) and _mentions(p, ranks) for p in node.params.values())
               for node in graph.nodes)


def wrong_type(name: str, found: Any, wanted: str) -> CollectiveError:
    """The error for a collective of a value of the other type."""
    other = VARYING if wanted == REPLICATED else REPLICATED
    remedy = ("Sum it first: all_reduce(x, world)." if wanted == REPLICATED else
              "Use it as it is: all ranks have it. If each rank's copy counts by itself, write replicate_to_varying(x, world) first.")
    return CollectiveError(explain(f"{name}: found a {other} value {found}, expected a {wanted} one.", remedy=remedy))


def typing_of(ranks: Ranks) -> PerRank | None:
    """The distributed trace over these ranks that is running, if one is."""
    return next((each for each in reversed(current().typing) if each.ranks == ranks), None)


def per_rank(function: Callable, ranks: Ranks, varying: Any) -> Callable:
    """The function as each rank runs it; see distributed.per_rank, which makes `ranks` of a communicator."""
    @functools.wraps(function)
    def run(*args: Any) -> Any:
        interpreter = PerRank(current(), ranks)
        lifted = []
        for arg, flags in zip(args, _flags(varying, args), strict=True):
            leaves, structure = flatten(arg)
            cells = [Tracer(interpreter, (freeze(x), flag), aval_of(x), argument=True) if flag or is_array(x) else x
                     for x, flag in zip(leaves, flags, strict=True)]
            lifted.append(unflatten(structure, cells))
        with interpreting(interpreter, closing=True):
            outputs, structure = flatten(function(*lifted))
            values = [x.payload[0] if interpreter.holds(x) else x for x in outputs]
        return unflatten(structure, values)
    return run


def _flags(varying: Any, args: tuple) -> list[list[bool]]:
    """For every leaf of every argument whether it varies."""
    if not isinstance(varying, tuple):
        varying = (varying,) * len(args)
    if len(varying) != len(args):
        raise TreeError(explain(f"per_rank: varying has {len(varying)} entries, the call has {len(args)} arguments.",
                                remedy="Give True, False or a list by leaf for each argument."))
    found = []
    for arg, flags in zip(args, varying, strict=True):
        count = len(flatten(arg)[0])
        found.append([flags] * count if isinstance(flags, bool) else list(flags))
        if len(found[-1]) != count:
            raise TreeError(explain(f"per_rank: {len(found[-1])} types for an argument of {count} leaves.",
                                    remedy="Give True, False, or a list with one of them for each leaf."))
    return found
