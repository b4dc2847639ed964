"""Decompositions: eigenvalues and eigenvectors of symmetric matrices, singular values and vectors; leading axes are a batch.

Invariant: vectors of equal values (closer than n eps times the largest) are not differentiable, and the result says so: NaN where
anything depends on them. What depends on the values alone keeps its derivative: that of a sum over a whole cluster is exact, a single
value of a cluster gets the derivative along LAPACK's vector. Sources: Giles 2008, section 3; Townsend 2016, Differentiating the singular
value decomposition. May import: L0, core, linalg.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.aval import Aval, aval_of
from ..dtypes import FLOAT64
from .arithmetic import add, divide, multiply, scale, subtract, where
from .broadcasting import zeros_of
from .comparison import greater
from .kinds import General, general
from .linalg import (
    another,
    batch_rule,
    check_floating,
    check_square,
    columns_of,
    diagonal_of,
    guarded,
    move,
    of_lower,
    on_diagonal,
    problems,
    product,
    symmetric,
    transposed,
)
from .piecewise import absolute
from .reduction import max_
from .structure import reshape

DIVERGED = {"what": "the iteration did not converge", "remedy": "Look for NaN and infinities among the elements."}


def _column(x: Any) -> Any:
    return reshape(x, shape=(*aval_of(x).shape, 1))


def _row(x: Any) -> Any:
    *lead, n = aval_of(x).shape
    return reshape(x, shape=(*lead, 1, n))


def _resolution(values: Any, size: int) -> Any:
    """What values of a matrix must differ by to count as distinct: size eps times the largest, [..., 1]."""
    aval = aval_of(values)
    largest = max_(absolute(values), axes=(aval.ndim - 1,))
    return _column(multiply(largest, size * float(np.finfo(aval.dtype).eps)))


def _inverse(x: Any, least: Any) -> Any:
    """1 / x where |x| > least, else NaN; `scale` by it leaves a 0 as it is."""
    fine = greater(absolute(x), least)
    return where(fine, divide(1.0, where(fine, x, 1.0)), float("nan"))


def _gaps(values: Any, size: int) -> Any:
    """1 / (values_j - values_i), 0 on the diagonal, NaN inside clusters."""
    found = _inverse(subtract(_row(values), _column(values)), _column(_resolution(values, size)))
    return on_diagonal(zeros_of(aval_of(values)), found)


# ------------------------------------------------------------------------------------------------ eigh


def _lower_eigh(e: Any, inputs: tuple, outputs: tuple, *, lower: bool) -> None:
    (a,), (w, v) = inputs, outputs
    n = a.shape[-1]
    if 0 in a.shape:
        return
    memory, seen = columns_of(e, a)
    values = e.temporary(FLOAT64, (problems(a.shape), n))
    e.routine("eigh", (memory, values), (n, int(lower)), 9.0 * n ** 3, **DIVERGED)
    move(e, values.reshaped(w.shape), w)
    move(e, seen, v)


def _eigh_shape(a: Aval, *, lower: bool) -> tuple:
    found = check_square("eigh", a)
    return Aval(a.shape[:-1], a.dtype), found


def _eigh_jvp(primals: tuple, tangents: tuple, y: tuple, *, lower: bool) -> tuple:
    """With k = v^T a_dot v: w_dot = diag k, v_dot = v (f * k), f_ij = 1 / (w_j - w_i)."""
    w, v = y
    if 0 in aval_of(v).shape:
        return w, v
    a_dot = tangents[0] if lower else transposed(tangents[0])
    k = product(transposed(v), product(symmetric(a_dot), v))
    return diagonal_of(k), product(v, scale(k, _gaps(w, aval_of(v).shape[-1])))


def _eigh_vjp(primals: tuple, y: tuple, y_bar: tuple, active: tuple, *, lower: bool) -> list:
    """a_bar = v (diag w_bar + f * v^T v_bar) v^T, gathered on the triangle that was read."""
    (w, v), (w_bar, v_bar) = y, y_bar
    if not active[0]:
        return [None]
    if 0 in aval_of(v).shape:
        return [v]
    inner = on_diagonal(w_bar, scale(product(transposed(v), v_bar), _gaps(w, aval_of(v).shape[-1])))
    a_bar = of_lower(product(v, product(inner, transposed(v))))
    return [a_bar if lower else transposed(a_bar)]


def _symmetric_samples(rng: np.random.Generator) -> list:
    found = []
    for shape in ((3, 3), (2, 4, 4), (1, 1), (0, 2, 2), (0, 0)):
        x = rng.standard_normal(shape)
        found.append(((x + np.swapaxes(x, -1, -2) + 5.0 * np.diag(np.arange(shape[-1])),), {"lower": len(shape) == 2}))
    return found


@general(shape=_eigh_shape, jvp=_eigh_jvp, vjp=_eigh_vjp, batch=batch_rule(lambda: eigh), lowering=General(_lower_eigh),
         samples=_symmetric_samples, bound=100.0, absolute=True, another=another, multiple=True)
def eigh(a, *, lower):
    """(w, v): a v = v diag w, w ascending, v orthonormal columns; one triangle of a is read. w_dot = diag(v^T a_dot v).

    v_dot = v (f * v^T a_dot v), f_ij = 1 / (w_j - w_i), and NaN where w_i = w_j up to n eps max |w|. The sign of each vector is LAPACK's.
    Raises: LinearAlgebraError where the iteration does not converge (NaN among the elements). Source: Giles 2008, section 3.1.
    """
    return tuple(guarded("eigh", DIVERGED, lambda a: np.linalg.eigh(a, UPLO="L" if lower else "U"), a))


# ------------------------------------------------------------------------------------------------ svd


def _lower_svd(e: Any, inputs: tuple, outputs: tuple) -> None:
    (a,), (u, s, vt) = inputs, outputs
    (m, n), k, count = a.shape[-2:], s.shape[-1], problems(a.shape)
    if 0 in a.shape:
        return
    memory, _ = columns_of(e, a)
    left, values, right = (e.temporary(FLOAT64, (count, size)) for size in (m * k, k, k * n))
    e.routine("svd", (memory, left, values, right), (m, n), 14.0 * m * n * k, **DIVERGED)
    move(e, values.reshaped(s.shape), s)
    lead = tuple(range(len(a.shape) - 2))
    for part, target in ((left, u), (right, vt)):
        *outer, rows, columns = target.shape
        move(e, part.reshaped((*outer, columns, rows)).permuted((*lead, len(lead) + 1, len(lead))), target)


def _svd_shape(a: Aval) -> tuple:
    check_floating("svd", a)
    *lead, m, n = a.shape
    k = min(m, n)
    return Aval((*lead, m, k), a.dtype), Aval((*lead, k), a.dtype), Aval((*lead, k, n), a.dtype)


def _svd_gaps(s: Any, size: int) -> Any:
    """f_ij = 1 / (s_j^2 - s_i^2), 0 on the diagonal, NaN inside clusters."""
    sums = add(_row(s), _column(s))
    return divide(_gaps(s, size), where(greater(sums, 0.0), sums, 1.0))


def _outside(basis: Any, x: Any) -> Any:
    """The part of the columns x that is orthogonal to the columns of the basis."""
    return subtract(x, product(basis, product(transposed(basis), x)))


def _svd_jvp(primals: tuple, tangents: tuple, y: tuple) -> tuple:
    """With k = u^T a_dot v: s_dot = diag k, u_dot = u (f * (k s + s k^T)) + (1 - u u^T) a_dot v / s, and v_dot likewise.

    f is antisymmetric, so f * (k s + s k^T) = x - x^T with x = f * k s.
    """
    (u, s, vt), a_dot = y, tangents[0]
    (m, n), v = aval_of(a_dot).shape[-2:], transposed(vt)
    if 0 in aval_of(a_dot).shape:
        return y
    moved = product(a_dot, v)
    k = product(transposed(u), moved)
    f, across = _svd_gaps(s, max(m, n)), _row(s)
    x, z = scale(multiply(k, across), f), scale(multiply(_column(s), k), f)
    u_dot, v_dot = product(u, subtract(x, transposed(x))), product(v, subtract(z, transposed(z)))
    inverse = _row(_inverse(s, _resolution(s, max(m, n))))
    if m > n:
        u_dot = add(u_dot, scale(_outside(u, moved), inverse))
    if n > m:
        v_dot = add(v_dot, scale(_outside(v, product(transposed(a_dot), u)), inverse))
    return u_dot, diagonal_of(k), transposed(v_dot)


def _svd_vjp(primals: tuple, y: tuple, y_bar: tuple, active: tuple) -> list:
    """a_bar = u (x s + s z + diag s_bar) v^T + (1 - u u^T) u_bar / s v^T + u (1 - v v^T applied to v_bar / s)^T, antisymmetric parts
    x = f * (u^T u_bar - u_bar^T u), z = f * (v^T v_bar - v_bar^T v)."""
    (u, s, vt), (u_bar, s_bar, vt_bar), a = y, y_bar, primals[0]
    if not active[0]:
        return [None]
    if 0 in aval_of(a).shape:
        return [a]
    (m, n), v, v_bar = aval_of(a).shape[-2:], transposed(vt), transposed(vt_bar)
    f = _svd_gaps(s, max(m, n))
    x, z = (scale(product(transposed(q), q_bar), f) for q, q_bar in ((u, u_bar), (v, v_bar)))
    inner = add(multiply(add(x, transposed(x)), _row(s)), multiply(_column(s), add(z, transposed(z))))
    a_bar = product(u, product(on_diagonal(s_bar, inner), vt))
    inverse = _row(_inverse(s, _resolution(s, max(m, n))))
    if m > n:
        a_bar = add(a_bar, product(scale(_outside(u, u_bar), inverse), vt))
    if n > m:
        a_bar = add(a_bar, product(u, transposed(scale(_outside(v, v_bar), inverse))))
    return [a_bar]


def _svd_samples(rng: np.random.Generator) -> list:
    found = []
    for shape in ((3, 3), (4, 3), (2, 2, 4), (1, 1), (0, 2, 3), (2, 0)):
        k = min(shape[-2:])
        x = rng.standard_normal(shape)
        found.append(((x + np.eye(*shape[-2:]) * np.append(4.0 * np.arange(1, k + 1), np.zeros(shape[-1] - k)),), {}))
    return found


@general(shape=_svd_shape, jvp=_svd_jvp, vjp=_svd_vjp, batch=batch_rule(lambda: svd), lowering=General(_lower_svd),
         samples=_svd_samples, bound=200.0, absolute=True, another=another, multiple=True)
def svd(a):
    """(u, s, vt), thin: a = u diag(s) vt, s descending, k = min(m, n) columns of u and rows of vt. s_dot = diag(u^T a_dot v).

    The vectors' derivatives have 1 / (s_j^2 - s_i^2), and NaN in its place where s_i = s_j up to max(m, n) eps s_1; 1 / s_i likewise,
    where s_i = 0 (and as with sqrt at 0, a cotangent of exactly 0 stays 0: write a itself for u diag(s) vt).
    Raises: LinearAlgebraError where the iteration does not converge. Source: Townsend 2016; Giles 2008, section 3.2.
    """
    u, s, vt = guarded("svd", DIVERGED, lambda a: np.linalg.svd(a, full_matrices=False), a)
    return u, s, vt
