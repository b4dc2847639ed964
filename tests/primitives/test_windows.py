"""Windows of every kind: each row of pooling against plain loops, in NumPy and in native code; ties, NaN, padding; transposes."""

import itertools

import numpy as np
import pytest

from adjoint.primitives.pooling import max_pool, pool_put, pool_spread, pool_sum, pool_take
from adjoint.primitives.windows import Window, elements, place_dtype, weights_of
from adjoint.testing.lowering import run_lowered


def random_window(rng, axis, large):
    """A window of any stride, dilation and padding; every window holds at least one element."""
    while True:
        length, size = int(rng.integers(1, 14)), int(rng.integers(1, 10 if large else 5))
        stride, dilation, low = int(rng.integers(1, 5)), int(rng.integers(1, 3)), int(rng.integers(0, size // 2 + 1))
        room = length + 2 * low - dilation * (size - 1) - 1
        if room < 0 or (dilation > 1 and low):
            continue
        count = room // stride + 1 + int(rng.integers(0, 2))
        if (count - 1) * stride < length + low - (size - 1) * (dilation - 1):
            return Window(axis, length, count, size, stride, dilation, low)


def places_of(windows, at):
    """(place, position in x or None in padding) of the window at output position `at`, in row-major order."""
    for place, offsets in enumerate(itertools.product(*[range(w.size) for w in windows])):
        position, inside = list(at), True
        for w, j in zip(windows, offsets, strict=True):
            position[w.axis] = at[w.axis] * w.stride + j * w.dilation - w.low
            inside &= 0 <= position[w.axis] < w.length
        yield place, tuple(position) if inside else None


def by_loops(x, y_bar, windows):
    """(max, places, sum, take of x, put of y_bar, spread of y_bar), one element at a time."""
    shape = y_bar.shape
    best, places, total = np.full(shape, -np.inf), np.zeros(shape, int), np.zeros(shape)
    taken, put, spread = np.zeros(shape), np.zeros(x.shape), np.zeros(x.shape)
    for at in np.ndindex(*shape):
        inside = [(place, position) for place, position in places_of(windows, at) if position is not None]
        places[at], chosen = inside[0]
        for place, position in inside:
            if x[position] > best[at] or np.isnan(x[position]):
                best[at], places[at], chosen = x[position], place, position
            total[at] += x[position]
            spread[position] += y_bar[at]
        taken[at] = x[chosen]
        put[chosen] += y_bar[at]
    return best, places, total, taken, put, spread


def rows_of(x, y_bar, windows):
    best, places = max_pool(x, windows=windows)
    return [best, places, pool_sum(x, windows=windows), pool_take(x, places, windows=windows), pool_put(y_bar, places, windows=windows),
            pool_spread(y_bar, windows=windows)]


@pytest.mark.parametrize("unrolled", [36, 3])
@pytest.mark.parametrize("seed", range(14))
def test_random_windows_by_loops(seed, unrolled, monkeypatch):
    """With few elements written out, the forms of native code for large windows are taken: tiles, and the search."""
    monkeypatch.setattr("adjoint.primitives.windows.UNROLLED", unrolled)
    rng = np.random.default_rng(seed)
    large = seed % 3 == 0
    windows = (random_window(rng, 1, large), random_window(rng, 2, large)) if seed % 2 else (random_window(rng, 1, large),)
    shape = [2, 1, 1, 3] if len(windows) == 2 else [2, 1, 3]
    out = list(shape)
    for w in windows:
        shape[w.axis], out[w.axis] = w.length, w.count
    x = rng.integers(-3, 4, shape).astype(np.float64)                    # many ties
    x[rng.random(shape) < 0.05] = np.nan
    y_bar = rng.standard_normal(out)
    expected = by_loops(x, y_bar, windows)
    eager = rows_of(x, y_bar, windows)
    native, failure = run_lowered(lambda x, y_bar: rows_of(x, y_bar, windows), [x, y_bar])
    assert failure is None
    for found in (eager, native):
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-13, err_msg=str(windows))
    assert eager[1].dtype == place_dtype(windows)


def test_large_tiles():
    windows = (Window(1, 15, 2, 7, 7), Window(2, 16, 2, 7, 8))            # gaps behind both
    rng = np.random.default_rng(0)
    x, y_bar = rng.standard_normal((2, 15, 16, 2)), rng.standard_normal((2, 2, 2, 2))
    expected = by_loops(x, y_bar, windows)
    native, _ = run_lowered(lambda x, y_bar: rows_of(x, y_bar, windows), [x, y_bar])
    for a, b in zip(native, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)
    wide = (Window(0, 300, 1, 300, 300),)
    assert place_dtype(wide) == np.int32 and elements(wide) == 300 and weights_of(windows) == [7, 1]
    best, place = max_pool(np.arange(300.0), windows=wide)
    assert best == 299.0 and place == 299


def test_places_in_padding_are_nothing():
    """A place may name padding (only a caller can make it): reading gives 0, writing goes nowhere."""
    windows = (Window(0, 3, 2, 3, 2, 1, 1),)                              # elements -1 0 1 and 1 2 3
    places = np.array([0, 2], np.uint8)
    x, y = np.array([1.0, 2.0, 3.0]), np.array([5.0, 7.0])
    both = lambda x, y, p: [pool_take(x, p, windows=windows), pool_put(y, p, windows=windows)]
    for taken, put in (both(x, y, places), run_lowered(both, [x, y, places])[0]):
        np.testing.assert_array_equal(taken, [0.0, 0.0])
        np.testing.assert_array_equal(put, [0.0, 0.0, 0.0])
