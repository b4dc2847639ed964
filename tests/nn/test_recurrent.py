"""Recurrent layers: the published recurrences written out in loops, PyTorch's numbers where it is installed, and derivatives twice."""

import doctest
import importlib

import numpy as np
import pytest

import adjoint as ad
from adjoint import nn
from adjoint.errors import ConfigError, ShapeError
from adjoint.testing import check_grads
from adjoint.tree import flatten, map_tree, unflatten

LAYERS = {"RNN": nn.RNN, "LSTM": nn.LSTM, "GRU": nn.GRU}
CELLS = {"RNN": nn.RNNCell, "LSTM": nn.LSTMCell, "GRU": nn.GRUCell}
kinds = pytest.mark.parametrize("kind", sorted(LAYERS))


def torch_or_skip():
    return pytest.importorskip("torch", reason="PyTorch is not installed: layers are compared with loops only")


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def by_hand(kind, p, x, h, c=None, suffix="_l0"):
    """One sequence [time, batch, inputs] by the formulas of PyTorch's manual, element by element of the gates."""
    w_ih, w_hh, b_ih, b_hh = (p[n + suffix] for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    n, ys = h.shape[1], []
    for x_t in x:
        a, b = x_t @ w_ih.T + b_ih, h @ w_hh.T + b_hh
        if kind == "RNN":
            h = np.tanh(a + b)
        elif kind == "LSTM":
            i, f, g, o = (a + b)[:, :n], (a + b)[:, n:2 * n], (a + b)[:, 2 * n:3 * n], (a + b)[:, 3 * n:]
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        else:
            r, z = sigmoid(a[:, :n] + b[:, :n]), sigmoid(a[:, n:2 * n] + b[:, n:2 * n])
            h = (1 - z) * np.tanh(a[:, 2 * n:] + r * b[:, 2 * n:]) + z * h
        ys.append(h)
    return np.stack(ys), h, c


def state_of(kind, h, c):
    return (h, c) if kind == "LSTM" else h


def close(found, expected, dtype=np.float64):
    """max |a - b| / max |b| within the bound of the dtype."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    bound = 1e-10 if dtype == np.float64 else 1e-5
    assert np.max(np.abs(found - expected), initial=0.0) <= bound * np.max(np.abs(expected), initial=1e-30)


def test_examples_in_docstrings():
    assert doctest.testmod(importlib.import_module("adjoint.nn.recurrent")).failed == 0


@kinds
def test_a_layer_and_a_cell_are_the_recurrence(kind, rng):
    layer = LAYERS[kind](3, 2, rng=rng, dtype=np.float64)
    x, h, c = rng.standard_normal((4, 5, 3)), rng.standard_normal((5, 2)), rng.standard_normal((5, 2))
    y, last, last_c = by_hand(kind, nn.named_parameters(layer), x, h, c)
    found, state = layer(x, state_of(kind, h[None], c[None]))
    close(found, y)
    cell = CELLS[kind](3, 2, rng=rng, dtype=np.float64)
    cell = nn.load_parameters(cell, {n.removesuffix("_l0"): p for n, p in nn.named_parameters(layer).items()})
    carry = state_of(kind, h, c)
    for x_t in x:
        carry = cell(x_t, carry)
    for piece, expected in zip(flatten((state, carry))[0], [last[None], last_c[None], last, last_c] if kind == "LSTM"
                               else [last[None], last], strict=True):
        close(piece, expected)


@kinds
def test_two_directions_two_layers_and_lengths_are_single_sequences(kind, rng):
    layer = LAYERS[kind](3, 2, num_layers=2, bidirectional=True, batch_first=True, rng=rng, dtype=np.float64)
    x, lengths = rng.standard_normal((3, 4, 3)), np.array([4, 1, 2])
    y, state = layer(x, lengths=lengths)
    p, zero = nn.named_parameters(layer), np.zeros((1, 2))
    for b, n in enumerate(lengths):
        inside = x[b, :n, None]
        for k in range(2):
            forward, h, c = by_hand(kind, p, inside, zero, zero, f"_l{k}")
            backward, h_r, c_r = by_hand(kind, p, inside[::-1], zero, zero, f"_l{k}_reverse")
            inside = np.concatenate([forward, backward[::-1]], axis=-1)
            pieces = state if kind == "LSTM" else (state,)
            for piece, one, other in zip(pieces, (h, c), (h_r, c_r), strict=False):
                close(piece[2 * k, b], one[0])
                close(piece[2 * k + 1, b], other[0])
        close(y[b, :n], inside[:, 0])
        assert (y[b, n:] == 0).all()


def test_relu_and_no_bias_and_one_sequence(rng):
    layer = nn.RNN(3, 2, nonlinearity="relu", bias=False, rng=rng, dtype=np.float64)
    x, h = rng.standard_normal((4, 3)), np.zeros(2)
    y, last = layer(x)
    for x_t, y_t in zip(x, y, strict=True):
        h = np.maximum(layer.weight_ih_l0 @ x_t + layer.weight_hh_l0 @ h, 0)
        close(y_t, h)
    close(last, h[None])
    assert list(nn.named_parameters(layer)) == ["weight_hh_l0", "weight_ih_l0"]


def make_pair(torch, kind, dtype, **options):
    ours = LAYERS[kind](3, 4, rng=np.random.default_rng(0), dtype=dtype, **options)
    theirs = getattr(torch.nn, kind)(3, 4, dtype=torch.float64 if dtype == np.float64 else torch.float32, **options)
    return nn.load_parameters(ours, {n: p.detach().numpy() for n, p in theirs.named_parameters()}), theirs


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True}, {"bias": False}],
                         ids=["plain", "both ways twice", "no bias"])
@kinds
def test_as_pytorch(kind, options, dtype, rng):
    torch = torch_or_skip()
    torch.manual_seed(1)
    ours, theirs = make_pair(torch, kind, dtype, **options)
    sides = ours.num_layers * (1 + ours.bidirectional)
    x = rng.standard_normal((5, 6, 3)).astype(dtype)
    h, c = (rng.standard_normal((sides, 5 if ours.batch_first else 6, 4)).astype(dtype) for _ in range(2))
    weight = rng.standard_normal((5, 6, 4 * (1 + ours.bidirectional))).astype(dtype)
    value = lambda m, x, h, c: np.sum(m(x, state_of(kind, h, c))[0] * weight) + sum(np.sum(p * p) for p in flatten(
        m(x, state_of(kind, h, c))[1])[0])
    bars = ad.grad(value, argnums=(0, 1, 2, 3))(ours, x, h, c)
    xt, ht, ct = (torch.from_numpy(a).requires_grad_() for a in (x, h, c))
    y, state = theirs(xt, state_of(kind, ht, ct))
    close(ours(x, state_of(kind, h, c))[0], y.detach().numpy(), dtype)
    total = (y * torch.from_numpy(weight)).sum() + sum((p * p).sum() for p in (state if kind == "LSTM" else (state,)))
    total.backward()
    for name, p in theirs.named_parameters():
        close(nn.named_parameters(bars[0])[name], p.grad.numpy(), dtype)
    for ours_bar, t in zip(bars[1:], (xt, ht, ct) if kind == "LSTM" else (xt, ht), strict=False):
        close(ours_bar, t.grad.numpy(), dtype)


@kinds
def test_lengths_as_pytorch_packs_them(kind, rng):
    torch = torch_or_skip()
    torch.manual_seed(1)
    ours, theirs = make_pair(torch, kind, np.float64, bidirectional=True)
    x, lengths = rng.standard_normal((5, 3, 3)), np.array([3, 5, 1])
    weight = rng.standard_normal((5, 3, 8))
    bar = ad.grad(lambda m: np.sum(m(x, lengths=lengths)[0] * weight))(ours)
    rnn = torch.nn.utils.rnn
    packed, state = theirs(rnn.pack_padded_sequence(torch.from_numpy(x), torch.from_numpy(lengths), enforce_sorted=False))
    y, _ = rnn.pad_packed_sequence(packed, total_length=5)
    found, last = ours(x, lengths=lengths)
    close(found, y.detach().numpy())
    for piece, expected in zip(flatten(last)[0], state if kind == "LSTM" else (state,), strict=True):
        close(piece, expected.detach().numpy())
    (y * torch.from_numpy(weight)).sum().backward()
    for name, p in theirs.named_parameters():
        close(nn.named_parameters(bar)[name], p.grad.numpy())


@kinds
def test_derivatives_to_second_order(kind, rng):
    layer = LAYERS[kind](2, 2, bidirectional=True, rng=rng, dtype=np.float64)
    leaves, structure = flatten(layer)
    x, lengths = rng.standard_normal((3, 2, 2)), np.array([3, 2])
    check_grads(lambda x, *leaves: unflatten(structure, list(leaves))(x, lengths=lengths)[0], x, *leaves, order=2)


@kinds
def test_compiled_is_eager(kind, rng):
    layer = LAYERS[kind](3, 2, num_layers=2, rng=rng, dtype=np.float64)
    x, lengths = rng.standard_normal((4, 5, 3)), np.array([4, 1, 3, 2, 4])
    value = lambda m, x, lengths: np.sum(np.sin(m(x, lengths=lengths)[0]))
    bars, expected = ad.compile(ad.grad(value))(layer, x, lengths), ad.grad(value)(layer, x, lengths)
    for found, wanted in zip(flatten(bars)[0], flatten(expected)[0], strict=True):
        close(found, wanted)


def test_dropout_between_layers_in_training_only(rng):
    layer = nn.LSTM(3, 8, num_layers=2, dropout=0.5, rng=rng)
    x = rng.standard_normal((4, 5, 3)).astype(np.float32)
    plain, seen = layer(x)[0], [nn.training(layer, np.array([0, k]))(x)[0] for k in (1, 1, 2)]
    np.testing.assert_array_equal(seen[0], seen[1])
    assert not np.array_equal(seen[0], seen[2]) and not np.array_equal(seen[0], plain)
    np.testing.assert_array_equal(nn.training(layer, np.array([0, 1]))(x)[1][0][0], layer(x)[1][0][0])   # the first layer's is whole
    with pytest.raises(ConfigError, match="needs a key"):
        nn.training(layer)


def test_what_does_not_fit_is_said(rng):
    layer = nn.LSTM(3, 2, rng=rng)
    x = np.ones((4, 5, 3), np.float32)
    with pytest.raises(ShapeError, match=r"LSTM: the input has shape \(4, 5, 2\), expected \(4, 5, 3\)"):
        layer(x[..., :2])
    with pytest.raises(ShapeError, match="expected \\[time, batch, features\\]"):
        layer(x[0, 0])
    with pytest.raises(ShapeError, match=r"the state has shape \(1, 4, 2\), expected \(1, 5, 2\)"):
        layer(x, (np.zeros((1, 4, 2), np.float32),) * 2)
    with pytest.raises(ShapeError, match="lengths go from 1 to 9, the input has 4"):
        layer(x, lengths=np.array([1, 9, 1, 1, 1]))
    with pytest.raises(ShapeError, match=r"lengths has shape \(2,\)"):
        layer(x, lengths=np.array([1, 2]))
    with pytest.raises(ShapeError, match="GRUCell: the state"):
        nn.GRUCell(3, 2, rng=rng)(x[0], np.zeros((5, 3), np.float32))
    for bad in (lambda: nn.GRU(3, 0, rng=rng), lambda: nn.RNN(3, 2, nonlinearity="sine", rng=rng),
                lambda: nn.LSTM(3, 2, dropout=1.5, rng=rng)):
        with pytest.raises(ConfigError):
            bad()
    assert map_tree(lambda p: p * 0, layer).weight_ih_l0.sum() == 0
