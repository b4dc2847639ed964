"""Logistic regression of the lectures: the objective by hand, the minimum by its own condition, and scikit-learn's answer."""

import numpy as np
import pytest

from adjoint.data import load_digits
from examples.logistic_regression import LogisticRegression, fit, objective


def two_classes(rng, examples=60, features=4):
    x = rng.normal(size=(examples, features)) * [1.0, 3.0, 0.3, 1.0]
    return x, np.where(x @ [1.0, -0.5, 2.0, 0.0] + rng.normal(size=examples) > 0, 1.0, -1.0)


@pytest.mark.mission(133)
def test_the_objective_is_the_one_of_the_lectures(rng, figure):
    x, y = two_classes(rng)
    w, strength = rng.normal(size=(1, 4)), 0.7
    likelihood = [1.0 / (1.0 + np.exp(-(label * (w[0] @ row)))) for row, label in zip(x, y, strict=True)]
    figure.equal(objective(w, x, y, strength), 0.5 * sum(v * v for v in w[0]) - strength * sum(np.log(p) for p in likelihood), rel=1e-13)


@pytest.mark.mission(133)
def test_at_the_minimum_w_is_the_sum_that_its_gradient_says(rng, figure):
    x, y = two_classes(rng)
    found = fit(x, y, 2, strength=2.0)
    w = found.model.weight[0]
    figure.equal(w, 2.0 * ((1.0 / (1.0 + np.exp(y * (x @ w)))) * y) @ x, rel=1e-9)
    assert found.objectives == sorted(found.objectives, reverse=True) and len(found.objectives) < 12


def test_several_classes_at_the_minimum(rng):
    x, y = rng.normal(size=(50, 3)), rng.integers(0, 4, 50)
    x[:, 0] += y
    w = fit(x, y, 4).model.weight
    scores = np.exp(x @ w.T)
    chance = scores / scores.sum(axis=1, keepdims=True)
    assert np.allclose(w, (np.eye(4)[y] - chance).T @ x, rtol=0, atol=1e-8) and np.abs(w.sum(axis=0)).max() < 1e-9


def test_a_far_start_of_scale_is_searched_back(rng):
    x, y = two_classes(rng)
    found = fit(1000.0 * x, y, 2, strength=100.0)
    assert found.gradient_norm < 1e-4 and found.objectives == sorted(found.objectives, reverse=True)


def test_scores_are_inner_products():
    assert LogisticRegression(np.array([[2.0, -1.0]]))(np.array([[1.0, 1.0], [0.0, 3.0]])).tolist() == [[1.0], [-3.0]]


def test_scikit_learn_finds_the_same_minimum():
    linear_model = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    digits = load_digits()
    chosen = np.isin(digits.train_y, (0, 1, 2))
    x, y = digits.train_x[chosen].astype(np.float64)[:, 10:30], digits.train_y[chosen]
    peer = linear_model.LogisticRegression(C=1.0, fit_intercept=False, tol=1e-12, max_iter=100_000).fit(x, y)
    theirs = objective(peer.coef_, x, y, 1.0)
    assert abs(fit(x, y, 3).objectives[-1] - theirs) <= 1e-6 * theirs
