"""A multilayer perceptron on the digits that ship with the package: f(x) = W3 relu(W2 relu(W1 x + b1) + b2) + b3.

The model is written out below; `nn.mlp` makes the same one in a line. Training holds examples back and stops on their true error,
the share of wrong digits, while the cross entropy is what is differentiated.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from adjoint import nn, optim, train
from adjoint.data import Normalization, load_digits


class MLP(nn.Module):
    """Linear layers with ReLU between them. Shapes: x [batch, sizes[0]], y [batch, sizes[-1]]."""

    layers: tuple[nn.Linear, ...]

    def __init__(self, *sizes: int, rng: np.random.Generator) -> None:
        self.layers = tuple(nn.Linear(inner, outer, rng=rng, weight_init=nn.init.he_normal)
                            for inner, outer in itertools.pairwise(sizes))

    def __call__(self, x: Any) -> Any:
        for layer in self.layers[:-1]:
            x = nn.relu(layer(x))
        return self.layers[-1](x)


def fit(seed: int = 0, epochs: int = 20, compiled: bool = True) -> tuple[train.Fit, Normalization]:
    """The trained network, and the normalization that its inputs need."""
    digits = load_digits()
    rest, held_x, held_y = digits.hold_out(256)
    scale = Normalization.fit(rest.train_x)
    model = MLP(64, 128, 64, 10, rng=np.random.default_rng(seed))
    optimizer = optim.adamw(optim.schedules.cosine(2e-3, epochs * (len(rest.train_x) // 64)), weight_decay=0.01)
    done = train.fit(model, (scale(rest.train_x), rest.train_y), optimizer=optimizer, epochs=epochs, seed=seed, noise=0.2,
                     validation=(scale(held_x), held_y), compiled=compiled)
    return done, scale


def main() -> None:
    """Train, test, and show what was learned."""
    digits = load_digits()
    done, scale = fit()
    for line in done.history[::5]:
        print(f"epoch {line['epoch']:2d}: loss {line['loss']:.4f}, wrong of those held back {100 * line['validation_error']:.1f} %")
    logits = train.Predictor()(done.model, scale(digits.test_x))
    print(f"test accuracy {100 * (1 - train.error_rate(logits, digits.test_y)):.2f} %")
    names = nn.named_parameters(done.model)
    print(f"{sum(a.size for a in names.values())} parameters: {', '.join(names)}")


if __name__ == "__main__":
    main()
