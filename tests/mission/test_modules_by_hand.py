"""Networks and their training as modules of a graph: what the library computes from the forward pass alone, beside the same by hand."""

import mpmath
import numpy as np
import pytest

import adjoint as ad
from adjoint import nn, optim
from adjoint.tree import flatten


def network(rng):
    return nn.mlp(3, 4, 2, activation=nn.sigmoid, rng=rng, dtype=np.float64)


def sigmoid(u):
    return 1.0 / (1.0 + np.exp(-u))


def backward_by_hand(w1, b1, w2, b2, x, y):
    """Loss mean (h2 - y)^2 of the two layers, and its gradients by the equations of the slides, one example at a time."""
    bars, loss, count = [np.zeros_like(p) for p in (w1, b1, w2, b2)], 0.0, y.size
    for x_i, y_i in zip(x, y, strict=True):
        h1 = sigmoid(w1 @ x_i + b1)
        h2 = w2 @ h1 + b2
        loss += np.sum((h2 - y_i) ** 2) / count
        h2_bar = 2.0 * (h2 - y_i) / count
        u1_bar = (h2_bar @ w2) * h1 * (1.0 - h1)
        for bar, term in zip(bars, (np.outer(u1_bar, x_i), u1_bar, np.outer(h2_bar, h1), h2_bar), strict=True):
            bar += term
    return loss, bars


@pytest.mark.mission(126)
def test_forward_backward_update_three_times(rng, figure):
    model, x, y, rate = network(rng), rng.standard_normal((5, 3)), rng.standard_normal((5, 2)), 0.3
    parameters, rule = [p.copy() for p in flatten(model)[0]], optim.sgd(rate)
    state = rule.init(model)
    step = ad.compile(lambda m, s: (lambda value, g: (value, *rule.update(g, s, m)))(
        *ad.value_and_grad(lambda m: nn.squared_error(m(x), y))(m)))
    for _ in range(3):
        expected, bars = backward_by_hand(*parameters, x, y)                    # steps 1 and 2
        parameters = [p - rate * bar for p, bar in zip(parameters, bars, strict=True)]      # step 3
        value, updates, state = step(model, state)
        model = optim.apply_updates(model, updates)
        figure.equal(value, expected)
        for found, wanted in zip(flatten(model)[0], parameters, strict=True):
            figure.equal(found, wanted)


@pytest.mark.mission(127)
def test_backpropagation_is_gradient_descent_by_the_chain_rule(rng, figure):
    model, x, y = network(rng), rng.standard_normal(3), rng.standard_normal(2)
    w1, b1, w2, b2 = flatten(model)[0]
    h1 = sigmoid(w1 @ x + b1)
    by_w2 = np.kron(np.eye(2), h1)                                              # d h2 / d vec W2
    by_h1 = w2
    by_w1 = np.diag(h1 * (1.0 - h1)) @ np.kron(np.eye(4), x)                    # d h1 / d vec W1
    by_h2 = 2.0 * (w2 @ h1 + b2 - y) / 2
    loss = ad.compile(lambda m: nn.squared_error(m(x), y))
    gradient = ad.compile(ad.grad(lambda m: nn.squared_error(m(x), y)))(model)
    figure.equal(gradient[2].weight.ravel(), by_h2 @ by_w2)
    figure.equal(gradient[0].weight.ravel(), by_h2 @ by_h1 @ by_w1)
    square, gained = sum(np.sum(g * g) for g in flatten(gradient)[0]), []
    for rate in (1e-3, 1e-4, 1e-5):                                             # L(w) - L(w - rate g) = rate |g|^2 + O(rate^2)
        moved = optim.apply_updates(model, optim.sgd(rate).update(gradient, optim.sgd(rate).init(model), model)[0])
        gained.append((loss(model) - loss(moved)) / (rate * square) - 1.0)
    figure.equal([gained[0] / gained[1], gained[1] / gained[2]], [10.0, 10.0], rel=0.02)


@pytest.mark.mission(128)
def test_each_module_turns_the_upstream_gradient_into_two(rng, figure):
    model, h0, upstream = network(rng), rng.standard_normal(3), rng.standard_normal(2)
    first, activation, last = model
    _, pull_last = ad.vjp(lambda layer, h: layer(h), last, h1 := sigmoid(first(h0)))
    last_bar, h1_bar = pull_last(upstream)
    figure.equal(h1_bar, upstream @ last.weight)                                # dL/dh = upstream * dh'/dh
    figure.equal(last_bar.weight, np.outer(upstream, h1))                       # dL/dW = upstream * dh'/dW
    _, pull_first = ad.vjp(lambda layer, h: activation(layer(h)), first, h0)
    first_bar, h0_bar = pull_first(h1_bar)
    slope = h1_bar * h1 * (1.0 - h1)
    figure.equal(first_bar.weight, np.outer(slope, h0))
    figure.equal(h0_bar, slope @ first.weight)
    whole = ad.compile(ad.grad(lambda m: upstream @ m(h0)))(model)              # the modules, one after the other, are the whole
    figure.equal(whole[0].weight, first_bar.weight)


@pytest.mark.mission(134)
def test_gradients_of_the_graph_of_model_and_loss_move_the_weights(figure):
    signs = np.array([1.0] * 7 + [-1.0] * 3)                                    # seven of ten: the best w has sigmoid(w) = 0.7
    step = ad.compile(ad.value_and_grad(lambda w: nn.logistic_loss(w * np.ones(10), signs)))
    w = np.float64(0.0)
    value, _ = step(w)
    figure.equal(value, np.log(2.0))
    for _ in range(200):
        w = w - 4.0 * step(w)[1]
    figure.equal(w, float(mpmath.log(mpmath.mpf(7) / 3)), rel=1e-13)


@pytest.mark.mission(135)
def test_the_user_writes_only_the_forward_pass(figure):
    def program(x):
        root = x
        for _ in range(30):                                                     # Heron's square root; its derivative is nobody's line
            root = 0.5 * (root + x / root)
        return np.where(root > 1.0, np.log1p(root) * np.sin(x), root ** 3)
    exact = lambda x: mpmath.log(1 + mpmath.sqrt(x)) * mpmath.sin(x) if x > 1 else mpmath.sqrt(x) ** 3
    with mpmath.workdps(40):
        for x in (0.3, 1.7, 9.1):
            for order, f in ((1, ad.grad(program)), (2, ad.grad(ad.grad(program)))):
                expected = float(mpmath.diff(exact, mpmath.mpf(x), order))
                figure.equal(f(np.float64(x)), expected, rel=1e-11)
                figure.equal(ad.compile(f)(np.float64(x)), expected, rel=1e-11)


@pytest.mark.mission(136)
def test_the_adjoints_of_logistic_regression_one_by_one(rng, figure):
    x, w = rng.standard_normal(5), rng.standard_normal(5)

    def loss(w, at_p=0.0, at_u=0.0):
        u = w @ x + at_u
        p = 1.0 / (1.0 + np.exp(-u)) + at_p
        return -np.log(p)
    p = 1.0 / (1.0 + np.exp(-np.sum(w * x)))
    w_bar, p_bar, u_bar = ad.compile(ad.grad(loss, argnums=(0, 1, 2)))(w, np.float64(0.0), np.float64(0.0))
    figure.equal(p_bar, -1.0 / p)
    figure.equal(u_bar, -1.0 / p * p * (1.0 - p))
    figure.equal(w_bar, -(1.0 - p) * x)


@pytest.mark.mission(144)
def test_relu_has_no_parameters(rng, figure):
    count = lambda model: sum(p.size for p in nn.named_parameters(model).values())
    figure.equal(count(nn.Sequential(nn.relu)), 0)
    figure.equal(count(nn.Sequential(nn.Linear(7, 5, rng=rng), nn.relu, nn.Linear(5, 3, rng=rng))), (7 + 1) * 5 + (5 + 1) * 3)
