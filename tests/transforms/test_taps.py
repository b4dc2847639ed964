"""Taps: named values leave a function through every transformation; without a collector they are nothing."""

import numpy as np

import adjoint as ad

x = np.array([1.0, 2.0, 3.0])


def f(x):
    h = ad.tap("h", x * x)
    return np.sum(ad.tap("out", h * 2.0))


def values(taps):
    return {name: np.asarray(v).tolist() for name, v in taps.items()}


def test_collected_through_every_transformation():
    expected = {"h": [1.0, 4.0, 9.0], "out": [2.0, 8.0, 18.0]}
    for g in (f, ad.grad(f), ad.checkpoint(f), ad.grad(ad.checkpoint(f)), ad.value_and_grad(f), ad.hessian(f)):
        assert values(ad.collect_taps(g)(x)[1]) == expected
    assert values(ad.collect_taps(lambda x: ad.jvp(f, (x,), (x,)))(x)[1]) == expected
    assert values(ad.vmap(lambda x: ad.collect_taps(f)(x)[1])(np.stack([x, x]))) == {k: [v, v] for k, v in expected.items()}
    assert values(ad.collect_taps(ad.vmap(f))(np.stack([x, x]))[1]) == {k: [v, v] for k, v in expected.items()}
    assert values(ad.trace(lambda x: ad.collect_taps(f)(x)[1])(x).value()) == expected


def test_a_trace_keeps_taps_and_a_collector_finds_them_later():
    graph = ad.trace(f)(x)
    assert graph.effects == {"tap"}
    y, taps = ad.collect_taps(lambda x: graph.evaluate(lambda p, *a, **k: p(*a, **k), x)[0])(x)
    assert y == 28.0 and list(taps) == ["h", "out"]


def test_taps_can_be_differentiated():
    np.testing.assert_array_equal(ad.grad(lambda x: np.sum(ad.collect_taps(f)(x)[1]["h"]))(x), 2 * x)


def test_without_a_collector_nothing_happens():
    np.testing.assert_array_equal(ad.grad(f)(x), 4 * x)
    assert f(x) == 28.0


def test_repeated_names_are_numbered_and_trees_are_spread():
    def g(x):
        for _ in range(3):
            x = ad.tap("step", x + 1.0)
        return ad.tap("both", {"a": x, "b": x * 2.0})
    taps = ad.collect_taps(g)(x)[1]
    assert list(taps) == ["step", "step#2", "step#3", "both.0", "both.1"]


def test_two_taps_of_one_value_are_both_collected():
    def g(x):
        h = x * x
        return np.sum(ad.tap("a", h) + ad.tap("b", h) + ad.tap("a", h))
    expected = {name: [1.0, 4.0, 9.0] for name in ("a", "b", "a#2")}
    for collecting in (ad.collect_taps(g), ad.collect_taps(ad.compile(g)), ad.compile(ad.collect_taps(g)), ad.collect_taps(ad.grad(g)),
                       ad.collect_taps(ad.compile(ad.grad(g))), ad.compile(ad.collect_taps(ad.compile(g)))):
        assert values(collecting(x)[1]) == expected
    graph = ad.trace(g)(x)
    assert values(ad.collect_taps(lambda x: graph.evaluate(lambda p, *a, **k: p(*a, **k), x)[0])(x)[1]) == expected


def test_inside_a_custom_rule():
    h = ad.custom_vjp(lambda u: ad.tap("inside", u * u), lambda u: (u * u, u), lambda u, bar: (2.0 * u * bar,))
    assert values(ad.collect_taps(lambda u: np.sum(h(u)))(x)[1]) == {"inside": [1.0, 4.0, 9.0]}


def test_plain_numbers_are_collected():
    assert ad.collect_taps(lambda x: np.sum(x) * ad.tap("rate", 0.5))(x)[1] == {"rate": 0.5}
