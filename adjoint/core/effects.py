"""Effects that a trace would freeze: random numbers drawn while a function is traced, which every later call would repeat.

Invariant: every generator that the function can reach is as it was before, or EffectError is raised and its state is restored.
May import: errors. Read next: trace.py.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable
from typing import Any

from ..errors import EffectError, explain

REACH = 20_000              # objects that are looked at
DEPTH = 12                  # levels of containers, closures and attributes
_SKIPPED = (types.ModuleType, type, str, bytes, int, float, complex, type(None))
_WITHOUT = (__package__.partition(".")[0], "numpy")         # packages without a generator among their globals; theirs reach far
_FRESH = 624                # position of NumPy's global generator before its first draw


class watching_randomness:
    """Raise EffectError if a generator in the arguments, closure or globals of `function`, or a global one, advances in this block.

    Cost: some hundred microseconds, growing with the objects that the function reaches: for entry points that trace.
    """

    def __init__(self, function: Callable, args: tuple = (), kwargs: dict | None = None):
        arguments = (*args, *(kwargs or {}).values())
        self.sources = [(name, state(), state, restore) for name, state, restore in (*_global_sources(), *_reachable(function, arguments))]
        self.name = getattr(function, "__name__", type(function).__name__)
        self.unloaded = "numpy.random" not in sys.modules

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        changed = [(name, old, restore) for name, old, state, restore in self.sources if state() != old]
        for _, old, restore in changed:
            restore(old)
        names = [name for name, _, _ in changed] + (["np.random"] if self.unloaded and _numpy_global_drew() else [])
        if names and error is None:
            raise EffectError(explain(
                f"{self.name} drew random numbers from {', '.join(names)} while it was traced: every call would repeat them.",
                remedy="Draw them outside and pass them as an argument."))


def _global_sources() -> list[tuple]:
    """(name, state, restore) of the global generators of `random` and np.random, as far as they are loaded."""
    sources = []
    if "random" in sys.modules:
        module = sys.modules["random"]
        sources.append(("random", module.getstate, module.setstate))
    if "numpy.random" in sys.modules:
        module = sys.modules["numpy.random"]
        sources.append(("np.random", lambda: _hashable(module.get_state()), module.set_state))
    return sources


def _numpy_global_drew() -> bool:
    module = sys.modules.get("numpy.random")
    return module is not None and module.get_state()[2] != _FRESH


def _hashable(state: Any) -> Any:
    """A state in which arrays compare as one value."""
    if isinstance(state, dict):
        return tuple(sorted((k, _hashable(v)) for k, v in state.items()))
    if isinstance(state, (tuple, list)):
        return tuple(map(_hashable, state))
    return tuple(state.tolist()) if hasattr(state, "tolist") else state


# ------------------------------------------------------------------------------------------------ what a function reaches


def _reachable(function: Callable, args: tuple) -> list[tuple]:
    """(name, state, restore) of every generator of random numbers that the function can reach."""
    found: dict[int, tuple] = {}
    seen: set[int] = set()
    pending: list[tuple[str, Any, int]] = [("the function", function, 0), *((f"argument {i}", x, 0) for i, x in enumerate(args))]
    while pending and len(seen) < REACH:
        name, x, depth = pending.pop()
        if id(x) in seen or isinstance(x, _SKIPPED) or depth > DEPTH:
            continue
        seen.add(id(x))
        source = _source(x)
        if source is not None:
            found[id(source)] = (name, *_state_of(source))
        else:
            pending += [(inner, value, depth + 1) for inner, value in _parts(name, x)]
    return list(found.values())


def _source(x: Any) -> Any:
    """The object that holds the state of a generator, or None."""
    module = sys.modules.get("numpy.random")
    if module is not None and isinstance(x, (module.Generator, module.BitGenerator, module.RandomState)):
        return x if isinstance(x, module.BitGenerator) else getattr(x, "bit_generator", None) or x._bit_generator
    python = sys.modules.get("random")
    return x if python is not None and isinstance(x, python.Random) else None


def _state_of(source: Any) -> tuple[Callable, Callable]:
    if hasattr(source, "getstate"):
        return source.getstate, source.setstate
    kept = source.state
    return lambda: _hashable(source.state), lambda _: setattr(source, "state", kept)


def _parts(name: str, x: Any) -> list[tuple[str, Any]]:
    """The named objects that x holds."""
    if isinstance(x, types.FunctionType):
        return _of_function(x)
    if isinstance(x, types.MethodType):
        return [(name, x.__self__), (name, x.__func__)]
    if isinstance(x, functools.partial):
        return [(name, x.func), *((name, v) for v in (*x.args, *x.keywords.values()))]
    if isinstance(x, dict):
        return [(f"{name}[{k!r}]", v) for k, v in x.items()]
    if isinstance(x, (list, tuple, set, frozenset)):
        return [(f"{name}[{i}]", v) for i, v in enumerate(x)]
    attributes = getattr(x, "__dict__", None)
    found = [(f"{name}.{k}", v) for k, v in attributes.items()] if isinstance(attributes, dict) else []
    call = getattr(type(x), "__call__", None)                      # noqa: B004  (the function itself is looked at)
    return [*found, (name, call)] if isinstance(call, types.FunctionType) else found


def _of_function(f: types.FunctionType) -> list[tuple[str, Any]]:
    found = [(cell_name, cell.cell_contents) for cell_name, cell in zip(f.__code__.co_freevars, f.__closure__ or (), strict=True)
             if _filled(cell)]
    if not f.__module__ or f.__module__.partition(".")[0] not in _WITHOUT:
        found += [(n, f.__globals__[n]) for n in _names(f.__code__) if n in f.__globals__]
    found += [("a default argument", v) for v in (*(f.__defaults__ or ()), *(f.__kwdefaults__ or {}).values())]
    return found + [(k, v) for k, v in f.__dict__.items()]


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:                     # a variable that is not assigned yet
        return False


def _names(code: types.CodeType) -> set[str]:
    """Global names that a function and the functions inside it mention."""
    return set(code.co_names).union(*[_names(c) for c in code.co_consts if isinstance(c, types.CodeType)])
