"""Normalization: features brought to mean 0 and deviation 1, with numbers that were taken from training data alone.

Invariant: what is applied to test data was fitted without it. May import: errors. Read next: augmentation.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DataError, ShapeError, explain


@dataclass(frozen=True, eq=False)
class Normalization:
    """z = (x - mean) / deviation, mean and deviation of each feature over the training examples.

    `axis` says what is averaged: 0 (the default) gives every feature numbers of its own, (0, 2, 3) every channel of images, None one pair
    for everything. A feature that never varies keeps deviation 1, so that it becomes 0 and not NaN. The dtype of x is kept.

    >>> x = np.array([[1.0, 5.0], [3.0, 5.0]])
    >>> scale = Normalization.fit(x)
    >>> scale(x).tolist(), scale.mean.tolist(), scale.deviation.tolist()
    ([[-1.0, 0.0], [1.0, 0.0]], [[2.0, 5.0]], [[1.0, 1.0]])
    """

    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def fit(cls, x: np.ndarray, axis: Any = 0) -> Normalization:
        """Mean and deviation (divided by the number of examples) of training data, summed in float64. Raises: DataError."""
        x = np.asarray(x)
        if x.size == 0 or x.ndim == 0 or x.dtype.kind not in "uif":
            raise DataError(explain(f"Normalization.fit: x is {x.dtype}{list(x.shape)}, expected numbers of at least one example.",
                                    remedy="Give the training examples; the first axis counts them."))
        mean = x.mean(axis=axis, dtype=np.float64, keepdims=True)
        deviation = x.std(axis=axis, dtype=np.float64, keepdims=True)
        if not np.isfinite(deviation).all():
            raise DataError(explain("Normalization.fit: x holds NaN or infinity.", remedy="Fill or drop missing values first."))
        # Of a constant feature mean and deviation are off by a rounding, and 0 / 0 would be noise.
        least = x.min(axis=axis, keepdims=True).astype(np.float64)
        constant = least == x.max(axis=axis, keepdims=True)
        return cls(np.where(constant, least, mean), np.where(constant, 1.0, deviation))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """x in units of its training deviation, about its training mean."""
        x = np.asarray(x)
        if x.ndim != self.mean.ndim or any(m not in (1, n) for m, n in zip(self.mean.shape[1:], x.shape[1:], strict=True)):
            raise ShapeError(explain(f"Normalization: x has shape {x.shape}, it was fitted to features of shape {self.mean.shape[1:]}.",
                                     remedy="Normalize data of the form that fit was given."))
        dtype = x.dtype if x.dtype.kind == "f" else np.dtype(np.float64)
        return (x.astype(dtype) - self.mean.astype(dtype)) / self.deviation.astype(dtype)
