"""The reference executor: exact fma, folds in their order, and the mistakes that it and `check` catch."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from adjoint.compiler import exact, reference
from adjoint.compiler.emitter import LoopEmitter
from adjoint.compiler.loops import (
    Buffer,
    Carry,
    Check,
    Contraction,
    Fold,
    Index,
    Kernel,
    Let,
    Load,
    Loop,
    Operand,
    Program,
    Store,
    Value,
    Var,
)
from adjoint.compiler.loops_check import check
from adjoint.errors import CompileError

F32, F64, I64, BOOL = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int64), np.dtype(bool)


def rounded(value: Fraction, dtype) -> float:
    """The nearest number of the format, ties to even, by integers alone."""
    info = np.finfo(dtype)
    if value == 0:
        return 0.0
    size = abs(value)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent = exponent if size >= Fraction(2) ** exponent else exponent - 1
    unit = Fraction(2) ** (max(exponent, info.minexp) - info.nmant)
    whole, rest = divmod(size, unit)
    whole += rest > unit / 2 or (rest == unit / 2 and whole % 2 == 1)
    result = whole * unit
    largest = Fraction(float(info.max))
    return float(np.copysign(float(result) if result <= largest else np.inf, 1.0 if value > 0 else -1.0))


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
def test_fma_rounds_the_exact_value_once(dtype):
    rng, info = np.random.default_rng(0), np.finfo(dtype)
    n = 3000
    exponents = rng.integers(info.minexp // 2, info.maxexp // 2, (2, n)) * (rng.random((2, n)) < 0.5)
    x, y = (np.ldexp(rng.uniform(1, 2, n), e).astype(dtype) for e in exponents)
    with np.errstate(all="ignore"):
        product = (x * y).astype(dtype)
        nudged = -product * (1 + rng.integers(-3, 4, n).astype(dtype) * info.eps)
        faint = product * np.ldexp(dtype(1), rng.integers(-60, 60, n))
        z = np.where(rng.random(n) < 0.5, nudged, faint).astype(dtype)
        keep = np.isfinite(z) & np.isfinite(product)
        x, y, z = x[keep], y[keep], z[keep]
        found = exact.fma(x, y, z)
    for a, b, c, y_ in zip(x.tolist(), y.tolist(), z.tolist(), found.tolist(), strict=True):
        assert y_ == rounded(Fraction(a) * Fraction(b) + Fraction(c), dtype)


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
def test_fma_at_the_edges_of_the_format(dtype):
    info = np.finfo(dtype)
    edges = [0.0, -0.0, 1.0, -1.5, info.max, -info.max, info.tiny, info.smallest_subnormal, 3 * info.smallest_subnormal, info.eps]
    triples = np.array(list(itertools.product(edges, repeat=3)), dtype)
    with np.errstate(all="ignore"):
        found = exact.fma(*triples.T)
    for (a, b, c), y in zip(triples.tolist(), found.tolist(), strict=True):
        value = Fraction(a) * Fraction(b) + Fraction(c)
        assert y == rounded(value, dtype), (a, b, c, y)
        if value == 0 and (a == 0 or b == 0) and c == 0:
            assert np.signbit(y) == np.signbit(a * b + c)
    with np.errstate(all="ignore"):
        special = exact.fma(*np.array([[np.inf, 0, 1], [2, 3, -np.inf], [info.max, info.max, -np.inf], [1, np.nan, 1]], dtype).T)
    assert np.isnan(special[[0, 3]]).all() and (special[[1, 2]] == -np.inf).all()


def test_conversions_saturate():
    x = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, 2.9, -2.9, 255.5, 2.0**31, -(2.0**31)])
    assert exact.convert(x, np.dtype(np.int32)).tolist() == [0, 2**31 - 1, -(2**31), 2**31 - 1, -(2**31), 2, -2, 255, 2**31 - 1, -(2**31)]
    assert exact.convert(x, np.dtype(np.uint8)).tolist() == [0, 255, 0, 255, 0, 2, 0, 255, 255, 0]
    assert exact.convert(x, np.dtype(np.int64))[1:5].tolist() == [2**63 - 1, -(2**63), 2**63 - 1, -(2**63)]


def test_the_order_of_a_fold():
    """Lanes, tree and blocks, written out once more by hand."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal(5000).astype(np.float32)
    total = None
    for block in (x[:4096], x[4096:]):
        lanes = [np.float32(0)] * 16
        for i, value in enumerate(block):
            lanes[i % 16] = lanes[i % 16] + value
        while len(lanes) > 1:
            half = len(lanes) // 2
            lanes = [lanes[i] + lanes[i + half] for i in range(half)]
        total = lanes[0] if total is None else total + lanes[0]
    assert reference.folded(x, "add") == total


def test_folds_of_nothing_and_of_nan():
    assert reference.folded(np.zeros((0, 2), np.float32), "max").tolist() == [-np.inf, -np.inf]
    assert np.isnan(reference.folded(np.array([1.0, np.nan, 2.0]), "min"))
    assert reference.folded(np.array([True, False]), "and") == np.False_


def flat(var, offset=0):
    return Index(offset, ((var, 1),))


def one_kernel(*body, var=None, extent=4, size=4, dtype=F64):
    buffers = (Buffer(np.dtype(dtype), size, "input"), Buffer(np.dtype(dtype), size, "output"))
    return Program(buffers, (Kernel("k", var or Var(), extent, body),), 1, 0)


def execute(program):
    return reference.run(program, reference.buffers_for(program, {0: np.zeros(program.buffers[0].size)}))


def test_out_of_range_and_racing_accesses_raise():
    var, x = Var(), Value(F64)
    load = Load(x, 0, flat(var, 1))
    with pytest.raises(CompileError, match="which has 4"):
        execute(one_kernel(load, var=var))
    load = Load(x, 0, flat(var))
    with pytest.raises(CompileError, match="same element"):
        execute(one_kernel(load, Store(1, Index(0), x), var=var))
    with pytest.raises(CompileError, match="guard"):
        e = LoopEmitter()
        e.let("sdiv", (e.const(1, I64), e.const(0, I64)), I64)
        execute(one_kernel(*e.statements))


def test_a_failed_check_is_reported_by_its_code():
    ok = Value(BOOL)
    assert execute(one_kernel(Let(ok, "const", (), np.False_), Check(ok, 6))) == 7


def malformed():
    """(what is wrong, program) for every rule of `check`."""
    v, w, x, y, b = Var(), Var(), Value(F64), Value(F64), Value(BOOL)
    load, store = Load(x, 0, flat(v)), Store(1, flat(v), x)
    number, small = Value(I64), Value(np.dtype(np.float32))
    yield "defined twice", one_kernel(load, load, store, var=v)
    yield "has no value", one_kernel(store, var=v)
    yield "outside its loop", one_kernel(Load(x, 0, flat(w)), var=v)
    yield "elements 1..4", one_kernel(Load(x, 0, flat(v, 1)), var=v)
    yield "no buffer 5", one_kernel(Load(x, 5, flat(v)), var=v)
    yield "has dtype int64, not float64", one_kernel(Load(number, 0, flat(v)), var=v)
    yield "add of float64, int64", one_kernel(load, Let(number, "index", (v,)), Let(y, "add", (x, number)), var=v)
    yield "no operation 'sdiv'", one_kernel(load, Let(y, "sdiv", (x, x)), var=v)
    yield "add of 1 operands", one_kernel(load, Let(y, "add", (x,)), var=v)
    yield "condition of select", one_kernel(load, Let(y, "select", (x, x, x)), var=v)
    yield "another width", one_kernel(load, Let(small, "bitcast", (x,)), var=v)
    yield "not int64", one_kernel(load, Load(y, 0, Index(0, ((x, 1),))), var=v)
    yield "a store converts", one_kernel(Let(b, "const", (), True), Store(1, flat(v), b), var=v)
    yield "inside another", one_kernel(Loop(w, 2, (Loop(Var(), 2, (), "vector"),), "vector"), var=v)
    yield "carries values", one_kernel(load, Loop(w, 2, (), "vector", (Carry(x, y, y, Value(F64)),)), var=v)
    yield "one inside the other", one_kernel(Loop(v, 2, ()), var=v)
    yield "a fold stores", one_kernel(load, Fold(w, 2, (store,), x, "add", y), var=v)
    yield "no fold 'and'", one_kernel(load, Fold(w, 2, (), x, "and", y), var=v)
    yield "needs a bool", one_kernel(load, Check(x, 0), var=v)
    kernel = Kernel("k", v, 4, (Let(b, "const", (), True), Check(b, 0)))
    yield "after the commit", Program((), (kernel,), 0, 0)
    yield "not a step", Program((), (), 3, 0)
    yield "outside the arena", Program((Buffer(F64, 4, "arena", offset=64),), (), 0, 64)
    yield "not aligned", Program((Buffer(F64, 4, "arena", offset=8),), (), 0, 640)
    product = Contraction("p", F64, 1, 2, 2, 2, Operand(0, 0, (4, 2, 1)), Operand(1, 0, (4, 2, 1)), (v, w, Var()), x,
                          (Loop(Var(), 1, ()),))
    yield "straight-line", Program((Buffer(F64, 4, "input"), Buffer(F64, 4, "input", 1)), (product,), 1, 0)

@pytest.mark.parametrize("what, program", list(malformed()), ids=lambda each: each if isinstance(each, str) else "")
def test_check_refuses(what, program):
    with pytest.raises(CompileError, match=what):
        check(program)


def test_check_accepts_a_whole_program():
    e, var = LoopEmitter(), Var()
    total = e.fold(3, lambda i: e.load(0, Index(0, ((var, 3), (i, 1))), F64), "add")
    e.store(1, flat(var), e.call("tanh", total))
    check(Program((Buffer(F64, 12, "input"), Buffer(F64, 4, "output")), (Kernel("k", var, 4, e.statements),), 1, 0))
