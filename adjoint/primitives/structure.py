"""Structure: the same numbers in another arrangement. These rows are linear; most are only another way to walk the same memory.

Invariant: `view` rules speak of (offset, shape, strides) in elements and never touch numbers. May import: L0, core, kinds.
Read next: indexing.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.aval import Aval, aval_of
from ..core.primitive import bind
from ..errors import ShapeError, explain
from .broadcasting import batch_together, common_dtype, move_front, promote_arrays, unbroadcast, zeros_of
from .kinds import General, Strided, linear
from .samples import samples_of, unary_samples

_sample, _samples = unary_samples, samples_of


# ------------------------------------------------------------------------------------------------ reshape


def _reshape_shape(x: Aval, *, shape: tuple) -> Aval:
    if int(np.prod(shape, dtype=np.int64)) != x.size:
        raise ShapeError(explain(f"reshape: {x} has {x.size} elements, shape {tuple(shape)} has {int(np.prod(shape, dtype=np.int64))}.",
                                 remedy="The number of elements stays; one size may be -1 and is then computed."))
    return Aval(tuple(shape), x.dtype, x.weak)


def reshape_view(offset: int, shape: tuple, strides: tuple, *, new: tuple) -> tuple | None:
    """NumPy's no-copy reshape: (offset, new shape, strides), or None where memory order forbids it."""
    if 0 in shape:
        return offset, new, (0,) * len(new)
    groups: list[tuple[int, int]] = []                       # merged (size, stride) runs of the old axes
    for n, s in zip(shape, strides, strict=True):
        if n == 1:
            continue
        if groups and groups[-1][1] == n * s:
            groups[-1] = (groups[-1][0] * n, s)
        else:
            groups.append((n, s))
    out, rest = [], list(reversed(groups))
    size, stride = rest.pop() if rest else (1, 1)
    for n in new:
        if n == 1:
            out.append(0)
            continue
        if size == 1 and rest:
            size, stride = rest.pop()
        if size % n:
            return None
        size //= n
        out.append(size * stride)
    return offset, new, tuple(out)


@linear(shape=_reshape_shape, transposes=(lambda y_bar, x, *, shape: bind(reshape, y_bar, shape=x.shape),),
        batch=lambda row, args, axes, *, shape: (bind(row, move_front(args[0], axes[0]),
                                                      shape=(aval_of(args[0]).shape[axes[0]], *shape)), 0),
        lowering=Strided(lambda offset, old, strides, *, shape: reshape_view(offset, old, strides, new=shape)),
        samples=_samples(_sample((2, 6), shape=(3, 4)), _sample((4,), shape=(2, 1, 2)), _sample((1,), shape=()),
                         _sample((0, 3), shape=(3, 0)), _sample((), shape=(1, 1)), _sample((2, 3, 4), shape=(6, 4))))
def reshape(x, *, shape):
    """The elements in row-major order under another shape."""
    return np.reshape(x, shape)


# ------------------------------------------------------------------------------------------------ permute


@linear(shape=lambda x, *, axes: Aval(tuple(x.shape[a] for a in axes), x.dtype, x.weak),
        transposes=(lambda y_bar, x, *, axes: bind(permute, y_bar, axes=tuple(int(a) for a in np.argsort(axes))),),
        batch=lambda row, args, bdims, *, axes: (bind(row, move_front(args[0], bdims[0]), axes=(0, *(a + 1 for a in axes))), 0),
        lowering=Strided(lambda offset, shape, strides, *, axes: (offset, tuple(shape[a] for a in axes), tuple(strides[a] for a in axes))),
        samples=_samples(_sample((2, 3, 4), axes=(1, 2, 0)), _sample((2, 3), axes=(1, 0)), _sample((), axes=()),
                         _sample((0, 2), axes=(1, 0))))
def permute(x, *, axes):
    """Axes in another order: axis i of the result is axis axes[i] of x."""
    return np.transpose(x, axes)


# ------------------------------------------------------------------------------------------------ broadcast


def _broadcast_shape(x: Aval, *, shape: tuple) -> Aval:
    tail = shape[len(shape) - x.ndim:] if x.ndim else ()
    if x.ndim > len(shape) or any(n not in (1, m) for n, m in zip(x.shape, tail, strict=True)):
        raise ShapeError(explain(f"broadcast: {x} cannot be repeated to shape {tuple(shape)}.",
                                 remedy="Axes are aligned from the last; each must be equal or 1."))
    return Aval(tuple(shape), x.dtype, x.weak)


def _broadcast_view(offset: int, old: tuple, strides: tuple, *, shape: tuple) -> tuple:
    lead = len(shape) - len(old)
    return offset, shape, (0,) * lead + tuple(0 if n == 1 and m != 1 else s
                                              for n, m, s in zip(old, shape[lead:], strides, strict=True))


def _broadcast_batch(row: Any, args: tuple, axes: tuple, *, shape: tuple) -> tuple:
    x = move_front(args[0], axes[0])
    n, *rest = aval_of(x).shape
    x = bind(reshape, x, shape=(n, *(1,) * (len(shape) - len(rest)), *rest))
    return bind(row, x, shape=(n, *shape)), 0


@linear(shape=_broadcast_shape, transposes=(lambda y_bar, x, *, shape: unbroadcast(y_bar, x),), batch=_broadcast_batch,
        lowering=Strided(_broadcast_view),
        samples=_samples(_sample((3, 1), shape=(2, 3, 4)), _sample((), shape=(2, 2)), _sample((2, 3), shape=(2, 3)),
                         _sample((1, 2), shape=(0, 2))))
def broadcast(x, *, shape):
    """x repeated along new leading axes and along axes of size 1; its transpose sums over them."""
    return np.broadcast_to(x, shape)


# ------------------------------------------------------------------------------------------------ slice and its transpose, pad


def slice_length(start: int, stop: int, step: int) -> int:
    return len(range(start, stop, step))


def _slices(bounds: tuple) -> tuple:
    return tuple(slice(start, None if stop < 0 else stop, step) for start, stop, step in bounds)


def _slice_view(offset: int, shape: tuple, strides: tuple, *, bounds: tuple) -> tuple:
    for (start, _, _), s in zip(bounds, strides, strict=True):
        offset += start * s
    return offset, tuple(slice_length(*b) for b in bounds), tuple(s * b[2] for s, b in zip(strides, bounds, strict=True))


def _slice_batch(row: Any, args: tuple, axes: tuple, *, bounds: tuple) -> tuple:
    x = move_front(args[0], axes[0])
    return bind(row, x, bounds=((0, aval_of(x).shape[0], 1), *bounds)), 0


@linear(shape=lambda x, *, bounds: Aval(tuple(slice_length(*b) for b in bounds), x.dtype, x.weak),
        transposes=(lambda y_bar, x, *, bounds: bind(assign_slice, zeros_of(x), y_bar, bounds=bounds),), batch=_slice_batch,
        lowering=Strided(_slice_view),
        samples=_samples(_sample((5, 4), bounds=((1, 5, 2), (0, 4, 1))), _sample((5,), bounds=((4, -1, -2),)),
                         _sample((3,), bounds=((1, 1, 1),)), _sample((4, 3), bounds=((3, -1, -1), (2, 3, 1)))))
def slice_(x, *, bounds):
    """Every axis from start to stop by step (any sign; a negative stop means past the first element), given for all axes."""
    return x[_slices(bounds)]


def _assign_slice_transpose(i: int, y_bar: Any, x: Aval, v: Aval, *, bounds: tuple) -> Any:
    return bind(assign_slice, y_bar, zeros_of(v), bounds=bounds) if i == 0 else bind(slice_, y_bar, bounds=bounds)


def _assign_slice_batch(row: Any, args: tuple, axes: tuple, *, bounds: tuple) -> tuple:
    (x, v), n = batch_together(args, axes)
    return bind(row, x, v, bounds=((0, n, 1), *bounds)), 0


def outside_slice(shape: tuple, bounds: tuple) -> list[tuple]:
    """Slices that cover, each element once, what a slice leaves out; the whole array where the slice skips elements or is empty."""
    boxes, whole = [], tuple((0, n, 1) for n in shape)
    for axis, (start, stop, step) in enumerate(bounds):
        if step != 1 or stop <= start:
            return [whole]
        lead, rest = bounds[:axis], whole[axis + 1:]
        boxes += [(*lead, (first, last, 1), *rest) for first, last in ((0, start), (stop, shape[axis])) if first < last]
    return boxes


def _assign_slice_lower(e: Any, inputs: tuple, outputs: tuple, *, bounds: tuple) -> None:
    (x, v), (y,) = inputs, outputs
    for box in outside_slice(y.shape, bounds):
        e.copy(x.sliced(box), y.sliced(box))
    e.copy(v, y.sliced(bounds))


def _assign_samples(rng: np.random.Generator) -> list:
    cases = [((5, 4), ((1, 5, 2), (0, 4, 1)), (2, 4)), ((5,), ((4, -1, -2),), (3,)), ((3,), ((1, 1, 1),), (0,))]
    return [((rng.standard_normal(s), rng.standard_normal(v)), {"bounds": b}) for s, b, v in cases]


@linear(shape=lambda x, v, *, bounds: Aval(x.shape, x.dtype), transposes=_assign_slice_transpose, batch=_assign_slice_batch,
        lowering=General(_assign_slice_lower), samples=_assign_samples, selects=True, places=True)
def assign_slice(x, v, *, bounds):
    """A copy of x with the elements of a slice replaced by v (of exactly the slice's shape): what x[...] = v means."""
    y = np.array(x)
    y[_slices(bounds)] = v
    return y


# ------------------------------------------------------------------------------------------------ concatenate


def _concatenate_shape(*xs: Aval, axis: int) -> Aval:
    first = xs[0]
    for x in xs:
        if x.ndim != first.ndim or any(n != m for i, (n, m) in enumerate(zip(x.shape, first.shape, strict=True)) if i != axis):
            raise ShapeError(explain(f"concatenate: arrays differ outside of axis {axis}: {first} and {x}.",
                                     remedy="All axes but the joined one must have equal sizes."))
    sizes = sum(x.shape[axis] for x in xs)
    return Aval((*first.shape[:axis], sizes, *first.shape[axis + 1:]), common_dtype(xs))


def _concatenate_transpose(i: int, y_bar: Any, *xs: Aval, axis: int) -> Any:
    start = sum(x.shape[axis] for x in xs[:i])
    bounds = tuple((start, start + n, 1) if a == axis else (0, n, 1) for a, n in enumerate(xs[i].shape))
    return bind(slice_, y_bar, bounds=bounds)


def _concatenate_batch(row: Any, args: tuple, axes: tuple, *, axis: int) -> tuple:
    return bind(row, *batch_together(args, axes)[0], axis=axis + 1), 0


def _lower_concatenate(e: Any, inputs: tuple, outputs: tuple, *, axis: int) -> None:
    start, (y,) = 0, outputs
    for x in inputs:
        bounds = tuple((start, start + n, 1) if a == axis else (0, n, 1) for a, n in enumerate(x.shape))
        e.copy(x, y.sliced(bounds))
        start += x.shape[axis]


def _concatenate_samples(rng: np.random.Generator) -> list:
    cases = [(((2, 3), (2, 1), (2, 2)), 1), (((2, 3),), 0), (((1,), (0,), (3,)), 0), (((2, 0), (3, 0)), 0)]
    return [(tuple(rng.standard_normal(s) for s in shapes), {"axis": axis}) for shapes, axis in cases]


@linear(shape=_concatenate_shape, transposes=_concatenate_transpose, batch=_concatenate_batch,
        lowering=General(_lower_concatenate), prepare=promote_arrays, samples=_concatenate_samples, selects=True, joins=True)
def concatenate(*xs, axis):
    """Arrays joined along an existing axis (not negative); its transpose cuts the cotangent into the same pieces."""
    return np.concatenate(xs, axis=axis)
