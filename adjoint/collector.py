"""Python's garbage collector, out of the way while much is made that will be kept.

Invariant: afterwards it collects if it did before. May import: nothing. Read next: __init__.py, compiler/compile.py.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def undisturbed(*, kept: bool = False) -> Iterator[None]:
    """No garbage is looked for inside: where much is made and little dropped that costs a fifth of the time, and finds nothing.

    kept: all that there is now lives long, as modules do: it joins the oldest generation without being looked at.

    >>> with undisturbed():
    ...     gc.isenabled()
    False
    >>> gc.isenabled()
    True
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if kept and not gc.get_freeze_count():
            gc.freeze()
            gc.unfreeze()                       # into the oldest generation
        if collects:
            gc.enable()
