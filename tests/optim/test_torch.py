"""100 steps beside torch.optim in float64: the same gradients of the same function, parameters equal to 1e-10 after every step."""

import importlib.util

import numpy as np
import pytest

import adjoint as ad
from adjoint import optim
from adjoint.optim import schedules

torch = importlib.import_module("torch") if importlib.util.find_spec("torch") else None
pytestmark = pytest.mark.skipif(torch is None, reason="torch is not installed (extra bench)")

RNG = np.random.default_rng(3)
X, Y = RNG.normal(size=(20, 5)), RNG.normal(size=(20, 3))
START = {"bias": RNG.normal(size=3), "weight": 0.5 * RNG.normal(size=(3, 5))}


def loss(model):
    """Not convex, badly scaled, with curvature in every weight."""
    return np.mean((np.tanh(X @ model["weight"].T + model["bias"]) - Y) ** 2) + 0.01 * np.sum(model["weight"] ** 4)


def torch_loss(model):
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    return ((torch.tanh(x @ model["weight"].T + model["bias"]) - y) ** 2).mean() + 0.01 * (model["weight"] ** 4).sum()


def course(rule, steps, compiled=True):
    """The weights after each step, one native call each."""
    def step(model, state):
        updates, state = rule.update(ad.grad(loss)(model), state, model)
        return optim.apply_updates(model, updates), state
    step = ad.compile(step) if compiled else step
    model, state, found = START, rule.init(START), []
    for _ in range(steps):
        model, state = step(model, state)
        found.append(np.concatenate([model["bias"], model["weight"].ravel()]))
    return np.array(found)


def torch_course(make, steps, schedule=None):
    model = {name: torch.from_numpy(x.copy()).requires_grad_() for name, x in START.items()}
    optimizer, found = make(list(model.values())), []
    following = schedule(optimizer) if schedule else None
    for _ in range(steps):
        optimizer.zero_grad()
        torch_loss(model).backward()
        optimizer.step()
        if following:
            following.step()
        found.append(np.concatenate([model["bias"].detach().numpy(), model["weight"].detach().numpy().ravel()]))
    return np.array(found)


PAIRS = {
    "sgd": (optim.sgd(0.1), "SGD", dict(lr=0.1)),
    "sgd, L2": (optim.sgd(0.1, weight_decay=0.1), "SGD", dict(lr=0.1, weight_decay=0.1)),
    "momentum": (optim.sgd(0.05, momentum=0.9), "SGD", dict(lr=0.05, momentum=0.9)),
    "momentum, dampened": (optim.sgd(0.1, momentum=0.9, dampening=0.5, weight_decay=0.01), "SGD",
                           dict(lr=0.1, momentum=0.9, dampening=0.5, weight_decay=0.01)),
    "nesterov": (optim.nesterov(0.05), "SGD", dict(lr=0.05, momentum=0.9, nesterov=True)),
    "nesterov, L2": (optim.nesterov(0.05, momentum=0.8, weight_decay=0.1), "SGD",
                     dict(lr=0.05, momentum=0.8, nesterov=True, weight_decay=0.1)),
    "adagrad": (optim.adagrad(0.1), "Adagrad", dict(lr=0.1)),
    "adagrad, all": (optim.adagrad(0.5, lr_decay=0.1, initial_accumulator=0.3, epsilon=1e-3, weight_decay=0.1), "Adagrad",
                     dict(lr=0.5, lr_decay=0.1, initial_accumulator_value=0.3, eps=1e-3, weight_decay=0.1)),
    "adadelta": (optim.adadelta(1.0), "Adadelta", dict(lr=1.0)),
    "adadelta, all": (optim.adadelta(0.7, rho=0.8, epsilon=1e-4, weight_decay=0.1), "Adadelta",
                      dict(lr=0.7, rho=0.8, eps=1e-4, weight_decay=0.1)),
    "rmsprop": (optim.rmsprop(0.01), "RMSprop", dict(lr=0.01)),
    "rmsprop, all": (optim.rmsprop(0.003, beta=0.9, epsilon=1e-4, centered=True, momentum=0.8, weight_decay=0.1), "RMSprop",
                     dict(lr=0.003, alpha=0.9, eps=1e-4, centered=True, momentum=0.8, weight_decay=0.1)),
    "adam": (optim.adam(0.05), "Adam", dict(lr=0.05)),
    "adam, all": (optim.adam(0.05, beta1=0.8, beta2=0.95, epsilon=1e-3, weight_decay=0.1), "Adam",
                  dict(lr=0.05, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1)),
    "amsgrad": (optim.amsgrad(0.05, beta2=0.9), "Adam", dict(lr=0.05, betas=(0.9, 0.9), amsgrad=True)),
    "adamw": (optim.adamw(0.05, weight_decay=0.1), "AdamW", dict(lr=0.05, weight_decay=0.1)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_hundred_steps_as_torch(name):
    rule, other, options = PAIRS[name]
    expected = torch_course(lambda parameters: getattr(torch.optim, other)(parameters, **options), 100)
    assert np.abs(expected[-1] - expected[0]).max() > 0.05                  # it went somewhere
    np.testing.assert_allclose(course(rule, 100), expected, rtol=1e-10, atol=1e-10)


def test_muon_as_torch_where_it_counts_in_float64(monkeypatch):
    """torch.optim.Muon orthogonalizes in bfloat16; with that cast taken out it is our variant to the last digits."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self.clone())
    rule = optim.chain(optim.scale_by_muon(), optim.add_weight_decay(0.1), optim.scale_by_learning_rate(0.02))
    found = course(optim.partition(optim.matrices, rule, optim.scale(0.0)), 100)
    expected = torch_course(lambda parameters: torch.optim.Muon([p for p in parameters if p.ndim == 2], lr=0.02, weight_decay=0.1), 100)
    np.testing.assert_allclose(found[:40], expected[:40], rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)       # the quintic lifts roundings by up to 3.4445^5 a step


SCHEDULES = {
    "cosine": (schedules.cosine(0.1, 20, final=0.01), lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 20, 0.01), 20),
    "warm restarts": (schedules.warm_restarts(0.1, 5, multiple=2, final=0.01),
                      lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 5, 2, 0.01), 60),
    "step": (schedules.step(0.1, 7, factor=0.5), lambda o: torch.optim.lr_scheduler.StepLR(o, 7, 0.5), 40),
    "exponential": (schedules.exponential(0.1, 0.9), lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9), 40),
    "polynomial": (schedules.polynomial(0.1, 30, power=2.0), lambda o: torch.optim.lr_scheduler.PolynomialLR(o, 30, 2.0), 40),
    "linear": (schedules.linear(0.02, 0.1, 10), lambda o: torch.optim.lr_scheduler.LinearLR(o, 0.2, 1.0, 10), 20),
    "one cycle": (schedules.one_cycle(0.1, 40),
                  lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=40, cycle_momentum=False), 40),
    "one cycle, linear": (schedules.one_cycle(0.1, 40, rise=0.4, first=0.1, last=0.01, shape="linear"),
                          lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=40, cycle_momentum=False, pct_start=0.4,
                                                                        div_factor=10, final_div_factor=10, anneal_strategy="linear"), 40),
    **{mode: (schedules.cyclic(0.01, 0.1, 6, mode=mode, factor=0.97),
              lambda o, mode=mode: torch.optim.lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=6, mode=mode, gamma=0.97,
                                                                     cycle_momentum=False), 50)
       for mode in ("triangular", "triangular2", "exp_range")},
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.filterwarnings("ignore:.*optimizer.step.*", "ignore:.*epoch parameter.*")
def test_schedules_as_torch(name):
    schedule, make, steps = SCHEDULES[name]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    following, expected = make(optimizer), []
    for _ in range(steps):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        following.step()
    found = [float(schedule(np.array(t))) for t in range(steps)]
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-16)


def test_plateau_as_torch_with_one_less_patience():
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    following = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=2, threshold=1e-2, min_lr=1e-3)
    state, losses = optim.sgd(optim.plateau(1.0, patience=3, tolerance=1e-2, minimum=1e-3)).init(np.zeros(1)), RNG.uniform(1, 2, 60)
    for loss_now in losses:
        following.step(loss_now)
        state = optim.observe(state, loss_now)
        assert optim.rate_now(state) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
    assert optim.rate_now(state) == 1e-3
