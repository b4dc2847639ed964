"""Rows of the benchmark for images: whole Adam steps of the Fashion-MNIST network and of ResNet-20, the models of examples/.

Invariant: all contestants start from the same weights, and see the same batch; the answer is the loss before and after one update.
PyTorch takes part in both its memory formats: the better one is the peer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .jax_adam import BETA1, BETA2, EPSILON, RATE, jax_adam_step
from .rows import Row

CLASSES = 10


def batch_of(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    return rng.standard_normal(shape).astype(np.float32), rng.integers(0, CLASSES, shape[0])


def fashion_model() -> Any:
    from examples.lenet import FashionNet
    return FashionNet(rng=np.random.default_rng(0), dropout=False)


def residual_model() -> Any:
    from examples.resnet20 import ResNet20
    return ResNet20(rng=np.random.default_rng(0))


def step_of() -> tuple:
    """(step, rule): Adam on the mean cross entropy of the model in training mode; running statistics by taps."""
    import adjoint as ad
    from adjoint import nn, optim
    from adjoint.train.loop import objective
    rule = optim.adam(RATE, beta1=BETA1, beta2=BETA2, epsilon=EPSILON)

    def step(model: Any, state: Any, x: Any, y: Any) -> tuple:
        (loss, gradients), taps = objective(nn.cross_entropy, model, x, y)
        updates, state = rule.update(gradients, state, model)
        return nn.absorb(optim.apply_updates(model, updates), taps), state, loss
    return ad.compile(step, donate=(0, 1)), step, rule


def truth(make: Callable, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The two losses in float64, by the tape on NumPy."""
    from adjoint.tree import map_tree
    _, step, rule = step_of()
    model = map_tree(lambda a: a.astype(np.float64) if a.dtype.kind == "f" else a, make())
    x = x.astype(np.float64)
    model, state, first = step(model, rule.init(model), x, y)
    return np.array([first, step(model, state, x, y)[2]])


def adjoint_step(make: Callable, x: np.ndarray, y: np.ndarray) -> tuple:
    compiled, _, rule = step_of()
    model, held = make(), []

    def restart() -> None:
        held[:] = [model, rule.init(model)]

    def call() -> Any:
        held[0], held[1], loss = compiled(held[0], held[1], x, y)
        return loss
    restart()
    losses = [float(call()), float(call())]
    return call, lambda: losses, restart


def torch_step(make: Callable, x: np.ndarray, y: np.ndarray, *, last: bool, compiled: bool = False) -> tuple:
    import torch

    from adjoint import nn
    from evidence import torch_models
    module = torch_models.ResNet20() if make is residual_model else torch_models.FashionNet(dropout=False)
    weights = {n: torch.from_numpy(np.array(w)) for n, w in nn.named_parameters(make()).items()}
    order = torch.channels_last if last else torch.contiguous_format
    module = module.to(memory_format=order).train()
    images, labels = torch.from_numpy(x).to(memory_format=order), torch.from_numpy(y)
    run = torch.compile(lambda x, y: torch.nn.functional.cross_entropy(module(x), y)) if compiled else \
        lambda x, y: torch.nn.functional.cross_entropy(module(x), y)
    rules: list = []

    def restart() -> None:
        with torch.no_grad():
            for name, value in module.state_dict().items():
                value.copy_(weights[name])
        rules[:] = [torch.optim.Adam(module.parameters(), lr=RATE, betas=(BETA1, BETA2), eps=EPSILON, fused=True)]

    def call() -> Any:
        loss = run(images, labels)
        rules[0].zero_grad()
        loss.backward()
        rules[0].step()
        return loss.detach().numpy()
    restart()
    losses = [float(call()), float(call())]
    return call, lambda: losses, restart


# ------------------------------------------------------------------------------------------------ JAX


def _convolved(x: Any, w: Any, stride: int = 1, padding: str | list = "VALID") -> Any:
    """x [batch, h, w, in], w [out, in, h, w]: channels last, which XLA's CPU code prefers."""
    import jax
    return jax.lax.conv_general_dilated(x, w.transpose(2, 3, 1, 0), (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def jax_fashion(p: dict, x: Any) -> Any:
    import jax
    import jax.numpy as jnp
    for name in ("conv1", "conv2"):
        x = jax.nn.relu(_convolved(x, p[f"{name}.weight"]) + p[f"{name}.bias"])
    x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    x = jax.nn.relu(x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1) @ p["fc1.weight"].T + p["fc1.bias"])
    return x @ p["fc2.weight"].T + p["fc2.bias"]


def jax_residual(p: dict, x: Any) -> Any:
    """Without the running statistics, which the loss does not need."""
    import jax
    import jax.numpy as jnp

    def norm(x: Any, name: str) -> Any:
        centred = x - x.mean((0, 1, 2))
        return centred * jax.lax.rsqrt((centred * centred).mean((0, 1, 2)) + 1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]
    same = [(1, 1), (1, 1)]
    x = jax.nn.relu(norm(_convolved(x, p["conv1.weight"], padding=same), "bn1"))
    for layer in (1, 2, 3):
        for block in range(3):
            name, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            y = jax.nn.relu(norm(_convolved(x, p[f"{name}.conv1.weight"], stride, same), f"{name}.bn1"))
            y = norm(_convolved(y, p[f"{name}.conv2.weight"], padding=same), f"{name}.bn2")
            more = (y.shape[-1] - x.shape[-1]) // 2
            x = jax.nn.relu(y + jnp.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (more, more))))
    return x.mean((1, 2)) @ p["fc.weight"].T + p["fc.bias"]


def jax_step(make: Callable, x: np.ndarray, y: np.ndarray) -> tuple:
    import jax
    import jax.numpy as jnp

    from adjoint import nn
    weights = {n: w for n, w in nn.named_parameters(make()).items() if "running" not in n and "tracked" not in n}
    forward = jax_residual if make is residual_model else jax_fashion

    def loss_of(p: dict, x: Any, y: Any) -> Any:
        return -jnp.take_along_axis(jax.nn.log_softmax(forward(p, x)), y[:, None], -1).mean()
    return jax_adam_step(weights, loss_of, x.transpose(0, 2, 3, 1).copy(), y.astype(np.int32))


def image_row(name: str, make: Callable, shape: tuple[int, ...], flops: float) -> Row:
    """flops: of the products of one forward pass of one image; a step has three times as many."""
    x, y = batch_of(shape)
    contestants = {"adjoint": lambda: adjoint_step(make, x, y), "jax": lambda: jax_step(make, x, y),
                   "torch": lambda: torch_step(make, x, y, last=False),
                   "torch channels_last": lambda: torch_step(make, x, y, last=True),
                   "torch.compile": lambda: torch_step(make, x, y, last=True, compiled=True)}
    return Row(name, contestants, lambda: truth(make, x, y), flops=3.0 * shape[0] * flops, peak=True)


def image_rows() -> list[Row]:
    fashion = 2.0 * (26 * 26 * 32 * 9 + 24 * 24 * 64 * 288 + 9216 * 128 + 128 * 10)
    sides = ((32, 16), (16, 32), (8, 64))
    residual = 2.0 * (32 * 32 * 16 * 27 + sum(6 * side * side * width * width * 9 for side, width in sides)
                      - 16 * 16 * 32 * 16 * 9 - 8 * 8 * 64 * 32 * 9 + 640)
    return [image_row("whole Adam step, Fashion-MNIST network, batch 32", fashion_model, (32, 1, 28, 28), fashion),
            image_row("whole Adam step, Fashion-MNIST network, batch 128", fashion_model, (128, 1, 28, 28), fashion),
            image_row("whole Adam step, ResNet-20, batch 64", residual_model, (64, 3, 32, 32), residual)]
