"""Fully connected, convolutional and recurrent layers: what each of them shares, and which data that suits."""

import numpy as np
import pytest

import adjoint as ad
from adjoint import nn
from adjoint.nn.convolution import Conv2d
from adjoint.tree import flatten


def count(model):
    return sum(p.size for p in flatten(model)[0])


@pytest.mark.mission(169)
def test_a_convolution_is_a_connected_layer_that_shares_its_weights(rng, figure):
    layer = Conv2d(1, 1, 3, bias=False, rng=rng, dtype=np.float64)
    x = rng.standard_normal((1, 1, 6, 6))
    matrix = ad.jacobian(lambda x: layer(x).ravel())(x).reshape(16, 36)
    figure.equal(matrix @ x.ravel(), layer(x).ravel())
    figure.equal(np.count_nonzero(matrix), 4 * 4 * 3 * 3)                   # local: nine inputs for each of sixteen outputs
    figure.equal(np.unique(matrix[matrix != 0.0]), np.unique(layer.weight)) # shared: nine numbers in all
    figure.equal(count(nn.Linear(36, 16, bias=False, rng=rng)) / count(layer), 36 * 16 / 9)


@pytest.mark.mission(169)
def test_a_convolution_moves_with_its_image(rng, figure):
    layer = Conv2d(2, 3, 3, rng=rng, dtype=np.float64)
    x = np.zeros((1, 2, 12, 12))
    x[:, :, 4:7, 4:7] = rng.standard_normal((2, 3, 3))
    figure.equal(layer(np.roll(x, (1, 2), axis=(2, 3))), np.roll(layer(x), (1, 2), axis=(2, 3)))
    dense = nn.Linear(288, 300, rng=rng, dtype=np.float64)
    flat = lambda image: dense(image.reshape(1, -1)).reshape(1, 3, 10, 10)
    moved = np.roll(flat(x), (1, 2), axis=(2, 3))
    figure.at_least(np.linalg.norm(flat(np.roll(x, (1, 2), axis=(2, 3))) - moved) / np.linalg.norm(moved), 0.5)


@pytest.mark.mission(169)
@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_a_recurrent_layer_takes_any_length_with_the_same_weights(kind, rng, figure):
    layer = kind(3, 4, rng=rng, dtype=np.float64)
    x = rng.standard_normal((11, 2, 3))
    whole, last = layer(x)
    first, state = layer(x[:4])
    second, end = layer(x[4:], state)
    figure.equal(np.concatenate([first, second]), whole)
    for found, expected in zip(flatten(end)[0], flatten(last)[0], strict=True):
        figure.equal(found, expected)
    figure.equal(count(layer), {nn.RNN: 1, nn.LSTM: 4, nn.GRU: 3}[kind] * 4 * (3 + 4 + 2))


@pytest.mark.mission(169)
def test_the_gradient_of_shared_weights_is_the_sum_over_times(rng, figure):
    cell = nn.RNNCell(3, 4, rng=rng, dtype=np.float64)
    xs = rng.standard_normal((5, 2, 3))

    def run(cells):
        h = np.zeros((2, 4))
        for one, x in zip(cells, xs, strict=True):
            h = one(x, h)
        return np.sum(h * h)
    apart = ad.grad(run)([cell] * 5)                                        # a cell of its own at every time
    shared = ad.grad(lambda cell: run([cell] * 5))(cell)
    figure.equal(shared.weight_hh, sum(g.weight_hh for g in apart))
    figure.equal(shared.weight_ih, sum(g.weight_ih for g in apart))
