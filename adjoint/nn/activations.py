"""Activations: functions of each element, with their range, their saturation and the derivative at their kinks written down.

Invariant: each keeps the dtype of its argument. May import: L0-L3. Read next: layers.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..primitives.piecewise import relu as _relu
from ..primitives.special import erf as _erf
from ..primitives.special import logistic as _logistic
from ..primitives.special import softplus as _softplus


def relu(x: Any) -> Any:
    """max(x, 0), range [0, inf): derivative 1 for x > 0, else 0, also at 0. A unit that is never positive is dead.

    >>> relu(np.array([-1.0, 0.0, 2.0]))
    array([0., 0., 2.])
    """
    return _relu(x)


def leaky_relu(x: Any, slope: float = 0.01) -> Any:
    """x for x > 0, else slope x: no dead units; derivative `slope` at 0.

    >>> leaky_relu(np.array([-1.0, 0.0, 2.0]))
    array([-0.01,  0.  ,  2.  ])
    """
    return np.where(x > 0, x, slope * x)


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


def softplus(x: Any) -> Any:
    """log(1 + e^x) without overflow, range (0, inf): a smooth ReLU; derivative sigmoid(x).

    >>> softplus(np.array([-1000.0, 0.0, 1000.0])).round(4)
    array([0.000e+00, 6.931e-01, 1.000e+03])
    """
    return _softplus(x)


def silu(x: Any) -> Any:
    """x sigmoid(x) (swish). Source: Elfwing et al., arXiv 1702.03118.

    >>> silu(np.array([-1.0, 0.0, 1.0])).round(4)
    array([-0.2689,  0.    ,  0.7311])
    """
    return x * _logistic(x)


def gelu(x: Any) -> Any:
    """x Phi(x), Phi the normal distribution function (exact form, by erf). Source: Hendrycks and Gimpel, arXiv 1606.08415.

    >>> gelu(np.array([-1.0, 0.0, 1.0])).round(4)
    array([-0.1587,  0.    ,  0.8413])
    """
    return x * (0.5 * (1.0 + _erf(x * 0.7071067811865476)))


def softmax(x: Any, axis: int = -1) -> Any:
    """e^x / sum e^x along an axis, without overflow (shifted by the maximum).

    >>> softmax(np.array([1000.0, 1000.0 + np.log(3.0)])).round(4)
    array([0.25, 0.75])
    """
    from_top = np.exp(x - np.max(x, axis=axis, keepdims=True))
    return from_top / np.sum(from_top, axis=axis, keepdims=True)
