"""The optimized graph and the kernels of a fixed corpus, as text: a refactor leaves them as they are, a change shows the difference.

`python tests/compiler/test_golden.py` writes the files anew; read the difference before you commit it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import adjoint as ad
from adjoint import nn, optim

FOLDER = Path(__file__).parent / "golden"


def rosenbrock(x):
    return (100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2).sum()


def logistic(w, x, y):
    return np.logaddexp(0.0, -y * (x @ w)).mean()


def attention(q, k, v):
    scores = q @ k.T / np.sqrt(q.shape[1])
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return ((weights / weights.sum(axis=1, keepdims=True)) @ v).sum()


def written(x, v):
    y = x.copy()
    y[1:3] += v
    y[::2] *= 2.0
    return (np.cumsum(y) * y).sum()


def training():
    rng = np.random.default_rng(0)
    model = nn.Sequential(nn.Linear(5, 4, rng=rng), nn.relu, nn.Linear(4, 3, rng=rng))
    adam = optim.adam(1e-3)

    def step(model, state, x, y):
        loss, gradients = ad.value_and_grad(lambda m: nn.cross_entropy(m(x), y))(model)
        updates, state = adam.update(gradients, state, model)
        return optim.apply_updates(model, updates), state, loss
    return step, (model, adam.init(model), np.ones((6, 5), np.float32), np.arange(6) % 3), (0, 1)


def corpus() -> dict:
    ones = lambda *shape: np.ones(shape)
    return {
        "rosenbrock_gradient": (ad.grad(rosenbrock), (ones(7),), ()),
        "logistic_gradient": (ad.grad(logistic), (ones(3), ones(5, 3), ones(5)), ()),
        "attention_gradients": (ad.grad(attention, argnums=(0, 1, 2)), (ones(5, 4), ones(6, 4), ones(6, 2)), ()),
        "assignment_gradients": (ad.grad(written, argnums=(0, 1)), (ones(5), ones(2)), ()),
        "gather_gradient": (ad.grad(lambda t, i: (t[i] ** 2).sum()), (ones(5, 3), np.array([0, 4, 0])), ()),
        "hessian_vector_product": (lambda x, v: ad.hvp(rosenbrock, x, v), (ones(4), ones(4)), ()),
        "adam_step": training(),
    }


def described(name: str) -> str:
    """The text of one program: its graph after all rewrites, its steps in order, where the commit point is."""
    function, args, donate = corpus()[name]
    compiled = ad.compile(function, donate=donate)
    compiled(*args)
    built = compiled.programs[-1].native.built
    steps = [f"  {i} {line}" + ("   <- from here on nothing can fail" if donate and i == built.program.commit else "")
             for i, line in enumerate(compiled.kernels())]
    return f"{compiled.graph()}\n\nsteps\n" + "\n".join(steps) + "\n"


@pytest.mark.parametrize("name", sorted(corpus()))
def test_graph_and_kernels_are_as_stored(name: str) -> None:
    assert described(name) == (FOLDER / f"{name}.txt").read_text()


def test_the_budget_of_a_training_step() -> None:
    """At most 6 microkernels and 5,000 instructions for the step of a multilayer perceptron."""
    rng = np.random.default_rng(0)
    model = nn.Sequential(nn.Linear(784, 512, rng=rng), nn.relu, nn.Linear(512, 512, rng=rng), nn.relu, nn.Linear(512, 10, rng=rng))
    step, (_, _, _, _), donate = training()
    compiled = ad.compile(step, donate=donate)
    compiled(model, optim.adam(1e-3).init(model), np.ones((256, 784), np.float32), np.arange(256) % 10)
    text = compiled.ir()
    microkernels = {line.split("@")[1].split("(")[0] for line in text.splitlines() if line.startswith("define") and "microkernel" in line}
    assert 1 <= len(microkernels) <= 6
    assert text.count("\n") <= 5000


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for each in corpus():
        (FOLDER / f"{each}.txt").write_text(described(each))
