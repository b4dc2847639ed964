"""The middle of the compiler, on the reference executor: every row alone, fused chains, reductions of every layout, donation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from programs import reference_outputs, run_reference, traced

from adjoint.compiler.fuse import fuse
from adjoint.compiler.memory import arrange
from adjoint.compiler.pipeline import build
from adjoint.compiler.simplify import share, simplify
from adjoint.core.primitive import TABLE
from adjoint.primitives.arithmetic import add, convert, multiply, scale, subtract, where
from adjoint.primitives.contraction import dot
from adjoint.primitives.structure import broadcast, permute, reshape
from adjoint.primitives.transcendental import tanh
from adjoint.transforms.reverse import value_and_grad
from adjoint.transforms.taps import tap

LOWERED = [name for name, row in TABLE.items() if row.lowering is not None]
PLAIN = {"contract": ((1,), (1,)), "batch": ((), ())}


def total(x):
    return TABLE["sum"](x, axes=tuple(range(x.ndim)))


@pytest.mark.parametrize("name", LOWERED)
def test_every_row_alone_is_near_its_body(name: str, rng: np.random.Generator) -> None:
    row = TABLE[name]
    for args, params in row.samples(rng):
        expected = row(*args, **params)
        expected = expected if row.multiple else (expected,)
        found = reference_outputs(lambda *xs, p=params: _listed(row, xs, p), args)
        for y, e in zip(found, expected, strict=True):
            assert y.shape == np.shape(e) and y.dtype == np.asarray(e).dtype
            np.testing.assert_allclose(y, e, rtol=1e-13, atol=1e-14)


def _listed(row, xs, params):
    y = row(*xs, **params)
    return list(y) if row.multiple else [y]


def network(x, w1, b1, w2, b2, target):
    h = tanh(add(dot(x, w1, **PLAIN), b1))
    d = subtract(add(dot(h, w2, **PLAIN), b2), target)
    return total(multiply(d, d))


def network_arguments(rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.standard_normal(s) for s in [(5, 7), (6, 7), (6,), (3, 6), (3,), (5, 3)]]


def descend(*args):
    loss, gradients = value_and_grad(network, argnums=(1, 2, 3, 4))(*args)
    return [loss, *(subtract(p, multiply(0.1, g)) for p, g in zip(args[1:5], gradients, strict=True))]


def test_a_training_step_updates_donated_arrays_in_place(rng: np.random.Generator) -> None:
    args = network_arguments(rng)
    donated = {1: 1, 2: 2, 3: 3, 4: 4}
    graph = traced(descend, args)
    built = build(graph, donated)
    assert built.program.commit < len(built.program.steps)
    for found, expected in zip(run_reference(built, graph, args, donated), descend(*args), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_bias_and_activation_are_computed_on_the_matrix_product(rng: np.random.Generator) -> None:
    args = network_arguments(rng)[:3]
    built = build(traced(lambda x, w, b: [tanh(add(dot(x, w, **PLAIN), b))], args))
    assert [step.name for step in built.program.steps] == ["contract"]


TRANSPOSED = [((3, 4), (4, 5), {"contract": ((1,), (0,)), "batch": ((), ())}),
              ((2, 3, 4), (4, 5), {"contract": ((2,), (0,)), "batch": ((), ())}),
              ((2, 4, 3), (4, 5, 6), {"contract": ((1,), (0,)), "batch": ((), ())}),
              ((2, 2), (2, 2, 2), {"contract": ((1,), (0,)), "batch": ((), ())}),
              ((7, 2, 4), (4, 7, 5), {"contract": ((2,), (0,)), "batch": ((0,), (1,))}),
              ((4,), (4, 5, 6), {"contract": ((0,), (0,)), "batch": ((), ())})]


@pytest.mark.parametrize(("x", "w", "params"), TRANSPOSED)
def test_a_product_that_is_read_with_its_axes_in_another_order(x: tuple, w: tuple, params: dict, rng: np.random.Generator) -> None:
    x, w = rng.standard_normal(x), rng.standard_normal(w)
    expected = dot(x, w, **params)
    for axes in itertools.permutations(range(expected.ndim)):
        found, = reference_outputs(lambda x, w, axes=axes: [tanh(permute(dot(x, w, **params), axes=axes))], [x, w])
        np.testing.assert_allclose(found, np.tanh(np.transpose(expected, axes)), rtol=1e-12, atol=1e-14)


def test_a_product_that_is_only_read_transposed_is_computed_so() -> None:
    args = [np.ones((3, 4)), np.ones((4, 5))]
    graph = simplify(traced(lambda x, w: [tanh(permute(dot(x, w, contract=((1,), (0,)), batch=((), ())), axes=(1, 0)))], args))
    assert [node.primitive.name for node in graph.nodes] == ["dot", "tanh"]
    assert graph.nodes[0].inputs == graph.inputs[::-1] and graph.nodes[0].outs[0].aval.shape == (5, 3)


def test_a_captured_literal_keeps_its_last_elements() -> None:
    for count in (9, 40, 64):
        for late in range(count - 2, count):
            table, other = np.zeros(count, np.uint8), np.zeros(count, np.uint8)
            table[late], other[-1] = 7, 9
            found = reference_outputs(lambda x, a=table, b=other: [add(x, a), add(x, b)], [np.ones(count, np.uint8)])
            assert np.array_equal(found[0], table + np.uint8(1)) and np.array_equal(found[1], other + np.uint8(1))


def test_equal_nodes_with_effects_are_all_kept() -> None:
    graph = share(traced(lambda x: [add(tap("h", multiply(x, x)), tap("h", multiply(x, x)))], [np.ones(3)]))
    assert [node.primitive.name for node in graph.nodes].count("multiply") == 1
    assert sum("tap" in node.effects for node in graph.nodes) == 2


def test_a_conversion_that_narrows_is_not_proven_finite() -> None:
    p, t = np.array([1e300, 2.0]), np.zeros(2, np.float32)
    narrowed = lambda t, c: [scale(t, convert(where(c, p, 3.0), dtype=np.dtype(np.float32)))]
    with np.errstate(over="ignore"):
        assert np.array_equal(narrowed(t, np.ones(2, bool))[0], t)
    assert np.array_equal(reference_outputs(narrowed, [t, np.ones(2, bool)])[0], t)
    widened = lambda t, c: [scale(t, convert(where(c, np.arange(2), 3), dtype=np.dtype(np.float32)))]
    assert "multiply" in [node.primitive.name for node in simplify(traced(widened, [t, np.ones(2, bool)])).nodes]


@pytest.mark.parametrize("axes", [axes for n in range(1, 4) for axes in itertools.combinations(range(3), n)])
@pytest.mark.parametrize("layout", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_reductions_of_every_layout(axes: tuple, layout: tuple, rng: np.random.Generator) -> None:
    x = rng.standard_normal((3, 20, 17))
    found, = reference_outputs(lambda x: [TABLE["sum"](multiply(permute(x, axes=layout), 2.0), axes=axes)], [x])
    np.testing.assert_allclose(found, 2.0 * np.transpose(x, layout).sum(axes), rtol=1e-12, atol=1e-12)


def test_the_order_of_a_reduction_does_not_depend_on_its_layout(rng: np.random.Generator) -> None:
    x = rng.standard_normal((130, 40))
    rows, = reference_outputs(lambda x: [TABLE["sum"](x, axes=(1,))], [np.ascontiguousarray(x.T)])
    columns, = reference_outputs(lambda x: [TABLE["sum"](x, axes=(0,))], [x])
    assert np.array_equal(rows, columns)


@pytest.mark.parametrize("n", [4095, 4096, 8193, 20000])
def test_long_sums_are_cut_into_blocks(n: int, rng: np.random.Generator) -> None:
    x = rng.standard_normal(n)
    found, = reference_outputs(lambda x: [total(multiply(x, x))], [x])
    np.testing.assert_allclose(found, (x * x).sum(), rtol=1e-13)


def test_swapped_donations_do_not_overwrite_each_other(rng: np.random.Generator) -> None:
    x, y = rng.standard_normal(5), rng.standard_normal(5)
    found = reference_outputs(lambda x, y: [y, x], [x, y], {0: 0, 1: 1})
    assert np.array_equal(found[0], y) and np.array_equal(found[1], x)


def test_an_update_that_reads_another_donated_array_sees_its_old_value(rng: np.random.Generator) -> None:
    x, y = rng.standard_normal((4, 3)), rng.standard_normal((3, 4))
    update = lambda x, y: [add(x, permute(y, axes=(1, 0))), subtract(y, permute(x, axes=(1, 0)))]
    found = reference_outputs(update, [x, y], {0: 0, 1: 1})
    assert np.array_equal(found[0], x + y.T) and np.array_equal(found[1], y - x.T)


def test_outputs_may_be_inputs_constants_and_repeated(rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 3))
    found = reference_outputs(lambda x: [x, np.arange(4.0), add(x, 1.0), reshape(x, shape=(3, 2)), broadcast(np.ones(()), shape=(5,))], [x])
    expected = [x, np.arange(4.0), x + 1.0, x.reshape(3, 2), np.ones(5)]
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_arena_places_live_buffers_apart() -> None:
    sizes = {0: 100, 1: 64, 2: 300, 3: 10}
    ranges = {0: (0, 2), 1: (1, 3), 2: (3, 4), 3: (0, 4)}
    offsets, size = arrange(sizes, ranges)
    for a, b in itertools.combinations(sizes, 2):
        if ranges[a][0] <= ranges[b][1] and ranges[b][0] <= ranges[a][1]:
            assert offsets[a] + sizes[a] <= offsets[b] or offsets[b] + sizes[b] <= offsets[a]
    assert size < sum(-(-s // 64) * 64 for s in sizes.values())


def test_groups_come_in_an_order_that_makes_values_before_use(rng: np.random.Generator) -> None:
    graph = build(traced(descend, network_arguments(rng))).graph
    made = set(graph.inputs)
    for group in fuse(graph):
        for node in group.all_nodes() if group.kind != "reduce" else [*group.inline, *group.nodes]:
            assert all(a in made for a in node.inputs if a.__class__.__name__ == "Var"), node.primitive.name
            made.update(node.outs)


def test_long_columns_have_the_bits_of_one_column(rng: np.random.Generator) -> None:
    """A reduction of few long columns is cut into blocks of rows, one of many columns is not: the order is that of a single column."""
    for rows, columns in ((8193, 5), (12288, 33)):
        x = rng.standard_normal((rows, columns)).astype(np.float32)
        for axes in ((0,), (1,)):
            given = x if axes == (0,) else x.T.copy()
            found, = reference_outputs(lambda x, axes=axes: [TABLE["sum"](x, axes=axes)], [given])
            single, = reference_outputs(lambda x: [TABLE["sum"](x, axes=(0,))], [x[:, 3].copy()])
            np.testing.assert_array_equal(found[3], single)
            np.testing.assert_allclose(found, x.sum(0, dtype=np.float64), rtol=1e-3, atol=1e-3)
    y = rng.standard_normal((3, 40, 7))
    found, = reference_outputs(lambda y: [TABLE["sum"](y, axes=(1,))], [y])
    np.testing.assert_array_equal(found, [reference_outputs(lambda v: [TABLE["sum"](v, axes=(0,))], [v])[0] for v in y])
