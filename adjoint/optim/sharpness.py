"""Sharpness-aware minimization: the gradient is taken where the loss nearby is worst.

Invariant: two gradients a step, of the same batch; any optimizer takes the second. May import: L0-L3, clipping, scaling.
Read next: projection.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import hyperparameters as hyper
from .clipping import global_norm
from .rule import Optimizer, apply_updates
from .scaling import times


def sharpness_aware(value_and_gradient: Callable, rho: float = 0.05) -> Callable:
    """From a function (parameters, *batch) -> (loss, g) one that returns (loss, g at theta + rho g / |g|), for any optimizer to use.

    |g|: over all leaves; where it is 0 the second point is theta itself. The loss is that at theta. Cost: two gradients, exactly.
    The dependence of the second point on theta is not differentiated, as in the paper (its eq. 3).
    Source: Foret, Kleiner, Mobahi and Neyshabur, Sharpness-aware minimization, ICLR 2021, arXiv 2010.01412, algorithm 1.

    >>> import adjoint as ad
    >>> f = sharpness_aware(ad.value_and_grad(lambda x: np.sum(x ** 2)), rho=1.0)
    >>> f(np.array([3.0, 4.0]))
    (np.float64(25.0), array([7.2, 9.6]))
    """
    hyper.non_negative("sharpness_aware", "rho", rho)

    def perturbed(parameters: Any, *batch: Any) -> tuple[Any, Any]:
        value, gradients = value_and_gradient(parameters, *batch)
        norm = global_norm(gradients)
        factor = np.where(norm > 0, rho / np.where(norm > 0, norm, 1.0), 0.0)
        return value, value_and_gradient(apply_updates(parameters, times(factor, gradients)), *batch)[1]
    return perturbed


def sam(value_and_gradient: Callable, optimizer: Optimizer, rho: float = 0.05) -> Callable:
    """step(parameters, state, *batch) -> (parameters, state, loss): the optimizer on the gradient of `sharpness_aware`. Compile it whole.

    >>> import adjoint as ad
    >>> from adjoint.optim import sgd
    >>> step = sam(ad.value_and_grad(lambda x: np.sum(x ** 2)), sgd(0.5), rho=1.0)
    >>> step(np.array([3.0, 4.0]), sgd(0.5).init(np.zeros(2)))[0].round(12)
    array([-0.6, -0.8])
    """
    gradient = sharpness_aware(value_and_gradient, rho)

    def step(parameters: Any, state: Any, *batch: Any) -> tuple[Any, Any, Any]:
        value, gradients = gradient(parameters, *batch)
        updates, state = optimizer.update(gradients, state, parameters)
        return apply_updates(parameters, updates), state, value
    return step
