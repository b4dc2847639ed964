"""The layer analysis: every fact against plain NumPy, gradients against differences, what it refuses."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from adjoint import insight, nn
from adjoint.errors import ConfigError
from adjoint.insight import layer_analysis, layer_table

RNG = np.random.default_rng(11)


def model(activation: Any = nn.tanh) -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 4, rng=RNG, dtype=np.float64), activation, nn.Linear(4, 3, rng=RNG, dtype=np.float64))


def test_every_fact_is_what_numpy_says() -> None:
    net, x, target = model(), RNG.standard_normal((7, 5)), RNG.standard_normal((7, 3))
    loss = lambda y: ((y - target) ** 2).mean()
    first, act, last = layer_analysis(net, loss, x)
    w, b, v, c = net[0].weight, net[0].bias, net[2].weight, net[2].bias
    z = x @ w.T + b
    h = np.tanh(z)
    y = h @ v.T + c
    y_bar = 2.0 * (y - target) / y.size
    h_bar = y_bar @ v
    z_bar = h_bar * (1.0 - h * h)
    for fact, given, out, bar in ((first, x, z, z_bar), (act, z, h, h_bar), (last, h, y, y_bar)):
        found = (fact.input_mean, fact.input_deviation, fact.mean, fact.deviation, fact.low, fact.high, fact.second_moment, fact.gradient)
        expected = (given.mean(), given.std(), out.mean(), out.std(), out.min(), out.max(), (out ** 2).mean(), np.sqrt((bar ** 2).mean()))
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        assert fact.shape == out.shape and fact.dead == 0.0
    assert act.slope == pytest.approx((1.0 - h * h).mean(), rel=1e-12) and act.saturated == np.mean(1.0 - h * h < 0.01)
    assert first.weight_gradient == pytest.approx(np.sqrt(((z_bar.T @ x) ** 2).sum() + (z_bar.sum(0) ** 2).sum()), rel=1e-12)
    assert last.weight_norm == pytest.approx(np.sqrt((v ** 2).sum() + (c ** 2).sum()), rel=1e-12)
    assert [f.parameters for f in (first, act, last)] == [24, 0, 15]
    assert (act.weight_gradient, act.weight_norm, first.saturated, first.slope) == (None, None, None, None)


def test_dead_units_and_saturated_elements_are_counted() -> None:
    x = np.array([[-1.0, 2.0, -3.0, 4.0], [-5.0, -6.0, -7.0, 8.0]])
    relu, tanh = (layer_analysis([f], lambda y: y.sum(), x)[0] for f in (nn.relu, nn.tanh))
    assert (relu.dead, relu.saturated, relu.slope) == (0.5, 0.625, 0.375)
    assert tanh.dead == 0.0 and tanh.saturated == np.mean(1.0 - np.tanh(x) ** 2 < 0.01) == 0.75
    assert layer_analysis([lambda x: 0.0 * x], lambda y: y.sum(), x)[0].dead == 1.0


def test_names_of_functions_partials_and_modules() -> None:
    net = [nn.Flatten(), functools.partial(nn.leaky_relu, slope=0.2), model()]
    facts = layer_analysis(net, lambda y: y.sum(), RNG.standard_normal((2, 5, 1)))
    assert [f.name for f in facts] == ["0 Flatten", "1 leaky_relu", "2 Sequential"]
    assert facts[2].parameters == 39 and facts[1].saturated == 0.0


def test_layers_with_windows_and_float32() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3, rng=RNG), nn.relu, nn.Flatten(), nn.Linear(2 * 4 * 4, 3, rng=RNG))
    facts = layer_analysis(net, lambda y: (y * y).mean(), RNG.standard_normal((3, 1, 6, 6)).astype(np.float32))
    assert [f.shape for f in facts] == [(3, 2, 4, 4), (3, 2, 4, 4), (3, 32), (3, 3)]
    assert all(np.isfinite(f.gradient) and f.gradient > 0.0 for f in facts)


def test_the_table_has_a_line_for_every_layer() -> None:
    lines = layer_table(layer_analysis(model(), lambda y: y.sum(), RNG.standard_normal((4, 5)))).splitlines()
    assert len(lines) == 4 and len({len(line) for line in lines}) == 1
    assert lines[0].split()[:5] == ["layer", "mean", "deviation", "min", "max"] and lines[2].startswith("1 tanh") and "%" in lines[2]


@pytest.mark.parametrize("wrong", [nn.relu, [], 3, nn.Linear(2, 2, rng=RNG), [nn.relu, 3]])
def test_what_is_no_sequence_of_layers_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="expected a Sequential or a sequence of layers"):
        layer_analysis(wrong, lambda y: y.sum(), np.ones((2, 2)))


def test_public_names() -> None:
    assert {"LayerFacts", "layer_analysis", "layer_table"} <= set(insight.__all__)
