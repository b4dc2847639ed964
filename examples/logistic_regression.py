"""Logistic regression as the lectures write it: L(w) = 1/2 |w|^2 + C sum_i log(1 + exp(-y_i w.x_i)), minimized by Newton's method.

Two classes have one weight vector and signs y; more classes have one row of weights each and the cross entropy. No intercept.
The Hessian is exact: it is the derivative of the derivative of the ten lines below.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import adjoint as ad
from adjoint import nn
from adjoint.data import load_digits


class LogisticRegression(nn.Module):
    """Scores x W^T: one per example for two classes, one per class for more. Shapes: x [examples, features], weight [scores, features]."""

    weight: np.ndarray

    def __call__(self, x: Any) -> Any:
        return x @ self.weight.T


def objective(weight: Any, x: Any, y: Any, strength: float) -> Any:
    """1/2 |W|^2 + C sum_i -log p(y_i | x_i), C: strength. y: signs -1 and 1 beside one row of weights, class numbers beside several."""
    scores = LogisticRegression(weight)(x)
    if weight.shape[0] == 1:
        surprise = np.sum(nn.softplus(-y * scores[:, 0]))
    else:
        surprise = len(x) * nn.cross_entropy(scores, y)
    return 0.5 * np.sum(weight * weight) + strength * surprise


class Fitted(NamedTuple):
    """The model, the objective after each step of Newton's method (the start first), and the norm of the last gradient."""

    model: LogisticRegression
    objectives: list[float]
    gradient_norm: float


def fit(x: np.ndarray, y: np.ndarray, classes: int, *, strength: float = 1.0, tolerance: float = 1e-10, most: int = 100) -> Fitted:
    """Minimize the objective from W = 0; ends where |gradient| <= tolerance * |gradient at the start|, or nothing is gained any more."""
    shape = (1 if classes == 2 else classes, x.shape[1])
    value = ad.compile(lambda w: objective(w.reshape(shape), x, y, strength))
    gradient = ad.compile(ad.grad(lambda w: objective(w.reshape(shape), x, y, strength)))
    curvature = ad.compile(ad.hessian(lambda w: objective(w.reshape(shape), x, y, strength)))
    w = np.zeros(shape[0] * shape[1])
    values, slopes = [float(value(w))], gradient(w)
    start = float(np.linalg.norm(slopes))
    while np.linalg.norm(slopes) > tolerance * start and len(values) <= most:
        direction = -np.linalg.solve(curvature(w), slopes)
        step = line_search(value, w, direction, values[-1], float(slopes @ direction))
        if step == 0.0:
            break
        w = w + step * direction
        values.append(float(value(w)))
        slopes = gradient(w)
    return Fitted(LogisticRegression(w.reshape(shape)), values, float(np.linalg.norm(slopes)))


def line_search(value: Callable, w: np.ndarray, direction: np.ndarray, now: float, slope: float) -> float:
    """The largest step 1, 1/2, 1/4, ... that lowers the value by a share of what the slope promises; 0 where none does."""
    step = 1.0
    while value(w + step * direction) > now + 1e-4 * step * slope:
        step *= 0.5
        if step < 1e-10:
            return 0.0
    return step


def main() -> None:
    """Digits 0 to 9 from 8 x 8 pixels, all at once, and 3 against 8 as the lectures have it."""
    digits = load_digits()
    x = digits.train_x.astype(np.float64)
    chosen = np.isin(digits.train_y, (3, 8))
    two = fit(x[chosen], np.where(digits.train_y[chosen] == 8, 1.0, -1.0), 2)
    print(f"3 against 8: L = {two.objectives[-1]:.6f} after {len(two.objectives) - 1} steps of Newton, |gradient| {two.gradient_norm:.0e}")
    test = np.isin(digits.test_y, (3, 8))
    right = (two.model(digits.test_x[test].astype(np.float64))[:, 0] > 0) == (digits.test_y[test] == 8)
    print(f"test accuracy {100 * right.mean():.1f} %")


if __name__ == "__main__":
    main()
