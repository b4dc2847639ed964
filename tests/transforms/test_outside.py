"""Functions that no trace can enter: custom_vjp calls them as they are under grad and vjp, and everything else raises."""

import numpy as np
import pytest

import adjoint as ad
from adjoint.errors import NotDifferentiableError, ShapeError, TracerError

A, b = np.array([[2.0, 1.0], [0.5, 3.0]]), np.array([1.0, -2.0])


def pulled(residuals, y_bar):
    a, y = residuals
    back = np.linalg.solve(a.T, y_bar)
    return -np.outer(back, y), back


def solved(a, b):
    y = np.linalg.tensorsolve(a, b)
    return y, (a, y)


solve = ad.custom_vjp(np.linalg.tensorsolve, solved, pulled)


def differences(f, x, h=1e-6):
    moved = [np.where(np.arange(x.size).reshape(x.shape) == i, h, 0.0) for i in range(x.size)]
    return np.array([(f(x + d) - f(x - d)) / (2 * h) for d in moved]).reshape(x.shape)


def test_the_rule_is_used_and_the_rest_is_differentiated():
    f = lambda a, b: (solve(np.exp(a), b) ** 2).sum()
    a_bar, b_bar = ad.grad(f, argnums=(0, 1))(A, b)
    np.testing.assert_allclose(a_bar, differences(lambda a: f(a, b), A), rtol=1e-8)
    np.testing.assert_allclose(b_bar, differences(lambda b: f(A, b), b), rtol=1e-8)
    assert f(A, b) == (np.linalg.solve(np.exp(A), b) ** 2).sum()


def test_twice_on_one_tape_and_in_float32():
    twice = lambda b: solve(A, solve(A, b)).sum()
    np.testing.assert_allclose(ad.grad(twice)(b), np.linalg.inv(A @ A).T @ np.ones(2), rtol=1e-12)
    assert ad.grad(lambda b: solve(A.astype(np.float32), b).sum())(b.astype(np.float32)).dtype == np.float32


def test_arguments_that_are_not_differentiated():
    assert ad.grad(lambda x: x * solve(A, b)[0])(2.0) == np.linalg.solve(A, b)[0]


@pytest.mark.parametrize("transform", [lambda f: ad.compile(ad.grad(f)), lambda f: ad.grad(ad.compile(f)), ad.hessian,
                                       lambda f: ad.grad(lambda x: ad.grad(f)(x).sum()), lambda f: lambda x: ad.vmap(f)(x[None]),
                                       lambda f: lambda x: ad.jvp(f, (x,), (x,)), ad.trace])
def test_what_would_have_to_enter_the_function_raises(transform):
    with pytest.raises((TracerError, NotDifferentiableError), match=r"np\.linalg\.tensorsolve"):
        transform(lambda b: solve(A, b).sum())(b)
    assert ad.grad(lambda b: solve(A, b).sum())(b).shape == (2,)


def test_a_wrong_rule_is_said():
    short = ad.custom_vjp(np.linalg.tensorsolve, solved, lambda r, y_bar: (y_bar, y_bar))
    with pytest.raises(ShapeError, match=r"backward returned shape \(2,\) for an argument of shape \(2, 2\)"):
        ad.grad(lambda a: short(a, b).sum())(A)
    with pytest.raises(ShapeError, match="must return"):
        ad.grad(lambda b: ad.custom_vjp(np.linalg.tensorsolve, np.linalg.tensorsolve, pulled)(A, b).sum())(b)
