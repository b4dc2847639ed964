"""compile: a function becomes native code, specialized to the shapes and dtypes it is called with.

Invariant: the compiled function returns what the function returns, within the rows' bounds of eager NumPy, and the same bits in every
run and for every number of threads. May import: L0-L3, native, entry. Read next: donation.py, native.py.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..core.aval import Aval, aval_of
from ..core.graph import Graph
from ..core.interpreter import EVALUATION, Tracer, current, interpreting
from ..core.primitive import bind
from ..core.trace import trace_graph
from ..errors import ConfigError, explain
from ..numpy.effects import watching_randomness
from ..transforms.calls import call_row, close
from ..tree import Structure, flatten, unflatten
from .donation import DonatedState
from .entry import Entry, Specialization
from .llvm import emit_text
from .native import Native, buffer_numbers, fresh_records, leaf_record, make_native, native_tree, scratch_bytes, specialize


class Shape:
    """One way the function was called: the structure of its arguments, their avals, static values."""

    def __init__(self, structure: Structure, avals: tuple[Aval, ...]):
        self.structure, self.avals = structure, avals

    def __hash__(self) -> int:
        return hash((self.structure, self.avals))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shape) and self.structure == other.structure and self.avals == other.avals


class Program:
    """A traced and compiled call: the graph, its native code, the entry for flat leaves, the structure of the result."""

    def __init__(self, function: Callable, args: tuple, kwargs: dict, donate: tuple[int, ...]):
        self.leaves, self.structure = flatten((args, kwargs))
        found: list[Structure] = []

        def flat(*cells: Any) -> list:
            inner_args, inner_kwargs = unflatten(self.structure, cells)
            outputs, structure = flatten(function(*inner_args, **inner_kwargs))
            found.append(structure)
            return outputs
        with watching_randomness(function, args, kwargs), interpreting(EVALUATION):
            self.graph: Graph = trace_graph(flat, [aval_of(x) for x in self.leaves])
        self.result = found[0]
        self.donation = DonatedState(args, donate, self.graph, self.result) if donate else None
        self.native: Native = make_native(self.graph, self.donation.pairs if self.donation else {})
        self.entry = Entry(_foreign)
        if self.donation is None:
            self.special = self._plain(self.leaves)
            self.entry.add(self.special)

    def _plain(self, leaves: list) -> Specialization:
        at = buffer_numbers(self.native, "input")
        arguments = [leaf_record(x, at[i]) for i, x in enumerate(leaves)]
        results, rebuild = result_tree(self.result, fresh_records(self.native, self.graph))
        return specialize(self.native, arguments, results, False, rebuild=rebuild)

    def call(self, leaves: list) -> Any:
        return self.entry.call(*[contiguous(x) for x in leaves])


def _foreign(*leaves: Any) -> Any:
    raise ConfigError(explain("a compiled program was called with arrays of another layout than it was made for."))


def contiguous(x: Any) -> Any:
    """x as native code wants it: aligned and in row-major order."""
    if isinstance(x, np.ndarray) and type(x) is np.ndarray and x.flags.c_contiguous and x.flags.aligned:
        return x
    return np.require(x, requirements=("C", "A", "E")).reshape(x.shape) if isinstance(x, np.ndarray) else x


def result_tree(structure: Structure, records: Sequence[Any]) -> tuple[Any, Callable | None]:
    """Result records in the tree the user gets; a rebuild function where the tree has more than tuples, lists and dicts."""
    if native_tree(structure):
        return unflatten(structure, records), None
    return tuple(records), lambda leaves: unflatten(structure, leaves)


class Compiled:
    """What `compile` returns: call it as the function; `memory()`, `ir()`, `kernels()`, `stats()`, `graph()` look inside."""

    def __init__(self, function: Callable, donate: tuple[int, ...], static: tuple[str, ...]):
        self.__wrapped__ = function
        self.__name__ = getattr(function, "__name__", "function")
        self.__doc__ = getattr(function, "__doc__", None)
        self._donate, self._static = donate, static
        self._programs: dict[Shape, Program] = {}
        self._lock = threading.RLock()
        self._entry = Entry(self._slow)

    # -- calling ------------------------------------------------------------------------------------------------------

    def _slow(self, *args: Any, **kwargs: Any) -> Any:
        """Everything the native entry does not recognize: trees, keywords, first calls, traced values, foreign layouts."""
        args, kwargs = self._mark_static(args, kwargs)
        leaves, structure = flatten((args, kwargs))
        if current() is not EVALUATION or any(isinstance(x, Tracer) for x in leaves):
            return self._inside(args, kwargs)
        program, new = self._program(args, kwargs, leaves, structure)
        if program.donation is not None:
            return program.donation.call(program, self._entry, args, kwargs)
        if new and len(leaves) == len(args) and not kwargs:
            self._entry.add(program.special)
        return program.call(leaves)

    def _program(self, args: tuple, kwargs: dict, leaves: list, structure: Structure) -> tuple[Program, bool]:
        key = Shape(structure, tuple(map(aval_of, leaves)))
        program = self._programs.get(key)
        if program is not None:
            return program, False
        with self._lock:
            if key not in self._programs:
                self._programs[key] = Program(_unmark(self.__wrapped__), args, kwargs, self._donate)
            return self._programs[key], True

    def _inside(self, args: tuple, kwargs: dict) -> Any:
        """Under a transformation: one call node that holds the traced graph."""
        closed = close(lambda inner: _unmark(self.__wrapped__)(*inner[0], **inner[1]), (args, kwargs))
        return unflatten(closed.structure, list(bind(COMPILE, *closed.leaves, graph=closed.graph)))

    def _mark_static(self, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        if not self._static:
            return args, kwargs
        bound = inspect.signature(self.__wrapped__).bind(*args, **kwargs)
        for name in self._static:
            if name in bound.arguments:
                bound.arguments[name] = Static(bound.arguments[name])
        return bound.args, bound.kwargs

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
        """One line per step of the last program: name, extent, estimated operations."""
        from_steps = self._last().native.built.program.steps
        return [f"{s.name} {s.batch}x{s.m}x{s.n}x{s.k}" if hasattr(s, "accumulator") else f"{s.name} extent {s.extent}" for s in from_steps]

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
        self.value = value

    def __hash__(self) -> int:
        return hash((type(self.value), self.value))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Static) and type(self.value) is type(other.value) and self.value == other.value

    def __repr__(self) -> str:
        return repr(self.value)


def _unmark(function: Callable) -> Callable:
    """The function called with the values that Static holds."""
    def plain(*args: Any, **kwargs: Any) -> Any:
        reveal = lambda x: x.value if isinstance(x, Static) else x
        return function(*map(reveal, args), **{k: reveal(v) for k, v in kwargs.items()})
    plain.__name__ = getattr(function, "__name__", "function")
    plain.__wrapped__ = function
    return plain


def compile(function: Callable | None = None, *, donate: int | Sequence[int] = (), static: str | Sequence[str] = ()) -> Callable:
    """The same function as native code: one call, specialized to each set of shapes and dtypes it meets.

    donate: numbers of arguments whose arrays the result replaces (a model, an optimizer's state): the first call copies them into
    arrays that the compiled function owns and returns those; later calls update them in place, so the objects you hold are live.
    A snapshot is `adjoint.copy(model)`. An error or Ctrl-C leaves them bit for bit as they were. static: names of arguments that are
    part of the program (an int needed as a shape); each new value compiles again. Floats and ints are otherwise traced: a new
    learning rate never recompiles.

    Cost: a call costs under a microsecond beyond its arithmetic; compiling costs milliseconds per kernel and is kept on disk.
    Raises: NoLowering for an operation without native code; at run time IndexRangeError, DivisionError before anything is written.

    >>> import numpy as np
    >>> fast = compile(lambda x: (x * x).sum())
    >>> fast(np.array([1.0, 2.0]))
    np.float64(5.0)
    """
    if function is None:
        return lambda f: compile(f, donate=donate, static=static)
    numbers = (donate,) if isinstance(donate, int) else tuple(donate)
    names = (static,) if isinstance(static, str) else tuple(static)
    made = Compiled(function, numbers, names)
    # The builtin entry is the class's own __call__: found on the type, it is called without self and without a Python frame.
    made.__class__ = type("Compiled", (Compiled,), {"__call__": made._entry.call, "__slots__": ()})
    return made


# ------------------------------------------------------------------------------------------------ compiled calls as a row

_called: dict[Graph, Program] = {}


class _GraphProgram(Program):
    """A program for a graph that is already traced (a call node at the ground level)."""

    def __init__(self, graph: Graph):
        self.graph, self.donation = graph, None
        self.native = make_native(graph, {})
        self.result = flatten(tuple(range(len(graph.outputs))))[1]


def _run_graph(graph: Graph, *args: Any) -> Sequence[Any]:
    """Perform a compiled call at the ground level: native code for the graph, made once."""
    program = _called.get(graph)
    if program is None:
        program = _called[graph] = _GraphProgram(graph)
        program.entry = Entry(_foreign)
        at = buffer_numbers(program.native, "input")
        given = [v.aval for v in graph.inputs]
        arguments = [leaf_record(np.empty(a.shape, a.dtype), at[i]) for i, a in enumerate(given)]
        program.entry.add(specialize(program.native, arguments, tuple(fresh_records(program.native, graph)), False))
    leaves = [contiguous(np.asarray(x, v.aval.dtype)) for x, v in zip(args, graph.inputs, strict=True)]
    return program.entry.call(*leaves)


COMPILE = call_row("compile", _run_graph, saves=True, doc="A compiled call: its Graph, performed as native code.")
