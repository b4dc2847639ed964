"""scan and fori_loop against Python's loop: values, both derivatives, second order, batches, nesting, taps, and what they refuse."""

import numpy as np
import pytest

import adjoint as ad
from adjoint.errors import ConfigError, DtypeError, MutationError, ShapeError, TreeError
from adjoint.testing.gradients import check_grads
from adjoint.transforms.control import fori_loop, scan
from adjoint.tree import flatten, map_tree

T, B, I, H = 5, 3, 4, 2


def plain_scan(body, carry, xs, reverse=False):
    """The loop that scan stands for."""
    times = range(len(xs))
    ys = {}
    for t in reversed(times) if reverse else times:
        carry, ys[t] = body(carry, xs[t])
    return carry, np.stack([ys[t] for t in times])


@pytest.fixture
def cell(rng):
    return {"w": rng.normal(size=(I, H)), "u": rng.normal(size=(H, H)), "b": rng.normal(size=H)}


@pytest.fixture
def xs(rng):
    return rng.normal(size=(T, B, I))


def recurrent(loop, p, xs, h, **options):
    def body(h, x):
        h = np.tanh(x @ p["w"] + h @ p["u"] + p["b"])
        return h, h * 2.0 + x.sum()
    return loop(body, h, xs, **options)


def loss(loop, p, xs, h, **options):
    last, ys = recurrent(loop, p, xs, h, **options)
    return np.sin(ys).sum() + (last ** 2).sum()


def near(a, b, tolerance=1e-12):
    for x, y in zip(flatten(a)[0], flatten(b)[0], strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("reverse", [False, True])
def test_values_and_derivatives_are_those_of_the_loop(cell, xs, rng, reverse):
    h = rng.normal(size=(B, H))
    near(recurrent(scan, cell, xs, h, reverse=reverse), recurrent(plain_scan, cell, xs, h, reverse=reverse))
    unrolled, rolled = (lambda p, xs, h, loop=loop: loss(loop, p, xs, h, reverse=reverse) for loop in (plain_scan, scan))
    near(ad.grad(rolled, (0, 1, 2))(cell, xs, h), ad.grad(unrolled, (0, 1, 2))(cell, xs, h))
    dots = map_tree(lambda x: rng.normal(size=x.shape), (cell, xs, h))
    near(ad.jvp(rolled, (cell, xs, h), dots), ad.jvp(unrolled, (cell, xs, h), dots))


def test_second_derivatives(cell, xs, rng):
    h = rng.normal(size=(B, H))
    along = map_tree(lambda x: rng.normal(size=x.shape), cell)
    near(*(ad.hvp(lambda p, loop=loop: loss(loop, p, xs, h), cell, along) for loop in (scan, plain_scan)))

    def norm_of_gradient(loop, p):
        return sum((g ** 2).sum() for g in flatten(ad.grad(lambda p: loss(loop, p, xs, h))(p))[0])
    near(*(ad.grad(lambda p, loop=loop: norm_of_gradient(loop, p))(cell) for loop in (scan, plain_scan)), 1e-10)
    bias = lambda loop: lambda b: loss(loop, {**cell, "b": b}, xs, h)
    near(ad.hessian(bias(scan))(cell["b"]), ad.hessian(bias(plain_scan))(cell["b"]))


def test_forward_and_reverse_agree_to_second_order(rng):
    check_grads(lambda w, x: scan(lambda c, x: (np.sin(c * w) + x, c * x), x[0], x), rng.normal(size=3), rng.normal(size=(4, 3)))
    check_grads(lambda x: fori_loop(0, 4, lambda i, c: np.sin(c) * x + i, x), rng.normal(size=3))


def test_a_batch_of_scans(cell, xs, rng):
    h = rng.normal(size=(B, H))
    last, ys = ad.vmap(lambda x, h: recurrent(scan, cell, x[:, None], h[None]), in_axes=(1, 0))(xs, h)
    expected = [recurrent(plain_scan, cell, xs[:, i:i + 1], h[i:i + 1]) for i in range(B)]
    near((last, ys), (np.stack([e[0] for e in expected]), np.stack([e[1] for e in expected])))
    weights = ad.vmap(lambda w: loss(scan, {**cell, "w": w}, xs, h))(np.stack([cell["w"], -cell["w"]]))
    near(weights, np.array([loss(plain_scan, {**cell, "w": w}, xs, h) for w in (cell["w"], -cell["w"])]))
    per_example = ad.vmap(ad.grad(lambda b, x: loss(scan, {**cell, "b": b}, x[:, None], h[:1])), in_axes=(None, 1))(cell["b"], xs)
    near(per_example, np.stack([ad.grad(lambda b, i=i: loss(plain_scan, {**cell, "b": b}, xs[:, i:i + 1], h[:1]))(cell["b"])
                                for i in range(B)]))


def test_loops_in_loops(rng):
    def nested(outer, inner, x):
        def body(c, x):
            return inner(c, x), c * x
        return outer(body, x[0], x)

    def repeat(c, x):
        for i in range(3):
            c = np.sin(c) * x + i
        return c
    x = rng.normal(size=(4, 3))
    inside = lambda c, x: fori_loop(0, 3, lambda i, c: np.sin(c) * x + i, c)
    near(nested(scan, inside, x), nested(plain_scan, repeat, x))
    total = lambda outer, inner: lambda x: sum(np.sin(y).sum() for y in nested(outer, inner, x))
    near(ad.grad(total(scan, inside))(x), ad.grad(total(plain_scan, repeat))(x))
    near(ad.hvp(total(scan, inside), x, x), ad.hvp(total(plain_scan, repeat), x, x), 1e-10)


def test_trees_lengths_and_ends():
    state, ys = scan(lambda s, x: ({"sum": s["sum"] + x["a"], "n": s["n"] + 1}, None), {"sum": 0.0, "n": 0}, {"a": np.arange(4.0)})
    assert state == {"sum": 6.0, "n": 4} and ys is None and state["n"].dtype == np.int64
    doubled, _ = scan(lambda c, _: (c * 2.0, None), np.float32(1), length=3)
    assert doubled == 8 and doubled.dtype == np.float32
    last, ys = scan(lambda c, x: (c + x, c), 1.0, np.zeros(0))
    assert last == 1.0 and ys.shape == (0,)
    assert fori_loop(3, 3, lambda i, c: c + i, 7) == 7 and fori_loop(2, 5, lambda i, c: c + i, 0) == 9
    assert fori_loop(5, 2, lambda i, c: c + i, 1) == 1


def test_a_python_scalar_takes_the_dtype_that_the_body_gives_it():
    total, _ = scan(lambda c, x: (c + x, None), 0.0, np.ones(3, np.float32))
    assert total.dtype == np.float32 and total == 3


def test_a_count_that_is_traced_is_a_while_loop():
    power = lambda x, n: fori_loop(0, n, lambda i, c: c * x, 1.0)
    assert power(3.0, np.int64(4)) == 81
    assert "while(" in str(ad.trace(power)(3.0, 4))
    near(ad.grad(lambda x: power(x, np.array(4)))(3.0), np.float64(108.0))


def test_only_what_depends_on_the_step_is_kept(rng):
    """Reverse mode keeps one value a step here: the carried one. Weights and their transforms are constants of the pullback."""
    w = rng.normal(size=(9, 9))
    graph = ad.trace(ad.grad(lambda h: scan(lambda h, _: (np.sin(w @ w) @ h, None), h, length=6)[0].sum()))(rng.normal(size=9))
    loops = [n for n in graph.nodes if n.primitive.name == "scan"]
    assert len(loops) == 2
    kept = [v.aval.shape for v in loops[0].outs[1:]]
    assert kept == [], "a linear body needs nothing of the steps"
    graph = ad.trace(ad.grad(lambda h: scan(lambda h, _: (np.sin(w @ h), None), h, length=6)[0].sum()))(rng.normal(size=9))
    ahead = next(n for n in graph.nodes if n.primitive.name == "scan")
    assert [v.aval.shape for v in ahead.outs[1:]] == [(6, 9)]


def test_taps_inside_are_collected_step_by_step():
    f = lambda x: scan(lambda c, x: (ad.tap("c", c * x), None), 1.0, x)[0]
    x = np.array([1.0, 2.0, 3.0])
    y, taps = ad.collect_taps(f)(x)
    assert y == 6 and taps["c"].tolist() == [1, 2, 6]
    bar, taps = ad.collect_taps(ad.grad(f))(x)
    assert bar.tolist() == [6, 3, 2] and list(taps) == ["c"]


REFUSED = [
    (lambda: scan(lambda c, x: (c[:1], None), np.ones(2), np.ones(3)), ShapeError, r"enters as float64\[2\] and leaves .* float64\[1\]"),
    (lambda: fori_loop(0, 3, lambda i, c: c * np.float64(2), np.float32(1)), DtypeError, r"float32\[\] and leaves .* float64\[\]"),
    (lambda: fori_loop(0, 3, lambda i, c: {"a": c}, 1.0), TreeError, r"enters as \* and leaves the body as \{'a': \*\}"),
    (lambda: scan(lambda c, x: ({"h": c["h"][:1]}, None), {"h": np.ones(2)}, np.ones(3)), ShapeError, "the carried value h enters"),
    (lambda: scan(lambda c, x: c, 1.0, np.ones(3)), TreeError, r"must return \(carry, y\)"),
    (lambda: scan(lambda c, x: (c, None), 1.0), ConfigError, "neither xs nor length"),
    (lambda: scan(lambda c, x: (c, None), 1.0, length=-1), ConfigError, "length is -1"),
    (lambda: scan(lambda c, x: (c, None), 1.0, length=3.5), ConfigError, "length is 3.5"),
    (lambda: scan(lambda c, x: (c, None), 1.0, (np.ones(3), np.ones(4))), ShapeError, "expected length 3"),
    (lambda: scan(lambda c, x: (c, None), 1.0, 2.0), ShapeError, "no axis to go along"),
    (lambda: fori_loop(0, 1.5, lambda i, c: c, 1.0), DtypeError, "expected an integer")]


@pytest.mark.parametrize(("call", "error", "message"), REFUSED)
def test_what_cannot_be_carried_is_refused_in_words(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert "  at " in str(caught.value) and "test_scan.py" in str(caught.value)


def test_writing_to_an_outer_array_is_refused():
    def outer(x):
        y = x.copy()

        def body(i, c):
            y[0] = c
            return c
        return fori_loop(0, 2, body, y[1])
    with pytest.raises(MutationError, match=r"x = x.copy\(\)"):
        ad.grad(outer)(np.ones(3))
    with pytest.raises(MutationError, match=r"x = x.copy\(\)"):
        fori_loop(0, 2, lambda i, c: c.__setitem__(0, 1.0) or c, np.ones(3))
    written = fori_loop(0, 3, lambda i, c: _set(c.copy(), i), np.zeros(3))
    assert written.tolist() == [1, 2, 3]


def _set(x, i):
    x[i] = i + 1.0
    return x
