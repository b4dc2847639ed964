"""The update rules. theta: parameters, g: gradient, eta: learning rate, t: updates done before this one (0 at the first).

Invariant: every number that changes between updates is an array of the state, so that a compiled step never recompiles; corrections
are computed on scalars, in float64, and enter the elementwise pass in its dtype. May import: L0-L3, rule. Read next: schedules.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..core.aval import aval_of
from ..core.interpreter import Tracer
from ..errors import ConfigError, explain
from ..tree import flatten
from .rule import Optimizer, chain, in_dtype, on_leaves, stateless, zeros_like
from .schedules import Schedule

Rate = float | Schedule


def _count() -> np.ndarray:
    return np.zeros((), np.int64)


# ------------------------------------------------------------------------------------------------ parts


def scale(factor: Any) -> Optimizer:
    """u = factor g.

    >>> scale(-0.5).update(np.array([2.0]), (), None)[0]
    array([-1.])
    """
    return stateless(lambda gradients, _: on_leaves(lambda g: (g * _like(factor, g),), gradients)[0])


def _like(factor: Any, g: Any) -> Any:
    """A scalar in the dtype of g (Python's numbers are weak and stay)."""
    return factor if isinstance(factor, (int, float)) and not isinstance(factor, np.generic) else in_dtype(factor, aval_of(g).dtype)


class CountState(NamedTuple):
    """t, a 0-d int64."""

    count: Any


def _checked(rate: Any) -> Any:
    """A learning rate that is a number; a traced one passes, since its value is not known yet."""
    if not isinstance(rate, Tracer):
        value = np.asarray(rate)
        if value.dtype.kind not in "iuf" or not np.all((value >= 0) & np.isfinite(value)):
            raise ConfigError(explain(f"optimizer: the learning rate is {rate!r:.80}, expected a finite number >= 0, or a schedule.",
                                      remedy="For instance 1e-3, or optim.schedules.cosine(1e-3, steps)."))
    return rate


def scale_by_learning_rate(learning_rate: Rate) -> Optimizer:
    """u = -eta g for a number, u = -eta(t) g for a schedule.

    >>> rule = scale_by_learning_rate(lambda t: 1.0 / (t + 1))
    >>> u, state = rule.update(np.array([2.0]), rule.init(None), None)
    >>> u, rule.update(np.array([2.0]), state, None)[0]
    (array([-2.]), array([-1.]))
    """
    if not callable(learning_rate):
        return scale(-_checked(learning_rate))

    def update(gradients: Any, state: CountState, parameters: Any) -> tuple[Any, CountState]:
        factor = -learning_rate(state.count)
        updates = on_leaves(lambda g: (g * _like(factor, g),), gradients)[0]
        return updates, CountState(state.count + 1)
    return Optimizer(lambda parameters: CountState(_count()), update)


def add_weight_decay(decay: float) -> Optimizer:
    """u = g + lambda theta, decay: lambda. Before the moments it is L2 regularization of the loss, lambda/2 |theta|^2; after them it is
    decoupled weight decay (AdamW). Applies to every floating leaf that has a gradient, biases too, as in PyTorch.

    >>> add_weight_decay(0.1).update(np.array([1.0]), (), np.array([10.0]))[0]
    array([2.])
    """
    return stateless(lambda gradients, parameters: on_leaves(lambda g, p: (g + decay * p,), gradients, parameters)[0])


def global_norm(tree: Any) -> Any:
    """|g| = sqrt(sum over all leaves and elements of g^2).

    >>> global_norm({"a": np.array([3.0]), "b": np.array([4.0])})
    np.float64(5.0)
    """
    leaves = flatten(tree)[0]
    total = 0.0
    for g in leaves:
        total = total + np.sum(g * g)
    return np.sqrt(total)


def clip_by_global_norm(limit: float) -> Optimizer:
    """u = g min(1, c / |g|), c = limit, |g| over all leaves together: the direction is kept. NaN passes through.

    Source: Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks, ICML 2013, algorithm 1.

    >>> clip_by_global_norm(1.0).update(np.array([3.0, 4.0]), (), None)[0]
    array([0.6, 0.8])
    """
    def clip(gradients: Any, _: Any) -> Any:
        factor = limit / np.maximum(global_norm(gradients), limit)
        return on_leaves(lambda g: (g * _like(factor, g),), gradients)[0]
    return stateless(clip)


class MomentumState(NamedTuple):
    """v, a tree like the parameters."""

    velocity: Any


def momentum_of(beta: float, nesterov: bool = False) -> Optimizer:
    """v <- beta v + g; u = v, or with nesterov u = g + beta v. The PyTorch variant: no factor 1 - beta, v starts at 0.

    Source: Polyak 1964; Sutskever et al., ICML 2013; the variant as torch.optim.SGD (dampening 0).

    >>> rule = momentum_of(0.5)
    >>> state = rule.init(np.array([0.0]))
    >>> for _ in range(3): u, state = rule.update(np.array([1.0]), state, None)
    >>> u
    array([1.75])
    """
    def leaf(g: Any, v: Any) -> tuple[Any, Any]:
        v = beta * v + g
        return (g + beta * v if nesterov else v), v

    def update(gradients: Any, state: MomentumState, parameters: Any) -> tuple[Any, MomentumState]:
        updates, velocity = on_leaves(leaf, gradients, state.velocity)
        return updates, MomentumState(velocity)
    return Optimizer(lambda parameters: MomentumState(zeros_like(parameters)), update)


class AdamState(NamedTuple):
    """t, a 0-d int64; mu and nu, trees like the parameters."""

    count: Any
    mu: Any
    nu: Any


def scale_by_adam(beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8) -> Optimizer:
    """mu <- b1 mu + (1-b1) g; nu <- b2 nu + (1-b2) g^2; u = mu_hat / (sqrt(nu_hat) + epsilon),
    mu_hat = mu / (1 - b1^(t+1)), nu_hat = nu / (1 - b2^(t+1)). epsilon is outside the root, as in the paper and PyTorch.

    Source: Kingma and Ba, Adam, ICLR 2015, arXiv 1412.6980, algorithm 1.

    >>> rule = scale_by_adam()
    >>> u, state = rule.update(np.array([4.0]), rule.init(np.array([0.0])), None)
    >>> bool(abs(u[0] - 1.0) < 1e-8), int(state.count)
    (True, 1)
    """
    def update(gradients: Any, state: AdamState, parameters: Any) -> tuple[Any, AdamState]:
        count = state.count + 1
        steps = count * 1.0
        first, second = 1.0 / (1.0 - np.power(float(beta1), steps)), 1.0 / (1.0 - np.power(float(beta2), steps))

        def leaf(g: Any, mu: Any, nu: Any) -> tuple[Any, Any, Any]:
            mu = beta1 * mu + (1.0 - beta1) * g
            nu = beta2 * nu + (1.0 - beta2) * (g * g)
            return (mu * _like(first, g)) / (np.sqrt(nu * _like(second, g)) + epsilon), mu, nu
        updates, mu, nu = on_leaves(leaf, gradients, state.mu, state.nu)
        return updates, AdamState(count, mu, nu)
    return Optimizer(lambda parameters: AdamState(_count(), zeros_like(parameters), zeros_like(parameters)), update)


class SquareState(NamedTuple):
    """G or nu, a tree like the parameters."""

    squares: Any


def _over_root(g: Any, total: Any, epsilon: float) -> Any:
    """g / (sqrt(total) + epsilon), 0 where total is 0 (0/0 := 0: a feature never seen does not move)."""
    positive = total > 0
    return np.where(positive, g / (np.sqrt(np.where(positive, total, 1.0)) + epsilon), 0.0)


def scale_by_adagrad(epsilon: float = 1e-10) -> Optimizer:
    """G <- G + g^2 (the current gradient included); u = g / (sqrt(G) + epsilon), 0/0 := 0. epsilon outside the root, as PyTorch.

    Source: Duchi, Hazan and Singer, JMLR 12 (2011), the diagonal form of figure 1.

    >>> rule = scale_by_adagrad(0.0)
    >>> rule.update(np.array([3.0, 0.0]), rule.init(np.zeros(2)), None)[0]
    array([1., 0.])
    """
    def update(gradients: Any, state: SquareState, parameters: Any) -> tuple[Any, SquareState]:
        def leaf(g: Any, total: Any) -> tuple[Any, Any]:
            total = total + g * g
            return _over_root(g, total, epsilon), total
        updates, squares = on_leaves(leaf, gradients, state.squares)
        return updates, SquareState(squares)
    return Optimizer(lambda parameters: SquareState(zeros_like(parameters)), update)


def scale_by_rms(beta: float = 0.99, epsilon: float = 1e-8) -> Optimizer:
    """nu <- beta nu + (1 - beta) g^2; u = g / (sqrt(nu) + epsilon). nu starts at 0, no correction, epsilon outside: PyTorch's RMSprop.

    Source: Tieleman and Hinton, Lecture 6.5, COURSERA: Neural Networks for Machine Learning, 2012.

    >>> rule = scale_by_rms(0.75, 0.0)
    >>> rule.update(np.array([3.0]), rule.init(np.zeros(1)), None)[0]
    array([2.])
    """
    def update(gradients: Any, state: SquareState, parameters: Any) -> tuple[Any, SquareState]:
        def leaf(g: Any, nu: Any) -> tuple[Any, Any]:
            nu = beta * nu + (1.0 - beta) * (g * g)
            return _over_root(g, nu, epsilon), nu
        updates, squares = on_leaves(leaf, gradients, state.squares)
        return updates, SquareState(squares)
    return Optimizer(lambda parameters: SquareState(zeros_like(parameters)), update)


# ------------------------------------------------------------------------------------------------ whole optimizers


def sgd(learning_rate: Rate, *, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0) -> Optimizer:
    """theta <- theta - eta v with v <- momentum v + (g + weight_decay theta); without momentum v = g (gradient descent).

    Stochastic or not is decided by the gradient it is given. weight_decay: lambda, as L2 regularization. As torch.optim.SGD.

    >>> sgd(0.1).update(np.array([2.0]), sgd(0.1).init(np.array([0.0])), np.array([0.0]))[0]
    array([-0.2])
    """
    parts = [add_weight_decay(weight_decay)] if weight_decay else []
    parts += [momentum_of(momentum, nesterov)] if momentum else []
    return chain(*parts, scale_by_learning_rate(learning_rate))


def adam(learning_rate: Rate, *, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8, weight_decay: float = 0.0) -> Optimizer:
    """theta <- theta - eta mu_hat / (sqrt(nu_hat) + epsilon), see scale_by_adam. weight_decay: L2, added to g (torch.optim.Adam).

    >>> u, _ = adam(0.5).update(np.array([4.0]), adam(0.5).init(np.array([0.0])), None)
    >>> bool(abs(u[0] + 0.5) < 1e-8)
    True
    """
    parts = [add_weight_decay(weight_decay)] if weight_decay else []
    return chain(*parts, scale_by_adam(beta1, beta2, epsilon), scale_by_learning_rate(learning_rate))


def adamw(learning_rate: Rate, *, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8, weight_decay: float = 0.01) -> Optimizer:
    """theta <- theta - eta (mu_hat / (sqrt(nu_hat) + epsilon) + lambda theta), lambda: weight_decay, decoupled from the moments.

    Source: Loshchilov and Hutter, Decoupled weight decay regularization, ICLR 2019, arXiv 1711.05101, algorithm 2 (PyTorch's variant:
    the schedule scales the decay too).

    >>> u, _ = adamw(0.5, weight_decay=0.1).update(np.array([4.0]), adamw(0.5).init(np.array([0.0])), np.array([10.0]))
    >>> bool(abs(u[0] + 1.0) < 1e-8)
    True
    """
    return chain(scale_by_adam(beta1, beta2, epsilon), add_weight_decay(weight_decay), scale_by_learning_rate(learning_rate))


def adagrad(learning_rate: Rate, *, epsilon: float = 1e-10) -> Optimizer:
    """theta <- theta - eta g / (sqrt(G) + epsilon), see scale_by_adagrad.

    >>> adagrad(0.5).update(np.array([4.0]), adagrad(0.5).init(np.array([0.0])), None)[0].round(6)
    array([-0.5])
    """
    return chain(scale_by_adagrad(epsilon), scale_by_learning_rate(learning_rate))


def rmsprop(learning_rate: Rate, *, beta: float = 0.99, epsilon: float = 1e-8) -> Optimizer:
    """theta <- theta - eta g / (sqrt(nu) + epsilon), see scale_by_rms.

    >>> rmsprop(0.1).update(np.array([4.0]), rmsprop(0.1).init(np.array([0.0])), None)[0].round(6)
    array([-1.])
    """
    return chain(scale_by_rms(beta, epsilon), scale_by_learning_rate(learning_rate))
