"""A simulated world: schedules run for all ranks at once under a virtual clock, on data or for their time alone.

Invariant: time never depends on this machine. A transfer begins when both ends are free and takes latency + bytes / bandwidth, and
the receiver of a round that combines then adds up what came.
May import: errors, schedules. Read next: stragglers.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError, explain
from .schedules import NOBODY, Round


@dataclass(frozen=True)
class Links:
    """The link of every rank, full duplex: latency in seconds, bandwidth in bytes per second of payload, and how many bytes a second a
    rank adds up when they have arrived."""

    latency: float
    bandwidth: float
    adding: float = math.inf

    def __post_init__(self) -> None:
        if not (self.latency >= 0 and self.bandwidth > 0 and self.adding > 0):
            raise ConfigError(explain(f"Links: latency {self.latency} s, bandwidth {self.bandwidth} bytes/s, adding {self.adding} bytes/s.",
                                      remedy="For instance Links(50e-6, 117.7e6): Ethernet of 1 Gbit/s."))


class Simulator:
    """`ranks` clocks, all 0 at first; `clocks[r]` is the time at which rank r has finished what it was given so far.

    Example:
        >>> from adjoint.distributed.schedules import ring
        >>> world = Simulator(4, Links(0.0, 100.0))
        >>> world.run(ring(4, 100), bytes_per_element=4)                  # 2 (n - 1)/n of 400 bytes at 100 bytes/s
        np.float64(6.0)
    """

    def __init__(self, ranks: int, links: Links):
        self.links, self.clocks = links, np.zeros(ranks)
        self.rounds, self.bytes_sent = 0, np.zeros(ranks, np.int64)

    def compute(self, seconds: np.ndarray | float) -> None:
        """Let every rank be busy for so long."""
        self.clocks = self.clocks + seconds

    def run(self, rounds: Iterable[Round], *, bytes_per_element: int, data: np.ndarray | None = None) -> np.float64:
        """Perform a schedule; the time at which the last rank is done. data [ranks, size] is changed as the ranks' buffers would be."""
        for each in rounds:
            self._time(each, bytes_per_element)
            if data is not None:
                _move(each, data)
        return self.clocks.max()

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
