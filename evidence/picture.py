"""Curves as SVG: axes with round numbers, a line for each run, and grey pictures below; no fonts or scripts are fetched.

The same record gives the same bytes.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from adjoint.insight import png

WIDTH, HEIGHT = 720, 340
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 40, 44
COLOURS = ("#2f5bea", "#d1495b", "#2a9d8f", "#c77d0a", "#7b4bb7", "#5c6370", "#0a7ea4", "#8a5a2b")
PIXELS = 150                # height of a picture under the curves


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from low to high, at most `most`.

    >>> ticks(0.0, 10.0), ticks(0.27, 0.52, 4)
    ([0.0, 2.0, 4.0, 6.0, 8.0, 10.0], [0.3, 0.4, 0.5])
    """
    if not high > low:
        return [low]
    for power in range(math.floor(math.log10(high - low)) - 2, 400):
        for step in (1.0, 2.0, 5.0):
            size = step * 10.0 ** power
            first, last = math.ceil(low / size - 1e-9), math.floor(high / size + 1e-9)
            if last - first < most:
                return [float(f"{k * size:.12g}") for k in range(first, last + 1)]
    return [low]


def _powers(low: float, high: float) -> list[float]:
    """Powers of ten on a logarithmic axis, or 1, 2, 5 times those where there are few."""
    marks = [10.0 ** k for k in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    inside = [m for m in marks if low <= m <= high]
    if len(inside) < 2:
        inside = [f * m for m in marks for f in (1, 2, 5) if low <= f * m <= high]
    return inside[::max(1, -(-len(inside) // 7))]


def _label(value: float) -> str:
    return f"{value:,.0f}".replace(",", "\u202f") if abs(value) >= 1000 else f"{value:.6g}"


class _Frame:
    """From numbers to places on the page."""

    def __init__(self, curves: Sequence[dict[str, Any]]) -> None:
        values = [x for curve in curves for x in curve["losses"] if math.isfinite(x)]
        steps = [x for curve in curves for x in curve["steps"]]
        low, high = min(values), max(values)
        self.logarithmic = low > 0 and high > 12 * low
        self.measure = "loss" if low >= 0 else "x"
        if not self.logarithmic:
            margin = 0.04 * (high - low) or 0.5 * abs(high) or 0.5
            low, high = low - margin, high + margin
        self.low, self.high = low, high
        self.first, self.last = min(0, *steps) if len(steps) > 1 else 0, max(steps)

    def x(self, step: float) -> float:
        return LEFT + (step - self.first) / max(self.last - self.first, 1e-12) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        f = math.log if self.logarithmic else float
        share = (f(value) - f(self.low)) / ((f(self.high) - f(self.low)) or 1.0)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def axes(self) -> list[str]:
        marks = _powers(self.low, self.high) if self.logarithmic else ticks(self.low, self.high)
        lines = [f'<path d="M{LEFT} {self.y(v):.1f}H{WIDTH - RIGHT}" stroke="#e3e6ec"/>'
                 f'<text x="{LEFT - 8}" y="{self.y(v) + 4:.1f}" text-anchor="end">{_label(v)}</text>' for v in marks]
        lines += [f'<text x="{self.x(v):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{_label(v)}</text>'
                  for v in ticks(self.first, self.last, 8) if v == int(v)]
        name, middle = "loss, logarithmic" if self.logarithmic else self.measure, (TOP + HEIGHT - BOTTOM) / 2
        lines.append(f'<text transform="translate(14 {middle:.0f}) rotate(-90)" text-anchor="middle">{name}</text>')
        return [*lines, f'<path d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}" stroke="#9aa1ad"/>',
                f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">step</text>']

    def line(self, curve: dict[str, Any], colour: str) -> str:
        pairs = zip(curve["steps"], curve["losses"], strict=True)
        points = " ".join(f"{self.x(s):.1f},{self.y(v):.1f}" for s, v in pairs if math.isfinite(v))
        dash = ' stroke-dasharray="5 3"' if curve["name"].startswith("torch") else ""
        return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.4" stroke-linejoin="round"{dash}/>'


def drawing(title: str, curves: Sequence[dict[str, Any]], pictures: Sequence[tuple[str, Any]] = ()) -> str:
    """An SVG of loss over step for each curve {name, seed, steps, losses}, and of pictures (name, rows of numbers) below."""
    frame = _Frame(curves)
    body, place = frame.axes(), LEFT
    for number, curve in enumerate(curves):
        colour = COLOURS[number % len(COLOURS)]
        body.append(frame.line(curve, colour))
    alike = len({curve["name"] for curve in curves}) < len(curves)
    names = [curve["name"] + (f", seed {curve['seed']}" if alike else "") for curve in curves]
    for number, name in enumerate(names):
        body.append(f'<circle cx="{place + 4}" cy="{TOP - 8}" r="4" fill="{COLOURS[number % len(COLOURS)]}"/>'
                    f'<text x="{place + 12}" y="{TOP - 4}">{escape(name)}</text>')
        place += 24 + 6.1 * len(name)
    height = HEIGHT
    for name, rows in pictures:
        body.append(_picture(name, np.asarray(rows, np.float64), height))
        height += PIXELS + 40
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
            f'font-family="system-ui, sans-serif" font-size="11" fill="#3c4250"><rect width="{WIDTH}" height="{height}" fill="#ffffff"/>'
            f'<text x="{LEFT}" y="18" font-size="14" font-weight="600">{escape(title)}</text>' + "".join(body) + "</svg>\n")


def _picture(name: str, rows: np.ndarray, top: float) -> str:
    grey = (255 - np.clip(rows / (rows.max() or 1.0), 0.0, 1.0) * 255).astype(np.uint8)
    data = base64.b64encode(png.encode(grey)).decode("ascii")
    return (f'<text x="{LEFT}" y="{top + 8}">{escape(name)}</text>'
            f'<image x="{LEFT}" y="{top + 16}" width="{WIDTH - LEFT - RIGHT}" height="{PIXELS}" preserveAspectRatio="none" '
            f'style="image-rendering:pixelated" href="data:image/png;base64,{data}"/>'
            f'<rect x="{LEFT}" y="{top + 16}" width="{WIDTH - LEFT - RIGHT}" height="{PIXELS}" fill="none" stroke="#9aa1ad"/>')
