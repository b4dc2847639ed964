"""Sums under mpiexec that arrive block by block, MPI's own all-reduce, and the probe of an MPI world."""

import re
from pathlib import Path

import pytest
import worlds

RANKS = Path(__file__).with_name("block_ranks.py")


@worlds.every_runtime
@pytest.mark.parametrize(("n", "name"), [(2, "blocks"), (3, "blocks"), (4, "blocks"), (2, "natively"), (3, "natively")])
def test_under_mpiexec(runtime, n, name, tmp_path):
    status, output = worlds.run(runtime.ranks(n, RANKS, name), seconds=60, ADJOINT_CACHE_DIR=str(tmp_path))
    assert status == 0, output
    assert sorted(re.findall(r"rank \d of \d: right", output)) == [f"rank {rank} of {n}: right" for rank in range(n)], output


@worlds.every_runtime
def test_arrays_of_other_sizes_are_no_sum(runtime, tmp_path):
    _, output = worlds.run(runtime.ranks(2, RANKS, "other_sizes"), seconds=60)              # the status is of ranks that leave MPI alone
    assert sorted(re.findall(r"rank \d of 2: right", output)) == ["rank 0 of 2: right", "rank 1 of 2: right"], output


@worlds.every_runtime
@pytest.mark.parametrize("n", [2, 3])
def test_arrays_of_other_dtypes_are_no_sum(runtime, n, tmp_path):
    _, output = worlds.run(runtime.ranks(n, RANKS, "other_kinds"), seconds=60)
    assert sorted(re.findall(r"rank \d of \d: right", output)) == [f"rank {rank} of {n}: right" for rank in range(n)], output
