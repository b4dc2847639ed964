"""Normalization: batch, layer, group, root mean square and local response, with PyTorch's names, shapes and numerics.

Invariant: a variance is taken in two passes and is biased where it normalizes; eps stands inside the square root. Maps of
[batch, channels, *space] are computed channels last, a view of how convolutions leave them. May import: L0-L3, module, modes' contract
(a method training(path, key)). Read next: modes.py.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..core.aval import aval_of
from ..errors import ConfigError, DtypeError, ShapeError, explain
from ..transforms.custom import custom_vjp, stop_gradient
from ..transforms.taps import tap
from .layers import sizes
from .module import Module, buffer


def _checked(name: str, x: Any, ranks: tuple[int, ...], channels: int, remedy: str) -> None:
    """Refuse an input of another rank, with other channels, or of integers."""
    aval = aval_of(x)
    if aval.dtype.kind != "f":
        raise DtypeError(explain(f"{name} is not defined for {aval}.", remedy="Convert first: x.astype(np.float32)."))
    if aval.ndim not in ranks or aval.shape[1] != channels:
        expected = " or ".join("[" + ", ".join(["batch", str(channels), *"?" * (rank - 2)]) + "]" for rank in ranks)
        raise ShapeError(explain(f"{name}: the input is {aval}, expected {expected}.", remedy=remedy))


def _not_negative(name: str, eps: Any) -> None:
    if not (isinstance(eps, (int, float, np.floating)) and eps >= 0):
        raise ConfigError(explain(f"{name}: eps is {eps!r:.40}, expected a number of at least 0.", remedy="1e-5 is usual."))


def _channels_last(x: Any) -> Any:
    return np.moveaxis(x, 1, -1) if np.ndim(x) > 2 else x


def _channels_first(y: Any) -> Any:
    return np.moveaxis(y, -1, 1) if np.ndim(y) > 2 else y


# ------------------------------------------------------------------------------------------------ batch


def _batch_moments(x: Any) -> tuple[Any, Any]:
    """(mean, biased variance) of each channel of [..., channels]."""
    axes = tuple(range(np.ndim(x) - 1))
    mean = np.mean(x, axis=axes)
    return mean, np.mean(np.square(x - mean), axis=axes)


@functools.lru_cache(maxsize=64)
def _batch_normalizer(eps: float) -> Callable:
    """(x [..., channels], weight, bias) -> (y, mean, variance); mean and variance are reported, not differentiated.

    Every pass over the map centres it anew, each in an expression of its own: so the compiler reads x and keeps no centred copy.
    """
    def forward(x: Any, weight: Any, bias: Any) -> tuple:
        mean, variance = _batch_moments(x)
        inverse = 1.0 / np.sqrt(variance + eps)
        scale = weight * inverse
        return (x * scale + (bias - mean * scale), mean, variance), (x, mean, inverse, weight)

    def backward(residuals: tuple, bars: tuple) -> tuple:
        (x, mean, inverse, weight), y_bar = residuals, bars[0]
        axes = tuple(range(np.ndim(x) - 1))
        count = math.prod(np.shape(x)[:-1])
        bias_bar = np.sum(y_bar, axis=axes)
        weight_bar = -inverse * np.sum(y_bar * (mean - x), axis=axes)
        scale = weight * inverse
        slope = scale * inverse * weight_bar * (-1.0 / count)
        return y_bar * scale + (x * slope - (mean * slope + scale * bias_bar * (1.0 / count))), weight_bar, bias_bar
    return custom_vjp(lambda x, weight, bias: forward(x, weight, bias)[0], forward, backward)


class _BatchNorm(Module):
    weight: np.ndarray | None
    bias: np.ndarray | None
    running_mean: np.ndarray | None = buffer()
    running_var: np.ndarray | None = buffer()
    num_batches_tracked: np.ndarray | None = buffer()
    num_features: int
    eps: float
    momentum: float | None
    path: str | None                            # the layer's name, while it trains

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True,
                 track_running_stats: bool = True, *, dtype: Any = np.float32) -> None:
        name = type(self).__name__
        sizes(name, num_features=num_features)
        _not_negative(name, eps=eps)
        if momentum is not None and not (isinstance(momentum, (int, float)) and 0 <= momentum <= 1):
            raise ConfigError(explain(f"{name}: momentum is {momentum!r:.40}, expected a share from 0 to 1, or None.",
                                      remedy="It says how much a new batch counts: 0.1, or None for the mean of all batches."))
        shape, tracks = (num_features,), track_running_stats
        self._place(weight=np.ones(shape, dtype) if affine else None, bias=np.zeros(shape, dtype) if affine else None,
                    running_mean=np.zeros(shape, dtype) if tracks else None, running_var=np.ones(shape, dtype) if tracks else None,
                    num_batches_tracked=np.zeros((), np.int64) if tracks else None,
                    num_features=num_features, eps=eps, momentum=momentum, path=None)

    def training(self, path: str, key: Any) -> Any:
        """The layer that normalizes with the batch's statistics and taps the running ones as they are then."""
        layer = object.__new__(type(self))
        layer._place(**{**self.__dict__, "path": path})
        return layer

    def _normalize(self, x: Any, ranks: tuple[int, ...]) -> Any:
        name = type(self).__name__
        _checked(name, x, ranks, self.num_features, f"{name}({aval_of(x).shape[1] if np.ndim(x) > 1 else '...'}) has one statistic per "
                 "channel, and channels are axis 1.")
        rows = _channels_last(x)
        dtype = aval_of(x).dtype
        weight = np.ones(self.num_features, dtype) if self.weight is None else self.weight
        bias = np.zeros(self.num_features, dtype) if self.bias is None else self.bias
        if self.path is None and self.running_mean is not None:
            scale = weight / np.sqrt(self.running_var + self.eps)
            return _channels_first(rows * scale + (bias - self.running_mean * scale))
        count = math.prod(np.shape(rows)[:-1])
        if self.path is not None and count < 2:
            raise ShapeError(explain(f"{name} ({self.path or 'the model'}): training with one value per channel, input {aval_of(x)}: "
                                     "it has no variance.", remedy="Use batches of at least 2, or nn.GroupNorm, which needs no batch."))
        y, mean, variance = _batch_normalizer(self.eps)(rows, weight, bias)
        if self.path is not None and self.running_mean is not None:
            self._report(stop_gradient(mean), stop_gradient(variance) * (count / (count - 1)))
        return _channels_first(y)

    def _report(self, mean: Any, variance: Any) -> None:
        """Tap the running statistics: r + momentum (batch - r), the variance unbiased; momentum None: the mean of all batches."""
        seen = self.num_batches_tracked + 1
        share = self.momentum if self.momentum is not None else (1.0 / seen).astype(aval_of(mean).dtype)
        prefix = f"{self.path}." if self.path else ""
        tap(prefix + "running_mean", self.running_mean * (1.0 - share) + mean * share)
        tap(prefix + "running_var", self.running_var * (1.0 - share) + variance * share)
        tap(prefix + "num_batches_tracked", seen)


class BatchNorm1d(_BatchNorm):
    """y = weight (x - mean) / sqrt(var + eps) + bias, per channel; in training mean and var are the batch's, else the running ones.

    Shapes: x [batch, channels] or [batch, channels, length]; weight, bias, running_mean, running_var [channels], num_batches_tracked 0-d
    int64. The batch's variance is biased where it normalizes; running values r become r + momentum (batch - r) with the unbiased
    variance. Derivatives go through mean and var: x_bar = weight / s (y_bar - mean(y_bar) - xhat mean(y_bar xhat)), s = sqrt(var + eps).
    A model as built evaluates; nn.training(model, key) gives the one that trains, whose new running values are taps (nn.absorb).
    Raises: ShapeError; in training also for one value per channel. Source: Ioffe and Szegedy, arXiv 1502.03167, algorithm 1.

    >>> from adjoint import nn
    >>> nn.training(BatchNorm1d(2))(np.array([[1.0, 0.0], [3.0, 0.0]], np.float32)).round(3)
    array([[-1.,  0.],
           [ 1.,  0.]], dtype=float32)
    """

    __init__ = _BatchNorm.__init__

    def __call__(self, x: Any) -> Any:
        return self._normalize(x, (2, 3))


class BatchNorm2d(_BatchNorm):
    """As BatchNorm1d, for x [batch, channels, height, width]: statistics over batch and space.

    >>> BatchNorm2d(3)(np.ones((2, 3, 4, 5), np.float32)).shape
    (2, 3, 4, 5)
    """

    __init__ = _BatchNorm.__init__

    def __call__(self, x: Any) -> Any:
        return self._normalize(x, (4,))


# ------------------------------------------------------------------------------------------------ within one example


def _mean_over(x: Any, axes: tuple[int, ...]) -> Any:
    """The mean with its axes kept, one run of neighbouring axes after another, first to last: each is a single pass over memory."""
    runs = itertools.groupby(enumerate(axes), key=lambda pair: pair[1] - pair[0])
    for run in [tuple(axis for _, axis in pairs) for _, pairs in runs]:
        x = np.mean(x, axis=run, keepdims=True)
    return x


@functools.lru_cache(maxsize=64)
def _standardizer(axes: tuple[int, ...], eps: float) -> Callable:
    """x -> (x - mean) / sqrt(var + eps), both over `axes`."""
    def forward(x: Any) -> tuple:
        centred = x - _mean_over(x, axes)
        inverse = 1.0 / np.sqrt(_mean_over(np.square(centred), axes) + eps)
        y = centred * inverse
        return y, (y, inverse)

    def backward(residuals: tuple, y_bar: Any) -> tuple:
        y, inverse = residuals
        return ((y_bar - _mean_over(y_bar, axes) - y * _mean_over(y_bar * y, axes)) * inverse,)
    return custom_vjp(lambda x: forward(x)[0], forward, backward)


def _trailing(name: str, x: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The last axes, which must have this shape."""
    aval = aval_of(x)
    if aval.dtype.kind != "f":
        raise DtypeError(explain(f"{name} is not defined for {aval}.", remedy="Convert first: x.astype(np.float32)."))
    if not shape or aval.shape[aval.ndim - len(shape):] != shape or aval.ndim < len(shape):
        raise ShapeError(explain(f"{name}: the input is {aval}, its last axes must be {shape}.",
                                 remedy=f"Build {name} with the sizes of the axes it normalizes."))
    return tuple(range(aval.ndim - len(shape), aval.ndim))


def _sizes(name: str, shape: int | Sequence[int]) -> tuple[int, ...]:
    found = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
    for size in found:
        sizes(name, normalized_shape=size)
    return tuple(map(int, found))


def _affine(y: Any, weight: Any, bias: Any) -> Any:
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


class LayerNorm(Module):
    """y = weight (x - mean) / sqrt(var + eps) + bias with mean and biased var over the last axes of each example.

    Shapes: x [..., *normalized_shape], weight and bias of normalized_shape. x_bar = (d - mean(d) - xhat mean(d xhat)) / s with
    d = weight y_bar, xhat the normalized x and s = sqrt(var + eps).
    Raises: ShapeError, DtypeError. Source: Ba, Kiros and Hinton, arXiv 1607.06450.

    >>> LayerNorm(2)(np.array([[1.0, 3.0], [5.0, 5.0]], np.float32)).round(3)
    array([[-1.,  1.],
           [ 0.,  0.]], dtype=float32)
    """

    weight: np.ndarray | None
    bias: np.ndarray | None
    normalized_shape: tuple
    eps: float

    def __init__(self, normalized_shape: int | Sequence[int], eps: float = 1e-5, elementwise_affine: bool = True, bias: bool = True, *,
                 dtype: Any = np.float32) -> None:
        shape = _sizes("LayerNorm", normalized_shape)
        _not_negative("LayerNorm", eps=eps)
        self._place(weight=np.ones(shape, dtype) if elementwise_affine else None,
                    bias=np.zeros(shape, dtype) if elementwise_affine and bias else None, normalized_shape=shape, eps=eps)

    def __call__(self, x: Any) -> Any:
        axes = _trailing("LayerNorm", x, self.normalized_shape)
        return _affine(_standardizer(axes, self.eps)(x), self.weight, self.bias)


class GroupNorm(Module):
    """As LayerNorm over the channels of each of num_groups groups and all of space; weight and bias are per channel.

    Shapes: x [batch, channels, *space], weight and bias [channels]. One group is layer normalization of the map, as many groups as
    channels instance normalization. Raises: ConfigError, ShapeError, DtypeError. Source: Wu and He, arXiv 1803.08494.

    >>> GroupNorm(2, 4)(np.ones((3, 4, 5, 5), np.float32)).shape
    (3, 4, 5, 5)
    """

    weight: np.ndarray | None
    bias: np.ndarray | None
    num_groups: int
    num_channels: int
    eps: float

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True, *, dtype: Any = np.float32) -> None:
        sizes("GroupNorm", num_channels=num_channels)
        _not_negative("GroupNorm", eps=eps)
        if num_groups < 1 or num_channels % num_groups:
            raise ConfigError(explain(f"GroupNorm: {num_channels} channels do not divide into {num_groups} groups.",
                                      remedy="Choose a number of groups that divides the number of channels."))
        self._place(weight=np.ones(num_channels, dtype) if affine else None, bias=np.zeros(num_channels, dtype) if affine else None,
                    num_groups=num_groups, num_channels=num_channels, eps=eps)

    def __call__(self, x: Any) -> Any:
        _checked("GroupNorm", x, (np.ndim(x) if np.ndim(x) > 1 else 2,), self.num_channels, "Channels are axis 1.")
        rows = _channels_last(x)
        batch, *space, channels = np.shape(rows)
        grouped = rows.reshape(batch, math.prod(space), self.num_groups, channels // self.num_groups)
        y = _standardizer((1, 3), self.eps)(grouped).reshape(batch, *space, channels)
        return _channels_first(_affine(y, self.weight, self.bias))


class RMSNorm(Module):
    """y = weight x / sqrt(mean(x^2) + eps) over the last axes; eps None: the spacing of numbers at 1, as in PyTorch.

    Shapes: x [..., *normalized_shape], weight of normalized_shape. Raises: ShapeError, DtypeError.
    Source: Zhang and Sennrich, arXiv 1910.07467, equation 4.

    >>> RMSNorm(2, eps=0.0)(np.array([[3.0, 4.0]], np.float32)) * np.float32(np.sqrt(12.5))
    array([[3., 4.]], dtype=float32)
    """

    weight: np.ndarray | None
    normalized_shape: tuple
    eps: float | None

    def __init__(self, normalized_shape: int | Sequence[int], eps: float | None = None, elementwise_affine: bool = True, *,
                 dtype: Any = np.float32) -> None:
        shape = _sizes("RMSNorm", normalized_shape)
        _not_negative("RMSNorm", eps=0.0 if eps is None else eps)
        self._place(weight=np.ones(shape, dtype) if elementwise_affine else None, normalized_shape=shape, eps=eps)

    def __call__(self, x: Any) -> Any:
        axes = _trailing("RMSNorm", x, self.normalized_shape)
        eps = float(np.finfo(aval_of(x).dtype).eps) if self.eps is None else self.eps
        return _affine(x * (1.0 / np.sqrt(np.mean(np.square(x), axis=axes, keepdims=True) + eps)), self.weight, None)


class LocalResponseNorm(Module):
    """y_c = x_c / (k + alpha / size sum x_i^2)^beta, the sum over the `size` channels around c (as many below, the odd one below too).

    Shapes: x [batch, channels, *space]; channels beyond the ends count as 0. The paper's alpha is this one's alpha / size, as in PyTorch.
    The sum is a product with a banded matrix of ones over the channels, which lie last in memory.
    Raises: ConfigError, ShapeError, DtypeError. Source: Krizhevsky, Sutskever and Hinton, NIPS 2012, section 3.3.

    >>> LocalResponseNorm(1, alpha=3.0, beta=0.5)(np.array([[1.0]]))
    array([[0.5]])
    """

    size: int
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1.0

    def __call__(self, x: Any) -> Any:
        aval = aval_of(x)
        if self.size < 1:
            raise ConfigError(explain(f"LocalResponseNorm: size is {self.size}, expected at least 1.", remedy="The paper has 5."))
        _checked("LocalResponseNorm", x, (max(2, aval.ndim),), aval.shape[1] if aval.ndim > 1 else 0, "Channels are axis 1.")
        rows = _channels_last(x)
        distance = np.subtract.outer(np.arange(aval.shape[1]), np.arange(aval.shape[1]))          # summed channel - c
        band = ((distance >= -(self.size // 2)) & (distance <= (self.size - 1) // 2)).astype(aval.dtype)
        base = np.square(rows) @ band * (self.alpha / self.size) + self.k
        return _channels_first(rows * _inverse_power(base, self.beta))


def _inverse_power(x: Any, beta: float) -> Any:
    """x^-beta for x > 0; three quarters by square roots, which are exact to the last bit or so."""
    if beta == 0.75:
        root = np.sqrt(x)
        return 1.0 / (root * np.sqrt(root))
    return 1.0 / np.sqrt(x) if beta == 0.5 else np.exp(-beta * np.log(x))
