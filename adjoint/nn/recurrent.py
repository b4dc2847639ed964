"""Recurrent layers: cells that carry a state from one symbol to the next, and sequences of them over time, both ways, in layers.

Invariant: parameter names, shapes and gate order are PyTorch's; the input's product is taken for all times at once, outside of the scan.
May import: L0-L3, module, init, dropout, random. Read next: attention.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..core.aval import aval_of
from ..errors import ConfigError, DtypeError, ShapeError, explain
from ..primitives.special import logistic
from ..transforms.control import scan
from . import init
from .dropout import dropout as _dropout
from .module import Module, inline
from .random import split

# ------------------------------------------------------------------------------------------------ one step of each kind


def _tanh_step(gates: Any, h: Any, weight: Any, bias: Any) -> Any:
    return np.tanh(gates + _affine(h, weight, bias))


def _relu_step(gates: Any, h: Any, weight: Any, bias: Any) -> Any:
    return np.maximum(gates + _affine(h, weight, bias), 0.0)


def _lstm_step(gates: Any, state: tuple, weight: Any, bias: Any) -> tuple:
    """c' = f c + i g, h' = o tanh c'; i, f, o = sigmoid, g = tanh of their parts of the gates."""
    h, c = state
    i, f, g, o = _parts(gates + _affine(h, weight, bias), 4)
    c = logistic(f) * c + logistic(i) * np.tanh(g)
    return logistic(o) * np.tanh(c), c


def _gru_step(gates: Any, h: Any, weight: Any, bias: Any) -> Any:
    """h' = (1 - z) n + z h, n = tanh(x_n + r (W_hn h + b_hn)): the bias b_hn inside, as PyTorch's and cuDNN's."""
    x_r, x_z, x_n = _parts(gates, 3)
    h_r, h_z, h_n = _parts(_affine(h, weight, bias), 3)
    r, z = logistic(x_r + h_r), logistic(x_z + h_z)
    n = np.tanh(x_n + r * h_n)
    return n + z * (h - n)


def _affine(h: Any, weight: Any, bias: Any) -> Any:
    y = h @ weight.T
    return y if bias is None else y + bias


def _parts(gates: Any, count: int) -> list:
    width = np.shape(gates)[-1] // count
    return [gates[..., k * width:(k + 1) * width] for k in range(count)]


_GATES = {"LSTM": 4, "GRU": 3, "tanh": 1, "relu": 1}
_STEPS: dict[str, Callable] = {"LSTM": _lstm_step, "GRU": _gru_step, "tanh": _tanh_step, "relu": _relu_step}


def _weights(kind: str, inputs: int, hidden: int, suffix: str, bias: bool, rng: np.random.Generator, dtype: Any) -> dict[str, Any]:
    """The parameters of a cell by PyTorch's names, each from U(-1/sqrt(hidden), 1/sqrt(hidden))."""
    rows, bound = _GATES[kind] * hidden, 1.0 / math.sqrt(hidden)
    shapes = {"weight_ih": (rows, inputs), "weight_hh": (rows, hidden), **({"bias_ih": (rows,), "bias_hh": (rows,)} if bias else {})}
    return {name + suffix: init.generator(rng).uniform(-bound, bound, shape).astype(dtype) for name, shape in shapes.items()}


def _expect(layer: str, what: str, found: Any, expected: tuple) -> None:
    if np.shape(found) != expected:
        raise ShapeError(explain(f"{layer}: {what} has shape {np.shape(found)}, expected {expected}.",
                                 remedy="Check the sizes that the layer was made with, and batch_first."))


def _sizes(layer: str, *sizes: int) -> None:
    if any(not isinstance(n, (int, np.integer)) or n < 1 for n in sizes):
        raise ConfigError(explain(f"{layer}: sizes are {', '.join(map(repr, sizes))}, expected positive integers.",
                                  remedy="For instance LSTM(65, 128, rng=rng)."))


# ------------------------------------------------------------------------------------------------ cells


class _Cell(Module):
    """What the three cells share: weight_ih [gates, input_size], weight_hh [gates, hidden_size], bias_ih, bias_hh [gates] or None."""

    weight_ih: np.ndarray
    weight_hh: np.ndarray
    bias_ih: np.ndarray | None
    bias_hh: np.ndarray | None
    kind: str

    def __init__(self, kind: str, inputs: int, hidden: int, bias: bool, rng: np.random.Generator, dtype: Any) -> None:
        _sizes(type(self).__name__, inputs, hidden)
        made = _weights(kind, inputs, hidden, "", bias, rng, dtype)
        self._place(kind=kind, **{"bias_ih": None, "bias_hh": None, **made})

    def _advance(self, x: Any, state: Any) -> Any:
        name, hidden = type(self).__name__, self.weight_hh.shape[1]
        _expect(name, "the input", x, (*np.shape(x)[:-1], self.weight_ih.shape[1]))
        shape = (*np.shape(x)[:-1], hidden)
        if state is None:
            zeros = np.zeros(shape, aval_of(x).dtype)
            state = (zeros, zeros) if self.kind == "LSTM" else zeros
        for part in state if self.kind == "LSTM" else (state,):
            _expect(name, "the state", part, shape)
        return _STEPS[self.kind](_affine(x, self.weight_ih, self.bias_ih), state, self.weight_hh, self.bias_hh)


class RNNCell(_Cell):
    """h' = tanh(W_ih x + b_ih + W_hh h + b_hh), or ReLU. Shapes: x [..., input_size], h and h' [..., hidden_size]; h = 0 if not given.

    Source: Elman, Finding structure in time, Cognitive Science 14 (1990).

    Example:
        >>> cell = RNNCell(3, 2, rng=np.random.default_rng(0))
        >>> cell(np.ones((5, 3), np.float32)).shape
        (5, 2)
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh", *, rng: np.random.Generator,
                 dtype: Any = np.float32) -> None:
        super().__init__(_nonlinearity("RNNCell", nonlinearity), input_size, hidden_size, bias, rng, dtype)

    def __call__(self, x: Any, h: Any = None) -> Any:
        return self._advance(x, h)


class LSTMCell(_Cell):
    """c' = f c + i g, h' = o tanh c', with gates i, f, g, o in this order in the rows of the weights (sigmoid, g: tanh).

    Shapes: x [..., input_size]; (h, c) and the result (h', c') [..., hidden_size] each; zeros if not given.
    Source: Hochreiter and Schmidhuber, Long short-term memory, Neural Computation 9 (1997), with the forget gate of Gers et al. (2000).

    Example:
        >>> cell = LSTMCell(3, 2, rng=np.random.default_rng(0))
        >>> h, c = cell(np.ones((5, 3), np.float32))
        >>> h.shape, c.shape
        ((5, 2), (5, 2))
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, *, rng: np.random.Generator, dtype: Any = np.float32) -> None:
        super().__init__("LSTM", input_size, hidden_size, bias, rng, dtype)

    def __call__(self, x: Any, state: tuple | None = None) -> tuple:
        return self._advance(x, state)


class GRUCell(_Cell):
    """h' = (1 - z) n + z h with gates r, z, n in this order in the rows; n = tanh(W_in x + b_in + r (W_hn h + b_hn)).

    Shapes: x [..., input_size], h and h' [..., hidden_size]; h = 0 if not given. Source: Cho et al., EMNLP 2014, arXiv 1406.1078, with
    the reset gate behind the product, as PyTorch's and cuDNN's.

    Example:
        >>> cell = GRUCell(3, 2, rng=np.random.default_rng(0))
        >>> cell(np.ones((5, 3), np.float32)).shape
        (5, 2)
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, *, rng: np.random.Generator, dtype: Any = np.float32) -> None:
        super().__init__("GRU", input_size, hidden_size, bias, rng, dtype)

    def __call__(self, x: Any, h: Any = None) -> Any:
        return self._advance(x, h)


def _nonlinearity(layer: str, name: str) -> str:
    if name not in ("tanh", "relu"):
        raise ConfigError(explain(f"{layer}: nonlinearity is {name!r}, expected 'tanh' or 'relu'.", remedy="tanh is usual."))
    return name


# ------------------------------------------------------------------------------------------------ sequences


class _Sequence(Module):
    """What the three layers share. Parameters by PyTorch's names: weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0, then _l1 ..., and
    the same with _reverse for the second direction; layer.weight_ih_l0 reads one."""

    parameters: dict = inline()
    kind: str
    num_layers: int
    bias: bool
    batch_first: bool
    dropout: float
    bidirectional: bool
    key: np.ndarray | None

    def __init__(self, kind: str, sizes: tuple[int, int, int], bias: bool, batch_first: bool, dropout: float, bidirectional: bool,
                 rng: np.random.Generator, dtype: Any) -> None:
        inputs, hidden, layers = sizes
        _sizes(type(self).__name__, *sizes)
        if not 0.0 <= dropout < 1.0:
            raise ConfigError(explain(f"{type(self).__name__}: dropout is {dropout!r}, expected a share from 0 to below 1.",
                                      remedy="0.1 to 0.5 between the layers is usual."))
        made: dict[str, Any] = {}
        for layer in range(layers):
            for reverse in ("", "_reverse")[:1 + bidirectional]:
                made |= _weights(kind, inputs, hidden, f"_l{layer}{reverse}", bias, rng, dtype)
            inputs = hidden * (1 + bidirectional)
        self._place(parameters=made, kind=kind, num_layers=layers, bias=bias, batch_first=batch_first, dropout=float(dropout),
                    bidirectional=bidirectional, key=None)

    def __getattr__(self, name: str) -> Any:
        found = self.__dict__.get("parameters", {})
        if name not in found:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return found[name]

    def training(self, path: str, key: Any) -> _Sequence:
        """The layer with dropout between its layers, drawn by this key."""
        if key is None and self.dropout > 0.0:
            raise ConfigError(explain(f"{type(self).__name__} ({path or 'the model'}): training needs a key of random numbers.",
                                      remedy="nn.training(model, key=np.array([seed, step]))"))
        layer = type(self).__new__(type(self))
        layer._place(**{**self.__dict__, "key": key if self.dropout > 0.0 else None})
        return layer

    def __call__(self, x: Any, state: Any = None, *, lengths: Any = None) -> tuple:
        batched = np.ndim(x) == 3
        if np.ndim(x) not in (2, 3):
            raise ShapeError(explain(f"{type(self).__name__}: the input has shape {np.shape(x)}, expected [time, batch, features].",
                                     remedy="With batch_first it is [batch, time, features]; one sequence may be [time, features]."))
        x = x[:, None] if not batched else (np.swapaxes(x, 0, 1) if self.batch_first else x)
        _expect(type(self).__name__, "the input", x, (*np.shape(x)[:2], self.weight_ih_l0.shape[1]))
        states = self._states(x, state, batched)
        y, last = self._layers(x, states, None if lengths is None else self._mask(lengths, x))
        pieces = tuple(np.stack(piece) if batched else np.stack(piece)[:, 0] for piece in last)
        y = y[:, 0] if not batched else (np.swapaxes(y, 0, 1) if self.batch_first else y)
        return y, pieces if self.kind == "LSTM" else pieces[0]

    def _states(self, x: Any, state: Any, batched: bool) -> list[tuple]:
        """For every layer and direction the pieces of its state, (h, c) or (h,), [batch, hidden] each."""
        directions, hidden = self.num_layers * (1 + self.bidirectional), self.weight_hh_l0.shape[1]
        if state is None:
            zeros = np.zeros((np.shape(x)[1], hidden), aval_of(x).dtype)
            return [(zeros, zeros) if self.kind == "LSTM" else (zeros,)] * directions
        pieces = state if self.kind == "LSTM" else (state,)
        shape = (directions, np.shape(x)[1], hidden) if batched else (directions, hidden)
        for piece in pieces:
            _expect(type(self).__name__, "the state", piece, shape)
        return [tuple(piece[k] if batched else piece[k][None] for piece in pieces) for k in range(directions)]

    def _mask(self, lengths: Any, x: Any) -> Any:
        """[time, batch, 1]: True while a sequence lasts."""
        lengths = np.asarray(lengths) if isinstance(lengths, (list, tuple)) else lengths
        if aval_of(lengths).dtype.kind not in "iu":
            raise DtypeError(explain(f"{type(self).__name__}: lengths are {aval_of(lengths).dtype}, expected integers.",
                                     remedy="Use lengths.astype(np.int64)."))
        _expect(type(self).__name__, "lengths", lengths, (np.shape(x)[1],))
        if isinstance(lengths, np.ndarray) and lengths.size and not (lengths.min() >= 0 and lengths.max() <= np.shape(x)[0]):
            raise ShapeError(explain(f"{type(self).__name__}: lengths go from {lengths.min()} to {lengths.max()}, the input has "
                                     f"{np.shape(x)[0]} times.", remedy="Give the number of valid times of each sequence."))
        return (np.arange(np.shape(x)[0])[:, None] < lengths)[..., None]

    def _layers(self, x: Any, states: list[tuple], mask: Any) -> tuple[Any, list[list]]:
        """The last layer's outputs, and the last states of all layers: one list for each piece."""
        found: list[tuple] = []
        keys = [None] * self.num_layers if self.key is None else split(self.key, self.num_layers)
        for layer in range(self.num_layers):
            if layer and self.key is not None:
                x = _dropout(x, self.dropout, keys[layer])
            outputs = []
            for suffix in (f"_l{layer}", f"_l{layer}_reverse")[:1 + self.bidirectional]:
                y, last = self._direction(x, states[len(found)], mask, suffix)
                outputs.append(y)
                found.append(last)
            x = outputs[0] if len(outputs) == 1 else np.concatenate(outputs, axis=-1)
        return x, [list(piece) for piece in zip(*found, strict=True)]

    def _direction(self, x: Any, state: tuple, mask: Any, suffix: str) -> tuple[Any, tuple]:
        """One layer in one direction: (outputs [time, batch, hidden], last state)."""
        p = self.parameters
        weight, bias, step = p["weight_hh" + suffix], p.get("bias_hh" + suffix), _STEPS[self.kind]
        gates = _affine(x, p["weight_ih" + suffix], p.get("bias_ih" + suffix))
        if self.kind != "GRU" and bias is not None:                 # one bias, added once for all times
            gates, bias = gates + bias, None

        def body(carry: tuple, inputs: tuple) -> tuple:
            new = step(inputs[0], carry if self.kind == "LSTM" else carry[0], weight, bias)
            new = new if self.kind == "LSTM" else (new,)
            if mask is None:
                return new, new[0]
            return tuple(np.where(inputs[1], n, old) for n, old in zip(new, carry, strict=True)), np.where(inputs[1], new[0], 0.0)
        last, y = scan(body, state, (gates,) if mask is None else (gates, mask), reverse=suffix.endswith("_reverse"))
        return y, last


class RNN(_Sequence):
    """RNNCell over time: y_t = h_t = tanh(W_ih x_t + b_ih + W_hh h_(t-1) + b_hh), or ReLU; layers on top of one another, or both ways.

    Shapes: x [time, batch, input_size] ([batch, time, input_size] with batch_first; a single sequence without batch), the state
    [num_layers * directions, batch, hidden_size], zeros if not given; y [time, batch, directions * hidden_size].
    Called as (x, state, lengths=) it returns (y, last state). lengths [batch]: beyond its length a sequence keeps its state and gives
    zeros, as PyTorch's packed sequences do. dropout: share left out between layers, in training mode. Names: see PyTorch's.

    Example:
        >>> layer = RNN(3, 2, rng=np.random.default_rng(0))
        >>> y, h = layer(np.ones((5, 4, 3), np.float32))
        >>> y.shape, h.shape
        ((5, 4, 2), (1, 4, 2))
    """

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: str = "tanh", bias: bool = True,
                 batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, *, rng: np.random.Generator,
                 dtype: Any = np.float32) -> None:
        kind = _nonlinearity("RNN", nonlinearity)
        super().__init__(kind, (input_size, hidden_size, num_layers), bias, batch_first, dropout, bidirectional, rng, dtype)


class LSTM(_Sequence):
    """LSTMCell over time; arguments, shapes and lengths as RNN's, the state is (h, c). Cost: 8 hidden (input + hidden) flops a step.

    Example:
        >>> layer = LSTM(3, 2, num_layers=2, bidirectional=True, rng=np.random.default_rng(0))
        >>> y, (h, c) = layer(np.ones((5, 4, 3), np.float32), lengths=np.array([5, 1, 2, 3]))
        >>> y.shape, h.shape, c.shape, bool((y[1:, 1] == 0).all())
        ((5, 4, 4), (4, 4, 2), (4, 4, 2), True)
    """

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
                 dropout: float = 0.0, bidirectional: bool = False, *, rng: np.random.Generator, dtype: Any = np.float32) -> None:
        super().__init__("LSTM", (input_size, hidden_size, num_layers), bias, batch_first, dropout, bidirectional, rng, dtype)


class GRU(_Sequence):
    """GRUCell over time; arguments, shapes, state and lengths as RNN's. Cost: 6 hidden (input + hidden) flops a step.

    Example:
        >>> layer = GRU(3, 2, batch_first=True, rng=np.random.default_rng(0))
        >>> y, h = layer(np.ones((4, 5, 3), np.float32))
        >>> y.shape, h.shape
        ((4, 5, 2), (1, 4, 2))
    """

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
                 dropout: float = 0.0, bidirectional: bool = False, *, rng: np.random.Generator, dtype: Any = np.float32) -> None:
        super().__init__("GRU", (input_size, hidden_size, num_layers), bias, batch_first, dropout, bidirectional, rng, dtype)
