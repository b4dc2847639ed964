"""How long each buffer of a program lives: from the step that first writes it to the step that last reads it, loops entered.

Invariant: what a loop reads of an earlier pass, or from outside, lives through all of the loop. May import: steps. Read next: memory.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from .steps import Branch, Repeat, leaves, parts

Range = tuple[int, int]


class Lifetimes:
    """Positions of the steps in order of execution; `ranges` by buffer number."""

    def __init__(self, steps: Iterable[Any], touched: Callable[[Any], set[int]], bases: dict[int, int]):
        self.touched, self.bases = touched, bases
        self.ranges: dict[int, Range] = {}
        self.regions: list[tuple[Range, set[int]]] = []          # inner ones first: a span, and what must live through all of it
        self.count = 0
        self._walk(steps)
        for span, whole in self.regions:
            for number, (first, last) in self.ranges.items():
                meets = first <= span[1] and span[0] <= last
                if meets and (number in whole or first < span[0] or span[1] < last):
                    self.ranges[number] = min(first, span[0]), max(last, span[1])

    def _walk(self, steps: Iterable[Any]) -> None:
        for step in steps:
            if not isinstance(step, (Repeat, Branch)):
                self._touch(self.touched(step))
                continue
            begin = self.count
            self._touch({step.flag} - {-1})
            for part in parts(step):
                self._walk(part)
            self._touch({step.flag} - {-1})                       # other threads may still have to read it
            self.regions.append(((begin, self.count - 1), self._whole(step)))

    def _whole(self, step: Repeat | Branch) -> set[int]:
        """Buffers that several passes share."""
        return {base for number in step.windows for base in self._under(number)} if isinstance(step, Repeat) else set()

    def _under(self, number: int) -> list[int]:
        found = []
        while number in self.bases:
            number = self.bases[number]
            found.append(number)
        return found

    def _touch(self, numbers: set[int]) -> None:
        for number in numbers.union(*(self._under(n) for n in numbers)):
            first, _ = self.ranges.get(number, (self.count, 0))
            self.ranges[number] = first, self.count
        self.count += 1


def checks(steps: Iterable[Any], has_check: Callable[[Any], bool]) -> bool:
    """Can any kernel inside these steps stop the program?"""
    return any(has_check(step) for step in leaves(steps))
