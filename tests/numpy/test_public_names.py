"""The public names: all listed, all loadable once their modules exist, none heavy at import."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import adjoint as ad
from adjoint.core.trace import trace_graph


def test_all_is_sorted_and_complete() -> None:
    assert ad.__all__ == sorted(ad.__all__)
    assert set(ad.__all__) <= set(dir(ad))
    public = {name for name in vars(ad) if not name.startswith("_")} - {"annotations", "importlib", "Any"}
    modules = {name for name in public if importlib.util.find_spec(f"adjoint.{name}") is not None}
    assert public - modules <= set(ad.__all__)


@pytest.mark.parametrize("name", ad.__all__)
def test_name_loads(name: str) -> None:
    found = getattr(ad, name)
    assert callable(found) or found.__name__ == f"adjoint.{name}"
    assert found.__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'gradient'"):
        _ = ad.gradient


def test_first_example() -> None:
    def f(x: Any) -> Any:
        return np.log(x[0]) + x[0] * x[1] - np.sin(x[1])
    assert repr(ad.grad(f)(np.array([2.0, 5.0]))) == "array([5.5       , 1.71633781])"


def test_every_name_of_the_namespace() -> None:
    names = dir(ad.numpy)
    assert len(names) > 250
    for name in names:
        assert getattr(ad.numpy, name) is not None or name == "newaxis"
    for name in ("sum", "matmul", "take", "permute_dims", "concat", "astype", "linalg", "float32", "pi", "newaxis"):
        assert name in names
    with pytest.raises(AttributeError):
        _ = ad.numpy.unique


def test_outside_of_a_trace_constructors_are_numpys() -> None:
    an = ad.numpy
    for mine, theirs in ((an.zeros((2, 3)), np.zeros((2, 3))), (an.full(2, 3), np.full(2, 3)), (an.arange(3), np.arange(3)),
                         (an.eye(2), np.eye(2)),
                         (an.array([[1, 2]]), np.array([[1, 2]])), (an.linspace(0, 1, 3), np.linspace(0, 1, 3)), (an.asarray([1.0]),
                                                                                                                  np.asarray([1.0])),
                         (an.sum([[1, 2]], axis=0), np.sum([[1, 2]], axis=0)), (an.ones(2, np.float32), np.ones(2, np.float32))):
        assert type(mine) is type(theirs)
        np.testing.assert_array_equal(mine, theirs, strict=True)


def test_inside_of_a_trace_constructors_are_cells() -> None:
    an = ad.numpy

    def f(x: Any) -> list:
        cells = [an.zeros(3), an.ones((3,)), an.empty(3), an.full(3, x[0]), an.arange(3.0), an.eye(3)[0], an.identity(3)[1], an.tri(3)[2],
                 an.linspace(0.0, x[1], 3), an.asarray(np.arange(3.0)), an.array([1.0, x[2], 2]), an.array([[1, 2, 3]], dtype=float)[0]]
        for cell in cells:
            cell[1] = x[0]
        return cells
    x = np.array([7.0, 8.0, 9.0])
    expected = [np.array(row) for row in ([0, 7, 0], [1, 7, 1], [0, 7, 0], [7, 7, 7], [0, 7, 2], [1, 7, 0], [0, 7, 0], [1, 7, 1], [0, 7, 8],
                                          [0, 7, 2], [1, 7, 2], [1, 7, 3])]
    for found in (ad.vjp(f, x)[0], trace_graph(f, [ad.core.aval.aval_of(x)]).evaluate(ad.core.primitive.bind, x), ad.vmap(f)(x[None])):
        for mine, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(np.reshape(mine, 3), theirs)


def test_special_functions() -> None:
    an = ad.numpy
    x = np.array([[1000.0, 1000.0], [-1000.0, 0.0]])
    np.testing.assert_allclose(an.logsumexp(x, axis=1), [1000.0 + np.log(2.0), 0.0])
    np.testing.assert_allclose(an.softmax(x, axis=1), [[0.5, 0.5], [0.0, 1.0]])
    np.testing.assert_allclose(np.exp(an.log_softmax(x[0])), [0.5, 0.5])
    with np.errstate(divide="ignore"):
        assert an.logsumexp(np.array([-np.inf, -np.inf])) == -np.inf
    assert an.logsumexp(np.array([np.inf, 1.0])) == np.inf
    assert ad.grad(lambda t: an.relu(t))(0.0) == 0.0
    for function in (an.logsumexp, lambda v: an.softmax(v)[0], lambda v: an.erf(v).sum(), lambda v: an.logistic(v).prod(),
                     lambda v: an.softplus(v).sum(), lambda v: an.log_softmax(v)[1], lambda v: an.erfc(v).sum()):
        ad.testing.check_grads(function, np.array([0.3, -1.2, 2.0]))


def test_norms_have_a_subgradient_at_zero() -> None:
    for ord in (None, 1, 2, 3, np.inf):
        found = ad.grad(lambda x, o=ord: np.linalg.norm(x, o))(np.zeros(3))
        assert np.all(np.isfinite(found))
        if ord in (None, 2, 3):
            np.testing.assert_array_equal(found, 0.0)


def test_the_document_lists_every_function_with_a_rule() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "numpy.md").read_text(encoding="utf-8")
    listed = set(text.split("```text\n")[1].split("```")[0].split())
    names = set(dir(ad.numpy)) - {"dtype", "finfo", "iinfo", "bool", "isdtype", "can_cast"}
    own = {name for name in names if not isinstance(getattr(ad.numpy, name), type) and callable(getattr(ad.numpy, name))}
    missing = own - listed - set(ad.numpy.__all__) - {"ndarray", "bool_"}
    assert not missing, f"docs/numpy.md does not list {sorted(missing)}"
    for name in listed:
        assert name.startswith(("linalg.", "lib.")) or not hasattr(np, name) or name in names, f"{name} has no rule"
