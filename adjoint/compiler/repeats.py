"""Control flow becomes steps: the graphs of scan, while and cond are lowered in place, as regions of the same program.

Invariant: constants are read where they lie, sequences and collected results through windows, carried values alternate between the two
halves of one buffer. May import: L0-L3, fuse, lower, steps, views. Read next: schedule.py, sequence.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from msgspec import Struct

from ..core.graph import Atom, Graph, Node, Var
from .fuse import Group, fuse
from .loops import Operand
from .lower import Const, Lowering, Place
from .steps import Branch, Repeat
from .views import Ref, row_major

LAID_OUT = 1024          # elements from which an operand is laid out anew for a loop
HALF = 64                # bytes to whose multiples the halves of a carried value are padded


def lower_control(schedule: Any, node: Node) -> None:
    """Add the steps of a control node to the program."""
    {"scan": _scan, "while": _while, "cond": _cond}[node.primitive.lowering.construct](schedule, node)


def laid_out_once(lowering: Lowering, b: Operand, shape: tuple[int, int, int], dtype: np.dtype) -> Operand:
    """In a loop, the right operand (batch, k, n) of a product, if it comes from outside and its rows lie apart: with its rows
    consecutive, made before the loop. A product would bring them together again at every pass."""
    key = list(lowering.buffers)[b.buffer]
    batch, k, n = shape
    depth = lowering.depth[key]
    if depth >= len(lowering.enclosing) or b.strides[2] == 1 or n == 1 or k * n < LAID_OUT:
        return b
    if (b, shape) not in lowering.laid_out:
        row = n + (64 // dtype.itemsize if n * dtype.itemsize % 1024 == 0 else 0)        # rows of one column in different cache sets
        with lowering.outside(depth):
            made = lowering.temporary(dtype, (batch, k, row)).sliced(((0, batch, 1), (0, k, 1), (0, n, 1)))
            lowering.copy(Ref(key, dtype, shape, b.strides, b.offset), made)
        lowering.laid_out[b, shape] = Operand(lowering.number(made.buffer), 0, (k * row if b.strides[0] else 0, row, 1))
    return lowering.laid_out[b, shape]


class Region:
    """A graph being lowered inside another: `places` of its inputs are set before `run`."""

    def __init__(self, schedule: Any, graph: Graph):
        self.graph, self.lowering = graph, schedule.lowering
        self.groups = fuse(graph)
        self.inner = type(schedule)(graph, self.groups, self.lowering)

    def bind(self, variables: Sequence[Var], places: Sequence[Place]) -> None:
        self.inner.places.update(zip(variables, places, strict=True))

    def run(self, targets: Sequence[Ref]) -> None:
        """The steps, every output stored at its target."""
        copies = self._prescribe(targets)
        for group in self.groups:
            self.inner.run(group)
        for atom, target in copies:
            self.lowering.copy(self.inner.place(atom), target)

    def _prescribe(self, targets: Sequence[Ref]) -> list[tuple[Atom, Ref]]:
        """Let kernels store outputs where they belong; the others are copied."""
        made = {v: g for g in self.groups if g.kind not in ("view", "control") for n in g.all_nodes() for v in n.outs}
        copies = []
        for atom, target in zip(self.graph.outputs, targets, strict=True):
            if atom in made and atom not in self.inner.targets:
                self.inner.targets[atom] = target
            elif atom in made and _stores_twice(made[atom], atom):
                self.inner.also.setdefault(atom, []).append(target)
            else:
                copies.append((atom, target))
        return copies


def _stores_twice(group: Group, atom: Atom) -> bool:
    """Elementwise kernels, and epilogues, can store a value to several places."""
    return group.kind in ("map", "contract") and isinstance(atom, Var)


class Windows:
    """The windows that one Repeat moves."""

    def __init__(self, lowering: Lowering):
        self.lowering, self.numbers, self.depth = lowering, [], len(lowering.enclosing) + 1

    def _made(self, *window: Any) -> Any:
        """A new window. It belongs to the region inside the loop, so that nothing made of it is taken for a constant of the loop."""
        key = self.lowering.window(*window)
        self.lowering.depth[key] = self.depth
        self.numbers.append(self.lowering.number(key))
        return key

    def over(self, place: Place, extent: int, reverse: bool) -> Place:
        """Element number `pass` along the first axis of a place."""
        if isinstance(place, Const):
            return Const(place.value, place.dtype, place.shape[1:])
        step = place.strides[0]
        offset = place.offset + (extent - 1) * step if reverse else place.offset
        step = -step if reverse else step
        inner = Ref(place.buffer, place.dtype, place.shape[1:], place.strides[1:], offset)
        if step == 0 or extent <= 1:
            return inner
        start = 0 if step > 0 else -(extent - 1) * step
        reach = (extent - 1) * abs(step)
        key = self._made(place.buffer, place.dtype, self.lowering.size(place.buffer) - reach, start, step, 0)
        return Ref(key, place.dtype, inner.shape, inner.strides, offset - start)

    def halves(self, aval: Any) -> Carried:
        """A carried value, alternating between the halves of a buffer."""
        unit = max(1, HALF // aval.dtype.itemsize)
        size = -(-max(aval.size, 1) // unit) * unit
        both = self.lowering.temporary(aval.dtype, (2 * size,))
        strides, found = row_major(aval.shape), []
        for start in (0, size):
            key = self._made(both.buffer, aval.dtype, size, start, size - 2 * start, 2)
            found.append(Ref(key, aval.dtype, aval.shape, strides))
        return Carried(found[0], found[1], lambda number: Ref(both.buffer, aval.dtype, aval.shape, strides, size * (number % 2)))

    def history(self, aval: Any, extent: int, reverse: bool) -> Carried:
        """A carried value all of whose states are collected too: they lie behind one another in the order of time, one more than steps."""
        size, strides = aval.size, row_major(aval.shape)
        states = self.lowering.temporary(aval.dtype, (extent + 1, *aval.shape))
        step, found = -size if reverse else size, []
        for number in (0, 1):
            start = (extent - number if reverse else number) * size
            key = self._made(states.buffer, aval.dtype, size, start, step, 0)
            found.append(Ref(key, aval.dtype, aval.shape, strides))
        entry = lambda number: Ref(states.buffer, aval.dtype, aval.shape, strides, size * (extent - number if reverse else number))
        line = lambda first: Ref(states.buffer, aval.dtype, (extent, *aval.shape), row_major((extent, *aval.shape)), first * size)
        return Carried(found[0], found[1], entry, line(int(reverse)), line(int(not reverse)))


class Carried(Struct, frozen=True):
    """Where a carried value lies: for a pass that reads it, for the same pass to store the next one, after a number of passes; and, if its
    states are kept, the sequences of what the steps read and of what they stored."""

    now: Ref
    following: Ref
    after: Callable[[int], Ref]
    read: Ref | None = None
    stored: Ref | None = None


# ------------------------------------------------------------------------------------------------ the three constructs


def _scan(schedule: Any, node: Node) -> None:
    graph, lowering, params = node.params["graph"], schedule.lowering, node.params
    extent, consts, at = params["length"], params["consts"], params["consts"] + params["carries"]
    given = list(map(schedule.place, node.inputs))
    carried = node.outs[:params["carries"]]
    if extent == 0:
        _deliver(schedule, carried, given[consts:at])
        for v in node.outs[len(carried):]:
            schedule.target(v)
        return
    windows, region = Windows(lowering), Region(schedule, graph)
    collected = graph.outputs[len(carried):]
    kept = [x in collected or y in collected for x, y in zip(graph.inputs[consts:at], graph.outputs, strict=False)]
    states = [windows.history(v.aval, extent, params["reverse"]) if keep and v.aval.size else windows.halves(v.aval)
              for v, keep in zip(carried, kept, strict=True)]
    for state, place in zip(states, given[consts:at], strict=True):
        lowering.copy(place, state.after(0))
    lines = {atom: line for state, x, y in zip(states, graph.inputs[consts:at], graph.outputs, strict=False)
             for atom, line in ((x, state.read), (y, state.stored)) if line is not None}
    stacked = [(v, atom) for v, atom in zip(node.outs[len(carried):], collected, strict=True) if atom not in lines]
    ys = [schedule.target(v) for v, _ in stacked]
    region.graph = Graph(graph.inputs, graph.nodes, [*graph.outputs[:len(carried)], *(atom for _, atom in stacked)])
    with lowering.region() as steps:
        sequences = [windows.over(place, extent, params["reverse"]) for place in given[at:]]
        targets = [windows.over(y, extent, params["reverse"]) for y in ys]
        region.bind(graph.inputs, [*given[:consts], *(state.now for state in states), *sequences])
        region.run([*(state.following for state in states), *targets])
    lowering.add(Repeat(f"scan_{extent}", extent, tuple(windows.numbers), tuple(steps)))
    _deliver(schedule, carried, [state.after(extent) for state in states])
    from_lines = [(v, lines[atom]) for v, atom in zip(node.outs[len(carried):], collected, strict=True) if atom in lines]
    _deliver(schedule, [v for v, _ in from_lines], [line for _, line in from_lines])


def _deliver(schedule: Any, variables: Sequence[Var], places: Sequence[Place]) -> None:
    """Values that lie somewhere: copied only where another place is prescribed."""
    for v, place in zip(variables, places, strict=True):
        if v in schedule.targets:
            schedule.lowering.copy(place, schedule.target(v))
        else:
            schedule.places[v] = place


def _while(schedule: Any, node: Node) -> None:
    lowering, params = schedule.lowering, node.params
    tests, at = params["tests"], params["tests"] + params["consts"]
    given = list(map(schedule.place, node.inputs))
    windows = Windows(lowering)
    states = [windows.halves(v.aval) for v in node.outs]
    for state, place in zip(states, given[at:], strict=True):
        lowering.copy(place, state.after(0))
    now = [state.now for state in states]
    flag = lowering.temporary(np.dtype(np.bool_), ())
    with lowering.region() as test:
        region = Region(schedule, params["condition"])
        region.bind(params["condition"].inputs, [*given[:tests], *now])
        region.run([flag])
    with lowering.region() as body:
        region = Region(schedule, params["body"])
        region.bind(params["body"].inputs, [*given[tests:at], *now])
        region.run([state.following for state in states])
    outs = [schedule.target(v) for v in node.outs]
    with lowering.region() as after:
        for place, out in zip(now, outs, strict=True):
            lowering.copy(place, out)
    lowering.add(Repeat("while", None, tuple(windows.numbers), tuple(body), tuple(test), lowering.number(flag.buffer), tuple(after)))


def _cond(schedule: Any, node: Node) -> None:
    lowering = schedule.lowering
    predicate, *given = map(schedule.place, node.inputs)
    flag = lowering.temporary(np.dtype(np.bool_), ())
    lowering.copy(predicate, flag)
    outs = [schedule.target(v) for v in node.outs]
    for out in outs:                         # what a side stores there is no constant for a loop inside it
        lowering.depth[out.buffer] = max(lowering.depth[out.buffer], len(lowering.enclosing) + 1)
    sides = []
    for name in ("on_true", "on_false"):
        with lowering.region() as steps:
            region = Region(schedule, node.params[name])
            region.bind(node.params[name].inputs, given)
            region.run(outs)
        sides.append(tuple(steps))
    lowering.add(Branch("cond", lowering.number(flag.buffer), *sides))


