"""Files as they are stored: read whole, and held against the manifest.json that lies with them, if there is one.

Invariant: what `read_stored` returns is a regular file of an honest size, with the bytes and the sha256 that its manifest lists;
what `inflate` returns is the whole of a gzip file whose own checksum holds. May import: errors. Read next: idx.py, cifar.py.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import stat
import zlib
from pathlib import Path
from typing import Any

from ..errors import DataError, explain

LARGEST = 1 << 28           # bytes of a file, or elements in it: no data set here has more than 47 million
MANIFEST = "manifest.json"
FETCH = "Fetch the file again from its original source."


def refuse(path: Path, what: str, remedy: str) -> DataError:
    """The error for a file: what is wrong with it, its path, one thing to do."""
    return DataError(explain(what, where=str(path), remedy=remedy))


def read_stored(path: Path, sha256: str | None = None) -> bytes:
    """The bytes of a regular file; sha256: what the package was built with. A manifest beside or above the file is believed too.

    Raises: DataError for a file that is missing, no regular file, too large, or not the one that was listed.
    """
    stored = _regular(path)
    if sha256 is not None and hashlib.sha256(stored).hexdigest() != sha256:
        raise refuse(path, f"its checksum is not the one that the package was built with ({sha256[:12]}...).",
                     "Install the package again.")
    entry = _listed(path)
    if entry is not None:
        if len(stored) != entry.get("bytes", len(stored)):
            raise refuse(path, f"this file has {len(stored)} bytes, {MANIFEST} lists {entry['bytes']}.", FETCH)
        if entry.get("sha256") not in (None, hashlib.sha256(stored).hexdigest()):
            raise refuse(path, f"its checksum is not the one that {MANIFEST} lists ({entry['sha256'][:12]}...).", FETCH)
    return stored


def _regular(path: Path) -> bytes:
    # O_NONBLOCK: opening a pipe must not wait for a writer.
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise refuse(path, "this is not a regular file.", "Give the path of a data file.")
            if status.st_size > LARGEST:
                raise refuse(path, f"this file has {status.st_size} bytes; at most {LARGEST} are read.",
                             "Check that it is the file that you meant.")
            return file.read()
    except OSError as error:
        raise refuse(path, f"this file cannot be read: {error.strerror or error}.", "Check the folder that you gave: "
                     "it must hold the original files under their original names.") from error


def _listed(path: Path) -> dict[str, Any] | None:
    """What the manifest in the file's folder, or in the folder above, says of it; None where nothing does."""
    path = Path(os.path.abspath(path))
    for folder in (path.parent, path.parent.parent):
        if (folder / MANIFEST).is_file():
            try:
                content = json.loads((folder / MANIFEST).read_bytes())
                files = [file for dataset in content["datasets"] for file in dataset["files"]]
                name = path.relative_to(folder).as_posix()
                return next((file for file in files if file["path"] == name), None)
            except (KeyError, TypeError, AttributeError):           # another project's manifest: it says nothing of data sets
                continue
            except (OSError, ValueError) as error:
                raise refuse(folder / MANIFEST, f"this manifest cannot be read: {error}.", FETCH) from error
    return None


def inflate(stored: bytes, path: Path, most: int) -> bytes:
    """The content of a gzip file, at most `most` bytes and one more: a longer one is told by its length."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(stored)) as stream:
            return stream.read(most + 1)            # reading past the end is what makes gzip compare its own checksum
    except (OSError, EOFError, zlib.error) as error:
        raise refuse(path, f"this gzip file is damaged: {error}.", FETCH) from error
