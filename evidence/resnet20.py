"""ResNet-20 on the CIFAR-10 part, here and in PyTorch: the same first weights from one file, the same batches, crops and flips."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adjoint import nn, optim, train
from adjoint.data import Batches, load_cifar10
from examples import resnet20 as example

from .parallel import HOW, say, side_by_side
from .target import Curve, Figure, Quick, Result, Target, saying

SEEDS, EPOCHS, BATCH, RATE = (0, 1), 5, 64, 0.1
QUICK_STEPS = 6


def ours(folder: Path, seed: int, epochs: int) -> tuple[list[float], float, float]:
    """(losses, test accuracy in percent, difference of the trained model's outputs from PyTorch's)."""
    data = load_cifar10(folder)
    x, test_x = example.images(data)
    model, losses = example.ResNet20(rng=np.random.default_rng(seed)), []
    progress = saying(say, f"seed {seed}", epochs * (len(x) // BATCH))
    for done in example.steps(model, x, data.train_y, seed=seed, epochs=epochs, batch=BATCH, rate=RATE):
        losses.append(float(done.loss))
        model = done.model
        progress(done.count, losses[-1])
    accuracy, difference = 100 * (1 - train.error_rate(train.Predictor()(model, test_x), data.test_y)), same_outputs(model, test_x)
    say(f"seed {seed}: test accuracy {accuracy:.2f} %, outputs differ from torch's by {difference:.1e}")
    return losses, accuracy, difference


def twin(folder: Path, seed: int, epochs: int) -> tuple[list[float], float]:
    """(losses, test accuracy in percent) of PyTorch from the same weights on the same batches."""
    import torch

    from . import torch_models
    torch_models.use_threads()
    data = load_cifar10(folder)
    x, test_x = example.images(data)
    module = torch_models.load_weights(torch_models.ResNet20(), example.ResNet20(rng=np.random.default_rng(seed)))
    module.to(memory_format=torch.channels_last)                # a third faster
    batches, losses = Batches(x, data.train_y, batch=BATCH, seed=seed, last="drop"), []
    rule, augment = torch.optim.SGD(module.parameters(), lr=RATE, momentum=0.9, weight_decay=1e-4), example.augmentation(seed)
    schedule, progress = rates(len(batches), epochs), saying(say, f"torch, seed {seed}", epochs * len(batches))
    while batches.epoch < epochs:
        for images, labels in batches:
            rule.param_groups[0]["lr"] = schedule(len(losses))
            shown = torch.from_numpy(augment(images, len(losses))).to(memory_format=torch.channels_last)
            loss = torch.nn.functional.cross_entropy(module(shown), torch.from_numpy(labels))
            rule.zero_grad()
            loss.backward()
            rule.step()
            losses.append(loss.item())
            progress(len(losses), losses[-1])
    accuracy = 100 * (1 - train.error_rate(torch_models.predictions(module, test_x), data.test_y))
    say(f"torch, seed {seed}: test accuracy {accuracy:.2f} %")
    return losses, accuracy


def rates(batches: int, epochs: int) -> Callable[[int], float]:
    """The schedule of examples/resnet20.py, written a second time: up for one epoch, then half a cosine."""
    def rate(step: int) -> float:
        if step < batches:
            return RATE * (step + 1) / batches
        return 0.5 * RATE * (1.0 + math.cos(math.pi * (step - batches) / ((epochs - 1) * batches)))
    return rate


def same_outputs(model: Any, test_x: np.ndarray) -> float:
    """max |a - b| / max |b| of the trained model's outputs, b PyTorch's from a safetensors file with the same weights."""
    from . import torch_models
    module = torch_models.load_weights(torch_models.ResNet20(), model)
    theirs = torch_models.predictions(module, test_x)
    return float(np.abs(train.Predictor()(model, test_x) - theirs).max() / np.abs(theirs).max())


def run(folder: Path, *, seeds: Sequence[int] = SEEDS, epochs: int = EPOCHS) -> Result:
    """Both trainings from each seed, and the outputs of trained weights in both."""
    both = side_by_side([(function, folder, seed, epochs) for function in (twin, ours) for seed in seeds])
    of_torch, found = both[:len(seeds)], both[len(seeds):]
    curves = [Curve("adjoint", seed, losses) for seed, (losses, _, _) in zip(seeds, found, strict=True)]
    curves += [Curve("torch", seed, losses) for seed, (losses, _) in zip(seeds, of_torch, strict=True)]
    mean, mean_of_torch = (math.fsum(one[1] for one in each) / len(seeds) for each in (found, of_torch))
    figures = [Figure("outputs from the same safetensors file: max |a - b| / max |b|", max(one[2] for one in found), most=1e-5),
               Figure("mean test accuracy minus torch's, absolute", abs(mean - mean_of_torch), most=1.5, unit="points"),
               Figure("mean test accuracy", mean, unit="%"), Figure("torch's mean test accuracy", mean_of_torch, unit="%")]
    each = ", ".join(f"{a[1]:.2f} % (torch {b[1]:.2f} %)" for a, b in zip(found, of_torch, strict=True))
    return Result(figures, curves, seeds, Quick(curves[0].losses[:QUICK_STEPS]), {"each seed": each, "threads": HOW})


def quick(folder: Path) -> Quick:
    """The first steps."""
    data = load_cifar10(folder)
    x, _ = example.images(data)
    model = example.ResNet20(rng=np.random.default_rng(SEEDS[0]))
    walk = example.steps(model, x, data.train_y, seed=SEEDS[0], epochs=EPOCHS, batch=BATCH, rate=RATE)
    return Quick([float(done.loss) for done in itertools.islice(walk, QUICK_STEPS)])


def sources() -> list[Any]:
    """The model tree, the loss and the optimizer."""
    schedule = optim.schedules.warmup(5, optim.schedules.cosine(RATE, 10))
    return [example.ResNet20(rng=np.random.default_rng(0)), example.steps, nn.cross_entropy, nn.training,
            nn.absorb, optim.sgd(schedule, momentum=0.9, weight_decay=1e-4)]


TARGET = Target(
    "resnet20", "ResNet-20 on 10,000 images of CIFAR-10", "outputs equal torch's from the same safetensors file; test accuracy equal to "
    "torch's on the same recipe within 1.5 points",
    "He et al.'s ResNet-20 with shortcuts without parameters (option A), He initial values; 10,000 training images, crops of the image "
    f"with four zero pixels around it, flips; batches of {BATCH}, {EPOCHS} epochs, SGD with momentum 0.9 and weight decay 1e-4, rate "
    f"{RATE} after one epoch of warm-up, then a cosine to zero; 2,500 test images, last step. PyTorch takes the same first weights, "
    "batches, crops and flips.",
    run, quick, sources, folder="cifar10", needs=("torch",))
