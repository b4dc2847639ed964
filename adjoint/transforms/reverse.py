"""Reverse mode: a tape remembers every operation, and is walked backwards with the rows' vjps.

vjp : (a -> b) -> a -> (b, T*b -> T*a). Invariant: the tape is a flat list, so depth costs no recursion; cotangents have the aval of
their primal; id 0 marks values that no differentiated input reaches. May import: L0-L2. Read next: forward.py, derivatives.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ..core.aval import Aval, aval_of
from ..core.interpreter import EVALUATION, Interpreter, Tracer, current, enter, interpreting, leave, refuse, typed_like
from ..core.primitive import TABLE, bind
from ..core.trace import freeze
from ..errors import MutationError, NotDifferentiableError, ShapeError, explain
from ..primitives.kinds import zeros_of
from ..tree import Structure, flatten, unflatten

ndarray = np.ndarray
_SAMPLED = 64           # elements of a saved array that are compared before the backward pass


class Tape(Interpreter):
    """Performs each primitive in the enclosing interpreter and records what an input reaches.

    The payload of its tracers is (value, id). An entry is (primitive, arguments, params, result, parents' ids, id of the result).
    """

    name = "reverse mode"

    def __init__(self, outer: Interpreter):
        super().__init__(outer)
        self.entries: list[tuple] = []
        self.count = 0
        self.saved: dict[int, tuple[np.ndarray, bytes]] = {}
        self.varied: dict[tuple, tuple] = {}            # replicated values that were made to vary (see transforms/ranks.py)

    def lift(self, x: Any) -> Tracer:
        """An input of the tape."""
        self.count += 1
        return Tracer(self, (x, self.count), aval_of(x), True)

    def underlying(self, x: Tracer) -> Any:
        return x.payload[0]

    def differentiates(self, x: Tracer) -> bool:
        return x.payload[1] != 0

    def interpret(self, primitive: Any, args: tuple, params: dict) -> Any:
        xs, parents, reached, plain = [], [], 0, True
        for a in args:
            parent = 0
            if type(a) is Tracer:
                if a.owner is not self:
                    a, plain = freeze(a), False
                else:
                    if a.view_on is not None:
                        a.view_on.refresh(a)
                    a, parent = a.payload
                    reached |= parent
            elif type(a) is ndarray:
                self.save(a)
            xs.append(a)
            parents.append(parent)
        if plain and self.outer is EVALUATION and not (reached and primitive.augment):
            try:
                y = primitive.body(*xs, **params) if params else primitive.body(*xs)
            except ValueError:
                refuse(primitive, xs, params)
                raise
        else:
            y, params = self._perform(primitive, xs, parents, params)
        if primitive.multiple:
            return self._record_many(primitive, xs, params, y, parents, reached)
        aval = aval_of(y)
        if not reached or aval.dtype.kind != "f" or primitive.kind == "constant":
            return Tracer(self, (y, 0), aval)
        self.count = number = self.count + 1
        self.entries.append((primitive, tuple(xs), params, y, tuple(parents), number))     # tuples: half the memory of lists
        return Tracer(self, (y, number), aval)

    def _perform(self, primitive: Any, xs: list, parents: list, params: dict) -> tuple[Any, dict]:
        """The result in the enclosing interpreter, and the parameters with what the row saves for its vjp."""
        token = enter(self.outer)
        try:
            for types in self.typing:
                self._vary(types, primitive, xs, parents, params)
            if any(parents) and primitive.augment:
                return primitive.augment(tuple(xs), tuple(map(bool, parents)), params)
            return self.outer.interpret(primitive, xs, params), params
        finally:
            leave(token)

    def _vary(self, types: Any, primitive: Any, xs: list, parents: list, params: dict) -> None:
        """Where varying values are wanted, let replicated ones that an input reaches vary from here on; each once, so that its cotangents
        are added before they are summed over the ranks."""
        replicated = types.to_vary(primitive, xs, params)
        for i in [i for i in replicated if parents[i]]:
            key = types, parents[i]
            if key not in self.varied:
                y = types.vary(xs[i])
                self.count += 1
                self.entries.append((types.row, (xs[i],), {"ranks": types.ranks}, y, (parents[i],), self.count))
                self.varied[key] = y, self.count
            xs[i], parents[i] = self.varied[key]

    def _record_many(self, primitive: Any, xs: list, params: dict, ys: tuple, parents: list, reached: int) -> tuple:
        avals = list(map(aval_of, ys))
        first = self.count + 1
        if not reached:
            return tuple([Tracer(self, (y, 0), aval) for y, aval in zip(ys, avals, strict=True)])
        self.count += len(ys)
        self.entries.append((primitive, tuple(xs), params, ys, tuple(parents), first))
        return tuple([Tracer(self, (y, first + i if aval.dtype.kind == "f" else 0), aval)
                      for i, (y, aval) in enumerate(zip(ys, avals, strict=True))])

    def save(self, x: np.ndarray) -> None:
        """Remember a sample of the user's array, to notice if it is overwritten before the backward pass reads it."""
        key = id(x)
        if key not in self.saved:
            self.saved[key] = x, _sample(x)

    def check_saved(self) -> None:
        for x, sample in self.saved.values():
            if _sample(x) != sample:
                raise MutationError(explain(
                    f"an array {aval_of(x)} that the backward pass needs was changed in place after it was used.",
                    remedy="Give each use its own array: pass x.copy(), or call the pullback before changing x."))

    def pull_back(self, bars: list) -> None:
        """Fill `bars` (cotangents by id, those of the outputs given) in reverse order of the record; paths are summed."""
        if self.saved:
            self.check_saved()
        add = TABLE["add"]
        for primitive, xs, params, y, parents, first in reversed(self.entries):
            if primitive.multiple:
                found = bars[first:first + len(y)]
                if all([bar is None for bar in found]):
                    continue
                y_bar = tuple([zeros_of(aval_of(v)) if bar is None else bar for v, bar in zip(y, found, strict=True)])
                bars[first:first + len(y)] = [None] * len(y)
            else:
                y_bar = bars[first]
                if y_bar is None:
                    continue
                bars[first] = None
            x_bars = primitive.vjp(xs, y, y_bar, parents, **params) if params else primitive.vjp(xs, y, y_bar, parents)
            for parent, bar in zip(parents, x_bars):  # noqa: B905 (of equal length; the check would double the loop's cost)
                if parent and bar is not None:
                    known = bars[parent]
                    bars[parent] = bar if known is None else bind(add, known, bar)


def _sample(x: np.ndarray) -> bytes:
    flat = x if x.ndim == 1 else x.reshape(-1) if x.flags.c_contiguous else x[tuple([slice(None, None, -(-n // 8) or 1) for n in x.shape])]
    return flat[::-(-flat.shape[0] // _SAMPLED) or 1].tobytes() if flat.ndim == 1 else flat.tobytes()


def record(function: Callable, args: tuple, differentiated: list[int]) -> tuple[Tape, list[Any], list[Any], Structure, list[Structure]]:
    """Run function(*args) on a tape: (tape, leaves of the differentiated arguments, output leaves, output structure, structures)."""
    tape = Tape(current())
    lifted, inputs, structures = list(args), [], []
    for i in differentiated:
        leaves, structure = flatten(args[i])
        cells = []
        for x in leaves:
            if aval_of(x).dtype.kind == "f":
                if type(x) is np.ndarray:
                    tape.save(x)
                x = tape.lift(freeze(x))
                inputs.append(x)
            else:
                inputs.append(None)
            cells.append(x)
        lifted[i] = unflatten(structure, cells)
        structures.append(structure)
    try:
        with interpreting(tape):
            outputs, out_structure = flatten(function(*lifted))
            outputs = [freeze(x) for x in outputs]
            for x in outputs:
                tape.holds(x)
    finally:
        tape.open = False
    return tape, inputs, outputs, out_structure, structures


def value_of(tape: Tape, x: Any) -> Any:
    """The value of an output of a finished tape."""
    return x.payload[0] if isinstance(x, Tracer) and x.owner is tape else x


def cotangent_leaves(tape: Tape, outputs: list, y_bars: list, inputs: list) -> list:
    """One cotangent per differentiated leaf: None for leaves that are not floating, zeros where nothing arrives."""
    bars: list = [None] * (tape.count + 1)
    for y, y_bar in zip(outputs, y_bars, strict=True):
        if isinstance(y, Tracer) and y.owner is tape and y_bar is not None and y.payload[1]:
            key = y.payload[1]
            bars[key] = y_bar if bars[key] is None else bind(TABLE["add"], bars[key], y_bar)
    tape.pull_back(bars)
    return [None if x is None else typed_like(_filled(bars[x.payload[1]], x.aval), x) for x in inputs]


def _filled(bar: Any, aval: Aval) -> Any:
    return zeros(aval) if bar is None else bar


def zeros(aval: Aval) -> Any:
    """Zeros that the user may own: NumPy's at the ground level, an operation inside a transformation."""
    return np.zeros(aval.shape, aval.dtype)[()] if current() is EVALUATION else zeros_of(aval)


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
        raise ShapeError(explain(f"pullback: the cotangent has structure {found}, the output has {structure}.",
                                remedy="Give one cotangent for each output, in the same tree."))
    checked = []
    for bar, y in zip(leaves, outputs, strict=True):
        expected, given = aval_of(y), aval_of(bar)
        if given.shape != expected.shape:
            raise ShapeError(explain(f"pullback: a cotangent is {given}, the output is {expected}.",
                                    remedy="A cotangent has the shape and dtype of its output: np.ones_like(y)."))
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

    @functools.wraps(function)
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

    @functools.wraps(function)
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
                                             remedy="Convert integers first: x.astype(np.float64), 3.0 for 3."))
    if len(outputs) != 1 or aval_of(outputs[0]).shape != ():
        found = str(aval_of(outputs[0])) if len(outputs) == 1 else f"{len(outputs)} values: {structure}"
        raise NotDifferentiableError(explain(f"grad: the function must return one number, it returned {found}.",
                                             remedy="Reduce it, for example with .sum() or .mean(); for all derivatives use jacobian."))
    aval = aval_of(outputs[0])
    if aval.dtype.kind != "f":
        raise NotDifferentiableError(explain(f"grad: the function returned {aval}, which is not floating.",
                                             remedy="Return a floating number; integers and booleans have no derivative."))
    return np.ones((), aval.dtype)[()]
