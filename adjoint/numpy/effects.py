"""Random numbers drawn while a function is traced would be frozen into the program: this finds them.

Invariant: looking changes no generator's state. May import: errors. Read next: core/trace.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..errors import EffectError, explain


@contextmanager
def watching_randomness(function: Callable, args: Any, kwargs: Any) -> Iterator[None]:
    """Raise EffectError if NumPy's global random state, or a Generator that the function can reach, advanced inside."""
    generators = reachable_generators(function, args, kwargs)
    before = [str(g.bit_generator.state) for g in generators], _global_state()
    yield
    moved = [g for g, state in zip(generators, before[0], strict=True) if str(g.bit_generator.state) != state]
    if moved or _global_state() != before[1]:
        source = "a numpy Generator" if moved else "np.random"
        raise EffectError(explain(f"{getattr(function, '__name__', 'the function')} drew random numbers from {source} while it was traced: "
                                  "every call of the compiled program would repeat them.", where=_defined_at(function),
                                  remedy="Draw them outside and pass the array as an argument."))


def _defined_at(function: Callable) -> str:
    code = getattr(getattr(function, "__wrapped__", function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else ""


def _global_state() -> tuple:
    name, keys, *rest = np.random.get_state()
    return name, keys.tobytes(), *rest


def reachable_generators(function: Callable, *values: Any) -> list[np.random.Generator]:
    """Generators among arguments, closure cells, defaults, globals named in the code, and one level of containers and attributes."""
    pending, found, seen = [*values, *_reachable(function)], [], set()
    for depth in range(4):
        inside: list[Any] = []
        for x in pending:
            if id(x) in seen or isinstance(x, (np.ndarray, str, int, float, type)) or x is None:
                continue
            seen.add(id(x))
            if isinstance(x, np.random.Generator):
                found.append(x)
            elif depth < 3:
                inside += _inside(x)
        pending = inside
    return found


def _inside(x: Any) -> list[Any]:
    if isinstance(x, dict):
        return list(x.values())
    if isinstance(x, (list, tuple)):
        return list(x)
    if callable(x) and hasattr(x, "__code__"):
        return _reachable(x)
    return list(getattr(x, "__dict__", {}).values()) if not hasattr(x, "__path__") and not hasattr(x, "__spec__") else []


def _reachable(function: Callable) -> list[Any]:
    function = getattr(function, "__wrapped__", function)
    found = [c.cell_contents for c in getattr(function, "__closure__", None) or () if _filled(c)]
    found += list(getattr(function, "__defaults__", None) or ())
    code, names = getattr(function, "__code__", None), getattr(function, "__globals__", {})
    found += [names[n] for n in (code.co_names if code else ()) if n in names]
    owner = getattr(function, "__self__", None)
    return [*found, owner] if owner is not None else found


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False
