"""Model parallelism inside a layer: a Linear whose outputs, or whose inputs, are shared out over the ranks.

A column-split Linear before a row-split one is a pair that sends one sum forward and one backward: between them each rank has features of
its own. Invariant: the pair is the function of the two whole layers, to rounding. May import: L0-L5, train, values, data_parallel.
Read next: pipeline.py.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from ..compiler.compile import compile
from ..core.interpreter import Tracer
from ..errors import CommunicationError, ConfigError, ShapeError, explain
from ..nn.dropout import Dropout, dropout
from ..nn.layers import Linear
from ..nn.modes import absorb, trainable, training
from ..nn.module import Module, parameter_names
from ..optim import Optimizer, apply_updates
from ..train.loop import check_parts, choose
from ..transforms.reverse import value_and_grad
from ..transforms.taps import collect_taps
from ..tree import Structure, flatten, paths
from .checks import flag, function_of, world_of
from .collectives import all_reduce_in_place
from .communicator import Communicator, uncounted
from .data_parallel import hash_of
from .data_step import check_models, code_of, digest_of, numbers_of
from .rules import check_split_rule, doings
from .schedules import bounds
from .sync_norm import replaced
from .values import all_reduce, is_varying, per_rank, replicate_to_varying


class _Split(Module):
    """What both splits share: the rank's part of a weight along one axis, and the way back to the whole layer."""

    axis: ClassVar[int]                             # along which arrays are shared out
    varying: ClassVar[tuple[str, ...]] = ()         # fields of which every rank has another part

    def _share(self, layer: Linear, world: Communicator) -> slice:
        """This rank's features among those of the weight's axis."""
        name = type(self).__name__
        if not isinstance(layer, Linear):
            raise ConfigError(explain(f"{name}: found {getattr(layer, '__name__', type(layer).__name__)}, expected an nn.Linear.",
                                      remedy="Make the whole layer, and split it: ColumnLinear(nn.Linear(64, 32, rng=rng), world)."))
        world_of(name, world)
        features = layer.weight.shape[self.axis]
        if features < world.size:
            raise ConfigError(explain(f"{name}: {features} features cannot be shared out over {world.size} ranks.",
                                      remedy="Start fewer ranks, or split a wider layer."))
        limits = bounds(features, world.size)
        return slice(limits[world.rank], limits[world.rank + 1])


def _check(layer: Any, x: Any, remedy: str) -> None:
    """Refuse an input that has not the features of this rank's part of the weight."""
    features, world = layer.weight.shape[1], layer.world
    if np.shape(x)[-1:] != (features,):
        raise ShapeError(explain(f"{type(layer).__name__}: the input has shape {np.shape(x)}, its last axis must have {features} features "
                                 f"on rank {world.rank} of {world.size}.", remedy=remedy))


class ColumnLinear(_Split):
    """Rank r's output features of a Linear: y_r = x W_r^T + b_r; nothing is sent forward, the cotangents of x are summed backward.

    ColumnLinear(layer, world): layer is the whole nn.Linear, the same on every rank (with weights of PyTorch's names if it was loaded so).
    Shapes: x [..., in_features] replicated, weight [out_features / n, in_features], y [..., out_features / n] varying. What follows must
    act on each feature alone (an activation) until a RowLinear takes it. Source: Shoeybi et al., Megatron-LM, arXiv 1909.08053, section 3.

    >>> from adjoint.distributed.threads import run_threads
    >>> layer = Linear(3, 4, rng=np.random.default_rng(0))
    >>> [y.shape for y in run_threads(2, lambda world: ColumnLinear(layer, world)(np.ones((5, 3), np.float32)))]
    [(5, 2), (5, 2)]
    """

    weight: np.ndarray
    bias: np.ndarray | None
    world: Communicator

    axis, varying = 0, ("weight", "bias")

    def __init__(self, layer: Linear, world: Communicator) -> None:
        own = self._share(layer, world)
        self._place(weight=layer.weight[own].copy(), bias=None if layer.bias is None else layer.bias[own].copy(), world=world)

    def __call__(self, x: Any) -> Any:
        _check(self, x, "A ColumnLinear takes all features, on every rank: check the order of the layers.")
        y = x @ self.weight.T
        return y if self.bias is None else y + self.bias

    def whole(self) -> Linear:
        """The whole layer, on every rank; all ranks call it."""
        bias = None if self.bias is None else _joined(self.bias, 0, self.world)
        return _linear(_joined(self.weight, 0, self.world), bias)


class RowLinear(_Split):
    """Rank r's input features of a Linear: y = sum over ranks of x_r W_r^T, + b; one sum forward, nothing backward.

    RowLinear(layer, world): as ColumnLinear. Shapes: x [..., in_features / n] varying, weight [out_features, in_features / n], bias
    [out_features] replicated, y [..., out_features] replicated.

    >>> from adjoint.distributed.threads import run_threads
    >>> layer = Linear(4, 3, rng=np.random.default_rng(0), dtype=np.float64)
    >>> def program(world):
    ...     return RowLinear(layer, world)(np.ones((5, 2)))
    >>> all(np.allclose(y, layer(np.ones((5, 4)))) for y in run_threads(2, program))
    True
    """

    weight: np.ndarray
    bias: np.ndarray | None
    world: Communicator

    axis, varying = 1, ("weight",)

    def __init__(self, layer: Linear, world: Communicator) -> None:
        own = self._share(layer, world)
        self._place(weight=layer.weight[:, own].copy(), bias=layer.bias, world=world)

    def __call__(self, x: Any) -> Any:
        _check(self, x, "A RowLinear takes this rank's own: what a ColumnLinear of that width gives, or own_chunk(x, world, axis=-1).")
        y = all_reduce(x @ self.weight.T, self.world)
        return y if self.bias is None else y + self.bias

    def whole(self) -> Linear:
        """The whole layer, on every rank; all ranks call it."""
        return _linear(_joined(self.weight, 1, self.world), self.bias)


def _linear(weight: np.ndarray, bias: np.ndarray | None) -> Linear:
    layer = object.__new__(Linear)
    layer._place(weight=weight, bias=bias)
    return layer


def _joined(part: np.ndarray, axis: int, world: Communicator) -> np.ndarray:
    """The ranks' parts, which may differ in size by one, joined along an axis."""
    sizes = np.zeros(world.size, np.int64)
    sizes[world.rank] = part.shape[axis]
    limits = np.cumsum(np.concatenate([[0], all_reduce_in_place(sizes, world)]))
    whole = np.zeros((limits[-1], *np.moveaxis(part, axis, 0).shape[1:]), part.dtype)
    whole[limits[world.rank]:limits[world.rank + 1]] = np.moveaxis(part, axis, 0)
    return np.ascontiguousarray(np.moveaxis(all_reduce_in_place(whole, world), 0, axis))


def varying_leaves(tree: Any) -> list[bool]:
    """For every leaf of a model, whether it is a rank's own part: what per_rank takes as `varying` for the model.

    >>> from adjoint.distributed.communicator import Alone
    >>> layer = Linear(4, 4, rng=np.random.default_rng(0))
    >>> varying_leaves([ColumnLinear(layer, Alone()), RowLinear(layer, Alone())])
    [True, True, True, False]
    """
    return [axis is not None for axis in _axes(flatten(tree)[1])]


def _axes(s: Structure, axis: int | None = None) -> list[int | None]:
    """For every leaf the axis along which it is shared out, or None."""
    if s.kind == "leaf":
        return [axis]
    names, own = ("",) * len(s.children), {}
    if s.kind == "record":
        cls, names = s.meta
        own = dict.fromkeys(cls.varying, cls.axis) if issubclass(cls, _Split) else {}
    return [each for name, child in zip(names, s.children, strict=True) for each in _axes(child, own.get(name, axis))]


def make_split_step(loss: Callable, optimizer: Optimizer, world: Communicator, *, compiled: bool = True) -> Callable:
    """step(model, state, x, y, key=None) -> (model, state, loss) of a model with split layers: gradient, sums and update in one call.

    loss(model(x), y) is a number, of the model in training mode (nn.training); x, y: the whole batch, and key: int64 [2] for layers that
    draw random numbers, the same on every rank. Model and state are donated if compiled. The optimizer sees the rank's parts only: rules
    that treat elements alone (SGD, Adam, ...) are exact, others (clip_by_global_norm, Muon) are refused at the first step.
    nn.Dropout draws what it draws in one process, but between a ColumnLinear and a RowLinear: there every rank draws others for its own
    features. A step whose loss or gradient is not finite, on any rank, changes nothing.
    The first step compares what must be the same on all ranks: batch and key, loss, optimizer, and every array that is not split; later
    ones compare nothing.
    Raises: CommunicationError on every rank if the ranks differ in that; ConfigError if batch norm stands between the two, where its
    running values would differ from rank to rank, and for a rule that looks at all gradients together.

    >>> from adjoint import nn, optim
    >>> from adjoint.distributed.threads import run_threads
    >>> x = np.linspace(-1, 1, 8)[:, None]
    >>> def program(world):
    ...     rng, rule = np.random.default_rng(0), optim.adam(0.05)
    ...     first, last = (Linear(*sizes, rng=rng, dtype=np.float64) for sizes in ((1, 6), (6, 1)))
    ...     model = nn.Sequential(ColumnLinear(first, world), np.tanh, RowLinear(last, world))
    ...     step, state = make_split_step(nn.squared_error, rule, world, compiled=False), rule.init(model)
    ...     for _ in range(60):
    ...         model, state, loss = step(model, state, x, x ** 2)
    ...     return bool(loss < 0.02)
    >>> run_threads(2, program)
    [True, True]
    """
    check_parts(loss, optimizer)
    world_of("make_split_step", world)
    flag("make_split_step", "compiled", compiled)

    def step(model: Any, state: Any, x: Any, y: Any, key: Any) -> tuple:
        types = (varying_leaves(model), False, False, False)
        value, gradients, moved, finite = per_rank(functools.partial(_objective, loss, world), world, varying=types)(model, x, y, key)
        updates, new_state = optimizer.update(gradients, state, moved)
        return choose(finite, apply_updates(moved, updates), model), choose(finite, new_state, state), value
    run, checked = compile(step, donate=(0, 1)) if compiled else step, False

    def checked_step(model: Any, state: Any, x: Any, y: Any, key: Any = None) -> tuple:
        nonlocal checked
        function_of("a split step", "the model", model, remedy="Give a Module with split layers, which is called with examples.")
        if not checked:
            check_split_rule(optimizer, model, _axes(flatten(model)[1]), world.size)
            checked = world.size == 1 or _compared(loss, optimizer, world, model, state, x, y, key)
        return run(model, state, x, y, key)
    return checked_step


def _compared(loss: Callable, optimizer: Optimizer, world: Communicator, model: Any, state: Any, x: Any, y: Any, key: Any) -> bool:
    """Raise CommunicationError on every rank if ranks differ in what the step takes for the same; False where nothing has a value yet."""
    leaves, structure = flatten((model, state))
    if any(isinstance(a, Tracer) for a in flatten((leaves, x, y, key))[0]):
        return False
    arrays = [np.asarray(a) for a, axis in zip(leaves, _axes(structure), strict=True) if axis is None]
    again = "Build the same model and the same optimizer on every rank, rates too."
    whole_batch = "Give every rank the whole batch, its rows in the same order: a split model shares out features, not examples."
    parts = [("loss", digest_of(f"{code_of(loss)} {numbers_of(loss)}"), "Let the loss be the same on every rank, the numbers in it too."),
             ("model", hash_of(structure, arrays), again), ("optimizer", digest_of(doings(optimizer, model)), again),
             ("x", _bits_of(x), whole_batch), ("y", _bits_of(y), whole_batch), ("key", _bits_of(key), "Give every rank the same key.")]
    own = np.array([digest for _, digest, _ in parts])
    with uncounted(world):
        most, least = all_reduce_in_place(np.stack([own, -own]), world, algorithm="tree", combine=np.maximum)
        other = [(name, remedy) for (name, _, remedy), a, b in zip(parts, most, -least, strict=True) if a != b]
        if other:
            names = " and another ".join(name for name, _ in other)
            raise CommunicationError(explain(f"a split step: the {world.size} ranks are not given the same: some have another {names}.",
                                             remedy=other[0][1]))
        check_models(world, _shared(model), _shared(state),
                     "Build layers that are not split, and those that are before they are split, from the same seed on every rank.", None)
    return True


def _shared(tree: Any) -> dict[str, Any]:
    """The arrays that are not split, by name: every rank has the same."""
    leaves, structure = flatten(tree)
    return {name: x for name, x, axis in zip(paths(tree), leaves, _axes(structure), strict=True) if axis is None}


def _bits_of(tree: Any) -> int:
    """63 bits that tell arrays apart: every bit of them, their shapes and dtypes."""
    found = hashlib.blake2b(digest_size=8)
    for each in flatten(tree)[0]:
        array = np.asarray(each)
        found.update(f"{array.dtype.str}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"")
    return int.from_bytes(found.digest(), "little") >> 1


def _objective(loss: Callable, world: Communicator, model: Any, x: Any, y: Any, key: Any) -> tuple:
    """(loss, gradients, the model with its new statistics, whether all is finite on all ranks), inside of per_rank; gradients are None at
    buffers."""
    own = lambda layer: _SplitDropout(layer, world) if type(layer) is Dropout else layer
    (value, gradients), taps = collect_taps(value_and_grad(lambda model: loss(replaced(training(model, key), own)(x), y)))(model)
    moved = absorb(model, taps)
    for name, new, old in zip(parameter_names(model), flatten(moved)[0], flatten(model)[0], strict=True):
        if is_varying(new, world) and not is_varying(old, world):
            raise ConfigError(explain(f"a split step: {name} would differ from rank to rank, whose features are other ones.",
                                      remedy="Put batch norm before the ColumnLinear, or after the RowLinear."))
    gradients = trainable(model, gradients)
    bad = np.where(np.isfinite(sum([np.sqrt(np.sum(g * g)) for g in flatten(gradients)[0]], value)), 0.0, 1.0)
    return value, gradients, moved, all_reduce(replicate_to_varying(bad, world) if not is_varying(bad, world) else bad, world) == 0.0


class _SplitDropout(Module):
    """A Dropout in training mode: of features that are a rank's own, every rank leaves out others."""

    layer: Dropout
    world: Communicator

    def __call__(self, x: Any) -> Any:
        p, key = self.layer.p, self.layer.key
        return self.layer(x) if key is None or not is_varying(x, self.world) else dropout(x, p, key + np.array([0, self.world.rank]))
