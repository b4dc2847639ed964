"""What lowering writes with: KernelEmitter (scalar statements over Refs) and Lowering (the kernels of one program, in order).

Invariant: every value that a kernel reads was stored by an earlier step. May import: L0-L3, emitter, loops, views. Read next: schedule.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from msgspec import Struct

from ..core.graph import Atom, Literal, Node, Var
from . import communication, lapack
from .emitter import LoopEmitter
from .loops import Contraction, Convolution, Foreign, Index, Kernel, Loop, Statement, Value
from .loops import Var as LoopVar
from .views import Ref, fresh, merge_axes

CHUNK = 2048             # elements that one iteration of a flat kernel covers
SMALL = 8192             # flat kernels up to this many elements are one iteration
COSTLY = 60_000.0        # unless they cost so much that a second thread helps


class Const(Struct, frozen=True):
    """A uniform value of a shape: no memory behind it."""

    value: Any
    dtype: np.dtype
    shape: tuple[int, ...]

    def sliced(self, bounds: Sequence[tuple[int, int, int]]) -> Const:
        return Const(self.value, self.dtype, tuple(len(range(*b)) for b in bounds))

    def permuted(self, axes: Sequence[int]) -> Const:
        return Const(self.value, self.dtype, tuple(self.shape[a] for a in axes))

    def expanded(self, shape: Sequence[int]) -> Const:
        return Const(self.value, self.dtype, tuple(shape))


Place = Ref | Const


class Failure(Struct, frozen=True):
    """What a failed check means: the kind of error, its facts, and the node it came from."""

    kind: str
    detail: dict
    node: Node | None


class KernelEmitter(LoopEmitter):
    """A LoopEmitter that loads and stores through Refs and registers checks; `loads` are cached per place and indices."""

    def __init__(self, lowering: Lowering):
        super().__init__()
        self.lowering, self._loaded = lowering, {}

    def get(self, ref: Place, *indices: Any) -> Value:
        """The element of a place at these indices (Vars, int64 Values or ints)."""
        if isinstance(ref, Const):
            return self.const(ref.value, ref.dtype)
        return self.load(self.lowering.number(ref.buffer), ref.at(*indices), ref.dtype)

    def put(self, ref: Ref, *indices: Any, value: Value) -> None:
        """Store a value at these indices."""
        self.store(self.lowering.number(ref.buffer), ref.at(*indices), value)

    def require(self, ok: Value, kind: str, **detail: Any) -> None:
        """Stop before the commit point with the error `kind` unless ok."""
        self.check(ok, self.lowering.failure(kind, detail))


class Lowering:
    """Collects steps, buffers and failures of one program. Buffers are keys until the memory plan numbers them."""

    def __init__(self) -> None:
        self.steps: list[Kernel | Contraction | Convolution] = []
        self.buffers: dict[Any, tuple[np.dtype, int]] = {}
        self.numbers: dict[Any, int] = {}
        self.failures: list[Failure] = []
        self.node: Node | None = None
        self.windows: dict[Any, tuple[int, int, int, int]] = {}          # of a window: base (number), start, step, period
        self.laid_out: dict[Any, Any] = {}                               # operands that were copied for a loop (repeats.laid_out_once)
        self.enclosing: list[list] = []                                  # steps of the regions around the one being lowered
        self.depth: dict[Any, int] = {}                                  # of the region in which a buffer was declared
        self._temporaries = 0

    # -- buffers and failures -----------------------------------------------------------------------------------------

    def number(self, key: Any) -> int:
        return self.numbers[key]

    def declare(self, key: Any, dtype: np.dtype, size: int) -> None:
        self.buffers[key] = (np.dtype(dtype), size)
        self.numbers[key] = len(self.numbers)
        self.depth[key] = len(self.enclosing)

    def temporary(self, dtype: np.dtype, shape: Sequence[int]) -> Ref:
        """A fresh contiguous buffer in the arena."""
        self._temporaries += 1
        key = ("arena", self._temporaries)
        self.declare(key, dtype, int(np.prod(shape, dtype=np.int64)))
        return fresh(key, dtype, shape)

    def window(self, base: Any, dtype: np.dtype, size: int, start: int, step: int, period: int) -> Any:
        """A buffer that a Repeat moves over another (see steps.Window)."""
        key = ("window", len(self.windows))
        self.declare(key, dtype, size)
        self.windows[key] = (self.number(base), start, step, period)
        return key

    def size(self, key: Any) -> int:
        return self.buffers[key][1]

    def failure(self, kind: str, detail: dict) -> int:
        found = Failure(kind, dict(detail), self.node)
        for i, known in enumerate(self.failures):
            if (known.kind, known.detail, known.node) == (found.kind, found.detail, found.node):
                return i
        self.failures.append(found)
        return len(self.failures) - 1

    # -- steps --------------------------------------------------------------------------------------------------------

    def add(self, step: Kernel | Contraction | Convolution) -> None:
        self.steps.append(step)

    @contextmanager
    def region(self) -> Iterator[list]:
        """Steps added inside belong to a loop or a branch: they are collected in the list that this yields."""
        self.enclosing.append(self.steps)
        self.steps = []
        yield self.steps
        self.steps = self.enclosing.pop()

    @contextmanager
    def outside(self, depth: int) -> Iterator[None]:
        """Steps added inside belong to the region at this depth, before the loop that is being lowered in it: so what they make of
        constants is made once."""
        if depth >= len(self.enclosing):
            yield
            return
        steps, enclosing = self.steps, self.enclosing
        self.steps, self.enclosing = enclosing[depth], enclosing[:depth]
        yield
        self.steps, self.enclosing = steps, enclosing

    def name(self) -> str:
        return self.node.primitive.name if self.node is not None else "copy"

    def nest(self, extents: Sequence[int], body: Callable[..., None], cost: float = 1.0, label: str = "") -> None:
        """A kernel over an index space of independent iterations: body(e, *indices) writes the statements of one element.

        The last axis runs in lanes, the first is what threads split; a single long axis is cut into chunks.
        """
        if any(n == 0 for n in extents):
            return
        total = float(np.prod(extents, dtype=np.float64)) * cost
        chunk = _chunk(extents[0] if len(extents) == 1 else 0, total)
        if len(extents) == 1 and extents[0] > chunk:
            whole, rest = divmod(extents[0], chunk)
            self._flat(chunk, whole, 0, body, total, label)
            if rest:
                self._flat(rest, 1, whole * chunk, body, cost * rest, label)
            return
        e = KernelEmitter(self)
        outer = LoopVar()
        lead = extents[0] if len(extents) > 1 else 1
        inner = list(extents[1:] if len(extents) > 1 else extents)
        self._loops(e, inner, [outer] if len(extents) > 1 else [], body)
        self.add(Kernel(label or self.name(), outer, lead, e.statements, total))

    def _loops(self, e: KernelEmitter, extents: list[int], indices: list, body: Callable) -> None:
        if not extents:
            body(e, *indices)
            return
        with e.loop(extents[0], "vector" if len(extents) == 1 else "serial") as i:
            self._loops(e, extents[1:], [*indices, i], body)

    def _flat(self, chunk: int, count: int, base: int, body: Callable, cost: float, label: str) -> None:
        """Chunks of one long axis: element index = base + outer * chunk + inner, handed on as a Span."""
        e, outer = KernelEmitter(self), LoopVar()
        with e.loop(chunk, "vector") as i:
            body(e, Span(((outer, chunk), (i, 1)), base))
        self.add(Kernel(label or self.name(), outer, count, e.statements, cost))

    # -- the API of General rows --------------------------------------------------------------------------------------

    def copy(self, source: Place, target: Ref) -> None:
        """target[...] = source[...]"""
        if source == target:
            return
        from_shape = target.shape
        self.elementwise(from_shape, [source], [target], lambda e, xs: list(xs), label="copy")

    def fill(self, target: Ref, value: Any) -> None:
        """target[...] = value"""
        self.copy(Const(value, target.dtype, target.shape), target)

    @contextmanager
    def kernel(self, shape: Sequence[int]) -> Iterator[tuple[KernelEmitter, tuple]]:
        """One kernel over an index space: yields the emitter and one index per axis (the last runs in lanes)."""
        e, indices = KernelEmitter(self), tuple(LoopVar() for _ in shape)
        yield e, indices
        if any(n == 0 for n in shape):
            return
        body: tuple[Statement, ...] = e.statements
        if not shape:
            self.add(Kernel(self.name(), LoopVar(), 1, body, len(body)))
            return
        cost = float(np.prod(shape, dtype=np.float64)) * max(1, len(body))
        kind = "vector"
        for var, extent in zip(reversed(indices[1:]), reversed(shape[1:]), strict=True):
            body, kind = (Loop(var, extent, body, kind),), "serial"
        if len(shape) == 1:
            self.add(Kernel(self.name(), LoopVar(), 1, (Loop(indices[0], shape[0], body, "vector"),), cost))
        else:
            self.add(Kernel(self.name(), indices[0], shape[0], body, cost))

    @contextmanager
    def serial(self) -> Iterator[KernelEmitter]:
        """One kernel that runs on one thread, in order."""
        e = KernelEmitter(self)
        yield e
        self.add(Kernel(self.name(), LoopVar(), 1, e.statements, 0.0))

    def routine(self, name: str, operands: Sequence[Ref], numbers: Sequence[int], cost: float, **detail: Any) -> None:
        """One kernel: LAPACK's routine `name` (lapack.py) for every problem. operands: contiguous float64 [problems, elements of one]; if
        the routine fails, the program stops with the error "linear algebra" and this detail."""
        lapack.require(self.name(), self.node.where if self.node is not None else "")
        count, problem = operands[0].shape[0], LoopVar()
        if not count:
            return
        places = tuple([(self.number(x.buffer), Index(x.offset, ((problem, x.shape[1]),)), x.shape[1]) for x in operands])
        call = Foreign(lapack.PREFIX + name, places, tuple(numbers), self.failure("linear algebra", detail))
        self.add(Kernel(self.name(), problem, count, (call,), cost * count))

    def communicate(self, operation: str, place: Ref, ranks: Any, peers: tuple[int, int]) -> None:
        """An operation among ranks on contiguous memory, in place (primitives/collective.py)."""
        if ranks.size == 1 or not place.size:
            return
        numbers = communication.numbers_of(operation, place.dtype, place.size, ranks, peers)
        call = Foreign(communication.NAME, ((self.number(place.buffer), Index(place.offset, ()), place.size),), numbers,
                       self.failure("communication", {"number": ranks.number}))
        self.add(Kernel(self.name(), LoopVar(), 1, (call,), float(place.size)))

    def elementwise(self, shape: Sequence[int], sources: Sequence[Place], targets: Sequence[Ref], compute: Callable,
                    label: str = "") -> None:
        """targets[...] = compute(e, [source elements]), over the merged loops of a shape."""
        refs = [s.expanded(shape) for s in sources if isinstance(s, Ref)]
        extents, columns = merge_axes(shape, [r.strides for r in (*refs, *targets)])

        def body(e: KernelEmitter, *indices: Any) -> None:
            flat = iter(zip(refs, columns, strict=False))
            xs = []
            for s in sources:
                if isinstance(s, Const):
                    xs.append(e.const(s.value, s.dtype))
                else:
                    ref, strides = next(flat)
                    xs.append(load_at(e, ref, strides, indices))
            for target, strides, value in zip(targets, columns[len(refs):], compute(e, xs), strict=True):
                store_at(e, target, strides, indices, value)
        self.nest(extents, body, cost=1.0 + len(sources), label=label)


def _chunk(extent: int, cost: float) -> int:
    """Elements of one iteration of a flat kernel: more than its extent, if it is not worth cutting."""
    if extent > SMALL:
        return CHUNK
    return max(64, min(CHUNK, extent // 8 // 64 * 64)) if cost > COSTLY else SMALL


class Span(Struct, frozen=True):
    """An index that is a sum of loop variables: base + sum of factor * var."""

    terms: tuple[tuple[Any, int], ...]
    base: int


def flat_index(ref_offset: int, strides: Sequence[int], indices: Sequence[Any]) -> Index:
    """loops.Index of merged strides and indices (Vars or Spans)."""
    offset, terms = ref_offset, []
    for i, s in zip(indices, strides, strict=True):
        if isinstance(i, Span):
            offset += i.base * s
            terms += [(v, f * s) for v, f in i.terms if s]
        elif s:
            terms.append((i, s))
    return Index(offset, tuple(terms))


def load_at(e: KernelEmitter, ref: Ref, strides: Sequence[int], indices: Sequence[Any]) -> Value:
    return e.load(e.lowering.number(ref.buffer), flat_index(ref.offset, strides, indices), ref.dtype)


def store_at(e: KernelEmitter, ref: Ref, strides: Sequence[int], indices: Sequence[Any], value: Value) -> None:
    e.store(e.lowering.number(ref.buffer), flat_index(ref.offset, strides, indices), value)


def emit_node(e: KernelEmitter, node: Node, read: Callable[[Atom], Value]) -> Value:
    """The scalar statements of one elementwise node: literals take the dtype their partners have."""
    dtype = literal_dtype(node)
    values = []
    for atom in node.inputs:
        if isinstance(atom, Literal) and atom.aval.shape == ():
            values.append(e.const(np.asarray(atom.value).item(), dtype if atom.aval.weak else atom.aval.dtype))
        else:
            value = read(atom)
            weak = isinstance(atom, Var) and atom.aval.weak and value.dtype != dtype and value.dtype.kind != "b"
            values.append(e.convert(value, dtype) if weak else value)
    e.lowering.node = node
    found = node.primitive.lowering.emit(e, *values, **node.params)
    wanted = node.outs[0].aval.dtype
    return found if found.dtype == wanted else e.convert(found, wanted)


_RANK = {"b": 0, "u": 1, "i": 2, "f": 3}


def literal_dtype(node: Node) -> np.dtype:
    """The dtype of Python scalars among a node's arguments: that of their strongest partner, else the result's."""
    strong = [a.aval.dtype for a in node.inputs if not a.aval.weak and a.aval.dtype.kind != "b"]
    if strong:
        return max(strong, key=lambda d: (_RANK[d.kind], d.itemsize))
    weak = [a.aval.dtype for a in node.inputs]
    return max(weak, key=lambda d: (_RANK[d.kind], d.itemsize))
