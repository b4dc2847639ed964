"""Vector mathematics: at most 1 ulp from 50-digit truth (2 where a function is listed so), and NumPy's special values."""

import numpy as np
import pytest
from mpmath import mp, mpf

from adjoint.compiler import reference
from adjoint.compiler.emitter import LoopEmitter
from adjoint.compiler.loops import Buffer, Index, Kernel, Let, Program, Var

LONG = np.longdouble


def long_erf(x):
    """erf in two floats each; NumPy has none."""
    exact = [mp.erf(mpf(v)) if np.isfinite(v) else mpf(np.sign(v)) for v in x.astype(float).tolist()]
    return np.copysign([LONG(float(v)) + LONG(float(v - float(v))) for v in exact], x)


FUNCTIONS = {
    "exp": (mp.exp, np.exp, (-104, 89), (-746, 710)),
    "exp2": (lambda x: mpf(2) ** x, np.exp2, (-150, 128), (-1075, 1024)),
    "expm1": (mp.expm1, np.expm1, (-20, 89), (-40, 710)),
    "tanh": (mp.tanh, np.tanh, (-10, 10), (-20, 20)),
    "logistic": (lambda x: 1 / (1 + mp.exp(-x)), lambda x: np.where(x < 0, np.exp(x) / (1 + np.exp(x)), 1 / (1 + np.exp(-x))),
                 (-104, 20), (-746, 40)),
    "erf": (mp.erf, lambda x: long_erf(x), (-4.1, 4.1), (-6.1, 6.1)),
    "log": (mp.log, np.log, (0.25, 4), (0.25, 4)),
    "log1p": (mp.log1p, np.log1p, (-0.999, 3), (-0.999, 3)),
    "log2": (lambda x: mp.log(x, 2), np.log2, (0.25, 4), (0.25, 4)),
    "log10": (mp.log10, np.log10, (0.25, 4), (0.25, 4)),
    "sin": (mp.sin, np.sin, (-100, 100), (-1e6, 1e6)),
    "cos": (mp.cos, np.cos, (-100, 100), (-1e6, 1e6)),
    "softplus": (lambda x: mp.log1p(mp.exp(x)), lambda x: np.logaddexp(x, 0), (-80, 80), (-700, 700)),
}
ULPS = dict.fromkeys(FUNCTIONS, 1.0) | {"softplus": 2.0}
SPECIAL = (0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 2.0, 8.0, 1000.0, 1e5, 1e10, -1e10, 100.0, -100.0, 88.72, 88.73, -87.4,
           -103.0, -103.98, -104.0, 709.7, 709.8, -745.0, -745.2, -746.0, 128.0, -150.0, 1024.0, 0.5, 1e30, 32768.5, 1048577.5)


def program(name, dtype, size):
    e, var, place = LoopEmitter(), Var(), None
    place = Index(0, ((var, 1),))
    e.store(1, place, e.call(name, e.load(0, place, dtype)))
    buffers = (Buffer(np.dtype(dtype), size, "input"), Buffer(np.dtype(dtype), size, "output"))
    return Program(buffers, (Kernel(name, var, size, e.statements),), 1, 0)


def evaluate(name, x):
    made = program(name, x.dtype, len(x))
    buffers = reference.buffers_for(made, {0: x})
    assert reference.run(made, buffers) == 0
    return buffers[1]


def arguments(name, dtype, count, seed):
    """Uniform over the interesting range, uniform near 1, and uniform in the exponent over the whole format."""
    rng, info = np.random.default_rng(seed), np.finfo(dtype)
    low, high = FUNCTIONS[name][2 if dtype == np.float32 else 3]
    sizes = 2.0 ** rng.uniform(info.minexp - info.nmant, info.maxexp - 1e-9, count)
    x = np.concatenate([rng.uniform(low, high, count), rng.uniform(-1.5, 1.5, count), sizes * rng.choice([-1, 1], count)])
    x = x.astype(dtype)
    if name.startswith("log"):
        x = x[x > -1] if name == "log1p" else np.abs(x)
    if name.startswith("exp") or name in ("logistic", "softplus"):
        x = x[(x > 1.1 * low) & (x < 1.1 * high)]
    return x[x != 0]


def ulps(y, truth, dtype):
    """|y - truth| in units of the last place of truth."""
    info = np.finfo(dtype)
    exponent = np.maximum(np.frexp(np.abs(truth))[1] - 1, info.minexp)
    return np.abs(y.astype(LONG) - truth) / np.ldexp(LONG(1), exponent - info.nmant)


def check_ulps(name, dtype, x, truth):
    with np.errstate(all="ignore"):
        y = evaluate(name, x)
        fits = np.abs(truth) < LONG(np.finfo(dtype).max)
        error = ulps(y[fits], truth[fits], dtype)
    assert np.isinf(y[~fits]).all()
    worst = int(np.argmax(error))
    assert error[worst] <= ULPS[name] + 0.002, (name, dtype, x[fits][worst], error[worst])


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
@pytest.mark.parametrize("name", FUNCTIONS)
def test_against_fifty_digits(name, dtype):
    x = arguments(name, dtype, 250, seed=1)
    if name in ("sin", "cos"):
        x = x[np.abs(x) < 1e6]                       # huge ones are the C library's
    with mp.workdps(50):
        exact = [FUNCTIONS[name][0](mpf(v)) for v in x.tolist()]
        high = np.array([float(v) if abs(v) < mpf(2) ** 1024 else np.inf for v in exact]).astype(LONG)
        low = [float(v - mpf(float(h))) if np.isfinite(h) else 0.0 for v, h in zip(exact, high, strict=True)]
    check_ulps(name, dtype, x, high + np.array(low).astype(LONG))


@pytest.mark.skipif(np.finfo(LONG).nmant < 63, reason="longdouble is no wider than float64 here")
@pytest.mark.parametrize("dtype", (np.float32, np.float64))
@pytest.mark.parametrize("name", FUNCTIONS)
def test_against_longdouble_densely(name, dtype):
    x = arguments(name, dtype, 8000, seed=2)
    if name in ("sin", "cos"):
        x = x[np.abs(x) < 1e6]
    with np.errstate(all="ignore"):
        truth = FUNCTIONS[name][1](x.astype(LONG))
    check_ulps(name, dtype, x[np.isfinite(truth)], truth[np.isfinite(truth)])


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
@pytest.mark.parametrize("name", FUNCTIONS)
def test_special_values_are_those_of_numpy(name, dtype):
    info = np.finfo(dtype)
    x = np.array([*SPECIAL, info.tiny, -info.tiny, info.smallest_subnormal, -info.smallest_subnormal, info.max, -info.max,
                  info.eps, -info.eps, np.nextafter(dtype(-1), dtype(0))], dtype)
    with np.errstate(all="ignore"):
        truth = FUNCTIONS[name][1](x.astype(LONG)).astype(dtype)
        y = evaluate(name, x)
        close = np.isclose(y, truth, rtol=4 * info.eps, atol=2 * info.smallest_subnormal) | (np.isnan(y) & np.isnan(truth))
    exact = ~np.isfinite(truth) | (truth == 0)
    assert close.all(), list(zip(x[~close], y[~close], truth[~close], strict=True))
    same = (y[exact] == truth[exact]) & (np.signbit(y[exact]) == np.signbit(truth[exact]))
    assert (same | np.isnan(truth[exact])).all()


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
def test_logarithms_are_exact_where_the_value_is_an_integer(dtype):
    powers = np.arange(-100, 100)
    assert (evaluate("log2", np.ldexp(dtype(1), powers)) == powers).all()
    assert (evaluate("exp2", powers.astype(dtype)) == np.ldexp(dtype(1), powers)).all()
    tens = np.arange(0, 11 if dtype == np.float32 else 23)
    assert (evaluate("log10", (10.0 ** tens).astype(dtype)) == tens).all()


def test_logaddexp_of_infinities():
    inf = np.inf
    x, y = np.array([inf, -inf, inf, -inf, 0.0, 1000.0]), np.array([inf, -inf, -inf, 1.0, 0.0, 1000.0])
    e, var = LoopEmitter(), Var()
    place = Index(0, ((var, 1),))
    e.store(2, place, e.call("logaddexp", e.load(0, place, np.float64), e.load(1, place, np.float64)))
    f64 = np.dtype(np.float64)
    made = Program((Buffer(f64, 6, "input"), Buffer(f64, 6, "input", 1), Buffer(f64, 6, "output")),
                   (Kernel("k", var, 6, e.statements),), 1, 0)
    buffers = reference.buffers_for(made, {0: x, 1: y})
    reference.run(made, buffers)
    np.testing.assert_allclose(buffers[2], np.logaddexp(x, y), rtol=1e-15)


@pytest.mark.parametrize("name, most", [("exp", 30), ("log", 45), ("tanh", 50), ("logistic", 50), ("erf", 55), ("sin", 55)])
def test_length_in_float32(name, most):
    """Speed is instructions: a function that grows has to say so here."""
    steps = [s for s in program(name, np.float32, 1).steps[0].body if isinstance(s, Let)]
    assert sum(s.op not in ("const", "bitcast") for s in steps) <= most
