"""Checkpoints: one safetensors file that holds everything a run needs to go on, written whole or not at all.

Invariant: `load` returns exactly what `save` was given, or raises CheckpointError: a manifest in the file's metadata
lists dtype, shape and sha256 of each tensor, and has a sha256 of its own. Data only, never code.
May import: errors, files, weights. Read next: run_folder.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
import warnings
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np

from ..errors import CheckpointError
from . import files, weights

FORMAT = 1
LARGEST_METADATA = 1 << 20          # bytes of JSON
_NAME = re.compile(r"checkpoint-(\d{10})\.safetensors")
_DAY = 86_400                       # seconds


class CheckpointWarning(UserWarning):
    """Something about a checkpoint that the user should know, and that does not stop the run."""


class _TensorRecord(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    dtype: str
    shape: list[int]
    sha256: str


class _Manifest(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    format: Annotated[int, msgspec.Meta(ge=1)]
    tensors: dict[str, _TensorRecord]
    metadata: dict[str, Any]


class Checkpoint(NamedTuple):
    """What a file held: tensors by name, and the metadata that `save` was given."""

    tensors: dict[str, np.ndarray]
    metadata: dict[str, Any]
    path: str

    def counter(self, name: str) -> int:
        """A count in the metadata, such as a step. Raises CheckpointError unless it is an integer in [0, 2**62)."""
        value = self.metadata.get(name)
        if type(value) is not int or not 0 <= value < 1 << 62:
            raise weights.refuse(self.path, f"its counter {name!r} is {value!r:.40}, expected one in [0, 2**62).")
        return value


def _record(array: np.ndarray) -> _TensorRecord:
    return _TensorRecord(array.dtype.name, list(array.shape), hashlib.sha256(array).hexdigest())


def _encode(tensors: dict[str, np.ndarray], metadata: dict[str, Any]) -> bytes:
    tensors = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    try:
        survives = msgspec.json.decode(msgspec.json.encode(metadata)) == metadata
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        survives = False
    if not survives:
        raise weights.refuse("", "the metadata does not come back from JSON as it is.",
                             "Use dicts with text keys, lists, texts, bools, finite floats, and ints below 2**63.")
    if len(msgspec.json.encode(metadata)) > LARGEST_METADATA:
        raise weights.refuse("", f"the metadata takes more than {LARGEST_METADATA} bytes.",
                             "Save large things as tensors.")
    records = {name: _record(array) for name, array in tensors.items()}
    manifest = msgspec.json.encode(_Manifest(FORMAT, records, metadata))
    # One entry, because the library writes several in any order: the same content must give the same bytes.
    return weights.encode(tensors, {"adjoint": f"{hashlib.sha256(manifest).hexdigest()} {manifest.decode()}"})


def save(path: str | os.PathLike, tensors: dict[str, np.ndarray], metadata: dict[str, Any], *, durable: bool = True) -> int:
    """Write a checkpoint, durably; after a failure or a kill at any point the old file or the new one is there, whole.

    durable=False: without waiting for the disk, so that a loss of power (not a kill) may tear the file, which `load` then refuses.
    Returns the bytes written. Cost: one copy of the tensors, one sha256 pass, one fsync of the file, one of its folder.
    Raises: CheckpointError (disk full, folder gone, ...); what was at `path` before is then unchanged.

    >>> save("weights.safetensors", {"weight": np.ones((2, 3), np.float32)}, {"step": 7}) > 24
    True
    """
    try:
        content = _encode(tensors, metadata)
        files.write_whole(path, content, durable=durable)
    except OSError as error:
        raise weights.refuse(path, f"the checkpoint could not be written: {error.strerror or error}.",
                             "The previous checkpoint is intact. Free space, or choose another folder.") from error
    return len(content)


def _manifest(texts: dict[str, str], path: str) -> _Manifest:
    """The manifest of a file, after its own checksum and version are checked."""
    if set(texts) != {"adjoint"}:
        raise weights.refuse(path, "this is a weight file, but not a checkpoint of Adjoint: it has no manifest.",
                             "Read plain weights with load_tensors().")
    digest, _, text = texts["adjoint"].partition(" ")
    if hashlib.sha256(text.encode()).hexdigest() != digest:
        raise weights.refuse(path, "its manifest is damaged: the sha256 differs.")
    try:
        version = msgspec.json.decode(text, type=dict[str, Any]).get("format")
        if type(version) is int and version > FORMAT:
            raise weights.refuse(path, f"it has format {version}, of a newer Adjoint; this one reads up to {FORMAT}.",
                                 "Upgrade: pip install --upgrade adjoint")
        return msgspec.json.decode(text, type=_Manifest)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise weights.refuse(path, f"its manifest is not one of Adjoint: {str(error)[:80]}.") from error


def _check_manifest(manifest: _Manifest, tensors: dict[str, np.ndarray], path: str) -> None:
    if set(manifest.tensors) != set(tensors):
        name = min(set(manifest.tensors) ^ set(tensors))
        side = "manifest" if name in manifest.tensors else "file"
        raise weights.refuse(path, f"its manifest and its tensors differ: {name!r:.80} is only in the {side}.")
    for name, array in tensors.items():
        record = manifest.tensors[name]
        if [record.dtype, record.shape] != [array.dtype.name, list(array.shape)]:
            raise weights.refuse(path, f"{name}: the manifest says {record.dtype} of shape {tuple(record.shape)[:8]}, "
                                 f"the file holds {array.dtype} of shape {array.shape}.")
        if hashlib.sha256(array).hexdigest() != record.sha256:
            raise weights.refuse(path, f"{name} is damaged: its sha256 differs from the manifest's.")


def _warn_of_non_finite(tensors: dict[str, np.ndarray], path: str) -> None:
    bad = [name for name, array in tensors.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]
    if bad:
        count = sum(int(np.count_nonzero(~np.isfinite(tensors[name]))) for name in bad)
        warnings.warn(f"{path}: {count} values in {len(bad)} tensors are NaN or infinite, the first in {bad[0]}",
                      CheckpointWarning, stacklevel=4)


def _describe(array: np.ndarray | None) -> str:
    return "none" if array is None else f"{array.dtype}[{','.join(map(str, array.shape))}]"


def check_expected(checkpoint: Checkpoint, expected: dict[str, np.ndarray]) -> None:
    """Raise CheckpointError, naming the first five differences, unless the tensors look like `expected`."""
    tensors = checkpoint.tensors
    names = [*expected, *(name for name in tensors if name not in expected)]
    pairs = [(name, _describe(tensors.get(name)), _describe(expected.get(name))) for name in names]
    different = [pair for pair in pairs if pair[1] != pair[2]]
    if different:
        lines = [f"  {name}: checkpoint {found}, model {wanted}" for name, found, wanted in different[:5]]
        lines += [f"  and {len(different) - 5} more"] if len(different) > 5 else []
        raise weights.refuse(checkpoint.path, "the checkpoint is of another architecture or optimizer: "
                             f"{len(different)} of {len(names)} tensors differ.\n" + "\n".join(lines),
                             "Build the model and optimizer that it was saved from, or start a new run.")


def load(path: str | os.PathLike, expected: dict[str, np.ndarray] | None = None) -> Checkpoint:
    """Read a checkpoint and check all of it before anything is returned; the arrays are fresh and writable.

    `expected` maps names to arrays (or anything with shape and dtype) that the tensors must match.
    Raises: CheckpointError for a file that is unreadable, torn, changed, foreign, newer, or of another architecture.

    >>> save("weights.safetensors", {"weight": np.ones((2, 3), np.float32)}, {"step": 7}) > 24
    True
    >>> found = load("weights.safetensors")
    >>> found.tensors["weight"].shape, found.counter("step")
    ((2, 3), 7)
    """
    path = os.fspath(path)
    tensors, texts = weights.parse(weights.read(path, follow_links=False), path)
    manifest = _manifest(texts, path)
    _check_manifest(manifest, tensors, path)
    checkpoint = Checkpoint(tensors, manifest.metadata, path)
    if expected is not None:
        check_expected(checkpoint, expected)
    _warn_of_non_finite(tensors, path)
    return checkpoint


def checkpoints(folder: str | os.PathLike) -> list[tuple[int, Path]]:
    """(step, path) of the checkpoints in a folder, oldest step first; the order is by name, never by time."""
    found = ((_NAME.fullmatch(path.name), path) for path in Path(folder).iterdir())
    return sorted((int(match[1]), path) for match, path in found if match)


def save_latest(folder: str | os.PathLike, step: int, tensors: dict[str, np.ndarray], metadata: dict[str, Any],
                keep: int = 2) -> Path:
    """Save the checkpoint of a step beside the earlier ones; once it is committed, remove all but the newest `keep`.

    Checkpoints of later steps go too: they are of a course that this run has left, or could not be read on resuming.
    """
    path = Path(folder) / f"checkpoint-{step:010d}.safetensors"
    save(path, tensors, metadata)
    with contextlib.suppress(OSError):      # what could not be removed is removed next time
        earlier = [other for number, other in checkpoints(folder) if number < step]
        for _, other in checkpoints(folder):
            if other != path and other not in earlier[len(earlier) - keep + 1:]:
                files.remove(other)
        for partial in Path(folder).glob(f".checkpoint-*{files.PARTIAL}"):
            if time.time() - partial.stat().st_mtime > _DAY:
                files.remove(partial)
    return path


def load_latest(folder: str | os.PathLike, expected: dict[str, np.ndarray] | None = None) -> Checkpoint:
    """The newest checkpoint that can be read; warns (CheckpointWarning) for each newer one that cannot.

    Raises: CheckpointError if there is none, or if the newest readable one is of another architecture.
    """
    try:
        candidates = checkpoints(folder)[::-1]
    except OSError as error:
        raise weights.refuse(folder, f"this folder cannot be read: {error.strerror or error}.",
                             "Check the path.") from error
    failures = []
    for step, path in candidates:
        try:
            checkpoint = load(path)
        except CheckpointError as error:
            failures.append(str(error).splitlines()[0])
            continue
        for failure in failures:
            warnings.warn(f"a newer checkpoint cannot be used: {failure} Going on from step {step}.",
                          CheckpointWarning, stacklevel=2)
        if expected is not None:
            check_expected(checkpoint, expected)
        return checkpoint
    if not failures:
        raise weights.refuse(folder, "there is no checkpoint in this folder.", "Start a run without resuming.")
    raise weights.refuse(folder, f"none of its {len(failures)} checkpoints can be read; the newest: {failures[0]}")
