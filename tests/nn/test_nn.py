"""Modules, layers, losses, initial values: names as PyTorch's, formulas by hand, derivatives at the kinks as written down."""

import dataclasses
import doctest
import importlib

import numpy as np
import pytest

import adjoint as ad
from adjoint import nn
from adjoint.errors import ConfigError, DtypeError, IndexRangeError, ShapeError, TreeError
from adjoint.tree import flatten, leaf, unflatten


def close(found, expected, rtol=1e-12):
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-12)


@pytest.mark.parametrize("module", ["module", "layers", "losses", "activations", "init"])
def test_examples_in_docstrings(module):
    assert doctest.testmod(importlib.import_module(f"adjoint.nn.{module}")).failed == 0


@pytest.fixture
def model(rng):
    return nn.Sequential(nn.Linear(4, 3, rng=rng, dtype=np.float64), nn.relu, nn.Linear(3, 2, rng=rng, dtype=np.float64))


def test_a_model_is_a_frozen_tree(model):
    leaves, structure = flatten(model)
    assert [x.shape for x in leaves] == [(3, 4), (3,), (2, 3), (2,)]
    twin = unflatten(structure, leaves)
    assert flatten(twin)[1] == structure and twin[0].weight is model[0].weight
    with pytest.raises(AttributeError):
        model[0].weight = leaves[0]
    assert repr(model[0]) == "Linear(weight=float64[3,4], bias=float64[3])"


def test_parameter_names_are_those_of_pytorch(model):
    assert list(nn.named_parameters(model)) == ["0.weight", "0.bias", "2.weight", "2.bias"]

    class Net(nn.Module):
        fc1: nn.Linear
        blocks: list
        temperature: float = leaf(1.0)

        def __call__(self, x):
            return self.fc1(x) * self.temperature
    rng = np.random.default_rng(0)
    net = Net(nn.Linear(2, 2, bias=False, rng=rng), [nn.Linear(2, 1, rng=rng)], 2.0)
    assert list(nn.named_parameters(net)) == ["fc1.weight", "blocks.0.weight", "blocks.0.bias", "temperature"]
    assert ad.grad(lambda m: np.sum(m(np.ones((3, 2)))))(net).temperature != 0


def test_parameters_travel(model, rng):
    other = nn.mlp(4, 3, 2, activation=nn.relu, rng=rng, dtype=np.float64)
    loaded = nn.load_parameters(other, nn.named_parameters(model))
    x = rng.standard_normal((5, 4))
    np.testing.assert_array_equal(loaded(x), model(x))
    assert loaded[0].weight is not model[0].weight
    parameters = nn.named_parameters(model)
    with pytest.raises(TreeError, match=r"missing: 0.bias.*unexpected: 0.b"):
        nn.load_parameters(other, {("0.b" if k == "0.bias" else k): v for k, v in parameters.items()})
    with pytest.raises(ShapeError, match=r"2.weight is \(3, 2\), the model has \(2, 3\)"):
        nn.load_parameters(other, parameters | {"2.weight": parameters["2.weight"].T})


def test_linear_by_hand(rng):
    layer = nn.Linear(3, 2, rng=rng)
    x = rng.standard_normal((5, 3)).astype(np.float32)
    np.testing.assert_array_equal(layer(x), x @ layer.weight.T + layer.bias)
    assert layer(x).dtype == np.float32
    assert nn.Linear(3, 2, bias=False, rng=rng).bias is None
    with pytest.raises(ShapeError, match="3 features"):
        layer(np.ones((5, 4), np.float32))
    assert nn.Flatten()(np.ones((5, 2, 3))).shape == (5, 6)


def test_only_linear_layers_are_one_linear_layer(rng):
    layers = [nn.Linear(4, 5, bias=False, rng=rng, dtype=np.float64), nn.Linear(5, 3, bias=False, rng=rng, dtype=np.float64)]
    x = rng.standard_normal((6, 4))
    close(nn.Sequential(*layers)(x), x @ (layers[1].weight @ layers[0].weight).T)


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("smoothing", [0.0, 0.05, 0.3])
def test_cross_entropy_and_its_gradient(rng, smoothing):
    z, y = rng.standard_normal((6, 4)), np.array([0, 3, 1, 1, 2, 0])
    q = np.eye(4)[y] * (1 - smoothing) + smoothing / 4
    value, bar = ad.value_and_grad(lambda z: nn.cross_entropy(z, y, label_smoothing=smoothing))(z)
    close(value, -(q * np.log(softmax(z))).sum(-1).mean())
    close(bar, (softmax(z) - q) / 6)
    close(ad.hessian(lambda z: nn.cross_entropy(z, y[:2], label_smoothing=smoothing))(z[:2])[0, :, 0, :],
          (np.diag(softmax(z)[0]) - np.outer(softmax(z)[0], softmax(z)[0])) / 2)


def test_cross_entropy_does_not_overflow():
    z = np.array([[1000.0, -1000.0, 0.0], [-np.inf, 0.0, 0.0]])
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        value, bar = ad.value_and_grad(lambda z: nn.cross_entropy(z, np.array([1, 2])))(z)
    close(value, (2000.0 + np.log(2.0)) / 2)
    assert np.isfinite(bar).all()
    assert nn.cross_entropy(z[:1].astype(np.float32), np.array([0])).dtype == np.float32


def test_cross_entropy_checks_labels():
    z = np.zeros((2, 3))
    with pytest.raises(ShapeError, match="need labels"):
        nn.cross_entropy(z, np.zeros((2, 3), int))
    with pytest.raises(DtypeError, match="integers"):
        nn.cross_entropy(z, np.zeros(2))
    with pytest.raises(IndexRangeError, match="0 to 2"):
        nn.cross_entropy(z, np.array([0, 3]))


@pytest.mark.parametrize("score", [-800.0, -2.0, 0.0, 3.0, 800.0])
def test_logistic_loss(score):
    with np.errstate(over="raise", invalid="raise"):
        value, bar = ad.value_and_grad(lambda s: nn.logistic_loss(s, np.array([-1.0])))(np.array([score]))
    close(value, np.logaddexp(0.0, score))
    close(bar, [0.5 * (1.0 + np.tanh(score / 2))])


def test_squared_error(rng):
    p, t = rng.standard_normal((3, 2)), rng.standard_normal((3, 2))
    value, bar = ad.value_and_grad(nn.squared_error)(p, t)
    close(value, np.mean((p - t) ** 2))
    close(bar, 2 * (p - t) / 6)
    with pytest.raises(ShapeError):
        nn.squared_error(p, t[:, 0])


def test_activations_and_their_kinks(rng):
    x = np.array([-2.0, -0.5, 0.0, 0.5, 2.0])
    slope = lambda f: ad.grad(lambda x: np.sum(f(x)))(x)
    close(nn.relu(x), [0, 0, 0, 0.5, 2])
    close(slope(nn.relu), [0, 0, 0, 1, 1])
    close(nn.leaky_relu(x), [-0.02, -0.005, 0, 0.5, 2])
    close(slope(nn.leaky_relu), [0.01, 0.01, 0.01, 1, 1])
    close(nn.sigmoid(x), 1 / (1 + np.exp(-x)))
    assert slope(nn.sigmoid).max() == 0.25
    close(slope(nn.tanh), 1 - np.tanh(x) ** 2)
    close(slope(nn.softplus), nn.sigmoid(x))
    close(nn.silu(x), x * nn.sigmoid(x))
    close(nn.gelu(np.array([0.0, 1.0])), [0.0, 0.8413447460685429])
    z = rng.standard_normal((3, 4)) * 400
    close(nn.softmax(z).sum(-1), 1.0)
    for f in (nn.relu, nn.leaky_relu, nn.sigmoid, nn.tanh, nn.softplus, nn.silu, nn.gelu, nn.softmax):
        assert f(np.ones(3, np.float32)).dtype == np.float32


def test_initial_values_have_their_variances():
    rng, shape = np.random.default_rng(0), (400, 300)
    deviation = {nn.init.xavier_uniform: np.sqrt(2 / 700), nn.init.xavier_normal: np.sqrt(2 / 700), nn.init.he_normal: np.sqrt(2 / 300),
                 nn.init.he_uniform: np.sqrt(2 / 300), nn.init.torch_linear: np.sqrt(1 / 900), nn.init.normal: 0.01}
    for draw, expected in deviation.items():
        w = draw(shape, rng)
        assert w.dtype == np.float32 and w.shape == shape
        np.testing.assert_allclose(w.std(), expected, rtol=0.01)
    bound = np.sqrt(6 / 700)
    assert np.abs(nn.init.xavier_uniform(shape, rng)).max() <= bound
    assert (nn.init.constant((2, 2), value=3.0) == 3.0).all()
    with pytest.raises(ShapeError, match="two axes"):
        nn.init.he_normal((3,), rng)


def test_constant_initial_values_are_degenerate():
    model = nn.mlp(3, 4, 2, activation=np.tanh, rng=np.random.default_rng(0), dtype=np.float64,
                   weight_init=lambda shape, rng, dtype: nn.init.constant(shape, value=0.1, dtype=dtype))
    model = nn.load_parameters(model, {k: v * 0 if "bias" in k else v for k, v in nn.named_parameters(model).items()})
    x, y = np.random.default_rng(1).standard_normal((5, 3)), np.array([0, 1, 0, 1, 1])
    for _ in range(5):
        bars = ad.grad(lambda m: nn.cross_entropy(m(x), y))(model)
        model = ad.tree.map_tree(lambda p, g: p - 0.5 * g, model, bars)
    weight = model[0].weight
    assert (weight == weight[0]).all() and not (weight == 0.1).all()


def test_a_gradient_is_a_model(model, rng):
    x, y = rng.standard_normal((5, 4)), np.array([0, 1, 0, 1, 1])
    bars = ad.grad(lambda m: nn.cross_entropy(m(x), y))(model)
    assert isinstance(bars, nn.Sequential) and bars[0].weight.shape == (3, 4)
    per_example = ad.vmap(lambda x, y: ad.grad(lambda m: nn.cross_entropy(m(x[None]), y[None]))(model))(x, y)
    close(per_example[0].weight.mean(0), bars[0].weight)


ACTIVATIONS = [nn.relu, nn.leaky_relu, nn.sigmoid, nn.tanh, nn.softplus, nn.silu, nn.gelu, nn.softmax]


@pytest.mark.parametrize("f", ACTIVATIONS, ids=lambda f: f.__name__)
def test_activations_compile(f, rng):
    for dtype, rtol in ((np.float32, 1e-5), (np.float64, 1e-12)):
        x = np.concatenate([rng.standard_normal((3, 8)), np.zeros((1, 8)), np.full((1, 8), 90.0)]).astype(dtype)
        both = ad.value_and_grad(lambda x: np.sum(f(x) * np.float32([1, 2, 3, 4, 5, 6, 7, 8])))
        for found, expected in zip(ad.compile(both)(x), both(x), strict=True):
            assert found.dtype == dtype
            np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol)


def test_losses_compile(rng):
    z, y = rng.standard_normal((6, 4)).astype(np.float32), np.array([0, 3, 1, 1, 2, 0])
    for loss in (lambda z: nn.cross_entropy(z, y), lambda z: nn.cross_entropy(z, y, label_smoothing=0.1),
                 lambda z: nn.squared_error(z, z * 0.5 + 1.0), lambda z: nn.logistic_loss(z[:, 0], np.sign(z[:, 1]))):
        both = ad.value_and_grad(loss)
        for found, expected in zip(ad.compile(both)(z), both(z), strict=True):
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_labels_are_traced(rng):
    z, y = rng.standard_normal((6, 4)), np.array([0, 3, 1, 1, 2, 0])
    loss = ad.compile(nn.cross_entropy)
    for labels in (y, y[::-1].copy()):
        close(loss(z, labels), nn.cross_entropy(z, labels))
    assert loss.stats()["programs"] == 1


def test_a_module_with_its_own_init_sets_each_field_once(rng):
    class Net(nn.Module):
        inner: nn.Linear
        outer: nn.Linear

        def __init__(self, again=False, stated=True):
            self.inner = self.outer = nn.Linear(2, 2, rng=rng)
            if again:
                self.inner = None
            if not stated:
                self.extra = 1

    net = Net()
    assert list(nn.named_parameters(net)) == ["inner.weight", "inner.bias", "outer.weight", "outer.bias"]
    for change in (lambda: setattr(net, "inner", 1), lambda: delattr(net, "inner"), lambda: Net(again=True)):
        with pytest.raises(dataclasses.FrozenInstanceError, match="Net is frozen: its field 'inner'"):
            change()
    with pytest.raises(AttributeError, match="Net has no field 'extra'"):
        Net(stated=False)


def test_a_seed_in_place_of_a_generator_is_refused():
    for make in (lambda: nn.Linear(3, 2, rng=7), lambda: nn.mlp(3, 2, activation=np.tanh, rng=7), lambda: nn.init.he_normal((3, 2), 7),
                 lambda: nn.Linear(3, 2, rng=7, weight_init=nn.init.constant)):
        with pytest.raises(ConfigError, match="rng is 7, expected a generator") as raised:
            make()
        assert "test_nn.py:" in str(raised.value) and "default_rng(7)" in str(raised.value)
