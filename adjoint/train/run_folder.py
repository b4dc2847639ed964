"""A run's folder: config.json, metrics.jsonl, checkpoints, report.html, held by one process at a time; under `adjoint launch` its name too.

Invariant: metrics.jsonl has one whole line per finished epoch, after a resume none beyond the checkpoint's epoch.
May import: errors, settings, files, checkpoint. Read next: progress.py.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import numpy as np

from ..errors import ConfigError, explain
from ..settings import GENERATION, LAUNCH, integer, text
from . import checkpoint, files

try:
    import fcntl
except ImportError:         # Windows
    fcntl = None
    import msvcrt

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_CREATED: Counter[tuple[str, str]] = Counter()        # runs that this process has asked for, by folder and name
_REFUSED_LOCK = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)


def _refuse(what: str, where: str | os.PathLike, remedy: str) -> ConfigError:
    return ConfigError(explain(what, where=os.fspath(where), remedy=remedy))


def _lock(path: Path) -> int:
    """Take the folder's lock, and write our process number into it; the system frees it when the process ends."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    except OSError as error:
        owner = os.read(handle, 20).decode("ascii", "replace").strip() if fcntl is not None else ""
        os.close(handle)
        if error.errno not in _REFUSED_LOCK:
            raise
        raise _refuse(f"another process{f' ({owner})' if owner else ''} is training in this run folder.",
                      path.parent, "Wait for it to end, or start a new run.") from error
    if fcntl is not None:
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
    return handle


class RunFolder:
    """A folder such as runs/digits-3, locked while this object is open; use it with `with`.

    Make one with RunFolder.create (a new number) or RunFolder.open (to go on). Raises ConfigError at once
    (not hours later) when the folder cannot be written or another process trains in it.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        try:
            self._handle = _lock(self.path / "lock")
        except OSError as error:
            raise _refuse(f"this run folder cannot be used: {error.strerror or error}.", self.path,
                          "Choose a folder in which you may write.") from error

    @classmethod
    def create(cls, root: str | os.PathLike, name: str, config: dict[str, Any]) -> RunFolder:
        """A new folder root/name-n, n being the first free number, with the configuration in config.json.

        In a program that `adjoint launch` has started again: the folder that it made before by this call (its second by the second call,
        and so on), if it came so far; with fit(resume=generation() > 0) it goes on from its checkpoint, or begins where there is none.
        """
        if not _NAME.fullmatch(name):
            raise _refuse(f"{name!r:.100} cannot be the name of a run.", root,
                          "Use letters, digits, '_', '.' and '-'.")
        try:
            os.makedirs(root, exist_ok=True)
            if before := cls._before(Path(root), name):
                return cls(before)
            path = cls._new_path(Path(root), name)
            encoded = msgspec.json.format(msgspec.json.encode(config, enc_hook=_plain), indent=2) + b"\n"
            if launch := _launch():
                files.write_whole(path / "launch", launch.encode())
            files.write_whole(path / "config.json", encoded)
        except OSError as error:
            raise _refuse(f"no run folder can be made here: {error.strerror or error}.", root,
                          "Choose a folder in which you may write.") from error
        return cls(path)

    @staticmethod
    def _before(root: Path, name: str) -> Path | None:
        """The folder that this launch has made by the same call, before it was started again."""
        _CREATED[str(root), name] += 1
        mine = _of_this_launch(root, name)
        return mine[_CREATED[str(root), name] - 1] if len(mine) >= _CREATED[str(root), name] else None

    @staticmethod
    def _new_path(root: Path, name: str) -> Path:
        number = max((number for number, _ in _numbered(root, name)), default=0) + 1
        while True:
            try:
                files.make_folder(root / f"{name}-{number}")
                return root / f"{name}-{number}"
            except FileExistsError:     # another process took the number between our look and our step
                number += 1

    @classmethod
    def open(cls, path: str | os.PathLike) -> RunFolder:
        """The folder of an earlier run, to go on with it."""
        if not Path(path).is_dir():
            raise _refuse("there is no run folder here.", path, "Give a folder such as runs/digits-1.")
        return cls(path)

    @staticmethod
    def latest(root: str | os.PathLike, name: str) -> Path:
        """The path of the run with the highest number that has a checkpoint. Raises ConfigError if there is none.

        In a program that `adjoint launch` has started again: of the last run that this launch has made, with a checkpoint or without.
        """
        if mine := _of_this_launch(Path(root), name):
            return mine[-1]
        found = [(number, path) for number, path in _numbered(Path(root), name) if _has_checkpoint(path)]
        if not found:
            raise _refuse(f"there is no run {name}-<number> with a checkpoint to go on with.", root, "Start a run without resuming.")
        return max(found)[1]

    def has_checkpoint(self) -> bool:
        """Whether there is something to go on from."""
        return _has_checkpoint(self.path)

    def discard_if_unused(self) -> None:
        """Remove the folder, and let it go, if it holds a configuration and nothing else: a run that ended before it began."""
        with contextlib.suppress(OSError):          # an empty run does no harm
            if {path.name for path in self.path.iterdir()} <= {"config.json", "lock", "launch"}:
                self.close()
                for name in ("launch", "config.json", "lock"):
                    with contextlib.suppress(FileNotFoundError):
                        files.remove(self.path / name)
                self.path.rmdir()

    def config(self) -> dict[str, Any]:
        """The configuration that the run was created with."""
        try:
            return msgspec.json.decode((self.path / "config.json").read_bytes(), type=dict[str, Any])
        except (OSError, ValueError, RecursionError, msgspec.MsgspecError) as error:
            raise _refuse(f"config.json cannot be read: {str(error)[:80]}.", self.path / "config.json",
                          "Start a new run.") from error

    def log(self, line: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl; NaN and infinity are written as null, which JSON has."""
        encoded = msgspec.json.encode(line, enc_hook=_plain) + b"\n"
        # One write to a file opened for appending: a kill leaves the line whole, absent, or torn at the very end.
        with open(self.path / "metrics.jsonl", "ab", buffering=0) as file:
            file.write(encoded)

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, up to the first that is torn or is no object."""
        try:
            stored = (self.path / "metrics.jsonl").read_bytes()
        except FileNotFoundError:
            return []
        lines = []
        for line in stored.split(b"\n")[:-1]:       # what follows the last line end is torn
            try:
                lines.append(msgspec.json.decode(line, type=dict[str, Any]))
            except (ValueError, RecursionError, msgspec.MsgspecError):
                break
        return lines

    def rewind(self, epochs: int) -> list[dict[str, Any]]:
        """Keep the lines of metrics.jsonl whose "epoch" is at most `epochs`, those before a resume; returns them."""
        kept = [line for line in self.metrics() if isinstance(line.get("epoch"), int) and line["epoch"] <= epochs]
        files.write_whole(self.path / "metrics.jsonl", b"".join(msgspec.json.encode(line) + b"\n" for line in kept))
        return kept

    def save(self, step: int, tensors: dict[str, np.ndarray], metadata: dict[str, Any]) -> Path:
        """Save the checkpoint of a step (see checkpoint.save_latest)."""
        return checkpoint.save_latest(self.path, step, tensors, metadata)

    def load(self, expected: dict[str, np.ndarray] | None = None) -> checkpoint.Checkpoint:
        """The newest checkpoint that can be read (see checkpoint.load_latest)."""
        return checkpoint.load_latest(self.path, expected)

    def close(self) -> None:
        """Let other processes use the folder."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()


def _numbered(root: Path, name: str) -> list[tuple[int, Path]]:
    """(n, path) of everything named name-n in a folder."""
    entries = [path for path in root.iterdir() if path.name.startswith(f"{name}-")] if root.is_dir() else []
    numbers = [path.name[len(name) + 1:] for path in entries]
    return [(int(number), path) for number, path in zip(numbers, entries, strict=True)
            if re.fullmatch(r"[0-9]{1,9}", number)]


def _launch() -> str:
    """What `adjoint launch` calls itself; nothing where it has not started this process."""
    return os.path.basename(text(LAUNCH) or "")


def _of_this_launch(root: Path, name: str) -> list[Path]:
    """The runs that this launch has made, in their order, where it has started this program again; without their configuration they
    were not finished."""
    if not _launch() or not integer(GENERATION, 0, least=0):
        return []
    return [path for _, path in sorted(_numbered(root, name)) if (path / "config.json").is_file() and _launch() == _told(path / "launch")]


def _told(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""


def _has_checkpoint(path: Path) -> bool:
    try:
        return bool(checkpoint.checkpoints(path))
    except OSError:             # not a folder, or not ours to read
        return False


def _plain(value: object) -> object:
    """NumPy's scalars as Python's, for JSON."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"metrics are numbers, texts, lists and dicts, not {type(value).__name__}")
