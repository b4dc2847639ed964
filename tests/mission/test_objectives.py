"""What learning minimizes: finite sums, empirical risk of a network, convex and non-convex functions of many parameters."""

import itertools

import mpmath
import numpy as np
import pytest

import adjoint as ad
from adjoint import nn, optim
from adjoint.tree import flatten, map_tree


def logistic(w, x, y):
    """The sum over examples of log(1 + exp(-y w.x))."""
    return np.sum(np.logaddexp(0.0, -y * (x @ w)))


@pytest.mark.mission(1)
def test_a_finite_sum_is_minimized_where_its_equations_say(rng, figure):
    x, y = rng.standard_normal((12, 3)), rng.standard_normal(12)
    total = lambda w: np.sum((y - x @ w) ** 2)
    w, rule = np.zeros(3), optim.sgd(1.0 / np.linalg.eigvalsh(2.0 * x.T @ x)[-1])
    state, gradient = rule.init(w), ad.compile(ad.grad(total))
    for _ in range(2000):
        updates, state = rule.update(gradient(w), state, w)
        w = optim.apply_updates(w, updates)
    figure.equal(w, np.linalg.lstsq(x, y, rcond=None)[0], rel=1e-11)
    each = [ad.grad(lambda w, i=i: (y[i] - x[i] @ w) ** 2)(w + 1.0) for i in range(12)]
    figure.equal(np.sum(each, axis=0), ad.grad(total)(w + 1.0))


@pytest.mark.mission(7)
def test_a_convex_function_lies_below_its_chords_and_another_does_not(rng, figure):
    x, y = rng.standard_normal((9, 3)), np.where(rng.random(9) < 0.5, -1.0, 1.0)
    below = []
    for _ in range(50):
        a, b, t = 2.0 * rng.standard_normal(3), 2.0 * rng.standard_normal(3), rng.uniform(0.2, 0.8)
        below.append(t * logistic(a, x, y) + (1 - t) * logistic(b, x, y) - logistic(t * a + (1 - t) * b, x, y))
    figure.at_least(min(below), 1e-3, slack=1e3)                    # convex: every chord lies above
    w = rng.standard_normal(3)
    p = 1.0 / (1.0 + np.exp(-(x @ w)))
    figure.equal(np.linalg.eigvalsh(ad.hessian(lambda w: logistic(w, x, y))(w)), np.linalg.eigvalsh((x.T * (p * (1 - p))) @ x), rel=1e-11)
    network = lambda w: (w[0] * w[1] - 1.0) ** 2                    # the smallest network: two weights in a row, one example
    figure.equal(network(np.zeros(2)) - 0.5 * (network(np.ones(2)) + network(-np.ones(2))), 1.0)
    figure.equal(np.linalg.eigvalsh(ad.hessian(network)(np.zeros(2))), [-2.0, 2.0])


def by_hand(parameters, x):
    """W_L s(... s(W_1 x + b_1) ...) + b_L for one example, with loops."""
    h = [mpmath.mpf(float(v)) for v in x]
    for place, (weight, bias) in enumerate(parameters):
        h = [mpmath.fsum(mpmath.mpf(float(weight[i, j])) * h[j] for j in range(len(h))) + mpmath.mpf(float(bias[i]))
             for i in range(len(bias))]
        h = [mpmath.tanh(v) for v in h] if place < len(parameters) - 1 else h
    return h


@pytest.mark.mission(67, 68, 69)
def test_a_network_its_parameters_and_its_empirical_risk(rng, figure):
    sizes = (4, 5, 3, 2)
    model = nn.mlp(*sizes, activation=np.tanh, rng=rng, dtype=np.float64)
    named = nn.named_parameters(model)
    pairs = [(named[f"{2 * l}.weight"], named[f"{2 * l}.bias"]) for l in range(3)]
    x, y = rng.standard_normal((6, 4)), rng.standard_normal((6, 2))
    values = [by_hand(pairs, row) for row in x]
    figure.equal(ad.compile(model)(x), [[float(v) for v in row] for row in values], rel=1e-13)
    figure.equal(len(named), 2 * 3)                                                 # theta = {(W_l, b_l)}
    figure.equal(sum(p.size for p in named.values()), sum((a + 1) * b for a, b in itertools.pairwise(sizes)))
    risk = mpmath.fsum(mpmath.fsum((v - mpmath.mpf(float(t))) ** 2 for v, t in zip(row, target, strict=True)) / 2
                       for row, target in zip(values, y, strict=True)) / 6
    figure.equal(ad.compile(lambda m: nn.squared_error(m(x), y))(model), float(risk), rel=1e-13)


@pytest.mark.mission(103, 69)
def test_the_sum_wants_a_rate_n_times_smaller_than_the_mean(rng, figure):
    x, y, w = rng.standard_normal((7, 3)), rng.standard_normal(7), rng.standard_normal(3)
    mean, total = (ad.grad(lambda w, f=f: f((x @ w - y) ** 2))(w) for f in (np.mean, np.sum))
    figure.equal(total, 7 * mean)
    steps = []
    for gradient, rate in ((mean, 0.7), (total, 0.1)):
        rule = optim.sgd(rate)
        steps.append(rule.update(gradient, rule.init(w), w)[0])
    figure.equal(steps[1], steps[0])


@pytest.mark.mission(77, 44)
def test_many_parameters_continuous_and_not_convex(rng, figure):
    model = nn.mlp(64, 128, 10, activation=nn.relu, rng=rng, dtype=np.float64)
    x, y = rng.standard_normal((32, 64)), rng.integers(0, 10, 32)
    loss = ad.compile(lambda m: nn.cross_entropy(m(x), y))
    figure.equal(sum(p.size for p in flatten(model)[0]), 64 * 128 + 128 + 128 * 10 + 10)

    trained, step = model, ad.compile(ad.grad(lambda m: nn.cross_entropy(m(x), y)))
    for _ in range(60):
        trained = map_tree(lambda p, g: p - 0.5 * g, trained, step(trained))
    order = rng.permutation(128)
    first, last = trained[0], trained[2]
    swapped = nn.load_parameters(trained, {"0.weight": first.weight[order], "0.bias": first.bias[order],
                                           "2.weight": last.weight[:, order], "2.bias": last.bias})
    figure.equal(loss(swapped), loss(trained), rel=1e-12)           # an equivalent network, elsewhere in the space of parameters
    middle = map_tree(lambda a, b: 0.5 * (a + b), trained, swapped)
    figure.at_least(loss(middle) / loss(trained), 5.0)              # and between the two the loss is higher: not convex

    direction = map_tree(lambda p: rng.standard_normal(p.shape), trained)
    moved = lambda t: map_tree(lambda p, d: p + t * d, trained, direction)
    change = [abs(loss(moved(t)) - loss(trained)) for t in (1e-7, 1e-8)]
    figure.equal(change[0] / change[1], 10.0, rel=1e-3)             # continuous: the change falls with the step
