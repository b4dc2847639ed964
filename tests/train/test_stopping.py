"""Early stopping: decided on the true loss, the best model kept, |g| at the stop; the rate that falls on a plateau in fit."""

import numpy as np
import pytest

import adjoint as ad
from adjoint import data, nn, optim, train
from adjoint.errors import CheckpointError, ConfigError
from adjoint.train import EarlyStopping


def digits(examples=300, held_out=200):
    rest, x, y = data.load_digits().hold_out(held_out, seed=0)
    return (rest.train_x[:examples], rest.train_y[:examples]), (x, y)


def network(seed=0, dtype=np.float32):
    return nn.mlp(64, 32, 10, activation=nn.relu, rng=np.random.default_rng(seed), dtype=dtype)


@pytest.mark.parametrize("losses, options, ends, best", [
    ([0.5, 0.4, 0.4, 0.4], dict(patience=2), 4, 2),
    ([0.5, 0.4, 0.39, 0.38, 0.37], dict(patience=2, tolerance=0.05), 4, 2),
    ([0.5, 0.4, 0.39, 0.34, 0.33], dict(patience=2, tolerance=0.05), None, 4),
    ([0.5, 0.4, 0.01, 0.0], dict(patience=9, enough=0.02), 3, 3),
    ([0.5, float("nan"), float("nan")], dict(patience=2), 3, 1),
    ([float("nan"), float("nan")], dict(patience=2), 2, 0),
    ([0.3, 0.2, 0.1], dict(patience=1), None, 3),
])
def test_when_it_ends(losses, options, ends, best):
    stop = EarlyStopping(**options)
    found = next((epoch for epoch, loss in enumerate(losses, 1) if stop.observe(loss, model={"epoch": float(epoch)})), None)
    assert found == ends and stop.best_epoch == best
    assert stop.model == ({"epoch": float(best)} if best else None)
    history, told = [], EarlyStopping(**options)
    for loss in losses[:ends]:
        history.append({"validation_error": loss, "gradient_norms": {"w": 3.0, "b": 4.0}})
        ended = told(history)
    assert ended == (ends is not None) and told.best_epoch == best and told.gradient_norm == 5.0


@pytest.mark.mission(41)
@pytest.mark.mission(42)
def test_fit_stops_on_the_true_loss_while_the_surrogate_still_falls(figure):
    """The 0-1 error of the validation set decides; the cross entropy of training, which is differentiated, goes on falling."""
    stop = EarlyStopping(patience=5)
    training, held_out = digits()
    done = train.fit(network(), training, optimizer=optim.adam(3e-3), epochs=200, batch=50, validation=held_out, stop=stop)
    errors = np.array([line["validation_error"] for line in done.history])
    assert len(errors) < 200 and len(errors) == stop.best_epoch + 5
    figure.equal(stop.best_epoch, np.argmin(errors) + 1)
    figure.equal(stop.best, errors.min())
    kept = train.error_rate(train.Predictor()(stop.model, held_out[0]), held_out[1])
    figure.equal(kept, errors.min())
    # The 0-1 loss has no slope to follow: the surrogate does, and its value at the end is below that at the best epoch.
    wrong = ad.grad(lambda z: np.mean((np.argmax(z, axis=-1) != held_out[1]) * 1.0))(done.model(held_out[0]).astype(np.float64))
    assert not np.any(wrong)
    figure.at_most(done.history[-1]["loss"] / done.history[stop.best_epoch - 1]["loss"], 0.95)


@pytest.mark.mission(43)
def test_the_gradient_may_still_be_large_at_the_stop(figure):
    """|g| over all training data at the early stop, beside that at the minimum where classical optimization ends."""
    (x, y), held_out = digits(200)
    x, held = x.astype(np.float64), (held_out[0].astype(np.float64), held_out[1])
    objective = lambda m: nn.cross_entropy(x @ m["w"], y) + 0.5e-3 * np.sum(m["w"] ** 2)
    step, predict = ad.compile(ad.value_and_grad(objective)), lambda m: held[0] @ m["w"]
    model, stop, norm = {"w": np.zeros((64, 10))}, EarlyStopping(patience=3), np.nan
    for _ in range(300):
        _, gradients = step(model)
        norm = float(optim.global_norm(gradients))
        if stop.observe(train.error_rate(predict(model), held[1]), model, gradient_norm=norm):
            break
        model = {"w": model["w"] - 0.5 * gradients["w"]}
    classical = optim.minimize(objective, {"w": np.zeros((64, 10))}, gradient_tolerance=1e-9)
    figure.equal(stop.gradient_norm, norm)
    figure.at_least(stop.gradient_norm, 0.1)
    figure.at_most(float(optim.global_norm(classical.gradient)), 1e-8)
    assert classical.converged and 3 < len(stop.losses) < 300


def test_a_kept_model_is_a_copy():
    model = {"w": np.ones(2)}
    stop = EarlyStopping()
    stop.observe(0.1, model)
    model["w"][:] = 9.0
    np.testing.assert_array_equal(stop.model["w"], 1.0)


def test_a_resumed_run_stops_where_the_whole_run_does(tmp_path):
    training, held_out = digits(200, 100)
    options = dict(epochs=40, batch=50, validation=held_out)
    rule = lambda: optim.sgd(optim.plateau(0.5, patience=1, tolerance=0.2), momentum=0.9)
    whole = EarlyStopping(patience=6, path=tmp_path / "whole.safetensors")
    expected = train.fit(network(), training, optimizer=rule(), stop=whole, **options)
    assert 6 < len(expected.history) < 40

    class Early(EarlyStopping):
        def __call__(self, history):
            return super().__call__(history) or len(history) == whole.best_epoch + 2
    with train.RunFolder.create(tmp_path, "digits", {}) as folder:
        train.fit(network(), training, optimizer=rule(), stop=Early(patience=6, path=tmp_path / "part.safetensors"),
                  folder=folder, **options)
        stop = EarlyStopping(patience=6, path=tmp_path / "part.safetensors")
        again = train.fit(network(), training, optimizer=rule(), stop=stop, folder=folder, resume=True, **options)
    assert [line["validation_error"] for line in again.history] == [line["validation_error"] for line in expected.history]
    assert optim.rate_now(again.state) == optim.rate_now(expected.state) < 0.5
    assert stop.best_epoch == whole.best_epoch
    for a, b in zip(ad.tree.flatten(stop.model)[0], ad.tree.flatten(whole.model)[0], strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_file_of_another_run_is_refused(tmp_path):
    stop = EarlyStopping(path=tmp_path / "best.safetensors")
    stop.observe(0.5, {"w": np.ones(2)})
    other = EarlyStopping(path=tmp_path / "best.safetensors")
    other([{"validation_error": 0.5}, {"validation_error": 0.4}, {"validation_error": 0.6}])
    with pytest.raises(CheckpointError, match="epoch 1, the best is that of 2"):
        other.keep({"w": np.ones(2)})


@pytest.mark.mission(116)
@pytest.mark.mission(117)
def test_fit_lowers_the_rate_by_ten_on_a_plateau(figure):
    """Least squares in batches of 4: a fixed rate hovers above the minimum by its noise; the rate that falls comes down to it."""
    rng = np.random.default_rng(5)
    x, noise = rng.normal(size=(200, 20)), rng.normal(size=(200, 1))
    y = x @ rng.normal(size=(20, 1)) + 0.5 * noise
    wide = np.c_[x, np.ones(200)]
    least = np.mean((wide @ np.linalg.lstsq(wide, y, rcond=None)[0] - y) ** 2)

    def run(rate):
        model = nn.Linear(20, 1, rng=np.random.default_rng(0), dtype=np.float64)
        done = train.fit(model, (x, y), optimizer=optim.sgd(rate), loss=nn.squared_error, epochs=60, batch=4, validation=(x, y))
        return done, np.array([line["validation_loss"] for line in done.history]) - least
    done, falling = run(optim.plateau(0.05, patience=3, tolerance=0.0, minimum=5e-5))
    _, fixed = run(0.05)
    figure.equal(float(optim.rate_now(done.state)), 5e-5)                   # three drops by ten
    figure.at_most(falling[-1] / np.mean(fixed[-20:]), 2e-3)
    state, rates = optim.sgd(optim.plateau(1.0, patience=3)).init(x), []
    for loss in (5.0, 4.0, 4.1, 4.0, 4.0, 3.0, 3.0, 3.0, 3.0):
        state = optim.observe(state, loss)
        rates.append(float(optim.rate_now(state)))
    figure.equal(rates, [1.0, 1.0, 1.0, 1.0, 0.1, 0.1, 0.1, 0.1, 0.01])


@pytest.mark.parametrize("make, words", [
    (lambda: EarlyStopping(0), "patience is 0, expected a whole number >= 1"),
    (lambda: EarlyStopping(2.5), "patience is 2.5"),
    (lambda: EarlyStopping(tolerance=-1.0), "tolerance is -1.0"),
    (lambda: EarlyStopping()([{"epoch": 1, "loss": 0.5}]), "the epochs have no 'validation_error', only epoch, loss"),
])
def test_what_it_cannot_use_is_refused(make, words):
    with pytest.raises(ConfigError, match=words) as raised:
        make()
    assert "test_stopping.py:" in str(raised.value)
