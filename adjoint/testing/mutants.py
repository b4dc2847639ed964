"""The tests of the tests: rows with a wrong derivative, every one of which the checks must catch.

Invariant: a mutant differs from its row in what its rules give on some sample, else it is none. May import: L0-L3, gradients, rows.
Read next: nothing; this is the end of the table's tests.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..core.aval import aval_of
from ..core.primitive import TABLE, Primitive, bind
from ..primitives.broadcasting import move_axis
from .rows import check_batching, check_derivatives, differentiable, mask, outputs, rng_of, samples_of


def _times(factor: float) -> Callable:
    return lambda t: bind(TABLE["multiply"], t, factor)


def _rolled(t: Any) -> Any:
    """Elements moved one place on, in the order of memory."""
    aval = aval_of(t)
    if aval.size < 2:
        return t
    flat = bind(TABLE["reshape"], t, shape=(aval.size,))
    head, tail = (bind(TABLE["slice"], flat, bounds=((a, b, 1),)) for a, b in ((0, aval.size - 1), (aval.size - 1, aval.size)))
    return bind(TABLE["reshape"], bind(TABLE["concatenate"], tail, head, axis=0), shape=aval.shape)


def _transposed(t: Any) -> Any:
    """The last two axes exchanged where they are equal."""
    aval = aval_of(t)
    if aval.ndim < 2 or aval.shape[-1] != aval.shape[-2]:
        return t
    return bind(TABLE["permute"], t, axes=(*range(aval.ndim - 2), aval.ndim - 1, aval.ndim - 2))


WRONGS: dict[str, Callable] = {"x 1.001": _times(1.001), "sign": _times(-1.0), "rolled": _rolled, "transposed": _transposed,
                               "dropped": _times(0.0)}


def _wrong_jvp(row: Primitive, i: int, wrong: Callable) -> Callable:
    """The jvp with the tangent of argument i made wrong."""
    def jvp(primals: tuple, tangents: tuple, y: Any, **params: Any) -> Any:
        dots = tuple(wrong(t) if j == i and t is not None else t for j, t in enumerate(tangents))
        return row.jvp(primals, dots, y, **params)
    return jvp


def _wrong_vjp(row: Primitive, i: int, wrong: Callable) -> Callable:
    """The vjp with the cotangent of argument i made wrong."""
    def vjp(primals: tuple, y: Any, y_bar: Any, active: tuple, **params: Any) -> list:
        bars = row.vjp(primals, y, y_bar, active, **params)
        return [wrong(b) if j == i and b is not None else b for j, b in enumerate(bars)]
    return vjp


def _swapped_vjp(row: Primitive, i: int) -> Callable:
    """The vjp with the cotangents of arguments i and i + 1 exchanged, where their shapes allow it."""
    def vjp(primals: tuple, y: Any, y_bar: Any, active: tuple, **params: Any) -> list:
        bars = list(row.vjp(primals, y, y_bar, active, **params))
        return _exchanged(bars, i)
    return vjp


def _swapped_jvp(row: Primitive, i: int) -> Callable:
    def jvp(primals: tuple, tangents: tuple, y: Any, **params: Any) -> Any:
        return row.jvp(primals, tuple(_exchanged(list(tangents), i)), y, **params)
    return jvp


def _exchanged(xs: list, i: int) -> list:
    """xs with elements i and i + 1 exchanged if both are there, of one shape and dtype."""
    if i + 1 >= len(xs) or xs[i] is None or xs[i + 1] is None or aval_of(xs[i]) != aval_of(xs[i + 1]):
        return xs
    return [*xs[:i], xs[i + 1], xs[i], *xs[i + 2:]]


def mutants_of(row: Primitive) -> Iterator[tuple[str, Primitive]]:
    """(what is wrong, the row made wrong), for every argument with a derivative: jvp, vjp, or both in the same way."""
    positions = sorted({i for _, args, params in samples_of(row) for i in differentiable(row, args, params)})
    for i in positions:
        for name, wrong in WRONGS.items():
            forward, reverse = _wrong_jvp(row, i, wrong), _wrong_vjp(row, i, wrong)
            yield f"{row.name}: jvp of argument {i} {name}", dataclasses.replace(row, jvp=forward)
            yield f"{row.name}: vjp of argument {i} {name}", dataclasses.replace(row, vjp=reverse)
            yield f"{row.name}: jvp and vjp of argument {i} {name}", dataclasses.replace(row, jvp=forward, vjp=reverse)
        if i + 1 in positions:
            forward, reverse = _swapped_jvp(row, i), _swapped_vjp(row, i)
            yield f"{row.name}: jvp with arguments {i} and {i + 1} swapped", dataclasses.replace(row, jvp=forward)
            yield f"{row.name}: vjp with arguments {i} and {i + 1} swapped", dataclasses.replace(row, vjp=reverse)
            yield f"{row.name}: jvp and vjp with {i} and {i + 1} swapped", dataclasses.replace(row, jvp=forward, vjp=reverse)


def _rolled_batch(row: Primitive) -> Callable:
    """The batching rule with its examples moved one on."""
    def batch(args: tuple, axes: tuple, /, **params: Any) -> tuple:
        y, axis = row.batch(args, axes, **params)
        if row.multiple:
            return tuple(map(_next_example, y, axis)), (0,) * len(y)
        return (y, axis) if axis is None else (_next_example(y, axis), 0)
    return batch


def _next_example(y: Any, axis: int) -> Any:
    return bind(TABLE["gather"], move_axis(y, axis, 0), np.arange(aval_of(y).shape[axis]) - 1)


def wrong_batching(row: Primitive) -> Primitive:
    """The row with a batching rule that gives each example the result of another."""
    return dataclasses.replace(row, batch=_rolled_batch(row))


def batching_is_caught(row: Primitive) -> bool:
    """True if the checks refuse the row's batching rule made wrong."""
    try:
        check_batching(wrong_batching(row))
    except AssertionError:
        return True
    return False


def differs(row: Primitive, mutant: Primitive) -> bool:
    """True if the mutant's rules give something else than the row's on some sample: otherwise there is nothing to catch."""
    for _, args, params in samples_of(row):
        positions = differentiable(row, args, params)
        if not positions:
            continue
        rng, y = rng_of(row), row(*args, **params)
        ws = tuple(rng.standard_normal(np.shape(v))[()] for v in outputs(row, y))
        w = ws if row.multiple else ws[0]
        dots = tuple(rng.standard_normal(a.shape)[()] if i in positions else None for i, a in enumerate(args))
        if not _same(row.jvp(args, dots, y, **params), mutant.jvp(args, dots, y, **params)):
            return True
        active = mask(args, positions)
        bars = zip(row.vjp(args, y, w, active, **params), mutant.vjp(args, y, w, active, **params), strict=True)
        if not all(a is b or _same(a, b) for a, b in bars):
            return True
    return False


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, tuple):
        return all(x is y or _same(x, y) for x, y in zip(a, b, strict=True))
    return bool(np.all(np.abs(np.subtract(a, b)) <= 1e-9 * (np.abs(a) + np.abs(b))))


def caught(mutant: Primitive) -> bool:
    """True if the checks of first order refuse the mutant."""
    try:
        check_derivatives(mutant, order=1)
    except AssertionError:
        return True
    return False


def survivors(row: Primitive) -> tuple[int, list[str]]:
    """(number of mutants, those that the checks do not catch)."""
    wrong = [(name, mutant) for name, mutant in mutants_of(row) if differs(row, mutant)]
    return len(wrong), [name for name, mutant in wrong if not caught(mutant)]
