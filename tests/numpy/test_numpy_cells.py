"""Cells and views: random programs of views and writes agree with NumPy or raise, and every error names its remedy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import adjoint as ad
from adjoint.core.aval import Aval
from adjoint.core.interpreter import current, interpreting, known
from adjoint.core.trace import trace_graph
from adjoint.errors import AliasError, DtypeError, MutationError, ShapeError
from adjoint.testing import check_grads
from adjoint.transforms.reverse import Tape

VIEWS = [
    lambda x: x[1:] if x.ndim else x[...], lambda x: x[..., ::-1], lambda x: x.T, lambda x: x.reshape(-1), lambda x: np.ravel(x),
    lambda x: x[None], lambda x: x[...], lambda x: np.squeeze(x), lambda x: x.swapaxes(0, -1) if x.ndim else x[...], lambda x: np.flip(x),
    lambda x: np.expand_dims(x, -1), lambda x: x.reshape(1, -1), lambda x: np.atleast_2d(x), lambda x: np.split(x, 1)[0],
    lambda x: x.view(),
    lambda x: x[0] if x.shape[0] else x, lambda x: x[:, 0] if x.ndim > 1 and x.shape[1] else x, lambda x: x.real, lambda x: x[::2],
    lambda x: np.moveaxis(x, 0, -1), lambda x: np.rot90(x) if x.ndim > 1 else x, lambda x: np.diagonal(x) if x.ndim > 1 else x,
    lambda x: x.reshape(2, -1) if x.size % 2 == 0 else x, lambda x: np.broadcast_to(x, (2, *x.shape)), lambda x: np.array_split(x, 2)[0],
]
COPIES = [lambda x: x.copy(), lambda x: x + 1.0, lambda x: x.T * 2.0, lambda x: x[[0]] if x.ndim and x.shape[0] else x.copy(),
          lambda x: x.flatten(), lambda x: np.zeros_like(x), lambda x: np.concatenate([x, x]), lambda x: np.copy(x),
          lambda x: np.copy(x.T), lambda x: np.full_like(x.T, 0.5), lambda x: x.T.astype(np.float64)]
WRITES = ["x[...] = 2.5", "x += 1.5", "x *= 2", "x[:1] = 7", "x[-1] -= 3", "fill", "x /= 2"]


def write(x: Any, kind: str) -> None:
    if kind == "x[...] = 2.5":
        x[...] = 2.5
    elif kind == "x += 1.5":
        x += 1.5
    elif kind == "x *= 2":
        x *= 2
    elif kind == "x /= 2":
        x /= 2
    elif kind == "fill":
        x.fill(0.25)
    elif x.ndim and x.shape[0]:
        x[:1 if kind == "x[:1] = 7" else None][-1] += 1.0
        if kind == "x[:1] = 7":
            x[:1] = 7
        else:
            x[-1] -= 3


def program(rng: np.random.Generator) -> list[tuple]:
    """Steps (what, index of the array, which view or write)."""
    steps, count = [], 1
    for _ in range(int(rng.integers(2, 9))):
        what = rng.choice(["view", "view", "copy", "write", "write"])
        choices = {"view": VIEWS, "copy": COPIES, "write": WRITES}[what]
        steps.append((what, int(rng.integers(count)), int(rng.integers(len(choices)))))
        count += what != "write"
    return steps


def run(x: Any, steps: list[tuple]) -> list:
    arrays = [x]
    for what, i, k in steps:
        if what == "write":
            write(arrays[i], WRITES[k])
        else:
            arrays.append((VIEWS if what == "view" else COPIES)[k](arrays[i]))
    return arrays


def read(x: Any) -> Any:
    try:
        return np.asarray(known(x))
    except AliasError:
        return None


@pytest.mark.parametrize("seed", range(4))
def test_random_programs_never_differ_silently(seed: int) -> None:
    rng = np.random.default_rng(seed)
    finished = compared = 0
    for _ in range(250):
        x = rng.standard_normal([(4,), (2, 3), (3, 3), (2, 1, 2)][rng.integers(4)])
        steps = program(rng)
        try:
            expected = run(x.copy(), steps)
        except (ValueError, TypeError, IndexError, AttributeError):
            continue                                # a read-only array, a shape that does not fit, or a scalar
        tape = Tape(current())
        with interpreting(tape):
            try:
                found = run(tape.lift(x).copy(), steps)
            except (AliasError, MutationError):
                continue
            finished += 1
            for mine, theirs in zip(found, expected, strict=True):
                value = read(mine)
                if value is not None:
                    compared += 1
                    np.testing.assert_array_equal(value, theirs, strict=True, err_msg=str(steps))
    assert finished > 80
    assert compared > 200


def test_an_alias_sees_writes() -> None:
    def f(x: Any) -> Any:
        y = x * 1.0
        alias = y
        y[1:] = 5.0 * x[:-1]
        y += 1.0
        return alias * x
    np.testing.assert_array_equal(ad.vjp(f, np.arange(4.0))[0], f(np.arange(4.0)))
    check_grads(f, np.arange(4.0))


def test_scalars_are_replaced_and_arrays_of_no_axes_are_written() -> None:
    def f(x: Any) -> Any:
        total = x[0]
        before = total
        total += x[1]
        cell = ad.numpy.zeros(())
        alias = cell
        cell += x[2]
        return np.stack([before, total, alias, x.sum()])
    np.testing.assert_array_equal(ad.vjp(f, np.array([1.0, 2.0, 4.0]))[0], [1.0, 3.0, 4.0, 7.0])


def test_a_write_through_a_view_is_one_assignment() -> None:
    def f(x: Any) -> list:
        y = x.copy()
        y[1:3] += 1.0
        return [y]
    text = str(trace_graph(f, [Aval((4,), np.dtype(np.float64))]))
    assert text.count("= assign_slice(") == 1


def test_reading_a_stale_view_names_both_lines() -> None:
    def f(x: Any) -> Any:
        y = x.copy()
        row = y[1:]
        y[0] = 3.0
        return row.sum()
    with pytest.raises(AliasError) as caught:
        ad.grad(f)(np.arange(3.0))
    message = str(caught.value)
    first = f.__code__.co_firstlineno
    assert f"test_numpy_cells.py:{first + 2} " in message
    assert f"test_numpy_cells.py:{first + 3}." in message
    assert "copy()" in message


def test_arguments_and_outer_values_are_not_written() -> None:
    def increase(x: Any) -> Any:
        x += 1.0
        return x.sum()

    def assign(x: Any) -> Any:
        x[0] = 1.0
        return x.sum()

    def through_view(x: Any) -> Any:
        x.T[0] = 1.0
        return x.sum()

    def outer(x: Any) -> Any:
        y = x.copy()

        def inner(z: Any) -> Any:
            y[0] = z
            return y.sum()
        return ad.vmap(inner)(x).sum()

    def outer_view(x: Any) -> Any:
        y = x.copy()

        def inner(z: Any) -> Any:
            part = y[:2]
            part += z
            return part.sum()
        return ad.vmap(inner)(x).sum()
    for f in (increase, assign, through_view):
        with pytest.raises(MutationError, match=r"x = x\.copy\(\)"):
            ad.grad(f)(np.ones((2, 2)))
    for f in (outer, outer_view):
        with pytest.raises(MutationError, match=r"copy"):
            ad.grad(f)(np.ones(3))


def test_in_place_operators_keep_shape_and_dtype() -> None:
    def run_with(change: Any, dtype: type = np.float32) -> Any:
        def f(x: Any) -> Any:
            y = x.astype(dtype)
            return change(y) or y
        return ad.vjp(f, np.ones((2, 3)))[0]

    def widen(y: Any) -> None:
        y += np.ones(3)
    assert run_with(widen).dtype == np.float32

    def to_integers(y: Any) -> None:
        y += 0.5
    with pytest.raises(DtypeError, match="cannot hold"):
        run_with(to_integers, np.int64)

    def grow(y: Any) -> None:
        y += np.ones((2, 2, 3))
    with pytest.raises(ShapeError):
        run_with(grow)

    def every(y: Any) -> None:
        y -= 1.0
        y *= 3.0
        y /= 2.0
        y //= 0.7
        y %= 1.3
        y **= 2
    expected = np.ones((2, 3), np.float32)
    every(expected)
    np.testing.assert_array_equal(run_with(every), expected)


def test_integer_operators_in_place() -> None:
    def bits(y: Any) -> Any:
        y &= 6
        y |= 8
        y ^= 3
        y <<= 2
        y >>= 1
        return y
    x = np.arange(8)
    np.testing.assert_array_equal(ad.vmap(lambda row: bits(row.copy()))(x[None])[0], bits(x.copy()))


def test_out_of_a_cell() -> None:
    def f(x: Any) -> Any:
        y = np.zeros_like(x)
        np.exp(x, out=y)
        np.add(y, x, out=y, where=x > 0.5)
        total = np.zeros_like(x[0])
        np.sum(x, axis=0, out=total)
        x.max(0, total)
        total += np.sum(x, 0, None, np.zeros_like(total))
        return y * total
    check_grads(f, np.array([[0.2, 0.9], [1.0, -0.4]]))


def test_out_keeps_its_dtype() -> None:
    for write_out in (lambda x, y: np.add(x, 0.5, out=y), lambda x, y: np.mean(x, axis=0, out=y[0])):
        with pytest.raises(DtypeError, match="cannot hold"):
            ad.vmap(lambda x, f=write_out: f(x, np.zeros_like(x)))(np.ones((1, 2, 2), int))


def test_methods_that_write() -> None:
    def f(x: Any) -> Any:
        y = x.copy()
        y.sort(axis=0)
        y.put([0, 5], [x[0, 0], 7.0])
        np.put(y, [1], 3.0)
        np.copyto(y[1:], x[:1], where=x[:1] > 0)
        np.putmask(y, y > 6.0, x)
        np.fill_diagonal(y, x[0, 1])
        y[..., 0].fill(0.5)
        return y
    x = np.array([[3.0, 1.0], [-2.0, 4.0], [0.3, 0.7]])
    np.testing.assert_array_equal(ad.vjp(f, x)[0], f(x))
    np.testing.assert_array_equal(ad.vmap(f)(x[None])[0], f(x))
    check_grads(f, x)


def test_array_namespace() -> None:
    def f(x: Any) -> Any:
        xp = x.__array_namespace__()
        return xp.sum(xp.stack([x, xp.ones(2)]) * xp.asarray(2.0))
    np.testing.assert_array_equal(ad.grad(f)(np.ones(2)), [2.0, 2.0])


def test_writes_under_every_interpreter() -> None:
    def f(x: Any) -> Any:
        y = np.zeros_like(x)
        for i in range(3):
            y[i] = x[i] * y[i - 1] + 1.0
        y[1:] *= x[:2]
        return y
    x = np.array([[0.5, -1.0, 2.0], [1.5, 0.3, 0.1]])
    expected = np.stack([f(row) for row in x])
    np.testing.assert_allclose(ad.vmap(f)(x), expected)
    np.testing.assert_allclose(ad.vmap(lambda row: ad.jvp(f, (row,), (row,))[1])(x), [ad.jvp(f, (row,), (row,))[1] for row in x])
    check_grads(f, x[0])
    check_grads(ad.vmap(f), x)
