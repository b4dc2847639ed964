"""Normal noise that is a function of (seed, step) alone: a counter-based generator in plain NumPy, which compiles.

Invariant: the words are Philox4x32-10's, the same on every machine; element k of a step's noise depends on seed, step and k only.
May import: nothing of the package. Read next: loop.py.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

_WORD = 0xFFFFFFFF                              # the words are 32 bits in int64: products wrap, and lose nothing that is used
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox(counter: tuple[Any, Any, Any, Any], key: tuple[Any, Any]) -> tuple[Any, Any, Any, Any]:
    """Four random words for each counter of four words, under a key of two (Philox4x32-10); int64 arrays that hold 32 bits.

    Source: Salmon, Moraes, Dror and Shaw, Parallel random numbers: as easy as 1, 2, 3, SC 2011, section 3.3.

    >>> [int(w[0]) for w in philox((np.zeros(1, int),) * 4, (0, 0))] == [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]
    True
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        first, second = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = ((second >> 32) & _WORD) ^ c1 ^ k0, second & _WORD, ((first >> 32) & _WORD) ^ c3 ^ k1, first & _WORD
        k0, k1 = (k0 + _INCREMENTS[0]) & _WORD, (k1 + _INCREMENTS[1]) & _WORD
    return c0, c1, c2, c3


def normal(position: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """Independent N(0, 1) of this shape; position: an int64 array (seed, step).

    Cost: about 3 ns an element in native code. Source: Box and Muller, Annals of Mathematical Statistics 29 (1958).

    >>> normal(np.array([3, 7]), (2, 3), np.float32).shape
    (2, 3)
    """
    size = math.prod(shape)
    block = np.arange(-(-size // 4))
    seed, step = position[0], position[1]
    zero = block * 0
    words = philox((block, zero + (step & _WORD), zero + ((step >> 32) & _WORD), zero), (seed & _WORD, (seed >> 32) & _WORD))
    parts = []
    for radial, angular in (words[:2], words[2:]):
        radius = np.sqrt(-2.0 * np.log((radial.astype(dtype) + 1.0) * 2.0 ** -32))        # never log 0
        angle = angular.astype(dtype) * (2.0 * math.pi * 2.0 ** -32)
        parts += [radius * np.cos(angle), radius * np.sin(angle)]
    return np.concatenate(parts)[:size].reshape(shape)
