"""Dropout: units left out at random while training, the identity afterwards.

Invariant: in evaluation mode the layer does nothing; in training mode it is a pure function of its key. May import: L0-L3, module,
random. Read next: modes.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ConfigError, explain
from .module import Module
from .random import bernoulli


def dropout(x: Any, p: float, key: Any) -> Any:
    """y = m x / (1 - p) with independent m in {0, 1}, P(m = 0) = p: the mean of y is x. The derivative is m / (1 - p).

    p: the share left out, 0 <= p < 1 (1 gives zeros). key: int64 [2]. Source: Srivastava et al., Dropout: a simple way to prevent neural
    networks from overfitting, JMLR 15 (2014), in the inverted form: nothing is rescaled at evaluation.

    >>> dropout(np.ones(8), 0.5, np.array([0, 1]))
    array([2., 2., 0., 0., 2., 0., 2., 2.])
    """
    if p == 0.0:
        return x
    factor = 0.0 if p == 1.0 else 1.0 / (1.0 - p)
    return np.where(bernoulli(key, 1.0 - p, np.shape(x)), x * factor, 0.0)


class Dropout(Module):
    """`dropout` in training mode, the identity in evaluation mode. p: the share of elements left out.

    Example:
        >>> from adjoint import nn
        >>> layer = Dropout(0.5)
        >>> layer(np.ones(4)), nn.training(layer, np.array([0, 1]))(np.ones(4))
        (array([1., 1., 1., 1.]), array([0., 2., 0., 2.]))
    """

    p: float
    key: np.ndarray | None

    def __init__(self, p: float = 0.5) -> None:
        if not (isinstance(p, (int, float)) and 0.0 <= p <= 1.0):
            raise ConfigError(explain(f"Dropout: p is {p!r}, expected a probability from 0 to 1.", remedy="For instance nn.Dropout(0.5)."))
        self._place(p=float(p), key=None)

    def training(self, path: str, key: Any) -> Dropout:
        """The layer that leaves units out, drawn by this key."""
        if key is None and self.p > 0.0:
            raise ConfigError(explain(f"Dropout ({path or 'the model'}): training needs a key of random numbers.",
                                      remedy="nn.training(model, np.array([seed, step])); in an open loop step(model, state, x, y, key)."))
        layer = Dropout.__new__(Dropout)
        layer._place(p=self.p, key=key)
        return layer

    def __call__(self, x: Any) -> Any:
        return x if self.key is None else dropout(x, self.p, self.key)
