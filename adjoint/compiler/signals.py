"""Signals: what other threads may know of a compiled call that is running, and the one thing they may tell it: to stop.

The call looks at a flag between kernels (and inside long ones), says after every kernel which of its results are finished, and wakes
the thread that waits for that.
Invariant: a flag "finished" is stored with release order after all threads have left the kernel that writes the result last.
May import: errors, capi, control, runtime. Read next: sequence.py (the native side), compile.py.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import numpy as np

from ..errors import ConfigError, explain
from . import control as at
from .capi import free_lock, held_lock
from .runtime import runtime


class Signals:
    """Given to compile(f, signals=...): `cancel` ends the call that is running, `finished(j)` says whether its result j may be read.

    Results are numbered as adjoint.tree.flatten numbers them; `outputs[j]` is the array of result j, None for a number and for donated
    data. These arrays belong to the compiled function: every call returns the same ones and overwrites them (hold copies of what must
    last). A cancelled call raises errors.Cancelled, and its arguments, donated ones too, are as they were. The flag stays until `reset`:
    a call that begins after `cancel` ends at once. One Signals belongs to one compiled function, which runs one call at a time.

    >>> from adjoint.compiler.compile import compile
    >>> signals = Signals()
    >>> square = compile(lambda x: (x * x, x.sum()), signals=signals)
    >>> square(np.array([1.0, 3.0]))
    (array([1., 9.]), np.float64(4.0))
    >>> signals.finished(0), signals.ready, signals.outputs
    (True, 2, (array([1., 9.]), None))
    """

    def __init__(self) -> None:
        self.words = np.zeros(at.READY // 8 + at.MOST_RESULTS, np.int64)
        self.outputs: tuple[np.ndarray | None, ...] = ()
        self._address, self._native = self.words.ctypes.data, runtime()
        self.words[at.BELL // 8] = lock = held_lock()
        weakref.finalize(self, free_lock, lock)

    def cancel(self) -> None:
        """Let the call that is running, or the next one, end after its kernel. After the commit point of donated data it is too late."""
        self.words[0] = 1

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called since the last `reset`."""
        return bool(self.words[0])

    @property
    def ready(self) -> int:
        """How many results of the running call, or of the last one, are finished."""
        return int(np.count_nonzero(self.words[at.READY // 8:][:len(self.outputs)]))

    def finished(self, number: int) -> bool:
        """Whether result `number` of this call has been written; afterwards its array may be read, and written, until the next call."""
        return bool(self._native.read(self._address + at.READY + 8 * number))

    def reset(self) -> None:
        """Before the next call: no result is finished, nothing is cancelled, and `outputs` is empty until the call has begun."""
        self.words[0], self.words[at.READY // 8:], self.outputs = 0, 0, ()

    def begin(self, outputs: Sequence[np.ndarray | None]) -> None:
        """A call begins that writes these arrays."""
        if len(outputs) > at.MOST_RESULTS:
            raise ConfigError(explain(f"signals: the function has {len(outputs)} results, more than {at.MOST_RESULTS}.",
                                      remedy="Return fewer, larger arrays."))
        self.words[at.READY // 8:] = 0
        self.outputs = tuple(outputs)
        self.ring()

    @property
    def events(self) -> int:
        """How often something has happened: a call has begun, results are finished, or `ring`."""
        return int(self.words[at.EVENTS // 8])

    def ring(self) -> None:
        """Wake the thread that waits."""
        self._native.ring(self._address)

    def wait(self, seen: int, seconds: float) -> int:
        """Sleep until there are more than `seen` events, at most so long: how many there are. For one thread at a time."""
        return self._native.wait(self._address, seen, int(seconds * 1e6))
