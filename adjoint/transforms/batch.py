"""Batching: one example's program, run for a whole batch at once by the rows' batching rules.

vmap : (a -> b) -> (n·a -> n·b). Invariant: equal to a loop over the batch, to rounding. May import: L0-L2. Read next: derivatives.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ..core.aval import Aval, aval_of
from ..core.interpreter import Interpreter, Tracer, current, enter, interpreting, leave
from ..core.primitive import TABLE, bind
from ..core.trace import freeze
from ..errors import ShapeError, explain
from ..primitives.kinds import move_front
from ..tree import flatten, unflatten


class Batch(Interpreter):
    """payload = (value, batch axis)."""

    name = "vmap"

    def underlying(self, x: Tracer) -> Any:
        return x.payload[0] if x.payload[1] is None else super().underlying(x)

    def interpret(self, primitive: Any, args: tuple, params: dict) -> Any:
        pairs = [a.payload if self.holds(a) else (freeze(a), None) for a in args]
        values, axes = tuple([v for v, _ in pairs]), tuple([axis for _, axis in pairs])
        token = enter(self.outer)
        try:
            if all([axis is None for axis in axes]):
                y, axis = self.outer.interpret(primitive, values, params), None
            else:
                y, axis = primitive.batch(values, axes, **params)
        finally:
            leave(token)
        return self._wrap(primitive, y, axis)

    def _wrap(self, primitive: Any, y: Any, axis: Any) -> Any:
        if primitive.multiple:
            axes = axis if isinstance(axis, (tuple, list)) else (axis,) * len(y)
            return tuple(self.cell(v, ax) for v, ax in zip(y, axes, strict=True))
        return self.cell(y, axis)

    def cell(self, value: Any, axis: int | None, argument: bool = False) -> Tracer:
        aval = aval_of(value)
        if axis is not None:
            aval = Aval(tuple(n for i, n in enumerate(aval.shape) if i != axis), aval.dtype)
        return Tracer(self, (value, axis), aval, argument)


def vmap(function: Callable, in_axes: Any = 0, out_axes: int = 0) -> Callable:
    """The function over a batch: every argument gains an axis (in_axes: its place, or None for an argument that is shared).

    in_axes: one for all, or a tuple with one per argument; keyword arguments are shared. Cost: one pass with batched rows, no Python loop.
    Raises: ShapeError if the batch sizes differ.

    >>> import numpy as np
    >>> vmap(lambda x, w: x @ w, in_axes=(0, None))(np.ones((5, 3)), np.ones((3, 2))).shape
    (5, 2)
    """
    @functools.wraps(function)
    def batched(*args: Any, **kwargs: Any) -> Any:
        axes = in_axes if isinstance(in_axes, (tuple, list)) else (in_axes,) * len(args)
        if len(axes) != len(args):
            raise ShapeError(explain(f"vmap: in_axes names {len(axes)} arguments, the call has {len(args)}.",
                                     remedy="Give one axis (or None) for each positional argument."))
        interpreter, size = Batch(current()), None
        lifted = []
        for n, (arg, axis) in enumerate(zip(args, axes, strict=True)):
            leaves, structure = flatten(arg)
            if axis is not None:
                size = _check_size(leaves, axis, size, n)
                leaves = [interpreter.cell(freeze(x), axis % aval_of(x).ndim, argument=True) for x in leaves]
            else:                                # a cell too: it may be indexed by batched values, and must not be written
                leaves = [interpreter.cell(x, None, argument=True) if isinstance(x, np.ndarray) and x.ndim else x for x in leaves]
            lifted.append(unflatten(structure, leaves))
        if size is None:
            raise ShapeError(explain("vmap: no argument has a batch axis.", remedy="Give in_axes=0 to at least one argument."))
        with interpreting(interpreter, closing=True):
            outputs, structure = flatten(function(*lifted, **kwargs))
            pairs = [x.payload if interpreter.holds(x) else (x, None) for x in outputs]
        return unflatten(structure, [_place(y, axis, size, out_axes) for y, axis in pairs])
    return batched


def _check_size(leaves: list, axis: int, size: int | None, argument: int) -> int:
    for x in leaves:
        aval = aval_of(x)
        if not -aval.ndim <= axis < aval.ndim:
            raise ShapeError(explain(f"vmap: argument {argument} is {aval} and has no axis {axis} to batch over.",
                                     remedy="Pass in_axes with None for arguments shared by all examples."))
        found = aval.shape[axis]
        if size is not None and found != size:
            raise ShapeError(explain(f"vmap: batch sizes differ: argument {argument} has {found}, those before it {size}.",
                                     remedy="Batched axes must have one size; in_axes=None keeps an argument whole."))
        size = found
    return size


def _place(y: Any, axis: int | None, size: int, target: int) -> Any:
    if axis is None:
        y, axis = bind(TABLE["broadcast"], y, shape=(size, *aval_of(y).shape)), 0
    y = move_front(y, axis)
    ndim = aval_of(y).ndim
    target = target % ndim
    if target == 0:
        return y
    order = (*range(1, target + 1), 0, *range(target + 1, ndim))
    return bind(TABLE["permute"], y, axes=order)
