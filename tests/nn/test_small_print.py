"""What layers promise in passing: first values, masks together, single sequences, padding; most of it was a mutant that lived."""

import mpmath
import numpy as np
import pytest

import adjoint as ad
from adjoint import nn
from adjoint.errors import ConfigError


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU, nn.RNNCell, nn.LSTMCell, nn.GRUCell])
def test_recurrent_weights_start_within_the_root_of_the_hidden_size(kind):
    layer = kind(400, 25, rng=np.random.default_rng(0))
    for name, array in nn.named_parameters(layer).items():
        assert 0.17 < np.abs(array).max() <= 0.2, name                      # U(-1/sqrt(25), 1/sqrt(25)), not 1/sqrt(400)
        assert np.isclose(array.std(), 0.2 / np.sqrt(3.0), rtol=0.25), name


def test_a_boolean_mask_and_causality_hold_together(rng):
    q, k, v = (rng.standard_normal((4, 3)) for _ in range(3))
    mask = np.array([[True, True, True, True], [False, True, True, True], [True, False, True, True], [True, True, True, False]])
    both = mask & np.tri(4, dtype=bool)
    weights = nn.attention.attention_weights(q, k, mask, is_causal=True)
    np.testing.assert_array_equal(weights > 0, both)
    np.testing.assert_allclose(nn.scaled_dot_product_attention(q, k, v, mask, is_causal=True),
                               nn.scaled_dot_product_attention(q, k, v, both), rtol=1e-13)
    layer = nn.MultiheadAttention(4, 2, rng=rng, dtype=np.float64)
    x = rng.standard_normal((4, 1, 4))
    _, seen = layer(x, x, x, attn_mask=~mask, is_causal=True)               # the layer's masks say what may not be seen
    np.testing.assert_array_equal(seen[0] > 0, both)


def test_one_sequence_has_weights_without_a_batch(rng):
    layer, x = nn.MultiheadAttention(4, 2, rng=rng, dtype=np.float64), rng.standard_normal((3, 4))
    y, weights = layer(x, x, x)
    together, all_weights = layer(x[:, None], x[:, None], x[:, None])
    assert y.shape == (3, 4) and weights.shape == (3, 3)
    np.testing.assert_allclose(y, together[:, 0], rtol=1e-13)
    np.testing.assert_allclose(weights, all_weights[0], rtol=1e-13)


def test_the_padding_row_of_an_embedding_stays(rng):
    symbols = np.array([[0, 1], [1, 2]])
    gradient = ad.grad(lambda m, symbols: np.sum((m(symbols) - 1.0) ** 2))
    for padding_idx in (1, -2):
        table = nn.Embedding(3, 2, padding_idx, rng=rng, dtype=np.float64)
        for found in (gradient(table, symbols).weight, ad.compile(gradient)(table, symbols).weight):
            np.testing.assert_array_equal(table.weight[1], 0.0)
            np.testing.assert_array_equal(found[1], 0.0)
            np.testing.assert_allclose(found[[0, 2]], 2.0 * (table.weight[[0, 2]] - 1.0), rtol=1e-13)


def test_a_model_as_built_evaluates(rng):
    x = 3.0 + rng.standard_normal((6, 2))
    layer = nn.BatchNorm1d(2, dtype=np.float64)
    y, taps = ad.collect_taps(layer)(x)
    np.testing.assert_allclose(y, x / np.sqrt(1.0 + 1e-5), rtol=1e-13)      # by the running values, though no batch was seen yet
    assert taps == {}
    _, taps = ad.collect_taps(nn.training(layer))(x)
    after = nn.absorb(layer, taps)
    expected = (x - 0.1 * x.mean(0)) / np.sqrt(0.9 + 0.1 * x.var(0, ddof=1) + 1e-5)
    np.testing.assert_allclose(after(x), expected, rtol=1e-12)
    np.testing.assert_allclose(nn.training(after)(x).mean(0), 0.0, atol=1e-12)


def test_the_gradient_of_layer_normalization_by_differences(rng):
    layer, x, pull = nn.LayerNorm(4, dtype=np.float64), 5.0 * rng.standard_normal((2, 4)), rng.standard_normal((2, 4))
    f = lambda x: np.sum(layer(x) * pull)
    for place in np.ndindex(2, 4):
        step = np.zeros((2, 4))
        step[place] = 1e-5
        assert np.isclose(ad.grad(f)(x)[place], (f(x + step) - f(x - step)) / 2e-5, rtol=1e-6, atol=1e-8)


def pooled_by_hand(x, size, stride, padding, ceil_mode, include_pad):
    """PyTorch's manual, one window at a time: (means, maxima) of a row."""
    room, n = len(x) + 2 * padding - size, len(x)
    count = (-(-room // stride) if ceil_mode else room // stride) + 1
    if ceil_mode and (count - 1) * stride >= n + padding:                   # the last window starts inside, or in the padding ahead
        count -= 1
    means, maxima = [], []
    for q in range(count):
        start = q * stride - padding
        end = min(start + size, n + padding)
        inside = x[max(start, 0):min(end, n)]
        means.append(inside.sum() / (end - start if include_pad else len(inside)))
        maxima.append(inside.max())
    return means, maxima


@pytest.mark.parametrize("n", [5, 6, 7, 8])
@pytest.mark.parametrize(("size", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (2, 3, 1), (4, 3, 2), (3, 4, 1)])
def test_pooling_by_hand(n, size, stride, padding, rng):
    x = rng.standard_normal(n)
    for ceil_mode in (False, True):
        for include_pad in (False, True):
            means, maxima = pooled_by_hand(x, size, stride, padding, ceil_mode, include_pad)
            options = {"stride": stride, "padding": padding, "ceil_mode": ceil_mode}
            np.testing.assert_allclose(nn.avg_pool(x[None, None], size, count_include_pad=include_pad, **options)[0, 0], means, rtol=1e-13)
            np.testing.assert_array_equal(nn.max_pool(x[None, None], size, **options)[0, 0], maxima)


def test_padding_is_at_most_half_of_a_window():
    for size, padding in ((2, 2), (3, 2), (4, 3)):
        with pytest.raises(ConfigError, match="more than half"):
            nn.max_pool(np.ones((1, 1, 9)), size, padding=padding)


def test_what_cannot_happen_costs_nothing():
    found, gradient = ad.value_and_grad(nn.kl_divergence)(np.log(np.array([[0.25, 0.75, 1e-300]])), np.array([[0.5, 0.5, 0.0]]))
    assert np.isclose(found, 0.5 * np.log(2.0) + 0.5 * np.log(2.0 / 3.0), rtol=1e-14) and gradient[0, 2] == 0.0
    with np.errstate(invalid="ignore"):                                     # 0 log (0 / 0) = 0
        assert nn.kl_divergence(np.array([[0.0, -np.inf]]), np.array([[1.0, 0.0]])) == 0.0


def test_the_constants_of_gelu():
    for x in (-2.5, 0.5, 2.5):
        by_tanh = x / 2 * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf("0.044715") * x ** 3)))
        assert np.isclose(nn.gelu(np.float64(x), "tanh"), float(by_tanh), rtol=1e-13)
        assert np.isclose(nn.gelu(np.float64(x)), float(x * mpmath.ncdf(x)), rtol=1e-13)


def test_keys_have_nothing_of_the_numbers_of_their_key():
    key = np.array([3, 7])
    words = set(nn.random.bits(key, (64,)).tolist())
    keys = nn.random.split(key, 16)
    assert not words & {int(half) for k in keys for half in (*(k & 0xFFFFFFFF), *((k >> 32) & 0xFFFFFFFF))}


def test_the_least_word_gives_a_finite_normal_number(monkeypatch):
    for word in (0, 0xFFFFFFFF):
        monkeypatch.setattr("adjoint.nn.random._words", lambda key, blocks, purpose, word=word: (np.full(blocks, word),) * 4)
        for dtype in (np.float32, np.float64):
            assert np.isfinite(nn.random.normal(np.array([0, 0]), (4,), dtype)).all()       # never the logarithm of 0


def test_of_a_layer_used_twice_the_last_statistics_stay(rng):
    layer, x = nn.BatchNorm1d(2, momentum=1.0, dtype=np.float64), rng.standard_normal((5, 2))
    both = lambda m, x: nn.training(m)(np.exp(nn.training(m)(x)))
    _, taps = ad.collect_taps(both)(layer, x)
    seen = np.exp((x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5))
    np.testing.assert_allclose(nn.absorb(layer, taps).running_mean, seen.mean(0), rtol=1e-12)
    weight = np.array([7.0, 7.0])
    np.testing.assert_array_equal(nn.absorb(layer, {"weight": weight}).weight, layer.weight)         # a tap is no way into parameters
