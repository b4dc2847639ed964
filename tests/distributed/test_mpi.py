"""The same collectives under every mpiexec there is, and that a killed test leaves nothing behind."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import worlds

RANKS = Path(__file__).with_name("ranks.py")


@worlds.every_runtime
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_collectives_under_mpiexec(runtime, n):
    status, output = worlds.run(runtime.ranks(n, RANKS, "contract"))
    assert status == 0, output
    assert sorted(re.findall(r"rank \d of \d: right", output)) == [f"rank {rank} of {n}: right" for rank in range(n)], output


@worlds.every_runtime
def test_a_rank_that_waits_in_vain_says_for_whom(runtime):
    status, output = worlds.run(runtime.ranks(2, RANKS, "lonely"), seconds=30)
    assert status != 0 and "rank 0 of 2 has waited 0.3 s for rank 1" in output


@worlds.every_runtime
def test_whoever_has_come_is_not_blamed(runtime):
    status, output = worlds.run(runtime.ranks(3, RANKS, "absent"), seconds=30)
    assert status != 0 and "rank 0 of 3 has waited 0.3 s for rank 2, in exchange 0" in output


@worlds.every_runtime
def test_a_lost_rank_is_no_traceback_of_mpi(runtime):
    status, output = worlds.run(runtime.ranks(2, RANKS, "dies"), seconds=30)
    assert status != 0 and "MPI_ERROR field" not in output and "not reached" not in output, output


@worlds.one_runtime
def test_messages_are_cut_below_the_limit_of_an_int(runtime):
    status, output = worlds.run(runtime.ranks(2, RANKS, "pieces"))
    assert status == 0 and output.count("right") == 2, output


def test_importing_the_package_does_not_start_mpi():
    assert worlds.run([sys.executable, "-c", "import sys, adjoint.distributed; print('mpi4py' in sys.modules)"]) == (0, "False\n")


KILLED = """
import sys, time
import worlds
runtime = worlds.RUNTIMES[0]
with worlds.started(runtime.ranks(2, *sys.argv[1:])) as process:
    print(process.pid, flush=True)
    time.sleep(60)
"""


@worlds.one_runtime
def test_a_killed_test_leaves_no_process_no_interface_and_no_shared_memory(runtime, tmp_path):
    (tmp_path / "killed.py").write_text(KILLED)
    kept = {**worlds.environment(), "PYTHONPATH": f"{worlds.ROOT}:{RANKS.parent}"}
    test = subprocess.Popen([sys.executable, tmp_path / "killed.py", str(RANKS), "waits", str(tmp_path)], env=kept, start_new_session=True)
    seen, deadline = [], time.monotonic() + 60
    try:
        while len(seen) < 2:                # each rank has written what it has: processes, interfaces, shared memory
            assert time.monotonic() < deadline and test.poll() is None
            time.sleep(0.05)
            seen = [path.read_text().split("\n") for path in tmp_path.glob("rank-*.txt")]
        assert alive(tmp_path), "the ranks are seen while they run"
    finally:
        os.killpg(test.pid, signal.SIGKILL)
        test.wait()
    while alive(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(tmp_path)
    interfaces, shared = {name for rank in seen for name in rank[0].split()}, {name for rank in seen for name in rank[1].split()}
    assert any(name.startswith(("mpich_shm", "sm_segment")) for name in shared)
    if not worlds.private():
        pytest.skip("no private namespaces: only processes were counted, interfaces and shared memory are the machine's")
    assert "adjtest0" in interfaces and "adjtest0" not in Path("/proc/self/net/dev").read_text()
    assert not shared & set(os.listdir("/dev/shm"))


def alive(tmp_path):
    """Processes whose command names this test's folder."""
    found = []
    for number in filter(str.isdecimal, os.listdir("/proc")):
        try:
            command = Path("/proc", number, "cmdline").read_bytes()
            zombie = b") Z " in Path("/proc", number, "stat").read_bytes()
        except OSError:
            continue
        if str(tmp_path).encode() in command and not zombie:
            found.append(int(number))
    return found
