"""Graphs are equal by structure and differ in their variables: what is cached of one serves the other, in whatever order they come."""

import itertools

import numpy as np
import pytest

import adjoint as ad

SUBSETS = [subset for count in (1, 2, 3) for subset in itertools.combinations(range(3), count)]


def with_scan(w, xs, h):
    last, ys = ad.scan(lambda h, x: (np.tanh(h @ w + x),) * 2, h, xs)
    return np.sum(ys ** 2) + np.sum(last)


def in_python(w, xs, h):
    total = 0.0
    for x in xs:
        h = np.tanh(h @ w + x)
        total = total + np.sum(h ** 2)
    return total + np.sum(h)


@pytest.mark.parametrize("order", [1, -1], ids=["few arguments first", "many arguments first"])
def test_a_body_has_its_derivatives_in_any_order(order, rng):
    args = rng.standard_normal((order + 3, order + 3)) / 2, rng.standard_normal((5, 3, order + 3)), rng.standard_normal((3, order + 3))
    for argnums in SUBSETS[::order]:
        expected = ad.grad(in_python, argnums=argnums)(*args)
        for route in (ad.grad(with_scan, argnums=argnums), ad.grad(ad.checkpoint(with_scan), argnums=argnums)):
            for found, wanted in zip(route(*args), expected, strict=True):
                np.testing.assert_allclose(found, wanted, rtol=1e-11, atol=1e-12)
        hvp = lambda f, k: ad.hvp(lambda a: f(*args[:k], a, *args[k + 1:]), args[k], np.ones_like(args[k]))
        np.testing.assert_allclose(hvp(with_scan, argnums[0]), hvp(in_python, argnums[0]), rtol=1e-10, atol=1e-11)
