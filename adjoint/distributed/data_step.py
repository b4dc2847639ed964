"""A data-parallel step: gradients here, their sum over all ranks while the backward pass still runs, one common update.

Gradients are written into flat buckets, in the reverse order of the forward pass; the communication thread adds up a bucket over the ranks
as soon as the compiled call has finished it. Invariant: every rank adds up the same buckets in the same order; where layers ask for
collectives of their own (synchronized batch norm) the ranks agree between which sums these come.
May import: L0-L5, train, collectives, engine. Read next: engine.py.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from numbers import Number
from types import CodeType
from typing import Any, NamedTuple

import numpy as np

from ..compiler.compile import compile
from ..compiler.signals import Signals
from ..core.graph import Graph, Literal
from ..errors import Cancelled, CommunicationError, ConfigError, ShapeError, explain
from ..nn.modes import absorb
from ..optim import Optimizer, apply_updates
from ..train.loop import choose, objective
from ..tree import Structure, flatten, paths, unflatten
from .checks import examples_of
from .collectives import all_reduce_in_place
from .communicator import Communicator
from .engine import Engine, Job, check_same
from .fixed_point import exact_sum
from .schedules import bounds
from .sync_norm import synchronizes
from .values import per_rank, ranks_of

LAST = 0.25             # of the bytes of the last bucket: what is cut off it
WORTH = 2 ** 20         # bytes above which that is worth one more message
SMALL = 2 ** 10         # elements of an array of constants of a loss, up to which ranks compare it
APART = 1e-5            # of the sum of an array's magnitudes: what ranks with other processors may round otherwise, and more


class Layout(NamedTuple):
    """Where the gradients of a model lie in flat buckets: their structure, names and shapes, and the gradients of each bucket."""

    structure: Structure
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    buckets: tuple[tuple[int, ...], ...]

    def name(self, number: int) -> str:
        """What a bucket is called in errors and timelines."""
        bucket = self.buckets[number]
        inside = self.names[bucket[-1]] + (f"..{self.names[bucket[0]]}" if len(bucket) > 1 else "")
        return f"bucket {number + 1} of {len(self.buckets)} ({inside})"


def layout_of(gradients: Any, bucket_bytes: int) -> Layout:
    """Buckets of one dtype and at most bucket_bytes (one gradient may be larger), in the reverse order of the forward pass.

    The last bucket is finished when the backward pass ends, so nothing hides its sum: where it is large it is cut into two, the last small.

    >>> layout = layout_of({"a": np.ones(3), "b": np.ones((2, 2)), "c": np.ones(5)}, 64)
    >>> layout.buckets, layout.name(1)
    (((2,), (1, 0)), 'bucket 2 of 2 (a..b)')
    """
    leaves, structure = flatten(gradients)
    buckets: list[list[int]] = []
    filled, dtype = 0, None
    bytes_of = lambda i: leaves[i].size * leaves[i].dtype.itemsize
    for i in reversed(range(len(leaves))):
        size = bytes_of(i)
        if not buckets or filled + size > bucket_bytes or leaves[i].dtype != dtype:
            buckets.append([])
            filled, dtype = 0, leaves[i].dtype
        buckets[-1].append(i)
        filled += size
    if filled > WORTH:
        last: list[int] = []
        while sum(bytes_of(i) for i in (*last, buckets[-1][-1])) <= LAST * filled:
            last.insert(0, buckets[-1].pop())
        buckets += [last] if last else []
    return Layout(structure, tuple(paths(gradients)), tuple(g.shape for g in leaves), tuple(map(tuple, buckets)))


def packed(gradients: Any, layout: Layout, factor: float = 1.0) -> tuple[Any, ...]:
    """The gradients, times a factor, as flat buckets; multiplied one by one, so that compiled code writes each where its bucket has it."""
    leaves = flatten(gradients)[0]
    return tuple(np.concatenate([leaves[i].reshape(-1) * factor for i in bucket]) for bucket in layout.buckets)


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


def digest_of(text: str) -> int:
    """63 bits that tell texts apart; the same in every process.

    >>> digest_of("a") == digest_of("a"), digest_of("a") == digest_of("b")
    (True, False)
    """
    value = 0xCBF29CE484222325
    for byte in text.encode():                              # FNV-1a: Python's own hash of text differs from process to process
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value >> 1


def outline(graph: Graph) -> str:
    """What a program does, without its sizes: its operations in order, each with the constants that it takes."""
    inside = lambda node: [x for x in (*node.inputs, *node.params.values()) if isinstance(x, Literal | Graph)]
    told = lambda x: f"({outline(x)})" if isinstance(x, Graph) else "/".join(map(_rounded, np.ravel(x.value).tolist()))
    return " ".join(" ".join((node.primitive.name, *map(told, inside(node)))) for node in graph.nodes)


def code_of(function: Callable) -> str:
    """What tells functions of a program apart, the same in every process: where one was defined and what it does.

    >>> code_of(lambda x: x + 1) == code_of(lambda x: x + 1), code_of(lambda x: x + 1) == code_of(lambda x: x + 2)
    (True, False)
    """
    while isinstance(function, functools.partial):
        function = function.func
    code = getattr(function, "__code__", None)
    return f"{getattr(function, '__qualname__', type(function).__qualname__)} {'' if code is None else _does(code)}"


def _does(code: CodeType) -> str:
    """Sets of constants have another order in every process, and code has an address."""
    constants = [_does(c) if isinstance(c, CodeType) else sorted(map(repr, c)) if isinstance(c, frozenset) else c for c in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {constants}"


def numbers_of(function: Callable) -> str:
    """The numbers that a function takes from around itself: its defaults, what functools.partial gives it, and what it reads there and does
    not write (a counter). Arrays up to SMALL elements and tuples of numbers are numbers too; lists and attributes are not: they may grow.

    >>> make = lambda w: lambda x: w * x
    >>> numbers_of(make(2.0)), numbers_of(make(3)), numbers_of(make(np.array([1.0, 2.0]))), numbers_of(functools.partial(pow, exp=2))
    ('w=2+0j', 'w=3', 'w=(2,)[1+0j 2+0j]', 'exp=2')
    """
    if isinstance(function, functools.partial):
        given = {**dict(enumerate(function.args)), **function.keywords}
        return " ".join(filter(None, (_told(given), numbers_of(function.func))))
    code = getattr(function, "__code__", None)
    if code is None:
        return ""
    found: dict[Any, Any] = dict(enumerate((*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())))
    steps = list(dis.get_instructions(code))
    found |= {s.argval: function.__globals__.get(s.argval) for s in steps if s.opname == "LOAD_GLOBAL"}
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):               # nothing is in it yet
            found[name] = cell.cell_contents
    written = {s.argval for s in steps if s.opname.startswith("STORE_")}
    fills = "STORE_SUBSCR" in {s.opname for s in steps}     # an array, perhaps
    return _told({name: x for name, x in found.items() if name not in written and not (fills and isinstance(x, np.ndarray))})


def _told(found: dict) -> str:
    """Those of named values that are numbers."""
    return " ".join(f"{name}={text}" for name, text in ((name, _text(x)) for name, x in found.items()) if text)


def _text(x: Any) -> str:
    """A number, a small array or a tuple of numbers, rounded; nothing else."""
    if isinstance(x, Number):
        return _rounded(x)
    if isinstance(x, np.ndarray) and x.size <= SMALL and x.dtype.kind in "biufc":
        return f"{x.shape}[{' '.join(map(_rounded, x.ravel().tolist()))}]".replace(", ", ",")
    if isinstance(x, tuple) and len(x) <= SMALL and all(isinstance(each, Number | np.ndarray | tuple) for each in x):
        return f"({' '.join(map(_text, x))})"
    return ""


def _rounded(x: Any) -> str:
    """A number, with as many digits as other processors compute too."""
    return str(x) if isinstance(x, int) else f"{complex(x):.6g}"


def check_models(communicator: Communicator, model: Any, state: Any, remedy: str, where: str | None = "") -> None:
    """Raise CommunicationError on every rank if the sum of |x| over an array differs by more than APART, or is finite on some only.

    where: as of explain; the communication thread does not know it.

    >>> from adjoint.distributed.threads import run_threads
    >>> run_threads(2, lambda c: check_models(c, np.ones(2), (), "Do otherwise."))
    [None, None]
    """
    own = magnitudes(model, state)
    most, least = all_reduce_in_place(np.stack([own, -own]), communicator, algorithm="tree", combine=np.maximum)
    refuse_unlike(model, state, most, -least, remedy, where)


def magnitudes(*trees: Any) -> np.ndarray:
    """The sum of |x| over each array, infinite where that is not finite.

    >>> magnitudes([np.array([3.0, -4.0])], np.nan)
    array([ 7., inf])
    """
    with np.errstate(over="ignore"):
        own = np.array([np.sum(np.abs(x), dtype=np.float64) for x in flatten(trees)[0]])
    own[np.isnan(own)] = np.inf                             # a maximum with NaN would hide what the others have
    return own


def refuse_unlike(model: Any, state: Any, most: np.ndarray, least: np.ndarray, remedy: str, where: str | None = "") -> None:
    """Raise CommunicationError if the largest and the least of all ranks' `magnitudes` are of different arrays.

    where: as of explain.

    >>> refuse_unlike([1.0], (), np.array([7.0]), np.array([7.0]), "Do otherwise.")
    """
    for name, high, low in zip(paths({"model": model, "optimizer": state}), most, least, strict=True):
        if low < high and (high == np.inf or high - low > APART * high):
            or_nan = " or NaN" if high == np.inf else ""
            raise CommunicationError(explain(
                f"the ranks hold different models: the sum of |{name}| is from {low:.6g} to {high:.6g}{or_nan}.", where=where,
                remedy=remedy))


class DataStep:
    """step(model, state, x, y, key=None): the two compiled halves meet in flat buckets."""

    def __init__(self, loss: Callable, optimizer: Optimizer, engine: Engine, *, shards: int, accumulate: int, bucket_bytes: int,
                 compiled: bool):
        self.loss, self.optimizer, self.engine = loss, optimizer, engine
        self.shards, self.accumulate, self.bucket_bytes, self.compiled = shards, accumulate, bucket_bytes, compiled
        self.signals: Signals | None = None
        self._local: Callable | None = None
        self._apply = compile(self._update, donate=(0, 1)) if compiled else self._update
        self._layout: Layout | None = None
        self._checked, self._count = False, 0
        self._first: tuple = ()                             # model, state, x and y of the first step
        self._coupled = False                               # do layers ask for collectives in the middle of the step?

    def __call__(self, model: Any, state: Any, x: Any, y: Any, key: Any = None) -> tuple:
        self._count += 1
        examples_of("a training step", x, *([y] if isinstance(y, np.ndarray) else []))
        if self._local is None:
            self._prepare(model)
        if not self._checked and self.engine.communicator.size > 1:
            self._first = model, state, x, y
        total, buckets, taps = (self._exact if self.shards else self._summed)(model, x, y, key)
        with self.engine.timeline.span("update", step=self._count):
            return self._apply(model, state, buckets, taps, total)

    def _prepare(self, model: Any) -> None:
        """The half before the sums."""
        communicator, local = self.engine.communicator, self._gradients
        self._coupled = synchronizes(model)
        if self._coupled:
            if self.shards:
                raise ConfigError(explain("exact_reduce: the model synchronizes its batch norm, which depends on the number of ranks.",
                                          remedy="With exact_reduce every shard has statistics of its own: use nn.BatchNorm."))
            local = per_rank(self._coupled_gradients, communicator)
        if self.compiled and not self.shards and communicator.size > 1:
            self.signals = Signals()
        self._local = compile(local, signals=self.signals) if self.compiled else local

    def _gradients(self, model: Any, x: Any, y: Any, key: Any) -> tuple:
        """(examples * loss, buckets of examples * gradients, taps) of some examples."""
        (value, gradients), taps = objective(self.loss, model, x, y, key)
        count = float(np.shape(x)[0])
        return self._packed(value * count, gradients, taps, count, count)

    def _coupled_gradients(self, model: Any, x: Any, y: Any, key: Any) -> tuple:
        """The same where the ranks' losses depend on each other's examples: what is differentiated is the sum over all examples."""
        count = float(np.shape(x)[0])
        (value, gradients), taps = objective(lambda outputs, y: self.loss(outputs, y) * count, model, x, y, key)
        return self._packed(value, gradients, taps, 1.0, count)

    def _packed(self, value: Any, gradients: Any, taps: dict, factor: float, count: float) -> tuple:
        if self._layout is None:
            self._layout = layout_of(gradients, self.bucket_bytes)
        return value, packed(gradients, self._layout, factor), {k: count * v for k, v in taps.items()}

    # -- sums in floating point ---------------------------------------------------------------------------------------

    def _summed(self, model: Any, x: Any, y: Any, key: Any) -> tuple:
        """Totals over all ranks: (examples * loss, examples), buckets, taps. Micro-batches but the last are added up here alone."""
        rank, size = self.engine.communicator.rank, self.engine.communicator.size
        examples = np.shape(x)[0]
        limits, pieces = bounds(examples, self.accumulate), self.accumulate
        if pieces > max(examples, 1):
            raise ShapeError(explain(f"accumulate: {examples} examples of rank {rank} are not {pieces} micro-batches.",
                                     remedy="Give larger batches, or accumulate fewer."))
        value, held = 0.0, None
        for piece in range(pieces):
            rows = slice(limits[piece], limits[piece + 1])
            # Other random numbers on every rank and in every micro-batch.
            own = key if key is None or size * pieces == 1 else np.array([key[0], (key[1] * size + rank) * pieces + piece])
            arguments = (model, x[rows], y[rows], own) if pieces > 1 else (model, x, y, own)
            last = piece == pieces - 1
            found = self._over_ranks(arguments, held, value, examples) if last else self._local(*arguments)
            if not last:
                value += float(found[0])
                held = _added(held, [np.array(a) for a in flatten(found[1:])[0]])
        return found

    def _over_ranks(self, arguments: tuple, held: Sequence[np.ndarray] | None, value: float, examples: int) -> tuple:
        """The last micro-batch, and the sums over all ranks, begun while it is computed where signals tell of its results."""
        job = self._begin(held)
        begin = time.perf_counter_ns()
        try:
            with self._asking(job):
                own, *found = self._local(*arguments)
        except BaseException as error:
            if job is not None:
                job.abandon()
                if isinstance(error, Cancelled):
                    job.wait()                              # it failed, and cancelled this call: its error is the one to raise
            raise
        if job is not None:
            job.end()
        self.engine.timeline.add("compute", begin, time.perf_counter_ns(), step=self._count)
        leaves, structure = flatten(found)
        total = np.array([float(own) + value, examples], np.float64)
        if job is None:
            self._compare()
        sums = [*([] if job is None else [job]), self.engine.sum_of(total, "the loss")]
        if job is None:
            leaves = _added(held, [np.array(a) for a in leaves])
            sums += [self.engine.sum_of(a, self._name(k)) for k, a in enumerate(leaves)]
        else:
            for k, a in enumerate(leaves):
                if not np.shape(a):                         # a number has no memory before the call returns
                    leaves[k] = np.array(a + held[k] if held else a)
                    sums.append(self.engine.sum_of(leaves[k], self._name(k)))
        with self.engine.timeline.span("wait for all ranks", step=self._count):
            for each in sums:
                each.wait()
        return (total, *unflatten(structure, leaves))

    def _begin(self, held: Sequence[np.ndarray] | None) -> Job | None:
        """Let the communication thread follow the call that comes next; result 0 is the loss, a number."""
        if self.signals is None:
            return None
        more = {} if held is None else dict(enumerate(held, 1))
        return self.engine.sum_results(self.signals, lambda number: self._name(number - 1), before=self._check, more=more,
                                       asks=self._coupled)

    def _compare(self) -> None:
        """Check as `_check` does, where the communication thread follows no call."""
        communicator = self.engine.communicator
        if not self._checked and communicator.size > 1:
            self.engine.call(f"rank {communicator.rank} of {communicator.size}, comparing the programs of all ranks", self._check)

    def _check(self) -> None:
        """On the communication thread, in the first step: do all ranks compute the same program, and begin with the same model?"""
        if self._checked:
            return
        self._checked, (model, state, x, y), self._first = True, self._first, ()
        does = outline(self._local.programs[-1].graph) if self.compiled else ""
        sizes = [(np.shape(a), np.result_type(a).str) for a in flatten((x, y))[0]]         # other sizes, other constants
        always = f"{code_of(self.loss)} {self._layout.buckets} {len(flatten((model, state))[0])}"
        check_same(self.engine.communicator, digest_of(f"{numbers_of(self.loss)} {does}"), digest_of(str(sizes)), "a training step",
                   digest_of(always))
        check_models(self.engine.communicator, model, state,
                     "Call agree(model, state) once, before the first step: it gives every rank the model of one.")

    # -- layers that ask other ranks, in the middle of the step -------------------------------------------------------

    @contextlib.contextmanager
    def _asking(self, job: Job | None) -> Iterator[None]:
        """Inside: the communication thread does what layers ask, between the sums of its job."""
        if job is None or not self._coupled:
            yield
            return
        ranks = ranks_of(self.engine.communicator)
        ranks.asks = functools.partial(self._ask, job)
        try:
            yield
        finally:
            ranks.asks = None
        job.end()

    def _ask(self, job: Job, operation: str, function: Callable, *arguments: Any) -> None:
        """From inside of the compiled call, which stands still meanwhile."""
        communicator = self.engine.communicator
        job.ask(f"rank {communicator.rank} of {communicator.size}, {operation} in the middle of a step", self._timed, operation, function,
                *arguments)

    def _timed(self, operation: str, function: Callable, *arguments: Any) -> None:
        with self.engine.timeline.span(f"{operation} of a layer", step=self._count):
            function(*arguments)

    def _name(self, number: int) -> str:
        """What leaf `number` of (buckets, taps) is called."""
        count = len(self._layout.buckets)
        return self._layout.name(number) if number < count else f"statistic {number - count + 1} of the layers"

    # -- sums without rounding ----------------------------------------------------------------------------------------

    def _exact(self, model: Any, x: Any, y: Any, key: Any) -> tuple:
        """The same totals from shards of equal size, added without rounding."""
        communicator = self.engine.communicator
        mine, count = self.shards // communicator.size, np.shape(x)[0]
        self._check_shares(count, mine)
        size, parts = count // mine, []
        with self.engine.timeline.span("compute", step=self._count):
            for shard in range(mine):
                rows = slice(shard * size, (shard + 1) * size)
                number = communicator.rank * mine + shard
                own = None if key is None else np.array([key[0], key[1] * self.shards + number])
                value, buckets, taps = self._local(model, x[rows], y[rows], own)
                parts.append([np.array([value], np.float64), *map(np.array, buckets), *map(np.array, taps.values())])
        self._compare()
        losses, *sums = self.engine.call(
            f"rank {communicator.rank} of {communicator.size}, exact sums of all buckets",
            lambda: [exact_sum(column, communicator, self.shards) for column in zip(*parts, strict=True)])
        total = np.array([losses[0], size * self.shards])
        return total, tuple(sums[:len(buckets)]), dict(zip(taps, sums[len(buckets):], strict=True))

    def _check_shares(self, count: int, mine: int) -> None:
        """Refuse, on every rank, shares that are not as many equal shards everywhere."""
        communicator, limits = self.engine.communicator, np.array([count, -count])
        self.engine.call(f"rank {communicator.rank} of {communicator.size}, comparing the numbers of examples",
                         lambda: all_reduce_in_place(limits, communicator, combine=np.maximum))
        most, least = int(limits[0]), -int(limits[1])
        if most % mine or least != most or not most:
            found = f"{most}" if most == least else f"{least} to {most}"
            raise ShapeError(explain(f"exact_reduce: {found} examples a rank, expected as many on each, in {mine} equal shards.",
                                     remedy=f"Give batches divisible by {self.shards} in all."))

    # -- the update ---------------------------------------------------------------------------------------------------

    def _update(self, model: Any, state: Any, buckets: Any, taps: dict, total: Any) -> tuple:
        """One common update from the totals."""
        value = total[0] / total[1]
        sums, structure = flatten(unpacked(buckets, self._layout))
        # Norms of the sums: so neither a mean gradient nor its square has to be written down.
        norms = [np.sqrt(np.sum(g * g)) / total[1].astype(g.dtype) for g in sums]
        gradients = unflatten(structure, [g / total[1].astype(g.dtype) for g in sums])
        finite = np.isfinite(sum(norms, value))
        updates, new_state = self.optimizer.update(gradients, state, model)
        moved = absorb(apply_updates(model, updates), {name: x / total[1].astype(x.dtype) for name, x in taps.items()})
        return choose(finite, moved, model), choose(finite, new_state, state), value, tuple(norms), finite


def _added(held: Sequence[np.ndarray] | None, found: list[np.ndarray]) -> list[np.ndarray]:
    return found if held is None else [np.add(a, b, out=a) for a, b in zip(held, found, strict=True)]       # numbers stay arrays
