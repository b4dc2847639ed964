"""fit: the training loop with validation, checkpoints, progress, an end at Ctrl-C and a birth certificate for the first NaN.

Invariant: the parameters after a resume at any step are, bit for bit, those of the uninterrupted run. May import: L0-L5, data, train.
Read next: loop.py, checkpoint.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from ..data import Batches
from ..errors import CheckpointError, ConfigError, DataError, NonFiniteError, ShapeError, explain
from ..nn.losses import cross_entropy
from ..nn.modes import training
from ..optim import Optimizer, evaluation_parameters, observe
from ..settings import GENERATION, integer
from ..transforms.reverse import value_and_grad
from ..tree import flatten, paths, unflatten
from .checkpoint import Checkpoint
from .evaluate import BLOCK, Predictor
from .interrupts import deferred_interrupts
from .loop import InputNoise, Step, Transform, check_parts, gradient_names, steps, with_arrays
from .nonfinite import birth_of_nonfinite
from .parallel import OneWorker, Parallel, check_alike, facts_of
from .progress import Progress
from .run_folder import RunFolder
from .snapshots import Snapshots
from .stopping import EarlyStopping

Arrays = tuple[np.ndarray, np.ndarray]
SAVE_SECONDS = 30.0             # seconds between checkpoints


@dataclass
class Fit:
    """A finished (or interrupted) training: the model, the optimizer's state, one dict per epoch, steps done, seconds of each part."""

    model: Any
    state: Any
    history: list[dict[str, Any]] = field(default_factory=list)
    steps: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    interrupted: int = 0                # the signal that ended it early, 0 if none did

    @property
    def training_seconds(self) -> float:
        """What the steps of all finished epochs took, those before a resume too; without validation, and without the pause."""
        return sum(line["seconds"] for line in self.history)


def fit(model: Any, data: Arrays, *, optimizer: Optimizer, epochs: int, loss: Callable = cross_entropy, batch: int = 64,
        noise: float = 0.0, augment: Transform | None = None, seed: int = 0, validation: Arrays | None = None,
        folder: RunFolder | None = None, resume: bool = False, save_seconds: float = SAVE_SECONDS,
        stop: Callable[[list], bool] | None = None, progress: Progress | None = None, parallel: Parallel | None = None,
        snapshots: Snapshots | None = None, compiled: bool = True) -> Fit:
    """Train a model on (x, y): shuffled mini-batches, one compiled step each, until `epochs` are done or stop(history) is true.

    loss(model(x), y) is a number, of the model in training mode (nn.training); noise: deviation of the normal noise added to x at each
    step; augment(x, count): what step `count` sees of a batch; seed: of the order, the noise and dropout; validation: (x, y) whose error
    (loss, if y is not integer) is measured each epoch; folder, resume: where checkpoints and metrics go, and whether to go on from
    there; save_seconds: seconds between checkpoints; parallel: workers that share each batch and the validation set
    (distributed.DataParallel), of which one writes; snapshots: each worker's state after each step, so that a killed worker loses none
    (a resume takes the newest of all). An epoch is every whole batch once; what does not fill a batch waits for a later epoch. Ctrl-C
    ends the run after the step in progress, with a checkpoint (`Fit.interrupted`); a second one raises at once.
    Raises: NonFiniteError before the update that would have brought NaN or infinity into the model; ConfigError, DataError, ShapeError.

    Example:
        >>> from adjoint import nn, optim
        >>> x = np.linspace(-1, 1, 8, dtype=np.float32)[:, None]
        >>> model = nn.Linear(1, 1, rng=np.random.default_rng(0))
        >>> done = fit(model, (x, 2 * x), optimizer=optim.sgd(0.5), loss=nn.squared_error, epochs=40, batch=8, compiled=False)
        >>> done.model.weight.round(3)
        array([[2.]], dtype=float32)
    """
    _check(data, epochs, validation, folder)
    _check_parts(model, stop, snapshots, parallel)
    check_parts(loss, optimizer)
    model = with_arrays(model)
    counts = isinstance(batch, int | np.integer)            # Batches refuses what does not
    batches = Batches(*data, batch=min(batch, len(data[0])) if counts else batch, seed=seed, last="drop")
    for x, y in filter(None, (data, validation)):
        _rehearse(model, loss, np.asarray(x), np.asarray(y))
    run = _Run(model, optimizer, loss, batches, epochs, validation, folder, save_seconds, stop, progress, parallel or OneWorker(),
               snapshots, compiled)
    if snapshots:
        snapshots.begin(run.parallel.rank, anew=not resume)
    if resume:
        run.resume()
    if parallel:
        run.agree(data)
    run.recall(resume)
    add_noise = InputNoise(noise, seed, compiled=compiled) if noise else None
    if augment and add_noise:
        return run.train(lambda x, count: add_noise(augment(x, count), count))
    return run.train(augment or add_noise)


def _rehearse(model: Any, loss: Callable, x: np.ndarray, y: np.ndarray) -> None:
    """The loss of one example, or of those with the least and the greatest label: a class too many is not seen in compiled code."""
    rows = [int(np.argmin(y)), int(np.argmax(y))] if y.ndim == 1 and y.dtype.kind in "iu" and y.size else [0]
    if len(x) == len(y) > 0:
        with np.errstate(all="ignore"):                     # what is not finite has its own message, with the step
            loss(model(x[rows]), y[rows])


def _check(data: Arrays, epochs: int, validation: Arrays | None, folder: RunFolder | None) -> None:
    for name, pair in (("data", data), ("validation", validation)):
        if not (isinstance(pair, (tuple, list)) and len(pair) == 2) and not (name == "validation" and pair is None):
            raise ConfigError(explain(f"fit: {name} is {type(pair).__name__}, expected a pair.",
                                      remedy="Give examples and targets: (x, y)."))
        for part, values in zip("xy", pair or (), strict=False):
            _check_array(f"{part} of {name}", values)
    if not isinstance(folder, RunFolder | None):
        raise ConfigError(explain(f"fit: folder is {type(folder).__name__}, expected a RunFolder.",
                                  remedy='Make one: with train.RunFolder.create("runs", "digits", {}) as folder: ...'))
    if not (isinstance(epochs, int) and epochs >= 0):
        raise ConfigError(explain(f"fit: epochs is {epochs!r}, expected a whole number.", remedy="For instance epochs=10."))
    x = np.asarray(data[0])
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        row = int(np.flatnonzero(~np.isfinite(x.reshape(len(x), -1)).all(axis=1))[0])
        raise DataError(explain(f"fit: example {row} of x holds NaN or infinity.", remedy="Clean the data before training."))
    shapes = [np.shape(part) for part in validation or ()]
    if shapes and not shapes[0][:1] == shapes[1][:1] > (0,):
        raise ShapeError(explain(f"fit: validation has shapes {shapes[0]} and {shapes[1]}, expected as many examples as targets.",
                                 remedy="Its first axes count examples: of both equally many, and at least one."))


def _check_array(name: str, values: Any) -> None:
    """Refuse what NumPy makes no array of numbers of: a generator (training needs its examples again), None, text."""
    remedy = f"Make one array of all examples, for instance {name[0]} = np.stack(list(examples))."
    try:
        array = np.asarray(values)
        if array.ndim and array.dtype.kind not in "OUS":
            return
        what = type(values).__name__ + (f" of {array.dtype}" if array.ndim else "")
        if array.ndim and array.dtype.kind in "US":
            remedy = f"Number the words, for instance {name[0]} = np.unique(words, return_inverse=True)[1]."
    except ValueError:
        what = f"{type(values).__name__} of rows of several lengths"
    raise DataError(explain(f"fit: {name} is {what}, expected an array of numbers [examples, ...].", remedy=remedy))


def _check_parts(model: Any, stop: Any, snapshots: Any, parallel: Any) -> None:
    if isinstance(model, type):
        raise ConfigError(explain(f"fit: model is the class {model.__name__}, expected a model.",
                                  remedy=f"Make one, with its sizes: {model.__name__}(...)."))
    if not (stop is None or callable(stop)):
        raise ConfigError(explain(f"fit: stop is {stop!r:.80}, expected a function of the history.",
                                  remedy="For instance stop=train.EarlyStopping(patience=3)."))
    if not isinstance(snapshots, Snapshots | None):
        raise ConfigError(explain(f"fit: snapshots is {type(snapshots).__name__}, expected Snapshots.",
                                  remedy='Name their folder: snapshots=train.Snapshots("runs/snapshots").'))
    if parallel is not None and not hasattr(parallel, "make_step"):
        raise ConfigError(explain(f"fit: parallel is {type(parallel).__name__}, expected how workers share a batch.",
                                  remedy="For instance parallel=distributed.DataParallel(distributed.world())."))


class _Run:
    """The state of one call of fit."""

    def __init__(self, model: Any, optimizer: Optimizer, loss: Callable, batches: Batches, epochs: int, validation: Arrays | None,
                 folder: RunFolder | None, save_seconds: float, stop: Callable | None, progress: Progress | None, parallel: Parallel,
                 snapshots: Snapshots | None, compiled: bool):
        self.loss, self.batches, self.epochs = loss, batches, epochs
        self.validation = None if validation is None else tuple(map(np.asarray, validation))
        self.save_seconds, self.stop, self.parallel, self.snapshots = save_seconds, stop, parallel, snapshots
        self.folder, self.progress = (folder, progress) if parallel.leads else (None, None)
        self.names, self.seed = gradient_names(model), batches.state()["seed"]
        block = BLOCK if validation is None or parallel.pieces == 1 else min(BLOCK, -(-len(validation[0]) // parallel.pieces))
        self.step, self.predict = parallel.make_step(loss, optimizer, compiled=compiled), Predictor(compiled=compiled, block=block)
        self.fit = Fit(model, optimizer.init(model), seconds={"steps": 0.0, "validation": 0.0, "checkpoints": 0.0})
        self.total, self.counted = 0.0, 0                   # of the epoch under way
        self.saved = self.began = time.monotonic()

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, np.ndarray]:
        return {f"{part}.{path}": np.asarray(x) for part, tree in (("model", self.fit.model), ("optimizer", self.fit.state))
                for path, x in zip(paths(tree), flatten(tree)[0], strict=True)}

    def place(self) -> dict[str, Any]:
        """Where the run stands, for a checkpoint."""
        history = {} if self.folder is not None else {"history": self.fit.history}          # a folder has it in a file of its own
        return {"step": self.fit.steps, "batches": self.batches.state(), "batch": self.batches.batch, "examples": self.batches.examples,
                "total": self.total, "counted": self.counted, **history}

    def save(self) -> None:
        """Write a checkpoint of the step just done, in the middle of an epoch or at its end."""
        if self.folder is None:
            return
        start = time.monotonic()
        self.folder.save(self.fit.steps, self.tensors(), self.place())
        self.saved = time.monotonic()
        self.fit.seconds["checkpoints"] += self.saved - start

    def commit(self, *, last: bool = False) -> None:
        """Write this worker's snapshot. All workers have done the step, and the leader has logged its epoch, before any of them does."""
        if self.snapshots is not None and self.parallel.whole and (last or self.fit.steps % self.snapshots.every == 0):
            start = time.monotonic()
            self.snapshots.save(self.fit.steps, self.tensors(), self.place())
            self.fit.seconds["checkpoints"] += time.monotonic() - start

    def resume(self) -> None:
        """Go on from the newest checkpoint of the folder or the newest snapshot. If there is neither: from the beginning with snapshots,
        and where `adjoint launch` has started this program again, which was killed before it had saved anything."""
        if self.folder is None and self.snapshots is None and self.parallel.leads:
            raise ConfigError(explain("fit: resume needs a folder.", remedy="Pass folder=RunFolder.open(path)."))
        expected = self.tensors()
        found = [self.snapshots.load(expected)] if self.snapshots else []
        may_begin = self.snapshots is not None or integer(GENERATION, 0, least=0) > 0
        if self.folder is not None and (not may_begin or self.folder.has_checkpoint()):
            found.append(self.folder.load(expected))
        if newest := max(filter(None, found), key=lambda each: each.counter("step"), default=None):
            self.restore(newest)

    def restore(self, found: Checkpoint) -> None:
        """Take model, state and place from a checkpoint."""
        expected = {"batch": self.batches.batch, "examples": self.batches.examples}
        if any(found.metadata.get(name) != value for name, value in expected.items()):
            raise CheckpointError(explain(f"the checkpoint is of batches {found.metadata.get('batch')} of {found.metadata.get('examples')} "
                                          f"examples, this run has {self.batches.batch} of {self.batches.examples}.", where=found.path,
                                          remedy="Resume with the data and the batch size that the run was started with."))
        for part, name in (("model", "model"), ("optimizer", "state")):
            tree = getattr(self.fit, name)
            leaves = [found.tensors[f"{part}.{path}"] for path in paths(tree)]
            setattr(self.fit, name, unflatten(flatten(tree)[1], leaves))
        self.batches.restore(found.metadata["batches"])
        self.fit.steps = found.counter("step")
        self.total, self.counted = float(found.metadata["total"]), found.counter("counted")
        self.fit.history = found.metadata.get("history", [])

    def agree(self, data: Arrays) -> None:
        """Begin where the worker stands that has gone furthest: its model, its state, its place in the data, which all must have."""
        source = self.parallel.furthest(self.fit.steps)
        self.fit.model, self.fit.state = self.parallel.agree(self.fit.model, self.fit.state, source)
        numbers = {"epochs": self.epochs, "examples": self.batches.examples, "batch": self.batches.batch}
        facts = {name: (str(number), []) for name, number in numbers.items()}
        facts |= {"data": facts_of(data), "validation": facts_of(self.validation)}
        mine = {"batches": self.batches.state(), "steps": self.fit.steps, "total": self.total, "counted": self.counted,
                "history": self.fit.history, "facts": facts}
        told = msgspec.json.decode(self.parallel.tell(msgspec.json.encode(mine), source))
        check_alike(self.parallel, facts, told["facts"], source)
        self.batches.restore(told["batches"])
        self.fit.steps, self.total, self.counted, self.fit.history = (told[name] for name in ("steps", "total", "counted", "history"))

    def recall(self, resume: bool) -> None:
        """The history up to here, where the leader's folder has it."""
        if resume and self.folder is not None:
            self.fit.history = self.folder.rewind(self.batches.epoch)
        self.fit.history = msgspec.json.decode(self.parallel.tell(msgspec.json.encode(self.fit.history)))

    # -- the loop -----------------------------------------------------------------------------------------------------

    def train(self, transform: Callable | None) -> Fit:
        epoch, start = self.batches.epoch, time.monotonic()
        with deferred_interrupts() as interrupted:
            for step in self.walk(transform):
                self.take(step)
                if self.batches.epoch != epoch:
                    epoch, stopping = self.batches.epoch, self.end_epoch(step, time.monotonic() - start)
                    start = time.monotonic()
                    if stopping:
                        break
                if number := self.parallel.largest(interrupted() or 0):
                    self.fit.interrupted = number
                    self.commit(last=True)
                    break
                self.commit()
                if time.monotonic() - self.saved > self.save_seconds:
                    self.save()
        self.settle()
        self.save()
        return self.fit

    def settle(self) -> None:
        """Let all workers go on from the same model and state, where they differ between steps."""
        self.fit.model, self.fit.state, self.total = self.parallel.settle(self.fit.model, self.fit.state, self.total)

    def walk(self, transform: Callable | None) -> Iterator[Step]:
        """The steps of the epochs to come; each epoch begins with the state that the end of the one before has left (a rate that fell)."""
        while self.batches.epoch < self.epochs:
            yield from steps(self.step, self.fit.model, self.fit.state, self.batches, epochs=self.batches.epoch + 1, done=self.fit.steps,
                             transform=transform, seed=self.seed, share=self.parallel.share)

    def take(self, step: Step) -> None:
        """Count a step, or stop before its update."""
        if not step.finite:
            self.refuse(step)
        self.fit.model, self.fit.state, self.fit.steps = step.model, step.state, step.count
        self.total += float(step.loss)
        self.counted += 1

    def refuse(self, step: Step) -> None:
        key = np.array([self.seed, step.count - 1])
        gradient = value_and_grad(lambda m, x, y: self.loss(training(m, key)(x), y))
        birth = birth_of_nonfinite(gradient, step.model, *step.batch)
        other = self.parallel.first(birth is not None)
        born = {None: "born on another rank, or a norm of its gradients overflowed", -1: "a norm of its gradients overflowed"}.get(
            other, f"born on rank {other}, whose own message says in which operation")
        born = f"born in {birth.operation}: {birth.detail}" if birth else born
        place = (self.batches.cursor - 1) % len(self.batches) + 1
        epoch = self.batches.epoch + (self.batches.cursor > 0)
        raise NonFiniteError(explain(
            f"step {step.count} (epoch {epoch}, batch {place}) stopped before its update: the loss or a gradient is not finite, {born}.",
            where=birth.where if birth else "",
            remedy="Model and optimizer are as before this step. Lower the learning rate, clip the gradients, or check the data."))

    def end_epoch(self, step: Step, seconds: float) -> bool:
        """Measure, log and show an epoch; true if the run should end."""
        self.settle()
        examples = self.counted * self.batches.batch
        line = {"epoch": self.batches.epoch, "step": step.count, "loss": self.total / max(self.counted, 1), "seconds": seconds,
                "examples_per_second": examples / max(seconds, 1e-9),
                "gradient_norms": {name: float(n) for name, n in zip(self.names, step.norms, strict=True)}}
        self.total, self.counted = 0.0, 0
        self.fit.seconds["steps"] += seconds
        error = self.validate(line)
        self.fit.history.append(line)
        if self.folder is not None:
            self.folder.log(line)
        if self.progress is not None:
            self.progress.update(line["epoch"], line["loss"], error, examples)
        self.fit.state = observe(self.fit.state, line.get("validation_loss", line["loss"]))       # rates that fall on a plateau
        stopping = self.stop is not None and bool(self.stop(self.fit.history))
        if isinstance(self.stop, EarlyStopping):
            self.stop.keep(evaluation_parameters(self.fit.state, self.fit.model))
        return self.parallel.any(stopping)

    def validate(self, line: dict) -> float | None:
        """Note the loss of the validation set, and the share of wrong predictions where there are labels: it is returned."""
        if self.validation is None:
            return None
        start = time.monotonic()
        loss, wrong, labelled = self.parallel.total(self.measure, len(self.validation[0]), 3).tolist()
        line["validation_loss"], error = loss, None
        if labelled:
            error = line["validation_error"] = wrong / labelled
        self.fit.seconds["validation"] += time.monotonic() - start
        return error

    def measure(self, rows: slice) -> np.ndarray:
        """Of some examples of the validation set: their part of its mean loss, wrong predictions, predictions that have labels."""
        x, y = (part[rows] for part in self.validation)
        outputs = self.predict(evaluation_parameters(self.fit.state, self.fit.model), x)
        labelled = y.dtype.kind in "iu" and (outputs.ndim, y.ndim) == (2, 1)
        wrong = np.count_nonzero(np.argmax(outputs, axis=1) != y) if labelled else 0
        return np.array([float(self.loss(outputs, y)) * (len(y) / len(self.validation[1])), wrong, len(y) * labelled])
