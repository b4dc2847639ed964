"""Gather and scatter along several axes at once, on the rows that know one index axis.

Invariant: the axes of the broadcast indices stand at `place` among the kept axes. May import: L0-L2, registry. Read next: indexing.py.
"""

from __future__ import annotations

from typing import Any

from ..core.primitive import TABLE


def gather(x: Any, axes: tuple, indices: tuple, place: int) -> Any:
    raise NotImplementedError(TABLE["gather"])


def scatter(x: Any, axes: tuple, indices: tuple, place: int, value: Any) -> Any:
    raise NotImplementedError(TABLE["scatter"])


def scatter_add(x: Any, axes: tuple, indices: tuple, place: int, value: Any) -> Any:
    raise NotImplementedError(TABLE["scatter_add"])
