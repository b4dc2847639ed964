"""Indexing by integer arrays: gather, scatter_add, scatter. All of NumPy's advanced indexing is composed of these three.

Invariant: the index arrays broadcast together and index the leading axes of x, negative ones from the end; an index outside its axis
raises IndexRangeError. May import: L0, core, kinds, arithmetic, structure. Read next: sorting.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..core.aval import Aval, aval_of
from ..core.interpreter import Tracer
from ..core.primitive import TABLE, bind
from ..dtypes import INT64
from ..errors import DtypeError, IndexRangeError, ShapeError, explain
from .arithmetic import where
from .broadcasting import broadcast_shape, full, move_axis, move_front, zeros_of
from .comparison import equal
from .kinds import General, constant, general, linear, stepwise

ROW = 32             # numbers from which a row is added as a whole

# ------------------------------------------------------------------------------------------------ iota


def _lower_iota(e: Any, inputs: tuple, outputs: tuple, *, shape: tuple, axis: int, dtype: np.dtype) -> None:
    with e.kernel(shape) as (k, index):
        k.put(outputs[0], *index, value=k.convert(k.index(index[axis]), dtype))


@constant(reason="it has no argument", shape=lambda *, shape, axis, dtype: Aval(tuple(shape), dtype),
          batch=lambda row, args, bdims, **params: (bind(row, **params), None), lowering=General(_lower_iota),
          samples=lambda rng: [((), {"shape": (2, 3), "axis": 1, "dtype": INT64}), ((), {"shape": (4,), "axis": 0, "dtype": INT64})])
def iota(*, shape, axis, dtype):
    """0, 1, 2, ... along one axis of a shape: in a trace no array is captured for it."""
    line = np.arange(shape[axis], dtype=dtype).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return np.broadcast_to(line, shape)


# ------------------------------------------------------------------------------------------------ indices


def _index_shape(name: str, x: Aval, indices: tuple[Aval, ...]) -> tuple[int, ...]:
    if len(indices) > x.ndim or not indices:
        raise ShapeError(explain(f"{name}: {len(indices)} index arrays for {x}, which has {x.ndim} axes.",
                                 remedy="Give at most one index array for every axis."))
    for index in indices:
        if index.dtype.kind not in "iu":
            raise DtypeError(explain(f"{name}: an index array is {index}.", remedy="Index with integers; for a mask use np.nonzero(mask)."))
    shape = broadcast_shape(name, indices)
    if 0 in x.shape[:len(indices)] and 0 not in shape:
        raise IndexRangeError(explain(f"{name}: an indexed axis of {x} is empty: no index is inside.", remedy="Check the array's shape."))
    return shape


def _out_of_range(name: str, shape: tuple, indices: tuple) -> IndexRangeError:
    for axis, (index, size) in enumerate(zip(indices, shape, strict=False)):
        outside = (np.less(index, -size) | np.greater_equal(index, size)).ravel()
        if outside.any():
            value = int(np.asarray(index).ravel()[int(np.argmax(outside))])
            return IndexRangeError(explain(f"{name}: index {value} is outside of axis {axis}, which has size {size}.",
                                           remedy=f"Valid indices are {-size} to {size - 1}." if size else "The axis is empty."))
    return IndexRangeError(explain(f"{name}: an index array does not fit {shape}.",
                                   remedy="Index arrays broadcast together: reshape one."))


def _prepare(args: tuple) -> tuple:
    """Lists and Python integers become arrays of indices."""
    return tuple(a if isinstance(a, (Tracer, np.ndarray, np.generic)) else np.asarray(a, INT64 if i else None) for i, a in enumerate(args))


def _emit_indices(k: Any, x: Any, indices: tuple, at: tuple) -> list:
    """The positions named by the index arrays at one place: wrapped, checked, and clamped so that no load leaves the array."""
    found = []
    for axis, index in enumerate(indices):
        size, i = x.shape[axis], k.convert(k.get(index, *at), INT64)
        i = k.select(k.lt(i, 0), k.add(i, size), i)
        inside = k.and_(k.ge(i, 0), k.lt(i, size))
        k.require(inside, "index", axis=axis, size=size)
        found.append(k.select(inside, i, 0))
    return found


def _expanded(indices: tuple, shape: tuple) -> tuple:
    return tuple(index.expanded(shape) for index in indices)


# ------------------------------------------------------------------------------------------------ batching


def _batch_sizes(args: tuple, bdims: tuple) -> int:
    return next(aval_of(a).shape[b] for a, b in zip(args, bdims, strict=True) if b is not None)


def _batched_indices(indices: tuple, bdims: tuple, size: int) -> list:
    """An iota over the batch, then the index arrays, all with the batch axis in front and equal ranks behind."""
    rank = max(aval_of(i).ndim - (b is not None) for i, b in zip(indices, bdims, strict=True))
    out = [iota(shape=(size, *(1,) * rank), axis=0, dtype=INT64)]
    for index, bdim in zip(indices, bdims, strict=True):
        if bdim is None:
            out.append(index)
            continue
        index = move_front(index, bdim)
        _, *rest = aval_of(index).shape
        out.append(bind(TABLE["reshape"], index, shape=(size, *(1,) * (rank - len(rest)), *rest)))
    return out


def _with_batch(x: Any, bdim: int | None, size: int, place: int) -> Any:
    """x with its batch axis at `place`, repeated if it has none."""
    if bdim is None:
        return move_axis(bind(TABLE["broadcast"], x, shape=(size, *aval_of(x).shape)), 0, place)
    return move_axis(x, bdim, place)


def _gather_batch(row: Any, args: tuple, bdims: tuple) -> tuple:
    x, *indices = args
    size = _batch_sizes(args, bdims)
    if all(b is None for b in bdims[1:]):                       # the batch becomes one of the axes that are not indexed
        rank = len(broadcast_shape("gather", tuple(map(aval_of, indices))))
        return bind(row, move_axis(x, bdims[0], len(indices)), *indices), rank
    batched = _batched_indices(tuple(indices), bdims[1:], size)
    return (bind(row, x, *batched[1:]) if bdims[0] is None else bind(row, move_front(x, bdims[0]), *batched)), 0


def _scatter_batch(row: Any, args: tuple, bdims: tuple) -> tuple:
    (x, updates, *indices), size = args, _batch_sizes(args, bdims)
    if all(b is None for b in bdims[2:]):
        count, rank = len(indices), len(broadcast_shape(row.name, tuple(map(aval_of, indices))))
        return bind(row, _with_batch(x, bdims[0], size, count), _with_batch(updates, bdims[1], size, rank), *indices), count
    batched = _batched_indices(tuple(indices), bdims[2:], size)
    return bind(row, _with_batch(x, bdims[0], size, 0), _with_batch(updates, bdims[1], size, 0), *batched), 0


# ------------------------------------------------------------------------------------------------ gather


def _lower_gather(e: Any, inputs: tuple, outputs: tuple) -> None:
    """Positions are wrapped and checked once, in a kernel of their own; then rows are copied."""
    (x, *indices), (y,) = inputs, outputs
    rank = len(y.shape) - (len(x.shape) - len(indices))
    indices = _expanded(tuple(indices), y.shape[:rank])
    if len(y.shape) == rank:
        with e.kernel(y.shape) as (k, at):
            k.put(y, *at, value=k.get(x, *_emit_indices(k, x, indices, at)))
        return
    places = [e.temporary(INT64, y.shape[:rank]) for _ in indices]
    with e.kernel(y.shape[:rank]) as (k, at):
        for place, i in zip(places, _emit_indices(k, x, indices, at), strict=True):
            k.put(place, *at, value=i)
    with e.kernel(y.shape) as (k, at):
        k.put(y, *at, value=k.get(x, *[k.get(place, *at[:rank]) for place in places], *at[rank:]))


def _gather_samples(rng: np.random.Generator) -> list:
    x = rng.standard_normal((4, 3, 2))
    cases = [(x, np.array([0, -1, 2, 2])), (x, np.array([[0], [3]]), np.array([1, -3, 1])), (x, np.array(-2)),
             (x[0, :, 0], np.array([1, 1])), (x, np.zeros((0,), int)), (x, np.array([1, 0]), np.array([2, 0]), np.array([1, 1]))]
    return [(case, {}) for case in cases]


@linear(shape=lambda x, *indices: Aval((*_index_shape("gather", x, indices), *x.shape[len(indices):]), x.dtype), linear_in=1,
        transposes=(lambda y_bar, x, *indices: scatter_add(zeros_of(x), y_bar, *indices),), batch=_gather_batch,
        lowering=General(_lower_gather), samples=_gather_samples, prepare=_prepare, selects=True)
def gather(x, *indices):
    """x[indices]: integer arrays, broadcast together, index the leading axes; the result has their shape and then x's other axes.

    Derivative: the transpose adds cotangents into the places they were read from. Raises: IndexRangeError.
    """
    try:
        return np.asarray(x)[indices]
    except IndexError:
        raise _out_of_range("gather", np.shape(x), indices) from None


# ------------------------------------------------------------------------------------------------ scatter_add, scatter


def _scatter_shape(name: str) -> Callable:
    def shape(x: Aval, updates: Aval, *indices: Aval) -> Aval:
        expected = (*_index_shape(name, x, indices), *x.shape[len(indices):])
        if updates.shape != expected:
            raise ShapeError(explain(f"{name}: updates are {updates}, the indexed places have shape {expected}.",
                                     remedy="Reshape or broadcast the updates to that shape."))
        return Aval(x.shape, x.dtype)
    return shape


def _lower_scatter(combine: Callable) -> Callable:
    """Updates one after another in index order, so that sums have one order and the last assignment wins."""
    def lower(e: Any, inputs: tuple, outputs: tuple) -> None:
        (x, updates, *indices), (y,) = inputs, outputs
        rank = len(updates.shape) - (len(x.shape) - len(indices))
        indices = _expanded(tuple(indices), updates.shape[:rank])
        e.copy(x, y)
        if 0 in updates.shape:
            return
        with e.serial() as k:
            _scatter_loops(k, updates, (), rank, lambda at: _store(k, y, updates, indices, rank, at, combine))
    return lower


def _scatter_loops(k: Any, updates: Any, at: tuple, rank: int, body: Callable) -> None:
    """Nested loops over the updates: index axes in order, the last of the other axes in lanes."""
    depth = len(at)
    if depth == len(updates.shape):
        body(at)
        return
    lanes = depth >= rank and depth + 1 == len(updates.shape)
    with k.loop(updates.shape[depth], "vector" if lanes else "serial") as i:
        _scatter_loops(k, updates, (*at, i), rank, body)


def _store(k: Any, y: Any, updates: Any, indices: tuple, rank: int, at: tuple, combine: Callable) -> None:
    place = (*_emit_indices(k, y, indices, at[:rank]), *at[rank:])
    k.put(y, *place, value=combine(k, lambda: k.get(y, *place), k.get(updates, *at)))


def _scatter_samples(rng: np.random.Generator) -> list:
    cases = [(case[0], rng.standard_normal(case[0][case[1:]].shape), *case[1:]) for case, _ in _gather_samples(rng)]
    return [(case, {}) for case in cases]


def _same_dtype(args: tuple) -> tuple:
    """Updates in x's dtype, as assignment casts them."""
    x, updates, *indices = _prepare(args)
    dtype = aval_of(x).dtype
    return x, updates if aval_of(updates).dtype == dtype else bind(TABLE["convert"], updates, dtype=dtype), *indices


def _scatter_add_transpose(i: int, y_bar: Any, x: Aval, updates: Aval, *indices: Any) -> Any:
    return y_bar if i == 0 else gather(y_bar, *indices)


@linear(shape=_scatter_shape("scatter_add"), linear_in=2, transposes=_scatter_add_transpose, batch=_scatter_batch, bound=1.0,
        lowering=General(_lower_scatter(lambda k, old, update: k.add(old(), update))), samples=_scatter_samples, prepare=_same_dtype)
def scatter_add(x, updates, *indices):
    """A copy of x with updates added at x[indices], repeated indices one after another; its transpose is y_bar and gather(y_bar)."""
    y, shape = np.array(x, order="C"), np.shape(x)[:len(indices)]
    try:
        places = np.ravel_multi_index([np.where(np.less(i, 0), np.add(i, n), i) for i, n in zip(indices, shape, strict=True)], shape)
    except ValueError:
        raise _out_of_range("scatter_add", np.shape(x), indices) from None
    _add_rows(y.reshape(int(np.prod(shape, dtype=np.int64)), -1) if y.size else y, np.ravel(places), updates)
    return y


def _add_rows(y: np.ndarray, places: np.ndarray, updates: np.ndarray) -> None:
    """y[place] += row for each row of updates, in order; NumPy's add.at is quick for single numbers only."""
    if not y.size or not places.size:
        return
    rows = np.reshape(updates, (places.size, -1))
    if rows.shape[1] < ROW:
        np.add.at(y.reshape(-1), (places[:, None] * rows.shape[1] + np.arange(rows.shape[1])).ravel(), rows.ravel())
        return
    for place, row in zip(places.tolist(), rows, strict=True):
        y[place] += row


def _scatter_jvp(primals: tuple, tangents: tuple, y: Any) -> Any:
    x_dot, updates_dot, *_ = tangents
    if (x_dot is None and updates_dot is None) or aval_of(y).dtype.kind != "f":
        return None
    full_dots = [zeros_of(aval_of(x)) if t is None else t for x, t in zip(primals[:2], tangents[:2], strict=True)]
    return scatter(*full_dots, *primals[2:])


def _scatter_vjp(primals: tuple, y: Any, y_bar: Any, active: tuple) -> list:
    x, updates, *indices = primals
    x_bar = scatter(y_bar, zeros_of(aval_of(updates)), *indices) if active[0] else None
    return [x_bar, _winners(gather(y_bar, *indices), aval_of(x), tuple(indices)) if active[1] else None, *[None] * len(indices)]


def _winners(bar: Any, x: Aval, indices: tuple) -> Any:
    """bar where an update was the last one written to its place, else 0: each leaves its number there and looks whether it stayed."""
    shape = broadcast_shape("scatter", tuple(map(aval_of, indices)))
    count = int(np.prod(shape, dtype=np.int64))
    numbers = bind(TABLE["reshape"], iota(shape=(count,), axis=0, dtype=INT64), shape=shape)
    places = full(-1, Aval(x.shape[:len(indices)], INT64))
    won = equal(gather(scatter(places, numbers, *indices), *indices), numbers)
    return where(bind(TABLE["reshape"], won, shape=(*shape, *(1,) * (aval_of(bar).ndim - len(shape)))), bar, 0.0)


@general(shape=_scatter_shape("scatter"), jvp=_scatter_jvp, vjp=_scatter_vjp, prepare=_same_dtype, bound=0.0,
         batch=lambda args, bdims: _scatter_batch(scatter, args, bdims), selects=True,
         lowering=General(_lower_scatter(lambda k, old, update: update)), samples=_scatter_samples)
def scatter(x, updates, *indices):
    """A copy of x with x[indices] = updates; of repeated indices the last wins, and only it receives the gradient."""
    y = np.array(x)
    try:
        y[indices] = updates
    except IndexError:
        raise _out_of_range("scatter", np.shape(x), indices) from None
    return y


# ------------------------------------------------------------------------------------------------ one-hot


def _lower_one_hot(e: Any, inputs: tuple, outputs: tuple, *, classes: int, dtype: np.dtype) -> None:
    """Labels are checked once, in a kernel of their own; then each element compares."""
    (labels,), (y,) = inputs, outputs
    checked = e.temporary(INT64, labels.shape)
    with e.kernel(labels.shape) as (k, at):
        label = k.convert(k.get(labels, *at), INT64)
        k.require(k.and_(k.ge(label, 0), k.lt(label, classes)), "index", axis=0, size=classes)
        k.put(checked, *at, value=label)
    with e.kernel(y.shape) as (k, at):
        k.put(y, *at, value=k.convert(k.eq(k.get(checked, *at[:-1]), k.index(at[-1])), dtype))


def _one_hot_shape(labels: Aval, *, classes: int, dtype: np.dtype) -> Aval:
    if labels.dtype.kind not in "iu":
        raise DtypeError(explain(f"one_hot: labels are {labels}, expected integers.", remedy="Use labels.astype(np.int64)."))
    return Aval((*labels.shape, classes), np.dtype(dtype))


@constant(reason="labels are integers", shape=_one_hot_shape, prepare=_prepare, lowering=General(_lower_one_hot), finite=True,
          batch=lambda row, args, bdims, **params: (bind(row, move_front(args[0], bdims[0]), **params), 0), selects_rows=True,
          samples=lambda rng: [((np.array([[2, 0, 1], [1, 1, 3]]),), {"classes": 4, "dtype": np.dtype(np.float64)}),
                               ((np.array(1),), {"classes": 2, "dtype": np.dtype(np.float32)}),
                               ((np.zeros((0,), int),), {"classes": 3, "dtype": np.dtype(np.float64)})])
def one_hot(labels, *, classes, dtype):
    """y[..., k] = 1 where k = label, else 0. A product with it selects rows: compiled, it is a gather (and its transpose a scatter_add).

    Raises: IndexRangeError for labels outside of 0..classes-1 (negative ones too).
    """
    labels = np.asarray(labels)
    outside = (labels < 0) | (labels >= classes)
    if outside.any():
        raise IndexRangeError(explain(f"one_hot: label {labels[outside][0]} is outside of 0..{classes - 1}.",
                                      remedy="Number the classes from 0, and check their count."))
    return (labels[..., None] == np.arange(classes)).astype(dtype)


# ------------------------------------------------------------------------------------------------ labels


def _emit_label(e: Any, x: Any, classes: int) -> Any:
    e.require(e.and_(e.ge(x, 0), e.lt(x, classes)), "label", size=classes)
    return x


@stepwise(arity=1, reason="labels are integers", accepts="iu", selects=True, lower=lambda e, x, *, classes: _emit_label(e, x, classes),
          samples=lambda rng: [((rng.integers(0, 4, shape),), {"classes": 4}) for shape in ((3, 2), (5,), (0, 2), ())])
def label(x, *, classes):
    """The same integers, checked to be classes 0..classes-1. Raises: IndexRangeError, in native code too."""
    outside = (np.less(x, 0) | np.greater_equal(x, classes)).ravel()
    if outside.any():
        raise IndexRangeError(explain(f"label {np.ravel(x)[outside][0]} is outside of 0..{classes - 1}.",
                                      remedy="Number the classes from 0, and check the size of the last layer."))
    return x
