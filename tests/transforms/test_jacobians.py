"""Jacobians and Hessians of trees, linear programs, batching: shapes, structures, modes, edges."""

import doctest
import importlib

import numpy as np
import pytest

import adjoint as ad
from adjoint.errors import ConfigError, ShapeError


@pytest.mark.parametrize("module", ["reverse", "forward", "batch", "linearize", "derivatives", "custom", "checkpoint", "taps", "table"])
def test_examples_in_docstrings(module):
    found = doctest.testmod(importlib.import_module(f"adjoint.transforms.{module}"))
    assert found.attempted > 0 and found.failed == 0


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", ["auto", "forward", "reverse"])
def test_a_jacobian_of_trees(mode, rng):
    x = {"a": rng.standard_normal((2, 3)), "b": rng.standard_normal(4), "n": 5}

    def f(x):
        return [np.outer(x["b"], x["a"][0]), (np.sum(x["a"] * x["a"]), x["b"] * 2.0)]
    found = ad.jacobian(f, mode=mode)(x)
    outer, (square, twice) = found
    assert outer["a"].shape == (4, 3, 2, 3) and outer["b"].shape == (4, 3, 4) and outer["n"] is None
    close(outer["b"], np.einsum("ik,j->ijk", np.eye(4), x["a"][0]))
    close(outer["a"][:, :, 0], np.einsum("i,jk->ijk", x["b"], np.eye(3)))
    close(square["a"], 2 * x["a"])
    close(square["b"], np.zeros(4))
    close(twice["b"], 2 * np.eye(4))


@pytest.mark.parametrize("mode", ["auto", "forward", "reverse"])
def test_several_arguments_and_empty_ones(mode):
    found = ad.jacobian(lambda x, w: x * w, argnums=(0, 1), mode=mode)(np.array([1.0, 2.0]), np.float64(3.0))
    close(found[0], 3.0 * np.eye(2))
    close(found[1], [1.0, 2.0])
    assert ad.jacobian(lambda x: x * 2.0, mode=mode)(np.zeros(0)).shape == (0, 0)
    assert ad.jacobian(lambda x: x[:0], mode=mode)(np.zeros(3)).shape == (0, 3)
    assert ad.jacobian(lambda x: np.sum(x) * np.ones(2), mode=mode)(np.zeros(0)).shape == (2, 0)
    assert ad.jacobian(np.sin, mode=mode)(np.ones(2, np.float32)).dtype == np.float32


def test_an_unknown_mode_is_refused():
    with pytest.raises(ConfigError, match="sideways"):
        ad.jacobian(np.sin, mode="sideways")


def test_the_cheaper_mode_is_taken():
    calls = []

    def counted(x):
        calls.append(1)
        return np.sum(x * x)
    close(ad.jacobian(counted)(np.ones(50)), 2 * np.ones(50))
    assert len(calls) == 1
    close(ad.jacobian(lambda x: counted(x) * np.ones(50))(np.ones(2)), np.full((50, 2), 2.0))
    assert len(calls) == 3
    branching = lambda x: x * 3.0 if x[0] > 0 else x
    close(ad.jacobian(branching)(np.ones(2)), 3.0 * np.eye(2))


def test_hessian_and_its_product(rng):
    a = rng.standard_normal((4, 4))
    f = lambda x: np.sum((a @ x) ** 3)
    x, v = rng.standard_normal(4), rng.standard_normal(4)
    expected = 6 * (a.T * (a @ x)) @ a
    close(ad.hessian(f)(x), expected)
    close(ad.hvp(f, x, v), expected @ v)
    tree = {"x": x, "s": np.float64(2.0)}
    close(ad.hvp(lambda t: f(t["x"]) * t["s"], tree, {"x": v, "s": np.float64(0.0)})["x"], 2.0 * expected @ v)


def test_a_linear_program_is_linear_and_known_parts_are_done(rng):
    x = rng.standard_normal(30)
    calls = []

    def f(x):
        calls.append(1)
        return np.sum(np.exp(np.sin(x)) * x), x * x
    (y, square), f_dot = ad.linearize(f, x)
    e = [rng.standard_normal(30) for _ in range(3)]
    for v in e:
        close(f_dot(v)[0], ad.jvp(f, (x,), (v,))[1][0])
    close(f_dot(e[0] + 2.0 * e[1])[1], f_dot(e[0])[1] + 2.0 * f_dot(e[1])[1])
    assert len(calls) == 1 + 3 and y == f(x)[0] and square is not x
    assert not {"exp", "sin", "cos"} & {node.primitive.name for node in f_dot.graph.nodes}
    close(ad.grad(lambda w: ad.linearize(lambda x: np.sin(x * w), np.float64(0.5))[1](np.float64(1.0)))(np.float64(2.0)),
          np.cos(1.0) - np.sin(1.0))
    assert ad.linearize(lambda x, n: x * n, np.ones(2), 3)[1](np.ones(2), None).tolist() == [3.0, 3.0]


def test_jvp_checks_its_tangents():
    with pytest.raises(ShapeError, match="tangent"):
        ad.jvp(np.sin, (np.ones(3),), (np.ones(2),))
    y, y_dot = ad.jvp(lambda x, n: (x * n, n), (np.ones(2), 3), (np.ones(2), None))
    assert y_dot[0].tolist() == [3.0, 3.0] and y_dot[1] is None and y[1] == 3


# ------------------------------------------------------------------------------------------------ vmap


def test_vmap_is_a_loop(rng):
    x, w = rng.standard_normal((5, 3)), rng.standard_normal((3, 2, 5))
    f = lambda x, w, b: (np.tanh(x @ w) + b, {"s": np.sum(x)})
    y, aux = ad.vmap(f, in_axes=(0, 2, None))(x, w, np.float64(1.0))
    close(y, np.stack([f(x[i], w[:, :, i], 1.0)[0] for i in range(5)]))
    close(aux["s"], x.sum(1))
    close(ad.vmap(lambda x: x * 2.0, out_axes=1)(x), (2 * x).T)
    close(ad.vmap(lambda x: np.ones(2))(x), np.ones((5, 2)))
    close(ad.vmap(ad.vmap(lambda a, b: a * b, in_axes=(None, 0)), in_axes=(0, None))(x[:, 0], x[:, 1]), np.outer(x[:, 0], x[:, 1]))


def test_vmap_names_what_does_not_fit():
    with pytest.raises(ShapeError, match="batch sizes differ"):
        ad.vmap(np.add)(np.ones(3), np.ones(4))
    with pytest.raises(ShapeError, match="has no axis"):
        ad.vmap(np.sin)(np.float64(1.0))
    with pytest.raises(ShapeError, match="no argument has a batch axis"):
        ad.vmap(np.sin, in_axes=(None,))(np.ones(3))
    with pytest.raises(ShapeError, match="names 1 arguments"):
        ad.vmap(np.add, in_axes=(0,))(np.ones(3), np.ones(3))


def test_per_example_gradients(rng):
    x, y, w = rng.standard_normal((6, 3)), rng.standard_normal(6), rng.standard_normal(3)
    one = lambda w, x, y: (x @ w - y) ** 2
    found = ad.vmap(ad.grad(one), in_axes=(None, 0, 0))(w, x, y)
    close(found, 2 * (x @ w - y)[:, None] * x)
    close(ad.grad(lambda w: np.mean(ad.vmap(one, in_axes=(None, 0, 0))(w, x, y)))(w), found.mean(0))
