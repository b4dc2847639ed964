"""What happens when NumPy's own functions meet a traced value: the protocols `__array_ufunc__` and `__array_function__`.

Invariant: a form without an entry in the tables of registry.py is an error that names the rewrite, or similar names that exist.
May import: L0-L2, registry, cells, indexing. Read next: elementwise.py.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..core.aval import aval_of
from ..core.interpreter import Tracer, install
from ..core.primitive import TABLE
from ..errors import DtypeError, TracerError, explain
from ..primitives.operators import compare, overflow, too_large
from .cells import fitted, no_write_into_array, write
from .indexing import add_at
from .registry import FUNCTIONS, REFUSED, UFUNCS, UNSET, cast, refuse, reshaped, shape_of, strong, value_of

_REDUCE = {"add": np.sum, "multiply": np.prod, "maximum": np.max, "minimum": np.min, "logical_and": np.all, "logical_or": np.any,
           "fmax": np.nanmax, "fmin": np.nanmin}
_ACCUMULATE = {"add": np.cumsum, "multiply": np.cumprod}
LIKENESS = 0.75                    # difflib's measure of how alike two names must be for one to be a hint at the other
_COMPARISONS = frozenset(("equal", "not_equal", "less", "less_equal", "greater", "greater_equal"))
_BOOLEAN_RESULT = frozenset((
    "equal", "not_equal", "less", "less_equal", "greater", "greater_equal", "isnan", "isinf", "isfinite", "signbit", "logical_and",
    "logical_or", "logical_xor", "logical_not"))


# ------------------------------------------------------------------------------------------------ ufuncs


def array_ufunc(self: Tracer, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
    """NumPy's ufunc protocol: np.sin(t), array + t, np.add.reduce(t), np.add.at(t, i, v)."""
    if method == "at":
        return _at(ufunc, *inputs)
    outs = () if out is None else out
    if any(isinstance(target, np.ndarray) for target in outs):
        raise no_write_into_array(f"np.{ufunc.__name__} with an output array (out=, or an in-place operator)")
    if method == "__call__":
        y = _call(ufunc, inputs, bool(outs), options)
    elif method == "reduce":
        y = _reduce(ufunc, *inputs, **options)
    elif method == "accumulate":
        y = _accumulate(ufunc, *inputs, **options)
    elif method == "outer":
        left, right = (strong(value_of(x)) for x in inputs)
        left = reshaped(left, (*shape_of(left), *(1,) * len(shape_of(right))))
        y = _call(ufunc, (left, right), False, options)
    else:
        raise refuse(f"np.{ufunc.__name__}.{method}", "Write the sums with slices or np.add.at.")
    return _into(outs, y, options.get("where", True)) if outs else y


def _call(ufunc: np.ufunc, inputs: tuple, has_out: bool, options: dict) -> Any:
    name = ufunc.__name__
    if not has_out and options.get("where", True) is not True:
        raise refuse(f"np.{name}(where=mask) without out", "The other elements would be uninitialized: np.where(mask, result, other).")
    for option in options:
        if option not in ("dtype", "casting", "order", "subok", "where", "axis", "axes", "keepdims", "signature"):
            raise refuse(f"np.{name}({option}=...)", f"Leave out {option}=.")
    if any(options.get(option) not in (None, False) for option in ("axis", "axes", "signature", "keepdims")):
        raise refuse(f"np.{name} with axis, axes, keepdims or signature", "Use np.moveaxis or np.einsum to name the axes.")
    function = ufunc_rule(name)
    args = [value_of(x) for x in inputs]
    dtype = options.get("dtype")
    if dtype is not None and name not in _BOOLEAN_RESULT:
        return function(*[cast(x, dtype, options.get("casting", "same_kind")) for x in args])
    if name in _COMPARISONS:
        return compare(function, *args)
    for x, y in itertools.permutations(args, 2):
        if type(y) is int and too_large(x, y):
            raise overflow(x, y)
    if all(aval_of(x).weak for x in args):                  # a ufunc of Python's numbers gives NumPy's, which do not give way
        args = [strong(x) for x in args]
    return function(*args)


def ufunc_rule(name: str) -> Callable:
    """Our function for a ufunc: its own entry, or the row of the same name; else the error."""
    found = UFUNCS.get(name) or TABLE.get(name)
    if found is None:
        raise _unknown(f"np.{name}" if hasattr(np, name) else name, name, (n for n in (*UFUNCS, *TABLE) if hasattr(np, n)))
    return found


def _unknown(shown: str, name: str, names: Iterable[str]) -> TracerError:
    if name in REFUSED:
        return refuse(shown, REFUSED[name])
    near = difflib.get_close_matches(name, sorted(set(names)), 3, LIKENESS)
    hint = f"Similar names that have one: {', '.join(f'np.{n}' for n in near)}. Or give" if near else "Give"
    return TracerError(explain(f"{shown} has no rule for traced values.", remedy=f"{hint} its derivative by adjoint.custom_vjp."))


def _qualified(function: Callable) -> str:
    """NumPy's name of a function as it is written, with "np" for the package."""
    module = getattr(function, "__module__", "numpy") or "numpy"
    return f"{'np' + module.removeprefix('numpy') if module.split('.')[0] == 'numpy' else module}.{function.__name__}"


def _reduce(ufunc: np.ufunc, x: Any, axis: Any = 0, dtype: Any = None, out: Any = None, keepdims: bool = False,
            initial: Any = UNSET, where: Any = True) -> Any:
    function = _REDUCE.get(ufunc.__name__)
    if function is None:
        raise refuse(f"np.{ufunc.__name__}.reduce", f"These have a rule: {', '.join(f'np.{n}.reduce' for n in _REDUCE)}.")
    options: dict[str, Any] = {"axis": axis, "keepdims": keepdims}
    if dtype is not None and function in (np.sum, np.prod):
        options["dtype"] = dtype
    if initial is not UNSET and function not in (np.all, np.any):
        options["initial"] = initial
    if where is not True:
        options["where"] = where
    return FUNCTIONS[function](x, **options)


def _accumulate(ufunc: np.ufunc, x: Any, axis: int = 0, dtype: Any = None, out: Any = None) -> Any:
    function = _ACCUMULATE.get(ufunc.__name__)
    if function is None:
        raise refuse(f"np.{ufunc.__name__}.accumulate", f"These have a rule: {', '.join(f'np.{n}.accumulate' for n in _ACCUMULATE)}.")
    return FUNCTIONS[function](x, axis=axis, dtype=dtype)


def _at(ufunc: np.ufunc, x: Any, index: Any, *values: Any) -> None:
    if not isinstance(x, Tracer):
        raise no_write_into_array(f"np.{ufunc.__name__}.at")
    if ufunc.__name__ not in ("add", "subtract"):
        raise refuse(f"np.{ufunc.__name__}.at", "np.add.at and np.subtract.at have a rule; or write x[i] = f(x[i], v) for distinct i.")
    value = value_of(values[0])
    add_at(x, index, value if ufunc.__name__ == "add" else -value)


def _into(outs: tuple, y: Any, where: Any) -> Any:
    """Write results into traced cells given as out=."""
    results = y if isinstance(y, tuple) else (y,)
    for target, value in zip(outs, results, strict=True):
        if isinstance(target, Tracer):
            found = aval_of(value).dtype
            if not np.can_cast(found, target.aval.dtype, "same_kind"):
                raise DtypeError(explain(f"out={target.aval} cannot hold a result of {found}.", remedy="Use the returned value."))
            write(target, value if where is True else TABLE["where"](where, fitted(value, target), target))
    found = tuple(value if target is None else target for target, value in zip(outs, results, strict=True))
    return found if isinstance(y, tuple) else found[0]


# ------------------------------------------------------------------------------------------------ functions


def array_function(self: Tracer, function: Callable, types: Any, args: tuple, kwargs: dict) -> Any:
    """NumPy's function protocol: np.sum(t), np.concatenate([t, a]), np.linalg.norm(t)."""
    found = FUNCTIONS.get(function)
    if found is None:
        shown, names = _qualified(function), map(_qualified, FUNCTIONS)
        raise _unknown(shown, shown.removeprefix("np."), (n.removeprefix("np.") for n in names if n.startswith("np.")))
    out = kwargs.pop("out", None)
    names = found.__code__.co_varnames[:found.__code__.co_argcount]
    if "out" in names[:len(args)]:                            # given by position
        at = names.index("out")
        out, args = args[at], (*args[:at], None, *args[at + 1:])
    if out is None:
        return found(*args, **kwargs)
    if isinstance(out, tuple):
        (out,) = out
    if not isinstance(out, Tracer):
        raise no_write_into_array(f"np.{function.__name__}(out=array)")
    return _into((out,), found(*args, **kwargs), True)


install(__array_ufunc__=array_ufunc, __array_function__=array_function)
