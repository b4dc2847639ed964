"""A fully connected layer h' = W h: its two derivatives, the shapes of their products, and the zeros of the Jacobian by the weights."""

import numpy as np
import pytest

import adjoint as ad
from adjoint import nn

INSIDE, OUTSIDE = 5, 3


@pytest.fixture
def layer(rng):
    return nn.Linear(INSIDE, OUTSIDE, bias=False, rng=rng, dtype=np.float64)


@pytest.mark.mission(140)
def test_the_derivatives_of_a_connected_layer(layer, rng, figure):
    h = rng.standard_normal(INSIDE)
    figure.equal(layer(h), [sum(layer.weight[i, j] * h[j] for j in range(INSIDE)) for i in range(OUTSIDE)])
    figure.equal(ad.jacobian(layer)(h), layer.weight)                                            # dh' / dh = W
    for i in range(OUTSIDE):
        by_row = ad.grad(lambda m, i=i: m(h)[i])(layer).weight[i]
        figure.equal(by_row, h)                                                                  # dh'_i / dw_i = h^T


@pytest.mark.mission(141)
def test_the_shapes_of_its_products(layer, rng, figure):
    h, upstream = rng.standard_normal(INSIDE), rng.standard_normal((1, OUTSIDE))
    bar = ad.grad(lambda h: (upstream @ layer(h))[0])(h)[None]
    figure.equal(bar.shape, (1, INSIDE))                                                         # 1 x in = (1 x out) (out x in)
    figure.equal((*upstream.shape, *layer.weight.shape), (1, OUTSIDE, OUTSIDE, INSIDE))
    figure.equal(bar, upstream @ layer.weight)


@pytest.mark.mission(142)
def test_the_jacobian_by_the_weights_is_sparse(layer, rng, figure):
    h, upstream = rng.standard_normal(INSIDE), rng.standard_normal(OUTSIDE)
    full = ad.jacobian(lambda weight: h @ weight.T)(layer.weight)
    figure.equal(full.shape, (OUTSIDE, OUTSIDE, INSIDE))
    figure.equal(np.count_nonzero(full), OUTSIDE * INSIDE)                                       # of 45 entries, 15
    for i in range(OUTSIDE):
        rows = np.zeros((OUTSIDE, INSIDE))
        rows[i] = h                                                                              # [0; dh'_i / dw_i; 0]
        figure.equal(full[:, i], rows)
        figure.equal(ad.grad(lambda m: upstream @ m(h))(layer).weight[i], upstream @ rows)       # dL / dw_i
