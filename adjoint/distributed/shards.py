"""Shards: which arrays of a model each parameter server owns, and how they travel: as the bytes of one flat message.

Invariant: every rank deals the arrays in the same way, from their shapes alone; every trained array has one owner, and server 0 owns the
buffers of layers (running means). May import: L0-L5. Read next: server.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..errors import CommunicationError, ConfigError, explain
from ..nn.module import buffer_mask
from ..optim import Optimizer
from ..tree import flatten, unflatten

LOUD = 1e6              # the gradient by which an optimizer shows whether it treats every array by itself


def joined(arrays: Iterable[Any]) -> np.ndarray:
    """The bytes of arrays, one after the other.

    >>> joined([np.ones(2), np.zeros(3, np.int32)]).shape
    (28,)
    """
    return np.concatenate([np.empty(0, np.uint8), *(np.ascontiguousarray(a).reshape(-1).view(np.uint8) for a in arrays)])


def taken(message: np.ndarray, like: Sequence[Any]) -> list[np.ndarray]:
    """The arrays in a message: copies, with the shapes and dtypes of `like`. Raises CommunicationError if the bytes are not as many.

    >>> taken(joined([np.ones(2), np.array(7)]), [np.zeros(2), np.array(0)])
    [array([1., 1.]), array(7)]
    """
    if message.size != sum(a.nbytes for a in like):
        raise CommunicationError(explain(
            f"a rank has sent {message.size} bytes, expected {sum(a.nbytes for a in like)} for {len(like)} arrays: another model.",
            remedy="Build the same model and the same optimizer on every rank, and call `agree` once before the first step."))
    found, start = [], 0
    for a in like:
        new = np.empty(a.shape, a.dtype)
        new.reshape(-1).view(np.uint8)[:] = message[start:start + a.nbytes]
        found.append(new)
        start += a.nbytes
    return found


def dealt(sizes: Sequence[int], servers: int) -> list[list[int]]:
    """The numbers of the arrays of each server: the largest first, each to the server with the fewest bytes so far.

    >>> dealt([100, 10, 60, 50], 2)
    [[0, 1], [2, 3]]
    """
    owned: list[list[int]] = [[] for _ in range(servers)]
    load = [0] * servers
    for k in sorted(range(len(sizes)), key=lambda k: (-sizes[k], k)):
        server = load.index(min(load))
        owned[server].append(k)
        load[server] += sizes[k]
    return [sorted(numbers) for numbers in owned]


class Shards:
    """How a model's arrays are dealt to servers. trained, buffers: their numbers among the leaves; owned[s]: the trained ones of server s;
    states[s]: the leaves of the optimizer's state that server s changes, and none before it; moves: the sum of |updates| that the optimizer
    makes of loud gradients, 0 with one server, whose optimizer alone counts."""

    def __init__(self, model: Any, optimizer: Optimizer, servers: int):
        leaves, self.structure = flatten(model)
        leaves = [np.asarray(x) for x in leaves]
        mask = buffer_mask(model)
        self.count = len(leaves)
        self.buffers = [i for i, is_buffer in enumerate(mask) if is_buffer]
        self.trained = [i for i, (x, is_buffer) in enumerate(zip(leaves, mask, strict=True)) if x.dtype.kind == "f" and not is_buffer]
        if len(self.trained) < servers:
            raise ConfigError(explain(f"{servers} servers for a model of {len(self.trained)} trained arrays.",
                                      remedy=f"At most one server for each: servers={max(1, len(self.trained))}."))
        self.owned = [[self.trained[k] for k in numbers] for numbers in dealt([leaves[i].nbytes for i in self.trained], servers)]
        self.moves = 0.0
        self.states = self._divided(model, optimizer) if servers > 1 else [list(range(len(flatten(optimizer.init(model))[0])))]

    def tree(self, values: dict[int, Any]) -> Any:
        """A tree like the model with these leaves, None at all others: what the gradients of a shard look like."""
        return unflatten(self.structure, [values.get(i) for i in range(self.count)])

    def of_server(self, server: int) -> list[int]:
        """The leaves that a server sends to the workers: its own, and server 0 the buffers too."""
        return self.owned[server] + (self.buffers if server == 0 else [])

    def packed(self, server: int, model: Any, norms: np.ndarray, state: Any = None) -> np.ndarray:
        """What a server sends: its part of the model, the norms of its gradients, and its part of the optimizer's state unless None."""
        leaves = flatten(model)[0]
        parts = [*(leaves[i] for i in self.of_server(server)), norms[self.places(server)]]
        if state is not None:
            changed = flatten(state)[0]
            parts += [changed[k] for k in self.states[server]]
        return joined(parts)

    def placed(self, server: int, message: np.ndarray, model: Any, norms: np.ndarray, state: Any = None) -> tuple[Any, Any]:
        """(model, state) with what a server has sent in its place; norms are written."""
        leaves, changed, structure = flatten(model)[0], *flatten(state)
        mine, places = self.of_server(server), self.places(server)
        numbers = [] if state is None else self.states[server]
        found = taken(message, [*map(np.asarray, (leaves[i] for i in mine)), norms[places], *(np.asarray(changed[k]) for k in numbers)])
        for i, new in zip(mine, found, strict=False):
            leaves[i] = new
        norms[places] = found[len(mine)]
        for k, new in zip(numbers, found[len(mine) + 1:], strict=True):
            changed[k] = new
        return unflatten(self.structure, leaves), unflatten(structure, changed)

    def answered(self, server: int, model: Any) -> list[np.ndarray]:
        """What workers' messages to a server look like: gradients of its arrays, and for server 0 the buffers in float64."""
        leaves = flatten(model)[0]
        return [np.asarray(leaves[i]) for i in self.owned[server]] + [
            np.empty(np.shape(leaves[i])) for i in (self.buffers if server == 0 else [])]

    def places(self, server: int) -> list[int]:
        """Which of the norms are of a server's arrays."""
        return [self.trained.index(i) for i in self.owned[server]]

    def _divided(self, model: Any, optimizer: Optimizer) -> list[list[int]]:
        """Which state each server changes. Raises ConfigError if a server's arrays would be updated otherwise than in one process."""
        state, leaves = optimizer.init(model), [np.asarray(x) for x in flatten(model)[0]]
        loud = {i: np.full_like(leaves[i], LOUD) for i in self.trained}
        whole = optimizer.update(self.tree(loud), state, model)[0]
        expected = dict(zip(self.trained, flatten(whole)[0], strict=True))
        self.moves = float(np.nan_to_num(sum(np.sum(np.abs(u), dtype=np.float64) for u in expected.values()), posinf=0.0))
        before, found = flatten(state)[0], []
        for owned in self.owned:
            updates, after = optimizer.update(self.tree({i: loud[i] for i in owned}), state, model)
            for i, update in zip(owned, flatten(updates)[0], strict=True):
                if not np.array_equal(update, expected[i], equal_nan=True):
                    raise ConfigError(explain(
                        f"this optimizer looks at all gradients together; {len(self.owned)} servers would each see a part of them.",
                        remedy="Use servers=1, or leave out what needs all gradients, for instance clip_by_global_norm."))
            changed = [k for k, (new, old) in enumerate(zip(flatten(after)[0], before, strict=True)) if new is not old]
            found.append([k for k in changed if not any(k in others for others in found)])          # a count of steps is server 0's
        return found
