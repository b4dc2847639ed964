"""Every form of docs/numpy.md that cannot be reproduced is an error that names the rewrite; every rewrite works."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import adjoint as ad
from adjoint.core.aval import Aval
from adjoint.core.effects import watching_randomness
from adjoint.core.trace import trace_graph
from adjoint.errors import DtypeError, EffectError, MutationError, ShapeError, TracerError

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "numpy.md"
buf, table, rng, values = np.zeros(3), np.arange(12.0).reshape(3, 4), np.random.default_rng(0), [1, 2, 3]
half, mask = np.ones(3, np.float16), np.array([True, False, True])
F = {"t": Aval((), np.dtype(np.float64)), "v": Aval((3,), np.dtype(np.float64)), "i": Aval((), np.dtype(np.int64)),
     "m": Aval((3, 3), np.dtype(np.float64))}


def store(array: Any, index: Any, value: Any) -> None:
    array[index] = value


def increase(array: Any, value: Any) -> None:
    array += value


FORMS = [
    ("np.array([t, t])", lambda t: np.array([t, t]), TracerError, "np.stack"),
    ("np.asarray(v)", lambda v: np.asarray(v), TracerError, "Leave a value as it is"),
    ("np.ascontiguousarray(v)", lambda v: np.ascontiguousarray(v), TracerError, "array operation"),
    ("np.float64(t)", lambda t: np.float64(t), TracerError, "array operation"),
    ("np.full(3, t)", lambda t: np.full(3, t), TracerError, "adjoint.numpy.full"),
    ("np.full_like(buf, t)", lambda t: np.full_like(buf, t), MutationError, "adjoint.numpy.zeros"),
    ("buf[0] = t", lambda t: store(buf, 0, t), ValueError, "setting an array element"),
    ("buf[:] = v", lambda v: store(buf, slice(None), v), TracerError, "adjoint.numpy.zeros"),
    ("buf += v", lambda v: increase(buf, v), MutationError, "adjoint.numpy.zeros"),
    ("np.add(v, 1, out=buf)", lambda v: np.add(v, 1, out=buf), MutationError, "adjoint.numpy.zeros"),
    ("np.sum(v, out=buf)", lambda m: np.sum(m, axis=0, out=buf), MutationError, "adjoint.numpy.zeros"),
    ("np.sum(v, out=buf)", lambda m: np.sum(m, 0, None, buf), MutationError, "adjoint.numpy.zeros"),
    ("np.sum(v, out=buf)", lambda m: m.mean(0, None, buf), MutationError, "adjoint.numpy.zeros"),
    ("np.copyto(buf, v)", lambda v: np.copyto(buf, v), MutationError, "adjoint.numpy.zeros"),
    ("np.add.at(buf, [0], v)", lambda t: np.add.at(buf, [0], t), MutationError, "adjoint.numpy.zeros"),
    ("table[i]", lambda i: table[i], TracerError, "adjoint.numpy.take"),
    ("table[i, :]", lambda i: table[i, :], TracerError, "adjoint.numpy.take"),
    ("np.take(table, i, axis=0)", lambda i: np.take(table, i, axis=0), TracerError, "adjoint.numpy.take"),
    ("table[i:]", lambda i: table[i:], TracerError, "adjoint.numpy.take"),
    ("buf.dot(v)", lambda v: buf.dot(v), TracerError, "adjoint.numpy.dot"),
    ("buf.searchsorted(v)", lambda v: buf.searchsorted(v), TracerError, "adjoint.numpy.searchsorted"),
    ("np.repeat(buf, i)", lambda i: np.repeat(buf, i), TracerError, "adjoint.numpy.repeat"),
    ("np.pad(buf, 1, constant_values=t)", lambda t: np.pad(buf, 1, constant_values=t), TracerError, "adjoint.numpy.pad"),
    ("np.select([c], [buf], t)", lambda t: np.select([mask], [buf], t), TracerError, "adjoint.numpy.select"),
    ("np.sum([t, t])", lambda t: np.sum([t, t]), TracerError, r"np\.sum\(np\.stack"),
    ("np.r_[v, v]", lambda v: np.r_[v, v], TracerError, "traced value"),
    ("np.c_[v, v]", lambda v: np.c_[v, v], TracerError, "traced value"),
    ("np.ix_([i], [0])", lambda i: np.ix_([i], [0]), TracerError, "traced value"),
    ("rng.normal(t)", lambda t: rng.normal(t), TracerError, "mean . std"),
    ("np.vectorize(f)(v)", lambda v: np.vectorize(math.sin)(v), TracerError, "adjoint.vmap"),
    ("np.fromiter(v, float)", lambda v: np.fromiter(v, float), ValueError, "array element"),
    ("np.zeros(i)", lambda i: np.zeros(i), TypeError, "integer"),
    ("np.zeros((i, 2))", lambda i: np.zeros((i, 2)), TracerError, "static argument"),
    ("np.arange(i)", lambda i: np.arange(i), TracerError, "static argument"),
    ("range(i)", lambda i: range(i), TracerError, "static argument"),
    ("[0] * i", lambda i: [0] * i, TracerError, "count"),
    ("values[i]", lambda i: values[i], TracerError, "adjoint.numpy"),
    ("float(t)", lambda t: float(t), TracerError, "array operation"),
    ("int(t)", lambda t: int(t), TracerError, "array operation"),
    ("complex(t)", lambda t: complex(t), TracerError, "array operation"),
    ("t.item()", lambda t: t.item(), TracerError, "array operation"),
    ("v.tolist()", lambda v: v.tolist(), TracerError, "array operation"),
    ("math.sin(t)", lambda t: math.sin(t), TracerError, r"write np\.sin"),
    ("round(t)", lambda t: round(t), TracerError, "array operation"),
    ("if t > 0:", lambda t: 1 if t > 0 else 2, TracerError, r"np\.where"),
    ("t > 0 and t < 1", lambda t: t > 0 and t < 1, TracerError, "&"),
    ("not t", lambda t: not t, TracerError, "~"),
    ("0 < t < 1", lambda t: 0 < t < 1, TracerError, "&"),
    ("max(t, 1)", lambda t: max(t, 1), TracerError, r"np\.maximum"),
    ("sorted(v)", lambda v: sorted(v), TracerError, r"np\.sort"),
    ("v[v > 0]", lambda v: v[v > 0], TracerError, r"np\.where\(mask, x, 0\)"),
    ("np.nonzero(v)", lambda v: np.nonzero(v), TracerError, r"np\.where"),
    ("np.where(v > 0)", lambda v: np.where(v > 0), TracerError, r"np\.where"),
    ("v.flat", lambda v: v.flat, AttributeError, "ravel"),
    ("v.strides", lambda v: v.strides, AttributeError, "memory"),
    ("v.tobytes()", lambda v: v.tobytes(), AttributeError, "array operation"),
    ("v.resize(4)", lambda v: v.resize(4), AttributeError, "reshape"),
    ("v.view(int)", lambda v: v.view(int), TracerError, "astype"),
    ("v + 1j", lambda v: v + 1j, TypeError, "complex"),
    ("v.astype(complex)", lambda v: v.astype(complex), DtypeError, "float64"),
    ("v + half", lambda v: v + half, DtypeError, "float32"),
    ("np.unique", lambda v: np.unique(v), TracerError, "outside"),
    ("np.fft.fft", lambda v: np.fft.fft(v), TracerError, "adjoint.custom_vjp"),
    ("np.linalg.qr", lambda m: np.linalg.qr(m), TracerError, "custom_vjp"),
    ("np.mean(v[:0])", lambda v: np.mean(v[:0]), ShapeError, "nothing to take the mean of"),
    ("np.var(v[:0])", lambda v: np.var(v[:0]), ShapeError, "nothing to take the mean of"),
    ("np.sum(v, where=mask)", lambda v: np.sum(v, where=mask), TracerError, r"np\.where"),
    ("np.add(v, 1, where=mask)", lambda v: np.add(v, 1, where=v > 0), TracerError, r"np\.where"),
]


def traced(function: Any) -> Any:
    name = function.__code__.co_varnames[0]
    return trace_graph(lambda x: [function(x)], [F[name]])


@pytest.mark.parametrize(("form", "function", "error", "rewrite"), FORMS, ids=[f[0] for f in FORMS])
def test_form_is_refused_with_its_rewrite(form: str, function: Any, error: type, rewrite: str) -> None:
    with pytest.raises(error, match=rewrite) as caught:
        traced(function)
    message = str(caught.value)
    assert len(message.splitlines()) <= 12
    if isinstance(caught.value, TracerError):
        assert f"test_numpy_refused.py:{function.__code__.co_firstlineno}" in message or "store" in function.__code__.co_names \
            or "increase" in function.__code__.co_names
    elif type(caught.value) is ValueError:
        assert isinstance(caught.value.__cause__, TracerError)
    assert not buf.any()


def test_every_form_is_documented() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    for form, *_ in FORMS:
        assert f"`{form}" in text, form


REWRITES = [
    (lambda t: np.stack([t, t]), [2.0, 2.0]), (lambda t: ad.numpy.array([[1.0, t], [t, 2.0]]), [[1.0, 2.0], [2.0, 2.0]]),
    (lambda t: ad.numpy.full(3, t), [2.0] * 3), (lambda t: ad.numpy.pad(buf, 1, constant_values=t), [2.0, 0.0, 0.0, 0.0, 2.0]),
    (lambda i: ad.numpy.take(table, i, axis=0), table[2]), (lambda i: ad.numpy.asarray(table)[i], table[2]),
    (lambda t: ad.numpy.select([mask], [buf], t), [0.0, 2.0, 0.0]), (lambda t: ad.numpy.sum([t, 1.0]), 3.0),
    (lambda v: np.dot(buf, v), 0.0), (lambda v: ad.numpy.searchsorted(v, 1.5), 0),
]


@pytest.mark.parametrize(("function", "expected"), REWRITES)
def test_rewrites_work(function: Any, expected: Any) -> None:
    name = function.__code__.co_varnames[0]
    x = {"t": 2.0, "i": 2, "v": np.array([2.0, 3.0, 4.0])}[name]
    graph = trace_graph(lambda cell: [function(cell)], [Aval(np.shape(x), np.asarray(x).dtype)])
    np.testing.assert_array_equal(graph.evaluate(ad.core.primitive.bind, np.asarray(x)[()])[0], expected)


def test_known_numbers_steer_a_function_under_grad() -> None:
    def f(x: Any) -> Any:
        total, n = x[0] * 0.0, int(np.sum(x > 0))
        for k in range(n):
            total = total + x[k] ** 2 if x[k] > 0 else total
        while total < 1e3:
            total = total * 2.0
        assert "traced" not in f"{total:.3f} {total}"
        return total + np.sum(x[np.nonzero(x > 1)])
    np.testing.assert_allclose(ad.grad(f)(np.array([1.0, 2.0, 3.0])), [256.0, 513.0, 769.0])


def test_a_number_that_carries_a_derivative_is_not_taken_out() -> None:
    for take_out in (float, math.exp, np.asarray, lambda x: x.item(), lambda x: x.tolist()):
        with pytest.raises(TracerError, match="lose its derivative"):
            ad.grad(lambda x, f=take_out: x * f(x))(2.0)
    assert ad.grad(lambda x: x * float(ad.stop_gradient(x)))(2.0) == 2.0
    assert ad.grad(lambda x: x * int(x))(2.5) == 2.0


def test_casting_and_options_are_not_ignored() -> None:
    refused = [lambda x: np.add(x, 1, dtype=np.int64), lambda x: np.concatenate([x, x], dtype=np.int64),
               lambda x: np.mean(x, dtype=np.int64),
               lambda x: np.stack([x, x], dtype=np.int32), lambda x: np.reshape(x, (2, 2), copy=False), lambda x: np.pad(x, 1, mode="mean"),
               lambda x: np.sum(x, where=x > 0), lambda x: np.matmul(x, x, axes=[(0, 1), (0, 1), (0, 1)]), lambda x: np.add(x, 1,
                                                                                                                            extobj=[]),
               lambda x: np.quantile(x, 0.5, method="hazen"), lambda x: np.nan_to_num(x, copy=False), lambda x: np.cov(x, aweights=[1, 2])]
    for function in refused:
        with pytest.raises(TypeError):
            ad.vjp(function, np.ones((2, 2)))
    assert ad.vjp(lambda x: np.add(x, 1, dtype=np.int64, casting="unsafe"), np.ones(2))[0].dtype == np.int64


def test_only_similar_names_are_hints() -> None:
    with pytest.raises(TracerError, match=r"np\.nanmedian has no rule(.|\n)*Similar names that have one: np\.nanmean, np\."):
        ad.grad(lambda x: np.nanmedian(x))(np.ones(3))
    for call, shown in [(np.fft.fft, r"np\.fft\.fft"), (np.fft.rfft, r"np\.fft\.rfft"), (np.frompyfunc(math.gamma, 1, 1), "gamma.*")]:
        with pytest.raises(TracerError, match=rf"^{shown} has no rule") as caught:
            ad.grad(lambda x, call=call: np.sum(call(x)))(np.ones((2, 2)))
        assert "Similar" not in str(caught.value) and "adjoint.custom_vjp" in str(caught.value)
    with pytest.raises(TracerError, match=r"np\.nextafter cannot"):
        ad.grad(lambda x: np.nextafter(x, 1.0))(1.0)


@pytest.mark.parametrize("dtype", [np.complex128, np.complex64, "datetime64[s]", "timedelta64[s]", object, "U3"])
def test_other_kinds_of_dtypes_are_not_supported(dtype: Any) -> None:
    with pytest.raises(DtypeError, match="is not supported") as caught:
        ad.grad(lambda x: x * x)(np.zeros(3, dtype))
    assert "astype" not in str(caught.value)
    with pytest.raises(DtypeError, match=r"x\.astype\(np\.float32\)"):
        ad.grad(lambda x: x * x)(np.zeros(3, np.float16))


# ------------------------------------------------------------------------------------------------ random numbers


class Noisy:
    def __init__(self) -> None:
        self.rng = np.random.default_rng(1)

    def __call__(self, x: Any) -> Any:
        return x + self.rng.normal()


def through_globals(x: Any) -> Any:
    return inner(x)


def inner(x: Any) -> Any:
    return x + rng.normal()


def test_random_numbers_in_a_trace_are_an_error() -> None:
    local = np.random.default_rng(2)
    noisy = Noisy()
    sources = [(through_globals, "rng"), (lambda x: x + local.normal(), "local"), (noisy, "rng"),
               (lambda x: x + np.random.normal(), "np.random"),
               (lambda x, rng=local: x + rng.uniform(), "default"), (lambda x: [noisy(k) for k in range(2)], "noisy")]
    for function, name in sources:
        before = rng.bit_generator.state, local.bit_generator.state, noisy.rng.bit_generator.state
        with pytest.raises(EffectError, match=name), watching_randomness(function):
            function(1.0)
        assert before == (rng.bit_generator.state, local.bit_generator.state, noisy.rng.bit_generator.state)
    with watching_randomness(through_globals, (1.0,)):
        pass
    with pytest.raises(EffectError, match="argument 0"), watching_randomness(lambda x: x, ({"rng": local},)):
        local.normal()
    with pytest.raises(ZeroDivisionError), watching_randomness(through_globals):
        through_globals(1 / 0)


def test_a_plain_array_changed_after_its_use_is_an_error() -> None:
    def reused(x: Any) -> Any:
        scratch, total = np.zeros(20), 0.0
        for k in range(3):
            scratch[:] = k
            total = total + np.sum(x * scratch)
        return total

    def copied(x: Any) -> Any:
        scratch, total = np.zeros(20), 0.0
        for k in range(3):
            scratch[:] = k
            total = total + np.sum(x * scratch.copy())
        return total
    for transformed in (ad.grad(reused), ad.trace(reused), ad.compile(reused)):
        with pytest.raises(MutationError, match=r"copy\(\)"):
            transformed(np.ones(20))
    assert ad.compile(copied)(np.ones(20)) == 60.0
    np.testing.assert_array_equal(ad.grad(copied)(np.ones(20)), 3.0)
