"""Object code kept on disk between processes, and never trusted further than its owner.

An entry is one file named by its key; the key covers all that decides the code. Invariant: bytes are used only if
folder and file belong to this user, nobody else may write them, no link is on the way, and key and checksum agree;
anything else is computed again, with one warning. A cache that cannot be written is no error. May import: settings,
llvmlite. Read next: compile.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import stat
import time
import warnings
from functools import cache
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm

from .. import settings
from .target import host_target

_MAGIC = b"adjoint object 1\n"
_DIGEST = hashlib.sha256().digest_size
_HEADER = len(_MAGIC) + 2 * _DIGEST + 8      # magic, key, checksum of the payload, its length
_DEFAULT_BYTES = 256 * 2**20
_SUFFIX = ".obj"
_SOURCES = ("compiler", "primitives", "core", "dtypes.py")     # what code is made from

_EVICT_EVERY = 32                            # stores between two looks at the size of the folder
_HAS_HANDLES = os.open in os.supports_dir_fd     # where folders have none (Windows), there is no cache
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)      # a FIFO in place of an entry must not stop the program

_warned: list[str] = []
_stores = itertools.count()


def key(*parts: str | bytes) -> str:
    """The name of what `parts` describe, on this processor, with this LLVM and these sources."""
    target = host_target()
    digest = hashlib.sha256()
    version = ".".join(str(number) for number in llvm.llvm_version_info)
    for part in (version, llvmlite.__version__, target.triple, target.cpu, target.features, sources(), *parts):
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))      # so that no two lists of parts read the same
        digest.update(data)
    return digest.hexdigest()


@cache
def sources() -> str:
    """Digest of the package's own sources that decide the code: about 5 ms, once per process."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    digest = hashlib.sha256()
    for name in _SOURCES:
        path = os.path.join(package, name)
        inside = (os.path.join(folder, file) for folder, _, files in os.walk(path) for file in files if file.endswith(".py"))
        for each in sorted(inside) if os.path.isdir(path) else [path]:
            with open(each, "rb", buffering=0) as file:         # not a Path: a hundred of them take longer than reading
                data = file.read()
            digest.update(f"{each[len(package):]} {len(data)}\n".encode())
            digest.update(data)
    return digest.hexdigest()


def directory() -> Path | None:
    """The folder of the cache: ADJOINT_CACHE_DIR, else the user's cache folder; None where there is to be no cache."""
    chosen = settings.text(settings.CACHE_DIR)
    if chosen is not None:
        return Path(chosen).absolute() if chosen.strip() else None
    with contextlib.suppress(ImportError):
        import platformdirs  # optional: knows the folders of every system
        return Path(platformdirs.user_cache_dir("adjoint", appauthor=False))
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        home = os.path.expanduser("~")
        if not os.path.isabs(home):
            return None
        base = os.path.join(home, ".cache")
    return Path(base) / "adjoint"


def fetch(name: str) -> bytes | None:
    """The payload stored under this key, or None. Cost: about 0.1 ms and a checksum at 2 GB/s."""
    folder = _open_folder(create=False)
    if folder is None:
        return None
    try:
        file = os.open(name + _SUFFIX, os.O_RDONLY | _NO_FOLLOW | _NO_WAIT, dir_fd=folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        _warn(f"entry {name[:12]} cannot be opened ({error.strerror}); a link is never followed")
        return None
    finally:
        os.close(folder)
    try:
        return _read_entry(file, name)
    finally:
        os.close(file)


def _read_entry(file: int, name: str) -> bytes | None:
    information = os.fstat(file)
    reason = _distrust(information) or ("" if stat.S_ISREG(information.st_mode) else "it is not a file")
    if not reason:
        data = _read(file)
        payload = data[_HEADER:]
        reason = _fault(data[:_HEADER], payload, name)
        if not reason:
            with contextlib.suppress(OSError):
                os.utime(file)      # the entry used last is evicted last
            return payload
    _warn(f"entry {name[:12]} is not used: {reason}")
    return None


def _read(file: int) -> bytes:
    """All of the file, or what could be read of it: the checksum decides."""
    try:
        with os.fdopen(file, "rb", closefd=False) as stream:
            return stream.read()
    except OSError:
        return b""


def _fault(header: bytes, payload: bytes, name: str) -> str:
    """What is wrong with an entry, or nothing."""
    if len(header) < _HEADER or not header.startswith(_MAGIC):
        return "it is empty, torn or of another format"
    fields = header[len(_MAGIC):]
    if fields[:_DIGEST] != bytes.fromhex(name):
        return "it belongs to another program or processor"
    if int.from_bytes(fields[2 * _DIGEST:], "little") != len(payload):
        return "it is torn"
    return "" if hashlib.sha256(payload).digest() == fields[_DIGEST:2 * _DIGEST] else "its checksum differs"


def refused(name: str, reason: str) -> None:
    """Say that an entry, although it is as it was stored, is no code for this machine."""
    _warn(f"entry {name[:12]} is not used: {reason}")


def store(name: str, payload: bytes) -> bool:
    """Keep `payload` under this key;

    False where the cache cannot be written. Other processes see all of it or nothing.
    """
    folder = _open_folder(create=True)
    if folder is None:
        return False
    header = _MAGIC + bytes.fromhex(name) + hashlib.sha256(payload).digest() + len(payload).to_bytes(8, "little")
    temporary = f".{name[:16]}.{os.getpid()}.{os.urandom(4).hex()}.tmp"
    try:
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW, 0o600, dir_fd=folder)
        try:
            with os.fdopen(file, "wb") as stream:
                stream.write(header + payload)
            os.replace(temporary, name + _SUFFIX, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
            raise
        _evict(folder)
        return True
    except OSError:
        return False        # read-only or full: the next process computes again
    finally:
        os.close(folder)


def _open_folder(*, create: bool) -> int | None:
    """A handle of the cache folder, checked, or None; everything else is done relative to this handle."""
    path = directory()
    if path is None or not _HAS_HANDLES:
        return None
    try:
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _NO_FOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        if not create:
            _warn(f"the folder {path} cannot be opened ({error.strerror}); a link is never followed")
        return None
    reason = _distrust(os.fstat(folder))
    if reason:
        os.close(folder)
        _warn(f"the folder {path} is not used: {reason}")
        return None
    return folder


def _distrust(information: os.stat_result) -> str:
    """Why what these facts describe may have been written by somebody else, or nothing."""
    if information.st_uid != os.geteuid():
        return f"it belongs to user {information.st_uid}"
    return "others may write to it" if information.st_mode & (stat.S_IWGRP | stat.S_IWOTH) else ""


def _warn(reason: str) -> None:
    """One warning per process: the code is right either way, only slower to come by."""
    if not _warned:
        _warned.append(reason)
        warnings.warn(f"adjoint compile cache: {reason}. The code is compiled again; remove what is there, or set "
                      f"{settings.CACHE_DIR} to a folder of your own.", RuntimeWarning, stacklevel=2)


def _evict(folder: int) -> None:
    """Keep the folder within its bound: the entries that were not used for longest go first."""
    if next(_stores) % _EVICT_EVERY:
        return
    bound = settings.integer(settings.CACHE_BYTES, _DEFAULT_BYTES, least=0)
    files = []
    for item in os.scandir(folder):
        with contextlib.suppress(OSError):
            information = item.stat(follow_symlinks=False)
            abandoned = item.name.endswith(".tmp") and information.st_mtime < time.time() - 3600
            if abandoned:
                os.unlink(item.name, dir_fd=folder)
            elif item.name.endswith(_SUFFIX):
                files.append((information.st_mtime_ns, information.st_size, item.name))
    total = sum(size for _, size, _ in files)
    for _, size, name in sorted(files):
        if total <= bound:
            return
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=folder)
            total -= size
