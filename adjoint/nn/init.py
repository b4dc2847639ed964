"""Initial values of weights: variances that keep signals and gradients alive through depth.

Invariant: every function draws from the numpy Generator it is given, and from nothing else. Weights have shape (out, in, *window).
May import: L0. Read next: layers.py.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..errors import ConfigError, DtypeError, ShapeError, explain

Shape = tuple[int, ...]


def fans(shape: Shape) -> tuple[int, int]:
    """(fan in, fan out) of a weight of shape (out, in, *window).

    >>> fans((3, 2)), fans((3, 2, 5, 5))
    ((2, 3), (50, 75))
    """
    if len(shape) < 2:
        raise ShapeError(explain(f"an initial value with fans needs at least two axes (out, in), found shape {shape}.",
                                 remedy="Use normal or constant for vectors."))
    window = math.prod(shape[2:])
    return shape[1] * window, shape[0] * window


def generator(rng: Any) -> np.random.Generator:
    """rng, if random numbers can be drawn from it; a ConfigError if it is a seed or anything else.

    >>> generator(np.random.default_rng(0)).random() < 1.0
    True
    """
    if not isinstance(rng, (np.random.Generator, np.random.RandomState)):
        raise ConfigError(explain(f"initial values: rng is {rng!r:.80}, expected a generator of random numbers.",
                                  remedy=f"Make one from a seed: rng=np.random.default_rng({rng if isinstance(rng, int) else 0})."))
    return rng


def _uniform(shape: Shape, rng: np.random.Generator, bound: float, dtype: Any) -> np.ndarray:
    if np.dtype(dtype) not in (np.float32, np.float64):
        raise DtypeError(explain(f"initial values: dtype is {np.dtype(dtype)}, expected float32 or float64.", remedy="dtype=np.float32"))
    return generator(rng).uniform(-bound, bound, shape).astype(dtype)


def normal(shape: Shape, rng: np.random.Generator, *, std: float = 0.01, dtype: Any = np.float32) -> np.ndarray:
    """Independent N(0, std^2): deviation `std`.

    >>> normal((400, 300), np.random.default_rng(0), std=0.02).std().round(3)
    np.float32(0.02)
    """
    return (std * generator(rng).standard_normal(shape)).astype(dtype)


def constant(shape: Shape, rng: np.random.Generator | None = None, *, value: float = 0.0, dtype: Any = np.float32) -> np.ndarray:
    """One value everywhere. Degenerate for weights: equal units receive equal gradients and stay equal for ever.

    >>> constant((2, 3), value=0.5)
    array([[0.5, 0.5, 0.5],
           [0.5, 0.5, 0.5]], dtype=float32)
    """
    return np.full(shape, value, dtype)


def truncated_normal(shape: Shape, rng: np.random.Generator, *, std: float = 0.02, bound: float = 2.0,
                     dtype: Any = np.float32) -> np.ndarray:
    """N(0, std^2) restricted to |w| <= bound std, by drawing again; with bound 2 the deviation is 0.88 std.

    >>> w = truncated_normal((400, 300), np.random.default_rng(0))
    >>> bool(np.abs(w).max() <= 0.04), w.std().round(4)
    (True, np.float32(0.0176))
    """
    if bound <= 0:
        raise ConfigError(explain(f"truncated_normal: bound is {bound!r}, expected a positive number of deviations.",
                                  remedy="Say bound=2.0."))
    drawn = generator(rng).standard_normal(shape)
    while (outside := np.abs(drawn) > bound).any():
        drawn[outside] = rng.standard_normal(int(outside.sum()))
    return (std * drawn).astype(dtype)


def orthogonal(shape: Shape, rng: np.random.Generator, *, gain: float = 1.0, dtype: Any = np.float32) -> np.ndarray:
    """gain Q with orthonormal rows (or columns, if there are fewer of these) of the matrix (out, in times window): lengths stay.

    Q is the factor of a normal matrix with the signs of R's diagonal, so that it is uniform over orthogonal matrices.
    Source: Saxe, McClelland and Ganguli, arXiv 1312.6120; Mezzadri, Notices of the AMS 54 (2007), for the signs.

    >>> w = orthogonal((3, 5), np.random.default_rng(0), dtype=np.float64)
    >>> np.allclose(w @ w.T, np.eye(3))
    True
    """
    fans(shape)                                 # a vector has no rows
    rows, columns = shape[0], math.prod(shape[1:])
    q, r = np.linalg.qr(generator(rng).standard_normal((max(rows, columns), min(rows, columns))))
    q = q * np.where(np.diag(r) < 0, -1.0, 1.0)
    return (gain * (q if rows >= columns else q.T)).reshape(shape).astype(dtype)


def xavier_uniform(shape: Shape, rng: np.random.Generator, *, gain: float = 1.0, dtype: Any = np.float32) -> np.ndarray:
    """U(-a, a) with a = gain sqrt(6 / (fan in + fan out)): the variance of outputs and of gradients stays about that of inputs.

    Source: Glorot and Bengio, Understanding the difficulty of training deep feedforward neural networks, AISTATS 2010, eq. 16.

    >>> bool(np.abs(xavier_uniform((400, 200), np.random.default_rng(0))).max() <= 0.1)
    True
    """
    fan_in, fan_out = fans(shape)
    return _uniform(shape, rng, gain * math.sqrt(6.0 / (fan_in + fan_out)), dtype)


def slide_xavier(shape: Shape, rng: np.random.Generator, *, dtype: Any = np.float32) -> np.ndarray:
    """U(-a, a) with a = sqrt(6) / (fan in + fan out): the lecture's rule as it is printed, an erratum, kept to be measured.

    Glorot and Bengio divide by sqrt(fan in + fan out) (xavier_uniform, which is the one to use). The printed bound is smaller by that
    root: 0.00239 for 0.0765 at 512 inputs and 512 outputs, 32 times, and activations vanish with depth. Source: the lecture's slide.

    >>> bool(np.abs(slide_xavier((512, 512), np.random.default_rng(0))).max() <= 0.0024)
    True
    """
    return _uniform(shape, rng, math.sqrt(6.0) / sum(fans(shape)), dtype)


def xavier_normal(shape: Shape, rng: np.random.Generator, *, gain: float = 1.0, dtype: Any = np.float32) -> np.ndarray:
    """N(0, gain^2 2 / (fan in + fan out)). Source: as xavier_uniform, eq. 12.

    >>> xavier_normal((400, 400), np.random.default_rng(0)).std().round(2)
    np.float32(0.05)
    """
    fan_in, fan_out = fans(shape)
    return normal(shape, rng, std=gain * math.sqrt(2.0 / (fan_in + fan_out)), dtype=dtype)


def he_normal(shape: Shape, rng: np.random.Generator, *, gain: float = math.sqrt(2.0), dtype: Any = np.float32) -> np.ndarray:
    """N(0, gain^2 / fan in), gain sqrt 2 for ReLU, which halves the variance; gain 1 for tanh (LeCun).

    Source: He, Zhang, Ren and Sun, Delving deep into rectifiers, ICCV 2015, arXiv 1502.01852, eq. 10.

    >>> he_normal((400, 200), np.random.default_rng(0)).std().round(2)
    np.float32(0.1)
    """
    return normal(shape, rng, std=gain / math.sqrt(fans(shape)[0]), dtype=dtype)


def he_uniform(shape: Shape, rng: np.random.Generator, *, gain: float = math.sqrt(2.0), dtype: Any = np.float32) -> np.ndarray:
    """U(-a, a) with a = gain sqrt(3 / fan in): the same variance as he_normal.

    >>> he_uniform((400, 200), np.random.default_rng(0)).std().round(2)
    np.float32(0.1)
    """
    return _uniform(shape, rng, gain * math.sqrt(3.0 / fans(shape)[0]), dtype)


def torch_linear(shape: Shape, rng: np.random.Generator, *, dtype: Any = np.float32) -> np.ndarray:
    """U(-a, a) with a = 1 / sqrt(fan in): what torch.nn.Linear starts from (kaiming_uniform with a = sqrt 5).

    >>> bool(np.abs(torch_linear((3, 400), np.random.default_rng(0))).max() <= 0.05)
    True
    """
    return he_uniform(shape, rng, gain=math.sqrt(1.0 / 3.0), dtype=dtype)
