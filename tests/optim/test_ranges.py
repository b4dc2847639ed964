"""The range of every hyperparameter of every rule: what lies on its border is taken, what lies outside is refused by its name."""

import functools
import inspect

import numpy as np
import pytest

from adjoint import optim
from adjoint.errors import ConfigError
from adjoint.optim import schedules
from adjoint.optim.muon import orthogonalize
from adjoint.tree import flatten

NUMBERS = (float("nan"), float("inf"), "much", None, True, [0.5])
SHARE, LEAST_0, ABOVE_0, ABOVE_1, WHOLE_0, WHOLE_1 = "in [0, 1)", ">= 0", "> 0", "> 1", "whole number >= 0", "whole number >= 1"
BORDERS = {                                     # what is just outside, what is just inside
    SHARE: ((-1e-9, 1.0, 1), (0, 0.0, np.float32(0.5), np.array(0.25), 1.0 - 1e-9)),
    LEAST_0: ((-1e-9, np.float32(-1)), (0, 0.0, np.array(0.0), np.int64(2), 1e9)),
    ABOVE_0: ((0, 0.0, -1.0), (1e-9, np.float32(2), np.array(3), 1e9)),
    ABOVE_1: ((1, 1.0, 0.5), (1.0 + 1e-9, 10)),
    WHOLE_0: ((-1, 0.5, 2.0), (0, np.int64(3))),
    WHOLE_1: ((0, -1, 2.0), (1, 3))}

MOMENTS = {"beta1": SHARE, "beta2": SHARE, "epsilon": LEAST_0}
RULES = {
    optim.sgd: {"momentum": SHARE, "weight_decay": LEAST_0},
    optim.heavy_ball: {"momentum": SHARE, "weight_decay": LEAST_0},
    optim.nesterov: {"weight_decay": LEAST_0},
    optim.adagrad: {"epsilon": LEAST_0, "initial_accumulator": LEAST_0, "lr_decay": LEAST_0, "weight_decay": LEAST_0},
    optim.full_adagrad: {"delta": ABOVE_0},
    optim.rmsprop: {"beta": SHARE, "epsilon": LEAST_0, "momentum": SHARE, "weight_decay": LEAST_0},
    optim.adadelta: {"rho": SHARE, "epsilon": ABOVE_0, "weight_decay": LEAST_0},
    optim.adam: MOMENTS | {"weight_decay": LEAST_0},
    optim.amsgrad: MOMENTS | {"weight_decay": LEAST_0},
    optim.adamw: MOMENTS | {"weight_decay": LEAST_0},
    optim.lion: {"beta1": SHARE, "beta2": SHARE, "weight_decay": LEAST_0},
    optim.muon: {"momentum": SHARE, "weight_decay": LEAST_0},
    optim.schedule_free_adamw: MOMENTS | {"weight_decay": LEAST_0, "warmup": WHOLE_0},
    optim.plateau: {"factor": ABOVE_1, "patience": WHOLE_1, "tolerance": LEAST_0, "minimum": LEAST_0},
}
OTHERS = {
    "scale_by_muon": (optim.scale_by_muon, {"beta": SHARE, "steps": WHOLE_1, "epsilon": ABOVE_0}),
    "average_of": (lambda **given: optim.average_of(**({"beta": 0.9} | given)), {"beta": SHARE}),
    "clip_by_global_norm": (optim.clip_by_global_norm, {"limit": ABOVE_0}),
    "clip_by_value": (optim.clip_by_value, {"limit": ABOVE_0}),
    "clip_adaptively": (optim.clip_adaptively, {"limit": ABOVE_0, "floor": ABOVE_0}),
    "ball": (optim.ball, {"radius": ABOVE_0}),
    "simplex": (optim.simplex, {"total": ABOVE_0}),
    "sharpness_aware": (lambda **given: optim.sharpness_aware(None, **given), {"rho": LEAST_0}),
    "accumulate": (lambda every: optim.accumulate(optim.sgd(0.1), every), {"every": WHOLE_1}),
    "minimize": (lambda **given: optim.minimize(lambda x: np.sum(x * x), np.zeros(2), compiled=False, **given),
                 {"history": WHOLE_1, "iterations": WHOLE_0, "gradient_tolerance": LEAST_0, "decrease_tolerance": LEAST_0}),
    "subgradient_descent": (lambda steps: optim.subgradient_descent(np.sum, np.zeros(1), 0.1, steps, compiled=False), {"steps": WHOLE_1}),
    "constant": (schedules.constant, {"rate": LEAST_0}),
    "inverse_sqrt": (schedules.inverse_sqrt, {"rate": LEAST_0}),
    "exponential": (lambda **given: schedules.exponential(**({"rate": 0.1, "factor": 0.9} | given)), {"rate": LEAST_0}),
    "polynomial": (lambda **given: schedules.polynomial(0.1, 4, **given), {"power": ABOVE_0}),
    "warm_restarts": (lambda **given: schedules.warm_restarts(0.1, 4, **given), {"multiple": WHOLE_1}),
    "cyclic": (lambda **given: schedules.cyclic(0.1, 0.2, 4, **given), {"factor": ABOVE_0}),
}
TABLE = {rule.__name__: (functools.partial(rule, 0.1), ranges) for rule, ranges in RULES.items()} | OTHERS


@pytest.mark.parametrize("name, argument", [(name, argument) for name, (_, ranges) in TABLE.items() for argument in ranges])
def test_the_border_is_taken_and_what_lies_beyond_is_refused(name, argument):
    make, ranges = TABLE[name]
    outside, inside = BORDERS[ranges[argument]]
    for value in inside:
        make(**{argument: value})
    for value in (*outside, *NUMBERS):
        with pytest.raises(ConfigError) as raised:
            make(**{argument: value})
        what = str(raised.value).splitlines()[0]
        assert f"is {value!r}, expected" in what and ranges[argument] in what, f"{value!r}: {what}"


LENGTHS = {
    "cosine": lambda steps: schedules.cosine(0.1, steps),
    "step": lambda steps: schedules.step(0.1, steps),
    "polynomial": lambda steps: schedules.polynomial(0.1, steps),
    "linear": lambda steps: schedules.linear(0.1, 0.2, steps),
    "warmup": lambda steps: schedules.warmup(steps, schedules.constant(0.1)),
    "warm_restarts": lambda steps: schedules.warm_restarts(0.1, steps),
    "cyclic": lambda steps: schedules.cyclic(0.1, 0.2, steps),
}
RATES = {
    "cosine": (lambda rate, final: schedules.cosine(rate, 4, final=final), 2),
    "step": (lambda rate, factor: schedules.step(rate, 4, factor=factor), 2),
    "exponential": (schedules.exponential, 2),
    "polynomial": (lambda rate, final: schedules.polynomial(rate, 4, final=final), 2),
    "linear": (lambda first, last: schedules.linear(first, last, 4), 2),
    "piecewise": (lambda first, last: schedules.piecewise([3], [first, last]), 2),
    "warm_restarts": (lambda rate, final: schedules.warm_restarts(rate, 4, final=final), 2),
    "one_cycle": (lambda rate, first, last: schedules.one_cycle(rate, 9, first=first, last=last), 3),
    "cyclic": (lambda low, high: schedules.cyclic(low, high, 4), 2),
}


@pytest.mark.parametrize("name", LENGTHS)
def test_a_schedule_has_a_positive_whole_length(name):
    for steps in (1, np.int64(1), 5, 5.0):
        LENGTHS[name](steps)
    for steps in (0, -1, 0.5, float("nan"), float("inf"), "ten", None, True):
        with pytest.raises(ConfigError, match=f"{name}: steps is .*, expected a positive"):
            LENGTHS[name](steps)


@pytest.mark.parametrize("name", RATES)
def test_every_rate_of_a_schedule_is_a_number_of_at_least_zero(name):
    make, count = RATES[name]
    make(*[0.0] * count)
    for at in range(count):
        for wrong in (-1e-9, float("nan"), "fast"):
            with pytest.raises(ConfigError, match=f"{name}: rate is"):
                make(*[wrong if i == at else 0.1 for i in range(count)])


ADAM = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 0.0}
SCALED = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}
DEFAULTS = {                                    # of the papers, or of PyTorch where a docstring names its variant
    optim.adam: ADAM, optim.amsgrad: ADAM, optim.adamw: ADAM | {"weight_decay": 0.01},
    optim.lion: {"beta1": 0.9, "beta2": 0.99, "weight_decay": 0.0}, optim.schedule_free_adamw: ADAM | {"warmup": 0},
    optim.muon: {"momentum": 0.95, "weight_decay": 0.0}, optim.scale_by_muon: {"beta": 0.95, "nesterov": True, "steps": 5, "epsilon": 1e-7},
    optim.adagrad: {"epsilon": 1e-10, "initial_accumulator": 0.0, "lr_decay": 0.0, "weight_decay": 0.0},
    optim.full_adagrad: {"delta": 1e-8},
    optim.rmsprop: {"beta": 0.99, "epsilon": 1e-8, "centered": False, "momentum": 0.0, "weight_decay": 0.0},
    optim.adadelta: {"learning_rate": 1.0, "rho": 0.9, "epsilon": 1e-6, "weight_decay": 0.0},
    optim.sgd: {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0, "dampening": 0.0},
    optim.heavy_ball: {"momentum": 0.9, "weight_decay": 0.0}, optim.nesterov: {"momentum": 0.9, "weight_decay": 0.0},
    optim.scale_by_adam: SCALED, optim.scale_by_amsgrad: SCALED | {"bias_correction": True},
    optim.scale_by_lion: {"beta1": 0.9, "beta2": 0.99},
    optim.scale_by_adagrad: {"epsilon": 1e-10, "initial_accumulator": 0.0}, optim.scale_by_full_adagrad: {"delta": 1e-8},
    optim.scale_by_rms: {"beta": 0.99, "epsilon": 1e-8, "centered": False, "momentum": 0.0},
    optim.scale_by_adadelta: {"rho": 0.9, "epsilon": 1e-6},
    schedules.cosine: {"final": 0.0}, schedules.step: {"factor": 0.1}, schedules.polynomial: {"power": 1.0, "final": 0.0},
    schedules.warm_restarts: {"multiple": 1, "final": 0.0}, schedules.cyclic: {"mode": "triangular", "factor": 1.0},
    optim.sharpness_aware: {"rho": 0.05}, optim.sam: {"rho": 0.05}, optim.clip_adaptively: {"limit": 0.01, "floor": 1e-3},
    optim.minimize: {"history": 10, "gradient_tolerance": 1e-8, "decrease_tolerance": 0.0, "iterations": 1000, "compiled": True},
    schedules.one_cycle: {"rise": 0.3, "first": 0.04, "last": 4e-6, "shape": "cosine"},
}


@pytest.mark.parametrize("rule", DEFAULTS, ids=lambda rule: rule.__name__)
def test_what_is_not_given_is_what_was_published(rule):
    given = inspect.signature(rule).parameters
    assert {name: given[name].default for name in DEFAULTS[rule]} == DEFAULTS[rule]


def test_what_is_left_out_is_what_the_docstrings_say():
    assert optim.plateau(0.1) == optim.plateau(0.1, factor=10.0, patience=10, tolerance=1e-4, minimum=0.0)
    matrix = np.random.default_rng(0).normal(size=(3, 4))
    np.testing.assert_array_equal(orthogonalize(matrix), orthogonalize(matrix, 5, 1e-7))
    state = optim.observe(optim.sgd(optim.plateau(0.1)).init(matrix), 1.0)
    assert all(isinstance(x, np.ndarray) for x in flatten(state)[0])        # what a checkpoint and a compiled step take
