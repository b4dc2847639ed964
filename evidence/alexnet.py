"""AlexNet, torchvision's and the paper's: three steps of SGD from the same weights as PyTorch, dropout off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from adjoint import nn, optim
from examples import alexnet as example

from .parallel import say
from .target import Curve, Figure, Quick, Result, Target

SEED, BATCH, STEPS, RATE = 0, 8, 3, 0.01
COUNTS = {"AlexNet": 61_100_840, "AlexNet2012": 60_965_224}


def build(network: type) -> Any:
    """The network with its first weights, dropout off."""
    return network(rng=np.random.default_rng(SEED), dropout=0.0)


def twin(network: type, x: np.ndarray, y: np.ndarray) -> list[float]:
    """PyTorch's losses from the same weights on the same batch."""
    import torch

    from . import torch_models
    torch_models.use_threads()
    module = torch_models.load_weights(getattr(torch_models, network.__name__)(dropout=0.0), build(network))
    rule, losses = torch.optim.SGD(module.parameters(), lr=RATE, momentum=0.9, weight_decay=5e-4), []
    for _ in range(STEPS):
        loss = torch.nn.functional.cross_entropy(module(torch.from_numpy(x)), torch.from_numpy(y))
        rule.zero_grad()
        loss.backward()
        rule.step()
        losses.append(loss.item())
    return losses


def run(folder: Path) -> Result:
    """Both networks, here and in PyTorch."""
    figures, curves, first, notes = [], [], [], {}
    for network, side in example.SIDES.items():
        x, y = example.random_batch(side, seed=SEED, batch=BATCH)
        model, name = build(network), network.__name__
        count = example.parameters(model)
        figures.append(Figure(f"{name}: parameters", count, least=COUNTS[name], most=COUNTS[name]))
        ours = example.losses(model, x, y, steps=STEPS, rate=RATE,
                              watch=lambda step, loss, seconds, name=name: say(f"{name}, step {step}: loss {loss:.6f}, {seconds:.2f} s"))
        del model
        theirs = twin(network, x, y)
        worst = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
        figures.append(Figure(f"{name}: largest difference of losses from torch's", worst, most=1e-4))
        curves += [Curve(name, SEED, ours), Curve(f"torch {name}", SEED, theirs)]
        notes[name] = f"losses {', '.join(f'{v:.6f}' for v in ours)}; torch's {', '.join(f'{v:.6f}' for v in theirs)}"
        first = first or ours[:1]
        say(f"{name}: {notes[name]}")
    return Result(figures, curves, (SEED,), Quick(first, 1e-5), notes)


def quick(folder: Path) -> Quick:
    """The first step of torchvision's network."""
    network, side = next(iter(example.SIDES.items()))
    return Quick(example.losses(build(network), *example.random_batch(side, seed=SEED, batch=BATCH), steps=1, rate=RATE), 1e-5)


def sources() -> list[Any]:
    """Both model trees, the loss and the optimizer; layers as small as they can be, since only their classes are looked at."""
    return [example.AlexNet, example.AlexNet2012, example.losses, nn.cross_entropy, nn.training, nn.absorb,
            optim.sgd(RATE, momentum=0.9, weight_decay=5e-4)]


TARGET = Target(
    "alexnet", "AlexNet, torchvision's and the paper's", "batch 8, 3 SGD steps from the same weights as torch: losses equal to 1e-4",
    f"a batch of {BATCH} images of normal noise with random labels; SGD with momentum 0.9, weight decay 5e-4, rate {RATE}; dropout 0; "
    "weights by a safetensors file.",
    run, quick, sources, needs=("torch",), quick_reads=False)
