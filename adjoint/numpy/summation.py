"""einsum: NumPy's whole syntax as a sequence of contractions of two arrays, the cheapest pair first.

Invariant: the order of contraction depends on shapes only. May import: L0-L2, registry, products, joining. Read next: calculus.py.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..core.aval import aval_of, result_dtype
from ..errors import ShapeError, explain
from .joining import diagonal
from .products import _arranged, _summed, contract
from .registry import convert, implements, only, permuted, strong, value_of


@implements()
def einsum(*operands: Any, out: Any = None, dtype: Any = None, order: str = "K", casting: str = "safe", optimize: Any = False) -> Any:
    """Sum of products by labelled axes: "ij,jk->ik", with ellipsis, implicit result, repeated labels (diagonals), operand lists."""
    only("einsum", out=out)
    inputs, result, arrays = _read(operands)
    arrays = [strong(value_of(x)) for x in arrays]
    common = np.dtype(dtype) if dtype is not None else result_dtype(*arrays)
    arrays = [convert(x, common) for x in arrays]
    labels, result = _labelled(inputs, result, arrays)
    terms = [_distinct(x, list(names)) for x, names in zip(arrays, labels, strict=True)]
    sizes = _sizes(terms)
    while len(terms) > 1:
        i, j = _cheapest(terms, result, sizes)
        rest = [t for k, t in enumerate(terms) if k not in (i, j)]
        needed = set(result).union(*[set(names) for _, names in rest])
        (x, x_labels), (w, w_labels) = terms[i], terms[j]
        kept = [a for a in dict.fromkeys((*x_labels, *w_labels)) if a in needed]
        kept = list(result) if not rest else kept
        terms = [*rest, (contract(x, x_labels, w, w_labels, kept), kept)]
    (y, names), = terms
    y, names = _summed(y, names, set(result))
    return _arranged(y, names, result) if names != list(result) else permuted(y, tuple(range(len(names))))


def _read(operands: tuple) -> tuple[list, Any, list]:
    """(labels of each operand, labels of the result or None, arrays) from either of NumPy's two forms."""
    if isinstance(operands[0], str):
        text, arrays = operands[0].replace(" ", ""), list(operands[1:])
        left, arrow, right = text.partition("->")
        inputs = [_letters(part) for part in left.split(",")]
        result = _letters(right) if arrow else None
    else:
        pairs = len(operands) // 2
        arrays = [operands[2 * i] for i in range(pairs)]
        inputs = [list(operands[2 * i + 1]) for i in range(pairs)]
        result = list(operands[-1]) if len(operands) % 2 else None
    if len(inputs) != len(arrays):
        raise ShapeError(explain(f"einsum: {len(inputs)} groups of labels, {len(arrays)} arrays.",
                                 remedy="Separate the labels of the arrays by commas: 'ij,jk->ik'."))
    return inputs, result, arrays


def _letters(part: str) -> list:
    labels: list = []
    rest = part
    while rest:
        if rest.startswith("..."):
            labels.append(Ellipsis)
            rest = rest[3:]
        elif rest[0].isalpha():
            labels.append(rest[0])
            rest = rest[1:]
        else:
            raise ShapeError(explain(f"einsum: {rest[0]!r} is no label in {part!r}.",
                                     remedy="Labels are letters: 'ij,jk->ik'."))
    return labels


def _labelled(inputs: list, result: Any, arrays: list) -> tuple[list, list]:
    """Ellipses replaced by labels of their own, counted from the last axis; an implicit result made explicit."""
    full, widest = [], 0
    for names, x in zip(inputs, arrays, strict=True):
        ndim, named = aval_of(x).ndim, len(names) - (Ellipsis in names)
        if ndim < named or (Ellipsis not in names and ndim != named):
            raise ShapeError(explain(f"einsum: {named} labels for {aval_of(x)}.",
                                     remedy="Give one label for every axis, or ... for those that are left."))
        dots = [("dots", k) for k in reversed(range(ndim - named))]
        widest = max(widest, len(dots))
        at = names.index(Ellipsis) if Ellipsis in names else len(names)
        full.append([*names[:at], *dots, *names[at + 1:]])
    dots = [("dots", k) for k in reversed(range(widest))]
    if result is None:
        count: dict = {}
        for a in itertools.chain(*full):
            count[a] = count.get(a, 0) + 1
        return full, dots + sorted(a for a, n in count.items() if n == 1 and not isinstance(a, tuple))
    if Ellipsis in result:
        at = result.index(Ellipsis)
        result = [*result[:at], *dots, *result[at + 1:]]
    known = set(itertools.chain(*full))
    if len(set(result)) != len(result) or not known.issuperset(result):
        raise ShapeError(explain(f"einsum: the result's labels {result} must be distinct labels of the operands.",
                                 remedy="Write each label of the result once, and only labels that an operand has."))
    return full, list(result)


def _distinct(x: Any, names: list) -> tuple[Any, list]:
    """Repeated labels of one operand become a diagonal."""
    for a in dict.fromkeys(names):
        while names.count(a) > 1:
            i = names.index(a)
            j = names.index(a, i + 1)
            if aval_of(x).shape[i] != aval_of(x).shape[j]:
                raise ShapeError(explain(f"einsum: the label {a!r} names axes of {aval_of(x).shape[i]} and {aval_of(x).shape[j]}.",
                                         remedy="Axes with the same label have the same size: permute an operand, or change a label."))
            x = diagonal(x, 0, i, j)
            names = [b for k, b in enumerate(names) if k not in (i, j)] + [a]
    return x, names


def _sizes(terms: Sequence) -> dict:
    sizes: dict = {}
    for x, names in terms:
        for a, n in zip(names, aval_of(x).shape, strict=True):
            if sizes.get(a, 1) != 1 and n not in (1, sizes[a]):
                raise ShapeError(explain(f"einsum: the label {a!r} names axes of {sizes[a]} and {n}.",
                                         remedy="Axes with the same label have the same size: permute an operand, or change a label."))
            sizes[a] = n if sizes.get(a, 1) == 1 else sizes[a]
    return sizes


def _cheapest(terms: Sequence, result: Sequence, sizes: dict) -> tuple[int, int]:
    """The pair whose contraction takes the fewest multiplications, the smaller result first among equals."""
    def cost(pair: tuple) -> tuple:
        names = {*terms[pair[0]][1], *terms[pair[1]][1]}
        others = set(result).union(*[set(t[1]) for k, t in enumerate(terms) if k not in pair])
        return math.prod(sizes[a] for a in names), math.prod(sizes[a] for a in names & others), pair
    return min(itertools.combinations(range(len(terms)), 2), key=cost)
