"""Who performs an operation: the current interpreter, held in a ContextVar; and the Tracer, the one type that interpreters hand out.

Invariant: whatever happens in user code, the interpreter that was current before is current again after. A Tracer is a cell that
holds an immutable payload: writing rebinds the cell. May import: L0, aval. Read next: graph.py, trace.py.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import AdjointError, AliasError, EscapedTracerError, MutationError, TracerError, explain, user_location
from .aval import Aval, aval_of


class Interpreter:
    """Performs primitives. `outer` is the interpreter that was current when this one began; `open` is false once it has ended."""

    name = "evaluation"

    def __init__(self, outer: Interpreter | None):
        self.outer, self.open = outer, True
        self.eager = outer is None or outer.eager      # false as soon as one interpreter of the stack only records
        self.typing = () if outer is None else outer.typing         # those of the stack that tell varying from replicated values

    def interpret(self, primitive: Any, args: tuple, params: dict) -> Any:
        raise NotImplementedError(type(self).__name__)      # abstract: every interpreter defines it

    def underlying(self, x: Tracer) -> Any:
        """The value that a traced value of this interpreter stands for, where one is known (see `known`)."""
        raise concrete_needed(x, "this use", "Keep it an array operation (np.where instead of if), or mark the argument as static.")

    def holds(self, x: Any) -> bool:
        """True if x is a traced value of this interpreter (its view, if it is one, brought up to date)."""
        if not isinstance(x, Tracer):
            return False
        if x.owner is self:
            if x.view_on is not None:
                x.view_on.refresh(x)
            return True
        if not x.owner.open:
            raise escaped(x)
        return False

    def differentiates(self, x: Tracer) -> bool:
        """True if a derivative flows through this value, so that taking its number out would lose it."""
        return False


class Evaluation(Interpreter):
    """The ground level: the row's NumPy body on NumPy arrays."""

    def interpret(self, primitive: Any, args: tuple, params: dict) -> Any:
        for x in args:
            if isinstance(x, Tracer):
                raise escaped(x)
        try:
            return primitive.body(*args, **params)
        except ValueError:
            refuse(primitive, args, params)
            raise


def refuse(primitive: Any, args: Any, params: dict) -> None:
    """Raise what the row's shape rule says of these arguments, if it refuses them: NumPy's own message names no line of the user's."""
    try:
        primitive.out_avals(*map(aval_of, args), **params)
    except AdjointError as error:
        raise error from None


EVALUATION = Evaluation(None)
_current: contextvars.ContextVar[Interpreter] = contextvars.ContextVar("interpreter", default=EVALUATION)
current = _current.get
enter, leave = _current.set, _current.reset


@contextmanager
def interpreting(interpreter: Interpreter, *, closing: bool = False) -> Iterator[Interpreter]:
    """Make an interpreter current for a block; with closing, its tracers are escaped afterwards."""
    token = enter(interpreter)
    try:
        yield interpreter
    finally:
        leave(token)
        if closing:
            interpreter.open = False


def known(x: Any) -> Any:
    """The NumPy value behind x: reverse and forward mode know theirs, a trace and a batch raise TracerError."""
    while isinstance(x, Tracer):
        x.owner.holds(x)
        x = x.owner.underlying(x)
    return x


def typed_like(t: Any, x: Any) -> Any:
    """A tangent or cotangent of x with the type of x: varying if x is (see transforms/ranks.py)."""
    for each in current().typing:
        t = each.typed_like(t, x)
    return t


def escaped(x: Tracer) -> EscapedTracerError:
    return EscapedTracerError(explain(
        f"a traced value {x.aval} is used after {x.owner.name} has ended, or outside of it.",
        remedy="Return the value from the function instead of storing it outside, and use the returned array."))


class Tracer:
    """A value inside a transformation. Operators and methods are installed by the levels above (see `install`).

    `argument` forbids writes, `version` counts them; `view_on` says of what a view is one; `origin` is what numpy/cells.py remembers of
    where the value came from.
    """

    __slots__ = ("__weakref__", "argument", "aval", "origin", "owner", "payload", "version", "view_on", "written_at")
    __adjoint_tracer__ = True
    __hash__ = object.__hash__

    def __init__(self, owner: Interpreter, payload: Any, aval: Aval, argument: bool = False):
        self.owner, self.payload, self.aval, self.argument = owner, payload, aval, argument
        self.version, self.view_on, self.written_at, self.origin = 0, None, None, None

    shape = property(lambda self: self.aval.shape)
    dtype = property(lambda self: self.aval.dtype)
    ndim = property(lambda self: len(self.aval.shape))
    size = property(lambda self: self.aval.size)

    def __repr__(self) -> str:
        return f"<traced {self.aval} in {self.owner.name}>"

    def rebind(self, new: Tracer) -> None:
        """Let this cell hold the value of `new`; a view passes the write on to its base."""
        interpreter = current()
        if self.argument:
            raise MutationError(explain("a write to an argument of the function: outside a trace it would change the caller's array.",
                                        remedy="Work on a copy: x = x.copy(), then write."))
        if self.owner is not interpreter or not (isinstance(new, Tracer) and new.owner is interpreter):
            raise MutationError(explain(
                f"a write inside {interpreter.name} to a value that belongs to the enclosing {self.owner.name}.",
                remedy="Work on a copy: x = x.copy(), write to it, and return it."))
        if self.view_on is not None:
            self.view_on.write_back(self, new)
        elif type(self.origin) is tuple:
            self.origin = None
        self.payload, self.version, self.written_at = new.payload, self.version + 1, user_location()


class View:
    """How a view cell hangs on its base: `write(base value, new value)` is the base with the view's elements replaced.

    write is None where NumPy's view is read-only or where it depends on the memory layout whether NumPy makes a view or a copy:
    then a write is an error. `layout` is (offset, shape, strides) in elements of the root cell, or None if it is not known.
    """

    __slots__ = ("base", "layout", "made_at", "version", "write")

    def __init__(self, base: Tracer, write: Callable[[Tracer, Any], Tracer] | None, layout: tuple | None = None):
        self.base, self.write, self.version, self.layout = base, write, base.version, layout
        self.made_at = user_location()

    def refresh(self, cell: Tracer) -> None:
        if self.base.view_on is not None:
            self.base.view_on.refresh(self.base)
        if self.base.version != self.version:
            raise AliasError(explain(
                f"a view {cell.aval} made at {self.made_at} is read after its base was written at {self.base.written_at}.",
                remedy="Take the view again after the write, or take a copy before it: v = x[...].copy()."))

    def write_back(self, cell: Tracer, new: Tracer) -> None:
        self.refresh(cell)
        if self.write is None:
            raise MutationError(explain(f"a write to {cell.aval}, which NumPy may hold as a read-only view or as a copy of its base.",
                                        remedy="Write to the base itself by index, or take a copy first: v = v.copy()."))
        self.base.rebind(self.write(self.base, new))
        self.version = self.base.version


def view_of(base: Any, result: Any, write: Callable | None, layout: tuple | None = None) -> Any:
    """Mark `result`, a cell just made, as a view of `base`; a view of an enclosing interpreter's cell can be read only.

    A base without axes that is no view itself is NumPy's scalar, of which there are no views.
    """
    cells = isinstance(base, Tracer) and isinstance(result, Tracer) and result.owner is current() and result is not base
    if cells and (base.aval.shape or base.view_on is not None):
        result.view_on = View(base, write if base.owner is result.owner else None, layout)
        result.argument = base.argument
    return result


def install(**methods: Callable) -> None:
    """Give Tracer operators and methods: called by the levels that know primitives and NumPy's names."""
    for name, method in methods.items():
        setattr(Tracer, name, method)


def concrete_needed(x: Tracer, form: str, remedy: str) -> TracerError:
    """The error for a use of a traced value that needs its number."""
    return TracerError(explain(f"{form} needs the number of a traced value {x.aval}, which is not known while {x.owner.name} runs.",
                               remedy=remedy))
