"""Validation on ranks: each measures its share, all know the numbers of one process, and decide alike."""

import contextlib
import re
import sys
import threading
import time

import numpy as np
import pytest

from adjoint import nn, optim, train
from adjoint.distributed import Alone, DataParallel, ParameterServer, run_threads
from adjoint.errors import ConfigError, ShapeError
from adjoint.train.parallel import facts_of
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


def another(array):
    """The same examples, in an order of its own."""
    return np.random.default_rng(5).permutation(array)


HELD, OTHER = blobs(11, 1), blobs(11, 2)


@pytest.mark.parametrize("by", [DataParallel, ParameterServer])
@pytest.mark.parametrize("common, own, found", [
    ({}, {"epochs": 4}, "epochs: 4 on rank 2, 3 on rank 0"),
    ({}, {"batch": 12}, "batch: 12 on rank 2, 24 on rank 0"),
    ({}, {"x": blobs(47, 0)[0], "y": blobs(47, 0)[1]}, "examples: 47 on rank 2, 48 on rank 0"),
    ({}, {"x": blobs(48, 0)[0].astype("f4")}, r"data: float32 \(48, 6\) and int64 \(48,\) on rank 2, float64 \(48, 6\) and int64"),
    ({}, {"x": blobs(48, 3)[0]}, "data: other values on rank 2 than on rank 0, in arrays of the same shapes"),
    ({}, {"y": another(blobs(48, 0)[1])}, "data: other values on rank 2 than on rank 0"),
    ({}, {"validation": HELD}, r"validation: float64 \(11, 6\) and int64 \(11,\) on rank 2, none on rank 0"),
    ({"validation": HELD}, {"validation": None}, r"validation: none on rank 2, float64 \(11, 6\) and int64 \(11,\) on rank 0"),
    ({"validation": HELD}, {"validation": blobs(9, 1)}, r"validation: float64 \(9, 6\) and int64 \(9,\) on rank 2"),
    ({"validation": HELD}, {"validation": OTHER}, "validation: other values on rank 2 than on rank 0"),
    ({"validation": HELD}, {"validation": (HELD[0], another(HELD[1]))}, "validation: other values on rank 2 than on rank 0"),
], ids=lambda words: re.sub(r"\W+", "-", words)[:40] if isinstance(words, str) else "")
def test_what_ranks_begin_with_must_be_the_same(by, common, own, found):
    """On every rank, with what differs and one thing to do; no rank goes on, and none waits."""
    def program(c):
        x, y = blobs(48, 0)
        options = {"x": x, "y": y, "epochs": 3, "batch": 24, "validation": None, **common, **(own if c.rank == 2 else {})}
        x, y = options.pop("x"), options.pop("y")
        model = nn.Linear(6, 3, rng=np.random.default_rng(0), dtype=np.float64)
        with pytest.raises(ConfigError, match=rf"^fit: {found}[^!]*\n  at [^!]*test_validation.py:[^!]*\n  Give ") as raised:
            train.fit(model, (x, y), optimizer=optim.sgd(0.1), parallel=by(c), compiled=False, **options)
        return str(raised.value)
    assert len(set(run_threads(4, program, seconds=10))) == 1


def test_the_same_data_in_other_containers(tmp_path):
    """Arrays mapped from a file, lists, other strides, values that another processor has rounded otherwise, NaN among the targets."""
    x, y = blobs(48, 0)
    np.save(tmp_path / "x.npy", x)
    held = (np.ones((3, 6)), np.array([[np.nan], [np.inf], [1.0]]))

    def program(c):
        own = (x, np.load(tmp_path / "x.npy", mmap_mode="r"), x.tolist(), np.asfortranarray(x), x * (1 + 1e-12))[c.rank]
        model = nn.Linear(6, 3, rng=np.random.default_rng(0), dtype=np.float64)
        loss = lambda outputs, y: nn.cross_entropy(outputs, y) if y.ndim == 1 else nn.squared_error(outputs, y * np.ones(3))
        with np.errstate(invalid="ignore"):
            return train.fit(model, (own, y), optimizer=optim.sgd(0.1), loss=loss, epochs=1, batch=24, validation=held,
                             parallel=DataParallel(c), compiled=False).steps
    assert run_threads(5, program, seconds=20) == [2] * 5


@pytest.mark.parametrize("shape", [(3,), (3, 0), (5, 2, 2), (3000, 2), (40, 30, 10, 3)])
@pytest.mark.parametrize("dtype", ["f4", "f8", "i8", "u1", "?", "U3"])
def test_facts_of_any_array(shape, dtype):
    rng = np.random.default_rng(0)
    x = (100 * rng.random(shape)).astype(dtype)
    (what, [sums]), (_, [others]) = facts_of([x]), facts_of([x[::-1]])
    assert what == f"{np.dtype(dtype)} {shape}" and 0 <= sums[0] <= sums[1]
    assert (sums != others) == (x.size > 0 and dtype not in ("?", "U3")) or dtype == "?"


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


@pytest.mark.parametrize("held", [(np.ones((5, 6)), np.zeros(4, int)), (np.ones((0, 6)), np.zeros(0, int))])
def test_a_validation_set_that_is_none_is_refused_before_the_first_step(held):
    with pytest.raises(ShapeError, match=r"fit: validation has shapes \(.*\), expected as many examples as targets\.\n  at .*test_val"):
        fitted(Alone(), held, alone=True)
