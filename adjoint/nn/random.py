"""Random numbers as pure functions of a key: a counter-based generator in plain NumPy, which compiles; the same bits everywhere.

Invariant: the words are Philox4x32-10's; an element depends on its key, its index and the size of the array, never on threads or
target. A key is an int64 array (seed, stream). May import: errors. Read next: dropout.py, modes.py.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..errors import ConfigError, ShapeError, explain

_WORD = 0xFFFFFFFF                              # the words are 32 bits in int64: products wrap, and lose nothing that is used
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_DRAWS, _SPLITS = 0, 1                          # the last word of a counter: numbers and new keys never share one


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


def _words(key: Any, blocks: int, purpose: int) -> tuple[Any, Any, Any, Any]:
    """Four arrays of `blocks` words: the counters are (block, low and high word of the stream, purpose)."""
    if np.shape(key) != (2,) or key.dtype != np.int64:
        found = f"{key.dtype}{list(np.shape(key))}" if hasattr(key, "dtype") else type(key).__name__
        raise ShapeError(explain(f"random numbers: the key is {found}, expected int64[2].",
                                 remedy="Make one: key=np.array([seed, step]); further ones with nn.random.split(key, count)."))
    block = np.arange(blocks)
    seed, stream = key[0], key[1]
    zero = block * 0
    return philox((block, zero + (stream & _WORD), zero + ((stream >> 32) & _WORD), zero + purpose), (seed & _WORD, (seed >> 32) & _WORD))


def split(key: Any, count: int) -> Any:
    """`count` new keys [count, 2] whose numbers have nothing to do with one another or with the key's own.

    >>> split(np.array([3, 7]), 4).shape
    (4, 2)
    """
    first, second, third, fourth = _words(key, count, _SPLITS)
    return np.stack([first | (second << 32), third | (fourth << 32)], axis=1)


def _drawn(key: Any, shape: tuple[int, ...], number: Any) -> Any:
    """number(word) for a word of every element: element j * blocks + b has word j of block b."""
    if any(isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 0 for n in shape):
        raise ShapeError(explain(f"random numbers: the shape is {shape}, expected sizes of 0 and more.", remedy="For instance (3, 4)."))
    size = math.prod(shape)
    words = _words(key, -(-size // 4), _DRAWS)
    return np.concatenate([number(word) for word in words])[:size].reshape(shape)


def bits(key: Any, shape: tuple[int, ...]) -> Any:
    """Independent uniform words, 0 to 2^32 - 1, in int64.

    >>> bits(np.array([0, 0]), (2, 3)).max() < 2 ** 32
    np.True_
    """
    return _drawn(key, shape, lambda word: word)


def uniform(key: Any, shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
    """Independent U[0, 1), multiples of 2^-24 (2^-32 in float64): never 1.

    >>> uniform(np.array([0, 0]), (400, 300)).mean().round(2)
    np.float32(0.5)
    """
    digits = 24 if np.dtype(dtype) == np.float32 else 32
    return _drawn(key, shape, lambda word: (word >> (32 - digits)).astype(dtype) * 2.0 ** -digits)


def bernoulli(key: Any, p: float, shape: tuple[int, ...]) -> Any:
    """True with probability p, independently (p to the nearest 2^-32).

    >>> bernoulli(np.array([0, 0]), 0.25, (400, 300)).mean().round(2)
    np.float64(0.25)
    """
    if not 0.0 <= p <= 1.0:
        raise ConfigError(explain(f"bernoulli: p is {p!r}, expected a probability from 0 to 1.", remedy="For instance 0.5."))
    limit = round(p * 2 ** 32)
    return _drawn(key, shape, lambda word: word < limit)


def normal(key: Any, shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
    """Independent N(0, 1).

    Cost: about 3 ns an element in native code. Source: Box and Muller, Annals of Mathematical Statistics 29 (1958).

    >>> normal(np.array([3, 7]), (2, 3)).shape
    (2, 3)
    """
    size = math.prod(shape)
    words = _words(key, -(-size // 4), _DRAWS)
    parts = []
    for radial, angular in (words[:2], words[2:]):
        radius = np.sqrt(-2.0 * np.log((radial.astype(dtype) + 1.0) * 2.0 ** -32))        # never log 0
        angle = angular.astype(dtype) * (2.0 * math.pi * 2.0 ** -32)
        parts += [radius * np.cos(angle), radius * np.sin(angle)]
    return np.concatenate(parts)[:size].reshape(shape)
