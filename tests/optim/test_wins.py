"""One problem for each rule on which it must win: training losses and errors, the other side at the best rate of those beside it."""

import functools

import numpy as np
import pytest

import adjoint as ad
from adjoint import data, nn, optim, train
from adjoint.data import Batches


@functools.cache
def digits(held_out):
    rest, x, y = data.load_digits().hold_out(held_out, seed=0)
    return rest.train_x.astype(np.float32), rest.train_y, x.astype(np.float32), y


def fit(rule, steps=200, seed=0):
    """The training loss after 200 updates on 1,500 digits, a tanh network of two hidden layers; of the weights to evaluate."""
    x, y, _, _ = digits(500)
    x, y = x[:1500], y[:1500]
    model = nn.mlp(64, 64, 64, 10, activation=np.tanh, rng=np.random.default_rng(seed))
    step, state, done = train.make_step(nn.cross_entropy, rule), rule.init(model), 0
    batches = Batches(x, y, batch=64, seed=seed, last="drop")
    while done < steps:
        for xs, ys in batches:
            model, state, *_ = step(model, state, xs, ys)
            done += 1
            if done == steps:
                break
    return float(nn.cross_entropy(optim.evaluation_parameters(state, model)(x), y))


@functools.cache
def adamw_at_its_best():
    return min(fit(optim.adamw(rate, weight_decay=0.0)) for rate in (0.003, 0.01, 0.03))


@pytest.mark.parametrize("name, rule", [
    ("lion", optim.lion(0.003)),
    ("muon", optim.muon(0.03, others=optim.adamw(0.03))),
    ("schedule-free", optim.schedule_free_adamw(0.03)),
])
def test_at_a_constant_rate_below_adamw_at_its_best(name, rule):
    """Measured in float64 over two seeds and a grid of rates: AdamW 0.035, Lion 0.017, Muon 0.0080, schedule-free AdamW 0.0068."""
    assert fit(rule) < 0.75 * adamw_at_its_best()


def test_sharpness_aware_minimization_learns_less_of_wrong_labels():
    """400 digits, four in ten labels drawn anew: the error on digits never seen, after training has taken the wrong ones in."""
    x, y, held_x, held_y = digits(1000)
    rng = np.random.default_rng(100)
    x, y = x[:400], y[:400].copy()
    wrong = rng.random(400) < 0.4
    y[wrong] = rng.integers(0, 10, wrong.sum())

    def error(rho):
        gradient, rule = ad.value_and_grad(lambda m, x, y: nn.cross_entropy(m(x), y)), optim.sgd(0.05, momentum=0.9)
        model = nn.mlp(64, 64, 10, activation=nn.relu, rng=np.random.default_rng(0))
        step, state, batches = ad.compile(optim.sam(gradient, rule, rho)), rule.init(model), Batches(x, y, batch=50, seed=0)
        while batches.epoch < 80:
            for xs, ys in batches:
                model, state, _ = step(model, state, xs, ys)
        return train.error_rate(model(held_x), held_y)
    assert error(0.5) < 0.7 * error(0.0)


def quadratic(rule, matrix, steps=200):
    """f after the steps, from a start that has all eigenvectors alike."""
    vectors = np.linalg.eigh(matrix)[1]
    w, state = vectors @ np.ones(len(matrix)), None
    state = rule.init(w)
    for _ in range(steps):
        updates, state = rule.update(matrix @ w, state, w)
        w = optim.apply_updates(w, updates)
    return 0.5 * w @ matrix @ w


def test_full_matrix_adagrad_on_a_rotated_valley():
    """kappa 1000 along no axis: the diagonal sees nothing of it, the whole matrix all."""
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(10, 10)))[0]
    matrix = q @ np.diag(np.logspace(0, -3, 10)) @ q.T
    diagonal = min(quadratic(optim.adagrad(rate), matrix) for rate in (0.1, 0.3, 1.0, 3.0))
    assert min(quadratic(optim.full_adagrad(rate), matrix) for rate in (0.3, 1.0)) < 1e-6 * diagonal


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e2, 1e4])
def test_adadelta_needs_no_rate(scale):
    """A loss in units over six decades, the same constants: Adadelta falls each time, descent at rate 1 leaves the valley from 2/L on."""
    matrix, start = scale * np.diag([1.0, 0.3, 0.1]), 0.7 * scale
    assert quadratic(optim.adadelta(), matrix, 2000) < 2e-3 * start
    with np.errstate(all="ignore"):
        assert (quadratic(optim.gd(1.0), matrix, 2000) < start) == (scale <= 2.0)


def test_adaptive_clipping_bears_a_rate_that_is_too_large():
    assert fit(optim.chain(optim.clip_adaptively(0.02), optim.sgd(3.0)), 100) < 0.5 * fit(optim.sgd(3.0), 100)


ROSENBROCK = lambda x: np.sum((1 - x[:-1]) ** 2 + 100 * (x[1:] - x[:-1] ** 2) ** 2)


@pytest.mark.parametrize("size, most", [(2, 60), (10, 130), (100, 800)])
def test_lbfgs_on_rosenbrocks_valley(size, most):
    """To |g| <= 1e-10 in as many evaluations as SciPy's L-BFGS-B takes (47, 98, 647), 20 % more at most; descent is nowhere near."""
    found = optim.minimize(ROSENBROCK, np.tile([-1.2, 1.0], size // 2), gradient_tolerance=1e-10)
    assert found.reason == "gradient" and found.evaluations <= most and found.value < 1e-18
    np.testing.assert_allclose(found.x, 1.0, atol=1e-9)
    assert all(b <= a for a, b in zip(found.values, found.values[1:], strict=False))
    gradient, w = ad.compile(ad.grad(ROSENBROCK)), np.tile([-1.2, 1.0], size // 2)
    for _ in range(found.evaluations):
        w = w - 1e-3 * gradient(w)
    assert ROSENBROCK(w) > 1e-3
