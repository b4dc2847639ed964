"""The Neural Turing Machine that copies: two seeds, fresh sequences at the trained length and beyond, and where its heads look."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adjoint import optim
from examples import neural_turing_machine as example

from .parallel import HOW, say, side_by_side
from .target import Curve, Figure, Picture, Quick, Result, Target, beginning, saying

SEEDS = (0, 1)
QUICK_STEPS = 25
LENGTHS = (20, 40, 80)


def one(seed: int, steps: int, count: int) -> tuple[list[float], list[float], np.ndarray]:
    """(losses, wrong bits a sequence at each length, where the heads look)."""
    found = example.train(seed, steps, progress=saying(say, f"seed {seed}", steps))
    wrong = [example.wrong_bits(found["model"], length, count) for length in LENGTHS]
    say(f"seed {seed}: wrong bits a sequence {', '.join(f'{w:.3f} at {n}' for w, n in zip(wrong, LENGTHS, strict=True))}, "
        f"{found['seconds']:.0f} s")
    reading, writing = example.focus(found["model"])
    return [loss for _, loss in found["curve"]], wrong, np.concatenate([writing, reading], axis=1)


def run(folder: Path, *, seeds: Sequence[int] = SEEDS, steps: int = example.STEPS, count: int = 1000) -> Result:
    """Two seeds."""
    figures, curves, pictures, reported = [], [], [], []
    for seed, (losses, wrong, focus) in zip(seeds, side_by_side([(one, seed, steps, count) for seed in seeds]), strict=True):
        curves.append(Curve("adjoint", seed, losses))
        figures.append(Figure(f"seed {seed}: wrong bits a sequence of length 20", wrong[0], most=0.1))
        reported += [Figure(f"seed {seed}: wrong bits at length {n}", w) for w, n in zip(wrong[1:], LENGTHS[1:], strict=True)]
        pictures.append(Picture(f"seed {seed}: focus of the writing (left) and the reading head (right), memory cells by time, copying 20",
                                focus))
    return Result([*figures, *reported], curves, seeds, Quick(curves[0].losses[:QUICK_STEPS]), {"threads": HOW}, pictures)


def quick(folder: Path) -> Quick:
    """The first steps of the first seed."""
    return Quick(beginning(example.train, SEEDS[0], example.STEPS, most=QUICK_STEPS))


def sources() -> list[Any]:
    """The model tree, the loss and the optimizer."""
    rule = optim.chain(optim.clip_by_global_norm(10.0), optim.adam(optim.schedules.cosine(3e-3, 10), beta2=0.99))
    return [example.NeuralTuringMachine(rng=np.random.default_rng(0)), example.loss_of, rule, example.train]


TARGET = Target(
    "ntm", "A Neural Turing Machine that copies", "under 0.1 wrong bits a sequence over 1,000 fresh sequences of length 20, 2 of 2 seeds; "
    "error at 40 and 80 reported",
    "memory 128 x 20, LSTM controller of 100 units, one reading and one writing head; batches of 16 sequences of 1 to 20 vectors of 8 "
    "bits, 4,000 steps (64,000 sequences), Adam 3e-3 with beta2 0.99 and a cosine to zero, gradients clipped to norm 10.",
    run, quick, sources, quick_reads=False)
