"""Trees: dict, list, tuple, dataclass and Module as containers of leaves, flattened to a list and rebuilt.

Invariant: unflatten(structure, leaves) rebuilds what flatten took apart; a Structure is hashable and names every static value.
May import: errors. Read next: core/aval.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from .errors import TreeError, explain

_LEAF, _STATIC, _TUPLE, _LIST, _DICT, _NAMED, _RECORD = "leaf", "static", "tuple", "list", "dict", "namedtuple", "record"


class _Static:
    """A value kept in the structure: equal by value where it can be, else by identity."""

    __slots__ = ("value",)

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Static) or type(self.value) is not type(other.value):
            return False
        same = self.value is other.value or self.value == other.value
        return bool(same) if isinstance(same, (bool, np.bool_)) else False

    def __hash__(self) -> int:
        try:
            return hash((type(self.value), self.value))
        except TypeError:
            return id(self.value)


class Structure:
    """The shape of a tree without its leaves: hashable, comparable, printable."""

    __slots__ = ("_hash", "children", "kind", "leaf_count", "meta")

    def __init__(self, kind: str, meta: Any = None, children: tuple[Structure, ...] = ()):
        self.kind, self.meta, self.children = kind, meta, children
        self.leaf_count = 1 if kind is _LEAF else sum(child.leaf_count for child in children)
        self._hash = hash((kind, meta, children))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Structure) and self._hash == other._hash and self.kind == other.kind
                                 and self.meta == other.meta and self.children == other.children)

    def __repr__(self) -> str:
        inner = ", ".join(map(repr, self.children))
        if self.kind is _LEAF:
            return "*"
        if self.kind is _STATIC:
            return repr(self.meta.value)
        if self.kind is _DICT:
            return "{" + ", ".join(f"{k!r}: {c!r}" for k, c in zip(self.meta, self.children, strict=True)) + "}"
        if self.kind is _RECORD:
            cls, names = self.meta
            return f"{cls.__name__}(" + ", ".join(f"{n}={c!r}" for n, c in zip(names, self.children, strict=True)) + ")"
        return f"[{inner}]" if self.kind is _LIST else f"({inner}{',' if len(self.children) == 1 else ''})"


LEAF = Structure(_LEAF)


def is_array(x: object) -> bool:
    """True for NumPy arrays and scalars, and for traced values.

    >>> is_array(np.ones(2)), is_array(np.float64(1.0)), is_array(1.0)
    (True, True, False)
    """
    return isinstance(x, (np.ndarray, np.generic)) or getattr(type(x), "__adjoint_tracer__", False)


def is_module(x: object) -> bool:
    """True for nn.Module instances: trees in which only arrays are leaves.

    >>> from adjoint import nn
    >>> is_module(nn.Flatten()), is_module({'weight': np.ones(2)})
    (True, False)
    """
    return getattr(type(x), "__adjoint_module__", False)


def flatten(tree: Any) -> tuple[list[Any], Structure]:
    """The leaves of a tree in order, and its structure. O(size of the tree).

    >>> flatten({'w': 1.0, 'layers': [2.0, 3.0], 'name': 'mlp'})
    ([2.0, 3.0, 1.0], {'layers': [*, *], 'name': 'mlp', 'w': *})
    """
    leaves: list[Any] = []
    if is_array(tree):
        return [tree], LEAF
    try:
        return leaves, _flatten(tree, leaves, False, False)
    except RecursionError:
        raise TreeError(explain("a tree contains itself, or is nested more than about 300 levels deep.",
                                remedy="Break the cycle: a model must not be a field of its own part.")) from None


def _flatten(tree: Any, leaves: list[Any], in_module: bool, declared: bool) -> Structure:
    if is_array(tree) or (isinstance(tree, (float, int)) and not isinstance(tree, bool) and (declared or not in_module)):
        leaves.append(tree)
        return LEAF
    if isinstance(tree, dict):
        keys = _ordered(tree)
        return Structure(_DICT, keys, tuple(_flatten(tree[k], leaves, in_module, declared) for k in keys))
    if isinstance(tree, list):
        return Structure(_LIST, None, tuple(_flatten(x, leaves, in_module, declared) for x in tree))
    if isinstance(tree, tuple):
        children = tuple(_flatten(x, leaves, in_module, declared) for x in tree)
        return Structure(_NAMED, type(tree), children) if hasattr(tree, "_fields") else Structure(_TUPLE, None, children)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        inside = is_module(tree) or in_module
        fields = dataclasses.fields(tree)
        children = tuple(_flatten(getattr(tree, f.name), leaves, inside, f.metadata.get("leaf", False)) for f in fields)
        return Structure(_RECORD, (type(tree), tuple(f.name for f in fields)), children)
    return Structure(_STATIC, _Static(tree))


def _ordered(mapping: dict) -> tuple:
    try:
        return tuple(sorted(mapping))
    except TypeError:
        return tuple(mapping)


def unflatten(structure: Structure, leaves: Iterable[Any]) -> Any:
    """The tree of this structure with these leaves.

    >>> leaves, structure = flatten({'w': 1.0, 'layers': [2.0, 3.0]})
    >>> unflatten(structure, [10.0 * x for x in leaves])
    {'layers': [20.0, 30.0], 'w': 10.0}
    """
    leaves = list(leaves)
    if len(leaves) != structure.leaf_count:
        raise TreeError(explain(f"a tree of {structure.leaf_count} leaves was given {len(leaves)}.",
                                remedy="Flatten and unflatten trees of the same structure."))
    return _unflatten(structure, iter(leaves))


def _unflatten(s: Structure, leaves: Iterator[Any]) -> Any:
    if s.kind is _LEAF:
        return next(leaves)
    if s.kind is _STATIC:
        return s.meta.value
    children = [_unflatten(child, leaves) for child in s.children]
    if s.kind is _DICT:
        return dict(zip(s.meta, children, strict=True))
    if s.kind is _LIST:
        return children
    if s.kind is _TUPLE:
        return tuple(children)
    if s.kind is _NAMED:
        return s.meta(*children)
    cls, names = s.meta
    record = object.__new__(cls)
    for name, child in zip(names, children, strict=True):
        object.__setattr__(record, name, child)
    return record


def map_tree(function: Callable, tree: Any, *others: Any) -> Any:
    """function applied to each leaf, and to the leaves of other trees of the same structure.

    >>> map_tree(lambda a, b: a + b, {"w": 1.0}, {"w": 2.0})
    {'w': 3.0}
    """
    leaves, structure = flatten(tree)
    columns = [leaves]
    for other in others:
        more, found = flatten(other)
        if found != structure and len(more) != len(leaves):
            raise TreeError(explain(f"two trees differ: expected {structure}, found {found}.",
                                    remedy="Build the second tree from the first, for example with adjoint.tree.map_tree."))
        columns.append(more)
    return unflatten(structure, [function(*row) for row in zip(*columns, strict=True)])


def paths(tree: Any) -> list[str]:
    """The dotted path of every leaf: `layers.0.weight`.

    >>> paths({'w': 1.0, 'layers': [2.0, 3.0]})
    ['layers.0', 'layers.1', 'w']
    """
    found: list[str] = []
    _paths(flatten(tree)[1], "", found)
    return found


def _paths(s: Structure, prefix: str, found: list[str]) -> None:
    if s.kind is _LEAF:
        found.append(prefix)
        return
    names = {_DICT: s.meta, _RECORD: s.meta[1] if s.kind is _RECORD else (),
             _NAMED: getattr(s.meta, "_fields", ())}.get(s.kind, range(len(s.children)))
    for name, child in zip(names, s.children, strict=False):
        _paths(child, f"{prefix}.{name}" if prefix else str(name), found)


def copy(tree: Any) -> Any:
    """The same tree with every array copied: a snapshot that later updates in place cannot reach.

    >>> step_1 = {'w': np.array([1.0, 2.0])}
    >>> kept = copy(step_1)
    >>> step_1['w'] += 1.0
    >>> kept
    {'w': array([1., 2.])}
    """
    leaves, structure = flatten(tree)
    return unflatten(structure, [np.array(x) if isinstance(x, np.ndarray) else x for x in leaves])


def leaf(default: Any = dataclasses.MISSING) -> Any:
    """Declare a number field of a Module as a leaf (traced, differentiated), not as part of the structure.

    >>> from adjoint import grad, nn
    >>> class Scale(nn.Module):
    ...     factor: float = leaf()
    ...     def __call__(self, x): return self.factor * x
    >>> grad(lambda layer: layer(3.0))(Scale(2.0)).factor
    np.float64(3.0)
    """
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata={"leaf": True})
    return dataclasses.field(default=default, metadata={"leaf": True})
