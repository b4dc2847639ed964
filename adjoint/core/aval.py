"""The abstract value: what is known of an array before its numbers are.

Invariant: an Aval is immutable and hashable; `weak` marks values that came from Python scalars and give way in promotion (NEP 50).
May import: L0. Read next: primitive.py.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..dtypes import DTYPES, check_dtype, weak_dtype
from ..errors import DtypeError, explain

_PROTOTYPE = {"b": False, "i": 0, "u": 0, "f": 0.0}


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
        return math.prod(self.shape)

    def __str__(self) -> str:
        return f"{self.dtype.name}[{','.join(map(str, self.shape))}]"

    def strong(self) -> Aval:
        return Aval(self.shape, self.dtype) if self.weak else self


# Scalars are most of a tape: theirs are made once, and the dtypes of the table are NumPy's own objects, so identity is equality.
_SCALARS: dict[type, Aval] = {d.type: Aval((), d) for d in DTYPES} | {t: Aval((), weak_dtype(t(0)), True) for t in (bool, int, float)}
_TABLE_DTYPES = frozenset(map(id, DTYPES))
_new = tuple.__new__


def aval_of(x: Any) -> Aval:
    """The aval of an array, a traced value, or a Python scalar (weak)."""
    kind = type(x)
    found = _SCALARS.get(kind)
    if found is not None:
        return found
    if kind is np.ndarray:
        dtype = x.dtype
        return _new(Aval, (x.shape, dtype if id(dtype) in _TABLE_DTYPES else check_dtype(dtype), False))
    found = getattr(x, "aval", None)
    if found is not None:
        return found
    if isinstance(x, (bool, int, float)) and not isinstance(x, np.generic):
        return Aval((), weak_dtype(x), True)
    if hasattr(x, "mask") or isinstance(x, np.matrix):
        raise DtypeError(explain(f"{type(x).__name__} computes otherwise than a plain array does, and that would be lost here.",
                                 remedy="Pass np.asarray(x); for a masked array, its data and its mask as two arguments."))
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
