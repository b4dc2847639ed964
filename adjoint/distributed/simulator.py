"""A simulated world: schedules run for all ranks at once under a virtual clock, on data or for their time alone.

Invariant: time never depends on this machine. A transfer begins when both ends are free and takes latency + bytes / bandwidth, and
the receiver of a round that combines then adds up what came.
May import: errors, checks, schedules. Read next: stragglers.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError, ShapeError, explain
from .checks import RANKS, durations, number, whole
from .schedules import NOBODY, Round


@dataclass(frozen=True)
class Links:
    """The link of every rank, full duplex: latency in seconds, bandwidth in bytes per second of payload, and how many bytes a second a
    rank adds up when they have arrived."""

    latency: float
    bandwidth: float
    adding: float = math.inf

    def __post_init__(self) -> None:
        remedy = "For instance Links(50e-6, 117.7e6): Ethernet of 1 Gbit/s."
        number("Links", "latency", self.latency, remedy=remedy)
        for name in ("bandwidth", "adding"):
            number("Links", name, getattr(self, name), above=True, most=math.inf, remedy=remedy)


def checked_links(of: str, links: Links) -> Links:
    """The links; raises ConfigError for anything else.

    >>> checked_links("Simulator", Links(0.0, 1e9)).bandwidth
    1000000000.0
    """
    if not isinstance(links, Links):
        raise ConfigError(explain(f"{of}: links is {links!r:.60}, expected Links.",
                                  remedy="For instance distributed.Links(50e-6, 117.7e6): Ethernet of 1 Gbit/s."))
    return links


_MADE = "Make one for this world: schedules.ring(ranks, elements)."


class Simulator:
    """`ranks` clocks, all 0 at first; `clocks[r]` is the time at which rank r has finished what it was given so far.

    Example:
        >>> from adjoint.distributed.schedules import ring
        >>> world = Simulator(4, Links(0.0, 100.0))
        >>> world.run(ring(4, 100), bytes_per_element=4)                  # 2 (n - 1)/n of 400 bytes at 100 bytes/s
        np.float64(6.0)
    """

    def __init__(self, ranks: int, links: Links):
        self.links, self.clocks = checked_links("Simulator", links), np.zeros(whole("Simulator", "ranks", ranks, most=RANKS))
        self.rounds, self.bytes_sent = 0, np.zeros(len(self.clocks), np.int64)

    def compute(self, seconds: np.ndarray | float) -> None:
        """Let every rank be busy for so long: a number, or one for each rank."""
        n = len(self.clocks)
        seconds = durations("Simulator.compute", "seconds", seconds, lambda shape: shape in ((), (n,)), f"one or {n}")
        self.clocks = self.clocks + seconds

    def run(self, rounds: Iterable[Round], *, bytes_per_element: int, data: np.ndarray | None = None) -> np.float64:
        """Perform a schedule; the time at which the last rank is done. data [ranks, size] is changed as the ranks' buffers would be.

        Raises: ConfigError for a schedule of another number of ranks; ShapeError for data that it was not made for.
        """
        whole("Simulator.run", "bytes_per_element", bytes_per_element)
        if not isinstance(rounds, Iterable):
            raise ConfigError(explain(f"Simulator.run: {rounds!r:.60} is no schedule.", remedy=_MADE))
        if data is not None and (not isinstance(data, np.ndarray) or data.ndim != 2 or len(data) != len(self.clocks)):
            raise ShapeError(explain(f"Simulator.run: data of shape {np.shape(data)} for {len(self.clocks)} ranks, expected [ranks, size].",
                                     remedy="Give a row to each rank."))
        reached = 0
        for each in rounds:
            reached = max(reached, self._checked(each, data))
            self._time(each, bytes_per_element)
            if data is not None:
                _move(each, data)
        if data is not None and len(data) > 1 and reached != data.shape[1]:
            raise _other_size(reached, data)
        return self.clocks.max()

    def _checked(self, each: Round, data: np.ndarray | None) -> int:
        """Up to which element of the data a round goes."""
        if not isinstance(each, Round):
            raise ConfigError(explain(f"Simulator.run: {each!r:.60} is no Round.", remedy=_MADE))
        if len(each.to) != len(self.clocks):
            raise ConfigError(explain(f"Simulator.run: a schedule of {len(each.to)} ranks in a world of {len(self.clocks)}.", remedy=_MADE))
        if data is None:
            return 0
        reached = max(int(limits[1].max()) for limits in (each.sent, each.received))
        if reached > data.shape[1]:
            raise _other_size(reached, data)
        return reached

    def _time(self, each: Round, width: int) -> None:
        """One round: every transfer begins at the later of its two clocks; a rank goes on when both its transfers are done."""
        self.rounds += 1
        wire = self.links
        if each.to.min() != NOBODY and each.source.min() != NOBODY:         # all send and receive: whole arrays, nothing is scattered
            payload = (each.sent[1] - each.sent[0]) * width
            done = np.maximum(self.clocks, self.clocks[each.to]) + (wire.latency + payload / wire.bandwidth)
            arrived = done + payload / wire.adding if each.combines else done
            self.clocks = np.maximum(done, arrived[each.source])
            self.bytes_sent += payload
            return
        senders = np.flatnonzero(each.to != NOBODY)
        receivers, payload = each.to[senders], (each.sent[1][senders] - each.sent[0][senders]) * width
        done = np.maximum(self.clocks[senders], self.clocks[receivers]) + wire.latency + payload / wire.bandwidth
        self.clocks[senders] = done
        arrived = done + payload / wire.adding if each.combines else done
        self.clocks[receivers] = np.maximum(self.clocks[receivers], arrived)
        self.bytes_sent[senders] += payload


def _other_size(reached: int, data: np.ndarray) -> ShapeError:
    return ShapeError(explain(f"Simulator.run: the schedule goes up to element {reached}, data has {data.shape[1]} elements a rank.",
                              remedy="Make the schedule for as many: ring(ranks, data.shape[1])."))


def _move(each: Round, data: np.ndarray) -> None:
    """What a round does to all buffers: everything is sent before anything arrives."""
    receivers = np.flatnonzero(each.source != NOBODY)
    arriving = [data[each.source[r], each.sent[0][each.source[r]]:each.sent[1][each.source[r]]].copy() for r in receivers]
    for r, found in zip(receivers, arriving, strict=True):
        target = data[r, each.received[0][r]:each.received[1][r]]
        if each.combines:
            target += found
        else:
            target[...] = found
