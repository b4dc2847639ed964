"""The table, row by row: no row is named here, so a new row is tested by existing."""

import numpy as np
import pytest

from adjoint.core.primitive import TABLE
from adjoint.testing import rows, survivors
from adjoint.testing.mutants import batching_is_caught
from adjoint.transforms import calls  # noqa: F401 (rows of the transformations join the table at import)

ROWS = [row for row in TABLE.values() if row.kind != "call"]
each_row = pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])


@pytest.fixture(autouse=True)
def strict_arithmetic():
    """Inside a row's domain no rule may overflow, divide by zero or make a NaN on the way."""
    with np.errstate(all="raise"):
        yield


@each_row
def test_values(row):
    rows.check_values(row)


@each_row
def test_memory(row):
    rows.check_memory(row)


@each_row
def test_traced(row):
    rows.check_traced(row)


@each_row
def test_active_sets(row):
    rows.check_active_sets(row)


@each_row
def test_dtypes(row):
    rows.check_dtypes(row)


@each_row
def test_kinks(row):
    rows.check_kinks(row)


@each_row
def test_batching(row):
    rows.check_batching(row)


@each_row
def test_derivatives(row):
    rows.check_derivatives(row, order=2)


@each_row
def test_mutants(row):
    count, alive = survivors(row)
    assert not alive, f"{len(alive)} of {count} wrong rules are not caught"


@each_row
def test_wrong_batching_is_caught(row):
    if row.name != "iota":                  # it has no argument to batch
        assert batching_is_caught(row)


@each_row
def test_documented(row):
    """The first line of a row's text is a sentence with the mathematics, and its rounding is stated."""
    assert row.doc.strip().splitlines()[0].endswith((".", ")", "; ")), row.doc
    assert row.bound >= 0
