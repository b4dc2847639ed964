"""Windows along the axes of an array: what pooling reads and writes, as loops of native code.

Invariant: a Window says all of one pooled axis; element j of window q is x[q stride + j dilation - low], padding beyond both ends.
May import: L0. Read next: pooling.py.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..dtypes import INT32, INT64, UINT8

UNROLLED = 36            # elements of a window up to which its code is written out, element by element


class Window(NamedTuple):
    """How one axis is pooled: `length` elements of x become `count` windows of `size` elements, `low` of padding before the first."""

    axis: int
    length: int
    count: int
    size: int
    stride: int = 1
    dilation: int = 1
    low: int = 0

    @property
    def covered(self) -> int:
        """One past the last position that a window reads, counted with the padding."""
        return (self.count - 1) * self.stride + (self.size - 1) * self.dilation + 1

    @property
    def inside(self) -> bool:
        """True if no window reaches into padding."""
        return self.low == 0 and self.covered <= self.length


Windows = tuple[Window, ...]


def elements(windows: Windows) -> int:
    """Elements of one window."""
    return math.prod(w.size for w in windows)


def place_dtype(windows: Windows) -> np.dtype:
    """The dtype of places in a window."""
    return UINT8 if elements(windows) <= 256 else INT32


def offsets_of(windows: Windows) -> Iterator[tuple[int, ...]]:
    """The places of a window in row-major order."""
    return itertools.product(*[range(w.size) for w in windows])


def weights_of(windows: Windows) -> list[int]:
    """Place of offsets = sum of weight * offset."""
    return [math.prod(w.size for w in windows[i + 1:]) for i in range(len(windows))]


# ------------------------------------------------------------------------------------------------ native: windows read


def _load(k: Any, ref: Any, places: Sequence[tuple]) -> Any:
    """The element of ref at one (terms, offset) per axis."""
    if not hasattr(ref, "strides"):
        return k.const(ref.value, ref.dtype)
    return k.load(k.lowering.number(ref.buffer), _index(ref, places), ref.dtype)


def _store(k: Any, ref: Any, places: Sequence[tuple], value: Any) -> None:
    k.store(k.lowering.number(ref.buffer), _index(ref, places), value)


def _index(ref: Any, places: Sequence[tuple]) -> Any:
    terms = tuple((t, f * s) for (axis_terms, _), s in zip(places, ref.strides, strict=True) for t, f in axis_terms if s)
    return ref.at(*[offset for _, offset in places]).with_terms(terms)


def _clamped(k: Any, index: Any, length: int) -> tuple:
    """((terms, offset), valid) of an index that may lie outside."""
    valid = k.and_(k.ge(index, 0), k.lt(index, length))
    return (((k.select(valid, index, 0), 1),), 0), valid


class _Reader:
    """Loads of window elements at one output position `at`; addresses along an axis are computed once."""

    def __init__(self, k: Any, windows: Windows, at: tuple):
        self.k, self.windows, self.at = k, windows, at
        self.known: dict[tuple, tuple] = {}

    def element(self, x: Any, offsets: tuple) -> tuple[Any, Any]:
        """(value, valid): valid is None where no window reaches into padding."""
        places, valid = [(((i, 1),), 0) for i in self.at], None
        for w, j in zip(self.windows, offsets, strict=True):
            key = (w.axis, j)
            if key not in self.known:
                self.known[key] = self._place(w, self.at[w.axis], j)
            places[w.axis], inside = self.known[key]
            valid = inside if valid is None else valid if inside is None else self.k.and_(valid, inside)
        return _load(self.k, x, places), valid

    def _place(self, w: Window, q: Any, j: Any) -> tuple:
        k = self.k
        if isinstance(j, int):
            low = j * w.dilation - w.low
            if low >= 0 and low + (w.count - 1) * w.stride < w.length:
                return (((q, w.stride),), low), None
            return _clamped(k, k.add(k.mul(k.index(q), w.stride), low), w.length)
        if w.inside:
            return (((q, w.stride), (j, w.dilation)), 0), None
        index = k.add(k.mul(k.index(q), w.stride), k.sub(k.mul(k.index(j), w.dilation), w.low))
        return _clamped(k, index, w.length)


def _over(k: Any, windows: Windows, initial: tuple, step: Callable) -> tuple:
    """step(offsets, place, *carried) over the places of a window in order: written out for small windows, else nested loops."""
    if elements(windows) <= UNROLLED:
        carried = initial
        for place, offsets in enumerate(offsets_of(windows)):
            carried = step(offsets, place, *carried)
        return carried
    weights = weights_of(windows)

    def level(offsets: tuple, *carried: Any) -> tuple:
        if len(offsets) == len(windows):
            place = k.const(0, INT64)
            for j, weight in zip(offsets, weights, strict=True):
                place = k.add(place, k.mul(k.index(j), weight))
            return step(offsets, place, *carried)
        return k.carry(windows[len(offsets)].size, carried, lambda j, *inside: level((*offsets, j), *inside))
    return level((), *initial)


def _as_place(k: Any, place: Any, dtype: np.dtype) -> Any:
    return k.const(place, dtype) if isinstance(place, int) else k.convert(place, dtype)


def _first_place(k: Any, windows: Windows, at: tuple, dtype: np.dtype) -> Any:
    first = k.const(0, INT64)
    for w, weight in zip(windows, weights_of(windows), strict=True):
        if w.low:
            before = k.sub(w.low, k.mul(k.index(at[w.axis]), w.stride))
            j = k.floor_divide(k.add(before, w.dilation - 1), w.dilation) if w.dilation > 1 else before
            first = k.add(first, k.mul(k.select(k.gt(j, 0), j, 0), weight))
    return k.convert(first, dtype)


def lower_max(e: Any, inputs: tuple, outputs: tuple, *, windows: Windows) -> None:
    (x,), (y, places) = inputs, outputs
    with e.kernel(y.shape) as (k, at):
        reader = _Reader(k, windows, at)

        def step(offsets: tuple, place: Any, best: Any, best_place: Any) -> tuple:
            value, valid = reader.element(x, offsets)
            better = k.or_(k.gt(value, best), k.ne(value, value))
            better = better if valid is None else k.and_(better, valid)
            return k.select(better, value, best), k.select(better, _as_place(k, place, places.dtype), best_place)
        first = k.const(-math.inf, x.dtype), _first_place(k, windows, at, places.dtype)
        best, best_place = _over(k, windows, first, step)
        k.put(y, *at, value=best)
        k.put(places, *at, value=best_place)


def lower_take(e: Any, inputs: tuple, outputs: tuple, *, windows: Windows) -> None:
    (x, places), (y,) = inputs, outputs
    with e.kernel(y.shape) as (k, at):
        reader, chosen = _Reader(k, windows, at), k.get(places, *at)

        def step(offsets: tuple, place: Any, found: Any) -> tuple:
            value, valid = reader.element(x, offsets)
            here = k.eq(chosen, _as_place(k, place, places.dtype))
            return (k.select(here if valid is None else k.and_(here, valid), value, found),)
        found, = _over(k, windows, (k.const(0.0, x.dtype),), step)
        k.put(y, *at, value=found)


def lower_sum(e: Any, inputs: tuple, outputs: tuple, *, windows: Windows) -> None:
    (x,), (y,) = inputs, outputs
    with e.kernel(y.shape) as (k, at):
        reader = _Reader(k, windows, at)

        def step(offsets: tuple, place: Any, total: Any) -> tuple:
            value, valid = reader.element(x, offsets)
            return (k.add(total, value if valid is None else k.select(valid, value, 0.0)),)
        total, = _over(k, windows, (k.const(0.0, x.dtype),), step)
        k.put(y, *at, value=total)


# ------------------------------------------------------------------------------------------------ native: windows written


def lower_spread(e: Any, inputs: tuple, outputs: tuple, *, windows: Windows) -> None:
    """Each element of x collects from the windows that hold it, so that threads share the work and no sum depends on them."""
    y, places, (x,) = inputs[0], (inputs[1] if len(inputs) > 1 else None), outputs
    if math.prod(max(w.size, w.stride) for w in windows) <= UNROLLED:
        for pieces in itertools.product(*map(_pieces, windows)):
            _spread_pieces(e, y, places, x, windows, pieces)
    elif all(w.inside and w.dilation == 1 and w.size <= w.stride for w in windows):
        _spread_tiles(e, y, places, x, windows)
    else:
        _spread_search(e, y, places, x, windows)


class _Piece(NamedTuple):
    """Positions stride * a + r of x, for a in base .. base + extent - 1 and each r of `rests`."""

    base: int
    extent: int
    rests: range


def _pieces(w: Window) -> list[_Piece]:
    whole, rest = divmod(w.length, w.stride)
    found = [_Piece(0, whole, range(w.stride)), _Piece(whole, 1, range(rest))]
    return [piece for piece in found if piece.extent and piece.rests]


def _spread_pieces(e: Any, y: Any, places: Any, x: Any, windows: Windows, pieces: tuple) -> None:
    extents = {w.axis: piece.extent for w, piece in zip(windows, pieces, strict=True)}
    with e.kernel([extents.get(i, n) for i, n in enumerate(x.shape)]) as (k, at):
        collector = _Collector(k, y, places, windows, pieces, at)
        for rests in itertools.product(*[piece.rests for piece in pieces]):
            target = [(((i, 1),), 0) for i in at]
            for w, piece, r in zip(windows, pieces, rests, strict=True):
                target[w.axis] = ((at[w.axis], w.stride),), w.stride * piece.base + r
            _store(k, x, target, collector.total(rests))


class _Collector:
    """Sums over the windows that hold one position; each window is loaded once."""

    def __init__(self, k: Any, y: Any, places: Any, windows: Windows, pieces: tuple, at: tuple):
        self.k, self.y, self.places, self.windows, self.pieces, self.at = k, y, places, windows, pieces, at
        self.steps: dict[tuple, tuple] = {}
        self.loaded: dict[tuple, tuple] = {}

    def total(self, rests: tuple) -> Any:
        k, total = self.k, None
        weights = weights_of(self.windows)
        for sources in itertools.product(*[self._sources(*three) for three in zip(self.windows, self.pieces, rests, strict=True)]):
            bar, chosen, valid = self._window(tuple(t for _, t in sources))
            if chosen is not None:
                here = k.eq(chosen, k.const(sum(j * n for (j, _), n in zip(sources, weights, strict=True)), self.places.dtype))
                valid = here if valid is None else k.and_(here, valid)
            bar = bar if valid is None else k.select(valid, bar, 0.0)
            total = bar if total is None else k.add(total, bar)
        return k.const(0.0, self.y.dtype) if total is None else total

    @staticmethod
    def _sources(w: Window, piece: _Piece, rest: int) -> list[tuple[int, int]]:
        """(j, t): the position is element j of output a + t."""
        found = []
        for j in range(w.size):
            t, between = divmod(rest + w.low - j * w.dilation, w.stride)
            if not between and t + piece.base + piece.extent > 0 and t + piece.base < w.count:
                found.append((j, t + piece.base))
        return found

    def _window(self, steps: tuple) -> tuple[Any, Any, Any]:
        """(cotangent, place, valid) of the output that is `steps` beyond a."""
        if steps not in self.loaded:
            source, valid = [(((i, 1),), 0) for i in self.at], None
            for w, piece, t in zip(self.windows, self.pieces, steps, strict=True):
                source[w.axis], inside = self._step(w, piece, t)
                valid = inside if valid is None else valid if inside is None else self.k.and_(valid, inside)
            chosen = None if self.places is None else _load(self.k, self.places, source)
            self.loaded[steps] = _load(self.k, self.y, source), chosen, valid
        return self.loaded[steps]

    def _step(self, w: Window, piece: _Piece, t: int) -> tuple:
        a = self.at[w.axis]
        if t >= 0 and t + piece.extent <= w.count:
            return (((a, 1),), t), None
        if (w.axis, t) not in self.steps:
            self.steps[w.axis, t] = _clamped(self.k, self.k.add(self.k.index(a), t), w.count)
        return self.steps[w.axis, t]


def _spread_tiles(e: Any, y: Any, places: Any, x: Any, windows: Windows) -> None:
    """Windows that do not overlap: every element of every window, one store each; zeros between them."""
    if any(w.count * w.stride != w.length or w.size != w.stride for w in windows):
        e.fill(x, 0)
    known = {w.axis: w for w in windows}
    shape = [n for i, size in enumerate(x.shape) for n in ((known[i].count, known[i].size) if i in known else (size,))]
    with e.kernel(shape) as (k, at):
        walk = iter(at)
        source, target, place = [], [], k.const(0, INT64)
        weights = {w.axis: n for w, n in zip(windows, weights_of(windows), strict=True)}
        for i in range(len(x.shape)):
            q = next(walk)
            source.append((((q, 1),), 0))
            if i in known:
                j = next(walk)
                target.append((((q, known[i].stride), (j, 1)), 0))
                place = k.add(place, k.mul(k.index(j), weights[i]))
            else:
                target.append((((q, 1),), 0))
        bar = _load(k, y, source)
        if places is not None:
            bar = k.select(k.eq(_load(k, places, source), k.convert(place, places.dtype)), bar, 0.0)
        _store(k, x, target, bar)


def _spread_search(e: Any, y: Any, places: Any, x: Any, windows: Windows) -> None:
    """Large windows that overlap: each element of x asks, for every place of a window, which output that would be."""
    with e.kernel(x.shape) as (k, at):
        def step(offsets: tuple, place: Any, total: Any) -> tuple:
            source, valid = [(((i, 1),), 0) for i in at], None
            for w, j in zip(windows, offsets, strict=True):
                there = k.sub(k.add(k.index(at[w.axis]), w.low), k.mul(k.const(j, INT64) if isinstance(j, int) else k.index(j), w.dilation))
                q = k.floor_divide(there, w.stride)
                source[w.axis], inside = _clamped(k, q, w.count)
                inside = k.and_(inside, k.eq(k.mul(q, w.stride), there))
                valid = inside if valid is None else k.and_(valid, inside)
            if places is not None:
                valid = k.and_(valid, k.eq(_load(k, places, source), _as_place(k, place, places.dtype)))
            return (k.add(total, k.select(valid, _load(k, y, source), 0.0)),)
        total, = _over(k, windows, (k.const(0.0, y.dtype),), step)
        k.put(x, *at, value=total)
