"""Ranks behind a TCP relay that lets every link carry so many bytes a second each way: for systems whose links cannot be shaped.

The bytes are real and go over the loopback interface; rate and order are the relay's, in user space; ranks are threads.

`Relay(ranks, rate)` listens; each rank makes a `Relayed(world, relay.port)` communicator, which only exchanges.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import struct
import threading
import time
from typing import Any

import numpy as np

from adjoint.distributed import ALGORITHMS, all_reduce_in_place, run_threads
from adjoint.distributed.communicator import Counts

HERE = "127.0.0.1"
HEAD = struct.Struct("<iq")             # the other rank, and how many bytes follow
CHUNK = 1 << 16                         # bytes that pass at a time
WAITING = 16                            # chunks that a link holds before who sends has to wait
CATCH_UP = 2e-2                         # seconds that a link which was held up may be behind, and make good
DEADLINE = 60.0                         # seconds without a byte after which a socket gives up


class Link:
    """One direction of a line. carried: bytes so far."""

    def __init__(self, rate: float):
        self.rate, self.free, self.carried = rate, 0.0, 0

    def carry(self, size: int) -> None:
        """Sleep until so many bytes more are over."""
        now = time.perf_counter()
        self.free = max(self.free, now - CATCH_UP) + size / self.rate
        self.carried += size
        if self.free > now:
            time.sleep(self.free - now)


class Relay:
    """A server with a line of `rate` bytes a second for each rank, up and down. Ends with its process, or by `close`."""

    def __init__(self, ranks: int, rate: float):
        self._listening = socket.create_server((HERE, 0))
        self._listening.settimeout(DEADLINE)
        self.port = self._listening.getsockname()[1]
        self.up, self.down = ([Link(rate) for _ in range(ranks)] for _ in range(2))
        self._lines: list[queue.Queue] = [queue.Queue(WAITING) for _ in range(ranks)]
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._welcome, args=(ranks,), daemon=True, name="relay").start()

    def _welcome(self, ranks: int) -> None:
        with contextlib.suppress(OSError):                  # closed before all had come
            for _ in range(ranks):
                line, _ = self._listening.accept()
                line.settimeout(DEADLINE)
                self._sockets.append(line)
                rank, _ = HEAD.unpack(_read(line, HEAD.size))
                for work in (self._take, self._give):
                    threading.Thread(target=work, args=(line, rank), daemon=True, name=f"{work.__name__} of rank {rank}").start()

    def _take(self, line: socket.socket, rank: int) -> None:
        """What a rank sends, chunk by chunk, to the line of whom it is for."""
        try:
            while True:
                to, size = HEAD.unpack(_read(line, HEAD.size))
                for start in range(0, size, CHUNK):
                    chunk = _read(line, min(CHUNK, size - start))
                    self.up[rank].carry(len(chunk) + HEAD.size)
                    self._lines[to].put((rank, chunk))
        except OSError:
            self._lines[rank].put(None)                     # it has gone

    def _give(self, line: socket.socket, rank: int) -> None:
        """What has come for a rank."""
        while (found := self._lines[rank].get()) is not None:
            source, chunk = found
            self.down[rank].carry(len(chunk) + HEAD.size)
            try:
                line.sendall(HEAD.pack(source, len(chunk)) + chunk)
            except OSError:
                return

    def close(self) -> None:
        """End all lines."""
        for each in (*self._sockets, self._listening):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)             # wakes a thread that reads it
            each.close()


class Relayed:
    """A communicator of which every message goes through the relay."""

    def __init__(self, world: Any, port: int):
        self.rank, self.size, self.counts = world.rank, world.size, Counts()
        self._line = socket.create_connection((HERE, port), DEADLINE)
        self._line.sendall(HEAD.pack(self.rank, 0))
        self._early: dict[int, bytearray] = {}              # what has come from ranks that are not waited for yet
        self._out: queue.SimpleQueue = queue.SimpleQueue()
        self._sender = threading.Thread(target=self._send, daemon=True, name=f"sender of rank {self.rank}")
        self._sender.start()

    def _send(self) -> None:
        while (found := self._out.get()) is not None:
            to, data = found
            self._line.sendall(HEAD.pack(to, len(data)))
            self._line.sendall(data)

    def exchange(self, sent: np.ndarray | None, to: int, received: np.ndarray | None, source: int) -> None:
        """Both directions at once."""
        if sent is not None:
            self._out.put((to, sent.tobytes()))
        if received is not None:
            place, filled = memoryview(received.reshape(-1).view(np.uint8)), 0
            early = self._early.setdefault(source, bytearray())
            filled = min(len(early), len(place))
            place[:filled] = early[:filled]
            del early[:filled]
            while filled < len(place):
                other, size = HEAD.unpack(_read(self._line, HEAD.size))
                chunk = _read(self._line, size)
                kept = min(size, len(place) - filled) if other == source else 0
                place[filled:filled + kept] = chunk[:kept]
                filled += kept
                self._early.setdefault(other, bytearray()).extend(chunk[kept:])
        self.counts.note(sent, to, received)

    def close(self) -> None:
        """Send what is left, and let the relay know that this rank has gone."""
        self._out.put(None)
        self._sender.join(DEADLINE)
        self._line.close()


def _read(line: socket.socket, size: int) -> bytes:
    """Exactly so many bytes."""
    parts, missing = [], size
    while missing:
        part = line.recv(min(missing, CHUNK))
        if not part:
            raise ConnectionError("the line was closed")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def measured(ranks: int, size: int, rounds: int, rate: float) -> dict[str, Any]:
    """Seconds of every all-reduce of `size` bytes of float32, and each rank's (payload, sent, received), as benchmarks.network has them."""
    relay = Relay(ranks, rate)

    def program(world: Any) -> dict[str, Any]:
        line, buffer = Relayed(world, relay.port), np.empty(size // 4, np.float32)
        found: dict[str, Any] = {name: {"seconds": []} for name in ALGORITHMS}
        for _ in range(rounds):
            for name, entry in found.items():
                before = line.counts.bytes_sent, relay.up[line.rank].carried, relay.down[line.rank].carried
                all_reduce_in_place(np.ones(1), line, algorithm="tree")              # nobody begins before all have looked
                buffer[:] = line.rank
                begin = time.perf_counter()
                all_reduce_in_place(buffer, line, algorithm=name)
                entry["seconds"].append(time.perf_counter() - begin)
                all_reduce_in_place(np.ones(1), line, algorithm="tree")
                if (buffer != ranks * (ranks - 1) / 2).any():
                    raise SystemExit(f"{name}: a wrong sum")
                after = line.counts.bytes_sent, relay.up[line.rank].carried, relay.down[line.rank].carried
                entry["counters"] = [b - a for a, b in zip(before, after, strict=True)]
        line.close()
        return found
    found = run_threads(ranks, program, seconds=DEADLINE)
    relay.close()
    rows = {name: {"seconds": [max(each) for each in zip(*(one[name]["seconds"] for one in found), strict=True)],
                   "counters": [one[name]["counters"] for one in found]} for name in ALGORITHMS}
    return {"mpi": "no MPI", "where": "threads behind a TCP relay", "payload": 1.0, "rows": rows}
