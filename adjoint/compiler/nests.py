"""Loops and folds of loop IR as LLVM basic blocks: which variable runs over lanes, how a fold keeps the order of loops.Fold.

A fold whose own elements are contiguous takes the lanes for itself (rows); one inside a vector loop keeps a vector per logical lane
(columns). Both give the same bits. What a loop does not change is written before it. May import: errors, exact, irtext, lanes,
loops, target. Read next: llvm.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from . import exact
from .irtext import literal, scalar_type, vector_literal, wide
from .lanes import BOOL, Cell, Frame, Lanes
from .loops import FOLD_BLOCK, LANE_BYTES, Check, Fold, Foreign, Let, Load, Loop, Statement, Store, Value, Var
from .target import Target

_TINY, _SMALL = 7, 16        # statements of a body that is unrolled by 4, by 2
_COPIES = 320                # statements that the copies of a fold's body may add up to


def walk(body: Sequence[Statement]) -> Iterator[Statement]:
    """Every statement of a body, inner ones too."""
    for statement in body:
        yield statement
        if isinstance(statement, Loop | Fold):
            yield from walk(statement.body)


def weight(body: Sequence[Statement]) -> int:
    """How many instructions a body is about."""
    return sum(1 for each in walk(body) if not (isinstance(each, Let) and each.op in ("const", "bitcast")))


def lanes_for(body: Sequence[Statement], target: Target) -> int:
    """Lanes of a vector loop: a register full of the widest floating dtype, or of the widest dtype if none is floating."""
    kinds = [each.out.dtype for each in walk(body) if isinstance(each, Let | Load)]
    kinds += [each.result.dtype for each in walk(body) if isinstance(each, Fold)]
    floating = [kind.itemsize for kind in kinds if kind.kind == "f"]
    return target.vector_bytes // max(floating or [kind.itemsize for kind in kinds] or [8])


def lanes_along(var: Var, extent: int, body: Sequence[Statement], target: Target) -> int:
    """Lanes of a loop over `var`: two registers where columns are folded, so that each row brings two cache lines (1.7x measured)."""
    lanes = lanes_for(body, target)
    light = [fold for fold in walk(body) if isinstance(fold, Fold) and weight(fold.body) <= 4
             and any(isinstance(load, Load) and dict(load.index.terms).get(var) == 1 for load in fold.body)]
    return 2 * lanes if light and extent >= 2 * lanes else lanes


def runs_along(var: Var, extent: int, body: Sequence[Statement]) -> bool:
    """Should `var` take the lanes, or rather the folds (or vector loops) inside its body?"""
    if any(isinstance(each, Foreign) or (isinstance(each, Loop) and each.kind == "vector" and each.extent > 1) for each in walk(body)):
        return False
    outer = inner = 0
    for fold in walk(body):
        if isinstance(fold, Fold):
            loads = [dict(each.index.terms) for each in walk(fold.body) if isinstance(each, Load)]
            outer += fold.extent * sum(terms.get(var) == 1 for terms in loads)
            inner += fold.extent * sum(terms.get(fold.var) == 1 for terms in loads)
    has_folds = any(isinstance(each, Fold) for each in walk(body))
    return not has_folds or (outer > 0 and outer >= inner and extent >= 4)


def split_invariant(
        frame: Frame, body: Sequence[Statement], changing: set) -> tuple[list[Statement], list[Statement]]:
    """(statements that no iteration changes and that may run before the loop, the others)."""
    stored = {other for each in walk(body) if isinstance(each, Store) for other in frame.overlapping(each.buffer)}
    before, inside = [], []
    for each in body:
        if isinstance(each, Let):
            fixed = each.op != "call_where" and not changing.intersection(each.args)
        elif isinstance(each, Load):
            terms = [term for term, _ in each.index.terms]
            fixed = each.buffer not in stored and all(isinstance(term, Var) and term not in changing for term in terms)
        else:
            fixed = False
        (before if fixed else inside).append(each)
        if not fixed and isinstance(each, Let | Load):
            changing.add(each.out)
        elif isinstance(each, Fold):
            changing.add(each.result)
        elif isinstance(each, Loop):
            changing.update(carry.result for carry in each.carries)
    return before, inside


class Nest(Lanes):
    """Lanes that also know loops and folds."""

    def __init__(self, frame: Frame, target: Target) -> None:
        super().__init__(frame)
        self.target = target

    def execute(self, body: Sequence[Statement]) -> None:
        """Write every statement of a body."""
        for statement in body:
            _WRITE[type(statement)](self, statement)

    # -- loops --------------------------------------------------------------------------------------------------------

    def counted(self, begin: Cell, end: Cell, step: int, body: Callable[[Cell], None], known: bool = False) -> None:
        """for (i = begin; i < end; i += step) body(i); `known`: there is a first iteration."""
        out = self.out
        head, after = out.fresh("loop"), out.fresh("after")
        if known:
            out.jump(head)
        else:
            out.branch(out.op(f"icmp slt i64 {begin.text}, {end.text}"), head, after)
        before = out.label
        out.enter(head)
        number = out.phi("i64", begin.text, before)
        with self.region():
            body(Cell(number.name))
        following = out.op(f"add i64 {number.name}, {step}")
        out.close(number, following)
        out.branch(out.op(f"icmp slt i64 {following}, {end.text}"), head, after)
        out.enter(after)

    def loop(self, loop: Loop) -> None:
        if loop.extent > 1 and loop.kind == "vector" and self.axis is None and runs_along(loop.var, loop.extent, loop.body):
            self._vector_loop(loop)
        elif loop.extent > 1:
            self._serial_loop(loop)
        else:
            final = [carry.initial for carry in loop.carries]
            if loop.extent == 1:
                self.vars[loop.var] = Cell("0", 1, True)
                for carry in loop.carries:
                    self.values[carry.inside] = self.values[carry.initial]
                self.execute(loop.body)
                final = [carry.following for carry in loop.carries]
            for carry, value in zip(loop.carries, final, strict=True):
                self.values[carry.result] = self.values[value]

    def _serial_loop(self, loop: Loop) -> None:
        out, lanes = self.out, self.lanes
        before, inside = split_invariant(self.frame, loop.body, {loop.var, *(carry.inside for carry in loop.carries)})
        self.execute(before)
        kinds = [scalar_type(carry.initial.dtype) for carry in loop.carries]
        initials = [self.widen(self.values[carry.initial], kind) for carry, kind in zip(loop.carries, kinds, strict=True)]
        entry, head, after = out.label, out.fresh("loop"), out.fresh("after")
        out.jump(head)
        out.enter(head)
        number = out.phi("i64", "0", entry)
        phis = [out.phi(wide(kind, lanes), text, entry) for kind, text in zip(kinds, initials, strict=True)]
        self.vars[loop.var] = Cell(number.name)
        for carry, phi in zip(loop.carries, phis, strict=True):
            self.values[carry.inside] = Cell(phi.name, lanes)
        with self.region():
            self.execute(inside)
            finals = [self.widen(self.values[carry.following], kind) for carry, kind in zip(loop.carries, kinds, strict=True)]
        following = out.op(f"add i64 {number.name}, 1")
        for phi, text in zip([number, *phis], [following, *finals], strict=True):
            out.close(phi, text)
        out.branch(out.op(f"icmp slt i64 {following}, {loop.extent}"), head, after)
        out.enter(after)
        for carry, text in zip(loop.carries, finals, strict=True):
            self.values[carry.result] = Cell(text, lanes)

    def _vector_loop(self, loop: Loop) -> None:
        """A loop of constant extent over lanes: whole vectors, some at a time, then the masked rest."""
        lanes = lanes_along(loop.var, loop.extent, loop.body, self.target)
        whole, rest = divmod(loop.extent, lanes)
        before, inside = split_invariant(self.frame, loop.body, {loop.var})
        self.execute(before)
        together = unrolling(inside)
        while whole % together:
            together //= 2
        step = together * lanes

        def some(number: Cell) -> None:
            for copy in range(together):
                self._along(loop.var, self._offset(number, copy * lanes), lanes, None, inside)

        if whole == together:
            some(Cell("0", 1, True))
        elif whole:
            self.counted(Cell("0", 1, True), Cell(str(whole * lanes), 1, True), step, some, known=True)
        if rest:
            mask = vector_literal("i1", [int(lane < rest) for lane in range(lanes)])
            self._along(loop.var, Cell(str(whole * lanes), 1, True), lanes, mask, inside)

    def _offset(self, number: Cell, offset: int) -> Cell:
        if number.is_literal:
            return Cell(str(int(number.text) + offset), 1, True)
        return number if offset == 0 else Cell(self.pure(f"add i64 {number.text}, {offset}"))

    def _along(self, var: Var, number: Cell, lanes: int, mask: str | None, body: Sequence[Statement]) -> None:
        """The body for var = number .. number + lanes - 1."""
        self.vars[var] = number
        with self.along(var, lanes):
            self.mask = mask
            self.execute(body)

    def kernel(self, var: Var, extent: int, body: Sequence[Statement], begin: str, end: str) -> int:
        """The outermost loop, over [begin, end); returns the multiple at which threads may cut it."""
        if extent == 1:
            self.vars[var] = Cell("0", 1, True)
            self.execute(body)
            return 1
        before, inside = split_invariant(self.frame, body, {var})
        self.execute(before)
        first, last = Cell(begin), Cell(end)
        lanes = lanes_along(var, extent, body, self.target) if runs_along(var, extent, body) else 1
        if lanes == 1:
            def once(number: Cell) -> None:
                self.vars[var] = number
                self.execute(inside)
            self.counted(first, last, 1, once)
            return 1
        return self._vector_kernel(var, extent, inside, (first, last), lanes)

    def _vector_kernel(self, var: Var, extent: int, body: Sequence[Statement], ends: tuple[Cell, Cell], lanes: int) -> int:
        out, (first, last) = self.out, ends
        together = unrolling(body)
        while together > 1 and extent < 2 * together * lanes:
            together //= 2
        step = together * lanes

        def some(number: Cell) -> None:
            for copy in range(together):
                self._along(var, self._offset(number, copy * lanes), lanes, None, body)

        def rest(number: Cell) -> None:
            left = out.op(f"sub i64 {last.text}, {number.text}")
            few = out.op(f"icmp slt i64 {left}, {lanes}")
            count = out.op(f"trunc i64 {out.op(f'select i1 {few}, i64 {left}, i64 {lanes}')} to i32")
            counts = self.widen(Cell(count), "i32", lanes)
            mask = out.op(f"icmp sgt <{lanes} x i32> {counts}, {vector_literal('i32', list(range(lanes)))}")
            self._along(var, number, lanes, mask, body)

        if extent >= step:
            length = out.op(f"sub i64 {last.text}, {first.text}")
            middle = Cell(out.op(f"add i64 {first.text}, {out.op(f'and i64 {length}, {-step}')}"))
            self.counted(first, middle, step, some)
            first = middle
        if extent % step:
            self.counted(first, last, lanes, rest)
        return step

    def foreign(self, statement: Foreign) -> None:
        """Call the routine, and check that it gives 0."""
        pointers = [self.address(buffer, index)[0] for buffer, index, _ in statement.places]
        kinds = ["ptr"] * len(pointers) + ["i64"] * len(statement.numbers)
        function = self.frame.module.declare(statement.routine, "i64", ", ".join(kinds))
        arguments = ", ".join(f"{kind} {text}" for kind, text in zip(kinds, [*pointers, *statement.numbers], strict=True))
        answer, fine = self.out.op(f"call i64 {function}({arguments})"), Value(BOOL)
        self.values[fine] = Cell(self.out.op(f"icmp eq i64 {answer}, 0"))
        self.check(Check(fine, statement.code))

    # -- folds --------------------------------------------------------------------------------------------------------

    def fold(self, fold: Fold) -> None:
        dtype = fold.result.dtype
        identity = literal(exact.identity(fold.combine, dtype), dtype)
        if fold.extent == 0:
            self.values[fold.result] = Cell(identity, 1, True)
            return
        self.values[fold.result] = (Rows if self.axis is None and fold.extent > 2 else Columns)(self, fold, identity).write()


class _FoldWriter:
    """One Fold being written; `block(start, count)` gives the reduction of a block of constant length."""

    def __init__(self, nest: Nest, fold: Fold, identity: str) -> None:
        self.nest, self.out, self.fold, self.dtype = nest, nest.out, fold, fold.result.dtype
        self.kind = scalar_type(self.dtype)
        self.logical = LANE_BYTES // self.dtype.itemsize
        self.identity = Cell(identity, 1, True)

    def write(self) -> Cell:
        """All blocks, combined serially."""
        nest, lanes = self.nest, self.nest.lanes
        before, self.body = split_invariant(nest.frame, self.fold.body, {self.fold.var})
        nest.execute(before)
        whole, rest = divmod(self.fold.extent, FOLD_BLOCK)
        if whole == 0:
            return Cell(self.block(Cell("0", 1, True), rest), lanes)
        total = nest.widen(self.identity, self.kind)
        out = self.out
        entry, head, after = out.label, out.fresh("block"), out.fresh("after")
        out.jump(head)
        out.enter(head)
        start, sofar = out.phi("i64", "0", entry), out.phi(wide(self.kind, lanes), total, entry)
        with nest.region():
            partial = self.block(Cell(start.name), FOLD_BLOCK)
            total = self.combine(sofar.name, partial, lanes)
        following = out.op(f"add i64 {start.name}, {FOLD_BLOCK}")
        out.close(start, following)
        out.close(sofar, total)
        out.branch(out.op(f"icmp slt i64 {following}, {whole * FOLD_BLOCK}"), head, after)
        out.enter(after)
        if rest:
            partial = self.block(Cell(str(whole * FOLD_BLOCK), 1, True), rest)
            total = self.combine(total, partial, lanes)
        return Cell(total, lanes)

    def combine(self, x: str, y: str, lanes: int) -> str:
        return self.nest.combine(self.fold.combine, self.dtype, x, y, lanes)

    def block(self, start: Cell, count: int) -> str:
        raise NotImplementedError


class Rows(_FoldWriter):
    """The fold's own variable takes the lanes: one vector holds all logical lanes."""

    def block(self, start: Cell, count: int) -> str:
        nest, lanes = self.nest, self.logical
        accumulator = f"splat ({self.kind} {self.identity.text})"
        steps, rest = divmod(count, lanes)
        together = 4 if weight(self.body) <= _TINY and steps >= 8 else 1
        looped = steps // together
        end = start
        if looped > 1:
            end = nest._offset(start, looped * together * lanes)
            accumulator = self._loop(start, end, accumulator, together)
        else:
            looped = 0
        for step in range(looped * together, steps):
            accumulator = self.step(nest._offset(start, step * lanes), accumulator, None)
        if rest:
            mask = vector_literal("i1", [int(lane < rest) for lane in range(lanes)])
            accumulator = self.step(nest._offset(start, steps * lanes), accumulator, mask)
        return self.tree(accumulator)

    def _loop(self, start: Cell, end: Cell, accumulator: str, together: int) -> str:
        out, nest, kind = self.out, self.nest, wide(self.kind, self.logical)
        entry, head, after = out.label, out.fresh("fold"), out.fresh("after")
        out.jump(head)
        out.enter(head)
        number, sofar = out.phi("i64", start.text, entry), out.phi(kind, accumulator, entry)
        total = sofar.name
        with nest.region():
            for copy in range(together):
                total = self.step(nest._offset(Cell(number.name), copy * self.logical), total, None)
        following = out.op(f"add i64 {number.name}, {together * self.logical}")
        out.close(number, following)
        out.close(sofar, total)
        out.branch(out.op(f"icmp slt i64 {following}, {end.text}"), head, after)
        out.enter(after)
        return total

    def step(self, number: Cell, accumulator: str, mask: str | None) -> str:
        """One vector more."""
        nest, lanes = self.nest, self.logical
        nest.vars[self.fold.var] = number
        with nest.along(self.fold.var, lanes):
            nest.mask = mask
            nest.execute(self.body)
            value = nest.widen(nest.values[self.fold.value], self.kind)
            if mask is not None:
                kind = wide(self.kind, lanes)
                identity = nest.widen(self.identity, self.kind)
                value = self.out.op(f"select <{lanes} x i1> {mask}, {kind} {value}, {kind} {identity}")
            return self.combine(accumulator, value, lanes)

    def tree(self, vector: str) -> str:
        """Lane l with lane l + L/2, then L/4, and so on."""
        out, lanes = self.out, self.logical
        while lanes > 1:
            kind, half = wide(self.kind, lanes), lanes // 2
            low, high = (
                out.op(f"shufflevector {kind} {vector}, {kind} poison, "
                       f"<{half} x i32> {vector_literal('i32', list(range(first, first + half)))}")
                for first in (0, half))
            if half == 1:
                low, high = (out.op(f"extractelement <1 x {self.kind}> {each}, i64 0") for each in (low, high))
            vector, lanes = self.combine(low, high, half), half
        return vector


class Columns(_FoldWriter):
    """Lanes belong to another variable (or to none): every logical lane is an accumulator of its own.

    Integers and bools give the same bits in any order, so a few accumulators are enough.
    """

    def __init__(self, nest: Nest, fold: Fold, identity: str) -> None:
        super().__init__(nest, fold, identity)
        if self.dtype.kind != "f":
            self.logical = min(self.logical, 4)

    def block(self, start: Cell, count: int) -> str:
        if min(count, self.logical) * weight(self.body) > _COPIES:
            return self._in_memory(start, count)
        used = min(count, self.logical)
        accumulators = [self.nest.widen(self.identity, self.kind)] * used
        rounds, rest = divmod(count, self.logical)
        if rounds > 1:
            accumulators = self._loop(start, rounds, accumulators)
        elif rounds == 1:
            accumulators = self.round(start, accumulators)
        start = self.nest._offset(start, rounds * self.logical)
        return self.tree(self.round(start, accumulators[:rest]) + accumulators[rest:])

    def _loop(self, start: Cell, rounds: int, accumulators: list[str]) -> list[str]:
        out, nest, kind = self.out, self.nest, wide(self.kind, self.nest.lanes)
        end = nest._offset(start, rounds * self.logical)
        entry, head, after = out.label, out.fresh("fold"), out.fresh("after")
        out.jump(head)
        out.enter(head)
        number = out.phi("i64", start.text, entry)
        phis = [out.phi(kind, text, entry) for text in accumulators]
        with nest.region():
            totals = self.round(Cell(number.name), [phi.name for phi in phis])
        following = out.op(f"add i64 {number.name}, {self.logical}")
        for phi, text in zip([number, *phis], [following, *totals], strict=True):
            out.close(phi, text)
        out.branch(out.op(f"icmp slt i64 {following}, {end.text}"), head, after)
        out.enter(after)
        return totals

    def round(self, start: Cell, accumulators: list[str]) -> list[str]:
        """One element more for each of these lanes."""
        return [self.combine(text, self.element(self.nest._offset(start, lane)), self.nest.lanes)
                for lane, text in enumerate(accumulators)]

    def element(self, number: Cell) -> str:
        nest = self.nest
        nest.vars[self.fold.var] = number
        nest.execute(self.body)
        return nest.widen(nest.values[self.fold.value], self.kind)

    def tree(self, accumulators: list[str]) -> str:
        """As Rows.tree; a lane without elements holds the identity, which changes nothing."""
        half = self.logical // 2
        while half:
            pairs = zip(accumulators, accumulators[half:], strict=False)
            accumulators = [self.combine(x, y, self.nest.lanes) for x, y in pairs] + accumulators[max(0, len(accumulators) - half):half]
            half //= 2
        return accumulators[0]

    def _in_memory(self, start: Cell, count: int) -> str:
        """The same with accumulators on the stack, so that the body is written once."""
        out, nest, lanes = self.out, self.nest, self.nest.lanes
        kind, used = wide(self.kind, lanes), min(count, self.logical)
        memory = out.at_top(f"alloca [{used} x {kind}], align 64")
        places = [out.op(f"getelementptr {kind}, ptr {memory}, i64 {lane}") for lane in range(used)]
        for place in places:
            out.do(f"store {kind} {nest.widen(self.identity, self.kind)}, ptr {place}")

        def once(number: Cell) -> None:
            lane = out.op(f"and i64 {number.text}, {self.logical - 1}")
            place = out.op(f"getelementptr {kind}, ptr {memory}, i64 {lane}")
            sofar = out.op(f"load {kind}, ptr {place}")
            out.do(f"store {kind} {self.combine(sofar, self.element(number), lanes)}, ptr {place}")

        nest.counted(start, nest._offset(start, count), 1, once, known=True)
        return self.tree([out.op(f"load {kind}, ptr {place}") for place in places])


def unrolling(body: Sequence[Statement]) -> int:
    """How many vectors of a loop are handled together."""
    if any(isinstance(each, Loop | Fold | Check | Foreign) for each in body):
        return 1
    size = weight(body)
    return 4 if size <= _TINY else 2 if size <= _SMALL else 1




_WRITE: dict[type, Callable[[Nest, Statement], None]] = {
    Let: Nest.let, Load: Nest.load, Store: Nest.store, Check: Nest.check, Foreign: Nest.foreign, Loop: Nest.loop, Fold: Nest.fold}
