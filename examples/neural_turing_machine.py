"""A Neural Turing Machine that learns to copy: a network with a memory that it reads and writes by content and by place.

python examples/neural_turing_machine.py [seed]: 4,000 steps of 16 sequences, some minutes on two cores; draws where its heads look.
Source: Graves, Wayne and Danihelka, Neural Turing machines, arXiv 1410.5401, sections 3 and 4.1.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import adjoint as ad
from adjoint import nn, optim

BITS, CELLS, CELL_WIDTH, UNITS, BATCH, STEPS, LONGEST = 8, 128, 20, 100, 16, 4000, 20


class Head(nn.Module):
    """Where to look: weights over the memory's cells from the last weights, the memory and what the controller says.

    Content: w_c = softmax(beta cos(M_i, key)); gate: w_g = g w_c + (1 - g) w; shift: circular convolution with s over -1, 0, 1;
    sharpening: w^gamma / sum w^gamma (equations 5 to 9 of the paper). Shapes: memory [batch, cells, width], w [batch, cells].
    """

    says: nn.Linear                     # key, beta, g, s (3), gamma; a write head also erases and adds
    width: int

    def __init__(self, units: int, width: int, writes: bool, *, rng: np.random.Generator, dtype: Any) -> None:
        self.says = nn.Linear(units, width + 6 + 2 * width * writes, rng=rng, weight_init=nn.init.xavier_uniform, dtype=dtype)
        self.width = width

    def __call__(self, h: Any, memory: Any, w: Any) -> tuple:
        said, n = self.says(h), self.width
        key, beta, gate, shift, gamma = said[:, :n], said[:, n:n + 1], said[:, n + 1:n + 2], said[:, n + 2:n + 5], said[:, n + 5:n + 6]
        w = nn.softmax(nn.softplus(beta) * cosine(memory, np.tanh(key))) * (g := nn.sigmoid(gate)) + (1.0 - g) * w
        s = nn.softmax(shift)
        back, ahead = np.concatenate([w[:, 1:], w[:, :1]], axis=1), np.concatenate([w[:, -1:], w[:, :-1]], axis=1)
        w = s[:, 0:1] * back + s[:, 1:2] * w + s[:, 2:3] * ahead
        w = np.exp((1.0 + nn.softplus(gamma)) * np.log(w + 1e-12))
        return w / np.sum(w, axis=1, keepdims=True), said[:, n + 6:]


def cosine(memory: Any, key: Any) -> Any:
    """cos of the angle between a key and every cell: [batch, cells]; 1e-8 keeps empty cells away from 0/0."""
    product = np.einsum("bcw,bw->bc", memory, key)
    lengths = np.sqrt(np.sum(memory * memory, axis=2) + 1e-8) * np.sqrt(np.sum(key * key, axis=1, keepdims=True) + 1e-8)
    return product / lengths


class NeuralTuringMachine(nn.Module):
    """An LSTM that sees the input and what was read, one head that reads and one that writes.

    Shapes: x [time, batch, inputs], y [time, batch, outputs] (logits). What it starts from is learned: its state, what was read, where
    the heads look (the first cell, before training: from a start without any place, no cell would ever differ from the others); the memory
    starts at 1e-6.
    """

    controller: nn.LSTMCell
    reads: Head
    writes: Head
    out: nn.Linear
    h: np.ndarray
    c: np.ndarray
    read: np.ndarray
    read_at: np.ndarray
    write_at: np.ndarray

    def __init__(self, inputs: int = BITS + 1, outputs: int = BITS, *, rng: np.random.Generator, cells: int = CELLS,
                 width: int = CELL_WIDTH, units: int = UNITS, dtype: Any = np.float32) -> None:
        self.controller = nn.LSTMCell(inputs + width, units, rng=rng, dtype=dtype)
        self.reads, self.writes = (Head(units, width, writes, rng=rng, dtype=dtype) for writes in (False, True))
        self.out = nn.Linear(units + width, outputs, rng=rng, weight_init=nn.init.xavier_uniform, dtype=dtype)
        self.h, self.c, self.read = (nn.init.normal((n,), rng, std=0.05, dtype=dtype) for n in (units, units, width))
        self.read_at, self.write_at = (6.0 * np.eye(1, cells, dtype=dtype)[0] for _ in range(2))

    @property
    def bits(self) -> int:
        """The number of bits of a vector."""
        return self.out.weight.shape[0]

    def __call__(self, x: Any) -> tuple:
        """(y, where the heads looked: reading and writing [time, batch, cells])."""
        batch, cells, width, dtype = x.shape[1], self.read_at.shape[0], self.read.shape[0], self.h.dtype
        spread = lambda value: np.broadcast_to(value, (batch, *value.shape))
        carry = (spread(self.h), spread(self.c), spread(self.read), spread(nn.softmax(self.read_at)), spread(nn.softmax(self.write_at)),
                 np.full((batch, cells, width), 1e-6, dtype))
        _, (y, reading, writing) = ad.scan(self.step, carry, x)
        return y, (reading, writing)

    def step(self, carry: tuple, x: Any) -> tuple:
        """One symbol: the controller speaks, the memory is written (erased, then added to), then read."""
        h, c, read, read_at, write_at, memory = carry
        h, c = self.controller(np.concatenate([x, read], axis=1), (h, c))
        write_at, said = self.writes(h, memory, write_at)
        width = read.shape[1]
        erase, add = nn.sigmoid(said[:, :width]), np.tanh(said[:, width:])
        at = write_at[:, :, None]
        memory = memory * (1.0 - at * erase[:, None, :]) + at * add[:, None, :]
        read_at, _ = self.reads(h, memory, read_at)
        read = np.einsum("bc,bcw->bw", read_at, memory)
        y = self.out(np.concatenate([h, read], axis=1))
        return (h, c, read, read_at, write_at, memory), (y, read_at, write_at)


def sequences(rng: np.random.Generator, lengths: np.ndarray, longest: int, bits: int = BITS) -> tuple:
    """Sequences to copy, padded to the longest: x [2 longest + 1, batch, bits + 1], the bits wanted [.., bits], and where they count.

    A sequence of n random vectors, then a mark on a channel of its own, then n empty symbols while the copy is expected.
    """
    times, batch = 2 * longest + 1, len(lengths)
    x, y, counts = (np.zeros((times, batch, n), np.float32) for n in (bits + 1, bits, 1))
    for b, n in enumerate(lengths):
        x[:n, b, :bits] = y[n + 1:2 * n + 1, b] = rng.integers(0, 2, (n, bits))
        x[n, b, bits], counts[n + 1:2 * n + 1, b] = 1.0, 1.0
    return x, y, counts


def loss_of(model: NeuralTuringMachine, x: Any, y: Any, counts: Any) -> Any:
    """The cross entropy of a bit in nats: the mean over the bits that count, softplus(z) - y z."""
    z, _ = model(x)
    return np.sum((nn.softplus(z) - y * z) * counts) / (np.sum(counts) * y.shape[-1])


def wrong_bits(model: NeuralTuringMachine, length: int, count: int = 1000, seed: int = 1, batch: int = 100) -> float:
    """The number of wrong bits a sequence, over fresh sequences of one length."""
    rng, wrong = np.random.default_rng([seed, length]), 0
    copy = ad.compile(lambda model, x: model(x)[0])
    for _ in range(count // batch):
        x, y, counts = sequences(rng, np.full(batch, length), length, model.bits)
        wrong += int((((copy(model, x) > 0) != (y > 0.5)) & (counts > 0)).sum())
    return wrong / (count // batch * batch)


def focus(model: NeuralTuringMachine, length: int = LONGEST, seed: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Where the heads look while one sequence is copied: reading and writing, [cells, time] each, from 0 to 1."""
    x, _, _ = sequences(np.random.default_rng(seed), np.array([length]), length, model.bits)
    return tuple(np.asarray(w)[:, 0].T for w in ad.compile(lambda model, x: model(x)[1])(model, x))


def make_step(optimizer: optim.Optimizer, *, compiled: bool = True) -> Callable:
    """step(model, state, x, y, counts) -> (model, state, loss)."""
    def step(model: NeuralTuringMachine, state: Any, x: Any, y: Any, counts: Any) -> tuple:
        loss, gradients = ad.value_and_grad(loss_of)(model, x, y, counts)
        updates, state = optimizer.update(gradients, state, model)
        return optim.apply_updates(model, updates), state, loss
    return ad.compile(step, donate=(0, 1)) if compiled else step


def train(seed: int = 0, steps: int = STEPS, longest: int = LONGEST, rate: float = 3e-3,
          progress: Callable[[int, float], None] | None = None, model: NeuralTuringMachine | None = None) -> dict[str, Any]:
    """The trained model, curve [(step, loss)], seconds. Lengths 1 to longest; Adam with beta2 0.99, its rate falling to zero."""
    rng = np.random.default_rng([seed, 3])
    model = model or NeuralTuringMachine(rng=np.random.default_rng(seed))
    rule = optim.chain(optim.clip_by_global_norm(10.0), optim.adam(optim.schedules.cosine(rate, steps), beta2=0.99))
    step, state, curve = make_step(rule), rule.init(model), []
    start = time.perf_counter()
    for count in range(1, steps + 1):
        model, state, loss = step(model, state, *sequences(rng, rng.integers(1, longest + 1, BATCH), longest, model.bits))
        curve.append((count, float(loss)))
        if progress is not None:
            progress(*curve[-1])
    return {"model": model, "curve": curve, "seconds": time.perf_counter() - start}


def picture(rows: np.ndarray, path: Path) -> None:
    """A grey picture of numbers from 0 (black) to their largest (white), in the PGM format that every viewer opens."""
    grey = np.round(255.0 * rows / rows.max()).astype(np.uint8)
    path.write_bytes(b"P5 %d %d 255\n" % rows.shape[::-1] + grey.tobytes())


def main() -> None:
    """Train, test at the trained length and beyond, and draw the heads' focus."""
    say = lambda step, loss: print(f"step {step}: {loss:.5f} nats a bit") if step % 200 == 0 else None
    found = train(int(sys.argv[1]) if len(sys.argv) > 1 else 0, progress=say)
    for length in (20, 40, 80):
        print(f"length {length}: {wrong_bits(found['model'], length):.3f} wrong bits a sequence")
    reading, writing = focus(found["model"])
    picture(np.concatenate([writing, reading], axis=1), Path("ntm_focus.pgm"))
    print(f"ntm_focus.pgm: cells by time, writing on the left, reading on the right; trained in {found['seconds']:.0f} s")


if __name__ == "__main__":
    main()
