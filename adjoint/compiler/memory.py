"""The memory plan: temporaries share one arena, each alive from the step that first writes it to the step that last reads it.

Invariant: two buffers alive at the same step never overlap; offsets are multiples of 64 bytes. May import: loops, lower. Read next:
pipeline.py.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator
from typing import Any

from .lifetimes import Lifetimes
from .loops import Buffer, Check, Contraction, Convolution, Fold, Foreign, Kernel, Load, Loop, Statement, Store
from .lower import Lowering
from .steps import Window

ALIGNMENT = 64


def walk(statements: Iterable[Statement]) -> Iterator[Statement]:
    """Every statement, loops entered; iterative so that depth costs nothing."""
    pending = list(statements)
    while pending:
        statement = pending.pop()
        yield statement
        if isinstance(statement, (Loop, Fold)):
            pending.extend(statement.body)


def touched(step: Kernel | Contraction | Convolution) -> set[int]:
    """The buffers that a step reads or writes."""
    body = step.body if isinstance(step, Kernel) else step.epilogue
    found = {s.buffer for s in walk(body) if isinstance(s, (Load, Store))}
    found |= {place[0] for s in walk(body) if isinstance(s, Foreign) for place in s.places}
    return found if isinstance(step, Kernel) else found | {step.a.buffer, step.b.buffer}


def written(step: Kernel | Contraction | Convolution) -> set[int]:
    """The buffers that a step may write."""
    body = step.body if isinstance(step, Kernel) else step.epilogue
    found = {s.buffer for s in walk(body) if isinstance(s, Store)}
    return found | {place[0] for s in walk(body) if isinstance(s, Foreign) for place in s.places}


def has_check(step: Kernel | Contraction | Convolution) -> bool:
    return isinstance(step, Kernel) and any(isinstance(s, (Check, Foreign)) for s in walk(step.body))


def arrange(sizes: dict[int, int], ranges: dict[int, tuple[int, int]]) -> tuple[dict[int, int], int]:
    """Offsets of the buffers (bytes, by number) and the arena's size: largest first, each at the lowest place free over its life."""
    placed: list[tuple[int, int, int, int]] = []                    # (begin, end, first, last), in order
    offsets: dict[int, int] = {}
    for b in sorted(sizes, key=lambda b: (-sizes[b], b)):
        size = -(-max(sizes[b], 1) // ALIGNMENT) * ALIGNMENT
        first, last = ranges.get(b, (0, 0))
        at = 0
        for begin, end, f, l in placed:
            if f <= last and first <= l and begin < at + size and at < end:
                at = end
        offsets[b] = at
        insort(placed, (at, at + size, first, last))
    return offsets, max((end for _, end, _, _ in placed), default=0)


def plan(lowering: Lowering, slots: dict[Any, tuple[str, int]]) -> tuple[tuple[Buffer, ...], int]:
    """The program's buffers: those in `slots` have a role and a number there; all others share the arena."""
    bases = {lowering.numbers[k]: base for k, (base, *_) in lowering.windows.items()}
    ranges = Lifetimes(lowering.steps, touched, bases).ranges
    sizes = {lowering.numbers[k]: d.itemsize * n for k, (d, n) in lowering.buffers.items() if k not in slots and k not in lowering.windows}
    offsets, total = arrange(sizes, ranges)
    buffers = []
    for key, (dtype, size) in lowering.buffers.items():
        if key in lowering.windows:
            buffers.append(Window(dtype, size, "window", 0, 0, *lowering.windows[key]))
            continue
        role, slot = slots.get(key, ("arena", 0))
        buffers.append(Buffer(dtype, size, role, slot, offsets.get(lowering.numbers[key], 0)))
    return tuple(buffers), total
