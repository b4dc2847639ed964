"""python -m benchmarks.ratio: time of the gradient over time of the function itself, for networks, and against the dimension.

The theorem (Baur and Strassen 1983; Griewank 1989) bounds the operations of a gradient by a small multiple of the function's, whatever
the dimension. Here it is measured, both sides compiled, by turns, the best of several rounds each. Options: --json FILE.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import adjoint as ad
from adjoint import nn

DIMENSIONS = (100, 1_000, 10_000, 100_000)
LIMITS = {"MLP 784-512-512-10, batch 256": 2.8, "MLP 784-1024-1024-10, batch 1024": 2.8, "LSTM 65-128, 64 steps, batch 32": 3.3}
SLOPE = 0.02                       # of log10(ratio), for ten times the dimension
BLOCK = 4e-3                       # seconds that one round of a call takes at least


def ratio_of(function: Callable, gradient: Callable, *args: Any, rounds: int = 12,
             clock: Callable[[], float] = time.perf_counter) -> tuple[float, float]:
    """(seconds of the function, seconds of the gradient): the best round of each, taken by turns. clock: time.thread_time counts this
    thread's own time, which others on the machine change less."""
    calls = [function, gradient]
    counts = []
    for call in calls:
        call(*args)
        start = clock()
        call(*args)
        counts.append(max(1, int(BLOCK / max(clock() - start, 1e-7))))
    best = [np.inf, np.inf]
    for _ in range(rounds):
        for i, (call, count) in enumerate(zip(calls, counts, strict=True)):
            start = clock()
            for _ in range(count):
                call(*args)
            best[i] = min(best[i], (clock() - start) / count)
    return best[0], best[1]


def mlp(sizes: tuple[int, ...], batch: int) -> tuple:
    """(loss, model, x, y) of a classifier with ReLU."""
    rng = np.random.default_rng(0)
    model = nn.mlp(*sizes, activation=nn.relu, rng=rng)
    x, y = rng.standard_normal((batch, sizes[0])).astype(np.float32), rng.integers(0, sizes[-1], batch)
    return lambda m, x, y: nn.cross_entropy(m(x), y), model, x, y


def lstm() -> tuple:
    """(loss, model, x, y) of the character LSTM: one-hot letters, 64 steps, a letter wanted at each."""
    rng = np.random.default_rng(0)
    model = {"rnn": nn.LSTM(65, 128, rng=rng), "head": nn.Linear(128, 65, rng=rng)}
    x = np.eye(65, dtype=np.float32)[rng.integers(0, 65, (64, 32))]
    y = rng.integers(0, 65, 64 * 32)

    def loss(model: Any, x: Any, y: Any) -> Any:
        h = model["rnn"](x)[0]
        return nn.cross_entropy(model["head"](h).reshape(-1, 65), y)
    return loss, model, x, y


def measured(problem: tuple, **options: Any) -> dict[str, float]:
    """Seconds of the loss and of its gradient, both compiled, and their ratio."""
    loss, *args = problem
    function, gradient = ratio_of(ad.compile(loss), ad.compile(ad.grad(loss)), *args, **options)
    return {"function": function, "gradient": gradient, "ratio": gradient / function}


def separable(x: Any) -> Any:
    """The same work for each of any number of variables."""
    return (np.exp(-x * x) * np.sin(3.0 * x) + x ** 4).sum()


def coupled(x: Any) -> Any:
    """Neighbours multiply: sum of (x_i x_(i+1) - sin x_i)^2 + exp(-x_i^2)."""
    inner = x[1:] * x[:-1] - np.sin(x[:-1])
    return (inner * inner).sum() + np.exp(-x * x).sum()


def rosenbrock(x: Any) -> Any:
    """Neighbours in cheap arithmetic: memory is the limit of both sides."""
    return (100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2).sum()


def against_dimension(function: Callable, **options: Any) -> list[dict[str, float]]:
    """The same function in 10^2 to 10^5 variables, on one thread; the time of a call that does nothing is taken off both sides."""
    found = []
    with ad.threads(1):
        empty, _ = ratio_of(ad.compile(lambda x: x[0] + 1.0), ad.compile(lambda x: x[0] + 2.0), np.zeros(1), **options)
        for n in DIMENSIONS:
            x = np.linspace(-1.5, 1.5, n)
            one, other = ratio_of(ad.compile(function), ad.compile(ad.grad(function)), x, **options)
            found.append({"dimension": n, "function": one, "gradient": other, "ratio": (other - empty) / (one - empty)})
    return found


def slope_of(found: list[dict[str, float]]) -> float:
    """d log10(ratio) / d log10(dimension) by least squares."""
    return float(np.polyfit(np.log10([f["dimension"] for f in found]), np.log10([f["ratio"] for f in found]), 1)[0])


def networks() -> dict[str, tuple]:
    """The networks whose ratio is bounded."""
    makers = (lambda: mlp((784, 512, 512, 10), 256), lambda: mlp((784, 1024, 1024, 10), 1024), lstm)
    return {name: make() for name, make in zip(LIMITS, makers, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    record: dict[str, Any] = {"networks": {}, "limits": LIMITS}
    for name, problem in networks().items():
        found = record["networks"][name] = measured(problem)
        print(f"{name}: function {1e3 * found['function']:.3f} ms, gradient {1e3 * found['gradient']:.3f} ms, ratio {found['ratio']:.2f} "
              f"(at most {LIMITS[name]})")
    for function in (separable, coupled, rosenbrock):
        found = record[function.__name__] = against_dimension(function)
        shown = ", ".join(f"{f['dimension']:,}: {f['ratio']:.2f}" for f in found)
        print(f"{function.__name__} in so many variables, {shown}; slope of log10(ratio) for ten times as many: {slope_of(found):+.4f}")
    print(f"(at most {SLOPE})")
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
