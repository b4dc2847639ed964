"""A pipeline of stages trains as one process, in GPipe's order, and waits for (p - 1)/(m + p - 1) of a step."""

import functools
import itertools

import numpy as np
import pytest

import adjoint as ad
from adjoint import nn, optim
from adjoint.distributed import Alone, Pipeline, bubble, run_threads
from adjoint.distributed.pipeline import gpipe, timetable
from adjoint.errors import CommunicationError, ConfigError

STEPS, MICRO, RULE = 200, 3, optim.sgd(0.1, momentum=0.9)


def layers(dtype):
    rng = np.random.default_rng(1)
    return [nn.Sequential(nn.Linear(3, 7, rng=rng, dtype=dtype), np.tanh), nn.Sequential(nn.Linear(7, 6, rng=rng, dtype=dtype), nn.relu),
            nn.Sequential(nn.Linear(6, 6, rng=rng, dtype=dtype), np.tanh), nn.Linear(6, 4, rng=rng, dtype=dtype)]


def stages(dtype, n):
    parts = layers(dtype)
    cuts = [round(k * len(parts) / n) for k in range(n + 1)]
    return [nn.Sequential(*parts[a:b]) for a, b in itertools.pairwise(cuts)]


def data(dtype, examples=18):
    rng = np.random.default_rng(5)
    x = rng.standard_normal((examples, 3)).astype(dtype)
    return x, np.argmax(np.concatenate([x, -x[:, :1]], 1), 1)


@functools.cache
def trained(dtype, steps, examples=18):
    model, rule = nn.Sequential(*layers(dtype)), RULE
    x, y = data(dtype, examples)
    state, gradient = rule.init(model), ad.compile(ad.value_and_grad(lambda model, x, y: nn.cross_entropy(model(x), y)))
    update = ad.compile(rule.update)
    for _ in range(steps):
        loss, gradients = gradient(model, x, y)
        updates, state = update(gradients, state, model)
        model = optim.apply_updates(model, updates)
    return list(nn.named_parameters(model).values()), loss


def trained_in_stages(world, dtype, steps, compiled, examples=18):
    stage, rule, (x, y) = stages(dtype, world.size)[world.rank], RULE, data(dtype, examples)
    pipeline, state = Pipeline(nn.cross_entropy, rule, world, micro_batches=MICRO, compiled=compiled), rule.init(stage)
    for _ in range(steps):
        stage, state, loss = pipeline.step(stage, state, x, y)
    return list(nn.named_parameters(stage).values()), loss


@pytest.mark.mission(61)
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_stages_train_as_one_process(figure, n):
    expected, loss = trained(np.float64, STEPS)
    results = run_threads(n, lambda c: trained_in_stages(c, np.float64, STEPS, compiled=True), seconds=30)
    for found, value in zip([p for parameters, _ in results for p in parameters], expected, strict=True):
        figure.equal(found, value, rel=1e-10, abs=1e-10)
    figure.equal([loss for _, loss in results], [loss] * n, rel=1e-10)


def test_one_step_in_float32():
    """Micro-batches of 6 and 7 examples weigh as many."""
    expected, loss = trained(np.float32, 1, 20)
    results = run_threads(2, lambda c: trained_in_stages(c, np.float32, 1, compiled=False, examples=20), seconds=20)
    for found, value in zip([p for parameters, _ in results for p in parameters], expected, strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, value, rtol=1e-6, atol=1e-6)
    assert abs(results[0][1] - loss) <= 1e-6


@pytest.mark.mission(61)
def test_the_bubble(figure):
    """Counted from the timetable, for stages of equal work; more micro-batches, less waiting."""
    for p, m in ((2, 1), (2, 4), (3, 5), (4, 8), (8, 32)):
        figure.equal(bubble(p, m), (p - 1) / (m + p - 1), rel=1e-12)
        figure.equal(timetable(p, m).max(), (m + p - 1) * 3.0, rel=1e-12)
        assert bubble(p, m, transfer=0.1) > bubble(p, m)
    assert bubble(1, 4) == 0.0


def test_gpipe_order_and_memory():
    """Nothing goes back before all has gone forward; the inputs kept are let go one by one."""
    order = gpipe(3)
    assert [w.forward for w in order] == [True] * 3 + [False] * 3
    assert [w.micro_batch for w in order] == [0, 1, 2, 2, 1, 0]


def test_messages_of_a_step():
    """Two stages: m activations one way, m cotangents the other, the loss there and back; one header for all of a size."""
    def program(c):
        stage, (x, y), rule = stages(np.float64, 2)[c.rank], data(np.float64, 24), optim.sgd(0.1)
        pipeline, rounds = Pipeline(nn.cross_entropy, rule, c, micro_batches=MICRO, compiled=False), []
        for _ in range(2):
            before = c.counts.rounds
            pipeline.step(stage, rule.init(stage), x, y)
            rounds.append(c.counts.rounds - before)
        return rounds
    assert run_threads(2, program) == [[2 * MICRO + 3] * 2] * 2


def test_errors():
    x, y = data(np.float64, 2)
    with pytest.raises(CommunicationError, match=r"a batch of 2 examples for 3 micro-batches"):
        run_threads(1, lambda c: trained_in_stages_on(c, x, y))
    with pytest.raises(ConfigError, match="micro_batches is 0, expected a whole number"):
        Pipeline(nn.cross_entropy, optim.sgd(0.1), Alone(), micro_batches=0)


def trained_in_stages_on(c, x, y):
    stage = stages(np.float64, 1)[0]
    Pipeline(nn.cross_entropy, optim.sgd(0.1), c, micro_batches=MICRO, compiled=False).step(stage, (), x, y)
