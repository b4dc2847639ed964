"""Steps that hold steps: Repeat and Branch, the windows that a Repeat moves over its arrays, and walks through such programs.

A window is a buffer without memory of its own: its first element lies in another buffer, at a place that the pass of a Repeat decides.
So a body addresses "this step's slice" as it addresses any array. Invariant: every place that a window takes lies inside its base.
May import: loops. Read next: repeats.py (how they are made), sequence.py (how they run).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from msgspec import Struct

from .loops import Buffer, Program

UNKNOWN_PASSES = 16          # what an estimate assumes of a loop that runs while a condition holds


class Window(Buffer, frozen=True):
    """`size` elements of buffer `base`, from element start + step * (pass % period, or pass itself where period is 0)."""

    base: int = -1
    start: int = 0
    step: int = 0
    period: int = 0

    def place(self, number: int) -> int:
        """The first element in pass `number`."""
        return self.start + self.step * (number % self.period if self.period else number)


class Repeat(Struct, frozen=True):
    """Passes 0, 1, ...: move `windows` (numbers of buffers, bases before windows on them), run `test`, then `body`.

    extent: how many passes, or None: as long as the bool in buffer `flag`, which `test` stores, is true. Behind the last pass the
    windows are moved once more, and `after` runs.
    """

    name: str
    extent: int | None
    windows: tuple[int, ...]
    body: tuple[Any, ...]
    test: tuple[Any, ...] = ()
    flag: int = -1
    after: tuple[Any, ...] = ()

    @property
    def passes(self) -> int:
        """The number of passes, or a guess."""
        return UNKNOWN_PASSES if self.extent is None else self.extent


class Branch(Struct, frozen=True):
    """Run `on_true` if the bool in buffer `flag` is true, else `on_false`."""

    name: str
    flag: int
    on_true: tuple[Any, ...]
    on_false: tuple[Any, ...]


def parts(step: Any) -> tuple[tuple[Any, ...], ...]:
    """The lists of steps inside a step; none for a kernel or a product."""
    if isinstance(step, Repeat):
        return step.test, step.body, step.after
    return (step.on_true, step.on_false) if isinstance(step, Branch) else ()


def leaves(steps: Iterable[Any]) -> Iterator[Any]:
    """Every kernel and product, in order."""
    for step in steps:
        inside = parts(step)
        if not inside:
            yield step
        for part in inside:
            yield from leaves(part)


def weighted(steps: Iterable[Any], times: float = 1.0) -> Iterator[tuple[Any, float]]:
    """Every kernel and product, and how often it runs (of a branch, either side half as often)."""
    for step in steps:
        inside = parts(step)
        if not inside:
            yield step, times
        factor = times * (step.passes if isinstance(step, Repeat) else 0.5)
        for part in inside:
            yield from weighted(part, factor)


def is_endless(steps: Iterable[Any]) -> bool:
    """Does a loop run as long as a condition holds, so that nobody can say how long?"""
    return any(getattr(step, "extent", 0) is None or any(map(is_endless, parts(step))) for step in steps)


def listed(steps: Iterable[Any], depth: int = 0) -> Iterator[tuple[int, Any]]:
    """Every step with its depth, for reading."""
    for step in steps:
        yield depth, step
        for part in parts(step):
            yield from listed(part, depth + 1)


def roots(buffers: tuple[Buffer, ...], number: int) -> tuple[int, ...]:
    """A buffer, and what lies under it: the base of a window, the base of that."""
    found = [number]
    while isinstance(buffers[found[-1]], Window):
        found.append(buffers[found[-1]].base)
    return tuple(found)


def disjoint_windows(x: Buffer, y: Buffer) -> bool:
    """True for two windows of a loop that share no element in any pass: the states of a carried value before and after it."""
    if not (isinstance(x, Window) and isinstance(y, Window)) or x.base != y.base or x.period != y.period:
        return False
    if not x.period:
        return x.step == y.step and (x.start + x.size <= y.start or y.start + y.size <= x.start)
    return all(x.place(i) + x.size <= y.place(i) or y.place(i) + y.size <= x.place(i) for i in range(x.period))


def overlap(buffers: tuple[Buffer, ...], first: int, second: int) -> bool:
    """May two buffers share memory? Arrays of the caller that are written share none with others; the entry sees to it."""
    x, y = buffers[first], buffers[second]
    if x.role == "window" or y.role == "window":
        if first == second or disjoint_windows(x, y):
            return first == second
        return overlap(buffers, roots(buffers, first)[-1], roots(buffers, second)[-1])
    if first == second or x.role != "arena" or y.role != "arena":
        return first == second
    return x.offset < y.offset + y.size * y.dtype.itemsize and y.offset < x.offset + x.size * x.dtype.itemsize


def check_windows(program: Program) -> str:
    """What is wrong with the windows of a program, or an empty string."""
    return _check(program, program.steps)


def _check(program: Program, steps: Iterable[Any]) -> str:
    for step in steps:
        if isinstance(step, Repeat):
            last = None if step.extent is None else step.extent - (not step.after)
            for number in step.windows:
                window = program.buffers[number]
                base = program.buffers[window.base]
                if last is None and not window.period and window.step:
                    return f"{step.name}: a window moves on without end"
                ends = range(window.period) if window.period else (0, max(last or 0, 0))
                if any(window.place(i) < 0 or window.place(i) + window.size > base.size for i in ends):
                    return f"{step.name}: window {number} leaves buffer {window.base}"
        for part in parts(step):
            found = _check(program, part)
            if found:
                return found
    return ""
