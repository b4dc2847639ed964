"""Contractions as native code: bit for bit the serial fma over k, for every layout, edge, vector width, split and epilogue."""

from __future__ import annotations

import ctypes
import itertools
import mmap
import re

import numpy as np
import pytest
from contractions import Case, Native

from adjoint.compiler import flow
from adjoint.compiler.plan import plan_contraction
from adjoint.compiler.target import host_target

WIDTHS = [width for width in (64, 32, 16) if width <= host_target().vector_bytes]
FMA_IN_HARDWARE = [width for width in WIDTHS if width > 16 or not host_target().triple.startswith("x86")]

EDGES = [
    (1, 1, 1, 1), (1, 1, 1, 33), (1, 7, 5, 3), (1, 6, 64, 16), (1, 13, 65, 17), (1, 8, 16, 31), (1, 9, 100, 2),
    (1, 1, 150, 20), (1, 150, 1, 20), (1, 1, 20, 9), (1, 30, 2, 40), (1, 70, 33, 9), (1, 97, 130, 40), (1, 5, 300, 24), (2, 11, 18, 6),
]  # fmt: skip
LAYOUTS = ["".join(pair) for pair in itertools.product("NTRS", repeat=2)]


def check(native: Native, number: int, rng: np.random.Generator, samples: int = 12) -> None:
    """C of one case equals the oracle at its corners and at random places, and nothing else was written."""
    case = native.cases[number]
    found = native.run(number)
    assert case.intact(), case.shape
    assert not np.isnan(found).any(), (case.shape, case.orders)
    batch, m, n, _ = case.shape
    corners = set(itertools.product({0, batch - 1}, {0, m - 1}, {0, n - 1}))
    places = corners | {tuple(int(rng.integers(size)) for size in (batch, m, n)) for _ in range(samples)}
    for place in places:
        assert found[place] == case.expected(*place), (case.shape, case.orders, case.epilogue, place)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("width", WIDTHS)
def test_every_edge_equals_serial_fma(width, dtype, rng):
    orders = itertools.cycle(["NN", "NT", "TN", "TT"])
    every = width == WIDTHS[0] and dtype == "float32"
    cases = [Case(shape, next(orders), dtype) for shape in EDGES for _ in range(4 if every else 1)]
    native = Native(cases, host_target(width))
    for number in range(len(cases)):
        check(native, number, rng)


@pytest.mark.parametrize("shape", [(1, 13, 70, 21), (3, 40, 20, 18)])
def test_every_layout_equals_serial_fma(shape, rng):
    cases = [Case(shape, orders) for orders in [*LAYOUTS, "BN", "NB", "BB", "VN", "NV", "TV"]]
    native = Native(cases, host_target())
    for number in range(len(cases)):
        check(native, number, rng, samples=6)


@pytest.mark.parametrize("width", WIDTHS)
def test_epilogue_sees_its_elements(width, rng):
    shapes = [(1, 7, 5, 3), (1, 13, 70, 5), (2, 6, 64, 4), (1, 40, 1, 8), (1, 1, 40, 8), (1, 100, 130, 12)]
    orders = itertools.cycle(["NN", "TN", "NT", "TT", "RS"])
    cases = [Case(shape, next(orders), epilogue="bias") for shape in shapes for _ in range(2)]
    native = Native(cases, host_target(width))
    for number in range(len(cases)):
        check(native, number, rng)


@pytest.mark.parametrize(("width", "epilogue"), [(WIDTHS[0], "store"), *((width, "bias") for width in WIDTHS)])
def test_a_turned_product_stores_as_it_was_given(width, epilogue, rng):
    shapes = [(1, 16, 300, 40), (2, 64, 130, 70), (1, 37, 200, 33), (1, 80, 401, 20), (1, 20, 300, 1500)]
    cases = [Case(shape, orders, epilogue=epilogue) for shape, orders in zip(shapes, ("NT", "TT") * 3, strict=False)]
    native = Native(cases, host_target(width))
    assert any(native.plan(number).turns_back for number in range(len(cases)))
    for number in range(len(cases)):
        check(native, number, rng)
        assert np.array_equal(native.run(number), native.run(number, parts=3))


@pytest.mark.parametrize("epilogue", ["store", "bias"])
def test_long_k_is_cut_into_blocks_of_the_same_sum(epilogue, rng):
    cases = [Case((1, 20, 90, 2500), orders, epilogue=epilogue) for orders in ("NN", "NT")]
    cases.append(Case((1, 200, 150, 1030), "TN", epilogue=epilogue))
    native = Native(cases, host_target())
    assert native.plan(0).k_blocks > 1
    for number in range(len(cases)):
        check(native, number, rng, samples=4)


def test_every_vector_width_gives_the_same_bits():
    shapes = [(1, 97, 130, 40), (1, 64, 10, 256), (1, 33, 200, 70)]
    make = lambda: [Case(shape, orders, dtype) for shape in shapes for orders in ("NT", "TN") for dtype in "fd"]
    natives = [Native(make(), host_target(width)) for width in FMA_IN_HARDWARE]
    for number in range(len(natives[0].cases)):
        results = [native.run(number) for native in natives]
        assert all(np.array_equal(results[0], other) for other in results[1:])


def test_every_split_gives_the_same_bits():
    shapes = [(1, 200, 150, 30), (1, 97, 33, 16), (3, 20, 70, 40), (1, 300, 4, 50)]
    cases = [Case(shape, orders, epilogue=end) for shape in shapes for orders in ("NT", "TN") for end in ("store", "bias")]
    native = Native(cases, host_target())
    for number in range(len(cases)):
        whole = native.run(number)
        for parts in (2, 3, 7):
            assert np.array_equal(whole, native.run(number, parts))


def test_a_row_alone_has_the_bits_of_the_row_in_the_batch():
    for orders in ("NN", "NT"):
        many, one = Case((1, 64, 100, 50), orders), Case((1, 1, 100, 50), orders)
        native = Native([many, one], host_target())
        product = native.run(0)
        one.view(1)[:] = many.view(1)
        for row in (0, 5, 63):
            one.view(0)[:] = many.view(0)[:, row : row + 1]
            assert np.array_equal(native.run(1)[0, 0], product[0, row])


def test_no_k_gives_the_epilogue_of_zero():
    cases = [Case((1, 7, 20, 0)), Case((1, 7, 20, 0), epilogue="bias")]
    native = Native(cases, host_target())
    assert np.array_equal(native.run(0), np.zeros((1, 7, 20)))
    assert native.run(1)[0, 3, 4] == cases[1].expected(0, 3, 4)


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (1, 0, 4, 5), (1, 3, 0, 5), (0, 0, 0, 0)])
def test_nothing_to_compute_is_nothing_done(shape):
    case = Case(shape)
    native = Native([case], host_target())
    assert native.steps[0][-1][1] == 0
    native.run(0, parts=3)
    assert case.intact()


def test_poll_ends_a_step_at_the_next_tile():
    def stop_when_asked(builder, control):
        return builder.icmp_signed("!=", builder.load(control, typ=flow.I64), flow.i64(0))

    native = Native([Case((1, 300, 200, 10))], host_target(), stop_when_asked)
    flag = ctypes.c_int64(1)
    assert np.isnan(native.run(0, control=ctypes.addressof(flag))).all()
    flag.value = 0
    assert not np.isnan(native.run(0, control=ctypes.addressof(flag))).any()


def test_a_training_step_shares_few_small_microkernels():
    batch, sizes = 256, (784, 512, 512, 10)
    cases = []
    for inner, outer in itertools.pairwise(sizes):
        cases += [Case((1, batch, outer, inner), "NT", epilogue="bias"), Case((1, outer, inner, batch), "TN")]
        cases.append(Case((1, batch, inner, outer), "NN", epilogue="bias"))
    native = Native(cases, host_target())
    assert native.text.count('define internal void @"microkernel_') <= 3
    assert len(native.text.splitlines()) < 5000


def test_code_has_no_licence_to_change_a_result():
    native = Native([Case((1, 40, 70, 30), orders, epilogue="bias") for orders in ("NT", "TN")], host_target())
    words = set(re.findall(r"[a-z]+", native.text))
    assert not words & {"fast", "contract", "reassoc", "nnan", "ninf", "nsz", "arcp", "afn", "inttoptr", "inbounds", "nsw"}


def test_every_column_belongs_to_a_panel():
    shapes = itertools.product((1, 2, 7, 64, 65), (1, 2, 15, 16, 17, 31, 33, 63, 64, 65, 100, 129), (0, 1, 5, 40))
    for (m, n, k), orders, width in itertools.product(shapes, ("NN", "NT", "TN", "TT"), WIDTHS):
        plan = plan_contraction(Case((1, m, n, k), orders).contraction, host_target(width))
        assert plan.columns >= plan.contraction.n, (m, n, k, orders, width)
        assert plan.chunks * plan.chunk_rows >= plan.contraction.m
        assert not plan.overlaps or plan.contraction.n >= plan.lanes


def test_plan_reads_in_place_what_need_not_be_packed():
    target = host_target()
    small, tall = Case((1, 10, 256, 64), "TN"), Case((1, 40, 1, 500), "TN")
    assert plan_contraction(small.contraction, target).scratch_bytes == 0
    turned = plan_contraction(tall.contraction, target)
    assert (turned.contraction.m, turned.contraction.n, turned.scratch_bytes) == (1, 40, 0)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mprotect"), reason="needs memory protection")
@pytest.mark.parametrize("orders", ["NN", "NT", "TN", "TT"])
def test_operands_are_not_read_beyond_their_end(orders):
    """Each operand ends where a page begins that may not be touched: a read beyond would end the process."""
    shapes = [(1, 7, 5, 3), (1, 13, 70, 21), (1, 100, 37, 40), (1, 1, 45, 9), (1, 45, 1, 9)]
    cases = [Case(shape, orders) for shape in shapes]
    native = Native(cases, host_target())
    for number, case in enumerate(cases):
        expected = native.run(number)
        regions = [_before_a_wall(array) for array in case.memory[:2]]
        case.memory[:2] = [array for array, _ in regions]
        assert np.array_equal(native.run(number), expected)
        del case, regions


def _before_a_wall(array: np.ndarray) -> tuple[np.ndarray, object]:
    """A copy of `array` without its trailing guard, whose end is the end of what may be read."""
    body = array[:-32]
    page = mmap.PAGESIZE
    size = -(-body.nbytes // page) * page
    region = mmap.mmap(-1, size + page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(region))
    protect = ctypes.CDLL(None).mprotect
    protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    assert protect(start + size, page, 0) == 0
    copy = np.frombuffer(region, body.dtype, len(body), size - body.nbytes)
    copy[:] = body
    return copy, region
