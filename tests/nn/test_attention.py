"""Attention against sums written out in loops, against PyTorch where it is installed, its masks, and its derivatives twice."""

import doctest
import importlib

import numpy as np
import pytest

import adjoint as ad
from adjoint import nn
from adjoint.errors import ConfigError, DtypeError, ShapeError
from adjoint.testing import check_grads
from adjoint.tree import flatten, unflatten


def torch_or_skip():
    return pytest.importorskip("torch", reason="PyTorch is not installed: attention is compared with loops only")


def close(found, expected, dtype=np.float64):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    bound = 1e-10 if dtype == np.float64 else 1e-5
    assert np.max(np.abs(found - expected)) <= bound * np.max(np.abs(expected))


def by_hand(q, k, v, seen):
    """One head, query by query and key by key; seen(i, j): whether query i sees key j."""
    y = np.zeros((len(q), v.shape[1]))
    for i, query in enumerate(q):
        weights = {j: np.exp(query @ key / np.sqrt(len(query))) for j, key in enumerate(k) if seen(i, j)}
        for j, weight in weights.items():
            y[i] += weight / sum(weights.values()) * v[j]
    return y


def test_examples_in_docstrings():
    assert doctest.testmod(importlib.import_module("adjoint.nn.attention")).failed == 0


@pytest.mark.parametrize("case", ["all", "causal", "mask", "numbers"])
def test_by_hand(case, rng):
    q, k, v = (rng.standard_normal((2, n, d)) for n, d in ((4, 3), (5, 3), (5, 2)))
    mask = rng.random((4, 5)) < 0.5
    mask[2] = False                                                 # sees nothing, and gets nothing
    options = {"all": {}, "causal": {"is_causal": True}, "mask": {"attn_mask": mask},
               "numbers": {"attn_mask": np.where(mask, 0.0, -np.inf), "is_causal": True}}[case]
    seen = {"all": lambda i, j: True, "causal": lambda i, j: j <= i, "mask": lambda i, j: mask[i, j],
            "numbers": lambda i, j: mask[i, j] and j <= i}[case]
    y = nn.scaled_dot_product_attention(q, k, v, **options)
    close(y, np.stack([by_hand(*three, seen) for three in zip(q, k, v, strict=True)]))
    bar = ad.grad(lambda v: np.sum(nn.scaled_dot_product_attention(q, k, v, **options)))(v)
    assert np.isfinite(bar).all()
    value = lambda q, k, v: nn.scaled_dot_product_attention(q, k, v, **options)
    close(ad.compile(value)(q, k, v), y)
    check_grads(value, q, k, v, order=2)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_function_as_pytorch(dtype, rng):
    torch = torch_or_skip()
    q, k, v, weight = (rng.standard_normal((2, 3, 5, 4)).astype(dtype) for _ in range(4))
    three = [torch.from_numpy(a).requires_grad_() for a in (q, k, v)]
    theirs = torch.nn.functional.scaled_dot_product_attention(*three, is_causal=True)
    (theirs * torch.from_numpy(weight)).sum().backward()
    close(nn.scaled_dot_product_attention(q, k, v, is_causal=True), theirs.detach().numpy(), dtype)
    bars = ad.grad(lambda q, k, v: np.sum(weight * nn.scaled_dot_product_attention(q, k, v, is_causal=True)), argnums=(0, 1, 2))(q, k, v)
    for bar, t in zip(bars, three, strict=True):
        close(bar, t.grad.numpy(), dtype)


PAST, PADDING = np.tri(5, dtype=bool), np.arange(5) >= np.array([[5], [2], [3]])
MASKS = {"none": {}, "causal": {"attn_mask": ~PAST}, "padding": {"key_padding_mask": PADDING},
         "both": {"attn_mask": np.where(PAST, 0.0, -np.inf), "key_padding_mask": PADDING},
         "per head": {"attn_mask": np.arange(6 * 25).reshape(6, 5, 5) % 7 == 1}}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("batch_first", [True, False])
def test_layer_as_pytorch(masks, batch_first, dtype, rng):
    torch = torch_or_skip()
    torch.manual_seed(0)
    kind = torch.float64 if dtype == np.float64 else torch.float32
    theirs = torch.nn.MultiheadAttention(4, 2, batch_first=batch_first, dtype=kind)
    torch.nn.init.normal_(theirs.in_proj_bias)
    ours = nn.MultiheadAttention(4, 2, batch_first=batch_first, dtype=dtype, rng=rng)
    ours = nn.load_parameters(ours, {n: p.detach().numpy() for n, p in theirs.named_parameters()})
    shape = (3, 5, 4) if batch_first else (5, 3, 4)
    x, memory, weight = (rng.standard_normal(shape).astype(dtype) for _ in range(3))
    given = {n: m.astype(dtype) if m.dtype.kind == "f" else m for n, m in MASKS[masks].items()}
    passed = {n: torch.from_numpy(m) for n, m in given.items()}
    if masks == "both":                                             # PyTorch wants masks of one kind
        passed["key_padding_mask"] = torch.zeros(3, 5, dtype=kind).masked_fill(passed["key_padding_mask"], float("-inf"))
    xt, mt = torch.from_numpy(x).requires_grad_(), torch.from_numpy(memory).requires_grad_()
    y, weights = theirs(xt, mt, mt, **passed)
    found, own_weights = ours(x, memory, memory, **given)
    close(found, y.detach().numpy(), dtype)
    close(own_weights, weights.detach().numpy(), dtype)
    (y * torch.from_numpy(weight)).sum().backward()
    bars = ad.grad(lambda m, x, memory: np.sum(weight * m(x, memory, memory, need_weights=False, **given)[0]), argnums=(0, 1, 2))(
        ours, x, memory)
    for name, p in theirs.named_parameters():
        close(nn.named_parameters(bars[0])[name], p.grad.numpy(), dtype)
    close(bars[1], xt.grad.numpy(), dtype)
    close(bars[2], mt.grad.numpy(), dtype)


def test_a_layer_is_its_heads(rng):
    layer = nn.MultiheadAttention(4, 2, batch_first=True, rng=rng, dtype=np.float64)
    x = rng.standard_normal((3, 5, 4))
    q, k, v = np.split(x @ layer.in_proj_weight.T, 3, axis=-1)
    past, parts = lambda i, j: j <= i, (slice(0, 2), slice(2, 4))
    heads = [[by_hand(q[b][:, part], k[b][:, part], v[b][:, part], past) for part in parts] for b in range(3)]
    expected = np.stack([np.concatenate(h, axis=-1) for h in heads]) @ layer.out_proj.weight.T
    close(layer(x, x, x, is_causal=True)[0], expected)
    close(layer(x[0], x[0], x[0], is_causal=True)[0], expected[0])
    _, weights = layer(x, x, x, is_causal=True, need_weights=False)
    assert weights is None and list(nn.named_parameters(layer)) == ["in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"]
    leaves, structure = flatten(layer)
    padding = np.arange(5) >= np.array([[5], [2], [3]])
    value = lambda x, *leaves: unflatten(structure, list(leaves))(x, x, x, padding, is_causal=True)[0]
    check_grads(value, x, *leaves, order=2)
    gradient = ad.grad(lambda *a: np.sum(np.sin(value(*a))), argnums=(0, 1, 2, 3))
    for a, b in zip(ad.compile(gradient)(x, *leaves), gradient(x, *leaves), strict=True):
        close(a, b)


def test_dropout_of_weights_in_training_only(rng):
    layer, x = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True, rng=rng), np.ones((2, 6, 8), np.float32)
    trained = [nn.training(layer, np.array([0, k]))(x, x, x)[0] for k in (1, 1, 2)]
    np.testing.assert_array_equal(trained[0], trained[1])
    assert not np.array_equal(trained[0], trained[2]) and not np.array_equal(trained[0], layer(x, x, x)[0])
    with pytest.raises(ConfigError, match="needs a key"):
        nn.training(layer)


def test_what_does_not_fit_is_said(rng):
    with pytest.raises(ConfigError, match="5 features cannot be shared by 2 heads"):
        nn.MultiheadAttention(5, 2, rng=rng)
    with pytest.raises(ConfigError, match=r"dropout is 1\.0"):
        nn.MultiheadAttention(4, 2, dropout=1.0, rng=rng)
    layer = nn.MultiheadAttention(4, 2, rng=rng)
    x = np.ones((5, 3, 4), np.float32)
    with pytest.raises(ShapeError, match="the last of 4 features"):
        layer(x, x, x[..., :3])
    with pytest.raises(DtypeError, match="query is int64"):
        layer(x.astype(int), x, x)
    with pytest.raises(ShapeError, match="differ in their last axis"):
        nn.scaled_dot_product_attention(x, x[..., :2], x)
