"""The rules that PyTorch has, with every option set, written out in NumPy as its manual writes them: what holds where torch is missing."""

import numpy as np
import pytest

from adjoint import optim
from adjoint.optim import schedules

STEPS, RATE, DECAY = 6, 0.1, 0.2
RNG = np.random.default_rng(12)
START = {"bias": RNG.normal(size=3), "weight": RNG.normal(size=(3, 2))}
PULL = {name: RNG.normal(size=(STEPS, *x.shape)) for name, x in START.items()}


def gradient(name, theta, t):
    """Of some function of the parameters that changes from step to step."""
    return theta + PULL[name][t]


def found(rule):
    model, state, course = START, rule.init(START), []
    for t in range(STEPS):
        updates, state = rule.update({name: gradient(name, x, t) for name, x in model.items()}, state, model)
        model = optim.apply_updates(model, updates)
        course.append(model)
    return course


def sgd(theta, g, s, t, name, nesterov, dampening):
    g = g + DECAY * theta
    s["v"] = g if t == 0 else 0.9 * s["v"] + (1 - dampening) * g
    return theta - RATE * (g + 0.9 * s["v"] if nesterov else s["v"])


def adagrad(theta, g, s, t, name):
    g = g + DECAY * theta
    s["sum"] = s.get("sum", 0.3) + g ** 2
    return theta - RATE / (1 + 0.5 * t) * g / (np.sqrt(s["sum"]) + 1e-2)


def adadelta(theta, g, s, t, name):
    g = g + DECAY * theta
    s["v"] = 0.8 * s.get("v", 0.0) + 0.2 * g ** 2
    step = np.sqrt(s.get("u", 0.0) + 1e-2) / np.sqrt(s["v"] + 1e-2) * g
    s["u"] = 0.8 * s.get("u", 0.0) + 0.2 * step ** 2
    return theta - RATE * step


def rmsprop(theta, g, s, t, name):
    g = g + DECAY * theta
    s["v"] = 0.8 * s.get("v", 0.0) + 0.2 * g ** 2
    s["mean"] = 0.8 * s.get("mean", 0.0) + 0.2 * g
    s["b"] = 0.7 * s.get("b", 0.0) + g / (np.sqrt(s["v"] - s["mean"] ** 2) + 1e-2)
    return theta - RATE * s["b"]


def adam(theta, g, s, t, name, amsgrad=False, decoupled=False):
    if decoupled:
        theta = theta * (1 - RATE * DECAY) if name == "weight" else theta           # matrices alone
    else:
        g = g + DECAY * theta
    s["m"] = 0.8 * s.get("m", 0.0) + 0.2 * g
    s["v"] = 0.95 * s.get("v", 0.0) + 0.05 * g ** 2
    s["most"] = np.maximum(s.get("most", 0.0), s["v"])
    corrected = np.sqrt((s["most"] if amsgrad else s["v"]) / (1 - 0.95 ** (t + 1))) + 1e-2
    return theta - RATE * s["m"] / (1 - 0.8 ** (t + 1)) / corrected


BETAS = {"beta1": 0.8, "beta2": 0.95, "epsilon": 1e-2, "weight_decay": DECAY}
WRITTEN = {
    "momentum, dampened": (optim.sgd(RATE, momentum=0.9, dampening=0.4, weight_decay=DECAY), lambda *a: sgd(*a, False, 0.4)),
    "nesterov": (optim.sgd(RATE, momentum=0.9, nesterov=True, weight_decay=DECAY), lambda *a: sgd(*a, True, 0.0)),
    "adagrad": (optim.adagrad(RATE, epsilon=1e-2, initial_accumulator=0.3, lr_decay=0.5, weight_decay=DECAY), adagrad),
    "adadelta": (optim.adadelta(RATE, rho=0.8, epsilon=1e-2, weight_decay=DECAY), adadelta),
    "rmsprop": (optim.rmsprop(RATE, beta=0.8, epsilon=1e-2, centered=True, momentum=0.7, weight_decay=DECAY), rmsprop),
    "adam": (optim.adam(RATE, **BETAS), adam),
    "amsgrad": (optim.amsgrad(RATE, **BETAS), lambda *a: adam(*a, amsgrad=True)),
    "adamw of matrices": (optim.adamw(RATE, **BETAS, where=optim.matrices), lambda *a: adam(*a, decoupled=True)),
    "a rate that falls": (optim.adagrad(schedules.constant(RATE), epsilon=1e-2, initial_accumulator=0.3, lr_decay=0.5,
                                        weight_decay=DECAY), adagrad),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_every_option_as_it_is_written(name):
    rule, formula = WRITTEN[name]
    theta, states = dict(START), {part: {} for part in START}
    for t, model in enumerate(found(rule)):
        theta = {part: formula(x, gradient(part, x, t), states[part], t, part) for part, x in theta.items()}
        for part, expected in theta.items():
            np.testing.assert_allclose(model[part], expected, rtol=1e-11, atol=1e-12, err_msg=f"{part} after step {t}")
