"""compile: a function becomes native code, specialized to the shapes and dtypes it is called with.

Invariant: the compiled function returns what the function returns, within the rows' bounds of eager NumPy, and the same bits in every
run and for every number of threads. May import: L0-L3, native, entry. Read next: donation.py, native.py.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..collector import undisturbed
from ..core.aval import aval_of
from ..core.effects import watching_randomness
from ..core.graph import Graph
from ..core.interpreter import EVALUATION, Tracer, current, interpreting
from ..core.primitive import bind
from ..core.trace import trace_graph
from ..errors import ConfigError, explain
from ..transforms.calls import call_row, close
from ..tree import Structure, flatten, unflatten
from .donation import Donation
from .entry import Entry, Specialization
from .llvm import emit_text
from .native import Native, buffer_numbers, fresh_records, leaf_record, make_native, results_of, scratch_bytes, specialize
from .signals import Signals
from .signature import Handle, children_of, is_readable, tree_of
from .signature import Static as StaticLeaf
from .steps import listed


class Program:
    """A traced and compiled call: the graph, its native code, and the specialization that reads the arguments' trees."""

    def __init__(self, function: Callable, args: tuple, kwargs: dict, donate: tuple[int, ...], signals: Signals | None = None):
        leaves, structure = flatten((args, kwargs))
        found: list[Structure] = []

        def flat(*cells: Any) -> list:
            inner_args, inner_kwargs = unflatten(structure, cells)
            outputs, result = flatten(function(*inner_args, **inner_kwargs))
            found.append(result)
            return outputs
        with watching_randomness(function, args, kwargs), interpreting(EVALUATION):
            self.graph: Graph = trace_graph(flat, [aval_of(x) for x in leaves])
        self.donation = Donation(args, donate, self.graph, found[0]) if donate else None
        self.native: Native = make_native(self.graph, self.donation.pairs if self.donation else {}, signals)
        self.structures = [flatten(part)[1] for part in parts_of(args, kwargs)]
        self.special, self.readable = self._specialize(leaves, found[0])
        self.entry = Entry(_foreign)
        self.entry.add(self.special)

    def _specialize(self, leaves: list, result: Structure) -> tuple[Specialization, bool]:
        """The record of the call: argument trees (or flat leaves, where a tree runs code of its own), result tree."""
        at = buffer_numbers(self.native, "input")
        records = iter([leaf_record(x, at[i]) for i, x in enumerate(leaves)])
        trees = [tree_of(structure, [next(records) for _ in range(structure.leaf_count)]) for structure in self.structures]
        donation = self.donation
        results = donation.result_records(self.native) if donation else results_of(result, fresh_records(self.native, self.graph))
        if donation:
            trees = [Handle(donation.donate.index(n)) if n in donation.donate else tree for n, tree in enumerate(trees)]
        readable = all(is_readable(tree) for tree in trees) and not any(map(is_zero_static, trees))
        arguments = [reveal(tree) for tree in trees] if readable else [leaf for tree in trees for leaf in leaves_of(tree)]
        special = specialize(self.native, arguments, results, donation is not None, slots=len(donation.donate) if donation else 0)
        return special, readable

    def call(self, args: tuple, kwargs: dict) -> Any:
        """A call that the native entry did not take: foreign layouts and trees are brought into form first."""
        if self.donation:
            args = self.donation.own(self, args)
        donated = self.donation.donate if self.donation else ()
        if self.native.signals is not None:
            self.native.signals.begin([self.native.kept.get(j) for j in range(len(self.graph.outputs))])
        parts = [[part] if n in donated else self._tidy(n, part) for n, part in enumerate(parts_of(args, kwargs))]
        return self.entry.call(*[x for part in parts for x in part])

    def _tidy(self, n: int, part: Any) -> list:
        """Part n as the entry knows it: exact containers, and the program's own static objects instead of equal ones."""
        blocks = [*(self.donation.blocks if self.donation else ()), *self.native.kept.values()]
        leaves = [native_form(x, blocks) for x in flatten(part)[0]]
        return [_plain(unflatten(self.structures[n], leaves))] if self.readable else leaves


def parts_of(args: tuple, kwargs: dict) -> list:
    """What the program's own entry is called with: the positional arguments, then the keywords as one dict, if any."""
    return [*args, *([kwargs] if kwargs else [])]


def leaves_of(tree: Any) -> list:
    """The leaf records of an argument tree."""
    children = children_of(tree)
    if children is None:
        return [] if isinstance(tree, StaticLeaf) else [tree]
    return [leaf for child in children for leaf in leaves_of(child)]


def reveal(tree: Any) -> Any:
    """A static argument is recognized by the value that the caller passes, not by the mark that compile put around it."""
    return StaticLeaf(tree.value.value) if isinstance(tree, StaticLeaf) and isinstance(tree.value, Static) else tree


def is_zero_static(tree: Any) -> bool:
    """A static float zero: the native entry would take -0.0 for 0.0, so the slow path tells them apart."""
    value = tree.value if isinstance(tree, StaticLeaf) else None
    return isinstance(value, Static) and isinstance(value.value, float) and value.value == 0


def _foreign(*parts: Any) -> Any:
    raise ConfigError(explain("an argument does not have the form that the program was compiled for (a number out of int64's range, "
                              "or a value that changed while it was read).",
                              remedy="Pass a fresh value; a larger integer as np.float64."))


def native_form(x: Any, blocks: Sequence[np.ndarray] = ()) -> Any:
    """x as native code wants it: a plain array, aligned, in row-major order, apart from memory that the call writes; exact numbers."""
    if isinstance(x, np.ndarray):
        if any(np.may_share_memory(x, block) for block in blocks):
            return x.copy()
        if type(x) is np.ndarray and x.flags.c_contiguous and x.flags.aligned:
            return x
        return np.require(np.asarray(x), requirements=("C", "A")).reshape(x.shape)
    if isinstance(x, np.generic) or type(x) in (float, int):
        return x
    return float(x) if isinstance(x, float) else int(x)


KEPT_PROGRAMS = 128              # shapes of call that one compiled function keeps code for


class Compiled:
    """What `compile` returns: call it as the function; `memory()`, `ir()`, `kernels()`, `stats()`, `graph()` look inside."""

    def __init__(self, function: Callable, donate: tuple[int, ...], static: tuple[str, ...], signals: Signals | None = None):
        _check_static(function, static)
        functools.update_wrapper(self, function, assigned=("__module__", "__name__", "__qualname__", "__doc__"), updated=())
        self._donate, self._static, self._signals = donate, static, signals
        self._programs: dict[tuple, Program] = {}
        self._lock = threading.RLock()
        self._entry = Entry(self._slow)

    # -- calling ------------------------------------------------------------------------------------------------------

    def _slow(self, *args: Any, **kwargs: Any) -> Any:
        """Everything the native entry does not recognize: first calls, keywords, traced values, foreign layouts."""
        marked_args, marked_kwargs = self._mark_static(args, kwargs)
        leaves, structure = flatten((marked_args, marked_kwargs))
        if current() is not EVALUATION or any(isinstance(x, Tracer) for x in leaves):
            return self._inside(marked_args, marked_kwargs)
        key = structure, tuple(map(aval_of, leaves))
        program = self._programs.get(key) or self._make(key, marked_args, marked_kwargs)
        return program.call(marked_args, marked_kwargs)

    def _make(self, key: tuple, args: tuple, kwargs: dict) -> Program:
        """Trace and compile once per structure, shapes and dtypes, whichever thread comes first."""
        with self._lock:
            if key not in self._programs:
                with undisturbed():
                    program = Program(_unmark(self.__wrapped__), args, kwargs, self._donate, self._signals)
                while len(self._programs) >= KEPT_PROGRAMS:          # the oldest goes; a call inside it ends undisturbed
                    self._entry.remove(self._programs.pop(next(iter(self._programs))).special)
                self._programs[key] = program
                if program.readable and not kwargs and self._signals is None:
                    self._entry.add(program.special)
            return self._programs[key]

    def _inside(self, args: tuple, kwargs: dict) -> Any:
        """Under a transformation: one call node that holds the traced graph."""
        closed = close(lambda inner: _unmark(self.__wrapped__)(*inner[0], **inner[1]), (args, kwargs))
        return unflatten(closed.structure, list(bind(COMPILE, *closed.leaves, graph=closed.graph)))

    def _mark_static(self, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """The call with its static arguments marked, keywords in their positions where the signature is known."""
        if not (kwargs or self._static):
            return args, kwargs
        bound = inspect.signature(self.__wrapped__).bind(*args, **kwargs)
        for name in self._static:
            if name in bound.arguments:
                bound.arguments[name] = Static(bound.arguments[name])
        return bound.args, bound.kwargs

    def __reduce__(self) -> tuple:
        return compile_again, (self.__wrapped__, self._donate, self._static)

    # -- looking inside -----------------------------------------------------------------------------------------------

    @property
    def programs(self) -> list[Program]:
        """The programs made so far, one per shape of call."""
        return list(self._programs.values())

    def _last(self) -> Program:
        if not self._programs:
            raise ConfigError(explain(f"{self.__name__} has not been compiled yet.", remedy="Call it once, then look inside."))
        return self.programs[-1]

    def graph(self) -> Graph:
        """The simplified graph of the last program made."""
        return self._last().native.built.graph

    def kernels(self) -> list[str]:
        """One line per step of the last program: name, extent; the steps of loops and branches indented."""
        lines = []
        for depth, s in listed(self._last().native.built.program.steps):
            size = f"{s.batch}x{s.m}x{s.n}x{s.k}" if hasattr(s, "accumulator") else f"extent {s.extent}" if hasattr(s, "extent") else ""
            lines.append(f"{'  ' * depth}{s.name} {size}".rstrip())
        return lines

    def stats(self) -> dict[str, Any]:
        """Kernels, instructions, milliseconds per stage, and whether the code came from the cache."""
        program = self._last()
        return {"programs": len(self._programs), "steps": len(program.native.built.program.steps), **program.native.facts,
                "milliseconds": {k: round(1e3 * s, 3) for k, s in program.native.seconds.items()}}

    def memory(self) -> dict[str, int]:
        """Bytes that a call needs: arena (temporaries), packs, inputs, outputs, captured arrays; known before the program runs."""
        program = self._last().native.built.program
        packs = scratch_bytes(program)
        total = {role: sum(b.dtype.itemsize * b.size for b in program.buffers if b.role == role) for role in ("input", "output", "hidden")}
        return {"arena": program.arena_bytes, "packs": packs, **total, "peak": program.arena_bytes + packs + sum(total.values())}

    def ir(self) -> str:
        """The LLVM IR of the last program made."""
        from_program = self._last().native.built.program
        return emit_text(from_program)

    def __repr__(self) -> str:
        return f"<compiled {self.__name__}: {len(self._programs)} programs>"


class Static:
    """A static argument: part of the structure, compared by value."""

    def __init__(self, value: Any):
        try:
            hash(value)
        except TypeError:
            raise ConfigError(explain(f"a static argument is a {type(value).__name__}, which may change after the program is made.",
                                      remedy="Pass a tuple, or let the array be an ordinary argument.")) from None
        self.value = value

    def __hash__(self) -> int:
        return hash((type(self.value), self.value))

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, Static) and type(self.value) is type(other.value) and self.value == other.value
        return same and (not isinstance(self.value, float) or repr(self.value) == repr(other.value))       # 0.0 is not -0.0

    def __repr__(self) -> str:
        return repr(self.value)


def _check_static(function: Callable, static: tuple[str, ...]) -> None:
    """Every static name must be a parameter of the function, where its signature is known."""
    try:
        parameters = inspect.signature(function).parameters if static else {}
    except (TypeError, ValueError):
        return
    unknown = [name for name in static if name not in parameters]
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        raise ConfigError(explain(f"compile: static names {unknown[0]!r}; the parameters are {', '.join(parameters)}.",
                                  remedy='Name a parameter of the function: static=("n",).'))


def _plain(x: Any) -> Any:
    return x.value if isinstance(x, Static) else x


def _unmark(function: Callable) -> Callable:
    """The function called with the values that Static holds."""
    @functools.wraps(function)
    def plain(*args: Any, **kwargs: Any) -> Any:
        return function(*map(_plain, args), **{k: _plain(v) for k, v in kwargs.items()})
    return plain


def compile(function: Callable | None = None, *, donate: int | Sequence[int] = (), static: str | Sequence[str] = (),
            signals: Signals | None = None) -> Callable:
    """The same function as native code: one call, specialized to each set of shapes and dtypes it meets.

    donate: numbers of arguments whose arrays the result replaces (a model, an optimizer's state): the first call copies them into
    arrays that the compiled function owns and returns those; later calls update them in place, so the objects you hold are live.
    A snapshot is `adjoint.copy(model)`. An error or Ctrl-C leaves them bit for bit as they were. static: names of arguments that are
    part of the program (an int needed as a shape); each new value compiles again. Floats and ints are otherwise traced: a new
    learning rate never recompiles. signals: lets other threads see which results are finished while the call runs, and cancel it;
    each call then returns the same arrays, overwritten. Under a transformation, and in a copy, signals have no effect.

    Cost: a call costs under a microsecond beyond its arithmetic; compiling costs milliseconds per kernel and is kept on disk.
    Raises: NoLowering for an operation without native code; at run time IndexRangeError, DivisionError before anything is written.

    >>> import numpy as np
    >>> fast = compile(lambda x: (x * x).sum())
    >>> fast(np.array([1.0, 2.0]))
    np.float64(5.0)
    """
    if function is None:
        return lambda f: compile(f, donate=donate, static=static, signals=signals)
    if not callable(function):
        raise ConfigError(explain(f"compile: found {type(function).__name__}, expected a function.",
                                  remedy="Give the function itself: ad.compile(f), or use @ad.compile above its def."))
    numbers = tuple(donate) if isinstance(donate, Sequence) else (donate,)
    if not all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) for n in numbers):
        raise ConfigError(explain(f"compile: donate is {donate!r:.60}, expected numbers of positional arguments.",
                                  remedy="Count them from 0: donate=(0, 1)."))
    names = (static,) if isinstance(static, str) else tuple(static)
    made = Compiled(function, numbers, names, signals)
    # The builtin entry is the class's own __call__: found on the type, it is called without self and without a Python frame.
    made.__class__ = made._entry.callable_class("Compiled", Compiled)
    return made


def compile_again(function: Callable, donate: tuple[int, ...], static: tuple[str, ...]) -> Callable:
    """What a copy of a compiled function is: the same function, to be compiled anew at its first call."""
    return compile(function, donate=donate, static=static)


# ------------------------------------------------------------------------------------------------ compiled calls as a row

CALLED_PROGRAMS = 256            # programs of call nodes that are kept


@functools.lru_cache(CALLED_PROGRAMS)
def _called(graph: Graph) -> tuple[Native, Entry]:
    """The program of a call node's graph, made once."""
    native = make_native(graph, {})
    at = buffer_numbers(native, "input")
    arguments = [leaf_record(np.empty(v.aval.shape, v.aval.dtype), at[i]) for i, v in enumerate(graph.inputs)]
    entry = Entry(_foreign)
    entry.add(specialize(native, arguments, tuple(fresh_records(native, graph)), False))
    return native, entry


def _run_graph(graph: Graph, *args: Any) -> Sequence[Any]:
    """Perform a compiled call at the ground level."""
    leaves = [native_form(np.asarray(x, v.aval.dtype)) for x, v in zip(args, graph.inputs, strict=True)]
    return _called(graph)[1].call(*leaves)


COMPILE = call_row("compile", _run_graph, saves=True, doc="A compiled call: its Graph, performed as native code.")
