"""Exact sums of integers are NumPy's, whatever their size; floats beyond the largest number are infinite without a warning."""

import numpy as np
import pytest

from adjoint.distributed import Alone, exact_sum, run_threads

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
