"""From groups to steps: each group becomes kernels over merged loops, or a contraction with its epilogue.

Invariant: a step stores every value that later steps read, at the place `Placement` chose. The order inside a reduction is a function
of its extent alone. May import: L0-L3, fuse, loops, lower, views. Read next: memory.py, pipeline.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from msgspec.structs import replace

from ..core.graph import Atom, Graph, Literal, Node, Var
from .convolving import alone, convolution, farthest_first, is_alone, memory_order, words_of
from .fuse import Group
from .joins import parts_of_joins
from .loops import FOLD_BLOCK, Contraction, Index, Kernel, Let, Operand, Value
from .loops import Var as LoopVar
from .lower import Const, KernelEmitter, Lowering, Place, Span, emit_node, load_at, store_at
from .repeats import laid_out_once, lower_control
from .views import Ref, fresh, merge_axes, merged_stride

COLUMN_CHUNK = 64        # columns that one iteration of a column reduction covers
FEW_COLUMNS = 512        # columns up to which a long column reduction is cut into blocks of rows


class Schedule:
    """Places of values and the steps that fill them."""

    def __init__(self, graph: Graph, groups: list[Group], lowering: Lowering):
        self.graph, self.lowering = graph, lowering
        self.places: dict[Var, Place] = {}
        self.targets: dict[Var, Ref] = {}                      # where a value must be stored, when that is prescribed
        self.also: dict[Var, list[Ref]] = {}                   # where elementwise kernels store it too
        self.stored = stored_values(graph, groups)
        self.parts = parts_of_joins(groups)                    # values that are computed where a joined array has them

    # -- places -------------------------------------------------------------------------------------------------------

    def place(self, atom: Atom) -> Place:
        """Where a value is: a Ref, or a Const for literals."""
        if isinstance(atom, Literal):
            return self._literal(atom)
        return self.places[atom]

    def _literal(self, atom: Literal) -> Place:
        value = np.asarray(atom.value, atom.aval.dtype)
        if value.size and (value.ndim == 0 or value.tobytes() == value.flat[0].tobytes() * value.size):      # bits: -0.0 is not 0.0
            return Const(value.flat[0].item(), atom.aval.dtype, value.shape)
        key = ("literal", atom.aval.dtype.str, value.shape, value.tobytes())
        if key not in self.lowering.buffers:
            self.lowering.declare(key, value.dtype, value.size)
        return fresh(key, value.dtype, value.shape)

    def target(self, v: Var) -> Ref:
        """The place a kernel stores v to: prescribed (an output, a donated input) or a fresh temporary."""
        ref = self.targets.get(v) or self._part(v) or self.lowering.temporary(v.aval.dtype, v.aval.shape)
        self.places[v] = ref
        return ref

    def _part(self, v: Var) -> Ref | None:
        """Where the array that v is joined into has it; that array gets its place with its first part."""
        if v not in self.parts:
            return None
        whole, bounds = self.parts[v]
        return (self.places.get(whole) or self.target(whole)).sliced(bounds)

    def materialized(self, place: Place) -> Ref:
        """The same values with memory behind them."""
        if isinstance(place, Ref):
            return place
        with self.lowering.outside(0):
            ref = self.lowering.temporary(place.dtype, place.shape)
            self.lowering.fill(ref, place.value)
        return ref

    def compact(self, ref: Ref) -> Ref:
        """The same values in a contiguous temporary."""
        with self.lowering.outside(self.lowering.depth[ref.buffer]):
            copy = self.lowering.temporary(ref.dtype, ref.shape)
            self.lowering.copy(ref, copy)
        return copy

    # -- groups -------------------------------------------------------------------------------------------------------

    def run(self, group: Group) -> None:
        self.lowering.node = group.head
        getattr(self, "_" + group.kind)(group)

    def _view(self, group: Group) -> None:
        node = group.head
        v, source = node.outs[0], self.place(node.inputs[0])
        if isinstance(source, Const):
            self.places[v] = Const(source.value, source.dtype, v.aval.shape)
            return
        view = node.primitive.lowering.view(source.offset, source.shape, source.strides, **node.params)
        if view is None:
            copy = self.compact(source)
            view = node.primitive.lowering.view(copy.offset, copy.shape, copy.strides, **node.params)
            source = copy
        self.places[v] = source.with_view(view)

    def _map(self, group: Group) -> None:
        shape = group.head.outs[0].aval.shape
        body = MapBody(self, group.nodes, shape)
        extents, columns = merge_axes(shape, body.columns())
        self.lowering.nest(extents, lambda e, *indices: body.emit(e, columns, indices), cost=2.0 * len(group.nodes) + len(columns),
                           label="map_" + "_".join(dict.fromkeys(n.primitive.name for n in group.nodes[-3:])))

    def _general(self, group: Group) -> None:
        node = group.head
        inputs = tuple(map(self.place, node.inputs))
        outs = tuple(self.places.get(v) or self.target(v) for v in node.outs)
        node.primitive.lowering.lower(self.lowering, inputs, outs, **node.params)

    def _control(self, group: Group) -> None:
        lower_control(self, group.head)

    def _reduce(self, group: Group) -> None:
        node, inline = group.head, group.inline
        combine, axes = node.primitive.lowering.combine, node.params["axes"]
        operand = node.inputs[0]
        shape = operand.aval.shape
        body = MapBody(self, inline, shape, result=operand)
        outs = tuple(i for i in range(len(shape)) if i not in axes)
        out_ext, out_cols = merge_axes([shape[i] for i in outs], [[c[i] for i in outs] for c in body.columns()])
        red_ext, red_cols = merge_axes([shape[i] for i in axes], [[c[i] for i in axes] for c in body.columns()])
        runs = _adjacent(tuple(a for a in axes if shape[a] != 1) or axes)
        if len(red_ext) > 1 or len(runs) > 1:
            self._reduce_in_turns(body, shape, runs, combine, node)
            return
        target = self.target(node.outs[0])
        target_ext, (target_strides,) = merge_axes([shape[i] for i in outs], [target.strides]) if outs else ([], [[]])
        if target_ext != out_ext:                              # walk both over the finer loops
            out_ext, merged = merge_axes([shape[i] for i in outs], [*[[c[i] for i in outs] for c in body.columns()], target.strides])
            out_cols, target_strides = merged[:-1], merged[-1]
        extent = red_ext[0] if red_ext else int(np.prod([shape[i] for i in axes], dtype=np.int64))
        self.fold(body, combine, out_ext, out_cols, extent, [c[0] if c else 0 for c in red_cols], target, target_strides)

    def _reduce_in_turns(self, body: MapBody, shape: tuple, runs: list[tuple], combine: str, node: Node) -> None:
        """Axes that do not merge: store the operand in order, then reduce its last run of neighbours, then the run before it."""
        dtype = node.outs[0].aval.dtype
        ref = self.lowering.temporary(dtype, shape)
        extents, columns = merge_axes(shape, [*body.columns(), ref.strides])
        self.lowering.nest(extents, lambda e, *ix: store_at(e, ref, columns[-1], ix, body.value(e, columns, ix)))
        for run in reversed(runs):
            size = int(np.prod([ref.shape[a] for a in run], dtype=np.int64))
            lead, trail = ref.shape[:run[0]], ref.shape[run[-1] + 1:]
            last = run is runs[0]
            target = self.target(node.outs[0]) if last else self.lowering.temporary(dtype, (*lead, *trail))
            merged = ref.reshaped((int(np.prod(lead, dtype=np.int64)), size, int(np.prod(trail, dtype=np.int64))))
            plain = MapBody(self, [], merged.shape, result=merged)
            outs = merge_axes((merged.shape[0], merged.shape[2]), [(merged.strides[0], merged.strides[2]),
                                                                   (merged.shape[2], 1)])
            self.fold(plain, combine, outs[0], [outs[1][0]], size, [merged.strides[1]], target, outs[1][1])
            ref = target

    def fold(self, body: MapBody, combine: str, out_ext: list[int], out_cols: list[list[int]], extent: int, steps: list[int],
             target: Ref, target_strides: Sequence[int]) -> None:
        """target[out] = the Fold of body over `extent`; columns walk `out_cols` over the outputs and `steps` along the fold."""
        outputs = int(np.prod(out_ext, dtype=np.int64))
        if outputs == 0:
            return
        if outputs == 1 and extent > 2 * FOLD_BLOCK:
            self._fold_blocks(body, combine, extent, steps, target)
            return
        columns = [[*c, s] for c, s in zip(out_cols, steps, strict=True)]
        cost = float(extent) * (1 + len(body.nodes))
        inner = lambda e, indices: e.fold(extent, lambda k: body.value(e, columns, [*indices, k]), combine)
        unit = any(c and c[-1] == 1 for c in out_cols) and not any(s == 1 for s in steps)
        if unit and out_ext[-1] > 1:
            if len(out_ext) == 1 and outputs <= FEW_COLUMNS and extent > 2 * FOLD_BLOCK:
                self._fold_column_blocks(body, combine, extent, columns, target, target_strides[-1])
            else:
                self._fold_columns(inner, out_ext, target, target_strides, cost)
            return
        e, outer = KernelEmitter(self.lowering), LoopVar()
        indices = [outer] if out_ext else []
        with _loops(e, out_ext[1:], indices):
            store_at(e, target, target_strides, indices, inner(e, indices))
        self.lowering.add(Kernel("fold_" + combine, outer, out_ext[0] if out_ext else 1, e.statements, cost * outputs))

    def _fold_columns(self, inner: Callable, out_ext: list[int], target: Ref, target_strides: Sequence[int], cost: float) -> None:
        """The last output axis runs in lanes, in chunks that threads share; the fold runs down each column."""
        columns = out_ext[-1]
        if len(out_ext) > 1 and out_ext[0] > columns // COLUMN_CHUNK:           # more to share among threads than columns
            e, first = KernelEmitter(self.lowering), LoopVar()
            indices = [first]
            with _loops(e, out_ext[1:-1], indices), e.loop(columns, "vector") as i:
                store_at(e, target, target_strides, [*indices, i], inner(e, [*indices, i]))
            self.lowering.add(Kernel("fold_columns", first, out_ext[0], e.statements, cost * int(np.prod(out_ext, dtype=np.int64))))
            return
        whole, rest = divmod(columns, COLUMN_CHUNK)
        for base, count, width in ((0, whole, COLUMN_CHUNK), (whole * COLUMN_CHUNK, 1, rest)):
            if not count * width:
                continue
            e, outer = KernelEmitter(self.lowering), LoopVar()
            indices: list = []
            with _loops(e, out_ext[:-1], indices), e.loop(width, "vector") as i:
                span = [*indices, Span(((outer, width), (i, 1)), base)]
                store_at(e, target, target_strides, span, inner(e, span))
            lead = int(np.prod(out_ext[:-1], dtype=np.int64))
            self.lowering.add(Kernel("fold_columns", outer, count, e.statements, cost * lead * width * count))

    def _fold_column_blocks(self, body: MapBody, combine: str, extent: int, columns: list, target: Ref, target_stride: int) -> None:
        """Long folds of few columns: their blocks in parallel, columns in lanes, then the blocks' results serially, as Fold defines."""
        width, (whole, rest) = target.size, divmod(extent, FOLD_BLOCK)
        partial = self.lowering.temporary(target.dtype, (whole + (rest > 0), width))
        for first, count, size in ((0, whole, FOLD_BLOCK), (whole, 1, rest)):
            if not size:
                continue
            e, block = KernelEmitter(self.lowering), LoopVar()
            with e.loop(width, "vector") as i:
                along = lambda k, e=e, i=i, block=block, first=first: body.value(
                    e, columns, [i, Span(((block, FOLD_BLOCK), (k, 1)), first * FOLD_BLOCK)])
                store_at(e, partial, partial.strides, [Span(((block, 1),), first), i], e.fold(size, along, combine))
            self.lowering.add(Kernel("fold_column_blocks", block, count, e.statements, float(count * size * width) * (1 + len(body.nodes))))
        e = KernelEmitter(self.lowering)
        with e.loop(width, "vector") as i:
            at = lambda b, base: load_at(e, partial, partial.strides, [Span(((b, 1),) if b else (), base), i])
            total, = e.carry(whole + (rest > 0) - 1, [at(None, 0)], lambda b, sofar: [_combine(e, combine, sofar, at(b, 1))])
            store_at(e, target, [target_stride], [i], total)
        self.lowering.add(Kernel("fold_combine", LoopVar(), 1, e.statements, float(partial.size)))

    def _fold_blocks(self, body: MapBody, combine: str, extent: int, steps: list[int], target: Ref) -> None:
        """One long fold: its blocks in parallel, then their results serially, which is the order that Fold defines."""
        whole, rest = divmod(extent, FOLD_BLOCK)
        partial = self.lowering.temporary(target.dtype, (whole + (rest > 0),))
        columns = [[s] for s in steps]
        for first, count, width in ((0, whole, FOLD_BLOCK), (whole, 1, rest)):
            if width:
                self._fold_some_blocks(body, combine, columns, (first, count, width), partial)
        e = KernelEmitter(self.lowering)
        total, = e.carry(partial.size - 1, [e.get(partial, 0)], lambda i, acc: [_combine(e, combine, acc, e.load(
            self.lowering.number(partial.buffer), Index(partial.offset + 1, ((i, 1),)), partial.dtype))])
        e.store(self.lowering.number(target.buffer), Index(target.offset), total)
        self.lowering.add(Kernel("fold_combine", LoopVar(), 1, e.statements, float(partial.size)))

    def _fold_some_blocks(self, body: MapBody, combine: str, columns: list, blocks: tuple[int, int, int], partial: Ref) -> None:
        first, count, width = blocks
        e, block = KernelEmitter(self.lowering), LoopVar()
        value = e.fold(width, lambda k: body.value(e, columns, [Span(((block, FOLD_BLOCK), (k, 1)), first * FOLD_BLOCK)]), combine)
        e.store(self.lowering.number(partial.buffer), Index(partial.offset + first, ((block, 1),)), value)
        self.lowering.add(Kernel("fold_blocks", block, count, e.statements, float(count * width) * (1 + len(body.nodes))))

    # -- contraction --------------------------------------------------------------------------------------------------

    def _contract(self, group: Group) -> None:
        node = group.head
        letters = node.primitive.lowering.spec(*[a.aval for a in node.inputs], **node.params)
        result = node.outs[0]
        sizes = {c: n for word, a in zip(letters, node.inputs, strict=False) for c, n in zip(word, a.aval.shape, strict=True)}
        x, w, y = letters
        roles = ("".join(c for c in y if c in x and c in w), "".join(c for c in y if c not in w), "".join(c for c in y if c not in x),
                 "".join(c for c in x if c in w and c not in y))
        extents = [int(np.prod([sizes[c] for c in word], dtype=np.int64)) for word in roles]
        dtype = result.aval.dtype
        a = self._operand(node.inputs[0], x, (roles[0], roles[1], roles[3]), sizes, dtype)
        b = self._operand(node.inputs[1], w, (roles[0], roles[3], roles[2]), sizes, dtype)
        b = laid_out_once(self.lowering, b, (extents[0], extents[3], extents[2]), dtype)
        if result.aval.size == 0:
            return self._store_empty(group)
        if dtype.kind != "f":
            return self._contract_integers(extents, a, b, self.target(result))
        ends = (0, len(roles[0]), len(roles[0]) + len(roles[1]), len(y))
        parts = tuple(tuple(range(*pair)) for pair in itertools.pairwise(ends))
        variables = (LoopVar(), LoopVar(), LoopVar())
        e, accumulator = KernelEmitter(self.lowering), Value(dtype)
        if not self._epilogue(e, group, accumulator, variables, parts):
            return
        self.lowering.add(Contraction("contract", dtype, *extents[:3], extents[3], a, b, variables, accumulator, e.statements))

    def _contract_integers(self, extents: list[int], a: Operand, b: Operand, target: Ref) -> None:
        """Products of integers wrap, those of booleans are "and" under "or", as in NumPy: plain loops, no tiles."""
        batch, m, n, k = extents
        dtype = target.dtype
        times, plus = ("and_", "or_") if dtype.kind == "b" else ("mul", "add")

        def body(e: KernelEmitter, ib: Any, im: Any, i: Any) -> None:
            def step(ik: Any, total: Value) -> list[Value]:
                x, w = (e.load(o.buffer, Index(o.offset, tuple((v, s) for v, s in zip(place, o.strides, strict=True) if s)), dtype)
                        for o, place in ((a, (ib, im, ik)), (b, (ib, ik, i))))
                return [getattr(e, plus)(total, getattr(e, times)(x, w))]
            total, = e.carry(k, [e.const(0, dtype)], step)
            store_at(e, target, (m * n, n, 1), (ib, im, i), total)
        self.lowering.nest([batch, m, n], body, cost=2.0 * k, label="contract_integers")

    def _store_empty(self, group: Group) -> None:
        for n in (group.head, *group.epilogue):
            self.target(n.outs[0])

    def _operand(self, atom: Atom, word: str, roles: tuple[str, str, str], sizes: dict, dtype: np.dtype) -> Operand:
        """The operand with its axes merged into three: by permuting, and by a copy where memory does not allow it."""
        ref = self._converted(self.materialized(self.place(atom)), dtype)
        ref = ref.permuted([word.index(c) for role in roles for c in role])
        strides = self._role_strides(ref, roles)
        if None in strides:
            ref = self.compact(ref)
            strides = self._role_strides(ref, roles)
        return Operand(self.lowering.number(ref.buffer), ref.offset, tuple(strides))

    @staticmethod
    def _role_strides(ref: Ref, roles: tuple[str, str, str]) -> list[int | None]:
        strides, at = [], 0
        for role in roles:
            strides.append(merged_stride(ref.shape[at:at + len(role)], ref.strides[at:at + len(role)]))
            at += len(role)
        return strides

    def _convolve(self, group: Group) -> None:
        node, result = group.head, group.head.outs[0]
        if result.aval.size == 0:
            return self._store_empty(group)
        words = words_of(node.primitive.lowering.spec(*[a.aval for a in node.inputs], **node.params), node.inputs, result)
        x, w = (self._converted(self.materialized(self.place(a)), result.aval.dtype) for a in node.inputs)
        free = words.free
        if is_alone(words):
            self.stored.add(result)
            alone(self.lowering, words, x, w, self.target(result))
            return self._map(Group("map", group.epilogue, group.level)) if group.epilogue else None
        if not group.epilogue and result not in self.targets:
            free = farthest_first(free, words, x)
            self.targets[result] = memory_order(self.lowering, words, free, result.aval.dtype)
        step, e = convolution(self.lowering, words, x, w, free, result.aval.dtype), KernelEmitter(self.lowering)
        parts = tuple(tuple(words.y.index(c) for c in part) for part in (words.batch, free, words.n))
        if self._epilogue(e, group, step.accumulator, step.variables, parts):
            self.lowering.add(replace(step, epilogue=e.statements))

    def _converted(self, ref: Ref, dtype: np.dtype) -> Ref:
        if ref.dtype == dtype:
            return ref
        converted = self.lowering.temporary(dtype, ref.shape)
        self.lowering.elementwise(ref.shape, [ref], [converted], lambda e, xs: [e.convert(xs[0], dtype)], label="convert")
        return converted

    def _epilogue(self, e: KernelEmitter, group: Group, accumulator: Value, variables: tuple, parts: tuple) -> bool:
        """Stores of the result and of the map group fused behind it, in the variables (batch, m, n), each an axis or several that merge.

        False where the group had to be run in two: calls do not fit into the tail of a tile.
        """
        result = group.head.outs[0]
        shape = result.aval.shape
        body = MapBody(self, group.epilogue, shape, given={result: accumulator}, own=[result] if result in self.stored else [],
                       prepare=lambda place: self._three_strides(place, shape, parts))
        columns = [self._cut(c, shape, parts) for c in body.columns()]
        loads = len(columns) - len(body.stores)
        columns[loads:] = [[s or 1 for s in c] for c in columns[loads:]]     # an axis of one element: lanes beyond it are masked
        body.emit(e, columns, variables)
        if not any(isinstance(s, Let) and s.op.startswith("call") for s in e.statements):
            return True
        self.stored.add(result)
        self.run(Group(group.kind, group.nodes, group.level))
        self._map(Group("map", group.epilogue, group.level))
        return False

    def _three_strides(self, place: Place, shape: tuple, parts: tuple) -> Place:
        if isinstance(place, Ref) and None in self._cut(place.expanded(shape).strides, shape, parts):
            return self.compact(place.expanded(shape))
        return place

    @staticmethod
    def _cut(strides: Sequence[int], shape: tuple, parts: tuple) -> list:
        return [merged_stride([shape[i] for i in part], [strides[i] for i in part]) for part in parts]     # None: no single stride


class MapBody:
    """Elementwise nodes over one shape: what they load and store, and their statements."""

    def __init__(self, schedule: Schedule, nodes: list[Node], shape: tuple, result: Atom | Ref | None = None,
                 given: dict[Var, Value] | None = None, own: Sequence[Var] = (), prepare: Callable[[Place], Place] = lambda p: p):
        self.schedule, self.nodes, self.shape, self.result, self.given = schedule, nodes, shape, result, given or {}
        made = {v for n in nodes for v in n.outs} | set(self.given)
        read = [a for n in nodes for a in n.inputs if not (isinstance(a, Literal) and a.aval.shape == ()) and a not in made]
        if result is not None and result not in made:
            read.append(result)
        self.sources = {a: prepare(a if isinstance(a, Ref) else schedule.place(a)) for a in dict.fromkeys(read)}
        wanted = [*own, *(v for n in nodes for v in n.outs if v in schedule.stored)] if result is None else []
        self.stores = [(v, schedule.target(v)) for v in wanted] + [(v, ref) for v in wanted for ref in schedule.also.get(v, ())]

    def columns(self) -> list[tuple[int, ...]]:
        """The strides of every load, then of every store, over the shape."""
        loads = [p.expanded(self.shape).strides for p in self.sources.values() if isinstance(p, Ref)]
        return loads + [t.strides for _, t in self.stores]

    def value(self, e: KernelEmitter, columns: Sequence, indices: Sequence) -> Value:
        """The statements; returns the value of `result`."""
        values: dict[Any, Value] = dict(self.given)
        walk = iter(columns)
        for atom, place in self.sources.items():
            if isinstance(place, Const):
                values[atom] = e.const(place.value, place.dtype)
            else:
                values[atom] = load_at(e, place.expanded(self.shape), next(walk), indices)
        for node in self.nodes:
            values[node.outs[0]] = emit_node(e, node, lambda a: values[a])
        for (v, target), strides in zip(self.stores, walk, strict=False):
            store_at(e, target, strides, indices, values[v])
        return values.get(self.result)

    def emit(self, e: KernelEmitter, columns: Sequence, indices: Sequence) -> None:
        self.value(e, columns, indices)


def stored_values(graph: Graph, groups: list[Group]) -> set[Var]:
    """Values that need memory: outputs of the graph, and what another group reads."""
    stored = {a for a in graph.outputs if isinstance(a, Var)}
    for group in groups:
        made = {v for n in group.all_nodes() for v in n.outs}
        stored.update(a for n in group.all_nodes() for a in n.inputs if isinstance(a, Var) and a not in made)
    return stored


def _adjacent(axes: tuple[int, ...]) -> list[tuple[int, ...]]:
    runs: list[tuple[int, ...]] = []
    for a in axes:
        if runs and runs[-1][-1] == a - 1:
            runs[-1] = (*runs[-1], a)
        else:
            runs.append((a,))
    return runs


class _loops:
    """Nested serial loops as one `with`; their variables are appended to `indices`."""

    def __init__(self, e: KernelEmitter, extents: Sequence[int], indices: list):
        self.e, self.extents, self.indices, self.open = e, extents, indices, []

    def __enter__(self) -> None:
        for n in self.extents:
            context = self.e.loop(n)
            self.indices.append(context.__enter__())
            self.open.append(context)

    def __exit__(self, *failure: Any) -> None:
        for context in reversed(self.open):
            context.__exit__(*failure)


def _combine(e: KernelEmitter, combine: str, x: Value, y: Value) -> Value:
    return {"add": e.add, "mul": e.mul, "max": e.maximum, "min": e.minimum, "and": e.and_, "or": e.or_}[combine](x, y)
