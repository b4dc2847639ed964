"""Update rules: an Optimizer is a frozen pair of pure functions, and rules compose by `chain`.

Invariant: update keeps every dtype and every tree as it found it; leaves without a gradient (None) pass through untouched.
May import: L0-L3, nn.module (names). Read next: scaling.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..core.aval import aval_of
from ..core.primitive import TABLE, bind
from ..errors import ConfigError, ShapeError, TreeError, explain
from ..nn.module import parameter_names
from ..tree import Structure, flatten, unflatten


class Optimizer(NamedTuple):
    """init(parameters) -> state; update(gradients, state, parameters) -> (updates, state). Updates are added to the parameters."""

    init: Callable[[Any], Any]
    update: Callable[[Any, Any, Any], tuple[Any, Any]]


def chain(*rules: Optimizer) -> Optimizer:
    """Rules one after the other: the updates of each are the gradients of the next. The state is the tuple of their states.

    >>> from adjoint.optim.scaling import scale
    >>> double = chain(scale(-1.0), scale(2.0))
    >>> double.update(np.array([3.0]), double.init(None), None)[0]
    array([-6.])
    """
    if not all(hasattr(rule, "update") for rule in rules):
        raise ConfigError(explain(f"chain: a rule is {next(r for r in rules if not hasattr(r, 'update'))!r:.60}, expected an Optimizer.",
                                  remedy="Call each: chain(optim.clip_by_global_norm(1.0), optim.adam(1e-3))."))

    def init(parameters: Any) -> tuple:
        return tuple(rule.init(parameters) for rule in rules)

    def update(gradients: Any, state: tuple, parameters: Any) -> tuple[Any, tuple]:
        if not isinstance(state, tuple) or len(state) != len(rules):
            raise TreeError(explain(f"optimizer: the state is {state!r:.80}, expected that of {len(rules)} chained rules.",
                                    remedy="Make it with init of the same rule: state = rule.init(parameters)."))
        states = []
        for rule, own in zip(rules, state, strict=True):
            gradients, own = rule.update(gradients, own, parameters)
            states.append(own)
        return gradients, tuple(states)
    return Optimizer(init, update)


def apply_updates(parameters: Any, updates: Any) -> Any:
    """parameters + updates, leaf by leaf, in the parameters' dtypes; leaves whose update is None stay.

    >>> apply_updates({"w": np.array([1.0]), "n": np.array(3)}, {"w": np.array([0.5]), "n": None})
    {'n': array(3), 'w': array([1.5])}
    """
    def moved(u: Any, p: Any) -> tuple:
        if np.shape(u) != np.shape(p):
            raise ShapeError(explain(f"apply_updates: an update is {aval_of(u)}, its parameter {aval_of(p)}.",
                                     remedy="Initialize the state with the parameters that the gradients are of."))
        return None, in_dtype(p + u, aval_of(p).dtype)
    return on_leaves(moved, updates, parameters)[1]


def stateless(function: Callable[[Any, Any], Any]) -> Optimizer:
    """A rule without memory from function(gradients, parameters) -> updates."""
    return Optimizer(lambda parameters: (), lambda gradients, state, parameters: (function(gradients, parameters), state))


Where = Callable[[str, Any], bool]


def matrices(name: str, x: Any) -> bool:
    """Whether an array has two axes or more: weights, not biases and gains. A `where` for weight decay, `masked` and `partition`.

    >>> matrices("0.weight", np.ones((2, 3))), matrices("0.bias", np.ones(3))
    (True, False)
    """
    return np.ndim(x) >= 2


def selection(where: Where, tree: Any) -> list[bool]:
    """where(name, leaf) of every leaf, names as in nn.named_parameters. It may look at name, shape and dtype, not at values.

    >>> selection(lambda name, x: name.endswith("weight"), {"weight": np.ones(2), "bias": np.ones(3), "none": None})
    [False, True]
    """
    if not callable(where):
        raise ConfigError(explain(f"optimizer: where is {where!r:.60}, expected a function of a leaf's name and the leaf.",
                                  remedy="For instance optim.matrices, or lambda name, x: name.endswith('weight')."))
    return [bool(where(name, x)) for name, x in zip(parameter_names(tree), flatten(tree)[0], strict=True)]


def like(factor: Any, g: Any) -> Any:
    """A scalar in the dtype of g (Python's numbers are weak and stay)."""
    return factor if isinstance(factor, (int, float)) and not isinstance(factor, np.generic) else in_dtype(factor, aval_of(g).dtype)


def counter() -> np.ndarray:
    """t = 0, a 0-d int64: what a state counts updates with."""
    return np.zeros((), np.int64)


def in_dtype(x: Any, dtype: np.dtype) -> Any:
    """x in a dtype; a conversion only where it is needed."""
    return x if aval_of(x).dtype == dtype else bind(TABLE["convert"], x, dtype=dtype)


def zeros_like(parameters: Any) -> Any:
    """A tree of zeros for the floating leaves, None for the others."""
    leaves, structure = flatten(parameters)
    return unflatten(structure, [np.zeros(aval_of(x).shape, aval_of(x).dtype) if aval_of(x).dtype.kind == "f" else None for x in leaves])


def on_leaves(function: Callable, gradients: Any, *trees: Any) -> tuple[Any, ...]:
    """function(g, *leaves) -> (update, *new leaves) at every gradient that is not None: (updates, *trees with the new leaves).

    The function may return fewer new leaves than there are trees: the last trees are only read. Trees may have leaves (or whole
    branches) where the gradients have None; those stay.
    """
    leaves, structure = flatten(gradients)
    flat = [flatten(tree) for tree in trees]
    places = [positions(structure, s) for _, s in flat]
    updates: list = []
    fresh = [list(found) for found, _ in flat]
    for k, g in enumerate(leaves):
        update, *news = function(g, *(found[at[k]] for (found, _), at in zip(flat, places, strict=True)))
        updates.append(update)
        for new, at, target in zip(news, places, fresh, strict=False):
            target[at[k]] = new
    return unflatten(structure, updates), *(unflatten(s, found) for (_, s), found in zip(flat, fresh, strict=True))


def positions(structure: Structure, other: Structure) -> list[int]:
    """Where the leaves of a structure lie among those of another that has the same shape, and perhaps leaves where it has None."""
    if structure == other:
        return list(range(structure.leaf_count))
    found: list[int] = []
    _locate(structure, other, 0, found)
    return found


def _locate(s: Structure, o: Structure, at: int, found: list[int]) -> None:
    if s.kind == "leaf" and o.kind == "leaf":
        found.append(at)
    elif s.kind not in ("leaf", "static"):
        if s.kind != o.kind or len(s.children) != len(o.children) or (s.kind == "dict" and s.meta != o.meta):
            raise TreeError(explain(f"optimizer: the gradients have structure {s}, expected {o}.",
                                    remedy="Initialize the state with the parameters that the gradients are of."))
        for a, b in zip(s.children, o.children, strict=True):
            _locate(a, b, at, found)
            at += b.leaf_count
    elif s.kind == "leaf":
        raise TreeError(explain("optimizer: there is a gradient where the state or the model has no array.",
                                remedy="Initialize the state with the parameters that the gradients are of."))
