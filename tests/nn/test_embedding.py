"""Embedding and one-hot vectors: rows that are looked up, cotangents that are added where they came from."""

import doctest
import importlib

import numpy as np
import pytest

import adjoint as ad
from adjoint import nn
from adjoint.errors import ConfigError, DtypeError, IndexRangeError
from adjoint.testing import check_grads


def test_examples_in_docstrings():
    assert doctest.testmod(importlib.import_module("adjoint.nn.embedding")).failed == 0


def test_a_row_for_each_symbol_and_equal_symbols_add_up(rng):
    table = nn.Embedding(4, 3, rng=rng, dtype=np.float64)
    x, bar = np.array([[2, 0, 2], [1, 2, 0]]), rng.standard_normal((2, 3, 3))
    np.testing.assert_array_equal(table(x), [[table.weight[i] for i in row] for row in x])
    expected = np.zeros((4, 3))
    for row, bars in zip(x, bar, strict=True):
        for i, b in zip(row, bars, strict=True):
            expected[i] += b
    value = lambda m, x: np.sum(m(x) * bar)
    np.testing.assert_allclose(ad.grad(value)(table, x).weight, expected, rtol=1e-14)
    np.testing.assert_allclose(ad.compile(ad.grad(value))(table, x).weight, expected, rtol=1e-14)
    check_grads(lambda w: nn.load_parameters(table, {"weight": w})(x) if isinstance(w, np.ndarray) else w[x], table.weight)


@pytest.mark.parametrize("padding", [1, -3])
def test_padding_starts_at_zero_and_stays(padding, rng):
    table = nn.Embedding(4, 2, padding, rng=rng, dtype=np.float64)
    assert (table.weight[1] == 0).all() and table.weight[0].all() and table.padding_idx == 1
    moved = nn.load_parameters(table, {"weight": table.weight + 1.0})
    x = np.array([1, 3, 1])
    np.testing.assert_array_equal(moved(x), moved.weight[x])
    for gradient in (ad.grad, lambda f: ad.compile(ad.grad(f))):
        np.testing.assert_array_equal(gradient(lambda m: np.sum(m(x)))(moved).weight, [[0, 0], [0, 0], [0, 0], [1, 1]])


def test_as_pytorch(rng):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: embeddings are compared with loops only")
    theirs = torch.nn.Embedding(5, 3, padding_idx=2)
    ours = nn.load_parameters(nn.Embedding(5, 3, 2, rng=rng), {"weight": theirs.weight.detach().numpy()})
    x, bar = rng.integers(0, 5, (4, 6)), rng.standard_normal((4, 6, 3)).astype(np.float32)
    y = theirs(torch.from_numpy(x))
    (y * torch.from_numpy(bar)).sum().backward()
    np.testing.assert_array_equal(ours(x), y.detach().numpy())
    np.testing.assert_allclose(ad.grad(lambda m: np.sum(m(x) * bar))(ours).weight, theirs.weight.grad.numpy(), rtol=1e-5, atol=1e-6)


def test_one_hot_and_its_products(rng):
    x, w, v = np.array([[2, 0, 1], [2, 2, 1]]), rng.standard_normal((3, 4)), rng.standard_normal((4, 3))
    y = nn.one_hot(x, 3, np.float64)
    np.testing.assert_array_equal(y, np.eye(3)[x])
    assert nn.one_hot(x, 3).dtype == np.float32 and ad.compile(lambda x: nn.one_hot(x, 3))(x).dtype == np.float32
    weight = rng.standard_normal((2, 3, 4))
    for value in (lambda w, v, x: np.sum((nn.one_hot(x, 3, np.float64) @ w) * weight),
                  lambda w, v, x: np.sum((nn.one_hot(x, 3, np.float64) @ v.T) * weight)):
        eager, compiled = ad.value_and_grad(value, argnums=(0, 1)), ad.compile(ad.value_and_grad(value, argnums=(0, 1)))
        (a, bars), (b, fast) = eager(w, v, x), compiled(w, v, x)
        np.testing.assert_allclose(b, a, rtol=1e-13)
        for bar, other in zip(bars, fast, strict=True):
            np.testing.assert_allclose(other, bar, rtol=1e-13)
        assert not [name for name in compiled.kernels() if name.startswith("contract")], "a one-hot product costs a look-up"


@pytest.mark.parametrize("labels", [np.array([0, 3]), np.array([-1, 0])])
def test_labels_outside_are_refused(labels, rng):
    table = nn.Embedding(3, 2, rng=rng)
    for call in (lambda: table(labels), lambda: nn.one_hot(labels, 3), lambda: ad.compile(lambda x: nn.one_hot(x, 3))(labels),
                 lambda: ad.compile(lambda x: nn.one_hot(x, 3) @ table.weight)(labels)):
        with pytest.raises(IndexRangeError):
            call()
    with pytest.raises(IndexRangeError):
        ad.compile(lambda x: table(x))(labels)


def test_what_does_not_fit_is_said(rng):
    table = nn.Embedding(3, 2, rng=rng)
    with pytest.raises(DtypeError, match="labels are float64"):
        table(np.zeros(2))
    with pytest.raises(DtypeError, match="labels are float64"):
        nn.one_hot(np.zeros(2), 3)
    with pytest.raises(ConfigError, match="padding_idx is 3"):
        nn.Embedding(3, 2, 3, rng=rng)
