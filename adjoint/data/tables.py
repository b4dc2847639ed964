"""Classic tables as arrays: comma-separated files whose rows, columns, classes and gaps are known beforehand and checked.

Invariant: x is float64 with one row per example, missing entries are NaN; y is int64 class numbers or float64 values.
May import: errors, stored. Read next: normalization.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import ConfigError, explain
from .stored import FETCH, LARGEST, inflate, read_stored, refuse


@dataclass(frozen=True, eq=False)
class Table:
    """A table for learning. Shapes: x [examples, features], y [examples]; classes: the names that y numbers, none for regression."""

    name: str
    x: np.ndarray
    y: np.ndarray
    classes: tuple[str, ...]


@dataclass(frozen=True)
class _Form:
    """What a file must be: rows, columns, where the target stands, and what its texts mean."""

    file: str
    rows: int
    columns: int
    classes: tuple[str, ...] = ()
    target: int = -1
    dropped: tuple[int, ...] = ()
    head: bool = False
    categories: Mapping[int, tuple[str, ...]] = field(default_factory=dict)     # column -> values, each becomes a column of 0 and 1


_FORMS = {
    "abalone": _Form("abalone.csv", 4177, 9, categories={0: ("F", "I", "M")}),
    "banknote": _Form("banknote_authentication.csv", 1372, 5, ("0", "1")),
    "breast-cancer": _Form("breast-cancer-wisconsin.csv", 699, 10, ("2", "4")),
    "california": _Form("california_housing.csv.gz", 20640, 9, head=True),
    "housing": _Form("housing.csv", 506, 14),
    "ionosphere": _Form("ionosphere.csv", 351, 35, ("b", "g")),
    "iris": _Form("iris.csv", 150, 5, ("Iris-setosa", "Iris-versicolor", "Iris-virginica")),
    "longley": _Form("longley.csv", 16, 7),
    "pima": _Form("pima-indians-diabetes.csv", 768, 9, ("0", "1")),
    "sonar": _Form("sonar.csv", 208, 61, ("M", "R")),
    "wdbc": _Form("wdbc.csv", 569, 32, ("B", "M"), target=1, dropped=(0,)),
    "wheat-seeds": _Form("wheat-seeds.csv", 210, 8, ("1", "2", "3")),
    "wine": _Form("wine.csv", 178, 14, ("1", "2", "3")),
    "winequality-red": _Form("winequality-red.csv", 1599, 12),
    "winequality-white": _Form("winequality-white.csv", 4898, 12),
}


def load_table(name: str, folder: str | os.PathLike) -> Table:
    """A table by name: abalone, banknote, breast-cancer, california, housing, ionosphere, iris, longley, pima, sonar, wdbc, wheat-seeds,
    wine, winequality-red or winequality-white.

    Classes are numbered in the order of their names (wdbc: B 0, M 1); `?` is NaN; the sex of an abalone is three columns F, I, M.
    Raises: ConfigError for another name; DataError for a file that is missing, torn, of another shape or not what manifest.json lists.
    """
    if name not in _FORMS:
        raise ConfigError(explain(f"load_table: no table is called {name!r:.40}.", remedy=f"Choose one of {', '.join(_FORMS)}."))
    form = _FORMS[name]
    path = Path(folder) / form.file
    rows = _cells(path, form)
    columns = list(zip(*rows, strict=True))
    target = form.target % form.columns
    kept = [i for i in range(form.columns) if i != target and i not in form.dropped]
    x = np.column_stack([part for i in kept for part in _features(columns[i], form.categories.get(i), path, i)])
    if form.classes:
        y = np.array([_place(cell, form.classes, path, row) for row, cell in enumerate(columns[target])], np.int64)
    else:
        y = _numbers(columns[target], path, target)
    return Table(name, x, y, form.classes)


def _cells(path: Path, form: _Form) -> list[list[str]]:
    """The cells of the file as texts, as many as there must be."""
    content = read_stored(path)
    if path.suffix == ".gz":
        content = inflate(content, path, LARGEST)
    lines = content.decode("utf-8", "replace").split("\n")
    rows = [line.strip().split(",") for line in lines[form.head:] if line.strip()]
    if len(rows) != form.rows:
        raise refuse(path, f"it has {len(rows)} rows, expected {form.rows}.", FETCH)
    for number, row in enumerate(rows):
        if len(row) != form.columns:
            raise refuse(path, f"row {number} has {len(row)} columns, expected {form.columns}.", FETCH)
    return rows


def _features(cells: tuple[str, ...], values: tuple[str, ...] | None, path: Path, column: int) -> list[np.ndarray]:
    if values is None:
        return [_numbers(cells, path, column)]
    places = np.array([_place(cell, values, path, row) for row, cell in enumerate(cells)])
    return [(places == k).astype(np.float64) for k in range(len(values))]


def _place(cell: str, values: tuple[str, ...], path: Path, row: int) -> int:
    if cell.strip() not in values:
        raise refuse(path, f"row {row} has {cell.strip()!r:.40}, expected one of {', '.join(values)}.", FETCH)
    return values.index(cell.strip())


def _numbers(cells: tuple[str, ...], path: Path, column: int) -> np.ndarray:
    try:
        return np.array([np.nan if cell.strip() == "?" else float(cell) for cell in cells])
    except ValueError as error:
        raise refuse(path, f"column {column} has a cell that is no number: {error}.", FETCH) from error
