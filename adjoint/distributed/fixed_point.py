"""Sums that do not depend on their order: floating numbers as integers under one shared exponent.

Invariant: the sum of the same parts has the same bits however they are dealt to ranks. May import: errors, checks, collectives.
Read next: data_parallel.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import ConfigError, ShapeError, explain
from .checks import whole, world_of
from .collectives import all_reduce_in_place
from .communicator import Communicator

WIDTH = 62              # bits of magnitude: sums of all parts fit into int64 with its sign
BLOCK = 8192            # elements that are scaled, rounded and added while they are in the cache


def exact_sum(parts: Sequence[np.ndarray], communicator: Communicator, count: int) -> np.ndarray:
    """The sum of `count` arrays of one shape, of which this rank holds `parts`; the same bits for every number of ranks.

    Every element becomes round(x 2^s) in int64, s from the largest magnitude among all parts of all ranks, so that `count` of them cannot
    overflow; integers are added, and the sum is rounded once to the parts' dtype. Error: at most count 2^-(62 - log2 count) of that
    magnitude, below float64's own for float32 parts. An infinity or NaN anywhere makes every element of the sum NaN; a sum beyond the
    dtype's largest number is infinite. Integer parts are added as they are, and wrap as NumPy's.
    Cost: 8 bytes an element on the wire. Source: Demmel and Nguyen, Fast reproducible floating-point summation, ARITH 2013 (the idea).

    >>> from adjoint.distributed.communicator import Alone
    >>> exact_sum([np.array([1e8, 1.0], np.float32), np.array([-1e8, 2.0], np.float32)], Alone(), 2)
    array([0., 3.], dtype=float32)
    """
    world_of("exact_sum", communicator)
    whole("exact_sum", "count", count, remedy="It is the number of arrays of all ranks together.")
    if not isinstance(parts, (list, tuple)) or not all(isinstance(x, np.ndarray | np.generic) and x.dtype.kind in "iuf" for x in parts):
        raise ConfigError(explain(f"exact_sum: parts is {parts!r:.60}, expected arrays of numbers.", remedy="For instance [x, y]."))
    if len({(x.shape, x.dtype) for x in parts}) > 1:
        found = ", ".join(f"{x.dtype}{list(x.shape)}" for x in parts[:4])
        raise ShapeError(explain(f"exact_sum: parts are {found}, expected one shape and dtype.", remedy="Sum each kind by itself."))
    if not 0 < len(parts) <= count:
        raise ConfigError(explain(f"exact_sum: {len(parts)} parts on rank {communicator.rank}, {count} on all ranks together.",
                                  remedy="Every rank gives at least one; count is the number of all."))
    dtype, shape = parts[0].dtype, parts[0].shape
    total, flat = np.zeros(parts[0].size, np.int64), [np.ravel(x) for x in parts]
    if dtype.kind in "iu":
        for x in flat:
            total += x.astype(np.int64)                 # uint64 too: sums are the same modulo 2^64
        return all_reduce_in_place(total, communicator).astype(dtype).reshape(shape)
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        ends = [end for x in flat if x.size for end in (x.max(), x.min())]
        largest = np.array([np.max(np.abs(ends), initial=0.0)], np.float64)
        all_reduce_in_place(largest, communicator, combine=np.maximum)
        if not np.isfinite(largest[0]):
            return np.full(shape, np.nan, dtype)
        exponent = WIDTH - int(count).bit_length() - int(np.frexp(largest[0])[1])
        _add_scaled(flat, exponent, total)
        all_reduce_in_place(total, communicator)
        first, second = _powers(-exponent)
        return (total.astype(np.float64) * first * second).astype(dtype).reshape(shape)


def _powers(exponent: int) -> tuple[float, float]:
    """Two numbers whose product is 2^exponent, which may itself be too large or too small for a number."""
    return 2.0 ** (exponent // 2), 2.0 ** (exponent - exponent // 2)


def _add_scaled(parts: Sequence[np.ndarray], exponent: int, total: np.ndarray) -> None:
    """total += round(x 2^exponent) for each part, in blocks that stay in the cache."""
    first, second = _powers(exponent)
    scaled, whole_numbers = np.empty(min(BLOCK, total.size)), np.empty(min(BLOCK, total.size), np.int64)
    for start in range(0, total.size, BLOCK):
        into = total[start:start + BLOCK]
        at, number = scaled[:into.size], whole_numbers[:into.size]
        for x in parts:
            np.multiply(x[start:start + BLOCK], first, out=at, dtype=np.float64)
            at *= second
            np.rint(at, out=at)
            np.copyto(number, at, casting="unsafe")
            into += number
