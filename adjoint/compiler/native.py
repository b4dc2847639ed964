"""From a Graph to a callable program of this process: build, code from the cache or from LLVM, link, and say what happened.

Invariant: object code depends on the graph, its donations and the target only; arrays it reads are handed over at each call.
May import: L0-L3, pipeline, llvm, cache, jit, runtime, signature. Read next: compile.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from msgspec import Struct, field
from msgspec.structs import replace

from ..core.graph import Graph
from ..errors import (
    Cancelled,
    CompileError,
    DivisionError,
    DonationError,
    IndexRangeError,
    LinearAlgebraError,
    NonFiniteError,
    explain,
)
from ..tree import Structure
from . import cache, communication
from .entry import Specialization
from .jit import Code
from .llvm import emit_object, program_scratch
from .loops import Contraction, Convolution, Kernel, Program
from .lower import Failure
from .pipeline import Built, build
from .runtime import load_program
from .signals import Signals
from .signature import Array, Fresh, Named, Record, Scalar, Signature, Static, tree_of
from .steps import is_endless, weighted
from .target import host_target

SECONDS_PER_OPERATION = 5e-11        # a rough scalar operation of a vector loop, on one core
SECONDS_PER_FLOP = 1.0 / 1e11         # a contraction's, on one core
RELEASE_ABOVE = 20e-6                 # estimated seconds above which a call gives up the GIL
THREADS_ABOVE = 40e-6                 # estimated seconds above which a call uses more than one thread
MAX_THREADS = 64


class Native(Struct, frozen=True, dict=True):
    """A linked program with what its failures mean and how it came to be."""

    built: Built
    code: Code
    seconds: dict[str, float]
    facts: dict[str, Any] = field(default_factory=dict)
    signals: Signals | None = None

    @property
    def address(self) -> int:
        return self.code["program"]

    @cached_property
    def kept(self) -> dict[int, np.ndarray]:
        """With Signals: the arrays that every call writes its results to, by number, so that others may read them before it returns."""
        outputs = self.built.graph.outputs
        fresh = [] if self.signals is None else [b.slot for b in self.built.program.buffers if b.role == "output"]
        return {j: np.empty(outputs[j].aval.shape, outputs[j].aval.dtype) for j in fresh if outputs[j].aval.shape}


def estimated_seconds(built: Built) -> float:
    """A rough time of one call on one core, for choosing threads and the GIL."""
    total = 0.0
    for step, times in weighted(built.program.steps):
        if isinstance(step, Contraction | Convolution):
            total += times * 2.0 * step.batch * step.m * step.n * step.k * SECONDS_PER_FLOP * (step.dtype.itemsize / 4)
        elif isinstance(step, Kernel):
            total += times * step.cost * SECONDS_PER_OPERATION
    return total


def make_native(graph: Graph, donated: dict[int, int], signals: Signals | None = None) -> Native:
    """Build, fetch or emit the object code, and link it."""
    start = time.perf_counter()
    built = build(graph, donated, None if signals is None else signals.words)
    target = host_target()
    name = cache.key("program", built.graph.key, repr(sorted(donated.items())), repr(target), *(["signals"] if signals else []))
    middle = time.perf_counter()
    code, facts, emitted_at = _load_cached(name), {"cached": True}, middle
    if code is None:
        emitted = emit_object(built.program, target)
        facts = {"cached": False} | emitted.stats
        cache.store(name, emitted.data)
        emitted_at = time.perf_counter()
        code = load_program([emitted.data], ["program"])
    seconds = {"build": middle - start, "emit": emitted_at - middle, "link": time.perf_counter() - emitted_at}
    return Native(built, code, seconds, facts, signals)


def _load_cached(name: str) -> Code | None:
    """The code stored under this key, linked; None, with one warning, where the linker refuses what is there."""
    found = cache.fetch(name)
    try:
        return None if found is None else load_program([found], ["program"])
    except CompileError as error:
        cache.refused(name, str(error).splitlines()[0])
        return None


def specialize(native: Native, arguments: list[Any], results: Any, donated: bool, slots: int = 0,
               rebuild: Callable | None = None) -> Specialization:
    """The entry record of a program. arguments: what the caller passes, in order; results: a tree of result records."""
    program = native.built.program
    scratch_at = -(-program.arena_bytes // 64) * 64                 # the packed operands of contractions, behind the temporaries
    arena = (*((i, b.offset) for i, b in enumerate(program.buffers) if b.role == "arena"), (len(program.buffers), scratch_at))
    hidden = {i: native.built.hidden[b.slot] for i, b in enumerate(program.buffers) if b.role == "hidden"}
    hidden |= {i: native.kept[j] for j, i in buffer_numbers(native, "output").items() if j in native.kept}
    signature = Signature(tuple(arguments), results, len(program.buffers) + 1, arena, scratch_at + scratch_bytes(program), slots)
    seconds = estimated_seconds(native.built)
    return Specialization(signature, native.address, lambda status: raise_failure(native, status), owner=native.code, hidden=hidden,
                          threads=MAX_THREADS if seconds > THREADS_ABOVE else 1,
                          release_gil=seconds > RELEASE_ABOVE or is_endless(program.steps) or native.signals is not None,
                          rebuild=rebuild, exclusive=donated or native.signals is not None)


def buffer_numbers(native: Native, role: str) -> dict[int, int]:
    """slot -> buffer number, of the buffers with this role."""
    return {b.slot: i for i, b in enumerate(native.built.program.buffers) if b.role == role}


def scratch_bytes(program: Program) -> int:
    """Bytes that contractions pack operands into during a call."""
    return program_scratch(program, host_target())


def leaf_record(leaf: Any, buffer: int) -> Array | Scalar:
    """How the entry checks an argument like this one."""
    if isinstance(leaf, (np.ndarray, np.generic)):
        return Array(leaf.dtype, leaf.shape, buffer)
    kind = float if isinstance(leaf, float) else int
    return Scalar(kind, np.dtype(np.float64 if kind is float else np.int64), buffer)


def fresh_records(native: Native, graph: Graph, skip: frozenset[int] = frozenset()) -> list[Fresh | np.ndarray | None]:
    """One result record per output of the graph; None for those that stay in donated memory, an array where Signals keep one."""
    at, kept = buffer_numbers(native, "output"), native.kept
    return [None if j in skip else kept.get(j, Fresh(a.aval.dtype, a.aval.shape, at[j])) for j, a in enumerate(graph.outputs)]


def results_of(structure: Structure, records: Sequence[Any]) -> Any:
    """Result records in the tree that the function returned; a static leaf is the value itself."""
    def plain(tree: Any) -> Any:
        if isinstance(tree, Static):
            return tree.value
        if isinstance(tree, dict):
            return {k: plain(x) for k, x in tree.items()}
        if isinstance(tree, (tuple, list)):
            return type(tree)(map(plain, tree))
        return replace(tree, children=tuple(map(plain, tree.children))) if isinstance(tree, (Record, Named)) else tree
    return plain(tree_of(structure, records))


def raise_failure(native: Native, status: int) -> None:
    """Turn the status of a program into an exception."""
    if status > 0:
        raise failure_error(native.built.failures[status - 1])
    if status == -2:
        raise DonationError(explain("a compiled function was called while another call is updating the same donated arrays.",
                                    remedy="Call it from one thread at a time, or compile a second function."))
    if native.signals is not None and native.signals.cancelled:
        raise Cancelled(explain("a compiled call was cancelled by its Signals; its arguments are as they were.",
                                remedy="Reset the Signals, and call it again."))
    raise KeyboardInterrupt


def failure_error(failure: Failure) -> BaseException:
    """The error of a failed check, in the user's terms."""
    where = failure.node.where if failure.node is not None else None
    name = failure.node.primitive.name if failure.node is not None else "the program"
    detail = failure.detail
    if failure.kind == "index":
        axis, size = detail.get("axis", "?"), detail.get("size", "?")
        return IndexRangeError(explain(f"{name}: an index is outside its axis (axis {axis} has size {size}).", where=where,
                                       remedy="Check the indices against the shape; negative ones count from the end."))
    if failure.kind == "label":
        return IndexRangeError(explain(f"a label is outside of 0..{detail['size'] - 1}.", where=where,
                                       remedy="Number the classes from 0, and check the size of the last layer."))
    if failure.kind == "division":
        return DivisionError(explain(f"{name}: integer division by zero, or of the smallest integer by -1.", where=where,
                                     remedy="Guard the divisor: np.where(d == 0, 1, d)."))
    if failure.kind == "finite":
        return NonFiniteError(explain(f"{detail.get('label', 'a value')} is not finite.", where=where,
                                      remedy=detail.get("remedy", "Lower the learning rate, or look for NaN in the data.")))
    if failure.kind == "communication":
        return communication.taken(detail["number"])
    if failure.kind == "linear algebra":
        return LinearAlgebraError(explain(f"{name}: {detail['what']}.", where=where, remedy=detail["remedy"]))
    return CompileError(explain(f"{name}: a check failed ({failure.kind}).", where=where, remedy="Look at the arguments of this line."))


