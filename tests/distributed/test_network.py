"""What a ring sends, counted twice: by the communicator, to the byte, and by the interfaces of namespaces joined by shaped links."""

import json
import sys

import numpy as np
import pytest
import worlds

from adjoint.distributed import run_threads
from adjoint.distributed.collectives import all_reduce_in_place
from adjoint.distributed.schedules import bounds
from benchmarks import wires


@pytest.mark.mission(66)
@pytest.mark.parametrize(("n", "size"), [(2, 7), (3, 7), (4, 1001), (5, 3), (7, 1000), (8, 8)])
def test_a_rank_of_a_ring_sends_all_chunks_but_one_twice(n, size, figure):
    """Rank r sends every chunk but r + 1 while adding up, and every chunk but r + 2 while handing round: with or without a remainder."""
    counts = run_threads(n, lambda c: (all_reduce_in_place(np.ones(size), c, algorithm="ring"), c.counts)[1], seconds=10)
    chunks = np.diff(bounds(size, n))
    for rank, c in enumerate(counts):
        figure.equal(c.rounds, 2 * (n - 1))
        figure.equal(c.bytes_sent, 8 * (2 * size - chunks[(rank + 1) % n] - chunks[(rank + 2) % n]))
    figure.equal(sum(c.bytes_sent for c in counts), 2 * (n - 1) * 8 * size)


@pytest.mark.mission(66)
def test_interfaces_count_what_the_communicator_counts(tmp_path, figure):
    """TCP over a link of 1 Gbit/s between two namespaces: what eth0 has sent is the payload and at most nine percent of headers more."""
    if not worlds.RUNTIMES[0].mpiexec:
        pytest.skip("there is no MPI runtime: pip install 'adjoint[mpi]'")
    words = "--ranks 2 --size 2e6 --rounds 1 --seconds 0.1 --deadline 60 --results".split()
    status, output = worlds.run([sys.executable, "-m", "benchmarks.network", *words, tmp_path / "r.json"], seconds=90)
    assert status == 0, output
    if output.startswith("no shaped links"):
        pytest.skip(output.splitlines()[0])                             # what the relay counts: test_relay.py
    rows = json.loads((tmp_path / "r.json").read_text())["rows"]
    for name in ("ring", "recursive_doubling", "parameter_server"):
        for counted, sent, received in rows[name]["counters"]:
            figure.equal(counted, 2_000_000)
            assert 1.0 <= sent / counted <= 1.09 and 1.0 <= received / counted <= 1.09, (name, counted, sent, received)


def test_the_page_says_what_was_measured():
    found = wires.BLOCK.search(wires.PAGE.read_text(encoding="utf-8"))
    assert found is not None and found[0] == wires.block(wires.stored(wires.ALLREDUCE), wires.stored(wires.NETWORK)), \
        "run python -m benchmarks.wires"
