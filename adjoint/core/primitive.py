"""The row of the table: one Primitive, all that is known of it; and `bind`, the one way in.

Invariant: a row states its NumPy body, shape rule, both derivatives, batching rule and lowering, or its kind derives them; a row that
misses one raises at import. May import: L0, aval, interpreter. Read next: primitives/kinds.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from .aval import Aval, aval_of
from .interpreter import current

Shape = Callable[..., Aval | tuple[Aval, ...]]


@dataclass(eq=False)
class Primitive:
    """One operation and everything the transformations and the compiler know of it.

    body(*arrays, **params) -> array             evaluation by NumPy
    shape(*avals, **params) -> aval              a tuple of avals if `multiple`
    jvp(primals, tangents, y, **params)          tangents: None means zero -> y_dot (None: zero)
    vjp(primals, y, y_bar, active, **params)     active: true where an argument is wanted -> a cotangent or None per argument
    batch(args, axes, **params) -> (y, axis)     axes: None means not batched
    lowering                                     a record of kind and spec that the compiler matches on (see kinds.py); None: owed
    samples(rng) -> [(args, params), ...]        what the table-driven tests try; `bound` is the forward error in ulps
    """

    name: str
    kind: str
    body: Callable
    shape: Shape
    jvp: Callable
    vjp: Callable
    batch: Callable
    lowering: Any = None
    samples: Callable | None = None
    multiple: bool = False
    effects: frozenset[str] = frozenset()
    bound: float = 1.0
    doc: str = ""
    traits: dict[str, Any] = field(default_factory=dict)
    prepare: Callable | None = None       # promotion of arguments before an interpreter sees them
    augment: Callable | None = None       # (primals, active, params) -> (y, params with residuals): reverse mode's own forward pass
    dual: Callable | None = None          # (primals, tangents, params) -> (ys, y_dots): forward mode's own pass over both at once

    def __call__(self, *args: Any, **params: Any) -> Any:
        return current().interpret(self, self.prepare(args) if self.prepare else args, params)

    def out_avals(self, *avals: Aval, **params: Any) -> tuple[Aval, ...]:
        found = self.shape(*avals, **params)
        return found if self.multiple else (found,)

    def __repr__(self) -> str:
        return f"<primitive {self.name}>"


TABLE: dict[str, Primitive] = {}
_STATED = ("body", "shape", "jvp", "vjp", "batch", "samples")


def register(primitive: Primitive) -> Primitive:
    """Put a row into the TABLE; a name taken, or a part missing, is an error at import."""
    assert primitive.name not in TABLE, f"two rows are named {primitive.name}"
    missing = [part for part in _STATED if getattr(primitive, part) is None]
    assert not missing, f"row {primitive.name} does not state {', '.join(missing)}"
    TABLE[primitive.name] = primitive
    return primitive


def bind(primitive: Primitive, *args: Any, **params: Any) -> Any:
    """Perform a primitive under the current interpreter."""
    return current().interpret(primitive, args, params)


def out_aval(primitive: Primitive, args: tuple, params: dict) -> tuple[Aval, ...]:
    return primitive.out_avals(*map(aval_of, args), **params)


class Emitter(Protocol):
    """What a row's scalar lowering may ask of the compiler (compiler/emitter.py implements it)."""

    def const(self, value: float | int | bool, like: Any) -> Any: ...
    def call(self, name: str, *xs: Any) -> Any: ...
    def select(self, condition: Any, x: Any, y: Any) -> Any: ...
