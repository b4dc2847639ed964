"""Ranks that train otherwise than the others are told so at the end of the epoch, on every rank; ranks that do not are left alone."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import adjoint
from adjoint import nn, optim, train
from adjoint.distributed import DataParallel, run_threads
from adjoint.distributed.data_step import SMALL, code_of, numbers_of
from adjoint.errors import CommunicationError

X = np.random.default_rng(0).standard_normal((32, 4))
Y = np.argmax(X, axis=1)


def fitted(c, rule):
    model = nn.mlp(4, 5, 4, activation=nn.relu, rng=np.random.default_rng(0), dtype=np.float64)
    return train.fit(model, (X, Y), optimizer=rule, epochs=2, batch=16, parallel=DataParallel(c), compiled=False)


@pytest.mark.parametrize("make", [optim.sgd, optim.adam])
def test_another_rate_on_a_rank_is_told_after_the_epoch(make):
    def program(c):
        with pytest.raises(CommunicationError, match=r"the ranks hold different models: the sum of \|model\."):
            fitted(c, make(1e-3 * (1 + (c.rank == 2))))
        return True
    assert run_threads(3, program, seconds=20) == [True] * 3
    assert [done.steps for done in run_threads(3, lambda c: fitted(c, make(1e-3)), seconds=20)] == [4] * 3


def test_how_far_ranks_may_be_apart():
    def program(c, step):
        return DataParallel(c).settle({"w": np.array([1.0, -1.0 - step * c.rank])}, {"count": 3}, 0.5)[2]
    assert run_threads(2, lambda c: program(c, 1e-6), seconds=20) == [0.5, 0.5]
    with pytest.raises(CommunicationError, match=r"\|model\.w\| is from 2 to 2\.001"):
        run_threads(2, lambda c: program(c, 1e-3), seconds=20)
    with pytest.raises(CommunicationError, match=r"\|optimizer\.count\| is from 3 to 4"):
        run_threads(2, lambda c: DataParallel(c).settle(np.ones(2), {"count": 3 + c.rank}), seconds=20)


@pytest.mark.parametrize("bad", [np.nan, np.inf, np.finfo(np.float64).max])
def test_a_model_that_is_not_finite_on_some_ranks(bad):
    """The largest number twice: a sum beyond it. What is so on every rank passes: ranks that all have it do not differ."""
    def program(c, where):
        return DataParallel(c).settle({"w": np.full(2, bad if c.rank in where else 1.0)}, ())[2]
    for where in ((0,), (1,), (0, 2)):
        with pytest.raises(CommunicationError, match=r"\|model\.w\| is from 2 to inf or NaN"):
            run_threads(3, lambda c, where=where: program(c, where), seconds=20)
    assert run_threads(3, lambda c: program(c, (0, 1, 2)), seconds=20) == [0.0] * 3


def first_step(c, loss=nn.cross_entropy, *, seed=0, rows=8, length=4, agrees=False, **options):
    """The loss of a first step of an open loop."""
    rule, parallel = optim.adam(1e-3), DataParallel(c)
    model = nn.mlp(4, 5, 4, activation=np.tanh, rng=np.random.default_rng(seed), dtype=np.float64)
    state = rule.init(model)
    if agrees:
        model, state = parallel.agree(model, state)
    x = np.ones((rows, length, 4)) if length > 4 else X[:rows]
    y = np.ones((rows, length, 4)) if length > 4 else Y[:rows]
    return float(parallel.make_step(loss, rule, **options)(model, state, x, y)[2])


@pytest.mark.parametrize("compiled", [True, False])
def test_an_open_loop_that_forgets_to_agree_is_told_in_its_first_step(compiled):
    def program(c):
        said = r"the ranks hold different models: the sum of \|model\.layers\.0\.weight\| is [^!]*test_ranks_that_differ.py:[^!]*Call agree"
        with pytest.raises(CommunicationError, match=said):
            first_step(c, seed=c.rank // 2, compiled=compiled)
    run_threads(3, program, seconds=20)
    assert len(set(run_threads(3, lambda c: first_step(c, seed=c.rank, agrees=True, compiled=compiled), seconds=20))) == 1


def test_another_number_of_arrays_is_refused_before_they_are_compared():
    def program(c):
        model = nn.Linear(4, 4, rng=np.random.default_rng(0))
        rule = optim.adam(1e-3) if c.rank else optim.sgd(1e-3)
        with pytest.raises(CommunicationError, match="the ranks trace different programs"):
            DataParallel(c).make_step(nn.cross_entropy, rule, compiled=False)(model, rule.init(model), X, Y)
    run_threads(2, program, seconds=20)


WEIGHTS = [1.0, 1.0, 1.0]
GLOBAL, HALF = 2, np.float32(0.5)


def weighted(rank, kind):
    """A loss with a number that this rank has from elsewhere, or (default) in its own code."""
    w, calls = 1.0 + rank, rank
    if kind == "written":
        def loss(outputs, y):
            nonlocal calls
            calls += 1
            return nn.cross_entropy(outputs, y)
        return loss
    array, pair, many, seen = np.full((1, 1), w), (1, (w, np.float32(w))), np.full(SMALL + 1, w), [w]
    times = lambda o, y, by, more=1.0: by * more * nn.cross_entropy(o, y)

    def filled(o, y):
        array[0, 0] += len(y)
        seen.append(len(y))
        return nn.cross_entropy(o, y)
    losses = {"closure": lambda o, y: w * nn.cross_entropy(o, y), "default": lambda o, y, w=w: w * nn.cross_entropy(o, y),
              "code": (lambda o, y: nn.cross_entropy(o, y) * 2) if rank else (lambda o, y: nn.cross_entropy(o, y) * 3),
              "array": lambda o, y: (array * nn.cross_entropy(o, y)).mean(), "tuple": lambda o, y: pair[1][0] * nn.cross_entropy(o, y),
              "partial": functools.partial(times, by=w),
              "partial of a partial": functools.partial(functools.partial(times, by=2.0), more=w),
              "partial of a closure": functools.partial(lambda o, y, by: by * w * nn.cross_entropy(o, y), by=1.0),
              "partial of another": functools.partial((lambda o, y: 2.0 * nn.cross_entropy(o, y)) if rank else nn.cross_entropy),
              "filled": filled, "large": lambda o, y: 0.0 * many.sum() + nn.cross_entropy(o, y)}
    return losses[kind]


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("kind", ["closure", "default", "code", "array", "tuple", "partial", "partial of a partial", "partial of a closure",
                                  "partial of another"])
def test_another_constant_in_the_loss_is_refused_on_every_rank(kind, compiled):
    def program(c, differs):
        return first_step(c, weighted(c.rank * differs, kind), compiled=compiled)

    def refused(c):
        with pytest.raises(CommunicationError, match="the ranks trace different programs for a training step"):
            program(c, True)
    run_threads(2, refused, seconds=20)
    assert len(set(run_threads(2, lambda c: program(c, False), seconds=20))) == 1


@pytest.mark.parametrize("compiled", [True, False])
def test_unequal_shares_have_the_same_code_and_constants_of_their_own(compiled):
    def program(c, kind):
        return first_step(c, weighted(c.rank, kind), rows=8 + c.rank, compiled=compiled)

    def refused(c):
        with pytest.raises(CommunicationError, match="the ranks trace different programs for a training step"):
            program(c, "code")
    run_threads(2, refused, seconds=20)
    assert len(set(run_threads(2, lambda c: program(c, "closure"), seconds=20))) == 1


def test_constants_of_a_compiled_loss_are_seen_wherever_they_come_from():
    class Loss:
        def __init__(self, w):
            self.w = w

        def __call__(self, outputs, y):
            return nn.cross_entropy(outputs, y) * self.w

    class Looped(Loss):
        def __call__(self, outputs, y):
            return adjoint.scan(lambda total, row: (total * self.w + np.sum(np.sin(row)), None), 0.0, outputs)[0]

    for kind in (Loss, Looped):
        def refused(c, kind=kind):
            with pytest.raises(CommunicationError, match="the ranks trace different programs"):
                first_step(c, kind(2.0 + c.rank))
        run_threads(2, refused, seconds=20)
    rounded = run_threads(2, lambda c: first_step(c, Loss(2.0 + 1e-9 * c.rank)), seconds=20)       # as another processor might
    assert len(set(rounded)) == 1


def test_numbers_that_follow_from_sizes_and_counters_may_differ():
    def means(c):
        rows = 8 + c.rank
        return first_step(c, lambda o, y: np.sum((o - y[:, None]) ** 2) / rows, rows=rows)
    assert len(set(run_threads(2, means, seconds=20))) == 1
    lengths = run_threads(2, lambda c: first_step(c, lambda o, y: np.mean((o - y) ** 2) * 2, length=5 + c.rank), seconds=20)
    assert lengths[0] == lengths[1]
    for kind in ("written", "filled", "large"):
        counted = run_threads(2, lambda c, kind=kind: first_step(c, weighted(c.rank, kind), compiled=False), seconds=20)
        assert counted[0] == counted[1]


def reads(outputs, y, most=3, *, least=HALF):
    return GLOBAL * outputs + sum(WEIGHTS) if "b" in {"a", "b", "c", "d"} else (lambda: least * most)()


def test_what_a_loss_is_told_apart_by_is_the_same_in_every_process():
    assert numbers_of(reads) == "0=3 1=0.5+0j GLOBAL=2" and numbers_of(np.sin) == numbers_of(sum) == ""
    program = "from test_ranks_that_differ import *; print(code_of(reads), numbers_of(reads))"
    path = os.pathsep.join((str(Path(adjoint.__file__).parents[1]), str(Path(__file__).parent)))
    for seed in ("1", "2"):
        found = subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path},
                               capture_output=True, text=True, timeout=60, check=True).stdout
        assert found.strip() == f"{code_of(reads)} {numbers_of(reads)}"
