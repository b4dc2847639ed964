"""Convolution layers: plain loops, PyTorch, shapes and errors."""

import doctest
import itertools

import numpy as np
import pytest

import adjoint as ad
import adjoint.nn.convolution as convolution
from adjoint.errors import ConfigError, ShapeError
from adjoint.nn.convolution import Conv1d, Conv2d, ConvTranspose1d, ConvTranspose2d, conv, conv_transpose
from adjoint.nn.module import named_parameters


def test_docstring_examples():
    assert doctest.testmod(convolution).failed == 0


def loops(x, weight, stride, padding, dilation, groups):
    """The definition, one product at a time; all options one pair per axis of space."""
    batch = len(x)
    outer, inner, *window = weight.shape
    wide = np.pad(x, ((0, 0), (0, 0), *padding))
    places = [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in zip(wide.shape[2:], window, stride, dilation, strict=True)]
    y = np.zeros((batch, outer, *places))
    for b, c in itertools.product(range(batch), range(outer)):
        first = c // (outer // groups) * inner
        for o in itertools.product(*map(range, places)):
            for i, t in itertools.product(range(inner), itertools.product(*map(range, window))):
                at = tuple(p * s + q * d for p, s, q, d in zip(o, stride, t, dilation, strict=True))
                y[(b, c, *o)] += wide[(b, first + i, *at)] * weight[(c, i, *t)]
    return y


CASES = [  # x, weight, stride, padding, dilation, groups
    ((2, 3, 7), (4, 3, 3), (1,), ((0, 0),), (1,), 1),
    ((2, 4, 8), (6, 2, 3), (2,), ((1, 1),), (2,), 2),
    ((2, 3, 5, 6), (4, 3, 3, 2), (1, 1), ((1, 1), (0, 0)), (1, 1), 1),
    ((1, 4, 7, 6), (6, 2, 3, 3), (2, 1), ((1, 1), (2, 2)), (1, 2), 2),
    ((2, 3, 5, 5), (3, 1, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 3),
    ((2, 2, 6, 6), (4, 2, 1, 1), (2, 2), ((0, 0), (0, 0)), (1, 1), 1),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_conv_is_the_plain_loops(case, rng):
    x_shape, w_shape, stride, padding, dilation, groups = case
    x, weight, bias = rng.standard_normal(x_shape), rng.standard_normal(w_shape), rng.standard_normal(w_shape[0])
    options = {"stride": stride, "padding": tuple(low for low, _ in padding), "dilation": dilation, "groups": groups}
    expected = loops(x, weight, stride, padding, dilation, groups) + bias.reshape(-1, *(1,) * len(stride))
    np.testing.assert_allclose(conv(x, weight, bias, **options), expected, rtol=1e-12, atol=1e-12)
    compiled = ad.compile(lambda x, w, b: conv(x, w, b, **options))
    np.testing.assert_allclose(compiled(x, weight, bias), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_transposed_is_the_transpose(case, rng):
    """<conv(u), v> = <u, conv_transpose(v)>: the smallest u that v comes from, and one larger by output_padding."""
    x_shape, w_shape, stride, padding, dilation, groups = case
    weight = rng.standard_normal(w_shape)
    options = {"stride": stride, "padding": tuple(low for low, _ in padding), "dilation": dilation, "groups": groups}
    v = rng.standard_normal(conv(np.zeros(x_shape), weight, **options).shape)
    least = conv_transpose(v, weight, **options)
    extra = tuple(n - m for n, m in zip(x_shape[2:], least.shape[2:], strict=True))
    back = conv_transpose(v, weight, output_padding=extra, **options)
    u = rng.standard_normal(x_shape)
    assert back.shape == x_shape
    np.testing.assert_allclose((conv(u, weight, **options) * v).sum(), (u * back).sum(), rtol=1e-12)


def test_same_and_valid(rng):
    x, weight = rng.standard_normal((2, 1, 7)), rng.standard_normal((1, 1, 4))
    same = conv(x, weight, padding="same", dilation=2)
    assert same.shape == x.shape
    np.testing.assert_allclose(same, loops(x, weight, (1,), ((3, 3),), (2,), 1))
    np.testing.assert_array_equal(conv(x, weight, padding="valid"), conv(x, weight))


def test_parameters_have_the_names_shapes_and_bounds_of_pytorch():
    layer = Conv2d(6, 4, (3, 5), groups=2, rng=np.random.default_rng(0))
    found = {name: value.shape for name, value in named_parameters(layer).items()}
    assert found == {"weight": (4, 3, 3, 5), "bias": (4,)}
    bound = 1 / np.sqrt(3 * 3 * 5)
    assert 0.9 * bound < np.abs(layer.weight).max() <= bound and np.abs(layer.bias).max() <= bound
    turned = ConvTranspose1d(6, 4, 3, groups=2, bias=False, rng=np.random.default_rng(0))
    assert turned.weight.shape == (6, 2, 3) and turned.bias is None
    assert np.abs(turned.weight).max() <= 1 / np.sqrt(2 * 3)


LAYERS = [
    ("Conv1d", (2, 4, 9), (4, 6, 3), {"stride": 2, "padding": 1}),
    ("Conv1d", (2, 4, 9), (4, 6, 3), {"padding": "same", "dilation": 2, "groups": 2}),
    ("Conv2d", (2, 3, 8, 7), (3, 5, 3), {"padding": "same"}),
    ("Conv2d", (2, 4, 8, 7), (4, 6, (3, 2)), {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2), "groups": 2}),
    ("Conv2d", (2, 4, 6, 6), (4, 4, 3), {"groups": 4, "padding": 1, "bias": False}),
    ("ConvTranspose1d", (2, 4, 5), (4, 6, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
    ("ConvTranspose2d", (2, 4, 4, 5), (4, 6, 3), {"stride": (2, 3), "padding": 1, "output_padding": (1, 2), "groups": 2}),
    ("ConvTranspose2d", (2, 3, 4, 5), (3, 2, (2, 3)), {"dilation": 2}),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", LAYERS, ids=lambda case: f"{case[0]}{case[3]}")
def test_layers_against_pytorch(case, dtype, rng):
    """Forward and backward, eager and compiled: max |a - b| / max |b| at most 1e-5 in float32 and 1e-10 in float64."""
    torch = pytest.importorskip("torch", reason="PyTorch is the peer that this test compares with")
    name, shape, args, options = case
    theirs = getattr(torch.nn, name)(*args, **options).to(getattr(torch, dtype))
    ours = getattr(convolution, name)(*args, **options, rng=rng, dtype=dtype)
    ours = ad.nn.load_parameters(ours, {k: v.detach().numpy() for k, v in theirs.named_parameters()})
    x = rng.standard_normal(shape).astype(dtype)
    x_torch = torch.from_numpy(x).requires_grad_()
    y_torch = theirs(x_torch)
    v = rng.standard_normal(tuple(y_torch.shape)).astype(dtype)
    y_torch.backward(torch.from_numpy(v))
    expected = [y_torch.detach().numpy(), x_torch.grad.numpy(), *(p.grad.numpy() for p in theirs.parameters())]

    def run(layer, x):
        layer_bar, x_bar = ad.grad(lambda layer, x: (layer(x) * v).sum(), argnums=(0, 1))(layer, x)
        return [layer(x), x_bar, *named_parameters(layer_bar).values()]
    for found in (run(ours, x), ad.compile(run)(ours, x)):
        for a, b in zip(found, expected, strict=True):
            assert a.shape == b.shape and np.abs(a - b).max() / np.abs(b).max() <= (1e-5 if dtype == "float32" else 1e-10)


def test_second_order(rng):
    """The derivative of a product of gradients against differences: first and second derivatives of both arguments."""
    x, w = rng.standard_normal((2, 2, 5, 4)), rng.standard_normal((2, 2, 3, 2))
    layer = lambda x, w: np.tanh(conv(x, w, stride=(2, 1), padding=1)).sum()
    u, v = rng.standard_normal(x.shape), rng.standard_normal(w.shape)
    slope = lambda e: sum((g * d).sum() for g, d in zip(ad.grad(layer, argnums=(0, 1))(x + e * u, w + e * v), (u, v), strict=True))
    hessian = ad.grad(lambda x, w: sum((g * d).sum() for g, d in zip(ad.grad(layer, argnums=(0, 1))(x, w), (u, v), strict=True)),
                      argnums=(0, 1))
    found = sum((h * d).sum() for h, d in zip(hessian(x, w), (u, v), strict=True))
    np.testing.assert_allclose(found, (slope(1e-5) - slope(-1e-5)) / 2e-5, rtol=1e-7)


@pytest.mark.parametrize(("call", "error", "words"), [
    (lambda: conv(np.ones((1, 3, 5)), np.ones((2, 4, 3))), ShapeError, "has 3 channels, the weight (2, 4, 3) with groups=1 takes 4"),
    (lambda: conv(np.ones((3, 5)), np.ones((2, 3, 3))), ShapeError, "has 2 axes, expected 3"),
    (lambda: conv(np.ones((1, 3, 2)), np.ones((2, 3, 3))), ShapeError, "covers 3 places does not fit into 2"),
    (lambda: conv(np.ones((1, 3, 5)), np.ones((2, 3, 3)), np.ones(3)), ShapeError, "bias (3,), expected (2,)"),
    (lambda: conv(np.ones((1, 3, 5)), np.ones((2, 3, 3)), padding="same", stride=2), ConfigError, "padding='same' with stride"),
    (lambda: conv(np.ones((1, 3, 5)), np.ones((2, 3, 3)), padding="full"), ConfigError, "expected 'same', 'valid' or numbers"),
    (lambda: conv(np.ones((1, 3, 5)), np.ones((2, 3, 3)), stride=0), ConfigError, "stride is 0, expected an integer of at least 1"),
    (lambda: conv(np.ones((1, 6, 5)), np.ones((3, 3, 3)), groups=2), ConfigError, "groups is 2, it must divide 6 channels in and 3"),
    (lambda: conv(np.ones((1, 3, 5)), np.ones((2, 3))), ShapeError, "expected 3 (1-d) or 4 (2-d)"),
    (lambda: conv_transpose(np.ones((1, 3, 5)), np.ones((3, 2, 3)), output_padding=1), ConfigError, "must be smaller than stride"),
    (lambda: conv_transpose(np.ones((1, 3, 1)), np.ones((3, 2, 3)), padding=2), ShapeError, "nothing is left"),
    (lambda: Conv1d(3, 4, 3, groups=2, rng=np.random.default_rng(0)), ConfigError, "the groups must divide the channels"),
    (lambda: Conv2d(3, 4, (3, 3, 3), rng=np.random.default_rng(0)), ConfigError, "kernel_size is (3, 3, 3)"),
    (lambda: ConvTranspose2d(3, 4, 3, rng=0), ConfigError, "expected a generator"),
], ids=lambda value: None)
def test_errors(call, error, words):
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value)
