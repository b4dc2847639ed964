"""Indexing with NumPy's meaning: `x[index]`, `x[index] = v` and `x[index] += v` for every index that NumPy takes.

Invariant: an index becomes a Selection: a slice of every axis, a reshape, then at most one gather. May import: L0-L2, registry, cells.
Read next: dispatch.py.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.aval import aval_of
from ..core.interpreter import Tracer, install, view_of
from ..core.primitive import TABLE, bind
from ..core.trace import freeze
from ..errors import IndexRangeError, ShapeError, TracerError, explain
from .cells import fitted, slice_cell, write
from .gathering import gather, scatter, scatter_add
from .registry import number_or_none, refuse, reshaped, value_of

_MASK_REMEDY = "Keep the shape: np.where(mask, x, 0) instead of x[mask]; x = np.where(mask, v, x) instead of x[mask] = v."


@dataclass(slots=True, eq=False)
class Selection:
    """x[bounds], reshaped to `middle`, then gathered along `axes` of it by `indices`, whose axes go to `place` in the result.

    scalar: without Ellipsis a result of no axes is NumPy's scalar, not an array. basic: NumPy returns a view.
    """

    bounds: tuple[tuple[int, int, int], ...]
    middle: tuple[int, ...]
    axes: tuple[int, ...]
    indices: tuple[Any, ...]
    place: int
    scalar: bool
    basic: bool

    def same(self, other: Selection) -> bool:
        return self is other or (
            (self.bounds, self.middle, self.axes, self.place) == (other.bounds, other.middle, other.axes, other.place)
            and all(map(_same_index, self.indices, other.indices)))

    @property
    def index_shape(self) -> tuple[int, ...]:
        return np.broadcast_shapes(*[aval_of(i).shape for i in self.indices])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the result."""
        kept = [n for a, n in enumerate(self.middle) if a not in self.axes]
        return (*kept[:self.place], *self.index_shape, *kept[self.place:]) if self.axes else self.middle


def _same_index(a: Any, b: Any) -> bool:
    """True if two index arrays are certainly equal; traced ones were frozen, so that a later write to them does not count."""
    if isinstance(a, Tracer) or isinstance(b, Tracer):
        return isinstance(a, Tracer) and isinstance(b, Tracer) and a.payload is b.payload
    return np.array_equal(a, b)


# ------------------------------------------------------------------------------------------------ reading an index


def _listed(index: Any, ndim: int) -> list:
    """The index as a list of items, each using a known number of axes, Ellipsis expanded."""
    items = []
    for item in index if isinstance(index, tuple) else (index,):
        items += _item(item)
    used = sum(kind in ("int", "slice", "array") for kind, _ in items)
    dots = sum(kind == "dots" for kind, _ in items)
    if dots > 1:
        raise IndexRangeError(explain("an index can have only one Ellipsis (...).",
                                      remedy="Leave one of them out; : takes one whole axis."))
    if used > ndim:
        raise IndexRangeError(explain(f"{used} indices for an array of {ndim} axes.",
                                      remedy="Leave some out, or add an axis with np.newaxis."))
    if not dots:
        items.append(("dots", None))
    at = [kind for kind, _ in items].index("dots")
    full = [("slice", slice(None))] * (ndim - used)
    return items[:at] + ([("gap", None)] if dots else []) + full + items[at + 1:]


def _item(item: Any) -> list:
    if item is None:
        return [("new", None)]
    if item is Ellipsis:
        return [("dots", None)]
    if isinstance(item, slice):
        return [("slice", item)]
    if isinstance(item, (bool, np.bool_)):
        return [("flag", np.zeros(int(item), np.int64))]
    if isinstance(item, (int, np.integer)):
        return [("int", int(item))]
    array = _array_index(item)
    if isinstance(array, Tracer):
        return [("array", freeze(array))]
    if array.dtype == np.bool_:
        return [("mask", array)] if array.ndim else [("flag", np.zeros(int(array), np.int64))]
    return [("copy", None), ("int", int(array))] if array.ndim == 0 else [("array", array.astype(np.int64))]


def _array_index(item: Any) -> Any:
    """An index array: concrete, or traced integers; a mask must be known."""
    array = value_of(item) if not isinstance(item, list) or item else np.zeros(0, np.int64)
    if isinstance(array, Tracer):
        if array.aval.dtype == np.bool_:
            found = number_or_none(array)
            if found is None:
                raise refuse("an index by a mask, whose count is not known while the function is traced,", _MASK_REMEDY)
            return np.asarray(found)
        if array.aval.dtype.kind not in "iu":
            raise IndexRangeError(explain(f"an index must be integer or boolean, found {array.aval}.",
                                          remedy="Convert it: x[i.astype(np.int64)]."))
        return array
    array = np.asarray(array)
    if array.dtype.kind not in "biu":
        raise IndexRangeError(explain(f"an index must be integer, boolean, a slice, None or ..., found {array.dtype}.",
                                      remedy="Convert it first: index.astype(np.int64)."))
    return array


def _expand_masks(items: list, shape: tuple) -> list:
    """Concrete masks become integer arrays, one for each axis they cover."""
    out, axis = [], 0
    for kind, item in items:
        if kind == "mask":
            if item.shape != shape[axis:axis + item.ndim]:
                raise IndexRangeError(explain(f"a mask of shape {item.shape} does not fit the axes {shape[axis:axis + item.ndim]}.",
                                              remedy="A mask has the shape of the axes that it selects from."))
            out += [("array", i) for i in np.nonzero(item)]
            axis += item.ndim
        else:
            out.append((kind, item))
            axis += kind in ("int", "slice", "array")
    return out


def _slice_bounds(item: slice, n: int) -> tuple[int, int, int]:
    if any(isinstance(end, Tracer) and number_or_none(end) is None for end in (item.start, item.stop, item.step)):
        raise refuse("a slice whose ends are traced values",
                     "Take a fixed number of elements: x[start + np.arange(count)].")
    start, stop, step = item.indices(n)
    return (start, stop, step) if len(range(start, stop, step)) else (0, 0, 1)


def _in_range(i: Any, n: int, axis: int) -> Any:
    """A concrete index counted from the front, or the error NumPy raises."""
    low, high = (i, i) if isinstance(i, int) else (int(i.min()), int(i.max())) if i.size else (0, -1)
    if low < -n or high >= n:
        raise IndexRangeError(explain(f"index {low if low < -n else high} is out of bounds for axis {axis} with size {n}.",
                                      remedy=f"Indices go from {-n} to {n - 1}." if n else "The axis is empty."))
    if isinstance(i, int):
        return i + n if i < 0 else i
    return np.where(i < 0, i + n, i) if low < 0 else i


def _parse_basic(shape: tuple, index: Any) -> Selection | None:
    """The Selection of integers and slices alone, the most frequent index by far; None if there is anything else."""
    items = index if type(index) is tuple else (index,)
    if len(items) > len(shape):
        return None
    bounds, middle = [], []
    for axis, (item, n) in enumerate(zip(items, shape, strict=False)):
        if type(item) is int:
            i = _in_range(item, n, axis)
            bounds.append((i, i + 1, 1))
        elif type(item) is slice:
            bounds.append(_slice_bounds(item, n))
            middle.append(len(range(*bounds[-1])))
        else:
            return None
    rest = shape[len(items):]
    return Selection((*bounds, *[(0, n, 1) for n in rest]), (*middle, *rest), (), (), 0, True, True)


def parse(x: Any, index: Any) -> Selection:
    """The Selection that an index means for x."""
    shape = aval_of(x).shape
    simple = _parse_basic(shape, index)
    if simple is not None:
        return simple
    masks = [item for item in (index if isinstance(index, tuple) else (index,)) if _mask_rank(item)]
    items = _listed(index, len(shape) - sum(map(_mask_rank, masks)))
    items = _expand_masks(items, shape)
    copied = ("copy", None) in items                       # an array of no axes is an integer, but NumPy returns a copy
    items = [item for item in items if item != ("copy", None)] if copied else items
    advanced = any(kind in ("array", "flag") and aval_of(item).ndim for kind, item in items)
    bounds, middle, axes, indices, spots = [], [], [], [], []
    for spot, (kind, item) in enumerate(items):
        n = shape[len(bounds)] if kind in ("int", "slice", "array") else 1
        if kind == "slice":
            bounds.append(_slice_bounds(item, n))
            middle.append(len(range(*bounds[-1])))
        elif kind == "int":
            i = _in_range(item, n, len(bounds))
            bounds.append((i, i + 1, 1))
            spots.append((spot, len(middle)))
        elif kind in ("array", "flag"):
            if kind == "array":
                item = item if isinstance(item, Tracer) else _in_range(item, n, len(bounds))
                bounds.append((0, n, 1))
            spots.append((spot, len(middle)))
            axes.append(len(middle))
            indices.append(item)
            middle.append(n)
        elif kind == "new":
            middle.append(1)
    return Selection(tuple(bounds), tuple(middle), tuple(axes), tuple(indices), _place(spots, axes) if advanced else 0,
                     all(kind != "gap" for kind, _ in items), not advanced and not copied)


def _mask_rank(item: Any) -> int:
    """How many axes a mask covers; 0 for anything else."""
    if isinstance(item, (list, np.ndarray, Tracer)) and not (isinstance(item, list) and not item):
        found = value_of(item)
        return found.ndim if found.dtype == np.bool_ else 0
    return 0


def _place(spots: list, axes: list) -> int:
    """NumPy's rule: index axes go where the indexed axes were if these are adjacent, else to the front."""
    positions = [spot for spot, _ in spots]
    adjacent = positions == list(range(positions[0], positions[0] + len(positions)))
    return sum(a not in axes for a in range(spots[0][1])) if adjacent else 0


# ------------------------------------------------------------------------------------------------ reading


def _sliced(x: Any, s: Selection) -> Any:
    """x[bounds] in the shape `middle`."""
    whole = all(b == (0, n, 1) for b, n in zip(s.bounds, aval_of(x).shape, strict=True))
    return reshaped(x if whole else bind(TABLE["slice"], x, bounds=s.bounds), s.middle)


def select(x: Any, s: Selection) -> Any:
    """The elements of a Selection."""
    y = _sliced(x, s)
    return gather(y, s.axes, s.indices, s.place) if s.axes else y


def getitem(x: Tracer, index: Any) -> Any:
    """x[index]: a view cell where NumPy gives a view."""
    if isinstance(index, str):
        raise IndexRangeError(explain("a string is an index of structured arrays only.",
                                      remedy="Use a dict of arrays in the place of a structured array."))
    s = parse(x, index)
    shape = s.shape
    if shape == () and s.scalar:
        y = select(x, s)
    elif s.basic and not s.axes:
        y = slice_cell(x, s.bounds, s.middle)
    else:
        y = select(x, s)
        if s.basic:
            y = view_of(x, y, lambda base, new: put(base, s, new))
    if y is x:
        y = bind(TABLE["reshape"], x, shape=shape)
    y.origin = (x, x.version, s)
    return y


# ------------------------------------------------------------------------------------------------ writing


def put(x: Any, s: Selection, value: Any, adding: bool = False) -> Any:
    """x with the elements of a Selection replaced by `value` (of the selection's shape), or increased by it."""
    if adding and not s.axes:
        count = aval_of(x).ndim - len(s.middle)
        if count > 0 and s.middle == aval_of(x).shape[count:] and all(b[1] == b[0] + 1 for b in s.bounds[:count]):
            return TABLE["scatter_add"](x, value, *[np.asarray(b[0]) for b in s.bounds[:count]])
    y = value
    if s.axes:
        y = (scatter_add if adding else scatter)(_sliced(x, s), s.axes, s.indices, s.place, value)
    elif adding:
        y = bind(TABLE["add"], _sliced(x, s), value)
    if all(b == (0, n, 1) for b, n in zip(s.bounds, aval_of(x).shape, strict=True)):
        return reshaped(y, aval_of(x).shape)
    return bind(TABLE["assign_slice"], x, reshaped(y, tuple(len(range(*b)) for b in s.bounds)), bounds=s.bounds)


def setitem(x: Tracer, index: Any, value: Any) -> None:
    """x[index] = value."""
    value = value_of(value)
    mask = _mask_alone(x, index)
    if mask is not None and _set_where(x, mask, value):
        return
    s = parse(x, index)
    if isinstance(value, Tracer) and type(value.origin) is tuple and value.origin[0] is x and s.same(value.origin[2]):
        if value.view_on is not None and value.view_on.version == x.version:
            return                                     # the end of x[a:b] += v, which wrote through the view already
        if len(value.origin) == 4 and value.origin[1] == x.version and _unrepeated(s):
            increment = fitted(value.origin[3], Tracer(x.owner, None, x.aval._replace(shape=s.shape)))
            write(x, put(x, s, increment, adding=True))
            return
    write(x, put(x, s, fitted(value, Tracer(x.owner, None, x.aval._replace(shape=s.shape, weak=False)))))


def add_at(x: Tracer, index: Any, value: Any) -> None:
    """np.add.at(x, index, value): an element selected several times receives every value."""
    s = parse(x, index)
    write(x, put(x, s, fitted(value, Tracer(x.owner, None, x.aval._replace(shape=s.shape, weak=False))), adding=True))


def _unrepeated(s: Selection) -> bool:
    """True if no element is selected twice, so that adding and assigning are the same."""
    if all(aval_of(i).ndim == 0 for i in s.indices):
        return True
    if any(isinstance(i, Tracer) for i in s.indices):
        return False
    flat = np.ravel_multi_index(np.broadcast_arrays(*s.indices), tuple(s.middle[a] for a in s.axes))
    return len(np.unique(flat)) == flat.size


def _mask_alone(x: Tracer, index: Any) -> Any:
    """The index if it is one mask over leading axes of x, else None."""
    if isinstance(index, tuple) and len(index) == 1:
        index = index[0]
    return value_of(index) if not isinstance(index, tuple) and _mask_rank(index) else None


def _set_where(x: Tracer, mask: Any, value: Any) -> bool:
    """x[mask] = value for a value that is the same for every selected element; False if it has one for each."""
    rank, shape = aval_of(mask).ndim, aval_of(value).shape
    if aval_of(mask).shape != x.shape[:rank]:
        raise ShapeError(explain(f"a mask of shape {aval_of(mask).shape} does not fit the axes {x.shape[:rank]} of {x.aval}.",
                                 remedy="A mask has the shape of the axes that it selects from."))
    rest = x.shape[rank:]
    if len(shape) == len(rest) + 1 and shape[0] == 1:
        value, shape = reshaped(value, shape[1:]), shape[1:]
    if len(shape) > len(rest):
        if isinstance(mask, Tracer) and number_or_none(mask) is None:
            raise TracerError(explain("x[mask] = v with one value for each selected element needs their count, which is not known.",
                                      remedy="Give v the shape of x: x = np.where(mask, v, x)."))
        return False
    value = fitted(value, Tracer(x.owner, None, x.aval._replace(shape=rest, weak=False)))
    write(x, TABLE["where"](reshaped(mask, (*aval_of(mask).shape, *(1,) * len(rest))), value, x))
    return True


def iterate(x: Tracer) -> Any:
    """The rows of x, each a view."""
    if not x.aval.shape:
        raise TypeError(explain("iteration over a 0-d array.",
                                remedy="Reshape it first: x.reshape(1)."))
    return (x[i] for i in range(operator.index(x.aval.shape[0])))


install(__getitem__=getitem, __setitem__=setitem, __iter__=iterate)
