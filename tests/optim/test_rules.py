"""Update rules against their recurrences: numbers by hand, PyTorch's form of the same formulas, trees with holes, dtypes, compiled."""

import doctest
import importlib

import numpy as np
import pytest

import adjoint as ad
from adjoint import nn, optim
from adjoint.errors import ConfigError, TreeError
from adjoint.optim import schedules
from adjoint.tree import flatten

GRADIENTS = [np.array([1.0, -2.0]), np.array([0.5, 0.25]), np.array([-3.0, 1.0]), np.array([0.0, 4.0])]
START = np.array([10.0, -1.0])


def run(rule, gradients=GRADIENTS, start=START):
    """The parameters after each update."""
    parameters, state, found = start, rule.init(start), []
    for g in gradients:
        updates, state = rule.update(g, state, parameters)
        parameters = optim.apply_updates(parameters, updates)
        found.append(parameters)
    return np.stack(found)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("module", ["rule", "scaling", "schedules"])
def test_examples_in_docstrings(module):
    found = doctest.testmod(importlib.import_module(f"adjoint.optim.{module}"))
    assert found.attempted > 0 and found.failed == 0


def test_gradient_descent_by_hand():
    close(run(optim.sgd(0.1)), [[9.9, -0.8], [9.85, -0.825], [10.15, -0.925], [10.15, -1.325]])


def test_momentum_by_hand():
    # v: (1, -2), (1.4, -1.55), (-1.74, -0.395), (-1.566, 3.6445) with beta 0.9
    velocity = np.array([[1.0, -2.0], [1.4, -1.55], [-1.74, -0.395], [-1.566, 3.6445]])
    close(run(optim.sgd(0.1, momentum=0.9)), START - 0.1 * np.cumsum(velocity, axis=0))
    nesterov = np.array(GRADIENTS) + 0.9 * velocity
    close(run(optim.sgd(0.1, momentum=0.9, nesterov=True)), START - 0.1 * np.cumsum(nesterov, axis=0))


def torch_adam(rate, decay, decoupled, beta1=0.9, beta2=0.999, eps=1e-8):
    """Adam as torch.optim writes it: step size lr / bc1, denominator sqrt(v) / sqrt(bc2) + eps; AdamW shrinks the parameter first."""
    p, m, v, found = START.copy(), np.zeros(2), np.zeros(2), []
    for t, g in enumerate(GRADIENTS, 1):
        if decoupled:
            p = p * (1 - rate * decay)
        else:
            g = g + decay * p
        m, v = m + (g - m) * (1 - beta1), v * beta2 + (1 - beta2) * g * g
        p = p - rate / (1 - beta1 ** t) * m / (np.sqrt(v) / np.sqrt(1 - beta2 ** t) + eps)
        found.append(p)
    return np.array(found)


def test_adam_as_pytorch_writes_it():
    close(run(optim.adam(0.01)), torch_adam(0.01, 0.0, False))
    close(run(optim.adam(0.01, weight_decay=0.1)), torch_adam(0.01, 0.1, False))
    close(run(optim.adamw(0.01, weight_decay=0.1)), torch_adam(0.01, 0.1, True))


def test_adam_by_hand():
    # One parameter, g = 1 then 2, b1 = b2 = 1/2, eps = 0: mu 1/2, 5/4; mu_hat 1, 5/3; nu 1/2, 9/4; nu_hat 1, 3.
    found = run(optim.adam(1.0, beta1=0.5, beta2=0.5, epsilon=0.0), [np.array([1.0]), np.array([2.0])], np.array([0.0]))
    close(found[:, 0], [-1.0, -1.0 - (5 / 3) / np.sqrt(3.0)])


def test_adagrad_and_rmsprop_by_hand():
    squares = np.cumsum(np.array(GRADIENTS) ** 2, axis=0)
    close(run(optim.adagrad(0.1, epsilon=1e-10)), START - 0.1 * np.cumsum(np.array(GRADIENTS) / (np.sqrt(squares) + 1e-10), axis=0))
    nu, steps = np.zeros(2), []
    for g in GRADIENTS:
        nu = 0.9 * nu + 0.1 * g * g
        steps.append(g / (np.sqrt(nu) + 1e-8))
    close(run(optim.rmsprop(0.1, beta=0.9)), START - 0.1 * np.cumsum(steps, axis=0))


def test_a_feature_never_seen_does_not_move():
    with np.errstate(all="raise"):
        assert run(optim.adagrad(1.0, epsilon=0.0), [np.array([2.0, 0.0])])[0, 1] == START[1]


def test_clipping_keeps_the_direction():
    tree = {"a": np.array([3.0, 0.0]), "b": (np.array([[4.0]]), None)}
    clipped, _ = optim.clip_by_global_norm(1.0).update(tree, (), None)
    close(clipped["a"], [0.6, 0.0])
    close(clipped["b"][0], [[0.8]])
    assert clipped["b"][1] is None
    same, _ = optim.clip_by_global_norm(10.0).update(tree, (), None)
    close(same["a"], tree["a"])
    zero, _ = optim.clip_by_global_norm(1.0).update(np.zeros(2), (), None)
    close(zero, 0.0)
    close(optim.global_norm(tree), 5.0)


@pytest.mark.parametrize("make", [optim.adam, optim.adamw, optim.adagrad, optim.rmsprop, lambda r: optim.sgd(r, momentum=0.9)])
def test_float32_stays_float32_and_holes_pass_through(make):
    model = {"w": np.ones((2, 3), np.float32), "n": np.array(3), "frozen": np.ones(4, np.float32), "none": None}
    rule = optim.chain(optim.clip_by_global_norm(1.0), make(schedules.cosine(0.1, 10)))
    state = rule.init(model)
    for _ in range(3):
        gradients = {"w": np.full((2, 3), 2.0, np.float32), "n": None, "frozen": None, "none": None}
        updates, state = rule.update(gradients, state, model)
        model = optim.apply_updates(model, updates)
    assert model["w"].dtype == np.float32 and (model["w"] != 1.0).all()
    assert model["n"] == 3 and model["n"].dtype == np.int64
    np.testing.assert_array_equal(model["frozen"], 1.0)
    assert {x.dtype for x in flatten(state)[0]} <= {np.dtype(np.float32), np.dtype(np.int64)}


def test_gradients_of_another_tree_are_refused():
    rule = optim.adam(0.1)
    with pytest.raises(TreeError, match="gradients have structure"):
        rule.update({"a": np.ones(2), "b": np.ones(2)}, rule.init({"a": np.ones(2)}), None)


def test_schedules_by_hand():
    at = lambda schedule, *ts: [float(schedule(np.array(t))) for t in ts]
    close(at(schedules.cosine(2.0, 10, final=1.0), 0, 5, 10, 20), [2.0, 1.5, 1.0, 1.0])
    close(at(schedules.cosine(1.0, 3), 1, 2), [0.75, 0.25])
    close(at(schedules.step(1.0, 3, factor=0.5), 0, 2, 3, 6), [1.0, 1.0, 0.5, 0.25])
    close(at(schedules.exponential(2.0, 0.9), 0, 1, 2), [2.0, 1.8, 1.62])
    close(at(schedules.polynomial(1.0, 4, power=2.0), 0, 1, 2, 4, 9), [1.0, 0.5625, 0.25, 0.0, 0.0])
    close(at(schedules.polynomial(1.0, 4, power=2.0, final=0.2), 0, 1, 4, 9), [1.0, 0.65, 0.2, 0.2])
    close(at(schedules.warm_restarts(1.0, 4, final=0.2), 0, 2, 4, 6, 9), [1.0, 0.6, 1.0, 0.6, 0.6 + 0.4 * np.sqrt(0.5)])
    close(at(schedules.warm_restarts(1.0, 2, multiple=3), 0, 1, 2, 5, 8, 17, 26), [1.0, 0.5, 1.0, 0.5, 1.0, 0.5, 1.0])
    close(at(schedules.warmup(4, schedules.cosine(1.0, 10)), 0, 3, 4, 9, 14), [0.25, 1.0, 1.0, 0.5, 0.0])
    close(at(schedules.piecewise([2, 5], [1.0, 0.1, 0.01]), 0, 1, 2, 4, 5), [1.0, 1.0, 0.1, 0.1, 0.01])
    close(at(schedules.inverse_sqrt(1.0), 0, 3, 8), [1.0, 0.5, 1 / 3])
    with pytest.raises(ConfigError):
        schedules.cosine(1.0, 0)
    with pytest.raises(ConfigError):
        schedules.piecewise([1], [1.0])


def test_the_rate_follows_the_count_of_updates():
    rule = optim.sgd(schedules.step(1.0, 2, factor=0.1))
    ones = [np.array([1.0])] * 5
    close(run(rule, ones, np.array([0.0]))[:, 0], [-1.0, -2.0, -2.1, -2.2, -2.21])


def test_a_compiled_step_serves_every_rate_and_count():
    model = nn.mlp(3, 4, 2, activation=np.tanh, rng=np.random.default_rng(0), dtype=np.float64)
    x, y = np.random.default_rng(1).standard_normal((5, 3)), np.array([0, 1, 0, 1, 1])

    def step(model, state, rate):
        rule = optim.chain(optim.clip_by_global_norm(1.0), optim.scale_by_adam(), optim.scale_by_learning_rate(rate))
        gradients = ad.grad(lambda m: nn.cross_entropy(m(x), y))(model)
        updates, state = rule.update(gradients, state, model)
        return optim.apply_updates(model, updates), state
    compiled = ad.compile(step)
    state = optim.chain(optim.clip_by_global_norm(1.0), optim.scale_by_adam(), optim.scale_by_learning_rate(0.1)).init(model)
    eager, native = (model, state), (model, state)
    for rate in (0.1, 0.05, 0.01):
        eager, native = step(*eager, rate), compiled(*native, rate)
    for a, b in zip(flatten(eager)[0], flatten(native)[0], strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-12, atol=1e-13)
    assert compiled.stats()["programs"] == 1


def test_every_hyperparameter_may_be_an_argument_of_a_compiled_step():
    """Rate, momentum, decay, epsilon and the limit of clipping: one program for all values of them, zeros too."""
    def two_steps(rate, momentum, decay, epsilon, limit):
        return [run(rule, GRADIENTS[:2]) for rule in (
            optim.sgd(rate, momentum=momentum, weight_decay=decay), optim.adamw(rate, epsilon=epsilon, weight_decay=decay),
            optim.rmsprop(rate, beta=momentum, epsilon=epsilon), optim.lion(rate, beta1=momentum, weight_decay=decay),
            optim.chain(optim.clip_by_global_norm(limit), optim.clip_by_value(limit), optim.gd(rate)))]
    compiled = ad.compile(two_steps)
    for values in ((0.1, 0.9, 0.01, 1e-8, 1.0), (0.5, 0.3, 0.2, 1e-3, 0.1), (0.0, 0.0, 0.0, 1e-8, 3.0)):
        for found, expected in zip(compiled(*values), two_steps(*values), strict=True):
            close(found, expected)
    assert compiled.stats()["programs"] == 1 and ad.grad(lambda rate: two_steps(rate, 0.9, 0.0, 1e-8, 1.0)[0][0, 0])(0.1) == -1.0


COMPILED = {
    "sgd": optim.sgd(0.1),
    "nesterov": optim.sgd(schedules.warmup(2, schedules.cosine(0.1, 5)), momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": optim.adam(schedules.step(0.1, 2)),
    "adamw": optim.adamw(schedules.exponential(0.1, 0.9)),
    "adagrad": optim.adagrad(schedules.polynomial(0.1, 5, power=2.0)),
    "rmsprop": optim.rmsprop(schedules.piecewise([1, 3], [0.1, 0.05, 0.01])),
    "clipped": optim.chain(optim.clip_by_global_norm(0.5), optim.sgd(schedules.inverse_sqrt(0.1))),
}


@pytest.mark.parametrize("name", COMPILED)
def test_every_rule_and_schedule_compiles(name):
    rule, x = COMPILED[name], np.ones((3, 2), np.float32)
    model = {"w": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3), "b": np.ones(3, np.float32)}

    def step(model, state):
        gradients = ad.grad(lambda m: np.sum((m["w"] @ x) ** 2) + np.sum(np.sin(m["b"])))(model)
        updates, state = rule.update(gradients, state, model)
        return optim.apply_updates(model, updates), state
    compiled, eager, native = ad.compile(step, donate=(0, 1)), (model, rule.init(model)), (model, rule.init(model))
    for _ in range(6):
        eager, native = step(*eager), compiled(*native)
    for a, b in zip(flatten(eager)[0], flatten(native)[0], strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)
    assert compiled.stats()["programs"] == 1


def test_an_ensemble_trains_as_its_members_do(rng):
    """vmap over the step: models of several seeds in one native call, each with the bits it has alone."""
    models = [nn.mlp(3, 8, 2, activation=nn.relu, rng=np.random.default_rng(k)) for k in range(3)]
    rule = optim.adam(schedules.cosine(0.05, 10))

    def step(model, state, x, y):
        loss, gradients = ad.value_and_grad(lambda m: nn.cross_entropy(m(x), y))(model)
        updates, state = rule.update(gradients, state, model)
        return optim.apply_updates(model, updates), state, loss
    stack = lambda *trees: ad.tree.map_tree(lambda *xs: np.stack(xs), *trees)
    together = stack(*models), stack(*map(rule.init, models))
    alone = [(m, rule.init(m)) for m in models]
    every, one = ad.compile(ad.vmap(step, in_axes=(0, 0, None, None))), ad.compile(step)
    for _ in range(5):
        x, y = rng.standard_normal((16, 3)).astype(np.float32), rng.integers(0, 2, 16)
        *together, losses = every(*together, x, y)
        alone = [one(*member[:2], x, y) for member in alone]
        np.testing.assert_array_equal(losses, [member[2] for member in alone])
    np.testing.assert_array_equal(flatten(together[0])[0][0], np.stack([flatten(member[0])[0][0] for member in alone]))


@pytest.mark.parametrize("rate", [-1.0, np.float32(-1), float("nan"), float("inf"), "fast", None, True])
@pytest.mark.parametrize("make", [optim.sgd, optim.adam, optim.adamw, optim.adagrad, optim.rmsprop])
def test_a_learning_rate_that_is_none_is_refused(make, rate):
    with pytest.raises(ConfigError, match=r"the learning rate is .*, expected") as raised:
        make(rate)
    _, where, remedy = str(raised.value).splitlines()
    assert "test_rules.py:" in where and "1e-3" in remedy


def test_a_learning_rate_may_be_traced_or_zero():
    moved = lambda rate: optim.sgd(rate).update(np.array([2.0]), optim.sgd(rate).init(None), None)[0].sum()
    assert ad.grad(lambda rates: moved(rates[1]))(np.array([0.5, 0.5]))[1] == -2.0
    assert ad.grad(moved)(0.5) == -2.0 and ad.compile(moved)(np.float64(0.5)) == -1.0 and moved(0) == 0
