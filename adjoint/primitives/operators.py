"""Python's operators on traced values, written once: a closed set.

Invariant: each operator means what NumPy's does. May import: L0, core, the rows. Read next: numpy/ for NumPy's own names.
"""

from __future__ import annotations

from typing import Any

from ..core.interpreter import install
from .arithmetic import add, divide, multiply, negative, subtract


def _reflected(row: Any):
    return lambda x, y: row(y, x)


install(__add__=lambda x, y: add(x, y), __radd__=_reflected(add), __sub__=lambda x, y: subtract(x, y), __rsub__=_reflected(subtract),
        __mul__=lambda x, y: multiply(x, y), __rmul__=_reflected(multiply), __truediv__=lambda x, y: divide(x, y),
        __rtruediv__=_reflected(divide), __neg__=lambda x: negative(x), __pos__=lambda x: x)
