"""Convolution: one bilinear row, channels last, with stride, padding, dilation, spread and groups.

Invariant: both transposes are again `convolve` (with `permute` and a reversed window), so every derivative is one more of the same
kind. Groups are a batch axis, nothing else. May import: L0, core, kinds, structure. Read next: indexing.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.aval import Aval, aval_of
from ..core.primitive import bind
from ..errors import DtypeError, ShapeError, explain
from .kinds import Convolve, bilinear, move_front
from .structure import permute, reshape, slice_

Sizes = tuple[int, ...]
Padding = tuple[tuple[int, int], ...]


# ------------------------------------------------------------------------------------------------ sizes


def reach(window: int, dilation: int) -> int:
    """Positions that a dilated window covers, first to last."""
    return (window - 1) * dilation + 1


def out_size(size: int, window: int, stride: int, padding: tuple[int, int], dilation: int, spread: int) -> int:
    """Places of a window along one axis: spread, then padded or cropped, then walked by stride."""
    room = reach(size, spread) + padding[0] + padding[1] - reach(window, dilation)
    return max(0, room // stride + 1)


def out_space(x: Aval, w: Aval, stride: Sizes, padding: Padding, dilation: Sizes, spread: Sizes) -> Sizes:
    """The spatial axes of the result."""
    rank = len(stride)
    return tuple(map(out_size, x.shape[1:1 + rank], w.shape[:rank], stride, padding, dilation, spread))


def _convolve_shape(x: Aval, w: Aval, *, stride: Sizes, padding: Padding, dilation: Sizes, spread: Sizes) -> Aval:
    rank = len(stride)
    if x.ndim != rank + 3 or w.ndim != rank + 3:
        raise ShapeError(explain(f"convolve: {x} and {w} must both have {rank + 3} axes: [batch, {rank} of space, groups, in] and "
                                 f"[{rank} of the window, groups, in, out].", remedy="Use nn.conv, which takes PyTorch's layout."))
    for name, i, j in (("groups", rank + 1, rank), ("in", rank + 2, rank + 1)):
        if x.shape[i] != w.shape[j]:
            raise ShapeError(explain(f"convolve: axes {name!r} differ: x {x}, w {w}  ({x.shape[i]} != {w.shape[j]}).",
                                     remedy="x is [batch, *space, groups, in], w is [*window, groups, in, out]."))
    if any(len(each) != rank for each in (padding, dilation, spread)) or min(*stride, *dilation, *spread) < 1:
        raise ShapeError(explain(f"convolve: stride {stride}, padding {padding}, dilation {dilation} and spread {spread} must have one "
                                 "entry per axis of space, of at least 1 (padding: a pair of any sign).",
                                 remedy="Give tuples of equal length."))
    dtype = np.result_type(x.dtype, w.dtype)
    if dtype.kind != "f":
        raise DtypeError(explain(f"convolve is not defined for {x} and {w}.", remedy="Convert first: x.astype(np.float32)."))
    return Aval((x.shape[0], *out_space(x, w, stride, padding, dilation, spread), x.shape[-2], w.shape[-1]), dtype)


# ------------------------------------------------------------------------------------------------ transposes and batching


def _convolve_x(y_bar: Any, x: Any, w: Any, *, stride: Sizes, padding: Padding, dilation: Sizes, spread: Sizes) -> Any:
    """x_bar = y_bar, spread by the stride, under the reversed window with in and out exchanged, walked by the spread."""
    rank, x_aval, w_aval, places = len(stride), aval_of(x), aval_of(w), aval_of(y_bar).shape[1:]
    bounds = tuple((n - 1, -1, -1) if n > 1 else (0, n, 1) for n in w_aval.shape[:rank]) + tuple((0, n, 1) for n in w_aval.shape[rank:])
    turned = bind(permute, bind(slice_, w, bounds=bounds), axes=(*range(rank + 1), rank + 2, rank + 1))
    back = []
    for n, o, k, s, (low, _), d, f in zip(x_aval.shape[1:], places, w_aval.shape, stride, padding, dilation, spread, strict=False):
        before = reach(k, d) - 1 - low
        back.append((before, (n - 1) * f + reach(k, d) - reach(o, s) - before))
    return bind(convolve, y_bar, turned, stride=spread, padding=tuple(back), dilation=dilation, spread=stride)


def _convolve_w(y_bar: Any, x: Any, w: Any, *, stride: Sizes, padding: Padding, dilation: Sizes, spread: Sizes) -> Any:
    """w_bar = x under y_bar as a window, the roles of batch and channels exchanged, stride and dilation too."""
    rank, x_aval, w_aval, places = len(stride), aval_of(x), aval_of(w), aval_of(y_bar).shape[1:]
    space = range(1, rank + 1)
    image = bind(permute, x, axes=(rank + 2, *space, rank + 1, 0))                # [in, *space, groups, batch]
    window = bind(permute, y_bar, axes=(*space, rank + 1, 0, rank + 2))           # [*places, groups, batch, out]
    back = []
    for n, o, k, s, (low, _), d, f in zip(x_aval.shape[1:], places, w_aval.shape, stride, padding, dilation, spread, strict=False):
        back.append((low, (k - 1) * d + reach(o, s) - reach(n, f) - low))
    bar = bind(convolve, image, window, stride=dilation, padding=tuple(back), dilation=stride, spread=spread)
    return bind(permute, bar, axes=(*space, rank + 1, 0, rank + 2))               # [in, *window, groups, out] -> w


def _convolve_batch(row: Any, args: tuple, bdims: tuple, **params: Any) -> tuple:
    """Examples of x join its batch; those of w join `out`; of both, the groups."""
    x, w = (a if b is None else move_front(a, b) for a, b in zip(args, bdims, strict=True))
    rank, has_x, has_w = len(params["stride"]), bdims[0] is not None, bdims[1] is not None
    if has_x and has_w:
        x = bind(permute, x, axes=(*range(1, rank + 2), 0, rank + 2, rank + 3))
        w = bind(permute, w, axes=(*range(1, rank + 1), 0, rank + 1, rank + 2, rank + 3))
        x, w = (bind(reshape, a, shape=_joined(aval_of(a).shape, i)) for a, i in ((x, rank + 1), (w, rank)))
        y, axis = bind(row, x, w, **params), rank + 1
        return bind(reshape, y, shape=_parted(aval_of(y).shape, axis, aval_of(args[0]).shape[bdims[0]])), axis
    if has_x:
        y = bind(row, bind(reshape, x, shape=_joined(aval_of(x).shape, 0)), w, **params)
        return bind(reshape, y, shape=_parted(aval_of(y).shape, 0, aval_of(x).shape[0])), 0
    count = aval_of(w).shape[0]
    w = bind(permute, w, axes=(*range(1, rank + 3), 0, rank + 3))
    y, axis = bind(row, x, bind(reshape, w, shape=_joined(aval_of(w).shape, rank + 2)), **params), rank + 2
    return bind(reshape, y, shape=_parted(aval_of(y).shape, axis, count)), axis


def _joined(shape: Sizes, axis: int) -> Sizes:
    """Axes `axis` and the next one as one."""
    return (*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2:])


def _parted(shape: Sizes, axis: int, count: int) -> Sizes:
    """Axis `axis` as `count` times the rest."""
    return (*shape[:axis], count, shape[axis] // count if count else 0, *shape[axis + 1:])


# ------------------------------------------------------------------------------------------------ native code


def _convolve_words(x: Aval, w: Aval, *, stride: Sizes, padding: Padding, dilation: Sizes, spread: Sizes) -> tuple[str, str, str, tuple]:
    """The letters of [batch, *space, groups, in], [*window, groups, in, out] and the result, and how the window walks."""
    rank = len(stride)
    space, window, places = (first[:rank] for first in ("hijklm", "rstuvw", "HIJKLM"))
    walks = zip(space, places, window, stride, dilation, (low for low, _ in padding), spread, strict=True)
    return f"b{space}gc", f"{window}gco", f"b{places}go", tuple(walks)


# ------------------------------------------------------------------------------------------------ the row


def _convolve_samples(rng: np.random.Generator) -> list:
    cases = [  # x, w, stride, padding, dilation, spread
        ((2, 5, 1, 3), (3, 1, 3, 2), (1,), ((0, 0),), (1,), (1,)),
        ((2, 4, 5, 1, 2), (3, 2, 1, 2, 3), (1, 1), ((1, 1), (0, 1)), (1, 1), (1, 1)),
        ((1, 5, 6, 2, 2), (2, 3, 2, 2, 3), (2, 1), ((1, 0), (2, 1)), (1, 2), (1, 1)),
        ((2, 4, 1, 2), (3, 1, 2, 2), (1,), ((1, 2),), (1,), (2,)),
        ((1, 3, 3, 1, 2), (2, 2, 1, 2, 1), (1, 2), ((-1, 1), (1, -1)), (1, 1), (2, 3)),
        ((2, 7, 3, 1), (2, 3, 1, 1), (3,), ((0, 2),), (2,), (1,)),
        ((1, 4, 1, 1), (6, 1, 1, 2), (1,), ((1, 1),), (1,), (2,)),
        ((0, 4, 1, 2), (2, 1, 2, 3), (1,), ((0, 0),), (1,), (1,)),
        ((2, 2, 1, 2), (4, 1, 2, 3), (1,), ((0, 0),), (1,), (1,)),
        ((2, 4, 1, 0), (2, 1, 0, 3), (1,), ((0, 0),), (1,), (1,)),
    ]
    return [((rng.standard_normal(x), rng.standard_normal(w)), {"stride": s, "padding": p, "dilation": d, "spread": f})
            for x, w, s, p, d, f in cases]


def _placed(x: np.ndarray, padding: Padding, spread: Sizes) -> np.ndarray:
    """x with zeros between its elements and around them, or cropped; itself where there is nothing to do."""
    if all(f == 1 for f in spread) and not any(map(any, padding)):
        return x
    rank = len(spread)
    sizes = [max(0, reach(n, f) + low + high) for n, f, (low, high) in zip(x.shape[1:], spread, padding, strict=False)]
    room = np.zeros((x.shape[0], *sizes, *x.shape[1 + rank:]), x.dtype)
    into, taken = [slice(None)], [slice(None)]
    for n, f, (low, _), size in zip(x.shape[1:], spread, padding, sizes, strict=False):
        first = max(0, -(low // f))                                  # the first element at a place of at least 0
        count = max(0, min(n - first, -((low + first * f - size) // f)))
        into.append(slice(low + first * f, low + (first + count - 1) * f + 1 if count else low + first * f, f))
        taken.append(slice(first, first + count))
    room[tuple(into)] = x[tuple(taken)]
    return room


def _steps(places: Sizes, first: Sizes, step: Sizes) -> tuple[slice, ...]:
    """`places` positions per axis, from `first` on by `step`, after the batch axis."""
    return (slice(None), *(slice(a, a + (n - 1) * s + 1, s) for n, a, s in zip(places, first, step, strict=True)))


def _by_taps(y: np.ndarray, x: np.ndarray, w: np.ndarray, stride: Sizes, dilation: Sizes) -> None:
    """y += one product for every element of the window."""
    rank = len(stride)
    whole = x.shape[-1] == w.shape[-1] == 1
    rows = y[..., 0] if whole else np.moveaxis(y, -2, -3)                         # groups beside the matrices
    for tap in np.ndindex(*w.shape[:rank]):
        part = x[_steps(y.shape[1:1 + rank], tuple(t * d for t, d in zip(tap, dilation, strict=True)), stride)]
        rows += part[..., 0] * w[tap][:, 0, 0] if whole else np.matmul(np.moveaxis(part, -2, -3), w[tap])


def _by_places(y: np.ndarray, x: np.ndarray, w: np.ndarray, stride: Sizes, dilation: Sizes) -> None:
    """One product for every place of the window: fewer, where the window is large."""
    rank = len(stride)
    inner = int(np.prod(w.shape[:rank], dtype=np.int64)) * w.shape[-2]
    right = np.moveaxis(w, rank, 0).reshape(w.shape[rank], inner, w.shape[-1])
    for place in np.ndindex(*y.shape[1:1 + rank]):
        part = x[_steps(w.shape[:rank], tuple(p * s for p, s in zip(place, stride, strict=True)), dilation)]
        left = np.moveaxis(part, -2, 0).reshape(x.shape[-2], x.shape[0], inner)
        y[(slice(None), *place)] = np.moveaxis(np.matmul(left, right), 0, 1)


@bilinear(shape=_convolve_shape, transposes=(_convolve_x, _convolve_w), batch=_convolve_batch, lowering=Convolve(_convolve_words),
          samples=_convolve_samples)
def convolve(x, w, *, stride, padding, dilation, spread):
    """y[b, o, g, c] = sum over t and i of z[b, o stride + t dilation, g, i] w[t, g, i, c], where z is x spread and padded.

    z is x with spread - 1 zeros between its elements along space and `padding` zeros (low, high) around; negative padding crops.
    Shapes: x [batch, *space, groups, in], w [*window, groups, in, out], y [batch, *places, groups, out].
    Source: Dumoulin and Visin, A guide to convolution arithmetic for deep learning, arXiv 1603.07285.
    """
    y = np.zeros(_convolve_shape(aval_of(x), aval_of(w), stride=stride, padding=padding, dilation=dilation, spread=spread).shape,
                 np.result_type(x, w))
    if y.size and x.size and w.size:
        rank = len(stride)
        fewer = np.prod(w.shape[:rank]) <= np.prod(y.shape[1:1 + rank])
        (_by_taps if fewer else _by_places)(y, _placed(x, padding, spread), w, stride, dilation)
    return y
