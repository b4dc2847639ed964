"""Gradient descent, subgradient descent and their stochastic kin: what the lectures say of them, each as a number."""

import itertools

import numpy as np
import pytest

import adjoint as ad
from adjoint import optim
from adjoint.data import Batches
from adjoint.optim import schedules


def problem(examples=12, features=4, seed=0, noise=0.3):
    """Least squares: x, y, and the weights of the least mean square."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(examples, features))
    y = x @ rng.normal(size=features) + noise * rng.normal(size=examples)
    return x, y, np.linalg.lstsq(x, y, rcond=None)[0]


def mean_square(w, x, y):
    return np.mean((x @ w - y) ** 2)


def walk(rule, gradient, start, steps):
    """The parameters after each step of a rule; gradient(w, t)."""
    w, state, found = start, rule.init(start), []
    for t in range(steps):
        updates, state = rule.update(gradient(w, t), state, w)
        w = optim.apply_updates(w, updates)
        found.append(w)
    return np.array(found)


@pytest.mark.mission(4)
def test_gradient_descent_from_zero_in_closed_form(figure):
    """On f = w A w / 2 - b w from w_0 = 0: w_t = (I - (I - eta A)^t) A^(-1) b."""
    rng = np.random.default_rng(1)
    q = rng.normal(size=(4, 4))
    a, b, eta = q @ q.T + np.eye(4), rng.normal(size=4), 0.05
    gradient = ad.compile(ad.grad(lambda w: 0.5 * w @ (a @ w) - b @ w))
    found = walk(optim.gd(eta), lambda w, t: gradient(w), np.zeros(4), 30)
    closed = [(np.eye(4) - np.linalg.matrix_power(np.eye(4) - eta * a, t)) @ np.linalg.solve(a, b) for t in range(1, 31)]
    figure.equal(found, closed, rel=1e-11, abs=1e-13)


CONVEX = {
    "|x|": lambda x: np.sum(np.abs(x)),
    "max(0, x)": lambda x: np.sum(np.maximum(0.0, x)),
    "hinge": lambda x: np.sum(np.maximum(0.0, 1.0 - 2.0 * x)),
    "largest": lambda x: np.max(x),
    "largest of |x|": lambda x: np.max(np.abs(x)),
    "range": lambda x: np.max(x) - np.min(x),
    "norm": lambda x: np.sqrt(np.sum(x * x) + 1.0),
    "where": lambda x: np.sum(np.where(x > 0, 2.0 * x, -x)),
    "clipped": lambda x: np.sum(np.maximum(x, np.minimum(0.5, 3.0 * x - 1.0) * 0.0)),
}


@pytest.mark.mission(6)
@pytest.mark.parametrize("name", CONVEX)
def test_what_grad_chooses_at_a_kink_is_a_subgradient(name, figure):
    """f(y) - f(x) - g (y - x) >= 0 for all y, at points on kinks and ties too; its least value, at y = x, is 0."""
    f, values = CONVEX[name], (-1.0, 0.0, 0.5, 2.0)
    points = [np.array(point) for point in itertools.product(values, repeat=3)]
    others = [*points, *np.random.default_rng(2).normal(scale=3.0, size=(50, 3))]
    gradients = [ad.grad(f)(x) for x in points]
    gap = [f(y) - f(x) - g @ (y - x) for x, g in zip(points, gradients, strict=True) for y in others]
    figure.equal(min(gap), 0.0, abs=1e-12)
    assert max(gap) > 1.0


@pytest.mark.mission(5)
@pytest.mark.parametrize("name", ["|x|", "hinge", "largest", "in a box", "in a ball", "on a simplex"])
def test_subgradient_descent_keeps_its_best_iterate(name, figure):
    """From w_0 = 0: best - least <= (R^2 + G^2 sum of eta^2) / (2 sum of eta)."""
    rng = np.random.default_rng(4)
    x, sign = rng.normal(size=(20, 3)), np.sign(rng.normal(size=20))
    goal, cost = np.array([0.6, -0.3, 0.4]), np.array([3.0, 1.0, 2.0])
    objectives = {"|x|": (lambda w: np.sum(np.abs(w - goal)), goal, None),
                  "hinge": (lambda w: np.mean(np.maximum(0.0, 1.0 - sign * (x @ w))), None, None),
                  "largest": (lambda w: np.max(np.abs(w - goal)), goal, None),
                  "in a box": (lambda w: np.sum(np.abs(w - 3.0 * goal)), np.array([1.0, -0.9, 1.0]), optim.box(-1.0, 1.0)),
                  "in a ball": (lambda w: -(w @ cost), cost / np.linalg.norm(cost), optim.ball(1.0)),
                  "on a simplex": (lambda w: np.max(cost * w), (1 / cost) / np.sum(1 / cost), optim.simplex())}
    function, solution, onto = objectives[name]
    if solution is None:
        solution = optim.subgradient_descent(function, np.zeros(3), schedules.inverse_sqrt(1.0), 20000).best
    start, steps, eta = np.zeros(3) if name != "on a simplex" else np.array([1.0, 0.0, 0.0]), 400, schedules.inverse_sqrt(0.3)
    found = optim.subgradient_descent(function, start, eta, steps, onto=onto)
    figure.equal(found.value, found.values.min())
    figure.equal(found.value, function(found.best))
    if name not in ("in a box", "in a ball"):                               # there a corner, or a smooth edge, holds the last one too
        assert np.sum(np.diff(found.values) > 0) > 20                       # no descent at every step
    rates, slope = np.array([eta(t) for t in range(steps)]), 4.0            # |g| <= 4 for all six
    bound = (np.sum((start - solution) ** 2) + slope ** 2 * np.sum(rates ** 2)) / (2 * np.sum(rates))
    gap = found.value - function(solution)
    assert -1e-3 < gap <= bound
    if onto is not None:
        np.testing.assert_allclose(onto(found.best), found.best, atol=1e-12)


@pytest.mark.mission(8)
@pytest.mark.mission(73)
def test_a_step_on_the_sum_uses_all_examples(figure):
    """The gradient of the mean loss is the mean of n gradients, of one example each; the whole data set is read for one step."""
    x, y, _ = problem()
    seen = []

    def loss(w, i):
        seen.append(i)
        return (x[i] @ w - y[i]) ** 2
    w = np.full(4, 0.5)
    parts = [ad.grad(loss)(w, i) for i in range(12)]
    figure.equal(ad.grad(lambda w: mean_square(w, x, y))(w), np.mean(parts, axis=0), rel=1e-12)
    figure.equal(ad.grad(lambda w: np.sum((x @ w - y) ** 2))(w), np.sum(parts, axis=0), rel=1e-12)
    figure.equal(len(set(seen)), 12)


@pytest.mark.mission(9)
@pytest.mark.mission(10)
def test_stochastic_gradients_are_unbiased(figure):
    """E[g] over a uniform draw is the whole gradient: exactly over all draws, and as measured over the package's own draws."""
    x, y, _ = problem(6, 3)
    w = np.array([0.5, -1.0, 2.0])
    gradient = ad.compile(ad.grad(mean_square))
    whole = gradient(w, x, y)
    figure.equal(np.mean([gradient(w, x[[i]], y[[i]]) for i in range(6)], axis=0), whole)
    pairs = itertools.product(range(6), repeat=2)                           # batches of two with replacement: the average of two gradients
    figure.equal(np.mean([gradient(w, x[list(rows)], y[list(rows)]) for rows in pairs], axis=0), whole)
    figure.equal(gradient(w, x[[1, 4]], y[[1, 4]]), (gradient(w, x[[1]], y[[1]]) + gradient(w, x[[4]], y[[4]])) / 2)
    batches, drawn = Batches(x, y, np.arange(6), batch=1, seed=5, replace=True), []
    while batches.epoch < 500:
        drawn.extend((gradient(w, xs, ys), int(i[0])) for xs, ys, i in batches)
    counts = np.bincount([i for _, i in drawn], minlength=6)
    figure.equal(counts / len(drawn), np.full(6, 1 / 6), abs=0.025)          # 3,000 draws: a deviation of 0.0068 each
    error = np.mean([g for g, _ in drawn], axis=0) - whole
    spread = np.std([g for g, _ in drawn], axis=0) / np.sqrt(len(drawn))
    assert np.all(np.abs(error) < 4 * spread)


@pytest.mark.mission(72)
def test_gradient_descent_decreases_the_loss(figure):
    """At eta = 1/L each step takes at least |g|^2 / (2 L) off the loss, and on a convex quadratic at most twice that."""
    x, y, _ = problem(20, 5)
    curvature = np.linalg.eigvalsh(2.0 / 20 * x.T @ x)[-1]
    gradient = ad.compile(ad.value_and_grad(mean_square))
    w, ratios = np.zeros(5), []
    for _ in range(25):
        value, g = gradient(w, x, y)
        w = w - g / curvature
        ratios.append((value - mean_square(w, x, y)) / (np.sum(g * g) / (2.0 * curvature)))
    figure.at_least(ratios, 1.0)
    figure.at_most(ratios, 2.0)


@pytest.mark.mission(74)
@pytest.mark.mission(75)
def test_per_example_gradients_by_the_chain_rule(figure):
    """vmap of grad: each row is the loss's derivative at the prediction times the prediction's gradient."""
    x, y, _ = problem()
    w = np.linspace(-1.0, 1.0, 4)
    predict = lambda w, x: np.tanh(x @ w)
    rows = ad.compile(ad.vmap(ad.grad(lambda w, x, y: (predict(w, x) - y) ** 2), in_axes=(None, 0, 0)))(w, x, y)
    at_prediction = np.array([ad.grad(lambda p, i=i: (p - y[i]) ** 2)(predict(w, x[i])) for i in range(12)])
    of_prediction = np.array([ad.grad(predict)(w, x[i]) for i in range(12)])
    figure.equal(rows, at_prediction[:, None] * of_prediction)
    figure.equal(rows, (2 * (np.tanh(x @ w) - y) * (1 - np.tanh(x @ w) ** 2))[:, None] * x)
    g, f = (lambda u: np.exp(-u * u)), (lambda t: np.sin(3.0 * t))           # d/dt g(f(t)) = g'(f(t)) f'(t)
    figure.equal(ad.grad(lambda t: g(f(t)))(0.7), ad.grad(g)(f(0.7)) * ad.grad(f)(0.7))
    figure.equal(ad.grad(lambda t: g(f(t)))(0.7), -2 * np.sin(2.1) * np.exp(-np.sin(2.1) ** 2) * 3 * np.cos(2.1))


def stationary_gap(batch, rate=0.02, epochs=160):
    """The mean excess of the loss over its least value, in the second half of a run at a fixed rate."""
    x, y, least = problem(200, 5, seed=7)
    step = ad.compile(lambda w, x, y: w - rate * ad.grad(mean_square)(w, x, y))
    gram = x.T @ x / 200
    w, batches, gaps = np.zeros(5), Batches(x, y, batch=batch, seed=1, replace=True), []
    while batches.epoch < epochs:
        for xs, ys in batches:
            w = step(w, xs, ys)
            if batches.epoch >= epochs // 2:
                gaps.append((w - least) @ gram @ (w - least))
    return np.mean(gaps)


@pytest.mark.mission(76)
@pytest.mark.mission(104)
def test_three_trajectories_one_example_a_batch_and_all(figure):
    """At one rate: single examples hover above the minimum, batches of 8 about eight times lower, all data not at all."""
    single, eight = stationary_gap(1), stationary_gap(8)
    figure.equal(single / eight, 8.0, rel=0.25)
    x, y, least = problem(200, 5, seed=7)
    gradient = ad.compile(ad.grad(mean_square))
    course = walk(optim.gd(0.02), lambda w, t: gradient(w, x, y), np.zeros(5), 2000)
    figure.equal(course[-1], least, rel=1e-9)                               # gradient descent: no variance at all


@pytest.mark.mission(104)
@pytest.mark.mission(105)
def test_gradient_descent_is_inefficient_with_data(figure):
    """To one loss: epochs of gradient descent at its best fixed rate 1/L, beside those of one example at a time."""
    x, y, least = problem(500, 10, seed=3, noise=0.05)
    goal = 1.5 * mean_square(least, x, y)
    scales = np.logspace(0, -1, 10)
    x, gradient = x * scales, ad.compile(ad.grad(mean_square))
    y = x @ least + (y - (x / scales) @ least)
    rate, w, slow = 1.0 / np.linalg.eigvalsh(2 / 500 * x.T @ x)[-1], np.zeros(10), 0
    while mean_square(w, x, y) > goal:
        w, slow = w - rate * gradient(w, x, y), slow + 1
    step = ad.compile(lambda w, x, y: w - 0.05 * ad.grad(mean_square)(w, x, y))
    w, batches, seen = np.zeros(10), Batches(x, y, np.arange(500), batch=1, seed=2), []
    while mean_square(w, x, y) > goal and batches.epoch < 50:
        for xs, ys, i in batches:                                           # for each epoch, for each (x, y): theta <- theta - eta g
            w = step(w, xs, ys)
            if batches.epoch == 0 or (batches.epoch == 1 and batches.cursor == 0):
                seen.append(int(i[0]))
    figure.equal(np.bincount(seen, minlength=500), np.ones(500))             # an epoch is each example once
    figure.at_least(slow / batches.epoch, 10.0, slack=20.0)                  # measured 30 to 100: the data are redundant


@pytest.mark.mission(103)
def test_sum_and_mean_differ_by_the_rate(figure):
    """L = sum of losses with eta is L = mean with n eta: the same course."""
    x, y, _ = problem()
    of_sum = walk(optim.gd(0.01 / 12), lambda w, t: ad.grad(lambda w: np.sum((x @ w - y) ** 2))(w), np.zeros(4), 40)
    of_mean = walk(optim.gd(0.01), lambda w, t: ad.grad(mean_square)(w, x, y), np.zeros(4), 40)
    figure.equal(of_sum, of_mean, rel=1e-11)
    epochs = walk(optim.gd(0.01), lambda w, t: 2 * (x[t % 12] @ w - y[t % 12]) * x[t % 12], np.zeros(4), 36)
    assert mean_square(epochs[-1], x, y) < mean_square(epochs[11], x, y) < mean_square(np.zeros(4), x, y)


@pytest.mark.mission(109)
@pytest.mark.parametrize("kind", ["free", "in a box"])
def test_the_range_of_rates_that_converge_is_two_over_l(kind, figure):
    """Bisection for the rate at which gradient descent on a quadratic stops converging: 2 / L, with a projection or without."""
    curvature = np.array([5.0, 1.0, 0.3])
    onto = optim.box(-2.0, 2.0) if kind == "in a box" else None

    def converges(eta):
        rule = optim.gd(eta) if onto is None else optim.project(optim.gd(eta), onto)
        w, state = np.ones(3), rule.init(np.ones(3))
        for _ in range(1500):
            updates, state = rule.update(curvature * w, state, w)
            w = optim.apply_updates(w, updates)
            if not 1e-6 < abs(w[0]) < 1.5:
                break
        return abs(w[0]) < 1.0
    low, high = 0.1, 1.0
    for _ in range(14):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if converges(middle) else (low, middle)
    figure.equal(0.5 * (low + high) * 5.0, 2.0, rel=1e-3)
