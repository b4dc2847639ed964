"""Losses: one number from predictions and targets, the mean over examples, without overflow for any finite prediction.

Invariant: a float32 prediction gives a float32 loss; shapes are never broadcast. May import: L0-L3, activations. Read next:
regularization.py.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..core.aval import aval_of
from ..errors import ConfigError, DtypeError, IndexRangeError, ShapeError, explain
from ..primitives.indexing import label
from ..primitives.piecewise import relu
from ..primitives.special import softplus
from ..transforms.custom import stop_gradient


def cross_entropy(logits: Any, labels: Any, *, label_smoothing: float = 0.0) -> Any:
    """Mean over examples of -sum_k q_k log softmax(logits)_k, q = (1 - s) [k = label] + s / classes, s = label_smoothing.

    Shapes: logits [..., classes], labels integer [...]. Computed as logsumexp(z) - sum q z with z shifted by its maximum. Labels are
    compared with 0..classes-1, so that loss and gradient fuse, and checked for range, in native code too.
    Raises: ShapeError, DtypeError, IndexRangeError. Source: Szegedy et al., arXiv 1512.00567, section 7 (smoothing).

    >>> float(cross_entropy(np.log(np.array([[0.25, 0.75], [0.5, 0.5]])), np.array([1, 0])).round(12))  # -(log 0.75 + log 0.5) / 2
    0.490414626506
    """
    labels = _checked_labels("cross_entropy", "logits", logits, labels)
    if isinstance(label_smoothing, (int, float)) and not 0 <= label_smoothing <= 1:
        raise ConfigError(explain(f"cross_entropy: label_smoothing is {label_smoothing!r}, expected a share from 0 to 1.",
                                  remedy="0.1 is usual: so much is taken from the label and given to all classes."))
    classes = np.shape(logits)[-1]
    z = logits - stop_gradient(np.max(logits, axis=-1, keepdims=True))
    hot = labels[..., None] == np.arange(classes)
    if isinstance(label_smoothing, (int, float)) and label_smoothing == 0:
        chosen = np.where(hot, z, 0.0)
    else:
        rest = label_smoothing / classes
        chosen = np.where(hot, z * (1.0 - label_smoothing + rest), z * rest)
    return np.mean(np.log(np.sum(np.exp(z), axis=-1)) - np.sum(chosen, axis=-1))


def nll_loss(log_probabilities: Any, labels: Any) -> Any:
    """Negative log-likelihood: the mean over examples of -log p_label; with log_softmax before it, the cross entropy.

    Shapes: log_probabilities [..., classes], labels integer [...]. The gradient is -1 / examples at the label, else 0.
    Raises: ShapeError, DtypeError, IndexRangeError (as cross_entropy).

    >>> float(nll_loss(np.log(np.array([[0.25, 0.75], [0.5, 0.5]])), np.array([1, 0])).round(12))
    0.490414626506
    """
    labels = _checked_labels("nll_loss", "log probabilities", log_probabilities, labels)
    hot = labels[..., None] == np.arange(np.shape(log_probabilities)[-1])
    return np.mean(-np.sum(np.where(hot, log_probabilities, 0.0), axis=-1))


def _checked_labels(name: str, what: str, scores: Any, labels: Any) -> Any:
    """The labels, which fit the scores; of traced ones native code checks the range."""
    labels, shape = np.asarray(labels) if isinstance(labels, (list, tuple)) else labels, np.shape(scores)
    if not shape or np.shape(labels) != shape[:-1]:
        raise ShapeError(explain(f"{name}: {what} {shape} need labels {shape[:-1]}, found {np.shape(labels)}.",
                                 remedy="Labels are integers, one per example, not one-hot."))
    if 0 in np.shape(labels):
        raise ShapeError(explain(f"{name}: there are no examples: {aval_of(labels)}.", remedy="The mean of nothing has no value."))
    dtype, classes = aval_of(labels).dtype, shape[-1]
    if dtype.kind not in "iu":
        raise DtypeError(explain(f"{name}: labels are {dtype}, expected integers.", remedy="Use labels.astype(np.int64)."))
    if isinstance(labels, np.ndarray) and labels.size and not (labels.min() >= 0 and labels.max() < classes):
        raise IndexRangeError(explain(f"{name}: labels go from {labels.min()} to {labels.max()}, classes from 0 to {classes - 1}.",
                                      remedy="Number the classes from 0, and check the size of the last layer."))
    return labels if isinstance(labels, (np.ndarray, np.generic)) else label(labels, classes=classes)


def _check_shapes(name: str, **arrays: Any) -> None:
    """Refuse arrays that are empty or not all of one shape."""
    shapes = [np.shape(x) for x in arrays.values()]
    if 0 in shapes[0]:
        raise ShapeError(explain(f"{name}: there are no examples: {shapes[0]}.", remedy="The mean of nothing has no value."))
    if any(shape != shapes[0] for shape in shapes):
        found = ", ".join(f"{what} {shape}" for what, shape in zip(arrays, shapes, strict=True))
        every = "both" if len(shapes) == 2 else "all"
        raise ShapeError(explain(f"{name}: {found}.", remedy=f"Give {every} one shape: broadcasting here is nearly always a mistake."))


def squared_error(prediction: Any, target: Any) -> Any:
    """Mean of (prediction - target)^2 over all elements (PyTorch's mse_loss); the gradient is 2 (prediction - target) / elements.

    Raises: ShapeError.

    >>> squared_error(np.array([1.0, 3.0]), np.array([0.0, 1.0]))
    np.float64(2.5)
    """
    _check_shapes("squared_error", prediction=prediction, target=target)
    difference = prediction - target
    return np.mean(difference * difference)


def absolute_error(prediction: Any, target: Any) -> Any:
    """Mean of |prediction - target| over all elements (PyTorch's l1_loss); the gradient is the sign / elements, 0 where both are equal.

    Raises: ShapeError.

    >>> absolute_error(np.array([1.0, 3.0]), np.array([0.0, 1.0]))
    np.float64(1.5)
    """
    _check_shapes("absolute_error", prediction=prediction, target=target)
    return np.mean(np.abs(prediction - target))


def huber_loss(prediction: Any, target: Any, delta: float = 1.0) -> Any:
    """Mean of d^2 / 2 where |d| <= delta, else delta (|d| - delta / 2), d = prediction - target: quadratic near, linear far.

    The gradient is d cut to [-delta, delta], over elements. Raises: ShapeError. Source: Huber, Annals of Mathematical Statistics 35 (1964).

    >>> huber_loss(np.array([0.5, 3.0]), np.array([0.0, 0.0]))
    np.float64(1.3125)
    """
    _check_shapes("huber_loss", prediction=prediction, target=target)
    if isinstance(delta, (int, float)) and not delta > 0:
        raise ConfigError(explain(f"huber_loss: delta is {delta!r}, expected a number above 0.", remedy="1.0 is usual."))
    difference = prediction - target
    size = np.abs(difference)
    return np.mean(np.where(size <= delta, 0.5 * (difference * difference), delta * (size - 0.5 * delta)))


def hinge_loss(score: Any, sign: Any, margin: float = 1.0) -> Any:
    """Mean of max(0, margin - sign score) for signs -1 and 1; the gradient is -sign / elements inside the margin, else 0, also on it.

    Raises: ShapeError. Source: Cortes and Vapnik, Machine Learning 20 (1995).

    >>> hinge_loss(np.array([2.0, 0.5, -1.0]), np.array([1.0, 1.0, 1.0])).round(4)
    np.float64(0.8333)
    """
    _check_shapes("hinge_loss", scores=score, signs=sign)
    if isinstance(sign, np.ndarray) and not np.all(np.abs(sign) == 1):
        raise ConfigError(explain(f"hinge_loss: signs go from {sign.min()} to {sign.max()}, expected -1 and 1.",
                                  remedy="Of labels: 2 * y - 1."))
    return np.mean(relu(margin - sign * score))


def logistic_loss(score: Any, sign: Any) -> Any:
    """Mean of log(1 + exp(-sign score)) for signs -1 and 1, without overflow: softplus(-sign score).

    The gradient in the score is -sign sigmoid(-sign score) / examples. Raises: ShapeError.

    >>> logistic_loss(np.array([0.0]), np.array([1.0])) == np.log(2.0)
    np.True_
    """
    _check_shapes("logistic_loss", scores=score, signs=sign)
    if isinstance(sign, np.ndarray) and not np.all(np.abs(sign) == 1):
        raise ConfigError(explain(f"logistic_loss: signs go from {sign.min()} to {sign.max()}, expected -1 and 1.",
                                  remedy="Of labels: 2 * y - 1."))
    return np.mean(softplus(-(sign * score)))


def kl_divergence(log_q: Any, p: Any) -> Any:
    """KL(p || q): the mean over examples of sum_k p_k (log p_k - log q_k), with 0 log 0 = 0 (PyTorch's kl_div, "batchmean").

    Shapes: log_q and p [..., classes]. The gradient in log q is -p / examples; that in p needs p > 0. Raises: ShapeError.
    Source: Kullback and Leibler, Annals of Mathematical Statistics 22 (1951).

    >>> float(kl_divergence(np.log(np.array([[0.5, 0.5]])), np.array([[1.0, 0.0]])).round(12))  # log 2
    0.69314718056
    """
    _check_shapes("kl_divergence", log_q=log_q, p=p)
    positive = p > 0
    terms = np.where(positive, p * (np.log(np.where(positive, p, 1.0)) - log_q), 0.0)
    return np.mean(np.sum(terms, axis=-1))


def gaussian_nll(mean: Any, target: Any, variance: Any, *, eps: float = 1e-6, full: bool = False) -> Any:
    """Mean of (log v + (mean - target)^2 / v) / 2, v = max(variance, eps): the negative log-likelihood of a normal distribution.

    full: with the constant log(2 pi) / 2. The gradient in the variance is that at v, also where eps is larger (as in PyTorch).
    Raises: ShapeError. Source: Nix and Weigend, ICNN 1994.

    >>> float(gaussian_nll(np.array([1.0]), np.array([3.0]), np.array([4.0])).round(12))  # (log 4 + 1) / 2
    1.19314718056
    """
    _check_shapes("gaussian_nll", mean=mean, target=target, variance=variance)
    if isinstance(variance, np.ndarray) and not np.all(variance >= 0):
        raise ConfigError(explain(f"gaussian_nll: a variance is {np.min(variance)}, expected at least 0.",
                                  remedy="Let the network give its logarithm: variance = np.exp(out), or nn.softplus(out)."))
    v = variance + stop_gradient(np.where(variance < eps, eps - variance, 0.0))
    difference = mean - target
    loss = np.mean(0.5 * (np.log(v) + difference * difference / v))
    return loss + 0.5 * math.log(2.0 * math.pi) if full else loss
