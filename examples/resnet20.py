"""ResNet-20 for CIFAR: 6n + 2 = 20 weighted layers, n = 3, with shortcuts that have no parameters (option A): 269,722 parameters.

python examples/resnet20.py DATA, the folder of the CIFAR-10 part, trains it with random crops and flips.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from adjoint import nn, optim, train
from adjoint.data import Batches, Dataset, Flip, InTurn, Normalization, Shift, load_cifar10


class Block(nn.Module):
    """relu(x' + bn2(conv2(relu(bn1(conv1(x)))))), x' the shortcut: x itself, or every second pixel of x with zero channels added.

    Source: He, Zhang, Ren and Sun, Deep residual learning for image recognition, CVPR 2016, arXiv 1512.03385, figure 2 and option A of
    section 3.3: half of the new channels come before the old ones and half behind. Shapes: x [batch, inside, h, w], y [batch, outside,
    h / stride, w / stride].
    """

    conv1: nn.Conv2d
    bn1: nn.BatchNorm2d
    conv2: nn.Conv2d
    bn2: nn.BatchNorm2d
    stride: int

    def __init__(self, inside: int, outside: int, stride: int, *, rng: np.random.Generator) -> None:
        self.conv1, self.bn1 = _conv3x3(inside, outside, stride, rng), nn.BatchNorm2d(outside)
        self.conv2, self.bn2 = _conv3x3(outside, outside, 1, rng), nn.BatchNorm2d(outside)
        self.stride = stride

    def __call__(self, x: Any) -> Any:
        y = nn.relu(self.bn1(self.conv1(x)))
        return nn.relu(self.bn2(self.conv2(y)) + self.shortcut(x))

    def shortcut(self, x: Any) -> Any:
        """x in the shape of the block's output."""
        more = self.conv1.weight.shape[0] - x.shape[1]
        if self.stride == 1 and not more:
            return x
        x = x[:, :, ::self.stride, ::self.stride]
        zeros = np.zeros((x.shape[0], more // 2, *x.shape[2:]), x.dtype)
        return np.concatenate([zeros, x, zeros], axis=1)


def _conv3x3(inside: int, outside: int, stride: int, rng: np.random.Generator) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=False, rng=rng, weight_init=nn.init.he_normal)


class ResNet20(nn.Module):
    """conv 3x3 of 16, three stages of three blocks with 16, 32, 64 channels at 32, 16, 8 pixels, the mean of each channel, linear.

    Source: He et al., section 4.2. Shapes: x [batch, 3, 32, 32], y [batch, classes].
    """

    conv1: nn.Conv2d
    bn1: nn.BatchNorm2d
    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    fc: nn.Linear

    def __init__(self, *, rng: np.random.Generator, classes: int = 10) -> None:
        self.conv1, self.bn1 = _conv3x3(3, 16, 1, rng), nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(Block(16, 16, 1, rng=rng) for _ in range(3)))
        self.layer2 = nn.Sequential(Block(16, 32, 2, rng=rng), *(Block(32, 32, 1, rng=rng) for _ in range(2)))
        self.layer3 = nn.Sequential(Block(32, 64, 2, rng=rng), *(Block(64, 64, 1, rng=rng) for _ in range(2)))
        self.fc = nn.Linear(64, classes, rng=rng)

    def __call__(self, x: Any) -> Any:
        x = nn.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(np.mean(x, axis=(2, 3)))


def images(data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Training and test images [examples, 3, 32, 32], each channel normalized by the training images."""
    train_x, test_x = data.train_x.reshape(-1, 3, 32, 32), data.test_x.reshape(-1, 3, 32, 32)
    scale = Normalization.fit(train_x, axis=(0, 2, 3))
    return scale(train_x), scale(test_x)


def augmentation(seed: int) -> InTurn:
    """A random crop of the image with four zero pixels around it, mirrored half of the time."""
    return InTurn(Shift(4, seed=seed), Flip(seed=seed))


def steps(model: nn.Module, x: np.ndarray, y: np.ndarray, *, seed: int = 0, epochs: int = 15, batch: int = 64, rate: float = 0.1,
          compiled: bool = True) -> Iterator[train.Step]:
    """SGD with momentum 0.9 and weight decay 0.0001 as in the paper, its rate warmed up over one epoch, then a cosine to zero."""
    batches = Batches(x, y, batch=batch, seed=seed, last="drop")
    schedule = optim.schedules.warmup(len(batches), optim.schedules.cosine(rate, (epochs - 1) * len(batches)))
    optimizer = optim.sgd(schedule, momentum=0.9, weight_decay=1e-4)
    step = train.make_step(nn.cross_entropy, optimizer, compiled=compiled)
    yield from train.steps(step, model, optimizer.init(model), batches, epochs=epochs, seed=seed, transform=augmentation(seed))


def main() -> None:
    """Train on the CIFAR-10 part and test."""
    data = load_cifar10(sys.argv[1])
    train_x, test_x = images(data)
    losses = []
    for done in steps(ResNet20(rng=np.random.default_rng(0)), train_x, data.train_y):
        losses.append(float(done.loss))
        if done.count % (len(train_x) // 64) == 0:
            print(f"step {done.count}: mean loss {np.mean(losses):.4f}")
            losses.clear()
    logits = train.Predictor()(done.model, test_x)
    print(f"test accuracy {100 * (1 - train.error_rate(logits, data.test_y)):.2f} %")


if __name__ == "__main__":
    main()
