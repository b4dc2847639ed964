"""Losses and penalties by plain formulas: values, gradients, kinks, extremes; what weight decay is and is not."""

import math

import numpy as np
import pytest

import adjoint as ad
from adjoint import nn
from adjoint.errors import DtypeError, IndexRangeError, NotDifferentiableError, ShapeError


def close(found, expected, rtol=1e-12):
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-12)


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.mission(2)
def test_logistic_loss_of_a_linear_model(rng, figure):
    """log(1 + exp(-y x.w)), in the form that does not overflow; gradient -y x sigmoid(-y x.w)."""
    x, y, w = rng.standard_normal((5, 3)), np.array([1.0, -1.0, 1.0, -1.0, -1.0]), rng.standard_normal(3)
    value, bar = ad.value_and_grad(lambda w: nn.logistic_loss(x @ w, y))(w)
    margins = [yi * sum(xij * wj for xij, wj in zip(xi, w, strict=True)) for xi, yi in zip(x, y, strict=True)]
    figure.equal(value, sum(math.log(1.0 + math.exp(-m)) for m in margins) / 5, rel=1e-14)
    figure.equal(bar, sum(-yi * xi / (1.0 + math.exp(m)) for xi, yi, m in zip(x, y, margins, strict=True)) / 5, rel=1e-13)
    figure.equal(nn.logistic_loss(np.array([-1000.0]), np.array([1.0])), 1000.0)          # the plain formula overflows here
    figure.equal(ad.grad(lambda s: nn.logistic_loss(s, np.array([1.0])))(np.array([-1000.0])), [-1.0])


@pytest.mark.mission(3)
def test_squared_error_of_a_linear_model(rng, figure):
    """(y - x.w)^2; gradient -2 x (y - x.w)."""
    x, y, w = rng.standard_normal((5, 3)), rng.standard_normal(5), rng.standard_normal(3)
    value, bar = ad.value_and_grad(lambda w: nn.squared_error(x @ w, y))(w)
    rests = [yi - sum(xij * wj for xij, wj in zip(xi, w, strict=True)) for xi, yi in zip(x, y, strict=True)]
    figure.equal(value, sum(r * r for r in rests) / 5, rel=1e-14)
    figure.equal(bar, sum(-2.0 * xi * r for xi, r in zip(x, rests, strict=True)) / 5, rel=1e-13)


# name: (loss(a), value(a) of one element, derivative(a), points, the last ones at the kinks)
CASES = {
    "absolute": (lambda a: nn.absolute_error(a, 0.0 * a + 1.0), lambda a: abs(a - 1), lambda a: (a > 1) - (a < 1), [-2.0, 0.5, 3.0, 1.0]),
    "huber": (lambda a: nn.huber_loss(a, 0.0 * a, 0.5), lambda a: a * a / 2 if abs(a) <= 0.5 else 0.5 * (abs(a) - 0.25),
              lambda a: min(max(a, -0.5), 0.5), [-3.0, -0.2, 0.3, 2.0, 0.5, -0.5]),
    "hinge": (lambda a: nn.hinge_loss(a, 0.0 * a - 1.0), lambda a: max(0.0, 1 + a), lambda a: float(a > -1), [-3.0, -0.5, 2.0, -1.0]),
    "logistic": (lambda a: nn.logistic_loss(a, 0.0 * a - 1.0), lambda a: math.log1p(math.exp(a)), lambda a: 1 / (1 + math.exp(-a)),
                 [-3.0, 0.0, 2.0]),
}


@pytest.mark.parametrize("name", CASES)
def test_losses_of_one_number(name):
    loss, value, slope, points = CASES[name]
    a = np.array(points)
    both = ad.value_and_grad(loss)
    for found, bar in (both(a), ad.compile(both)(a)):
        close(found, sum(map(value, points)) / a.size)
        close(bar, [slope(p) / a.size for p in points])


def test_nll_of_log_softmax_is_cross_entropy(rng):
    z, labels = rng.standard_normal((2, 3, 4)), rng.integers(0, 4, (2, 3))
    close(nn.nll_loss(nn.log_softmax(z), labels), nn.cross_entropy(z, labels))
    close(ad.grad(lambda z: nn.nll_loss(nn.log_softmax(z), labels))(z), (softmax(z) - np.eye(4)[labels]) / 6)
    close(ad.grad(lambda q: nn.nll_loss(q, labels))(np.log(softmax(z))), -np.eye(4)[labels] / 6)


def test_kl_divergence(rng):
    p, q = softmax(rng.standard_normal((3, 4))), softmax(rng.standard_normal((3, 4)))
    p[0] = [0.0, 1.0, 0.0, 0.0]
    expected = sum(pk * math.log(pk / qk) for pk, qk in zip(p.ravel(), q.ravel(), strict=True) if pk > 0) / 3
    value, (log_q_bar, p_bar) = ad.value_and_grad(nn.kl_divergence, (0, 1))(np.log(q), p)
    close(value, expected)
    close(log_q_bar, -p / 3)
    inside = p > 0
    close(p_bar[inside], (np.log(p[inside] / q[inside]) + 1) / 3)
    assert np.isfinite(p_bar).all() and abs(nn.kl_divergence(np.log(p[1:]), p[1:])) < 1e-15
    close(ad.compile(nn.kl_divergence)(np.log(q), p), expected)


def test_gaussian_nll_is_the_density(rng):
    m, t, v = rng.standard_normal(4), rng.standard_normal(4), rng.uniform(0.5, 2.0, 4)
    density = np.exp(-((m - t) ** 2) / (2 * v)) / np.sqrt(2 * np.pi * v)
    close(nn.gaussian_nll(m, t, v, full=True), -np.log(density).mean())
    m_bar, v_bar = ad.grad(nn.gaussian_nll, (0, 2))(m, t, v)
    close(m_bar, (m - t) / v / 4)
    close(v_bar, 0.5 * (1 / v - ((m - t) / v) ** 2) / 4)
    tiny = np.full(4, 1e-12)
    close(nn.gaussian_nll(m, m, tiny), 0.5 * math.log(1e-6))                # never below eps, and no division by 0
    close(ad.grad(nn.gaussian_nll, 2)(m, m, tiny), np.full(4, 0.5e6 / 4))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_many_classes_compiled(rng, smoothing):
    z, labels = (5.0 * rng.standard_normal((40, 500))).astype(np.float32), rng.integers(0, 500, 40)
    both = ad.compile(ad.value_and_grad(lambda z, y: nn.cross_entropy(z, y, label_smoothing=smoothing)))
    value, bar = both(z, labels)
    exact = softmax(z.astype(np.float64))
    q = np.eye(500)[labels] * (1 - smoothing) + smoothing / 500
    np.testing.assert_allclose(value, -(q * np.log(exact)).sum(-1).mean(), rtol=1e-6)
    np.testing.assert_allclose(bar, (exact - q) / 40, rtol=1e-5, atol=1e-8)


def test_penalties(rng):
    model = nn.Sequential(nn.Linear(3, 2, rng=rng, dtype=np.float64), nn.BatchNorm1d(2, dtype=np.float64))
    w, b = model[0].weight, model[0].bias
    close(nn.l2(model), 0.5 * (np.sum(w * w) + np.sum(b * b) + 2.0))       # the scales of batch norm are 1; its running values do not count
    close(nn.l2(model, matrices_only=True), 0.5 * np.sum(w * w))
    close(nn.l1(model, matrices_only=True), np.abs(w).sum())
    bars = ad.grad(nn.l2)(model)
    close(bars[0].weight, w)
    close(bars[1].running_var, 0.0)
    close(ad.grad(nn.l1)({"w": np.array([2.0, -3.0, 0.0])})["w"], [1.0, -1.0, 0.0])
    close(ad.compile(nn.l2)(model), nn.l2(model))
    with pytest.raises(NotDifferentiableError, match="no floating weights"):
        nn.l2({"labels": np.array([1, 2])})


def test_the_penalty_is_weight_decay_under_gradient_descent(rng):
    """w - eta (g + s w) = (1 - eta s) w - eta g."""
    w, x, y = rng.standard_normal((2, 3)), rng.standard_normal((5, 3)), rng.standard_normal((5, 2))
    loss = lambda w: nn.squared_error(x @ w.T, y)
    eta, s = 0.1, 0.3
    close(w - eta * ad.grad(lambda w: loss(w) + s * nn.l2(w))(w), (1 - eta * s) * w - eta * ad.grad(loss)(w))


def test_losses_refuse_what_does_not_fit():
    a, z = np.ones((2, 3)), np.zeros((2, 3))
    for call, error, text in ((lambda: nn.absolute_error(a, a[0]), ShapeError, r"prediction \(2, 3\), target \(3,\)"),
                              (lambda: nn.huber_loss(a, a.T), ShapeError, "huber_loss"),
                              (lambda: nn.hinge_loss(a, a[:, :1]), ShapeError, "scores"),
                              (lambda: nn.kl_divergence(z, z[:1]), ShapeError, "log_q"),
                              (lambda: nn.gaussian_nll(a, a, np.ones(())), ShapeError, r"variance \(\)"),
                              (lambda: nn.nll_loss(z, np.array([0, 3])), IndexRangeError, "nll_loss: labels go from 0 to 3"),
                              (lambda: nn.nll_loss(z, np.array([0.0, 1.0])), DtypeError, "integers"),
                              (lambda: nn.cross_entropy(z, np.array([0])), ShapeError, r"need labels \(2,\), found \(1,\)")):
        with pytest.raises(error, match=text):
            call()
