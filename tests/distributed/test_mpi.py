"""The same collectives under mpiexec: worlds of one machine, each in a process group with a deadline."""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

RANKS = Path(__file__).with_name("ranks.py")
MPIEXEC = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")

pytestmark = pytest.mark.skipif(importlib.util.find_spec("mpi4py") is None or MPIEXEC is None,
                                reason="needs mpi4py and an MPI runtime: pip install 'adjoint[mpi]'")


def launch(n, name, seconds=60, program=RANKS):
    """Run a program (ranks.py) with NAME on n ranks: (exit status, output). The whole process group dies at the deadline."""
    command = [MPIEXEC, "-n", str(n), sys.executable, str(program), name]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(RANKS.parents[2])}
    started = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               start_new_session=True)
    try:
        output, _ = started.communicate(timeout=seconds)
    finally:
        if started.poll() is None:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()
    return started.returncode, output


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_collectives_under_mpiexec(n):
    status, output = launch(n, "contract")
    assert status == 0, output
    assert sorted(re.findall(r"rank \d of \d: right", output)) == [f"rank {rank} of {n}: right" for rank in range(n)], output


def test_a_rank_that_waits_in_vain_says_for_whom():
    status, output = launch(2, "lonely", seconds=30)
    assert status != 0 and "rank 0 of 2 has waited 0.3 s for rank 1" in output


def test_importing_the_package_does_not_start_mpi():
    program = "import sys, adjoint.distributed; print('mpi4py' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"
