"""python -m benchmarks.statistics: samples a second and variance against the size of the batch, and signals by depth, drawn.

Measures on this machine, writes the pictures of docs/statistics.md and their numbers (benchmarks/results/statistics.json).
tests/mission/test_statistics.py asserts the same laws on smaller problems.
"""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

import adjoint as ad
from adjoint import nn, optim
from adjoint.insight import layer_analysis

ROOT = Path(__file__).resolve().parents[1]
FOLDER, RESULTS = ROOT / "docs" / "statistics", ROOT / "benchmarks" / "results" / "statistics.json"
BATCHES = tuple(2 ** k for k in range(11))
DEPTH, WIDTH = 10, 256
STARTS = {"N(0, 0.01²)": functools.partial(nn.init.normal, std=0.01), "N(0, 0.01)": functools.partial(nn.init.normal, std=0.1),
          "N(0, 1)": functools.partial(nn.init.normal, std=1.0), "Xavier": nn.init.xavier_uniform, "He": nn.init.he_normal,
          "Xavier as printed": nn.init.slide_xavier}
ACTIVATIONS = {"tanh": nn.tanh, "ReLU": nn.relu, "sigmoid": nn.sigmoid}
COLOURS = ("#2f5bea", "#d1495b", "#2a9d8f", "#c77d0a", "#7b4bb7", "#5c6370")

# ------------------------------------------------------------------------------------------------ what is measured


def throughput(rounds: int = 7) -> list[float]:
    """Samples a second of whole SGD steps (784-256-10, float32), one compiled call each, the best of some rounds, for every size."""
    model, rule, rng = nn.mlp(784, 256, 10, activation=nn.relu, rng=np.random.default_rng(0)), optim.sgd(1e-3), np.random.default_rng(1)

    def step(model: Any, x: Any, y: Any) -> Any:
        gradients = ad.grad(lambda m: nn.cross_entropy(m(x), y))(model)
        return optim.apply_updates(model, rule.update(gradients, rule.init(model), model)[0])
    found = []
    for size in BATCHES:
        compiled = ad.compile(step, donate=0)
        x, y = rng.standard_normal((size, 784)).astype(np.float32), rng.integers(0, 10, size)
        held, steps, best = compiled(model, x, y), max(3, 512 // size), math.inf
        for _ in range(rounds):
            start = time.perf_counter()
            for _ in range(steps):
                held = compiled(held, x, y)
            best = min(best, (time.perf_counter() - start) / steps)
        found.append(size / best)
    return found


def variance(draws: int = 1000) -> list[float]:
    """E |g_B - g|^2 of the gradient of B examples drawn with replacement, logistic regression with 5,000 examples and 20 weights."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((5000, 20)), 0.3 * rng.standard_normal(20)
    y = np.where(rng.random(5000) < 0.5, 1.0, -1.0)
    gradient = ad.compile(ad.grad(lambda w, x, y: np.logaddexp(0.0, -y * (x @ w)).mean()))
    full = gradient(w, x, y)
    found = []
    for size in BATCHES:
        errors = [gradient(w, x[i], y[i]) - full for i in rng.integers(0, len(x), (draws, size))]
        found.append(float(np.mean(np.sum(np.square(errors), axis=1))))
    return found


def by_depth(activation: Callable, weight_init: Callable) -> dict[str, list[float]]:
    """Deviation, saturated and dead share and gradient behind each activation of ten layers of 256 units."""
    rng = np.random.default_rng(0)
    layers = [f for _ in range(DEPTH) for f in (nn.Linear(WIDTH, WIDTH, bias=False, rng=rng, weight_init=weight_init), activation)]
    x, pull = (rng.standard_normal((500, WIDTH)).astype(np.float32) for _ in range(2))
    facts = layer_analysis(nn.Sequential(*layers), lambda y: (y * pull).mean(), x)[1::2]
    last = facts[-1].gradient
    return {"deviation": [f.deviation for f in facts], "saturated": [f.saturated or 0.0 for f in facts], "dead": [f.dead for f in facts],
            "gradient": [f.gradient / last for f in facts]}


# ------------------------------------------------------------------------------------------------ drawing


def drawing(title: str, across: str, xs: Sequence[float], curves: dict[str, Sequence[float]], low: float = 0.0, power: float = 10.0) -> str:
    """An SVG with a logarithmic axis upwards (values below `low` are drawn at its foot); across: the label of the x axis.

    power: 2 where the x axis counts doublings, else it is linear.
    """
    place = [math.log2(x) for x in xs] if power == 2.0 else list(xs)
    values = [max(v, low) for vs in curves.values() for v in vs if max(v, low) > 0.0]
    bottom, top = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    at_x = lambda p: 60 + (p - place[0]) / (place[-1] - place[0]) * 560
    at_y = lambda v: 250 - (math.log10(max(v, low, 10.0 ** bottom)) - bottom) / max(top - bottom, 1) * 200
    every = max(1, -(-(top - bottom) // 6))
    body = [f'<path d="M60 {at_y(10.0 ** k):.1f}H620" stroke="#e3e6ec"/><text x="52" y="{at_y(10.0 ** k) + 4:.1f}" text-anchor="end">'
            f'10<tspan dy="-4" font-size="8">{k}</tspan></text>' for k in range(bottom, top + 1, every)]
    body += [f'<text x="{at_x(p):.1f}" y="268" text-anchor="middle">{x:g}</text>' for p, x in zip(place, xs, strict=True)]
    for (name, ys), colour, i in zip(curves.items(), COLOURS, range(len(curves)), strict=False):
        points = " ".join(f"{at_x(p):.1f},{at_y(v):.1f}" for p, v in zip(place, ys, strict=True))
        body.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.6"/>'
                    f'<circle cx="640" cy="{56 + 18 * i}" r="4" fill="{colour}"/><text x="650" y="{60 + 18 * i}">{escape(name)}</text>')
    return ('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 780 292" width="780" height="292" font-family="system-ui, sans-serif" '
            'font-size="11" fill="#3c4250"><rect width="780" height="292" fill="#ffffff"/>'
            f'<text x="60" y="24" font-size="14" font-weight="600">{escape(title)}</text>{"".join(body)}'
            f'<text x="620" y="286" text-anchor="end">{escape(across)}</text></svg>\n')


def draw(record: dict[str, Any], folder: Path = FOLDER) -> None:
    """The pictures of a record."""
    folder.mkdir(exist_ok=True)
    sizes = record["batches"]
    pictures = {
        "throughput": drawing("Samples a second against the size of the batch", "examples in a batch", sizes,
                              {"measured": record["throughput"]}, power=2.0),
        "variance": drawing("Variance of the gradient against the size of the batch", "examples in a batch", sizes,
                            {"measured": record["variance"], "1 / B": [record["variance"][0] / b for b in sizes]}, power=2.0)}
    for name, starts in record["depth"].items():
        for what, title in (("deviation", "Deviation of the activations"), ("gradient", "Gradient, over that of the last layer")):
            pictures[f"{name.lower()}_{what}"] = drawing(f"{title} by depth: {name}", "layer", range(1, DEPTH + 1),
                                                         {start: found[what] for start, found in starts.items()}, low=1e-20)
    for name, text in pictures.items():
        (folder / f"{name}.svg").write_text(text, encoding="utf-8")


def main() -> None:
    with ad.threads(1):
        record = {"batches": list(BATCHES), "throughput": throughput(), "variance": variance()}
    record["depth"] = {name: {start: by_depth(f, init) for start, init in STARTS.items()} for name, f in ACTIVATIONS.items()}
    slope = np.polyfit(np.log(BATCHES), np.log(record["variance"]), 1)[0]
    print(f"variance falls as B to the {slope:+.3f}; samples a second: {record['throughput'][0]:,.0f} at B = 1, "
          f"{record['throughput'][7]:,.0f} at 128 ({record['throughput'][7] / record['throughput'][0]:.1f} times)")
    RESULTS.write_text(json.dumps(record, indent=None, separators=(",", ":")) + "\n", encoding="utf-8")
    draw(record)


if __name__ == "__main__":
    main()
