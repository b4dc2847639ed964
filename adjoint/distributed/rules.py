"""Rules on parts: whether an optimizer does the same where each rank has only some of the gradients.

Invariant: a rule is refused on all ranks or on none; no message of it is counted. May import: L0-L5, shards. Read next: split.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..core.aval import aval_of
from ..core.interpreter import EVALUATION, interpreting
from ..errors import ConfigError, explain
from ..nn.module import buffer_mask
from ..optim import Optimizer
from ..tree import flatten, unflatten
from .collectives import all_reduce_in_place
from .communicator import Communicator, Counts
from .shards import LOUD


def together(optimizer: Optimizer, model: Any, own: Sequence[np.ndarray | None]) -> bool:
    """Whether the updates of some elements change where all other gradients are zero: own, for each leaf, a mask of these; None at leaves
    that no rule moves. It is computed here and now, also while a step is traced.

    >>> from adjoint import optim
    >>> model, own = (np.ones(2), np.ones(2)), (np.array([True, True]), np.array([False, False]))
    >>> [together(rule, model, own) for rule in (optim.adam(0.1), optim.clip_by_global_norm(1.0))]
    [False, True]
    """
    leaves, structure = flatten(model)

    def updates(all_loud: bool) -> list[np.ndarray]:
        loud = [None if mask is None else np.where(mask | all_loud, LOUD, 0.0).astype(np.asarray(x).dtype)
                for x, mask in zip(leaves, own, strict=True)]
        found = flatten(optimizer.update(unflatten(structure, loud), optimizer.init(model), model)[0])[0]
        return [np.asarray(x)[mask] for x, mask in zip(found, (mask for mask in own if mask is not None), strict=True)]
    with interpreting(EVALUATION):
        return not all(np.array_equal(a, b, equal_nan=True) for a, b in zip(updates(True), updates(False), strict=True))


def refused(ranks: int) -> ConfigError:
    """The error for a rule that is none on parts."""
    return ConfigError(explain(f"this optimizer looks at all gradients together; {ranks} ranks would each see a part of them.",
                               remedy="Use DataParallel or one rank, or leave out what needs all gradients, for instance "
                                      "clip_by_global_norm."))


def check_split_rule(optimizer: Optimizer, model: Any, axes: Sequence[int | None], ranks: int) -> None:
    """Refuse a rule that would not do on a rank's parts what it does on whole arrays; axes: along which each leaf is shared out, or None.

    It is tried on a model of two parts, without a message: shapes are all that counts, so all ranks decide alike. Raises: ConfigError.
    """
    leaves, structure = flatten(model)
    avals, tried, own = [aval_of(x) for x in leaves], [], []
    for aval, axis, is_buffer in zip(avals, axes, buffer_mask(model), strict=True):
        shape = tuple(2 * size if k == axis else size for k, size in enumerate(aval.shape))
        tried.append(np.ones(shape, aval.dtype))
        mask = np.ones(shape, bool)
        if axis is not None:
            np.moveaxis(mask, axis, 0)[aval.shape[axis]:] = False
        own.append(mask if aval.dtype.kind == "f" and not is_buffer else None)
    if ranks > 1 and together(optimizer, unflatten(structure, tried), own):
        raise refused(ranks)


def check_stage_rule(optimizer: Optimizer, stage: Any, world: Communicator) -> None:
    """Refuse a rule that looks at several arrays together, on any rank; all ranks call it. Raises: ConfigError.

    A stage shows it where it has two arrays that are trained: the first half of them is tried without the others.
    """
    arrays = [np.asarray(x) for x in flatten(stage)[0]]
    trained = [k for k, (x, is_buffer) in enumerate(zip(arrays, buffer_mask(stage), strict=True)) if x.dtype.kind == "f" and not is_buffer]
    first = trained[:len(trained) // 2]
    own = [np.full(x.shape, k in first) if k in trained else None for k, x in enumerate(arrays)]
    found = np.array([together(optimizer, stage, own)])
    kept, world.counts = world.counts, Counts()
    try:
        all_reduce_in_place(found, world, algorithm="tree", combine=np.logical_or)
    finally:
        world.counts = kept
    if found[0]:
        raise refused(world.size)
