"""A ring's rounds under MPI as one stream of blocks: each leaves as soon as it has come and is combined, no link waits for a round's end.

Invariant: a block is overwritten only when MPI has sent what it held. May import: nothing of this package. Read next: mpi_blocks.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

DEPTH = 3               # blocks that may arrive at a time
TAGS = 32719            # a prime; every MPI takes tags up to 32767
DTYPES = {name: number for number, name in enumerate("b1 i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8 f16 c8 c16 c32".split())}


class Stream:
    """The blocks of `turns`, each of which sends what the one before it has received; they are cut after every `step` elements.

    comm: MPI's communicator; done(requests): MPI's Testall; wait(requests, others): until they are done, with a deadline;
    check(bytes, tag, source): whether what has come last is such a block; scratch: DEPTH rows of bytes for blocks that are combined into
    the buffer. The tag says how large the whole buffer is, and its dtype: blocks of another rank's may be as large and be fewer.
    """

    def __init__(self, comm: Any, turns: Sequence[Any], buffer: np.ndarray, scratch: np.ndarray, done: Callable, wait: Callable,
                 check: Callable[[int, int, int], None]):
        self.comm, self.done, self.wait, self.check, self.buffer, self.scratch = comm, done, wait, check, buffer, scratch
        self.tag = tag_of(buffer)
        self.to, self.source = turns[0].to, turns[0].source
        step = scratch.shape[1] // buffer.itemsize
        self.leaving = [part for turn in turns for part in parts(turn.sent, step)]
        self.arriving = [(part, turn.combines) for turn in turns for part in parts(turn.received, step)]
        self.here = len(parts(turns[0].sent, step))         # blocks that leave first, without having come
        self.sending: list[Any] = []
        self.receiving: list[Any] = []
        self.first_sent = {part.start: k for k, part in reversed([*enumerate(self.leaving)]) if part.start < part.stop}

    def run(self, combine: np.ufunc) -> None:
        """Everything, in order."""
        for k, (part, combines) in enumerate(self.arriving):
            self._send(self.here + k)
            self._receive(k)
            self.wait([self.receiving[k]], [self.source])
            self.check(self.buffer[part].nbytes, self.tag, self.source)
            if combines:
                combine(self.buffer[part], self._place(k), out=self.buffer[part])
        self._send(len(self.leaving))
        self.wait(self.sending, [self.to] * len(self.sending))

    def _send(self, most: int) -> None:
        """Begin to send what may leave: up to `most` blocks in all."""
        for part in self.leaving[len(self.sending):most]:
            self.sending.append(self.comm.Isend(self.buffer[part].view(np.uint8), self.to, self.tag))

    def _receive(self, k: int) -> None:
        """Begin to receive block k, and those after it for which there is room."""
        for number in range(len(self.receiving), min(k + DEPTH, len(self.arriving))):
            held = self._held(number)
            if held is not None:
                if number > k:
                    return                                  # looked at again before the next block
                self.wait([self.sending[held]], [self.to])
            self.receiving.append(self.comm.Irecv(self._place(number).view(np.uint8), self.source))

    def _held(self, number: int) -> int | None:
        """The send that is not done of what arriving block `number` overwrites, if any."""
        part, combines = self.arriving[number]
        sent = self.first_sent.get(part.start, self.here + number)          # there the block itself is sent on
        free = combines or sent >= self.here + number or (sent < len(self.sending) and self.done([self.sending[sent]]))
        return None if free else sent

    def _place(self, number: int) -> np.ndarray:
        """Where block `number` arrives: beside the buffer if it is combined into it."""
        part, combines = self.arriving[number]
        own = self.buffer[part]
        return self.scratch[number % DEPTH].view(own.dtype)[:own.size] if combines else own


def tag_of(array: np.ndarray) -> int:
    """The tag of an array's blocks, from its size and dtype: no tag is larger in any MPI, and whole messages have others.

    >>> tag_of(np.ones(3)), tag_of(np.ones(4)), tag_of(np.ones(3, np.int64))
    (780, 1036, 773)
    """
    return 1 + (array.nbytes * 32 + dtype_number(array.dtype)) % TAGS


def dtype_number(dtype: np.dtype) -> int:
    """A small number for a dtype, the same on every machine.

    >>> dtype_number(np.dtype(np.float64)), dtype_number(np.dtype("V8"))
    (11, 16)
    """
    return DTYPES.get(dtype.str[1:], len(DTYPES))


def whole_tag(dtype: np.dtype) -> int:
    """The tag of a message that is an array of such a dtype, in one piece.

    >>> whole_tag(np.dtype(np.float64)) - TAGS
    12
    """
    return TAGS + 1 + dtype_number(dtype)


def dtype_of(tag: int) -> str:
    """The dtype that the tag of a whole message says.

    >>> dtype_of(whole_tag(np.dtype(np.float32))), dtype_of(7)
    ('float32', 'a block of an array')
    """
    names = {number: name for name, number in DTYPES.items()}
    return np.dtype(names[tag - TAGS - 1]).name if tag - TAGS - 1 in names else "a block of an array"


def parts(span: slice, step: int) -> list[slice]:
    """A slice cut into pieces of `step` elements; an empty one is one piece.

    >>> parts(slice(2, 7), 3), parts(slice(2, 2), 3)
    ([slice(2, 5, None), slice(5, 7, None)], [slice(2, 2, None)])
    """
    return [slice(start, min(start + step, span.stop)) for start in range(span.start, span.stop, step)] or [span]
