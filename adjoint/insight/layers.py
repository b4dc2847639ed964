"""Layer analysis: what every layer of a model does to signals on the way in and to gradients on the way back.

Invariant: one forward and one reverse pass of the model as it is; nothing is changed and nothing drawn at random. May import: L0-L3, nn.
Read next: report.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ConfigError, explain
from ..nn.module import Module, named_parameters
from ..transforms.forward import jvp
from ..transforms.reverse import grad
from ..transforms.taps import collect_taps, tap

SATURATED = 0.01        # a slope of the activation below this passes less than a hundredth of the gradient


@dataclass(frozen=True)
class LayerFacts:
    """One layer, measured on one batch. Shares are between 0 and 1; None where a number has no meaning for this layer.

    input_mean, input_deviation, mean, deviation, low, high   of all elements of the layer's input and of its output
    second_moment      mean of the squared output, which He's rule keeps
    dead               share of units whose output is 0 for every example
    saturated          share of elements where the slope of the activation is below 0.01 in size (elementwise layers)
    slope              mean size of that slope
    gradient           root mean square of the loss's derivative with respect to the output
    weight_gradient    norm of the derivative with respect to the layer's parameters
    weight_norm        norm of the parameters themselves
    parameters         how many there are

    >>> fact, = layer_analysis([np.tanh], lambda y: y.sum(), np.array([[0.0, 9.0]]))
    >>> fact.low, fact.saturated, fact.gradient
    (0.0, 0.5, 1.0)
    """

    name: str
    shape: tuple[int, ...]
    input_mean: float
    input_deviation: float
    mean: float
    deviation: float
    low: float
    high: float
    second_moment: float
    dead: float
    saturated: float | None
    slope: float | None
    gradient: float
    weight_gradient: float | None
    weight_norm: float | None
    parameters: int


def layer_analysis(model: Any, loss: Callable[[Any], Any], x: Any) -> list[LayerFacts]:
    """The facts of every layer of a Sequential (or of a sequence of layers) on a batch x, where loss(output) is one number.

    x: [batch, ...]. A unit is one place of the output without its first axis. Gradients are with respect to what the loss is made of, so
    a mean over the batch gives gradients of the mean. Cost: a forward pass, a gradient, and one tangent per activation.
    Raises: ConfigError if the model is no sequence of layers.
    Source: Glorot and Bengio, AISTATS 2010, section 4; lecture "Layer analysis" (rows 155 and 175).

    >>> from adjoint import nn
    >>> model = nn.mlp(4, 3, 2, activation=nn.relu, rng=np.random.default_rng(0))
    >>> facts = layer_analysis(model, lambda y: (y * y).mean(), np.ones((5, 4), np.float32))
    >>> [(f.name, f.shape, f.parameters) for f in facts]
    [('0 Linear', (5, 3), 15), ('1 relu', (5, 3), 0), ('2 Linear', (5, 2), 8)]
    """
    layers = _layers_of(model)
    _, outputs = collect_taps(lambda: _through(layers, [None] * len(layers), x))()
    values = [np.asarray(outputs[f"layer.{i}"]) for i in range(len(layers))]
    probes = [np.zeros_like(y) for y in values]
    modules = {i: layer for i, layer in enumerate(layers) if isinstance(layer, Module) and named_parameters(layer)}

    def measured(modules: dict, probes: list) -> Any:
        return loss(_through([modules.get(i, layer) for i, layer in enumerate(layers)], probes, x))
    weight_bars, bars = grad(measured, argnums=(0, 1))(modules, probes)
    inputs = [np.asarray(x), *values[:-1]]
    return [_facts(i, layer, inputs[i], values[i], bars[i], weight_bars.get(i)) for i, layer in enumerate(layers)]


def _layers_of(model: Any) -> tuple:
    layers = getattr(model, "layers", model)
    if not isinstance(layers, Sequence) or not layers or not all(map(callable, layers)):
        raise ConfigError(explain(f"layer_analysis: the model is a {type(model).__name__}, expected a Sequential or a sequence of layers.",
                                  remedy="Give the layers in order: layer_analysis([model.conv, nn.relu, model.head], loss, x)."))
    return tuple(layers)


def _through(layers: Sequence, probes: Sequence, x: Any) -> Any:
    """The output; every layer's is tapped, and a probe, zeros, is added behind it to receive the gradient."""
    for i, (layer, probe) in enumerate(zip(layers, probes, strict=True)):
        x = tap(f"layer.{i}", layer(x))
        x = x if probe is None else x + probe
    return x


def _facts(number: int, layer: Any, x: np.ndarray, y: np.ndarray, bar: Any, weight_bar: Any) -> LayerFacts:
    weights = list(named_parameters(layer).values()) if weight_bar is not None else []
    slopes = None if weights or x.shape != y.shape else np.abs(_slopes(layer, x))
    wide, given = y.astype(np.float64), x.astype(np.float64)
    units = wide.reshape(len(y), -1) if y.ndim else wide.reshape(1, 1)
    return LayerFacts(
        f"{number} {_name(layer)}", y.shape, float(given.mean()), float(given.std()), float(wide.mean()), float(wide.std()),
        float(wide.min()), float(wide.max()), float(np.mean(wide * wide)), float(np.mean(~units.any(axis=0))),
        None if slopes is None else float(np.mean(slopes < SATURATED)), None if slopes is None else float(slopes.mean()),
        float(np.sqrt(np.mean(np.square(bar, dtype=np.float64)))),
        _norm(list(named_parameters(weight_bar).values())) if weights else None, _norm(weights) if weights else None,
        sum(int(np.size(w)) for w in weights))


def _slopes(layer: Callable, x: np.ndarray) -> np.ndarray:
    """The derivative of every element of the output by the same element of the input."""
    return np.asarray(jvp(layer, (x,), (np.ones_like(x),))[1], np.float64)


def _norm(arrays: Sequence) -> float:
    return float(np.sqrt(sum(float(np.sum(np.square(a, dtype=np.float64))) for a in arrays)))


def _name(layer: Any) -> str:
    while isinstance(layer, functools.partial):
        layer = layer.func
    return getattr(layer, "__name__", type(layer).__name__)


_COLUMNS = (("layer", "name"), ("mean", "mean"), ("deviation", "deviation"), ("min", "low"), ("max", "high"), ("dead", "dead"),
            ("saturated", "saturated"), ("gradient", "gradient"), ("weight gradient", "weight_gradient"))


def layer_table(facts: Sequence[LayerFacts]) -> str:
    """The facts as lines of text, one layer a line.

    >>> from adjoint import nn
    >>> print(layer_table(layer_analysis([nn.relu], lambda y: y.sum(), np.array([[-1.0, 3.0], [-2.0, 1.0]]))))
    layer   mean  deviation  min  max  dead  saturated  gradient  weight gradient
    0 relu     1       1.22    0    3  50 %       50 %         1                -
    """
    rows = [[title for title, _ in _COLUMNS]]
    rows += [[_shown(title, getattr(f, field)) for title, field in _COLUMNS] for f in facts]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
    return "\n".join("  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
                     for row in rows)


def _shown(title: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return f"{100 * value:.3g} %" if title in ("dead", "saturated") else f"{value:.3g}"
