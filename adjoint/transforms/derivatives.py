"""Whole derivatives from products: the Jacobian by a basis pushed forward or pulled back, the Hessian, and its product with a vector.

jacobian : (a -> b) -> a -> (b by a). Invariant: for leaves y of the result and x of the argument, J[y][x] has the shape y.shape + x.shape.
May import: L0-L2, forward, reverse, batch, linearize. Read next: custom.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from ..core.aval import Aval, aval_of
from ..core.primitive import TABLE, bind
from ..errors import ConfigError, NotDifferentiableError, explain
from ..primitives.kinds import zeros_of
from ..tree import Structure, flatten, unflatten
from .batch import vmap
from .forward import jvp
from .linearize import linearize
from .reverse import grad, vjp

Mode = Literal["auto", "forward", "reverse"]


def jacobian(function: Callable, argnums: int | tuple[int, ...] = 0, mode: Mode = "auto") -> Callable:
    """x -> J with J[i.., j..] = dy[i..]/dx[j..], a tree of the result whose leaves are trees of the argument.

    mode: "forward" pushes one tangent per input element, "reverse" pulls one cotangent per output element, each for the whole basis at
    once (vmap); "auto" records a tape and takes whichever has fewer (forward mode then evaluates the function once more). A tuple of
    argnums adds a tuple inside.
    Cost: min(inputs, outputs) times a small multiple of the function in auto mode. Raises: NotDifferentiableError for results that are
    not floating.

    >>> jacobian(lambda x: x * x)(np.array([1.0, 3.0]))
    array([[2., 0.],
           [0., 6.]])
    """
    if mode not in ("auto", "forward", "reverse"):
        raise ConfigError(explain(f"jacobian: mode is {mode!r}.", remedy='Choose "auto", "forward" or "reverse".'))
    numbers = (argnums,) if isinstance(argnums, int) else tuple(argnums)

    @functools.wraps(function)
    def jacobian_at(*args: Any, **kwargs: Any) -> Any:
        def partial(*xs: Any) -> Any:
            full = list(args)
            for n, x in zip(numbers, xs, strict=True):
                full[n] = x
            return function(*full, **kwargs)
        xs = tuple(args[n] for n in numbers)
        tree = {"auto": _cheaper, "forward": _forward, "reverse": _reverse}[mode](partial, xs)
        return _at_leaves(tree, lambda found: found[0]) if isinstance(argnums, int) else _at_leaves(tree, lambda found: found)
    return jacobian_at


class _Row:
    """The derivative of one output leaf: a tuple of trees, one per differentiated argument."""

    def __init__(self, trees: tuple):
        self.trees = trees


def _at_leaves(tree: tuple[Structure, list[_Row]], choose: Callable) -> Any:
    structure, rows = tree
    return unflatten(structure, [choose(row.trees) for row in rows])


def _cheaper(function: Callable, xs: tuple) -> tuple[Structure, list[_Row]]:
    """Reverse mode, unless the tape shows that there are at least as many outputs as inputs."""
    y, pullback = vjp(function, *xs)
    inputs = sum(aval_of(x).size for x in flatten(xs)[0] if aval_of(x).dtype.kind == "f")
    outputs = sum(aval_of(v).size for v in flatten(y)[0])
    return _forward(function, xs) if inputs <= outputs else _pulled(y, pullback, xs)


def _require_floating(ys: list) -> None:
    for y in ys:
        if aval_of(y).dtype.kind != "f":
            raise NotDifferentiableError(explain(f"jacobian: the function returned {aval_of(y)}, which is not floating.",
                                                 remedy="Return only floating arrays."))


def basis(avals: list[Aval]) -> list[np.ndarray]:
    """Per leaf an array [total size, *shape]: example k is 1 at the k-th element of all leaves together."""
    total, at, found = sum(a.size for a in avals), 0, []
    for a in avals:
        block = np.zeros((total, a.size), a.dtype)
        block[np.arange(at, at + a.size), np.arange(a.size)] = 1
        found.append(block.reshape(total, *a.shape))
        at += a.size
    return found


def _forward(function: Callable, xs: tuple) -> tuple[Structure, list[_Row]]:
    y, f_dot = linearize(function, *xs)
    ys, out_structure = flatten(y)
    _require_floating(ys)
    leaves, structure = flatten(xs)
    floats = [aval_of(x).dtype.kind == "f" for x in leaves]
    avals = [aval_of(x).strong() for x, f in zip(leaves, floats, strict=True) if f]
    total = sum(a.size for a in avals)

    def columns(*dots: Any) -> list:
        given = iter(dots)
        return flatten(f_dot(*unflatten(structure, [next(given) if f else None for f in floats])))[0]
    if total == 0:
        pushed = [zeros_of(Aval((0, *aval_of(v).shape), aval_of(v).dtype)) for v in ys]
    else:
        pushed = vmap(columns)(*basis(avals))
    return out_structure, [_Row(unflatten(structure, _cut_columns(p, avals, floats))) for p in pushed]


def _cut_columns(pushed: Any, avals: list[Aval], floats: list[bool]) -> list:
    """pushed[k, y..] for the whole basis -> per leaf x an array [y.., x..], None for leaves that are not floating."""
    shape = aval_of(pushed).shape[1:]
    pushed = bind(TABLE["permute"], pushed, axes=(*range(1, len(shape) + 1), 0))
    return _cut(pushed, avals, floats, shape, len(shape))


def _cut(block: Any, avals: list[Aval], floats: list[bool], lead: tuple, axis: int) -> list:
    rest, at, found = iter(avals), 0, []
    for f in floats:
        if not f:
            found.append(None)
            continue
        aval = next(rest)
        bounds = (*((0, n, 1) for n in lead[:axis]), (at, at + aval.size, 1))
        part = bind(TABLE["slice"], block, bounds=bounds)
        found.append(_scalar(bind(TABLE["reshape"], part, shape=(*lead, *aval.shape))))
        at += aval.size
    return found


def _reverse(function: Callable, xs: tuple) -> tuple[Structure, list[_Row]]:
    return _pulled(*vjp(function, *xs), xs)


def _pulled(y: Any, pullback: Callable, xs: tuple) -> tuple[Structure, list[_Row]]:
    ys, out_structure = flatten(y)
    _require_floating(ys)
    leaves, structure = flatten(xs)
    floats = [aval_of(x).dtype.kind == "f" for x in leaves]
    avals = [aval_of(v).strong() for v in ys]
    if sum(a.size for a in avals) == 0:
        pulled = [zeros_of(Aval((0, *aval_of(x).shape), aval_of(x).dtype)) for x, f in zip(leaves, floats, strict=True) if f]
    else:
        rows = lambda *bars: [bar for bar in flatten_with_none(pullback(unflatten(out_structure, bars)), floats) if bar is not None]
        pulled = vmap(rows)(*basis(avals))
    found, at = [], 0
    for aval in avals:
        parts = iter([_rows(p, at, aval) for p in pulled])
        found.append(_Row(unflatten(structure, [next(parts) if f else None for f in floats])))
        at += aval.size
    return out_structure, found


def flatten_with_none(trees: tuple, floats: list[bool]) -> list:
    """The leaves of cotangent trees, in which None stands for leaves that are not floating."""
    given = iter(flatten(trees)[0])
    return [next(given) if f else None for f in floats]


def _rows(pulled: Any, at: int, aval: Aval) -> Any:
    shape = aval_of(pulled).shape[1:]
    part = bind(TABLE["slice"], pulled, bounds=((at, at + aval.size, 1), *((0, n, 1) for n in shape)))
    return _scalar(bind(TABLE["reshape"], part, shape=(*aval.shape, *shape)))


def _scalar(x: Any) -> Any:
    """NumPy's scalar in place of an array without axes."""
    return x[()] if isinstance(x, np.ndarray) and x.ndim == 0 else x


def hessian(function: Callable, argnums: int = 0) -> Callable:
    """x -> H with H[i.., j..] = d2f/dx[i..]dx[j..] for a scalar function (forward mode over reverse mode, so symmetric to rounding).

    Cost: one gradient and one product with a tangent per element of x, batched.

    >>> hessian(lambda x: (x * x * x).sum())(np.array([1.0, 2.0]))
    array([[ 6.,  0.],
           [ 0., 12.]])
    """
    return jacobian(grad(function, argnums), argnums, mode="forward")


def hvp(function: Callable, x: Any, v: Any) -> Any:
    """H(x) v for a scalar function of one tree, without H: the gradient's derivative along v.

    Cost: a small multiple of the gradient's. Source: Pearlmutter, Fast exact multiplication by the Hessian, Neural Computation 6 (1994).

    >>> hvp(lambda x: (x * x * x).sum(), np.array([1.0, 2.0]), np.array([1.0, 10.0]))
    array([  6., 120.])
    """
    return jvp(grad(function), (x,), (v,))[1]
