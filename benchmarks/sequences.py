"""Rows of the benchmark for sequences: whole training steps of the character LSTM and of the small GPT of examples/.

Invariant: all contestants start from the same weights, and see the same batch; the answer is the loss before and after one update.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .jax_adam import BETA1, BETA2, EPSILON, RATE, jax_adam_step
from .rows import Row

SYMBOLS, HIDDEN, TIMES, STREAMS = 65, 128, 64, 32
DECAY, GPT_BETA2, LIMIT, HEADS = 0.1, 0.99, 1.0, 4


def batch_of(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    return rng.integers(0, SYMBOLS, shape), rng.integers(0, SYMBOLS, shape)


def lstm_model(dtype: Any = np.float32) -> Any:
    from examples.char_lstm import CharLSTM
    return CharLSTM(SYMBOLS, HIDDEN, rng=np.random.default_rng(0), dtype=dtype)


def gpt_model(dtype: Any = np.float32) -> Any:
    from examples.gpt import GPT
    return GPT(SYMBOLS, rng=np.random.default_rng(0), dtype=dtype)


def lstm_loss(model: Any, x: Any, y: Any) -> Any:
    from examples.char_lstm import loss_and_state
    return loss_and_state(model, model.beginning(x.shape[1]), x, y)[0]


def gpt_loss(model: Any, x: Any, y: Any) -> Any:
    from adjoint import nn
    return nn.cross_entropy(model(x), y)


def rule_of(gpt: bool) -> Any:
    from adjoint import optim
    if not gpt:
        return optim.adam(RATE, beta1=BETA1, beta2=BETA2, epsilon=EPSILON)
    return optim.chain(optim.clip_by_global_norm(LIMIT), optim.adamw(RATE, beta1=BETA1, beta2=GPT_BETA2, epsilon=EPSILON,
                                                                     weight_decay=DECAY, where=optim.matrices))


def step_of(gpt: bool) -> Any:
    import adjoint as ad
    from adjoint import optim
    rule, loss_of = rule_of(gpt), gpt_loss if gpt else lstm_loss

    def step(model: Any, state: Any, x: Any, y: Any) -> tuple:
        loss, gradients = ad.value_and_grad(loss_of)(model, x, y)
        updates, state = rule.update(gradients, state, model)
        return optim.apply_updates(model, updates), state, loss
    return step, rule


def truth(gpt: bool, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The two losses in float64, by the tape on NumPy."""
    step, rule = step_of(gpt)
    model = (gpt_model if gpt else lstm_model)(np.float64)
    from adjoint import nn
    model = nn.load_parameters(model, nn.named_parameters((gpt_model if gpt else lstm_model)()))
    model, state, first = step(model, rule.init(model), x, y)
    return np.array([first, step(model, state, x, y)[2]])


def adjoint_step(gpt: bool, x: np.ndarray, y: np.ndarray) -> tuple:
    import adjoint as ad
    step, rule = step_of(gpt)
    model, compiled, held = (gpt_model if gpt else lstm_model)(), ad.compile(step, donate=(0, 1)), []

    def restart() -> None:
        held[:] = [model, rule.init(model)]

    def call() -> Any:
        held[0], held[1], loss = compiled(held[0], held[1], x, y)
        return loss
    restart()
    losses = [float(call()), float(call())]
    return call, lambda: losses, restart


# ------------------------------------------------------------------------------------------------ PyTorch


def torch_module(gpt: bool) -> Any:
    import torch

    from adjoint import nn

    class CharLSTM(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = torch.nn.LSTM(SYMBOLS, HIDDEN), torch.nn.Linear(HIDDEN, SYMBOLS)

        def forward(self, x: Any) -> Any:
            return self.head(self.lstm(torch.nn.functional.one_hot(x, SYMBOLS).float())[0])
    if gpt:
        from evidence.torch_models import GPT
        module = GPT(SYMBOLS)
    else:
        module = CharLSTM()
    weights = nn.named_parameters((gpt_model if gpt else lstm_model)())
    return module, {n: torch.from_numpy(np.array(w)) for n, w in weights.items()}


def torch_step(gpt: bool, x: np.ndarray, y: np.ndarray, compiled: bool = False) -> tuple:
    import torch
    module, weights = torch_module(gpt)
    rules: list = []

    def restart() -> None:
        with torch.no_grad():
            for name, p in module.named_parameters():
                p.copy_(weights[name])
        groups = [{"params": [p for p in module.parameters() if (p.dim() > 1) == many], "weight_decay": DECAY * many}
                  for many in (True, False)]
        rules[:] = [torch.optim.AdamW(groups, lr=RATE, betas=(BETA1, GPT_BETA2), eps=EPSILON, fused=True) if gpt else
                    torch.optim.Adam(module.parameters(), lr=RATE, betas=(BETA1, BETA2), eps=EPSILON, fused=True)]

    def forward(x: Any, y: Any) -> Any:
        return torch.nn.functional.cross_entropy(module(x).flatten(0, 1), y.flatten())
    run = torch.compile(forward) if compiled else forward

    def call() -> Any:
        loss = run(torch.from_numpy(x), torch.from_numpy(y))
        rules[0].zero_grad()
        loss.backward()
        if gpt:
            torch.nn.utils.clip_grad_norm_(module.parameters(), LIMIT)
        rules[0].step()
        return loss.detach().numpy()
    restart()
    losses = [float(call()), float(call())]
    return call, lambda: losses, restart


# ------------------------------------------------------------------------------------------------ JAX


def jax_lstm(p: dict, x: Any) -> Any:
    import jax
    import jax.numpy as jnp
    gates = jax.nn.one_hot(x, SYMBOLS) @ p["lstm.weight_ih_l0"].T + (p["lstm.bias_ih_l0"] + p["lstm.bias_hh_l0"])

    def body(carry: tuple, gate: Any) -> tuple:
        h, c = carry
        i, f, g, o = jnp.split(gate + h @ p["lstm.weight_hh_l0"].T, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h
    zeros = jnp.zeros((x.shape[1], HIDDEN))
    return jax.lax.scan(body, (zeros, zeros), gates)[1] @ p["head.weight"].T + p["head.bias"]


def jax_gpt(p: dict, x: Any) -> Any:
    import jax
    import jax.numpy as jnp
    batch, length = x.shape
    width = p["wte.weight"].shape[1]
    causal = jnp.tril(jnp.ones((length, length), bool))

    def norm(h: Any, weight: Any) -> Any:
        centred = h - h.mean(-1, keepdims=True)
        return centred * jax.lax.rsqrt((centred * centred).mean(-1, keepdims=True) + 1e-5) * weight
    h = p["wte.weight"][x] + p["wpe.weight"][:length]
    for k in range(sum(name.endswith("ln_1.weight") for name in p)):
        w = lambda name, k=k: p[f"blocks.{k}.{name}.weight"]
        parts = (norm(h, w("ln_1")) @ w("attn.c_attn").T).reshape(batch, length, 3, HEADS, width // HEADS)
        q, key, v = (parts[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
        scores = jnp.where(causal, q @ key.swapaxes(-1, -2) / math.sqrt(width // HEADS), -jnp.inf)
        seen = (jax.nn.softmax(scores) @ v).transpose(0, 2, 1, 3).reshape(batch, length, width)
        h = h + seen @ w("attn.c_proj").T
        h = h + jax.nn.gelu(norm(h, w("ln_2")) @ w("c_fc").T, approximate=False) @ w("c_proj").T
    return norm(h, p["ln_f.weight"]) @ p["wte.weight"].T


def jax_step(gpt: bool, x: np.ndarray, y: np.ndarray) -> tuple:
    import jax
    import jax.numpy as jnp

    from adjoint import nn
    weights, forward = nn.named_parameters((gpt_model if gpt else lstm_model)()), jax_gpt if gpt else jax_lstm

    def loss_of(p: dict, x: Any, y: Any) -> Any:
        return -jnp.take_along_axis(jax.nn.log_softmax(forward(p, x)), y[..., None], -1).mean()
    settings = {"beta2": GPT_BETA2, "limit": LIMIT, "decay": DECAY} if gpt else {}
    return jax_adam_step(weights, loss_of, x.astype(np.int32), y.astype(np.int32), **settings)


def sequence_row(gpt: bool) -> Row:
    x, y = batch_of((12, 64) if gpt else (TIMES, STREAMS))
    name = "whole AdamW step, GPT 4 x 128, context 64, batch 12" if gpt else "whole Adam step, LSTM 65-128, T 64, batch 32"
    gpt_products, lstm_products = 4 * 12 * 128**2 + SYMBOLS * 128 + 4 * 2 * 64 * 128, 4 * HIDDEN * HIDDEN + HIDDEN * SYMBOLS
    contestants = {"adjoint": lambda: adjoint_step(gpt, x, y), "jax": lambda: jax_step(gpt, x, y), "torch": lambda: torch_step(gpt, x, y),
                   "torch.compile": lambda: torch_step(gpt, x, y, compiled=True)}
    return Row(name, contestants, lambda: truth(gpt, x, y), flops=6.0 * x.size * (gpt_products if gpt else lstm_products), peak=True,
               repeat=2)


def sequence_rows() -> list[Row]:
    return [sequence_row(gpt=False), sequence_row(gpt=True)]
