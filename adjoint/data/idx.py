"""The idx format of the MNIST family: a gzip stream of `00 00 08 ndim`, ndim big-endian sizes, then uint8 elements.

Invariant: a file is read whole and checked whole, or DataError names it; nothing is allocated that its own size
cannot justify. May import: errors, stored. Read next: datasets.py.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import os
import struct
import zlib
from pathlib import Path

import numpy as np

from .stored import FETCH, LARGEST, read_stored, refuse

LARGEST_RATIO = 100         # inflated to stored; real images reach 3, a decompression bomb 1000


def _shape(stream: gzip.GzipFile, ndim: int, path: Path, stored: int) -> tuple[int, ...]:
    """The sizes in the head of the stream, after the checks that keep a wrong or hostile head from costing memory."""
    head = stream.read(4 + 4 * ndim)
    expected = bytes([0, 0, 8, ndim])
    if head[:4] != expected or len(head) < 4 + 4 * ndim:
        raise refuse(path, f"this is not an idx file of {ndim} axes: it starts with {head[:4].hex(' ') or 'nothing'}, "
                      f"expected {expected.hex(' ')}.", "Check that images and labels are not exchanged.")
    shape = struct.unpack(f">{ndim}I", head[4:])
    count = math.prod(shape)
    if count > LARGEST or count > LARGEST_RATIO * stored:
        raise refuse(path, f"its head promises {count} elements in {stored} stored bytes; at most {LARGEST} and "
                      f"{LARGEST_RATIO} to the byte are believed.", FETCH)
    return shape


def read_idx(path: str | os.PathLike, ndim: int, sha256: str | None = None) -> np.ndarray:
    """The uint8 array of a gzip-compressed idx file with `ndim` axes; `sha256` is that of the file as stored; a
    manifest.json beside the file is believed too.

    Raises: DataError for a file that is missing, torn, of another kind, or larger than it can honestly be.
    """
    path = Path(path)
    stored = read_stored(path, sha256)
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(stored)) as stream:
            shape = _shape(stream, ndim, path, len(stored))
            count = math.prod(shape)
            elements = stream.read(count)
            surplus = stream.read(1)            # reading past the end is what makes gzip compare its own checksum
    except (OSError, EOFError, zlib.error) as error:
        raise refuse(path, f"this gzip file is damaged: {error}.", FETCH) from error
    if len(elements) != count or surplus:
        found = f"{len(elements)}{' and more' if surplus else ''}"
        raise refuse(path, f"its head promises {count} elements ({' x '.join(map(str, shape))}), it holds {found}.",
                      FETCH)
    return np.frombuffer(elements, np.uint8).reshape(shape)


def write_idx(path: str | os.PathLike, array: np.ndarray) -> str:
    """Write a uint8 array as a gzip-compressed idx file, the same bytes every time; returns their sha256."""
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    stored = gzip.compress(head + np.ascontiguousarray(array, np.uint8).tobytes(), compresslevel=9, mtime=0)
    Path(path).write_bytes(stored)
    return hashlib.sha256(stored).hexdigest()
