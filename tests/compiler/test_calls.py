"""Calls of compiled functions with trees: taken apart and built by the native entry, equal to eager, whatever the layout."""

import collections
from typing import NamedTuple

import numpy as np
import pytest

import adjoint as ad
from adjoint import nn
from adjoint.compiler.compile import compile


class Pair(NamedTuple):
    w: object
    b: object


def loss(parameters, x):
    return ((x @ parameters["layer"][0] + parameters["layer"][1]) ** 2).sum() * parameters["rate"]


def parameters(rate=0.5):
    return {"layer": [np.arange(6.0).reshape(2, 3), np.ones(3)], "rate": rate}


def served(compiled):
    """Calls that went through the native entry without Python."""
    return sum(special.calls for special in compiled._entry.specializations)


def test_nested_arguments_and_results_stay_in_native_code():
    f, x = compile(ad.value_and_grad(loss)), np.arange(8.0).reshape(4, 2)
    expected = ad.value_and_grad(loss)(parameters(), x)
    f(parameters(), x)
    before = served(f)
    for _ in range(3):
        value, grads = f(parameters(), x)
        assert value == pytest.approx(expected[0], rel=1e-14)
        assert type(grads) is dict and type(grads["layer"]) is list
        for found, wanted in zip(grads["layer"], expected[1]["layer"], strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-14)
    assert served(f) == before + 3
    assert f(parameters(rate=1.0), x)[0] == pytest.approx(2 * expected[0]) and served(f) == before + 4


def test_other_layouts_of_the_same_tree_give_the_same():
    f, x = compile(loss), np.arange(8.0).reshape(4, 2)
    expected = f(parameters(), x)
    turned = parameters()
    turned["layer"][0] = np.asfortranarray(turned["layer"][0])
    assert f(turned, x) == expected == f(parameters(), x[::-1][::-1].copy()[:, :]) == f(parameters(), x=x)
    assert f(collections.OrderedDict(parameters()), x) == expected and len(f.programs) <= 3


def test_named_tuples_and_modules():
    f = compile(lambda p, x: Pair(p.w * x, [p.b]))
    for _ in range(3):
        result = f(Pair(np.ones(2), np.float64(3)), np.arange(2.0))
        assert type(result) is Pair and result.w.tolist() == [0, 1] and result.b == [3.0]
    assert served(f) >= 2
    model = nn.Linear(3, 2, rng=np.random.default_rng(0))
    g, x = compile(ad.grad(lambda m, x: (m(x) ** 2).sum())), np.ones((4, 3), np.float32)
    expected = ad.grad(lambda m, x: (m(x) ** 2).sum())(model, x)
    for _ in range(3):
        found = g(model, x)
        assert type(found) is type(model)
        np.testing.assert_allclose(found.weight, expected.weight, rtol=1e-5)
    assert served(g) >= 2


def test_donation_of_any_argument_with_trees_beside_it():
    def step(batch, model, rate):
        value, grads = ad.value_and_grad(lambda m: ((batch["x"] @ m[0] + m[1]) ** 2).sum())(model)
        return value, tuple(p - rate * g for p, g in zip(model, grads, strict=True))

    fast, batch = compile(step, donate=1), {"x": np.arange(8.0).reshape(4, 2) / 10}
    model, live = (np.ones((2, 3)), np.zeros(3)), (np.ones((2, 3)), np.zeros(3))
    for k in range(4):
        expected, model = step(batch, model, 0.01)
        value, following = fast(batch, live, 0.01)
        assert following is live or k == 0
        live = following
        assert value == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(live[0], model[0], rtol=1e-12)
    assert served(fast) >= 3
    before = live[0].copy()
    assert fast({"x": live[0][:, :2].copy()}, live, 0.0)[1] is not None
    aliased = {"x": np.broadcast_to(live[0][0, :2], (4, 2))}        # inside donated memory, and strided
    assert fast(aliased, live, 0.0)[1] is live and np.array_equal(live[0], before)


def test_keywords_other_containers_and_equal_static_objects_reach_the_same_program():
    class Scale:
        def apply(self, x):
            return x * 2

        def __eq__(self, other):
            return isinstance(other, Scale)

        def __hash__(self):
            return 1

    f, p, x = compile(lambda p, x: (p["a"] * x).sum()), {"a": np.ones(3)}, np.arange(3.0)
    assert f(p, x) == f(p, x=x) == f(x=x, p=p) == f(collections.OrderedDict(p), x) == f(p, x[::-1]) == 3.0
    assert len(f.programs) == 1
    g = compile(lambda p, x: p["scale"].apply(x))
    for _ in range(3):
        assert g({"scale": Scale()}, np.ones(2)).tolist() == [2, 2]     # equal, not the same: the slow path finds the program
    h = compile(lambda x, *, k: x * k, static="k")
    for k in (2, 3, 2):
        assert h(np.ones(2), k=k).tolist() == [k, k] == h(np.ones(4)[::2], k=k).tolist()
