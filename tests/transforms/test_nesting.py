"""Transformations nest in every order, on one function with closures, unused and repeated inputs, trees and calls inside."""

import itertools

import numpy as np
import pytest

import adjoint as ad
from adjoint.core.interpreter import EVALUATION, current
from adjoint.errors import EscapedTracerError, NotDifferentiableError

SCALE = np.linspace(0.5, 1.5, 12)           # over 64 bytes: a captured array


def plain(x):
    """A scalar function of 12 numbers, without any call inside."""
    unused = x * 3.0
    pair = {"a": x[:6], "b": (x[6:], x[:6])}            # the same elements twice
    inner = lambda u: np.tanh(u * pair["b"][0]) + np.exp(-SCALE[:6] * u)
    total = inner(pair["a"]) + inner(pair["b"][1])
    return np.sum(total * total) + np.sum(np.sin(SCALE * x)) + 0.0 * np.sum(unused)


def nasty(x):
    """The same function with every kind of call in it, closing over arrays and over traced values."""
    halves = {"a": x[:6], "b": (x[6:], x[:6])}
    exponential = ad.custom_vjp(lambda u: np.exp(-SCALE[:6] * u), lambda u: ((y := np.exp(-SCALE[:6] * u)), y),
                                lambda y, y_bar: (-SCALE[:6] * y * y_bar,))
    hyperbolic = ad.custom_jvp(np.tanh, lambda xs, dots: (np.tanh(xs[0]), (1.0 - np.tanh(xs[0]) ** 2) * dots[0]))

    def inner(u):
        return ad.tap("inner", hyperbolic(u * halves["b"][0]) + exponential(u))
    total = ad.checkpoint(lambda tree: inner(tree["a"]) + inner(tree["b"][1]))(halves)
    return np.sum(total * total) + np.sum(ad.checkpoint(lambda u: np.sin(SCALE * u))(x))


def loop_gradient(f):
    return lambda x: np.array([ad.jvp(f, (x,), (e,))[1] for e in np.eye(len(x))])


FIRST = {
    "reverse": lambda f: ad.grad(f),
    "pullback": lambda f: lambda x: ad.vjp(f, x)[1](1.0)[0],
    "forward": lambda f: ad.jacobian(f, mode="forward"),
    "auto": lambda f: ad.jacobian(f),
    "loop": loop_gradient,
    "linearize": lambda f: lambda x: np.array([ad.linearize(f, x)[1](e) for e in np.eye(len(x))]),
    "checkpointed": lambda f: ad.grad(ad.checkpoint(f)),
    "gradient checkpointed": lambda f: lambda x: ad.checkpoint(ad.grad(f))(x),
    "one of a batch": lambda f: lambda x: ad.vmap(ad.grad(f))(np.stack([x, x + 1.0]))[0],
    "gradient of a batch": lambda f: lambda x: ad.grad(lambda z: np.sum(ad.vmap(f)(z)))(np.stack([x, x + 1.0]))[0],
    "traced": lambda f: lambda x: ad.trace(ad.grad(f))(x).value(),
    "collected": lambda f: lambda x: ad.collect_taps(ad.grad(f))(x)[0],
    "collected inside": lambda f: ad.grad(lambda x: ad.collect_taps(f)(x)[0]),
}
SECOND = {
    "hessian": lambda f: ad.hessian(f),
    "reverse over reverse": lambda f: ad.jacobian(ad.grad(f), mode="reverse"),
    "forward over forward": lambda f: ad.jacobian(ad.jacobian(f, mode="forward"), mode="forward"),
    "reverse over forward": lambda f: ad.jacobian(ad.jacobian(f, mode="forward"), mode="reverse"),
    "products": lambda f: lambda x: np.stack([ad.hvp(f, x, e) for e in np.eye(len(x))]),
    "batched products": lambda f: lambda x: ad.vmap(lambda e: ad.hvp(f, x, e))(np.eye(len(x))),
    "traced": lambda f: lambda x: ad.trace(ad.hessian(f))(x).value(),
    "checkpointed": lambda f: lambda x: ad.hessian(ad.checkpoint(f))(x),
}


@pytest.fixture
def x(rng):
    return rng.uniform(-1.0, 1.0, 12)


def agree(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", FIRST)
def test_first_derivatives(name, x):
    expected = ad.grad(plain)(x)
    agree(FIRST[name](plain)(x), expected)
    agree(FIRST[name](nasty)(x), expected)


@pytest.mark.parametrize("name", SECOND)
def test_second_derivatives(name, x):
    expected = ad.hessian(plain)(x)
    agree(expected, expected.T)
    agree(SECOND[name](nasty)(x), expected)


KINDS = ("reverse", "forward", "one of a batch", "traced", "checkpointed")


@pytest.mark.parametrize("outer, inner", list(itertools.product(KINDS, repeat=2)))
def test_every_order(outer, inner, x):
    of_gradient = lambda f: lambda x: np.sum(FIRST[inner](f)(x) * SCALE)
    agree(FIRST[outer](of_gradient(nasty))(x), ad.hessian(plain)(x) @ SCALE)


def test_third_derivative():
    f = lambda x: np.sin(x) * np.exp(x)
    third = ad.grad(ad.grad(ad.grad(f)))(np.float64(0.3))
    agree(third, 2 * np.exp(0.3) * (np.cos(0.3) - np.sin(0.3)))


def test_perturbations_are_not_confused():
    x = np.float64(1.0)
    agree(ad.grad(lambda x: x * ad.grad(lambda y: x + y)(np.float64(1.0)))(x), 1.0)
    agree(ad.jvp(lambda x: x * ad.jvp(lambda y: x + y, (x,), (1.0,))[1], (x,), (1.0,))[1], 1.0)
    agree(ad.grad(lambda x: x * ad.jvp(lambda y: x * y, (np.float64(2.0),), (1.0,))[1])(x), 2.0)
    constant_inside = lambda x: ad.grad(lambda y: x * x)(x)
    agree(ad.grad(constant_inside)(x), 0.0)


def test_an_exception_midway_leaves_no_interpreter(x):
    def failing(x):
        y = np.sum(x * x)
        raise RuntimeError("midway") if y.ndim == 0 else AssertionError
    for run in (ad.grad(failing), ad.hessian(failing), lambda x: ad.vmap(failing)(x[None]), lambda x: ad.trace(failing)(x),
                lambda x: ad.jvp(failing, (x,), (x,)), lambda x: ad.linearize(failing, x), ad.grad(ad.checkpoint(failing)),
                ad.collect_taps(failing)):
        with pytest.raises(RuntimeError, match="midway"):
            run(x)
        assert current() is EVALUATION
        agree(ad.grad(plain)(x), ad.grad(nasty)(x))


def test_an_escaped_value_is_named():
    kept = []

    def leaking(x):
        kept.append(x * 2.0)
        return np.sum(x)
    for run in (ad.grad(leaking), lambda x: ad.vmap(leaking)(x[None]), lambda x: ad.trace(leaking)(x),
                lambda x: ad.jvp(leaking, (x,), (x,))):
        run(np.ones(3))
        with pytest.raises(EscapedTracerError, match="has ended"):
            kept[-1] + 1.0
        with pytest.raises(EscapedTracerError):
            ad.grad(lambda y: np.sum(y * kept[-1]))(np.ones(3))
        assert current() is EVALUATION


def test_trees_of_every_kind(rng):
    tree = {"w": rng.standard_normal((2, 3)), "list": [rng.standard_normal(3), (2.0, None)], "n": 3, "name": "text", "flag": True}

    def f(t):
        return np.sum(t["w"] * t["list"][0]) * t["list"][1][0]
    bars = ad.grad(f)(tree)
    agree(bars["w"], np.broadcast_to(tree["list"][0] * 2.0, (2, 3)))
    agree(bars["list"][1][0], np.sum(tree["w"] * tree["list"][0]))
    assert bars["n"] is None and bars["name"] == "text" and bars["list"][1][1] is None


def test_gradients_keep_dtype_and_shape(rng):
    for dtype in (np.float32, np.float64):
        x, w = rng.standard_normal((4, 3)).astype(dtype), rng.standard_normal(3).astype(np.float64)
        bars = ad.grad(lambda x, w: np.sum(np.tanh(x * w) * 2.0), argnums=(0, 1))(x, w)
        assert [b.dtype for b in bars] == [dtype, np.float64] and [b.shape for b in bars] == [(4, 3), (3,)]


def test_what_has_no_derivative_says_so():
    with pytest.raises(NotDifferentiableError, match="one number"):
        ad.grad(lambda x: x * 2.0)(np.ones(3))
    with pytest.raises(NotDifferentiableError, match="no differentiated argument"):
        ad.grad(lambda x: 1.0)(np.ones(3, np.int64))
    with pytest.raises(NotDifferentiableError, match="not floating"):
        ad.grad(lambda x: np.argmax(x))(np.ones(3))
    with pytest.raises(NotDifferentiableError, match="not floating"):
        ad.jacobian(lambda x: x > 0)(np.ones(3))


COMPILED = {
    "compiled gradient": (1, lambda x: ad.compile(ad.grad(nasty))(x)),
    "gradient of compiled": (1, lambda x: ad.grad(ad.compile(nasty))(x)),
    "tangents of compiled": (1, lambda x: ad.jacobian(ad.compile(nasty), mode="forward")(x)),
    "batch of gradients of compiled": (1, lambda x: ad.vmap(ad.grad(ad.compile(nasty)))(np.stack([x, x + 1.0]))[0]),
    "compiled batch of gradients": (1, lambda x: ad.compile(ad.vmap(ad.grad(nasty)))(np.stack([x, x + 1.0]))[0]),
    "compiled hessian": (2, lambda x: ad.compile(ad.hessian(nasty))(x)),
    "hessian of compiled": (2, lambda x: ad.hessian(ad.compile(nasty))(x)),
}


@pytest.mark.parametrize("name", COMPILED)
def test_compiling_commutes_with_differentiating(name, x):
    order, run = COMPILED[name]
    agree(run(x), ad.grad(plain)(x) if order == 1 else ad.hessian(plain)(x))


def test_taps_leave_compiled_functions(x):
    expected = ad.collect_taps(nasty)(x)[1]["inner"]
    for run in (ad.collect_taps(ad.compile(nasty)), ad.collect_taps(ad.grad(ad.compile(nasty))), ad.compile(ad.collect_taps(nasty))):
        agree(run(x)[1]["inner"], expected)
