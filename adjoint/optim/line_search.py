"""A step length for a descent direction: the strong Wolfe conditions by bracketing and zooming.

phi(a) = f(x + a p), a: step length, p: direction. Invariant: a length that is returned as found satisfies both conditions as
computed. May import: L0. Read next: lbfgs.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

DECREASE, CURVATURE = 1e-4, 0.9
MOST = 30               # evaluations of one search
ROUNDING = 2.0 ** -44    # of a value: what sums of many terms, some cancelled, may be off by
GROWTH = 2.0            # of the step length while no bracket is found


class Point(NamedTuple):
    """A step length with phi and its derivative there, and what the caller keeps of it (gradient and position)."""

    length: float
    value: float
    slope: float
    kept: object


def strong_wolfe(evaluate: Callable[[float], Point], start: Point, first: float) -> tuple[Point, bool]:
    """A point with phi(a) <= phi(0) + 1e-4 a phi'(0) and |phi'(a)| <= 0.9 |phi'(0)|; and whether it was found.

    start: phi at 0, phi'(0) < 0; first: the length tried first. The first condition is `sufficient`. If rounding ends the search, the
    lowest point that decreases phi comes back with False; values that are not finite count as too far.
    Source: Nocedal and Wright, Numerical Optimization, 2nd ed. 2006, algorithms 3.5 and 3.6.

    >>> parabola = lambda a: Point(a, (a - 3.0) ** 2, 2.0 * (a - 3.0), None)
    >>> found, wolfe = strong_wolfe(parabola, parabola(0.0), 1.0)
    >>> wolfe, found.length
    (True, 1.0)
    """
    before, length = start, first
    for k in range(MOST):
        here = evaluate(length)
        if not math.isfinite(here.value) or not sufficient(here, start) or (k > 0 and here.value > before.value):
            return _zoom(evaluate, start, before, here, MOST - k - 1)
        if abs(here.slope) <= -CURVATURE * start.slope:
            return here, True
        if here.slope >= 0.0:
            return _zoom(evaluate, start, here, before, MOST - k - 1)
        before, length = here, GROWTH * length
    return before, False


def sufficient(here: Point, start: Point) -> bool:
    """The condition of sufficient decrease (Armijo's); where the two values differ by rounding alone, the slope's form of it.

    phi'(a) <= (2 c - 1) phi'(0), c = 1e-4, which for a parabola is the same and is not lost in the digits of phi.
    Source: Hager and Zhang, SIAM J. Optimization 16 (2005), eq. 4.1.

    >>> sufficient(Point(1.0, 0.5, 0.0, None), Point(0.0, 1.0, -1.0, None))
    True
    """
    rounding = ROUNDING * abs(start.value)
    flatter = here.slope <= (2.0 * DECREASE - 1.0) * start.slope
    return here.value <= start.value + DECREASE * here.length * start.slope or (abs(here.value - start.value) <= rounding and flatter)


def _zoom(evaluate: Callable[[float], Point], start: Point, low: Point, high: Point, most: int) -> tuple[Point, bool]:
    """Shrink a bracket whose `low` end is the lowest point so far with sufficient decrease."""
    for _ in range(most):
        length = _between(low, high)
        if length == low.length or length == high.length:
            break
        here = evaluate(length)
        if not math.isfinite(here.value) or not sufficient(here, start) or here.value > low.value:
            high = here
            continue
        if abs(here.slope) <= -CURVATURE * start.slope:
            return here, True
        if here.slope * (high.length - low.length) >= 0.0:
            high = low
        low = here
    return low, False


def _between(low: Point, high: Point) -> float:
    """The minimum of the cubic through both ends, kept a tenth of the bracket away from them; the middle where there is none."""
    width = high.length - low.length
    length = low.length + 0.5 * width
    if math.isfinite(high.value) and math.isfinite(high.slope):
        d1 = low.slope + high.slope - 3.0 * (low.value - high.value) / (low.length - high.length)
        square = d1 * d1 - low.slope * high.slope
        if square >= 0.0:
            d2 = math.copysign(math.sqrt(square), width)
            bottom = high.slope - low.slope + 2.0 * d2
            if bottom != 0.0:
                length = high.length - width * (high.slope + d2 - d1) / bottom
    inner = sorted((low.length + 0.1 * width, high.length - 0.1 * width))
    return min(max(length, inner[0]), inner[1])
