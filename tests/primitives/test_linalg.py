"""np.linalg on traced values: NumPy's values by every route, derivatives against differences and identities, equal eigenvalues, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import adjoint as ad
from adjoint.errors import AdjointError, LinearAlgebraError, ShapeError, TracerError
from adjoint.numpy import solve_triangular
from adjoint.primitives import decompositions, linalg
from adjoint.testing import check_grads

L = np.linalg
UPPER = np.triu(np.ones((3, 3), bool), 1)


def well(x: Any) -> Any:
    """Well-conditioned square matrices of the elements x."""
    return 0.5 * x + 3.0 * np.eye(x.shape[-1], dtype=x.dtype)


def definite(x: Any) -> Any:
    """Symmetric positive definite matrices of the elements x."""
    return np.matmul(x, np.swapaxes(x, -1, -2)) + np.eye(x.shape[-1], dtype=x.dtype)


def spread(x: Any) -> Any:
    """Matrices with singular values far from each other."""
    m, n = x.shape[-2:]
    return 0.3 * x + np.eye(m, n, dtype=x.dtype) * np.arange(1, n + 1).astype(x.dtype)


SQUARE, BATCH = (3, 3), (2, 3, 3)
CASES = {
    "solve vector": (lambda a, b: L.solve(well(a), b), SQUARE, (3,)),
    "solve columns": (lambda a, b: L.solve(well(a), b), SQUARE, (3, 2)),
    "solve batch": (lambda a, b: L.solve(well(a), b), BATCH, (2, 3, 2)),
    "solve one matrix, many sides": (lambda a, b: L.solve(well(a), b), SQUARE, (4, 3, 2)),
    "solve many matrices, one vector": (lambda a, b: L.solve(well(a), b), BATCH, (3,)),
    "inv": (lambda a: L.inv(well(a)), SQUARE), "inv batch": (lambda a: L.inv(well(a)), (2, 1, 3, 3)),
    "det": (lambda a: L.det(well(a)), SQUARE), "det batch": (lambda a: L.det(well(a)), BATCH),
    "det negative": (lambda a: L.det(-well(a)[::-1]), SQUARE),
    "slogdet": (lambda a: tuple(L.slogdet(-well(a))), BATCH),
    "cholesky": (lambda a: L.cholesky(definite(a)), SQUARE), "cholesky batch": (lambda a: L.cholesky(definite(a)), BATCH),
    "cholesky of no symmetric matrix": (lambda a: L.cholesky(well(a)), SQUARE),
    "cholesky upper": (lambda a: L.cholesky(well(a), upper=True), SQUARE),
    "eigh": (lambda a: tuple(L.eigh(spread(a))), SQUARE), "eigh upper": (lambda a: tuple(L.eigh(spread(a), UPLO="U")), BATCH),
    "eigvalsh": (lambda a: L.eigvalsh(spread(a)), BATCH),
    "svd": (lambda a: tuple(L.svd(spread(a))), SQUARE),
    "svd tall": (lambda a: tuple(L.svd(spread(a), full_matrices=False)), (5, 3)),
    "svd wide": (lambda a: tuple(L.svd(spread(a), full_matrices=False)), (2, 2, 4)),
    "svdvals": (lambda a: (L.svdvals(spread(a)), L.svd(spread(a), compute_uv=False)), (4, 3)),
    "norm nuc": (lambda a: L.norm(spread(a), "nuc"), (4, 3)), "norm 2": (lambda a: L.norm(spread(a), 2), (4, 3)),
    "norm -2": (lambda a: L.norm(spread(a), -2, axis=(0, 2), keepdims=True), (3, 2, 3)),
    "norm nuc of axes": (lambda a: L.norm(a, "nuc", axis=(2, 0)), (3, 2, 4)),
    "cond": (lambda a: (L.cond(spread(a)), L.cond(spread(a), -2), L.cond(spread(a), 1)), BATCH),
    "matrix_rank": (lambda a: np.asarray(L.matrix_rank(a[:, :1] * a[:1])) * a.sum() if isinstance(a, np.ndarray)
                    else L.matrix_rank(a[:, :1] * a[:1]) * a.sum(), SQUARE),
    "matrix_power": (lambda a: (L.matrix_power(well(a), -2), L.matrix_power(well(a), -1)), SQUARE),
}
each_case = pytest.mark.parametrize("name", CASES)


def arguments(name: str, dtype: type = np.float64) -> tuple:
    rng = np.random.default_rng(sum(map(ord, name)))
    function, *shapes = CASES[name]
    return function, [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def flat(y: Any) -> list:
    return list(y) if isinstance(y, tuple) else [y]


@each_case
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_numpys_values_traced_compiled_and_batched(name: str, dtype: type) -> None:
    function, xs = arguments(name, dtype)
    expected = flat(function(*xs))
    many = [np.stack([x, 1.25 * x]) for x in xs]
    near = 1e-12 if dtype == np.float64 else 2e-5
    seen: list = []
    ad.grad(lambda *xs: (seen.append(flat(function(*xs))), xs[0].sum())[1])(*xs)
    for found in (flat(ad.compile(function)(*xs)), flat(ad.jvp(function, tuple(xs), tuple(xs))[0])):
        for x, y in zip(found, expected, strict=True):
            assert (x.shape, x.dtype) == (y.shape, y.dtype)
            np.testing.assert_allclose(x, y, rtol=near, atol=near)
    assert [(x.shape, x.dtype) for x in seen[0]] == [(y.shape, y.dtype) for y in expected]
    for i, x in enumerate(flat(ad.vmap(function)(*many))):
        np.testing.assert_allclose(x, np.stack([flat(function(*[m[k] for m in many]))[i] for k in range(2)]), rtol=near, atol=near)


@each_case
def test_derivatives_of_first_and_second_order(name: str) -> None:
    function, xs = arguments(name)
    check_grads(function, *xs, order=2)


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("shape", [(3,), (3, 2), (2, 3, 2)])
def test_triangular_systems_read_one_triangle(lower: bool, shape: tuple) -> None:
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((3, 3)) + 2.0 * np.eye(3), rng.standard_normal(shape)
    part = np.tril(a) if lower else np.triu(a)
    f = lambda a, b: solve_triangular(a, b, lower=lower)
    vector = len(shape) == 1
    np.testing.assert_allclose(part @ f(a, b), b, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(ad.compile(f)(a, b), np.linalg.solve(part, b[:, None] if vector else b).reshape(shape), rtol=1e-12)
    other = np.triu(ad.grad(lambda a: f(a, b).sum())(a), 1) if lower else np.tril(ad.grad(lambda a: f(a, b).sum())(a), -1)
    assert not other.any()
    check_grads(f, a, b)


# ------------------------------------------------------------------------------------------------ identities


def test_gradients_known_in_closed_form() -> None:
    rng = np.random.default_rng(5)
    a = well(rng.standard_normal((4, 4)))
    for grad in (ad.grad, lambda f: ad.compile(ad.grad(f))):
        np.testing.assert_allclose(grad(L.det)(a), L.det(a) * L.inv(a).T, rtol=1e-12)
        np.testing.assert_allclose(grad(lambda a: L.slogdet(a)[1])(a), L.inv(a).T, rtol=1e-12)
        np.testing.assert_allclose(grad(lambda a: np.trace(L.inv(a)))(a), -L.matrix_power(L.inv(a), 2).T, rtol=1e-12)
        u, _, vt = L.svd(a)
        np.testing.assert_allclose(grad(lambda a: L.norm(a, "nuc"))(a), u @ vt, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(grad(lambda a: L.norm(a, 2))(a), np.outer(u[:, 0], vt[0]), rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(grad(lambda a: L.norm(a, "nuc") - L.svdvals(a).sum())(a), np.zeros((4, 4)), atol=1e-14)


def test_what_is_constant_has_no_derivative() -> None:
    """a a^-1 = 1, (l l^T of a) = a, u^T u = 1: the derivative of the left side is that of the right."""
    rng = np.random.default_rng(6)
    a, a_dot = definite(rng.standard_normal((4, 4))), rng.standard_normal((4, 4))
    along = lambda f: ad.jvp(f, (a,), (a_dot,))[1]
    for f in (lambda a: a @ L.inv(a), lambda a: L.solve(a, a), lambda a: L.eigh(a)[1].T @ L.eigh(a)[1],
              lambda a: L.svd(a)[0].T @ L.svd(a)[0], lambda a: L.svd(a)[2] @ L.svd(a)[2].T):
        assert np.abs(along(f)).max() < 1e-12
    low = np.tril(a_dot)
    np.testing.assert_allclose(along(lambda a: L.cholesky(a) @ L.cholesky(a).T), low + np.tril(low, -1).T, rtol=1e-11, atol=1e-12)
    u_s_vt = lambda a: (lambda u, s, vt: (u * s) @ vt)(*L.svd(a))
    np.testing.assert_allclose(along(u_s_vt), a_dot, rtol=1e-11, atol=1e-12)


def test_the_triangle_that_is_not_read_has_no_derivative() -> None:
    a = definite(np.random.default_rng(7).standard_normal((3, 3)))
    for f in (lambda a: L.cholesky(a).sum(), lambda a: (L.eigh(a)[1] ** 3).sum(), lambda a: L.eigvalsh(a)[0]):
        assert not ad.grad(f)(a)[UPPER].any() and ad.grad(f)(a)[~UPPER].all()
    log_det = lambda a: 2.0 * np.log(np.diagonal(L.cholesky(a))).sum()
    found = ad.grad(log_det)(a)
    np.testing.assert_allclose((found + found.T) / 2.0, L.inv(a), rtol=1e-12)             # along symmetric matrices: the inverse


# ------------------------------------------------------------------------------------------------ equal eigenvalues and singular values


def rotated(values: list) -> np.ndarray:
    """A symmetric matrix with these eigenvalues, none of its elements zero."""
    q, _ = L.qr(np.random.default_rng(8).standard_normal((len(values), len(values))))
    return (q * values) @ q.T


@pytest.mark.parametrize("a", [np.eye(3), rotated([2.0, 2.0, 5.0]), np.zeros((3, 3)), np.diag([1.0, 1.0, 4.0])],
                         ids=["identity", "rotated", "zero", "diagonal"])
def test_sums_over_equal_eigenvalues_keep_their_derivative(a: np.ndarray) -> None:
    symmetric = lambda g: np.tril(g) + np.triu(g, 1).T
    for grad in (ad.grad, lambda f: ad.compile(ad.grad(f))):
        np.testing.assert_allclose(symmetric(grad(lambda a: L.eigvalsh(a).sum())(a)), np.eye(3), atol=1e-12)
        np.testing.assert_allclose(symmetric(grad(lambda a: (L.eigvalsh(a) ** 2).sum())(a)), 4.0 * np.tril(a) - 2.0 * np.diag(np.diag(a)),
                                   atol=1e-12)


def test_vectors_of_equal_eigenvalues_have_no_derivative_and_the_result_says_so() -> None:
    """Also v w v^T, which is differentiable: its derivative cannot be had from those of w and v (0 times infinity), so none is made up."""
    a = rotated([2.0, 2.0, 5.0])
    for grad in (ad.grad, lambda f: ad.compile(ad.grad(f))):
        for at in (np.eye(3), a):
            assert np.isnan(grad(lambda a: (L.eigh(a)[1][0] * np.array([1.0, 2.0, 3.0])).sum())(at)).any()
            assert np.isnan(grad(lambda a: (lambda w, v: ((v * w) @ v.T * np.arange(9.0).reshape(3, 3)).sum())(*L.eigh(a)))(at)).any()
    w_dot, v_dot = ad.jvp(lambda a: tuple(L.eigh(a)), (a,), (np.eye(3) + np.diag([1.0], 2) + np.diag([1.0], -2),))[1]
    assert np.isfinite(w_dot).all() and np.isnan(v_dot[:, :2]).all() and np.isfinite(v_dot[:, 2]).all()
    near = ad.grad(lambda a: (L.eigh(a)[1][0] * np.array([1.0, 2.0, 3.0])).sum())(rotated([1.0, 1.0 + 1e-9, 5.0]))
    assert np.isfinite(near).all() and np.abs(near).max() > 1e7


def test_equal_and_vanishing_singular_values() -> None:
    a = np.outer([1.0, 2.0, 2.0], [3.0, 4.0])                                # rank one: singular values 15 and 0
    np.testing.assert_allclose(ad.grad(lambda a: L.norm(a, 2))(a), a / 15.0, atol=1e-12)
    np.testing.assert_allclose(ad.grad(lambda m: (L.svdvals(m) ** 2).sum())(np.eye(3)), 2.0 * np.eye(3), atol=1e-13)
    assert np.isfinite(ad.grad(lambda m: L.norm(m, "nuc"))(np.zeros((2, 3)))).all()
    rebuilt = lambda m: (lambda u, s, vt: ((u * s) @ vt).sum())(*L.svd(m, full_matrices=False))
    for matrix in (np.diag([2.0, 2.0, 1.0]), np.eye(3)):
        assert np.isnan(ad.grad(rebuilt)(matrix)).any()
    u_dot = ad.jvp(lambda m: L.svd(m, full_matrices=False)[0], (a,), (np.ones((3, 2)),))[1]
    assert np.isfinite(u_dot[:, 0]).all() and np.isnan(u_dot[:, 1]).all()


# ------------------------------------------------------------------------------------------------ errors


SINGULAR, INDEFINITE = np.outer([1.0, 2.0], [2.0, 4.0]), np.diag([1.0, -1.0])
FAILURES = {
    "solve": (lambda a: L.solve(a, a), SINGULAR, "solve: the matrix is singular"),
    "one of a batch": (lambda a: L.inv(a), np.stack([np.eye(2), SINGULAR]), "inv: the matrix is singular"),
    "triangular": (lambda a: solve_triangular(a, a), np.diag([1.0, 0.0]), "triangular_solve: the matrix is singular"),
    "cholesky": (lambda a: L.cholesky(a), INDEFINITE, "cholesky: the matrix is not positive definite"),
    "svd of NaN": (lambda a: L.svd(a)[1], np.full((2, 2), np.nan), "svd: the iteration did not converge"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_failures_are_errors_in_words_eager_and_compiled(name: str) -> None:
    function, a, words = FAILURES[name]
    compiled = ad.compile(function)
    for call in (lambda: ad.grad(lambda a: function(a).sum())(a), lambda: ad.jvp(function, (a,), (a,)), lambda: compiled(a)):
        with pytest.raises(LinearAlgebraError, match=words) as caught:
            call()
        assert isinstance(caught.value, np.linalg.LinAlgError | AdjointError) and "test_linalg.py:" in str(caught.value)
    fine = np.broadcast_to(2.0 * np.eye(2), a.shape).copy()
    np.testing.assert_allclose(compiled(fine), function(fine))                # the program works on after a failure


def test_a_singular_determinant_has_a_value_and_no_derivative() -> None:
    for f in (L.det, ad.compile(L.det)):
        assert f(SINGULAR) == 0.0
    sign, size = ad.compile(lambda a: tuple(L.slogdet(a)))(SINGULAR)
    assert sign == 0.0 and size == -np.inf
    with pytest.raises(LinearAlgebraError, match="inv: the matrix is singular"):
        ad.grad(L.det)(SINGULAR)


@pytest.mark.parametrize(("function", "shape", "words"), [
    (lambda a: L.inv(a), (2, 3), r"square matrices .* found float64\[2,3\]"), (lambda a: L.det(a), (3,), "two or more axes"),
    (lambda a: L.solve(a, a[0, 0]), (2, 2), "the right side has no axes"), (lambda a: L.solve(a, a[:1]), (2, 2), "do not fit"),
    (lambda a: L.solve(a, np.ones((3, 2, 1))), (2, 2, 2), "leading axes do not broadcast"),
    (lambda a: L.eigh(a, UPLO="M"), (2, 2), "'L' or 'U'"), (lambda a: L.cholesky(a), (2, 3), "square matrices")])
def test_shapes_that_do_not_fit(function: Any, shape: tuple, words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        ad.grad(lambda a: a.sum() + 0 * len(function(a).shape))(np.ones(shape))


@pytest.mark.parametrize(("function", "rewrite"), [
    (lambda a: L.svd(a), "full_matrices=False"), (lambda a: L.svd(a, hermitian=True), "eigh"), (lambda a: L.qr(a), "custom_vjp"),
    (lambda a: L.matrix_rank(a, tol=0.1), "svdvals"), (lambda a: L.norm(a, 3), "nuc"), (lambda a: L.pinv(a), "custom_vjp")])
def test_what_has_no_rule_is_said(function: Any, rewrite: str) -> None:
    with pytest.raises(TracerError, match=rewrite):
        ad.grad(lambda a: (function(a), a.sum())[1])(np.ones((3, 2)))


def test_integers_become_floats() -> None:
    a = np.array([[2, 1], [1, 3]])
    for f in (L.inv, L.det, L.cholesky, L.eigvalsh, L.svdvals):
        found = ad.compile(f)(a)
        np.testing.assert_allclose(found, f(a), rtol=1e-14)
        assert found.dtype == np.float64


def test_rows_take_floats_only() -> None:
    with pytest.raises(TypeError, match="floats"):
        ad.trace(lambda a: linalg.inv(a))(np.eye(2, dtype=np.int64))
    with pytest.raises(TypeError, match="floats"):
        ad.trace(lambda a: decompositions.svd(a))(np.eye(2, dtype=np.int64))
