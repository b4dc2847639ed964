"""Gradient descent and its accelerations: momentum in the variants that are in print, and what each of them is called.

theta: parameters, g: gradient, v: velocity, eta: learning rate, beta: how much of the velocity is kept.
Invariant: without momentum the state is empty but for the count of a schedule. May import: L0-L3, rule, scaling. Read next: adaptive.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..errors import ConfigError, explain
from . import hyperparameters as hyper
from .rule import Optimizer, chain, counter, like, on_leaves, zeros_like
from .scaling import Rate, decayed_first, scale_by_learning_rate


class MomentumState(NamedTuple):
    """v, a tree like the parameters."""

    velocity: Any


class AverageState(NamedTuple):
    """t, a 0-d int64; v, a tree like the parameters."""

    count: Any
    velocity: Any


def momentum_of(beta: float, nesterov: bool = False, dampening: float = 0.0) -> Optimizer:
    """v <- beta v + (1 - dampening) g; u = v, or with nesterov u = g + beta v. The PyTorch variant: no factor 1 - beta, v starts at 0,
    and the first g enters v without the factor 1 - dampening.

    Nesterov in PyTorch's form: the parameters are the point looked ahead to. With constant eta and beta, phi = theta + beta v in
    Sutskever's form (v <- beta v - eta grad f(theta + beta v); theta <- theta + v) takes exactly these steps (test_momentum.py).
    Source: Polyak 1964; Sutskever et al., ICML 2013, eq. 3-4; the variant as torch.optim.SGD.

    >>> rule = momentum_of(0.5)
    >>> state = rule.init(np.array([0.0]))
    >>> for _ in range(3): u, state = rule.update(np.array([1.0]), state, None)
    >>> u
    array([1.75])
    """
    hyper.fraction("momentum", "momentum", beta)
    if nesterov and not (isinstance(dampening, (int, float)) and dampening == 0):
        raise ConfigError(explain(f"momentum: Nesterov's has dampening 0, found {dampening!r:.40}.", remedy="Leave out dampening."))
    if isinstance(dampening, (int, float)) and dampening == 0:
        return _undamped(beta, nesterov)
    hyper.fraction("momentum", "dampening", dampening)

    def update(gradients: Any, state: AverageState, parameters: Any) -> tuple[Any, AverageState]:
        factor = np.where(state.count == 0, 1.0, 1.0 - dampening)

        def leaf(g: Any, v: Any) -> tuple[Any, Any]:
            v = beta * v + g * like(factor, g)
            return v, v
        updates, velocity = on_leaves(leaf, gradients, state.velocity)
        return updates, AverageState(state.count + 1, velocity)
    return Optimizer(lambda parameters: AverageState(counter(), zeros_like(parameters)), update)


def _undamped(beta: float, nesterov: bool) -> Optimizer:
    def leaf(g: Any, v: Any) -> tuple[Any, Any]:
        v = beta * v + g
        return (g + beta * v if nesterov else v), v

    def update(gradients: Any, state: MomentumState, parameters: Any) -> tuple[Any, MomentumState]:
        updates, velocity = on_leaves(leaf, gradients, state.velocity)
        return updates, MomentumState(velocity)
    return Optimizer(lambda parameters: MomentumState(zeros_like(parameters)), update)


def average_of(beta: float, bias_correction: bool = False) -> Optimizer:
    """v <- beta v + (1 - beta) g; u = v, or v / (1 - beta^(t+1)) with bias_correction: the leaky average of the gradients.

    The steps are 1 - beta as long as those of `momentum_of`: the rate is 1/(1 - beta) times larger for the same course.
    Source: Kingma and Ba, Adam, arXiv 1412.6980, section 3 (the correction).

    >>> rule = average_of(0.5, bias_correction=True)
    >>> rule.update(np.array([3.0]), rule.init(np.array([0.0])), None)[0]
    array([3.])
    """
    hyper.fraction("average_of", "beta", beta)

    def update(gradients: Any, state: AverageState, parameters: Any) -> tuple[Any, AverageState]:
        count = state.count + 1
        factor = 1.0 / (1.0 - np.power(float(beta), count * 1.0)) if bias_correction else 1.0

        def leaf(g: Any, v: Any) -> tuple[Any, Any]:
            v = beta * v + (1.0 - beta) * g
            return (v * like(factor, g) if bias_correction else v), v
        updates, velocity = on_leaves(leaf, gradients, state.velocity)
        return updates, AverageState(count, velocity)
    return Optimizer(lambda parameters: AverageState(counter(), zeros_like(parameters)), update)


# ------------------------------------------------------------------------------------------------ whole optimizers


def gd(learning_rate: Rate) -> Optimizer:
    """theta <- theta - eta g: gradient descent, where g is the gradient of the whole sum or mean over the data.

    On a quadratic with curvatures up to L it converges for eta in (0, 2/L), in about (kappa/2) log(1/error) steps at eta = 1/L,
    kappa = L / least curvature. Source: Cauchy 1847.

    >>> gd(0.1).update(np.array([2.0]), gd(0.1).init(np.array([0.0])), np.array([0.0]))[0]
    array([-0.2])
    """
    return chain(scale_by_learning_rate(learning_rate))


def sgd(learning_rate: Rate, *, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0,
        dampening: float = 0.0) -> Optimizer:
    """theta <- theta - eta v with v <- momentum v + (1 - dampening) (g + weight_decay theta); without momentum v = g.

    Stochastic or not is decided by the gradient it is given. weight_decay: lambda, as L2 regularization, before the momentum. All as
    torch.optim.SGD, see momentum_of. momentum 0.9 is a good first choice; with nesterov, u = g + momentum v.
    Source: Robbins and Monro 1951; Sutskever et al., ICML 2013.

    >>> sgd(0.1).update(np.array([2.0]), sgd(0.1).init(np.array([0.0])), np.array([0.0]))[0]
    array([-0.2])
    """
    none = isinstance(momentum, (int, float)) and momentum == 0
    if none and nesterov:
        raise ConfigError(explain("sgd: nesterov needs a momentum above 0, found 0.", remedy="Give momentum=0.9."))
    parts = [] if none else [momentum_of(momentum, nesterov, dampening)]
    return chain(*decayed_first(weight_decay, *parts), scale_by_learning_rate(learning_rate))


def heavy_ball(learning_rate: Rate, *, momentum: float = 0.9, weight_decay: float = 0.0) -> Optimizer:
    """theta_(t+1) = theta_t - eta(t) g + beta (theta_t - theta_(t-1)), momentum: beta. Polyak's: the rate is inside the velocity.

    With a constant rate it is sgd(momentum=beta); after a change of the rate the old steps go on with their old length.
    weight_decay: lambda, as L2 regularization. Source: Polyak, Some methods of speeding up the convergence of iteration methods, 1964.

    >>> rule = heavy_ball(0.1, momentum=0.5)
    >>> state = rule.init(np.array([0.0]))
    >>> for _ in range(2): u, state = rule.update(np.array([1.0]), state, None)
    >>> u
    array([-0.15])
    """
    return chain(*decayed_first(weight_decay), scale_by_learning_rate(learning_rate), momentum_of(momentum))


def nesterov(learning_rate: Rate, *, momentum: float = 0.9, weight_decay: float = 0.0) -> Optimizer:
    """v <- beta v + g; theta <- theta - eta (g + beta v), momentum: beta. PyTorch's form of Nesterov's acceleration, see momentum_of.

    weight_decay: lambda, as L2 regularization. Source: Nesterov 1983; Sutskever et al., ICML 2013, eq. 3-4.

    >>> rule = nesterov(0.1, momentum=0.5)
    >>> rule.update(np.array([1.0]), rule.init(np.array([0.0])), None)[0].round(12)
    array([-0.15])
    """
    return sgd(learning_rate, momentum=momentum, nesterov=True, weight_decay=weight_decay)
