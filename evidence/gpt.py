"""The small GPT on tiny Shakespeare, three seeds here and three in PyTorch from the same first weights on the same windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adjoint import nn
from adjoint.data import load_tiny_shakespeare
from examples import gpt as example

from .parallel import HOW, say, side_by_side
from .target import Curve, Figure, Quick, Result, Target, beginning, saying

SEEDS = (0, 1, 2)
QUICK_STEPS = 40


def ours(folder: Path, seed: int, steps: int) -> tuple[list[float], float, str]:
    """(losses, held-out loss, a text) of the example."""
    text = load_tiny_shakespeare(folder)
    found = example.train(text, seed, steps, saying(say, f"seed {seed}", steps))
    say(f"seed {seed}: held out {found['held_out']:.4f} nats, {found['seconds']:.0f} s")
    return [loss for _, loss in found["curve"]], found["held_out"], example.write(found["model"], text)


def twin(folder: Path, seed: int, steps: int) -> tuple[list[float], float]:
    """(losses, held-out loss) of PyTorch: the model of this seed, its batches, AdamW with decay on matrices, clipped at 1."""
    import torch

    from . import torch_models
    torch_models.use_threads()
    text = load_tiny_shakespeare(folder)
    model = example.GPT(len(text.vocabulary), rng=np.random.default_rng(seed))
    module = torch_models.load_weights(torch_models.GPT(len(text.vocabulary)), model)
    matrices = [p for p in module.parameters() if p.dim() >= 2]
    others = [p for p in module.parameters() if p.dim() < 2]
    rule = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], betas=(0.9, 0.99))
    losses, progress, warm = [], saying(say, f"torch, seed {seed}", steps), min(100, max(1, steps // 20))
    for count, (x, y) in zip(range(steps), example.batches(text.training, seed), strict=False):
        for group in rule.param_groups:
            group["lr"] = rate(count, steps, warm)
        logits = module(torch.from_numpy(x))
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(y).flatten())
        rule.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        rule.step()
        losses.append(loss.item())
        progress(count + 1, losses[-1])
    x, y = text.windows(example.CONTEXT)
    logits = torch_models.predictions(module, x, block=134)
    with torch.no_grad():
        held_out = torch.nn.functional.cross_entropy(torch.from_numpy(logits).flatten(0, 1), torch.from_numpy(y).flatten()).item()
    say(f"torch, seed {seed}: held out {held_out:.4f} nats")
    return losses, held_out


def rate(step: int, steps: int, warm: int) -> float:
    """The schedule of examples/gpt.py, written a second time: a line up, then half a cosine down to a tenth."""
    if step < warm:
        return 1e-3 * (step + 1) / warm
    return 1e-4 + 0.5 * 9e-4 * (1.0 + math.cos(math.pi * (step - warm) / (steps - warm)))


def run(folder: Path, *, seeds: Sequence[int] = SEEDS, steps: int = example.STEPS) -> Result:
    """Three and three."""
    both = side_by_side([(function, folder, seed, steps) for function in (twin, ours) for seed in seeds])
    of_torch, found = both[:len(seeds)], both[len(seeds):]
    curves = [Curve("adjoint", seed, losses) for seed, (losses, _, _) in zip(seeds, found, strict=True)]
    curves += [Curve("torch", seed, losses) for seed, (losses, _) in zip(seeds, of_torch, strict=True)]
    mean, mean_of_torch = (math.fsum(one[1] for one in each) / len(seeds) for each in (found, of_torch))
    figures = [Figure("mean held-out loss of three seeds", mean, most=1.92, unit="nats"),
               Figure("mean minus torch's, absolute", abs(mean - mean_of_torch), most=0.015, unit="nats"),
               Figure("torch's mean held-out loss", mean_of_torch, unit="nats")]
    each = [", ".join(f"{one[1]:.4f}" for one in values) for values in (found, of_torch)]
    notes = {"each seed": f"{each[0]}; torch's {each[1]}", "what it writes": f"`{' / '.join(found[0][2].splitlines())}`", "threads": HOW}
    return Result(figures, curves, seeds, Quick(curves[0].losses[:QUICK_STEPS]), notes)


def quick(folder: Path) -> Quick:
    """The first steps of the first seed."""
    return Quick(beginning(example.train, load_tiny_shakespeare(folder), SEEDS[0], example.STEPS, most=QUICK_STEPS))


def sources() -> list[Any]:
    """The model tree, the loss and the optimizer."""
    return [example.GPT(rng=np.random.default_rng(0)), nn.cross_entropy, example.optimizer(), example.train]


TARGET = Target(
    "gpt", "A small GPT on tiny Shakespeare", "mean of 3 seeds over every non-overlapping window of the last tenth at most 1.92 nats; "
    "difference of the means from torch's, same recipe, at most 0.015",
    "4 layers, 4 heads, width 128, context 64, batch 12, 65 characters, tied weights, no biases, pre-norm, exact GELU, N(0, 0.02) with "
    "residual projections / sqrt 8, dropout 0; AdamW (0.9, 0.99), decay 0.1 on matrices only, 1e-3 after 100 steps of warm-up, cosine to "
    "1e-4 at step 2,000, gradients clipped to norm 1; PyTorch starts from the same weights and takes the same windows.",
    run, quick, sources, folder="text", needs=("torch",))
