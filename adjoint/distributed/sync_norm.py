"""Synchronized batch norm: statistics of the batch of all ranks together, so that n ranks normalize as one process does.

Two sums over the ranks forward (of x and the count; of (x - mean)^2), their transposes backward. Invariant: every rank runs the layer in
the same order. May import: L0-L5, values. Read next: data_step.py.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..core.aval import aval_of
from ..errors import ConfigError, ShapeError, explain
from ..nn.normalization import BatchNorm1d, BatchNorm2d, _BatchNorm, _channels_first, _channels_last, _checked
from ..transforms.custom import stop_gradient
from ..tree import is_module
from .checks import world_of
from .communicator import Communicator
from .values import all_reduce

_RANKS = {BatchNorm1d: (2, 3), BatchNorm2d: (4,)}


class SyncBatchNorm(_BatchNorm):
    """y = weight (x - mean) / sqrt(var + eps) + bias with mean and var over the batches of all ranks, each channel by itself.

    SyncBatchNorm(layer, world): layer is an nn.BatchNorm1d or 2d, whose arrays and options it takes over; see `synchronized`. In evaluation
    it is that layer. In training (in DataParallel's step, or inside per_rank) mean = sum over ranks of sum x / m, with m the values of a
    channel on all ranks, var = sum over ranks of sum (x - mean)^2 / m, and running values as the layer's own, from these. Derivatives
    follow by the transposes of the sums. Raises: ConfigError; ShapeError as the layer does; CollectiveError when traced elsewhere.

    >>> from adjoint import nn
    >>> from adjoint.distributed import per_rank, run_threads
    >>> def program(world):
    ...     layer = SyncBatchNorm(nn.BatchNorm1d(1, dtype=np.float64), world)
    ...     x = np.array([[1.0 + 2.0 * world.rank]])                        # 1, 3: the whole batch of two ranks
    ...     return per_rank(lambda x: nn.training(layer)(x), world)(x).round(3)
    >>> run_threads(2, program)
    [array([[-1.]]), array([[1.]])]
    """

    world: Communicator
    allowed: tuple[int, ...]

    def __init__(self, layer: Any, world: Communicator) -> None:
        if type(layer) not in _RANKS:
            raise ConfigError(explain(f"SyncBatchNorm: found {type(layer).__name__}, expected nn.BatchNorm1d or nn.BatchNorm2d.",
                                      remedy="Convert a whole model: distributed.synchronized(model, world)."))
        self._place(**layer.__dict__, world=world_of("SyncBatchNorm", world), allowed=_RANKS[type(layer)])

    def __call__(self, x: Any) -> Any:
        if self.path is None:
            return self._normalize(x, self.allowed)
        name = "SyncBatchNorm"
        _checked(name, x, self.allowed, self.num_features, "Channels are axis 1.")
        rows, dtype = _channels_last(x), aval_of(x).dtype
        axes, own = tuple(range(np.ndim(rows) - 1)), math.prod(np.shape(rows)[:-1])
        sums = all_reduce(np.concatenate([np.sum(rows, axis=axes), np.full(1, own, dtype)]), self.world)
        count = sums[-1]
        centred = rows - sums[:-1] / count
        variance = all_reduce(np.sum(np.square(centred), axis=axes), self.world) / count
        if own * self.world.size < 2:
            raise ShapeError(explain(f"{name} ({self.path or 'the model'}): training with one value per channel: it has no variance.",
                                     remedy="Use batches of at least 2."))
        y = centred / np.sqrt(variance + self.eps)
        y = y if self.weight is None else y * self.weight
        if self.running_mean is not None:
            self._report(stop_gradient(sums[:-1] / count), stop_gradient(variance * (count / (count - 1.0))))
        return _channels_first(y if self.bias is None else y + self.bias)


def synchronized(model: Any, world: Communicator) -> Any:
    """The model with every nn.BatchNorm1d and nn.BatchNorm2d replaced by a SyncBatchNorm of the same arrays; names stay.

    >>> from adjoint import nn
    >>> from adjoint.distributed import Alone
    >>> [type(layer).__name__ for layer in synchronized(nn.Sequential(nn.BatchNorm1d(2), nn.Flatten()), Alone()).layers]
    ['SyncBatchNorm', 'Flatten']
    """
    return replaced(model, lambda layer: SyncBatchNorm(layer, world) if type(layer) in _RANKS else layer)


def replaced(tree: Any, change: Callable[[Any], Any]) -> Any:
    """The model with change(layer) in the place of every layer that it changes.

    >>> from adjoint import nn
    >>> replaced([nn.Flatten(), np.tanh], lambda layer: nn.gelu if isinstance(layer, nn.Flatten) else layer) == [nn.gelu, np.tanh]
    True
    """
    if (made := change(tree)) is not tree:
        return made
    if isinstance(tree, dict):
        return {name: replaced(part, change) for name, part in tree.items()}
    if isinstance(tree, (list, tuple)):
        parts = [replaced(part, change) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    if not is_module(tree):
        return tree
    made = object.__new__(type(tree))
    for field in dataclasses.fields(tree):
        object.__setattr__(made, field.name, replaced(getattr(tree, field.name), change))
    return made


def synchronizes(model: Any) -> bool:
    """Whether the model holds a SyncBatchNorm, so that its ranks speak in the middle of a step.

    >>> from adjoint import nn
    >>> synchronizes([nn.BatchNorm1d(2)])
    False
    """
    if isinstance(model, dict):
        return any(map(synchronizes, model.values()))
    if isinstance(model, (list, tuple)):
        return any(map(synchronizes, model))
    parts = [getattr(model, f.name) for f in dataclasses.fields(model)] if is_module(model) else []
    return isinstance(model, SyncBatchNorm) or any(map(synchronizes, parts))
