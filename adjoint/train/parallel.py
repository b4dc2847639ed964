"""What `fit` asks of several workers that train together; here: of one worker alone.

Invariant: every worker calls the same methods in the same order. May import: loop. Read next: distributed/data_parallel.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from ..optim import Optimizer
from .loop import make_step


class Parallel(Protocol):
    """Workers that hold the same model and share each batch. leads: whether this one writes logs and checkpoints; whole: whether it has
    model and optimizer after every step, as a snapshot must; pieces: in how many parts `total` cuts what it sums over."""

    leads: bool
    whole: bool
    rank: int
    pieces: int

    def make_step(self, loss: Callable, optimizer: Optimizer, *, compiled: bool) -> Callable:
        """A step as train.make_step's, over the examples of all workers."""
        ...

    def share(self, *arrays: Any) -> tuple:
        """This worker's rows of a batch."""
        ...

    def agree(self, model: Any, state: Any, source: int = 0) -> tuple[Any, Any]:
        """The model and state of one worker, everywhere."""
        ...

    def tell(self, message: bytes, source: int = 0) -> bytes:
        """The message of one worker, everywhere."""
        ...

    def furthest(self, steps: int) -> int:
        """The rank of the worker that has done the most steps, the lowest of several."""
        ...

    def largest(self, number: int) -> int:
        """The largest of every worker's number."""
        ...

    def first(self, flag: bool) -> int | None:
        """The lowest rank whose flag is true in a step that was refused, -1 if none is, None where that is not known."""
        ...

    def any(self, flag: bool) -> bool:
        """Whether the flag of any worker is true, after an epoch."""
        ...

    def total(self, measure: Callable[[slice], np.ndarray], examples: int, width: int) -> np.ndarray:
        """The sum over all examples of the `width` numbers that measure(rows) says of some of them, the same bits everywhere."""
        ...

    def settle(self, model: Any, state: Any, loss: float = 0.0) -> tuple[Any, Any, float]:
        """At the end of an epoch and of the run: the model, the state and the sum of losses that all go on with."""
        ...


class OneWorker:
    """A process that trains by itself.

    >>> OneWorker().leads, OneWorker().largest(3)
    (True, 3)
    """

    leads, whole, rank, pieces = True, True, 0, 1

    def make_step(self, loss: Callable, optimizer: Optimizer, *, compiled: bool) -> Callable:
        return make_step(loss, optimizer, compiled=compiled)

    def share(self, *arrays: Any) -> tuple:
        return arrays

    def agree(self, model: Any, state: Any, source: int = 0) -> tuple[Any, Any]:
        return model, state

    def tell(self, message: bytes, source: int = 0) -> bytes:
        return message

    def furthest(self, steps: int) -> int:
        return 0

    def largest(self, number: int) -> int:
        return number

    def first(self, flag: bool) -> int | None:
        return 0 if flag else -1

    def any(self, flag: bool) -> bool:
        return flag

    def total(self, measure: Callable[[slice], np.ndarray], examples: int, width: int) -> np.ndarray:
        return measure(slice(0, examples))

    def settle(self, model: Any, state: Any, loss: float = 0.0) -> tuple[Any, Any, float]:
        return model, state, loss
