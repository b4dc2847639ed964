"""The character LSTM on tiny Shakespeare: truncated backpropagation with the state carried along."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from adjoint import nn, optim
from adjoint.data import load_tiny_shakespeare
from examples import char_lstm as example

from .parallel import say
from .target import Curve, Figure, Quick, Result, Target, beginning, saying

SEED = 0
QUICK_STEPS = 60


def run(folder: Path, *, steps: int = example.STEPS) -> Result:
    """One seed."""
    text = load_tiny_shakespeare(folder)
    found = example.train(text, SEED, steps, saying(say, f"seed {SEED}", steps))
    losses = [loss for _, loss in found["curve"]]
    sample = example.write(found["model"], text)
    count = sum(array.size for array in nn.named_parameters(found["model"]).values())
    figures = [Figure("held-out loss with carried state", found["held_out"], most=1.61, unit="nats"),
               Figure("parameters", count, least=108_225, most=108_225)]
    return Result(figures, [Curve("adjoint", SEED, losses)], (SEED,), Quick(losses[:QUICK_STEPS]),
                  {"training": f"{found['seconds']:.0f} s", "what it writes": f"`{' / '.join(sample.splitlines())}`"})


def quick(folder: Path) -> Quick:
    """The first steps."""
    return Quick(beginning(example.train, load_tiny_shakespeare(folder), SEED, example.STEPS, most=QUICK_STEPS))


def sources() -> list[Any]:
    """The model tree, the loss and the optimizer."""
    rule = optim.chain(optim.clip_by_global_norm(1.0), optim.adam(optim.schedules.cosine(5e-3, 10)))
    return [example.CharLSTM(rng=np.random.default_rng(0)), example.loss_and_state, nn.cross_entropy, rule, example.train]


TARGET = Target(
    "char_lstm", "A character LSTM on tiny Shakespeare", "at most 1.61 nats on the last tenth with carried state",
    "65-128 (108,225 parameters), one-hot input, truncated backpropagation over 64 with carried state, batch 32, Adam 5e-3 with a cosine "
    "to zero, gradients clipped to norm 1, 9,000 steps; the last tenth is read once, from its beginning.",
    run, quick, sources, folder="text")
