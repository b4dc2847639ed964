"""Every layer and loss against PyTorch: value, gradient of the input and of every parameter, buffers after a step; eager and compiled.

The bound is max |a - b| / max |b| <= 1e-5 in float32 and 1e-10 in float64, dropout off. Weights are loaded by name from a state_dict.
Without torch the golden cases of the other files still run.
"""

import numpy as np
import pytest

import adjoint as ad
from adjoint import nn
from adjoint.tree import flatten

torch = pytest.importorskip("torch", reason="torch is not installed: its numbers are what these tests compare with")
TORCH = {np.float32: torch.float32, np.float64: torch.float64}
BOUND = {np.float32: 1e-5, np.float64: 1e-10}
RNG = np.random.default_rng(0)

# name: (ours(dtype), torch's(dtype), shape of x, in training mode)
LAYERS = {
    "Linear": (lambda d: nn.Linear(5, 3, rng=RNG, dtype=d), lambda t: torch.nn.Linear(5, 3, dtype=t), (4, 5), False),
    "Conv1d strided dilated": (lambda d: nn.Conv1d(4, 6, 3, 2, 2, 2, rng=RNG, dtype=d),
                               lambda t: torch.nn.Conv1d(4, 6, 3, 2, 2, 2, dtype=t), (2, 4, 11), False),
    "Conv2d": (lambda d: nn.Conv2d(3, 8, 3, padding=1, rng=RNG, dtype=d),
               lambda t: torch.nn.Conv2d(3, 8, 3, padding=1, dtype=t), (2, 3, 6, 7), False),
    "Conv2d strided grouped": (lambda d: nn.Conv2d(4, 6, (3, 2), 2, 1, groups=2, rng=RNG, dtype=d),
                               lambda t: torch.nn.Conv2d(4, 6, (3, 2), 2, 1, groups=2, dtype=t), (2, 4, 7, 8), False),
    "ConvTranspose2d": (lambda d: nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1, rng=RNG, dtype=d),
                        lambda t: torch.nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1, dtype=t), (2, 4, 5, 4), False),
    "MaxPool1d": (lambda d: nn.MaxPool1d(3, 2, 1), lambda t: torch.nn.MaxPool1d(3, 2, 1), (2, 3, 9), False),
    "MaxPool2d": (lambda d: nn.MaxPool2d(2), lambda t: torch.nn.MaxPool2d(2), (2, 3, 7, 8), False),
    "MaxPool2d overlapping": (lambda d: nn.MaxPool2d(3, 2, 1), lambda t: torch.nn.MaxPool2d(3, 2, 1), (2, 3, 7, 8), False),
    "MaxPool2d dilated, ceil": (lambda d: nn.MaxPool2d(2, 3, 1, 2, ceil_mode=True),
                                lambda t: torch.nn.MaxPool2d(2, 3, 1, 2, ceil_mode=True), (2, 3, 9, 8), False),
    "AvgPool1d": (lambda d: nn.AvgPool1d(3, 2, 1), lambda t: torch.nn.AvgPool1d(3, 2, 1), (2, 3, 9), False),
    "AvgPool2d": (lambda d: nn.AvgPool2d((2, 3), padding=1), lambda t: torch.nn.AvgPool2d((2, 3), padding=1), (2, 3, 7, 8), False),
    "AvgPool2d ceil": (lambda d: nn.AvgPool2d(3, 2, 1, True, False),
                       lambda t: torch.nn.AvgPool2d(3, 2, 1, True, False), (2, 3, 8, 6), False),
    "AdaptiveAvgPool1d": (lambda d: nn.AdaptiveAvgPool1d(4), lambda t: torch.nn.AdaptiveAvgPool1d(4), (2, 3, 9), False),
    "AdaptiveAvgPool2d": (lambda d: nn.AdaptiveAvgPool2d((3, None)), lambda t: torch.nn.AdaptiveAvgPool2d((3, None)), (2, 3, 7, 8), False),
    "AdaptiveMaxPool2d": (lambda d: nn.AdaptiveMaxPool2d((3, 5)), lambda t: torch.nn.AdaptiveMaxPool2d((3, 5)), (2, 3, 7, 8), False),
    "BatchNorm1d": (lambda d: nn.BatchNorm1d(5, dtype=d), lambda t: torch.nn.BatchNorm1d(5, dtype=t), (7, 5), False),
    "BatchNorm1d training": (lambda d: nn.BatchNorm1d(5, dtype=d), lambda t: torch.nn.BatchNorm1d(5, dtype=t), (7, 5, 3), True),
    "BatchNorm2d": (lambda d: nn.BatchNorm2d(5, dtype=d), lambda t: torch.nn.BatchNorm2d(5, dtype=t), (3, 5, 4, 6), False),
    "BatchNorm2d training": (lambda d: nn.BatchNorm2d(5, eps=1e-3, momentum=0.3, dtype=d),
                             lambda t: torch.nn.BatchNorm2d(5, eps=1e-3, momentum=0.3, dtype=t), (3, 5, 4, 6), True),
    "BatchNorm2d cumulative": (lambda d: nn.BatchNorm2d(5, momentum=None, dtype=d),
                               lambda t: torch.nn.BatchNorm2d(5, momentum=None, dtype=t), (3, 5, 4, 6), True),
    "BatchNorm2d bare": (lambda d: nn.BatchNorm2d(5, affine=False, track_running_stats=False, dtype=d),
                         lambda t: torch.nn.BatchNorm2d(5, affine=False, track_running_stats=False, dtype=t), (3, 5, 4, 6), True),
    "LayerNorm": (lambda d: nn.LayerNorm(6, dtype=d), lambda t: torch.nn.LayerNorm(6, dtype=t), (3, 4, 6), False),
    "LayerNorm of two axes": (lambda d: nn.LayerNorm((4, 6), bias=False, dtype=d),
                              lambda t: torch.nn.LayerNorm((4, 6), bias=False, dtype=t), (3, 4, 6), False),
    "GroupNorm": (lambda d: nn.GroupNorm(3, 6, dtype=d), lambda t: torch.nn.GroupNorm(3, 6, dtype=t), (2, 6, 4, 5), False),
    "RMSNorm": (lambda d: nn.RMSNorm(6, dtype=d), lambda t: torch.nn.RMSNorm(6, dtype=t), (3, 4, 6), False),
    "LocalResponseNorm": (lambda d: nn.LocalResponseNorm(5, 0.5, 0.75, 2.0), lambda t: torch.nn.LocalResponseNorm(5, 0.5, 0.75, 2.0),
                          (2, 7, 4, 3), False),
    "LocalResponseNorm even": (lambda d: nn.LocalResponseNorm(4, 0.5, 0.6), lambda t: torch.nn.LocalResponseNorm(4, 0.5, 0.6),
                               (2, 7, 4), False),
    "PReLU": (lambda d: nn.PReLU(5, dtype=d), lambda t: torch.nn.PReLU(5, dtype=t), (4, 5, 3), False),
    "PReLU shared": (lambda d: nn.PReLU(dtype=d), lambda t: torch.nn.PReLU(dtype=t), (4, 5), False),
    "ReLU": (lambda d: nn.ReLU(), lambda t: torch.nn.ReLU(), (4, 5), False),
    "LeakyReLU": (lambda d: nn.LeakyReLU(0.2), lambda t: torch.nn.LeakyReLU(0.2), (4, 5), False),
    "ELU": (lambda d: nn.ELU(1.3), lambda t: torch.nn.ELU(1.3), (4, 5), False),
    "GELU": (lambda d: nn.GELU(), lambda t: torch.nn.GELU(), (4, 5), False),
    "GELU tanh": (lambda d: nn.GELU("tanh"), lambda t: torch.nn.GELU("tanh"), (4, 5), False),
    "SiLU": (lambda d: nn.SiLU(), lambda t: torch.nn.SiLU(), (4, 5), False),
    "Sigmoid": (lambda d: nn.Sigmoid(), lambda t: torch.nn.Sigmoid(), (4, 5), False),
    "Tanh": (lambda d: nn.Tanh(), lambda t: torch.nn.Tanh(), (4, 5), False),
    "Softplus": (lambda d: nn.Softplus(2.0, 3.0), lambda t: torch.nn.Softplus(2.0, 3.0), (4, 5), False),
    "Softmax": (lambda d: nn.Softmax(1), lambda t: torch.nn.Softmax(1), (4, 5, 2), False),
    "LogSoftmax": (lambda d: nn.LogSoftmax(1), lambda t: torch.nn.LogSoftmax(1), (4, 5), False),
}


def apart(found, expected) -> float:
    """max |a - b| / max |b|."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape
    return float(np.max(np.abs(found - expected)) / max(np.max(np.abs(expected)), 1e-30))


def twins(name: str, dtype):
    """The same layer in both libraries: ours loads torch's random weights by their names."""
    ours, theirs, shape, train = LAYERS[name]
    rng = np.random.default_rng(len(name))
    layer, twin = ours(dtype), theirs(TORCH[dtype])
    state = {k: torch.tensor(rng.uniform(0.5, 1.5, tuple(v.shape)).astype(dtype)) if v.dtype.is_floating_point else v
             for k, v in twin.state_dict().items()}
    twin.load_state_dict(state)
    layer = nn.load_parameters(layer, {k: v.numpy() for k, v in state.items()})
    return layer, twin.train(train), (1.5 * rng.standard_normal(shape) + 0.3).astype(dtype), rng


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", LAYERS)
def test_layer(name, dtype):
    layer, twin, x, rng = twins(name, dtype)
    train = LAYERS[name][3]
    given = torch.tensor(x, requires_grad=True)
    y = twin(given)
    w = rng.standard_normal(tuple(y.shape)).astype(dtype)
    y.backward(torch.tensor(w))

    def both(layer, x):
        y, pullback = ad.vjp(lambda layer, x: (nn.training(layer) if train else layer)(x), layer, x)
        return y, pullback(w)
    collecting = ad.collect_taps(both)
    for function in (collecting, ad.compile(collecting)):
        (found, (layer_bar, x_bar)), taps = function(layer, x)
        assert found.dtype == x_bar.dtype == dtype
        worst = [apart(found, y.detach().numpy()), apart(x_bar, given.grad.numpy())]
        worst += [apart(getattr(layer_bar, n), p.grad.numpy()) for n, p in twin.named_parameters()]
        worst += [apart(getattr(nn.absorb(layer, taps), n), b.numpy()) for n, b in twin.named_buffers()]
        assert max(worst) <= BOUND[dtype], f"{name}: {worst}"


F = torch.nn.functional
LABELS = np.array([2, 0, 1, 1])
SIGNS = np.array([1.0, -1.0, -1.0, 1.0])
P = np.array([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.1, 0.9, 0.0], [0.25, 0.25, 0.5]])
# name: (ours(*floats), torch's(*floats), shapes of the floats)
LOSSES = {
    "squared_error": (nn.squared_error, F.mse_loss, ((4, 3), (4, 3))),
    "absolute_error": (nn.absolute_error, F.l1_loss, ((4, 3), (4, 3))),
    "huber_loss": (lambda a, b: nn.huber_loss(a, b, 0.7), lambda a, b: F.huber_loss(a, b, delta=0.7), ((4, 3), (4, 3))),
    "hinge_loss": (lambda s: nn.hinge_loss(s, SIGNS.astype(s.dtype)),
                   lambda s: torch.clamp(1 - torch.tensor(SIGNS, dtype=s.dtype) * s, min=0).mean(), ((4,),)),
    "logistic_loss": (lambda s: nn.logistic_loss(s, SIGNS.astype(s.dtype)),
                      lambda s: F.soft_margin_loss(s, torch.tensor(SIGNS, dtype=s.dtype)), ((4,),)),
    "cross_entropy": (lambda z: nn.cross_entropy(z, LABELS), lambda z: F.cross_entropy(z, torch.tensor(LABELS)), ((4, 3),)),
    "cross_entropy smoothed": (lambda z: nn.cross_entropy(z, LABELS, label_smoothing=0.1),
                               lambda z: F.cross_entropy(z, torch.tensor(LABELS), label_smoothing=0.1), ((4, 3),)),
    "nll_loss": (lambda z: nn.nll_loss(nn.log_softmax(z), LABELS),
                 lambda z: F.nll_loss(F.log_softmax(z, -1), torch.tensor(LABELS)), ((4, 3),)),
    "kl_divergence": (lambda z: nn.kl_divergence(nn.log_softmax(z), P.astype(z.dtype)),
                      lambda z: F.kl_div(F.log_softmax(z, -1), torch.tensor(P, dtype=z.dtype), reduction="batchmean"), ((4, 3),)),
    "gaussian_nll": (lambda m, t, v: nn.gaussian_nll(m, t, v * v), lambda m, t, v: F.gaussian_nll_loss(m, t, v * v), ((4, 3),) * 3),
    "gaussian_nll full": (lambda m, t: nn.gaussian_nll(m, t, 0.0 * t + 1e-9, eps=0.1, full=True),
                          lambda m, t: F.gaussian_nll_loss(m, t, 0.0 * t + 1e-9, eps=0.1, full=True), ((4, 3),) * 2),
    "l2": (lambda a, b: nn.l2([a, b]), lambda a, b: 0.5 * (a.square().sum() + b.square().sum()), ((4, 3), (3,))),
    "l1": (lambda a, b: nn.l1([a, b]), lambda a, b: a.abs().sum() + b.abs().sum(), ((4, 3), (3,))),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", LOSSES)
def test_loss(name, dtype):
    ours, theirs, shapes = LOSSES[name]
    rng = np.random.default_rng(len(name))
    xs = [(2.0 * rng.standard_normal(shape)).astype(dtype) for shape in shapes]
    given = [torch.tensor(x, requires_grad=True) for x in xs]
    value = theirs(*given)
    value.backward()
    both = ad.value_and_grad(ours, tuple(range(len(xs))))
    for function in (both, ad.compile(both)):
        found, bars = function(*xs)
        assert found.dtype == dtype
        worst = [apart(found, value.item()), *(apart(bar, x.grad.numpy()) for bar, x in zip(bars, given, strict=True))]
        assert max(worst) <= BOUND[dtype], f"{name}: {worst}"


def test_a_whole_network_loads_from_a_state_dict():
    twin = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, bias=False), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
                               torch.nn.Flatten(), torch.nn.Linear(4 * 3 * 3, 5)).double()
    model = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False, rng=RNG, dtype=np.float64), nn.BatchNorm2d(4, dtype=np.float64), nn.ReLU(),
                          nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 3 * 3, 5, rng=RNG, dtype=np.float64))
    x, labels = np.random.default_rng(1).standard_normal((6, 1, 8, 8)), np.array([0, 4, 2, 1, 3, 0])
    model = nn.load_parameters(model, {k: v.numpy() for k, v in twin.state_dict().items()})

    def loss(model, x):
        return nn.cross_entropy(nn.training(model)(x), labels)
    (value, bars), taps = ad.compile(ad.collect_taps(ad.value_and_grad(loss)))(model, x)
    expected = F.cross_entropy(twin(torch.tensor(x)), torch.tensor(labels))
    expected.backward()
    assert apart(value, expected.item()) <= 1e-12
    names = nn.named_parameters(nn.trainable(model, bars))
    assert list(names) == [n for n, _ in twin.named_parameters()]
    assert max(apart(names[n], p.grad.numpy()) for n, p in twin.named_parameters()) <= 1e-10
    after = nn.absorb(model, taps)
    assert max(apart(nn.named_parameters(after)[n], b.numpy()) for n, b in twin.named_buffers()) <= 1e-12
    assert apart(after(x), twin.eval()(torch.tensor(x)).detach().numpy()) <= 1e-12
    assert len(flatten(after)[0]) == len(twin.state_dict())
