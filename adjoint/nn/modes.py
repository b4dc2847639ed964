"""Modes: a model as built evaluates; `training` gives the same model as it trains, `absorb` takes in what it learned on the way.

training : (model, key) -> model', absorb : (model, taps) -> model. Invariant: both are pure and keep every array they do not name.
A layer takes part by a method `training(path, key)`. May import: L0-L3, module, random. Read next: dropout.py, normalization.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from ..core.aval import aval_of
from ..tree import flatten, is_module, unflatten
from .module import buffer_mask, parameter_names
from .random import split


def _parts(tree: Any) -> list[tuple[str, str, Any]]:
    """(field or key, name in a path, part) of a container; a leaf or a static value has none."""
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        return [(f.name, "" if f.metadata.get("inline") else f.name, getattr(tree, f.name)) for f in dataclasses.fields(tree)]
    if isinstance(tree, dict):
        return [(k, str(k), x) for k, x in tree.items()]
    if isinstance(tree, (list, tuple)):
        return [(i, str(i), x) for i, x in enumerate(tree)]
    return []


def _learners(tree: Any) -> Iterator[Any]:
    """The layers that differ in training."""
    for _, _, part in _parts(tree):
        yield from _learners(part)
    if is_module(tree) and hasattr(tree, "training"):
        yield tree


def has_modes(model: Any) -> bool:
    """Whether the model differs between training and evaluation: it holds Dropout, BatchNorm or the like.

    >>> from adjoint import nn
    >>> has_modes(nn.Sequential(nn.Flatten(), nn.Dropout(0.5))), has_modes(nn.Flatten())
    (True, False)
    """
    return any(True for _ in _learners(model))


def training(model: Any, key: Any = None) -> Any:
    """The model in training mode: each layer with a method training(path, key) is replaced by what that returns.

    path is the layer's PyTorch name; key: int64 [2], or None for a model without randomness. Every layer gets a key of its own, in the
    order of the tree. Works on traced models: call it inside the loss, so that gradients are those of the model itself.

    >>> import numpy as np
    >>> from adjoint import nn
    >>> model = nn.Sequential(np.tanh, nn.Dropout(0.5))
    >>> model(np.zeros(2)), training(model, np.array([0, 1]))[1].key is None
    (array([0., 0.]), False)
    """
    count = sum(1 for _ in _learners(model))
    if not count:
        return model
    keys = iter([None] * count if key is None else list(split(key, count)))
    return _trained(model, "", keys)


def _trained(tree: Any, path: str, keys: Iterator[Any]) -> Any:
    parts = _parts(tree)
    if not parts and not is_module(tree):
        return tree
    inner = {place: _trained(part, ".".join(filter(None, (path, name))), keys) for place, name, part in parts}
    if isinstance(tree, dict):
        return inner
    if isinstance(tree, (list, tuple)):
        return type(tree)(*inner.values()) if hasattr(tree, "_fields") else type(tree)(inner.values())
    record = object.__new__(type(tree))
    for name, part in inner.items():
        object.__setattr__(record, name, part)
    return record.training(path, next(keys)) if is_module(tree) and hasattr(tree, "training") else record


def absorb(model: Any, taps: dict[str, Any]) -> Any:
    """The model with its buffers replaced by the taps of their names, as layers in training mode leave them (collect_taps).

    Taps of other names are not looked at. A layer used twice has the taps `name` and `name#2`: the last one counts.

    >>> import numpy as np
    >>> from adjoint import nn
    >>> layer = nn.BatchNorm1d(2)
    >>> absorb(layer, {"running_mean": np.array([1.0, 2.0], np.float32)}).running_mean
    array([1., 2.], dtype=float32)
    """
    latest: dict[str, Any] = {}
    for name, value in taps.items():
        latest[name.split("#")[0]] = value
    leaves, structure = flatten(model)
    rows = zip(leaves, parameter_names(model), buffer_mask(model), strict=True)
    return unflatten(structure, [_like(latest[name], x) if is_buffer and name in latest else x for x, name, is_buffer in rows])


def _like(value: Any, x: Any) -> Any:
    """A value in the dtype of the buffer it replaces: the batch may have had a wider one."""
    return value if aval_of(value).dtype == aval_of(x).dtype else value.astype(aval_of(x).dtype)


def trainable(model: Any, tree: Any) -> Any:
    """A tree like the model (its gradients, for instance) with None at the model's buffers: no rule of optim touches those.

    >>> import numpy as np
    >>> from adjoint import nn
    >>> layer = nn.BatchNorm1d(2)
    >>> trainable(layer, layer).running_mean is None, trainable(layer, layer).weight.shape
    (True, (2,))
    """
    if not any(mask := buffer_mask(model)):
        return tree
    leaves, structure = flatten(tree)
    if len(leaves) == len(mask):                # otherwise None stands at leaves that are no floats: match by name
        return unflatten(structure, [None if is_buffer else x for x, is_buffer in zip(leaves, mask, strict=True)])
    buffers = {name for name, is_buffer in zip(parameter_names(model), mask, strict=True) if is_buffer}
    rows = zip(leaves, parameter_names(tree), strict=True)
    return unflatten(structure, [None if name in buffers else x for x, name in rows])
