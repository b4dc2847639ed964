"""Every index that NumPy takes, drawn at random: reading, assignment, `+=`, and writing through the result agree with NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import adjoint as ad
from adjoint.core.interpreter import current, interpreting, known
from adjoint.core.trace import trace_graph
from adjoint.errors import IndexRangeError, MutationError, ShapeError, TracerError
from adjoint.testing import check_grads
from adjoint.transforms.reverse import Tape

PROGRAMS = 700


def random_slice(rng: np.random.Generator, n: int) -> slice:
    end = lambda: None if rng.random() < 0.3 else int(rng.integers(-n - 2, n + 3))
    return slice(end(), end(), int(rng.choice([1, 1, 2, -1, -2, 3])))


def random_index(rng: np.random.Generator, shape: tuple) -> Any:
    """An index for an array of this shape: integers, slices, None, ..., integer arrays that broadcast together, masks."""
    items: list[Any] = []
    axis, dots, masked = 0, False, False
    common = [(), (2,), (3, 1), (2, 3), (1,)][rng.integers(5)]
    while axis < len(shape) and rng.random() < 0.85:
        n, kind = shape[axis], rng.integers(9)
        if kind == 0 and n:
            items.append(int(rng.integers(-n, n)))
        elif kind in (1, 2):
            items.append(random_slice(rng, n))
        elif kind == 3:
            items.append(None)
            continue
        elif kind == 4 and not dots:
            items.append(Ellipsis)
            dots = True
            axis += int(rng.integers(0, 2))
            continue
        elif kind in (5, 6) and n:
            index = rng.integers(-n, n, common if rng.random() < 0.6 else tuple(1 if rng.random() < 0.3 else m for m in common))
            items.append(index if rng.random() < 0.7 or index.ndim == 0 else index.tolist())
        elif kind == 8 and n and not masked:
            items.append(rng.integers(0, 2, n).astype(bool))
            masked = True
        else:
            items.append(slice(None))
        axis += 1
    return items[0] if len(items) == 1 and rng.random() < 0.5 else tuple(items)


def outcome(x: Any, index: Any) -> Any:
    """x[index], or the error."""
    try:
        return np.asarray(known(x[index]))
    except (IndexError, ValueError) as error:
        return error


@pytest.mark.parametrize("seed", range(4))
def test_any_index(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(PROGRAMS // 4):
        shape = tuple(int(n) for n in rng.choice([0, 1, 2, 3, 4], rng.integers(0, 4), p=[0.06, 0.14, 0.3, 0.3, 0.2]))
        x, index = rng.standard_normal(shape), random_index(rng, shape)
        expected = outcome(x, index)
        tape = Tape(current())
        with interpreting(tape):
            found = outcome(tape.lift(x).copy(), index)
            assert isinstance(found, Exception) == isinstance(expected, Exception), (shape, index, found)
            if not isinstance(expected, Exception):
                np.testing.assert_array_equal(found, expected, strict=True, err_msg=f"{shape} {index}")
                check_writes(tape, x, index, rng)


def check_writes(tape: Tape, x: np.ndarray, index: Any, rng: np.random.Generator) -> None:
    value = rng.standard_normal(x[index].shape) if rng.random() < 0.7 else float(rng.standard_normal())
    for change in (assign, increase, through_the_result):
        expected, cell = x.copy(), tape.lift(x).copy()
        change(expected, index, value)
        change(cell, index, value)
        np.testing.assert_allclose(known(cell), expected, rtol=1e-15, err_msg=f"{change.__name__} {x.shape} {index}")


def assign(x: Any, index: Any, value: Any) -> None:
    x[index] = value


def increase(x: Any, index: Any, value: Any) -> None:
    x[index] += value


def through_the_result(x: Any, index: Any, value: Any) -> None:
    y = x[index]
    y *= 2.0


# ------------------------------------------------------------------------------------------------ traced indices and masks

TABLE = np.arange(12.0).reshape(3, 4)


@pytest.mark.parametrize("function", [
    lambda x, i: x[i], lambda x, i: x[i, 1:], lambda x, i: x[:, i], lambda x, i: x[i, i], lambda x, i: x[[0, 2], i],
    lambda x, i: x[i][None],
    lambda x, i: x[..., i], lambda x, i: x[np.stack([i, i + 1])], lambda x, i: x[1:, i, None], lambda x, i: x[np.stack([i, -i]), ::2],
    lambda x, i: np.take(x, i, axis=1), lambda x, i: ad.numpy.take(TABLE, i, axis=0), lambda x, i: ad.numpy.asarray(TABLE)[i, i],
])
def test_traced_index(function: Any) -> None:
    graph = trace_graph(lambda x, i: [function(x, i)], [ad.core.aval.aval_of(TABLE), ad.core.aval.aval_of(1)]).check()
    for i in (0, 1):
        expected = function(TABLE, i)
        np.testing.assert_array_equal(graph.evaluate(ad.core.primitive.bind, TABLE, np.int64(i))[0], expected)


def traced_on(shape: tuple, function: Any) -> str:
    return str(trace_graph(lambda x: [function(x)], [ad.core.aval.Aval(shape, np.dtype(np.float64))]).check())


def test_increase_is_one_scatter_add() -> None:
    def change(x: Any) -> Any:
        y = x.copy()
        for i in range(3):
            k = np.argmax(x) + i
            y[k] += x[0]
        return y
    text = traced_on((5,), change)
    assert text.count("= scatter_add(") == 3
    assert text.count("= scatter(") == 0

    def by_number(x: Any) -> Any:
        y = np.zeros_like(x)
        y[1] += x[0]
        y[2, 3] -= x[0, 1]
        y[-1, -1] += 2.0
        return y
    text = traced_on((3, 4), by_number)
    assert text.count("= scatter_add(") == 2
    check_grads(by_number, TABLE)


def test_repeated_places_are_increased_once_and_the_last_assignment_wins() -> None:
    places = np.array([1, 1, 2])

    def change(x: Any) -> Any:
        y = x.copy()
        y[places] += x[:3]
        y[places] = y[places] * 2.0
        y[np.array([0, 0])] = x[3:]
        return y
    x = np.arange(1.0, 6.0)
    np.testing.assert_array_equal(ad.vjp(change, x)[0], change(x))
    check_grads(change, x)


def test_an_index_that_moves_between_reading_and_writing() -> None:
    def change(x: Any, i: Any) -> Any:
        y, places = x.copy(), np.stack([i, i + 1])
        part = y[places]
        part += 10.0
        places += 1
        y[places] = part
        fixed = [0, 1]
        part = y[fixed]
        part += 1.0
        fixed[0] = 2
        y[fixed] = part
        return y
    x = np.arange(5.0)
    expected = change(x, 1)
    np.testing.assert_array_equal(ad.vmap(change)(x[None], np.array([1]))[0], expected)
    np.testing.assert_array_equal(ad.compile(change)(x, 1), expected)


def test_add_at_increases_repeated_places_every_time() -> None:
    def change(x: Any) -> Any:
        y = x.copy()
        np.add.at(y, np.array([1, 1, 2]), x[:3])
        np.subtract.at(y, (np.array([0, 0]),), x[0])
        return y
    x = np.arange(1.0, 6.0)
    np.testing.assert_array_equal(ad.vjp(change, x)[0], change(x))
    check_grads(change, x)


def test_masks() -> None:
    def known_mask(x: Any) -> Any:
        y = x.copy()
        y[x > 1.5] = 0.0
        y[y == 0.0] += x.sum()
        return np.sum(x[x > 2.5] ** 2) + y @ x
    check_grads(known_mask, np.arange(1.0, 5.0))

    def traced_mask(x: Any) -> Any:
        y = x.copy()
        y[x > 1.5] = x[0]
        y[x < 0.0] = -1.0
        return y
    np.testing.assert_array_equal(ad.vmap(traced_mask)(TABLE - 1.0), [traced_mask(row) for row in TABLE - 1.0])

    def rows(x: Any) -> Any:
        y = x.copy()
        y[x[:, 0] > 3.0] = x[0]
        return y
    np.testing.assert_array_equal(ad.vmap(rows)(TABLE[None])[0], rows(TABLE))


def test_shared_arguments_of_vmap_are_cells() -> None:
    found = ad.vmap(lambda table, i: table[i] + table[0, 0], in_axes=(None, 0))(TABLE, np.array([2, 0]))
    np.testing.assert_array_equal(found, TABLE[[2, 0]])
    table = TABLE.copy()
    with pytest.raises(MutationError):
        ad.vmap(lambda t, x: t.__setitem__(0, x), in_axes=(None, 0))(table, np.ones(2))
    np.testing.assert_array_equal(table, TABLE)


def test_unknown_masks_are_errors_with_the_rewrite() -> None:
    with pytest.raises(TracerError, match=r"np\.where\(mask, x, 0\)"):
        ad.vmap(lambda x: x[x > 1.0].sum())(TABLE)
    with pytest.raises(TracerError, match=r"np\.where\(mask, v, x\)"):
        ad.vmap(lambda x: x.copy().__setitem__(x > 1.0, np.ones(7)))(TABLE)


def test_bad_indices_are_errors() -> None:
    def at(index: Any) -> Any:
        return ad.vjp(lambda x: x[index], np.zeros((2, 3)))
    for index in (2, -3, (0, 0, 0), [0, 5], 1.5, np.array([0.5]), "a", (..., ...), np.zeros(3, bool)):
        with pytest.raises(IndexRangeError):
            at(index)
    with pytest.raises(ShapeError):
        ad.vjp(lambda x: x.copy().__setitem__(0, np.zeros(2)), np.zeros((2, 3)))
    with pytest.raises(TracerError, match="ends are traced"):
        trace_graph(lambda x, i: [x[i:]], [ad.core.aval.aval_of(TABLE), ad.core.aval.aval_of(1)])


def test_derivatives_of_indexing() -> None:
    def change(x: Any, v: Any) -> Any:
        y = np.zeros_like(x)
        y[::2, 1] = v
        y[[0, 2, 1], [3, 3, 0]] += x[1, :3]
        y[1:, ::-1] += x[:2] * v[0]
        y[..., None][0] = x[:1].T
        return y * x
    check_grads(change, np.random.default_rng(0).standard_normal((3, 4)), np.array([1.0, -2.0]))
