"""The layers of the lecture: Jacobians and their sparsity, linear layers that collapse, what each activation does to signals, depth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import adjoint as ad
from adjoint import nn, optim
from adjoint.insight import layer_analysis

GRID = np.linspace(-40.0, 40.0, 80_001)


def slopes(f: Callable, x: np.ndarray = GRID) -> np.ndarray:
    """f' at every x."""
    return ad.jvp(f, (x,), (np.ones_like(x),))[1]


# ------------------------------------------------------------------------------------------------ Jacobians


@pytest.mark.mission(78)
def test_a_gradient_collects_the_partial_derivatives(rng, figure):
    f = lambda x: np.sin(x[0]) * x[1] ** 2 + x[2] / x[1]
    x = rng.uniform(1.0, 2.0, 3)
    partial = [ad.jvp(f, (x,), (e,))[1] for e in np.eye(3)]                       # one direction, one partial derivative
    figure.equal(ad.grad(f)(x), partial, rel=1e-14)
    figure.equal(partial, [np.cos(x[0]) * x[1] ** 2, 2.0 * np.sin(x[0]) * x[1] - x[2] / x[1] ** 2, 1.0 / x[1]], rel=1e-14)


@pytest.mark.mission(140, 141)
def test_the_jacobian_of_a_fully_connected_layer_is_its_weight(rng, figure):
    w, h, upstream = rng.standard_normal((3, 5)), rng.standard_normal(5), rng.standard_normal(3)
    layer = lambda w, h: w @ h
    for mode in ("forward", "reverse"):
        figure.equal(ad.jacobian(lambda h: layer(w, h), mode=mode)(h), w, rel=1e-14)
    figure.equal([ad.grad(lambda row: row @ h)(w[i]) for i in range(3)], np.tile(h, (3, 1)), rel=1e-14)       # dh_i / dw_i
    _, pullback = ad.vjp(lambda h: layer(w, h), h)
    found, = pullback(upstream)
    assert found.shape == (5,) and upstream.shape == (3,) and w.shape == (3, 5)          # row 141: 1 x 5 = (1 x 3)(3 x 5)
    figure.equal(found, upstream @ w, rel=1e-14)
    model = nn.Linear(5, 3, rng=rng, dtype=np.float64)
    figure.equal(ad.jacobian(model)(h), model.weight, rel=1e-14)


@pytest.mark.mission(142)
def test_the_jacobian_by_the_weights_is_sparse(rng, figure):
    """dh_i / dw_jk is 0 unless i = j: of 3 * 3 * 5 numbers 15 are not, and the gradient never builds the others."""
    w, h, upstream = rng.standard_normal((3, 5)), rng.standard_normal(5), rng.standard_normal(3)
    full = ad.jacobian(lambda w: w @ h)(w)
    figure.equal(np.count_nonzero(full), 15)
    figure.equal(full, np.einsum("ij,k->ijk", np.eye(3), h), rel=1e-14)
    figure.equal(ad.grad(lambda w: (w @ h) @ upstream)(w), np.einsum("i,ijk->jk", upstream, full), rel=1e-14)
    large = ad.compile(ad.grad(lambda w, h: np.tanh(w @ h).sum()))
    large(np.ones((400, 300)), np.ones(300))
    figure.at_most(large.memory()["arena"] / 8, 4 * 400)                          # not 400 * 400 * 300


@pytest.mark.mission(145, 146)
def test_the_jacobian_of_relu_is_diagonal(rng, figure):
    h, upstream = rng.standard_normal(6), rng.standard_normal(6)
    full = ad.jacobian(nn.relu)(h)
    figure.equal(full, np.diag((h > 0) * 1.0), rel=1e-14)
    figure.equal(np.count_nonzero(full), np.count_nonzero(h > 0))
    _, pullback = ad.vjp(nn.relu, h)
    figure.equal(pullback(upstream)[0], upstream * (h > 0), rel=1e-14)            # upstream times 1 or 0: the slide leaves it out
    figure.equal(ad.grad(lambda h: np.max(h) * 3.0)(h), 3.0 * (h == h.max()))     # max sends all of it to the element selected


@pytest.mark.mission(174)
def test_linear_layers_alone_are_one_linear_layer(rng, figure):
    w1, w2, w3 = rng.standard_normal((6, 2)), rng.standard_normal((6, 6)), rng.standard_normal((4, 6))
    x = rng.standard_normal((50, 4))
    deep = lambda x: x @ w3 @ w2 @ w1
    figure.equal(deep(x), x @ (w3 @ w2 @ w1), rel=1e-11)
    figure.equal(ad.jacobian(lambda x: deep(x[None])[0])(x[0]), (w3 @ w2 @ w1).T, rel=1e-12)
    target = (x[:, :1] * x[:, 1:2]) * [[1.0, -1.0]]                               # a product, which no linear layer gives
    best = np.linalg.lstsq(np.c_[x, np.ones(50)], target, rcond=None)[0]
    floor = np.mean((np.c_[x, np.ones(50)] @ best - target) ** 2)

    def fitted(activation: Callable) -> float:
        model = nn.mlp(4, 16, 16, 2, activation=activation, rng=np.random.default_rng(174), dtype=np.float64)
        rule = optim.adam(0.02)
        state, step = rule.init(model), ad.compile(ad.value_and_grad(lambda m: ((m(x) - target) ** 2).mean()))
        for _ in range(600):
            loss, gradient = step(model)
            updates, state = rule.update(gradient, state, model)
            model = optim.apply_updates(model, updates)
        return float(loss)
    figure.equal(fitted(lambda x: x), floor, rel=0.05)                            # as deep as one likes: the best of one layer
    figure.at_most(fitted(nn.tanh) / floor, 1e-2, slack=1000.0)                   # with a bend between, the product is learned


@pytest.mark.mission(45)
def test_scaled_weights_of_relu_make_the_same_network(rng, figure):
    """Incoming weights of a unit times a > 0, outgoing ones over a: the same function, so no minimum is alone; tanh knows no such scale."""
    x, target = rng.standard_normal((30, 4)), rng.standard_normal((30, 2))
    w, v = rng.standard_normal((5, 4)), rng.standard_normal((2, 5))
    loss = lambda activation: lambda w, v: ((activation(x @ w.T) @ v.T - target) ** 2).mean()
    for a in (1e-3, 0.5, 7.0, 1e3):
        scale = np.array([1.0, a, 1.0, 1.0, 1.0])                                 # of one unit
        figure.equal(loss(nn.relu)(scale[:, None] * w, v / scale), loss(nn.relu)(w, v), rel=1e-12)
    assert abs(loss(np.tanh)(7.0 * w, v / 7.0) - loss(np.tanh)(w, v)) > 1e-2
    w_bar, v_bar = ad.grad(loss(nn.relu), argnums=(0, 1))(w, v)                   # so the loss is flat along (w_i, -v_i), for every unit
    figure.equal((w_bar * w).sum(axis=1), (v_bar * v).sum(axis=0), rel=1e-10)


# ------------------------------------------------------------------------------------------------ activations


@pytest.mark.mission(176)
def test_sigmoid(figure):
    y, slope = nn.sigmoid(GRID), slopes(nn.sigmoid)
    figure.equal([y[0], y[40_000], y[-1]], [1.0 / (1.0 + np.exp(40.0)), 0.5, 1.0], rel=1e-14)
    figure.equal(slope.max(), 0.25)                                               # at 0
    figure.equal(slope[[30_000, 50_000]], np.full(2, np.exp(-10.0) / (1.0 + np.exp(-10.0)) ** 2), rel=1e-12)      # gone at both ends
    figure.at_least(slope[np.abs(GRID) <= 30.0].min(), 9e-14)                     # though always positive (until 1 - y rounds to 0)
    figure.equal(y.mean(), 0.5, rel=1e-12)                                        # and not centred: all outputs are positive


@pytest.mark.mission(177)
def test_positive_inputs_give_the_weights_of_a_unit_gradients_of_one_sign(rng, figure):
    """Behind a sigmoid every input is positive, so all of dL/dw_i = (dL/dh_i) h have the sign of one number; centred inputs mix."""
    w, x, target = rng.standard_normal((8, 6)), rng.standard_normal((40, 6)), rng.standard_normal((40, 8))

    def one_sign(inputs: np.ndarray) -> float:
        each = ad.vmap(ad.grad(lambda w, h, t: ((w @ h - t) ** 2).sum()), in_axes=(None, 0, 0))(w, inputs, target)
        return float(np.mean(np.all(each > 0, axis=-1) | np.all(each < 0, axis=-1)))
    figure.equal(one_sign(nn.sigmoid(x)), 1.0)
    figure.at_most(one_sign(np.tanh(x)), 0.1)                                     # of 2^-5 by chance


@pytest.mark.mission(177)
def test_gradients_of_one_sign_make_a_zig_zag(figure):
    """Two weights, the right ones (1, -1): per example, positive inputs allow steps up-right or down-left only, centred ones any."""
    rng = np.random.default_rng(177)

    def path(inputs: np.ndarray) -> tuple[float, float, int]:
        """(share of steps that move both weights the same way, length of the path over the way made, steps) until 0.05 from the aim."""
        w, aim, walked, same, count = np.zeros(2), np.array([1.0, -1.0]), 0.0, 0, 0
        gradient = ad.compile(ad.grad(lambda w, x, y: 0.5 * (x @ w - y) ** 2))
        while np.linalg.norm(w - aim) > 0.05:
            x = inputs[rng.integers(len(inputs))]
            step = -0.3 * gradient(w, x, x @ aim)
            w, walked, same, count = w + step, walked + np.linalg.norm(step), same + (step[0] * step[1] > 0), count + 1
        return same / count, walked / np.linalg.norm(w), count
    positive, centred = path(rng.uniform(0.0, 1.0, (400, 2))), path(rng.uniform(-1.0, 1.0, (400, 2)))
    figure.equal(positive[0], 1.0)
    figure.equal(centred[0], 0.5, rel=0.3)                                         # as chance has it
    figure.at_least(positive[1] / centred[1], 1.3)
    figure.at_least(positive[2] / centred[2], 2.5)


@pytest.mark.mission(178)
def test_tanh(figure):
    y, slope = nn.tanh(GRID), slopes(nn.tanh)
    figure.equal([y[0], y[-1]], [-1.0, 1.0])
    figure.equal(y.mean(), 0.0, abs=1e-15)                                        # centred
    figure.equal(slope.max(), 1.0)                                                # four times the sigmoid's
    figure.equal(slope[[35_000, 45_000]], np.full(2, 1.0 / np.cosh(5.0) ** 2), rel=1e-10)
    figure.equal(slopes(lambda x: nn.tanh(x) - (2.0 * nn.sigmoid(2.0 * x) - 1.0)), np.zeros(len(GRID)), abs=1e-15)


@pytest.mark.mission(179)
def test_relu_and_its_dead_units(rng, figure):
    y, slope = nn.relu(GRID), slopes(nn.relu)
    figure.equal([y.min(), y.max()], [0.0, 40.0])
    figure.equal(np.unique(slope), [0.0, 1.0])
    figure.equal(slope[40_000], 0.0)                                              # at 0 itself
    x, target = rng.standard_normal((200, 10)), rng.standard_normal((200, 1))
    model = nn.Sequential(nn.Linear(10, 64, rng=rng, weight_init=nn.init.he_normal, dtype=np.float64), nn.relu,
                          nn.Linear(64, 1, rng=rng, dtype=np.float64))
    pushed = np.where(np.arange(64) < 16, -20.0, 0.0)                             # a step too far left 16 units below every input
    model = nn.load_parameters(model, nn.named_parameters(model) | {"0.bias": pushed})
    figure.equal(layer_analysis(model, lambda y: ((y - target) ** 2).mean(), x)[1].dead, 0.25)
    before, step = model, ad.compile(ad.grad(lambda m: ((m(x) - target) ** 2).mean()))
    for _ in range(100):
        model = optim.apply_updates(model, optim.sgd(0.05).update(step(model), optim.sgd(0.05).init(model), model)[0])
    moved = np.abs(model[0].weight - before[0].weight).max(axis=1)
    figure.equal(np.count_nonzero(moved == 0.0), 16)                              # no gradient has reached them since
    figure.equal(layer_analysis(model, lambda y: ((y - target) ** 2).mean(), x)[1].dead, 0.25)


@pytest.mark.mission(180)
def test_leaky_and_parametric_relu(rng, figure):
    y, slope = nn.leaky_relu(GRID, 0.1), slopes(lambda x: nn.leaky_relu(x, 0.1))
    figure.equal([y.min(), y.max()], [-4.0, 40.0])
    figure.equal(np.unique(slope), [0.1, 1.0])                                    # nowhere 0: no unit is dead
    x = rng.standard_normal((50, 3)) - 20.0
    figure.equal(layer_analysis([lambda x: nn.leaky_relu(x, 0.1)], lambda y: y.sum(), x)[0].dead, 0.0, abs=1e-12)
    figure.equal(layer_analysis([nn.relu], lambda y: y.sum(), x)[0].dead, 1.0)
    h, slope_of_3 = rng.standard_normal((40, 3)), np.array([0.1, 0.2, 0.3])
    target = np.where(h > 0, h, 0.7 * h)
    figure.equal(ad.grad(lambda a: nn.prelu(h, a).sum())(slope_of_3), np.where(h > 0, 0.0, h).sum(axis=0), rel=1e-13)
    for _ in range(400):                                                          # the slope is learned
        slope_of_3 = slope_of_3 - 0.5 * ad.grad(lambda a: ((nn.prelu(h, a) - target) ** 2).mean())(slope_of_3)
    figure.equal(slope_of_3, np.full(3, 0.7), rel=1e-6)


@pytest.mark.mission(175, 181)
def test_which_activation_lets_a_deep_network_start(figure):
    """Eight layers of 64, each activation with its own initial values, 150 steps: sigmoid is still guessing, the others have learned."""
    rng = np.random.default_rng(181)
    x = rng.standard_normal((256, 20)).astype(np.float32)
    y = (np.sin(2.0 * x[:, 0]) + x[:, 1] * x[:, 2] > 0).astype(np.int64)

    def trained(activation: Callable, weight_init: Callable) -> tuple[float, Any]:
        model = nn.mlp(20, *[64] * 7, 2, activation=activation, rng=np.random.default_rng(0), weight_init=weight_init)
        facts = layer_analysis(model, lambda out: nn.cross_entropy(out, y), x)
        rule = optim.sgd(0.1, momentum=0.9)
        state, step = rule.init(model), ad.compile(ad.value_and_grad(lambda m: nn.cross_entropy(m(x), y)))
        for _ in range(150):
            loss, gradient = step(model)
            updates, state = rule.update(gradient, state, model)
            model = optim.apply_updates(model, updates)
        return float(loss), facts
    (sigmoid, slow), (relu, _), (leaky, open_) = (trained(f, i) for f, i in (
        (nn.sigmoid, nn.init.xavier_uniform), (nn.relu, nn.init.he_normal), (nn.leaky_relu, nn.init.he_normal)))
    figure.equal(sigmoid, np.log(2.0), rel=0.05)
    figure.at_most([relu, leaky], 1e-3, slack=30.0)
    figure.at_most(slow[0].gradient / slow[-1].gradient, 3e-5)                    # the first layer's gradient says why
    figure.at_least(open_[0].gradient / open_[-1].gradient, 0.02)
    figure.at_most(max(f.slope for f in slow if f.slope is not None), 0.25, slack=1.5)


# ------------------------------------------------------------------------------------------------ depth


@pytest.mark.mission(165, 166)
def test_depth_folds_what_width_must_list(figure):
    """The triangle wave: k layers of two ReLUs fold [0, 1] into 2^k pieces with 3k weights and biases; one layer needs 2^k units."""
    tent = lambda h: 2.0 * nn.relu(h) - 4.0 * nn.relu(h - 0.5)                    # 0 -> 1 -> 0, a layer of two units

    def deep(x: Any, layers: int) -> Any:
        for _ in range(layers):
            x = tent(x)
        return x
    for layers in (1, 2, 5):                                                      # two or more hidden layers are deep
        x = (np.arange(2 ** layers) + 0.5) / 2 ** layers                          # the middle of every piece
        slope = slopes(lambda x, layers=layers: deep(x, layers), x)
        figure.equal(slope, 2.0 ** layers * (-1.0) ** np.arange(2 ** layers))     # 2^k straight pieces, up and down
    pieces = 2 ** 5
    knots = np.arange(pieces) / pieces                                            # one layer: a unit for each knot
    height = np.append(2.0 ** 5, 2.0 ** 6 * (-1.0) ** np.arange(1, pieces))
    x = np.linspace(0.0, 1.0, 1001)
    wide = nn.relu(x[:, None] - knots) @ height
    figure.equal(wide, deep(x, 5), rel=0.0, abs=1e-10)
    kinks = lambda f: np.count_nonzero(np.abs(np.diff(slopes(f, (np.arange(4096) + 0.5) / 4096))) > 1e-6)
    some = np.random.default_rng(166).standard_normal((3, 10))
    # Ten units in one layer have at most ten kinks, whatever their weights.
    figure.at_most(kinks(lambda x: nn.relu(x[:, None] * some[0] + some[1]) @ some[2]), 10)
    figure.equal(kinks(lambda x: deep(x, 5)), 31)                                 # ten units in five layers: 31
