"""Clipping at cliffs, adaptive rates and schedules: what the lectures say of them, each as a number."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

import adjoint as ad
from adjoint import optim
from adjoint.data import Batches
from adjoint.optim import schedules


def walk(rule, gradients, start):
    """The parameters after each of the given gradients."""
    w, state, found = start, rule.init(start), []
    for g in gradients:
        updates, state = rule.update(g, state, w)
        w = optim.apply_updates(w, updates)
        found.append(w)
    return np.array(found)


def example(name):
    """A module of examples/."""
    path = Path(__file__).resolve().parents[2] / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def recurrence(p):
    """One unit fed back to itself 50 times, x <- w sigmoid(x) + b: its loss over (w, b) has a cliff."""
    x = 0.5
    for _ in range(50):
        x = p[0] / (1.0 + np.exp(-x)) + p[1]
    return (1.0 / (1.0 + np.exp(-x)) - 0.7) ** 2


@pytest.mark.mission(49)
@pytest.mark.mission(51)
def test_a_cliff_throws_descent_away_and_clipping_keeps_it(figure):
    """Beside the cliff of a recurrent unit (Pascanu et al., figure 6) one plain step leads hundreds away, to a plain without slope."""
    gradient, start = ad.compile(ad.value_and_grad(recurrence)), np.array([4.95, -2.58125])
    loss, g = gradient(start)
    figure.at_least(optim.global_norm(g), 1000.0)                           # the slope, where the loss is below 1 everywhere
    ends = {}
    for name, rule in {"plain": optim.sgd(0.1), "clipped": optim.chain(optim.clip_by_global_norm(0.5), optim.sgd(0.1))}.items():
        w, state, farthest = start, rule.init(start), 0.0
        for _ in range(300):
            updates, state = rule.update(gradient(w)[1], state, w)
            w = optim.apply_updates(w, updates)
            farthest = max(farthest, float(optim.global_norm(w - start)))
        ends[name] = float(gradient(w)[0]), farthest, float(optim.global_norm(gradient(w)[1]))
    figure.at_least(ends["plain"][1], 200.0)                                # thrown away, and left where nothing has a slope
    figure.equal(ends["plain"][0], 0.09, rel=1e-9)
    figure.at_most(ends["plain"][2], 1e-12, slack=np.inf)
    figure.at_most(ends["clipped"][0] / loss, 2e-4)
    figure.at_most(ends["clipped"][1], 2.0)


@pytest.mark.mission(50)
def test_clipping_by_norm_keeps_the_direction_alone(figure):
    rng = np.random.default_rng(0)
    tree = {"a": rng.normal(size=(3, 4)), "b": (rng.normal(size=5), None)}
    clipped = optim.clip_by_global_norm(0.25).update(tree, (), None)[0]
    flat = lambda t: np.concatenate([t["a"].ravel(), t["b"][0]])
    figure.equal(np.linalg.norm(flat(clipped)), 0.25)
    figure.equal(flat(clipped) / np.linalg.norm(flat(clipped)), flat(tree) / np.linalg.norm(flat(tree)))
    figure.equal(optim.global_norm(tree), np.linalg.norm(flat(tree)))
    by_value = flat(optim.clip_by_value(0.25).update(tree, (), None)[0])
    cosine = by_value @ flat(tree) / np.linalg.norm(by_value) / np.linalg.norm(flat(tree))
    figure.at_most(cosine, 0.95)                                            # by value the direction is not kept


@pytest.mark.mission(52)
def test_adagrad_by_hand(figure):
    """G_k = sum over j <= k of g_j g_j^T; w <- w - eta g / sqrt(G_ii), the current gradient included; 0/0 := 0 on the third weight."""
    gradients = np.array([[3.0, -1.0, 0.0], [4.0, 2.0, 0.0], [0.0, 2.0, 0.0]])
    found = walk(optim.adagrad(0.5, epsilon=0.0), gradients, np.ones(3))
    figure.equal(found, [[0.5, 1.5, 1.0], [0.1, 1.5 - 1.0 / np.sqrt(5.0), 1.0],
                         [0.1, 1.5 - 1.0 / np.sqrt(5.0) - 1.0 / 3.0, 1.0]])
    state = optim.scale_by_full_adagrad(0.1).init(np.ones(3))
    for g in gradients:
        updates, state = optim.scale_by_full_adagrad(0.1).update(g, state, None)
    outer = gradients.T @ gradients
    figure.equal(state.outer, outer)
    figure.equal(np.diag(outer), [25.0, 9.0, 0.0])
    root = lambda m: (lambda s, v: (v * np.sqrt(np.maximum(s, 0))) @ v.T)(*np.linalg.eigh(m))
    figure.equal((0.1 * np.eye(3) + root(outer)) @ updates, gradients[-1], abs=1e-12)       # (delta I + G^(1/2)) u = g


@pytest.mark.mission(53)
def test_the_root_of_g_estimates_the_lipschitz_constants(figure):
    """On f = sum L_i |w_i| the constant in weight i is L_i, and sqrt(G_ii / k) is exactly that."""
    constants, rule = np.array([3.0, 0.5, 10.0]), optim.adagrad(0.1)
    gradient, w = ad.compile(ad.grad(lambda w: np.sum(constants * np.abs(w)))), np.array([1.0, -2.0, 0.3])
    state = rule.init(w)
    for _ in range(40):
        updates, state = rule.update(gradient(w), state, w)
        w = optim.apply_updates(w, updates)
    figure.equal(np.sqrt(state[0].squares / 40), constants, rel=1e-12)


@pytest.mark.mission(54)
@pytest.mark.mission(55)
def test_adams_moments_and_their_correction(figure):
    """g = 1, -3, 2 at beta1 = 1/2, beta2 = 3/4: mu = 1/2, -5/4, 3/8; nu = 1/4, 39/16, 181/64; divided by 1 - beta^(k+1)."""
    rule = optim.scale_by_adam(0.5, 0.75, 0.0)
    state, mu, nu, updates = rule.init(np.zeros(1)), [], [], []
    for g in (1.0, -3.0, 2.0):
        u, state = rule.update(np.array([g]), state, None)
        mu.append(state.mu[0])
        nu.append(state.nu[0])
        updates.append(u[0])
    figure.equal(mu, [1 / 2, -5 / 4, 3 / 8])
    figure.equal(nu, [1 / 4, 39 / 16, 181 / 64])
    mu_hat, nu_hat = [1.0, -5 / 3, 3 / 7], [1.0, 39 / 7, 181 / 37]
    figure.equal(updates, np.array(mu_hat) / np.sqrt(nu_hat))
    # Of a constant gradient every corrected mean is that gradient, from the first step; the plain one is 1 - beta^k of it.
    average, plain = optim.average_of(0.9, bias_correction=True), optim.average_of(0.9)
    a, b = average.init(np.zeros(1)), plain.init(np.zeros(1))
    for k in range(1, 6):
        (u, a), (v, b) = average.update(np.array([2.5]), a, None), plain.update(np.array([2.5]), b, None)
        figure.equal([u[0], v[0]], [2.5, 2.5 * (1 - 0.9 ** k)])


@pytest.mark.mission(56)
@pytest.mark.parametrize("beta", [0.5, 0.9, 0.99])
def test_a_larger_forgetting_factor_gives_the_past_more_weight(beta, figure):
    """The weight of the gradient of j steps ago is (1 - beta) beta^j; its mean age beta / (1 - beta): 1, 9, 99 steps."""
    rule, steps = optim.scale_by_adam(beta, beta), 3000
    state, weights, squares = rule.init(np.zeros(1)), [], []
    for j in range(steps):
        _, state = rule.update(np.array([1.0 if j == 0 else 0.0]), state, None)
        weights.append(state.mu[0])
        squares.append(state.nu[0])
    figure.equal(weights[:20], (1 - beta) * beta ** np.arange(20))
    figure.equal(np.sum(np.arange(steps) * np.array(weights)), beta / (1 - beta), rel=1e-9)
    figure.equal(np.sum(squares), 1.0, rel=1e-9)


def noisy_course(schedule, epochs=60, seed=5):
    """The mean excess of least squares over its least value in the last epoch of single examples."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(200, 10))
    y = x @ rng.normal(size=10) + 0.5 * rng.normal(size=200)
    least, gram = np.linalg.lstsq(x, y, rcond=None)[0], x.T @ x / 200
    rule, w = optim.sgd(schedule), np.zeros(10)

    def step(w, state, x, y):
        updates, state = rule.update(ad.grad(lambda w: np.mean((x @ w - y) ** 2))(w), state, w)
        return optim.apply_updates(w, updates), state
    step, state, batches, gaps = ad.compile(step), rule.init(w), Batches(x, y, batch=4, seed=2, replace=True), []
    while batches.epoch < epochs:
        for xs, ys in batches:
            w, state = step(w, state, xs, ys)
            if batches.epoch >= epochs - 1:
                gaps.append((w - least) @ gram @ (w - least))
    return np.mean(gaps)


@pytest.mark.mission(116)
def test_smaller_steps_get_closer_but_not_too_early(figure):
    """60 epochs of 50 updates: a fixed rate hovers, a cosine comes down, a rate that falls at once does not arrive."""
    fixed, cosine = noisy_course(schedules.constant(0.05)), noisy_course(schedules.cosine(0.05, 3000))
    early = noisy_course(schedules.step(0.05, 10, factor=0.1))
    figure.at_most(cosine / fixed, 0.2)
    figure.at_least(early / fixed, 10.0, slack=100.0)


@pytest.mark.mission(118)
def test_cyclic_rates_go_up_and_down_batch_by_batch(figure):
    """Smith's triangle between 0.1 and 0.5 with stepsize 4, its halved and its exponential form; a different rate at each batch."""
    triangle = [0.1, 0.2, 0.3, 0.4, 0.5, 0.4, 0.3, 0.2]
    at = lambda schedule: [float(schedule(np.array(t))) for t in range(16)]
    figure.equal(at(schedules.cyclic(0.1, 0.5, 4)), triangle + triangle)
    figure.equal(at(schedules.cyclic(0.1, 0.5, 4, mode="triangular2")), triangle + [0.1 + (x - 0.1) / 2 for x in triangle])
    heights = np.array(triangle * 2) - 0.1
    figure.equal(at(schedules.cyclic(0.1, 0.5, 4, mode="exp_range", factor=0.9)), 0.1 + heights * 0.9 ** np.arange(16), rel=1e-12)
    rule, w, rates = optim.sgd(schedules.cyclic(0.1, 0.5, 4)), np.zeros(1), []
    state = rule.init(w)
    for _ in range(8):
        updates, state = rule.update(np.ones(1), state, w)
        rates.append(-updates[0])
    figure.equal(rates, triangle)


def sparse_regression(seed=0, examples=2000, features=60):
    """Features seen with frequencies 1 down to 0.002; all weights matter alike."""
    rng = np.random.default_rng(seed)
    frequency = np.logspace(0, np.log10(0.002), features)
    x = (rng.random((examples, features)) < frequency) * rng.choice([-1.0, 1.0], (examples, features))
    x[:features][np.arange(features), np.arange(features)] = 1.0            # each is seen at least once
    return x, x @ rng.choice([-1.0, 1.0], features)


def after_an_epoch(make, rates, data, seed=1):
    """The least mean square over the data after one pass of single examples, of all rates; one program serves them."""
    x, y = data

    def step(w, state, x, y, rate):
        updates, state = make(rate).update(ad.grad(lambda w: np.mean((x @ w - y) ** 2))(w), state, w)
        return optim.apply_updates(w, updates), state
    step, found = ad.compile(step), []
    with np.errstate(all="ignore"):
        for rate in rates:
            w, state = np.zeros(x.shape[1]), make(rate).init(np.zeros(x.shape[1]))
            for xs, ys in Batches(x, y, batch=1, seed=seed):
                w, state = step(w, state, xs, ys, rate)
            found.append(np.nan_to_num(np.mean((x @ w - y) ** 2), nan=np.inf))
    return min(found)


@pytest.mark.mission(119)
def test_adagrad_is_effective_for_sparse_features(figure):
    """Each with its best rate of nine, one pass over sparse data: AdaGrad's error beside gradient descent's; and each weight's rate."""
    data = sparse_regression()
    rates = 10.0 ** np.linspace(-2.5, 0.5, 9)
    descent, adaptive = after_an_epoch(optim.sgd, rates, data), after_an_epoch(optim.adagrad, rates, data)
    figure.at_most(adaptive / descent, 0.1)
    # The second moment compensates large gradients: of two weights, one with gradients 100 times as large, both move alike.
    u = walk(optim.adagrad(0.1, epsilon=0.0), np.random.default_rng(3).normal(size=(50, 1)) * [1.0, 100.0], np.zeros(2))
    figure.equal(u[:, 1], u[:, 0], rel=1e-11)
    # Per-weight decreasing rates: eta / sqrt(G) after k unit gradients is eta / sqrt k, for a weight seen k times.
    seen = walk(optim.adagrad(1.0, epsilon=0.0), np.array([[1.0, k % 4 == 0] for k in range(16)]), np.zeros(2))
    figure.equal(-np.diff(seen[:, 0])[-1], 1 / np.sqrt(16.0))
    figure.equal(-seen[12, 1] + seen[11, 1], 1 / np.sqrt(4.0))


@pytest.mark.mission(120)
def test_rmsprop_does_not_see_the_gradients_magnitude(figure):
    """The loss times a million, the same steps; and a leaky average forgets where AdaGrad's sum cannot."""
    gradients = np.random.default_rng(1).normal(size=(60, 4))
    start = np.zeros(4)
    small = walk(optim.rmsprop(schedules.step(0.1, 20), epsilon=0.0), gradients, start)
    figure.equal(walk(optim.rmsprop(schedules.step(0.1, 20), epsilon=0.0), 1e6 * gradients, start), small, rel=1e-11)
    plain = walk(optim.sgd(0.1), 1e6 * gradients, start)
    figure.equal(plain, 1e6 * walk(optim.sgd(0.1), gradients, start), rel=1e-11)
    fall = np.r_[100.0 * np.ones(50), np.ones(1000)][:, None]               # a steep stretch, then a gentle one
    last = lambda rule: -np.diff(walk(rule, fall, np.zeros(1))[:, 0])[-1]
    figure.equal(last(optim.rmsprop(0.1, beta=0.9, epsilon=0.0)), 0.1, rel=1e-9)
    figure.equal(last(optim.adagrad(0.1, epsilon=0.0)), 0.1 / np.sqrt(50 * 1e4 + 1000), rel=1e-9)


@pytest.mark.mission(121)
def test_adam_may_diverge_where_amsgrad_converges(figure):
    """Reddi's problem: Adam ends at +1, the worst point of [-1, 1], AMSGrad at -1, the best; with bias corrections and without."""
    adam_diverges = example("adam_diverges")
    for name, rule in adam_diverges.rules().items():
        x = adam_diverges.course(rule, steps=6001)                          # the last step is one down
        figure.equal(x[-1], -1.0 if name.startswith("AMSGrad") else 1.0, abs=0.012)
        figure.equal(np.mean(x[-2000:]), -1.0 if name.startswith("AMSGrad") else 1.0, abs=0.005)


@pytest.mark.mission(121)
def test_adam_is_rmsprop_with_momentum_corrected(figure):
    """beta1 = 0: RMSProp with its square corrected; beta2 so near 1 that nu_hat is the mean of squares: momentum with one rate."""
    gradients = np.random.default_rng(2).normal(size=(30, 3))
    adam = walk(optim.adam(0.1, beta1=0.0, beta2=0.9, epsilon=0.0), gradients, np.zeros(3))
    rms, nu = [], np.zeros(3)
    for k, g in enumerate(gradients, 1):
        nu = 0.9 * nu + 0.1 * g * g
        rms.append(g / np.sqrt(nu / (1 - 0.9 ** k)))
    figure.equal(adam, -0.1 * np.cumsum(rms, axis=0), rel=1e-10)
    plain = walk(optim.rmsprop(0.1, beta=0.9, epsilon=0.0), gradients, np.zeros(3))
    figure.equal(plain[0] / adam[0], np.full(3, np.sqrt(10.0)))              # what the correction is for: the first step is not 3.16 eta
    long = walk(optim.adam(0.1, beta1=0.9, beta2=1 - 1e-9, epsilon=0.0), gradients * 0 + 1.0, np.zeros(3))
    figure.equal(long[:, 0], -0.1 * np.arange(1.0, 31.0), rel=1e-6)
