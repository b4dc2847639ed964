"""Exact sums: of integers they are NumPy's, of floats those of rational numbers, at both ends of what a dtype holds."""

from fractions import Fraction

import numpy as np
import pytest

from adjoint.distributed import Alone, exact_sum, run_threads
from adjoint.distributed.fixed_point import BLOCK, WIDTH

FAR = {np.int64: [2 ** 60 + 1, -2 ** 63, 2 ** 63 - 1, -1], np.uint64: [2 ** 63, 5, 2 ** 64 - 1, 1], np.int8: [127, 1, -128, 5],
       np.uint8: [255, 255, 3, 7]}


@pytest.mark.parametrize("dtype", FAR)
def test_integers_are_added_as_integers(dtype):
    parts = [np.roll(np.array(FAR[dtype], dtype), k) for k in range(3)]
    expected = parts[0] + parts[1] + parts[2]
    assert exact_sum(parts, Alone(), 3).tolist() == expected.tolist()
    for found in run_threads(3, lambda c: exact_sum(parts[c.rank:c.rank + 1], c, 3), seconds=10):
        assert found.dtype == dtype
        assert found.tolist() == expected.tolist()


def test_a_number_of_integers_without_axes():
    assert exact_sum([np.array(2 ** 60 + 1), np.array(-2 ** 60)], Alone(), 2) == 1
    assert exact_sum([np.int64(2 ** 63 - 1), np.int64(1)], Alone(), 2) == -2 ** 63


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_near_the_largest_number(dtype):
    top = np.finfo(dtype).max
    assert exact_sum([np.array([top, top], dtype), np.array([top, -top], dtype)], Alone(), 2).tolist() == [np.inf, 0.0]
    assert exact_sum([np.array([top, -top], dtype)], Alone(), 1).tolist() == [top, -top]


@pytest.mark.parametrize(("dtype", "most"), [*((np.float32, most) for most in (-130, -3, 0, 90, 126)),
                                             *((np.float64, most) for most in (-1060, -1000, -300, 0, 900, 1020))])
def test_sums_of_every_magnitude_are_those_of_rational_numbers(rng, dtype, most):
    """Each term rounded to whole multiples of 2^-exponent, half to even, their sum rounded once; over more than one block of elements."""
    parts = [np.ldexp(rng.uniform(-1, 1, BLOCK + 5), most - rng.integers(0, 70, BLOCK + 5)).astype(dtype) for _ in range(3)]
    parts[1][7], parts[2][BLOCK + 1] = np.ldexp(dtype(0.75), most), np.ldexp(dtype(-0.75), most)
    found, exponent = exact_sum(parts, Alone(), 3), WIDTH - 2 - most
    unit = Fraction(2) ** exponent
    for at in (*range(60), 4096, BLOCK - 1, BLOCK, BLOCK + 1, BLOCK + 4):
        total = sum(round(Fraction(float(x[at])) * unit) for x in parts)
        once = np.float64(total)                                       # Python rounds half to even too
        assert found[at] == dtype(np.ldexp(once, -exponent)), (at, total)
    assert found.dtype == dtype and np.array_equal(exact_sum([x.reshape(-1, 1) for x in parts], Alone(), 3), found[:, None])
