"""cond and while_loop against Python's if and while: values, derivatives of every order, batches, and what they refuse."""

import numpy as np
import pytest

import adjoint as ad
from adjoint.errors import DtypeError, EffectError, ShapeError, TreeError
from adjoint.testing.gradients import check_grads
from adjoint.transforms import while_loops
from adjoint.transforms.control import cond, scan, while_loop
from adjoint.tree import flatten

POINTS = [np.array([1.0, 2.0, 3.0]), -np.ones(4)]
rise, fall = (lambda x: np.sin(x) * x), (lambda x: np.exp(x) * 2.0)


def either(x):
    return cond(x.sum() > 1.0, rise, fall, x)


def taken(x):
    return rise(x) if x.sum() > 1.0 else fall(x)


def near(a, b, tolerance=1e-12):
    for x, y in zip(flatten(a)[0], flatten(b)[0], strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("x", POINTS)
def test_cond_is_the_branch_taken(x, rng):
    near(either(x), taken(x))
    square = lambda f: lambda x: (f(x) ** 2).sum()
    near(ad.grad(square(either))(x), ad.grad(square(taken))(x))
    near(ad.hessian(square(either))(x), ad.hessian(square(taken))(x))
    dot = rng.normal(size=x.shape)
    near(ad.jvp(either, (x,), (dot,)), ad.jvp(taken, (x,), (dot,)))
    near(ad.grad(lambda x: square(ad.grad(square(either)))(x))(x), ad.grad(lambda x: square(ad.grad(square(taken)))(x))(x))
    check_grads(either, x)


def test_the_branch_not_taken_is_not_run():
    """Neither forwards nor backwards: its derivative would be NaN."""
    x = np.array([-1.0, -4.0])
    root = lambda x: cond(x.sum() > 0, np.sqrt, lambda x: x * 3.0, x)
    with np.errstate(all="raise"):
        assert root(x).tolist() == [-3, -12] and ad.grad(lambda x: root(x).sum())(x).tolist() == [3, 3]


def test_captured_and_given_operands_have_cotangents():
    f = lambda w, x: cond(x > 0, lambda y: w * y, lambda y: w + y, x * 2.0)
    assert ad.grad(f, (0, 1))(3.0, 2.0) == (4.0, 6.0) and ad.grad(f, (0, 1))(3.0, -2.0) == (1.0, 2.0)


def test_a_predicate_per_example_selects(rng):
    x = rng.normal(size=(5, 3))
    near(ad.vmap(either)(x), np.stack([taken(row) for row in x]))
    near(ad.vmap(ad.grad(lambda x: either(x).sum()))(x), np.stack([ad.grad(lambda x: taken(x).sum())(row) for row in x]))
    shared = ad.vmap(lambda p, x: cond(p, rise, fall, x), in_axes=(None, 0))
    near(shared(True, x), rise(x))


def test_cond_of_trees_and_scalars():
    y = cond(True, lambda: {"a": 1.0, "b": np.float32(2)}, lambda: {"a": np.float32(3), "b": 0.0})
    assert y == {"a": 1, "b": 2} and y["a"].dtype == y["b"].dtype == np.float32
    assert cond(0, lambda: 1, lambda: 2) == 2


REFUSED = [
    (lambda: cond(np.ones(2) > 0, lambda: 1, lambda: 2), ShapeError, r"predicate is bool\[2\]"),
    (lambda: cond(True, lambda: np.ones(2), lambda: np.ones(3)), ShapeError, r"float64\[2\], on_false returns float64\[3\]"),
    (lambda: cond(True, lambda: np.ones(2), lambda: np.ones(2, int)), DtypeError, r"float64\[2\], on_false returns int64\[2\]"),
    (lambda: cond(True, lambda: (1.0, 2.0), lambda: 1.0), TreeError, "on_true returns"),
    (lambda: while_loop(lambda c: c, lambda c: c, 1.0), DtypeError, r"returned float64\[\], expected bool"),
    (lambda: while_loop(lambda c: c > 0, lambda c: c, np.ones(2)), ShapeError, r"returned bool\[2\], expected one bool"),
    (lambda: while_loop(lambda c: c < 5, lambda c: (c, c), 1.0), TreeError, "while_loop: the carried value")]


@pytest.mark.parametrize(("call", "error", "message"), REFUSED)
def test_what_does_not_fit_is_refused_in_words(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert "test_control.py" in str(caught.value)


def test_a_tap_in_a_branch_is_refused():
    with pytest.raises(EffectError, match="a tap inside cond"):
        ad.collect_taps(lambda x: cond(x > 0, lambda: ad.tap("x", x), lambda: x))(1.0)


# ------------------------------------------------------------------------------------------------ while_loop


def newton(a):
    """The square root of a by Newton's method, to twelve digits."""
    return while_loop(lambda c: np.abs(c * c - a) > 1e-12 * a, lambda c: 0.5 * (c + a / c), 0.5 * a + 0.5)


def newton_in_python(a):
    c = 0.5 * a + 0.5
    while np.abs(c * c - a) > 1e-12 * a:
        c = 0.5 * (c + a / c)
    return c


@pytest.mark.mission(161)
def test_derivatives_through_newtons_method(figure):
    """Row 161, reverse and forward mode through an algorithm with a loop of unknown length: d sqrt(a) / da = 1 / (2 sqrt a)."""
    a = np.float64(7.0)
    figure.equal(newton(a), np.sqrt(a), rel=1e-12)
    figure.equal(ad.grad(newton)(a), 0.5 / np.sqrt(a), rel=1e-12)
    figure.equal(ad.jvp(newton, (a,), (1.0,))[1], 0.5 / np.sqrt(a), rel=1e-12)
    figure.equal(ad.grad(ad.grad(newton))(a), -0.25 * a ** -1.5, rel=1e-10)


def test_while_is_the_loop_in_python():
    for a in (0.3, 2.0, 1e4):
        near(newton(a), newton_in_python(a))
        near(ad.grad(newton)(a), ad.grad(newton_in_python)(a))
        near(ad.jvp(newton, (a,), (2.0,)), ad.jvp(newton_in_python, (a,), (2.0,)))
        near(ad.grad(ad.grad(newton))(a), ad.grad(ad.grad(newton_in_python))(a))
    check_grads(newton, np.float64(3.0))
    assert while_loop(lambda c: c < 0, lambda c: c * 2, 1.0) == 1.0
    assert ad.grad(lambda x: while_loop(lambda c: c < 0, lambda c: c * 2, x))(1.0) == 1.0


def powers(loop, w, x, n):
    return (loop(0, n, lambda i, c: np.sin(w @ c) + 0.1 * i * x, x) ** 2).sum()


def python_loop(lower, upper, body, c):
    for i in range(lower, upper):
        c = body(i, c)
    return c


@pytest.mark.parametrize("n", [0, 1, 2, 5, 70])
def test_reverse_mode_where_the_count_is_not_known(n, rng):
    """Under vmap the count is a traced number: the backward pass goes by segments, whose first values alone are kept."""
    w, x = rng.normal(size=(3, 3)), rng.normal(size=3)
    by_count = ad.vmap(ad.grad(lambda w, x, n: powers(ad.fori_loop, w, x, n), (0, 1)), in_axes=(None, None, 0))
    found = by_count(w, x, np.array([n]))
    expected = ad.grad(lambda w, x: powers(python_loop, w, x, n), (0, 1))(w, x)
    near([bar[0] for bar in found], expected, 1e-10)


def test_beyond_the_slots_values_are_computed_again(monkeypatch, rng):
    monkeypatch.setattr(while_loops, "SLOTS", 2)
    w, x = rng.normal(size=(3, 3)), rng.normal(size=3)
    for n in (3, 4, 5, 11):
        found = ad.vmap(ad.grad(lambda w, n: powers(ad.fori_loop, w, x, n)), in_axes=(None, 0))(w, np.array([n]))
        near(found[0], ad.grad(lambda w, n=n: powers(python_loop, w, x, n))(w), 1e-10)


def test_a_batch_runs_until_all_are_done():
    a = np.array([1.0, 4.0, 9.0, 2e4])
    near(ad.vmap(newton)(a), np.sqrt(a), 1e-11)
    near(ad.vmap(newton)(a), np.array([newton_in_python(x) for x in a]))
    near(ad.vmap(lambda a: ad.jvp(newton, (a,), (1.0,))[1])(a), 0.5 / np.sqrt(a), 1e-11)
    near(ad.vmap(ad.grad(newton))(a), 0.5 / np.sqrt(a), 1e-11)
    count = lambda n: while_loop(lambda c: c[0] < n, lambda c: (c[0] + 1, c[1] * 2.0), (0, 1.0))[1]
    assert ad.vmap(count)(np.array([0, 3, 1])).tolist() == [1, 8, 2]


def test_a_shared_condition_keeps_the_loop_plain():
    steps = lambda x: while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] * x), (0, 1.0))
    n, y = ad.vmap(steps, out_axes=0)(np.array([1.0, 2.0]))
    assert n.tolist() == [3, 3] and y.tolist() == [1, 8]


def test_control_flow_nests(rng):
    def body(c, x):
        c = cond(c.sum() > 0, lambda: np.sin(c) * x, lambda: np.cos(c) - x)
        return while_loop(lambda c: np.abs(c).sum() < 1.0, lambda c: c * 1.5 + 0.1, c), c

    def python(x):
        c, ys = x[0], []
        for row in x:
            c = np.sin(c) * row if c.sum() > 0 else np.cos(c) - row
            ys.append(c)
            while np.abs(c).sum() < 1.0:
                c = c * 1.5 + 0.1
        return c, np.stack(ys)
    x = rng.normal(size=(4, 3))
    rolled = lambda x: scan(body, x[0], x)
    near(rolled(x), python(x))
    near(ad.jvp(rolled, (x,), (x,)), ad.jvp(python, (x,), (x,)))
