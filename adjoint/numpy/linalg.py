"""np.linalg on traced values: systems, inverses, determinants, Cholesky, symmetric eigenvalues, singular values.

Invariant: leading axes are a batch, as in NumPy; values, signs and errors are LAPACK's, traced or not. The derivatives are the rows' of
primitives/linalg.py and decompositions.py. May import: L0-L2, registry. Read next: norms.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.aval import aval_of
from ..core.primitive import TABLE
from ..dtypes import INT64
from ..errors import ShapeError, explain
from ..primitives import decompositions, linalg
from .reductions import reduced
from .registry import REFUSED, broadcasted, convert, floating, implements, refuse, reshaped

_EIGH, _SLOGDET, _SVD = (type(f(np.eye(1))) for f in (np.linalg.eigh, np.linalg.slogdet, np.linalg.svd))     # NumPy's named tuples


def _matrices(name: str, a: Any) -> Any:
    """a as floating arrays of at least two axes."""
    a = floating(a)
    if aval_of(a).ndim < 2:
        raise ShapeError(explain(f"np.linalg.{name}: an array of two or more axes is needed, found {aval_of(a)}.",
                                 remedy="A vector becomes a matrix of one column by x[:, None]."))
    return a


def _batched(a: Any, lead: tuple) -> Any:
    return broadcasted(a, (*lead, *aval_of(a).shape[-2:]))


def _system(name: str, row: Any, a: Any, b: Any, **params: Any) -> Any:
    """row(a, b) where b is one vector or columns, leading axes broadcast."""
    a, b = _matrices(name, a), floating(b)
    shape, vector = aval_of(b).shape, aval_of(b).ndim == 1
    if not shape:
        raise ShapeError(explain(f"np.linalg.{name}: the right side has no axes.", remedy="Divide by the number instead."))
    if vector:
        b = reshaped(b, (*shape, 1))
    try:
        lead = np.broadcast_shapes(aval_of(a).shape[:-2], aval_of(b).shape[:-2])
    except ValueError:
        raise ShapeError(explain(f"np.linalg.{name}: leading axes do not broadcast: {aval_of(a)} and {aval_of(b)}.",
                                 remedy="Leading axes are batches: they must be equal or 1.")) from None
    x = row(_batched(a, lead), _batched(b, lead), **params)
    return reshaped(x, aval_of(x).shape[:-1]) if vector else x


@implements("linalg.solve")
def solve(a: Any, b: Any) -> Any:
    """The solution x of a x = b, for one right side or several columns."""
    return _system("solve", linalg.solve, a, b)


def solve_triangular(a: Any, b: Any, *, lower: bool = False) -> Any:
    """The solution x of a x = b, where only the upper (with `lower`, the lower) triangle of a [..., n, n] is read.

    b [n], or [..., n, k]. Derivatives: x_dot = a^-1 (b_dot - a_dot x) over that triangle. Raises: LinearAlgebraError where a diagonal
    element is 0; ShapeError where a and b do not fit.

    >>> import numpy as np
    >>> solve_triangular(np.array([[2.0, 1.0], [9.0, 4.0]]), np.array([4.0, 8.0]))
    array([1., 2.])
    """
    return _system("solve_triangular", linalg.triangular_solve, a, b, lower=bool(lower))


@implements("linalg.inv")
def inv(a: Any) -> Any:
    """The inverse."""
    return linalg.inv(_matrices("inv", a))


@implements("linalg.slogdet")
def slogdet(a: Any) -> Any:
    """(sign, log |det a|)."""
    return _SLOGDET(*linalg.slogdet(_matrices("slogdet", a)))


@implements("linalg.det")
def det(a: Any) -> Any:
    """The determinant, as NumPy computes it: sign times exp(log |det a|). The derivative, y a^-T, is an error where a is singular."""
    sign, size = linalg.slogdet(_matrices("det", a))
    return TABLE["multiply"](sign, TABLE["exp"](size))


@implements("linalg.cholesky")
def cholesky(a: Any, /, *, upper: bool = False) -> Any:
    """The triangular factor, of the triangle of a on its side."""
    a = _matrices("cholesky", a)
    return linalg.transposed(linalg.cholesky(linalg.transposed(a))) if upper else linalg.cholesky(a)


@implements("linalg.eigh")
def eigh(a: Any, UPLO: str = "L") -> Any:
    """(eigenvalues, eigenvectors) of the symmetric matrices that have this triangle of a."""
    a = _matrices("eigh", a)
    if UPLO.upper() not in ("L", "U"):
        raise ShapeError(explain(f"np.linalg.eigh: UPLO is {UPLO!r}, 'L' or 'U' is needed.",
                                 remedy="Leave it out for the lower triangle, 'L'."))
    return _EIGH(*decompositions.eigh(a, lower=UPLO.upper() == "L"))


@implements("linalg.eigvalsh")
def eigvalsh(a: Any, UPLO: str = "L") -> Any:
    """The eigenvalues alone."""
    return eigh(a, UPLO)[0]


@implements("linalg.svd")
def svd(a: Any, full_matrices: bool = True, compute_uv: bool = True, hermitian: bool = False) -> Any:
    """(u, s, vt), or s alone; what a full u or vt adds is not determined by a, so it has no derivative and is refused."""
    a = _matrices("svd", a)
    if hermitian:
        raise refuse("np.linalg.svd(hermitian=True)", "Use np.linalg.eigh: the singular values are the |eigenvalues|.")
    if not compute_uv:
        return decompositions.svd(a)[1]
    m, n = aval_of(a).shape[-2:]
    if full_matrices and m != n:
        raise refuse(f"np.linalg.svd(full_matrices=True) of {aval_of(a)}", "Use np.linalg.svd(a, full_matrices=False).")
    return _SVD(*decompositions.svd(a))


@implements("linalg.svdvals")
def svdvals(x: Any, /) -> Any:
    """The singular values, descending."""
    return svd(x, compute_uv=False)


@implements("linalg.cond")
def cond(x: Any, p: Any = None) -> Any:
    """The condition number: the largest singular value over the smallest, or |x| |x^-1| in the norm p."""
    x = _matrices("cond", x)
    if p in (None, 2, -2):
        s = svdvals(x)
        high, low = s[..., 0], s[..., -1]
        return TABLE["divide"](low, high) if p == -2 else TABLE["divide"](high, low)
    return np.linalg.norm(x, p, axis=(-2, -1)) * np.linalg.norm(inv(x), p, axis=(-2, -1))


@implements("linalg.matrix_rank")
def matrix_rank(A: Any, tol: Any = None, hermitian: bool = False, *, rtol: Any = None) -> Any:
    """How many singular values exceed tol (rtol times the largest; by default max(m, n) eps)."""
    if hermitian or tol is not None:
        raise refuse("np.linalg.matrix_rank with tol or hermitian", "Use rtol=, or count np.linalg.svdvals(a) > tol.")
    a = _matrices("matrix_rank", A)
    s, aval = svdvals(a), aval_of(a)
    share = max(aval.shape[-2:]) * float(np.finfo(aval.dtype).eps) if rtol is None else rtol
    above = TABLE["greater"](s, TABLE["multiply"](s[..., :1], share))
    return reduced("sum", convert(above, INT64), (aval.ndim - 2,), False)


def spectral_norm(x: Any, ord: Any, axes: tuple, keepdims: bool) -> Any:
    """The norms of matrices that singular values give: their sum (nuc), the largest (2), the smallest (-2)."""
    shape = aval_of(x).shape
    rest = tuple(i for i in range(len(shape)) if i not in axes)
    s = svdvals(linalg.permute(x, axes=(*rest, *axes)))
    y = reduced({"nuc": "sum", 2: "max", -2: "min"}[ord], s, (len(rest),), False)
    return reshaped(y, tuple(1 if i in axes else n for i, n in enumerate(shape))) if keepdims else y


REFUSED.update({f"linalg.{name}": "It has no rule yet: give its derivative by adjoint.custom_vjp." for name in (
    "eig", "eigvals", "lstsq", "pinv", "qr", "tensorinv", "tensorsolve")})
