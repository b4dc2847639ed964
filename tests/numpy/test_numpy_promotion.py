"""Python's numbers give way, NumPy's do not (NEP 50): dtypes of traced code equal NumPy's, on a tape, in a trace, compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import adjoint as ad
from adjoint.core.aval import Aval, aval_of
from adjoint.core.trace import trace_graph
from adjoint.errors import DtypeError

SINGLE, SMALL = np.array([1.0, -2.0], np.float32), np.array([1, 2], np.int32)
SCALARS = [
    lambda s: s * SINGLE, lambda s: np.sin(s) * SINGLE, lambda s: (s * 2) * SINGLE, lambda s: s**2 * SINGLE, lambda s: -s * SINGLE,
    lambda s: abs(s) * SINGLE, lambda s: 1 / s * SINGLE, lambda s: s // 1 * SINGLE, lambda s: 2**s * SINGLE, lambda s: s * SMALL,
    lambda s: np.maximum(s, 1.0) * SINGLE, lambda s: np.multiply(s, 2) * SINGLE, lambda s: np.where(SINGLE > 0, s, 0) * SINGLE,
    lambda s: np.clip(s, 0, 1) * SINGLE, lambda s: np.mean(s) * SINGLE, lambda s: np.sum(s) * SINGLE, lambda s: np.stack([s, s]) * SINGLE,
    lambda s: np.round(s, 1) * SINGLE, lambda s: np.zeros_like(s) * SINGLE, lambda s: (s > 1) * SINGLE, lambda s: np.add.outer(s, SINGLE),
    lambda s: np.float32(1) * s, lambda s: SINGLE / np.sqrt(1 - (s * 0.1) ** 2), lambda s: ad.numpy.full(2, s) * SINGLE,
    lambda s: ad.numpy.array([s, 1.0]) * SINGLE, lambda s: np.exp(-s) * SINGLE, lambda s: np.minimum(SINGLE, s), lambda s: SINGLE - s,
    lambda s: np.power(s, 2) * SINGLE, lambda s: np.logaddexp(s, 1.0) * SINGLE, lambda s: (s % 2) * SINGLE,
]


@pytest.mark.parametrize("number", [0.5, 3])
@pytest.mark.parametrize("k", range(len(SCALARS)))
def test_python_numbers(k: int, number: Any) -> None:
    f = SCALARS[k]
    expected = np.asarray(f(number))
    assert trace_graph(lambda s: [f(s)], [aval_of(number)]).outputs[0].aval[:2] == (expected.shape, expected.dtype)
    if isinstance(number, float):
        found = np.asarray(ad.vjp(f, number)[0])
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)


def test_python_numbers_compiled() -> None:
    for number in (0.5, 3):
        for mine, f in zip(ad.compile(lambda s: [g(s) for g in SCALARS])(number), SCALARS, strict=True):
            expected = np.asarray(f(number))
            assert np.asarray(mine).dtype == expected.dtype
            np.testing.assert_allclose(mine, expected, rtol=1e-6)


@pytest.mark.parametrize("left", [np.bool_, np.uint8, np.int32, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("right", [np.bool_, np.uint8, np.int32, np.int64, np.float32, np.float64, bool, int, float])
def test_every_pair_of_dtypes(left: type, right: type) -> None:
    x, y = np.ones(2, left), right(1) if right in (bool, int, float) else np.ones(2, right)
    for name in ("add", "multiply", "true_divide", "maximum", "less", "floor_divide", "arctan2", "logical_and", "subtract", "equal"):
        function = getattr(np, name)
        try:
            expected = np.asarray(function(x, y))
            unknown = expected.dtype == np.int8
        except TypeError:
            unknown = True
        if unknown:
            with pytest.raises(TypeError):
                trace_graph(lambda a, f=function: [f(a, y)], [aval_of(x)])
            continue
        found = trace_graph(lambda a, f=function: [f(a, y)], [aval_of(x)]).outputs[0].aval
        if expected.dtype.itemsize == 2:
            expected = expected.astype(np.float64)           # NumPy's half precision, see docs/numpy.md
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype), name
    joined = trace_graph(lambda a: [np.concatenate([a, np.atleast_1d(y)]), np.stack([a[0], np.ravel(y)[0]])], [aval_of(x)])
    assert joined.outputs[0].aval.dtype == np.concatenate([x, np.atleast_1d(y)]).dtype


def test_python_integers_that_do_not_fit() -> None:
    byte = np.array([1, 200], np.uint8)
    for f in (lambda x: x + 300, lambda x: -1 * x, lambda x: np.maximum(x, -5), lambda x: x.copy().__setitem__(0, 300)):
        with pytest.raises(OverflowError):
            f(byte)
        with pytest.raises(OverflowError, match="does not fit"):
            trace_graph(lambda x, f=f: [f(x)], [aval_of(byte)])
    compares = [lambda x: x < 300, lambda x: x == -1, lambda x: -1 <= x, lambda x: np.greater(x, 1000), lambda x: np.not_equal(2**40, x)]
    for mine, f in zip(ad.compile(lambda x: [g(x) for g in compares])(byte), compares, strict=True):
        np.testing.assert_array_equal(mine, f(byte))


def test_small_integers_into_float_functions_give_float64() -> None:
    for dtype in (np.bool_, np.uint8):
        graph = trace_graph(lambda x: [np.sin(x), np.sqrt(x), np.hypot(x, x)], [Aval((2,), np.dtype(dtype))])
        assert all(out.aval.dtype == np.float64 for out in graph.outputs)


def test_sums_of_bytes_need_a_dtype() -> None:
    byte = np.array([1, 200], np.uint8)
    with pytest.raises(DtypeError, match="uint64"):
        trace_graph(lambda x: [np.sum(x)], [aval_of(byte)])
    assert trace_graph(lambda x: [np.sum(x, dtype=np.int64)], [aval_of(byte)]).outputs[0].aval.dtype == np.int64
