"""Pooling: the greatest or the sum of each window of an array, and the linear maps that carry derivatives through them.

Invariant: of equal elements the first of a window in row-major order is chosen (the reductions max and min share ties instead).
May import: L0, core, kinds, windows. Read next: ../nn/pooling.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..core.aval import Aval
from ..core.primitive import bind
from ..errors import DtypeError, explain
from .broadcasting import batch_together
from .kinds import General, general, linear, move_front
from .windows import Window, Windows, elements, lower_max, lower_spread, lower_sum, lower_take, offsets_of, place_dtype, weights_of


def _resized(shape: Sequence[int], windows: Windows, field: str) -> tuple[int, ...]:
    sizes = {w.axis: getattr(w, field) for w in windows}
    return tuple(sizes.get(i, n) for i, n in enumerate(shape))


def _floating(name: str, x: Aval) -> None:
    if x.dtype.kind != "f":
        raise DtypeError(explain(f"{name} is not defined for {x}.", remedy="Convert first: x.astype(np.float32)."))


def _shifted(windows: Windows) -> Windows:
    return tuple(w._replace(axis=w.axis + 1) for w in windows)


def _batch_one(row: Any, args: tuple, bdims: tuple, *, windows: Windows) -> tuple:
    return bind(row, move_front(args[0], bdims[0]), windows=_shifted(windows)), 0


def _batch_two(row: Any, args: tuple, bdims: tuple, *, windows: Windows) -> tuple:
    return bind(row, *batch_together(args, bdims)[0], windows=_shifted(windows)), 0


# ------------------------------------------------------------------------------------------------ NumPy: one element of all windows at once


def _padded_shape(shape: Sequence[int], windows: Windows) -> tuple[int, ...]:
    sizes = {w.axis: max(w.covered, w.low + w.length) for w in windows}
    return tuple(sizes.get(i, n) for i, n in enumerate(shape))


def _within(ndim: int, windows: Windows) -> tuple[slice, ...]:
    """Where x lies in the padded array."""
    known = {w.axis: slice(w.low, w.low + w.length) for w in windows}
    return tuple(known.get(i, slice(None)) for i in range(ndim))


def _padded(x: np.ndarray, windows: Windows, value: float) -> np.ndarray:
    if all(w.inside for w in windows):
        return x
    padded = np.full(_padded_shape(x.shape, windows), value, x.dtype)
    padded[_within(x.ndim, windows)] = x
    return padded


def _element(ndim: int, windows: Windows, offsets: tuple[int, ...]) -> tuple[slice, ...]:
    """The elements at one place of all windows, in the padded array."""
    known = {w.axis: slice(j * w.dilation, j * w.dilation + (w.count - 1) * w.stride + 1, w.stride)
             for w, j in zip(windows, offsets, strict=True)}
    return tuple(known.get(i, slice(None)) for i in range(ndim))


def _first_places(shape: tuple, windows: Windows) -> np.ndarray:
    """The first place of each window that is not padding."""
    first = np.zeros((1,) * len(shape), np.int64)
    for w, weight in zip(windows, weights_of(windows), strict=True):
        line = np.maximum(0, -((np.arange(w.count) * w.stride - w.low) // w.dilation))
        first = first + weight * line.reshape([-1 if i == w.axis else 1 for i in range(len(shape))])
    return np.broadcast_to(first, shape).astype(place_dtype(windows))


# ------------------------------------------------------------------------------------------------ samples


CASES = (((2, 6, 4, 3), (Window(1, 6, 3, 2, 2), Window(2, 4, 2, 2, 2))),                              # tiles
         ((1, 5, 6, 2), (Window(1, 5, 3, 3, 2, 1, 1), Window(2, 6, 6, 3, 1, 1, 1))),                  # overlap and padding
         ((7, 2), (Window(0, 7, 3, 3, 1, 2, 0),)),                                                    # dilation
         ((2, 8, 2), (Window(1, 8, 2, 2, 4),)),                                                       # gaps
         ((3, 7), (Window(1, 7, 4, 2, 2, 1, 0),)),                                                    # the last window ends in padding
         ((1, 14, 7, 2), (Window(1, 14, 2, 7, 7), Window(2, 7, 1, 7, 7))),                            # large tiles
         ((11, 7), (Window(0, 11, 6, 7, 2, 1, 3), Window(1, 7, 7, 6, 1, 1, 2))),                      # large windows that overlap
         ((2, 0, 6), (Window(2, 6, 3, 2, 2),)))                                                       # no element


def _x_samples(rng: np.random.Generator) -> list:
    return [((rng.standard_normal(shape),), {"windows": windows}) for shape, windows in CASES]


def _sample_places(rng: np.random.Generator, shape: tuple, windows: Windows) -> np.ndarray:
    return rng.integers(0, elements(windows), _resized(shape, windows, "count")).astype(place_dtype(windows))


def _take_samples(rng: np.random.Generator) -> list:
    return [((rng.standard_normal(s), _sample_places(rng, s, w)), {"windows": w}) for s, w in CASES]


def _y_samples(rng: np.random.Generator) -> list:
    return [((rng.standard_normal(_resized(s, w, "count")),), {"windows": w}) for s, w in CASES]


def _put_samples(rng: np.random.Generator) -> list:
    return [((rng.standard_normal(_resized(s, w, "count")), _sample_places(rng, s, w)), {"windows": w}) for s, w in CASES]


# ------------------------------------------------------------------------------------------------ rows


def _pooled(name: str) -> Callable:
    def shape(x: Aval, *places: Aval, windows: Windows) -> Aval:
        _floating(name, x)
        return Aval(_resized(x.shape, windows, "count"), x.dtype)
    return shape


def _unpooled(y: Aval, *places: Aval, windows: Windows) -> Aval:
    return Aval(_resized(y.shape, windows, "length"), y.dtype)


def _max_shape(x: Aval, *, windows: Windows) -> tuple[Aval, Aval]:
    y = _pooled("max_pool")(x, windows=windows)
    return y, Aval(y.shape, place_dtype(windows))


def _max_jvp(primals: tuple, tangents: tuple, y: tuple, *, windows: Windows) -> tuple | None:
    return None if tangents[0] is None else (pool_take(tangents[0], y[1], windows=windows), None)


def _max_vjp(primals: tuple, y: tuple, y_bar: tuple, active: tuple, *, windows: Windows) -> list:
    return [pool_put(y_bar[0], y[1], windows=windows) if active[0] else None]


@general(shape=_max_shape, jvp=_max_jvp, vjp=_max_vjp, multiple=True, bound=0.0, samples=_x_samples, lowering=General(lower_max),
         chooses=True,
         batch=lambda args, bdims, *, windows: (bind(max_pool, move_front(args[0], bdims[0]), windows=_shifted(windows)), (0, 0)))
def max_pool(x, *, windows):
    """(y, places): the greatest element of each window, NaN if any is, and its place: the first of equal ones, of NaN the last.

    Only the element at the recorded place receives the gradient: a tie is not shared, unlike that of the reduction `max`.
    """
    padded = _padded(x, windows, -math.inf)
    shape = _resized(x.shape, windows, "count")
    best, places = np.full(shape, -math.inf, x.dtype), _first_places(shape, windows)
    for place, offsets in enumerate(offsets_of(windows)):
        value = padded[_element(x.ndim, windows, offsets)]
        better = (value > best) | (value != value)
        np.copyto(best, value, where=better)
        np.copyto(places, np.asarray(place, places.dtype), where=better)
    return best, places


@linear(shape=_pooled("pool_take"), linear_in=1, batch=_batch_two, samples=_take_samples, lowering=General(lower_take),
        transposes=(lambda y_bar, x, places, *, windows: pool_put(y_bar, places, windows=windows),))
def pool_take(x, places, *, windows):
    """The element of each window at its place, 0 where that is padding; its transpose is pool_put."""
    padded = _padded(x, windows, 0.0)
    y = np.zeros(_resized(x.shape, windows, "count"), x.dtype)
    for place, offsets in enumerate(offsets_of(windows)):
        np.copyto(y, padded[_element(x.ndim, windows, offsets)], where=places == place)
    return y


def _added(y: np.ndarray, windows: Windows, part: Callable) -> np.ndarray:
    """Zeros to which each place of all windows adds its part, in order."""
    x = np.zeros(_padded_shape(_resized(y.shape, windows, "length"), windows), y.dtype)
    for place, offsets in enumerate(offsets_of(windows)):
        x[_element(y.ndim, windows, offsets)] += part(place)
    return x if all(w.inside for w in windows) else np.ascontiguousarray(x[_within(y.ndim, windows)])


@linear(shape=_unpooled, linear_in=1, batch=_batch_two, samples=_put_samples, lowering=General(lower_spread), bound=1.0, puts=True,
        transposes=(lambda x_bar, y, places, *, windows: pool_take(x_bar, places, windows=windows),))
def pool_put(y, places, *, windows):
    """Each y added at its place in its window of zeros, nowhere if that is padding; its transpose is pool_take."""
    return _added(y, windows, lambda place: np.where(places == place, y, y.dtype.type(0)))


@linear(shape=_pooled("pool_sum"), batch=_batch_one, samples=_x_samples, lowering=General(lower_sum), bound=1.0,
        transposes=(lambda y_bar, x, *, windows: pool_spread(y_bar, windows=windows),))
def pool_sum(x, *, windows):
    """The sum of each window, padding counted as 0, in row-major order; its transpose is pool_spread."""
    padded = _padded(x, windows, 0.0)
    y = np.zeros(_resized(x.shape, windows, "count"), x.dtype)
    for offsets in offsets_of(windows):
        y += padded[_element(x.ndim, windows, offsets)]
    return y


@linear(shape=_unpooled, batch=_batch_one, samples=_y_samples, lowering=General(lower_spread), bound=1.0,
        transposes=(lambda x_bar, y, *, windows: pool_sum(x_bar, windows=windows),))
def pool_spread(y, *, windows):
    """Each y added to every element of its window of zeros; its transpose is pool_sum."""
    return _added(y, windows, lambda place: y)
