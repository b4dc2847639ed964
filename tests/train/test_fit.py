"""fit: it learns, resumes to the same bits from any step, stops before a NaN, ends at Ctrl-C with a checkpoint."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

import adjoint as ad
from adjoint import nn, optim
from adjoint.errors import CheckpointError, ConfigError, DataError, IndexRangeError, NonFiniteError, ShapeError
from adjoint.nn.random import normal, philox
from adjoint.train.evaluate import Predictor, confusion_matrix, error_rate
from adjoint.train.fit import fit
from adjoint.train.interrupts import deferred_interrupts
from adjoint.train.loop import InputNoise, make_step, steps
from adjoint.train.nonfinite import birth_of_nonfinite
from adjoint.train.run_folder import RunFolder
from adjoint.tree import flatten, leaf


def blobs(count=60, seed=0):
    """Three classes around three points."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, count)
    x = np.array([[2.0, 0.0], [-2.0, 1.0], [0.0, -2.0]])[y] + 0.5 * rng.standard_normal((count, 2))
    return x.astype(np.float32), y.astype(np.int64)


def network(seed=0):
    return nn.mlp(2, 8, 3, activation=np.tanh, rng=np.random.default_rng(seed))


def options(**changes):
    return {"optimizer": optim.adamw(optim.schedules.cosine(0.05, 40)), "epochs": 5, "batch": 8, "noise": 0.1, "seed": 3,
            "compiled": False, **changes}


def same(found, expected):
    for a, b in zip(flatten(found)[0], flatten(expected)[0], strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_it_learns():
    x, y = blobs()
    run = fit(network(), (x, y), validation=blobs(30, 1), **options(epochs=10))
    assert run.history[-1]["validation_error"] <= 0.1 and run.history[-1]["loss"] < run.history[0]["loss"] / 2
    assert run.steps == 70 and [line["epoch"] for line in run.history] == list(range(1, 11))
    assert set(run.history[0]["gradient_norms"]) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert error_rate(run.model(x), y) <= 0.1


def test_compiled_training_is_eager_training():
    data = blobs()
    eager, native = fit(network(), data, **options(epochs=2)), fit(network(), data, **options(epochs=2, compiled=True))
    for a, b in zip(flatten(eager.model)[0], flatten(native.model)[0], strict=True):
        np.testing.assert_allclose(b, a, rtol=2e-4, atol=2e-5)
    again = fit(network(), data, **options(epochs=2, compiled=True))
    same(again.model, native.model)


class Stop(Exception):
    pass


@pytest.mark.parametrize("compiled, places", [(False, (1, 6, 7, 8, 20)), (True, (9,))])
def test_a_resumed_run_has_the_same_bits(tmp_path, compiled, places, monkeypatch):
    data, held = blobs(), blobs(20, 1)
    choices = options(compiled=compiled, epochs=4, validation=held)
    whole = fit(network(), data, **choices)
    for place in places:
        with RunFolder.create(tmp_path, "blobs", {}) as folder:
            def save_then_die(step, tensors, metadata, place=place, folder=folder):
                path = RunFolder.save(folder, step, tensors, metadata)
                if step == place:
                    raise Stop
                return path
            monkeypatch.setattr(folder, "save", save_then_die)
            with pytest.raises(Stop):
                fit(network(), data, folder=folder, save_seconds=-1.0, **choices)
        with RunFolder.open(folder.path) as folder:
            resumed = fit(network(5), data, folder=folder, resume=True, **choices)
            lines = folder.metrics()
        same(resumed.model, whole.model)
        same(resumed.state, whole.state)
        assert resumed.steps == whole.steps == 28
        strip = lambda history: [{k: v for k, v in line.items() if "second" not in k} for line in history]
        assert strip(resumed.history) == strip(whole.history) == strip(lines)


def test_resuming_with_other_data_is_refused(tmp_path):
    with RunFolder.create(tmp_path, "blobs", {}) as folder:
        fit(network(), blobs(), folder=folder, **options(epochs=1))
        with pytest.raises(CheckpointError, match="of 60 examples"):
            fit(network(), blobs(40), folder=folder, resume=True, **options())
        with pytest.raises(CheckpointError, match="another architecture"):
            fit(nn.mlp(2, 9, 3, activation=np.tanh, rng=np.random.default_rng(0)), blobs(), folder=folder, resume=True, **options())
    with pytest.raises(ConfigError, match="resume needs a folder"):
        fit(network(), blobs(), resume=True, **options())


@pytest.mark.parametrize("compiled", [False, True])
def test_a_nan_stops_before_the_update(compiled):
    x, y = blobs()
    model = network()

    def loss(logits, labels):
        shifted = logits - 1e6 * (labels[:, None] >= 0)
        return nn.cross_entropy(logits, labels) + np.mean(np.log(np.abs(shifted[:, 0]) - np.where(shifted[:, 0] < -1e5, 2e6, 0.0)))
    choices = options(loss=loss, optimizer=optim.sgd(0.01), noise=0.0, compiled=compiled)
    with pytest.warns(RuntimeWarning) if not compiled else _nothing(), pytest.raises(NonFiniteError) as raised:
        fit(model, (x, y), **choices)
    text = str(raised.value)
    assert "step 1 (epoch 1, batch 1)" in text and "born in log: " in text and "NaN" in text
    assert f"{os.path.basename(__file__)}:{loss.__code__.co_firstlineno + 2}" in text
    assert len(text.splitlines()) <= 12


class _nothing:
    def __enter__(self):
        return self

    def __exit__(self, *error):
        return False


def test_a_step_that_is_not_finite_changes_nothing():
    model, rule = network(), optim.adam(0.1)
    state = rule.init(model)
    step = make_step(lambda z, y: nn.cross_entropy(z, y) * np.float32(np.inf), rule, compiled=False)
    x, y = blobs(8)
    with np.errstate(all="ignore"):
        after, after_state, _, norms, finite = step(model, state, x, y)
    assert not finite and not np.isfinite(norms).all()
    same(after, model)
    same(after_state, state)


def test_birth_certificates():
    f = lambda x: np.sum(np.sqrt(x) / x)
    birth = birth_of_nonfinite(ad.grad(f), np.array([4.0, 0.0]))
    assert birth.operation == "divide" and f"{os.path.basename(__file__)}:{f.__code__.co_firstlineno}" in birth.where
    assert birth_of_nonfinite(ad.grad(f), np.array([4.0, 1.0])) is None
    assert birth_of_nonfinite(f, np.array([np.nan, 1.0])).operation == "argument 0"


def test_data_with_holes_is_refused():
    x, y = blobs()
    x[7, 1] = np.nan
    with pytest.raises(DataError, match="example 7"):
        fit(network(), (x, y), **options())


@pytest.mark.parametrize("wrong, message, remedy", [
    ({"loss": "mse"}, "loss is 'mse', expected a function", "loss=nn.squared_error"),
    ({"optimizer": optim.sgd}, "optimizer is sgd, expected an Optimizer", "optim.sgd(1e-3)"),
    ({"optimizer": "adam"}, "optimizer is 'adam', expected an Optimizer", "optim.adam(1e-3)"),
])
def test_parts_that_are_none_are_refused(wrong, message, remedy):
    parts = {"loss": nn.cross_entropy, "optimizer": optim.sgd(0.1), **wrong}
    for call in (lambda: fit(network(), blobs(), **options(**parts)), lambda: make_step(**parts)):
        with pytest.raises(ConfigError, match=message) as raised:
            call()
        assert "test_fit.py:" in str(raised.value) and remedy in str(raised.value)


@pytest.mark.parametrize("where", ["data", "validation"])
@pytest.mark.parametrize("wrong, error, message, remedy", [
    (lambda x, y: zip(x, y, strict=True), ConfigError, "fit: WHERE is zip, expected a pair", "(x, y)."),
    (lambda x, y: x, ConfigError, "fit: WHERE is ndarray, expected a pair", "(x, y)."),
    (lambda x, y: x[:2], ConfigError, "fit: WHERE is ndarray, expected a pair", "(x, y)."),
    (lambda x, y: "xy", ConfigError, "fit: WHERE is str, expected a pair", "(x, y)."),
    (lambda x, y: {"x": x, "y": y}, ConfigError, "fit: WHERE is dict, expected a pair", "(x, y)."),
    (lambda x, y: ((row for row in x), y), DataError, "fit: x of WHERE is generator, expected an array", "x = np.stack(list(examples))"),
    (lambda x, y: (x, map(int, y)), DataError, "fit: y of WHERE is map, expected an array", "y = np.stack(list(examples))"),
    (lambda x, y: (None, None), DataError, "fit: x of WHERE is NoneType, expected an array", "np.stack"),
    (lambda x, y: (1.0, 2.0), DataError, "fit: x of WHERE is float, expected an array", "np.stack"),
    (lambda x, y: ([[1.0], [1.0, 2.0]], y), DataError, "fit: x of WHERE is list of rows of several lengths", "np.stack"),
    (lambda x, y: (x.astype(object), y), DataError, "fit: x of WHERE is ndarray of object, expected", "np.stack"),
    (lambda x, y: (x, ["cat"] * len(y)), DataError, "fit: y of WHERE is list of <U3, expected", "np.unique(words, return_inverse=True)"),
], ids=range(12))
def test_data_that_are_no_arrays_are_refused(where, wrong, error, message, remedy):
    bad = wrong(*blobs())
    data, held = (bad, None) if where == "data" else (blobs(), bad)
    with pytest.raises(error, match=message.replace("WHERE", where)) as raised:
        fit(network(), data, validation=held, **options())
    assert "test_fit.py:" in str(raised.value) and remedy in str(raised.value)


@pytest.mark.parametrize("batch", [None, "8", 8.0, 0, True])
def test_a_batch_that_is_no_number_is_refused(batch):
    with pytest.raises(ConfigError, match=f"Batches: batch is {batch!r}"):
        fit(network(), blobs(), **options(batch=batch))


def test_stop_ends_the_run():
    run = fit(network(), blobs(), stop=lambda history: len(history) == 2, **options())
    assert len(run.history) == 2 and run.steps == 14


def test_the_open_loop_is_fifteen_lines():
    x, y = blobs()
    rule, noise = optim.sgd(0.1), InputNoise(0.1, seed=3, compiled=False)
    batches = ad.data.Batches(x, y, batch=8, seed=3, last="drop")
    model, state = network(), rule.init(network())
    step = make_step(nn.cross_entropy, rule, compiled=False)
    losses = [float(s.loss) for s in steps(step, model, state, batches, epochs=2, transform=noise)]
    run = fit(network(), (x, y), **options(optimizer=rule, epochs=2))
    assert len(losses) == 14 and np.mean(losses[7:]) == run.history[1]["loss"]


@pytest.mark.parametrize("compiled", [False, True])
def test_noise_is_a_function_of_seed_and_step(compiled):
    x = np.zeros((5, 3), np.float32)
    first, second = InputNoise(1.0, 7, compiled=compiled), InputNoise(1.0, 7, compiled=compiled)
    drawn = [first(x, k).copy() for k in range(3)]
    np.testing.assert_array_equal(second(x, 2), drawn[2])
    assert not np.array_equal(drawn[0], drawn[1]) and (x == 0).all() and drawn[0].dtype == np.float32
    assert not np.array_equal(InputNoise(1.0, 8, compiled=compiled)(x, 0), drawn[0])


def test_noise_is_normal():
    places = [np.array([seed, step]) for seed in (0, 1 << 40) for step in (0, 1, 1 << 33)]
    z = np.concatenate([normal(place, (100, 100), np.float32).ravel() for place in places])
    assert abs(z.mean()) < 0.02 and abs(z.std() - 1) < 0.02 and abs((z ** 3).mean()) < 0.06 and abs((z ** 4).mean() - 3) < 0.15
    assert np.isfinite(z).all() and 4.0 < np.abs(z).max() < 7.0
    parts = z.reshape(6, -1)
    np.testing.assert_allclose(np.corrcoef(parts), np.eye(6), atol=0.05)
    np.testing.assert_allclose(ad.compile(lambda p: normal(p, (7, 3), np.float64))(np.array([3, 4])),
                               normal(np.array([3, 4]), (7, 3), np.float64), rtol=1e-12, atol=1e-13)


def test_words_are_those_of_the_authors():
    words = lambda c, k: [int(w[0]) for w in philox(tuple(np.array([v]) for v in c), k)]
    assert words((0,) * 4, (0, 0)) == [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]
    ones = 0xffffffff
    assert words((ones,) * 4, (ones,) * 2) == [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]
    digits = (0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344)
    assert words(digits, (0xa4093822, 0x299f31d0)) == [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]


def test_the_first_interrupt_waits_and_the_second_does_not():
    with deferred_interrupts() as came:
        assert not came()
        signal.raise_signal(signal.SIGINT)
        assert came()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    found = []
    thread = threading.Thread(target=lambda: found.append(deferred_interrupts().__enter__()()))
    thread.start()
    thread.join()
    assert found == [False]


def test_an_interrupted_fit_saves_and_says_so(tmp_path):
    def press(history):
        signal.raise_signal(signal.SIGINT)
        return False
    whole = fit(network(), blobs(), **options())
    with RunFolder.create(tmp_path, "blobs", {}) as folder:
        run = fit(network(), blobs(), folder=folder, stop=press, **options())
        assert run.interrupted and run.steps == 7
        resumed = fit(network(), blobs(), folder=folder, resume=True, **options())
    same(resumed.model, whole.model)


def test_a_killed_process_resumes_to_the_same_bits(tmp_path):
    script = textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        from test_fit import *
        with RunFolder.create({str(tmp_path)!r}, "blobs", {{}}) as folder:
            save = folder.save
            def dying(step, tensors, metadata):
                save(step, tensors, metadata)
                if step == 11:
                    os.kill(os.getpid(), signal.SIGKILL)
            folder.save = dying
            fit(network(), blobs(), folder=folder, save_seconds=-1.0, **options())
    """)
    done = subprocess.run([sys.executable, "-c", script], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    with RunFolder.open(RunFolder.latest(tmp_path, "blobs")) as folder:
        assert folder.load().counter("step") == 11
        resumed = fit(network(), blobs(), folder=folder, resume=True, **options())
    same(resumed.model, fit(network(), blobs(), **options()).model)
    json.loads((folder.path / "config.json").read_text())


def test_prediction_in_blocks():
    model, (x, y) = network(), blobs(23)
    found = Predictor(compiled=False, block=8)(model, x)
    assert found.shape == (23, 3)
    np.testing.assert_allclose(found, model(x), rtol=1e-5, atol=1e-6)
    counts = confusion_matrix(found, y, 3)
    assert counts.sum() == 23 and counts.trace() == round(23 * (1 - error_rate(found, y)))


@pytest.mark.parametrize("outputs, labels", [((3, 2), (2,)), ((3,), (3,)), ((3, 2), (3, 2)), ((0, 2), (0,)), ((4, 3, 2), (4,))])
def test_labels_of_other_examples_are_refused(outputs, labels):
    for measure in (error_rate, lambda found, y: confusion_matrix(found, y, 2)):
        with pytest.raises(ShapeError, match=re.escape(f"outputs {outputs}, labels {labels}, expected")):
            measure(np.zeros(outputs), np.zeros(labels, np.int64))
    assert error_rate(np.eye(3)[[0, 1, 1, 2]].reshape(2, 2, 3), np.array([[0, 2], [1, 2]])) == 0.25


class Scaled(nn.Module):
    inner: nn.Linear
    temperature: float = leaf(1.0)
    name: str = "scaled"

    def __call__(self, x):
        return self.inner(x) * self.temperature


@pytest.mark.parametrize("compiled", [False, True])
def test_a_model_of_ones_own_with_a_number_as_parameter(compiled):
    x = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
    model = Scaled(nn.Linear(1, 1, rng=np.random.default_rng(0)))
    rule = optim.chain(optim.clip_by_global_norm(1.0), optim.adam(0.05))
    run = fit(model, (x, 3 * x), optimizer=rule, loss=nn.squared_error, epochs=40, batch=16, validation=(x, 3 * x), compiled=compiled)
    assert run.history[-1]["validation_loss"] < 1e-3 and "validation_error" not in run.history[0]
    assert run.model.name == "scaled" and run.model.temperature.dtype == np.float32 and run.model.temperature != 1.0
    assert model.temperature == 1.0


def test_what_does_not_fit_together_is_said_before_training(tmp_path):
    x, y = blobs()
    too_few = nn.mlp(2, 9, 2, activation=np.tanh, rng=np.random.default_rng(0))
    with pytest.raises(IndexRangeError, match="labels go from 0 to 2, classes from 0 to 1"):
        fit(too_few, (x, y), **options())
    for wrong, found in (({"validation": x}, "validation is ndarray"), ({"folder": str(tmp_path)}, "folder is str")):
        with pytest.raises(ConfigError, match=found):
            fit(network(), (x, y), **options() | wrong)
    with pytest.raises(IndexRangeError, match="labels go from 5 to 5"):
        fit(network(), (x, y), **options() | {"validation": (x, np.full(len(x), 5))})
