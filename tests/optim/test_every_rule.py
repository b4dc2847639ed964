"""One table of all rules: compiled equals eager in both dtypes with one program, holes pass through, a checkpoint resumes to the same
bits, and hyperparameters outside their range are refused in words."""

import numpy as np
import pytest

import adjoint as ad
from adjoint import nn, optim, train
from adjoint.errors import AdjointError, ConfigError
from adjoint.optim import schedules
from adjoint.tree import flatten, paths, unflatten

RULES = {
    "gd": optim.gd(0.1),
    "sgd, dampened": optim.sgd(0.1, momentum=0.9, dampening=0.5, weight_decay=0.01),
    "nesterov": optim.nesterov(schedules.warmup(2, schedules.cosine(0.1, 5)), weight_decay=0.01),
    "heavy ball": optim.heavy_ball(schedules.step(0.1, 2), momentum=0.8),
    "average": optim.chain(optim.average_of(0.9, bias_correction=True), optim.scale(-0.1)),
    "adagrad": optim.adagrad(0.1, lr_decay=0.1, initial_accumulator=0.5),
    "adagrad, epsilon 0": optim.adagrad(schedules.polynomial(0.1, 5, power=2.0), epsilon=0.0),
    "adagrad, full matrix": optim.full_adagrad(schedules.step(0.1, 2), delta=0.1),
    "rmsprop, all": optim.rmsprop(schedules.piecewise([1, 3], [0.1, 0.05, 0.01]), centered=True, momentum=0.9, epsilon=1e-3),
    "adadelta": optim.adadelta(schedules.linear(1.0, 0.5, 4)),
    "adam": optim.adam(schedules.one_cycle(0.1, 6)),
    "amsgrad": optim.amsgrad(schedules.warm_restarts(0.1, 2, multiple=2)),
    "amsgrad of the paper": optim.amsgrad(schedules.inverse_sqrt(0.1), epsilon=0.0, bias_correction=False),
    "adamw of matrices": optim.adamw(schedules.exponential(0.1, 0.9), weight_decay=0.1, where=optim.matrices),
    "lion": optim.lion(schedules.cyclic(0.01, 0.1, 2, mode="triangular2"), weight_decay=0.1),
    "muon": optim.muon(schedules.cyclic(0.01, 0.1, 2, mode="exp_range", factor=0.9), weight_decay=0.1, others=optim.lion(0.01)),
    "schedule-free": optim.schedule_free_adamw(0.1, warmup=3, weight_decay=0.1, where=optim.matrices),
    "plateau": optim.adam(optim.plateau(0.1, patience=1)),
    "clipped": optim.chain(optim.clip_by_value(0.5), optim.clip_by_global_norm(0.5), optim.clip_adaptively(0.1), optim.sgd(0.1)),
    "accumulated": optim.accumulate(optim.adam(schedules.step(0.1, 2)), 3),
    "in a box": optim.project(optim.adam(0.3), optim.box(-0.5, 0.7)),
    "in a ball": optim.project(optim.sgd(0.3), optim.ball(0.5)),
    "on a simplex": optim.project(optim.sgd(0.3), optim.simplex()),
    "masked": optim.chain(optim.masked(optim.scale_by_lion(), lambda name, x: name == "w"), optim.scale(-0.1)),
    "partitioned": optim.partition(lambda name, x: name.endswith("w"), optim.adamw(0.1), optim.sgd(0.1, momentum=0.5)),
}
STEPS = 6


def model_of(dtype):
    return {"w": np.linspace(-1, 1, 6, dtype=dtype).reshape(2, 3), "b": np.array([0.5, -1.0, 0.25], dtype), "c": np.ones((1, 2, 2), dtype)}


def step_of(rule):
    def loss(m):
        return np.sum(np.tanh(m["w"] @ m["b"]) ** 2) + np.sum(np.sin(m["b"])) + np.sum((m["c"] - 0.3) ** 4)

    def step(model, state):
        updates, state = rule.update(ad.grad(loss)(model), state, model)
        return optim.apply_updates(model, updates), state
    return step


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", RULES)
def test_compiled_is_eager_and_nothing_compiles_twice(name, dtype):
    rule, model = RULES[name], model_of(dtype)
    step = step_of(rule)
    compiled, eager, native = ad.compile(step, donate=(0, 1)), (model, rule.init(model)), (model, rule.init(model))
    for _ in range(STEPS):
        eager, native = step(*eager), compiled(*native)
        eager, native = (eager[0], optim.observe(eager[1], 1.0)), (native[0], optim.observe(native[1], 1.0))
    tolerance = 2e-5 if dtype == np.float32 else 1e-11
    for at, a, b in zip(paths(eager), flatten(eager)[0], flatten(native)[0], strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape, at
        np.testing.assert_allclose(b, a, rtol=tolerance, atol=tolerance, err_msg=at)
    assert compiled.stats()["programs"] == 1
    assert all(x.dtype == dtype for x in flatten(eager[0])[0])
    assert not np.allclose(eager[0]["w"], model["w"])


@pytest.mark.parametrize("name", RULES)
def test_leaves_without_gradient_stay(name):
    rule, model = RULES[name], model_of(np.float64)
    model |= {"counts": np.array([3, 4]), "frozen": np.ones((2, 2)), "none": None}
    start, state = {k: np.array(v) for k, v in model.items() if v is not None}, rule.init(model)
    for _ in range(3):
        gradients = {"w": model["w"] - 0.1, "b": model["b"] + 0.2, "c": model["c"], "counts": None, "frozen": None, "none": None}
        updates, state = rule.update(gradients, state, model)
        assert updates["frozen"] is None and updates["counts"] is None and updates["none"] is None
        model = optim.apply_updates(model, updates)
    np.testing.assert_array_equal(model["frozen"], start["frozen"])
    np.testing.assert_array_equal(model["counts"], start["counts"])
    assert model["none"] is None and not np.allclose(model["w"], start["w"])


@pytest.mark.parametrize("name", RULES)
def test_a_checkpoint_resumes_to_the_same_bits(name, tmp_path):
    rule, now = RULES[name], model_of(np.float32)
    step, now = step_of(rule), (now, rule.init(now))
    for _ in range(2):
        now = step(*now)
    train.save(tmp_path / "state.safetensors", dict(zip(paths(now), map(np.asarray, flatten(now)[0]), strict=True)), {})
    tensors = train.load(tmp_path / "state.safetensors").tensors
    again = unflatten(flatten(now)[1], [tensors[path] for path in paths(now)])
    for _ in range(3):
        now, again = step(*now), step(*again)
    for a, b in zip(flatten(now)[0], flatten(again)[0], strict=True):
        np.testing.assert_array_equal(a, b)


def test_names_and_ranks_choose_the_rule():
    model = nn.mlp(3, 4, 2, activation=np.tanh, rng=np.random.default_rng(0))
    rule = optim.partition(lambda name, x: name == "0.weight", optim.scale(1.0), optim.scale(2.0))
    ones = ad.tree.map_tree(np.ones_like, model)
    found = nn.named_parameters(rule.update(ones, rule.init(model), model)[0])
    assert {name: float(x.flat[0]) for name, x in found.items()} == {"0.weight": 1.0, "0.bias": 2.0, "2.weight": 2.0, "2.bias": 2.0}
    moments = optim.partition(optim.matrices, optim.adam(0.1), optim.sgd(0.1)).init(model)
    assert sum(x.size for x in flatten(moments)[0]) == 1 + 2 * (3 * 4 + 4 * 2)         # a count, and two moments of the matrices alone


WRONG = {
    "sgd, rate": (lambda: optim.sgd(-1.0), "learning rate is -1.0, expected a finite number >= 0"),
    "sgd, momentum": (lambda: optim.sgd(0.1, momentum=1.0), r"momentum is 1.0, expected a number in \[0, 1\)"),
    "sgd, decay": (lambda: optim.sgd(0.1, weight_decay=-0.1), "weight_decay is -0.1, expected a finite number >= 0"),
    "sgd, nesterov alone": (lambda: optim.sgd(0.1, nesterov=True), "nesterov needs a momentum above 0"),
    "nesterov, dampened": (lambda: optim.sgd(0.1, momentum=0.9, nesterov=True, dampening=0.1), "Nesterov's has dampening 0, found 0.1"),
    "heavy ball": (lambda: optim.heavy_ball(0.1, momentum=-0.5), "momentum is -0.5"),
    "average": (lambda: optim.average_of("much"), "beta is 'much'"),
    "adagrad, epsilon": (lambda: optim.adagrad(0.1, epsilon=-1e-8), "adagrad: epsilon is -1e-08"),
    "adagrad, decay of a plateau": (lambda: optim.adagrad(optim.plateau(0.1), lr_decay=0.1), "learning rate is a plateau"),
    "adagrad, delta": (lambda: optim.full_adagrad(0.1, delta=0.0), "delta is 0.0, expected a finite number > 0"),
    "rmsprop": (lambda: optim.rmsprop(0.1, beta=1.5), "rmsprop: beta is 1.5"),
    "adadelta": (lambda: optim.adadelta(rho=1.0), "adadelta: rho is 1.0"),
    "adam, beta1": (lambda: optim.adam(0.1, beta1=1.0), r"adam: beta1 is 1.0, expected a number in \[0, 1\)"),
    "adam, beta2": (lambda: optim.adam(0.1, beta2=float("nan")), "adam: beta2 is nan"),
    "adam, epsilon": (lambda: optim.adam(0.1, epsilon=None), "adam: epsilon is None"),
    "amsgrad": (lambda: optim.amsgrad(0.1, beta2=-0.1), "amsgrad: beta2 is -0.1"),
    "lion": (lambda: optim.lion(0.1, beta2=2.0), "lion: beta2 is 2.0"),
    "muon": (lambda: optim.muon(0.1, momentum=1.0), "muon: beta is 1.0"),
    "muon of a vector": (lambda: optim.scale_by_muon().update(np.ones(2), optim.scale_by_muon().init(np.ones(2)), None), "is no matrix"),
    "schedule-free": (lambda: optim.schedule_free_adamw(optim.plateau(0.1)), "learning rate is a plateau"),
    "schedule-free, warm-up": (lambda: optim.schedule_free_adamw(0.1, warmup=-1), "warmup is -1, expected a whole number >= 0"),
    "sam": (lambda: optim.sharpness_aware(None, rho=-1.0), "rho is -1.0"),
    "partition": (lambda: optim.partition(optim.matrices, optim.adam, optim.sgd(0.1)), "expected an Optimizer"),
    "accumulate": (lambda: optim.accumulate(optim.sgd(0.1), 0), "every is 0, expected a whole number >= 1"),
    "accumulate, half": (lambda: optim.accumulate(optim.sgd(0.1), 2.5), "every is 2.5"),
    "clip by norm": (lambda: optim.clip_by_global_norm(0.0), "limit is 0.0, expected a finite number > 0"),
    "clip by value": (lambda: optim.clip_by_value(-1.0), "limit is -1.0"),
    "adaptive clipping": (lambda: optim.clip_adaptively(float("inf")), "limit is inf"),
    "box": (lambda: optim.box(1.0, -1.0), "expected low <= high"),
    "ball": (lambda: optim.ball(0.0), "radius is 0.0"),
    "simplex": (lambda: optim.simplex(-1.0), "total is -1.0"),
    "plateau, factor": (lambda: optim.plateau(0.1, factor=0.1), "factor is 0.1, expected a finite number > 1"),
    "plateau, patience": (lambda: optim.plateau(0.1, patience=0), "patience is 0"),
    "cosine": (lambda: schedules.cosine(0.1, -5), "cosine: steps is -5, expected a positive whole number of updates"),
    "step": (lambda: schedules.step(0.1, 0), "step: steps is 0"),
    "polynomial": (lambda: schedules.polynomial(0.1, float("nan")), "polynomial: steps is nan"),
    "exponential": (lambda: schedules.exponential(-0.1, 0.9), "exponential: rate is -0.1"),
    "warmup": (lambda: schedules.warmup(-1, schedules.constant(0.1)), "warmup: steps is -1"),
    "warmup of a number": (lambda: schedules.warmup(10, 0.1), "warmup: then is 0.1, expected a schedule"),
    "linear": (lambda: schedules.linear(0.1, 0.0, 0), "linear: steps is 0"),
    "warm restarts": (lambda: schedules.warm_restarts(0.1, 5, multiple=1.5), "multiple is 1.5, expected a whole number"),
    "one cycle": (lambda: schedules.one_cycle(0.1, 2), "steps is 2, expected a whole number >= 3"),
    "one cycle, rise": (lambda: schedules.one_cycle(0.1, 10, rise=1.0), "rise is 1.0"),
    "one cycle, no rise": (lambda: schedules.one_cycle(0.1, 4, rise=0.25), "the rise of 0.25 times 4 updates is no more than one"),
    "one cycle, shape": (lambda: schedules.one_cycle(0.1, 10, shape="round"), "shape is 'round', expected 'cosine' or 'linear'"),
    "cyclic": (lambda: schedules.cyclic(0.1, 1.0, -3), "cyclic: steps is -3"),
    "cyclic, mode": (lambda: schedules.cyclic(0.1, 1.0, 3, mode="square"), "mode is 'square'"),
    "piecewise": (lambda: schedules.piecewise([3, 1], [1.0, 0.1, 0.01]), "boundaries, ascending"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_out_of_range_is_refused_in_words(name):
    wrong, words = WRONG[name]
    with pytest.raises(ConfigError, match=words) as raised:
        wrong()
    assert isinstance(raised.value, AdjointError)
    _, where, remedy = str(raised.value).splitlines()
    assert where.startswith("  at ") and "test_every_rule.py:" in where and remedy.endswith(".")
