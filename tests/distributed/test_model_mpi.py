"""Model parallelism under mpiexec: collectives called from native code, in processes."""

import re
from pathlib import Path

import pytest
import worlds

RANKS = Path(__file__).with_name("model_ranks.py")


@worlds.one_runtime
@pytest.mark.parametrize("n", [2])
def test_split_model_and_stages_under_mpiexec(runtime, n):
    status, output = worlds.run(runtime.ranks(n, RANKS), seconds=90)
    assert status == 0, output
    assert sorted(re.findall(r"rank \d of \d: right", output)) == [f"rank {rank} of {n}: right" for rank in range(n)], output
