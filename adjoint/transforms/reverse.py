"""Reverse mode: a tape remembers every operation, and is walked backwards with the rows' vjps.

vjp : (a -> b) -> a -> (b, T*b -> T*a). Invariant: the tape is a flat list, so depth costs no recursion; cotangents have the aval of
their primal. May import: L0-L2. Read next: forward.py, derivatives.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..core.aval import Aval, aval_of
from ..core.interpreter import EVALUATION, Interpreter, Tracer, current, enter, interpreting, leave
from ..core.primitive import TABLE, bind
from ..core.trace import freeze
from ..errors import NotDifferentiableError, ShapeError, explain
from ..primitives.kinds import zeros_of
from ..tree import Structure, flatten, unflatten


class Tape(Interpreter):
    """Performs each primitive in the enclosing interpreter and records it: (primitive, arguments, params, result, parents, id)."""

    name = "reverse mode"

    def __init__(self, outer: Interpreter):
        super().__init__(outer)
        self.entries: list[tuple] = []
        self.count = 0

    def lift(self, x: Any) -> Tracer:
        """An input of the tape."""
        self.count += 1
        return Tracer(self, (x, self.count), aval_of(x), argument=True)

    def interpret(self, primitive: Any, args: tuple, params: dict) -> Any:
        parents = tuple([a.payload[1] if self.holds(a) else 0 for a in args])
        xs = tuple([a.payload[0] if i else freeze(a) for a, i in zip(args, parents, strict=True)])
        outer = self.outer
        if outer is EVALUATION:
            y = outer.interpret(primitive, xs, params)
        else:
            token = enter(outer)
            try:
                y = outer.interpret(primitive, xs, params)
            finally:
                leave(token)
        if primitive.multiple:
            return self._record_many(primitive, xs, params, y, parents)
        self.count += 1
        if any(parents):
            self.entries.append((primitive, xs, params, y, parents, self.count))
        return Tracer(self, (y, self.count), aval_of(y))

    def _record_many(self, primitive: Any, xs: tuple, params: dict, ys: tuple, parents: tuple) -> tuple:
        first = self.count + 1
        self.count += len(ys)
        if any(parents):
            self.entries.append((primitive, xs, params, ys, parents, first))
        return tuple(Tracer(self, (y, first + i), aval_of(y)) for i, y in enumerate(ys))

    def pull_back(self, seeds: dict[int, Any], wanted: set[int]) -> dict[int, Any]:
        """Cotangents of the wanted ids from those of the outputs, summed over all paths, in reverse order of the record."""
        bars = dict(seeds)
        reached = self._reachable(wanted)
        for primitive, xs, params, y, parents, first in reversed(self.entries):
            if primitive.multiple:
                if not any(first + i in bars for i in range(len(y))):
                    continue
                y_bar = tuple(bars.pop(first + i) if first + i in bars else zeros_of(aval_of(v)) for i, v in enumerate(y))
            else:
                if first not in bars:
                    continue
                y_bar = bars.pop(first)
            active = tuple([p in reached and aval_of(x).dtype.kind == "f" for p, x in zip(parents, xs, strict=True)])
            if not any(active):
                continue
            for parent, bar in zip(parents, primitive.vjp(xs, y, y_bar, active, **params), strict=True):
                if bar is not None and parent in reached:
                    bars[parent] = bar if parent not in bars else bind(TABLE["add"], bars[parent], bar)
        return bars

    def _reachable(self, wanted: set[int]) -> set[int]:
        """Ids through which a wanted input can be reached: nothing else needs a cotangent."""
        reached = set(wanted)
        for primitive, _, _, y, parents, first in self.entries:
            if not reached.isdisjoint(parents):
                reached.update(range(first, first + len(y)) if primitive.multiple else (first,))
        return reached


def record(function: Callable, args: tuple, differentiated: list[int]) -> tuple[Tape, list[Any], list[Any], Structure, list[Structure]]:
    """Run function(*args) on a tape: (tape, leaves of the differentiated arguments, output leaves, output structure, structures)."""
    tape = Tape(current())
    lifted, inputs, structures = list(args), [], []
    for i in differentiated:
        leaves, structure = flatten(args[i])
        cells = [tape.lift(freeze(x)) if aval_of(x).dtype.kind == "f" else x for x in leaves]
        lifted[i] = unflatten(structure, cells)
        inputs += [c if isinstance(c, Tracer) and c.owner is tape else None for c in cells]
        structures.append(structure)
    with interpreting(tape):
        outputs, out_structure = flatten(function(*lifted))
        outputs = [freeze(x) for x in outputs]
        for x in outputs:
            tape.holds(x)
    tape.open = False
    return tape, inputs, outputs, out_structure, structures


def value_of(tape: Tape, x: Any) -> Any:
    """The value of an output of a finished tape."""
    return x.payload[0] if isinstance(x, Tracer) and x.owner is tape else x


def cotangent_leaves(tape: Tape, outputs: list, y_bars: list, inputs: list) -> list:
    """One cotangent per differentiated leaf: None for leaves that are not floating, zeros where nothing arrives."""
    seeds: dict[int, Any] = {}
    for y, y_bar in zip(outputs, y_bars, strict=True):
        if isinstance(y, Tracer) and y.owner is tape and y_bar is not None and y.aval.dtype.kind == "f":
            key = y.payload[1]
            seeds[key] = y_bar if key not in seeds else bind(TABLE["add"], seeds[key], y_bar)
    bars = tape.pull_back(seeds, {x.payload[1] for x in inputs if x is not None})
    return [None if x is None else _filled(bars.get(x.payload[1]), x.aval) for x in inputs]


def _filled(bar: Any, aval: Aval) -> Any:
    return np.zeros(aval.shape, aval.dtype)[()] if bar is None else bar


def split(structures: list[Structure], leaves: list) -> list:
    """The trees of several structures from one list of leaves."""
    trees, at = [], 0
    for s in structures:
        trees.append(unflatten(s, leaves[at:at + s.leaf_count]))
        at += s.leaf_count
    return trees


def vjp(function: Callable, *primals: Any) -> tuple[Any, Callable[[Any], tuple]]:
    """(y, pullback) with y = function(*primals) and pullback(y_bar) = J(primals)^T y_bar, one tree per primal.

    Type: vjp : (a -> b) -> a -> (b, T*b -> T*a). Cost: the function once, its tape kept; each pullback at most a small multiple of it.
    Raises: TreeError if y_bar has another structure than y; ShapeError if a leaf has another shape.
    Source: Griewank and Walther, Evaluating Derivatives, 2nd ed., SIAM 2008, section 3.2.

    >>> import numpy as np
    >>> y, pullback = vjp(lambda x, w: x @ w, np.ones((2, 3)), np.ones((3, 4)))
    >>> [bar.shape for bar in pullback(np.ones((2, 4)))]
    [(2, 3), (3, 4)]
    """
    tape, inputs, outputs, out_structure, structures = record(function, primals, list(range(len(primals))))
    y = unflatten(out_structure, [value_of(tape, x) for x in outputs])

    def pullback(y_bar: Any) -> tuple:
        return tuple(split(structures, cotangent_leaves(tape, outputs, _check_cotangents(y_bar, outputs, out_structure), inputs)))
    return y, pullback


def _check_cotangents(y_bar: Any, outputs: list, structure: Structure) -> list:
    leaves, found = flatten(y_bar)
    if len(leaves) != len(outputs):
        raise ShapeError(explain(f"pullback: the cotangent has structure {found}, the output has {structure}."))
    checked = []
    for bar, y in zip(leaves, outputs, strict=True):
        expected, given = aval_of(y), aval_of(bar)
        if given.shape != expected.shape:
            raise ShapeError(explain(f"pullback: a cotangent is {given}, the output is {expected}."))
        if given.dtype != expected.dtype or given.weak:
            bar = bind(TABLE["convert"], bar, dtype=expected.dtype)
        checked.append(bar)
    return checked


def value_and_grad(function: Callable, argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Callable:
    """(f(x), grad f(x)) at the cost of f times a small constant, whatever the number of inputs.

    argnums: which arguments are differentiated; a tuple gives a tuple of gradients. has_aux: f returns (y, aux), and so does the value.
    Leaves that are not floating get None. Raises: NotDifferentiableError if y is not a floating scalar, or nothing is floating.
    Source: Baur and Strassen, The complexity of partial derivatives, TCS 22 (1983); mission: y, x1_bar, x2_bar at (2, 5).

    >>> import numpy as np
    >>> value_and_grad(lambda x: (x * x).sum())(np.array([1.0, 2.0]))
    (np.float64(5.0), array([2., 4.]))
    """
    numbers = (argnums,) if isinstance(argnums, int) else tuple(argnums)

    def value_and_gradient(*args: Any, **kwargs: Any) -> tuple:
        _check_argnums(numbers, args)
        aux: list = []

        def scalar(*xs: Any) -> Any:
            y = function(*xs, **kwargs)
            if has_aux:
                y, extra = y
                aux.append(extra)
            return y
        tape, inputs, outputs, out_structure, structures = record(scalar, args, list(numbers))
        y_bar = _seed(outputs, out_structure, inputs)
        bars = split(structures, cotangent_leaves(tape, outputs, [y_bar], inputs))
        value = value_of(tape, outputs[0])
        if has_aux:
            leaves, structure = flatten(aux[0])
            value = value, unflatten(structure, [value_of(tape, x) for x in leaves])
        return value, bars[0] if isinstance(argnums, int) else tuple(bars)
    return value_and_gradient


def grad(function: Callable, argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Callable:
    """The gradient of a scalar function: x -> df/dx, a tree like x. With has_aux: (gradient, aux).

    Cost: a small multiple of f, whatever the number of inputs (reverse mode). Raises as value_and_grad.

    >>> import numpy as np
    >>> def f(x): return np.log(x[0]) + x[0] * x[1] - np.sin(x[1])
    >>> grad(f)(np.array([2.0, 5.0]))
    array([5.5       , 1.71633781])
    """
    both = value_and_grad(function, argnums, has_aux)

    def gradient(*args: Any, **kwargs: Any) -> Any:
        value, bars = both(*args, **kwargs)
        return (bars, value[1]) if has_aux else bars
    return gradient


def _check_argnums(numbers: tuple, args: tuple) -> None:
    for n in numbers:
        if not -len(args) <= n < len(args):
            raise ShapeError(explain(f"grad: argnums names argument {n}, the function was called with {len(args)}.",
                                     remedy="Pass the differentiated arguments by position."))


def _seed(outputs: list, structure: Structure, inputs: list) -> Any:
    if all(x is None for x in inputs):
        raise NotDifferentiableError(explain("grad: no differentiated argument holds a floating number.",
                                             remedy="Convert integers first: x.astype(np.float64)."))
    if len(outputs) != 1 or aval_of(outputs[0]).shape != ():
        found = str(aval_of(outputs[0])) if len(outputs) == 1 else f"{len(outputs)} values: {structure}"
        raise NotDifferentiableError(explain(f"grad: the function must return one number, it returned {found}.",
                                             remedy="Reduce it, for example with .sum() or .mean(); for all derivatives use jacobian."))
    aval = aval_of(outputs[0])
    if aval.dtype.kind != "f":
        raise NotDifferentiableError(explain(f"grad: the function returned {aval}, which is not floating."))
    return np.ones((), aval.dtype)[()]
