"""Kinds of rows: what a row of each kind must say, and what follows from it.

Invariant: everything derived here is written with the package's own operations, so every derivative can be differentiated again.
May import: L0, core, broadcasting, samples. Read next: arithmetic.py, where the rows begin.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.aval import Aval, aval_of
from ..core.interpreter import EVALUATION, Tracer, current
from ..core.primitive import TABLE, Primitive, bind, register
from ..errors import DtypeError, ShapeError, explain
from .broadcasting import (
    align,
    broadcast_shape,
    common_dtype,
    fill_out,
    full,
    keep_axes,
    move_axis,
    move_front,
    promote_args,
    promote_arrays,
    promote_floating,
    spread,
    unbroadcast,
    zeros_of,
)
from .samples import draw, elementwise_samples, reduction_samples

__all__ = ["Contract", "Control", "Convolve", "General", "Reduce", "Scalar", "Strided", "add_all", "align", "along", "bilinear",
           "broadcast_shape", "common_dtype", "constant", "draw", "elementwise", "elementwise_samples", "fill_out", "full", "general",
           "keep_axes", "linear", "move_axis", "move_front", "promote_args", "promote_arrays", "promote_floating", "reduction",
           "reduction_samples", "spread", "stepwise", "unbroadcast", "zeros_of"]

# ------------------------------------------------------------------------------------------------ what the compiler matches on


@dataclass(frozen=True)
class Scalar:
    """Elementwise: emit(e, *scalars, **params) -> scalar, in the emitter's operations."""

    emit: Callable


@dataclass(frozen=True)
class Strided:
    """The result is a strided view of the argument: view(offset, shape, strides, **params) -> (offset, shape, strides) or None (copy)."""

    view: Callable


@dataclass(frozen=True)
class Reduce:
    """A reduction over the parameter `axes` with a fixed order: combine is one of the Fold combines of the loop IR."""

    combine: str


@dataclass(frozen=True)
class Contract:
    """A sum of products: spec(*avals, **params) -> (letters of a, letters of b, letters of the result), einsum's meaning."""

    spec: Callable


@dataclass(frozen=True)
class Convolve:
    """A sum of products along windows: spec(*avals, **params) -> (letters of x, of w, of the result, walks).

    A letter of x that stands in no other word is walked: a walk is (letter of x, of the result, of w, stride, dilation, low, spread), and
    the element that place o of the result and t of w meet lies at (o stride + t dilation - low) / spread, if it lies anywhere.
    """

    spec: Callable


@dataclass(frozen=True)
class General:
    """Loops written by the row: lower(e, inputs, outputs, **params) on the emitter's structural operations."""

    lower: Callable


@dataclass(frozen=True)
class Control:
    """Control flow over the row's Graph params: "scan", "while" or "cond" (see transforms/scan.py and its neighbours)."""

    construct: str


@dataclass(frozen=True)
class along:
    """A partial given as the linear map it is: map(t, y, *xs) = partial * t, where no zero can meet an infinity."""

    map: Callable


def add_all(terms: list) -> Any:
    """The sum of terms, first to last."""
    total = terms[0]
    for t in terms[1:]:
        total = bind(TABLE["add"], total, t)
    return total


def _name(body: Callable) -> str:
    return body.__name__.rstrip("_")


def _batch_rule(batch: Callable, row: list) -> Callable:
    return lambda args, bdims, /, **params: batch(row[0], args, bdims, **params)


# ------------------------------------------------------------------------------------------------ elementwise


def elementwise(*, partials: tuple, lower: Callable | None, domain: Any = (-2.0, 2.0), floating: bool = False, operator: bool = False,
                out: np.dtype | None = None, accepts: str = "biuf", kinks: tuple = (), bound: float = 1.0, samples: Callable | None = None,
                kind: str = "elementwise", prepare: Callable | None = None, **traits: Any) -> Callable[[Callable], Primitive]:
    """A row that maps element to element, one partial per argument, given from the output and the arguments: partial(y, *xs, **params).

    A partial is a function (applied by `scale`: 0 times infinity is 0), an `along` (the linear map itself), or None (no derivative).
    domain: one (low, high) for all arguments or one each. kinks: ((arguments, values of the partials there), ...), each tested.
    accepts: dtype kinds. operator: Python scalars among themselves stay Python's (weak), as the operator on them would give.
    bound: forward error in ulps of NumPy's body and of the native code, float32 and float64.
    """
    def decorate(body: Callable) -> Primitive:
        name, arity = _name(body), len(partials)
        terms = tuple(map(_term, partials))

        def shape(*avals: Aval, **params: Any) -> Aval:
            dtype = common_dtype(avals, floating)
            if dtype.kind not in accepts:
                raise _refused(name, avals)
            return Aval(broadcast_shape(name, avals), out or dtype, operator and all([a.weak for a in avals]))

        def jvp(primals: tuple, tangents: tuple, y: Any, **params: Any) -> Any:
            aval = aval_of(y)
            if aval.dtype.kind != "f":
                return None
            found = [term(t, y, primals, params) for term, t in zip(terms, tangents, strict=True) if t is not None and term is not None]
            return fill_out(add_all(found), aval) if found else None

        def vjp(primals: tuple, y: Any, y_bar: Any, active: tuple, **params: Any) -> list:
            bars: list = []
            for term, wanted, x in zip(terms, active, primals):  # noqa: B905 (of equal length; this is the tape's innermost loop)
                if not wanted or term is None:
                    bars.append(None)
                    continue
                bar, aval = term(y_bar, y, primals, params), aval_of(x)
                bars.append(bar if aval_of(bar) == aval else unbroadcast(bar, aval))
            return bars

        row = register(Primitive(
            name, kind, body, shape, jvp, vjp, lambda args, axes, **params: (bind(row, *align(args, axes), **params), 0),
            Scalar(lower) if lower else None, samples=samples or (lambda rng: elementwise_samples(rng, arity, domain)), bound=bound,
            doc=body.__doc__ or "",
            traits=dict(traits, domain=domain, kinks=kinks, floating=floating, operator=operator, accepts=accepts),
            prepare=prepare or (promote_floating if floating else promote_args)))
        return row
    return decorate


def _term(partial: Any) -> Callable | None:
    """term(t, y, xs, params) = t times a partial."""
    if partial is None:
        return None
    if isinstance(partial, along):
        rule = partial.map
        return lambda t, y, xs, params: rule(t, y, *xs, **params) if params else rule(t, y, *xs)
    return lambda t, y, xs, params: scaled(t, partial(y, *xs, **params) if params else partial(y, *xs))


def scaled(t: Any, p: Any) -> Any:
    """The row `scale`; at the ground level its body at once."""
    interpreter, row = current(), TABLE["scale"]
    if interpreter is EVALUATION and type(t) is not Tracer is not type(p):
        return row.body(t, p)
    return interpreter.interpret(row, (t, p), {})


def _refused(name: str, avals: tuple) -> DtypeError:
    return DtypeError(explain(f"{name} is not defined for {' and '.join(map(str, avals))}.", remedy="Convert first: x.astype(...)."))


def stepwise(*, reason: str, arity: int, lower: Callable | None, **options: Any) -> Callable[[Callable], Primitive]:
    """An elementwise row whose derivative is zero by declaration, for a reason (piecewise constant, or not a number)."""
    return elementwise(partials=(None,) * arity, lower=lower, kind="constant", reason=reason, **{"bound": 0.0, **options})


# ------------------------------------------------------------------------------------------------ linear, bilinear, reduction, ...


def linear(*, shape: Callable, transposes: Any, batch: Callable, lowering: Any, samples: Callable, linear_in: int | None = None,
           prepare: Callable | None = None, bound: float = 0.0, **traits: Any) -> Callable[[Callable], Primitive]:
    """A row linear in its first arguments together (all of them, or `linear_in` many; the rest, such as indices, have no derivative).

    transposes: a tuple with one function per linear argument, transposes[i](y_bar, *avals_and_rest, **params), or for any number of
    arguments one function (i, y_bar, *avals_and_rest, **params). Linear arguments are passed as avals, the rest as values.
    """
    def decorate(body: Callable) -> Primitive:
        row: list = []

        def jvp(primals: tuple, tangents: tuple, y: Any, **params: Any) -> Any:
            count = len(primals) if linear_in is None else linear_in
            if all([t is None for t in tangents[:count]]) or aval_of(y).dtype.kind != "f":
                return None
            filled = [zeros_of(aval_of(x)) if t is None else t for x, t in zip(primals[:count], tangents, strict=False)]
            return bind(row[0], *filled, *primals[count:], **params)

        def vjp(primals: tuple, y: Any, y_bar: Any, active: tuple, **params: Any) -> list:
            count = len(primals) if linear_in is None else linear_in
            given = [*map(aval_of, primals[:count]), *primals[count:]]
            rule = transposes if callable(transposes) else lambda i, *args, **kw: transposes[i](*args, **kw)
            return [rule(i, y_bar, *given, **params) if i < count and active[i] else None for i in range(len(primals))]

        row.append(register(Primitive(_name(body), "linear", body, shape, jvp, vjp, _batch_rule(batch, row), lowering, samples=samples,
                                      bound=bound, doc=body.__doc__ or "", traits=dict(traits, linear_in=linear_in), prepare=prepare)))
        return row[0]
    return decorate


def bilinear(*, shape: Callable, transposes: tuple, batch: Callable, lowering: Any, samples: Callable, prepare: Callable = promote_arrays,
             **traits: Any) -> Callable[[Callable], Primitive]:
    """A row linear in each of two arguments; transposes[i](y_bar, x, w, **params) is the cotangent of argument i."""
    def decorate(body: Callable) -> Primitive:
        row: list = []

        def jvp(primals: tuple, tangents: tuple, y: Any, **params: Any) -> Any:
            (x, w), (x_dot, w_dot) = primals, tangents
            terms = [bind(row[0], x_dot, w, **params)] if x_dot is not None else []
            terms += [bind(row[0], x, w_dot, **params)] if w_dot is not None else []
            return add_all(terms) if terms else None

        def vjp(primals: tuple, y: Any, y_bar: Any, active: tuple, **params: Any) -> list:
            return [rule(y_bar, *primals, **params) if wanted else None for rule, wanted in zip(transposes, active, strict=True)]

        row.append(register(Primitive(_name(body), "bilinear", body, shape, jvp, vjp, _batch_rule(batch, row), lowering,
                                      samples=samples, doc=body.__doc__ or "", traits=traits, prepare=prepare)))
        return row[0]
    return decorate


def reduced_aval(name: str, x: Aval, axes: tuple, out: np.dtype | None = None, empty: bool = True) -> Aval:
    """The aval of a reduction; empty: whether a reduction over no elements has a value."""
    if not empty and any(x.shape[i] == 0 for i in axes):
        raise ShapeError(explain(f"{name}: no elements to choose from: {x} along axes {axes}.",
                                 remedy="Check that the array is not empty, or give it a first element with concatenate."))
    return Aval(tuple([n for i, n in enumerate(x.shape) if i not in axes]), out or x.dtype)


def reduction(*, combine: str, partial: Callable | None, out: np.dtype | None = None, samples: Callable | None = None, empty: bool = True,
              domain: Any = (-2.0, 2.0), prepare: Callable | None = None, bound: float = 1.0,
              **traits: Any) -> Callable[[Callable], Primitive]:
    """A row that combines the elements along `axes` (a sorted tuple; the axes vanish).

    partial(y, x, axes): dy/dx with the shape of x, y with its axes kept as 1; None: no derivative, for the `reason` among the traits.
    empty: False if it has no identity.
    """
    def decorate(body: Callable) -> Primitive:
        name = _name(body)

        def weights(y: Any, x: Any, axes: tuple) -> Any:
            return partial(keep_axes(y, aval_of(x), axes), x, axes)

        def jvp(primals: tuple, tangents: tuple, y: Any, *, axes: tuple) -> Any:
            if tangents[0] is None or partial is None:
                return None
            return bind(TABLE["sum"], bind(TABLE["scale"], tangents[0], weights(y, primals[0], axes)), axes=axes)

        def vjp(primals: tuple, y: Any, y_bar: Any, active: tuple, *, axes: tuple) -> list:
            if partial is None or not active[0]:
                return [None]
            return [bind(TABLE["scale"], spread(y_bar, aval_of(primals[0]), axes), weights(y, primals[0], axes))]

        def batch(args: tuple, bdims: tuple, *, axes: tuple) -> tuple:
            return bind(row, move_front(args[0], bdims[0]), axes=tuple(a + 1 for a in axes)), 0

        row = register(Primitive(name, "reduction" if partial else "constant", body,
                                 lambda x, *, axes: reduced_aval(name, x, axes, out, empty), jvp, vjp, batch, Reduce(combine),
                                 samples=samples or (lambda rng: reduction_samples(rng, domain, empty)), bound=bound,
                                 doc=body.__doc__ or "", traits=dict(traits, domain=domain, empty=empty), prepare=prepare))
        return row
    return decorate


def constant(*, reason: str, shape: Callable, batch: Callable, lowering: Any, samples: Callable, prepare: Callable | None = None,
             bound: float = 0.0, **traits: Any) -> Callable[[Callable], Primitive]:
    """A row whose derivative is zero by declaration, for a reason (piecewise constant, integer)."""
    def decorate(body: Callable) -> Primitive:
        row: list = []
        row.append(register(Primitive(_name(body), "constant", body, shape, lambda primals, tangents, y, **kw: None,
                                      lambda primals, y, y_bar, active, **kw: [None] * len(primals), _batch_rule(batch, row), lowering,
                                      samples=samples, bound=bound, doc=body.__doc__ or "", traits=dict(traits, reason=reason),
                                      prepare=prepare)))
        return row[0]
    return decorate


def general(*, shape: Callable, jvp: Callable, vjp: Callable, batch: Callable, lowering: Any, samples: Callable,
            prepare: Callable | None = None, bound: float = 1.0, multiple: bool = False,
            effects: frozenset = frozenset(), **traits: Any) -> Callable[[Callable], Primitive]:
    """A row that says everything itself; the dot-product test keeps its jvp and vjp honest."""
    def decorate(body: Callable) -> Primitive:
        return register(Primitive(_name(body), "general", body, shape, jvp, vjp, batch, lowering, samples=samples, prepare=prepare,
                                  bound=bound, multiple=multiple, effects=effects, doc=body.__doc__ or "", traits=traits))
    return decorate
