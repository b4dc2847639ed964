"""Norms of vectors and matrices.

Invariant: the derivative of a norm at 0 is 0, a subgradient. May import: L0-L2, registry, reductions, linalg. Read next: constructors.py.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..core.aval import aval_of
from ..core.primitive import TABLE
from ..errors import ShapeError, explain
from ..primitives.arithmetic import where as where_row
from .linalg import spectral_norm
from .reductions import kept, reduced
from .registry import axes_of, convert, floating, implements, refuse, reshaped


@implements("linalg.norm")
def norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    """Norm of a vector (ord: number, inf) or of a matrix (fro, nuc, 1, 2, inf, -1, -2, -inf); its derivative at 0 is 0."""
    x = floating(x)
    shape = aval_of(x).shape
    if axis is None and (ord is None or (ord in ("f", "fro") and len(shape) == 2) or (ord == 2 and len(shape) == 1)):
        return _root_of_squares(x, tuple(range(len(shape))), keepdims)
    axes = axes_of(axis, len(shape)) if axis is not None else tuple(range(len(shape)))
    if len(axes) == 1:
        return _vector_norm(x, ord, axes, keepdims)
    if len(axes) != 2:
        raise ShapeError(explain(f"norm: a norm over {len(axes)} axes is defined for ord=None only.",
                                 remedy="Give one axis or two."))
    return _matrix_norm(x, ord, axes, keepdims)


def _root_of_squares(x: Any, axes: tuple, keepdims: Any) -> Any:
    """Square root of the sum of squares, with derivative x / |x|, and 0 at 0."""
    squares = reduced("sum", x * x, tuple(sorted(axes)), keepdims)
    zero = TABLE["equal"](squares, 0.0)
    return where_row(zero, 0.0, TABLE["sqrt"](where_row(zero, 1.0, squares)))


def _vector_norm(x: Any, ord: Any, axes: tuple, keepdims: Any) -> Any:
    if ord is None or ord == 2:
        return _root_of_squares(x, axes, keepdims)
    if ord in (math.inf, -math.inf):
        return reduced("max" if ord > 0 else "min", TABLE["absolute"](x), axes, keepdims)
    if ord == 0:
        return convert(reduced("sum", convert(TABLE["not_equal"](x, 0.0), aval_of(x).dtype), axes, keepdims), aval_of(x).dtype)
    if ord == 1:
        return reduced("sum", TABLE["absolute"](x), axes, keepdims)
    if isinstance(ord, str):
        raise ShapeError(explain(f"norm: ord={ord!r} is a norm of matrices.",
                                 remedy="Give two axes: axis=(0, 1); or a number as ord."))
    total = reduced("sum", TABLE["absolute"](x) ** ord, axes, keepdims)
    zero = TABLE["equal"](total, 0.0)
    return where_row(zero, 0.0, where_row(zero, 1.0, total) ** (1.0 / ord)) if ord > 0 else total ** (1.0 / ord)


def _matrix_norm(x: Any, ord: Any, axes: tuple, keepdims: Any) -> Any:
    if ord in (None, "fro", "f"):
        return _root_of_squares(x, axes, keepdims)
    if ord in (2, -2, "nuc"):
        return spectral_norm(x, ord, axes, keepdims)
    if ord not in (1, -1, math.inf, -math.inf):
        raise refuse(f"np.linalg.norm(ord={ord!r}) of a matrix", "The norms fro, nuc, 1, -1, 2, -2, inf and -inf have a rule.")
    inner, outer = (axes[0], axes[1]) if ord in (1, -1) else (axes[1], axes[0])
    sums = reduced("sum", TABLE["absolute"](x), (inner,), True)
    y = reduced("max" if ord in (1, math.inf) else "min", sums, (outer,), True)
    shape = aval_of(x).shape
    return y if keepdims else reshaped(y, tuple(n for i, n in enumerate(shape) if i not in axes))


@implements("linalg.vector_norm")
def vector_norm(x: Any, /, *, axis: Any = None, keepdims: bool = False, ord: Any = 2) -> Any:
    """Norm of all the elements along axes."""
    x = floating(x)
    shape, axes = aval_of(x).shape, axes_of(axis, aval_of(x).ndim)
    rest = tuple(i for i in range(len(shape)) if i not in axes)
    flat = reshaped(np.transpose(x, (*rest, *axes)), (*(shape[i] for i in rest), math.prod(shape[i] for i in axes)))
    y = _vector_norm(flat, ord, (len(rest),), False)
    return kept(y, shape, axes) if keepdims else y


@implements("linalg.matrix_norm")
def matrix_norm(x: Any, /, *, keepdims: bool = False, ord: Any = "fro") -> Any:
    return norm(x, ord, (-2, -1), keepdims)
