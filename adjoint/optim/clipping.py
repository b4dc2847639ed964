"""Clipping: gradients made small without losing their direction, or their signs. A heuristic: nothing is proven of it in general.

Invariant: a gradient inside the limit comes out as it went in. May import: L0-L3, rule. Read next: momentum.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..tree import flatten
from . import hyperparameters as hyper
from .rule import Optimizer, on_leaves, stateless
from .scaling import times


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
    hyper.positive("clip_by_global_norm", "limit", limit)
    return stateless(lambda gradients, _: times(limit / np.maximum(global_norm(gradients), limit), gradients))


def clip_by_value(limit: float) -> Optimizer:
    """u = max(-c, min(c, g)) element by element, c = limit: the signs are kept, the direction is not. NaN passes through.

    Source: Mikolov, Statistical language models based on neural networks, thesis, Brno 2012, section 3.2.2.

    >>> clip_by_value(1.0).update(np.array([3.0, -0.5, -4.0]), (), None)[0]
    array([ 1. , -0.5, -1. ])
    """
    hyper.positive("clip_by_value", "limit", limit)
    return stateless(lambda gradients, _: on_leaves(lambda g: (np.minimum(np.maximum(g, -limit), limit),), gradients)[0])


def clip_adaptively(limit: float = 0.01, floor: float = 1e-3) -> Optimizer:
    """u_i = g_i min(1, c max(|theta_i|, floor) / |g_i|) for every unit i: a gradient is large or small beside the weights it changes.

    A unit is a row of an array [units, ...] of two axes or more (what feeds one output: PyTorch's layout), and the whole of a vector or
    scalar. |.|: the Euclidean norm; limit: c; floor keeps units that start at zero moving.
    Source: Brock, De, Smith and Simonyan, High-performance large-scale image recognition without normalization, ICML 2021,
    arXiv 2102.06171, eq. 3.

    >>> rule = clip_adaptively(0.1)
    >>> rule.update(np.array([[3.0, 4.0], [0.0, 0.1]]), (), np.array([[10.0, 0.0], [0.0, 1.0]]))[0]
    array([[0.6, 0.8],
           [0. , 0.1]])
    """
    hyper.positive("clip_adaptively", "limit", limit)
    hyper.positive("clip_adaptively", "floor", floor)

    def leaf(g: Any, p: Any) -> tuple[Any]:
        axes = tuple(range(1, np.ndim(g))) if np.ndim(g) >= 2 else None
        norm = lambda x: np.sqrt(np.sum(x * x, axis=axes, keepdims=True))
        most = limit * np.maximum(norm(p), floor)
        return (g * (most / np.maximum(norm(g), most)),)
    return stateless(lambda gradients, parameters: on_leaves(leaf, gradients, parameters)[0])
