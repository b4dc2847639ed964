"""ndarray's methods and attributes on traced values, and Python's conversions (`float(t)`, `if t:`, `len(t)`).

Invariant: a method means what NumPy's does; a conversion that would lose a derivative or needs an unknown number is an error.
May import: L0-L2, registry, cells and the function modules. Read next: docs/numpy.md.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from ..core.interpreter import Tracer, install
from ..errors import TracerError, explain
from . import elementwise, products, reductions, shaping
from .cells import fresh, in_c_order, view_cell, write
from .registry import FUNCTIONS, convert, number_or_none, refuse
from .rewrites import COUNT, GENERAL, rewrite

# ------------------------------------------------------------------------------------------------ to Python's numbers

def number(x: Tracer, form: str, exact: bool = False, remedy: str = "") -> Any:
    """The number behind x, or the error that says what to write. exact: a derivative that flows through x must not be lost."""
    found = number_or_none(x)
    if found is None:
        raise TracerError(explain(f"{form} needs the number of a traced value {x.aval}, which is not known while {x.owner.name} runs.",
                                  remedy=remedy or rewrite()))
    if exact and _differentiated(x):
        raise TracerError(explain(f"{form} would take a number out of {x.owner.name} and lose its derivative.",
                                  remedy=f"{rewrite()} For a number without derivative: float(adjoint.stop_gradient(x))."))
    return found


def _differentiated(x: Any) -> bool:
    while isinstance(x, Tracer):
        if x.owner.differentiates(x):
            return True
        x = x.owner.underlying(x)
    return False


def _single(x: Tracer, form: str) -> None:
    if x.aval.size != 1 or (x.aval.ndim and form != "if or bool()"):
        raise TypeError(explain(f"{form} of {x.aval}: only an array of one element is one number.",
                                remedy="Use np.any(x) or np.all(x)." if form == "if or bool()" else "Index one element: x[0]."))


def to_bool(x: Tracer) -> bool:
    if x.aval.size != 1:
        raise ValueError(explain(f"the truth of {x.aval} is ambiguous.", remedy="Use np.any(x) or np.all(x)."))
    return bool(number(x, "if or bool()"))


def to_float(x: Tracer) -> float:
    _single(x, "float()")
    return float(number(x, "float()", exact=True))


def to_complex(x: Tracer) -> complex:
    _single(x, "complex()")
    return complex(number(x, "complex()", exact=True))


def to_int(x: Tracer) -> int:
    _single(x, "int()")
    return int(number(x, "int()"))


def to_index(x: Tracer) -> int:
    if x.aval.ndim or x.aval.dtype.kind not in "iu":
        raise TypeError(explain(f"{x.aval} is not one integer, as an index or a count must be.",
                                remedy="Reduce it to one element, and convert it: x.astype(np.int64)."))
    return operator.index(number(x, "an index or a count", remedy=rewrite(COUNT)))


def to_array(x: Tracer, dtype: Any = None, copy: Any = None) -> np.ndarray:
    """np.asarray(t), np.array([t, t]), np.full(3, t), buf[i] = t, table[t]: possible only for known numbers without derivative."""
    return np.array(number(x, "a conversion to a plain NumPy array", exact=True), dtype=dtype)


def length(x: Tracer) -> int:
    if not x.aval.ndim:
        raise TypeError(explain("len() of a 0-d array.",
                                remedy="Reshape it first: x.reshape(1)."))
    return x.aval.shape[0]


def contains(x: Tracer, item: Any) -> bool:
    return bool(reductions.any_(x == item))


def formatted(x: Tracer, spec: str) -> str:
    """The number where it is known (printing loses nothing), else what is known of it."""
    found = number_or_none(x)
    return repr(x) if found is None else format(found, spec)


def shown(x: Tracer) -> str:
    found = number_or_none(x)
    return repr(x) if found is None else str(found)


def missing(x: Tracer, name: str) -> Any:
    """The error for an attribute of ndarray that a traced value has not."""
    if not name.startswith("__") and hasattr(np.ndarray, name):
        raise AttributeError(explain(f".{name} of an array has no meaning for a traced value {x.aval}.",
                                     remedy=_MISSING.get(name, GENERAL)))
    raise AttributeError(f"a traced value has no attribute {name!r}")


_MISSING = {"flat": "Use x.ravel(), whose writes reach x, or x.reshape(-1).", "resize": "Use x.reshape(...) or np.pad.",
            "partition": "Use x = np.sort(x).", "argpartition": "Use np.argsort(x).", "byteswap": "A traced value has no memory.",
            "strides": "A traced value has no memory.", "ctypes": "A traced value has no memory.", "data": "A traced value has no memory."}

install(__bool__=to_bool, __float__=to_float, __complex__=to_complex, __int__=to_int, __index__=to_index, __array__=to_array,
        __len__=length, __contains__=contains, __format__=formatted, __str__=shown, __getattr__=missing,
        __round__=lambda x, digits=None: to_int(np.rint(x)) if digits is None else elementwise.round_(x, digits),
        __pos__=elementwise.positive, __copy__=fresh, __deepcopy__=lambda x, memo: fresh(x),
        __trunc__=to_int, __floor__=lambda x: to_int(np.floor(x)), __ceil__=lambda x: to_int(np.ceil(x)),
        __matmul__=products.matmul, __rmatmul__=lambda x, y: products.matmul(y, x))

# ------------------------------------------------------------------------------------------------ methods


def in_numpy(name: str) -> Callable:
    """The method that is NumPy's function of this name."""
    function = getattr(np, name)
    return lambda x, *args, **kwargs: function(x, *args, **kwargs)


install(**{name: in_numpy(name) for name in (
    "all", "any", "argmax", "argmin", "argsort", "clip", "cumprod", "cumsum", "diagonal", "dot", "max", "mean", "min", "prod", "ptp",
    "ravel", "repeat", "round", "searchsorted", "squeeze", "std", "sum", "swapaxes", "take", "trace", "var", "choose", "compress",
    "nonzero")})


def _varargs(args: tuple) -> Any:
    return args[0] if len(args) == 1 and (args[0] is None or not isinstance(args[0], (int, np.integer, Tracer))) else args


def reshape(x: Tracer, *shape: Any, order: str = "C", copy: Any = None) -> Any:
    return shaping.reshape(x, _varargs(shape), order, copy=copy)


def transpose(x: Tracer, *axes: Any) -> Any:
    return shaping.transpose(x, _varargs(axes) if axes else None)


def astype(x: Tracer, dtype: Any, order: str = "K", casting: str = "unsafe", subok: bool = True, copy: bool = True) -> Any:
    """The same numbers in another dtype; a copy unless copy=False and nothing changes."""
    if not np.can_cast(x.aval.dtype, dtype, casting):
        raise TypeError(explain(f"astype: {x.aval.dtype} to {np.dtype(dtype)} is not allowed by casting={casting!r}.",
                                remedy="Leave casting out, or choose another dtype."))
    y = convert(x, dtype)
    return fresh(x, in_c_order(x)) if y is x and copy else y


def copy(x: Tracer, order: str = "C") -> Any:
    return fresh(x, order == "C" or (order in ("K", "A") and in_c_order(x)))


def flatten(x: Tracer, order: str = "C") -> Any:
    y = shaping.reshape(x, -1, order)
    return fresh(y) if y is x or y.view_on is not None else y


def fill(x: Tracer, value: Any) -> None:
    write(x, value)


def sort(x: Tracer, axis: int = -1, kind: Any = None, order: Any = None, *, stable: Any = None) -> None:
    """Sort in place."""
    write(x, np.sort(x, axis=axis))


def view(x: Tracer, dtype: Any = None, type: Any = None) -> Any:
    if dtype is not None and np.dtype(dtype) != x.aval.dtype:
        raise refuse("x.view(dtype), which reads the bytes as another dtype,", "Convert the numbers: x.astype(dtype).")
    return view_cell(x)


def item(x: Tracer, *args: Any) -> Any:
    y = x if not args else x[args[0] if isinstance(args[0], tuple) else args] if x.aval.ndim == len(args) else x.ravel()[args[0]]
    if y.aval.size != 1:
        raise ValueError(explain(f"item() of {y.aval}: only an array of one element is one number.",
                                 remedy="Choose an element first, x[0], or reduce: x.sum()."))
    return np.asarray(number(y, "item()", exact=True)).item()


def tolist(x: Tracer) -> Any:
    return np.asarray(number(x, "tolist()", exact=True)).tolist()


def array_namespace(x: Tracer, *, api_version: str | None = None) -> Any:
    """The array API namespace: adjoint.numpy."""
    return NAMESPACE[0]


NAMESPACE: list[Any] = []          # filled by the package when it is complete


def _set_imaginary(x: Tracer, value: Any) -> None:
    raise refuse("a write to .imag", "Everything here is real.")


install(reshape=reshape, transpose=transpose, astype=astype, copy=copy, flatten=flatten, fill=fill, sort=sort, view=view, item=item,
        tolist=tolist, put=lambda x, ind, v, mode="raise": np.put(x, ind, v, mode), conj=elementwise.positive,
        conjugate=elementwise.positive, __array_namespace__=array_namespace,
        T=property(lambda x: shaping.transpose(x)), mT=property(lambda x: shaping.matrix_transpose(x)),
        real=property(view_cell, lambda x, value: write(x, value)), imag=property(lambda x: FUNCTIONS[np.zeros_like](x), _set_imaginary),
        itemsize=property(lambda x: x.aval.dtype.itemsize), nbytes=property(lambda x: x.aval.dtype.itemsize * x.aval.size),
        device=property(lambda x: "cpu"))
