"""Pooling: the greatest or the mean of each window of the spatial axes, in PyTorch's layout and with its window rules.

Invariant: arrays are [batch, channels, *space] or [channels, *space]; in memory the channels of a result come last, so that nothing is
copied between convolutions and pooling. May import: L0-L3, module. Read next: normalization.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..core.aval import aval_of
from ..errors import ConfigError, DtypeError, ShapeError, explain
from ..primitives.pooling import max_pool as _max_pool
from ..primitives.pooling import pool_sum
from ..primitives.windows import Window
from .module import Module

Sizes = int | Sequence[int]


def max_pool(x: Any, window: Sizes, *, stride: Sizes | None = None, padding: Sizes = 0, dilation: Sizes = 1,
             ceil_mode: bool = False) -> Any:
    """y[q] = max over j of x[q stride + j dilation - padding], along each spatial axis; padding counts as -infinity.

    Shapes: x [batch, channels, *space] or [channels, *space], y with space' = floor((space + 2 padding - dilation (window - 1) - 1) /
    stride) + 1 (ceil_mode: rounded up, the last window starting inside). stride defaults to the window; an int `window` is for all
    axes behind [batch, channels]. Derivative: the first greatest element of a window in row-major order receives all of the
    cotangent, as in PyTorch (np.max shares ties); NaN propagates. Raises: ShapeError, ConfigError, DtypeError.

    >>> max_pool(np.array([[[1.0, 5.0, 2.0, 0.0, 3.0, 3.0]]]), 2)
    array([[[5., 2., 3.]]])
    """
    pooled = _Pooled("max_pool", x, window, stride, padding, dilation, ceil_mode)
    return pooled.back(_max_pool(pooled.x, windows=pooled.windows)[0])


def avg_pool(x: Any, window: Sizes, *, stride: Sizes | None = None, padding: Sizes = 0, ceil_mode: bool = False,
             count_include_pad: bool = True) -> Any:
    """y[q] = mean over j of x[q stride + j - padding], along each spatial axis; padding counts as 0.

    Shapes and ceil_mode as max_pool. count_include_pad: whether the divisor counts padding (never what ceil_mode adds beyond it).
    Derivative: the cotangent spread evenly over each window. Raises: ShapeError, ConfigError, DtypeError.

    >>> avg_pool(np.array([[[1.0, 5.0, 2.0, 0.0]]]), 2, padding=1)
    array([[[0.5, 3.5, 0. ]]])
    >>> avg_pool(np.array([[[1.0, 5.0, 2.0, 0.0]]]), 2, padding=1, count_include_pad=False)
    array([[[1. , 3.5, 0. ]]])
    """
    pooled = _Pooled("avg_pool", x, window, stride, padding, 1, ceil_mode)
    total = pool_sum(pooled.x, windows=pooled.windows)
    return pooled.back(total / pooled.counts(count_include_pad))


def adaptive_avg_pool(x: Any, size: Any) -> Any:
    """Means of `size` windows along each spatial axis: window q goes from floor(q n / size) to ceil((q + 1) n / size).

    Shapes: x [batch, channels, *space] or [channels, *space], y [..., *size]; None keeps an axis. size 1 is the mean of the map.
    Raises: ShapeError, ConfigError, DtypeError.

    >>> adaptive_avg_pool(np.array([[[1.0, 2.0, 3.0, 4.0, 5.0]]]), 2)
    array([[[2., 4.]]])
    """
    sizes, space = _adaptive("adaptive_avg_pool", x, size)
    if all(n == 1 for n in sizes):
        axes = tuple(range(1, 1 + len(sizes)))
        moved = _channels_last(x, len(sizes))
        return _channels_first(np.mean(moved, axis=axes, keepdims=True), len(sizes), np.ndim(x))
    if all(n % m == 0 for n, m in zip(space, sizes, strict=True)):
        return avg_pool(x, tuple(n // m for n, m in zip(space, sizes, strict=True)))
    y = _channels_last(x, len(sizes))
    for axis, (n, m) in enumerate(zip(space, sizes, strict=True), 1):
        if n != m:
            weights = np.stack([_share(n, *bounds) for bounds in _bounds(n, m)]).astype(aval_of(x).dtype)
            y = np.moveaxis(np.tensordot(weights, y, axes=(1, axis)), 0, axis)
    return _channels_first(y, len(sizes), np.ndim(x))


def adaptive_max_pool(x: Any, size: Any) -> Any:
    """The greatest elements of `size` windows along each spatial axis, windows as in adaptive_avg_pool, ties and NaN as in max_pool.

    Raises: ShapeError, ConfigError, DtypeError.

    >>> adaptive_max_pool(np.array([[[1.0, 2.0, 3.0, 4.0, 5.0]]]), 2)
    array([[[3., 5.]]])
    """
    sizes, space = _adaptive("adaptive_max_pool", x, size)
    widths = []
    for axis, (n, m) in enumerate(zip(space, sizes, strict=True), np.ndim(x) - len(sizes)):
        bounds = _bounds(n, m)
        width = max(end - start for start, end in bounds)
        if n % m:                               # windows of one width: a shorter one repeats its last element, which is never the first
            x = np.take(x, np.concatenate([np.minimum(np.arange(start, start + width), end - 1) for start, end in bounds]), axis=axis)
        widths.append(width)
    return max_pool(x, tuple(widths))


# ------------------------------------------------------------------------------------------------ windows of the spatial axes


def _each(name: str, what: str, value: Any, rank: int, least: int) -> tuple[int, ...]:
    """One integer per axis."""
    values = (value,) * rank if isinstance(value, (int, np.integer)) else tuple(value) if isinstance(value, Sequence) else ()
    if len(values) != rank or not all(isinstance(v, (int, np.integer)) and v >= least for v in values):
        raise ConfigError(explain(f"{name}: {what} is {value!r}, expected an integer of at least {least}, or {rank} of them.",
                                  remedy=f"For instance {what}={max(least, 1)}."))
    return tuple(map(int, values))


def _checked(name: str, x: Any, rank: int) -> tuple[int, ...]:
    """The spatial sizes of x."""
    aval = aval_of(x)
    if aval.dtype.kind != "f":
        raise DtypeError(explain(f"{name} is not defined for {aval}.", remedy="Convert first: x.astype(np.float32)."))
    if rank < 1 or aval.ndim not in (rank + 1, rank + 2):
        raise ShapeError(explain(f"{name}: the input is {aval}, expected [batch, channels, *space] or [channels, *space] with "
                                 f"{max(rank, 1)} spatial {'axis' if rank <= 1 else 'axes'}.", remedy="Check the shape of the input."))
    return aval.shape[aval.ndim - rank:]


def _channels_last(x: Any, rank: int) -> Any:
    """[batch, *space, channels] of an array in PyTorch's layout, as a view."""
    if np.ndim(x) == rank + 1:
        x = x[None]
    return np.transpose(x, (0, *range(2, rank + 2), 1))


def _channels_first(y: Any, rank: int, ndim: int) -> Any:
    """The inverse: a view in PyTorch's layout, without the batch axis if the input had none."""
    y = np.transpose(y, (0, rank + 1, *range(1, rank + 1)))
    return y[0] if ndim == rank + 1 else y


class _Pooled:
    """The input with its channels last, and the windows of its spatial axes 1, 2, ...; `back` gives PyTorch's layout again."""

    def __init__(self, name: str, x: Any, window: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool):
        rank = np.ndim(x) - 2 if isinstance(window, (int, np.integer)) else len(window)
        space = _checked(name, x, rank)
        sizes = _each(name, "window", window, rank, 1)
        strides = sizes if stride is None else _each(name, "stride", stride, rank, 1)
        paddings, dilations = _each(name, "padding", padding, rank, 0), _each(name, "dilation", dilation, rank, 1)
        rows = zip(space, sizes, strides, paddings, dilations, strict=True)
        self.windows = tuple(_window(name, axis, *row, ceil_mode) for axis, row in enumerate(rows, 1))
        self.x, self.rank, self.ndim, self.paddings = _channels_last(x, rank), rank, np.ndim(x), paddings

    def back(self, y: Any) -> Any:
        return _channels_first(y, self.rank, self.ndim)

    def counts(self, include_pad: bool) -> Any:
        """How many elements each mean is over: one number, or an array that broadcasts with the windows' sums."""
        total: Any = 1
        for w, padding in zip(self.windows, self.paddings, strict=True):
            start = np.arange(w.count) * w.stride - w.low
            end = start + w.size
            line = np.minimum(end, w.length + padding) - start if include_pad else np.minimum(end, w.length) - np.maximum(start, 0)
            same = bool((line == line[:1]).all())
            total = total * (int(line[0]) if same else line.reshape([-1 if i == w.axis else 1 for i in range(self.rank + 2)]))
        return float(total) if isinstance(total, int) else total.astype(aval_of(self.x).dtype)


def _window(name: str, axis: int, length: int, size: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> Window:
    if 2 * padding > size:
        raise ConfigError(explain(f"{name}: padding {padding} is more than half of the window {size}: a window could lie in padding alone.",
                                  remedy=f"Pad by at most {size // 2}, or pad the input with np.pad."))
    room = length + 2 * padding - dilation * (size - 1) - 1
    if room < 0:
        raise ShapeError(explain(f"{name}: a window of {dilation * (size - 1) + 1} is larger than the axis of {length} "
                                 f"with padding {padding} at both ends.", remedy="Use a smaller window, padding, or a larger input."))
    count = (-(-room // stride) if ceil_mode else room // stride) + 1
    if ceil_mode and (count - 1) * stride >= length + padding:
        count -= 1
    return Window(axis, length, count, size, stride, dilation, padding)


def _adaptive(name: str, x: Any, size: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    rank = np.ndim(x) - 2 if size is None or isinstance(size, (int, np.integer)) else len(size)
    space = _checked(name, x, rank)
    given = (size,) * rank if size is None or isinstance(size, (int, np.integer)) else tuple(size)
    if 0 in space:
        raise ShapeError(explain(f"{name}: a spatial axis of {aval_of(x)} is empty.", remedy="Check the shape of the input."))
    return _each(name, "size", tuple(n if m is None else m for n, m in zip(space, given, strict=True)), rank, 1), space


def _bounds(length: int, count: int) -> list[tuple[int, int]]:
    """(start, end) of adaptive windows."""
    return [(q * length // count, -(-(q + 1) * length // count)) for q in range(count)]


def _share(length: int, start: int, end: int) -> np.ndarray:
    line = np.zeros(length)
    line[start:end] = 1.0 / (end - start)
    return line


# ------------------------------------------------------------------------------------------------ layers


def _ranked(value: Any, rank: int) -> Any:
    """An integer stands for every axis."""
    return (value,) * rank if value is None or isinstance(value, (int, np.integer)) else value


class _MaxPool(Module):
    kernel_size: Any
    stride: Any = None
    padding: Any = 0
    dilation: Any = 1
    ceil_mode: bool = False

    def _over(self, x: Any, rank: int) -> Any:
        return max_pool(x, _ranked(self.kernel_size, rank), stride=self.stride, padding=self.padding, dilation=self.dilation,
                        ceil_mode=self.ceil_mode)


class MaxPool1d(_MaxPool):
    """`max_pool` of [batch, channels, length] or [channels, length].

    >>> MaxPool1d(2)(np.array([[[1.0, 5.0, 2.0, 0.0]]]))
    array([[[5., 2.]]])
    """

    def __call__(self, x: Any) -> Any:
        return self._over(x, 1)


class MaxPool2d(_MaxPool):
    """`max_pool` of [batch, channels, height, width] or [channels, height, width].

    >>> MaxPool2d(2)(np.arange(16.0).reshape(1, 1, 4, 4))
    array([[[[ 5.,  7.],
             [13., 15.]]]])
    """

    def __call__(self, x: Any) -> Any:
        return self._over(x, 2)


class _AvgPool(Module):
    kernel_size: Any
    stride: Any = None
    padding: Any = 0
    ceil_mode: bool = False
    count_include_pad: bool = True

    def _over(self, x: Any, rank: int) -> Any:
        return avg_pool(x, _ranked(self.kernel_size, rank), stride=self.stride, padding=self.padding, ceil_mode=self.ceil_mode,
                        count_include_pad=self.count_include_pad)


class AvgPool1d(_AvgPool):
    """`avg_pool` of [batch, channels, length] or [channels, length].

    >>> AvgPool1d(2)(np.array([[[1.0, 5.0, 2.0, 0.0]]]))
    array([[[3., 1.]]])
    """

    def __call__(self, x: Any) -> Any:
        return self._over(x, 1)


class AvgPool2d(_AvgPool):
    """`avg_pool` of [batch, channels, height, width] or [channels, height, width].

    >>> AvgPool2d(2)(np.arange(16.0).reshape(1, 1, 4, 4))
    array([[[[ 2.5,  4.5],
             [10.5, 12.5]]]])
    """

    def __call__(self, x: Any) -> Any:
        return self._over(x, 2)


class AdaptiveAvgPool1d(Module):
    """`adaptive_avg_pool` of [batch, channels, length] or [channels, length].

    >>> AdaptiveAvgPool1d(1)(np.array([[[1.0, 5.0, 3.0]]]))
    array([[[3.]]])
    """

    output_size: Any

    def __call__(self, x: Any) -> Any:
        return adaptive_avg_pool(x, _ranked(self.output_size, 1))


class AdaptiveAvgPool2d(Module):
    """`adaptive_avg_pool` of [batch, channels, height, width] or [channels, height, width].

    >>> AdaptiveAvgPool2d(1)(np.arange(16.0).reshape(1, 1, 4, 4))
    array([[[[7.5]]]])
    """

    output_size: Any

    def __call__(self, x: Any) -> Any:
        return adaptive_avg_pool(x, _ranked(self.output_size, 2))


class AdaptiveMaxPool1d(Module):
    """`adaptive_max_pool` of [batch, channels, length] or [channels, length].

    >>> AdaptiveMaxPool1d(1)(np.array([[[1.0, 5.0, 3.0]]]))
    array([[[5.]]])
    """

    output_size: Any

    def __call__(self, x: Any) -> Any:
        return adaptive_max_pool(x, _ranked(self.output_size, 1))


class AdaptiveMaxPool2d(Module):
    """`adaptive_max_pool` of [batch, channels, height, width] or [channels, height, width].

    >>> AdaptiveMaxPool2d((1, 2))(np.arange(16.0).reshape(1, 1, 4, 4))
    array([[[[13., 15.]]]])
    """

    output_size: Any

    def __call__(self, x: Any) -> Any:
        return adaptive_max_pool(x, _ranked(self.output_size, 2))
