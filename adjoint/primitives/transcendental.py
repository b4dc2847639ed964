"""Exponentials, logarithms, trigonometry: partials taken from the output where that avoids overflow.

Invariant: every lowering is vector math of at most 1 ulp, or a libm call of at most 2 (`bound`). May import: L0, core, kinds, arithmetic.
Read next: comparison.py.
"""

from __future__ import annotations

import numpy as np

from .arithmetic import divide, multiply, negative, subtract
from .kinds import elementwise


@elementwise(partials=(lambda y, x: y,), lower=lambda e, x: e.call("exp", x), floating=True)
def exp(x):
    """Exponential: y = e^x, dy/dx = y."""
    return np.exp(x)


@elementwise(partials=(lambda y, x: divide(1.0, x),), lower=lambda e, x: e.call("log", x), domain=(0.5, 3.0), floating=True)
def log(x):
    """Natural logarithm: y = ln x, dy/dx = 1/x."""
    return np.log(x)


@elementwise(partials=(lambda y, x: subtract(1.0, multiply(y, y)),), lower=lambda e, x: e.call("tanh", x), floating=True)
def tanh(x):
    """Hyperbolic tangent: y = tanh x, dy/dx = 1 - y^2 (taken from y: no overflow)."""
    return np.tanh(x)


@elementwise(partials=(lambda y, x: cos(x),), lower=lambda e, x: e.call("sin", x), floating=True)
def sin(x):
    """Sine: y = sin x, dy/dx = cos x."""
    return np.sin(x)


@elementwise(partials=(lambda y, x: negative(sin(x)),), lower=lambda e, x: e.call("cos", x), floating=True)
def cos(x):
    """Cosine: y = cos x, dy/dx = -sin x."""
    return np.cos(x)


