"""compile as its users meet it: trees, statics, donation, errors, transformations around it, threads, forks, same bits."""

from __future__ import annotations

import os
import threading
from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest

import adjoint as ad
from adjoint import errors

Pair = namedtuple("Pair", "first second")


@dataclass(frozen=True)
class Scale:
    factor: np.ndarray
    name: str = "scale"


def descend(p, x, rate):
    loss, g = ad.value_and_grad(lambda p: ((x @ p["w"] + p["b"]) ** 2).mean())(p)
    return {k: p[k] - rate * g[k] for k in p}, loss


def parameters(rng):
    return {"w": rng.standard_normal((7, 3)), "b": rng.standard_normal(3)}


def test_arguments_and_results_are_trees(rng):
    f = ad.compile(lambda a, b, c: Pair({"x": a["x"] * b[0]}, [c.factor + b[1], (a["x"].sum(), "done", None)]))
    x = rng.standard_normal(4)
    first, second = f({"x": x}, (2.0, 3), Scale(np.ones(2)))
    assert isinstance(f({"x": x}, (2.0, 3), Scale(np.ones(2))), Pair)
    assert np.array_equal(first["x"], 2.0 * x) and np.array_equal(second[0], [4.0, 4.0])
    np.testing.assert_allclose(second[1][0], x.sum(), rtol=1e-14)
    assert second[1][1:] == ("done", None) and f.stats()["programs"] == 1


def test_a_scalar_result_is_a_numpy_scalar():
    y = ad.compile(lambda x: x.sum())(np.ones(3, np.float32))
    assert type(y) is np.float32 and y == 3


def test_new_numbers_never_recompile_but_new_shapes_and_dtypes_do(rng):
    f = ad.compile(lambda x, rate, n: x * rate + n)
    x = rng.standard_normal(5).astype(np.float32)
    for rate, n in ((0.1, 1), (0.2, -7), (float("inf"), 0)):
        expected = x * rate + n
        assert f(x, rate, n).dtype == np.float32
        np.testing.assert_array_equal(f(x, rate, n), expected)
    assert f.stats()["programs"] == 1
    f(x.astype(np.float64), 0.1, 1)
    f(x[:2], 0.1, 1)
    assert f.stats()["programs"] == 3


def test_static_arguments_are_part_of_the_program():
    f = ad.compile(lambda x, n, mode="sum": getattr(x.reshape(n, -1), mode)(0), static=("n", "mode"))
    x = np.arange(6.0)
    assert f(x, 2).tolist() == [3, 5, 7] and f(x, 3).tolist() == [6, 9]
    assert f(x, n=2, mode="max").tolist() == [3, 4, 5] and f(x=x, n=2).tolist() == [3, 5, 7]
    assert f(x, 2).tolist() == [3, 5, 7] and f.stats()["programs"] == 3


def test_an_int_needed_as_a_shape_asks_for_static():
    with pytest.raises(errors.TracerError, match="static"):
        ad.compile(lambda x, n: x.reshape(n, -1))(np.arange(6.0), 2)


@pytest.mark.parametrize("make", [
    lambda x: x[::2], lambda x: x.T, lambda x: x[::-1], lambda x: np.asfortranarray(x),
    lambda x: np.broadcast_to(x[:1], (4, 6))])
def test_foreign_layouts_give_the_same_result(make, rng):
    x = make(rng.standard_normal((4, 6)))
    plain = np.array(x)
    f = ad.compile(lambda x: np.sin(x).sum(axis=0))
    assert np.array_equal(f(plain), f(x)) and np.array_equal(f(x), f(x))


def test_unaligned_arrays(rng):
    raw = np.empty(8 * 5 + 1, np.uint8)[1:].view(np.float64)
    raw[:] = rng.standard_normal(5)
    assert np.array_equal(ad.compile(lambda x: x * 2.0)(raw), raw * 2.0)


@pytest.mark.parametrize("dtype", ["float16", "complex128", "int16", ">f8", "O"])
def test_other_dtypes_are_refused_with_the_nearest(dtype):
    with pytest.raises(errors.DtypeError):
        ad.compile(lambda x: x + x)(np.ones(3).astype(dtype))


def test_an_index_out_of_range_raises_and_writes_nothing(rng):
    f = ad.compile(lambda p, i, x: (p + x[i], x.sum()), donate=0)
    p, _ = f(np.zeros(2), np.array([0, -1]), np.arange(4.0))
    before = p.copy()
    with pytest.raises(errors.IndexRangeError, match="axis 0 has size 4"):
        f(p, np.array([0, 4]), np.arange(4.0))
    with pytest.raises(errors.IndexRangeError):
        f(p, np.array([-5, 0]), np.arange(4.0))
    assert np.array_equal(p, before)


def test_integer_division_raises_and_never_traps():
    f = ad.compile(lambda a, b: (a // b, a % b))
    assert [x.tolist() for x in f(np.array([7, -7]), np.array([2, 2]))] == [[3, -4], [1, 1]]
    for a, b in (([1, 2], [1, 0]), ([np.iinfo(np.int64).min, 1], [-1, 1])):
        with pytest.raises(errors.DivisionError):
            f(np.array(a), np.array(b))


def test_random_numbers_inside_are_an_error():
    generator = np.random.default_rng(0)
    with pytest.raises(errors.EffectError, match="drew random numbers"):
        ad.compile(lambda x: x + generator.standard_normal(3))(np.ones(3))
    with pytest.raises(errors.EffectError, match=r"np\.random"):
        ad.compile(lambda x: x + np.random.standard_normal(3))(np.ones(3))


def test_an_exception_while_tracing_leaves_nothing_behind(rng):
    def broken(x):
        if x.shape == (3,):
            raise RuntimeError("in the middle")
        return x * 2
    f = ad.compile(broken)
    with pytest.raises(RuntimeError, match="in the middle"):
        f(np.ones(3))
    assert f(np.ones(2)).tolist() == [2, 2] and ad.grad(lambda x: x * x)(3.0) == 6.0


def test_captured_arrays_are_read_at_each_call():
    table = np.arange(100.0)
    f = ad.compile(lambda i: table[i] if isinstance(i, int) else (table * i).sum())
    assert f(np.float64(1.0)) == 4950.0
    table[0] = 50.0
    assert f(np.float64(1.0)) == 5000.0


# ------------------------------------------------------------------------------------------------ donation


def test_donated_trees_are_live_handles(rng):
    step, p, x = ad.compile(descend, donate=0), parameters(rng), rng.standard_normal((5, 7))
    original = ad.copy(p)
    held, first = step(p, x, 0.1)
    assert all(np.array_equal(p[k], original[k]) for k in p), "the caller's arrays are not touched"
    expected, _ = descend(original, x, 0.1)
    for k in p:
        np.testing.assert_allclose(held[k], expected[k], rtol=1e-12)
    snapshot = ad.copy(held)
    again, second = step(held, x, 0.1)
    assert again is held and second < first and not np.array_equal(held["w"], snapshot["w"])
    restored, third = step(snapshot, x, 0.1)
    assert restored is not held and third == second


def test_a_failed_call_leaves_donated_data_and_the_handle_in_order(rng):
    step, x = ad.compile(descend, donate=0), rng.standard_normal((5, 7))
    held, _ = step(parameters(rng), x, 0.1)
    before = ad.copy(held)
    with pytest.raises(errors.ShapeError):
        step(held, rng.standard_normal((5, 6)), 0.1)
    assert all(np.array_equal(held[k], before[k]) for k in held)
    assert step(held, x, 0.1)[0] is held


def test_donated_leaves_that_share_memory_are_refused():
    both = np.zeros((2, 3))
    f = ad.compile(lambda p, x: ([q + x for q in p], x), donate=0)
    with pytest.raises(errors.DonationError, match="share memory"):
        f([both, both[1]], 1.0)
    with pytest.raises(errors.DonationError, match="share memory"):
        f([both, both], 1.0)


def test_a_donated_argument_must_be_returned():
    with pytest.raises(errors.DonationError, match="argument 0 is not returned"):
        ad.compile(lambda p, x: p.sum() + x, donate=0)(np.ones(3), 1.0)
    with pytest.raises(errors.DonationError, match="argument 4"):
        ad.compile(lambda p, x: (p, x), donate=4)(np.ones(3), 1.0)


def test_donated_memory_as_another_argument_is_copied(rng):
    f = ad.compile(lambda p, x: (p + x, p.sum()), donate=0)
    p, _ = f(np.arange(4.0), np.zeros(4))
    q, _ = f(p, p)
    assert q is p and p.tolist() == [0, 2, 4, 6]
    f(p, p[::-1])
    assert p.tolist() == [6, 6, 6, 6]


# ------------------------------------------------------------------------------------------------ transformations and compile


def nasty(x, unused, repeated):
    scale = 3.0
    inner = lambda z: np.where(z > 0, np.log(np.maximum(z, 1e-3)), z * scale)
    y = inner(x * repeated) + inner(repeated * x)
    z = y.copy()
    z[0] += y[-1]
    return (z * z).sum() + np.tanh(x).max()


def test_compile_and_grad_commute(rng):
    x, r = rng.standard_normal(5), rng.standard_normal(5)
    plain = ad.grad(nasty, argnums=(0, 2))(x, 1.0, r)
    outside = ad.compile(ad.grad(nasty, argnums=(0, 2)))(x, 1.0, r)
    inside = ad.grad(ad.compile(nasty), argnums=(0, 2))(x, 1.0, r)
    for a, b, c in zip(plain, outside, inside, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-12)
        np.testing.assert_allclose(c, a, rtol=1e-12)


def test_second_derivatives_batches_and_forward_mode_of_a_compiled_function(rng):
    f = lambda x: (np.sin(x) * x).sum()
    c, x, v = ad.compile(f), rng.standard_normal(4), rng.standard_normal(4)
    np.testing.assert_allclose(ad.hessian(c)(x), ad.hessian(f)(x), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(ad.jvp(c, (x,), (v,))[1], ad.jvp(f, (x,), (v,))[1], rtol=1e-12)
    np.testing.assert_allclose(ad.vmap(ad.grad(c))(np.stack([x, v])), [ad.grad(f)(x), ad.grad(f)(v)], rtol=1e-12)
    np.testing.assert_allclose(ad.compile(ad.compile(f))(x), f(x), rtol=1e-13)


# ------------------------------------------------------------------------------------------------ same bits


def network(rng, batch):
    x = rng.standard_normal((batch, 120)).astype(np.float32)
    w = [rng.standard_normal(s).astype(np.float32) for s in ((300, 120), (300,), (10, 300))]

    def value(w, x):
        return (np.tanh(x @ w[0].T + w[1]) @ w[2].T).std()
    return ad.value_and_grad(value), w, x


def test_one_and_two_threads_give_the_same_bits(rng):
    f, w, x = network(rng, 200)
    found = []
    for n in (1, 2):
        with ad.threads(n):
            value, gradient = ad.compile(f)(w, x)
            found.append([value.tobytes(), *(g.tobytes() for g in gradient)])
    assert found[0] == found[1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_row_of_a_batch_computed_alone_has_the_same_bits(dtype, rng):
    x, w = rng.standard_normal((37, 130)).astype(dtype), rng.standard_normal((130, 71)).astype(dtype)
    product = ad.compile(lambda x, w: x @ w)
    whole = product(x, w)
    turned = ad.compile(lambda x, v: x @ v.T)
    for i in (0, 5, 36):
        assert product(x[i:i + 1], w).tobytes() == whole[i:i + 1].tobytes()
        assert turned(x[i:i + 1], np.ascontiguousarray(w.T)).tobytes() == whole[i:i + 1].tobytes()


def test_eight_threads_call_and_differentiate_one_compiled_function(rng):
    f, w, x = network(rng, 50)
    compiled = ad.compile(f)
    expected = compiled(w, x)[0]
    wrong: list = []

    def work():
        for _ in range(20):
            if compiled(w, x)[0] != expected or ad.grad(lambda z: z * z)(2.0) != 4.0:
                wrong.append(1)
    threads = [threading.Thread(target=work) for _ in range(8)]
    [t.start() for t in threads]
    [t.join(60) for t in threads]
    assert not wrong and not any(t.is_alive() for t in threads)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_after_fork_computes(rng):
    f, w, x = network(rng, 200)
    compiled = ad.compile(f)
    with ad.threads(2):
        expected = compiled(w, x)[0]
        child = os.fork()
        if child == 0:
            os._exit(0 if compiled(w, x)[0] == expected and ad.compile(f)(w, x)[0] == expected else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_looking_inside(rng):
    f, w, x = network(rng, 20)
    compiled = ad.compile(f)
    with pytest.raises(errors.ConfigError, match="not been compiled"):
        compiled.stats()
    compiled(w, x)
    assert any("contract" in line for line in compiled.kernels()) and "define" in compiled.ir()
    memory = compiled.memory()
    assert memory["peak"] == sum(v for k, v in memory.items() if k != "peak")
    assert memory["input"] == sum(a.nbytes for a in (*w, x)) and set(compiled.stats()["milliseconds"]) == {"build", "emit", "link"}
    assert "dot(" in str(compiled.graph())


def test_zero_sized_arrays():
    f = ad.compile(lambda x, w: (x @ w, (x * 2.0).sum(), x.sum(axis=0)))
    y, total, columns = f(np.zeros((0, 3)), np.ones((3, 2)))
    assert y.shape == (0, 2) and total == 0 and columns.tolist() == [0, 0, 0]
    y, total, _ = f(np.zeros((2, 0)), np.ones((0, 2)))
    assert y.tolist() == [[0, 0], [0, 0]] and total == 0


def test_programs_are_bounded(monkeypatch):
    monkeypatch.setattr("adjoint.compiler.compile.KEPT_PROGRAMS", 3)
    f = ad.compile(lambda x: x + 1.0)
    for n in (1, 2, 3, 4, 5, 1, 2):
        assert f(np.zeros(n)).tolist() == [1.0] * n
    assert f.stats()["programs"] == 3 and len(f._entry.specializations) == 3


def test_zeros_of_both_signs_in_one_captured_array_stay_apart():
    zeros = np.array([0.0, -0.0])
    assert np.array_equal(ad.compile(lambda x: np.copysign(x, zeros))(np.ones(2)), [1.0, -1.0])


def test_one_function_with_and_without_donation_has_two_entries_in_the_cache():
    def step(a, b):
        return a + b, b * 2
    ad.compile(step)(np.ones(9), np.ones(9))
    donating = ad.compile(step, donate=0)
    a, _ = donating(np.ones(9), np.ones(9))
    assert np.array_equal(donating(a, np.ones(9))[0], np.full(9, 3.0))


def test_a_check_in_the_update_itself_stops_before_anything_is_written():
    step = ad.compile(lambda c, d, e: (c + e, d // e), donate=(0, 1))
    c, d = step(np.ones(3, int), np.full(3, 8), np.ones(3, int))
    before = c.copy(), d.copy()
    with pytest.raises(errors.DivisionError):
        step(c, d, np.array([1, 0, 1]))
    assert np.array_equal(c, before[0]) and np.array_equal(d, before[1])


def test_an_update_that_reads_its_own_array_backwards():
    def step(a):
        return a * 2 + a[::-1]
    compiled = ad.compile(step, donate=0)
    a = compiled(np.arange(50.0))
    expected = step(a.copy())
    assert np.array_equal(compiled(a), expected)


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "bool"])
def test_products_of_integers_and_booleans(dtype, rng):
    x, w = rng.integers(0, 100, (5, 4)).astype(dtype), rng.integers(0, 100, (4, 9)).astype(dtype)
    y = ad.compile(lambda x, w: x @ w)(x, w)
    assert y.dtype == (x @ w).dtype and np.array_equal(y, x @ w)
    assert np.array_equal(ad.compile(lambda x, w: (x @ w).T + w[:1].T)(x, w), (x @ w).T + w[:1].T)
    z = ad.compile(lambda x: np.einsum("ij,ij->i", x, x))(x)
    assert np.array_equal(z, np.einsum("ij,ij->i", x, x))


def test_static_values_are_told_apart_and_must_not_change():
    f = ad.compile(lambda x, s: np.copysign(x, s), static="s")
    assert [f(1.0, 0.0), f(1.0, -0.0), f(1.0, 0.0), f(1.0, -0.0)] == [1.0, -1.0, 1.0, -1.0]
    with pytest.raises(errors.ConfigError, match="list"):
        f(1.0, [1.0])
    with pytest.raises(errors.ConfigError, match="'typo'"):
        ad.compile(lambda x: x, static="typo")
    with pytest.raises(errors.ConfigError, match="expected a function"):
        ad.compile(3)


def test_a_copy_of_a_compiled_function_compiles_anew(rng):
    import copy
    f = ad.compile(nasty)
    x = rng.standard_normal(3)
    assert copy.deepcopy(f)(x, 1.0, x) == copy.copy(f)(x, 1.0, x) == f(x, 1.0, x)
