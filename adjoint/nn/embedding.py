"""Embedding: a table of vectors, one per symbol; and one-hot vectors, whose product with a table is the same look-up.

Invariant: a label is 0..num-1; there is no counting from the end. May import: L0-L3, module, init. Read next: recurrent.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..core.aval import aval_of
from ..core.interpreter import Tracer
from ..errors import ConfigError, DtypeError, IndexRangeError, explain
from ..primitives.indexing import gather
from ..primitives.indexing import one_hot as _one_hot
from ..transforms.custom import stop_gradient
from . import init
from .layers import sizes
from .module import Module


class Embedding(Module):
    """y = weight[x]: the row of each symbol; its transpose adds the cotangents of equal symbols into their row.

    Shapes: x integer [...], weight [num_embeddings, embedding_dim], y [..., embedding_dim]. padding_idx: this row starts at zero and
    never receives a gradient (as PyTorch's). weight_init(shape, rng, dtype=) draws the weight (default: PyTorch's N(0, 1)).
    Raises: DtypeError, IndexRangeError for symbols outside of the table. Cost: embedding_dim reads and writes a symbol, no flops.

    Example:
        >>> table = Embedding(3, 2, rng=np.random.default_rng(0))
        >>> table(np.array([[2, 0, 2, 1]])).shape
        (1, 4, 2)
    """

    weight: np.ndarray
    padding_idx: int | None

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None, *, rng: np.random.Generator,
                 weight_init: Callable | None = None, dtype: Any = np.float32) -> None:
        sizes("Embedding", num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        shape = (num_embeddings, embedding_dim)
        weight = init.normal(shape, rng, std=1.0, dtype=dtype) if weight_init is None else weight_init(shape, rng, dtype=dtype)
        if padding_idx is not None:
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise ConfigError(explain(f"Embedding: padding_idx is {padding_idx}, the table has rows 0 to {num_embeddings - 1}.",
                                          remedy="Give the number of the symbol that fills up short sequences, or None."))
            padding_idx %= num_embeddings
            weight[padding_idx] = 0.0
        self._place(weight=weight, padding_idx=padding_idx)

    def __call__(self, x: Any) -> Any:
        _check("Embedding", x, self.weight.shape[0])
        if isinstance(x, Tracer) and aval_of(x).dtype.kind == "i":
            x = np.where(x < 0, self.weight.shape[0], x)                # gather alone would count from the end
        rows = gather(self.weight, x)
        return rows if self.padding_idx is None else np.where(x[..., None] == self.padding_idx, stop_gradient(rows), rows)


def one_hot(labels: Any, classes: int, dtype: Any = np.float32) -> Any:
    """y[..., k] = 1 where k = label, else 0. Compiled, one_hot(x, n) @ weight is a look-up of rows and costs no product.

    Shapes: labels integer [...], y [..., classes]. Derivative: none (labels are integers). Raises: DtypeError, IndexRangeError.

    >>> one_hot(np.array([2, 0]), 3)
    array([[0., 0., 1.],
           [1., 0., 0.]], dtype=float32)
    """
    _check("one_hot", labels, classes)
    return _one_hot(labels, classes=classes, dtype=np.dtype(dtype))


def _check(name: str, labels: Any, classes: int) -> None:
    dtype = aval_of(labels).dtype
    if dtype.kind not in "iu":
        raise DtypeError(explain(f"{name}: labels are {dtype}, expected integers.", remedy="Use labels.astype(np.int64)."))
    if isinstance(labels, (np.ndarray, np.generic)) and labels.size and not (labels.min() >= 0 and labels.max() < classes):
        raise IndexRangeError(explain(f"{name}: labels go from {labels.min()} to {labels.max()}, rows from 0 to {classes - 1}.",
                                      remedy="Number the symbols from 0, and check the size of the table."))
