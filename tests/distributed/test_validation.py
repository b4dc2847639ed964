"""Validation on ranks: each measures its share, all know the numbers of one process, and decide alike."""

import contextlib
import sys
import threading
import time

import numpy as np
import pytest

from adjoint import nn, optim, train
from adjoint.distributed import Alone, DataParallel, ParameterServer, run_threads
from adjoint.errors import CommunicationError, ShapeError
from adjoint.tree import flatten

FIT = sys.modules["adjoint.train.fit"]             # train.fit is the function


def blobs(count, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, 6))
    return x, np.argmax(x[:, :3] + 0.5 * rng.standard_normal((count, 3)), axis=1)


def fitted(c, held, *, alone=False, epochs=3, rule=None, stop=None, loss=nn.cross_entropy, compiled=False, by=DataParallel, **options):
    model = nn.mlp(6, 8, 3, activation=np.tanh, rng=np.random.default_rng(0), dtype=np.float64)
    return train.fit(model, blobs(48, 0), batch=24, epochs=epochs, optimizer=rule or optim.adam(1e-2), loss=loss, validation=held,
                     stop=stop, compiled=compiled, parallel=None if alone else by(c, **options))


@pytest.fixture
def measured(monkeypatch):
    """The numbers of rows of all predictions, by the thread that made them."""
    found = {}

    class Counting(train.Predictor):
        def __call__(self, model, x):
            found.setdefault(threading.current_thread().name, []).append(len(x))
            return super().__call__(model, x)
    monkeypatch.setattr(FIT, "Predictor", Counting)
    return found


@pytest.mark.parametrize("n, count, shares", [(2, 30, [15, 15]), (3, 41, [13, 14, 14]), (4, 3, [0, 1, 1, 1]), (3, 1, [0, 0, 1])])
def test_every_rank_measures_its_share_and_knows_what_one_process_does(n, count, shares, measured):
    held = blobs(count, 1)
    expected = fitted(Alone(), held, alone=True).history
    measured.clear()
    runs = run_threads(n, lambda c: fitted(c, held).history, seconds=30)
    assert measured == {f"rank {rank}": [share] * 3 for rank, share in enumerate(shares) if share}
    for history in runs:
        for line, first, one in zip(history, runs[0], expected, strict=True):
            assert line["validation_error"] == one["validation_error"]
            assert line["validation_loss"] == pytest.approx(one["validation_loss"], rel=1e-12)
            assert line["validation_loss"] == first["validation_loss"]


@pytest.mark.parametrize("n, options", [(3, {}), (4, {"wait_for": 2}), (4, {"wait_for": 2, "servers": 2}), (3, {"staleness": 1})],
                         ids=str)
def test_servers_and_workers_measure_their_shares(n, options, measured):
    held = blobs(41, 1)
    runs = run_threads(n, lambda c: fitted(c, held, by=ParameterServer, **options).history, seconds=30)
    shares = {3: (13, 14, 14), 4: (10, 10, 10, 11)}[n]
    assert {f"rank {rank}": [rows] * 3 for rank, rows in enumerate(shares)} == measured
    assert all([line["validation_loss"] for line in history] == [line["validation_loss"] for line in runs[0]] for history in runs)
    if not options:
        expected = fitted(Alone(), held, alone=True).history
        for line, one in zip(runs[0], expected, strict=True):
            assert line["validation_error"] == one["validation_error"]
            assert line["validation_loss"] == pytest.approx(one["validation_loss"], rel=1e-9)


@pytest.mark.parametrize("options", [{"wait_for": 1, "cancel": False}, {"staleness": 3}], ids=str)
@pytest.mark.parametrize("ask", [1, 2, 3])
def test_a_late_worker_that_leaves_at_ctrl_c_is_not_waited_for(options, ask, monkeypatch):
    """Two steps an epoch. The worker asked after step 1 learns of the end with version 2, while others measure the first epoch."""
    @contextlib.contextmanager
    def interrupts():
        calls = []
        yield lambda: calls.append(1) or 2 * (threading.current_thread().name == "rank 0" and len(calls) >= ask)

    def slow(outputs, y):
        if threading.current_thread().name == "rank 2":
            time.sleep(0.1)
        return nn.cross_entropy(outputs, y)
    monkeypatch.setattr(FIT, "deferred_interrupts", interrupts)
    found = run_threads(3, lambda c: fitted(c, blobs(9, 1), by=ParameterServer, loss=slow, epochs=9, **options), seconds=20)
    assert {done.interrupted for done in found} == {2}


@pytest.mark.parametrize("name, other", [("epochs", 4), ("batch", 12)])
def test_ranks_that_would_train_on_differently_are_refused_before_the_first_step(name, other):
    def program(c):
        x, y = blobs(48, 0)
        model = nn.Linear(6, 3, rng=np.random.default_rng(0), dtype=np.float64)
        options = {"epochs": 3, "batch": 24} | ({name: other} if c.rank == 1 else {})
        train.fit(model, (x, y), optimizer=optim.sgd(0.1), parallel=DataParallel(c), compiled=False, **options)
    with pytest.raises(CommunicationError, match=rf"fit: {name}: {other} on rank 1, \d+ on rank 0"):
        run_threads(2, program, seconds=10)


def test_targets_that_are_no_labels_have_a_loss_only():
    rng = np.random.default_rng(2)
    held = blobs(11, 1)[0], rng.standard_normal((11, 3))
    loss = lambda outputs, y: nn.squared_error(outputs, y if y.ndim == 2 else np.eye(3)[y])
    expected = fitted(Alone(), held, alone=True, loss=loss).history
    for history in run_threads(2, lambda c: fitted(c, held, loss=loss).history, seconds=30):
        assert "validation_error" not in history[-1]
        assert history[-1]["validation_loss"] == pytest.approx(expected[-1]["validation_loss"], rel=1e-12)


def test_with_exact_sums_control_by_the_validation_loss_keeps_the_bits_for_every_number_of_ranks(measured):
    held, rule = blobs(29, 1), optim.adam(optim.plateau(0.3, patience=1))
    runs = {n: run_threads(n, lambda c: fitted(c, held, epochs=6, rule=rule, exact_reduce=True), seconds=30) for n in (1, 2, 3, 4)}
    assert optim.rate_now(runs[1][0].state) < 0.3
    assert sorted(measured["rank 3"]) == [2] * 6 + [3] * 12
    for n, found in runs.items():
        assert len(found) == n
        for done in found:
            assert [line["validation_loss"] for line in done.history] == [line["validation_loss"] for line in runs[1][0].history]
            assert all(a.tobytes() == b.tobytes() for a, b in zip(flatten(done.state)[0], flatten(runs[1][0].state)[0], strict=True))
    plain = fitted(Alone(), held, alone=True, epochs=1, rule=rule).history[0]
    assert plain["validation_loss"] == pytest.approx(runs[1][0].history[0]["validation_loss"], rel=1e-9)


def test_compiled_predictions_have_blocks_of_a_share(monkeypatch):
    blocks = []
    monkeypatch.setattr(FIT, "Predictor", lambda **options: blocks.append(options["block"]) or train.Predictor(**options))
    held = blobs(23, 1)
    expected = fitted(Alone(), held, alone=True, compiled=True).history[-1]
    for history in run_threads(2, lambda c: fitted(c, held, compiled=True).history, seconds=60):
        assert history[-1]["validation_loss"] == pytest.approx(expected["validation_loss"], rel=1e-12)
        assert history[-1]["validation_error"] == expected["validation_error"]
    assert blocks == [512, 12, 12]


def test_all_ranks_end_when_one_would():
    held, second = blobs(9, 1), lambda c: lambda history: c.rank == 1 and len(history) == 2
    assert run_threads(3, lambda c: len(fitted(c, held, epochs=5, stop=second(c)).history), seconds=30) == [2, 2, 2]
    patient = lambda c: fitted(c, held, epochs=9, rule=optim.sgd(1e-9), stop=train.EarlyStopping(patience=2))
    assert [done.steps for done in run_threads(2, patient, seconds=30)] == [6, 6]


@pytest.mark.parametrize("held", [(np.ones((5, 6)), np.zeros(4, int)), (np.ones((0, 6)), np.zeros(0, int)), (1.0, np.zeros(1, int))])
def test_a_validation_set_that_is_none_is_refused_before_the_first_step(held):
    with pytest.raises(ShapeError, match=r"fit: validation has shapes \(.*\), expected as many examples as targets\.\n  at .*test_val"):
        fitted(Alone(), held, alone=True)
