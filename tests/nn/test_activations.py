"""Activations: values, kinks and extremes by formula; and what the lectures say of them, measured."""

import math

import numpy as np
import pytest

import adjoint as ad
from adjoint import nn
from adjoint.data import load_digits
from adjoint.errors import ConfigError, ShapeError

POINTS = np.array([-30.0, -2.0, -0.5, 0.0, 0.5, 2.0, 30.0])


def slopes(f, x):
    return ad.grad(lambda x: np.sum(f(x)))(x)


def phi(x):
    return 0.5 * math.erfc(-x / math.sqrt(2.0))


# name: (function, value of one number, derivative there, the one from the left at a kink)
CASES = {
    "relu": (nn.relu, lambda x: max(x, 0.0), lambda x: float(x > 0)),
    "leaky": (lambda x: nn.leaky_relu(x, 0.2), lambda x: x if x > 0 else 0.2 * x, lambda x: 1.0 if x > 0 else 0.2),
    "prelu": (lambda x: nn.prelu(x, np.full(1, 0.3, x.dtype)), lambda x: x if x > 0 else 0.3 * x, lambda x: 1.0 if x > 0 else 0.3),
    "elu": (lambda x: nn.elu(x, 1.5), lambda x: x if x > 0 else 1.5 * math.expm1(x), lambda x: 1.0 if x > 0 else 1.5 * math.exp(x)),
    "sigmoid": (nn.sigmoid, lambda x: 1 / (1 + math.exp(-x)), lambda x: 1 / (1 + math.exp(-x)) / (1 + math.exp(x))),
    "tanh": (nn.tanh, math.tanh, lambda x: 1 / math.cosh(x) ** 2),
    "silu": (nn.silu, lambda x: x / (1 + math.exp(-x)),
             lambda x: (1 + x / (1 + math.exp(x))) / (1 + math.exp(-x))),
    "gelu": (nn.gelu, lambda x: x * phi(x), lambda x: phi(x) + x * math.exp(-x * x / 2) / math.sqrt(2 * math.pi)),
    "gelu tanh": (lambda x: nn.gelu(x, "tanh"), lambda x: x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3))), None),
    "softplus": (nn.softplus, lambda x: math.log1p(math.exp(-abs(x))) + max(x, 0.0), lambda x: 1 / (1 + math.exp(-x))),
    "softplus 2": (lambda x: nn.softplus(x, 2.0, 3.0), lambda x: x if x > 1.5 else math.log1p(math.exp(2 * x)) / 2,
                   lambda x: 1.0 if x > 1.5 else 1 / (1 + math.exp(-2 * x))),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_slopes(name):
    f, value, slope = CASES[name]
    for function, of_gradient in ((f, lambda x: slopes(f, x)), (ad.compile(f), ad.compile(lambda x: slopes(f, x)))):
        np.testing.assert_allclose(function(POINTS), list(map(value, POINTS)), rtol=1e-12, atol=1e-13)
        if slope is not None:
            np.testing.assert_allclose(of_gradient(POINTS), list(map(slope, POINTS)), rtol=1e-11, atol=1e-12)
    assert f(np.float32([1.0])).dtype == np.float32


@pytest.mark.parametrize("name", CASES)
def test_no_overflow_and_no_nan(name):
    f = CASES[name][0]
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        x = np.array([-1000.0, 1000.0])
        assert np.isfinite(f(x)).all() and np.isfinite(slopes(f, x)).all()


def test_log_softmax(rng):
    z = rng.standard_normal((3, 4)) * 300
    expected = np.stack([row - row.max() - math.log(sum(math.exp(v - row.max()) for v in row)) for row in z])
    np.testing.assert_allclose(nn.log_softmax(z), expected, rtol=1e-13, atol=1e-13)
    w = rng.standard_normal((3, 4))
    bar = ad.grad(lambda z: np.sum(w * nn.log_softmax(z)))(z)
    np.testing.assert_allclose(bar, w - np.exp(expected) * w.sum(-1, keepdims=True), atol=1e-13)
    np.testing.assert_allclose(nn.LogSoftmax(0)(z), nn.log_softmax(z.T).T, rtol=1e-14)


def test_slopes_of_prelu_are_learned(rng):
    x, w = rng.standard_normal((4, 3, 2)), rng.standard_normal((4, 3, 2))
    layer = nn.PReLU(3, init=0.25, dtype=np.float64)
    bar = ad.grad(lambda layer: np.sum(layer(x) * w))(layer)
    np.testing.assert_allclose(bar.weight, (w * np.minimum(x, 0.0)).sum((0, 2)), rtol=1e-13)
    with pytest.raises(ShapeError, match=r"slopes \(3,\) for an input float64\[4,2\]"):
        layer(np.ones((4, 2)))
    with pytest.raises(ConfigError, match="'erf'"):
        nn.gelu(x, "erf")


# ------------------------------------------------------------------------------------------------ what the lectures say


@pytest.mark.mission(143)
def test_gradient_flows_through_relu_and_not_through_sigmoids(figure):
    """Ten in a row at their best point: a ReLU passes 1, a sigmoid at most 1/4 each."""
    def deep(f):
        def composed(x):
            for _ in range(10):
                x = f(x)
            return x
        return composed
    figure.equal(ad.grad(deep(nn.relu))(1.0), 1.0)
    figure.at_most(ad.grad(deep(nn.sigmoid))(0.0), 0.25 ** 10)
    figure.equal(ad.grad(nn.sigmoid)(0.0) ** 10, 9.5367431640625e-07)


@pytest.mark.mission(144)
def test_activations_have_no_parameters(figure):
    count = lambda layer: sum(a.size for a in nn.named_parameters(layer).values())
    figure.equal([count(nn.ReLU()), count(nn.Sigmoid()), count(nn.Tanh()), count(nn.LeakyReLU()), count(nn.PReLU(7))], [0, 0, 0, 0, 7])


@pytest.mark.mission(145)
def test_the_jacobian_of_relu_is_diagonal(rng, figure):
    x = rng.standard_normal(20)
    jacobian = ad.jacobian(nn.relu)(x)
    figure.equal(jacobian.shape, (20, 20))
    figure.equal(jacobian, np.diag((x > 0).astype(float)))
    figure.equal(np.count_nonzero(jacobian), np.sum(x > 0))


@pytest.mark.mission(146)
def test_relu_forward_and_backward(rng, figure):
    """h = max(0, h); the upstream gradient where h > 0, else 0."""
    h, upstream = np.array([-1.0, 0.0, 2.0, -3.0, 0.5]), np.array([10.0, 20.0, 30.0, 40.0, 50.0])
    y, pullback = ad.vjp(nn.relu, h)
    figure.equal(y, [0, 0, 2, 0, 0.5])
    figure.equal(pullback(upstream)[0], [0, 0, 30, 0, 50])
    figure.equal(ad.compile(lambda h, u: ad.vjp(nn.relu, h)[1](u)[0])(h, upstream), [0, 0, 30, 0, 50])


@pytest.mark.mission(174)
def test_only_linear_layers_are_one_linear_layer(rng, figure):
    layers = [nn.Linear(m, n, bias=False, rng=rng, dtype=np.float64) for m, n in ((4, 6), (6, 5), (5, 3))]
    x = rng.standard_normal((7, 4))
    w1, w2, w3 = (layer.weight for layer in layers)
    figure.equal(nn.Sequential(*layers)(x), x @ (w3 @ (w2 @ w1)).T, rel=1e-12, abs=1e-14)
    bent = nn.Sequential(layers[0], nn.ReLU(), *layers[1:])
    figure.at_least(np.abs(bent(x) - bent(2 * x) / 2).max() + np.abs(bent(-x) + bent(x)).max(), 0.1)


@pytest.mark.mission(176)
def test_facts_of_the_sigmoid(figure):
    """Range (0, 1), positive, saturated at both ends; its gradient is positive, at most 1/4, and vanishes at both ends."""
    x = np.linspace(-30.0, 30.0, 601)
    y, slope = nn.sigmoid(x), slopes(nn.sigmoid, x)
    figure.equal(slope.max(), 0.25)
    figure.equal(x[np.argmax(slope)], 0.0, abs=1e-12)
    figure.equal(y.min(), 9.357622968839299e-14, rel=1e-12)
    figure.at_most(1.0 - y.max(), 1e-13)
    figure.equal([slope[0], slope[-1]], [9.357622968838424e-14] * 2, rel=1e-2)
    assert (y > 0).all() and (y < 1).all() and (slope > 0).all()


@pytest.mark.mission(177)
def test_positive_inputs_force_one_sign_on_a_units_weights(rng, figure):
    """Behind a sigmoid every gradient of one unit's weights has the sign of its delta; behind tanh about half have."""
    shares = {}
    for f in (nn.sigmoid, nn.tanh):
        layer = nn.Linear(50, 30, rng=rng, dtype=np.float64)
        h = f(rng.standard_normal((1, 50)))
        bars = np.sign(ad.grad(lambda layer, h=h: np.sum(np.sin(layer(h))))(layer).weight)
        shares[f] = np.maximum((bars > 0).mean(1), (bars < 0).mean(1)).mean()
    figure.equal(shares[nn.sigmoid], 1.0)
    figure.at_most(shares[nn.tanh], 0.75)


@pytest.mark.mission(178)
def test_facts_of_tanh(figure):
    x = np.linspace(-15.0, 15.0, 301)
    y, slope = nn.tanh(x), slopes(nn.tanh, x)
    figure.equal([y.min(), y.max()], [-0.9999999999998128, 0.9999999999998128], rel=1e-15)
    figure.equal(y.mean(), 0.0, abs=1e-15)
    figure.equal(slope.max(), 1.0)
    figure.equal([slope[0], slope[-1]], [3.743e-13] * 2, rel=1e-3)
    assert (slope > 0).all()


@pytest.mark.mission(179)
def test_facts_of_relu_and_a_dead_unit(rng, figure):
    x = np.linspace(-1000.0, 1000.0, 401)
    figure.equal([nn.relu(x).min(), nn.relu(x).max()], [0.0, 1000.0])
    figure.equal(slopes(nn.relu, x), (x > 0).astype(float))
    inputs, w = rng.standard_normal((100, 4)), np.array([0.1, 0.1, 0.1, 0.1])
    unit = lambda p: np.sum(np.square(nn.relu(inputs @ p["w"] + p["b"]) - 1.0))
    p = {"w": w, "b": np.array(-9.0)}                                     # never positive on these inputs: dead
    for _ in range(3):
        p = ad.tree.map_tree(lambda a, bar: a - 0.1 * bar, p, ad.grad(unit)(p))
    figure.equal(p["w"], w)
    figure.equal(p["b"], -9.0)


@pytest.mark.mission(180)
def test_leaky_units_do_not_die(rng, figure):
    """h = max(alpha h, h): the same unit, which ReLU leaves dead, learns; with a slope that is learned too."""
    x = np.array([-1e6, -1.0, 0.0, 1.0, 1e6])
    figure.equal(nn.leaky_relu(x, 0.01), np.maximum(0.01 * x, x))
    inputs = rng.standard_normal((100, 4))
    p = {"w": np.full(4, 0.1), "b": np.array(-9.0), "slope": np.array([0.25])}
    loss = lambda p: np.mean(np.square(nn.prelu(inputs @ p["w"] + p["b"], p["slope"]) - 1.0))
    before = loss(p)
    for _ in range(300):
        p = ad.tree.map_tree(lambda a, bar: a - 0.01 * bar, p, ad.grad(loss)(p))
    figure.at_most(loss(p), 1e-3)
    figure.at_least(before, 5.0)
    figure.at_least(abs(p["slope"][0] - 0.25), 0.1)


@pytest.mark.mission(181)
def test_relu_is_where_to_start_and_sigmoids_are_to_be_avoided_in_depth(figure):
    """Eight hidden layers of 32 on the digits, three epochs of one recipe: sigmoids do not leave chance, ReLU and leaky ReLU learn."""
    digits = load_digits()
    x, y = digits.train_x[:3800], digits.train_y[:3800]
    accuracy = {}
    for name, f in (("sigmoid", nn.sigmoid), ("relu", nn.relu), ("leaky", nn.leaky_relu)):
        model = nn.mlp(64, *[32] * 8, 10, activation=f, rng=np.random.default_rng(0), weight_init=nn.init.he_normal)
        gradient = ad.compile(ad.grad(lambda m, x, y: nn.cross_entropy(m(x), y)))
        for _ in range(3):
            for i in range(0, 3800, 50):
                model = ad.tree.map_tree(lambda p, bar: p - np.float32(0.05) * bar, model, gradient(model, x[i:i + 50], y[i:i + 50]))
        accuracy[name] = float(np.mean(np.argmax(model(digits.test_x), axis=1) == digits.test_y))
    figure.at_most(accuracy["sigmoid"], 0.15)
    figure.at_least(accuracy["relu"], 0.8)
    figure.at_least(accuracy["leaky"], 0.8)
