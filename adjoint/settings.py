"""The environment variables that Adjoint reads: all of them, here, read when they are needed.

Invariant: at most five, each named ADJOINT_*; a value that cannot be understood raises ConfigError and is never
guessed at. May import: errors. Read next: compiler/threads.py and compiler/cache.py, which use them.
"""

from __future__ import annotations

import os

from adjoint.errors import ConfigError, explain

THREADS = "ADJOINT_THREADS"            # number of threads of a compiled call; default: affinity and cgroup quota
CACHE_DIR = "ADJOINT_CACHE_DIR"        # folder of the compile cache; empty: no cache on disk
CACHE_BYTES = "ADJOINT_CACHE_BYTES"    # bound on the size of that folder, in bytes
GENERATION = "ADJOINT_GENERATION"      # set by `adjoint launch` for its ranks: how often the world was started again
LAUNCH = "ADJOINT_LAUNCH"              # set by `adjoint launch` for its ranks: folder in which they say where they are


def integer(name: str, default: int, *, least: int) -> int:
    """The integer of the environment variable `name`, or `default` where it is unset or empty."""
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal() or int(text) < least:
        raise ConfigError(explain(f"{name}: found {text[:40]!r}, expected an integer of at least {least}",
                                  remedy=f"Unset {name}, or give it a number."))
    return int(text)


def text(name: str) -> str | None:
    """The environment variable `name`, or None where it is unset."""
    return os.environ.get(name)
