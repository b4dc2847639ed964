"""Convolutions and transposed convolutions in one and two dimensions, in PyTorch's layout, with its names and initial values.

Invariant: both are one row, `convolve`, between views: [batch, channels, *space] outside, channels last inside.
May import: L0-L3, module, init. Read next: pooling.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..core.primitive import bind
from ..errors import ConfigError, ShapeError, explain
from ..primitives.convolution import convolve, out_size, reach
from ..primitives.structure import permute, reshape, slice_
from . import init
from .layers import sizes
from .module import Module

Sizes = tuple[int, ...]


def _each(value: Any, rank: int, name: str, least: int, where: str) -> Sizes:
    """One integer of at least `least` per axis of space."""
    found = tuple(value) if isinstance(value, (tuple, list)) else (value,) * rank
    if len(found) != rank or any(isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < least for n in found):
        raise ConfigError(explain(f"{where}: {name} is {value!r:.80}, expected an integer of at least {least}, or {rank} of them.",
                                  remedy=f"One number serves all axes: {name}={max(least, 1)}."))
    return tuple(map(int, found))


def _paddings(padding: Any, windows: Sizes, stride: Sizes, dilation: Sizes, where: str) -> tuple[tuple[int, int], ...]:
    """(low, high) per axis of space: of numbers, "valid" or "same"."""
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise ConfigError(explain(f"{where}: padding is {padding!r}, expected 'same', 'valid' or numbers.",
                                      remedy="padding='same' keeps the size of the input."))
        if padding == "same" and any(s != 1 for s in stride):
            raise ConfigError(explain(f"{where}: padding='same' with stride {stride}: the size would not stay.",
                                      remedy="Give the padding as numbers when the stride is not 1."))
        total = [reach(k, d) - 1 if padding == "same" else 0 for k, d in zip(windows, dilation, strict=True)]
        return tuple((n // 2, n - n // 2) for n in total)                      # the odd one at the end, as PyTorch's
    return tuple((n, n) for n in _each(padding, len(windows), "padding", 0, where))


def _check(x: Any, weight: Any, bias: Any, groups: int, inner: int, outer: int, where: str) -> int:
    """The number of axes of space, after all shapes have been compared."""
    rank = np.ndim(weight) - 2
    if rank not in (1, 2):
        raise ShapeError(explain(f"{where}: weight {np.shape(weight)} has {np.ndim(weight)} axes, expected 3 (1-d) or 4 (2-d).",
                                 remedy="weight is [out, in / groups, *window]; transposed [in, out / groups, *window]."))
    if np.ndim(x) != rank + 2:
        raise ShapeError(explain(f"{where}: the input {np.shape(x)} has {np.ndim(x)} axes, expected {rank + 2}: [batch, channels, "
                                 f"{rank} of space].", remedy="Add the missing axis: x[None] is one example, x[:, None] one channel."))
    if isinstance(groups, bool) or not isinstance(groups, (int, np.integer)) or groups < 1 or inner % groups or outer % groups:
        raise ConfigError(explain(f"{where}: groups is {groups!r}, it must divide {inner} channels in and {outer} out.",
                                  remedy="groups=1 joins all channels, groups=channels treats each alone."))
    if np.shape(x)[1] != inner:
        raise ShapeError(explain(f"{where}: the input {np.shape(x)} has {np.shape(x)[1]} channels, the weight {np.shape(weight)} with "
                                 f"groups={groups} takes {inner}.", remedy="x is [batch, channels, *space]: check the order of its axes."))
    if bias is not None and np.shape(bias) != (outer,):
        raise ShapeError(explain(f"{where}: bias {np.shape(bias)}, expected ({outer},).", remedy="One number per channel of the result."))
    return rank


def _channels_last(x: Any, groups: int) -> Any:
    """[batch, channels, *space] -> [batch, *space, groups, channels / groups]."""
    moved = bind(permute, x, axes=(0, *range(2, np.ndim(x)), 1))
    shape = np.shape(moved)
    return bind(reshape, moved, shape=(*shape[:-1], groups, shape[-1] // groups))


def _channels_second(y: Any, bias: Any) -> Any:
    """[batch, *space, groups, out / groups] -> [batch, channels, *space], plus the bias."""
    shape = np.shape(y)
    joined = bind(reshape, y, shape=(*shape[:-2], shape[-2] * shape[-1]))
    y = bind(permute, joined, axes=(0, len(shape) - 2, *range(1, len(shape) - 2)))
    return y if bias is None else y + bind(reshape, bias, shape=(np.shape(bias)[0], *(1,) * (len(shape) - 3)))


def _windows(weight: Any, groups: int, axes: str) -> Any:
    """weight as [*window, groups, in, out]. axes: "oi" where it is [out, in, *window], "io" where it is [in, out, *window]."""
    first, second, *window = np.shape(weight)
    parted = bind(reshape, weight, shape=(groups, first // groups, second, *window))
    space = tuple(range(3, 3 + len(window)))
    return bind(permute, parted, axes=(*space, 0, 2, 1) if axes == "oi" else (*space, 0, 1, 2))


def conv(x: Any, weight: Any, bias: Any = None, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1) -> Any:
    """Convolution: y[b, c, o] = bias[c] + sum over i, t of z[b, i, o stride + t dilation] weight[c, i, t], z being x padded with zeros.

    Shapes: x [batch, in, *space], weight [out, in / groups, *window], bias [out], y [batch, out, *places] with
    places = (space + 2 padding - dilation (window - 1) - 1) // stride + 1; one or two axes of space, by weight's.
    stride, padding, dilation: a number, or one per axis; padding also "valid" (0) or "same" (places = space; stride 1).
    groups: channel c sees only the inputs of its own group; groups = in is a depthwise convolution.
    Derivative: linear in x and in weight; exact of every order. Cost: 2 batch out places (in / groups) window flops.
    Raises: ShapeError for axes and sizes that do not fit, ConfigError for an option outside its range.
    Source: PyTorch's conv1d and conv2d; LeCun, Bottou, Bengio and Haffner, Proceedings of the IEEE 86(11), 1998, section II.A.

    >>> conv(np.array([[[1.0, 2.0, 4.0, 8.0]]]), np.array([[[1.0, -1.0]]]), np.array([0.5]))
    array([[[-0.5, -1.5, -3.5]]])
    """
    outer, inner = np.shape(weight)[0] if np.ndim(weight) else 0, np.shape(weight)[1] * groups if np.ndim(weight) > 1 else 0
    rank = _check(x, weight, bias, groups, inner, outer, "conv")
    stride, dilation = _each(stride, rank, "stride", 1, "conv"), _each(dilation, rank, "dilation", 1, "conv")
    windows = np.shape(weight)[2:]
    pairs = _paddings(padding, windows, stride, dilation, "conv")
    for n, k, d, (low, high) in zip(np.shape(x)[2:], windows, dilation, pairs, strict=True):
        if n + low + high < reach(k, d):
            raise ShapeError(explain(f"conv: a window that covers {reach(k, d)} places does not fit into {n} padded to {n + low + high}.",
                                     remedy="Use a smaller window or dilation, or more padding."))
    y = bind(convolve, _channels_last(x, groups), _windows(weight, groups, "oi"), stride=stride, padding=pairs, dilation=dilation,
             spread=(1,) * rank)
    return _channels_second(y, bias)


def conv_transpose(x: Any, weight: Any, bias: Any = None, *, stride: Any = 1, padding: Any = 0, output_padding: Any = 0, groups: int = 1,
                   dilation: Any = 1) -> Any:
    """Transposed convolution: the transpose of `conv` with this weight as a linear map, plus a bias.

    Shapes: x [batch, in, *space], weight [in, out / groups, *window], bias [out], y [batch, out, *places] with
    places = (space - 1) stride - 2 padding + dilation (window - 1) + output_padding + 1.
    output_padding (below stride or dilation) says which of the sizes that `conv` maps to `space` is meant.
    Derivative: linear in x and in weight; exact of every order. Raises: as conv.
    Source: PyTorch's conv_transpose1d and conv_transpose2d; Dumoulin and Visin, arXiv 1603.07285, chapter 4.

    >>> conv_transpose(np.array([[[1.0, 2.0]]]), np.array([[[1.0, 10.0, 100.0]]]), stride=2)
    array([[[  1.,  10., 102.,  20., 200.]]])
    """
    where = "conv_transpose"
    inner, outer = np.shape(weight)[0] if np.ndim(weight) else 0, np.shape(weight)[1] * groups if np.ndim(weight) > 1 else 0
    rank = _check(x, weight, bias, groups, inner, outer, where)
    stride, dilation = _each(stride, rank, "stride", 1, where), _each(dilation, rank, "dilation", 1, where)
    padding, extra = _each(padding, rank, "padding", 0, where), _each(output_padding, rank, "output_padding", 0, where)
    if any(e >= max(s, d) for e, s, d in zip(extra, stride, dilation, strict=True)):
        raise ConfigError(explain(f"{where}: output_padding {extra} must be smaller than stride {stride} or dilation {dilation}.",
                                  remedy="It only chooses among the sizes that a convolution with this stride maps to one."))
    windows = np.shape(weight)[2:]
    pairs = tuple((reach(k, d) - 1 - p, reach(k, d) - 1 - p + e) for k, d, p, e in zip(windows, dilation, padding, extra, strict=True))
    for n, k, s, pair, d in zip(np.shape(x)[2:], windows, stride, pairs, dilation, strict=True):
        if out_size(n, k, 1, pair, d, s) < 1:
            raise ShapeError(explain(f"{where}: with padding {padding} nothing is left of an axis of {n}.", remedy="Use less padding."))
    window = _windows(weight, groups, "io")
    bounds = tuple((k - 1, -1, -1) if i < rank else (0, k, 1) for i, k in enumerate(np.shape(window)))
    y = bind(convolve, _channels_last(x, groups), bind(slice_, window, bounds=bounds), stride=(1,) * rank, padding=pairs,
             dilation=dilation, spread=stride)
    return _channels_second(y, bias)


# ------------------------------------------------------------------------------------------------ layers


class _Convolution(Module):
    """What the four layers share: the weights, drawn as PyTorch draws them, and the options."""

    weight: np.ndarray
    bias: np.ndarray | None
    stride: Sizes
    padding: Any
    dilation: Sizes
    groups: int

    def _draw(self, rank: int, shape: Sizes, outer: int, kernel_size: Any, bias: bool, rng: np.random.Generator, weight_init: Callable,
              dtype: Any, **options: Any) -> None:
        """weight of `shape` (without its window) and bias; the bounds of both are 1 / sqrt(fan in) unless weight_init says otherwise."""
        name = type(self).__name__
        windows = _each(kernel_size, rank, "kernel_size", 1, name)
        weight = weight_init((*shape, *windows), rng, dtype=dtype)
        bound = 1.0 / math.sqrt(max(shape[1] * math.prod(windows), 1))
        given = {key: _each(value, rank, key, 0 if "padding" in key else 1, name) if not isinstance(value, str) else value
                 for key, value in options.items() if key != "groups"}
        _paddings(given["padding"], windows, given["stride"], given["dilation"], name)          # refuses what a call would
        drawn = init.generator(rng).uniform(-bound, bound, outer).astype(dtype) if bias else None
        self._place(weight=weight, bias=drawn, groups=options["groups"], **given)

    def _divided(self, inner: int, outer: int, groups: int) -> tuple[int, int]:
        """Channels in and out of one group."""
        sizes(type(self).__name__, in_channels=inner, out_channels=outer)
        if isinstance(groups, bool) or not isinstance(groups, (int, np.integer)) or groups < 1 or inner % groups or outer % groups:
            raise ConfigError(explain(f"{type(self).__name__}: groups is {groups!r}, "
                                      f"the groups must divide the channels, {inner} in and {outer} out.",
                                      remedy="groups=1 joins all channels."))
        return inner // groups, outer // groups


class Conv1d(_Convolution):
    """Convolution along one axis: see `conv`; weight [out_channels, in_channels / groups, window] and bias as PyTorch's Conv1d.

    >>> layer = Conv1d(2, 3, 5, padding="same", rng=np.random.default_rng(0))
    >>> layer(np.ones((4, 2, 7), np.float32)).shape
    (4, 3, 7)
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
                 groups: int = 1, bias: bool = True, *, rng: np.random.Generator, weight_init: Callable = init.torch_linear,
                 dtype: Any = np.float32) -> None:
        shape = (out_channels, self._divided(in_channels, out_channels, groups)[0])
        self._draw(1, shape, out_channels, kernel_size, bias, rng, weight_init, dtype, stride=stride, padding=padding,
                   dilation=dilation, groups=groups)

    def __call__(self, x: Any) -> Any:
        return conv(x, self.weight, self.bias, stride=self.stride, padding=self.padding, dilation=self.dilation, groups=self.groups)


class Conv2d(_Convolution):
    """Convolution over images: see `conv`; weight [out_channels, in_channels / groups, *window] and bias as PyTorch's Conv2d.

    >>> layer = Conv2d(2, 3, (3, 5), stride=2, rng=np.random.default_rng(0))
    >>> layer(np.ones((4, 2, 7, 9), np.float32)).shape
    (4, 3, 3, 3)
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
                 groups: int = 1, bias: bool = True, *, rng: np.random.Generator, weight_init: Callable = init.torch_linear,
                 dtype: Any = np.float32) -> None:
        shape = (out_channels, self._divided(in_channels, out_channels, groups)[0])
        self._draw(2, shape, out_channels, kernel_size, bias, rng, weight_init, dtype, stride=stride, padding=padding,
                   dilation=dilation, groups=groups)

    def __call__(self, x: Any) -> Any:
        return conv(x, self.weight, self.bias, stride=self.stride, padding=self.padding, dilation=self.dilation, groups=self.groups)


class ConvTranspose1d(_Convolution):
    """Transposed convolution along one axis: see `conv_transpose`; weight [in_channels, out_channels / groups, window] as PyTorch's.

    >>> layer = ConvTranspose1d(2, 3, 4, stride=2, rng=np.random.default_rng(0))
    >>> layer(np.ones((5, 2, 6), np.float32)).shape
    (5, 3, 14)
    """

    output_padding: Sizes

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1, padding: Any = 0, output_padding: Any = 0,
                 groups: int = 1, bias: bool = True, dilation: Any = 1, *, rng: np.random.Generator,
                 weight_init: Callable = init.torch_linear, dtype: Any = np.float32) -> None:
        shape = (in_channels, self._divided(in_channels, out_channels, groups)[1])
        self._draw(1, shape, out_channels, kernel_size, bias, rng, weight_init, dtype, stride=stride, padding=padding,
                   output_padding=output_padding, dilation=dilation, groups=groups)

    def __call__(self, x: Any) -> Any:
        return conv_transpose(x, self.weight, self.bias, stride=self.stride, padding=self.padding, output_padding=self.output_padding,
                              groups=self.groups, dilation=self.dilation)


class ConvTranspose2d(_Convolution):
    """Transposed convolution over images: see `conv_transpose`; weight [in_channels, out_channels / groups, *window] as PyTorch's.

    >>> layer = ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1, rng=np.random.default_rng(0))
    >>> layer(np.ones((5, 2, 4, 6), np.float32)).shape
    (5, 3, 8, 12)
    """

    output_padding: Sizes

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1, padding: Any = 0, output_padding: Any = 0,
                 groups: int = 1, bias: bool = True, dilation: Any = 1, *, rng: np.random.Generator,
                 weight_init: Callable = init.torch_linear, dtype: Any = np.float32) -> None:
        shape = (in_channels, self._divided(in_channels, out_channels, groups)[1])
        self._draw(2, shape, out_channels, kernel_size, bias, rng, weight_init, dtype, stride=stride, padding=padding,
                   output_padding=output_padding, dilation=dilation, groups=groups)

    def __call__(self, x: Any) -> Any:
        return conv_transpose(x, self.weight, self.bias, stride=self.stride, padding=self.padding, output_padding=self.output_padding,
                              groups=self.groups, dilation=self.dilation)
