"""Regularization: penalties on a model's weights, to be added to a loss.

Invariant: buffers (running statistics) are no weights. May import: L0-L3, module, modes. Read next: ../optim/.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.aval import aval_of
from ..errors import NotDifferentiableError, explain
from ..tree import flatten
from .modes import trainable


def _weights(name: str, model: Any, matrices_only: bool) -> list:
    """The floating arrays that are trained."""
    leaves = [x for x in flatten(trainable(model, model))[0] if x is not None and aval_of(x).dtype.kind == "f"]
    found = [x for x in leaves if not matrices_only or aval_of(x).ndim > 1]
    if not found:
        raise NotDifferentiableError(explain(f"{name}: the model has no floating weights{' of two axes' if matrices_only else ''}.",
                                             remedy="Pass the model or a part of it, not its gradients or its name."))
    return found


def l2(model: Any, *, matrices_only: bool = False) -> Any:
    """1/2 sum w^2 over all trained weights; its gradient is w.

    Under plain gradient descent, adding s l2(model) to the loss is weight decay: w <- w - eta (g + s w) = (1 - eta s) w - eta g. Under
    rules that scale the gradient (Adam) it is not: there the penalty is scaled away, and optim's decoupled weight decay is what shrinks.
    matrices_only: without biases and scales, which have one axis. Source: Loshchilov and Hutter, arXiv 1711.05101, section 2.

    >>> l2({"weight": np.array([[3.0, 4.0]]), "bias": np.array([1.0])})
    np.float64(13.0)
    """
    total, *rest = [np.sum(np.square(x)) for x in _weights("l2", model, matrices_only)]
    for term in rest:
        total = total + term
    return 0.5 * total


def l1(model: Any, *, matrices_only: bool = False) -> Any:
    """sum |w| over all trained weights; its gradient is sign w, 0 at 0: weights that matter little go to zero.

    Source: Tibshirani, Journal of the Royal Statistical Society B 58 (1996).

    >>> l1({"weight": np.array([[3.0, -4.0]]), "bias": np.array([1.0])}, matrices_only=True)
    np.float64(7.0)
    """
    total, *rest = [np.sum(np.abs(x)) for x in _weights("l1", model, matrices_only)]
    for term in rest:
        total = total + term
    return total
