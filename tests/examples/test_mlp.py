"""The multilayer perceptron: its formula written out, PyTorch's names, and the digits learned."""

import numpy as np
import pytest

from adjoint import nn, train
from adjoint.data import load_digits
from examples.mlp import MLP, fit


@pytest.mark.mission(67, 68)
def test_it_is_the_formula_of_the_lectures(rng, figure):
    model = MLP(3, 4, 5, 2, rng=rng)
    x = rng.normal(size=(1, 3)).astype(np.float32)
    (w1, b1), (w2, b2), (w3, b3) = [(layer.weight, layer.bias) for layer in model.layers]
    by_hand = w3 @ np.maximum(w2 @ np.maximum(w1 @ x[0] + b1, 0.0) + b2, 0.0) + b3
    figure.equal(model(x)[0], by_hand, rel=1e-5)
    figure.equal(sum(array.size for array in nn.named_parameters(model).values()), 3 * 4 + 4 + 4 * 5 + 5 + 5 * 2 + 2)


def test_names():
    names = list(nn.named_parameters(MLP(2, 3, 4, rng=np.random.default_rng(0))))
    assert names == ["layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias"]


def test_it_learns_the_digits():
    done, scale = fit(epochs=5)
    digits = load_digits()
    assert train.error_rate(train.Predictor()(done.model, scale(digits.test_x)), digits.test_y) < 0.05
