"""Contraction: sums of products. One row, `dot`, with batch axes and contracted axes, carries matmul, einsum, tensordot and inner.

Invariant: both transposes are again `dot` and `permute`. May import: L0, core, kinds, structure. Read next: indexing.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.aval import Aval, aval_of
from ..core.primitive import bind
from ..errors import ShapeError, explain
from .kinds import Contract, bilinear, move_front
from .structure import permute

Axes = tuple[tuple[int, ...], tuple[int, ...]]


def _free(ndim: int, *used: tuple) -> tuple:
    return tuple(i for i in range(ndim) if not any(i in axes for axes in used))


def _dot_shape(x: Aval, w: Aval, *, contract: Axes, batch: Axes) -> Aval:
    for (i, j), kind in [*((p, "inner") for p in zip(*contract, strict=True)), *((p, "batch") for p in zip(*batch, strict=True))]:
        if x.shape[i] != w.shape[j]:
            raise ShapeError(explain(f"matmul: {kind} axes differ: left {x}, right {w}  ({x.shape[i]} != {w.shape[j]})",
                                     remedy="Permute the right operand, or check the order of the layers."))
    shape = [x.shape[i] for i in batch[0]]
    shape += [x.shape[i] for i in _free(x.ndim, contract[0], batch[0])] + [w.shape[j] for j in _free(w.ndim, contract[1], batch[1])]
    return Aval(tuple(shape), np.result_type(x.dtype, w.dtype), x.weak and w.weak)


def _dot_x(y_bar: Any, x: Any, w: Any, *, contract: Axes, batch: Axes) -> Any:
    """x_bar = y_bar contracted with w over w's free axes, its axes put back in the order of x."""
    (xc, wc), (xb, wb) = contract, batch
    ndim = aval_of(x).ndim
    x_free, w_free = _free(ndim, xc, xb), _free(aval_of(w).ndim, wc, wb)
    count = len(xb) + len(x_free)
    bar = bind(dot, y_bar, w, contract=(tuple(range(count, count + len(w_free))), w_free), batch=(tuple(range(len(xb))), wb))
    order = [xc[wc.index(j)] for j in sorted(wc)]                     # w's contracted axes come out in w's order
    return _restore(bar, (*xb, *x_free, *order))


def _dot_w(y_bar: Any, x: Any, w: Any, *, contract: Axes, batch: Axes) -> Any:
    """w_bar = x contracted with y_bar over x's free axes: in this order the result lies as w does when w is (in, out)."""
    (xc, wc), (xb, wb) = contract, batch
    x_free, w_free = _free(aval_of(x).ndim, xc, xb), _free(aval_of(w).ndim, wc, wb)
    axes = tuple(range(len(xb), len(xb) + len(x_free)))
    order = tuple(wc[xc.index(i)] for i in sorted(xc))
    if order and w_free and min(order) > min(w_free):                 # w is (out, in), as PyTorch's: let the result lie so too
        bar = bind(dot, y_bar, x, contract=(axes, x_free), batch=(tuple(range(len(xb))), xb))
        return _restore(bar, (*wb, *w_free, *order))
    bar = bind(dot, x, y_bar, contract=(x_free, axes), batch=(xb, tuple(range(len(xb)))))
    return _restore(bar, (*wb, *order, *w_free))


def _restore(bar: Any, order: tuple) -> Any:
    """Axis k of bar is axis order[k] of the argument: put them back."""
    axes = tuple(int(a) for a in np.argsort(order))
    return bar if axes == tuple(range(len(axes))) else bind(permute, bar, axes=axes)


def _dot_batch(row: Any, args: tuple, bdims: tuple, *, contract: Axes, batch: Axes) -> tuple:
    x, w = (a if b is None else move_front(a, b) for a, b in zip(args, bdims, strict=True))
    shift = lambda axes, on: tuple(a + 1 for a in axes) if on else axes
    (xc, wc), (xb, wb) = contract, batch
    has_x, has_w = (b is not None for b in bdims)
    contract = shift(xc, has_x), shift(wc, has_w)
    batch_x, batch_w = shift(xb, has_x), shift(wb, has_w)
    if has_x and has_w:
        return bind(row, x, w, contract=contract, batch=((0, *batch_x), (0, *batch_w))), 0
    y = bind(row, x, w, contract=contract, batch=(batch_x, batch_w))
    if has_x:                                                          # x's new axis is its first free one
        return y, len(xb)
    return y, len(xb) + len(_free(aval_of(x).ndim, contract[0], batch_x))


def swapped_dot(x: Aval, w: Aval, *, contract: Axes, batch: Axes) -> tuple[dict, tuple[int, ...]]:
    """dot(w, x) is the same product: its params, and for every axis of its result the axis of dot(x, w)'s."""
    lead = len(batch[0])
    x_free, w_free = (len(_free(a.ndim, c, b)) for a, c, b in zip((x, w), contract, batch, strict=True))
    order = (*range(lead), *range(lead + x_free, lead + x_free + w_free), *range(lead, lead + x_free))
    return {"contract": contract[::-1], "batch": batch[::-1]}, order


def summed_dot(*, contract: Axes, batch: Axes) -> dict:
    """The params with which dot of two arrays with one more axis in front, the same in both, is the sum of dots along it."""
    shift = lambda axes: tuple(a + 1 for a in axes)
    return {"contract": tuple((0, *shift(axes)) for axes in contract), "batch": tuple(map(shift, batch))}


_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def dot_letters(x: Aval, w: Aval, *, contract: Axes, batch: Axes) -> tuple[str, str, str]:
    """The einsum letters of this dot."""
    left, fresh = list(_LETTERS[:x.ndim]), iter(_LETTERS[x.ndim:])
    pairs = dict(zip((*contract[1], *batch[1]), (*contract[0], *batch[0]), strict=True))
    right = [left[pairs[j]] if j in pairs else next(fresh) for j in range(w.ndim)]
    out = [left[i] for i in batch[0]] + [left[i] for i in _free(x.ndim, contract[0], batch[0])]
    out += [right[j] for j in _free(w.ndim, contract[1], batch[1])]
    return "".join(left), "".join(right), "".join(out)


def _dot_samples(rng: np.random.Generator) -> list:
    cases = [((2, 3), (3, 4), ((1,), (0,)), ((), ())), ((2, 3), (4, 3), ((1,), (1,)), ((), ())),
             ((5, 2, 3), (5, 3, 4), ((2,), (1,)), ((0,), (0,))), ((3, 2), (3, 4), ((0,), (0,)), ((), ())),
             ((2, 3, 4, 5), (5, 3, 2), ((3, 1), (0, 1)), ((0,), (2,))), ((0, 3), (3, 2), ((1,), (0,)), ((), ())),
             ((), (3,), ((), ()), ((), ())), ((3, 2), (3, 2), ((), ()), ((0, 1), (0, 1))), ((2, 3), (2, 3), ((0, 1), (0, 1)), ((), ())),
             ((3,), (3,), ((0,), (0,)), ((), ())), ((2,), (3,), ((), ()), ((), ())), ((2, 3, 4), (4, 3, 5), ((2, 1), (0, 1)), ((), ())),
             ((2, 0), (0, 3), ((1,), (0,)), ((), ())), ((4, 2, 3), (3, 5, 4), ((2,), (0,)), ((0,), (2,))),
             ((3, 3), (3, 3, 4), ((0, 1), (1, 0)), ((), ()))]
    return [((rng.standard_normal(s), rng.standard_normal(t)), {"contract": c, "batch": b}) for s, t, c, b in cases]


@bilinear(shape=_dot_shape, transposes=(_dot_x, _dot_w), batch=_dot_batch, lowering=Contract(dot_letters),
          swapped=swapped_dot, summed=summed_dot, samples=_dot_samples)
def dot(x, w, *, contract, batch):
    """y[batch, free of x, free of w] = sum over the contracted axes of x w. contract and batch pair axes of x with axes of w."""
    (xc, wc), (xb, wb) = contract, batch
    x_free, w_free = _free(np.ndim(x), xc, xb), _free(np.ndim(w), wc, wb)
    lead = [np.shape(x)[i] for i in xb]
    rows, columns = [np.shape(x)[i] for i in x_free], [np.shape(w)[j] for j in w_free]
    inner = int(np.prod([np.shape(x)[i] for i in xc], dtype=np.int64))
    left = np.transpose(x, (*xb, *x_free, *xc)).reshape(*lead, int(np.prod(rows, dtype=np.int64)), inner)
    right = np.transpose(w, (*wb, *wc, *w_free)).reshape(*lead, inner, int(np.prod(columns, dtype=np.int64)))
    return np.matmul(left, right).reshape((*lead, *rows, *columns))[()]
