"""A character LSTM: 65 symbols one-hot, 128 units, the next symbol; trained by truncated backpropagation with its state carried along.

python examples/char_lstm.py DATA [seed], the folder with tinyshakespeare.txt: 9,000 steps, a minute or two on two cores.
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

HIDDEN, TIMES, BATCH, STEPS = 128, 64, 32, 9000


class CharLSTM(nn.Module):
    """one-hot -> LSTM -> Linear: 108,225 parameters for 65 symbols and 128 units, named as PyTorch's.

    Shapes: x integer [time, batch], state ([1, batch, hidden], [1, batch, hidden]), logits [time, batch, symbols].
    """

    lstm: nn.LSTM
    head: nn.Linear
    symbols: int

    def __init__(self, symbols: int = 65, hidden: int = HIDDEN, *, rng: np.random.Generator, dtype: Any = np.float32) -> None:
        self.lstm, self.head = nn.LSTM(symbols, hidden, rng=rng, dtype=dtype), nn.Linear(hidden, symbols, rng=rng, dtype=dtype)
        self.symbols = symbols

    def __call__(self, x: Any, state: tuple) -> tuple:
        y, state = self.lstm(nn.one_hot(x, self.symbols, self.head.weight.dtype), state)
        return self.head(y), state

    def beginning(self, batch: int) -> tuple:
        """The state before the first symbol: zeros."""
        zeros = np.zeros((1, batch, self.head.weight.shape[1]), self.head.weight.dtype)
        return zeros, zeros.copy()


def loss_and_state(model: CharLSTM, state: tuple, x: Any, y: Any) -> tuple:
    """Nats a character, and the state behind the last one."""
    logits, state = model(x, state)
    return nn.cross_entropy(logits, y), state


def make_step(optimizer: optim.Optimizer, *, compiled: bool = True) -> Callable:
    """step(model, rule_state, state, x, y) -> (model, rule_state, state, loss): one update, and the LSTM's state for the next."""
    def step(model: CharLSTM, rule_state: Any, state: tuple, x: Any, y: Any) -> tuple:
        (loss, state), gradients = ad.value_and_grad(loss_and_state, has_aux=True)(model, state, x, y)
        updates, rule_state = optimizer.update(gradients, rule_state, model)
        return optim.apply_updates(model, updates), rule_state, state, loss
    return ad.compile(step, donate=(0, 1, 2)) if compiled else step


def chunks(text: np.ndarray, times: int = TIMES, batch: int = BATCH) -> Iterator[tuple[np.ndarray, np.ndarray, bool]]:
    """The text as `batch` streams side by side, read `times` symbols at a time, for ever: (x, y [time, batch], whether a pass begins)."""
    length = (len(text) - 1) // batch
    streams = lambda first: np.ascontiguousarray(text[first:first + length * batch].reshape(batch, length).T)
    x, y = streams(0), streams(1)
    while True:
        for at in range(0, length - times + 1, times):
            yield x[at:at + times], y[at:at + times], at == 0


def held_out_loss(model: CharLSTM, text: Text, piece: int = 1000) -> float:
    """Nats a character over the held-out end, read once from its beginning with the state carried along."""
    x, y = text.held_out[:-1, None], text.held_out[1:, None]
    score = ad.compile(loss_and_state)
    state, total = model.beginning(1), 0.0
    for at in range(0, len(x), piece):
        loss, state = score(model, state, x[at:at + piece], y[at:at + piece])
        total += float(loss) * len(x[at:at + piece])
    return total / len(x)


def train(text: Text, seed: int = 0, steps: int = STEPS, progress: Callable[[int, float], None] | None = None,
          model: CharLSTM | None = None) -> dict[str, Any]:
    """The trained model, curve [(step, loss)], held_out (nats a character), seconds of training. progress(step, loss) is called at each.

    Adam at 5e-3 with a cosine to zero; gradients clipped to norm 1.
    """
    model = model or CharLSTM(len(text.vocabulary), rng=np.random.default_rng(seed))
    rule = optim.chain(optim.clip_by_global_norm(1.0), optim.adam(optim.schedules.cosine(5e-3, steps)))
    step, rule_state, curve, state = make_step(rule), rule.init(model), [], model.beginning(BATCH)
    start = time.perf_counter()
    for count, (x, y, first) in zip(range(1, steps + 1), chunks(text.training), strict=False):
        model, rule_state, state, loss = step(model, rule_state, model.beginning(BATCH) if first else state, x, y)
        curve.append((count, float(loss)))
        if progress is not None:
            progress(*curve[-1])
    seconds = time.perf_counter() - start
    return {"model": model, "curve": curve, "held_out": held_out_loss(model, text), "seconds": seconds}


def write(model: CharLSTM, text: Text, beginning: str = "\n", length: int = 200, seed: int = 0) -> str:
    """A continuation drawn character by character from the model's distribution."""
    rng, state, written = np.random.default_rng(seed), model.beginning(1), list(text.encode(beginning))
    step = ad.compile(lambda model, x, state: model(x, state))
    for symbol in written[:-1]:
        _, state = step(model, np.array([[symbol]]), state)
    for _ in range(length):
        logits, state = step(model, np.array([written[-1:]]), state)
        written.append(int(rng.choice(model.symbols, p=nn.softmax(logits[0, 0].astype(np.float64)))))
    return text.decode(np.array(written))


def main() -> None:
    """Train, report, and write a few lines."""
    text = load_tiny_shakespeare(sys.argv[1])
    say = lambda step, loss: print(f"step {step}: loss {loss:.4f}") if step % 500 == 0 else None
    found = train(text, seed=int(sys.argv[2]) if len(sys.argv) > 2 else 0, progress=say)
    print(f"held out: {found['held_out']:.4f} nats a character after {found['seconds']:.0f} s")
    print(write(found["model"], text))


if __name__ == "__main__":
    main()
