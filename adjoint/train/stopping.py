"""Early stopping: on the true loss of held-out examples (their error), while a surrogate is differentiated.

Invariant: what is decided is a function of the losses seen, so that a resumed run decides as the uninterrupted one.
May import: L0, optim, checkpoint. Read next: fit.py.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import CheckpointError, ConfigError, explain
from ..optim import hyperparameters as hyper
from ..tree import copy, flatten, paths, unflatten
from .checkpoint import load, save


class EarlyStopping:
    """Stop when the true loss has not fallen by more than `tolerance` for `patience` epochs in a row, or is at most `enough`.

    In fit: stop=EarlyStopping(...) reads `metric` of each epoch's line (validation_error: the share of wrong predictions, the 0-1 loss
    that no gradient sees). In a loop of your own: `stop.observe(loss, model)` after each epoch is true when it should end.
    Then `model` is a copy of the best one, `best_epoch` its number (from 1), `best` its loss, and `gradient_norm` the |g| at the stop:
    it may still be large, since it is not what was waited for (in fit: of the last batch). NaN never improves.
    path: a file that holds the best model too, so that it outlives the process; a run that resumes reads it again.
    Source: Prechelt, Early stopping - but when?, 1998, section 1.2; Goodfellow et al., Deep Learning, 2016, algorithm 7.1.

    >>> stop = EarlyStopping(patience=2)
    >>> [stop.observe(loss, model={"epoch": k}) for k, loss in enumerate([0.5, 0.3, 0.31, 0.3])]
    [False, False, False, True]
    >>> stop.best_epoch, stop.best, stop.model
    (2, 0.3, {'epoch': 1})
    """

    def __init__(self, patience: int = 10, *, tolerance: float = 0.0, enough: float = -math.inf, metric: str = "validation_error",
                 path: str | os.PathLike | None = None):
        self.patience = hyper.whole("EarlyStopping", "patience", patience)
        self.tolerance = hyper.non_negative("EarlyStopping", "tolerance", tolerance)
        self.enough, self.metric, self.path = enough, metric, path
        self.losses: list[float] = []
        self.best, self.best_epoch, self.model, self.gradient_norm = math.inf, 0, None, math.nan

    def __call__(self, history: Sequence[dict[str, Any]]) -> bool:
        """Whether fit should end, from the lines of all its epochs."""
        if history and self.metric not in history[-1]:
            raise ConfigError(explain(f"EarlyStopping: the epochs have no {self.metric!r}, only {', '.join(sorted(history[-1]))}.",
                                      remedy="Give fit validation=(x, y) with integer labels, or metric='validation_loss'."))
        self.losses = [float(line[self.metric]) for line in history]
        norms = history[-1].get("gradient_norms", {}).values() if history else ()
        self.gradient_norm = math.sqrt(sum(norm * norm for norm in norms))
        return self._decide()

    def observe(self, loss: float, model: Any = None, gradient_norm: float = math.nan) -> bool:
        """Take the true loss of an epoch, and keep a copy of its model if it is the best; whether to end.

        >>> EarlyStopping(enough=0.1).observe(0.05)
        True
        """
        self.losses.append(float(loss))
        self.gradient_norm = float(gradient_norm)
        ended = self._decide()
        self.keep(model)
        return ended

    def keep(self, model: Any) -> None:
        """Copy the model if the last loss is the best so far: steps may write over it. fit calls it after each epoch.

        >>> EarlyStopping().keep({"w": 1.0})
        """
        if self.losses and self.best_epoch == len(self.losses):
            self.model = copy(model)
            if self.path is not None:
                leaves = zip(paths(model), flatten(model)[0], strict=True)
                save(self.path, {name: np.asarray(x) for name, x in leaves}, {"epoch": self.best_epoch})
        elif self.model is None and self.path is not None and self.best_epoch:
            self.model = self._read(model)

    def _read(self, model: Any) -> Any:
        """The best model of the run before the resume."""
        leaves, structure = flatten(model)
        names = paths(model)
        found = load(self.path, dict(zip(names, map(np.asarray, leaves), strict=True)))
        if found.counter("epoch") != self.best_epoch:
            raise CheckpointError(explain(f"EarlyStopping: {self.path} holds the model of epoch {found.counter('epoch')}, "
                                          f"the best is that of {self.best_epoch}.", where="", remedy="Give each run a path of its own."))
        return unflatten(structure, [found.tensors[name] for name in names])

    def _decide(self) -> bool:
        self.best, self.best_epoch = math.inf, 0
        for epoch, loss in enumerate(self.losses, 1):
            if loss < self.best - self.tolerance:
                self.best, self.best_epoch = loss, epoch
        return len(self.losses) - self.best_epoch >= self.patience or self.best <= self.enough
