"""A bell between the ranks of one machine: a datagram on the loopback interface ends the sleep of a rank that waits for letters.

MPI has no call that waits without taking a core. Invariant: whoever wakes looks at its mail itself, so a datagram that is lost, or that
another program sends, costs time and never a letter. May import: nothing of this package. Read next: mpi_mail.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import platform
import select
import socket
import time
import weakref
from pathlib import Path

import numpy as np

HERE = "127.0.0.1"
TRIAL = 0.05            # seconds in which a ring of one's own must be heard
HIGHEST = 1023          # the largest number of a file for which the system's select works


class Bell:
    """This process's bell. port: where it is rung, 0 where that does not work (a namespace without loopback interface).

    >>> bell = Bell()
    >>> bell.ring(bell.port)
    >>> bell.wait(60.0), bell.wait(0.0)
    (True, False)
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        weakref.finalize(self, self._socket.close)
        self.port = 0
        with contextlib.suppress(OSError):
            self._socket.bind((HERE, 0))
            port = self._socket.getsockname()[1]
            if self._socket.fileno() <= HIGHEST:
                self.ring(port)
                self.port = port if self._heard(TRIAL) else 0

    def ring(self, port: int) -> None:
        """Wake the process of this machine with this port."""
        with contextlib.suppress(OSError):
            self._socket.sendto(b"", (HERE, port))

    def wait(self, seconds: float) -> bool:
        """Sleep until the bell rings, or has rung since the last time, at most so long; whether it has."""
        if self.port:
            return self._heard(seconds)
        time.sleep(seconds)
        return False

    def _heard(self, seconds: float) -> bool:
        if not select.select([self._socket], [], [], seconds)[0]:
            return False
        with contextlib.suppress(OSError):
            while True:
                self._socket.recv(1)
        return True

    def address(self) -> np.ndarray:
        """What others must know: numbers that are the same for all processes of this loopback interface, and the port."""
        return np.array([place(), self.port])


def place() -> int:
    """Which loopback interface this process sees: the same number for two processes only if it is the same one.

    >>> place() == place()
    True
    """
    known = [platform.node()]
    with contextlib.suppress(OSError):
        known += [Path("/proc/sys/kernel/random/boot_id").read_text(), str(Path("/proc/self/ns/net").stat().st_ino)]
    return int.from_bytes(hashlib.blake2b(" ".join(known).encode(), digest_size=8).digest(), "little") >> 1
