"""The abstract value: what is known of an array before its numbers are.

Invariant: an Aval is immutable and hashable; `weak` marks values that came from Python scalars and give way in promotion (NEP 50).
May import: L0. Read next: primitive.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..dtypes import DTYPES, check_dtype, weak_dtype

_PROTOTYPE = {"b": False, "i": 0, "u": 0, "f": 0.0}
_KNOWN = frozenset(DTYPES)


class Aval(NamedTuple):
    """Shape and dtype of a value."""

    shape: tuple[int, ...]
    dtype: np.dtype
    weak: bool = False

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    def __str__(self) -> str:
        return f"{self.dtype.name}[{','.join(map(str, self.shape))}]"

    def strong(self) -> Aval:
        return Aval(self.shape, self.dtype) if self.weak else self


def aval_of(x: Any) -> Aval:
    """The aval of an array, a traced value, or a Python scalar (weak)."""
    found = getattr(x, "aval", None)
    if found is not None:
        return found
    if isinstance(x, (np.ndarray, np.generic)):
        return Aval(x.shape, x.dtype if x.dtype in _KNOWN else check_dtype(x.dtype))
    if isinstance(x, (bool, int, float)):
        return Aval((), weak_dtype(x), True)
    array = np.asarray(x)
    return Aval(array.shape, check_dtype(array.dtype))


def is_weak_scalar(x: Any) -> bool:
    """True for Python's bool, int and float (not NumPy's scalars, which subclass some of them)."""
    return type(x) in (float, int, bool)


def promotion_operand(x: Any) -> Any:
    """What np.result_type needs to see of x: its dtype, or a Python scalar if it is weak."""
    aval = aval_of(x)
    return _PROTOTYPE[aval.dtype.kind] if aval.weak else aval.dtype


def result_dtype(*xs: Any) -> np.dtype:
    """NumPy's promotion of these values, weak ones giving way."""
    return check_dtype(np.result_type(*map(promotion_operand, xs)))
