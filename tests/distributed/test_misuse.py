"""Bad use: a clear error on every rank, and no world that hangs."""

import os
import signal
import time
from pathlib import Path

import pytest
import worlds

MISUSE = Path(__file__).with_name("misuse.py")

# what is done wrong, and what every rank says
REFUSED = {
    "different models": "CommunicationError: .*different models or optimizers: rank {rank} of 2 has 4 arrays, .*arrays of other shapes",
    "different optimizers": "CommunicationError: .*the ranks have different models or optimizers: rank {rank} of 2 has",
    "different layers": "CommunicationError: .* rank {rank} of 2 has 2 arrays, .*the same arrays, in other layers, functions or options",
    "uneven batch": "taken",                            # averages are over examples: shares may differ by one
    "uneven exact batch": "ShapeError: exact_reduce: 5 examples a rank, expected as many on each, in 6 equal shards",
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
    told = r"^launch: the world has ended with status 1: rank 1 on \S+, process \d+, .*, left with status 1; it is not started again$"
    assert worlds.found(told, lines[-1]), lines
    status, lines = worlds.launched(runtime, "-n", "2", MISUSE, "raises everywhere", seconds=40)
    assert status == 1 and {"ValueError: the cat sat on keyboard 0", "rank 1: ValueError: the cat sat on keyboard 1"} <= set(lines), lines
    assert "left" in lines[-1], lines


@worlds.every_runtime
def test_a_rank_that_leaves_with_a_reason_ends_the_world(runtime):
    """No exception handler sees SystemExit: the others would wait for this rank until somebody loses patience."""
    status, output = worlds.run(runtime.ranks(2, MISUSE, "leaves with a reason"), seconds=30)
    assert status == 1 and "there is no data" in output and "all is well" not in output, output
    status, output = worlds.run(runtime.ranks(2, MISUSE, "goes on"), seconds=30)            # it was caught; at the end all leave so
    assert status == 3 and output.count("all is well") == 2 and not worlds.found(r"(?i)mpi_abort|abort\(3\)", output), output


@worlds.every_runtime
def test_a_rank_that_has_left_does_not_hang(runtime):
    """It waits for the others to leave too, longer than a rank may hang."""
    status, lines = worlds.launched(runtime, "-n", "2", "--hang-seconds", "0.2", MISUSE, "leaves with a reason", seconds=40)
    assert status == 1 and "rank 1: there is no data" in lines and not any("nothing has moved" in line for line in lines), lines
    told = r"^launch: the world has ended with status 1: rank 1 on \S+, process \d+, in no collective yet, left with status 1; it is not"
    assert worlds.found(told, "\n".join(lines)), lines


@worlds.one_runtime
@pytest.mark.parametrize("case, status, said", [
    ("exits", 7, "launch: the world has ended with status 7"),
    ("leaves", 124, "which has ended its program, has not entered all_reduce #1, in which others wait")])
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


@worlds.every_runtime
def test_messages_of_other_sizes_are_no_answers(runtime):
    status, output = worlds.run(runtime.ranks(2, MISUSE, "other sizes"), seconds=40)
    assert status == 1 and worlds.found("^rank 1 of 2 expected 80 bytes from rank 0, found 40, in exchange 0", output), output
    assert worlds.found(r"CommunicationError: rank \d of 2 expected a shorter message than was sent, in exchange \d", output), output


LAUNCHES = "import sys, adjoint.distributed.watch as watch; from adjoint.cli import main; watch.GRACE = float(sys.argv.pop(1)); main()"


@worlds.every_runtime
@pytest.mark.parametrize("grace, interrupts, said", [(0.5, 1, "have not ended 0.5 s after SIGINT: killed"),
                                                     (60.0, 2, "had not ended before a second signal, SIGINT: killed")],
                         ids=["a grace that has passed", "a second Ctrl-C"])
def test_ranks_that_do_not_end_after_ctrl_c_are_killed(runtime, grace, interrupts, said):
    with worlds.started([runtime.python, "-c", LAUNCHES, grace, "launch", "-n", "2", MISUSE, "stays"]) as process:
        assert [process.stdout.readline().rpartition(" ")[2] for _ in range(2)] == ["deaf\n"] * 2
        for _ in range(interrupts):
            os.kill(worlds.inside(process), signal.SIGINT)
            time.sleep(0.3)
        begin = time.monotonic()
        output, _ = process.communicate(timeout=40)
    assert process.returncode == 130 and time.monotonic() - begin < 30
    assert worlds.found(rf"^launch: rank 0, process \d+, and rank 1, process \d+, {said}$", output), output


@worlds.every_runtime
def test_ranks_of_a_machine_share_its_cores(runtime):
    status, output = worlds.run(runtime.ranks(2, MISUSE, "shares cores"), seconds=60, ADJOINT_THREADS="")
    found = [line.split()[0:3:2] for line in output.splitlines() if line.endswith("threads")]
    assert status == 0 and len(found) == 2 and all(int(own) == max(1, int(cores) // 2) for own, cores in found), output


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
