"""NumPy's names: importing this package lets plain NumPy code meet traced values; and it is a namespace with those names of its own.

Invariant: without traced values every name here does what NumPy's does; with one, what registry.py's tables say. May import: L0-L2.
Read next: registry.py, cells.py, indexing.py, docs/numpy.md.
"""

from __future__ import annotations

import functools
import importlib
import sys
from typing import Any

import numpy as np

from ..core.primitive import TABLE
from . import calculus, dispatch, methods, norms, sorting, statistics, summation  # noqa: F401  (they fill the tables of registry.py)
from .constructors import arange, array, asarray, empty, eye, full, holds_traced, identity, linspace, ones, tri, zeros
from .linalg import solve_triangular
from .registry import FUNCTIONS, UFUNCS

__all__ = [
    "arange", "array", "asarray", "empty", "erf", "erfc", "expit", "eye", "full", "identity", "linspace", "log_softmax", "logistic",
    "logsumexp", "ones", "relu", "softmax", "softplus", "solve_triangular", "tri", "zeros",
]
_SPECIAL = ("erf", "erfc", "expit", "log_softmax", "logistic", "logsumexp", "relu", "softmax", "softplus")
_PLAIN = ("bool", "uint8", "int32", "int64", "float32", "float64", "pi", "e", "euler_gamma", "inf", "nan", "newaxis", "finfo", "iinfo",
          "isdtype", "can_cast", "linalg", "ndarray", "index_exp", "s_", "bool_", "dtype")

methods.NAMESPACE.append(sys.modules[__name__])


def _numpy_names() -> list[str]:
    return [name for name in dir(np) if not name.startswith("_") and _known(getattr(np, name))]


def _known(found: Any) -> bool:
    """True if NumPy's function has a rule for traced values."""
    if isinstance(found, np.ufunc):
        return found.__name__ in UFUNCS or found.__name__ in TABLE
    return callable(found) and found.__hash__ is not None and found in FUNCTIONS


def _complete(numpy_function: Any) -> Any:
    """NumPy's function, dispatching on traced values in any argument: NumPy's own looks at some, np.take(table, t) never at t."""
    ours = FUNCTIONS.get(numpy_function) if callable(numpy_function) and not isinstance(numpy_function, type) else None
    if ours is None:
        return numpy_function

    @functools.wraps(numpy_function)
    def function(*args: Any, **kwargs: Any) -> Any:
        traced = holds_traced(args) or holds_traced(tuple(kwargs.values()))
        return (ours if traced and "out" not in kwargs else numpy_function)(*args, **kwargs)
    return function


def __getattr__(name: str) -> Any:
    """NumPy's own function where it has a rule, or one that NumPy has not (loaded at first use)."""
    if name in _SPECIAL:
        found = getattr(importlib.import_module(f"{__name__}.special"), name)
    elif name in _PLAIN or (not name.startswith("_") and _known(getattr(np, name, None))):
        found = _complete(getattr(np, name))
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*__all__, *_PLAIN, *_numpy_names()})
