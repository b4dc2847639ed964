"""The rows of the benchmark: one problem each, written for every contestant in its best configuration, NumPy arrays in and out.

Invariant: every contestant of a row does the same work at the same precision; `check` is a float64 answer that each is compared with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .jax_adam import BETA1, BETA2, EPSILON, RATE, jax_adam_step


@dataclass
class Row:
    """What is measured, who takes part, the answer in float64, and the ratio wanted.

    A training step restarts from the same parameters before every round: after some hundred steps, moments of units that no gradient
    reaches are subnormal, and every contestant would be measured on those instead (XLA flushes them to zero, the others do not).
    """

    name: str
    contestants: dict[str, Callable[[], tuple]]     # each makes (call, answer) or, for training steps, (call, answer, restart)
    truth: Callable[[], np.ndarray]
    flops: float = 0.0
    ratio: float = 1.0                       # at least this much faster than the best peer
    peak: bool = False                       # report the share of the machine's float32 peak
    notes: str = ""
    repeat: int = 1
    extra: dict = field(default_factory=dict)


# ------------------------------------------------------------------------------------------------ Rosenbrock


def rosenbrock(np_like: Any, x: Any) -> Any:
    return (100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2).sum()


def rosenbrock_gradient(x: np.ndarray) -> np.ndarray:
    """The closed form."""
    g = np.zeros_like(x)
    g[:-1] = -400.0 * x[:-1] * (x[1:] - x[:-1] ** 2) - 2.0 * (1.0 - x[:-1])
    g[1:] += 200.0 * (x[1:] - x[:-1] ** 2)
    return g


def rosenbrock_row(n: int, repeat: int) -> Row:
    x = np.linspace(-1.2, 1.3, n)

    def ours() -> tuple:
        import adjoint as ad
        f = ad.compile(ad.grad(lambda x: rosenbrock(np, x)))
        return lambda: f(x), lambda: f(x)

    def jax_() -> tuple:
        import jax
        f = jax.jit(jax.grad(lambda x: rosenbrock(None, x)))
        return lambda: np.asarray(f(x)), lambda: np.asarray(f(x))

    def torch_() -> tuple:
        import torch

        def call() -> np.ndarray:
            t = torch.from_numpy(x).requires_grad_()
            return torch.autograd.grad(rosenbrock(torch, t), t)[0].numpy()
        return call, call

    def scipy_() -> tuple:
        from scipy.optimize import rosen_der
        return lambda: rosen_der(x), lambda: rosen_der(x)
    return Row(f"gradient of Rosenbrock, n = {n}, float64", {"adjoint": ours, "jax": jax_, "torch": torch_, "scipy (by hand)": scipy_},
               lambda: rosenbrock_gradient(x), ratio=3.0, repeat=repeat)


# ------------------------------------------------------------------------------------------------ logistic regression


def logistic_row() -> Row:
    rng = np.random.default_rng(0)
    x, y, w = rng.standard_normal((569, 30)), np.sign(rng.standard_normal(569)), rng.standard_normal(30) * 0.1

    def ours() -> tuple:
        import adjoint as ad
        f = ad.compile(ad.grad(lambda w, x, y: np.logaddexp(0.0, -y * (x @ w)).mean()))
        return lambda: f(w, x, y), lambda: f(w, x, y)

    def jax_() -> tuple:
        import jax
        import jax.numpy as jnp
        f = jax.jit(jax.grad(lambda w, x, y: jnp.logaddexp(0.0, -y * (x @ w)).mean()))
        return lambda: np.asarray(f(w, x, y)), lambda: np.asarray(f(w, x, y))

    def torch_() -> tuple:
        import torch
        xt, yt = torch.from_numpy(x), torch.from_numpy(y)

        def call() -> np.ndarray:
            t = torch.from_numpy(w).requires_grad_()
            return torch.autograd.grad(torch.nn.functional.softplus(-yt * (xt @ t)).mean(), t)[0].numpy()
        return call, call

    def numpy_() -> tuple:
        def call() -> np.ndarray:
            return -(x.T @ (y / (1.0 + np.exp(y * (x @ w))))) / len(y)
        return call, call
    contestants = {"adjoint": ours, "jax": jax_, "torch": torch_, "numpy (by hand)": numpy_}
    return Row("logistic regression gradient, 569 x 30, float64", contestants,
               lambda: -(x.T @ (y / (1.0 + np.exp(y * (x @ w))))) / len(y), ratio=3.0, repeat=100)


# ------------------------------------------------------------------------------------------------ whole Adam steps


@dataclass
class Problem:
    """A multilayer perceptron with its batch: weights (out, in) as PyTorch's; a regression if it has one output."""

    sizes: tuple[int, ...]
    batch: int

    def __post_init__(self) -> None:
        rng = np.random.default_rng(1)
        self.parameters = []
        for n_in, n_out in zip(self.sizes, self.sizes[1:], strict=False):
            bound = np.sqrt(6.0 / n_in)
            self.parameters += [rng.uniform(-bound, bound, (n_out, n_in)).astype(np.float32), np.zeros(n_out, np.float32)]
        self.x = rng.standard_normal((self.batch, self.sizes[0])).astype(np.float32)
        last = self.sizes[-1]
        self.classes = last > 1
        self.y = rng.integers(0, last, self.batch) if self.classes else rng.standard_normal((self.batch, 1)).astype(np.float32)

    @property
    def flops(self) -> float:
        pairs = list(zip(self.sizes, self.sizes[1:], strict=False))
        return 2.0 * self.batch * (sum(3 * a * b for a, b in pairs) - pairs[0][0] * pairs[0][1])


def numpy_adam(problem: Problem, steps: int = 1) -> np.ndarray:
    """The first weight after some steps, in float64, by hand."""
    parameters = [p.astype(np.float64) for p in problem.parameters]
    mu, nu = [np.zeros_like(p) for p in parameters], [np.zeros_like(p) for p in parameters]
    for t in range(1, steps + 1):
        gradients = numpy_gradients(problem, parameters)
        for p, g, m, v in zip(parameters, gradients, mu, nu, strict=True):
            m += (1 - BETA1) * (g - m)
            v += (1 - BETA2) * (g * g - v)
            p -= RATE * (m / (1 - BETA1**t)) / (np.sqrt(v / (1 - BETA2**t)) + EPSILON)
    return parameters[0]


def numpy_gradients(problem: Problem, parameters: list[np.ndarray]) -> list[np.ndarray]:
    hidden = [problem.x.astype(np.float64)]
    for i in range(0, len(parameters), 2):
        z = hidden[-1] @ parameters[i].T + parameters[i + 1]
        hidden.append(np.maximum(z, 0) if i + 2 < len(parameters) else z)
    if problem.classes:
        e = np.exp(hidden[-1] - hidden[-1].max(1, keepdims=True))
        bar = e / e.sum(1, keepdims=True)
        bar[np.arange(problem.batch), problem.y] -= 1
        bar /= problem.batch
    else:
        bar = 2 * (hidden[-1] - problem.y) / hidden[-1].size
    gradients: list[np.ndarray] = []
    for i in range(len(parameters) - 2, -1, -2):
        gradients = [bar.T @ hidden[i // 2], bar.sum(0), *gradients]
        bar = (bar @ parameters[i]) * (hidden[i // 2] > 0)
    return gradients


def adam_row(problem: Problem, ratio: float, repeat: int = 1) -> Row:
    name = f"whole Adam step, {'-'.join(map(str, problem.sizes))}, batch {problem.batch}"
    return Row(name, {"adjoint": lambda: adjoint_adam(problem), "jax": lambda: jax_adam(problem), "torch": lambda: torch_adam(problem),
                      "torch.compile": lambda: torch_adam(problem, compiled=True)},
               lambda: numpy_adam(problem), flops=problem.flops, ratio=ratio, peak=True, repeat=repeat)


def adjoint_adam(problem: Problem) -> tuple:
    import adjoint as ad
    from adjoint import nn, optim
    layers: list = []
    for i, (n_in, n_out) in enumerate(zip(problem.sizes, problem.sizes[1:], strict=False)):
        layers += [nn.relu] if i else []
        layers.append(nn.Linear(n_in, n_out, rng=np.random.default_rng(0)))
    model = nn.Sequential(*layers)
    model = nn.load_parameters(model, dict(zip(nn.named_parameters(model), problem.parameters, strict=True)))
    adam = optim.adam(RATE, beta1=BETA1, beta2=BETA2, epsilon=EPSILON)

    def loss_of(model: Any, x: Any, y: Any) -> Any:
        out = model(x)
        return nn.cross_entropy(out, y) if problem.classes else ((out - y) ** 2).mean()

    def step(model: Any, state: Any, x: Any, y: Any) -> tuple:
        loss, gradients = ad.value_and_grad(loss_of)(model, x, y)
        updates, state = adam.update(gradients, state, model)
        return optim.apply_updates(model, updates), state, loss
    compiled = ad.compile(step, donate=(0, 1))
    held: list = []

    def restart() -> None:
        held[:] = compiled(model, adam.init(model), problem.x, problem.y)[:2]
    restart()
    first = next(iter(nn.named_parameters(held[0]).values())).copy()

    def call() -> Any:
        held[0], held[1], loss = compiled(held[0], held[1], problem.x, problem.y)
        return loss
    return call, lambda: first, restart


def jax_adam(problem: Problem) -> tuple:
    import jax
    import jax.numpy as jnp
    names = [f"{i:02d}" for i in range(len(problem.parameters))]

    def loss_of(p: dict, x: Any, y: Any) -> Any:
        h = x
        for w, b in zip(names[::2], names[1::2], strict=True):
            h = h @ p[w].T + p[b]
            h = jax.nn.relu(h) if b != names[-1] else h
        if not problem.classes:
            return ((h - y) ** 2).mean()
        return -jnp.take_along_axis(jax.nn.log_softmax(h), y[:, None], 1).mean()
    y = problem.y.astype(np.int32) if problem.classes else problem.y
    return jax_adam_step(dict(zip(names, problem.parameters, strict=True)), loss_of, problem.x, y, of=names[0])


def torch_adam(problem: Problem, compiled: bool = False) -> tuple:
    import torch
    layers: list = []
    for i, (n_in, n_out) in enumerate(zip(problem.sizes, problem.sizes[1:], strict=False)):
        layers += [torch.nn.ReLU()] if i else []
        layers.append(torch.nn.Linear(n_in, n_out))
    model = torch.nn.Sequential(*layers)
    adams: list = []

    def restart() -> None:
        with torch.no_grad():
            for p, value in zip(model.parameters(), problem.parameters, strict=True):
                p.copy_(torch.from_numpy(value))
        adams[:] = [torch.optim.Adam(model.parameters(), lr=RATE, betas=(BETA1, BETA2), eps=EPSILON, fused=True)]
    criterion = torch.nn.CrossEntropyLoss() if problem.classes else torch.nn.MSELoss()

    def forward(x: Any, y: Any) -> Any:
        return criterion(model(x), y)
    run = torch.compile(forward) if compiled else forward

    def call() -> Any:
        loss = run(torch.from_numpy(problem.x), torch.from_numpy(problem.y))
        adams[0].zero_grad()
        loss.backward()
        adams[0].step()
        return loss.detach().numpy()
    restart()
    call()
    first = next(model.parameters()).detach().numpy().copy()
    return call, lambda: first, restart


def all_rows() -> list[Row]:
    return [rosenbrock_row(10, 2000), rosenbrock_row(1000, 1000), logistic_row(), adam_row(Problem((2, 64, 64, 1), 32), 4.0, 200),
            adam_row(Problem((784, 256, 10), 64), 2.0, 40), adam_row(Problem((784, 512, 512, 10), 256), 1.8, 4),
            adam_row(Problem((784, 1024, 1024, 10), 1024), 1.8, 1)]
