"""Convolutional networks for small grey images: LeNet-5 of 1998, and the network that reaches 92 % on Fashion-MNIST.

python examples/lenet.py DATA, the folder of Fashion-MNIST's four files; without one, LeNet-5 learns the digits that ship with the package.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from adjoint import nn, optim, train
from adjoint.data import Batches, Normalization, load_digits, load_fashion_mnist


class LeNet5(nn.Module):
    """conv 5x5 1-6 (padding 2), pool, conv 5x5 6-16, pool, 400-120-84-10, with tanh: 61,706 parameters.

    Source: LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document recognition, Proc. IEEE 86 (1998), figure 2; as
    it is usually told today: every map of the second convolution sees all six of the first, pooling has no weights, the output is linear.
    Shapes: x [batch, 1, 28, 28], y [batch, classes].
    """

    conv1: nn.Conv2d
    conv2: nn.Conv2d
    fc1: nn.Linear
    fc2: nn.Linear
    fc3: nn.Linear
    pool: nn.AvgPool2d

    def __init__(self, *, rng: np.random.Generator, classes: int = 10) -> None:
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5, padding=2, rng=rng), nn.Conv2d(6, 16, 5, rng=rng)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120, rng=rng), nn.Linear(120, 84, rng=rng), nn.Linear(84, classes, rng=rng)
        self.pool = nn.AvgPool2d(2)

    def __call__(self, x: Any) -> Any:
        x = self.pool(np.tanh(self.conv1(x)))
        x = self.pool(np.tanh(self.conv2(x)))
        x = x.reshape(x.shape[0], 400)
        return self.fc3(np.tanh(self.fc2(np.tanh(self.fc1(x)))))


class FashionNet(nn.Module):
    """conv 3x3 1-32-64 (valid) with ReLU, max-pool 2, dropout 1/4, 9216-128, ReLU, dropout 1/2, 128-10: 1,199,882 parameters.

    The names are those of PyTorch's own MNIST example. Shapes: x [batch, 1, 28, 28], y [batch, classes].
    """

    conv1: nn.Conv2d
    conv2: nn.Conv2d
    fc1: nn.Linear
    fc2: nn.Linear
    pool: nn.MaxPool2d
    dropout1: nn.Dropout
    dropout2: nn.Dropout

    def __init__(self, *, rng: np.random.Generator, classes: int = 10, dropout: bool = True) -> None:
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 3, rng=rng), nn.Conv2d(32, 64, 3, rng=rng)
        self.fc1, self.fc2 = nn.Linear(9216, 128, rng=rng), nn.Linear(128, classes, rng=rng)
        self.pool = nn.MaxPool2d(2)
        self.dropout1, self.dropout2 = nn.Dropout(0.25 * dropout), nn.Dropout(0.5 * dropout)

    def __call__(self, x: Any) -> Any:
        x = nn.relu(self.conv2(nn.relu(self.conv1(x))))
        x = self.dropout1(self.pool(x))
        x = nn.relu(self.fc1(x.reshape(x.shape[0], 9216)))
        return self.fc2(self.dropout2(x))


def images(x: np.ndarray, scale: Normalization, side: int = 28) -> np.ndarray:
    """Rows of pixels as normalized float32 images [examples, 1, side, side]."""
    return scale(x).reshape(len(x), 1, side, side)


def steps(model: nn.Module, x: np.ndarray, y: np.ndarray, *, seed: int = 0, epochs: int = 10, batch: int = 128,
          rate: float = 1e-3, compiled: bool = True) -> Iterator[train.Step]:
    """Adam with a cosine to zero, one step after the other; the caller may stop at any."""
    batches = Batches(x, y, batch=batch, seed=seed, last="drop")
    optimizer = optim.adam(optim.schedules.cosine(rate, epochs * len(batches)))
    step = train.make_step(nn.cross_entropy, optimizer, compiled=compiled)
    yield from train.steps(step, model, optimizer.init(model), batches, epochs=epochs, seed=seed)


def accuracy(model: nn.Module, x: np.ndarray, y: np.ndarray, predict: Callable | None = None) -> float:
    """The share of images whose largest output is their label."""
    return 1.0 - train.error_rate((predict or train.Predictor())(model, x), y)


def learn(model: nn.Module, x: np.ndarray, y: np.ndarray, **options: Any) -> nn.Module:
    """The trained model; one line an epoch."""
    losses = []
    for done in steps(model, x, y, **options):
        losses.append(float(done.loss))
        if done.count % (len(x) // options.get("batch", 128)) == 0:
            print(f"step {done.count}: mean loss {np.mean(losses):.4f}")
            losses.clear()
    return done.model


def main() -> None:
    """Fashion-MNIST where its folder is given, else the shipped digits, enlarged from 8 x 8 and framed to 28 x 28."""
    rng = np.random.default_rng(0)
    if len(sys.argv) > 1:
        data = load_fashion_mnist(sys.argv[1])
        model, epochs, large = FashionNet(rng=rng), 10, lambda x: x
    else:
        data = load_digits()
        model, epochs = LeNet5(rng=rng), 6
        large = lambda x: np.pad(x.reshape(-1, 8, 8).repeat(3, 1).repeat(3, 2), ((0, 0), (2, 2), (2, 2))).reshape(len(x), 784)
    scale = Normalization.fit(large(data.train_x), axis=None)
    model = learn(model, images(large(data.train_x), scale), data.train_y, epochs=epochs)
    print(f"test accuracy {100 * accuracy(model, images(large(data.test_x), scale), data.test_y):.2f} %")


if __name__ == "__main__":
    main()
