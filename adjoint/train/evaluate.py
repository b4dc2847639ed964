"""Evaluation: what a model says of many examples, in blocks of one size, so that one compiled program serves them all.

Invariant: a row's result does not depend on the rows it is computed with. May import: L0-L5. Read next: fit.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..compiler.compile import compile
from ..errors import ShapeError, explain

BLOCK = 512                 # examples per call


class Predictor:
    """model(x) for any number of examples: predict(model, x) -> outputs.

    >>> predict = Predictor(compiled=False, block=2)
    >>> predict(lambda x: x.sum(axis=1), np.ones((5, 3)))
    array([3., 3., 3., 3., 3.])
    """

    def __init__(self, *, compiled: bool = True, block: int = BLOCK):
        forward = lambda model, x: model(x)
        self._forward, self._block = compile(forward) if compiled else forward, block

    def __call__(self, model: Any, x: np.ndarray) -> np.ndarray:
        if len(x) == 0:
            raise ShapeError(explain("predict: there are no examples.", remedy="Give an array with at least one row."))
        outputs = []
        for start in range(0, len(x), self._block):
            rows = x[start:start + self._block]
            missing = self._block - len(rows)
            if missing:                         # a short last block is filled up: no second program for it
                rows = np.concatenate([rows, np.zeros((missing, *x.shape[1:]), x.dtype)])
            outputs.append(np.array(self._forward(model, rows))[:self._block - missing])
        return np.concatenate(outputs)


def error_rate(logits: np.ndarray, labels: np.ndarray) -> float:
    """The share of examples whose largest output is not their label.

    >>> error_rate(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([1, 1]))
    0.5
    """
    _check(logits, labels)
    return float(np.mean(np.argmax(logits, axis=-1) != labels))


def _check(logits: np.ndarray, labels: np.ndarray) -> None:
    if np.ndim(logits) < 2 or np.shape(labels) != np.shape(logits)[:-1] or np.size(labels) == 0:
        raise ShapeError(explain(f"evaluation: outputs {np.shape(logits)}, labels {np.shape(labels)}, expected outputs [examples, classes] "
                                 "and a label for each of at least one example.", remedy="Labels are integers, not one-hot."))


def confusion_matrix(logits: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """counts[label, said], an int64 [classes, classes].

    >>> confusion_matrix(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([1, 1]), 2)
    array([[0, 0],
           [1, 1]])
    """
    _check(logits, labels)
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, np.argmax(logits, axis=-1)), 1)
    return counts
