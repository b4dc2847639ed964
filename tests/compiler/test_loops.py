"""Loops and branches in native code: bits of the reference, values of eager, threads, what is hoisted, memory, checks, interrupts."""

from __future__ import annotations

import os
import signal
import threading

import numpy as np
import pytest
from msgspec.structs import replace
from programs import traced
from run_native import check_program

import adjoint as ad
from adjoint.compiler.loops_check import check
from adjoint.compiler.pipeline import build
from adjoint.compiler.simplify import simplify
from adjoint.compiler.steps import Repeat, Window, check_windows
from adjoint.errors import CompileError, DivisionError, IndexRangeError
from adjoint.transforms.calls import inline
from adjoint.tree import flatten

T, B, I, H = 5, 3, 4, 2


def cell(w, u, b, xs, h, reverse=False):
    def body(h, x):
        h = np.tanh(x @ w + h @ u + b)
        return h, (h * 2.0, x.sum(), h[::-1])
    return ad.scan(body, h, xs, reverse=reverse)


def loss(w, u, b, xs, h):
    last, (ys, _, _) = cell(w, u, b, xs, h)
    return np.sin(ys).sum() + (last ** 2).sum()


def newton(a):
    return ad.while_loop(lambda c: np.abs(c * c - a) > 1e-12, lambda c: 0.5 * (c + a / c), 0.5 * a + 0.5)


def powers(w, n):
    return (ad.fori_loop(0, n, lambda i, c: np.sin(0.2 * (w @ c)) + i, w[0]) ** 2).sum()


def either(x):
    return ad.cond(x.sum() > 1.0, lambda x: np.sin(x) * x, lambda x: np.exp(x) * 2.0, x)


def nested(x):
    def outer(c, x):
        d = ad.fori_loop(0, 3, lambda i, d: np.sin(d) + x * i, c)
        d = ad.cond(d.sum() > 0, lambda: d * 2.0, lambda: d - 1.0)
        d, n = ad.while_loop(lambda c: c[0].sum() < 10, lambda c: (c[0] + np.abs(c[0]) + 0.1, c[1] + 1), (d, 0))
        return d, (d, n, c)
    return ad.scan(outer, x[0], x)


def many(x):
    """Everything that a loop may give back: a carried value twice, one that passes through, a constant, a literal, a view."""
    def body(c, x):
        a, b = c
        return (b, a), (a, a, x, x[0], 1.0, a.T)
    return ad.scan(body, (np.cos(x[0]), x[1]), x)


def turned(x):
    """What a loop or a branch makes itself, used where a constant would be laid out before it."""
    def inside(c):
        r = np.sin(c)
        return r, x @ r.T
    a = ad.fori_loop(0, 3, lambda i, c: np.tanh(c @ c.T) + x, x)
    b = ad.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, np.tanh(x @ c[1].T) + x), (0, x))[1]
    c = ad.cond(x[0, 0] > -9, inside, lambda c: (c, c), x)
    return a, b, c, ad.scan(lambda c, _: (np.tanh(c), (c, x @ np.tanh(c).T)), x, length=3)


def numbers(rng):
    return [rng.normal(size=s) for s in ((I, H), (H, H), (H,), (T, B, I), (B, H))]


def cases():
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(4, 3))
    gradient = lambda f: lambda x: ad.grad(lambda x: sum((y ** 2).sum() for y in flatten(f(x))[0] if y.dtype.kind == "f"))(x)
    loops = lambda x: ad.scan(lambda c, x: (ad.fori_loop(0, 3, lambda i, d: np.sin(d) * x, c), c * x), x[0], x)
    return {
        "scan": (cell, numbers(rng)), "scan backwards": (lambda *xs: cell(*xs, reverse=True), numbers(rng)),
        "reversed xs": (lambda w, u, b, xs, h: cell(w, u, b, xs[::-1, :, ::-1], h), numbers(rng)),
        "gradient": (lambda *xs: ad.grad(loss, (0, 1, 2, 3, 4))(*xs), numbers(rng)), "nested": (nested, [rows]),
        "gradient of loops in loops": (gradient(loops), [rows]), "gradient of cond": (gradient(either), [np.ones(4)]),
        "other side": (gradient(either), [-np.ones(4)]), "while": (newton, [np.float64(7.0)]),
        "forward mode of while": (lambda a: ad.jvp(newton, (a,), (a,)), [np.float64(7.0)]),
        "reverse mode of while": (ad.grad(newton), [np.float64(7.0)]),
        "reverse mode of a traced count": (lambda w, n: ad.grad(lambda w: powers(w, n))(w), [rows[:3], np.int64(67)]),
        "batch of whiles": (ad.vmap(newton), [np.array([1.0, 4.0, 9.0, 2e4])]), "batch of conds": (ad.vmap(either), [rows]),
        "hessian": (ad.hessian(lambda x: ad.scan(lambda c, x: (np.sin(c) * x, None), 1.0, x)[0]), [rows[0]]),
        "everything": (many, [rng.normal(size=(5, 2, 2))]), "swapped": (lambda x, y: ad.fori_loop(
            0, 5, lambda i, c: (c[1], c[0]), (x, y)), [np.ones(2), np.zeros(2)]),
        "states kept, backwards": (lambda x: ad.scan(lambda c, x: (np.sin(c) * x, (c, np.sin(c) * x)), x[0], x, reverse=True), [rows]),
        "one value carried twice": (lambda x: ad.fori_loop(0, 5, lambda i, c: (np.sin(c[0] + c[1]),) * 2, (x, 2.0 * x)), [np.ones(3)]),
        "constants laid out": (lambda w, v, h: ad.fori_loop(0, 3, lambda i, h: np.tanh(h @ w.T) @ v.T, h), [
            rng.normal(size=s) * 0.1 for s in ((128, 33), (33, 128), (2, 33))]),
        "no step": (lambda x: ad.scan(lambda c, x: (c + x, c), 1.0, x[:0]), [np.ones(3)]),
        "one step": (lambda x: ad.scan(lambda c, x: (c + x, c), 1.0, x[:1]), [np.ones(3)]),
        "never": (lambda x: ad.while_loop(lambda c: c[0] > 5, lambda c: c * 2.0, x), [np.ones(3)]),
        "integers": (lambda x: ad.scan(lambda c, x: (c * 3 + x, c // 2), 1, x), [np.arange(6)]),
        "empty arrays": (lambda x: ad.scan(lambda c, x: (c + x, c), x[0], x), [np.ones((3, 0))]),
        "turned": (turned, [rng.normal(size=(36, 36)) * 0.1]),
        "matrices": (lambda x: ad.fori_loop(0, 4, lambda i, c: c @ c * 0.1 + x, x), [rng.normal(size=(20, 20))])}


CASES = cases()


@pytest.mark.parametrize("name", CASES)
def test_bits_of_the_reference_and_values_of_eager(name):
    function, args = CASES[name]
    flat = lambda *xs: flatten(function(*xs))[0]
    built = build(traced(flat, args))
    check(built.program)
    given = {i: np.array((args if b.role == "input" else built.hidden)[b.slot], b.dtype)
             for i, b in enumerate(built.program.buffers) if b.role in ("input", "hidden")}
    check_program(built.program, given)
    for found, expected in zip(flatten(ad.compile(function)(*args))[0], flat(*args), strict=True):
        assert found.dtype == expected.dtype and found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)


# ------------------------------------------------------------------------------------------------ threads


def large(w, xs, h):
    """A loop with work for several threads in a product, in kernels, in a branch and in an inner loop; and a gradient of it."""
    def total(w, xs, h):
        def body(h, x):
            h = np.tanh(h @ w + x)
            h = ad.cond(h[0, 0] > 0, lambda: np.sin(h) + h @ w, lambda: np.exp(-h * h))
            h = ad.fori_loop(0, 2, lambda i, h: np.tanh(h @ w * 0.1 + i), h)
            return h, h[:, :5].sum()
        h, ys = ad.scan(body, h, xs)
        h = ad.while_loop(lambda h: np.abs(h).max() > 0.5, lambda h: np.tanh(h @ w) * 0.5, h)
        return (h ** 2).sum() + ys.sum()
    return ad.jvp(lambda w: total(w, xs, h), (w,), (np.ones_like(w),))


def test_same_bits_for_every_number_of_threads(rng):
    w, xs, h = rng.normal(size=(64, 64)) * 0.1, rng.normal(size=(6, 96, 64)), rng.normal(size=(96, 64))
    fast, found = ad.compile(large), []
    for count in (1, 2, 3):
        with ad.threads(count):
            found.append(fast(w, xs, h))
    assert found[0] == found[1] == found[2]
    np.testing.assert_allclose(found[0], large(w, xs, h), rtol=1e-11)


# ------------------------------------------------------------------------------------------------ what is done once


def weights_gradient(steps, batch=6, size=16):
    def total(w, u, b, xs, h):
        body = lambda h, x: (np.tanh(x @ w + h @ u + b),) * 2
        return (ad.scan(body, h, xs)[1] ** 2).sum()
    rng = np.random.default_rng(0)
    args = [rng.normal(size=s) * 0.1 for s in ((size, size), (size, size), (size,), (steps, batch, size), (batch, size))]
    return ad.compile(ad.grad(total, (0, 1, 2))), args


def test_a_weights_gradient_is_one_product_over_the_sequence():
    fast, args = weights_gradient(8)
    fast(*args)
    lines = fast.kernels()
    products = [line for line in lines if line.strip().startswith("contract")]
    assert sorted(line for line in products if line.startswith("  ")) == ["  contract 1x6x16x16"] * 2       # one a pass, each way
    outside = sorted(line for line in products if not line.startswith("  "))
    assert outside == ["contract 1x16x16x48", "contract 1x16x16x48", "contract 1x48x16x16"]                 # both weights; x @ w
    assert not any("fold" in line for line in lines if line.startswith("  ")), "the bias is summed behind the loop"


def test_code_does_not_grow_with_the_number_of_steps():
    sizes = []
    for steps in (8, 400):
        fast, args = weights_gradient(steps)
        fast(*args)
        sizes.append(len(fast.ir().splitlines()))
    assert abs(sizes[0] - sizes[1]) < 0.1 * sizes[0]


def test_memory_counts_what_is_kept_for_every_step():
    arenas = []
    for steps in (50, 100):
        fast, args = weights_gradient(steps)
        fast(*args)
        arenas.append(fast.memory()["arena"])
    state = 6 * 16 * 8
    assert 2 * 50 * state <= arenas[1] - arenas[0] <= 5 * 50 * state          # the states, x @ w and the cotangents of the sums


def simplified(function, *args):
    return simplify(inline(traced(lambda *xs: flatten(function(*xs))[0], args)))


def test_constants_leave_the_loop(rng):
    graph = simplified(lambda w, x: ad.scan(lambda c, x: (c + np.sin(w) * x, None), 0.0 * w, x)[0], rng.normal(size=3), rng.normal(size=4))
    loop = next(n for n in graph.nodes if n.primitive.name == "scan")
    assert [n.primitive.name for n in loop.params["graph"].nodes] == ["multiply", "add"]
    assert "sin" in [n.primitive.name for n in graph.nodes]


def test_every_term_of_a_sum_leaves_the_loop(rng):
    """Two products and a sum of elements that one carry adds up; where one term needs the carry, all stay."""
    x, y = rng.normal(size=(4, 5, 3)), rng.normal(size=(4, 5, 3))
    body = lambda c, xy: (c + xy[0].T @ xy[1] + xy[1].T @ xy[0] + 2.0, None)
    inside = lambda body: [[m.primitive.name for m in n.params["graph"].nodes] for n in simplified(
        lambda x, y: ad.scan(body, np.zeros((3, 3)), (x, y))[0], x, y).nodes if n.primitive.name == "scan"]
    both = lambda c, xy: (c + xy[0].T @ xy[1] + xy[1].T @ xy[0], None)
    assert not any("dot" in names for names in inside(both)), inside(both)
    for each in (body, both):
        fast = ad.compile(lambda x, y, each=each: ad.scan(each, np.zeros((3, 3)), (x, y))[0])
        expected = sum(a.T @ b + b.T @ a + (2.0 if each is body else 0.0) for a, b in zip(x, y, strict=True))
        np.testing.assert_allclose(fast(x, y), expected, rtol=1e-12)


def test_a_constant_of_a_product_is_laid_out_once_before_the_loop(rng):
    """Its rows lie apart: inside the loop is the product alone, and what follows from it."""
    fast = ad.compile(lambda w, h: ad.fori_loop(0, 3, lambda i, h: np.tanh(h @ w.T), h))
    for size, outside in ((33, 2), (31, 1)):                                # 31: too small to be worth it
        fast(rng.normal(size=(size, size)), rng.normal(size=(2, size)))
        lines = fast.kernels()
        assert not any("copy" in line for line in lines if line.startswith("  "))
        assert sum("copy" in line for line in lines) == outside + 1, lines


def test_products_of_results_leave_the_loop(rng):
    w, h = rng.normal(size=(3, 3)), rng.normal(size=(2, 3))
    graph = simplified(lambda w, h: ad.scan(lambda h, _: (np.sin(h), np.exp(h @ w)), h, length=4)[1], w, h)
    loop = next(n for n in graph.nodes if n.primitive.name == "scan")
    assert [n.primitive.name for n in loop.params["graph"].nodes] == ["sin"]
    assert [v.aval.shape for v in loop.outs] == [(2, 3), (4, 2, 3)]


def test_what_nobody_reads_is_not_carried(rng):
    graph = simplified(lambda x: ad.scan(lambda c, x: ((c[0] + x, np.sin(c[1])), np.cos(c[1])), (0.0, 1.0), x)[0][0], rng.normal(size=4))
    loop = next(n for n in graph.nodes if n.primitive.name == "scan")
    assert loop.params["carries"] == 1 and [n.primitive.name for n in loop.params["graph"].nodes] == ["add"]


@pytest.mark.parametrize("number", [0.0, np.float64(-2.5)])
@pytest.mark.parametrize("term", [lambda r: r.sum(), lambda r: r[0] @ r[1], lambda r: r.T @ r, lambda r: np.sin(r).sum(axis=0)],
                         ids=["sum", "product", "matrix", "columns"])
def test_a_sum_that_leaves_its_loop_begins_where_the_loop_did(term, number, rng):
    """A loop of which nothing is left is no node; where it began at a number, literal or spread out, that is added."""
    x = rng.normal(size=(4, 3, 5))
    for start in (lambda x: np.full_like(term(x[0]), number), lambda x: number if np.ndim(term(x[0])) == 0 else number + 0.0 * term(x[0])):
        function = lambda x, start=start: ad.scan(lambda c, r: (c + term(r), None), start(x), x)[0]
        np.testing.assert_allclose(ad.compile(function)(x), number + sum(map(term, x)), rtol=1e-12)


def loop_of(function, *args):
    """The one loop that is left of a function, and what its body does."""
    loop, = (n for n in simplified(function, *args).nodes if n.primitive.name == "scan")
    return loop, [n.primitive.name for n in loop.params["graph"].nodes]


def test_what_follows_from_a_product_of_results_leaves_the_loop_with_it(rng):
    """Of one argument or of two; not what is no product of a constant, nor another loop."""
    w, h = rng.normal(size=(3, 3)), rng.normal(size=(2, 3))
    outputs = {"two": lambda h, w: np.exp(h @ w) * h, "no product": lambda h, w: np.exp(h) * w[:2],
               "no constant": lambda h, w: np.exp(h) @ h.T, "a loop": lambda h, w: ad.fori_loop(0, 3, lambda i, c: np.sin(c), h @ w)}
    left = {}
    for name, output in outputs.items():
        function = lambda w, h, output=output: ad.scan(lambda h, _: (np.sin(h), output(h, w)), h, length=4)[1]
        left[name] = loop_of(function, w, h)[1]
        np.testing.assert_allclose(ad.compile(function)(w, h), function(w, h), rtol=1e-12)
    assert left["two"] == ["sin"] and "multiply" in left["no product"] and "dot" in left["no constant"]
    assert "dot" in left["a loop"] and len(left["a loop"]) > 2, left


def test_a_result_that_two_sums_need_is_kept_once(rng):
    """a @ b + b @ a behind the loop reads what the loop has kept of a and of b."""
    def body(c, x):
        h, total = c
        a, b = np.sin(h), np.cos(h)
        return (a + x, total + a @ b + b @ a), None
    x = rng.normal(size=(4, 3, 3))
    function = lambda x: ad.scan(body, (x[0], np.zeros((3, 3))), x)[0][1]
    loop, names = loop_of(function, x)
    assert "dot" not in names and [v.aval.shape for v in loop.outs] == [(3, 3), (4, 3, 3), (4, 3, 3)]
    np.testing.assert_allclose(ad.compile(function)(x), function(x), rtol=1e-12)


# ------------------------------------------------------------------------------------------------ checks and interrupts


def test_a_check_inside_a_loop_stops_before_the_commit_point():
    def update(table, places, divisors):
        def body(c, at):
            place, divisor = at
            return c + np.take(table, place, axis=0) * (10 // divisor), None
        return table + ad.scan(body, 0.0 * table[0], (places, divisors))[0]
    fast = ad.compile(update, donate=0)
    held = fast(np.ones((3, 2)), np.array([0, 1, 2, 0]), np.array([1, 2, 5, 10]))
    before = held.copy()
    with pytest.raises(IndexRangeError, match="axis 0 has size 3"):
        fast(held, np.array([0, 1, 3, 0]), np.array([1, 2, 5, 10]))
    with pytest.raises(DivisionError):
        fast(held, np.array([0, 1, 2, 0]), np.array([1, 2, 0, 10]))
    assert held.tobytes() == before.tobytes()
    assert fast(held, np.array([0]).repeat(4), np.array([10]).repeat(4)).tolist() == (before + 4 * before[0]).tolist()


@pytest.mark.parametrize(("count", "size"), [(1, 3), (1, 100), (2, 100), (2, 200)])
def test_an_endless_loop_can_be_interrupted(count, size):
    """Ctrl-C inside a while that never ends, on one thread and on two: KeyboardInterrupt, the donated array as it was."""
    forever = ad.compile(lambda x, stop: ad.while_loop(lambda c: c[0, 0] < stop, lambda c: np.tanh(c @ c) * 0.5, x), donate=0)
    with ad.threads(count):
        held = forever(np.full((size, size), 0.25), -1.0)
        before = held.copy()
        timer = threading.Timer(0.15, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            forever(held, 2.0)
        timer.join()
    assert held.tobytes() == before.tobytes()


# ------------------------------------------------------------------------------------------------ well-formed loops


def test_windows_that_leave_their_arrays_are_refused(rng):
    program = build(traced(lambda *xs: flatten(cell(*xs))[0], numbers(rng))).program
    loop = next(step for step in program.steps if isinstance(step, Repeat))
    assert check_windows(program) == "" and loop.windows
    for number in loop.windows:
        window = program.buffers[number]
        assert isinstance(window, Window)
        for wrong in (replace(window, start=window.start + 10_000), replace(window, start=-1), replace(window, size=10_000)):
            broken = replace(program, buffers=(*program.buffers[:number], wrong, *program.buffers[number + 1:]))
            assert check_windows(broken)
            with pytest.raises(CompileError):
                check(broken)
