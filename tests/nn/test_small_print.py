"""What layers promise in passing: first values, masks together, single sequences, padding; most of it was a mutant that lived."""

import numpy as np
import pytest

import adjoint as ad
from adjoint import nn


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
