"""Timelines of ranks drawn: two lanes a rank, what it computes above and what it communicates below, a bar for every span.

Invariant: an SVG complete in itself, every text escaped; the same files give the same bytes. May import: errors, train.files.
Read next: timeline.py.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from ..errors import ConfigError, explain
from ..train.files import write_whole

# by the first word of a span's name, in the order in which they are painted
KINDS = {"wait": ("wait", "#d5dae3"), "compute": ("compute", "#2f5bea"), "abandon": ("compute in vain", "#a8b9f5"),
         "reduce": ("sum over the ranks", "#2a9d8f"), "update": ("update", "#c77d0a"), "publish": ("publish", "#7b4bb7")}
STEPS = 3                                           # drawn where nothing else is said: the last ones
WIDE, LEFT, RIGHT, HEAD, FOOT = 900, 104, 20, 58, 42
HIGH, LANE, GAP = 86, 22, 4                         # of a rank; of a lane; between two lanes


class Bar(NamedTuple):
    """A span: its rank, its lane (0: computing, 1: communicating), its name, begin and end in milliseconds, and its step, if it has one."""

    rank: int
    lane: int
    name: str
    begin: float
    end: float
    step: int | None

    @property
    def kind(self) -> str:
        """The first word of the name, of KINDS."""
        return self.name.split()[0]

    def beside(self, others: Sequence[Bar]) -> float:
        """Milliseconds of it in which one of the others goes on."""
        return sum(max(0.0, min(self.end, other.end) - max(self.begin, other.begin)) for other in others)


def trace_of(path: str | Path) -> Path:
    """What timelines are called, from that name or from one of their files, as a shell completes it.

    >>> trace_of("runs/trace.rank12.json") == trace_of("runs/trace") == Path("runs/trace")
    True
    """
    return Path(re.sub(r"(?<=[^/])\.rank\d+\.json$", "", str(path)))


def read(trace: str | Path) -> list[Bar]:
    """The spans of all ranks, from the files TRACE.rank0.json, TRACE.rank1.json, ...; trace may be one of them. Raises ConfigError."""
    trace = trace_of(trace)
    paths = sorted(Path(trace).parent.glob(f"{Path(trace).name}.rank*.json"))
    if not paths:
        raise ConfigError(explain(f"there is no file {trace}.rank0.json.", where="",
                                  remedy=f"On every rank: DataParallel(world, timeline={str(trace)!r}), and at the end write_timeline()."))
    return [bar for path in paths for bar in _bars(path)]


def _bars(path: Path) -> list[Bar]:
    try:
        events = [e for e in json.loads(path.read_bytes())["traceEvents"] if e["ph"] == "X"]
        main = {e["tid"] for e in events if e["name"] in ("compute", "abandon", "update")}
        return [Bar(e["pid"], int(e["tid"] not in main), e["name"], e["ts"] / 1e3, (e["ts"] + e["dur"]) / 1e3, e["args"].get("step"))
                for e in events if e["name"].split()[0] in KINDS]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(explain(f"{path} is no timeline of a rank: {type(error).__name__}: {error}", where="",
                                  remedy="Give the name that was given to DataParallel or ParameterServer(timeline=...).")) from error


def within(bars: Sequence[Bar], steps: tuple[int, int] | None = None) -> list[Bar]:
    """The bars of some steps, the first and the last, by default of the last three; cut where these begin and end. Raises ConfigError.

    >>> bars = [Bar(0, 0, "compute", 10.0 * k, 10.0 * k + 9, k) for k in range(5)] + [Bar(0, 1, "reduce the loss", 5.0, 12.0, None)]
    >>> [(bar.begin, bar.end) for bar in within(bars, (1, 2))]
    [(10.0, 19.0), (20.0, 29.0), (10.0, 12.0)]
    """
    of_ranks = [{bar.step for bar in bars if bar.rank == rank} - {None} for rank in {bar.rank for bar in bars}]
    # All that lie between the first and the last of every rank: one that was late, or that takes turns, has not taken each of them.
    known = range(max(map(min, of_ranks)), min(map(max, of_ranks)) + 1) if of_ranks and all(of_ranks) else []
    if not known:
        raise ConfigError(explain("the timelines have no step that every rank has taken.", where="",
                                  remedy="Take some steps before write_timeline()."))
    first, last = steps or (known[-STEPS:][0], known[-1])
    if not known[0] <= first <= last <= known[-1]:
        raise ConfigError(explain(f"the timelines have steps {known[0]} to {known[-1]} of every rank, not {first} to {last}.", where="",
                                  remedy="Choose some of these: --steps 3 5."))
    own = [bar for bar in bars if bar.step is not None and first <= bar.step <= last]
    begin, end = min(bar.begin for bar in own), max(bar.end for bar in own)
    return own + [bar._replace(begin=max(begin, bar.begin), end=min(end, bar.end)) for bar in bars
                  if bar.step is None and bar.end > begin and bar.begin < end]


def broken_down(bars: Sequence[Bar]) -> str:
    """In words, where the milliseconds of a step of one rank went; the rest is Python, and what the program does between two steps.

    >>> broken_down([Bar(0, 0, "compute", 0.0, 9.0, 1), Bar(0, 1, "reduce the loss", 8.0, 10.0, None), Bar(0, 0, "update", 10.0, 11.0, 1)])
    'of 11.0 ms a step: compute 9.0, wait for other ranks 0.0, update 1.0; sums take 2.0, 1.0 of them beside compute'
    >>> broken_down([Bar(0, 0, "wait for gradients", 0.0, 9.0, 1), Bar(0, 0, "publish", 9.0, 10.0, 1)])
    'of 10.0 ms a step: wait for other ranks 9.0, publish 1.0'
    """
    took = lambda kind, lane: [bar for bar in bars if bar.kind == kind and bar.lane == lane]
    computed, sums, count = took("compute", 0), [bar for bar in bars if bar.kind == "reduce"], len({bar.step for bar in bars} - {None})
    mean = lambda found: sum(bar.end - bar.begin for bar in found) / count
    whole, hidden = (max(bar.end for bar in bars) - min(bar.begin for bar in bars)) / count, sum(b.beside(computed) for b in sums) / count
    names = {"compute": "compute", "abandon": "compute in vain", "wait": "wait for other ranks", "update": "update", "publish": "publish"}
    parts = [f"{name} {mean(found):.1f}" for kind, name in names.items() if (found := took(kind, 0)) or kind == "wait"]
    beside = f"; sums take {mean(sums):.1f}, {hidden:.1f} of them beside compute" if sums else ""
    return f"of {whole:.1f} ms a step: {', '.join(parts)}{beside}"


def drawing(bars: Sequence[Bar], title: str) -> str:
    """An SVG of the bars of all ranks.

    >>> text = drawing([Bar(0, 0, "compute", 0.0, 9.0, 1), Bar(0, 1, "reduce bucket 1 of 1 (w)", 6.0, 10.0, None)], "a <step>")
    >>> text.startswith("<svg "), text.count("<title>"), "a &lt;step&gt;" in text
    (True, 2, True)
    """
    ranks = sorted({bar.rank for bar in bars})
    begin, end = min(bar.begin for bar in bars), max(bar.end for bar in bars)
    scale, height = (WIDE - LEFT - RIGHT) / (end - begin), HEAD + len(ranks) * HIGH + FOOT
    body = [f'<text x="{LEFT}" y="22" font-size="15" font-weight="600">{escape(title)}</text>']
    body += [*_legend({bar.kind for bar in bars}), *_axis(end - begin, scale, height)]
    for number, rank in enumerate(ranks):
        own, top = [bar for bar in bars if bar.rank == rank], HEAD + number * HIGH
        body.append(f'<text x="14" y="{top + 16}" font-weight="600">rank {rank}</text>'
                    f'<text x="{LEFT}" y="{top + 16}">{broken_down(own)}</text>')
        for lane, name in enumerate(("computing", "communicating")):
            body.append(f'<text x="14" y="{top + 39 + lane * (LANE + GAP)}">{name}</text>')
        for bar in sorted(own, key=lambda bar: list(KINDS).index(bar.kind)):
            body.append(_drawn(bar, LEFT + (bar.begin - begin) * scale, (bar.end - bar.begin) * scale, top + 24 + bar.lane * (LANE + GAP)))
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {height}" width="{WIDE}" height="{height}" '
            f'font-family="system-ui, sans-serif" font-size="11" fill="#3c4250"><rect width="{WIDE}" height="{height}" fill="#ffffff"/>'
            + "".join(body) + "</svg>\n")


def _drawn(bar: Bar, x: float, wide: float, y: float) -> str:
    """A bar; what it is stands in it where there is room, and beside the pointer."""
    number, text = re.match(r"reduce bucket (\d+)", bar.name), ""
    label = number[1] if number else f"step {bar.step}" if bar.kind == "compute" else ""
    if label and wide > 7 * len(label) + 4:
        text = f'<text x="{x + wide / 2:.1f}" y="{y + 15}" text-anchor="middle" fill="#ffffff">{label}</text>'
    return (f'<rect x="{x:.1f}" y="{y}" width="{max(wide, 0.6):.1f}" height="{LANE}" fill="{KINDS[bar.kind][1]}">'
            f'<title>{escape(bar.name)}: {bar.end - bar.begin:.2f} ms</title></rect>{text}')


def _legend(kinds: set[str]) -> list[str]:
    lines, place = [], LEFT
    for name, colour in (KINDS[kind] for kind in KINDS if kind in kinds):
        lines.append(f'<path d="M{place} 41h12" stroke="{colour}" stroke-width="12"/><text x="{place + 18}" y="45">{name}</text>')
        place += 44 + round(6.2 * len(name))
    return [*lines, *([f'<text x="{place}" y="45">numbers: which bucket is summed</text>'] if "reduce" in kinds else [])]


def _axis(length: float, scale: float, height: float) -> list[str]:
    """Round numbers of milliseconds, at most eleven, each with a line through all lanes."""
    power = 10.0 ** math.floor(math.log10(length / 10))
    size = next(power * factor for factor in (1, 2, 5, 10) if length <= 10 * power * factor)
    lines, foot = [], height - FOOT
    for k in range(int(length / size) + 1):
        x = LEFT + k * size * scale
        lines.append(f'<path d="M{x:.1f} {HEAD}V{foot + 4}" stroke="#e3e6ec"/>'
                     f'<text x="{x:.1f}" y="{foot + 18}" text-anchor="middle">{k * size:g}</text>')
    return [*lines, f'<text x="{WIDE - RIGHT}" y="{height - 8}" text-anchor="end">milliseconds</text>']


def draw(trace: str | Path, path: str | Path, *, title: str = "", steps: tuple[int, int] | None = None) -> list[str]:
    """Draw the files TRACE.rank0.json, ... into an SVG file; of each rank the line of `broken_down`. Raises ConfigError, OSError."""
    bars = within(read(trace), steps)
    ranks = sorted({bar.rank for bar in bars})
    numbers = sorted({bar.step for bar in bars} - {None})
    said = f"steps {numbers[0]} to {numbers[-1]} of {len(ranks)} ranks" if len(numbers) > 1 else f"step {numbers[0]} of {len(ranks)} ranks"
    write_whole(path, drawing(bars, title or said).encode())
    return [f"rank {rank}: {broken_down([bar for bar in bars if bar.rank == rank])}" for rank in ranks]
