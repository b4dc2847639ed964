"""Sums of slices placed into zeros: the same values for every shape and slice, and nothing is written twice but their borders."""

from __future__ import annotations

import numpy as np
import pytest
from programs import reference_outputs

import adjoint as ad
from adjoint.compiler import joins, regions
from adjoint.primitives.structure import outside_slice


def rosenbrock(x):
    return (100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2).sum()


def same_twice(x):
    """One cotangent is placed into two slices."""
    s = x[2:] + x[:-2]
    return (s * s * s).sum()


def second_difference(x):
    d = x[2:] - 2.0 * x[1:-1] + x[:-2]
    return (d * d).sum() + (x * x).sum()


def pairs(x):
    n = x.size // 2 * 2
    return ((x[1:n:2] - x[:n:2] ** 2) ** 2).sum() + (x[::-1] * x).sum() + (x[::3] ** 3).sum()


def plates(u):
    """The Laplacian of an array's inner elements, and differences along either axis."""
    inner = u[1:-1, 1:-1]
    y = u[2:, 1:-1] + u[:-2, 1:-1] + u[1:-1, 2:] + u[1:-1, :-2] - 4.0 * inner
    return (y * y).sum() + (u[:, 1:] * u[:, :-1]).sum() + (u[1:] * u[:-1] * u[1:]).sum()


def written(x):
    """Values stored into slices, read before and after."""
    y = x.copy()
    y[1:3] = x[2:4] * x[1:3]
    z = y * y
    y[:-1] += z[1:]
    y[2:2] = 0.0 * y[3:3]
    return (y * z).sum()


def columns(x):
    """Rows of a slice are short."""
    return ((x[:, 1:] - x[:, :1] * x[:, :-1]) ** 2).sum()


CASES = [(rosenbrock, (2,)), (rosenbrock, (3,)), (rosenbrock, (70,)), (rosenbrock, (20_000,)), (same_twice, (2,)), (same_twice, (41,)),
         (second_difference, (3,)), (second_difference, (40,)), (pairs, (7,)), (pairs, (40,)), (plates, (3, 3)), (plates, (5, 40)),
         (plates, (40, 5)), (plates, (130, 70)), (written, (5,)), (written, (45,)), (columns, (9, 3)), (columns, (4, 40))]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0].__name__}{list(case[1])}")
def test_gradients_are_exact(case, dtype, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small whole numbers: no order of a sum changes a bit. Memory that nobody wrote holds NaN in the reference executor."""
    function, shape = case
    x = rng.integers(-3, 4, shape).astype(dtype)
    both = lambda x: list(ad.value_and_grad(function)(x))
    expected = both(x)
    compiled = ad.compile(both)
    for threads in (1, 2):
        with ad.threads(threads):
            found = compiled(x)
        for a, b in zip(expected, found, strict=True):
            np.testing.assert_array_equal(a, b, strict=isinstance(a, np.ndarray))
    if x.size <= 1000:
        for row, small in ((1, 0), (1, 1000), (1000, 1000)):         # by regions; where it belongs; only what lies in one piece
            monkeypatch.setattr(joins, "SHORTEST_ROW", row)
            monkeypatch.setattr(regions, "SMALL", small)
            for a, b in zip(expected, reference_outputs(both, [x]), strict=True):
                np.testing.assert_array_equal(a, b)


def test_batches_and_loops(rng: np.random.Generator) -> None:
    """The same inside of a loop's body and under vmap, where the slices have an axis in front."""
    def steps(x):
        def step(i, x):
            return x + ad.grad(second_difference)(x)
        return ad.fori_loop(0, 3, step, x)
    x = rng.integers(-3, 4, (4, 12)).astype(float)
    for function in (ad.vmap(ad.grad(rosenbrock)), ad.vmap(steps), lambda x: steps(x[1])):
        np.testing.assert_array_equal(ad.compile(function)(x), function(x))


def coupled(x):
    """Neighbours meet in functions that are not computed twice."""
    inner = x[1:] * x[:-1] - np.sin(x[:-1])
    return (inner * inner).sum() + np.exp(-x * x).sum()


def kernels_and_temporaries(function) -> tuple[list[str], list[int]]:
    """The kinds of the gradient's kernels at 1,000 variables, and the sizes of what it stores on the way."""
    compiled = ad.compile(ad.grad(function))
    compiled(np.ones(1000))
    sizes = [b.size for b in compiled.programs[-1].native.built.program.buffers if b.role == "arena"]
    return [line.split()[0].split("_")[0] for line in compiled.kernels()], sizes


def test_what_is_cheap_is_computed_by_regions() -> None:
    """One kernel at the first element and the last, one between, nothing stored on the way; the roots of `lengths` are stored once."""
    lengths = lambda x: np.sqrt(1.0 + (x[1:] - x[:-1]) ** 2).sum()
    assert kernels_and_temporaries(rosenbrock) == (["map", "map"], []) or kernels_and_temporaries(rosenbrock) == (["map"] * 3, [])
    kernels, sizes = kernels_and_temporaries(lengths)
    assert set(kernels) == {"map"} and sizes == [999]


def test_only_the_borders_are_filled() -> None:
    """The gradient of a dear coupling: one kernel of the pieces, one zero beside each, one kernel of the sum."""
    assert kernels_and_temporaries(coupled) == (["map", "copy", "copy", "map"], [1000, 1000])


def test_slices_of_rows_are_regions_too(rng: np.random.Generator) -> None:
    """Along one axis of two: what lies beside the slices is no part of the cut."""
    for function in (rosenbrock, lambda x: ((x[:, 1:] - x[:, :-1] ** 2) ** 2).sum()):
        compiled, x = ad.compile(ad.grad(function)), rng.integers(-3, 4, (40, 50)).astype(float)
        np.testing.assert_array_equal(compiled(x), ad.grad(function)(x))
        assert not [b for b in compiled.programs[-1].native.built.program.buffers if b.role == "arena"]


@pytest.mark.parametrize("joined", [
    lambda x, s: [np.concatenate([s, s])], lambda x, s: [np.concatenate([x, s]), np.concatenate([s, x])],
    lambda x, s: [np.concatenate([s * 2.0, s, x @ np.ones((6, 6))]), s], lambda x, s: [np.concatenate([s.astype(np.float32), x[:1] * 1.0])],
    lambda x, s: [np.concatenate([s, x, s, s]), np.concatenate([s, s])]])
def test_a_value_that_is_joined_twice(joined, rng: np.random.Generator) -> None:
    """In one array, in two, beside what no kernel makes, of another dtype: it is stored at one place at most, and copied to the others."""
    function = lambda x: joined(x, np.sin(x))
    for shape in ((6,), (40, 6)):
        x = rng.standard_normal(shape)
        for found in (ad.compile(function)(x), reference_outputs(function, [x])):
            for a, b in zip(function(x), found, strict=True):
                np.testing.assert_allclose(b, a, rtol=1e-6, atol=1e-7)


def test_what_others_need_too_is_stored_once(rng: np.random.Generator) -> None:
    """Value and gradient share the differences."""
    x = rng.standard_normal(500)
    function = ad.value_and_grad(lambda x: (rosenbrock(x), x[1:] * x[:-1]), has_aux=True)
    flat = lambda x: [function(x)[0][0], function(x)[0][1], function(x)[1]]
    for a, b in zip(flat(x), ad.compile(flat)(x), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-12, atol=1e-12)


def random_coupling(rng: np.random.Generator, n: int):
    """A sum over pairs of slices of one width, in an array of n elements or in the rows or columns of a table."""
    pairs = []
    for _ in range(rng.integers(1, 5)):
        width = int(rng.integers(1, n))
        pairs.append((width, *rng.integers(0, n - width + 1, 2).tolist(), int(rng.integers(0, 5)), int(rng.integers(0, 2))))
    whole = bool(rng.integers(0, 2))

    def function(x):
        total = (x * x * x).sum() if whole else 0.0
        for width, i, j, kind, axis in pairs:
            place = (lambda k, axis=axis, width=width: (slice(None),) * min(axis, x.ndim - 1) + (slice(k, k + width),))
            a, b = x[place(i)], x[place(j)]
            total = total + (a * b, np.maximum(a, b) * a, (a - b * b) ** 2, np.where(a > b, a * a, b), np.absolute(a) * b)[kind].sum()
        return total
    return function


@pytest.mark.parametrize("seed", range(14))
def test_random_couplings_are_exact(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 30))
    shape = (n,) if seed % 2 else (n, n)
    x, function = rng.integers(-3, 4, shape).astype(float), random_coupling(rng, n)
    both = lambda x: list(ad.value_and_grad(function)(x))
    expected = both(x)
    monkeypatch.setattr(regions, "SMALL", 0 if seed % 3 else 1000)
    for found in (ad.compile(both)(x), reference_outputs(both, [x])):
        for a, b in zip(expected, found, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("shape", "bounds"), [
    ((5,), ((1, 4, 1),)), ((5,), ((0, 5, 1),)), ((5,), ((0, 5, 2),)), ((5,), ((4, -1, -1),)), ((5,), ((2, 2, 1),)), ((5,), ((3, 1, 1),)),
    ((4, 6), ((1, 3, 1), (0, 5, 1))), ((4, 6), ((0, 4, 1), (2, 3, 1))),
    ((3, 4, 5), ((1, 2, 1), (1, 4, 1), (2, 4, 1))), ((0, 3), ((0, 0, 1), (1, 2, 1)))])
def test_outside_of_a_slice(shape, bounds) -> None:
    """Slice and rest: every element at least once, and only once if the rest is not everything."""
    count = np.zeros(shape, int)
    boxes = outside_slice(shape, bounds)
    for box in (*boxes, bounds):
        count[tuple(slice(a, None if b < 0 else b, c) for a, b, c in box)] += 1
    whole = tuple((0, n, 1) for n in shape)
    assert count.min(initial=1) >= 1
    assert whole in boxes or count.max(initial=1) == 1
