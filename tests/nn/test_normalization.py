"""Normalization against plain formulas: statistics, gradients through them, running values by taps, memory order, precision."""

import itertools

import numpy as np
import pytest

import adjoint as ad
from adjoint import nn
from adjoint.errors import ConfigError, DtypeError, ShapeError


def close(found, expected, rtol=1e-12):
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-12)


def trained(layer, x):
    """(y, the layer after the step)."""
    y, taps = ad.collect_taps(lambda layer, x: nn.training(layer)(x))(layer, x)
    return y, nn.absorb(layer, taps)


def by_hand(x, eps=1e-5):
    """Each channel of [batch, channels, ...] by its own numbers."""
    y, means, variances = np.zeros_like(x), [], []
    for c in range(x.shape[1]):
        values = x[:, c].ravel()
        mean = sum(values) / values.size
        variance = sum((v - mean) ** 2 for v in values) / values.size
        y[:, c] = (x[:, c] - mean) / (variance + eps) ** 0.5
        means.append(mean)
        variances.append(variance)
    return y, np.array(means), np.array(variances)


@pytest.mark.mission(57)
def test_batch_norm_by_hand(rng, figure):
    """H' = (H - mu) / sigma over the minibatch while it trains; the running values once it evaluates."""
    x = 3.0 * rng.standard_normal((4, 3, 2, 5)) + 2.0
    layer = nn.load_parameters(nn.BatchNorm2d(3, dtype=np.float64), nn.named_parameters(nn.BatchNorm2d(3, dtype=np.float64)) | {
        "weight": np.array([1.0, 2.0, 0.5]), "bias": np.array([0.0, -1.0, 1.0])})
    scale, shift = layer.weight[:, None, None], layer.bias[:, None, None]
    normal, mean, variance = by_hand(x)
    y, after = trained(layer, x)
    figure.equal(y, normal * scale + shift, rel=1e-12, abs=1e-13)
    figure.equal(after.running_mean, 0.1 * mean, rel=1e-13)
    figure.equal(after.running_var, 0.9 + 0.1 * variance * 40 / 39, rel=1e-13)
    figure.equal(after.num_batches_tracked, 1)
    evaluated = (x - after.running_mean[:, None, None]) / np.sqrt(after.running_var[:, None, None] + 1e-5) * scale + shift
    figure.equal(after(x), evaluated, rel=1e-12, abs=1e-13)


@pytest.mark.mission(57)
def test_the_gradient_goes_through_mean_and_deviation(rng, figure):
    """x_bar = 1/s (y_bar - mean y_bar - xhat mean(y_bar xhat)): it is against differences, and orthogonal to 1 and (eps 0) to x."""
    x, w = rng.standard_normal((6, 2)), rng.standard_normal((6, 2))
    layer = nn.BatchNorm1d(2, eps=0.0, dtype=np.float64)
    f = lambda x: np.sum(nn.training(layer)(x) * w)
    bar = ad.grad(f)(x)
    normal, _, variance = by_hand(x, 0.0)
    figure.equal(bar, (w - w.mean(0) - normal * (w * normal).mean(0)) / np.sqrt(variance), rel=1e-11, abs=1e-13)
    step, differences = 1e-6, np.zeros_like(x)
    for i, j in itertools.product(range(6), range(2)):
        e = np.zeros_like(x)
        e[i, j] = step
        differences[i, j] = (f(x + e) - f(x - e)) / (2 * step)
    figure.equal(bar, differences, rel=1e-7, abs=1e-8)
    figure.equal([bar.sum(0), (bar * x).sum(0)], np.zeros((2, 2)), abs=1e-13)


def test_running_values_over_several_batches(rng):
    batches = rng.standard_normal((3, 5, 2)) + 1.0
    for momentum in (0.3, None):
        layer = nn.BatchNorm1d(2, momentum=momentum, dtype=np.float64)
        mean, variance = np.zeros(2), np.ones(2)
        step = ad.compile(trained)
        for k, x in enumerate(batches, 1):
            share = 1.0 / k if momentum is None else momentum
            mean, variance = (1 - share) * mean + share * x.mean(0), (1 - share) * variance + share * x.var(0, ddof=1)
            _, layer = step(layer, x)
        close(layer.running_mean, mean)
        close(layer.running_var, variance)
        assert layer.num_batches_tracked == 3 and layer.num_batches_tracked.dtype == np.int64 and layer.path is None
        assert step.stats()["programs"] == 1


def test_taps_carry_the_names_of_the_layers(rng):
    model = nn.Sequential(nn.Linear(3, 2, rng=rng), nn.Sequential(nn.BatchNorm1d(2), nn.relu))
    _, taps = ad.collect_taps(lambda m, x: nn.training(m)(x))(model, rng.standard_normal((4, 3)).astype(np.float32))
    assert list(taps) == ["1.0.running_mean", "1.0.running_var", "1.0.num_batches_tracked"]
    assert {n: taps[n].dtype.name for n in taps} == {"1.0.running_mean": "float32", "1.0.running_var": "float32",
                                                     "1.0.num_batches_tracked": "int64"}


def test_batch_norm_without_parameters_or_running_values(rng):
    x = rng.standard_normal((5, 2))
    layer = nn.BatchNorm1d(2, affine=False, track_running_stats=False)
    assert nn.named_parameters(layer) == {}
    close(layer(x), by_hand(x)[0])
    y, after = trained(layer, x)
    close(y, by_hand(x)[0])
    assert after.running_mean is None


def test_one_value_per_channel_has_no_variance():
    for layer, shape in ((nn.BatchNorm1d(3), (1, 3)), (nn.BatchNorm1d(3), (1, 3, 1)), (nn.BatchNorm2d(3), (1, 3, 1, 1))):
        x = np.ones(shape, np.float32)
        assert layer(x).shape == shape                                      # evaluation does not mind
        with pytest.raises(ShapeError, match="training with one value per channel"):
            nn.training(layer)(x)
    assert nn.training(nn.BatchNorm2d(3))(np.ones((1, 3, 1, 2), np.float32)).shape == (1, 3, 1, 2)


def test_layer_norm_by_hand(rng):
    x, w, b = rng.standard_normal((2, 3, 4)), rng.standard_normal((3, 4)), rng.standard_normal((3, 4))
    layer = nn.load_parameters(nn.LayerNorm((3, 4), dtype=np.float64), {"weight": w, "bias": b})
    expected = np.stack([(one - one.mean()) / np.sqrt(one.var() + 1e-5) * w + b for one in x])
    close(layer(x), expected)
    close(ad.compile(layer)(x), expected)
    assert list(nn.named_parameters(nn.LayerNorm(4, bias=False))) == ["weight"]
    assert nn.named_parameters(nn.LayerNorm(4, elementwise_affine=False)) == {}


def test_group_norm_by_hand(rng):
    x = rng.standard_normal((2, 6, 3, 4))
    w, b = rng.standard_normal(6), rng.standard_normal(6)
    layer = nn.load_parameters(nn.GroupNorm(3, 6, dtype=np.float64), {"weight": w, "bias": b})
    expected = np.zeros_like(x)
    for n, g in itertools.product(range(2), range(3)):
        part = x[n, 2 * g:2 * g + 2]
        expected[n, 2 * g:2 * g + 2] = (part - part.mean()) / np.sqrt(part.var() + 1e-5)
    expected = expected * w[:, None, None] + b[:, None, None]
    close(layer(x), expected)
    close(ad.compile(layer)(x), expected)
    with pytest.raises(ConfigError, match="6 channels do not divide into 4 groups"):
        nn.GroupNorm(4, 6)


def test_rms_norm_by_hand(rng):
    x = rng.standard_normal((3, 4))
    expected = np.stack([row / np.sqrt(sum(v * v for v in row) / 4 + 0.1) for row in x])
    for f in (nn.RMSNorm(4, eps=0.1, dtype=np.float64), ad.compile(nn.RMSNorm(4, eps=0.1, dtype=np.float64))):
        close(f(x), expected)


@pytest.mark.parametrize(("size", "beta"), [(5, 0.75), (4, 0.5), (1, 1.3), (9, 0.75)])
def test_local_response_norm_by_hand(rng, size, beta):
    x = rng.standard_normal((2, 6, 3))
    expected = np.zeros_like(x)
    for c in range(6):
        near = [i for i in range(c - size // 2, c + (size - 1) // 2 + 1) if 0 <= i < 6]
        expected[:, c] = x[:, c] / (2.0 + 0.3 / size * sum(x[:, i] ** 2 for i in near)) ** beta
    layer = nn.LocalResponseNorm(size, 0.3, beta, 2.0)
    close(layer(x), expected)
    close(ad.compile(layer)(x), expected)


def test_a_batch_norm_of_channels_last_maps_copies_nothing(rng):
    """Statistics, then one pass: no kernel moves the map, and none stores it centred."""
    layer = nn.BatchNorm2d(8)
    f = ad.compile(lambda layer, x: np.transpose(nn.training(layer)(np.transpose(x, (0, 3, 1, 2))), (0, 2, 3, 1)) + 1.0)
    x = rng.standard_normal((2, 5, 6, 8)).astype(np.float32)
    f(layer, x)
    whole = [name for name in f.kernels() if name.startswith("map") and not name.endswith("extent 1")]
    assert len(whole) == 1 and not any(name.startswith("copy") for name in f.kernels()), f.kernels()
    assert f.memory()["arena"] < 2 * x.nbytes


def test_a_mean_far_from_zero_costs_no_precision(rng):
    """Two passes: the variance of 1000 + N(0, 1) in float32 is right to the rounding of the numbers themselves."""
    x = (1000.0 + rng.standard_normal((512, 3))).astype(np.float32)
    y, after = ad.compile(trained)(nn.BatchNorm1d(3), x)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(after.running_var, 0.9 + 0.1 * exact.var(0, ddof=1), rtol=1e-6)
    np.testing.assert_allclose(y, (exact - exact.mean(0)) / exact.std(0), atol=3e-4)


def test_bad_inputs():
    for call, error, text in ((lambda: nn.BatchNorm2d(3)(np.ones((2, 4, 5, 5))), ShapeError, r"expected \[batch, 3, \?, \?\]"),
                              (lambda: nn.BatchNorm1d(3)(np.ones(3)), ShapeError, r"expected \[batch, 3\] or \[batch, 3, \?\]"),
                              (lambda: nn.BatchNorm1d(3)(np.ones((2, 3), int)), DtypeError, "int64"),
                              (lambda: nn.LayerNorm((3, 4))(np.ones((2, 4))), ShapeError, r"its last axes must be \(3, 4\)"),
                              (lambda: nn.GroupNorm(1, 4)(np.ones((2, 3, 4))), ShapeError, r"expected \[batch, 4, \?\]"),
                              (lambda: nn.LocalResponseNorm(0)(np.ones((2, 3, 4))), ConfigError, "size is 0"),
                              (lambda: nn.RMSNorm(3)(np.ones((2, 4))), ShapeError, "its last axes")):
        with pytest.raises(error, match=text):
            call()
