"""Model parallelism between layers: each rank has a stage of the model, and micro-batches pass through the stages one behind the other.

GPipe's order: all micro-batches forward, then all backward, last first; a stage keeps only its inputs and computes the rest again. The p
stages are idle for (p - 1)/(m + p - 1) of a step of m micro-batches: more of them, less waiting. Invariant: a step is that of one process
on the whole batch, to rounding; that of one that accumulates m micro-batches, where layers draw random numbers or look at a whole batch.
May import: L0-L5, train, collectives, status. Read next: data_parallel.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..compiler.compile import compile
from ..dtypes import DTYPES
from ..errors import ShapeError, explain
from ..nn.dropout import Dropout
from ..nn.modes import _learners, absorb, trainable, training
from ..nn.module import Module, inline
from ..optim import Optimizer, apply_updates
from ..train.loop import check_parts
from ..transforms.reverse import value_and_grad, vjp
from ..transforms.taps import collect_taps
from ..tree import flatten, map_tree
from .checks import RANKS, examples_of, flag, function_of, number, whole, world_of
from .collectives import all_reduce_in_place
from .communicator import Communicator
from .rules import check_stages
from .schedules import NOBODY, bounds
from .status import enter, leave

MOST_AXES = 8           # of what passes from stage to stage


class Work(NamedTuple):
    """One thing that a stage does: a micro-batch forward, or backward."""

    forward: bool
    micro_batch: int


def gpipe(micro_batches: int) -> list[Work]:
    """What every stage does, in order. Source: Huang et al., GPipe, NeurIPS 2019, arXiv 1811.06965.

    >>> [(w.forward, w.micro_batch) for w in gpipe(2)]
    [(True, 0), (True, 1), (False, 1), (False, 0)]
    """
    forwards = [Work(True, k) for k in range(whole("gpipe", "micro_batches", micro_batches))]
    return forwards + [Work(False, each.micro_batch) for each in reversed(forwards)]


def timetable(stages: int, micro_batches: int, *, forward: float = 1.0, backward: float = 2.0, transfer: float = 0.0) -> np.ndarray:
    """When each stage ends each piece of its work, in seconds: [stages, 2 micro_batches], in the order of `gpipe`.

    >>> timetable(2, 2)
    array([[1., 2., 7., 9.],
           [2., 3., 5., 7.]])
    """
    stages = whole("timetable", "stages", stages, most=RANKS)
    order, ends = gpipe(whole("timetable", "micro_batches", micro_batches, most=RANKS)), np.zeros((stages, 2 * micro_batches))
    number("timetable", "forward", forward, above=True)
    for name, seconds in (("backward", backward), ("transfer", transfer)):
        number("timetable", name, seconds)
    for i, work in enumerate(order):
        line = range(stages) if work.forward else range(stages - 1, -1, -1)
        arrival = 0.0
        for stage in line:
            begin = max(ends[stage, i - 1] if i else 0.0, arrival)
            ends[stage, i] = begin + (forward if work.forward else backward)
            arrival = ends[stage, i] + transfer
    return ends


def bubble(stages: int, micro_batches: int, **seconds: float) -> float:
    """The part of a step in which a stage waits, counted from the timetable: (p - 1)/(m + p - 1) if messages take no time.

    >>> [round(bubble(*sizes), 3) for sizes in ((2, 4), (4, 4), (4, 32))]
    [0.2, 0.429, 0.086]
    """
    ends = timetable(stages, micro_batches, **seconds)
    busy = micro_batches * (seconds.get("forward", 1.0) + seconds.get("backward", 2.0))
    return float(1 - busy / ends.max())


class _Line(Module):
    """A stage behind as many layers with modes as the stages before it have: so it is dealt the keys that it has in the whole model."""

    ahead: tuple[Dropout, ...] = inline()
    stage: Any = inline()


def _trained(stage: Any, ahead: tuple[Dropout, ...], key: Any) -> Any:
    """The stage in training mode."""
    return training(_Line(ahead, stage), key).stage


class Pipeline:
    """Ranks in a line, rank r with stage r of a model: h_r+1 = stage_r(h_r), loss(h_p, y).

    Pipeline(loss, optimizer, world, micro_batches=m).step(stage, state, x, y, key=None) -> (stage, state, loss): stage and state are this
    rank's own; x [examples, ...] is read on the first rank and y on the last (give all ranks both); the loss is known to all. loss averages
    over the examples; micro-batches may differ in size by one. Cost: one more forward pass than in one process; memory: m inputs of the
    stage. A step whose loss or gradient is not finite, in any stage, changes nothing.
    A rule that looks at all gradients together (clip_by_global_norm) is refused at the first step: each stage would clip by itself. So are
    ranks with other micro_batches or batches of another length, on all of them.
    Stages are in training mode (nn.training); key: int64 [2], the same on all ranks, for layers that draw random numbers. Every micro-batch
    draws others, and is a batch of its own to batch norm, whose running values are averages over the micro-batches: all as in
    DataParallel(Alone(), accumulate=m) on the whole model.

    >>> from adjoint import nn, optim
    >>> from adjoint.distributed.threads import run_threads
    >>> x, rule = np.linspace(-1, 1, 8)[:, None], optim.adam(0.05)
    >>> def program(world):
    ...     rng = np.random.default_rng(0)
    ...     stages = nn.Sequential(nn.Linear(1, 6, rng=rng, dtype=np.float64), np.tanh), nn.Linear(6, 1, rng=rng, dtype=np.float64)
    ...     stage, pipeline = stages[world.rank], Pipeline(nn.squared_error, rule, world, micro_batches=4, compiled=False)
    ...     state = rule.init(stage)
    ...     for _ in range(60):
    ...         stage, state, loss = pipeline.step(stage, state, x, x ** 2)
    ...     return bool(loss < 0.02)
    >>> run_threads(2, program)
    [True, True]
    """

    def __init__(self, loss: Callable, optimizer: Optimizer, world: Communicator, *, micro_batches: int, compiled: bool = True):
        check_parts(loss, optimizer)
        world_of("Pipeline", world)
        flag("Pipeline", "compiled", compiled)
        whole("Pipeline", "micro_batches", micro_batches, remedy="Four times as many as stages keep them busy.")
        self.world, self.micro_batches, self.optimizer = world, micro_batches, optimizer
        self.first, self.last = world.rank == 0, world.rank == world.size - 1
        made = compile if compiled else lambda function: function
        self.loss = loss
        self._forward = made(lambda stage, h, key, ahead: _trained(stage, ahead, key)(h))
        self._backward, self._finish = made(self._backwards), made(self._finished)
        self._update = made(self._updated)
        self._headers: dict[tuple, tuple] = {}          # shape and dtype of this step's messages: (neighbour, examples)
        self._ahead: tuple[Dropout, ...] = ()           # one for each layer with modes before this stage; headers count them
        self._learners = 0                              # and how many this stage has
        self._checked = world.size == 1                 # whether all ranks cut a batch alike, and the optimizer suits stages

    def step(self, stage: Any, state: Any, x: Any, y: Any, key: Any = None) -> tuple:
        """One step on a batch; see the class."""
        function_of("Pipeline", "the stage", stage, remedy="Give each rank its own part of the model: stages[world.rank].")
        examples_of("Pipeline", x, y)
        if not self._checked:
            check_stages(self.optimizer, stage, self.world, {"micro_batches": self.micro_batches, "the number of examples": len(x)})
            self._checked = True
        limits = bounds(len(x), self.micro_batches)
        if len(x) < self.micro_batches:
            raise ShapeError(explain(f"Pipeline: a batch of {len(x)} examples for {self.micro_batches} micro-batches.",
                                     remedy="Give larger batches, or fewer micro-batches."))
        rows = [slice(a, b) for a, b in itertools.pairwise(limits)]
        self._headers.clear()               # what passes may have another shape in every step
        self._learners = sum(1 for _ in _learners(stage))
        inputs: dict[int, Any] = {}
        total, value = None, np.float64(0.0)
        for work in gpipe(self.micro_batches):
            piece, part = work.micro_batch, rows[work.micro_batch]
            examples = part.stop - part.start
            own = key if key is None or self.micro_batches == 1 else np.array([key[0], key[1] * self.micro_batches + piece])
            if work.forward:
                inputs[piece] = self._pass_forward(stage, x[part], examples, own)
                continue
            loss, *found = self._pass_backward(stage, inputs.pop(piece), y[part], examples, own)
            value = value + examples * loss
            found = map_tree(lambda g, examples=examples: g * np.asarray(examples, g.dtype), found)
            total = found if total is None else map_tree(np.add, total, found)
        value, finite = self._told(value / len(x), total[0])
        if finite:
            stage, state = self._update(stage, state, *total, np.float64(len(x)))
        return stage, state, value

    def _told(self, value: Any, gradients: Any) -> tuple[np.float64, bool]:
        """(loss, whether it and the gradients of all stages are finite), of which the last rank knows the loss."""
        finite = all(np.isfinite(np.vdot(g, g)) for g in flatten(gradients)[0])
        found = np.array([value if self.last else 0.0, 0.0 if finite else 1.0], np.float64)
        all_reduce_in_place(found, self.world, algorithm="tree")
        return np.float64(found[0]), bool(np.isfinite(found[0]) and found[1] == 0.0)

    def _updated(self, stage: Any, state: Any, gradients: Any, taps: dict[str, Any], examples: Any) -> tuple:
        gradients, taps = map_tree(lambda g: g / examples.astype(g.dtype), (gradients, taps))
        updates, state = self.optimizer.update(gradients, state, stage)
        return absorb(apply_updates(stage, updates), taps), state

    def _finished(self, stage: Any, h: Any, y: Any, key: Any, ahead: tuple[Dropout, ...]) -> tuple:
        """(loss, gradients of the last stage, taps, cotangent of its input) of a micro-batch; gradients are None at buffers."""
        of_batch = value_and_grad(lambda stage, h: self.loss(_trained(stage, ahead, key)(h), y), argnums=(0, 1))
        (loss, (gradients, h_bar)), taps = collect_taps(of_batch)(stage, h)
        return loss, trainable(stage, gradients), taps, h_bar

    def _backwards(self, stage: Any, h: Any, y_bar: Any, key: Any, ahead: tuple[Dropout, ...]) -> tuple:
        """(gradients, taps, cotangent of the input) of another stage, from the cotangent of what it gave."""
        pulled = lambda stage, h: vjp(lambda stage, h: _trained(stage, ahead, key)(h), stage, h)[1](y_bar)
        (gradients, h_bar), taps = collect_taps(pulled)(stage, h)
        return trainable(stage, gradients), taps, h_bar

    def _pass_forward(self, stage: Any, x: Any, examples: int, key: Any) -> Any:
        """The stage's input of a micro-batch, its result handed on; the last stage computes when it goes back."""
        h = x if self.first else self._receive(self.world.rank - 1, examples)
        if not self.last:
            self._send(self._forward(stage, h, key, self._ahead), self.world.rank + 1, examples)
        return h

    def _pass_backward(self, stage: Any, h: Any, y: Any, examples: int, key: Any) -> tuple:
        """(loss of a micro-batch where it is known, gradients of the stage, taps); the cotangent of its input is handed back."""
        loss: Any = 0.0
        if self.last:
            loss, gradients, taps, h_bar = self._finish(stage, h, y, key, self._ahead)
        else:
            gradients, taps, h_bar = self._backward(stage, h, self._receive(self.world.rank + 1, examples), key, self._ahead)
        if not self.first:
            self._send(h_bar, self.world.rank - 1, examples)
        return loss, gradients, taps

    def _send(self, h: Any, to: int, examples: int) -> None:
        """Hand an array to a neighbour; before a step's first one of so many examples, its shape and dtype: cotangents have the same."""
        if not isinstance(h, np.ndarray) or h.ndim > MOST_AXES:
            found = f"an array of {h.ndim} axes" if isinstance(h, np.ndarray) else type(h).__name__
            raise ShapeError(explain(f"Pipeline: the stage gives {found}, expected one array of at most {MOST_AXES} axes.",
                                     remedy="Let a stage return one array: what the next stage takes."))
        if (to, examples) not in self._headers:
            self._headers[to, examples] = h.shape, h.dtype
            header = np.zeros(3 + MOST_AXES, np.int64)
            header[:3 + h.ndim] = len(self._ahead) + self._learners, DTYPES.index(h.dtype), h.ndim, *h.shape
            self._exchange(header, to, None, NOBODY)
        shape, dtype = self._headers[to, examples]
        if (h.shape, h.dtype) != (shape, dtype):
            raise ShapeError(explain(f"Pipeline: rank {self.world.rank} hands {h.dtype}{list(h.shape)} to rank {to}, and "
                                     f"{dtype}{list(shape)} in the same step, for {examples} examples each.",
                                     remedy="Let shapes depend on the number of examples, not on what they hold."))
        self._exchange(np.ascontiguousarray(h).reshape(-1), to, None, NOBODY)

    def _receive(self, source: int, examples: int) -> np.ndarray:
        if (source, examples) not in self._headers:
            header = np.zeros(3 + MOST_AXES, np.int64)
            self._exchange(None, NOBODY, header, source)
            learners, dtype, ndim, *shape = header.tolist()
            self._ahead = (Dropout(0.0),) * learners
            self._headers[source, examples] = tuple(shape[:ndim]), DTYPES[dtype]
        shape, dtype = self._headers[source, examples]
        h = np.empty(shape, dtype)
        self._exchange(None, NOBODY, h.reshape(-1), source)
        return h

    def _exchange(self, sent: np.ndarray | None, to: int, received: np.ndarray | None, source: int) -> None:
        enter("pipeline", f"from rank {source}" if sent is None else f"to rank {to}")
        try:
            self.world.exchange(sent, to, received, source)
        finally:
            leave()
