"""Adam and its kin: AMSGrad, AdamW, Lion. mu: average of gradients, nu: average of their squares.

theta: parameters, g: gradient, eta: learning rate, lambda: weight decay, t: updates done before this one (0 at the first).
Invariant: bias corrections are computed on scalars, in float64, and enter the elementwise pass in its dtype.
May import: L0-L3, rule, scaling. Read next: schedule_free.py, muon.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from . import hyperparameters as hyper
from .rule import Optimizer, Where, chain, counter, like, on_leaves, zeros_like
from .scaling import Rate, add_weight_decay, decayed_first, over_root, scale_by_learning_rate


class AdamState(NamedTuple):
    """t, a 0-d int64; mu and nu, trees like the parameters."""

    count: Any
    mu: Any
    nu: Any


class AmsgradState(NamedTuple):
    """t, a 0-d int64; mu, nu and the largest nu so far, trees like the parameters."""

    count: Any
    mu: Any
    nu: Any
    largest: Any


def _check(rule: str, beta1: Any, beta2: Any, epsilon: Any) -> None:
    hyper.fraction(rule, "beta1", beta1)
    hyper.fraction(rule, "beta2", beta2)
    hyper.non_negative(rule, "epsilon", epsilon)


def scale_by_adam(beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8) -> Optimizer:
    """mu <- b1 mu + (1-b1) g; nu <- b2 nu + (1-b2) g^2; u = mu_hat / (sqrt(nu_hat) + epsilon),
    mu_hat = mu / (1 - b1^(t+1)), nu_hat = nu / (1 - b2^(t+1)). epsilon is outside the root, as in the paper and PyTorch.

    b1 and b2 are forgetting factors: each average remembers about 1/(1 - b) gradients.
    Source: Kingma and Ba, Adam, ICLR 2015, arXiv 1412.6980, algorithm 1.

    >>> rule = scale_by_adam()
    >>> u, state = rule.update(np.array([4.0]), rule.init(np.array([0.0])), None)
    >>> bool(abs(u[0] - 1.0) < 1e-8), int(state.count)
    (True, 1)
    """
    _check("adam", beta1, beta2, epsilon)

    def update(gradients: Any, state: AdamState, parameters: Any) -> tuple[Any, AdamState]:
        count = state.count + 1
        first, second = _corrections(beta1, beta2, count)

        def leaf(g: Any, mu: Any, nu: Any) -> tuple[Any, Any, Any]:
            mu = beta1 * mu + (1.0 - beta1) * g
            nu = beta2 * nu + (1.0 - beta2) * (g * g)
            return over_root(mu * like(first, g), nu * like(second, g), epsilon), mu, nu
        updates, mu, nu = on_leaves(leaf, gradients, state.mu, state.nu)
        return updates, AdamState(count, mu, nu)
    return Optimizer(lambda parameters: AdamState(counter(), zeros_like(parameters), zeros_like(parameters)), update)


def _corrections(beta1: float, beta2: float, count: Any) -> tuple[Any, Any]:
    """1 / (1 - b1^count) and 1 / (1 - b2^count), float64."""
    steps = count * 1.0
    return 1.0 / (1.0 - np.power(float(beta1), steps)), 1.0 / (1.0 - np.power(float(beta2), steps))


def scale_by_amsgrad(beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8, *, bias_correction: bool = True) -> Optimizer:
    """mu and nu as in Adam; M <- max(M, nu), M starts at 0; u = mu_hat / (sqrt(M_hat) + epsilon): no weight's rate ever grows.

    bias_correction=True is PyTorch's Adam(amsgrad=True): the maximum is of the uncorrected nu, M_hat = M / (1 - b2^(t+1)),
    mu_hat = mu / (1 - b1^(t+1)). False is the paper's: u = mu / (sqrt(M) + epsilon), and its epsilon is 0.
    Source: Reddi, Kale and Kumar, On the convergence of Adam and beyond, ICLR 2018, arXiv 1904.09237, algorithm 2.

    >>> rule = scale_by_amsgrad(0.0, 0.0, 0.0, bias_correction=False)
    >>> state = rule.init(np.zeros(1))
    >>> for g in (4.0, 1.0): u, state = rule.update(np.array([g]), state, None)
    >>> u
    array([0.25])
    """
    _check("amsgrad", beta1, beta2, epsilon)

    def update(gradients: Any, state: AmsgradState, parameters: Any) -> tuple[Any, AmsgradState]:
        count = state.count + 1
        first, second = _corrections(beta1, beta2, count) if bias_correction else (1.0, 1.0)

        def leaf(g: Any, mu: Any, nu: Any, largest: Any) -> tuple[Any, Any, Any, Any]:
            mu = beta1 * mu + (1.0 - beta1) * g
            nu = beta2 * nu + (1.0 - beta2) * (g * g)
            largest = np.maximum(largest, nu)
            return over_root(mu * like(first, g), largest * like(second, g), epsilon), mu, nu, largest
        updates, mu, nu, largest = on_leaves(leaf, gradients, state.mu, state.nu, state.largest)
        return updates, AmsgradState(count, mu, nu, largest)
    return Optimizer(lambda parameters: AmsgradState(counter(), *(zeros_like(parameters) for _ in range(3))), update)


class LionState(NamedTuple):
    """mu, a tree like the parameters."""

    mu: Any


def scale_by_lion(beta1: float = 0.9, beta2: float = 0.99) -> Optimizer:
    """u = sign(b1 mu + (1-b1) g), then mu <- b2 mu + (1-b2) g: every weight moves by the same length, sign(0) = 0. No epsilon.

    Source: Chen et al., Symbolic discovery of optimization algorithms, NeurIPS 2023, arXiv 2302.06675, algorithm 2.

    >>> rule = scale_by_lion()
    >>> rule.update(np.array([4.0, -0.1, 0.0]), rule.init(np.zeros(3)), None)[0]
    array([ 1., -1.,  0.])
    """
    _check("lion", beta1, beta2, 0.0)

    def leaf(g: Any, mu: Any) -> tuple[Any, Any]:
        return np.sign(beta1 * mu + (1.0 - beta1) * g), beta2 * mu + (1.0 - beta2) * g

    def update(gradients: Any, state: LionState, parameters: Any) -> tuple[Any, LionState]:
        updates, mu = on_leaves(leaf, gradients, state.mu)
        return updates, LionState(mu)
    return Optimizer(lambda parameters: LionState(zeros_like(parameters)), update)


# ------------------------------------------------------------------------------------------------ whole optimizers


def adam(learning_rate: Rate, *, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8, weight_decay: float = 0.0) -> Optimizer:
    """theta <- theta - eta mu_hat / (sqrt(nu_hat) + epsilon), see scale_by_adam. weight_decay: L2, added to g (torch.optim.Adam).

    It can fail to converge even on convex problems (Reddi et al.): see `amsgrad`.

    >>> u, _ = adam(0.5).update(np.array([4.0]), adam(0.5).init(np.array([0.0])), None)
    >>> bool(abs(u[0] + 0.5) < 1e-8)
    True
    """
    return chain(*decayed_first(weight_decay, scale_by_adam(beta1, beta2, epsilon)), scale_by_learning_rate(learning_rate))


def amsgrad(learning_rate: Rate, *, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8, weight_decay: float = 0.0,
            bias_correction: bool = True) -> Optimizer:
    """theta <- theta - eta mu_hat / (sqrt(max of nu) + epsilon), see scale_by_amsgrad. weight_decay: L2, added to g.

    Variant: torch.optim.Adam(amsgrad=True); the paper's with bias_correction=False, epsilon=0.

    >>> u, _ = amsgrad(0.5).update(np.array([4.0]), amsgrad(0.5).init(np.array([0.0])), None)
    >>> bool(abs(u[0] + 0.5) < 1e-8)
    True
    """
    rule = scale_by_amsgrad(beta1, beta2, epsilon, bias_correction=bias_correction)
    return chain(*decayed_first(weight_decay, rule), scale_by_learning_rate(learning_rate))


def adamw(learning_rate: Rate, *, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8, weight_decay: float = 0.01,
          where: Where | None = None) -> Optimizer:
    """theta <- theta - eta (mu_hat / (sqrt(nu_hat) + epsilon) + lambda theta), lambda: weight_decay, decoupled from the moments.

    The decay is of theta before the update, and the schedule scales it too: PyTorch's order and variant (the paper's algorithm 2 scales it
    by the schedule without the base rate). where(name, leaf): what decays, all by default; optim.matrices leaves out biases and gains.
    Source: Loshchilov and Hutter, Decoupled weight decay regularization, ICLR 2019, arXiv 1711.05101, algorithm 2.

    >>> u, _ = adamw(0.5, weight_decay=0.1).update(np.array([4.0]), adamw(0.5).init(np.array([0.0])), np.array([10.0]))
    >>> bool(abs(u[0] + 1.0) < 1e-8)
    True
    """
    return chain(scale_by_adam(beta1, beta2, epsilon), add_weight_decay(weight_decay, where), scale_by_learning_rate(learning_rate))


def lion(learning_rate: Rate, *, beta1: float = 0.9, beta2: float = 0.99, weight_decay: float = 0.0,
         where: Where | None = None) -> Optimizer:
    """theta <- theta - eta (sign(b1 mu + (1-b1) g) + lambda theta), lambda: weight_decay, decoupled; see scale_by_lion.

    The paper advises a rate 3 to 10 times smaller than AdamW's, and a decay as many times larger. where: as in adamw.

    >>> lion(0.5, weight_decay=0.1).update(np.array([4.0]), lion(0.5).init(np.array([0.0])), np.array([10.0]))[0]
    array([-1.])
    """
    return chain(scale_by_lion(beta1, beta2), add_weight_decay(weight_decay, where), scale_by_learning_rate(learning_rate))
