"""The first step of a training through parameter servers: one collective compares what all ranks have been given.

Invariant: what differs is refused on every rank, before a gradient is computed. May import: L0-L5, data_step, shards, sync_norm.
Read next: server_steps.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..core.aval import aval_of
from ..errors import CommunicationError, ConfigError, explain
from ..transforms.calls import trace_at
from ..tree import flatten, unflatten
from .collectives import all_reduce_in_place
from .communicator import Communicator
from .data_step import APART, code_of, digest_of, magnitudes, numbers_of, outline, refuse_unlike
from .shards import Shards
from .sync_norm import synchronizes

UNKNOWN = (-np.inf,) * 3         # of a server, which computes no loss
EXACT = 11                       # bits that a digest has too many for a float


def programs(loss: Callable, gradients: Callable | None, model: Any, x: Any, y: Any, key: Any) -> tuple[float, ...]:
    """Digests of what a worker computes: of the loss's numbers and, where `gradients` will be compiled, its operations and constants; of
    the examples' shapes, since other sizes have other constants; of the loss's code.

    >>> of = lambda factor, rows: programs(lambda p, y: factor * p, None, (), np.ones(rows), np.ones(rows), None)
    >>> [a == b for a, b in zip(of(1.0, 4), of(2.0, 5))]
    [False, False, True]
    """
    does = ""
    if gradients is not None:
        leaves, structure = flatten((model, x, y, key))
        does = outline(trace_at(lambda cells: gradients(*unflatten(structure, cells)), list(map(aval_of, leaves)))[0])
    sizes = [(np.shape(a), np.result_type(a).str) for a in flatten((x, y))[0]]
    return tuple(float(digest_of(text) >> EXACT) for text in (f"{numbers_of(loss)} {does}", str(sizes), code_of(loss)))


def check_layers(model: Any) -> None:
    """Raise ConfigError if layers of the model ask other ranks: a server runs none, and workers are in different steps.

    >>> check_layers([np.ones(2)])
    """
    if synchronizes(model):
        raise ConfigError(explain("ParameterServer: the model has a SyncBatchNorm. Layers that ask other ranks cannot run here: servers "
                                  "run no layers, and workers may be in different steps.",
                                  remedy="Train this model with DataParallel(world)."))


def check_first(communicator: Communicator, shards: Shards, model: Any, state: Any, digests: tuple[float, ...] = UNKNOWN) -> None:
    """Raise CommunicationError on every rank if models, states, optimizers or the workers' programs are not the same.

    digests: `programs` of a worker.

    >>> from adjoint import optim
    >>> from adjoint.distributed.threads import run_threads
    >>> model, rule = [np.ones(2)], optim.sgd(0.1)
    >>> run_threads(2, lambda c: check_first(c, Shards(model, rule, 1), model, rule.init(model), [UNKNOWN, (1.0, 2.0, 3.0)][c.rank]))
    [None, None]
    """
    own = np.concatenate([digests, [shards.moves], magnitudes(model, state)])
    most, least = all_reduce_in_place(np.stack([own, np.where(own == -np.inf, own, -own)]), communicator, algorithm="tree",
                                      combine=np.maximum)
    least = -least
    same = most[:3] == least[:3]
    if not same[2] or (same[1] and not same[0]):
        raise CommunicationError(explain("the workers compute different losses: their code differs, or a number in it.", where="",
                                         remedy="Give every rank the same loss; a number that depends on the rank belongs outside of it."))
    refuse_unlike(model, state, most[4:], least[4:], "Call agree(model, state) once, before the first step: it gives every rank the model "
                  "of one.")
    if most[3] - least[3] > APART * most[3]:
        raise CommunicationError(explain(
            f"the ranks have different optimizers: their updates by the same gradients are from {least[3]:.6g} to {most[3]:.6g} in all.",
            where="", remedy="Give every rank the same optimizer, rates too."))
