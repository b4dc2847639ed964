"""L-BFGS: minimize a function of a tree of arrays with its exact gradient, to machine precision where the function allows.

Invariant: each point is lower than the one before, or as low to the rounding and less steep; why it ended is said.
May import: L0-L4, line_search. Read next: line_search.py.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..compiler.compile import compile
from ..errors import DtypeError, NonFiniteError, explain
from ..transforms.reverse import value_and_grad
from ..tree import flatten, is_array, unflatten
from . import hyperparameters as hyper
from .line_search import Point, strong_wolfe

CURVED = 1e-10          # pairs with s.y below this share of |s| |y| tell nothing of the curvature, and are left out


class Minimum(NamedTuple):
    """What `minimize` found: x (a tree like the start), f(x), its gradient, the largest |g_i|, counts, why it ended, f after each step.

    >>> minimize(lambda x: (x - 2.0) ** 2, 0.0, compiled=False).reason
    'gradient'
    """

    x: Any
    value: float
    gradient: Any
    gradient_norm: float
    iterations: int
    evaluations: int
    reason: str
    values: list[float]

    @property
    def converged(self) -> bool:
        """Whether the gradient or the decrease came below its tolerance."""
        return self.reason in ("gradient", "decrease")


def minimize(function: Callable, start: Any, *, history: int = 10, gradient_tolerance: float = 1e-8, decrease_tolerance: float = 0.0,
             iterations: int = 1000, compiled: bool = True) -> Minimum:
    """x <- x - a H g: H from the last `history` pairs s = x' - x, y = g' - g by the two-loop recursion, a by the strong Wolfe conditions.

    function: of one tree of float arrays, to a number; its value and gradient are one native call (compiled). H starts each time as
    (s.y / y.y) I; the first step has length min(1, 1/|g|_1). It ends, `reason`, at
    "gradient": max |g_i| <= gradient_tolerance; "decrease": f fell by at most decrease_tolerance max(|f|, |f'|, 1), where that is above 0;
    "iterations": there were as many; "rounding": no lower value is found along -H g nor along -g, which is what the last digits look like.
    The vectors are float64, whatever the dtype of the leaves. Raises: NonFiniteError if f or g is not finite at the start.
    Source: Liu and Nocedal, Mathematical Programming 45 (1989); Nocedal and Wright, Numerical Optimization, 2006, algorithms 7.4, 7.5.

    >>> rosenbrock = lambda x: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
    >>> found = minimize(rosenbrock, np.array([-1.2, 1.0]), compiled=False)
    >>> found.x.round(6), found.reason, found.converged
    (array([1., 1.]), 'gradient', True)
    """
    history = hyper.whole("minimize", "history", history)
    hyper.whole("minimize", "iterations", iterations, 0)
    hyper.non_negative("minimize", "gradient_tolerance", gradient_tolerance)
    hyper.non_negative("minimize", "decrease_tolerance", decrease_tolerance)
    problem = _Problem(function, start, compiled)
    x = problem.start
    value, gradient = problem(x)
    if not (math.isfinite(value) and np.isfinite(gradient).all()):
        raise NonFiniteError(explain(f"minimize: the function is {value} at the start, or its gradient is not finite.",
                                     remedy="Start where both are finite."))
    values, reason, done, pairs = [value], "iterations", 0, _Pairs(history)
    for done in range(iterations + 1):
        if np.max(np.abs(gradient), initial=0.0) <= gradient_tolerance:
            reason = "gradient"
        if reason == "gradient" or done == iterations:
            break
        found = _step(problem, pairs, x, value, gradient)
        if found is None:
            reason = "rounding"
            break
        pairs.add(found.kept[0] - x, found.kept[1] - gradient)
        fell, scale = value - found.value, max(abs(value), abs(found.value), 1.0)
        value, (x, gradient) = found.value, found.kept
        values.append(value)
        if 0.0 < decrease_tolerance and fell <= decrease_tolerance * scale:
            reason, done = "decrease", done + 1
            break
    return Minimum(problem.tree(x), value, problem.tree(gradient), float(np.max(np.abs(gradient), initial=0.0)), done, problem.evaluations,
                   reason, values)


def _step(problem: _Problem, pairs: _Pairs, x: np.ndarray, value: float, gradient: np.ndarray) -> Point | None:
    """A lower point along -H g, or along -g if there is none (the pairs are forgotten then); None if neither has one."""
    while True:
        direction = -pairs.times(gradient)
        slope = float(direction @ gradient)
        if slope < 0.0:
            first = 1.0 if pairs.kept else min(1.0, 1.0 / float(np.sum(np.abs(gradient))))

            def evaluate(length: float, direction: np.ndarray = direction) -> Point:
                there = x + length * direction
                f, g = problem(there)
                return Point(length, f, float(g @ direction), (there, g))
            found, wolfe = strong_wolfe(evaluate, Point(0.0, value, slope, (x, gradient)), first)
            if (wolfe or found.value < value) and np.isfinite(found.kept[1]).all():
                return found
        if not pairs.kept:
            return None
        pairs.kept.clear()


class _Pairs:
    """The pairs (s, y, 1 / s.y) of the last steps, newest last: an approximation H of the inverse Hessian."""

    def __init__(self, most: int):
        self.kept: deque = deque(maxlen=most)

    def add(self, s: np.ndarray, y: np.ndarray) -> None:
        product = float(s @ y)
        if product > CURVED * float(np.linalg.norm(s) * np.linalg.norm(y)):
            self.kept.append((s, y, 1.0 / product))

    def times(self, gradient: np.ndarray) -> np.ndarray:
        """H g by the two-loop recursion: 4 history n multiplications."""
        q, alphas = gradient.copy(), []
        for s, y, rho in reversed(self.kept):
            alphas.append(rho * float(s @ q))
            q -= alphas[-1] * y
        if self.kept:
            s, y, rho = self.kept[-1]
            q *= 1.0 / (rho * float(y @ y))
        for (s, y, rho), alpha in zip(self.kept, reversed(alphas), strict=True):
            q += (alpha - rho * float(y @ q)) * s
        return q


class _Problem:
    """The function as one of a float64 vector, and how often it was evaluated."""

    def __init__(self, function: Callable, start: Any, compiled: bool):
        leaves, self.structure = flatten(start)
        self.leaves = [x if is_array(x) else np.float64(x) for x in leaves]
        wrong = [x.dtype for x in self.leaves if x.dtype.kind != "f"]
        if wrong or not leaves:
            raise DtypeError(explain(f"minimize: the start holds {wrong[0] if wrong else 'no arrays'}, expected float arrays alone.",
                                     remedy="Close over what is not varied: minimize(lambda x: f(x, data), x)."))
        self.start = np.concatenate([np.ravel(x).astype(np.float64) for x in self.leaves])
        gradient = value_and_grad(function)
        self.gradient = compile(gradient) if compiled else gradient
        self.evaluations = 0

    def tree(self, vector: np.ndarray) -> Any:
        found, at = [], 0
        for x in self.leaves:
            found.append(np.reshape(vector[at:at + x.size], x.shape).astype(x.dtype))
            at += x.size
        return unflatten(self.structure, found)

    def __call__(self, vector: np.ndarray) -> tuple[float, np.ndarray]:
        self.evaluations += 1
        with np.errstate(all="ignore"):                     # a step too far may overflow; it is shortened
            value, gradient = self.gradient(self.tree(vector))
        return float(value), np.concatenate([np.ravel(g).astype(np.float64) for g in flatten(gradient)[0]])
