"""Muon: momentum whose matrix is made orthogonal before it is used, so that all directions of a layer move alike.

Invariant: matrices only; what is no matrix gets another rule (`partition`). May import: L0-L3, rule, scaling, adam. Read next: lbfgs.py.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..errors import ConfigError, explain
from . import hyperparameters as hyper
from .adam import adamw
from .grouping import partition
from .momentum import MomentumState
from .rule import Optimizer, Where, chain, matrices, on_leaves, zeros_like
from .scaling import Rate, add_weight_decay, scale_by_learning_rate

QUINTIC = (3.4445, -4.7750, 2.0315)         # steepest at zero, so that few steps lift small singular values to about 1


def orthogonalize(matrix: Any, steps: int = 5, epsilon: float = 1e-7) -> Any:
    """X <- a X + (b A + c A^2) X with A = X X^T, `steps` times from X = G / max(|G|, epsilon): close to U V^T for G = U S V^T.

    Newton-Schulz in a quintic variant that does not converge: singular values end in about [0.7, 1.2] (a, b, c = QUINTIC). A tall matrix
    is transposed first, so that A is the small one. Shapes: [rows, columns] to the same. Cost: 6 min^2 max flops a step.
    Source: Jordan et al., Muon, 2024, kellerjordan.github.io/posts/muon.

    >>> singular = np.linalg.svd(orthogonalize(np.array([[3.0, 0.0, 0.0], [0.0, 0.5, 0.0]])))[1]
    >>> bool((singular > 0.6).all() and (singular < 1.3).all())
    True
    """
    if np.ndim(matrix) != 2:
        raise ConfigError(explain(f"muon: a gradient of {np.ndim(matrix)} axes is no matrix.",
                                  remedy="Use optim.muon, which gives other arrays another rule, or masked(rule, optim.matrices)."))
    a, b, c = QUINTIC
    rows, columns = np.shape(matrix)
    x = matrix.T if rows > columns else matrix
    x = x / np.maximum(np.sqrt(np.sum(x * x)), epsilon)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.T if rows > columns else x


def scale_by_muon(beta: float = 0.95, *, nesterov: bool = True, steps: int = 5, epsilon: float = 1e-7) -> Optimizer:
    """v <- beta v + (1-beta) g; w = (1-beta) g + beta v with nesterov, else v; u = orthogonalize(w) sqrt(max(1, rows / columns)).

    An array of more than two axes (a convolution's weight) is one matrix [first axis, the rest].
    Variant: torch.optim.Muon with adjust_lr_fn="original", but in the dtype of the parameters, not in bfloat16.
    Source: Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024, kellerjordan.github.io/posts/muon.

    >>> rule = scale_by_muon()
    >>> g = np.array([[3.0, 0.0], [0.0, 0.1]])
    >>> u, _ = rule.update(g, rule.init(g), None)
    >>> bool(0.6 < u[0, 0] < 1.3 and 0.6 < u[1, 1] < 1.3)
    True
    """
    hyper.fraction("muon", "beta", beta)
    hyper.whole("muon", "steps", steps)
    hyper.positive("muon", "epsilon", epsilon)

    def leaf(g: Any, v: Any) -> tuple[Any, Any]:
        v = beta * v + (1.0 - beta) * g
        w = (1.0 - beta) * g + beta * v if nesterov else v
        shape = np.shape(g)
        w = np.reshape(w, (shape[0], math.prod(shape[1:]))) if len(shape) > 2 else w
        u = orthogonalize(w, steps, epsilon) * math.sqrt(max(1.0, np.shape(w)[0] / max(1, np.shape(w)[1])))
        return np.reshape(u, shape), v

    def update(gradients: Any, state: MomentumState, parameters: Any) -> tuple[Any, MomentumState]:
        updates, velocity = on_leaves(leaf, gradients, state.velocity)
        return updates, MomentumState(velocity)
    return Optimizer(lambda parameters: MomentumState(zeros_like(parameters)), update)


def muon(learning_rate: Rate, *, momentum: float = 0.95, weight_decay: float = 0.0, where: Where = matrices,
         others: Optimizer | None = None) -> Optimizer:
    """theta <- theta - eta (orthogonalize(w) sqrt(max(1, rows / columns)) + lambda theta) where where(name, leaf), see scale_by_muon.

    others: the rule of the other arrays, adamw(3e-4) by default. where: arrays of two axes or more by default; the authors leave out the
    embedding and the last layer too. weight_decay: lambda, decoupled, of theta before the update.

    >>> rule = muon(0.1)
    >>> tree = {"weight": np.eye(2), "bias": np.ones(2)}
    >>> u, _ = rule.update(tree, rule.init(tree), tree)
    >>> u["bias"].round(5)
    array([-0.0003, -0.0003])
    """
    rule = chain(scale_by_muon(momentum), add_weight_decay(weight_decay), scale_by_learning_rate(learning_rate))
    return partition(where, rule, adamw(3e-4) if others is None else others)
