"""AlexNet twice: the one that torchvision ships (61,100,840 parameters at 224 x 224), and the paper's own (60,965,224 at 227 x 227).

They differ in the first two convolutions, in the paper's two groups, once one for each graphics card, and in its local response
normalization. Both take weights by PyTorch's names. python examples/alexnet.py takes three steps of SGD on random images.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from adjoint import nn, optim, train


class AlexNet(nn.Module):
    """torchvision's AlexNet: five convolutions, three max-pools, three linear layers, dropout before the first two of those.

    Source: Krizhevsky, One weird trick for parallelizing convolutional neural networks, arXiv 1404.5997 (one column); names as
    torchvision.models.alexnet. Shapes: x [batch, 3, 224, 224], y [batch, classes].
    """

    features: nn.Sequential
    avgpool: nn.AdaptiveAvgPool2d
    classifier: nn.Sequential

    def __init__(self, *, rng: np.random.Generator, classes: int = 1000, dropout: float = 0.5) -> None:
        pool = nn.MaxPool2d(3, stride=2)
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, stride=4, padding=2, rng=rng), nn.relu, pool,
            nn.Conv2d(64, 192, 5, padding=2, rng=rng), nn.relu, pool,
            nn.Conv2d(192, 384, 3, padding=1, rng=rng), nn.relu,
            nn.Conv2d(384, 256, 3, padding=1, rng=rng), nn.relu,
            nn.Conv2d(256, 256, 3, padding=1, rng=rng), nn.relu, pool)
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.classifier = _classifier(classes, dropout, rng)

    def __call__(self, x: Any) -> Any:
        x = self.avgpool(self.features(x))
        return self.classifier(x.reshape(x.shape[0], -1))


class AlexNet2012(nn.Module):
    """The paper's AlexNet: two groups in the second, fourth and fifth convolution, local response normalization after the first two.

    Source: Krizhevsky, Sutskever and Hinton, ImageNet classification with deep convolutional neural networks, NIPS 2012, sections 3.3 to
    3.5 (k = 2, n = 5, alpha = 1e-4 for the sum of squares, which is 5e-4 for their mean; beta = 0.75). The paper says 224 x 224; the 55 x
    55 maps of its figure 2 need 227 x 227. Shapes: x [batch, 3, 227, 227], y [batch, classes].
    """

    features: nn.Sequential
    classifier: nn.Sequential

    def __init__(self, *, rng: np.random.Generator, classes: int = 1000, dropout: float = 0.5) -> None:
        pool, respond = nn.MaxPool2d(3, stride=2), nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)
        self.features = nn.Sequential(
            nn.Conv2d(3, 96, 11, stride=4, rng=rng), nn.relu, respond, pool,
            nn.Conv2d(96, 256, 5, padding=2, groups=2, rng=rng), nn.relu, respond, pool,
            nn.Conv2d(256, 384, 3, padding=1, rng=rng), nn.relu,
            nn.Conv2d(384, 384, 3, padding=1, groups=2, rng=rng), nn.relu,
            nn.Conv2d(384, 256, 3, padding=1, groups=2, rng=rng), nn.relu, pool)
        self.classifier = _classifier(classes, dropout, rng)

    def __call__(self, x: Any) -> Any:
        x = self.features(x)
        return self.classifier(x.reshape(x.shape[0], -1))


def _classifier(classes: int, dropout: float, rng: np.random.Generator) -> nn.Sequential:
    """9216-4096-4096-classes."""
    return nn.Sequential(nn.Dropout(dropout), nn.Linear(9216, 4096, rng=rng), nn.relu,
                         nn.Dropout(dropout), nn.Linear(4096, 4096, rng=rng), nn.relu, nn.Linear(4096, classes, rng=rng))


SIDES = {AlexNet: 224, AlexNet2012: 227}


def parameters(model: nn.Module) -> int:
    """How many numbers the model learns."""
    return sum(array.size for array in nn.named_parameters(model).values())


def random_batch(side: int, *, seed: int = 0, batch: int = 8, classes: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """Images of normal noise and labels without meaning: enough to measure and to compare."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((batch, 3, side, side)).astype(np.float32), rng.integers(0, classes, batch)


def losses(model: nn.Module, x: np.ndarray, y: np.ndarray, *, steps: int = 3, rate: float = 0.01, compiled: bool = True,
           watch: Callable = lambda step, loss, seconds: None) -> list[float]:
    """The loss before each of some steps of SGD with the paper's momentum 0.9 and weight decay 0.0005, on one batch."""
    optimizer = optim.sgd(rate, momentum=0.9, weight_decay=5e-4)
    step, state, found = train.make_step(nn.cross_entropy, optimizer, compiled=compiled), optimizer.init(model), []
    for count in range(steps):
        start = time.perf_counter()
        model, state, loss, _, _ = step(model, state, x, y, np.array([0, count]))
        found.append(float(loss))
        watch(count + 1, found[-1], time.perf_counter() - start)
    return found


def main() -> None:
    """Three steps of each."""
    for network, side in SIDES.items():
        model = network(rng=np.random.default_rng(0))
        print(f"{network.__name__}: {parameters(model):,} parameters")
        losses(model, *random_batch(side), watch=lambda step, loss, seconds: print(f"  step {step}: loss {loss:.4f}, {seconds:.2f} s"))


if __name__ == "__main__":
    main()
