"""Awkward points of derivatives: kinks, ties, zeros in products, branches not taken, repeated indices."""

import numpy as np
import pytest

from adjoint.core.primitive import bind
from adjoint.primitives import arithmetic, cumulative, indexing, piecewise, reduction, sorting, special
from adjoint.primitives import transcendental as tr
from adjoint.testing import check_grads
from adjoint.transforms.forward import jvp
from adjoint.transforms.reverse import grad, vjp


def second(f):
    """f'' of a function of one number, reverse over reverse."""
    return grad(lambda x: grad(f)(x))


def test_hessian_of_log_squared_at_one():
    f = lambda x: arithmetic.multiply(tr.log(x), tr.log(x))
    assert second(f)(1.0) == 2.0
    assert second(lambda x: tr.raise_to(tr.log(x), 2))(1.0) == 2.0
    assert jvp(grad(f), (1.0,), (1.0,))[1] == 2.0


BRANCHES = {
    "sqrt": lambda x: tr.sqrt(x - 5.0), "log": lambda x: tr.log(x - 5.0), "divide": lambda x: 1.0 / (x - 5.0),
    "product": lambda x: tr.sqrt(x - 5.0) * x, "nested": lambda x: tr.log(tr.sqrt(x - 5.0)) * tr.sin(x),
    "power": lambda x: (x - 5.0) ** 1.5, "arccosh": lambda x: tr.arccosh(x - 5.0), "cube root": lambda x: tr.cbrt(x - 5.0),
    "logaddexp": lambda x: special.logaddexp(tr.log(x - 5.0), x),
}


@pytest.mark.parametrize("name", BRANCHES)
@pytest.mark.parametrize("x", [0.0, 4.0, 5.0, -3.0])
def test_a_branch_not_taken_has_no_derivative_at_any_order(name, x):
    f = lambda x: arithmetic.where(x > 5.0, BRANCHES[name](x), x)
    with np.errstate(all="ignore"):
        assert grad(f)(x) == 1.0
        assert second(f)(x) == 0.0
        assert second(lambda x: grad(f)(x) * x)(x) == 0.0
        assert jvp(f, (x,), (1.0,))[1] == 1.0
        assert jvp(grad(f), (x,), (1.0,))[1] == 0.0


@pytest.mark.parametrize(("n", "values"), [(1, (1, 0, 0)), (2, (0, 2, 0)), (3, (0, 0, 6)), (0, (0, 0, 0)), (4, (0, 0, 0))])
def test_powers_at_zero_are_exact(n, values):
    for f in (lambda x: tr.integer_power(x, n=n), lambda x: tr.power(x, float(n)), lambda x: tr.power(x, np.float64(n))):
        g = grad(f)
        assert (g(0.0), second(f)(0.0), grad(second(f))(0.0)) == values


def test_power_of_negative_bases_and_mixed_second_derivative():
    assert grad(lambda x: tr.power(x, 3.0))(-2.0) == 12.0
    mixed = grad(lambda y: grad(lambda x: tr.power(x, y))(2.0))(0.0)       # d/dy of y x^(y-1) at y = 0 is 1/x
    assert mixed == 0.5


def test_ties_share_equally():
    x = np.array([1.0, 3.0, 3.0, 3.0])
    np.testing.assert_allclose(grad(lambda x: reduction.max_(x, axes=(0,)))(x), [0, 1 / 3, 1 / 3, 1 / 3])
    np.testing.assert_allclose(grad(lambda x: reduction.min_(x, axes=(0,)))(-x), [0, 1 / 3, 1 / 3, 1 / 3])
    assert grad(lambda x: piecewise.maximum(x, 0.0))(0.0) == 0.5 and grad(piecewise.relu)(0.0) == 0.0
    assert grad(piecewise.absolute)(0.0) == 0.0
    of_nan = grad(lambda x: reduction.max_(x, axes=(0,)))(np.array([np.nan, 1.0]))
    np.testing.assert_array_equal(of_nan, [0, 0])


def test_products_with_zeros():
    product = lambda x: reduction.prod(x, axes=(0,))
    np.testing.assert_array_equal(grad(product)(np.array([2.0, 0.0, 3.0])), [0, 6, 0])
    np.testing.assert_array_equal(grad(product)(np.array([2.0, 0.0, 0.0])), [0, 0, 0])
    rows = [grad(lambda x, i=i: bind(indexing.gather, grad(product)(x), np.array(i)))(np.array([2.0, 0.0, 0.0])) for i in range(3)]
    np.testing.assert_array_equal(rows, [[0, 0, 0], [0, 0, 2], [0, 2, 0]])
    last = lambda x: bind(indexing.gather, cumulative.cumprod(x, axis=0, reverse=False), np.array(2))
    np.testing.assert_array_equal(grad(last)(np.array([2.0, 0.0, 3.0])), [0, 6, 0])


def test_repeated_indices():
    x, index = np.array([1.0, 2.0, 3.0]), np.array([2, 2, 0])
    np.testing.assert_array_equal(grad(lambda x: reduction.sum_(indexing.gather(x, index), axes=(0,)))(x), [1, 0, 2])
    w = np.array([5.0, 7.0, 11.0])
    _, pullback = vjp(lambda x, u: indexing.scatter(x, u, index), x, np.array([1.0, 2.0, 3.0]))
    x_bar, u_bar = pullback(w)
    np.testing.assert_array_equal(x_bar, [0, 7, 0])
    np.testing.assert_array_equal(u_bar, [0, 11, 5])


def test_sorting_follows_the_elements():
    w = np.array([1.0, 10.0, 100.0])
    f = lambda x: reduction.sum_(sorting.sort(x, axis=0) * w, axes=(0,))
    np.testing.assert_array_equal(grad(f)(np.array([3.0, 1.0, 2.0])), [100, 1, 10])


def test_sinc_at_zero():
    assert grad(special.sinc)(0.0) == 0.0
    assert second(special.sinc)(0.0) == pytest.approx(-np.pi ** 2 / 3, rel=1e-15)


def test_infinite_arguments_of_logaddexp():
    f = lambda x: special.logaddexp(x, -np.inf)
    assert grad(f)(1.0) == 1.0 and grad(f)(-np.inf) == 0.5


def test_check_grads_accepts_trees_and_refuses_wrong_derivatives():
    check_grads(lambda p, n: (tr.tanh(p["w"] * 2.0), p["b"] ** n), {"w": np.ones(3) / 2, "b": np.full((2, 2), 1.5, np.float32)}, 3)
    with pytest.raises(AssertionError, match="differs from differences"):
        check_grads(lambda x: piecewise.floor(x) + piecewise.absolute(x), np.array(0.0))
