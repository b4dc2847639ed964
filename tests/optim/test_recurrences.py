"""Rules that torch does not have, against their papers' recurrences written out on NumPy arrays, with none of the package's parts."""

import numpy as np
import pytest

import adjoint as ad
from adjoint import optim
from adjoint.optim import schedules

RNG = np.random.default_rng(8)
A, B = RNG.normal(size=(12, 6)), RNG.normal(size=(12, 4))
START = 0.5 * RNG.normal(size=(6, 4))


def gradient(w):
    """Of mean (tanh(A w) - B)^2 + 0.01 sum w^4, by hand."""
    t = np.tanh(A @ w)
    return A.T @ (2.0 * (t - B) / t.size * (1.0 - t * t)) + 0.04 * w ** 3


def course(rule, steps=100):
    """Parameters after each update and the last state, by one native call each."""
    loss = lambda w: np.mean((np.tanh(A @ w) - B) ** 2) + 0.01 * np.sum(w ** 4)

    def step(w, state):
        updates, state = rule.update(ad.grad(loss)(w), state, w)
        return optim.apply_updates(w, updates), state
    step, w, state, found = ad.compile(step), START, rule.init(START), []
    for _ in range(steps):
        w, state = step(w, state)
        found.append(w)
    return np.array(found), state


def agree(found, expected, tolerance=1e-10):
    assert np.abs(expected[-1] - expected[0]).max() > 0.01
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def written(recurrence, steps=100):
    """The course of a generator that is sent nothing and yields the parameters after each step."""
    walk = recurrence()
    return np.array([next(walk) for _ in range(steps)])


def test_gradient_descent():
    def recurrence():
        w = START
        while True:
            w = w - 0.3 * gradient(w)
            yield w
    agree(course(optim.gd(0.3))[0], written(recurrence))


def test_polyaks_heavy_ball_with_a_falling_rate():
    def recurrence():
        w, before, t = START, START, 0
        while True:
            w, before = w - 0.1 * 0.97 ** t * gradient(w) + 0.8 * (w - before), w
            t += 1
            yield w
    agree(course(optim.heavy_ball(schedules.exponential(0.1, 0.97), momentum=0.8))[0], written(recurrence))


def test_nesterov_in_sutskevers_form():
    """theta + mu v, the point looked ahead to, takes the steps of PyTorch's form."""
    def recurrence():
        theta, v = START, np.zeros_like(START)
        while True:
            v = 0.9 * v - 0.05 * gradient(theta + 0.9 * v)
            theta = theta + v
            yield theta + 0.9 * v
    agree(course(optim.nesterov(0.05, momentum=0.9))[0], written(recurrence))


@pytest.mark.mission(111)
@pytest.mark.mission(112)
def test_the_leaky_average_is_pytorchs_momentum_with_a_rate_ten_times_larger(figure):
    average = course(optim.chain(optim.average_of(0.9), optim.scale_by_learning_rate(0.5)))[0]
    momentum = course(optim.sgd(0.05, momentum=0.9))[0]
    figure.equal(average, momentum, rel=1e-9, abs=1e-12)

    def recurrence():
        w, v = START, np.zeros_like(START)
        while True:
            v = 0.9 * v + gradient(w)
            w = w - 0.05 * v
            yield w
    figure.equal(momentum, written(recurrence), rel=1e-10, abs=1e-12)


def test_full_matrix_adagrad():
    """(delta I + G^(1/2))^(-1) g with the root by singular values, not by our eigenvalues; delta in the size of the gradients."""
    rule, delta = optim.full_adagrad(0.2, delta=0.05), 0.05
    w, state, outer = START, rule.init(START), np.zeros((24, 24))
    expected = START
    for _ in range(100):
        updates, state = rule.update(gradient(w), state, w)
        w = optim.apply_updates(w, updates)
        g = gradient(expected).ravel()
        outer += np.outer(g, g)
        u, s, vt = np.linalg.svd(outer)
        expected = expected - 0.2 * np.linalg.solve(delta * np.eye(24) + (u * np.sqrt(s)) @ vt, g).reshape(6, 4)
    np.testing.assert_allclose(w, expected, rtol=1e-7, atol=1e-7)           # the root doubles the digits lost at G's null space
    assert np.abs(w - START).max() > 0.1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_full_matrix_of_commuting_gradients_is_the_diagonal(dtype):
    """Gradients along the axes, one each: G is diagonal, and both AdaGrads are one."""
    full, diagonal = optim.full_adagrad(1.0, delta=1e-6), optim.adagrad(1.0, epsilon=1e-6)
    a, b = full.init(np.zeros(3, dtype)), diagonal.init(np.zeros(3, dtype))
    for g in np.array([[2.0, 0, 0], [0, -3.0, 0], [0.5, 0, 0], [0, 0, 1.0]], dtype):
        (u, a), (v, b) = full.update(g, a, None), diagonal.update(g, b, None)
        assert u.dtype == dtype
        np.testing.assert_allclose(u, v, rtol=1e-5 if dtype == np.float32 else 1e-12, atol=1e-6)


def test_lion():
    def recurrence():
        w, m = START, np.zeros_like(START)
        while True:
            g = gradient(w)
            c = 0.9 * m + (1 - 0.9) * g
            w = w - 0.01 * (np.sign(c) + 0.1 * w)
            m = 0.99 * m + (1 - 0.99) * g
            yield w
    agree(course(optim.lion(0.01, weight_decay=0.1))[0], written(recurrence))


def test_lion_with_other_betas_decays_what_it_is_told_to():
    tree, rule = {"b": START[0], "w": START}, optim.lion(0.01, beta1=0.5, beta2=0.7, weight_decay=0.1, where=optim.matrices)
    state, expected, means = rule.init(tree), dict(tree), {name: np.zeros_like(x) for name, x in tree.items()}
    for g in RNG.normal(size=(5, 6, 4)):
        gradients = {"b": g[0], "w": g}
        updates, state = rule.update(gradients, state, tree)
        tree = optim.apply_updates(tree, updates)
        for name, x in expected.items():
            decay = 0.1 * x if name == "w" else 0.0
            expected[name] = x - 0.01 * (np.sign(0.5 * means[name] + 0.5 * gradients[name]) + decay)
            means[name] = 0.7 * means[name] + 0.3 * gradients[name]
            np.testing.assert_allclose(tree[name], expected[name], rtol=1e-12)


@pytest.mark.parametrize("beta, nesterov, steps", [(0.5, True, 5), (0.8, False, 3), (0.0, False, 1)])
def test_muon_with_other_options(beta, nesterov, steps):
    """On a wide matrix, by its singular values; with a step of zero there is nothing to make orthogonal, and no NaN."""
    rule, v = optim.scale_by_muon(beta, nesterov=nesterov, steps=steps), np.zeros((4, 6))
    state = rule.init(v)
    for g in RNG.normal(size=(4, 4, 6)):
        v = beta * v + (1 - beta) * g
        left, s, right = np.linalg.svd((1 - beta) * g + beta * v if nesterov else v, full_matrices=False)
        s = s / np.sqrt(np.sum(s * s))
        for _ in range(steps):
            s = 3.4445 * s - 4.7750 * s ** 3 + 2.0315 * s ** 5
        u, state = rule.update(g, state, None)
        np.testing.assert_allclose(u, (left * s) @ right, rtol=1e-9, atol=1e-12)
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(rule.update(np.zeros((3, 2)), rule.init(np.zeros((3, 2))), None)[0], 0.0)


def test_muon_is_its_parts():
    tree = {"bias": START[0], "weight": START}
    whole = optim.muon(0.02, momentum=0.6, weight_decay=0.1, others=optim.sgd(0.5))
    parts = optim.chain(optim.scale_by_muon(0.6), optim.add_weight_decay(0.1), optim.scale_by_learning_rate(0.02))
    state, own = whole.init(tree), parts.init(START)
    for g in RNG.normal(size=(3, 6, 4)):
        updates, state = whole.update({"bias": g[0], "weight": g}, state, tree)
        expected, own = parts.update(g, own, START)
        np.testing.assert_array_equal(updates["weight"], expected)
        np.testing.assert_array_equal(updates["bias"], -0.5 * g[0])
    turned = optim.muon(0.02, where=lambda name, x: name == "a", others=optim.sgd(0.5))
    pair = {"a": START, "b": START}
    updates, _ = turned.update(pair, turned.init(pair), pair)
    np.testing.assert_array_equal(updates["b"], -0.5 * START)
    assert not np.allclose(updates["a"], updates["b"])


def test_muon():
    """Newton-Schulz on the singular values: X keeps its singular vectors, each value s follows a s + b s^3 + c s^5."""
    def recurrence():
        w, v = START, np.zeros_like(START)
        while True:
            g = gradient(w)
            v = 0.95 * v + 0.05 * g
            left, s, right = np.linalg.svd(0.05 * g + 0.95 * v, full_matrices=False)
            s = s / np.sqrt(np.sum(s * s))
            for _ in range(5):
                s = 3.4445 * s - 4.7750 * s ** 3 + 2.0315 * s ** 5
            w = w - 0.02 * (np.sqrt(6 / 4) * (left * s) @ right + 0.1 * w)
            yield w
    agree(course(optim.chain(optim.scale_by_muon(), optim.add_weight_decay(0.1), optim.scale_by_learning_rate(0.02)), 30)[0],
          written(recurrence, 30))


def test_a_kernel_is_a_matrix_of_its_outputs():
    kernel, rule = RNG.normal(size=(5, 2, 3)), optim.scale_by_muon()
    u, _ = rule.update(kernel, rule.init(kernel), None)
    v, _ = rule.update(kernel.reshape(5, 6), rule.init(kernel.reshape(5, 6)), None)
    np.testing.assert_allclose(u.reshape(5, 6), v, rtol=1e-12)
    singular = np.linalg.svd(v)[1]
    assert singular.min() > 0.5 and singular.max() < 1.3


def test_schedule_free_adamw():
    """x, y and z of the paper's algorithm 1, with warm-up and decay."""
    rate, beta1, beta2, decay, warmup = 0.02, 0.9, 0.99, 0.1, 10

    def recurrence():
        x, z, v, total, t = START, START, np.zeros_like(START), 0.0, 0
        while True:
            t += 1
            y = (1 - beta1) * z + beta1 * x
            g = gradient(y)
            v = beta2 * v + (1 - beta2) * g ** 2
            gamma = rate * np.sqrt(1 - beta2 ** t) * min(1, t / warmup)
            z = z - gamma * g / (np.sqrt(v) + 1e-8) - gamma * decay * y
            total += gamma ** 2
            c = gamma ** 2 / total
            x = (1 - c) * x + c * z
            yield np.array([(1 - beta1) * z + beta1 * x, x])
    found, state = course(optim.schedule_free_adamw(rate, beta2=beta2, weight_decay=decay, warmup=warmup))
    expected = written(recurrence)
    agree(found, expected[:, 0])
    np.testing.assert_allclose(optim.evaluation_parameters(state, found[-1]), expected[-1, 1], rtol=1e-10)


def test_schedule_free_with_every_option():
    """Another beta1 and epsilon, a rate that falls (and begins at 0), decay of matrices alone."""
    beta1, beta2, epsilon = 0.7, 0.9, 0.05
    rule = optim.schedule_free_adamw(schedules.piecewise([1, 3], [0.0, 0.1, 0.02]), beta1=beta1, beta2=beta2, epsilon=epsilon,
                                     weight_decay=0.2, where=optim.matrices)
    tree = {"b": START[0], "w": START}
    state, gradients = rule.init(tree), RNG.normal(size=(6, 6, 4))
    expected = {name: [x, x, np.zeros_like(x)] for name, x in tree.items()}
    total = 0.0
    for t, g in enumerate(gradients):
        updates, state = rule.update({"b": g[0], "w": g}, state, tree)
        gamma = (0.0, 0.1, 0.1, 0.02, 0.02, 0.02)[t] * np.sqrt(1 - beta2 ** (t + 1))
        total += gamma ** 2
        c = gamma ** 2 / total if total else 0.0
        for name, (x, z, v) in expected.items():
            own, y = g[0] if name == "b" else g, (1 - beta1) * z + beta1 * x
            np.testing.assert_allclose(tree[name], y, rtol=1e-12)
            v = beta2 * v + (1 - beta2) * own ** 2
            z = z - gamma * (own / (np.sqrt(v) + epsilon) + (0.2 * y if name == "w" else 0.0))
            expected[name] = [(1 - c) * x + c * z, z, v]
        tree = optim.apply_updates(tree, updates)
    for name, (x, *_) in expected.items():
        np.testing.assert_allclose(optim.evaluation_parameters(state, tree)[name], x, rtol=1e-12)


def test_amsgrad_of_the_paper():
    def recurrence():
        w, m, v, most, t = START, np.zeros_like(START), np.zeros_like(START), np.zeros_like(START), 0
        while True:
            t += 1
            g = gradient(w)
            m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g ** 2
            most = np.maximum(most, v)
            w = w - 0.05 / np.sqrt(t) * m / np.sqrt(most)
            yield w
    agree(course(optim.amsgrad(schedules.inverse_sqrt(0.05), beta2=0.95, epsilon=0.0, bias_correction=False))[0], written(recurrence))


def test_sharpness_aware_gradients_and_their_number():
    calls = []
    counted = lambda w: (calls.append(1), (np.float64(0.0), gradient(w)))[1]
    step, w, state, expected = optim.sam(counted, optim.sgd(0.3), rho=0.1), START, optim.sgd(0.3).init(START), START
    for _ in range(100):
        w, state, _ = step(w, state)
        g = gradient(expected)
        expected = expected - 0.3 * gradient(expected + 0.1 * g / np.sqrt(np.sum(g * g)))
    np.testing.assert_allclose(w, expected, rtol=1e-10)
    assert len(calls) == 2 * 100
    flat = optim.sharpness_aware(lambda w: (np.float64(1.0), np.zeros(2)))
    np.testing.assert_array_equal(flat(np.ones(2))[1], 0.0)                 # at a stationary point there is no direction up


def test_sharpness_aware_step_compiles_to_one_call():
    loss = lambda w, x: np.mean((np.tanh(x @ w) - B) ** 2)
    step = optim.sam(ad.value_and_grad(loss), optim.adam(0.01), rho=0.05)
    compiled, eager, native = ad.compile(step), (START, optim.adam(0.01).init(START)), (START, optim.adam(0.01).init(START))
    for _ in range(5):
        *eager, value = step(*eager, A)
        *native, found = compiled(*native, A)
        np.testing.assert_allclose(found, value, rtol=1e-12)
    np.testing.assert_allclose(native[0], eager[0], rtol=1e-11)
    assert compiled.stats()["programs"] == 1


@pytest.mark.parametrize("axis", ["weights", "a vector"])
def test_adaptive_clipping_unit_by_unit(axis):
    g = 10.0 ** RNG.uniform(-4, 2, size=(5, 1, 1)) * RNG.normal(size=(5, 3, 2))
    p = RNG.normal(size=(5, 3, 2)) * np.array([1.0, 0.1, 0.0, 5.0, 1e-6]).reshape(5, 1, 1)
    units = [(g[i], p[i]) for i in range(5)] if axis == "weights" else [(g.ravel(), p.ravel())]
    expected = []
    for gi, pi in units:
        most = 0.02 * max(np.linalg.norm(pi.ravel()), 1e-3)
        size = np.linalg.norm(gi.ravel())
        expected.append(gi * (most / size) if size > most else gi)
    given = (g, p) if axis == "weights" else (g.ravel(), p.ravel())
    found = optim.clip_adaptively(0.02).update(given[0], (), given[1])[0]
    np.testing.assert_allclose(found.ravel(), np.array(expected).ravel(), rtol=1e-12)
    assert not np.allclose(found, given[0])


def test_clipping_by_value():
    g = RNG.normal(size=(4, 3))
    np.testing.assert_array_equal(optim.clip_by_value(0.5).update(g, (), None)[0], np.clip(g, -0.5, 0.5))
    assert np.isnan(optim.clip_by_value(0.5).update(np.array([np.nan]), (), None)[0]).all()


@pytest.mark.parametrize("every", [1, 2, 5])
def test_accumulation_is_the_step_of_the_whole_batch(every):
    """Micro-batches of equal size, Adam with a schedule: the parameters after each n-th call are those of steps on the whole batch."""
    x, y = RNG.normal(size=(10, 3)), RNG.normal(size=10)
    slope = lambda w, rows: 2.0 / len(rows) * x[rows].T @ (np.tanh(x[rows] @ w) - y[rows])
    rule = optim.adam(schedules.cosine(0.1, 4))
    wrapped, whole, parts = optim.accumulate(rule, every), np.zeros(3), np.zeros(3)
    state, inner = wrapped.init(parts), rule.init(whole)
    for _ in range(4):
        held = parts
        for rows in np.split(np.arange(10), every):
            np.testing.assert_array_equal(parts, held)                      # nothing moves between
            updates, state = wrapped.update(slope(parts, rows), state, parts)
            parts = optim.apply_updates(parts, updates)
        updates, inner = rule.update(slope(whole, np.arange(10)), inner, whole)
        whole = optim.apply_updates(whole, updates)
        np.testing.assert_allclose(parts, whole, rtol=1e-12, atol=1e-14)
    assert state.inner[0].count == 4 and state.count == 0 and not np.any(state.total)


def test_the_best_iterate_is_the_first_of_the_lowest_in_its_own_dtype():
    best = optim.best_of({"a": np.ones(2, np.float32), "b": 3.0})
    for value, x in ((2.0, 1.0), (1.0, 2.0), (1.0, 3.0), (4.0, 5.0), (np.nan, 6.0)):
        best = optim.keep_best(best, np.float32(value), {"a": np.full(2, x, np.float32), "b": x})
    assert best.value == 1.0 and best.value.dtype == np.float64 and best.parameters["b"] == 2.0
    assert best.parameters["a"].tolist() == [2.0, 2.0] and best.parameters["a"].dtype == np.float32


def test_a_plateau_of_losses_below_zero_and_of_nan():
    """Improvement is measured beside |best|; NaN is none; the best stays when the rate falls, and the waiting starts anew."""
    state, rates = optim.sgd(optim.plateau(1.0, patience=2, factor=2.0, tolerance=0.1, minimum=0.3)).init(np.zeros(1)), []
    for loss in (-10.0, -10.5, -10.9, -12.0, np.nan, np.nan, -13.0, -13.3, -20.0, -1.0, -1.0, -1.0, -1.0):
        state = optim.observe(state, loss)
        rates.append(float(optim.rate_now(state)))
    assert rates == [1.0, 1.0, 0.5, 0.5, 0.5, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3]


def test_a_plateau_is_found_wherever_it_stands_in_a_state():
    rule = optim.partition(optim.matrices, optim.accumulate(optim.adam(optim.plateau(1.0, patience=1)), 2), optim.sgd(0.1))
    state = rule.init({"w": START, "b": START[0]})
    for held in (state, {"one": (state,), "two": None}, [3, state]):
        for loss in (1.0, 2.0):
            held = optim.observe(held, loss)
        assert optim.rate_now(held) == 0.1 and optim.rate_now(state) == 1.0
    assert optim.rate_now({"a": [1, (2,)]}) is None


def test_a_centered_square_is_never_below_zero():
    """A constant gradient: its variance is a rounding, of either sign."""
    rule = optim.rmsprop(0.1, beta=0.9, centered=True)
    state = rule.init(np.zeros(1000, np.float32))
    for _ in range(60):
        updates, state = rule.update(np.linspace(0.1, 7.0, 1000, dtype=np.float32), state, None)
        assert np.isfinite(updates).all()


def test_nearest_points():
    """Projections against a search over a fine grid, and against the conditions of optimality in ten dimensions."""
    grid = np.stack(np.meshgrid(*[np.linspace(-2, 2, 401)] * 2, indexing="ij"), -1).reshape(-1, 2)
    line = np.linspace(0, 1, 4001)
    sets = {"box": (optim.box(-0.5, 1.0), grid[np.all((grid >= -0.5) & (grid <= 1.0), 1)]),
            "ball": (optim.ball(1.5), grid[np.sum(grid * grid, 1) <= 1.5 ** 2]),
            "simplex": (optim.simplex(), np.stack([line, 1.0 - line], -1))}
    for name, (onto, members) in sets.items():
        for point in RNG.normal(scale=1.5, size=(20, 2)):
            nearest = members[np.argmin(np.sum((members - point) ** 2, 1))]
            np.testing.assert_allclose(onto(point), nearest, atol=0.05 if name == "ball" else 0.011, err_msg=name)
            np.testing.assert_allclose(onto(onto(point)), onto(point), atol=1e-15, err_msg=name)
    for point in RNG.normal(size=(20, 10)):
        p = optim.simplex(2.0)(point)
        assert abs(p.sum() - 2.0) < 1e-12 and (p >= 0).all()
        # x - p is constant where p > 0, and no larger elsewhere: the normal cone of the simplex
        assert np.ptp((point - p)[p > 0]) < 1e-12 and (point - p)[p == 0].max(initial=-9) <= (point - p)[p > 0].min() + 1e-12
    rows = RNG.normal(size=(3, 4))
    np.testing.assert_allclose(optim.simplex()(rows), [optim.simplex()(row) for row in rows], rtol=1e-14)
    assert ad.grad(lambda x: optim.simplex()(x)[0])(np.array([0.5, 0.3, -2.0])).round(12).tolist() == [0.5, -0.5, 0.0]


def test_projected_parameters_are_in_the_set_to_the_rounding_of_a_sum():
    low, high = -0.1, 0.3
    rule, w = optim.project(optim.sgd(1.0), optim.box(low, high)), RNG.uniform(low, high, 1000)
    for _ in range(20):
        w = optim.apply_updates(w, rule.update(RNG.normal(size=1000), rule.init(w), w)[0])
        assert w.min() >= low - np.spacing(0.4) and w.max() <= high + np.spacing(0.4)        # 0.4: the longest update
    assert np.mean((w == low) | (w == high)) > 0.5
