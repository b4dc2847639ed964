"""Every operation of Let on NumPy arrays, bit for bit: the arithmetic half of the reference executor.

NumPy has all of them correctly rounded except fma, computed exactly here: float32 through float64 rounded to odd,
float64 by error-free transformations (Source: Boldo, Melquiond, Emulation of a FMA, IEEE Trans. Comp. 57(4), 2008).
A NaN is a NaN: its sign and payload are not part of the meaning. May import: errors. Read next: reference.py.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from ..errors import CompileError

Array = np.ndarray


# -- fma --------------------------------------------------------------------------------------------------------------


def fma(x: Array, y: Array, z: Array) -> Array:
    """x * y + z rounded once."""
    x, y, z = np.broadcast_arrays(x, y, z)
    return _fma32(x, y, z) if x.dtype == np.float32 else _fma64(x, y, z)


def _two_sum(x: Array, y: Array) -> tuple[Array, Array]:
    """x + y and its rounding error, exactly (Knuth)."""
    total = x + y
    part = total - x
    return total, (x - (total - part)) + (y - part)


def _to_odd(total: Array, error: Array) -> Array:
    """total + error rounded to odd: an even total moves to its neighbour on the side of error, if that is not 0."""
    bits = np.array(total, np.float64).view(np.int64)
    away = np.where((error > 0) == (total > 0), 1, -1)
    inexact = (error != 0) & np.isfinite(total) & (bits & 1 == 0)
    return (bits + np.where(inexact, away, 0)).view(np.float64)


def _fma32(x: Array, y: Array, z: Array) -> Array:
    product = x.astype(np.float64) * y.astype(np.float64)
    return _to_odd(*_two_sum(product, z.astype(np.float64))).astype(np.float32)


def _split(x: Array) -> tuple[Array, Array]:
    """x as the sum of two numbers of 26 bits (Veltkamp)."""
    scaled = x * 134217729.0
    high = scaled - (scaled - x)
    return high, x - high


def _two_product(x: Array, y: Array) -> tuple[Array, Array]:
    """x * y and its rounding error, exactly (Dekker)."""
    product = x * y
    (xh, xl), (yh, yl) = _split(x), _split(y)
    return product, xl * yl - (((product - xh * yh) - xl * yh) - xh * yl)


def _fma64(x: Array, y: Array, z: Array) -> Array:
    product, low = _two_product(x, y)
    th, tl = _two_sum(z, low)
    vh, vl = _two_sum(product, th)
    result = vh + _to_odd(*_two_sum(tl, vl))
    plain = product + z
    finite = np.isfinite(x) & np.isfinite(y)
    simple = (x == 0) | (y == 0) | ~finite
    result = np.where(simple, plain, result)
    result = np.where(finite & ~np.isfinite(z), z, result)
    size = np.maximum(np.abs(x), np.abs(y))
    moderate = (np.abs(product) > 2.0**-900) & (np.abs(product) < 2.0**1000) & (size < 2.0**990)
    moderate &= np.abs(z) < 2.0**1000
    slow = ~simple & np.isfinite(z) & ~moderate
    if slow.any():
        result = np.array(result)
        triples = zip(x[slow].tolist(), y[slow].tolist(), z[slow].tolist(), strict=True)
        result[slow] = [_fma_by_integers(*triple) for triple in triples]
    return result


def _fma_by_integers(x: float, y: float, z: float) -> float:
    """The same through Python's integers, whose true division rounds once, subnormal results included."""
    (xn, xd), (yn, yd), (zn, zd) = x.as_integer_ratio(), y.as_integer_ratio(), z.as_integer_ratio()
    numerator, denominator = xn * yn * zd + zn * xd * yd, xd * yd * zd
    if numerator == 0:
        return 0.0 if z == 0.0 or (x * y != 0.0) else x * y + z
    try:
        return numerator / denominator
    except OverflowError:
        return float("inf") if numerator > 0 else float("-inf")


# -- integers ---------------------------------------------------------------------------------------------------------


def _truncated_division(x: Array, y: Array) -> tuple[Array, Array]:
    """Quotient towards zero and its remainder; what would trap on the machine raises."""
    traps = y == 0
    if x.dtype.kind == "i":
        traps = traps | ((x == np.iinfo(x.dtype).min) & (y == -1))
    if np.any(traps):
        raise CompileError("an integer division without a guard reached the machine")
    rest = np.fmod(x, y)
    return (x - rest) // y, rest


def _mulhi(x: Array, y: Array) -> Array:
    if x.dtype == np.uint32:
        return (x.astype(np.uint64) * y.astype(np.uint64) >> np.uint64(32)).astype(np.uint32)
    half, mask = np.uint64(32), np.uint64(0xFFFFFFFF)
    xh, xl, yh, yl = x >> half, x & mask, y >> half, y & mask
    middle = (xl * yl >> half) + (xh * yl & mask) + (xl * yh & mask)
    return xh * yh + (xh * yl >> half) + (xl * yh >> half) + (middle >> half)


def _shift_right(x: Array, amount: Array, kind: str) -> Array:
    """Right shift with zeros ("u") or copies of the sign ("i") coming in."""
    view = np.dtype(f"{kind}{x.dtype.itemsize}")
    return (x.view(view) >> amount.view(view)).view(x.dtype)


def convert(x: Array, dtype: np.dtype) -> Array:
    """x in another dtype: floats truncate and saturate, NaN becomes 0, integers wrap, anything but zero is True."""
    if dtype.kind == "b":
        return x != 0
    if x.dtype.kind != "f" or dtype.kind == "f":
        return x.astype(dtype)
    limits = np.iinfo(dtype)
    whole = np.trunc(x)
    above, below = whole >= x.dtype.type(2.0) ** (8 * dtype.itemsize - (dtype.kind == "i")), whole < limits.min
    inside = np.where(above | below | np.isnan(x), 0, whole).astype(dtype)
    return np.where(above, limits.max, np.where(below, limits.min, inside)).astype(dtype)


# -- the C library ----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _libraries() -> tuple[ctypes.CDLL, ...]:
    names = [None, ctypes.util.find_library("m"), ctypes.util.find_library("msvcrt")]
    found = []
    for name in names:
        try:
            found.append(ctypes.CDLL(name))
        except (OSError, TypeError):
            continue
    return tuple(found)


@lru_cache(maxsize=256)
def libm_address(symbol: str) -> int:
    """The address of a function of the C library in this process; CompileError if there is none."""
    for library in _libraries():
        try:
            return ctypes.cast(getattr(library, symbol), ctypes.c_void_p).value
        except AttributeError:
            continue
    raise CompileError(f"the C library has no function named {symbol!r}")


@lru_cache(maxsize=256)
def _libm(symbol: str, arity: int, single: bool) -> Callable:
    kind = ctypes.c_float if single else ctypes.c_double
    return ctypes.CFUNCTYPE(kind, *[kind] * arity)(libm_address(symbol))


def call(symbol: str, *xs: Array) -> Array:
    """The C library's function on every element."""
    dtype = xs[0].dtype
    xs = np.broadcast_arrays(*xs)
    function = _libm(symbol, len(xs), dtype == np.float32)
    values = [function(*each) for each in zip(*(x.ravel().tolist() for x in xs), strict=True)]
    return np.array(values, dtype).reshape(xs[0].shape)


def call_where(symbol: str, condition: Array, default: Array, *xs: Array) -> Array:
    """The C library's function where the condition holds, elsewhere the default."""
    condition, default, *xs = np.broadcast_arrays(condition, default, *xs)
    result = np.array(default)
    if condition.any():
        result[condition] = call(symbol, *(x[condition] for x in xs))
    return result


# -- the table --------------------------------------------------------------------------------------------------------

OPERATIONS: dict[str, Callable[..., Array]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "neg": np.negative, "div": np.divide, "fma": fma,
    "sqrt": np.sqrt, "abs": np.abs, "floor": np.floor, "ceil": np.ceil, "trunc": np.trunc, "rint": np.rint,
    "copysign": np.copysign,
    "sdiv": lambda x, y: _truncated_division(x, y)[0], "srem": lambda x, y: _truncated_division(x, y)[1],
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.invert,
    "shl": np.left_shift, "lshr": lambda x, n: _shift_right(x, n, "u"), "ashr": lambda x, n: _shift_right(x, n, "i"),
    "select": np.where, "mulhi": _mulhi,
}


def identity(combine: str, dtype: np.dtype) -> np.generic:
    """The element that every lane of a Fold starts from."""
    if combine in ("add", "or"):
        return dtype.type(0)
    if combine == "mul":
        return dtype.type(1)
    if combine == "and":
        return dtype.type(True) if dtype.kind == "b" else np.invert(dtype.type(0))
    if dtype.kind == "f":
        return dtype.type(-np.inf if combine == "max" else np.inf)
    if dtype.kind == "b":
        return dtype.type(combine == "min")
    limits = np.iinfo(dtype)
    return dtype.type(limits.min if combine == "max" else limits.max)


def _extreme(better: Callable) -> Callable:
    def combine(x: Array, y: Array) -> Array:
        return np.where(np.not_equal(y, y), y, np.where(better(x, y), y, x))
    return combine


COMBINES: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add, "mul": np.multiply, "and": np.bitwise_and, "or": np.bitwise_or,
    "max": _extreme(np.less), "min": _extreme(np.greater),
}
