"""Reductions: many elements to one, in an order that only the extent and the dtype decide (see compiler/loops.py, Fold).

Invariant: ties of max and min share the gradient equally, a subgradient. May import: L0, core, kinds.
Read next: contraction.py.
"""

from __future__ import annotations

import numpy as np

from ..core.aval import Aval, aval_of
from ..core.primitive import bind
from .kinds import Reduce, linear, move_front, reduction_samples, spread


@linear(shape=lambda x, *, axes: Aval(tuple(n for i, n in enumerate(x.shape) if i not in axes), x.dtype),
        transposes=(lambda y_bar, x, *, axes: spread(y_bar, x, axes),),
        batch=lambda row, args, bdims, *, axes: (bind(row, move_front(args[0], bdims[0]), axes=tuple(a + 1 for a in axes)), 0),
        lowering=Reduce("add"), samples=lambda rng: reduction_samples(rng, (-2.0, 2.0), True), bound=1.0)
def sum_(x, *, axes):
    """Sum over `axes` (sorted, non-negative), which vanish; the dtype stays."""
    return np.sum(x, axis=axes, dtype=aval_of(x).dtype)
