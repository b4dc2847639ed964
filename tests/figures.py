"""Figures that the mission's tests assert: each assertion also proves that it can fail, and notes what it has seen.

A test marked `@pytest.mark.mission(row)` takes the fixture `figure` and asserts numbers with it:

    figure.equal(found, expected, rel=1e-12, abs=0.0)     |found - expected| <= abs + rel |expected|, element by element
    figure.at_most(found, limit)                          found <= limit, and the limit is no more than 10 times as large
    figure.at_least(found, limit)                         found >= limit, and no more than 10 times as large

Each call then puts mutants in the place of the expected figure (off by little more than the tolerance, zero, negated, doubled,
its elements in another order; a limit one percent past what was found) and demands that the same comparison refuses each.
So a tolerance as wide as the figure itself, a comparison with NaN, or a bound that anything would meet fails at once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

BEYOND = 2.5            # a mutant lies this many tolerances off: what was found, at most one off, is then clearly refused
WIDEST_ZERO = 1e-3      # beside an expected zero there is nothing to measure a tolerance by


@dataclasses.dataclass(frozen=True)
class Note:
    """One asserted figure: the test, its rows, what was compared and with what."""

    test: str
    rows: tuple[int, ...]
    relation: str
    found: np.ndarray
    expected: np.ndarray


NOTES: list[Note] = []


def near(found: np.ndarray, expected: np.ndarray, tolerance: np.ndarray) -> bool:
    """Whether |found - expected| <= tolerance in every element; false at a NaN, and for shapes that differ."""
    with np.errstate(invalid="ignore"):
        return found.shape == expected.shape and bool(np.all((np.abs(found - expected) <= tolerance) | (found == expected)))


def mutants(expected: np.ndarray, tolerance: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Figures that are wrong, each with what is wrong with it."""
    step = np.maximum(BEYOND * tolerance, np.spacing(np.abs(expected)))
    yield "raised by little more than the tolerance", expected + step
    yield "lowered by little more than the tolerance", expected - step
    for place in range(min(expected.size, 3)):
        moved = expected.copy()
        moved.flat[place] += step.flat[place]
        yield f"element {place} raised by little more than the tolerance", moved
    if np.any(expected != 0.0):
        yield "zero", np.zeros_like(expected)
        yield "negated", -expected
        yield "doubled", 2.0 * expected
    rolled = np.roll(expected.ravel(), 1).reshape(expected.shape)
    if not near(rolled, expected, 2.0 * tolerance):
        yield "its elements in another order", rolled


def numbers(value: Any) -> np.ndarray:
    """The value in float64 (integers and float32 fit), as an array of its shape."""
    return np.array(value, np.float64)


def past(worst: float, share: float) -> float:
    """The limit that a mutant has: past what was found by that share of it."""
    return worst + share * (math.fabs(worst) or 1.0)


class Figure:
    """What the fixture `figure` gives to one test."""

    def __init__(self, test: str, rows: tuple[int, ...]) -> None:
        self.test, self.rows, self.count = test, rows, 0

    def equal(self, found: Any, expected: Any, rel: float = 1e-12, abs: float = 0.0) -> None:
        """Assert |found - expected| <= abs + rel |expected| in every element, and that wrong figures would be refused."""
        found, expected = numbers(found), numbers(expected)
        assert found.shape == expected.shape, f"found shape {found.shape}, expected {expected.shape}"
        assert found.size and np.all(np.isfinite(expected)), f"no figure to compare with: {expected}"
        tolerance = abs + rel * np.abs(expected)
        if not near(found, expected, tolerance):
            worst = np.unravel_index(np.argmax(np.nan_to_num(np.abs(found - expected) - tolerance, nan=np.inf)), found.shape)
            raise AssertionError(f"found {found[worst]!r}, expected {expected[worst]!r} within {tolerance[worst]:.3g}"
                                 + (f" (element {tuple(map(int, worst))})" if worst else ""))
        assert np.any(expected != 0.0) or abs <= WIDEST_ZERO, f"a tolerance of {abs} beside an expected 0 says nothing"
        for wrong, mutant in mutants(expected, tolerance):
            assert not near(found, mutant, tolerance), f"the figure may as well be {wrong}: tolerance {np.max(tolerance):.3g} is too wide"
        self._note("equal", found, expected)

    def at_most(self, found: Any, limit: float, slack: float = 10.0) -> None:
        """Assert found <= limit (each element), and limit <= slack * the largest found: a bound that anything meets is none."""
        found, worst = numbers(found), float(np.max(found))
        assert math.isfinite(limit) and worst <= limit, f"found {worst!r}, expected at most {limit!r}"
        assert not worst <= past(worst, -0.01), "a limit one percent lower would be met as well"
        ratio = limit / worst if worst > 0.0 else math.inf
        assert ratio <= slack, f"found {worst!r} is far below the limit {limit!r}: a tighter limit, or slack={ratio:.2g} and why"
        self._note("at most", found, numbers(limit))

    def at_least(self, found: Any, limit: float, slack: float = 10.0) -> None:
        """Assert found >= limit (each element), and the smallest found <= slack * limit."""
        found, worst = numbers(found), float(np.min(found))
        assert math.isfinite(limit) and worst >= limit, f"found {worst!r}, expected at least {limit!r}"
        assert not worst >= past(worst, 0.01), "a limit one percent higher would be met as well"
        ratio = worst / limit if limit > 0.0 else math.inf
        assert ratio <= slack, f"found {worst!r} is far above the limit {limit!r}: a tighter limit, or slack={ratio:.2g} and why"
        self._note("at least", found, numbers(limit))

    def _note(self, relation: str, found: np.ndarray, expected: np.ndarray) -> None:
        self.count += 1
        NOTES.append(Note(self.test, self.rows, relation, found, expected))
