"""Progress of a training run in the terminal: one live line on a terminal, a plain line now and then elsewhere.

Invariant: nothing that happens to the terminal (closed, narrow, resized, without colour or Unicode) stops training.
May import: nothing of the package. Read next: run_folder.py.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

_BARS = "▁▂▃▄▅▆▇█"
_BAR_WIDTH = 20
_PLAIN_LINES = 10           # about so many lines where there is no terminal
_INTERVAL = 0.1             # seconds between two drawings of the live line
_SMOOTHING = 0.3            # weight of the newest epoch in the seconds per epoch: a suspended laptop is soon forgotten
_STYLES = {"strong": "1", "dim": "2", "good": "32", "accent": "36"}


def duration(seconds: float) -> str:
    """Seconds as people read them.

    Example:
        >>> duration(0.84), duration(12.3), duration(185), duration(7449)
        ('0.8 s', '12 s', '3:05', '2:04:09')
    """
    if not math.isfinite(seconds):
        return "?"
    if seconds < 9.95:
        return f"{max(seconds, 0):.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02d}:{rest:02d}"
    return f"{minutes}:{rest:02d}" if minutes else f"{rest} s"


def rate(number: float) -> str:
    """A count per second in three or four digits.

    Example:
        >>> rate(742.4), rate(81234), rate(1.25e6)
        ('742', '81.2 k', '1.25 M')
    """
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if number >= size:
            scale = 1e3 if letter == " k" else size
            return f"{number / scale:.3g}{letter}"
    return f"{number:.0f}"


def sparkline(values: list[float], width: int = 12) -> str:
    """The last values as a row of bars, on a logarithmic scale where all are positive."""
    finite = [value for value in values if math.isfinite(value)][-width:]
    if len(finite) < 2:
        return ""
    heights = [math.log(value) for value in finite] if min(finite) > 0 else finite
    low, high = min(heights), max(heights)
    return "".join(_BARS[int((height - low) / (high - low or 1) * 7.999)] for height in heights)


class Progress:
    """Shows epoch, loss, validation error, examples per second and time left; use it with `with`.

    Call update after each epoch. On a terminal one line is rewritten; elsewhere about ten plain lines appear in all.
    """

    def __init__(self, epochs: int, *, done: int = 0, stream: TextIO | None = None,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = sys.stdout if stream is None else stream
        self._epochs, self._done, self._clock = epochs, done, clock
        self._seconds: float | None = None      # smoothed seconds per epoch
        self._since, self._drawn = clock(), -math.inf
        self._losses: list[float] = []
        self._line = ""                         # the live line that stands in the terminal, uncoloured
        self._live = self._is_terminal()
        self._colour = self._live and not os.environ.get("NO_COLOR")
        self._unicode = self._can_write(_BARS + "━╸")

    def _is_terminal(self) -> bool:
        try:
            return self._stream.isatty() and os.environ.get("TERM") != "dumb"
        except (AttributeError, OSError, ValueError):
            return False

    def _can_write(self, text: str) -> bool:
        try:
            text.encode(getattr(self._stream, "encoding", None) or "ascii")
        except (UnicodeError, LookupError):
            return False
        return True

    def _width(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or 80
        except (AttributeError, OSError, ValueError):
            return 80

    def update(self, epoch: int, loss: float, error: float | None = None, examples: int = 0) -> None:
        """Epoch `epoch` (from 1) is done: its mean loss, the validation error in [0, 1], the examples it walked."""
        now = self._clock()
        elapsed = max(now - self._since, 1e-9) / max(epoch - self._done, 1)
        smoothed = elapsed if self._seconds is None else self._seconds + _SMOOTHING * (elapsed - self._seconds)
        self._since, self._done, self._seconds = now, epoch, smoothed
        self._losses = [*self._losses[-63:], float(loss)]
        last = epoch >= self._epochs
        if self._live and (last or now - self._drawn >= _INTERVAL):
            self._drawn = now
            self._draw(self._fields(loss, error, examples / elapsed))
        elif not self._live and (last or epoch % max(1, self._epochs // _PLAIN_LINES) == 0):
            fields = self._fields(loss, error, examples / elapsed)
            self._write("  ".join(text for text, _, rank in fields if rank < 5) + "\n")

    def _fields(self, loss: float, error: float | None, speed: float) -> list[tuple[str, str, int]]:
        """(text, style, rank) from left to right; on a narrow terminal the highest ranks go first."""
        digits = len(str(self._epochs))
        whole = _BAR_WIDTH * min(self._done, self._epochs) // max(self._epochs, 1)
        full, empty = ("━", "─") if self._unicode else ("=", "-")
        fields = [(f"epoch {self._done:{digits}d}/{self._epochs}", "strong", 0),
                  (full * whole + empty * (_BAR_WIDTH - whole), "accent", 5),
                  (f"loss {loss:.4f}", "", 1)]
        if error is not None:
            fields.append((f"validation error {100 * error:5.2f} %", "good", 2))
        if speed > 0:
            fields.append((f"{rate(speed)} examples/s", "dim", 4))
        left = (self._epochs - self._done) * (self._seconds or 0)
        fields.append((f"{duration(left)} left" if left > 0 else "done", "dim", 3))
        if self._unicode:
            fields.append((sparkline(self._losses), "accent", 6))
        return [field for field in fields if field[0]]

    def _draw(self, fields: list[tuple[str, str, int]]) -> None:
        room = self._width() - 1                # a full last column makes some terminals wrap
        while len(fields) > 1 and sum(len(text) + 2 for text, _, _ in fields) - 2 > room:
            fields = [field for field in fields if field[2] != max(rank for _, _, rank in fields)]
        self._line = "  ".join(text for text, _, _ in fields)[:max(room, 0)]
        shown = self._line
        if self._colour and len(fields) > 1:
            shown = "  ".join(f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if style else text for text, style, _ in fields)
        self._write(f"\r\x1b[K{shown}")

    def message(self, text: str) -> None:
        """Print a line of its own; the live line moves below it."""
        if not self._can_write(text):
            text = text.encode("ascii", "replace").decode()
        self._write(f"\r\x1b[K{text}\n{self._line}" if self._live and self._line else f"{text}\n")

    def _write(self, text: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):           # the reader went away, or the stream was closed
            self._silence()

    def _silence(self) -> None:
        """Write no more; and keep the interpreter from failing on the same stream when it flushes it at the end."""
        stream, self._stream, self._live = self._stream, None, False
        if stream is sys.stdout:
            try:
                sink = os.open(os.devnull, os.O_WRONLY)
                os.dup2(sink, stream.fileno())
                os.close(sink)
            except (OSError, ValueError):
                sys.stdout = None

    def close(self) -> None:
        """Leave the last live line standing and go to the next."""
        if self._live and self._line:
            self._write("\n")
        self._line = ""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()
