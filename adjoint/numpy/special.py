"""The functions of adjoint.numpy that NumPy has not: logsumexp, softmax, erf, logistic, softplus, relu. Loaded at first use.

Invariant: nothing overflows that need not. May import: L0-L2, registry, reductions, transforms/custom. Read next: docs/numpy.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..core.aval import aval_of
from ..core.primitive import TABLE
from ..primitives.arithmetic import where as where_row
from ..transforms.custom import stop_gradient
from .reductions import reduced
from .registry import axes_of, floating, reshaped, strong, value_of


def logsumexp(a: Any, axis: Any = None, keepdims: bool = False) -> Any:
    """log(sum(exp(a))) without overflow; its derivative is the softmax.

    >>> import numpy as np
    >>> float(logsumexp(np.array([1000.0, 1000.0])))
    1000.6931471805599
    """
    a = floating(a)
    shape, axes = aval_of(a).shape, tuple(sorted(axes_of(axis, aval_of(a).ndim)))
    top = _finite_top(a, axes)
    y = TABLE["log"](reduced("sum", TABLE["exp"](a - top), axes, True)) + top
    return y if keepdims else reshaped(y, tuple(n for i, n in enumerate(shape) if i not in axes))


def _finite_top(a: Any, axes: tuple) -> Any:
    """The largest element, as a number without derivative (any shift gives the same value); 0 where it is infinite."""
    top = reduced("max", stop_gradient(a), axes, True)
    return where_row(TABLE["isfinite"](top), top, 0.0)


def softmax(x: Any, axis: Any = -1) -> Any:
    """exp(x) / sum(exp(x)) along an axis, without overflow.

    >>> import numpy as np
    >>> softmax(np.array([0.0, 0.0])).tolist()
    [0.5, 0.5]
    """
    x = floating(x)
    axes = tuple(sorted(axes_of(axis, aval_of(x).ndim)))
    e = TABLE["exp"](x - _finite_top(x, axes))
    return e / reduced("sum", e, axes, True)


def log_softmax(x: Any, axis: Any = -1) -> Any:
    """x - logsumexp(x) along an axis."""
    x = floating(x)
    return x - logsumexp(x, axis, True)


def _row(name: str, doc: str) -> Callable:
    def function(x: Any) -> Any:
        return TABLE[name](floating(x))
    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return function


erf = _row("erf", "Error function: 2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x.")
erfc = _row("erfc", "1 - erf(x), exact for large x.")
logistic = _row("logistic", "1 / (1 + exp(-x)), without overflow.")
softplus = _row("softplus", "log(1 + exp(x)), without overflow.")
expit = logistic


def relu(x: Any) -> Any:
    """max(x, 0), with derivative 0 at 0."""
    return TABLE["relu"](strong(value_of(x)))
