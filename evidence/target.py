"""A target: what was asked, how it is run in full, how its beginning is run again in seconds, and which sources it is made of.

Each module of this package that names a `TARGET` is one. `run` may take minutes; `quick` repeats the first steps of the first seed, and
must find the losses that the full run found there.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

NAMES = ("fashion_mnist", "gpt", "char_lstm", "ntm", "resnet20", "alexnet", "logistic_regression", "adam_divergence")
POINTS = 500


@dataclasses.dataclass(frozen=True)
class Figure:
    """A number that was asked for: found must be at least `least` and at most `most`; without a bound it is only reported."""

    name: str
    found: float
    least: float | None = None
    most: float | None = None
    unit: str = ""

    @property
    def reached(self) -> bool:
        """Whether the number is what was asked."""
        return math.isfinite(self.found) and (self.least is None or self.found >= self.least) and \
            (self.most is None or self.found <= self.most)

    @property
    def asked(self) -> str:
        """The bounds in words."""
        unit = f" {self.unit}" if self.unit else ""
        if self.least is not None and self.least == self.most:
            return f"exactly {self.least:,.6g}{unit}" if self.least % 1 else f"exactly {self.least:,.0f}{unit}"
        bounds = [f"{word} {bound:g}{unit}" for word, bound in (("at least", self.least), ("at most", self.most)) if bound is not None]
        return ", ".join(bounds) or "reported"


@dataclasses.dataclass(frozen=True)
class Curve:
    """Losses by step: one per step, or already thinned. name: what is drawn; seed: of the run."""

    name: str
    seed: int
    losses: Sequence[float]
    steps: Sequence[int] | None = None

    def thinned(self, points: int = POINTS) -> Curve:
        """At most `points` points of seven digits, each the mean of the losses up to its step since the one before."""
        count = len(self.losses)
        last = list(self.steps or range(1, count + 1))
        ends = [(k + 1) * count // points for k in range(points)] if count > points else list(range(1, count + 1))
        starts = [0, *ends[:-1]]
        means = [float(f"{math.fsum(self.losses[a:b]) / (b - a):.7g}") for a, b in zip(starts, ends, strict=True)]
        return dataclasses.replace(self, losses=means, steps=[last[b - 1] for b in ends])


@dataclasses.dataclass(frozen=True)
class Quick:
    """The beginning of a run: the first losses, and by how much (relative) another machine may differ."""

    losses: Sequence[float]
    tolerance: float = 1e-3


@dataclasses.dataclass(frozen=True)
class Picture:
    """A grey picture beside the curves: rows of numbers, each drawn from 0 (white) to its largest value (black)."""

    name: str
    rows: Any


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run has found. notes: anything else worth keeping, as JSON has it."""

    figures: Sequence[Figure]
    curves: Sequence[Curve]
    seeds: Sequence[int]
    quick: Quick
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)
    pictures: Sequence[Picture] = ()


Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Target:
    """See the module. folder: the part of the data folder that it reads, if any, and whether quick does too; sources: gives the objects
    it is made of; needs: packages beside the project's own that a full run takes."""

    name: str
    title: str
    asked: str
    recipe: str
    run: Callable[[Path], Result]
    quick: Callable[[Path], Quick]
    sources: Callable[[], Sequence[Any]]
    folder: str | None = None
    needs: tuple[str, ...] = ()
    quick_reads: bool = True


def target(name: str) -> Target:
    """The target of this name."""
    return importlib.import_module(f"evidence.{name}").TARGET


class Enough(Exception):
    """Ends a training from its progress function."""


def beginning(train: Callable[..., Any], *arguments: Any, most: int, **options: Any) -> list[float]:
    """The losses of the first steps of train(..., progress=): the schedule is that of the whole run, which then ends early."""
    losses: list[float] = []

    def progress(step: int, loss: float) -> None:
        losses.append(loss)
        if step == most:
            raise Enough
    try:
        train(*arguments, progress=progress, **options)
    except Enough:
        pass
    return losses


def saying(say: Say, name: str, most: int) -> Callable[[int, float], None]:
    """A progress function that says the mean loss about ten times."""
    recent: list[float] = []

    def progress(step: int, loss: float) -> None:
        recent.append(loss)
        if every(step, most):
            say(f"{name}, step {step} of {most}: loss {math.fsum(recent) / len(recent):.4f}")
            recent.clear()
    return progress


def every(step: int, most: int, lines: int = 10) -> bool:
    """Whether progress is said at this step: about `lines` times in all."""
    return step == most or step % max(1, most // lines) == 0
