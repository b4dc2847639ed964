"""Logistic regression against scikit-learn: wdbc with two classes, optdigits / 16 with ten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from adjoint.data import load_digits, load_table
from examples import logistic_regression as example

from .parallel import say
from .target import Curve, Figure, Quick, Result, Target

QUICK_STEPS = 3


def digits() -> tuple[np.ndarray, np.ndarray]:
    """The training digits in float64."""
    data = load_digits()
    return data.train_x.astype(np.float64), data.train_y


def problems(folder: Path) -> list[tuple[str, np.ndarray, np.ndarray, int]]:
    """(name, x, y, classes): features as they are, pixels as k / 16; float64; y has signs where there are two classes."""
    table = load_table("wdbc", folder)
    return [("wdbc", table.x, np.where(table.y == 1, 1.0, -1.0), 2),
            ("optdigits / 16", *digits(), 10)]


def run(folder: Path) -> Result:
    """Both problems to the end, and scikit-learn's answers at tolerance 1e-12."""
    from sklearn.linear_model import LogisticRegression
    figures, curves, notes = [], [], {}
    for name, x, y, classes in problems(folder):
        ours = example.fit(x, y, classes)
        solver = "newton-cholesky" if classes == 2 else "lbfgs"
        peer = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-12, max_iter=100_000, solver=solver).fit(x, y)
        theirs = float(example.objective(peer.coef_, x, y, 1.0))
        figures.append(Figure(f"{name}: relative difference of the objectives", abs(ours.objectives[-1] - theirs) / theirs, most=1e-6))
        curves.append(Curve(name, 0, ours.objectives, range(len(ours.objectives))))
        notes[name] = (f"objective {ours.objectives[-1]:.10f} after {len(ours.objectives) - 1} steps of Newton's method, gradient "
                       f"{ours.gradient_norm:.1e}; scikit-learn ({solver}, tolerance 1e-12) {theirs:.10f}")
        first = ours.objectives[:QUICK_STEPS + 1]
        say(f"{name}: {notes[name]}")
    return Result(figures, curves, (0,), Quick(first, 1e-9), notes)


def quick(folder: Path) -> Quick:
    """The first steps on the digits, which need no folder."""
    return Quick(example.fit(*digits(), 10, most=QUICK_STEPS).objectives, 1e-9)


def sources() -> list[Any]:
    """The model, the objective and Newton's method."""
    return [example.LogisticRegression(np.zeros((1, 2))), example.objective, example.fit]


TARGET = Target(
    "logistic_regression", "Logistic regression: Newton's method", "objective within 1e-6 relative of scikit-learn's at tolerance 1e-12",
    "L(w) = 1/2 |w|^2 + C sum log(1 + exp(-y w.x)), C = 1, no intercept, float64; wdbc's 569 rows with features as they stand, and the "
    "3,823 training digits of optdigits with pixels / 16 and the multinomial cross entropy; Newton's method with the exact Hessian, from "
    "w = 0.",
    run, quick, sources, folder="tabular", needs=("sklearn",), quick_reads=False)
