"""Activations: functions of each element, with their range, their saturation and the derivative at their kinks written down.

Invariant: each keeps the dtype of its argument; none but PReLU has parameters. The layers call the functions, under PyTorch's names.
May import: L0-L3, module. Read next: layers.py.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..core.aval import aval_of
from ..errors import ConfigError, ShapeError, explain
from ..primitives.piecewise import relu as _relu
from ..primitives.special import erf as _erf
from ..primitives.special import logistic as _logistic
from ..primitives.special import softplus as _softplus
from ..transforms.custom import custom_vjp, stop_gradient
from .layers import sizes
from .module import Module


def relu(x: Any) -> Any:
    """max(x, 0), range [0, inf): derivative 1 for x > 0, else 0, also at 0. A unit that is never positive is dead.

    >>> relu(np.array([-1.0, 0.0, 2.0]))
    array([0., 0., 2.])
    """
    return _relu(x)


def leaky_relu(x: Any, slope: float = 0.01) -> Any:
    """x for x > 0, else slope x, range (-inf, inf): no dead units; derivative `slope` at 0.

    >>> leaky_relu(np.array([-1.0, 0.0, 2.0]))
    array([-0.01,  0.  ,  2.  ])
    """
    return np.where(x > 0, x, slope * x)


def prelu(x: Any, weight: Any) -> Any:
    """Leaky ReLU with learned slopes: x for x > 0, else weight x; at 0 the derivative is weight in x and 0 in weight.

    Shapes: x [batch, channels, ...], weight [channels], or [1] for one slope of any x. Raises: ShapeError.
    Source: He, Zhang, Ren and Sun, ICCV 2015, arXiv 1502.01852, equation 1.

    >>> prelu(np.array([[-1.0, 2.0, -3.0]]), np.array([0.5, 0.5, 0.1]))
    array([[-0.5,  2. , -0.3]])
    """
    count = np.shape(weight)[0] if np.ndim(weight) == 1 else 0
    if not count or (count > 1 and (np.ndim(x) < 2 or np.shape(x)[1] != count)):
        raise ShapeError(explain(f"prelu: slopes {np.shape(weight)} for an input {aval_of(x)}: expected one slope, or one per channel.",
                                 remedy="Channels are axis 1: PReLU(num_parameters=x.shape[1])."))
    slope = weight if count == 1 else np.reshape(weight, (count,) + (1,) * (np.ndim(x) - 2))
    return np.where(x > 0, x, slope * x)


def elu(x: Any, alpha: float = 1.0) -> Any:
    """x for x > 0, else alpha (e^x - 1), range (-alpha, inf), saturates on the left; derivative alpha e^x for x <= 0, so alpha at 0.

    Source: Clevert, Unterthiner and Hochreiter, arXiv 1511.07289.

    >>> elu(np.array([-1000.0, 0.0, 1000.0]))
    array([  -1.,    0., 1000.])
    """
    return np.where(x > 0, x, alpha * np.expm1(np.where(x > 0, 0.0, x)))


def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x), range (0, 1), saturates at both ends: derivative y (1 - y), at most 1/4.

    >>> sigmoid(np.array([-1000.0, 0.0, np.log(3.0)]))
    array([0.  , 0.5 , 0.75])
    """
    return _logistic(x)


def tanh(x: Any) -> Any:
    """Hyperbolic tangent, range (-1, 1), centred, saturates at both ends: derivative 1 - y^2.

    >>> tanh(np.array([-1.0, 0.0, 1.0])).round(4)
    array([-0.7616,  0.    ,  0.7616])
    """
    return np.tanh(x)


def softplus(x: Any, beta: float = 1.0, threshold: float | None = None) -> Any:
    """log(1 + e^(beta x)) / beta without overflow, range (0, inf): a smooth ReLU; derivative sigmoid(beta x).

    threshold: above beta x = threshold the value is x, as PyTorch has it (there at 20, which is 2e-9 off); None: exact everywhere.

    >>> softplus(np.array([-1000.0, 0.0, 1000.0])).round(4)
    array([0.000e+00, 6.931e-01, 1.000e+03])
    """
    if isinstance(beta, (int, float)) and not beta > 0:
        raise ConfigError(explain(f"softplus: beta is {beta!r}, expected a number above 0.", remedy="1 is usual."))
    y = _softplus(x) if isinstance(beta, float) and beta == 1.0 else _softplus(beta * x) / beta
    return y if threshold is None else np.where(beta * x > threshold, x, y)


def silu(x: Any) -> Any:
    """x sigmoid(x) (swish), range [-0.279, inf). Source: Elfwing et al., arXiv 1702.03118.

    >>> silu(np.array([-1.0, 0.0, 1.0])).round(4)
    array([-0.2689,  0.    ,  0.7311])
    """
    return x * _logistic(x)


def _gelu(x: Any) -> tuple[Any, tuple]:
    below = 0.5 + 0.5 * _erf(x * math.sqrt(0.5))
    return x * below, (x, below)


def _gelu_slope(residuals: tuple, y_bar: Any) -> tuple:
    """y_bar (Phi(x) + x phi(x)): of what the way there has computed, x and Phi(x) are kept, no more."""
    x, below = residuals
    return (y_bar * (below + x * (np.exp(x * x * -0.5) * math.sqrt(0.5 / math.pi))),)


_GELU = custom_vjp(lambda x: _gelu(x)[0], _gelu, _gelu_slope)


def gelu(x: Any, approximate: str = "none") -> Any:
    """x Phi(x), Phi the normal distribution function, range [-0.17, inf); "tanh": x / 2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).

    Raises: ConfigError for another approximation. Source: Hendrycks and Gimpel, arXiv 1606.08415.

    >>> gelu(np.array([-1.0, 0.0, 1.0])).round(4)
    array([-0.1587,  0.    ,  0.8413])
    """
    if approximate == "tanh":
        return x * (0.5 * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * (x * x * x)))))
    if approximate != "none":
        raise ConfigError(explain(f"gelu: approximate is {approximate!r}, expected 'none' (by erf) or 'tanh'.",
                                  remedy="The exact form is the default."))
    return _GELU(x)


def softmax(x: Any, axis: int = -1) -> Any:
    """e^x / sum e^x along an axis, without overflow (shifted by the maximum): x_bar = y (y_bar - sum y y_bar).

    >>> softmax(np.array([1000.0, 1000.0 + np.log(3.0)])).round(4)
    array([0.25, 0.75])
    """
    if not -np.ndim(x) <= axis < np.ndim(x) or not np.shape(x)[axis]:
        raise ShapeError(explain(f"softmax: axis {axis} of {aval_of(x)}, expected one of its axes, which is not empty.",
                                 remedy="Classes are the last axis: axis=-1."))
    from_top = np.exp(x - stop_gradient(np.max(x, axis=axis, keepdims=True)))
    return from_top / np.sum(from_top, axis=axis, keepdims=True)


def log_softmax(x: Any, axis: int = -1) -> Any:
    """x - log sum e^x along an axis, without overflow: x_bar = y_bar - e^y sum y_bar.

    >>> log_softmax(np.array([1000.0, 1000.0 + np.log(3.0)])).round(4)
    array([-1.3863, -0.2877])
    """
    if not -np.ndim(x) <= axis < np.ndim(x) or not np.shape(x)[axis]:
        raise ShapeError(explain(f"log_softmax: axis {axis} of {aval_of(x)}, expected one of its axes, which is not empty.",
                                 remedy="Classes are the last axis: axis=-1."))
    z = x - stop_gradient(np.max(x, axis=axis, keepdims=True))
    return z - np.log(np.sum(np.exp(z), axis=axis, keepdims=True))


# ------------------------------------------------------------------------------------------------ layers


class ReLU(Module):
    """`relu` as a layer.

    >>> ReLU()(np.array([-1.0, 2.0]))
    array([0., 2.])
    """

    def __call__(self, x: Any) -> Any:
        return relu(x)


class LeakyReLU(Module):
    """`leaky_relu` as a layer.

    >>> LeakyReLU(0.5)(np.array([-1.0, 2.0]))
    array([-0.5,  2. ])
    """

    negative_slope: float = 0.01

    def __call__(self, x: Any) -> Any:
        return leaky_relu(x, self.negative_slope)


class PReLU(Module):
    """`prelu` with its slopes: weight [num_parameters], 1 or the number of channels, all `init` at first.

    >>> PReLU(2, init=0.5)(np.array([[-1.0, 2.0]], np.float32))
    array([[-0.5,  2. ]], dtype=float32)
    """

    weight: np.ndarray

    def __init__(self, num_parameters: int = 1, init: float = 0.25, *, dtype: Any = np.float32) -> None:
        sizes("PReLU", num_parameters=num_parameters)
        self._place(weight=np.full((num_parameters,), init, dtype))

    def __call__(self, x: Any) -> Any:
        return prelu(x, self.weight)


class ELU(Module):
    """`elu` as a layer.

    >>> ELU(2.0)(np.array([-1000.0, 3.0]))
    array([-2.,  3.])
    """

    alpha: float = 1.0

    def __call__(self, x: Any) -> Any:
        return elu(x, self.alpha)


class Sigmoid(Module):
    """`sigmoid` as a layer.

    >>> Sigmoid()(np.array([0.0]))
    array([0.5])
    """

    def __call__(self, x: Any) -> Any:
        return sigmoid(x)


class Tanh(Module):
    """`tanh` as a layer.

    >>> Tanh()(np.array([0.0]))
    array([0.])
    """

    def __call__(self, x: Any) -> Any:
        return tanh(x)


class Softplus(Module):
    """`softplus` as a layer, with PyTorch's threshold.

    >>> Softplus(beta=2.0)(np.array([0.0, 30.0])).round(4)
    array([ 0.3466, 30.    ])
    """

    beta: float = 1.0
    threshold: float = 20.0

    def __call__(self, x: Any) -> Any:
        return softplus(x, self.beta, self.threshold)


class SiLU(Module):
    """`silu` as a layer.

    >>> SiLU()(np.array([0.0]))
    array([0.])
    """

    def __call__(self, x: Any) -> Any:
        return silu(x)


class GELU(Module):
    """`gelu` as a layer; approximate: "none" or "tanh".

    >>> GELU("tanh")(np.array([1.0])).round(4)
    array([0.8412])
    """

    approximate: str = "none"

    def __call__(self, x: Any) -> Any:
        return gelu(x, self.approximate)


class Softmax(Module):
    """`softmax` along axis `dim` as a layer.

    >>> Softmax(dim=1)(np.zeros((1, 4)))
    array([[0.25, 0.25, 0.25, 0.25]])
    """

    dim: int = -1

    def __call__(self, x: Any) -> Any:
        return softmax(x, self.dim)


class LogSoftmax(Module):
    """`log_softmax` along axis `dim` as a layer.

    >>> LogSoftmax(dim=1)(np.zeros((1, 2))).round(4)
    array([[-0.6931, -0.6931]])
    """

    dim: int = -1

    def __call__(self, x: Any) -> Any:
        return log_softmax(x, self.dim)
