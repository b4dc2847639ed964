"""What ranks write, put together again: whole lines, each with the rank that has written it.

mpiexec hands on what it has just read of a rank, up to 64 kB, wherever that ends, with a tag before each piece of a line: pieces of several
ranks follow each other in one line, and a letter of several bytes may be cut in two.

Invariant: nothing is lost or given to another rank; lines are said in the order in which they end.
May import: nothing of the package. Read next: watch.py.
"""

from __future__ import annotations

import codecs
import io
import locale
import re
from collections.abc import Callable

TAG = "\x1erank %r\x1f"             # the pattern for MPICH's mpiexec: control characters, which programs do not write
_TAGS = re.compile(rb"(?:\x1erank |\[\d+,)(\d+)(?:\x1f|\]<std(?:out|err)>: ?)")             # or Open MPI's, which cannot be chosen
_BEGUN = re.compile(rb"(?:\x1e[rank \d]*|\[[\d,]*(?:\](?:<\w*(?:>:?)?)?)?)\Z")              # perhaps a tag, of which the rest comes later


class _Lines:
    """The lines of one rank, or of mpiexec itself: a carriage return, as of a progress bar, ends one too."""

    def __init__(self, before: str, say: Callable[[str], None]):
        letters = codecs.getincrementaldecoder(locale.getpreferredencoding(False))("replace")
        self.before, self.say, self.begun = before, say, ""
        self.decoder = io.IncrementalNewlineDecoder(letters, translate=True)

    def take(self, data: bytes, final: bool = False) -> None:
        *whole, self.begun = (self.begun + self.decoder.decode(data, final)).split("\n")
        for line in [*whole, self.begun] if final and self.begun else whole:
            self.say(self.before + line)


class Relay:
    """Says the lines of all ranks, from the bytes that mpiexec writes: rank 0's as they are, another's with its rank before it.

    >>> relay = Relay(print)
    >>> relay.take(b"\\x1erank 0\\x1floss 0.5\\n\\x1erank 3\\x1floss \\x1erank 0\\x1flast\\x1erank 3\\x1f0.7\\na line of mpiexec\\n")
    loss 0.5
    rank 3: loss 0.7
    a line of mpiexec
    >>> relay.end()
    last
    """

    def __init__(self, say: Callable[[str], None]):
        self._say, self._rest, self._now = say, b"", ""
        self._lines: dict[str, _Lines] = {}

    def _of(self, rank: str) -> _Lines:
        return self._lines.setdefault(rank, _Lines("" if rank in ("", "0") else f"rank {rank}: ", self._say))

    def take(self, data: bytes) -> None:
        """Say the lines that end in these bytes, which follow those taken before."""
        data = self._rest + data
        begun = _BEGUN.search(data)
        self._rest = begun[0] if begun else b""
        text, *tagged = _TAGS.split(data.removesuffix(self._rest))
        self._give(text)
        for rank, text in zip(tagged[::2], tagged[1::2], strict=True):
            self._now = rank.decode()
            self._give(text)

    def _give(self, text: bytes) -> None:
        """A tag holds until the line ends; what follows without one is mpiexec's own."""
        own, end, rest = text.partition(b"\n")
        self._of(self._now).take(own + end)
        if end:
            self._now = ""
            self._of("").take(rest)

    def end(self) -> None:
        """Say what is left: nothing more comes."""
        self._give(self._rest)
        for lines in self._lines.values():
            lines.take(b"", final=True)
