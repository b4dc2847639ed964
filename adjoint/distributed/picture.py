"""The plan drawn: efficiency against the number of workers, from 1 to 10,000, one panel for each kind of link.

Invariant: an SVG complete in itself, every text escaped; the same plan gives the same bytes. May import: errors, planner, plan.
Read next: plan.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape

from ..errors import ConfigError, explain
from .plan import EVERY, LINKS, TITLES, Work
from .planner import averaging, forecast
from .simulator import Links

WORKERS = (*(2 ** k for k in range(14)), 10_000)
CURVES = {"ring": ("ring", "#2f5bea"), "halving_doubling": ("halving-doubling", "#2a9d8f"), "tree": ("tree", "#c77d0a"),
          "parameter_server": ("parameter server", "#d1495b")}
APART = (f"average every {EVERY} steps", "#7b4bb7")
ACROSS, WIDE, HIGH = 3, 300, 216            # panels in a row; size of one
LEFT, TOP, RIGHT, BOTTOM = 44, 34, 22, 34   # margins of a panel
HEAD = 58


def _x(workers: float) -> float:
    return LEFT + math.log10(workers) / 4 * (WIDE - LEFT - RIGHT)


def _y(efficiency: float) -> float:
    return HIGH - BOTTOM - efficiency * (HIGH - TOP - BOTTOM)


def _line(efficiencies: list[float], colour: str, dash: str = "") -> str:
    points = " ".join(f"{_x(n):.1f},{_y(e):.1f}" for n, e in zip(WORKERS, efficiencies, strict=True))
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8" stroke-linejoin="round"{dash}/>'


def _panel(title: str, work: Work, links: Links) -> str:
    body = [f'<text x="{LEFT}" y="{TOP - 12}" font-weight="600">{escape(str(title))}</text>']
    body += [f'<path d="M{LEFT} {_y(e):.1f}H{WIDE - RIGHT}" stroke="#e3e6ec"/>'
             f'<text x="{LEFT - 6}" y="{_y(e) + 4:.1f}" text-anchor="end">{100 * e:.0f} %</text>' for e in (0.0, 0.25, 0.5, 0.75, 1.0)]
    body += [f'<text x="{_x(10 ** k):.1f}" y="{HIGH - BOTTOM + 16}" text-anchor="middle">{10 ** k}</text>' for k in range(5)]
    found = [{f.strategy: f.efficiency for f in forecast(n, compute=work.compute, size=work.size, links=links, jitter=work.jitter,
                                                         overlap=work.overlap)} for n in WORKERS]
    apart = [averaging(n, EVERY, compute=work.compute, size=work.size, links=links) if n > 1 else 1.0 for n in WORKERS]
    body.append(_line(apart, APART[1], ' stroke-dasharray="5 3"'))
    body += [_line([each[name] for each in found], colour) for name, (_, colour) in reversed(CURVES.items())]
    return "".join(body)


def drawing(work: Work, title: str, links: Mapping[str, Links] = LINKS) -> str:
    """Efficiency against workers for each kind of link, as an SVG; efficiency 1: n workers are n times as fast as one.

    >>> text = drawing(Work(0.25, 102e6), "a network")
    >>> text.startswith("<svg ") and text.count("<polyline") == 5 * len(LINKS)
    True
    """
    if not (isinstance(work, Work) and isinstance(links, Mapping) and all(isinstance(each, Links) for each in links.values())):
        raise ConfigError(explain(f"drawing: of {work!r:.60} over {links!r:.60}, expected Work, and Links by name.",
                                  remedy="For instance drawing(Work(compute=0.25, size=102e6), \"a network\")."))
    rows = -(-len(links) // ACROSS)
    width, height = ACROSS * WIDE, HEAD + rows * HIGH + 10
    body, place = [f'<text x="{LEFT}" y="22" font-size="15" font-weight="600">{escape(str(title))}</text>'], LEFT
    for name, colour, dash in (*((*curve, "") for curve in CURVES.values()), (*APART, ' stroke-dasharray="5 3"')):
        body.append(f'<path d="M{place} 41h22" stroke="{colour}" stroke-width="2"{dash}/>'
                    f'<text x="{place + 28}" y="45">{escape(name)}</text>')
        place += 56 + round(6.2 * len(name))
    for number, (name, each) in enumerate(links.items()):
        row, column = divmod(number, ACROSS)
        body.append(f'<g transform="translate({column * WIDE} {HEAD + row * HIGH})">{_panel(TITLES.get(name, name), work, each)}</g>')
    body.append(f'<text x="{LEFT}" y="{height - 8}">efficiency against workers; 10000 is no power of two, and costs halving-doubling two '
                'whole buffers more</text>')
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'font-family="system-ui, sans-serif" font-size="11" fill="#3c4250"><rect width="{width}" height="{height}" fill="#ffffff"/>'
            + "".join(body) + "</svg>\n")
