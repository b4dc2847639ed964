"""Graph -> Program: simplify, fuse, schedule, plan memory; with the commit point for donated inputs.

Invariant: no step before the commit point writes a donated input, and none after it can fail. May import: L0-L3, the passes.
Read next: compile.py.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from msgspec import Struct

from ..core.graph import Graph, Literal, Var
from ..transforms.calls import inline
from .control import READY
from .fuse import Group, fuse, results_soon
from .loops import Program
from .lower import Failure, Lowering
from .memory import has_check, plan
from .schedule import Schedule
from .simplify import simplify
from .steps import leaves
from .views import Ref, fresh


class Built(Struct, frozen=True):
    """A program, what its failures mean, and the arrays behind its hidden inputs, in slot order."""

    program: Program
    graph: Graph
    failures: tuple[Failure, ...]
    hidden: tuple[np.ndarray, ...]


def build(graph: Graph, donated: dict[int, int] | None = None, signals: np.ndarray | None = None) -> Built:
    """The program of a graph. donated: input number -> the output number that replaces it in place; signals: words of a Signals."""
    graph = simplify(inline(graph))
    return _build(graph, donated or {}, True, signals) or _build(graph, donated or {}, False, signals)


def _build(graph: Graph, donated: dict[int, int], allow_late: bool, signals: np.ndarray | None) -> Built | None:
    late = frozenset(a for j in donated.values() if isinstance(a := graph.outputs[j], Var) and a not in graph.inputs)
    groups = fuse(graph, late if allow_late else frozenset())
    if signals is not None:
        groups = results_soon(groups)
    lowering = Lowering()
    slots = _declare(graph, lowering, donated)
    schedule = Schedule(graph, groups, lowering)
    for i, v in enumerate(graph.inputs):
        schedule.places[v] = fresh(("input", i), v.aval.dtype, v.aval.shape)
    fixed = _prescribe_outputs(graph, groups, schedule, donated)
    for group in groups:
        if not group.late:
            schedule.run(group)
    for j, atom in enumerate(graph.outputs):
        if j not in donated.values() and j not in fixed:
            lowering.node = None
            lowering.copy(schedule.place(atom), fresh(("output", j), atom.aval.dtype, atom.aval.shape))
    commit = _commit(graph, groups, schedule, donated)
    if any(map(has_check, leaves(lowering.steps[commit:]))):
        return None
    hidden = _hidden(graph, lowering, slots)
    if signals is not None:
        lowering.declare("signals", signals.dtype, READY // 8 + len(graph.outputs))
        slots["signals"], hidden = ("hidden", len(hidden)), (*hidden, signals)
    buffers, arena = plan(lowering, slots)
    program = Program(buffers, tuple(lowering.steps), commit, arena, tuple(range(len(lowering.failures))),
                      lowering.numbers.get("signals", -1))
    return Built(program, graph, tuple(lowering.failures), hidden)


def _declare(graph: Graph, lowering: Lowering, donated: dict[int, int]) -> dict[Any, tuple[str, int]]:
    slots: dict[Any, tuple[str, int]] = {}
    explicit = len(graph.inputs) - len(graph.captures)
    for i, v in enumerate(graph.inputs):
        lowering.declare(("input", i), v.aval.dtype, v.aval.size)
        slots["input", i] = ("input", i) if i < explicit else ("hidden", i - explicit)
    for j, atom in enumerate(graph.outputs):
        if j not in donated.values():
            lowering.declare(("output", j), atom.aval.dtype, atom.aval.size)
            slots["output", j] = ("output", j)
    return slots


def _hidden(graph: Graph, lowering: Lowering, slots: dict[Any, tuple[str, int]]) -> tuple[np.ndarray, ...]:
    """Captured arrays, then the literal arrays that some step reads."""
    arrays = [np.ascontiguousarray(c) for c in graph.captures]
    for key in lowering.buffers:
        if key[0] == "literal":
            _, dtype, shape, data = key
            slots[key] = ("hidden", len(arrays))
            arrays.append(np.frombuffer(data, dtype).reshape(shape))
    return tuple(arrays)


def _prescribe_outputs(graph: Graph, groups: list[Group], schedule: Schedule, donated: dict[int, int]) -> set[int]:
    """Let kernels write outputs where they belong; returns the outputs that need no copy."""
    made = {v for g in groups if g.kind != "view" and not g.late for n in g.all_nodes() for v in n.outs}
    fixed: set[int] = set()
    for j, atom in enumerate(graph.outputs):
        if j not in donated.values() and atom in made and atom not in schedule.targets:
            schedule.targets[atom] = fresh(("output", j), atom.aval.dtype, atom.aval.shape)
            fixed.add(j)
    return fixed


def _commit(graph: Graph, groups: list[Group], schedule: Schedule, donated: dict[int, int]) -> int:
    """The tail: late groups write donated inputs directly where no other late group still reads them, the rest is copied at the end."""
    lowering = schedule.lowering
    late = [g for g in groups if g.late]
    readers = _readers_of_buffers(late, schedule)
    homes = {("input", i): graph.outputs[j] for i, j in donated.items()}
    direct: set[Var] = set()
    for key, v in homes.items():
        home = fresh(key, v.aval.dtype, v.aval.shape)
        group = next((g for g in late if any(v in n.outs for n in g.nodes)), None)
        if group is not None and v not in direct and all(r == (group, home) for r in readers[key]):
            schedule.targets[v] = home
            direct.add(v)
    copies: list[tuple[Any, Ref]] = []
    for key, v in homes.items():
        home = fresh(key, v.aval.dtype, v.aval.shape)
        if schedule.targets.get(v) == home:
            continue
        if isinstance(v, Literal) or v in schedule.places:
            place = schedule.place(v)
            if place == home:
                continue
            lowering.node = None
            if isinstance(place, Ref) and place.buffer in homes:     # an input that this tail may overwrite: keep it first
                place = schedule.compact(place)
            copies.append((place, home))
        else:
            copies.append((v, home))
    commit = len(lowering.steps)
    for group in late:
        schedule.run(group)
    for source, home in copies:
        lowering.node = None
        lowering.copy(schedule.place(source) if isinstance(source, Var) else source, home)
    return commit


def _readers_of_buffers(late: list[Group], schedule: Schedule) -> dict[Any, list[tuple[Group, Ref]]]:
    """Who reads each buffer after the commit point, and as which view of it."""
    found: dict[Any, list[tuple[Group, Ref]]] = defaultdict(list)
    for g in late:
        for node in g.nodes:
            for atom in node.inputs:
                place = schedule.places.get(atom) if isinstance(atom, Var) else None
                if isinstance(place, Ref):
                    found[place.buffer].append((g, place))
    return found
