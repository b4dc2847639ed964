"""custom_vjp, custom_jvp, stop_gradient: the rule given is the rule used, in every mode, batched, traced, and again."""

import numpy as np
import pytest

import adjoint as ad
from adjoint.errors import NotDifferentiableError, ShapeError, TreeError

x = np.array([0.5, -1.0, 2.0])


def wrong_by_vjp(factor=7.0):
    return ad.custom_vjp(lambda u: u * u, lambda u: (u * u, u), lambda u, y_bar: (factor * u * y_bar,))


def wrong_by_jvp(factor=7.0):
    return ad.custom_jvp(lambda u: u * u, lambda us, dots: (us[0] * us[0], factor * us[0] * dots[0]))


@pytest.mark.parametrize("make", [wrong_by_vjp, wrong_by_jvp])
def test_the_given_rule_is_used(make):
    f = make()
    total = lambda u: np.sum(f(u))
    routes = [ad.grad(total)(x), ad.jacobian(total, mode="forward")(x), ad.trace(ad.grad(total))(x).value(),
              ad.grad(ad.checkpoint(total))(x), np.stack([ad.jvp(total, (x,), (e,))[1] for e in np.eye(3)]),
              ad.vmap(ad.grad(total))(np.stack([x, x]))[1], ad.grad(lambda z: np.sum(ad.vmap(f)(z)))(np.stack([x, x]))[0]]
    for found in routes:
        np.testing.assert_allclose(found, 7.0 * x, rtol=1e-14)
    np.testing.assert_allclose(ad.hessian(total)(x), 7.0 * np.eye(3), rtol=1e-14)
    np.testing.assert_array_equal(f(x), x * x)


@pytest.mark.parametrize("make", [wrong_by_vjp, wrong_by_jvp])
def test_the_rule_survives_a_trace(make):
    graph = ad.trace(make())(x)
    assert [node.primitive.kind for node in graph.nodes] == ["call"]
    np.testing.assert_array_equal(graph.value(), x * x)
    graph.check()


def test_several_arguments_and_trees():
    f = ad.custom_vjp(lambda t, n, w: {"y": t["a"] * w, "k": n + 1}, lambda t, n, w: ({"y": t["a"] * w, "k": n + 1}, (t["a"], w)),
                      lambda r, bar: ({"a": 10.0 * r[1] * bar["y"]}, None, np.sum(r[0] * bar["y"])))
    g = lambda t, w: np.sum(f(t, 2, w)["y"])
    t_bar, w_bar = ad.grad(g, argnums=(0, 1))({"a": x}, np.float64(3.0))
    np.testing.assert_allclose(t_bar["a"], np.full(3, 30.0))
    np.testing.assert_allclose(w_bar, x.sum())
    batched = ad.vmap(ad.grad(g, argnums=(0, 1)), in_axes=(0, None))({"a": np.stack([x, 2 * x])}, np.float64(3.0))
    np.testing.assert_allclose(batched[1], [x.sum(), 2 * x.sum()])
    shared = ad.grad(lambda w: np.sum(ad.vmap(lambda a: f({"a": a}, 2, w)["y"])(np.stack([x, 2 * x]))))(np.float64(3.0))
    np.testing.assert_allclose(shared, 3 * x.sum())


def test_captured_arrays_and_values():
    table = np.linspace(0.0, 1.0, 30)

    def f(x, w):
        scaled = w * 2.0                                    # a traced value of the enclosing gradient
        inner = ad.checkpoint(lambda u: np.sum(u * scaled) * table.sum())
        return inner(x)
    np.testing.assert_allclose(ad.grad(f, argnums=1)(x, np.float64(1.0)), 2.0 * x.sum() * table.sum())
    closing = lambda w: ad.custom_vjp(lambda u: u * w, lambda u: (u * w, u), lambda u, bar: (bar,))(np.float64(1.0))
    with pytest.raises(NotDifferentiableError, match="closes over"):
        ad.grad(closing)(np.float64(1.0))


def test_rules_of_the_wrong_shape_are_named():
    short = ad.custom_vjp(np.sin, lambda u: (np.sin(u), u), lambda u, bar: (np.sum(bar),))
    with pytest.raises(ShapeError, match="backward"):
        ad.grad(lambda u: np.sum(short(u)))(x)
    with pytest.raises(TreeError, match="residuals"):
        ad.grad(lambda u: np.sum(ad.custom_vjp(np.sin, np.sin, lambda u, bar: (bar,))(u)))(x)
    other = ad.custom_jvp(np.sin, lambda us, dots: (np.sin(us[0]), np.sum(dots[0])))
    with pytest.raises(ShapeError, match="custom_jvp"):
        ad.grad(lambda u: np.sum(other(u)))(x)


def test_stop_gradient_in_every_mode():
    f = lambda u: np.sum(u * ad.stop_gradient(u * u))
    for found in (ad.grad(f)(x), ad.jacobian(f, mode="forward")(x), ad.trace(ad.grad(f))(x).value(), ad.vmap(ad.grad(f))(x[None])[0]):
        np.testing.assert_allclose(found, x * x)
    assert ad.stop_gradient({"a": x, "n": 3})["n"] == 3


def test_ints_are_part_of_the_program():
    f = ad.custom_vjp(lambda u, axis: np.sum(u, axis=axis), lambda u, axis: (np.sum(u, axis=axis), u * 0.0 + 1.0),
                      lambda ones, bar: (5.0 * ones * bar[None], None))
    g = ad.custom_jvp(lambda u, axis: np.sum(u, axis=axis), lambda us, dots: (np.sum(us[0], axis=us[1]), 5.0 * np.sum(dots[0], axis=us[1])))
    h = ad.checkpoint(lambda u, axis: 5.0 * np.sum(u, axis=axis))
    for call in (f, g, h):
        np.testing.assert_allclose(ad.grad(lambda u, call: np.sum(call(u, 0)))(np.ones((2, 3)), call), 5.0 * np.ones((2, 3)))


def test_checkpointing_saves_memory_in_native_code(rng):
    w, x = rng.standard_normal((16, 16)) / 4, rng.standard_normal((32, 16))

    def block(x):
        for _ in range(6):
            x = np.tanh(x @ w)
        return x

    def network(block):
        return lambda x: np.sum(block(block(block(block(x)))) ** 2)
    plain, checkpointed = ad.compile(ad.grad(network(block))), ad.compile(ad.grad(network(ad.checkpoint(block))))
    np.testing.assert_array_equal(checkpointed(x), plain(x))
    assert checkpointed.memory()["arena"] < plain.memory()["arena"] / 2
