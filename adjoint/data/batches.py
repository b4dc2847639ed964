"""Shuffled mini-batches at memcpy speed, whose whole state is three integers.

Invariant: the examples of (seed, epoch, cursor) are the same on every machine and NumPy: an epoch's order is
the rank order of Philox's raw words, a stream that NumPy guarantees. May import: errors. Read next: train/.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

from ..errors import ConfigError, DataError, explain

_LARGEST = 1 << 62


def _require(condition: bool, what: str, remedy: str) -> None:
    if not condition:
        raise ConfigError(explain(f"Batches: {what}", remedy=remedy))


class Batches:
    """Mini-batches of arrays that share their first axis; each `for` walks over the rest of the current epoch.

    The batches are views of buffers that the next batch overwrites: copy what must outlive the step. `last` says
    what becomes of the examples that do not fill a batch: "keep" gives them as a shorter last batch, "drop"
    leaves them out of that epoch. With `replace` every example of every batch is drawn uniformly from all of them,
    as the theory of stochastic gradient descent has it; without, an epoch is a partition: each example once.

    Shapes: arrays [examples, ...]; a batch is a tuple of [batch, ...], the last one of an epoch [1..batch, ...].
    Cost: one copy of the batch; at the start of an epoch a sort of `examples` words.
    Example:
        >>> batches = Batches(np.arange(5), batch=2, seed=3)
        >>> [len(x) for x, in batches], batches.state()
        ([2, 2, 1], {'seed': 3, 'epoch': 1, 'cursor': 0})
    """

    def __init__(self, *arrays: np.ndarray, batch: int, seed: int = 0, shuffle: bool = True,
                 last: Literal["keep", "drop"] = "keep", replace: bool = False) -> None:
        _require(bool(arrays), "no arrays were given.", "Write Batches(x, y, batch=64).")
        self._arrays = tuple(np.asarray(array) for array in arrays)
        lengths = [array.shape[0] if array.ndim else 0 for array in self._arrays]
        if len(set(lengths)) != 1 or lengths[0] == 0:
            shapes = ", ".join(str(array.shape) for array in self._arrays)
            raise DataError(explain(
                f"Batches: the arrays must have the same number of examples, at least one: shapes {shapes}.",
                remedy="Check that x and y belong together; the first axis counts examples."))
        self.examples = lengths[0]
        _require(isinstance(batch, (int, np.integer)) and not isinstance(batch, bool) and batch >= 1,
                 f"batch is {batch!r}.", "A batch has at least one example, for instance batch=64.")
        _require(isinstance(seed, (int, np.integer)) and 0 <= seed < _LARGEST, f"seed is {seed!r}.",
                 "Give an integer from 0 to 2**62 - 1.")
        _require(last in ("keep", "drop"), f"last is {last!r}.", 'Choose last="keep" or last="drop".')
        _require(shuffle or not replace, "replace=True with shuffle=False.", "Drawing with replacement is a shuffle of its own.")
        self.batch, self.shuffle, self.last, self.replace = int(batch), bool(shuffle), last, bool(replace)
        _require(last == "keep" or batch <= self.examples, f'batch is {batch}, with last="drop" none of the '
                 f"{self.examples} examples would be seen.", 'Choose a smaller batch or last="keep".')
        self._seed, self._epoch, self._cursor = int(seed), 0, 0
        self._order: np.ndarray | None = None
        rows = min(self.batch, self.examples)
        self._buffers = tuple(np.empty((rows, *array.shape[1:]), array.dtype) for array in self._arrays)

    def __len__(self) -> int:
        """Batches in an epoch."""
        whole, rest = divmod(self.examples, self.batch)
        return whole + (rest > 0 and self.last == "keep")

    @property
    def epoch(self) -> int:
        """Epochs that were walked to their end."""
        return self._epoch

    @property
    def cursor(self) -> int:
        """Batches of the current epoch that were given out."""
        return self._cursor

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        """The rest of the current epoch; a batch counts as done in the state while the loop holds it."""
        epoch = self._epoch
        while self._epoch == epoch:
            batch = self._gather(self._cursor * self.batch)
            self._cursor += 1
            if self._cursor == len(self):
                self._epoch, self._cursor, self._order = self._epoch + 1, 0, None
            yield batch

    def _gather(self, start: int) -> tuple[np.ndarray, ...]:
        if self._order is None:
            self._order = self._epoch_order()
        rows = self._order[start:start + self.batch]
        # mode="clip" lets NumPy copy straight into the buffer; the default would copy twice to undo a bad index.
        return tuple(array.take(rows, axis=0, out=buffer[:len(rows)], mode="clip")
                     for array, buffer in zip(self._arrays, self._buffers, strict=True))

    def _epoch_order(self) -> np.ndarray:
        if not self.shuffle:
            return np.arange(self.examples)
        # The example number sits in the low bits of its random word: one fast sort, and no ties whose order depends
        # on the processor's sorting code.
        low = np.uint64((1 << self.examples.bit_length()) - 1)
        words = np.random.Philox(key=self._seed | (self._epoch << 64)).random_raw(self.examples)
        if self.replace:
            # The high half of a 32 x 32-bit product: uniform up to examples / 2**32.
            return (((words >> np.uint64(32)) * np.uint64(self.examples)) >> np.uint64(32)).astype(np.intp)
        words = (words & ~low) | np.arange(self.examples, dtype=np.uint64)
        words.sort()
        return (words & low).astype(np.intp)

    def state(self) -> dict[str, int]:
        """Where the walk stands, as plain integers: restore(state) in another process goes on with the same batches."""
        return {"seed": self._seed, "epoch": self._epoch, "cursor": self._cursor}

    def restore(self, state: dict[str, int]) -> None:
        """Go on where `state` was taken. Raises DataError, and changes nothing, if it cannot be of these batches."""
        if not isinstance(state, dict) or set(state) != {"seed", "epoch", "cursor"}:
            raise DataError(explain("Batches.restore: a state has exactly seed, epoch and cursor.",
                                    remedy="Give what Batches.state() returned."))
        bounds = {"seed": _LARGEST, "epoch": _LARGEST, "cursor": len(self)}
        for name, bound in bounds.items():
            value = state[name]
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < bound:
                raise DataError(explain(
                    f"Batches.restore: {name} is {value!r}, expected an integer from 0 to {bound - 1}.",
                    remedy="Resume with the data and the batch size that the run was started with."))
        self._seed, self._epoch, self._cursor = state["seed"], state["epoch"], state["cursor"]
        self._order = None
