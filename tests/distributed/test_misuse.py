"""Bad use: a clear error on every rank, and no world that hangs."""

from pathlib import Path

import pytest
import worlds

MISUSE = Path(__file__).with_name("misuse.py")

# what is done wrong, and what every rank says
REFUSED = {
    "different models": "CommunicationError: .*the ranks have different models or optimizers: rank {rank} of 2 has 4 arrays",
    "different optimizers": "CommunicationError: .*the ranks have different models or optimizers: rank {rank} of 2 has",
    "uneven batch": "taken",                            # averages are over examples: shares may differ by one
    "uneven exact batch": "ShapeError: exact_reduce: 5 examples of rank {rank} are not 6 equal shards",
    "batch below ranks": "ShapeError: a batch of 1 examples cannot be shared by 2 ranks",
    "shards not dealt": "ConfigError: exact_reduce: 7 shards cannot be dealt evenly to 2 ranks",
    "no array": "ShapeError: all_reduce_in_place: the buffer is list, expected a contiguous array",
}


@worlds.every_runtime
def test_what_every_rank_does_wrong_every_rank_is_told(runtime):
    status, lines = worlds.launched(runtime, "-n", "2", MISUSE, "refused")
    text = "\n".join(lines)
    assert status == 0 and lines.count("all is well") == lines.count("rank 1: all is well") == 1, text
    for title, said in REFUSED.items():
        for rank, prefix in enumerate(("", "rank 1: ")):
            pattern = f"^{prefix}{title}: {said.format(rank=rank)}"
            assert worlds.found(pattern, text), (pattern, text)


@worlds.every_runtime
def test_a_rank_that_raises_ends_the_world_in_its_own_words(runtime):
    status, lines = worlds.launched(runtime, "-n", "2", MISUSE, "raises", seconds=40)
    assert status == 1 and "rank 1: ValueError: the cat sat on the keyboard" in lines, lines
    assert "launch: the world has ended with status 1; it is not started again" in lines
    status, lines = worlds.launched(runtime, "-n", "2", MISUSE, "raises everywhere", seconds=40)
    assert status == 1 and {"ValueError: the cat sat on keyboard 0", "rank 1: ValueError: the cat sat on keyboard 1"} <= set(lines), lines


@worlds.one_runtime
@pytest.mark.parametrize("case, status, said", [
    ("exits", 7, "launch: the world has ended with status 7; it is not started again"),
    ("leaves", 124, "has not entered all_reduce #1, in which others wait")])
def test_a_rank_that_goes_early_ends_the_world(runtime, case, status, said):
    found, lines = worlds.launched(runtime, "-n", "2", "--hang-seconds", "1", MISUSE, case, seconds=40)
    assert found == status and any(said in line for line in lines), lines


@worlds.one_runtime
@pytest.mark.parametrize("case, marks, said", [
    ("no binding", {"PMI_RANK": "0", "PMI_SIZE": "2"}, r"MPI cannot be loaded: .*\n.*adjoint.mpi.*On Windows that is impi-rt"),
    ("no library", {"PMI_RANK": "0", "MPI4PY_LIBMPI": "/nowhere/libmpi.so"}, r"MPI cannot be loaded: (.*\n)+.*adjoint.mpi"),
    ("another mpiexec", {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "1"}, "has started 4 processes .*MPI's world has 1 rank"),
    ("srun without PMI", {"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "3"}, "has started 8 processes .*\n.*srun --mpi=pmi2")])
def test_a_runtime_that_is_missing_or_another_is_said(runtime, case, marks, said):
    status, output = worlds.run([runtime.python, MISUSE, case], seconds=40, **marks)
    assert status == 1 and worlds.found(f"CommunicationError: .*{said}", output) and "all is well" not in output, output


HOLDS = """
import os, socket, subprocess, sys
with socket.socket() as taken:
    taken.bind(("", 0))
    taken.listen()
    port = taken.getsockname()[1]
    sys.exit(subprocess.call(sys.argv[1:], env={**os.environ, "MPIEXEC_PORT_RANGE": f"{port}:{port}"}))
"""


@worlds.one_runtime
def test_a_port_that_is_taken_is_said(runtime):
    """Only mpiexec opens ports, any that is free; told to use one that is taken, it says so and ends."""
    status, output = worlds.run([runtime.python, "-c", HOLDS, runtime.python, "-m", "adjoint", "launch", "-n", "2", MISUSE, "nothing"])
    assert status == 255 and "no port to bind" in output and "the world has ended with status 255" in output, output


@pytest.mark.skipif(any(r.why_not for r in worlds.RUNTIMES), reason="one MPI only: there is no mpiexec of another one")
def test_the_mpiexec_of_another_mpi_is_said():
    first, second = [r for r in worlds.RUNTIMES if not r.why_not][:2]
    for runtime, other in ((first, second), (second, first)):
        command = [*runtime.ranks(2, MISUSE, "nothing")[:-3], other.python, MISUSE, "nothing"]
        status, output = worlds.run(command, seconds=60)
        assert status != 0 and "all is well" not in output, output
        assert "the launcher has started 2 processes" in output or "unsupported PMI version" in output, output      # ours, or MPICH's own
