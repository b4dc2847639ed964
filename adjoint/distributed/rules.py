"""Rules on parts: whether an optimizer does the same where each rank has only some of the gradients.

Invariant: a rule is refused on all ranks or on none; no message of it is counted. May import: L0-L5, shards. Read next: split.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..core.aval import aval_of
from ..core.interpreter import EVALUATION, interpreting
from ..errors import CommunicationError, ConfigError, explain
from ..nn.module import buffer_mask
from ..optim import Optimizer
from ..tree import flatten, unflatten
from .collectives import all_reduce_in_place
from .communicator import Communicator, uncounted
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


def check_stages(optimizer: Optimizer, stage: Any, world: Communicator, numbers: Mapping[str, int]) -> None:
    """Refuse a rule that looks at several arrays together, on any rank, and numbers that are not the same on all; all ranks call it.

    A stage shows a rule where it has two arrays that are trained: the first half of them is tried without the others.
    Raises: ConfigError for a rule, CommunicationError for a number.
    """
    arrays = [np.asarray(x) for x in flatten(stage)[0]]
    trained = [k for k, (x, is_buffer) in enumerate(zip(arrays, buffer_mask(stage), strict=True)) if x.dtype.kind == "f" and not is_buffer]
    first = trained[:len(trained) // 2]
    own = [np.full(x.shape, k in first) if k in trained else None for k, x in enumerate(arrays)]
    found = np.array([together(optimizer, stage, own), *numbers.values(), *(-x for x in numbers.values())], np.int64)
    with uncounted(world):
        all_reduce_in_place(found, world, algorithm="tree", combine=np.maximum)
    for name, most, least in zip(numbers, found[1:], -found[1 + len(numbers):], strict=False):
        if most != least:
            raise CommunicationError(explain(f"Pipeline: {name} is from {least} to {most} on the {world.size} ranks.",
                                             remedy=f"Let {name} be the same on every rank."))
    if found[0]:
        raise refused(world.size)


def doings(optimizer: Optimizer, model: Any) -> str:
    """How an optimizer moves a model of ones in two steps: the first element of each array, to six digits, whatever the arrays' sizes.

    It tells rules and their rates apart where these move elements alone: those that `check_split_rule` lets pass.

    >>> from adjoint import optim
    >>> doings(optim.sgd(0.1), np.ones(2)), doings(optim.sgd(0.1, momentum=0.9), np.ones(3))
    ('-0.1 -0.05', '-0.1 -0.14')
    """
    leaves, structure = flatten(model)
    arrays = [np.ones(np.shape(x), np.result_type(x)) for x in leaves]
    ones = [x if x.dtype.kind == "f" and not is_buffer else None for x, is_buffer in zip(arrays, buffer_mask(model), strict=True)]
    made = unflatten(structure, arrays)
    state, told = optimizer.init(made), []
    for size in (1.0, 0.5):
        gradients = unflatten(structure, [None if x is None else x * np.asarray(size, x.dtype) for x in ones])
        updates, state = optimizer.update(gradients, state, made)
        told += [f"{x:.6g}" for update in flatten(updates)[0] for x in np.ravel(update)[:1].tolist()]
    return " ".join(told)
