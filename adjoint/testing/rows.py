"""Is this row right? One check for each thing that a row states or its kind derives, on the row's own samples.

Invariant: a check raises AssertionError naming the row, the sample and what differs; no check knows a row by name.
May import: L0-L3, gradients. Read next: mutants.py.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..core.aval import aval_of
from ..core.primitive import Primitive, bind
from ..core.trace import trace_graph
from ..transforms.batch import vmap
from ..transforms.forward import jvp
from ..transforms.reverse import vjp
from .gradients import check_variables

BATCH = 3
LOOP_TOLERANCE = 1e-12          # a batched row may sum in another order than the loop


def rng_of(row: Primitive) -> np.random.Generator:
    """A generator of the row's own, so that one row's samples do not depend on another's."""
    return np.random.default_rng(zlib.crc32(row.name.encode()))


def samples_of(row: Primitive) -> Iterator[tuple[str, tuple, dict]]:
    """(label, arguments, params) of every sample."""
    for k, (args, params) in enumerate(row.samples(rng_of(row))):
        shapes = ", ".join(str(aval_of(a)) for a in args)
        yield f"{row.name} sample {k} ({shapes}) {params or ''}", args, params


def check_row(row: Primitive, order: int = 2) -> None:
    """All checks of a row. Raises: AssertionError.

    >>> from adjoint.primitives.transcendental import tanh
    >>> check_row(tanh)
    """
    for check in (check_values, check_memory, check_traced, check_active_sets, check_dtypes, check_kinks, check_batching):
        check(row)
    check_derivatives(row, order)


# ------------------------------------------------------------------------------------------------ values


def outputs(row: Primitive, y: Any) -> tuple:
    """The results of a row as a tuple."""
    return tuple(y) if row.multiple else (y,)


def check_values(row: Primitive) -> None:
    """The shape rule states what the body gives, in every dtype that the row takes."""
    for label, args, params in samples_of(row):
        for cast in castings(row, args, params):
            stated = row.out_avals(*map(aval_of, cast), **params)
            for aval, y in zip(stated, outputs(row, row(*cast, **params)), strict=True):
                found = aval_of(y)
                assert found.shape == aval.shape and found.dtype == aval.dtype, f"{label}: the rule states {aval}, the body gives {found}"
                assert type(y) not in (bool, int, float), f"{label}: a Python scalar from arrays"


def castings(row: Primitive, args: tuple, params: dict) -> Iterator[tuple]:
    """The sample itself, in float32, and in the integer dtypes where the row takes them."""
    yield args
    yield tuple(a.astype(np.float32) if a.dtype.kind == "f" else a for a in args)
    accepted = row.traits.get("accepts", "")
    if all(a.dtype.kind == "f" for a in args) and "i" in accepted and not any(v < 0 for v in params.values() if isinstance(v, int)):
        domain = row.traits["domain"]
        domains = [domain] * len(args) if np.ndim(domain[0]) == 0 else domain
        finite = [np.where(np.isfinite(a), a, 0.0) for a in args]
        whole = [np.clip(np.round(np.abs(a) * 3) + 1, 0, max(0, high)) for a, (_, high) in zip(finite, domains, strict=True)]
        yield tuple(a.astype(np.int64) for a in whole)
        yield tuple(a.astype(np.int32) for a in whole)
        if all(a.ndim for a in args):            # of scalars NumPy reports that they wrap
            yield tuple(a.astype(np.uint8) for a in whole)


def equal(a: Any, b: Any) -> bool:
    """The same bits, NaN equal to NaN."""
    return np.array_equal(a, b, equal_nan=np.asarray(a).dtype.kind == "f") and aval_of(a) == aval_of(b)


def close(a: Any, b: Any) -> bool:
    if np.asarray(a).dtype.kind != "f":
        return equal(a, b)
    return bool(np.all(np.abs(np.subtract(a, b)) <= LOOP_TOLERANCE * (1 + np.abs(b))))


def check_memory(row: Primitive) -> None:
    """Arguments are not written to, and any strides give the same values: reversed, every second, Fortran order, repeated."""
    for label, args, params in samples_of(row):
        y = outputs(row, row(*args, **params))
        for name, layout in LAYOUTS.items():
            placed = tuple(map(layout, args))
            found = outputs(row, row(*placed, **params))
            assert all(map(close, found, y)), f"{label}: other values from {name} arguments"
        if "another" in row.traits:                          # equal elements are outside the row's domain
            continue
        repeated = tuple(np.broadcast_to(a.ravel()[:1].reshape((1,) * a.ndim), a.shape) if a.size else a for a in args)
        expected = row(*[np.array(a) for a in repeated], **params)
        same = all(map(close, outputs(row, row(*repeated, **params)), outputs(row, expected)))
        assert same, f"{label}: other values from repeated arguments"


def _frozen(x: np.ndarray) -> np.ndarray:
    x = np.array(x)
    x.flags.writeable = False
    return x


def _strided(x: np.ndarray) -> np.ndarray:
    if not x.ndim:
        return _frozen(x)
    wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


LAYOUTS = {"read-only": _frozen, "strided": _strided, "Fortran": lambda x: np.array(x, order="F"),
           "reversed": lambda x: np.flip(np.flip(x).copy())}


def check_traced(row: Primitive) -> None:
    """A traced graph checks, evaluates to the same bits as the row itself, and prints."""
    for label, args, params in samples_of(row):
        for cast in castings(row, args, params):
            graph = trace_graph(lambda *xs: list(outputs(row, row(*xs, **params))), list(map(aval_of, cast))).check()  # noqa: B023
            assert str(graph)
            found = graph.evaluate(bind, *cast)
            assert all(map(equal, found, outputs(row, row(*cast, **params)))), f"{label}: traced and eager differ"


# ------------------------------------------------------------------------------------------------ derivatives


def differentiable(row: Primitive, args: tuple, params: dict) -> list[int]:
    """The positions of floating arguments of a row with a floating result; none for rows that state they have no derivative."""
    floating = [i for i, a in enumerate(args) if a.dtype.kind == "f"]
    stated = row.out_avals(*map(aval_of, args), **params)
    return floating if row.kind != "constant" and any(a.dtype.kind == "f" for a in stated) else []


def variables_of(row: Primitive, args: tuple, params: dict, positions: list[int]) -> Callable:
    """The row as a function of some of its arguments, giving a list."""
    def function(*xs: Any) -> list:
        filled = list(args)
        for i, x in zip(positions, xs, strict=True):
            filled[i] = x
        return [y for y in outputs(row, row(*filled, **params)) if aval_of(y).dtype.kind == "f"]
    return function


def check_derivatives(row: Primitive, order: int = 2) -> None:
    """jvp against differences, vjp against jvp, and the same for jvp and vjp themselves."""
    rng = rng_of(row)
    for label, args, params in samples_of(row):
        if row.kind == "constant":
            check_constant(row, label, args, params)
        positions = differentiable(row, args, params)
        wide = all(a.dtype == np.float64 for a in row.out_avals(*map(aval_of, args), **params) if a.dtype.kind == "f")
        if positions and wide:
            check_variables(variables_of(row, args, params, positions), [args[i] for i in positions], order, rng, label)


def check_constant(row: Primitive, label: str, args: tuple, params: dict) -> None:
    """A row without a derivative gives the reason, no tangent and no cotangents."""
    assert row.traits.get("reason"), f"{label}: a constant row must give its reason"
    y = row(*args, **params)
    assert row.jvp(args, tuple(args), y, **params) is None, f"{label}: a tangent from a constant row"
    bars = row.vjp(args, y, np.ones(np.shape(y)), (True,) * len(args), **params)
    assert list(bars) == [None] * len(args), f"{label}: a cotangent from a constant row"


def check_active_sets(row: Primitive) -> None:
    """Every proper subset of arguments active: the same tangents and cotangents as with all, and None for the others."""
    rng = rng_of(row)
    for label, args, params in samples_of(row):
        positions = differentiable(row, args, params)
        if not positions or row.multiple:
            continue
        y = row(*args, **params)
        w = rng.standard_normal(np.shape(y)).astype(y.dtype)[()]
        full = row.vjp(args, y, w, mask(args, positions), **params)
        for count in range(1, len(positions)):
            for subset in itertools.combinations(positions, count):
                bars = row.vjp(args, y, w, mask(args, subset), **params)
                right = all(_same_bar(bar, full[i] if i in subset else None) for i, bar in enumerate(bars))
                assert right, f"{label}: other cotangents with only {subset} active"
                dots = [rng.standard_normal(a.shape).astype(a.dtype)[()] if i in subset else None for i, a in enumerate(args)]
                zeros = [np.zeros(a.shape, a.dtype) if d is None and a.dtype.kind == "f" else d for a, d in zip(args, dots, strict=True)]
                some, all_ = row.jvp(args, tuple(dots), y, **params), row.jvp(args, tuple(zeros), y, **params)
                check_nothing_unused(row, label, args, params, subset)
                some, all_ = (np.zeros(np.shape(y)) if t is None else t for t in (some, all_))
                assert close(some, all_) and np.shape(some) == np.shape(y), f"{label}: another tangent with only {subset} active"


def check_nothing_unused(row: Primitive, label: str, args: tuple, params: dict, subset: tuple) -> None:
    """The vjp for some active arguments records no operation that their cotangents do not need."""
    y = row(*args, **params)
    active = mask(args, subset)

    def bars(*xs: Any) -> list:
        return [bar for bar in row.vjp(xs[:-2], xs[-2], xs[-1], active, **params) if bar is not None]
    graph = trace_graph(bars, list(map(aval_of, (*args, y, y))))
    needed = set(graph.outputs)
    for node in reversed(graph.nodes):
        assert needed.intersection(node.outs), f"{label}: with only {subset} active, {node.primitive.name} is computed for nothing"
        needed.update(node.inputs)


def _same_bar(a: Any, b: Any) -> bool:
    return b is None if a is None else b is not None and equal(a, b)


def mask(args: tuple, positions: Any) -> tuple[bool, ...]:
    return tuple(i in positions for i in range(len(args)))


def check_dtypes(row: Primitive) -> None:
    """A tangent has the aval of its result and a cotangent that of its argument, in float32 and float64, eager and traced."""
    for label, args, params in samples_of(row):
        for dtype in (np.float64, np.float32):
            cast = tuple(a.astype(dtype) if a.dtype.kind == "f" else a for a in args)
            positions = differentiable(row, cast, params)
            if not positions:
                continue
            function, xs = variables_of(row, cast, params, positions), [cast[i] for i in positions]

            def both(*xs: Any, function: Callable = function) -> tuple:
                ys, y_dots = jvp(function, xs, xs)
                return ys, y_dots, vjp(function, *xs)[1](ys)
            ys, y_dots, bars = both(*xs)
            for y, y_dot in zip(ys, y_dots, strict=True):
                assert aval_of(y_dot) == aval_of(y), f"{label}: a tangent is {aval_of(y_dot)}, the result {aval_of(y)}"
            for x, bar in zip(xs, bars, strict=True):
                assert aval_of(bar) == aval_of(x), f"{label}: a cotangent is {aval_of(bar)}, the argument {aval_of(x)}"
            graph = trace_graph(lambda *xs: [z for zs in both(*xs) for z in zs], list(map(aval_of, xs)))
            graph.check()
            stated, found = [a.aval.strong() for a in graph.outputs], [aval_of(z).strong() for z in (*ys, *y_dots, *bars)]
            assert stated == found, f"{label}: a traced derivative has other avals than eager"


def check_kinks(row: Primitive) -> None:
    """At every kink that the row states, the partials are the stated ones, forward and reverse."""
    for args, partials in row.traits.get("kinks", ()):
        for dtype in (np.float64, np.float32):
            xs = tuple(dtype(a) for a in args)
            with np.errstate(all="ignore"):
                y = row(*xs)
                bars = row.vjp(xs, y, np.ones_like(y), (True,) * len(xs))
                for i, expected in enumerate(partials):
                    y_dot = row.jvp(xs, tuple(dtype(1) if i == j else None for j in range(len(xs))), y)
                    found = (0.0 if bars[i] is None else bars[i], 0.0 if y_dot is None else y_dot)
                    assert found == (expected, expected), f"{row.name}{args}: partial {i} is {found}, stated {expected}"


# ------------------------------------------------------------------------------------------------ batching


def check_batching(row: Primitive) -> None:
    """The batching rule equals a loop, for every choice of batched arguments and of the place of their batch axes."""
    for k, (label, args, params) in enumerate(samples_of(row)):
        if not args:
            continue
        places = [(None, *range(a.ndim + 1)) if k < 3 else (None, 0) for a in args]
        if len(args) > 3:
            places = [(None, a.ndim) for a in args]
        for in_axes in itertools.product(*places):
            if any(axis is not None for axis in in_axes):
                _check_batch(row, label, args, params, in_axes)


def _check_batch(row: Primitive, label: str, args: tuple, params: dict, in_axes: tuple) -> None:
    varied = row.traits.get("another", _varied)
    many = [[varied(a, b) for b in range(BATCH)] if axis is not None else [a] * BATCH for a, axis in zip(args, in_axes, strict=True)]
    stacked = [np.stack(m, axis) if axis is not None else m[0] for m, axis in zip(many, in_axes, strict=True)]
    together = outputs(row, vmap(lambda *xs: row(*xs, **params), in_axes=in_axes)(*stacked))
    loop = [outputs(row, row(*[m[b] for m in many], **params)) for b in range(BATCH)]
    for j, y in enumerate(together):
        expected = np.stack([ys[j] for ys in loop])
        same = y.shape == expected.shape and y.dtype == expected.dtype and close(y, expected)
        assert same, f"{label}: batched over axes {in_axes}, the result differs from a loop"


def _varied(a: np.ndarray, b: int) -> np.ndarray:
    """Another argument of the same shape from the same domain: its elements in another order."""
    return np.roll(a.ravel(), b).reshape(a.shape) if a.dtype.kind != "i" else np.flip(a) if b == 1 else a
