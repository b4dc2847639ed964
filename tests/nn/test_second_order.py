"""Second derivatives of every layer: H v by forward over reverse, H u by reverse over reverse, <u, H v> = <H u, v>, and differences.

The scalar is sum w sin(y): its Hessian has the layer's own second derivative and the product of its first ones.
"""

import numpy as np
import pytest

import adjoint as ad
from adjoint import nn
from adjoint.tree import flatten, unflatten

D = {"rng": np.random.default_rng(3), "dtype": np.float64}
F64 = {"dtype": np.float64}
SEQUENCE = (3, 4, 5)         # [length, batch, features]


def first(layer):
    """The output of a recurrent layer without its state; the answer of attention without its weights."""
    return lambda x: layer(x)[0]


# name: (layer, shape of x, how it is called)
LAYERS = {
    "Linear": (nn.Linear(5, 3, **D), (4, 5), None),
    "Conv1d": (nn.Conv1d(4, 6, 3, 2, 2, 2, groups=2, **D), (2, 4, 9), None),
    "Conv2d": (nn.Conv2d(2, 3, 3, padding=1, **D), (2, 2, 4, 5), None),
    "ConvTranspose2d": (nn.ConvTranspose2d(2, 3, 3, 2, 1, output_padding=1, **D), (1, 2, 4, 3), None),
    "MaxPool2d": (nn.MaxPool2d(3, 2, 1), (2, 2, 5, 6), None),
    "AvgPool2d": (nn.AvgPool2d(3, 2, 1), (2, 2, 5, 6), None),
    "AdaptiveAvgPool2d": (nn.AdaptiveAvgPool2d((2, 4)), (2, 2, 5, 6), None),
    "AdaptiveMaxPool1d": (nn.AdaptiveMaxPool1d(2), (2, 2, 5), None),
    "BatchNorm1d": (nn.BatchNorm1d(3, **F64), (4, 3), None),
    "BatchNorm1d training": (nn.BatchNorm1d(3, **F64), (4, 3), nn.training),
    "BatchNorm2d training": (nn.BatchNorm2d(3, **F64), (2, 3, 4, 3), nn.training),
    "LayerNorm": (nn.LayerNorm(5, **F64), (4, 5), None),
    "GroupNorm": (nn.GroupNorm(2, 4, **F64), (2, 4, 3, 2), None),
    "RMSNorm": (nn.RMSNorm(5, **F64), (4, 5), None),
    "LocalResponseNorm": (nn.LocalResponseNorm(3, 0.5), (2, 5, 3), None),
    "Dropout training": (nn.Dropout(0.5), (4, 5), lambda layer: nn.training(layer, np.array([1, 2]))),
    "PReLU": (nn.PReLU(3, **F64), (4, 3), None), "LeakyReLU": (nn.LeakyReLU(0.2), (4, 5), None), "ReLU": (nn.ReLU(), (4, 5), None),
    "ELU": (nn.ELU(0.7), (4, 5), None), "GELU": (nn.GELU(), (4, 5), None), "GELU tanh": (nn.GELU("tanh"), (4, 5), None),
    "SiLU": (nn.SiLU(), (4, 5), None), "Sigmoid": (nn.Sigmoid(), (4, 5), None), "Tanh": (nn.Tanh(), (4, 5), None),
    "Softplus": (nn.Softplus(2.0), (4, 5), None), "Softmax": (nn.Softmax(), (4, 5), None), "LogSoftmax": (nn.LogSoftmax(), (4, 5), None),
    "RNN": (nn.RNN(5, 3, **D), SEQUENCE, first), "LSTM": (nn.LSTM(5, 3, **D), SEQUENCE, first), "GRU": (nn.GRU(5, 3, **D), SEQUENCE, first),
    "MultiheadAttention": (nn.MultiheadAttention(4, 2, **D), (3, 2, 4), lambda layer: lambda x: layer(x, x, x)[0]),
}


def dot(a, b) -> float:
    """<a, b> of two trees."""
    return sum(float(np.sum(x * y)) for x, y in zip(flatten(a)[0], flatten(b)[0], strict=True))


def norm(a) -> float:
    return dot(a, a) ** 0.5


def like(tree, rng):
    """A random direction."""
    leaves, structure = flatten(tree)
    return unflatten(structure, [rng.standard_normal(x.shape) for x in leaves])


def moved(tree, direction, step):
    leaves, structure = flatten(tree)
    return unflatten(structure, [x + step * v for x, v in zip(leaves, flatten(direction)[0], strict=True)])


def placed(layer, parameters):
    """The layer with these (possibly traced) arrays at its names."""
    leaves, structure = flatten(layer)
    names = list(nn.named_parameters(layer))
    return unflatten(structure, [parameters.get(n, a) for n, a in zip(names, leaves, strict=True)])


@pytest.mark.parametrize("name", LAYERS)
def test_hessian_both_ways(name):
    layer, shape, call = LAYERS[name]
    rng = np.random.default_rng(len(name))
    x = rng.standard_normal(shape)
    model = nn.trainable(layer, layer)
    call = call or (lambda layer: layer)
    w = rng.standard_normal(np.shape(call(layer)(x)))

    def scalar(point):
        parameters, x = point
        return np.sum(w * np.sin(call(placed(layer, parameters))(x)))
    point = (dict(nn.named_parameters(model)), x)
    gradient = ad.grad(scalar)
    u, v = like(point, rng), like(point, rng)
    forward = ad.hvp(scalar, point, v)
    reverse = ad.vjp(gradient, point)[1](u)[0]
    size = norm(u) * norm(forward) + norm(reverse) * norm(v)
    assert size > 0.0
    assert abs(dot(u, forward) - dot(reverse, v)) <= 1e-12 * size
    step = 1e-5
    difference = (dot(u, gradient(moved(point, v, step))) - dot(u, gradient(moved(point, v, -step)))) / (2 * step)
    assert abs(difference - dot(u, forward)) <= 1e-7 * size
