"""Checkpointing: keep the arguments of a function instead of its intermediate values, and compute those again on the way back.

Invariant: values and derivatives are those of the plain function. May import: L0-L2, calls. Read next: taps.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ..core.primitive import bind
from ..primitives.kinds import Strided, linear
from ..tree import is_array, unflatten
from .calls import at_ground_level, call_row, close, numbers_of


@linear(shape=lambda x, token: x, transposes=(lambda y_bar, x, token: y_bar,), linear_in=1,
        batch=lambda row, args, axes: (bind(row, *args), axes[0]),
        lowering=Strided(lambda offset, shape, strides: (offset, shape, strides)),
        samples=lambda rng: [((rng.standard_normal((2, 3)), rng.standard_normal(4)), {})])
def after_(x, token):
    """y = x, not before `token` is known: what is computed from y shares nothing with what was computed from x."""
    return x


def _wait(primals: tuple, y_bars: list) -> list:
    return [bind(after_, x, y_bars[0]) if is_array(x) else x for x in primals]


_CHECKPOINT = call_row("checkpoint", wait=_wait, doc="A call whose intermediate values are computed again in the backward pass.")


def checkpoint(function: Callable) -> Callable:
    """The same function, for less memory: reverse mode saves its arguments only and runs it once more in the backward pass.

    Python's ints are part of the program (an axis, a count of steps); floats and arrays are traced.
    Cost: one more evaluation of the function per pullback; memory O(arguments + outputs) instead of O(operations).
    Source: Griewank and Walther, Algorithm 799: revolve, ACM TOMS 26 (2000); Chen et al., arXiv 1604.06174.

    >>> import numpy as np
    >>> from adjoint.transforms.reverse import grad
    >>> grad(checkpoint(lambda x: x * x * x))(np.float64(2.0))
    np.float64(12.0)
    """
    @functools.wraps(function)
    def call(*args: Any) -> Any:
        leaves, _, rebuild = numbers_of(args)
        if at_ground_level(*leaves):
            return function(*args)
        closed = close(lambda *cells: function(*rebuild(cells)), *leaves)
        return unflatten(closed.structure, bind(_CHECKPOINT, *closed.leaves, graph=closed.graph))
    return call
