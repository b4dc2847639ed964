"""What a compiled function is called with and what it gives back: the records that an entry is made from.

Invariant: a signature is data; the native entry and the Python entry read the same one. Buffers are numbered as in
the Program. May import: nothing of the package. Read next: entry.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Array:
    """An argument: a native, aligned, C-contiguous array;

    Without axes a NumPy scalar will do. Donated: must be writeable.
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    buffer: int
    donated: bool = False


@dataclass(frozen=True)
class Scalar:
    """An argument: a Python number of exactly the type `kind` (float, int, bool), stored as `dtype` in its buffer."""

    kind: type
    dtype: np.dtype
    buffer: int


@dataclass(frozen=True)
class Handle:
    """An argument recognized by identity: the very object given to `Specialization.hold(slot, ...)`."""

    slot: int


@dataclass(frozen=True)
class Fresh:
    """A result in new memory: an array, or a NumPy scalar where there are no axes."""

    dtype: np.dtype
    shape: tuple[int, ...]
    buffer: int


@dataclass(frozen=True)
class Held:
    """A result: the object that slot `slot` holds."""

    slot: int


@dataclass(frozen=True)
class Given:
    """A result: the argument at this position, whose memory the program wrote (donated)."""

    argument: int


@dataclass(frozen=True)
class Signature:
    """What a program is called with and what it gives back. Buffers are numbered as in its Program.

    `results` is a tree of Fresh, Held and Given in tuples, lists and dicts; any other leaf is returned as it is.
    `arena` maps a buffer to its byte offset (a multiple of 64) in the arena.
    """

    arguments: tuple[Array | Scalar | Handle, ...]
    results: object
    buffers: int
    arena: tuple[tuple[int, int], ...] = ()
    arena_bytes: int = 0
    slots: int = 0
