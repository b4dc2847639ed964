"""Linear systems: solve, triangular solve, Cholesky factor, inverse, determinant's logarithm; leading axes are a batch.

Invariant: derivatives are solves and products again, so they can be differentiated again; Cholesky reads the lower triangle only, and so
does its derivative. Sources: Giles 2008, Collected matrix derivative results; Murray 2016, Differentiation of the Cholesky decomposition.
May import: L0, core, kinds, arithmetic, contraction, structure. Read next: decompositions.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..core.aval import Aval, aval_of
from ..core.primitive import bind
from ..dtypes import FLOAT64, INT64
from ..errors import DtypeError, LinearAlgebraError, ShapeError, explain
from .arithmetic import add, multiply, negative, subtract, where
from .broadcasting import batch_together, promote_arrays
from .comparison import equal, greater_equal
from .contraction import dot
from .indexing import iota
from .kinds import General, general
from .reduction import sum_
from .structure import broadcast, permute, reshape

SINGULAR = {"what": "the matrix is singular",
            "remedy": "Add a multiple of the identity, or use fewer columns; np.linalg.cond(a) measures it."}
INDEFINITE = {"what": "the matrix is not positive definite",
              "remedy": "Add a multiple of the identity (the lower triangle is read, the upper is not)."}

# ------------------------------------------------------------------------------------------------ what the rows share


def product(x: Any, w: Any) -> Any:
    """Matrix products along equal leading axes."""
    ndim = aval_of(x).ndim
    lead = tuple(range(ndim - 2))
    return bind(dot, x, w, contract=((ndim - 1,), (ndim - 2,)), batch=(lead, lead))


def transposed(x: Any) -> Any:
    """Every matrix transposed."""
    ndim = aval_of(x).ndim
    return bind(permute, x, axes=(*range(ndim - 2), ndim - 1, ndim - 2))


def _places(n: int, k: int) -> tuple:
    return iota(shape=(n, 1), axis=0, dtype=INT64), iota(shape=(1, k), axis=1, dtype=INT64)


def lower_part(x: Any) -> Any:
    """The lower triangle, zeros above."""
    return where(greater_equal(*_places(*aval_of(x).shape[-2:])), x, 0.0)


def upper_part(x: Any) -> Any:
    """The upper triangle, zeros below."""
    rows, columns = _places(*aval_of(x).shape[-2:])
    return where(greater_equal(columns, rows), x, 0.0)


def half_lower(x: Any) -> Any:
    """Phi of Murray 2016: the lower triangle with the diagonal halved."""
    rows, columns = _places(*aval_of(x).shape[-2:])
    return where(equal(rows, columns), multiply(x, 0.5), where(greater_equal(rows, columns), x, 0.0))


def on_diagonal(d: Any, other: Any) -> Any:
    """Matrices with d on the diagonal and the elements of `other` elsewhere."""
    *lead, n = aval_of(d).shape
    return where(equal(*_places(n, n)), reshape(d, shape=(*lead, n, 1)), other)


def diagonal_of(x: Any) -> Any:
    """The diagonal of square matrices."""
    n, ndim = aval_of(x).shape[-1], aval_of(x).ndim
    return sum_(where(equal(*_places(n, n)), x, 0.0), axes=(ndim - 1,))


def symmetric(x: Any) -> Any:
    """The symmetric matrix that has the lower triangle of x."""
    half = half_lower(x)
    return add(half, transposed(half))


def of_lower(g: Any) -> Any:
    """The cotangent of the lower triangle that `symmetric` read, for the cotangent g of the symmetric matrix."""
    return half_lower(add(g, transposed(g)))


def check_square(name: str, a: Aval) -> Aval:
    """The aval of square matrices of floats, or an error."""
    if a.ndim < 2 or a.shape[-1] != a.shape[-2]:
        raise ShapeError(explain(f"{name}: square matrices are needed along the last two axes, found {a}.",
                                 remedy="Check the order of the axes; least squares: x.T @ x and x.T @ y."))
    return check_floating(name, a)


def check_floating(name: str, a: Aval) -> Aval:
    """The aval, or an error where it holds no floats."""
    if a.dtype.kind != "f":
        raise DtypeError(explain(f"{name} is defined for floats, found {a}.", remedy="Convert first: x.astype(np.float64)."))
    return Aval(a.shape, a.dtype)


def _check_system(name: str, a: Aval, b: Aval) -> Aval:
    check_square(name, a)
    if b.ndim != a.ndim or b.shape[:-1] != a.shape[:-1]:
        raise ShapeError(explain(f"{name}: matrices {a} and right sides {b} do not fit.",
                                 remedy="Right sides are columns: [..., n, k] for matrices [..., n, n]."))
    return Aval(b.shape, np.result_type(a.dtype, b.dtype))


def guarded(name: str, failure: dict, body: Callable, *args: Any) -> Any:
    """body(*args), NumPy's LinAlgError in the form of this package."""
    try:
        return body(*args)
    except np.linalg.LinAlgError:
        raise LinearAlgebraError(explain(f"{name}: {failure['what']} ({' and '.join(str(aval_of(x)) for x in args)}).",
                                         remedy=failure["remedy"])) from None


def batch_rule(row: Callable) -> Callable:
    """Rows take leading axes as they are: the new one is the first."""
    def batch(args: tuple, bdims: tuple, **params: Any) -> tuple:
        y = row()(*batch_together(args, bdims)[0], **params)
        return y, (0,) * len(y) if isinstance(y, tuple) else 0
    return batch


def regular(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Well-conditioned matrices: random, the diagonal raised."""
    return rng.standard_normal(shape) + 2.0 * shape[-1] ** 0.5 * np.eye(*shape[-2:])


def another(a: np.ndarray, b: int) -> np.ndarray:
    """Another matrix of the same kind, for the tests of batching."""
    return a * (1.0 + 0.25 * b)


# ------------------------------------------------------------------------------------------------ native code: what LAPACK needs


def move(e: Any, source: Any, target: Any) -> None:
    """target[...] = source[...], converted."""
    e.elementwise(target.shape, [source], [target], lambda k, xs: [k.convert(xs[0], target.dtype)], label="columns")


def columns_of(e: Any, x: Any) -> tuple:
    """(memory [problems, elements] with each matrix of x in float64, column-major order, the same memory seen as x's shape).

    NumPy computes float32 in float64 too, so both give the same values and the same signs of vectors.
    """
    *lead, n, k = x.shape
    memory = e.temporary(FLOAT64, (*lead, k, n))
    seen = memory.permuted((*range(len(lead)), len(lead) + 1, len(lead)))
    move(e, x, seen)
    return memory.reshaped((problems(x.shape), k * n)), seen


def problems(shape: tuple) -> int:
    """How many matrices a batch holds."""
    return int(np.prod(shape[:-2], dtype=np.int64))


def _lower_solve(e: Any, inputs: tuple, outputs: tuple) -> None:
    (a, b), (y,) = inputs, outputs
    n, k = b.shape[-2:]
    if b.shape and 0 not in b.shape:
        (left, _), (right, seen) = columns_of(e, a), columns_of(e, b)
        e.routine("solve", (left, right), (n, k), 2.0 * n * n * (n / 3 + k), **SINGULAR)
        move(e, seen, y)


def _lower_triangular(e: Any, inputs: tuple, outputs: tuple, *, lower: bool) -> None:
    (a, b), (y,) = inputs, outputs
    n, k = b.shape[-2:]
    if 0 not in b.shape:
        (left, _), (right, seen) = columns_of(e, a), columns_of(e, b)
        e.routine("triangular", (left, right), (n, k, int(lower)), float(n * n * k), **SINGULAR)
        move(e, seen, y)


def _lower_inv(e: Any, inputs: tuple, outputs: tuple) -> None:
    (a,), (y,) = inputs, outputs
    n = a.shape[-1]
    if 0 in a.shape:
        return
    left, _ = columns_of(e, a)
    right = e.temporary(FLOAT64, (problems(a.shape), n, n))
    with e.kernel(right.shape) as (k, (p, i, j)):
        k.put(right, p, i, j, value=k.select(k.eq(k.index(i), k.index(j)), k.const(1, FLOAT64), k.const(0, FLOAT64)))
    e.routine("solve", (left, right.reshaped((right.shape[0], n * n))), (n, n), 2.7 * n ** 3, **SINGULAR)
    lead = tuple(range(len(a.shape) - 2))
    move(e, right.reshaped(a.shape).permuted((*lead, len(lead) + 1, len(lead))), y)


def _lower_cholesky(e: Any, inputs: tuple, outputs: tuple) -> None:
    (a,), (y,) = inputs, outputs
    n = a.shape[-1]
    if 0 in a.shape:
        return
    memory, seen = columns_of(e, a)
    e.routine("cholesky", (memory,), (n,), n ** 3 / 3, **INDEFINITE)
    with e.kernel(y.shape) as (k, index):
        below = k.ge(k.index(index[-2]), k.index(index[-1]))
        k.put(y, *index, value=k.select(below, k.convert(k.get(seen, *index), y.dtype), k.const(0, y.dtype)))


def _lower_slogdet(e: Any, inputs: tuple, outputs: tuple) -> None:
    """The factors' diagonal, its signs multiplied and its logarithms added one after the other, as NumPy does."""
    (a,), (sign, size) = inputs, outputs
    n, count = a.shape[-1], problems(a.shape)
    signs, factors = e.temporary(FLOAT64, (count, 1)), None
    e.fill(signs, 1)
    if n and count:
        memory, _ = columns_of(e, a)
        e.routine("factor", (memory, signs), (n,), 0.67 * n ** 3, **SINGULAR)
        factors = memory.reshaped((count, n, n))
    parts = e.temporary(FLOAT64, (count,)), e.temporary(FLOAT64, (count,))
    with e.kernel((count,)) as (k, (p,)):
        def body(i: Any, negative: Any, total: Any) -> tuple:
            pivot = k.get(factors, p, i, i)
            flipped = k.select(k.lt(pivot, 0), k.neg(negative), negative)
            return k.select(k.eq(pivot, 0), 0, flipped), k.add(total, k.call("log", k.abs(pivot)))
        initial = k.get(signs, p, 0), k.const(0, FLOAT64)
        for part, value in zip(parts, k.carry(n, initial, body) if factors is not None else initial, strict=True):
            k.put(part, p, value=value)
    for part, target in zip(parts, (sign, size), strict=True):
        move(e, part.reshaped(target.shape), target)


# ------------------------------------------------------------------------------------------------ solve


def _solve_jvp(primals: tuple, tangents: tuple, x: Any) -> Any:
    """a x_dot = b_dot - a_dot x."""
    (a, _), (a_dot, b_dot) = primals, tangents
    if a_dot is None:
        return solve(a, b_dot)
    moved = product(a_dot, x)
    return solve(a, negative(moved) if b_dot is None else subtract(b_dot, moved))


def _solve_vjp(primals: tuple, x: Any, x_bar: Any, active: tuple) -> list:
    """b_bar = a^-T x_bar, a_bar = -b_bar x^T."""
    b_bar = solve(transposed(primals[0]), x_bar)
    return [negative(product(b_bar, transposed(x))) if active[0] else None, b_bar if active[1] else None]


def _system_samples(rng: np.random.Generator) -> list:
    return [((regular(rng, *s), rng.standard_normal(t)), {}) for s, t in (
        ((3, 3), (3, 2)), ((2, 4, 4), (2, 4, 1)), ((1, 1), (1, 3)), ((2, 1, 3, 3), (2, 1, 3, 2)), ((0, 2, 2), (0, 2, 1)), ((3, 3), (3, 0)))]


@general(shape=lambda a, b: _check_system("solve", a, b), jvp=_solve_jvp, vjp=_solve_vjp, batch=batch_rule(lambda: solve),
         lowering=General(_lower_solve), samples=_system_samples, prepare=promote_arrays, bound=100.0, absolute=True, another=another)
def solve(a, b):
    """The solution x of a x = b for columns b; x_dot = a^-1 (b_dot - a_dot x), b_bar = a^-T x_bar, a_bar = -b_bar x^T.

    Raises: LinearAlgebraError where a is singular to the last bit. Source: Giles 2008, section 2.3.1.
    """
    return guarded("solve", SINGULAR, np.linalg.solve, a, b)


# ------------------------------------------------------------------------------------------------ triangular solve


def _part(x: Any, lower: bool) -> Any:
    return lower_part(x) if lower else upper_part(x)


def _triangular_jvp(primals: tuple, tangents: tuple, x: Any, *, lower: bool) -> Any:
    (a, _), (a_dot, b_dot) = primals, tangents
    if a_dot is None:
        return triangular_solve(a, b_dot, lower=lower)
    moved = product(_part(a_dot, lower), x)
    return triangular_solve(a, negative(moved) if b_dot is None else subtract(b_dot, moved), lower=lower)


def _triangular_vjp(primals: tuple, x: Any, x_bar: Any, active: tuple, *, lower: bool) -> list:
    b_bar = triangular_solve(transposed(primals[0]), x_bar, lower=not lower)
    return [_part(negative(product(b_bar, transposed(x))), lower) if active[0] else None, b_bar if active[1] else None]


def _substituted(a: np.ndarray, b: np.ndarray, lower: bool) -> np.ndarray:
    """Forward or back substitution, one row after the other, all problems at once."""
    n = a.shape[-1]
    dtype = np.result_type(a, b)
    x, a = np.array(b, FLOAT64), np.asarray(a, FLOAT64)
    if np.any(np.diagonal(a, axis1=-2, axis2=-1) == 0) and x.size:
        raise np.linalg.LinAlgError
    for i in range(n) if lower else reversed(range(n)):
        known = slice(0, i) if lower else slice(i + 1, n)
        x[..., i, :] -= (a[..., i:i + 1, known] @ x[..., known, :])[..., 0, :]
        x[..., i, :] /= a[..., i, i, None]
    return x.astype(dtype)


@general(shape=lambda a, b, *, lower: _check_system("triangular_solve", a, b), jvp=_triangular_jvp, vjp=_triangular_vjp,
         batch=batch_rule(lambda: triangular_solve), lowering=General(_lower_triangular), prepare=promote_arrays, bound=100.0,
         absolute=True, another=another,
         samples=lambda rng: [(args, {"lower": i % 2 == 0}) for i, (args, _) in enumerate(2 * _system_samples(rng)[:3])])
def triangular_solve(a, b, *, lower):
    """The solution x of a x = b where a is triangular: only its lower (or upper) triangle is read; derivatives as for solve.

    Raises: LinearAlgebraError where a diagonal element is 0.
    """
    return guarded("triangular_solve", SINGULAR, lambda a, b: _substituted(a, b, lower), a, b)


# ------------------------------------------------------------------------------------------------ Cholesky


def _cholesky_jvp(primals: tuple, tangents: tuple, l: Any) -> Any:
    """l_dot = l Phi(l^-1 a_dot l^-T), Phi the lower triangle with half the diagonal."""
    inner = triangular_solve(l, symmetric(tangents[0]), lower=True)
    return product(l, half_lower(triangular_solve(l, transposed(inner), lower=True)))


def _cholesky_vjp(primals: tuple, l: Any, l_bar: Any, active: tuple) -> list:
    """a_bar = l^-T Phi(l^T l_bar) l^-1, gathered on the lower triangle."""
    if not active[0]:
        return [None]
    up = transposed(l)
    inner = triangular_solve(up, half_lower(product(up, l_bar)), lower=False)
    return [of_lower(triangular_solve(up, transposed(inner), lower=False))]


def _definite(rng: np.random.Generator, *shape: int) -> np.ndarray:
    x = rng.standard_normal(shape)
    return x @ np.swapaxes(x, -1, -2) + shape[-1] * np.eye(shape[-1])


@general(shape=lambda a: check_square("cholesky", a), jvp=_cholesky_jvp, vjp=_cholesky_vjp, batch=batch_rule(lambda: cholesky),
         lowering=General(_lower_cholesky), bound=100.0, absolute=True, another=another,
         samples=lambda rng: [((_definite(rng, *s),), {}) for s in ((3, 3), (2, 4, 4), (1, 1), (0, 2, 2), (0, 0))])
def cholesky(a):
    """The lower triangular l with l l^T = a; the lower triangle of a is read, and its derivative lies on the lower triangle.

    l_dot = l Phi(l^-1 a_dot l^-T). So gradients are those of the function that is computed; add their transpose and halve where the
    gradient along symmetric matrices is wanted. Raises: LinearAlgebraError where a is not positive definite.
    Source: Murray 2016, equations 8 and 10.
    """
    return guarded("cholesky", INDEFINITE, np.linalg.cholesky, a)


# ------------------------------------------------------------------------------------------------ inverse, determinant


def _square_samples(rng: np.random.Generator) -> list:
    return [((regular(rng, *s),), {}) for s in ((3, 3), (2, 4, 4), (1, 1), (2, 1, 2, 2), (0, 2, 2))]


@general(shape=lambda a: check_square("inv", a), batch=batch_rule(lambda: inv), lowering=General(_lower_inv), samples=_square_samples,
         jvp=lambda primals, tangents, y: negative(product(product(y, tangents[0]), y)), bound=100.0, absolute=True, another=another,
         vjp=lambda primals, y, y_bar, active: [negative(product(transposed(y), product(y_bar, transposed(y)))) if active[0] else None])
def inv(a):
    """The inverse y = a^-1; y_dot = -y a_dot y, a_bar = -y^T y_bar y^T.

    Raises: LinearAlgebraError where a is singular to the last bit. Source: Giles 2008, section 2.2.3.
    """
    return guarded("inv", SINGULAR, np.linalg.inv, a)


def _slogdet_jvp(primals: tuple, tangents: tuple, y: Any) -> tuple:
    """The logarithm's tangent: trace of a^-1 a_dot."""
    a, ndim = primals[0], aval_of(primals[0]).ndim
    return None, sum_(multiply(transposed(inv(a)), tangents[0]), axes=(ndim - 2, ndim - 1))


def _slogdet_vjp(primals: tuple, y: Any, y_bar: tuple, active: tuple) -> list:
    a = primals[0]
    shape = aval_of(a).shape
    weight = broadcast(reshape(y_bar[1], shape=(*shape[:-2], 1, 1)), shape=shape)
    return [multiply(transposed(inv(a)), weight) if active[0] else None]


def _slogdet_shape(a: Aval) -> tuple:
    found = Aval(check_square("slogdet", a).shape[:-2], a.dtype)
    return found, found


@general(shape=_slogdet_shape, jvp=_slogdet_jvp, vjp=_slogdet_vjp, batch=batch_rule(lambda: slogdet), lowering=General(_lower_slogdet),
         samples=lambda rng: [*_square_samples(rng), ((-regular(rng, 3, 3)[::-1],), {}), ((np.zeros((2, 0, 0)),), {})],
         bound=100.0, absolute=True, another=another, multiple=True)
def slogdet(a):
    """(sign, log |det a|): the logarithm's tangent is tr(a^-1 a_dot), its a_bar = a^-T y_bar; the sign has derivative 0.

    A singular matrix gives (0, -inf); its derivative raises LinearAlgebraError. Source: Giles 2008, section 2.2.4.
    """
    return tuple(np.asarray(x)[()] for x in np.linalg.slogdet(a))
