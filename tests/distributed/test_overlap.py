"""Sums beside the backward pass under mpiexec: the same training, hidden communication, and a rank that does not come."""

import re
from pathlib import Path

import pytest
import worlds

RANKS = Path(__file__).with_name("overlap_ranks.py")


@pytest.mark.mission(60)
@worlds.every_runtime
@pytest.mark.parametrize("n", [2])
def test_compiled_steps_with_sums_beside_them_end_as_one_process(runtime, n, figure):
    status, output = worlds.run(runtime.ranks(n, RANKS, "trains"), seconds=120)
    worst = [float(x) for x in re.findall(r"rank \d of \d: worst (\S+)", output)]
    assert status == 0 and len(worst) == n, output
    figure.equal(max(worst), 0.0, abs=1e-10)


@pytest.mark.alone
@worlds.one_runtime
def test_sums_are_hidden_behind_device_like_compute(runtime):
    status, output = worlds.run(runtime.ranks(2, RANKS, "overlaps"))
    assert status == 0 and output.count("right") == 2, output


@worlds.one_runtime
def test_a_rank_that_does_not_come_is_named_with_the_bucket(runtime):
    _, output = worlds.run(runtime.ranks(2, RANKS, "late"), seconds=60)
    said = r"rank 0 of 2: rank 0 of 2, all_reduce of bucket 1 of 4 \((\S+)\): rank 0 of 2 has waited 1 s for rank 1.* at .*_ranks.py:\d+$"
    found = re.search(said, output, re.MULTILINE)
    assert found and found[1] == "layers.2.bias..layers.4.bias", output
