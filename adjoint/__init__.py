"""Adjoint: plain NumPy code, its exact derivatives, and both compiled into one native call.

Invariant: the public names are listed here and computed elsewhere; what is heavy (the compiler, nn, optim, train) loads at first use.
May import: core, primitives, transforms, numpy. Read next: README.md, core/primitive.py, primitives/arithmetic.py.
"""

from __future__ import annotations

import importlib
from typing import Any

from .collector import undisturbed as _undisturbed

with _undisturbed(kept=True):
    from . import errors, numpy, tree
    from .transforms.batch import vmap
    from .transforms.forward import jvp
    from .transforms.reverse import grad, value_and_grad, vjp
    from .tree import copy

__version__ = "0.1.0"

_LAZY = {
    "linearize": "transforms.linearize", "jacobian": "transforms.derivatives", "hessian": "transforms.derivatives",
    "hvp": "transforms.derivatives", "custom_vjp": "transforms.custom", "custom_jvp": "transforms.custom",
    "stop_gradient": "transforms.custom", "checkpoint": "transforms.checkpoint", "tap": "transforms.taps", "trace": "transforms.table",
    "compile": "compiler.compile", "threads": "compiler.threads", "collect_taps": "transforms.taps",
    "cond": "transforms.control", "while_loop": "transforms.control", "fori_loop": "transforms.control", "scan": "transforms.control",
}
_PACKAGES = ("data", "distributed", "insight", "nn", "optim", "testing", "train")

__all__ = [
    "checkpoint", "collect_taps", "compile", "cond", "copy", "custom_jvp", "custom_vjp", "data", "distributed", "errors",
    "fori_loop", "grad", "hessian", "hvp", "insight", "jacobian", "jvp", "linearize", "nn", "numpy", "optim", "scan",
    "stop_gradient", "tap", "testing", "threads", "trace", "train", "tree", "value_and_grad", "vjp", "vmap", "while_loop",
]


def __getattr__(name: str) -> Any:
    """Load a heavy part at its first use (PEP 562)."""
    if name not in _LAZY and name not in _PACKAGES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with _undisturbed(kept=True):
        module = importlib.import_module(f"{__name__}.{_LAZY.get(name, name)}")
    found = getattr(module, name) if name in _LAZY else module
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
