"""What the routines of lapack.py compute, in NumPy: the reference executor's side. Matrices are column-major, as a LAPACK has them.

May import: numpy only. Read next: reference.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def perform(routine: str, operands: Sequence[np.ndarray], numbers: Sequence[int]) -> bool:
    """Do in place what the routine does; whether it succeeded."""
    name = routine.rpartition("_")[2]
    try:
        _MEANINGS[name](*operands, *numbers)
    except np.linalg.LinAlgError:
        return False
    return True


def _matrix(memory: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """A view of the memory of a column-major matrix."""
    return memory.reshape(columns, rows).T


def _solve(a: np.ndarray, b: np.ndarray, n: int, k: int) -> None:
    _matrix(b, n, k)[...] = np.linalg.solve(_matrix(a, n, n), _matrix(b, n, k))
    a[...] = np.nan                                        # the factors, which nothing may read


def _factor(a: np.ndarray, sign: np.ndarray, n: int) -> None:
    """Gaussian elimination with partial pivoting, right-looking: the order of LAPACK's unblocked routine."""
    matrix, total = _matrix(a, n, n), 1.0
    for i in range(n):
        pivot = i + int(np.argmax(np.abs(matrix[i:, i])))
        if matrix[pivot, i] == 0:
            continue
        if pivot != i:
            matrix[[i, pivot]], total = matrix[[pivot, i]], -total
        matrix[i + 1:, i] /= matrix[i, i]
        matrix[i + 1:, i + 1:] -= np.outer(matrix[i + 1:, i], matrix[i, i + 1:])
    sign[0] = total


def _cholesky(a: np.ndarray, n: int) -> None:
    matrix = _matrix(a, n, n)
    matrix[...] = np.tril(np.linalg.cholesky(matrix)) + np.triu(matrix, 1)


def _triangular(a: np.ndarray, b: np.ndarray, n: int, k: int, lower: int) -> None:
    matrix, x = _matrix(a, n, n), _matrix(b, n, k)
    if np.any(np.diagonal(matrix) == 0):
        raise np.linalg.LinAlgError
    for i in range(n) if lower else reversed(range(n)):
        known = slice(0, i) if lower else slice(i + 1, n)
        x[i] = (x[i] - matrix[i, known] @ x[known]) / matrix[i, i]


def _eigh(a: np.ndarray, w: np.ndarray, n: int, lower: int) -> None:
    w[...], _matrix(a, n, n)[...] = np.linalg.eigh(_matrix(a, n, n), UPLO="L" if lower else "U")


def _svd(a: np.ndarray, u: np.ndarray, s: np.ndarray, vt: np.ndarray, m: int, n: int) -> None:
    k = min(m, n)
    _matrix(u, m, k)[...], s[...], _matrix(vt, k, n)[...] = np.linalg.svd(_matrix(a, m, n), full_matrices=False)
    a[...] = np.nan


_MEANINGS = {"solve": _solve, "factor": _factor, "cholesky": _cholesky, "triangular": _triangular, "eigh": _eigh, "svd": _svd}
