"""Choices measured: the landscape that they meet, the optimizer, the first values, the regularization and the loss."""

import mpmath
import numpy as np
import pytest

import adjoint as ad
from adjoint import nn, optim
from adjoint.data import load_digits
from adjoint.train.loop import make_step

BATCH, EPOCHS = 32, 15


def descended(f, x, rate, steps):
    gradient = ad.compile(ad.grad(f))
    for _ in range(steps):
        x = x - rate * gradient(x)
    return x


@pytest.mark.mission(110)
def test_two_minima_and_the_start_decides(figure):
    f = lambda x: x ** 4 - x ** 2 + 0.3 * x
    roots = sorted(np.polynomial.Polynomial([0.3, -2, 0, 4]).roots().real)
    for start, root in ((-1.0, roots[0]), (1.0, roots[2])):
        figure.equal(descended(f, np.float64(start), 0.05, 400), root, rel=1e-11)
    figure.equal(f(roots[2]) - f(roots[0]), descended_difference(roots), rel=1e-11)


def descended_difference(roots):
    exact = [mpmath.mpf(r) ** 4 - mpmath.mpf(r) ** 2 + mpmath.mpf(3) / 10 * mpmath.mpf(r) for r in (roots[2], roots[0])]
    return float(exact[0] - exact[1])


@pytest.mark.mission(110)
def test_a_saddle_is_left_step_by_step(figure):
    f = lambda x: x[0] ** 2 - x[1] ** 2
    start = np.array([1.0, 1e-6])
    figure.equal(np.linalg.eigvalsh(ad.hessian(f)(start)), [-2.0, 2.0])
    figure.equal(descended(f, start, 0.1, 40), [0.8 ** 40, 1e-6 * 1.2 ** 40], rel=1e-11)


@pytest.mark.mission(110)
def test_a_plateau_has_hardly_a_gradient(figure):
    far = lambda u: (nn.sigmoid(u) - 1.0) ** 2                          # a saturated unit that should say 1 and says 0
    expected = [float(2 * (s - 1) * s * (1 - s)) for s in (1 / (1 + mpmath.exp(-mpmath.mpf(u))) for u in (0, -10, -30))]
    figure.equal([ad.grad(far)(np.float64(u)) for u in (0.0, -10.0, -30.0)], expected, rel=1e-11)
    figure.at_most(abs(expected[2] / expected[0]), 1e-12)


@pytest.mark.mission(110)
def test_permuted_units_are_another_minimum_of_equal_value(rng, figure):
    model = nn.mlp(5, 6, 3, activation=np.tanh, rng=rng, dtype=np.float64)
    x, y, order = rng.standard_normal((8, 5)), rng.integers(0, 3, 8), rng.permutation(6)
    first, last = model[0], model[2]
    other = nn.load_parameters(model, {"0.weight": first.weight[order], "0.bias": first.bias[order],
                                       "2.weight": last.weight[:, order], "2.bias": last.bias})
    value_and_gradient = ad.compile(ad.value_and_grad(lambda m: nn.cross_entropy(m(x), y)))
    (one, gradient), (two, permuted) = value_and_gradient(model), value_and_gradient(other)
    figure.equal(other(x), model(x), rel=1e-11)
    figure.equal(two, one)
    figure.equal(permuted[0].weight, gradient[0].weight[order], rel=1e-11)
    figure.at_least(np.linalg.norm(other[0].weight - first.weight) / np.linalg.norm(first.weight), 0.5)


def trained(rule, epochs=EPOCHS, weight_init=nn.init.torch_linear):
    """Validation loss after each epoch on the digits, with examples and first values that are the same for every rule."""
    digits, rng = load_digits(), np.random.default_rng(1)
    model = nn.mlp(64, 32, 10, activation=nn.relu, rng=rng, weight_init=weight_init)
    state, step, losses = rule.init(model), make_step(nn.cross_entropy, rule), []
    for _ in range(epochs):
        order = rng.permutation(3000)
        for first in range(0, 3000 - BATCH, BATCH):
            chosen = order[first:first + BATCH]
            model, state, _, _, finite = step(model, state, digits.train_x[chosen], digits.train_y[chosen])
            assert finite
        losses.append(float(nn.cross_entropy(model(digits.train_x[3000:]), digits.train_y[3000:])))
    return losses


@pytest.mark.mission(122, 171)
def test_adam_in_a_hurry_and_tuned_momentum_with_time(figure):
    steps = EPOCHS * len(range(0, 3000 - BATCH, BATCH))
    adam = trained(optim.adam(1e-3))                                    # the rate that everybody starts with
    untuned = trained(optim.sgd(1e-3, momentum=0.9))
    tuned = trained(optim.sgd(optim.schedules.cosine(0.1, steps), momentum=0.9))       # the best of 0.01, 0.03, 0.1, 0.2, 0.3
    figure.at_least(untuned[2] / adam[2], 2.0)                          # untuned, Adam is far ahead after three epochs
    figure.at_least(adam[-1] / tuned[-1], 1.5)                          # on the same budget, tuned momentum ends better


@pytest.mark.mission(171)
def test_the_first_values_decide_how_early_it_learns(figure):
    rule = optim.sgd(0.1)
    he = trained(rule, 2, nn.init.he_normal)[-1]
    small = trained(rule, 2, nn.init.normal)[-1]                        # N(0, 0.01)
    figure.at_least(small / he, 1.5)


@pytest.mark.mission(171)
def test_the_regularization_decides_how_large_the_weights_are(rng, figure):
    x, y = rng.standard_normal((20, 4)), rng.standard_normal(20)
    for decay in (0.0, 1.0, 10.0):
        loss = lambda w, decay=decay: 0.5 * np.sum((x @ w - y) ** 2) + 0.5 * decay * np.sum(w ** 2)
        expected = np.linalg.solve(x.T @ x + decay * np.eye(4), x.T @ y)
        figure.equal(descended(loss, np.zeros(4), 0.02, 600), expected, rel=1e-10)


@pytest.mark.mission(171)
def test_the_loss_decides_what_is_found(figure):
    y = np.array([1.0, 2.0, 4.0, 7.0, 100.0])
    constant = lambda c: c * np.ones(5)
    figure.equal(descended(lambda c: nn.squared_error(constant(c), y), np.float64(0.0), 0.5, 3), np.mean(y))
    rule = optim.sgd(lambda t: 4.0 / np.sqrt(t + 1.0))                  # the absolute loss has no slope to show how near it is
    gradient = ad.compile(ad.grad(lambda c: np.mean(np.abs(constant(c) - y))))
    c, state = np.float64(0.0), rule.init(np.float64(0.0))
    for _ in range(3000):
        updates, state = rule.update(gradient(c), state, c)
        c = optim.apply_updates(c, updates)
    figure.equal(c, np.median(y), abs=0.05)
