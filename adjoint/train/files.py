"""The file calls that a run's safety rests on, in the order that never loses a file: write, sync, rename, sync folder.

Invariant: after a failure or a kill at any call, a path holds its old bytes or its new bytes, whole. Each call tells
`observer` its name and path first: tests use it to raise, to kill, or to shorten a write.
May import: nothing of the package. Read next: checkpoint.py.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Callable

observer: Callable[[str, str], int | None] | None = None    # it returns to "write" the most bytes to write at once

PARTIAL = ".partial"        # ending of a file that is not finished; no reader ever opens one


def _announce(call: str, path: str) -> int | None:
    return None if observer is None else observer(call, path)


def _create(path: str) -> int:
    _announce("create", path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0), 0o666)


def _write(handle: int, path: str, content: bytes) -> None:
    left = memoryview(content)
    while left:
        most = _announce("write", path)
        left = left[os.write(handle, left if most is None else left[:most]):]


def _sync(handle: int, path: str) -> None:
    _announce("sync", path)
    os.fsync(handle)


def _close(handle: int, path: str) -> None:
    try:
        _announce("close", path)
    finally:
        os.close(handle)


def _rename(source: str, target: str) -> None:
    _announce("rename", target)
    os.replace(source, target)


def sync_folder(folder: str | os.PathLike) -> None:
    """Make the names in a folder durable. (Windows cannot open a folder and needs no such call.)"""
    folder = os.fspath(folder)
    _announce("sync_folder", folder)
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(path: str | os.PathLike) -> None:
    """Make one new folder, durably. Raises FileExistsError if the name is taken."""
    path = os.fspath(path)
    _announce("make_folder", path)
    os.mkdir(path)
    sync_folder(os.path.dirname(path) or ".")


def remove(path: str | os.PathLike) -> None:
    """Remove a file."""
    path = os.fspath(path)
    _announce("remove", path)
    os.unlink(path)


def write_whole(path: str | os.PathLike, content: bytes, *, durable: bool = True) -> None:
    """Replace a file by `content`, durably: whoever reads it sees the old bytes or the new ones.

    durable=False: without waiting for the disk; after a loss of power the file may be torn, or the old one.
    Raises: OSError, after which the old file is intact. A file whose sync failed is thrown away, never synced again:
    the system may have dropped its pages, and a second sync would report success.
    """
    path = os.fspath(path)
    folder, name = os.path.split(path)
    partial = os.path.join(folder, f".{name}.{os.getpid()}-{secrets.token_hex(4)}{PARTIAL}")
    handle = _create(partial)
    try:
        try:
            _write(handle, partial, content)
            if durable:
                _sync(handle, partial)
        finally:
            _close(handle, partial)
        _rename(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            remove(partial)
        raise
    if durable:
        sync_folder(folder or ".")


def read_whole(path: str | os.PathLike, *, follow_links: bool) -> bytes:
    """The bytes of a regular file. Raises OSError, or ValueError for a pipe, device, folder or foreign hard link."""
    path = os.fspath(path)
    _announce("read", path)
    # O_NONBLOCK: opening a pipe must not wait for a writer.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if not follow_links:
        flags |= getattr(os, "O_NOFOLLOW", 0)
    with open(os.open(path, flags), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a regular file")
        if not follow_links and status.st_nlink > 1 and hasattr(os, "geteuid") and status.st_uid != os.geteuid():
            raise ValueError("it is a second name of a file that belongs to another user")
        return file.read()
