"""Derives the polynomial coefficients of adjoint/compiler/vectormath.py: by Remez exchange in 60 digits.

`python tools/minimax.py` prints the table COEFFICIENTS. Each entry approximates f(x) on an interval with the smallest
maximum of weight(x) |f(x) - p(x)|, printed after it; leading terms are fixed, so that rounding costs little.
Source: E. Ya. Remez, 1934; W. J. Cody, W. Waite, Software Manual for the Elementary Functions, 1980 (the reductions).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from mpmath import mp, mpf

mp.dps = 60
GRID = 400
Function = Callable[[mpf], mpf]


def remez(targets: list[mpf], weights: list[mpf], grid: list[mpf], degree: int) -> list[mpf]:
    """Coefficients of x**0 .. x**degree for the smallest maximum of weight |target - p| on the grid."""
    count = degree + 2
    picks = [round((len(grid) - 1) * i / (count - 1)) for i in range(count)]
    for _ in range(30):
        system, right = mp.matrix(count, count), mp.matrix(count, 1)
        for row, pick in enumerate(picks):
            for column in range(count - 1):
                system[row, column] = weights[pick] * grid[pick] ** column
            system[row, count - 1] = (-1) ** row
            right[row] = weights[pick] * targets[pick]
        solution = list(mp.lu_solve(system, right))[:-1]
        errors = [w * (v - mp.polyval(solution[::-1], x)) for x, v, w in zip(grid, targets, weights, strict=True)]
        fresh = _extrema(errors, count)
        if fresh == picks or fresh is None:
            break
        picks = fresh
    return solution


def _extrema(errors: list[mpf], count: int) -> list[int] | None:
    """One index per run of equal sign, the largest there; `count` neighbours, the smaller ends dropped first."""
    runs: list[int] = []
    for i, error in enumerate(errors):
        if runs and (error > 0) == (errors[runs[-1]] > 0):
            runs[-1] = i if abs(error) > abs(errors[runs[-1]]) else runs[-1]
        else:
            runs.append(i)
    while len(runs) > count:
        runs.pop(0 if abs(errors[runs[0]]) < abs(errors[runs[-1]]) else -1)
    return runs if len(runs) == count else None


def rounded(f: Function, weight: Function, low: mpf, high: mpf, degree: int, dtype: type) -> tuple[list[float], mpf]:
    """The best coefficients, each rounded to `dtype`, and the largest weighted error with them."""
    middle, reach = (low + high) / 2, (high - low) / 2
    grid = [middle - reach * mp.cos(mp.pi * i / GRID) for i in range(GRID + 1)]
    grid = [x for x in grid if abs(x) > reach / 1000]
    targets, weights = [f(x) for x in grid], [weight(x) for x in grid]
    best = remez(targets, weights, grid, degree)
    found = [float(np.float32(float(c))) if dtype is np.float32 else float(c) for c in best]
    return found, max(w * abs(v - mp.polyval(found[::-1], x)) for x, v, w in zip(grid, targets, weights, strict=True))


def main() -> None:
    """Print every table with the weighted error that it reaches, as a power of two."""
    half = mp.log(2) / 2 * mpf("1.0005")
    root = mp.sqrt(mpf(2))
    quarter = (mp.pi / 4 * mpf("1.002")) ** 2
    zero = mpf(0)
    exp_tail = lambda x: (mp.expm1(x) - x - x * x / 2) / x**3
    log_tail = lambda x: (mp.log1p(x) - x + x**2 / 2) / x**3
    tables = {
        "exp": (exp_tail, lambda x: abs(x**3 / mp.exp(x)), -half, half, 3, 8),
        "expm1": (exp_tail, lambda x: abs(x**3 / mp.expm1(x)), -half, half, 4, 9),
        "log": (log_tail, lambda x: abs(x**3 / mp.log1p(x)), 1 / root - 1, root - 1, 8, 20),
        "sin": (lambda z: (mp.sin(mp.sqrt(z)) / mp.sqrt(z) - 1) / z, lambda z: z, zero, quarter, 2, 5),
        "cos": (lambda z: (mp.cos(mp.sqrt(z)) - 1 + z / 2) / z**2, lambda z: z**2, zero, quarter, 2, 5),
        "erf": (lambda s: mp.erf(mp.sqrt(s)) / mp.sqrt(s) - 1, lambda s: mpf(1) / 1.12, zero, mpf("1.0001"), 6, 12),
    }
    log_erfc = lambda x: mp.log(mp.erfc(x))
    single = {"log_erfc": (log_erfc, mp.erfc, mpf("0.95"), mpf(4), 7)}
    double = {"log_erfc": (log_erfc, mp.erfc, mpf("0.95"), mpf(6), 19)}
    for dtype, more in ((np.float32, single), (np.float64, double)):
        which = {name: (*row[:4], row[4 + (dtype is np.float64)]) for name, row in tables.items()}
        for name, (f, weight, low, high, degree) in (which | more).items():
            coefficients, worst = rounded(f, weight, low, high, degree, dtype)
            error = f"2**{float(mp.log(worst, 2)):.1f}"
            print(f'    ("{name}", "{np.dtype(dtype).name}"): {tuple(coefficients)},  # {error}', flush=True)


if __name__ == "__main__":
    main()
