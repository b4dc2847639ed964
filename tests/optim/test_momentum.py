"""Momentum: what it gains on ill-conditioned problems, measured."""

import numpy as np
import pytest

import adjoint as ad
from adjoint import optim
from adjoint.data import Batches

KAPPAS = np.array([10.0, 30.0, 100.0, 300.0, 1000.0])


def iterations(rule, curvature, tolerance=1e-6, most=100_000):
    """Updates until |w| has fallen by the tolerance on f = sum curvature w^2 / 2, all weights 1 at the start; the step is compiled."""
    def hundred(w, state):
        norms = []
        for _ in range(10):
            updates, state = rule.update(ad.grad(lambda w: 0.5 * np.sum(curvature * w * w))(w), state, w)
            w = optim.apply_updates(w, updates)
            norms.append(np.sqrt(np.sum(w * w)))
        return w, state, np.stack(norms)
    step, w, state, goal = ad.compile(hundred), np.ones(len(curvature)), rule.init(curvature), tolerance * np.sqrt(len(curvature))
    for done in range(0, most, 10):
        w, state, norms = step(w, state)
        if norms[-1] <= goal:
            return done + 1 + int(np.argmax(norms <= goal))
    raise AssertionError(f"not in {most} steps")


def spectrum(kappa):
    return np.logspace(-np.log10(kappa), 0.0, 8)


def slope(counts):
    return np.polyfit(np.log(KAPPAS), np.log(counts), 1)[0]


@pytest.mark.mission(113)
def test_gradient_descent_needs_kappa_steps_and_momentum_its_root(figure):
    """Iterations over the conditioning kappa = 10 .. 1000, each method at its best constants (rate and beta from the spectrum).

    Gradient descent: eta = 2 / (L + l), rate of convergence (kappa - 1) / (kappa + 1). Heavy ball: eta = 4 / (sqrt L + sqrt l)^2,
    beta = ((sqrt kappa - 1) / (sqrt kappa + 1))^2. Nesterov: eta = 1/L, beta = (sqrt kappa - 1) / (sqrt kappa + 1).
    """
    counts = {"gd": [], "heavy ball": [], "nesterov": []}
    for kappa in KAPPAS:
        root, curvature = np.sqrt(kappa), spectrum(kappa)
        counts["gd"].append(iterations(optim.gd(2.0 / (1.0 + 1.0 / kappa)), curvature))
        ball = optim.heavy_ball(4.0 / (1.0 + 1.0 / root) ** 2, momentum=((root - 1.0) / (root + 1.0)) ** 2)
        counts["heavy ball"].append(iterations(ball, curvature))
        counts["nesterov"].append(iterations(optim.nesterov(1.0, momentum=(root - 1.0) / (root + 1.0)), curvature))
    figure.equal(slope(counts["gd"]), 1.0, abs=0.03)
    figure.equal(slope(counts["heavy ball"]), 0.5, abs=0.06)
    figure.equal(slope(counts["nesterov"]), 0.5, abs=0.06)
    figure.equal(counts["gd"][-1], 0.5 * 1000 * np.log(1e6), rel=0.1)       # (kappa / 2) log(1 / tolerance)
    figure.at_least(counts["gd"][-1] / counts["heavy ball"][-1], 20.0)


@pytest.mark.mission(115)
def test_momentum_on_a_convex_function_without_a_least_curvature(figure):
    """Nesterov's worst function, 300 weights in a chain (as good as endless in 128 steps, so the bounds R^2/t and R^2/t^2 say little):
    f - min falls as t^(-1/2) for gradient descent and as t^(-1) for the accelerated step. Acceleration doubles the exponent."""
    size, steps = 300, 128
    chain = 2 * np.eye(size) - np.eye(size, k=1) - np.eye(size, k=-1)
    f = lambda w: 0.125 * w @ (chain @ w) - 0.25 * w[0]
    least = f(np.linalg.solve(chain, np.eye(size)[0]))
    gradient = ad.compile(ad.grad(f))
    plain, ahead, before, gaps = np.zeros(size), np.zeros(size), np.zeros(size), []
    for t in range(steps):
        plain = plain - gradient(plain)
        now = ahead - gradient(ahead)                                       # Nesterov 1983: beta_t = t / (t + 3)
        before, ahead = now, now + t / (t + 3) * (now - before)
        gaps.append([f(plain) - least, f(now) - least])
    late = slice(31, None)
    fall = np.polyfit(np.log(np.arange(1, steps + 1)[late]), np.log(np.array(gaps)[late]), 1)[0]
    figure.equal(fall[0], -0.5, abs=0.1)
    figure.equal(fall[1], -1.0, abs=0.2)
    figure.at_most(gaps[-1][1] / gaps[-1][0], 0.2)


@pytest.mark.mission(114)
def test_nine_tenths_is_a_good_beta_for_mini_batches(figure):
    """v <- beta v + g of the batch, theta <- theta - eta v, kappa 100: of five betas, each with its best rate, 0.9 ends lowest."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 8)) * np.logspace(0, -1, 8)
    goal = 3.0 * rng.normal(size=8)
    y = x @ goal
    loss = lambda w, x, y: np.mean((x @ w - y) ** 2)

    def final(beta, rate):
        def step(w, v, x, y, rate):
            v = beta * v + ad.grad(loss)(w, x, y)
            return w - rate * v, v
        step, w, v = ad.compile(step), np.zeros(8), np.zeros(8)
        batches = Batches(x, y, batch=32, seed=1)
        with np.errstate(all="ignore"):
            while batches.epoch < 25:
                for xs, ys in batches:
                    w, v = step(w, v, xs, ys, np.float64(rate))
            return float(np.nan_to_num(loss(w, x, y), nan=np.inf))
    betas = [0.0, 0.5, 0.9, 0.99, 0.999]
    best = [min(final(beta, rate * (1.0 - beta)) for rate in (0.1, 0.2, 0.4, 0.8, 1.6)) for beta in betas]
    figure.equal(betas[int(np.argmin(best))], 0.9)
    figure.at_most(best[2] / best[0], 2e-4)
    rule, w = optim.sgd(0.02, momentum=0.9), np.zeros(8)                    # and the rule takes the steps written above
    state, v, hand = rule.init(w), np.zeros(8), np.zeros(8)
    for k in range(20):
        rows = slice(32 * (k % 8), 32 * (k % 8) + 32)
        updates, state = rule.update(ad.grad(loss)(w, x[rows], y[rows]), state, w)
        w = optim.apply_updates(w, updates)
        v = 0.9 * v + 2 / 32 * x[rows].T @ (x[rows] @ hand - y[rows])
        hand = hand - 0.02 * v
    figure.equal(w, hand, rel=1e-11)
