"""AlexNet twice: the two counts of parameters, the sizes of the maps, and one step."""

import numpy as np
import pytest

from adjoint import nn
from examples.alexnet import SIDES, AlexNet, AlexNet2012, losses, parameters, random_batch


def empty(shape, rng, dtype):
    """Weights that cost no time."""
    return np.zeros(shape, dtype)


@pytest.fixture
def cheap(monkeypatch):
    """Layers that start from zeros: drawing sixty million numbers says nothing about sizes."""
    for cls in (nn.Conv2d, nn.Linear):
        first = cls.__init__
        monkeypatch.setattr(cls, "__init__", lambda self, *a, first=first, **options: first(self, *a, **{**options, "weight_init": empty}))


@pytest.mark.mission(159)
def test_torchvisions_network_has_61_100_840_parameters(cheap, figure):
    figure.equal(parameters(AlexNet(rng=np.random.default_rng(0))), 61_100_840)


@pytest.mark.mission(159)
def test_the_papers_network_has_60_965_224_parameters(cheap, figure):
    model = AlexNet2012(rng=np.random.default_rng(0))
    figure.equal(parameters(model), 60_965_224)
    figure.equal([layer.weight.shape[1] for layer in model.features if isinstance(layer, nn.Conv2d)], [3, 48, 256, 192, 192])


@pytest.mark.parametrize("network", SIDES, ids=lambda network: network.__name__)
def test_maps_and_classes(cheap, network):
    model, side = network(rng=np.random.default_rng(0)), SIDES[network]
    x, _ = random_batch(side, batch=1)
    assert model.features[0](x).shape[2:] == (55, 55) and model.features(x).shape == (1, 256, 6, 6) and model(x).shape == (1, 1000)


def test_names_are_torchvisions(cheap):
    names = list(nn.named_parameters(AlexNet(rng=np.random.default_rng(0))))
    assert names == [f"{part}.{k}.{kind}" for part, places in (("features", (0, 3, 6, 8, 10)), ("classifier", (1, 4, 6)))
                     for k in places for kind in ("weight", "bias")]


class Small(nn.Module):
    """A network for the loop alone."""

    fc: nn.Linear

    def __init__(self, *, rng):
        self.fc = nn.Linear(3 * 4 * 4, 10, rng=rng)

    def __call__(self, x):
        return self.fc(x.reshape(x.shape[0], -1))


def test_losses_are_those_of_sgd_with_momentum_and_decay():
    x, y = random_batch(4, batch=5, classes=10)
    model = Small(rng=np.random.default_rng(0))
    w, b = model.fc.weight.astype(np.float64), model.fc.bias.astype(np.float64)
    velocity, expected, rows = [np.zeros_like(w), np.zeros_like(b)], [], x.reshape(5, -1).astype(np.float64)
    for _ in range(3):
        logits = rows @ w.T + b
        chance = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        expected.append(-np.log(chance[np.arange(5), y]).mean())
        bar = (chance - np.eye(10)[y]) / 5
        velocity = [0.9 * v + g + 5e-4 * p for v, g, p in zip(velocity, (bar.T @ rows, bar.sum(axis=0)), (w, b), strict=True)]
        w, b = w - 0.01 * velocity[0], b - 0.01 * velocity[1]
    assert np.allclose(losses(model, x, y, compiled=False), expected, rtol=1e-5)
