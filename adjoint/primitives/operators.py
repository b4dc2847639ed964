"""Python's operators on traced values, written once: a closed set.

Invariant: each operator means what NumPy's does; an operand that NumPy would not take gives NotImplemented. Operators that write
(`+=`) and `@` are installed by numpy/. May import: L0, core, the rows. Read next: numpy/ for NumPy's own names.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from ..core.aval import aval_of
from ..core.interpreter import Tracer, install
from ..dtypes import BOOL, FLOAT64, INT64
from ..errors import DtypeError, explain
from .arithmetic import add, convert, divide, multiply, negative, subtract
from .comparison import (
    bitwise_and,
    bitwise_or,
    bitwise_xor,
    equal,
    greater,
    greater_equal,
    invert,
    left_shift,
    less,
    less_equal,
    not_equal,
    right_shift,
)
from .piecewise import absolute, floor_divide, remainder
from .transcendental import raise_to

_PLAIN = (Tracer, np.ndarray, np.generic, float, int)


def operand(x: Any) -> Any:
    """x if it is an array, a traced value or a number; a list becomes an array as in NumPy; NotImplemented for anything else."""
    if isinstance(x, _PLAIN):
        return x
    if isinstance(x, (list, tuple)):
        return np.stack(x) if any(isinstance(item, Tracer) for item in x) else np.asarray(x)
    return NotImplemented


def no_booleans(name: str, *xs: Any) -> None:
    """NumPy refuses these operations on booleans; a trace must not let them through."""
    for x in xs:
        if aval_of(x).dtype is not BOOL:
            return
    raise DtypeError(explain(f"{name} of booleans is not defined.", remedy="Use np.logical_not (or ~), np.logical_xor (or ^)."))


_RANGES = {np.dtype(d): (int(np.iinfo(d).min), int(np.iinfo(d).max)) for d in (np.uint8, np.int32, np.int64)}


def too_large(x: Any, y: Any) -> bool:
    """True if y is a Python integer that the integers of x cannot hold."""
    aval = aval_of(x) if type(y) is int else None
    return aval is not None and not aval.weak and aval.dtype in _RANGES and not _RANGES[aval.dtype][0] <= y <= _RANGES[aval.dtype][1]


def overflow(x: Any, y: int) -> OverflowError:
    """NumPy's error for a Python integer that does not fit."""
    return OverflowError(explain(f"the integer {y} does not fit into {aval_of(x)}.", remedy="Convert first: x.astype(np.int64)."))


def binary(row: Callable) -> tuple[Callable, Callable]:
    """The operator of a row and its reflected form."""
    def direct(x: Any, y: Any) -> Any:
        y = operand(y)
        if type(y) is int and too_large(x, y):
            raise overflow(x, y)
        return y if y is NotImplemented else row(x, y)

    def reflected(x: Any, y: Any) -> Any:
        y = operand(y)
        if type(y) is int and too_large(x, y):
            raise overflow(x, y)
        return y if y is NotImplemented else row(y, x)
    return direct, reflected


def comparison(row: Callable) -> Callable:
    """A comparison: exact also with Python integers that the dtype of x cannot hold, as in NumPy."""
    def direct(x: Any, y: Any) -> Any:
        y = operand(y)
        return y if y is NotImplemented else compare(row, x, y)
    return direct


def compare(row: Callable, x: Any, y: Any) -> Any:
    """row(x, y), where an integer that does not fit is compared in a wider dtype."""
    if too_large(x, y):
        x = convert(x, dtype=INT64 if not too_large(np.int64(0), y) else FLOAT64)
    if too_large(y, x):
        y = convert(y, dtype=INT64 if not too_large(np.int64(0), x) else FLOAT64)
    return row(x, y)


def _repeated(x: Any, y: Any) -> Any:
    """A list times an integer without axes is the list repeated, as with NumPy's scalars; NotImplemented for all else."""
    whole = isinstance(y, (list, tuple)) and x.aval.shape == () and x.aval.dtype.kind in "iu"
    return y * operator.index(x) if whole else NotImplemented


def product(x: Any, y: Any) -> Any:
    """x * y."""
    if type(y) is int and too_large(x, y):
        raise overflow(x, y)
    y, found = operand(y), _repeated(x, y)
    return found if found is not NotImplemented else y if y is NotImplemented else multiply(x, y)


def equality(row: Callable, otherwise: bool) -> Callable:
    """== and !=: what NumPy cannot compare is unequal, element by element."""
    def direct(x: Any, y: Any) -> Any:
        y = operand(y)
        return np.full(x.shape, otherwise)[()] if y is NotImplemented else compare(row, x, y)
    return direct


def difference(x: Any, y: Any) -> Any:
    """x - y, which NumPy refuses for two booleans."""
    no_booleans("subtract", x, y)
    return subtract(x, y)


def opposite(x: Any) -> Any:
    """-x, which NumPy refuses for booleans."""
    no_booleans("negative", x)
    return negative(x)


BINARY = {"add": add, "sub": difference, "mul": multiply, "truediv": divide, "floordiv": floor_divide, "mod": remainder,
          "pow": raise_to, "and": bitwise_and, "or": bitwise_or, "xor": bitwise_xor, "lshift": left_shift, "rshift": right_shift}

for _name, _row in BINARY.items():
    _operator, _reflected = binary(_row)
    install(**{f"__{_name}__": _operator, f"__r{_name}__": _reflected})

for _name, _row in {"lt": less, "le": less_equal, "gt": greater, "ge": greater_equal}.items():
    install(**{f"__{_name}__": comparison(_row)})

install(__mul__=product, __rmul__=product, __eq__=equality(equal, False), __ne__=equality(not_equal, True), __neg__=opposite,
        __abs__=lambda x: absolute(x), __invert__=lambda x: invert(x), __divmod__=lambda x, y: (x // y, x % y),
        __rdivmod__=lambda x, y: (y // x, y % x))
