"""Pooling against plain loops: windows, padding, ceil mode, ties, NaN, adaptive bounds; memory order; compiled equals eager."""

import itertools
import math

import numpy as np
import pytest

import adjoint as ad
from adjoint import nn
from adjoint.errors import ConfigError, DtypeError, ShapeError
from adjoint.testing import check_grads


def loop_pool(x, size, stride, padding, dilation, ceil_mode, combine):
    """One example [height, width] by loops: combine(elements inside, positions inside) of each window."""
    def count(n):
        room = (n + 2 * padding - dilation * (size - 1) - 1) / stride
        m = (math.ceil(room) if ceil_mode else math.floor(room)) + 1
        return m - 1 if ceil_mode and (m - 1) * stride >= n + padding else m
    h, w = x.shape
    y = np.zeros((count(h), count(w)))
    for a, b in itertools.product(range(y.shape[0]), range(y.shape[1])):
        places = [(a * stride + i * dilation - padding, b * stride + j * dilation - padding)
                  for i, j in itertools.product(range(size), range(size))]
        y[a, b] = combine([x[p] for p in places if 0 <= p[0] < h and 0 <= p[1] < w], places)
    return y


CASES = [(2, 2, 0, 1, False), (3, 2, 1, 1, False), (3, 1, 1, 1, False), (2, 3, 1, 2, False), (3, 2, 0, 1, True), (2, 3, 1, 1, True)]


@pytest.mark.parametrize(("size", "stride", "padding", "dilation", "ceil_mode"), CASES)
def test_max_pool_by_loops(rng, size, stride, padding, dilation, ceil_mode):
    x = rng.standard_normal((2, 3, 7, 9))
    found = nn.max_pool(x, size, stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil_mode)
    expected = [[loop_pool(m, size, stride, padding, dilation, ceil_mode, lambda inside, _: max(inside)) for m in maps] for maps in x]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize(("size", "stride", "padding", "dilation", "ceil_mode"), [case for case in CASES if case[3] == 1])
def test_avg_pool_by_loops(rng, size, stride, padding, dilation, ceil_mode, include):
    x = rng.standard_normal((2, 2, 7, 9))

    def mean(inside, places):
        counted = [p for p in places if p[0] < 7 + padding and p[1] < 9 + padding]
        return sum(inside) / (len(counted) if include else len(inside))
    found = nn.avg_pool(x, size, stride=stride, padding=padding, ceil_mode=ceil_mode, count_include_pad=include)
    expected = [[loop_pool(m, size, stride, padding, 1, ceil_mode, mean) for m in maps] for maps in x]
    np.testing.assert_allclose(found, expected, rtol=1e-14)


@pytest.mark.parametrize("size", [1, 3, (2, None), (7, 4), (6, 9)])
def test_adaptive_pools_by_loops(rng, size):
    x = rng.standard_normal((2, 3, 7, 9))
    rows, columns = (n if m is None else m for n, m in zip((7, 9), size if isinstance(size, tuple) else (size, size), strict=True))
    for pool, combine in ((nn.adaptive_avg_pool, np.mean), (nn.adaptive_max_pool, np.max)):
        expected = np.stack([np.stack([combine(x[:, :, a * 7 // rows:-(-(a + 1) * 7 // rows), b * 9 // columns:-(-(b + 1) * 9 // columns)],
                                               axis=(2, 3)) for b in range(columns)], -1) for a in range(rows)], -2)
        np.testing.assert_allclose(pool(x, size), expected, rtol=1e-14)
        np.testing.assert_allclose(ad.compile(lambda x, pool=pool: pool(x, size))(x), expected, rtol=1e-13)


@pytest.mark.mission(154)
def test_the_first_of_equal_elements_receives_the_gradient(figure):
    x = np.array([[[2.0, 7.0, 7.0, 7.0], [7.0, 1.0, 7.0, 7.0]]])
    bar = ad.grad(lambda x: np.sum(nn.max_pool(x, (2, 2)) * np.array([3.0, 5.0])))
    figure.equal(bar(x), [[[0, 3, 5, 0], [0, 0, 0, 0]]])
    figure.equal(ad.compile(bar)(x), [[[0, 3, 5, 0], [0, 0, 0, 0]]])
    shared = ad.grad(lambda x: np.sum(np.max(x.reshape(2, 2, 2), axis=(0, 2)) * np.array([4.0, 6.0])))
    figure.equal(shared(x), [[[0, 2, 1.5, 1.5], [2, 0, 1.5, 1.5]]])           # the reduction shares a tie among all that are equal


def test_nan_and_infinity():
    x = np.array([[[np.nan, 1.0, 2.0, np.nan, -np.inf, -np.inf, 3.0, np.inf]]])
    for pool in (lambda x: nn.max_pool(x, 2), ad.compile(lambda x: nn.max_pool(x, 2))):
        np.testing.assert_array_equal(pool(x), [[[np.nan, np.nan, -np.inf, np.inf]]])
    low = np.full((1, 1, 4), -np.inf)
    bars = ad.grad(lambda x: np.sum(nn.max_pool(x, 3, stride=2, padding=1) * np.array([2.0, 3.0])))
    for found in (bars(low), ad.compile(bars)(low)):
        np.testing.assert_array_equal(found, [[[2.0, 3.0, 0.0, 0.0]]])        # the first element that is not padding


POOLS = {"max": lambda x: nn.max_pool(x, 3, stride=2, padding=1), "max tiles": lambda x: nn.MaxPool2d(2)(x),
         "avg": lambda x: nn.avg_pool(x, 3, stride=2, padding=1, count_include_pad=False),
         "avg ceil": lambda x: nn.AvgPool2d(2, ceil_mode=True)(x),
         "adaptive avg": lambda x: nn.AdaptiveAvgPool2d((2, 3))(x), "adaptive max": lambda x: nn.AdaptiveMaxPool2d((2, 3))(x),
         "global": lambda x: nn.AdaptiveAvgPool2d(1)(x)}


@pytest.mark.parametrize("name", POOLS)
def test_derivatives_of_both_orders(rng, name):
    x = rng.permutation(np.arange(1.0, 71.0)).reshape(1, 2, 5, 7) / 70.0             # no ties, and none within reach
    check_grads(lambda x: np.sum(np.sin(3.0 * POOLS[name](x))), x)


@pytest.mark.parametrize("name", POOLS)
def test_compiled_equals_eager(rng, name):
    pool = POOLS[name]
    x = rng.standard_normal((3, 2, 5, 7)).astype(np.float32)
    w = rng.standard_normal(pool(x).shape).astype(np.float32)
    for function in (pool, ad.grad(lambda x: np.sum(pool(x) * w)), lambda x: ad.jvp(pool, (x,), (x * x,))[1],
                     ad.vmap(lambda x: pool(x[None])[0])):
        found, expected = ad.compile(function)(x), function(x)
        assert found.dtype == expected.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_one_example_has_no_batch_axis(rng):
    x = rng.standard_normal((2, 6, 8))
    for layer in (nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(2), nn.AdaptiveMaxPool2d(3), nn.AdaptiveAvgPool2d(1)):
        np.testing.assert_array_equal(layer(x), layer(x[None])[0])
    line = rng.standard_normal((2, 8))
    for layer in (nn.MaxPool1d(2), nn.AvgPool1d(2), nn.AdaptiveAvgPool1d(2), nn.AdaptiveMaxPool1d(3)):
        np.testing.assert_array_equal(layer(line), layer(line[None])[0])


def test_channels_stay_last_in_memory(rng):
    """Between convolutions nothing is copied: the native program of a pooling of channels-last maps is the pooling alone."""
    x = rng.standard_normal((2, 8, 6, 32)).astype(np.float32)
    pool = ad.compile(lambda x: np.transpose(nn.max_pool(np.transpose(x, (0, 3, 1, 2)), 2), (0, 2, 3, 1)) * 2.0)
    pool(x)
    assert len(pool.kernels()) == 2 and all(word.startswith(("max_pool", "map")) for word in pool.kernels()), pool.kernels()


def test_bad_arguments():
    x = np.ones((1, 1, 4, 4))
    for call, error, text in ((lambda: nn.max_pool(x, 5), ShapeError, "a window of 5 is larger than the axis of 4"),
                              (lambda: nn.max_pool(x, 2, dilation=4), ShapeError, "a window of 5"),
                              (lambda: nn.max_pool(x, 2, padding=2), ConfigError, "padding 2 is more than half of the window 2"),
                              (lambda: nn.avg_pool(x, (2, 2, 2, 2)), ShapeError, "4 spatial axes"),
                              (lambda: nn.avg_pool(x, 2, stride=0), ConfigError, "stride is 0, expected an integer of at least 1"),
                              (lambda: nn.MaxPool1d(2)(x), ShapeError, "1 spatial axis"),
                              (lambda: nn.max_pool(x.astype(int), 2), DtypeError, "int64"),
                              (lambda: nn.adaptive_avg_pool(x, (2, 0)), ConfigError, "at least 1"),
                              (lambda: nn.adaptive_max_pool(np.ones((1, 2, 0, 3)), 1), ShapeError, "empty")):
        with pytest.raises(error, match=text):
            call()
