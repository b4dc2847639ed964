"""Rates for each weight from the gradients it has had: AdaGrad (diagonal and full matrix), RMSProp, Adadelta.

theta: parameters, g: gradient, G: sum of squares, nu: leaky average of squares, eta: learning rate.
Invariant: a weight whose gradients have all been zero does not move. May import: L0-L3, rule, scaling. Read next: adam.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..tree import flatten, unflatten
from . import hyperparameters as hyper
from .rule import Optimizer, chain, on_leaves, zeros_like
from .scaling import Rate, decayed_first, over_root, rate_at, scale_by_learning_rate


class SquareState(NamedTuple):
    """G or nu, a tree like the parameters."""

    squares: Any


def scale_by_adagrad(epsilon: float = 1e-10, initial_accumulator: float = 0.0) -> Optimizer:
    """G <- G + g^2 (the current gradient included); u = g / (sqrt(G) + epsilon), 0/0 := 0. epsilon outside the root, as PyTorch.

    sqrt(G) estimates how steep the loss is in each weight. initial_accumulator: G before the first gradient.
    Source: Duchi, Hazan and Singer, JMLR 12 (2011), the diagonal form of figure 1 (epsilon there: delta).

    >>> rule = scale_by_adagrad(0.0)
    >>> rule.update(np.array([3.0, 0.0]), rule.init(np.zeros(2)), None)[0]
    array([1., 0.])
    """
    hyper.non_negative("adagrad", "epsilon", epsilon)
    hyper.non_negative("adagrad", "initial_accumulator", initial_accumulator)

    def init(parameters: Any) -> SquareState:
        zeros = zeros_like(parameters)
        return SquareState(on_leaves(lambda x: (x + x.dtype.type(initial_accumulator),), zeros)[0])

    def update(gradients: Any, state: SquareState, parameters: Any) -> tuple[Any, SquareState]:
        def leaf(g: Any, total: Any) -> tuple[Any, Any]:
            total = total + g * g
            return over_root(g, total, epsilon), total
        updates, squares = on_leaves(leaf, gradients, state.squares)
        return updates, SquareState(squares)
    return Optimizer(init, update)


class OuterState(NamedTuple):
    """G, for each parameter of n elements an [n, n]."""

    outer: Any


def scale_by_full_adagrad(delta: float = 1e-8) -> Optimizer:
    """G <- G + g g^T; u = (delta I + G^(1/2))^(-1) g for each array as one vector: AdaGrad with the whole matrix.

    G^(1/2) by eigendecomposition, so G's null space is divided by delta (a gradient has no part there but for rounding).
    Cost: n^2 numbers and about 10 n^3 flops an update for an array of n elements; for small arrays only.
    Source: Duchi, Hazan and Singer, JMLR 12 (2011), figure 1, full matrices.

    >>> rule = scale_by_full_adagrad(0.5)
    >>> rule.update(np.array([3.0, 4.0]), rule.init(np.zeros(2)), None)[0].round(6)
    array([0.545455, 0.727273])
    """
    hyper.positive("adagrad", "delta", delta)

    def leaf(g: Any, total: Any) -> tuple[Any, Any]:
        flat = np.reshape(g, (-1,))
        total = total + flat[:, None] * flat[None, :]
        values, vectors = np.linalg.eigh(total)
        u = vectors @ ((flat @ vectors) / (delta + np.sqrt(np.maximum(values, 0.0))))
        return np.reshape(u, np.shape(g)), total

    def init(parameters: Any) -> OuterState:
        leaves, structure = flatten(zeros_like(parameters))
        return OuterState(unflatten(structure, [np.zeros((x.size, x.size), x.dtype) for x in leaves]))

    def update(gradients: Any, state: OuterState, parameters: Any) -> tuple[Any, OuterState]:
        updates, outer = on_leaves(leaf, gradients, state.outer)
        return updates, OuterState(outer)
    return Optimizer(init, update)


class RmsState(NamedTuple):
    """nu, a tree like the parameters; the average of g and the velocity likewise, () where they are not used."""

    squares: Any
    mean: Any
    velocity: Any


def scale_by_rms(beta: float = 0.99, epsilon: float = 1e-8, *, centered: bool = False, momentum: float = 0.0) -> Optimizer:
    """nu <- beta nu + (1 - beta) g^2; u = g / (sqrt(nu) + epsilon). nu starts at 0, no correction, epsilon outside: PyTorch's RMSprop.

    centered: m <- beta m + (1 - beta) g, and nu - m^2 (the variance) under the root; momentum: v <- momentum v + u, and v is the update.
    Source: Tieleman and Hinton, Lecture 6.5, COURSERA: Neural Networks for Machine Learning, 2012; centered: Graves, arXiv 1308.0850,
    eq. 38.

    >>> rule = scale_by_rms(0.75, 0.0)
    >>> rule.update(np.array([3.0]), rule.init(np.zeros(1)), None)[0]
    array([2.])
    """
    hyper.fraction("rmsprop", "beta", beta)
    hyper.non_negative("rmsprop", "epsilon", epsilon)
    hyper.fraction("rmsprop", "momentum", momentum)
    moving = not (isinstance(momentum, (int, float)) and momentum == 0)

    def update(gradients: Any, state: RmsState, parameters: Any) -> tuple[Any, RmsState]:
        average = lambda old, new: beta * old + (1.0 - beta) * new
        squares = on_leaves(lambda g, nu: (None, average(nu, g * g)), gradients, state.squares)[1]
        mean = on_leaves(lambda g, m: (None, average(m, g)), gradients, state.mean)[1] if centered else ()
        if centered:
            spread = lambda g, nu, m: (over_root(g, np.maximum(nu - m * m, 0.0), epsilon),)
            updates = on_leaves(spread, gradients, squares, mean)[0]
        else:
            updates = on_leaves(lambda g, nu: (over_root(g, nu, epsilon),), gradients, squares)[0]
        velocity: Any = ()
        if moving:
            velocity = on_leaves(lambda u, v: (None, momentum * v + u), updates, state.velocity)[1]
            updates = on_leaves(lambda u, v: (v,), updates, velocity)[0]
        return updates, RmsState(squares, mean, velocity)
    own = lambda used, parameters: zeros_like(parameters) if used else ()
    return Optimizer(lambda parameters: RmsState(zeros_like(parameters), own(centered, parameters), own(moving, parameters)), update)


class AdadeltaState(NamedTuple):
    """Leaky averages of g^2 and of u^2, trees like the parameters."""

    squares: Any
    moves: Any


def scale_by_adadelta(rho: float = 0.9, epsilon: float = 1e-6) -> Optimizer:
    """nu <- rho nu + (1-rho) g^2; u = g sqrt(D + epsilon) / sqrt(nu + epsilon); D <- rho D + (1-rho) u^2. epsilon inside both roots.

    u has the units of theta: the paper has no rate (eta = 1). Source: Zeiler, Adadelta, arXiv 1212.5701, algorithm 1.

    >>> rule = scale_by_adadelta(0.5, 1.0)
    >>> rule.update(np.array([4.0]), rule.init(np.zeros(1)), None)[0].round(6)
    array([1.333333])
    """
    hyper.fraction("adadelta", "rho", rho)
    hyper.positive("adadelta", "epsilon", epsilon)

    def leaf(g: Any, nu: Any, moves: Any) -> tuple[Any, Any, Any]:
        nu = rho * nu + (1.0 - rho) * (g * g)
        u = np.sqrt(moves + epsilon) / np.sqrt(nu + epsilon) * g
        return u, nu, rho * moves + (1.0 - rho) * (u * u)

    def update(gradients: Any, state: AdadeltaState, parameters: Any) -> tuple[Any, AdadeltaState]:
        updates, squares, moves = on_leaves(leaf, gradients, state.squares, state.moves)
        return updates, AdadeltaState(squares, moves)
    return Optimizer(lambda parameters: AdadeltaState(zeros_like(parameters), zeros_like(parameters)), update)


# ------------------------------------------------------------------------------------------------ whole optimizers


def adagrad(learning_rate: Rate, *, epsilon: float = 1e-10, initial_accumulator: float = 0.0, lr_decay: float = 0.0,
            weight_decay: float = 0.0) -> Optimizer:
    """theta <- theta - eta(t) g / (sqrt(G) + epsilon), eta(t) = eta / (1 + lr_decay t), see scale_by_adagrad.

    weight_decay: lambda, as L2 regularization, added to g before G. All as torch.optim.Adagrad. epsilon=0: 0/0 := 0.

    >>> adagrad(0.5).update(np.array([4.0]), adagrad(0.5).init(np.array([0.0])), None)[0].round(6)
    array([-0.5])
    """
    hyper.non_negative("adagrad", "lr_decay", lr_decay)
    rule = scale_by_adagrad(epsilon, initial_accumulator)
    if lr_decay:
        base = rate_at("adagrad with lr_decay", learning_rate)
        learning_rate = lambda t: base(t) / (1.0 + lr_decay * t)
    return chain(*decayed_first(weight_decay, rule), scale_by_learning_rate(learning_rate))


def full_adagrad(learning_rate: Rate, *, delta: float = 1e-8) -> Optimizer:
    """theta <- theta - eta (delta I + G^(1/2))^(-1) g, see scale_by_full_adagrad.

    >>> rule = full_adagrad(0.5)
    >>> rule.update(np.array([4.0]), rule.init(np.array([0.0])), None)[0].round(6)
    array([-0.5])
    """
    return chain(scale_by_full_adagrad(delta), scale_by_learning_rate(learning_rate))


def rmsprop(learning_rate: Rate, *, beta: float = 0.99, epsilon: float = 1e-8, centered: bool = False, momentum: float = 0.0,
            weight_decay: float = 0.0) -> Optimizer:
    """theta <- theta - eta g / (sqrt(nu) + epsilon), see scale_by_rms. beta: PyTorch's alpha. weight_decay: L2, added to g.

    >>> rmsprop(0.1).update(np.array([4.0]), rmsprop(0.1).init(np.array([0.0])), None)[0].round(6)
    array([-1.])
    """
    rule = scale_by_rms(beta, epsilon, centered=centered, momentum=momentum)
    return chain(*decayed_first(weight_decay, rule), scale_by_learning_rate(learning_rate))


def adadelta(learning_rate: Rate = 1.0, *, rho: float = 0.9, epsilon: float = 1e-6, weight_decay: float = 0.0) -> Optimizer:
    """theta <- theta - eta g sqrt(D + epsilon) / sqrt(nu + epsilon), see scale_by_adadelta. weight_decay: L2, added to g (as PyTorch).

    >>> rule = adadelta(rho=0.5, epsilon=1.0)
    >>> rule.update(np.array([4.0]), rule.init(np.zeros(1)), None)[0].round(6)
    array([-1.333333])
    """
    return chain(*decayed_first(weight_decay, scale_by_adadelta(rho, epsilon)), scale_by_learning_rate(learning_rate))
