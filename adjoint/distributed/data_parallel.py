"""Data parallelism: the same model on every rank, different examples; gradients are summed over ranks before one common update.

Invariant: after every step all ranks hold the same model and state, bit for bit. With `exact_reduce` these bits do not depend on the
number of ranks. May import: L0-L5, train, collectives. Read next: fixed_point.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..compiler.compile import compile
from ..errors import CommunicationError, ConfigError, ShapeError, explain
from ..nn.modes import absorb
from ..optim import Optimizer, apply_updates
from ..train.loop import check_parts, choose, objective
from ..tree import Structure, flatten, unflatten
from .collectives import all_reduce, broadcast
from .communicator import Communicator
from .fixed_point import exact_sum
from .schedules import bounds

SHARDS = 12             # virtual shards of an exact step: dealt evenly to 1, 2, 3, 4, 6 and 12 ranks
BUCKET = 25 * 2 ** 20   # bytes of gradients that are summed together


class Layout(NamedTuple):
    """Where the gradients of a model lie in flat buckets: structure of the gradients, shape of each, and the gradients of each bucket."""

    structure: Structure
    shapes: tuple[tuple[int, ...], ...]
    buckets: tuple[tuple[int, ...], ...]


def layout_of(gradients: Any, bucket_bytes: int) -> Layout:
    """Buckets of one dtype and at most bucket_bytes (one gradient may be larger), in the reverse order of the forward pass.

    >>> layout_of({"a": np.ones(3), "b": np.ones((2, 2)), "c": np.ones(5)}, 64).buckets
    ((2,), (1, 0))
    """
    leaves, structure = flatten(gradients)
    buckets: list[list[int]] = []
    filled, dtype = 0, None
    for i in reversed(range(len(leaves))):
        size = leaves[i].size * leaves[i].dtype.itemsize
        if not buckets or filled + size > bucket_bytes or leaves[i].dtype != dtype:
            buckets.append([])
            filled, dtype = 0, leaves[i].dtype
        buckets[-1].append(i)
        filled += size
    return Layout(structure, tuple(g.shape for g in leaves), tuple(map(tuple, buckets)))


def packed(gradients: Any, layout: Layout) -> tuple[Any, ...]:
    """The gradients as flat buckets."""
    leaves = flatten(gradients)[0]
    return tuple(np.concatenate([leaves[i].reshape(-1) for i in bucket]) for bucket in layout.buckets)


def unpacked(buckets: Any, layout: Layout) -> Any:
    """The gradients in flat buckets, as the tree they were."""
    leaves: list[Any] = [None] * len(layout.shapes)
    for flat, bucket in zip(buckets, layout.buckets, strict=True):
        start = 0
        for i in bucket:
            size = int(np.prod(layout.shapes[i], dtype=np.int64))
            leaves[i] = flat[start:start + size].reshape(layout.shapes[i])
            start += size
    return unflatten(layout.structure, leaves)


def agree(communicator: Communicator, model: Any, state: Any, source: int = 0) -> tuple[Any, Any]:
    """The model and optimizer state of one rank, on every rank (copies). Raises CommunicationError on every rank if one has others.

    >>> from adjoint.distributed.threads import run_threads
    >>> run_threads(2, lambda c: agree(c, {"w": np.full(2, float(c.rank))}, ())[0]["w"])[1]
    array([0., 0.])
    """
    leaves, structure = flatten((model, state))
    arrays = [np.array(x) for x in leaves]
    own = hash_of(structure, arrays)
    extremes = all_reduce(np.array([own, -own]), communicator, algorithm="tree", combine=np.maximum)
    if extremes[0] != -extremes[1]:
        raise CommunicationError(explain(
            f"the ranks have different models or optimizers: rank {communicator.rank} of {communicator.size} has {len(arrays)} arrays, "
            f"{sum(a.size for a in arrays)} elements.", remedy="Build the same model and the same optimizer on every rank."))
    for array in arrays:
        broadcast(_to_rank_0(array, communicator, source), communicator)
    return unflatten(structure, arrays)


def _to_rank_0(array: np.ndarray, communicator: Communicator, source: int) -> np.ndarray:
    """The array; rank 0's is overwritten with that of `source`."""
    if source and communicator.rank in (0, source):
        sends = communicator.rank == source
        communicator.exchange(array if sends else None, 0, None if sends else array, source)
    return array


def hash_of(structure: Structure, arrays: list[np.ndarray]) -> int:
    """63 bits that tell two programs apart by names, shapes and dtypes; the same in every process.

    >>> hash_of(flatten([1.0])[1], [np.ones(2)]) == hash_of(flatten([1.0])[1], [np.ones(3)])
    False
    """
    text = repr((structure, [(a.dtype.str, a.shape) for a in arrays]))
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", text).encode()         # functions lie elsewhere in every process
    value = 0xCBF29CE484222325
    for byte in text:                                       # FNV-1a: Python's own hash of text differs from process to process
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value >> 1


class DataParallel:
    """Workers that hold the same model and share each batch: gradients are added over all of them before one common update.

    In train.fit: parallel=DataParallel(world()). In a loop of your own: `agree` once, then the step of `make_step` on a `share` of each
    batch.
    exact_reduce: each batch is cut into `shards` equal shards, of which every rank computes as many, and their gradients are added in fixed
    point: the same bits for every number of ranks that divides `shards`, at twice the bytes on the wire and one pass over the gradients a
    shard. Source: Goyal et al., arXiv 1706.02677 (averages over all examples).

    Example:
        >>> from adjoint import nn, optim, train
        >>> from adjoint.distributed.threads import run_threads
        >>> x = np.linspace(-1, 1, 8)[:, None]
        >>> def program(world):
        ...     model = nn.Linear(1, 1, rng=np.random.default_rng(world.rank), dtype=np.float64)
        ...     return train.fit(model, (x, 2 * x), optimizer=optim.sgd(0.5), loss=nn.squared_error, epochs=40, batch=8,
        ...                      parallel=DataParallel(world), compiled=False).model.weight.round(3)
        >>> run_threads(2, program)
        [array([[2.]]), array([[2.]])]
    """

    def __init__(self, communicator: Communicator, *, exact_reduce: bool = False, shards: int = SHARDS, bucket_bytes: int = BUCKET):
        if exact_reduce and shards % communicator.size:
            raise ConfigError(explain(f"exact_reduce: {shards} shards cannot be dealt evenly to {communicator.size} ranks.",
                                      remedy=f"Choose shards={communicator.size * max(1, shards // communicator.size)}, on every run."))
        self.communicator, self.shards, self.bucket_bytes = communicator, shards if exact_reduce else 0, bucket_bytes

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which writes logs and checkpoints."""
        return self.rank == 0

    @property
    def rank(self) -> int:
        """This worker's number."""
        return self.communicator.rank

    def make_step(self, loss: Callable, optimizer: Optimizer, *, compiled: bool = True) -> Callable:
        """step(model, state, x, y, key=None) -> (model, state, loss, norms, finite), as train.make_step, over all ranks together.

        x, y: this rank's examples; the ranks' batches may differ in size: gradients and loss are averages over all examples. model and
        state must be equal on all ranks (`agree`).
        """
        check_parts(loss, optimizer)
        return _Step(loss, optimizer, self.communicator, self.shards, self.bucket_bytes, compiled)

    def share(self, *arrays: Any) -> tuple:
        """This rank's rows of arrays [examples, ...]; the ranks' shares differ by one row at most.

        >>> from adjoint.distributed.threads import run_threads
        >>> run_threads(2, lambda c: DataParallel(c).share(np.arange(5))[0])
        [array([0, 1]), array([2, 3, 4])]
        """
        limits = bounds(len(arrays[0]), self.communicator.size)
        if limits[-1] < self.communicator.size:
            raise ShapeError(explain(f"a batch of {len(arrays[0])} examples cannot be shared by {self.communicator.size} ranks.",
                                     remedy="Give larger batches, or start fewer ranks."))
        return tuple(x[limits[self.communicator.rank]:limits[self.communicator.rank + 1]] for x in arrays)

    def agree(self, model: Any, state: Any, source: int = 0) -> tuple[Any, Any]:
        """The model and optimizer state of one rank, on every rank."""
        return agree(self.communicator, model, state, source)

    def tell(self, message: bytes, source: int = 0) -> bytes:
        """The message of one rank, on every rank."""
        size = broadcast(_to_rank_0(np.array([len(message)]), self.communicator, source), self.communicator)
        text = np.zeros(size[0], np.uint8)
        if self.rank == source:
            text[:] = np.frombuffer(message, np.uint8)
        return broadcast(_to_rank_0(text, self.communicator, source), self.communicator).tobytes()

    def furthest(self, steps: int) -> int:
        """The rank that has done the most steps, the lowest of several.

        >>> from adjoint.distributed.threads import run_threads
        >>> run_threads(3, lambda c: DataParallel(c).furthest([3, 5, 5][c.rank]))
        [1, 1, 1]
        """
        return -self.largest(steps * self.communicator.size - self.rank) % self.communicator.size

    def largest(self, number: int) -> int:
        """The largest of every rank's number."""
        return int(all_reduce(np.array([number]), self.communicator, combine=np.maximum)[0])


class _Step:
    """Gradient here, sum over ranks, update everywhere. The two compiled halves meet in flat buckets."""

    def __init__(self, loss: Callable, optimizer: Optimizer, communicator: Communicator, shards: int, bucket_bytes: int, compiled: bool):
        self.loss, self.optimizer, self.communicator, self.shards, self.bucket_bytes = loss, optimizer, communicator, shards, bucket_bytes
        self._local = compile(self._gradients) if compiled else self._gradients
        self._apply = compile(self._update, donate=(0, 1)) if compiled else self._update
        self._layout: Layout | None = None

    def __call__(self, model: Any, state: Any, x: Any, y: Any, key: Any = None) -> tuple:
        if self.shards:
            total, buckets, taps = self._exact(model, x, y, key)
        else:
            total, buckets, taps = self._summed(model, x, y, key)
        return self._apply(model, state, buckets, taps, total)

    def _gradients(self, model: Any, x: Any, y: Any, key: Any) -> tuple:
        """(examples * loss, buckets of examples * gradients, taps) of some examples."""
        (value, gradients), taps = objective(self.loss, model, x, y, key)
        if self._layout is None:
            self._layout = layout_of(gradients, self.bucket_bytes)
        count = float(np.shape(x)[0])
        return value * count, tuple(count * flat for flat in packed(gradients, self._layout)), {k: count * v for k, v in taps.items()}

    def _summed(self, model: Any, x: Any, y: Any, key: Any) -> tuple:
        """Totals over all ranks in floating point: (examples * loss, examples), buckets, taps."""
        rank, size = self.communicator.rank, self.communicator.size
        own = key if key is None or size == 1 else np.array([key[0], key[1] * size + rank])         # other random numbers on every rank
        value, buckets, taps = self._local(model, x, y, own)
        total = all_reduce(np.array([value, np.shape(x)[0]], np.float64), self.communicator)
        buckets = tuple(all_reduce(np.array(flat), self.communicator) for flat in buckets)
        return total, buckets, {name: all_reduce(np.array(v), self.communicator) for name, v in taps.items()}

    def _exact(self, model: Any, x: Any, y: Any, key: Any) -> tuple:
        """The same totals from shards of equal size, added without rounding."""
        mine = self.shards // self.communicator.size
        count = np.shape(x)[0]
        if count % mine or not count:
            raise ShapeError(explain(f"exact_reduce: {count} examples of rank {self.communicator.rank} are not {mine} equal shards.",
                                     remedy=f"Give batches divisible by {self.shards} in all."))
        size, parts = count // mine, []
        for shard in range(mine):
            rows = slice(shard * size, (shard + 1) * size)
            number = self.communicator.rank * mine + shard
            own = None if key is None else np.array([key[0], key[1] * self.shards + number])
            value, buckets, taps = self._local(model, x[rows], y[rows], own)
            parts.append([np.array([value, size], np.float64), *map(np.array, buckets), *map(np.array, taps.values())])
        total, *sums = (exact_sum(column, self.communicator, self.shards) for column in zip(*parts, strict=True))
        return total, tuple(sums[:len(buckets)]), dict(zip(taps, sums[len(buckets):], strict=True))

    def _update(self, model: Any, state: Any, buckets: Any, taps: dict, total: Any) -> tuple:
        """One common update from the totals."""
        value = total[0] / total[1]
        gradients = unpacked([flat / total[1].astype(flat.dtype) for flat in buckets], self._layout)
        norms = [np.sqrt(np.sum(g * g)) for g in flatten(gradients)[0]]
        finite = np.isfinite(sum(norms, value))
        updates, new_state = self.optimizer.update(gradients, state, model)
        moved = absorb(apply_updates(model, updates), {name: x / total[1].astype(x.dtype) for name, x in taps.items()})
        return choose(finite, moved, model), choose(finite, new_state, state), value, tuple(norms), finite
