"""`program`: the steps in order, for one of the threads, with loops and branches around them.

Steps worth it are split over all threads, with a barrier on either side; the others run on the first thread. A loop or a branch with a
split step inside is walked by all threads together, each with a table of pointers of its own in which it moves the windows; any other
one is a step of the first thread. Invariant: all threads take the same way, since they decide by what a barrier says or has shown.
May import: control, irtext, loops, steps. Read next: llvm.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from . import control as at
from .irtext import Inserted, ModuleText, Writer
from .loops import Program
from .steps import Window

PARALLEL_COST = 60_000       # scalar operations below which a second thread costs more than it saves
POLL_COST = 4_000_000        # scalar operations between two looks at the cancel flag, about a millisecond
LOOK_COST = 20_000           # scalar operations of the passes of a loop between two looks
_MOST_PASSES = 1024          # passes between two looks, however short they are


class Step(Struct, frozen=True):
    """A function over [0, extent), to be cut at multiples of `grain`; it takes the pointers `buffers`, or the whole table."""

    function: str
    extent: int
    grain: int
    cost: float
    checks: bool = False
    buffers: tuple[int, ...] | None = None

    @property
    def parallel(self) -> bool:
        return self.cost >= PARALLEL_COST and self.extent > self.grain


class Loop(Struct, frozen=True):
    """Passes over `test` and `body`; see steps.Repeat, whose fields these are."""

    extent: int | None
    windows: tuple[int, ...]
    test: tuple[Item, ...]
    body: tuple[Item, ...]
    after: tuple[Item, ...]
    flag: int
    passes: int

    @property
    def items(self) -> tuple[Item, ...]:
        return (*self.test, *self.body, *self.after)

    @property
    def pass_cost(self) -> float:
        return sum(item.cost for item in (*self.test, *self.body))

    @property
    def cost(self) -> float:
        return self.passes * self.pass_cost + sum(item.cost for item in self.after)

    parallel = property(lambda self: any(item.parallel for item in self.items))
    checks = property(lambda self: any(item.checks for item in self.items))


class Fork(Struct, frozen=True):
    """One of two lists of items, by the bool in buffer `flag`."""

    flag: int
    on_true: tuple[Item, ...]
    on_false: tuple[Item, ...]

    @property
    def items(self) -> tuple[Item, ...]:
        return (*self.on_true, *self.on_false)

    cost = property(lambda self: max(sum(item.cost for item in side) for side in (self.on_true, self.on_false)))
    parallel = property(lambda self: any(item.parallel for item in self.items))
    checks = property(lambda self: any(item.checks for item in self.items))


Item = Step | Loop | Fork


def may_stop(item: Item) -> bool:
    """May an item end early, so that what follows must not use its results before the status was looked at?"""
    return item.checks or item.cost >= POLL_COST or not isinstance(item, Step)


def load_pointer(out: Inserted | Writer, table: str, number: int) -> str:
    """An entry of the table of pointers."""
    place = out.op(f"getelementptr i8, ptr {table}, i64 {8 * number}")
    return out.op(f"load ptr, ptr {place}, align 8")


class ProgramWriter:
    """`i64 program(ptr buffers, i64 thread, i64 threads, ptr control)`.

    finished: for programs with Signals, the outputs that each item writes last; they look at the flag that cancels behind every item.
    """

    def __init__(self, text: ModuleText, program: Program, items: Sequence[Item], commit: int,
                 finished: Mapping[int, Sequence[int]] | None = None) -> None:
        self.text, self.program, self.items, self.commit, self.finished = text, program, items, commit, finished
        self.out = Writer(text, "program", "i64", "ptr %buffers, i64 %thread, i64 %threads, ptr %control", linkage="")
        self.barrier = text.declare("adjoint_barrier", "i64", "ptr, i64")
        self.poll = text.declare("adjoint_poll", "i1", "ptr")
        self.ring = text.declare("adjoint_ring", "void", "ptr")
        self.table, self.late, self.stop = "%buffers", False, ""

    def write(self) -> None:
        out = self.out
        self.many = out.op("icmp sgt i64 %threads, 1")
        self.first = out.op("icmp eq i64 %thread, 0")
        if any(isinstance(buffer, Window) for buffer in self.program.buffers):
            self._own_table()
        self.scratch = load_pointer(out, self.table, len(self.program.buffers))
        if self.finished is not None:
            self.words = load_pointer(out, self.table, self.program.signals)
            self._on_first(lambda: self._set_signals(self.words))
        self._sequence(self.items, self.commit, self.finished)
        if self.items and (self.commit == len(self.items) or self.finished is not None):
            self._between(self.items[-1], self.commit == len(self.items), late=self.commit < len(self.items))
        self._publish(len(self.items) - 1)
        self._publish(-1)
        out.do("ret i64 0")
        self.text.texts.append(out.finish())

    def _own_table(self) -> None:
        """A copy of the table, since every thread moves windows for itself."""
        size = 8 * (len(self.program.buffers) + 1)
        self.table = self.out.at_top(f"alloca [{size} x i8], align 64")
        copy = self.text.declare("llvm.memcpy.p0.p0.i64", "void", "ptr, ptr, i64, i1")
        self.out.do(f"call void {copy}(ptr {self.table}, ptr %buffers, i64 {size}, i1 false)")

    # -- sequences of steps, walked by all threads --------------------------------------------------------------------

    def _sequence(self, items: Sequence[Item], commit: int, finished: Mapping[int, Sequence[int]] | None = None) -> None:
        """Items in order; commit: before which of them nothing may fail any more (len(items) or more: none); finished: see above."""
        joined = ""                                           # where the other threads wait while the first runs alone
        for number, item in enumerate(items):
            wait, look = self._needs(items, number, commit)
            if finished is not None and number:
                wait, look = wait or number - 1 in finished, look or number <= commit
            if joined and (wait or look or item.parallel or number == commit):
                joined = self._join(joined)
            if wait or look:
                self._between(items[number - 1], look, late=number > commit)
            if finished is not None and number:
                self._publish(number - 1)
            if number == commit:
                self._commit()
            self.late = self.late or number >= commit
            if item.parallel:
                self._together(item)
                continue
            if not joined:
                run, joined = self.out.fresh("run"), self.out.fresh("after")
                self.out.branch(self.first, run, joined)
                self.out.enter(run)
            self._alone(item)
        if joined:
            self._join(joined)

    def _join(self, label: str) -> str:
        self.out.jump(label)
        self.out.enter(label)
        return ""

    @staticmethod
    def _needs(items: Sequence[Item], number: int, commit: int) -> tuple[bool, bool]:
        """Between item number - 1 and this one: must threads wait for each other, must the status be looked at?"""
        if number == 0:
            return False, False
        before = items[number - 1]
        look = number <= commit and (may_stop(before) or number == commit)
        return before.parallel or items[number].parallel, look

    def _between(self, before: Item, look: bool, late: bool = False) -> None:
        """A barrier, and before the commit point a way out."""
        out = self.out
        together, alone, after = out.fresh("together"), out.fresh("alone"), out.fresh("after")
        out.branch(self.many, together, alone)
        out.enter(together)
        if look and self.finished is not None:
            out.do(f"call i1 {self.poll}(ptr %control)")
        answer = out.op(f"call i64 {self.barrier}(ptr %control, i64 %threads)")
        out.jump(after)
        out.enter(alone)
        state = self._state_alone(before) if look else "0"
        came = out.label
        out.jump(after)
        out.enter(after)
        answer = out.op(f"phi i64 [ {answer}, %{together} ], [ {state}, %{came} ]")
        if not late:
            self._leave_if(answer)

    def _leave_if(self, answer: str) -> None:
        out = self.out
        leave, go = out.fresh("leave"), out.fresh("go")
        out.branch(out.op(f"icmp ne i64 {answer}, 0"), leave, go)
        out.later(leave, [f"ret i64 {answer}"])
        out.enter(go)

    def _state_alone(self, before: Item) -> str:
        """-1 if a single thread was cancelled, else the status."""
        out = self.out
        state = out.op("load i64, ptr %control, align 8")
        if before.cost < POLL_COST and isinstance(before, Step) and self.finished is None:
            return state
        cancelled = out.op(f"call i1 {self.poll}(ptr %control)")
        return out.op(f"select i1 {cancelled}, i64 {at.CANCELLED}, i64 {state}")

    def _commit(self) -> None:
        """From here nothing may fail: the owner looks for no signal any more."""
        def close() -> None:
            place = self.out.op(f"getelementptr i8, ptr %control, i64 {at.DEADLINE}")
            self.out.do(f"store i64 {at.UNTIL_NEVER}, ptr {place}, align 8")
            if self.finished is not None:
                self._set_signals("null")
        self._on_first(close)

    def _on_first(self, write: Callable[[], None]) -> None:
        """What `write` writes is done by the first thread, which owns the call."""
        out = self.out
        owner, go = out.fresh("owner"), out.fresh("go")
        out.branch(self.first, owner, go)
        out.enter(owner)
        write()
        out.jump(go)
        out.enter(go)

    # -- signals ------------------------------------------------------------------------------------------------------

    def _set_signals(self, words: str) -> None:
        """Where a poll looks for the flag that cancels."""
        place = self.out.op(f"getelementptr i8, ptr %control, i64 {at.SIGNALS}")
        self.out.do(f"store ptr {words}, ptr {place}, align 8")

    def _publish(self, item: int) -> None:
        """Say that the outputs which an item writes last are finished; all threads have left the item."""
        outputs = (self.finished or {}).get(item, ())

        def store() -> None:
            for output in outputs:
                place = self.out.op(f"getelementptr i8, ptr {self.words}, i64 {at.READY + 8 * output}")
                self.out.do(f"store atomic i64 1, ptr {place} release, align 8")
            self.out.do(f"call void {self.ring}(ptr {self.words})")
        if outputs:
            self._on_first(store)

    # -- items --------------------------------------------------------------------------------------------------------

    def _together(self, item: Item) -> None:
        """An item with work for several threads."""
        if isinstance(item, Loop):
            self._loop(item, self._sequence_inside, self._pass_together)
        elif isinstance(item, Fork):
            self._fork(item, self._sequence_inside)
        else:
            begin, end = (self._cut(item, text) for text in ("%thread", self.out.op("add i64 %thread, 1")))
            self._call(item, begin, end)

    def _alone(self, item: Item) -> None:
        """An item on this thread only; where it has to stop, it jumps behind the outermost loop or branch that runs so."""
        if isinstance(item, Step):
            self._call(item, "0", str(item.extent))
            return
        outermost = not self.stop
        self.stop = self.stop or self.out.fresh("stop")
        if isinstance(item, Loop):
            self._loop(item, self._all_alone, self._pass_alone)
        else:
            self._fork(item, self._all_alone)
        if outermost:
            self.out.jump(self.stop)
            self.out.enter(self.stop)
            self.stop = ""

    def _sequence_inside(self, items: Sequence[Item]) -> None:
        self._sequence(items, len(items) + 1)

    def _all_alone(self, items: Sequence[Item]) -> None:
        for item in items:
            self._alone(item)
            if may_stop(item):
                self._stop_if(self._state_alone(item))

    def _stop_if(self, answer: str) -> None:
        go = self.out.fresh("go")
        self.out.branch(self.out.op(f"icmp ne i64 {answer}, 0"), self.stop, go)
        self.out.enter(go)

    def _fork(self, fork: Fork, run) -> None:
        out = self.out
        yes, no, after = out.fresh("yes"), out.fresh("no"), out.fresh("after")
        out.branch(self._flag(fork.flag), yes, no)
        for label, items in ((yes, fork.on_true), (no, fork.on_false)):
            out.enter(label)
            run(items)
            out.jump(after)
        out.enter(after)

    def _flag(self, buffer: int) -> str:
        byte = self.out.op(f"load i8, ptr {load_pointer(self.out, self.table, buffer)}, align 1")
        return self.out.op(f"icmp ne i8 {byte}, 0")

    def _loop(self, loop: Loop, run, end_pass) -> None:
        """Passes, each with the windows in place; end_pass writes what leads to the next one, or out."""
        out = self.out
        entry, head, inside, after = out.label, out.fresh("pass"), out.fresh("inside"), out.fresh("passed")
        out.jump(head)
        out.enter(head)
        number = out.phi("i64", "0", entry)
        if loop.extent is None:
            self._move(loop, number.name)
            run(loop.test)
            if any(item.parallel for item in loop.items):
                self._leave_if(self._barrier())
            out.branch(self._flag(loop.flag), inside, after)
        else:
            out.branch(out.op(f"icmp slt i64 {number.name}, {loop.extent}"), inside, after)
        out.enter(inside)
        if loop.extent is not None:
            self._move(loop, number.name)
        run(loop.body)
        following = out.op(f"add i64 {number.name}, 1")
        end_pass(loop, following)
        out.close(number, following)
        out.jump(head)
        out.enter(after)
        if loop.after:
            run(loop.after)                   # only of a loop without extent, whose windows were moved before the test that ended it

    def _barrier(self) -> str:
        """Wait for all threads (a single one goes on at once): 0, or why to leave."""
        return self.out.op(f"call i64 {self.barrier}(ptr %control, i64 %threads)")

    def _pass_together(self, loop: Loop, following: str) -> None:
        """The threads meet at the end of every pass; the owner has looked for signals now and then."""
        self._look(loop, following)
        self._leave_if(self._barrier())

    def _pass_alone(self, loop: Loop, following: str) -> None:
        """Now and then a look for signals and at the status: then the rest of the passes is skipped, and the next barrier tells."""
        self._stop_if(self._look(loop, following))

    def _look(self, loop: Loop, following: str) -> str:
        """Every so many passes: is there a reason to stop? An i64, 0 if there is none, or if this is not the pass to look in."""
        out = self.out
        every = 1
        while every < _MOST_PASSES and 2 * every * max(loop.pass_cost, 1.0) <= LOOK_COST:
            every *= 2
        look, on, before = out.fresh("look"), out.fresh("on"), out.label
        due = out.op(f"icmp eq i64 {out.op(f'and i64 {following}, {every - 1}')}, 0")
        out.branch(due, look, on)
        out.enter(look)
        cancelled = out.op(f"call i1 {self.poll}(ptr %control)")
        state = out.op("load i64, ptr %control, align 8")
        answer = out.op(f"select i1 {cancelled}, i64 {at.CANCELLED}, i64 {state}")
        out.jump(on)
        out.enter(on)
        return out.op(f"phi i64 [ {answer}, %{look} ], [ 0, %{before} ]")

    def _move(self, loop: Loop, number: str) -> None:
        """Point the windows at their places of this pass."""
        out, parity = self.out, ""
        for each in loop.windows:
            window = self.program.buffers[each]
            if window.period == 2:
                parity = parity or out.op(f"and i64 {number}, 1")
            turn = parity if window.period else number
            size = window.dtype.itemsize
            offset = out.op(f"add i64 {out.op(f'mul i64 {turn}, {window.step * size}')}, {window.start * size}")
            place = out.op(f"getelementptr i8, ptr {load_pointer(out, self.table, window.base)}, i64 {offset}")
            out.do(f"store ptr {place}, ptr {out.op(f'getelementptr i8, ptr {self.table}, i64 {8 * each}')}, align 8")

    # -- kernels and products -----------------------------------------------------------------------------------------

    def _cut(self, step: Step, thread: str) -> str:
        """Where the part of a thread begins: thread * units / threads units, at most the extent."""
        out = self.out
        units = -(-step.extent // step.grain)
        share = out.op(f"udiv i64 {out.op(f'mul i64 {thread}, {units}')}, %threads")
        if step.grain == 1:
            return share
        place = out.op(f"mul i64 {share}, {step.grain}")
        return out.op(f"select i1 {out.op(f'icmp slt i64 {place}, {step.extent}')}, i64 {place}, i64 {step.extent}")

    def _call(self, step: Step, begin: str, end: str) -> None:
        """The step over [begin, end); a long one in pieces, with a look at the cancel flag before each."""
        out = self.out
        if step.buffers is None:
            out.do(f"call void @{step.function}(ptr {self.table}, i64 {begin}, i64 {end}, ptr {self.scratch}, ptr %control)")
            return
        pointers = "".join(f"ptr {load_pointer(out, self.table, buffer)}, " for buffer in step.buffers)
        if step.cost < POLL_COST or self.late or step.extent <= step.grain:
            out.do(f"call void @{step.function}({pointers}i64 {begin}, i64 {end}, ptr %control)")
            return
        pieces = min(-(-step.extent // step.grain), int(step.cost / POLL_COST) + 1)
        size = -(-step.extent // (pieces * step.grain)) * step.grain
        entry, head, body, after = out.label, out.fresh("look"), out.fresh("piece"), out.fresh("after")
        out.jump(head)
        out.enter(head)
        start = out.phi("i64", begin, entry)
        inside = out.op(f"icmp slt i64 {start.name}, {end}")
        go = out.fresh("go")
        out.branch(inside, go, after)
        out.enter(go)
        out.branch(out.op(f"call i1 {self.poll}(ptr %control)"), after, body)
        out.enter(body)
        following = out.op(f"add i64 {start.name}, {size}")
        stop = out.op(f"select i1 {out.op(f'icmp slt i64 {following}, {end}')}, i64 {following}, i64 {end}")
        out.do(f"call void @{step.function}({pointers}i64 {start.name}, i64 {stop}, ptr %control)")
        out.close(start, following)
        out.jump(head)
        out.enter(after)
