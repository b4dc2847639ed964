"""Weight files: safetensors, read with the checks that the format's own library leaves out.

Invariant: what `parse` returns had one name per tensor, every byte in exactly one tensor, a dtype of the table, sane
names and sizes; nothing is allocated before the declared sizes equal the bytes present.
May import: errors, files. Read next: checkpoint.py.
"""

from __future__ import annotations

import json
import math
import os
import re
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from ..errors import CheckpointError, explain
from . import files

DTYPES = {"BOOL": np.dtype(np.bool_), "U8": np.dtype(np.uint8), "I32": np.dtype(np.int32), "I64": np.dtype(np.int64),
          "F32": np.dtype(np.float32), "F64": np.dtype(np.float64)}
_CODES = {dtype: code for code, dtype in DTYPES.items()}
LARGEST_HEADER = 100_000_000    # the format's own limit
MOST_TENSORS = 50_000
MOST_AXES = 32
LARGEST_EXTENT = 1 << 31
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\[\]-]{0,254}")
_RESTORE = "Restore the file from a copy, or take an earlier checkpoint."


def refuse(path: str | os.PathLike, what: str, remedy: str = _RESTORE) -> CheckpointError:
    """The error for a file: what is wrong with it, its path, one thing to do."""
    return CheckpointError(explain(what, where=os.fspath(path) or None, remedy=remedy))


def name_is_sane(name: str) -> bool:
    """True for names such as model.0.weight; false for paths, control characters, markup, nothing, or 256 letters."""
    return _NAME.fullmatch(name) is not None and ".." not in name


def encode(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> bytes:
    """The bytes of a safetensors file. Raises CheckpointError for what `parse` would refuse."""
    if len(tensors) > MOST_TENSORS:
        raise refuse("", f"{len(tensors)} tensors are too many for one file; at most {MOST_TENSORS}.",
                     "Save several files.")
    for name, array in tensors.items():
        if not isinstance(name, str) or not name_is_sane(name):
            raise refuse("", f"{name!r:.80} cannot be the name of a tensor.",
                         "Use letters, digits, '_', '.', '-' and brackets, at most 255.")
        if array.dtype not in _CODES or array.ndim > MOST_AXES or max(array.shape, default=0) > LARGEST_EXTENT:
            raise refuse("", f"{name}: {array.dtype} of shape {array.shape} cannot be saved.",
                         f"Save {', '.join(dtype.name for dtype in _CODES)} with at most {MOST_AXES} axes.")
    return safetensors.numpy.save({name: np.asarray(array, order="C") for name, array in tensors.items()}, metadata)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _header(content: bytes, path: str) -> tuple[dict[str, Any], int]:
    """The header as a dict, and the offset at which the tensors begin."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or not 2 <= length <= LARGEST_HEADER or 8 + length > len(content):
        raise refuse(path, f"this is no whole safetensors file: {len(content)} bytes, header of "
                     f"{length if len(content) >= 8 else 'unknown'} bytes.")
    if content[8:9] != b"{":
        raise refuse(path, "this is no safetensors file: its header does not start with '{'.")
    try:
        header = json.loads(content[8:8 + length].decode("utf-8"), object_pairs_hook=_without_duplicates,
                            parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise refuse(path, f"its header is not the JSON of a safetensors file: {str(error)[:80]}.") from error
    return header, 8 + length


def _entry_bytes(name: str, entry: Any, path: str) -> tuple[int, int]:
    """Where one tensor lies, after the checks of its name, dtype and shape."""
    if not name_is_sane(name):
        raise refuse(path, f"it has a tensor named {name!r:.80}, which no model has.")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise refuse(path, f"{name}: expected exactly dtype, shape and data_offsets.")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise refuse(path, f"{name}: dtype {dtype!r:.20} is not one of {', '.join(DTYPES)}.",
                     "Convert the file to float32 or float64 with the program that wrote it.")
    if not isinstance(shape, list) or len(shape) > MOST_AXES or not isinstance(offsets, list) or len(offsets) != 2:
        raise refuse(path, f"{name}: expected at most {MOST_AXES} axes and two offsets.")
    if (any(type(number) is not int or number < 0 for number in shape + offsets)
            or max(shape, default=0) > LARGEST_EXTENT):
        raise refuse(path, f"{name}: extents are integers from 0 to {LARGEST_EXTENT}, offsets are not negative.")
    begin, end = offsets
    if end - begin != math.prod(shape) * DTYPES[dtype].itemsize:
        raise refuse(path, f"{name}: {dtype} of shape {tuple(shape)} needs {math.prod(shape) * DTYPES[dtype].itemsize} "
                     f"bytes, the file gives it {end - begin}.")
    return begin, end


def _check_layout(header: dict[str, Any], size: int, path: str) -> dict[str, str]:
    """Every byte in exactly one tensor; returns the metadata."""
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise refuse(path, "its metadata is not a table of texts.")
    if len(header) > MOST_TENSORS:
        raise refuse(path, f"it has {len(header)} tensors; at most {MOST_TENSORS} are read.")
    position = 0
    for begin, end in sorted(_entry_bytes(name, entry, path) for name, entry in header.items()):
        if begin != position:
            raise refuse(path, f"its tensors {'overlap' if begin < position else 'leave a hole'} at byte {begin}.")
        position = end
    if position != size:
        raise refuse(path, f"its tensors take {position} bytes, the file has {size} for them.")
    return metadata


def parse(content: bytes, path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors and the metadata of a safetensors file, or CheckpointError saying what is wrong with it."""
    path = os.fspath(path)
    header, start = _header(content, path)
    metadata = _check_layout(header, len(content) - start, path)
    try:
        entries = safetensors.deserialize(content)
    except safetensors.SafetensorError as error:
        raise refuse(path, f"the safetensors library refuses it: {str(error)[:80]}.") from error
    tensors = {name: np.frombuffer(entry["data"], DTYPES[entry["dtype"]]).reshape(entry["shape"])
               for name, entry in sorted(entries, key=lambda entry: entry[0])}
    for name, array in tensors.items():
        if array.dtype == np.bool_ and array.size and array.view(np.uint8).max() > 1:
            raise refuse(path, f"{name}: a bool is stored as a byte other than 0 and 1.")
    return tensors, metadata


def read(path: str | os.PathLike, *, follow_links: bool) -> bytes:
    """The bytes of a weight file, or CheckpointError naming it."""
    try:
        return files.read_whole(path, follow_links=follow_links)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise refuse(path, f"this file cannot be read: {reason}.", "Check the path.") from error


def load_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The tensors of any safetensors file, by name, for instance one saved with PyTorch. Never runs code.

    Raises: CheckpointError for a file that is torn, ambiguous, or larger on paper than on the disk.
    """
    return parse(read(path, follow_links=True), path)[0]
