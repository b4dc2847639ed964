"""Modules: a model is a frozen tree of arrays, numbers, functions and other modules; and its parameters by PyTorch's names.

Invariant: only arrays are leaves; every other field is part of the structure unless declared `leaf()`. No registry, no metaclass.
May import: L0. Read next: layers.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import ShapeError, TreeError, explain
from ..tree import flatten, is_array, is_module, unflatten


class Module:
    """Base of all layers and models. A subclass states its fields and defines __call__; it becomes a frozen dataclass.

    A subclass may write its own __init__, in which each field is set once (`self.hidden = Linear(...)`); then the module is frozen.

    Example:
        >>> class Affine(Module):
        ...     weight: np.ndarray
        ...     bias: np.ndarray
        ...     def __call__(self, x):
        ...         return self.weight * x + self.bias
        >>> Affine(np.float64(2.0), np.float64(1.0))(3.0)
        np.float64(7.0)
    """

    __adjoint_module__ = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        dataclasses.dataclass(frozen=True, eq=False, repr=False, init="__init__" not in cls.__dict__)(cls)
        del cls.__setattr__, cls.__delattr__            # the dataclass's own: Module's allow __init__, and say more

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in (f.name for f in dataclasses.fields(self)):
            raise AttributeError(explain(f"{type(self).__name__} has no field {name!r}.",
                                         remedy=f"State it in the class: `{name}: np.ndarray`, or the type that it has."))
        if name in self.__dict__:
            raise self._frozen(name)
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        raise self._frozen(name)

    def _frozen(self, name: str) -> dataclasses.FrozenInstanceError:
        return dataclasses.FrozenInstanceError(explain(
            f"{type(self).__name__} is frozen: its field {name!r} is set once, when it is made.",
            remedy="A model is a value: make another with nn.load_parameters or adjoint.tree.map_tree, or let the step return it."))

    def _place(self, **fields: Any) -> None:
        """Set the fields of a module that writes its own __init__ (afterwards they are frozen)."""
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        inside = ", ".join(f"{f.name}={_brief(getattr(self, f.name))}" for f in dataclasses.fields(self))
        return f"{type(self).__name__}({inside})"


def inline() -> Any:
    """Declare a field whose name does not appear in parameter names: Sequential's layers are 0, 1, 2, as in PyTorch."""
    return dataclasses.field(metadata={"inline": True})


def _brief(value: Any) -> str:
    if is_array(value):
        return f"{value.dtype}[{','.join(map(str, value.shape))}]"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_brief, value)) + ")"
    return getattr(value, "__name__", None) or repr(value)


def buffer() -> Any:
    """Declare a field whose array is no parameter: it has no gradient, and `absorb` replaces it (running statistics of batch norm).

    >>> class Counter(Module):
    ...     seen: np.ndarray = buffer()
    >>> buffer_mask(Counter(np.zeros(2)))
    [True]
    """
    return dataclasses.field(metadata={"buffer": True})


def parameter_names(model: Any) -> list[str]:
    """The name of every leaf, in the order of `flatten`: `0.weight`, `0.bias`."""
    return [name for name, _ in _named(model, "", False, is_module(model))]


def buffer_mask(model: Any) -> list[bool]:
    """Whether each leaf, in the order of `flatten`, is a buffer."""
    return [is_buffer for _, is_buffer in _named(model, "", False, is_module(model))]


def _named(tree: Any, prefix: str, is_buffer: bool, only_arrays: bool) -> Iterator[tuple[str, bool]]:
    """(name, whether it is a buffer) of every leaf."""
    if is_array(tree):
        yield prefix, is_buffer
        return
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        inside = only_arrays or is_module(tree)
        parts = [("" if f.metadata.get("inline") else f.name, getattr(tree, f.name), is_buffer or f.metadata.get("buffer", False),
                  inside and not f.metadata.get("leaf", False)) for f in dataclasses.fields(tree)]
    elif isinstance(tree, dict):
        parts = [(str(k), tree[k], is_buffer, only_arrays) for k in sorted(tree)]
    elif isinstance(tree, (list, tuple)):
        parts = [(str(i), x, is_buffer, only_arrays) for i, x in enumerate(tree)]
    else:
        if not only_arrays and flatten(tree)[0]:                # a number
            yield prefix, is_buffer
        return
    for name, part, *flags in parts:
        yield from _named(part, ".".join(filter(None, (prefix, name))), *flags)


def named_parameters(model: Any) -> dict[str, np.ndarray]:
    """The arrays of a model by name, with PyTorch's keys; the arrays themselves, not copies.

    >>> from adjoint.nn import Linear, Sequential
    >>> list(named_parameters(Sequential(Linear(2, 3, rng=np.random.default_rng(0)), np.tanh)))
    ['0.weight', '0.bias']
    """
    return dict(zip(parameter_names(model), flatten(model)[0], strict=True))


def load_parameters(model: Any, parameters: dict[str, Any]) -> Any:
    """The same model with these arrays (copied), which must fit by name and shape; each keeps the dtype the model has.

    Raises: TreeError naming missing and unexpected names; ShapeError naming the first array that does not fit.

    >>> from adjoint import nn
    >>> layer = nn.Linear(2, 1, rng=np.random.default_rng(0))
    >>> load_parameters(layer, {'weight': [[3.0, 4.0]], 'bias': [5.0]}).weight
    array([[3., 4.]], dtype=float32)
    """
    own = named_parameters(model)
    missing, unexpected = [n for n in own if n not in parameters], [n for n in parameters if n not in own]
    if missing or unexpected:
        parts = [f"{kind}: {', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"
                 for kind, names in (("missing", missing), ("unexpected", unexpected)) if names]
        raise TreeError(explain(f"load_parameters: the names differ from the model's; {'; '.join(parts)}.",
                                remedy="Build the model that the parameters were saved from, or rename the keys."))
    for name, array in own.items():
        if np.shape(parameters[name]) != array.shape:
            raise ShapeError(explain(f"load_parameters: {name} is {np.shape(parameters[name])}, the model has {array.shape}.",
                                     remedy="Build the model with the sizes that the parameters were saved with."))
    structure = flatten(model)[1]
    return unflatten(structure, [np.array(parameters[name], dtype=array.dtype) for name, array in own.items()])
