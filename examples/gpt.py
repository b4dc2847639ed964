"""A small GPT on characters: a transformer that predicts the next letter of Shakespeare.

python examples/gpt.py DATA [seed], the folder with tinyshakespeare.txt: 2,000 steps, two to three minutes on two cores.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import adjoint as ad
from adjoint import nn, optim
from adjoint.data import Text, load_tiny_shakespeare
from adjoint.train import make_step

LAYERS, HEADS, WIDTH, CONTEXT, BATCH, STEPS = 4, 4, 128, 64, 12, 2000


def drawn(std: float) -> Callable:
    """Initial weights N(0, std^2)."""
    return lambda shape, rng, dtype: nn.init.normal(shape, rng, std=std, dtype=dtype)


class Attention(nn.Module):
    """Causal self-attention of several heads. Shapes: x and y [batch, time, width]."""

    c_attn: nn.Linear
    c_proj: nn.Linear
    heads: int

    def __init__(self, width: int, heads: int, residual: float, *, rng: np.random.Generator, dtype: Any) -> None:
        self.c_attn = nn.Linear(width, 3 * width, bias=False, rng=rng, weight_init=drawn(0.02), dtype=dtype)
        self.c_proj = nn.Linear(width, width, bias=False, rng=rng, weight_init=drawn(residual), dtype=dtype)
        self.heads = heads

    def __call__(self, x: Any) -> Any:
        batch, length, width = x.shape
        parts = self.c_attn(x).reshape(batch, length, 3, self.heads, width // self.heads).transpose(2, 0, 3, 1, 4)
        y = nn.scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=True)
        return self.c_proj(y.transpose(0, 2, 1, 3).reshape(batch, length, width))


class Block(nn.Module):
    """x + attention of the normalized x, then x + a perceptron of the normalized x (pre-norm)."""

    ln_1: nn.LayerNorm
    attn: Attention
    ln_2: nn.LayerNorm
    c_fc: nn.Linear
    c_proj: nn.Linear

    def __init__(self, width: int, heads: int, residual: float, *, rng: np.random.Generator, dtype: Any) -> None:
        self.ln_1, self.ln_2 = nn.LayerNorm(width, bias=False, dtype=dtype), nn.LayerNorm(width, bias=False, dtype=dtype)
        self.attn = Attention(width, heads, residual, rng=rng, dtype=dtype)
        self.c_fc = nn.Linear(width, 4 * width, bias=False, rng=rng, weight_init=drawn(0.02), dtype=dtype)
        self.c_proj = nn.Linear(4 * width, width, bias=False, rng=rng, weight_init=drawn(residual), dtype=dtype)

    def __call__(self, x: Any) -> Any:
        x = x + self.attn(self.ln_1(x))
        return x + self.c_proj(nn.gelu(self.c_fc(self.ln_2(x))))


class GPT(nn.Module):
    """Symbols and their places embedded, blocks, and the embedding again as the output (tied): 804,096 parameters as it stands.

    No biases; N(0, 0.02), the projections into the residual stream smaller by sqrt(2 layers). Source: Radford et al., Language models are
    unsupervised multitask learners, 2019; tied weights after Press and Wolf, EACL 2017, arXiv 1608.05859. Shapes: x integer
    [batch, time <= context], y [batch, time, symbols].
    """

    wte: nn.Embedding
    wpe: nn.Embedding
    blocks: tuple
    ln_f: nn.LayerNorm

    def __init__(self, symbols: int = 65, *, rng: np.random.Generator, layers: int = LAYERS, heads: int = HEADS, width: int = WIDTH,
                 context: int = CONTEXT, dtype: Any = np.float32) -> None:
        self.wte = nn.Embedding(symbols, width, rng=rng, weight_init=drawn(0.02), dtype=dtype)
        self.wpe = nn.Embedding(context, width, rng=rng, weight_init=drawn(0.02), dtype=dtype)
        residual = 0.02 / np.sqrt(2 * layers)
        self.blocks = tuple(Block(width, heads, residual, rng=rng, dtype=dtype) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width, bias=False, dtype=dtype)

    @property
    def context(self) -> int:
        """The most symbols that it sees at once."""
        return self.wpe.weight.shape[0]

    def __call__(self, x: Any) -> Any:
        h = self.wte(x) + self.wpe.weight[:x.shape[1]]
        for block in self.blocks:
            h = block(h)
        return self.ln_f(h) @ self.wte.weight.T


def optimizer(steps: int = STEPS) -> optim.Optimizer:
    """AdamW on clipped gradients; matrices decay, gains do not; 100 steps of warm-up, then a cosine to a tenth of the rate."""
    warm = min(100, max(1, steps // 20))
    rate = optim.schedules.warmup(warm, optim.schedules.cosine(1e-3, steps - warm, final=1e-4))
    return optim.chain(optim.clip_by_global_norm(1.0),
                       optim.adamw(rate, beta1=0.9, beta2=0.99, weight_decay=0.1, where=optim.matrices))


def batches(text: np.ndarray, seed: int, context: int = CONTEXT, batch: int = BATCH) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Windows at random places for ever: characters and the characters that follow them, each [batch, context]."""
    rng = np.random.default_rng([seed, 1])
    while True:
        places = rng.integers(0, len(text) - context, batch)[:, None] + np.arange(context)
        yield text[places], text[places + 1]


def held_out_loss(model: GPT, text: Text, batch: int = 134) -> float:
    """Nats a character: the mean over every non-overlapping window of the held-out end."""
    x, y = text.windows(model.context)
    loss = ad.compile(lambda model, x, y: nn.cross_entropy(model(x), y))
    parts = [slice(at, at + batch) for at in range(0, len(x), batch)]
    return float(sum(float(loss(model, x[p], y[p])) * len(x[p]) for p in parts) / len(x))


def train(text: Text, seed: int = 0, steps: int = STEPS, progress: Callable[[int, float], None] | None = None,
          model: GPT | None = None) -> dict[str, Any]:
    """The trained model, curve [(step, loss)], held_out (nats a character), seconds of training. progress(step, loss) is called at each."""
    model = model or GPT(len(text.vocabulary), rng=np.random.default_rng(seed))
    rule, curve = optimizer(steps), []
    step, state = make_step(nn.cross_entropy, rule), rule.init(model)
    start = time.perf_counter()
    for count, (x, y) in zip(range(1, steps + 1), batches(text.training, seed, model.context), strict=False):
        model, state, loss, _, _ = step(model, state, x, y)
        curve.append((count, float(loss)))
        if progress is not None:
            progress(*curve[-1])
    seconds = time.perf_counter() - start
    return {"model": model, "curve": curve, "held_out": held_out_loss(model, text), "seconds": seconds}


def write(model: GPT, text: Text, beginning: str = "\n", length: int = 200, seed: int = 0) -> str:
    """A continuation drawn character by character from the model's distribution."""
    rng, context = np.random.default_rng(seed), model.context
    logits = ad.compile(lambda model, x: model(x))
    written = list(text.encode(beginning))
    for _ in range(length):
        seen = written[-context:]
        x = np.array([seen + [0] * (context - len(seen))])          # what follows is not seen
        written.append(int(rng.choice(len(text.vocabulary), p=nn.softmax(logits(model, x)[0, len(seen) - 1].astype(np.float64)))))
    return text.decode(np.array(written))


def main() -> None:
    """Train, report, and write a few lines."""
    text = load_tiny_shakespeare(sys.argv[1])
    say = lambda step, loss: print(f"step {step}: loss {loss:.4f}") if step % 200 == 0 else None
    found = train(text, seed=int(sys.argv[2]) if len(sys.argv) > 2 else 0, progress=say)
    print(f"held out: {found['held_out']:.4f} nats a character after {found['seconds']:.0f} s")
    print(write(found["model"], text))


if __name__ == "__main__":
    main()
