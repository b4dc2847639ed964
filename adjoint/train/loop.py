"""The open loop: one training step as a pure function, and the generator that feeds it batches.

Invariant: a step that would bring NaN or infinity into the model changes nothing and says so. May import: L0-L5, data.
Read next: fit.py, which is this loop with checkpoints, validation and progress around it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ..compiler.compile import compile
from ..data import Batches
from ..errors import ConfigError, explain
from ..nn.modes import absorb, has_modes, trainable, training
from ..nn.module import buffer_mask, parameter_names
from ..nn.random import normal
from ..optim import Optimizer, apply_updates
from ..transforms.reverse import value_and_grad
from ..transforms.taps import collect_taps
from ..tree import flatten, is_array, unflatten

Transform = Callable[[np.ndarray, int], np.ndarray]


class Step(NamedTuple):
    """What the loop yields: the count of steps done, the model and state after it, its loss, norms of gradients, and the batch."""

    count: int
    model: Any
    state: Any
    loss: Any
    norms: Any
    finite: Any
    batch: tuple


def make_step(loss: Callable, optimizer: Optimizer, *, compiled: bool = True) -> Callable:
    """step(model, state, x, y, key=None) -> (model, state, loss, norms, finite): gradient, optimizer and update as one native call.

    loss(model(x), y) is a number, of the model in training mode (nn.training); key: int64 [2], for layers that draw random numbers.
    norms holds |g| of every floating parameter. If the loss or a gradient is not finite, finite is False and model and state come back
    as they were. The model and the state are donated: hold copies (adjoint.copy) of what must last.

    >>> from adjoint import nn, optim
    >>> optimizer = optim.sgd(0.5)
    >>> step = make_step(nn.squared_error, optimizer, compiled=False)
    >>> model = nn.Linear(1, 1, rng=np.random.default_rng(0), dtype=np.float64)
    >>> x = np.array([[1.0], [2.0]])
    >>> model, state, loss, norms, finite = step(model, optimizer.init(model), x, 3.0 * x)
    >>> len(norms), bool(finite)
    (2, True)
    """
    check_parts(loss, optimizer)

    def step(model: Any, state: Any, x: Any, y: Any, key: Any = None) -> tuple:
        (value, gradients), taps = objective(loss, model, x, y, key)
        norms = [np.sqrt(np.sum(g * g)) for g in flatten(gradients)[0]]
        finite = np.isfinite(sum(norms, value))
        updates, new_state = optimizer.update(gradients, state, model)
        keep = lambda new, old: choose(finite, new, old)
        moved = absorb(apply_updates(model, updates), taps)
        return keep(moved, model), keep(new_state, state), value, tuple(norms), finite
    return compile(step, donate=(0, 1)) if compiled else step


def objective(loss: Callable, model: Any, x: Any, y: Any, key: Any = None) -> tuple[tuple[Any, Any], dict[str, Any]]:
    """((loss, gradients), taps) of the model in training mode on one batch; gradients are None at buffers and at integers.

    >>> from adjoint import nn
    >>> model = nn.Sequential(nn.Linear(2, 1, rng=np.random.default_rng(0)), nn.Dropout(0.5))
    >>> x, y = np.ones((3, 2), np.float32), np.ones((3, 1), np.float32)
    >>> (value, gradients), taps = objective(nn.squared_error, model, x, y, np.array([0, 1]))
    >>> gradients[0].weight.shape, taps
    ((1, 2), {})
    """
    if not callable(model):
        raise ConfigError(explain(f"training: model is {type(model).__name__}, expected a Module, which is called with examples.",
                                  remedy="For instance nn.mlp(64, 32, 10, rng=rng)."))
    of_batch = value_and_grad(lambda m: loss(training(m, key)(x), y))
    (value, gradients), taps = collect_taps(of_batch)(model)
    return (value, trainable(model, gradients)), taps


def check_parts(loss: Any, optimizer: Any) -> None:
    """Refuse a loss that is no function, and an optimizer that was not made yet (optim.sgd for optim.sgd(0.1))."""
    if not callable(loss):
        raise ConfigError(explain(f"training: loss is {loss!r:.80}, expected a function of (model(x), y) that returns one number.",
                                  remedy="For instance loss=nn.squared_error, without quotes and without calling it."))
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        name = getattr(optimizer, "__name__", None) if callable(optimizer) else None
        raise ConfigError(explain(f"training: optimizer is {name or f'{optimizer!r:.80}'}, expected an Optimizer: init and update.",
                                  remedy=f"Call it with a learning rate: optimizer=optim.{name or 'adam'}(1e-3)."))


def choose(condition: Any, new: Any, old: Any) -> Any:
    """The tree `new` where the condition holds, else `old`, leaf by leaf.

    >>> choose(np.array(False), {"w": np.array(1.0)}, {"w": np.array(2.0)})
    {'w': array(2.)}
    """
    fresh, structure = flatten(new)
    return unflatten(structure, [n if n is o else np.where(condition, n, o) for n, o in zip(fresh, flatten(old)[0], strict=True)])


def with_arrays(model: Any) -> Any:
    """The model with its Python numbers as arrays (floats in the dtype of its other parameters), so that every leaf can change."""
    leaves, structure = flatten(model)
    floats = [x.dtype for x in leaves if is_array(x) and x.dtype.kind == "f"]
    dtype = np.result_type(*floats) if floats else np.dtype(np.float64)
    return unflatten(structure, [x if is_array(x) else np.asarray(x, dtype if isinstance(x, float) else None) for x in leaves])


def gradient_names(model: Any) -> list[str]:
    """The names of the parameters that have gradients, in the order of a step's norms."""
    rows = zip(parameter_names(model), flatten(model)[0], buffer_mask(model), strict=True)
    return [name for name, x, is_buffer in rows if x.dtype.kind == "f" and not is_buffer]


def steps(step: Callable, model: Any, state: Any, batches: Batches, *, epochs: int, done: int = 0,
          transform: Transform | None = None, seed: int = 0, share: Callable | None = None) -> Iterator[Step]:
    """Walk the batches until `epochs` are done, one step each: the loop that you may open and rewrite.

    done: steps done before (on resuming). transform(x, count) returns what a step sees of a batch. seed: of the random numbers inside the
    model (dropout), which are those of (seed, count) at each step. share(x, y): the rows of a batch that are this worker's.

    >>> from adjoint import nn, optim
    >>> optimizer, x = optim.sgd(0.5), np.array([[1.0], [-1.0]])
    >>> model = nn.Linear(1, 1, rng=np.random.default_rng(0), dtype=np.float64)
    >>> step = make_step(nn.squared_error, optimizer, compiled=False)
    >>> for done in steps(step, model, optimizer.init(model), Batches(x, 3.0 * x, batch=2), epochs=4):
    ...     pass
    >>> done.count, done.model.weight.round(6)
    (4, array([[3.]]))
    """
    count, draws = done, has_modes(model)
    while batches.epoch < epochs:
        for x, y in batches:
            if transform is not None:
                x = transform(x, count)
            own = (x, y) if share is None else share(x, y)
            key = (np.array([seed, count]),) if draws else ()
            model, state, loss, norms, finite = step(model, state, *own, *key)
            count += 1
            yield Step(count, model, state, loss, norms, finite, (x, y))


class InputNoise:
    """x + scale N(0, 1), drawn anew for every step: the noise of (seed, step) is the same in every run, so that a run resumes exactly.

    >>> noise = InputNoise(0.1, seed=0, compiled=False)
    >>> x = np.zeros((2, 3))
    >>> bool((noise(x, 5) == noise(x, 5)).all()), bool((noise(x, 5) == noise(x, 6)).any())
    (True, False)
    """

    def __init__(self, scale: float, seed: int, *, compiled: bool = True):
        if not scale >= 0:
            raise ConfigError(explain(f"InputNoise: scale is {scale}, expected a number of at least 0.",
                                      remedy="It is the deviation of the noise, for instance 0.1."))
        add = lambda x, position, scale: x + scale * normal(position, x.shape, x.dtype)
        self.scale, self._add = scale, compile(add) if compiled else add
        self._position = np.array([seed, 0])            # an array, so that no seed and no step compiles again

    def __call__(self, x: np.ndarray, count: int) -> np.ndarray:
        self._position[1] = count
        return self._add(x, self._position, self.scale)
