"""Layers: Linear and the ways to compose; names, arguments and parameter names follow PyTorch.

Invariant: a layer is a value: calling it changes nothing. May import: L0-L3, module, init. Read next: losses.py.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import ConfigError, ShapeError, explain
from . import init
from .module import Module, inline


def sizes(layer: str, **given: Any) -> None:
    """Refuse sizes that are no whole numbers of at least 1: each is named as the layer's argument.

    >>> sizes("Linear", in_features=3)
    """
    for name, value in given.items():
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
            raise ConfigError(explain(f"{layer}: {name} is {value!r:.40}, expected a whole number of at least 1.",
                                      remedy="Sizes count features, channels or elements of a window."))


class Linear(Module):
    """Affine map y = x W^T + b.

    Shapes: x [..., in_features], weight [out_features, in_features] as PyTorch's, bias [out_features], y [..., out_features].
    weight_init(shape, rng, dtype=) draws the weight (default: PyTorch's U(-1/sqrt(in), 1/sqrt(in))); the bias is drawn from the same
    bounds as PyTorch does. Cost: 2 * batch * in * out flops.

    Example:
        >>> layer = Linear(2, 3, rng=np.random.default_rng(0))
        >>> layer(np.ones((5, 2), np.float32)).shape
        (5, 3)
    """

    weight: np.ndarray
    bias: np.ndarray | None

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *, rng: np.random.Generator,
                 weight_init: Callable = init.torch_linear, dtype: Any = np.float32) -> None:
        sizes("Linear", in_features=in_features, out_features=out_features)
        weight = weight_init((out_features, in_features), rng, dtype=dtype)
        bound = 1.0 / math.sqrt(max(in_features, 1))
        self._place(weight=weight, bias=init.generator(rng).uniform(-bound, bound, out_features).astype(dtype) if bias else None)

    def __call__(self, x: Any) -> Any:
        if np.shape(x)[-1:] != self.weight.shape[1:]:
            raise ShapeError(explain(f"Linear: the input has shape {np.shape(x)}, its last axis must have {self.weight.shape[1]} features.",
                                     remedy="Check the order of the layers, or flatten the input first."))
        y = x @ self.weight.T
        return y if self.bias is None else y + self.bias


class Sequential(Module):
    """Layers in a row: y = f_n(... f_1(x)); each is a Module or any function of one array.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> model = Sequential(Linear(2, 4, rng=rng), np.tanh, Linear(4, 3, rng=rng))
        >>> model(np.ones((5, 2), np.float32)).shape
        (5, 3)
    """

    layers: tuple = inline()

    def __init__(self, *layers: Callable) -> None:
        if not all(map(callable, layers)):
            raise ConfigError(explain(f"Sequential: {next(x for x in layers if not callable(x))!r:.60} is no layer.",
                                      remedy="Give the layers one by one, Modules or functions: Sequential(*layers)."))
        self._place(layers=layers)

    def __call__(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
        return x

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, i: int) -> Callable:
        return self.layers[i]


class Flatten(Module):
    """All axes but the first become one: [batch, ...] -> [batch, features].

    >>> Flatten()(np.ones((2, 3, 4))).shape
    (2, 12)
    """

    def __call__(self, x: Any) -> Any:
        return x.reshape(x.shape[0], -1)


def mlp(*features: int, activation: Callable, rng: np.random.Generator, weight_init: Callable = init.torch_linear,
        dtype: Any = np.float32) -> Sequential:
    """A multilayer perceptron: Linear layers of these sizes with the activation between them.

    >>> from adjoint.nn import relu
    >>> mlp(2, 4, 3, activation=relu, rng=np.random.default_rng(0))(np.ones((5, 2), np.float32)).shape
    (5, 3)
    """
    if len(features) < 2:
        raise ConfigError(explain(f"mlp: features are {features}, expected at least two sizes: inputs and outputs.",
                                  remedy="For instance mlp(784, 512, 10, activation=nn.relu, rng=rng)."))
    layers: list[Callable] = []
    for inner, outer in itertools.pairwise(features):
        layers += [Linear(inner, outer, rng=rng, weight_init=weight_init, dtype=dtype), activation]
    return Sequential(*layers[:-1])
