"""Adam that goes to the worst point of a convex problem, and AMSGrad that finds the best."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from examples import adam_diverges as example

from .parallel import say
from .target import Curve, Figure, Quick, Result, Target

STEPS, QUICK_STEPS = 6000, 60
ENDS = {"Adam": 1.0, "AMSGrad": -1.0}
NEAR = 0.05             # AMSGrad goes on to step about its end by alpha / sqrt t


def run(folder: Path, *, steps: int = STEPS) -> Result:
    """Every rule to the end: those of the theorem and those of PyTorch."""
    figures, curves, first = [], [], []
    for name, rule in example.rules().items():
        course = [float(x) for x in example.course(rule, steps)]
        end = ENDS[name.split(",")[0]]
        figures.append(Figure(f"{name}: last x", course[-1], least=max(-1.0, end - NEAR), most=min(1.0, end + NEAR)))
        curves.append(Curve(name, 0, course))
        first = first or course[:QUICK_STEPS]
        say(f"{name}: x = {course[-1]:+.6f}")
    return Result(figures, curves, (0,), Quick(first, 1e-9))


def quick(folder: Path) -> Quick:
    """The first steps of Adam."""
    return Quick([float(x) for x in example.course(example.rules()["Adam"], QUICK_STEPS)], 1e-9)


def sources() -> list[Any]:
    """The rules and the course."""
    return [example.rules(), example.rules, example.course]


TARGET = Target(
    "adam_divergence", "Adam diverges, AMSGrad does not (x by step)", "Adam ends at +1, AMSGrad at -1",
    "f_t = C x in every third step, else -x, on [-1, 1], C = 3, beta1 = 0, beta2 = 1 / (1 + C^2), rate 0.5 / sqrt t, from x = 0; with and "
    "without the correction of the second moment's start. The curves show x, not a loss.",
    run, quick, sources, quick_reads=False)
