"""Training and evaluation: dropout by key, buffers by taps, and the training step that joins them."""

import numpy as np
import pytest

import adjoint as ad
from adjoint import nn, optim, train
from adjoint.errors import ConfigError, ShapeError
from adjoint.nn.module import buffer_mask, parameter_names


class Centre(nn.Module):
    """Subtracts the mean; in training mode that of the batch, which it remembers."""

    mean: np.ndarray = nn.buffer()
    path: str | None = None

    def training(self, path, key):
        return Centre(self.mean, path)

    def __call__(self, x):
        if self.path is None:
            return x - self.mean
        mean = x.mean(axis=0)
        ad.tap(f"{self.path}.mean" if self.path else "mean", 0.5 * self.mean + 0.5 * mean)
        return x - mean


def network(p=0.5):
    rng = np.random.default_rng(0)
    return nn.Sequential(nn.Linear(3, 8, rng=rng), Centre(np.zeros(8, np.float32)), np.tanh, nn.Dropout(p), nn.Linear(8, 2, rng=rng))


def batch():
    rng = np.random.default_rng(1)
    return rng.standard_normal((6, 3)).astype(np.float32), rng.standard_normal((6, 2)).astype(np.float32)


def test_buffers_are_named_and_marked():
    model = network()
    assert [n for n, b in zip(parameter_names(model), buffer_mask(model), strict=True) if b] == ["1.mean"]
    assert nn.has_modes(model) and not nn.has_modes(nn.Linear(2, 2, rng=np.random.default_rng(0)))


def test_evaluation_draws_nothing_and_training_scales_what_it_keeps():
    x = np.ones((400, 50), np.float32)
    layer = nn.Dropout(0.25)
    assert layer(x) is x
    y = nn.training(layer, np.array([3, 4]))(x)
    assert set(np.unique(y)) == {np.float32(0.0), np.float32(1.0 / 0.75)}
    assert abs((y == 0).mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / y.size)
    assert y.dtype == np.float32


def test_each_layer_and_each_step_draws_anew_and_the_same_key_draws_the_same():
    model, x = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5)), np.ones(1000)
    first, second = nn.training(model, np.array([0, 1]))
    assert abs((first(x) * second(x) > 0).mean() - 0.25) < 0.06
    drawn = lambda step: nn.training(model, np.array([0, step]))(x)
    assert (drawn(1) == drawn(1)).all() and (drawn(1) != drawn(2)).any()


def test_the_derivative_of_dropout_is_its_mask():
    key, x = np.array([5, 6]), np.arange(1.0, 9.0)
    y, pullback = ad.vjp(lambda x: nn.dropout(x, 0.5, key), x)
    assert np.array_equal(pullback(np.ones(8))[0], y / x)


@pytest.mark.parametrize("compiled", [False, True])
def test_the_step_moves_parameters_by_gradients_and_buffers_by_taps(compiled):
    model, (x, y), key = network(), batch(), np.array([0, 7])
    rule = optim.adamw(0.1, weight_decay=0.5)
    step = train.make_step(nn.squared_error, rule, compiled=compiled)
    hidden = x @ model[0].weight.T + model[0].bias
    after, _, loss, norms, finite = step(ad.copy(model), rule.init(model), x, y, key)
    assert np.allclose(after[1].mean, 0.5 * hidden.mean(axis=0), atol=1e-6)           # neither a gradient nor the decay has touched it
    expected = nn.squared_error(nn.training(model, key)(x), y)
    assert finite and len(norms) == 4 and np.allclose(loss, expected, rtol=1e-5)
    assert not np.allclose(after[0].weight, model[0].weight)


@pytest.mark.parametrize("compiled", [False, True])
def test_buffers_keep_their_dtype_whatever_the_batch_has(compiled):
    model, (x, y), rule = network(), batch(), optim.sgd(0.1)
    step = train.make_step(nn.squared_error, rule, compiled=compiled)
    after, *_ = step(ad.copy(model), rule.init(model), x.astype(np.float64), y.astype(np.float64), np.array([0, 1]))
    assert after[1].mean.dtype == after[0].weight.dtype == np.float32 and after[1].mean.any()


def test_compiled_and_eager_steps_draw_the_same_units():
    losses = []
    for compiled in (False, True):
        model, (x, y), rule = network(), batch(), optim.sgd(0.1)
        step, state = train.make_step(nn.squared_error, rule, compiled=compiled), rule.init(model)
        for count in range(3):
            model, state, loss, _, _ = step(model, state, x, y, np.array([0, count]))
        losses.append(float(loss))
    assert np.isclose(*losses, rtol=1e-5)


def test_a_step_that_is_not_finite_keeps_the_buffers_too():
    model, (x, y), rule = network(), batch(), optim.sgd(0.1)
    step = train.make_step(lambda z, y: nn.squared_error(z, y) * np.float32(np.inf), rule)
    after, _, _, _, finite = step(ad.copy(model), rule.init(model), x, y, np.array([0, 1]))
    assert not finite and np.array_equal(after[1].mean, model[1].mean)


def test_fit_trains_with_dropout_and_evaluates_without():
    model, (x, y) = network(0.1), batch()
    done = train.fit(model, (x, y), optimizer=optim.adam(1e-2), loss=nn.squared_error, epochs=120, batch=6, validation=(x, y))
    again = train.fit(model, (x, y), optimizer=optim.adam(1e-2), loss=nn.squared_error, epochs=120, batch=6, validation=(x, y))
    assert done.history[-1]["validation_loss"] < 0.5 * done.history[0]["validation_loss"]
    assert np.array_equal(done.model[0].weight, again.model[0].weight)
    assert done.model[3].key is None and not np.array_equal(done.model[1].mean, model[1].mean)


def test_what_is_wrong_is_said():
    for p in (1.5, -0.1, "half", float("nan")):
        with pytest.raises(ConfigError, match="from 0 to 1"):
            nn.Dropout(p)
    with pytest.raises(ConfigError, match=r"Dropout \(3\): training needs a key"):
        nn.training(network())
    with pytest.raises(ShapeError, match=r"int64\[2\]"):
        nn.training(network(), np.array([1.0, 2.0]))
    rule = optim.sgd(0.1)
    with pytest.raises(ConfigError, match="training needs a key"):
        train.make_step(nn.squared_error, rule)(network(), rule.init(network()), *batch())


def test_uniform_numbers_fill_their_interval():
    for dtype in (np.float32, np.float64):
        u = nn.random.uniform(np.array([1, 2]), (64, 1000), dtype)
        assert u.dtype == dtype and 0.0 <= u.min() < 1e-3 and 0.999 < u.max() < 1.0
        assert abs(u.mean() - 0.5) < 4 / np.sqrt(12 * u.size) and abs(u.var() - 1 / 12) < 1e-3
    words = nn.random.bits(np.array([1, 2]), (4, 3))
    assert np.array_equal(words, ad.compile(lambda key: nn.random.bits(key, (4, 3)))(np.array([1, 2])))
    keys = nn.random.split(np.array([1, 2]), 100)
    assert len(np.unique(keys)) == 200
