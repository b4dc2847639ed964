"""The plan: for some numbers of workers, what a step will take, which strategy to use, and why, in words and as a table.

Invariant: every number comes from planner.py; here they are only chosen and written down. May import: errors, checks, planner, simulator.
Read next: picture.py, which draws them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

from ..errors import ConfigError, explain
from .checks import flag, number
from .planner import COSTS, Cost, Forecast, averaging, best_wait, checked_work, forecast
from .simulator import Links, checked_links

LINKS = {"100gbit": Links(3e-6, 11.5e9), "10gbit": Links(20e-6, 1177e6), "1gbit": Links(50e-6, 117.7e6), "home": Links(0.05, 11.77e6),
         "slow-home": Links(0.05, 1.177e6)}
TITLES = {"100gbit": "100 Gbit/s, 3 us", "10gbit": "10 Gbit/s, 20 us", "1gbit": "1 Gbit/s, 50 us", "home": "100 Mbit/s at home, 50 ms",
          "slow-home": "10 Mbit/s at home, 50 ms"}
NEAR = 0.02             # a plain ring is taken where it loses less than this share of a step
EVERY = 500             # steps between averages, where a step cannot be shared


@dataclass(frozen=True)
class Work:
    """One worker's step: seconds of its gradient, bytes of gradients, the exponential share of the seconds, the share during which
    gradients are already on their way, and the optimizer's arrays of the parameters' size."""

    compute: float
    size: float
    jitter: float = 0.0
    overlap: float = 0.0
    moments: int = 2

    def __post_init__(self) -> None:
        checked_work("Work", **asdict(self))


class Advice(NamedTuple):
    """What to use for so many workers, and why; the forecasts it was chosen from, the fastest first."""

    workers: int
    best: Forecast
    reason: str
    forecasts: list[Forecast]


def links_of(text: str) -> Links:
    """A name of LINKS, or latency and bandwidth: seconds and bytes a second with a comma between.

    >>> links_of("1gbit") == links_of("50e-6,117.7e6")
    True
    """
    if isinstance(text, str) and text in LINKS:
        return LINKS[text]
    try:
        latency, bandwidth = map(float, text.split(","))
    except (AttributeError, ValueError):
        raise ConfigError(explain(f"the link is {text!r:.60}.", where="",
                                  remedy=f"One of {', '.join(LINKS)}, or seconds,bytes-a-second: 50e-6,117.7e6.")) from None
    return Links(latency, bandwidth)


def advise(workers: int, work: Work, links: Links, *, costs: dict[str, Cost] = COSTS) -> Advice:
    """The strategy for so many workers: the fastest synchronous step, a ring where that is nearly as fast, and backup workers where
    the slowest cost more than the server's link.

    >>> advise(16, Work(0.25, 102e6, overlap=0.5), LINKS["10gbit"]).best.strategy
    'ring'
    >>> advise(8, Work(1.0, 1e4, jitter=0.5), LINKS["10gbit"]).best[0::7]
    ('parameter_server', 6)
    """
    _check(work)
    options = {**asdict(work), "links": links, "costs": costs}
    found = forecast(workers, **options)
    server = next((f for f in found if f.strategy == "parameter_server"), None)
    if server is not None and work.jitter > 0 and workers > 1:
        k = best_wait(workers, compute=work.compute, jitter=work.jitter, communicating=server.communicating)
        if k < workers:
            found += forecast(workers, wait_for=k, **options)
    found.sort(key=lambda f: -f.efficiency)
    ring = next((f for f in found if f.strategy == "ring"), found[0])
    best = ring if ring.efficiency >= found[0].efficiency * (1 - NEAR) else found[0]
    return Advice(workers, best, _reason(workers, work, links, best, ring), found)


def _check(work: Work) -> None:
    if not isinstance(work, Work):
        raise ConfigError(explain(f"plan: work is {work!r:.60}, expected Work.", remedy="For instance Work(compute=0.25, size=102e6)."))


def _reason(workers: int, work: Work, links: Links, best: Forecast, ring: Forecast) -> str:
    if workers == 1:
        return "one worker has nobody to exchange gradients with"
    if best.efficiency < 0.5 and best.communicating > best.computing and best.wait_for == workers:
        alone = averaging(workers, EVERY, compute=work.compute, size=work.size, links=links)
        times = best.communicating / work.compute
        return (f"the wire takes {duration(best.communicating)}: {times:.3g} times the examples a worker keep half the speed, "
                f"averages every {EVERY} steps (not in this package) {100 * alone:.0f} %")
    if best.wait_for < workers:
        return (f"the slowest of {workers} is waited for {duration(ring.computing)}; {best.wait_for} of {workers} take "
                f"{duration(best.computing)}, if the late ones abandon their work")
    if best.communicating <= NEAR * best.seconds:
        return "communication is hidden behind the compute" if work.overlap else "communication is a trifle beside the compute"
    if best.strategy == "ring":
        return "it sends the fewest bytes to one neighbour, and latency does not matter at this size"
    saved = duration(max(ring.seconds - best.seconds, 0.0))
    return f"{saved} less than the ring, whose {2 * (workers - 1)} rounds pay the latency {2 * (workers - 1)} times"


def duration(seconds: float) -> str:
    """Seconds as a person reads them.

    >>> duration(0.0000042), duration(0.0123), duration(75.0), duration(1800.0), duration(8000.0)
    ('4.2 us', '12.3 ms', '75 s', '30 min', '2.22 h')
    """
    seconds = number("duration", "seconds", seconds, most=math.inf)
    for least, unit, name in ((3600.0, 3600.0, "h"), (999.5, 60.0, "min"), (0.9995, 1.0, "s"), (0.9995e-3, 1e-3, "ms"), (1e-6, 1e-6, "us")):
        if seconds >= least:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds * 1e6:.2g} us"


def volume(size: float) -> str:
    """Bytes as a person reads them.

    >>> volume(102e6), volume(480.0)
    ('102 MB', '480 B')
    """
    size = number("volume", "size", size, most=math.inf)
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size:.3g} B"


def report(workers: Sequence[int], work: Work, links: Links, *, costs: dict[str, Cost] = COSTS, every_strategy: bool = False) -> str:
    """The plan as lines of text: one of each number of workers, with the reason; or one of each strategy too.

    >>> print(report([4], Work(0.25, 4e6), LINKS["1gbit"]))
    compute 250 ms, gradients 4 MB, links of 117.7 MB/s after 50 us
     workers  use                       step  efficiency   on the wire   busiest sends   memory a rank
           4  ring                    301 ms      83.0 %       51.3 ms            6 MB           16 MB
              it sends the fewest bytes to one neighbour, and latency does not matter at this size
    """
    _check(work)
    checked_links("report", links)
    flag("report", "every_strategy", every_strategy)
    if isinstance(workers, str) or not isinstance(workers, Sequence):
        raise ConfigError(explain(f"report: workers is {workers!r:.60}, expected numbers of them.", remedy="For instance [4, 64, 1024]."))
    varies = f", {100 * work.jitter:.3g} % of it varies" if work.jitter else ""
    hides = f", {100 * work.overlap:.3g} % of it hides communication" if work.overlap else ""
    lines = [f"compute {duration(work.compute)}{varies}{hides}, gradients {volume(work.size)}, links of "
             f"{links.bandwidth / 1e6:,.4g} MB/s after {duration(links.latency)}",
             " workers  use                       step  efficiency   on the wire   busiest sends   memory a rank"]
    for n in workers:
        advice = advise(n, work, links, costs=costs)
        shown = advice.forecasts if every_strategy and n > 1 else [advice.best]
        lines += [_line(n, f, "*" if len(shown) > 1 and f is advice.best else "") for f in shown]
        lines.append(f"          {advice.reason}")
    return "\n".join(lines)


def _line(workers: int, f: Forecast, mark: str) -> str:
    name = "no exchange" if workers == 1 else f.strategy + (f", {f.wait_for} of {workers}" if f.wait_for < workers else "") + mark
    return (f"{workers:8d}  {name:<20} {duration(f.seconds):>9}  {100 * f.efficiency:8.1f} %  {duration(f.communicating):>12}  "
            f"{volume(f.bytes):>14}  {volume(f.memory):>14}")
