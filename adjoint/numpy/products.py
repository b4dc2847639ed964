"""Products of arrays: matmul, dot, einsum and their relatives, all made of one contraction of two labelled arrays.

Invariant: labels name axes; equal labels are multiplied together, labels missing in the result are summed over.
May import: L0-L2, registry, elementwise. Read next: summation.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..core.aval import aval_of
from ..core.primitive import TABLE
from ..errors import ShapeError, explain
from ..primitives.broadcasting import promote_args
from .elementwise import ufunc
from .registry import axis_of, broadcasted, convert, implements, permuted, reshaped, strong, value_of

Labels = Sequence[Any]


def contract(x: Any, x_labels: Labels, w: Any, w_labels: Labels, out: Labels) -> Any:
    """y[out] = sum over all other labels of x[x_labels] w[w_labels]; labels are distinct in each, axes of one element stretch."""
    x, w = promote_args((strong(x), strong(w)))
    x, x_labels = _summed(x, list(x_labels), {*w_labels, *out})
    w, w_labels = _summed(w, list(w_labels), {*x_labels, *out})
    x, x_labels, w, w_labels = _unstretched(x, x_labels, w, w_labels)
    shared = [a for a in x_labels if a in w_labels]
    inner = [a for a in shared if a not in out]
    outer = [a for a in shared if a in out]
    if not inner:
        return _multiplied(x, x_labels, w, w_labels, out)
    places = lambda labels, of: tuple([of.index(a) for a in labels])
    y = TABLE["dot"](x, w, contract=(places(inner, x_labels), places(inner, w_labels)),
                     batch=(places(outer, x_labels), places(outer, w_labels)))
    found = outer + [a for a in x_labels if a not in shared] + [a for a in w_labels if a not in shared]
    return _arranged(y, found, out)


def _summed(x: Any, labels: list, needed: set) -> tuple[Any, list]:
    """Sum over labels that nothing else needs."""
    axes = tuple(i for i, a in enumerate(labels) if a not in needed)
    if not axes:
        return x, labels
    if aval_of(x).dtype == np.bool_:
        return TABLE["any"](x, axes=axes), [a for a in labels if a in needed]
    return TABLE["sum"](x, axes=axes), [a for a in labels if a in needed]


def _unstretched(x: Any, x_labels: list, w: Any, w_labels: list) -> tuple:
    """Drop axes of one element whose label is longer in the other operand."""
    sizes = [dict(zip(labels, aval_of(v).shape, strict=True)) for v, labels in ((x, x_labels), (w, w_labels))]
    longer = {a for a in x_labels if a in sizes[1] and sizes[0][a] != sizes[1][a]}
    for a in longer:
        if 1 not in (sizes[0][a], sizes[1][a]):
            raise ShapeError(explain(f"a product of {aval_of(x)} and {aval_of(w)}: two axes that go together differ, "
                                     f"{sizes[0][a]} != {sizes[1][a]}.",
                                     remedy="Permute one operand, or name other axes."))
    if not longer:
        return x, x_labels, w, w_labels
    kept = [[a for a in labels if not (a in longer and size[a] == 1)] for labels, size in ((x_labels, sizes[0]), (w_labels, sizes[1]))]
    return (reshaped(x, tuple(sizes[0][a] for a in kept[0])), kept[0], reshaped(w, tuple(sizes[1][a] for a in kept[1])), kept[1])


def _multiplied(x: Any, x_labels: list, w: Any, w_labels: list, out: Labels) -> Any:
    """Nothing is summed: an elementwise product under broadcasting."""
    def spread(v: Any, labels: list) -> Any:
        v = permuted(v, tuple(sorted(range(len(labels)), key=lambda i: list(out).index(labels[i]))))
        sizes = dict(zip(sorted(labels, key=list(out).index), aval_of(v).shape, strict=True))
        return reshaped(v, tuple(sizes.get(a, 1) for a in out))
    return TABLE["multiply"](spread(x, x_labels), spread(w, w_labels))


def _arranged(y: Any, found: list, out: Labels) -> Any:
    return permuted(y, tuple(found.index(a) for a in out))


# ------------------------------------------------------------------------------------------------ matrix products


def _check_inner(name: str, x: Any, w: Any, i: int, j: int) -> None:
    left, right = aval_of(x), aval_of(w)
    if left.shape[i] != right.shape[j]:
        raise ShapeError(explain(f"{name}: inner axes differ: left {left}, right {right}  ({left.shape[i]} != {right.shape[j]})",
                                 remedy="Permute the right operand, or check the order of the layers."))


@ufunc
def matmul(x1: Any, x2: Any) -> Any:
    """Matrix product over the last axis of x1 and the last but one of x2; leading axes are a batch and broadcast."""
    x, w = value_of(x1), value_of(x2)
    m, n = aval_of(x).ndim, aval_of(w).ndim
    if not m or not n:
        raise ShapeError(explain(f"matmul: an operand has no axes: left {aval_of(x)}, right {aval_of(w)}.",
                                 remedy="Multiply by a number with *."))
    _check_inner("matmul", x, w, -1, -2 if n > 1 else 0)
    depth = max(m, n) - 2
    lead = lambda ndim: [("batch", i) for i in range(depth - (ndim - 2), depth)] if ndim > 2 else []
    x_labels = [*lead(m), *(["row"] if m > 1 else []), "inner"]
    w_labels = [*lead(n), "inner", *(["column"] if n > 1 else [])]
    out = [*lead(max(m, n)), *(["row"] if m > 1 else []), *(["column"] if n > 1 else [])]
    return contract(x, x_labels, w, w_labels, out)


@ufunc
def vecdot(x1: Any, x2: Any) -> Any:
    """Inner product over the last axes, leading axes broadcast."""
    return _vectors(value_of(x1), value_of(x2), "vecdot", ["inner"], ["inner"])


@ufunc
def matvec(x1: Any, x2: Any) -> Any:
    """Matrices times vectors, leading axes broadcast."""
    return _vectors(value_of(x1), value_of(x2), "matvec", ["row", "inner"], ["inner"])


@ufunc
def vecmat(x1: Any, x2: Any) -> Any:
    """Vectors times matrices, leading axes broadcast."""
    return _vectors(value_of(x1), value_of(x2), "vecmat", ["inner"], ["inner", "column"])


def _vectors(x: Any, w: Any, name: str, x_core: list, w_core: list) -> Any:
    m, n = aval_of(x).ndim - len(x_core), aval_of(w).ndim - len(w_core)
    if m < 0 or n < 0:
        raise ShapeError(explain(f"{name}: an operand has too few axes: left {aval_of(x)}, right {aval_of(w)}.",
                                 remedy="Insert an axis of one element: x[None]."))
    _check_inner(name, x, w, -1, -1 if len(w_core) == 1 else -2)
    depth = max(m, n)
    lead = lambda count: [("batch", i) for i in range(depth - count, depth)]
    core = [a for a in (*x_core, *w_core) if a != "inner"]
    return contract(x, [*lead(m), *x_core], w, [*lead(n), *w_core], [*lead(depth), *core])


@implements("linalg.vecdot")
def linalg_vecdot(x1: Any, x2: Any, /, *, axis: int = -1) -> Any:
    return vecdot(np.moveaxis(x1, axis, -1), np.moveaxis(x2, axis, -1))


implements("linalg.matmul")(matmul)


@implements()
def dot(a: Any, b: Any, out: Any = None) -> Any:
    """Sum over the last axis of a and the last but one of b; a number multiplies."""
    x, w = value_of(a), value_of(b)
    m, n = aval_of(x).ndim, aval_of(w).ndim
    if not m or not n:
        return TABLE["multiply"](x, w)
    return _tensordot(x, w, (m - 1,), (max(n - 2, 0),), "dot")


@implements()
def inner(a: Any, b: Any, /) -> Any:
    """Sum over the last axes."""
    x, w = value_of(a), value_of(b)
    m, n = aval_of(x).ndim, aval_of(w).ndim
    if not m or not n:
        return TABLE["multiply"](x, w)
    return _tensordot(x, w, (m - 1,), (n - 1,), "inner")


def _flat(a: Any) -> Any:
    a = strong(value_of(a))
    return reshaped(a, (aval_of(a).size,))


@implements()
def vdot(a: Any, b: Any, /) -> Any:
    """Sum of the products of all elements."""
    return dot(_flat(a), _flat(b))


@implements("outer", "linalg.outer")
def outer(a: Any, b: Any, out: Any = None) -> Any:
    """y[i, j] = a[i] b[j] of the flattened arrays."""
    return contract(_flat(a), ["row"], _flat(b), ["column"], ["row", "column"])


@implements("tensordot", "linalg.tensordot")
def tensordot(a: Any, b: Any, axes: Any = 2) -> Any:
    """Sum over pairs of axes: the last `axes` of a with the first of b, or two lists of axes."""
    x, w = value_of(a), value_of(b)
    m, n = aval_of(x).ndim, aval_of(w).ndim
    if isinstance(axes, (int, np.integer)):
        left, right = tuple(range(m - int(axes), m)), tuple(range(int(axes)))
    else:
        left, right = (tuple(v) if isinstance(v, (tuple, list, np.ndarray)) else (v,) for v in axes)
    if len(left) != len(right):
        raise ShapeError(explain(f"tensordot: {len(left)} axes of the first array, {len(right)} of the second.",
                                 remedy="Give as many axes of either array."))
    return _tensordot(x, w, tuple(axis_of(i, m) for i in left), tuple(axis_of(j, n) for j in right), "tensordot")


def _tensordot(x: Any, w: Any, left: tuple, right: tuple, name: str) -> Any:
    for i, j in zip(left, right, strict=True):
        _check_inner(name, x, w, i, j)
    x_labels = [("x", i) for i in range(aval_of(x).ndim)]
    w_labels = [("x", left[right.index(j)]) if j in right else ("w", j) for j in range(aval_of(w).ndim)]
    return contract(x, x_labels, w, w_labels, [a for a in x_labels if a not in w_labels] + [a for a in w_labels if a not in x_labels])


@implements()
def kron(a: Any, b: Any) -> Any:
    """Kronecker product: blocks a[i, j] b."""
    x, w = strong(value_of(a)), strong(value_of(b))
    ndim = max(aval_of(x).ndim, aval_of(w).ndim)
    padded = [(1,) * (ndim - aval_of(v).ndim) + aval_of(v).shape for v in (x, w)]
    x = reshaped(x, tuple(n for size in padded[0] for n in (size, 1)))
    w = reshaped(w, tuple(n for size in padded[1] for n in (1, size)))
    return reshaped(TABLE["multiply"](x, w), tuple(m * n for m, n in zip(*padded, strict=True)))


@implements()
def cross(a: Any, b: Any, axisa: int = -1, axisb: int = -1, axisc: int = -1, axis: Any = None) -> Any:
    """Vector product of 3-vectors (2-vectors count as having a third component 0)."""
    if axis is not None:
        axisa = axisb = axisc = axis
    x, w = np.moveaxis(value_of(a), axisa, -1), np.moveaxis(value_of(b), axisb, -1)
    counts = aval_of(x).shape[-1], aval_of(w).shape[-1]
    if counts != (3, 3):
        raise ShapeError(explain(f"cross: vectors have {counts[0]} and {counts[1]} components, both need 3.",
                                 remedy="Append a zero to vectors of two components."))
    i, j = np.array([1, 2, 0]), np.array([2, 0, 1])
    y = x[..., i] * w[..., j] - x[..., j] * w[..., i]
    return np.moveaxis(y, -1, axisc)


@implements("linalg.cross")
def linalg_cross(x1: Any, x2: Any, /, *, axis: int = -1) -> Any:
    return cross(x1, x2, axis=axis)


@implements("linalg.multi_dot")
def multi_dot(arrays: Sequence, *, out: Any = None) -> Any:
    """The product of several matrices, from left to right."""
    y = arrays[0]
    for w in arrays[1:]:
        y = dot(y, w)
    return y


@implements("linalg.matrix_power")
def matrix_power(a: Any, n: int) -> Any:
    """a multiplied with itself n times, by repeated squaring; a negative power is one of the inverse."""
    a = strong(value_of(a))
    if n < 0:
        a, n = np.linalg.inv(a), -n
    y = None
    square = a
    while n:
        if n & 1:
            y = square if y is None else matmul(y, square)
        n >>= 1
        square = matmul(square, square) if n else square
    return y if y is not None else broadcasted(convert(np.eye(aval_of(a).shape[-1]), aval_of(a).dtype), aval_of(a).shape)
