"""The dtypes of the table, and NumPy's promotion among them (NEP 50: only Python scalars are weak).

Invariant: every aval has one of DTYPES. May import: errors. Read next: core/aval.py.
"""

from __future__ import annotations

import numpy as np

from .errors import DtypeError, explain

BOOL = np.dtype(np.bool_)
UINT8 = np.dtype(np.uint8)
INT32 = np.dtype(np.int32)
INT64 = np.dtype(np.int64)
FLOAT32 = np.dtype(np.float32)
FLOAT64 = np.dtype(np.float64)

DTYPES = (BOOL, UINT8, INT32, INT64, FLOAT32, FLOAT64)
_KNOWN = {d: d for d in DTYPES}
_NEAREST = {"float16": FLOAT32, "longdouble": FLOAT64, "int8": INT32, "int16": INT32, "uint16": INT32, "uint32": INT64,
            "uint64": INT64}


def check_dtype(dtype: np.dtype) -> np.dtype:
    """The table's own object for a dtype, or DtypeError naming the nearest one that the table has."""
    known = _KNOWN.get(dtype)
    if known is not None:
        return known
    if dtype.kind not in "biuf":
        raise DtypeError(explain(
            f"dtype {dtype} is not supported: it is not one of {', '.join(d.name for d in DTYPES)}.",
            remedy="Complex numbers, dates, texts and objects have no rules here: keep them outside the function."))
    nearest = _NEAREST.get(dtype.name, FLOAT64)
    raise DtypeError(explain(
        f"dtype {dtype} is not one of {', '.join(d.name for d in DTYPES)}.",
        remedy=f"Convert first: x.astype(np.{nearest.name})."))


def is_floating(dtype: np.dtype) -> bool:
    """True for float32 and float64: the dtypes that have derivatives."""
    return dtype.kind == "f"


def weak_dtype(scalar: object) -> np.dtype:
    """The dtype a Python scalar takes when nothing else decides."""
    if isinstance(scalar, bool):
        return BOOL
    return INT64 if isinstance(scalar, int) else FLOAT64


def promote(*operands: object) -> np.dtype:
    """NumPy's result dtype; operands are dtypes, or Python scalars, which are weak."""
    return check_dtype(np.result_type(*operands))


