"""What `fit` asks of several workers that train together; here: of one worker alone.

Invariant: every worker calls the same methods in the same order. May import: loop. Read next: distributed/data_parallel.py.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
import numpy as np

from ..errors import ConfigError, explain
from ..optim import Optimizer
from .loop import make_step

TAKEN = 2 ** 11         # elements of an array that stand for it when workers compare their data
WIDTH = 2 ** 6          # of them, from one example
APART = 1e-5            # of the sum of their magnitudes: what workers with other processors may have rounded otherwise
REMEDIES = {"epochs": "Give every rank the same epochs.", "batch": "Give every rank the same batch: each takes its own share of it.",
            "validation": "Give all ranks the whole validation set, or none to all: each measures its own share of it."}


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


def facts_of(arrays: Any) -> tuple[str, list]:
    """What workers compare of arrays [examples, ...]: dtypes and shapes, and the sums of `_sums` of each.

    >>> facts_of((np.ones((2, 3), np.float32), np.arange(2)))
    ('float32 (2, 3) and int64 (2,)', [(9.0, 9.0), (2.0, 2.0)])
    >>> facts_of(None)
    ('none', [])
    """
    found = [np.asarray(x) for x in arrays or ()]
    return " and ".join(f"{x.dtype} {x.shape}" for x in found) or "none", [_sums(x) for x in found]


def _sums(x: np.ndarray) -> tuple[float, float]:
    """Of evenly spaced elements of evenly spaced examples: the sum and that of magnitudes, later ones weighing more, up to twice."""
    if not x.size or x.dtype.kind not in "biuf":
        return 0.0, 0.0
    x = x[:, None] if x.ndim == 1 else x
    spaced = lambda count, most: np.linspace(0, count - 1, min(count, most)).astype(np.int64)
    inside = spaced(math.prod(x.shape[1:]), WIDTH)
    rows = spaced(len(x), TAKEN // len(inside))
    found = x[rows[:, None], *np.unravel_index(inside, x.shape[1:])].astype(np.float64)        # of a file that is mapped: few pages
    found = np.clip(np.nan_to_num(found), -1e300, 1e300) * np.linspace(1, 2, found.size).reshape(found.shape)
    return float(found.sum()), float(np.abs(found).sum())


def check_alike(parallel: Parallel, mine: dict, told: dict, source: int) -> None:
    """Raise ConfigError on every worker if the facts of one are not those told by `source`: {name: (what it has, sums)}."""
    other_than = lambda facts: [name for name in told if not _alike(facts[name], told[name])]
    differs = bool(other_than(mine))
    if not parallel.any(differs):
        return
    rank = next(each for each in itertools.count() if parallel.any(differs and each == parallel.rank))       # all say the same
    theirs = msgspec.json.decode(parallel.tell(msgspec.json.encode(mine), rank))
    name = other_than(theirs)[0]
    (found, _), (expected, _) = theirs[name], told[name]
    what = f"{found} on rank {rank}, {expected} on rank {source}"
    if found == expected:
        what = f"other values on rank {rank} than on rank {source}, in arrays of the same shapes"
    raise ConfigError(explain(f"fit: {name}: {what}.", remedy=REMEDIES.get(
        name, "Give all ranks the whole data, in the same order: each takes its own share of every batch.")))


def _alike(mine: Any, other: Any) -> bool:
    near = lambda a, b: abs(a[0] - b[0]) <= APART * max(a[1], b[1])
    return mine[0] == other[0] and all(map(near, mine[1], other[1]))
