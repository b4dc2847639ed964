"""Losses: one number from predictions and targets, the mean over examples, without overflow for any finite prediction.

Invariant: a float32 prediction gives a float32 loss. May import: L0-L3. Read next: optim/.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import DtypeError, IndexRangeError, ShapeError, explain
from ..primitives.special import softplus
from ..transforms.custom import stop_gradient


def cross_entropy(logits: Any, labels: Any, *, label_smoothing: float = 0.0) -> Any:
    """Mean over examples of -sum_k q_k log softmax(logits)_k, q = (1 - s) [k = label] + s / classes, s = label_smoothing.

    Shapes: logits [..., classes], labels integer [...]. Computed as logsumexp(z) - sum q z with z shifted by its maximum. Labels are
    compared with 0..classes-1, not gathered, so that loss and gradient fuse; labels that are plain arrays are checked for range.
    Raises: ShapeError, DtypeError, IndexRangeError. Source: Szegedy et al., arXiv 1512.00567, section 7 (smoothing).

    >>> float(cross_entropy(np.log(np.array([[0.25, 0.75], [0.5, 0.5]])), np.array([1, 0])).round(12))  # -(log 0.75 + log 0.5) / 2
    0.490414626506
    """
    _check_labels(logits, labels)
    classes = np.shape(logits)[-1]
    z = logits - stop_gradient(np.max(logits, axis=-1, keepdims=True))
    hot = labels[..., None] == np.arange(classes)
    if isinstance(label_smoothing, (int, float)) and label_smoothing == 0:
        chosen = np.where(hot, z, 0.0)
    else:
        rest = label_smoothing / classes
        chosen = np.where(hot, z * (1.0 - label_smoothing + rest), z * rest)
    return np.mean(np.log(np.sum(np.exp(z), axis=-1)) - np.sum(chosen, axis=-1))


def _check_labels(logits: Any, labels: Any) -> None:
    shape, classes = np.shape(logits), np.shape(logits)[-1]
    if np.shape(labels) != shape[:-1]:
        raise ShapeError(explain(f"cross_entropy: logits {shape} need labels {shape[:-1]}, found {np.shape(labels)}.",
                                 remedy="Labels are integers, one per example, not one-hot."))
    if labels.dtype.kind not in "iu":
        raise DtypeError(explain(f"cross_entropy: labels are {labels.dtype}, expected integers.", remedy="Use labels.astype(np.int64)."))
    if isinstance(labels, np.ndarray) and labels.size and not (labels.min() >= 0 and labels.max() < classes):
        raise IndexRangeError(explain(f"cross_entropy: labels go from {labels.min()} to {labels.max()}, classes from 0 to {classes - 1}.",
                                      remedy="Number the classes from 0, and check the size of the last layer."))


def squared_error(prediction: Any, target: Any) -> Any:
    """Mean of (prediction - target)^2 over all elements (PyTorch's mse_loss); the gradient is 2 (prediction - target) / elements.

    >>> squared_error(np.array([1.0, 3.0]), np.array([0.0, 1.0]))
    np.float64(2.5)
    """
    if np.shape(prediction) != np.shape(target):
        raise ShapeError(explain(f"squared_error: prediction {np.shape(prediction)}, target {np.shape(target)}.",
                                 remedy="Give both one shape: broadcasting here is nearly always a mistake."))
    difference = prediction - target
    return np.mean(difference * difference)


def logistic_loss(score: Any, sign: Any) -> Any:
    """Mean of log(1 + exp(-sign score)) for signs -1 and 1, without overflow: softplus(-sign score).

    The gradient in the score is -sign sigmoid(-sign score) / examples.

    >>> logistic_loss(np.array([0.0]), np.array([1.0])) == np.log(2.0)
    np.True_
    """
    if np.shape(score) != np.shape(sign):
        raise ShapeError(explain(f"logistic_loss: scores {np.shape(score)}, signs {np.shape(sign)}.", remedy="Give both one shape."))
    return np.mean(softplus(-(sign * score)))
