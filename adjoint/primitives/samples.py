"""What the table-driven tests try a row on: arguments of equal, broadcast, 0-d, empty and odd shapes, drawn from the row's domain.

Invariant: samples keep away from kinks with probability one; the kinks themselves are stated by the rows. May import: nothing of the
package. Read next: kinds.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

UNARY = ((3, 4), (), (0, 2), (1,), (2, 1, 5))
BINARY = (((3, 4), (3, 4)), ((3, 4), (4,)), ((2, 1, 3), (4, 1)), ((), ()), ((5, 0), (5, 0)), ((3,), ()))


def elementwise_samples(rng: np.random.Generator, arity: int, domain: Any, **params: Any) -> list:
    """Arguments of an elementwise row."""
    domains = [domain] * arity if np.ndim(domain[0]) == 0 else list(domain)
    cases = [(s,) for s in UNARY] if arity == 1 else [(s, *[t] * (arity - 1)) for s, t in BINARY]
    return [(tuple(draw(rng, d, s) for d, s in zip(domains, shapes, strict=True)), params) for shapes in cases]


def draw(rng: np.random.Generator, domain: Any, shape: tuple) -> np.ndarray:
    """Uniform over (low, high): floats, integers if both ends are; booleans if both ends are."""
    if all(isinstance(end, bool) for end in domain):
        return np.asarray(rng.integers(0, 2, shape), bool)
    if all(isinstance(end, int) for end in domain):
        return np.asarray(rng.integers(domain[0], domain[1], shape))
    return np.asarray(rng.uniform(*domain, shape))


def reduction_samples(rng: np.random.Generator, domain: Any, empty: bool) -> list:
    """One array and the axes it is reduced over: inner, outer, several, all, none, of extent 0 and 1."""
    cases = [((2, 3, 4), (0, 2)), ((3, 5), (1,)), ((3, 5), (0,)), ((40,), (0,)), ((2, 3), ()), ((2, 1, 3), (1,)), ((), ()), ((0, 3), (1,))]
    cases += [((0, 3), (0,)), ((3, 0), (0, 1))] if empty else []
    return [((draw(rng, domain, s),), {"axes": axes}) for s, axes in cases]


def unary_samples(size: tuple, /, **params: Any) -> Callable:
    """A maker of one sample: normal numbers of one shape, with parameters."""
    return lambda rng: ((rng.standard_normal(size),), params)


def samples_of(*makers: Callable) -> Callable:
    """The samples of several makers."""
    return lambda rng: [make(rng) for make in makers]
