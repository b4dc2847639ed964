"""Split layers and stages refuse a rule that looks at all gradients together, at their first step and on every rank, and take others."""

import numpy as np
import pytest

from adjoint import nn, optim
from adjoint.distributed import ColumnLinear, Pipeline, RowLinear, make_split_step, run_threads
from adjoint.errors import ConfigError

X = np.linspace(-1.0, 1.0, 12).reshape(4, 3)
Y = np.ones((4, 2))
SGD = optim.sgd(0.1)
ALONE = {"adamw": optim.adamw(0.01), "scheduled": optim.sgd(optim.schedules.cosine(0.1, 10), momentum=0.9),
         "lion": optim.lion(0.01), "by value": optim.chain(optim.clip_by_value(0.1), SGD),
         "some": optim.partition(lambda name, x: x.ndim == 2, optim.adam(0.01), SGD)}
PER_ARRAY = {"muon": optim.muon(0.01), "adaptively": optim.chain(optim.clip_adaptively(), SGD)}
ALL = {"clipped": optim.chain(optim.clip_by_global_norm(0.1), SGD), "clipped late": optim.chain(SGD, optim.clip_by_global_norm(0.1)),
       "biases": optim.masked(optim.clip_by_global_norm(0.1), lambda name, x: "bias" in name)}


def layers(bias=True, dtype=np.float64):
    rng = np.random.default_rng(0)
    return nn.Linear(3, 4, rng=rng, dtype=dtype, bias=bias), nn.Linear(4, 2, rng=rng, dtype=dtype)


def split_step(world, rule, compiled=False, dtype=np.float64):
    first, last = layers(dtype=dtype)
    model = nn.Sequential(ColumnLinear(first, world), np.tanh, RowLinear(last, world))
    step, state = make_split_step(nn.squared_error, rule, world, compiled=compiled), rule.init(model)
    for _ in range(2):
        model, state, loss = step(model, state, X.astype(dtype), Y.astype(dtype))
    return loss


def stage_step(world, rule, bias=True):
    stage = layers(bias)[world.rank] if world.size > 1 else nn.Sequential(*layers(bias))
    return Pipeline(nn.squared_error, rule, world, micro_batches=2, compiled=False).step(stage, rule.init(stage), X, Y)[2]


def said(n, program, *given):
    """What every rank says: it raises ConfigError, each in its own thread, or gives a number."""
    def one(world):
        try:
            return bool(np.isfinite(program(world, *given)))
        except ConfigError as error:
            return "looks at all gradients together" in str(error) and "leave out what needs all gradients" in str(error) and f"{n} ranks"
    return run_threads(n, one, seconds=20.0)


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("rule", {**ALL, **PER_ARRAY}.values(), ids=[*ALL, *PER_ARRAY])
def test_a_split_model_refuses_what_needs_more_than_an_element(rule, n):
    """Replicated biases would be moved by another factor on every rank; and a matrix of which a rank has a part is another matrix."""
    assert said(n, split_step, rule) == [f"{n} ranks"] * n


def test_a_compiled_split_step_refuses_it_too_and_one_rank_takes_it():
    assert said(2, split_step, ALL["clipped"], True) == ["2 ranks"] * 2
    assert said(1, split_step, ALL["clipped"]) == said(1, stage_step, ALL["clipped"]) == [True]


@pytest.mark.parametrize("rule", ALONE.values(), ids=list(ALONE))
def test_rules_of_elements_are_taken(rule):
    assert said(2, split_step, rule) == said(2, stage_step, rule) == [True] * 2
    assert said(2, split_step, rule, True, np.float32) == [True] * 2            # tried while the step is traced: numbers all the same


@pytest.mark.parametrize("rule", [ALL["clipped"], ALL["clipped late"]], ids=["clipped", "clipped late"])
@pytest.mark.parametrize("bias", [True, False])
def test_stages_refuse_it_on_every_rank_where_one_of_them_sees_it(rule, bias):
    """A stage of one array cannot see it: the other stage says so to all, and nobody is left waiting."""
    assert said(2, stage_step, rule, bias) == ["2 ranks"] * 2


@pytest.mark.parametrize("rule", PER_ARRAY.values(), ids=list(PER_ARRAY))
def test_stages_take_rules_of_whole_arrays(rule):
    assert said(2, stage_step, rule) == [True] * 2
