"""Kinds of rows: what a row of each kind must say, and what follows from it.

Invariant: everything derived here is written with the package's own operations, so every derivative can be differentiated again.
May import: L0, core. Read next: arithmetic.py, where the rows begin.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.aval import Aval, aval_of, is_weak_scalar, result_dtype
from ..core.interpreter import EVALUATION, Tracer, current
from ..core.primitive import TABLE, Primitive, bind, register
from ..dtypes import BOOL, FLOAT64
from ..errors import ShapeError, explain

# ------------------------------------------------------------------------------------------------ what the compiler matches on


@dataclass(frozen=True)
class Scalar:
    """Elementwise: emit(e, *scalars) -> scalar, in the emitter's operations."""

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
class General:
    """Loops written by the row: lower(e, inputs, outputs, **params) on the emitter's structural operations."""

    lower: Callable


@dataclass(frozen=True)
class along:
    """A partial given as the linear map it is: map(t, y, *xs) = partial * t, where no zero can meet an infinity."""

    map: Callable


# ------------------------------------------------------------------------------------------------ broadcasting


def broadcast_shape(name: str, avals: tuple[Aval, ...]) -> tuple[int, ...]:
    """NumPy's broadcast shape, or ShapeError in the user's terms."""
    shapes = [a.shape for a in avals]
    if all(s == shapes[0] for s in shapes):
        return shapes[0]
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        raise ShapeError(explain(f"{name}: shapes do not broadcast: {' and '.join(map(str, avals))}.",
                                 remedy="Axes are aligned from the last; sizes must be equal or 1. Reshape one operand.")) from None


def unbroadcast(x: Any, aval: Aval) -> Any:
    """Sum over the axes that broadcasting added or stretched, so that the result has the shape and dtype of `aval`."""
    found = aval_of(x)
    if found.shape != aval.shape:
        extra = found.ndim - aval.ndim
        axes = tuple(i for i, n in enumerate(found.shape) if i < extra or (aval.shape[i - extra] == 1 and n != 1))
        if axes:
            x = bind(TABLE["sum"], x, axes=axes)
        if aval_of(x).shape != aval.shape:
            x = bind(TABLE["reshape"], x, shape=aval.shape)
    return x if found.dtype == aval.dtype else bind(TABLE["convert"], x, dtype=aval.dtype)


def fill_out(x: Any, aval: Aval) -> Any:
    """Broadcast and convert x to the shape and dtype of `aval`."""
    if aval_of(x).shape != aval.shape:
        x = bind(TABLE["broadcast"], x, shape=aval.shape)
    return x if aval_of(x).dtype == aval.dtype else bind(TABLE["convert"], x, dtype=aval.dtype)


def zeros_of(aval: Aval) -> Any:
    """Zeros of a shape without their memory: a broadcast of one number, recorded as such in a trace (never a captured array)."""
    zero = np.zeros((), aval.dtype)[()]
    return bind(TABLE["broadcast"], zero, shape=aval.shape) if aval.shape else zero


def move_front(x: Any, axis: int) -> Any:
    """The same array with one axis moved to the front."""
    ndim = aval_of(x).ndim
    return x if axis == 0 else bind(TABLE["permute"], x, axes=(axis, *(i for i in range(ndim) if i != axis)))


def align(args: tuple, axes: tuple) -> list:
    """Batch axes to the front, ranks padded behind them, so that broadcasting is still per example."""
    rank = max(aval_of(a).ndim - (ax is not None) for a, ax in zip(args, axes, strict=True))
    out = []
    for a, ax in zip(args, axes, strict=True):
        if ax is not None:
            a = move_front(a, ax)
            shape = aval_of(a).shape
            if len(shape) - 1 < rank:
                a = bind(TABLE["reshape"], a, shape=(shape[0], *(1,) * (rank - len(shape) + 1), *shape[1:]))
        out.append(a)
    return out


# ------------------------------------------------------------------------------------------------ promotion


def promote_args(args: tuple, floating: bool = False) -> tuple:
    """The arguments in their common dtype; Python scalars stay weak. floating: integers become float64, as in np.sin."""
    if current() is EVALUATION and not any(isinstance(a, Tracer) for a in args):
        return args
    dtype = result_dtype(*args)
    if floating and dtype.kind != "f":
        dtype = FLOAT64
    return tuple(_in_dtype(a, dtype) for a in args)


def _in_dtype(x: Any, dtype: np.dtype) -> Any:
    if is_weak_scalar(x):
        return float(x) if dtype.kind == "f" else x
    if aval_of(x).dtype == dtype:
        return x
    if not isinstance(x, Tracer):
        return np.asarray(x).astype(dtype)
    return bind(TABLE["convert"], x, dtype=dtype)


# ------------------------------------------------------------------------------------------------ elementwise


def elementwise(*, partials: tuple, lower: Callable, domain: Any = (-2.0, 2.0), floating: bool = False, out: np.dtype | None = None,
                kinks: tuple = (), bound: float = 1.0, **traits: Any) -> Callable[[Callable], Primitive]:
    """A row that maps element to element, one partial per argument, given from the output and the arguments: partial(y, *xs).

    A partial is a function (applied by `scale`: 0 times infinity is 0), an `along` (the linear map itself), or None (no derivative).
    domain: one (low, high) for all arguments or one each; kinks: points that derivative tests keep away from.
    """
    def decorate(body: Callable) -> Primitive:
        name = body.__name__.rstrip("_")
        arity = len(partials)

        def shape(*avals: Aval) -> Aval:
            dtype = out if out is not None else np.result_type(*map(promotion_operand_of, avals))
            return Aval(broadcast_shape(name, avals), dtype, all(a.weak for a in avals))

        def term(partial: Any, t: Any, y: Any, xs: tuple) -> Any:
            if isinstance(partial, along):
                return partial.map(t, y, *xs)
            return bind(TABLE["scale"], t, partial(y, *xs))

        def jvp(primals: tuple, tangents: tuple, y: Any) -> Any:
            aval = aval_of(y)
            if aval.dtype.kind != "f":
                return None
            terms = [term(p, t, y, primals) for p, t in zip(partials, tangents, strict=True) if t is not None and p is not None]
            return fill_out(add_all(terms), aval) if terms else None

        def vjp(primals: tuple, y: Any, y_bar: Any, active: tuple) -> list:
            return [unbroadcast(term(p, y_bar, y, primals), aval_of(x)) if wanted and p is not None else None
                    for p, wanted, x in zip(partials, active, primals, strict=True)]

        def batch(args: tuple, axes: tuple) -> tuple:
            return bind(row, *align(args, axes)), 0

        row = register(Primitive(name, "elementwise", body, shape, jvp, vjp, batch, Scalar(lower),
                                 samples=lambda rng: elementwise_samples(rng, arity, domain), bound=bound, doc=body.__doc__ or "",
                                 traits=dict(traits, domain=domain, kinks=kinks, floating=floating),
                                 prepare=lambda args: promote_args(args, floating)))
        return row
    return decorate


def promotion_operand_of(aval: Aval) -> Any:
    return {"b": False, "i": 0, "u": 0, "f": 0.0}[aval.dtype.kind] if aval.weak else aval.dtype


def add_all(terms: list) -> Any:
    """The sum of terms, first to last."""
    total = terms[0]
    for t in terms[1:]:
        total = bind(TABLE["add"], total, t)
    return total


def elementwise_samples(rng: np.random.Generator, arity: int, domain: Any) -> list:
    """Arguments of equal, broadcast, 0-d and empty shapes, drawn from the domain."""
    domains = [domain] * arity if np.ndim(domain[0]) == 0 else list(domain)
    kinds = [[(3, 4)], [()], [(0, 2)], [(1,)]] if arity == 1 else \
        [[(3, 4)] * arity, [(3, 4), *[(4,)] * (arity - 1)], [(2, 1, 3), *[(4, 1)] * (arity - 1)], [()] * arity, [(5, 0)] * arity]
    return [(tuple(draw(rng, d, s) for d, s in zip(domains, shapes, strict=True)), {}) for shapes in kinds]


def draw(rng: np.random.Generator, domain: Any, shape: tuple) -> np.ndarray:
    """Samples of one argument: uniform over (low, high), or chosen booleans or integers for a dtype name."""
    if domain == BOOL:
        return np.asarray(rng.integers(0, 2, shape), bool)
    if all(isinstance(end, int) for end in domain):
        return np.asarray(rng.integers(domain[0], domain[1], shape))
    return np.asarray(rng.uniform(*domain, shape))


# ------------------------------------------------------------------------------------------------ linear, bilinear, reduction, ...


def linear(*, shape: Callable, transposes: tuple, batch: Callable, lowering: Any, samples: Callable, linear_in: int | None = None,
           bound: float = 0.0, **traits: Any) -> Callable[[Callable], Primitive]:
    """A row linear in its first arguments together (all of them, or `linear_in` many; the rest, such as indices, have no derivative).

    transposes[i](y_bar, *avals_and_rest, **params) is the cotangent of argument i: linear arguments are passed as avals, the rest as
    values. One transpose with `linear_in=None` and several arguments: transposes[0](i, y_bar, *avals, **params).
    """
    def decorate(body: Callable) -> Primitive:
        name = body.__name__.rstrip("_")
        variadic = linear_in is None and len(transposes) == 1

        def split(args: tuple) -> int:
            return len(args) if linear_in is None else linear_in

        def jvp(primals: tuple, tangents: tuple, y: Any, **params: Any) -> Any:
            count = split(primals)
            if all(t is None for t in tangents[:count]) or aval_of(y).dtype.kind != "f":
                return None
            full = [zeros_of(aval_of(x)) if t is None else t for x, t in zip(primals[:count], tangents, strict=False)]
            return bind(row, *full, *primals[count:], **params)

        def vjp(primals: tuple, y: Any, y_bar: Any, active: tuple, **params: Any) -> list:
            count = split(primals)
            given = [*map(aval_of, primals[:count]), *primals[count:]]
            many = variadic and count != 1
            rule = lambda i: transposes[0](i, y_bar, *given, **params) if many else transposes[i](y_bar, *given, **params)
            return [rule(i) if i < count and active[i] else None for i in range(len(primals))]

        row = register(Primitive(name, "linear", body, shape, jvp, vjp, lambda args, bdims, /, **kw: batch(row, args, bdims, **kw), lowering,
                                 samples=samples, bound=bound, doc=body.__doc__ or "", traits=dict(traits, linear_in=linear_in)))
        return row
    return decorate


def bilinear(*, shape: Callable, transposes: tuple, batch: Callable, lowering: Any, samples: Callable, prepare: Callable = promote_args,
             **traits: Any) -> Callable[[Callable], Primitive]:
    """A row linear in each of two arguments; transposes[i](y_bar, x, w, **params) is the cotangent of argument i."""
    def decorate(body: Callable) -> Primitive:
        name = body.__name__.rstrip("_")

        def jvp(primals: tuple, tangents: tuple, y: Any, **params: Any) -> Any:
            (x, w), (x_dot, w_dot) = primals, tangents
            terms = [bind(row, x_dot, w, **params)] if x_dot is not None else []
            terms += [bind(row, x, w_dot, **params)] if w_dot is not None else []
            return add_all(terms) if terms else None

        def vjp(primals: tuple, y: Any, y_bar: Any, active: tuple, **params: Any) -> list:
            return [rule(y_bar, *primals, **params) if wanted else None for rule, wanted in zip(transposes, active, strict=True)]

        row = register(Primitive(name, "bilinear", body, shape, jvp, vjp, lambda args, bdims, /, **kw: batch(row, args, bdims, **kw), lowering,
                                 samples=samples, doc=body.__doc__ or "", traits=traits, prepare=prepare))
        return row
    return decorate


def reduction(*, combine: str, partial: Any, out: np.dtype | None = None, samples: Callable | None = None, empty: bool = True,
              domain: Any = (-2.0, 2.0), bound: float = 1.0, **traits: Any) -> Callable[[Callable], Primitive]:
    """A row that combines the elements along `axes` (a sorted tuple; the axes vanish).

    partial(y, x, axes): dy/dx broadcast over x, y with its axes kept as 1; None: no derivative. empty: False if it has no identity.
    """
    def decorate(body: Callable) -> Primitive:
        name = body.__name__.rstrip("_")

        def shape(aval: Aval, *, axes: tuple) -> Aval:
            if not empty and aval.size == 0 and any(aval.shape[a] == 0 for a in axes):
                raise ShapeError(explain(f"{name} of an empty axis: {aval} over axes {axes} has no value."))
            return Aval(tuple(n for i, n in enumerate(aval.shape) if i not in axes), out or aval.dtype)

        def weights(y: Any, x: Any, axes: tuple) -> Any:
            kept = tuple(1 if i in axes else n for i, n in enumerate(aval_of(x).shape))
            return partial(bind(TABLE["reshape"], y, shape=kept), x, axes)

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

        row = register(Primitive(name, "reduction", body, shape, jvp, vjp, batch, Reduce(combine),
                                 samples=samples or (lambda rng: reduction_samples(rng, domain, empty)), bound=bound,
                                 doc=body.__doc__ or "", traits=traits))
        return row
    return decorate


def spread(y: Any, aval: Aval, axes: tuple) -> Any:
    """A reduced value repeated along the axes it was reduced over."""
    kept = tuple(1 if i in axes else n for i, n in enumerate(aval.shape))
    return bind(TABLE["broadcast"], bind(TABLE["reshape"], y, shape=kept), shape=aval.shape)


def reduction_samples(rng: np.random.Generator, domain: Any, empty: bool) -> list:
    cases = [((2, 3, 4), (0, 2)), ((3, 5), (1,)), ((3, 5), (0,)), ((40,), (0,)), ((2, 3), ())]
    cases += [((0, 3), (0,)), ((3, 0), (0,))] if empty else []
    return [((draw(rng, domain, s),), {"axes": axes}) for s, axes in cases]


def constant(*, reason: str, shape: Callable, batch: Callable, lowering: Any, samples: Callable, prepare: Callable | None = None,
             bound: float = 0.0, **traits: Any) -> Callable[[Callable], Primitive]:
    """A row whose derivative is zero by declaration, for a reason (piecewise constant, integer)."""
    def decorate(body: Callable) -> Primitive:
        name = body.__name__.rstrip("_")
        row = register(Primitive(name, "constant", body, shape, lambda primals, tangents, y, **kw: None,
                                 lambda primals, y, y_bar, active, **kw: [None] * len(primals),
                                 lambda args, bdims, /, **kw: batch(row, args, bdims, **kw), lowering, samples=samples, bound=bound,
                                 doc=body.__doc__ or "", traits=dict(traits, reason=reason), prepare=prepare))
        return row
    return decorate


def general(*, shape: Callable, jvp: Callable, vjp: Callable, batch: Callable, lowering: Any, samples: Callable,
            prepare: Callable | None = None, bound: float = 1.0, multiple: bool = False,
            effects: frozenset = frozenset(), **traits: Any) -> Callable[[Callable], Primitive]:
    """A row that says everything itself; the dot-product test keeps its jvp and vjp honest."""
    def decorate(body: Callable) -> Primitive:
        name = body.__name__.rstrip("_")
        return register(Primitive(name, "general", body, shape, jvp, vjp, batch, lowering, samples=samples, prepare=prepare, bound=bound,
                                  multiple=multiple, effects=effects, doc=body.__doc__ or "", traits=traits))
    return decorate
