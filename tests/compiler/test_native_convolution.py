"""Convolutions as native code: the reference's bits for every option, width, split and epilogue; pieces that hold every term once."""

from __future__ import annotations

import itertools

import llvmlite.binding as llvm
import llvmlite.ir as ir
import numpy as np
import pytest
from contractions import STEP, emit_epilogue
from msgspec.structs import replace
from run_native import check_program

import adjoint as ad
from adjoint.compiler import convplan, jit, reference
from adjoint.compiler.conv import lower_convolution
from adjoint.compiler.convplan import Stretch, plan_convolution
from adjoint.compiler.loops import Convolution, Kernel, Store, Walk
from adjoint.compiler.loops_check import check
from adjoint.compiler.pieces import cut, cut_axis
from adjoint.compiler.pipeline import build
from adjoint.compiler.target import Target, host_target
from adjoint.core.aval import aval_of
from adjoint.core.trace import trace_graph
from adjoint.errors import CompileError
from adjoint.nn import conv, relu
from adjoint.primitives.convolution import convolve
from adjoint.transforms.reverse import vjp

KEPT = []                # code that functions of the tests point into
WIDTHS = [width for width in (64, 32, 16) if width <= host_target().vector_bytes]


def options(rank=2, stride=1, padding=0, dilation=1, spread=1):
    return {"stride": (stride,) * rank, "padding": ((padding, padding),) * rank, "dilation": (dilation,) * rank, "spread": (spread,) * rank}


CASES = [  # x, w, options
    ((2, 9, 8, 1, 3), (3, 3, 1, 3, 16), options(padding=1)),
    ((2, 6, 5, 1, 20), (3, 3, 1, 20, 70), options()),
    ((2, 9, 8, 1, 8), (3, 3, 1, 8, 100), options(stride=2, padding=1)),
    ((70, 4, 6, 1, 2), (3, 3, 1, 2, 16), options(padding=1)),
    ((2, 7, 7, 1, 4), (2, 2, 1, 4, 33), options(stride=2, padding=-1, dilation=2)),
    ((2, 4, 5, 2, 5), (3, 3, 2, 5, 17), options(spread=2, padding=2)),
    ((3, 50, 1, 2), (5, 1, 2, 3), options(rank=1, padding=2)),
    ((1, 1100, 1, 1), (4, 1, 1, 2), options(rank=1, stride=3)),
    ((1, 30, 1, 2), (21, 1, 2, 3), options(rank=1, padding=10)),                # little of it would fill a tile: a zero border
    ((2, 15, 1, 2), (9, 1, 2, 3), options(rank=1, stride=2, padding=7)),
    ((1, 12, 1, 2), (7, 1, 2, 3), options(rank=1, padding=9, spread=3, dilation=2)),
    ((3, 19, 19, 1, 1), (3, 3, 1, 1, 32), options()),                           # stretches of one address, and rows that they leave over
    ((2, 19, 17, 1, 3), (3, 3, 1, 3, 40), options(padding=1)),
    ((4, 14, 16, 1, 5), (1, 1, 1, 5, 24), options(stride=2)),                   # phases without terms
    ((2, 5, 9, 1, 6), (1, 1, 1, 6, 64), options()),                             # all axes are one walk
    ((1031, 4, 1, 2), (2, 1, 2, 3), options(rank=1)),                           # many turns of one range: images of no common divisor
    ((97, 5, 7, 1, 2), (3, 3, 1, 2, 5), options(padding=1)),                    # turns, and borders of few rows
]
DEPTHWISE = [((2, 6, 5, 9, 1), (3, 3, 9, 1, 1), options(padding=1)), ((3, 7, 8, 20, 1), (2, 3, 20, 1, 1), options(stride=2, padding=1)),
             ((2, 5, 4, 1), (2, 4, 1, 1), options(rank=1, dilation=2))]


def passes(x, w, params):
    """The convolution and both of its transposes."""
    def function(x, w):
        y, back = vjp(lambda x, w: convolve(x, w, **params), x, w)
        return [y, *back(y)]
    return build(trace_graph(function, [aval_of(x), aval_of(w)]).check(), None).program


def convolutions(program):
    return [step for step in program.steps if isinstance(step, Convolution)]


def inputs(program, *arrays):
    return {number: np.array(arrays[buffer.slot]).ravel() for number, buffer in enumerate(program.buffers) if buffer.role == "input"}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_all_passes_have_the_bits_of_the_reference(case, dtype, rng):
    x_shape, w_shape, params = case
    x, w = rng.standard_normal(x_shape).astype(dtype), rng.standard_normal(w_shape).astype(dtype)
    program = passes(x, w, params)
    check(program)
    assert len(convolutions(program)) == 3
    widths = WIDTHS if dtype == "float32" else WIDTHS[:1]
    check_program(program, inputs(program, x, w), *map(host_target, widths))


def rows_of(plan):
    """m of every row that a plan computes."""
    stretch = plan.stretch or Stretch(1, 0, 0)
    for piece in plan.pieces:
        for place in itertools.product(*(range(n) for n, _, _ in piece.rows), range(stretch.rows)):
            steps = [m for _, _, m in piece.rows] + [stretch.m]
            yield piece.m + sum(i * step for i, step in zip(place, steps, strict=True))


@pytest.mark.parametrize("width", WIDTHS)
def test_every_row_lies_in_one_stretch_or_is_listed_once(width):
    stretched = 0
    for x_shape, w_shape, params in CASES:
        for step in convolutions(passes(np.ones(x_shape, np.float32), np.ones(w_shape, np.float32), params)):
            plans = plan_convolution(step, host_target(width))
            assert sorted(m for plan in plans for m in rows_of(plan)) == list(range(step.m))
            stretched += sum(plan.stretch is not None for plan in plans)
    assert stretched > len(CASES) // 2


@pytest.mark.parametrize(("case", "turns", "part", "range_terms", "joint", "spans"), [
    (CASES[0], 1, 0, 1024, 1, [[(6, 0)]]), (CASES[3], 2, 35, 213, 2, [[(10, 0)], [(8, 10)]]),
    (((1031, 4, 1, 2), (2, 1, 2, 3), options(rank=1)), 1031, 1, 256, 2, [[(2, 0)], [(2, 7)]]),
    (((300, 6, 6, 1, 16), (5, 5, 1, 16, 3), options()), 2, 150, 256, 1, [[(200, 0)], [(200, 0)]]),
    (((300, 4, 5, 1, 3), (3, 3, 1, 3, 4), options(spread=2, padding=2)), 30, 10, 256, 2,
     [[(12, 0), (2, 14)], [(4, 21), (6, 28), (3, 35)]])], ids=str)
def test_long_gradients_of_weights_go_in_turns(case, turns, part, range_terms, joint, spans):
    """How many of the first summed axis at a time, and where the sums of every segment wait: in whole tiles behind one another."""
    x_shape, w_shape, params = case
    step = convolutions(passes(np.ones(x_shape, np.float32), np.ones(w_shape, np.float32), params))[2]
    plan = plan_convolution(step, Target("", "", "", vector_bytes=16, vector_registers=16))[0]
    assert (plan.turns, plan.part, plan.range_terms, plan.joint) == (turns, part, range_terms, joint)
    assert [[(segment.rows, segment.place) for segment in span] for span in plan.spans] == spans
    assert plan.buffered == (turns > 1)


def test_bands_of_phases_give_the_same_bits(rng, monkeypatch):
    """The gradient of an image at stride 2: rows of four phases take turns in memory, a band of images at a time."""
    monkeypatch.setattr(convplan, "BAND_BYTES", 2**11)
    x, w = rng.standard_normal((6, 16, 16, 1, 4)).astype(np.float32), rng.standard_normal((1, 1, 1, 4, 16)).astype(np.float32)
    program = passes(x, w, options(stride=2))
    bands = [plan.bands for step in convolutions(program) for plan in plan_convolution(step, host_target())]
    assert max(bands) > 2 and min(bands) == 1
    check_program(program, inputs(program, x, w), *map(host_target, WIDTHS))


@pytest.mark.parametrize("case", DEPTHWISE, ids=str)
def test_depthwise_runs_in_lanes_along_the_groups(case, rng):
    x_shape, w_shape, params = case
    x, w = rng.standard_normal(x_shape).astype(np.float32), rng.standard_normal(w_shape).astype(np.float32)
    program = passes(x, w, params)
    check(program)
    found = check_program(program, inputs(program, x, w), *map(host_target, WIDTHS))
    y, back = vjp(lambda x, w: convolve(x, w, **params), x.astype(np.float64), w.astype(np.float64))
    expected = [y, *back(y)]
    for number, buffer in enumerate(program.buffers):
        if buffer.role == "output":
            np.testing.assert_allclose(found[number].reshape(expected[buffer.slot].shape), expected[buffer.slot], atol=2e-4)
    assert not convolutions(program)


@pytest.mark.parametrize("case", [((9, 11, 12, 1, 4), (3, 3, 1, 4, 48), options(padding=1)), CASES[5]], ids=str)
def test_any_split_gives_the_same_bits(case, rng):
    x_shape, w_shape, params = case
    x, w = rng.standard_normal(x_shape).astype(np.float32), rng.standard_normal(w_shape).astype(np.float32)
    program = passes(x, w, params)
    for step in convolutions(program):
        alone, (store,) = replace(program, steps=(step,), commit=1), step.epilogue
        given = {i: rng.standard_normal(each.size).astype(each.dtype) for i, each in enumerate(program.buffers)}
        buffers = reference.buffers_for(alone, given)
        expected = [buffer.copy() for buffer in buffers]
        assert reference.run(alone, expected) == 0
        functions = parts_of(step)
        for parts in (1, 2, 3, 7):
            found = [buffer.copy() for buffer in buffers]
            table = np.array([buffer.ctypes.data for buffer in found], np.int64)
            for function, extent in functions:
                for part in reversed(range(parts)):
                    function(table.ctypes.data, extent * part // parts, extent * (part + 1) // parts, None, None)
            assert all(np.array_equal(x, y) for x, y in zip(found, expected, strict=True)), store


def parts_of(step):
    """The native functions of a convolution alone, and their extents."""
    target, module = host_target(), ir.Module(name="alone")
    module.triple = target.triple
    steps = lower_convolution(module, step, emit_epilogue, target)
    for each in steps:
        each.function.linkage = ""
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    code = jit.load([target.machine().emit_object(parsed)], [each.function.name for each in steps])
    KEPT.append(code)
    return [(STEP(code[each.function.name]), each.extent) for each in steps]


LONG = [((1, 3, 3, 1, 1100), (1, 1, 1, 1100, 16)), ((1, 4, 3, 1, 700), (2, 2, 1, 700, 9)), ((2, 1, 1, 1, 1500), (1, 1, 1, 1500, 20)),
        ((1, 40, 41, 1, 2), (3, 3, 1, 2, 5)), ((3, 26, 27, 1, 1), (4, 5, 1, 1, 3)), ((1, 5, 5, 1, 1030), (3, 3, 1, 1030, 1)),
        ((300, 6, 6, 1, 16), (5, 5, 1, 16, 3)),                                         # in turns, over more rows than wait together
        ((300, 4, 5, 1, 3), (3, 3, 1, 3, 4), options(spread=2, padding=2)),             # in turns, several pieces to a span
        ((300, 12, 12, 1, 2), (9, 9, 1, 2, 3), options(stride=3, padding=4))]


@pytest.mark.parametrize("case", LONG, ids=str)
def test_long_sums_of_whole_numbers_are_exact(case, rng):
    """Sums that are taken in several ranges, the last of them short: every term once, so every digit is right."""
    x_shape, w_shape, params = (*case, options())[:3]
    x, w = (rng.integers(-3, 4, shape).astype(np.float64) for shape in (x_shape, w_shape))
    both = lambda x, w: (lambda y, back: [y, *back(y)])(*vjp(lambda x, w: convolve(x, w, **params), x, w))
    for found, expected in zip(ad.compile(both)(x, w), both(x, w), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_between_convolutions_nothing_is_copied(rng):
    """Bias and ReLU are computed on the first convolution, which stores what the second one reads; other kernels lay out weights."""
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in ((2, 3, 9, 8), (20, 3, 3, 3), (20,), (5, 20, 2, 2))]
    function = lambda x, w, b, v: conv(relu(conv(x, w, b, padding=1)), v)
    program = build(trace_graph(lambda *xs: [function(*xs)], list(map(aval_of, arrays))).check(), None).program
    first, second = convolutions(program)
    assert len(first.epilogue) > 3 and {each.buffer for each in first.epilogue if isinstance(each, Store)} == {second.a.buffer}
    copied = [step for step in program.steps if isinstance(step, Kernel)]
    assert len(copied) == 3                     # both windows, and the result, which is wanted channels first
    found = check_program(program, inputs(program, *arrays))
    expected = function(*(a.astype(np.float64) for a in arrays))
    number, = (i for i, buffer in enumerate(program.buffers) if buffer.role == "output")
    np.testing.assert_allclose(found[number].reshape(expected.shape), expected, atol=1e-4)


def test_a_function_of_the_c_library_runs_behind_the_convolution(rng):
    x, w = rng.standard_normal((1, 2, 5)), rng.standard_normal((3, 2, 2))
    function = lambda x, w: np.arctan(conv(x, w))
    np.testing.assert_allclose(ad.compile(function)(x, w), function(x, w), rtol=1e-14)


@pytest.mark.parametrize("walk", [Walk(0, 0, *rest, 1) for rest in itertools.product((1, 2, 3), (1, 2), (-1, 0, 2), (1, 2, 3), (0, 1, 7))])
def test_the_pieces_of_an_axis_are_its_terms(walk):
    free, summed = 9, 4
    terms = {(i, j): (walk.stride * i + walk.dilation * j - walk.low) // walk.spread for i in range(free) for j in range(summed)
             if (walk.stride * i + walk.dilation * j - walk.low) % walk.spread == 0
             and 0 <= (walk.stride * i + walk.dilation * j - walk.low) // walk.spread < walk.size}
    found, rows = {}, []
    for piece in cut_axis(free, summed, walk):
        rows += [piece.free.first + i * piece.free.step for i in range(piece.free.count)]
        for i, j in itertools.product(range(piece.free.count), range(piece.summed.count)):
            place = piece.place + i * piece.by_free + j * piece.by_summed
            found[piece.free.first + i * piece.free.step, piece.summed.first + j * piece.summed.step] = place
    assert found == terms and sorted(rows) == list(range(free))


def test_a_strided_convolution_backwards_multiplies_by_no_zero(rng):
    """x_bar at stride 2: the phases together have as many terms as the forward sum, no more."""
    x, w = np.ones((2, 8, 8, 1, 16), np.float32), np.ones((3, 3, 1, 16, 16), np.float32)
    forward, backward, _ = convolutions(passes(x, w, options(stride=2, padding=1)))
    terms = lambda step: sum(piece.row_count * piece.terms for piece in cut(step)) * step.n
    assert terms(backward) == terms(forward) < 0.3 * backward.m * backward.k * backward.n


def test_a_short_sum_is_finished_in_registers(rng):
    """Bias, ReLU and two stores behind nine terms: one function of their own, no buffer of sums, the bits of the reference."""
    x, w, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((3, 1, 15, 16), (20, 1, 3, 3), (20,)))

    def function(x, w, b):
        y = conv(x, w, b)
        return [y, relu(y)]
    program = build(trace_graph(function, list(map(aval_of, (x, w, b)))).check(), None).program
    step, = convolutions(program)
    assert all(plan.is_short for plan in plan_convolution(step, host_target()) if plan.stretch)
    check_program(program, inputs(program, x, w, b), *map(host_target, WIDTHS))


def test_no_buffer_of_columns(rng):
    """No temporary is larger than an activation, and the plans keep their sums in a buffer that fits the cache."""
    x, w = np.ones((16, 26, 26, 1, 32), np.float32), np.ones((3, 3, 1, 32, 64), np.float32)
    program = passes(x, w, options())
    assert max(buffer.size for buffer in program.buffers) <= 16 * 24 * 24 * 64
    assert program.arena_bytes <= 2 * 4 * 9 * 32 * 64 + 128
    assert all(plan.tile_bytes <= 2**17 for step in convolutions(program) for plan in plan_convolution(step, host_target()))


def test_the_check_refuses_operands_that_leave_their_buffers():
    x, w = np.ones((1, 5, 1, 2), np.float32), np.ones((2, 1, 2, 16), np.float32)
    program = passes(x, w, options(rank=1))
    step = convolutions(program)[0]
    for wrong in (replace(step, walks=(replace(step.walks[0], size=6),)),
                  replace(step, b=replace(step.b, offset=step.b.offset + 16)),
                  replace(step, b=replace(step.b, strides=(*step.b.strides[:-1], 2)))):
        with pytest.raises(CompileError):
            check(replace(program, steps=tuple(wrong if each is step else each for each in program.steps)))
