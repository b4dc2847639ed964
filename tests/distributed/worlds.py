"""Processes of tests: a private namespace where the system lets us, a deadline always, and the MPI runtimes there are.

In a namespace of its own (users, processes, mounts, network, and a /dev/shm) a killed test leaves no process, interface or shared memory.
Elsewhere: a session of its own that dies with the test, and its own shared-memory files are removed. What is not as it should be is noted
in NOTES, which conftest.py prints. Other runtimes: MPI_PYTHONS="/path/to/python:..." names Pythons that have mpi4py, an MPI and what this
package needs.
"""

import contextlib
import ctypes
import functools
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from adjoint.distributed import status
from adjoint.distributed.watch import _SHARED

ROOT = Path(__file__).resolve().parents[2]
NOTES: set[str] = set()
UNSHARE = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount", "--net", "sh", "-c",
           'mount -t tmpfs tmpfs /dev/shm && mount -t proc proc /proc && ip link set lo up && exec "$@"', "sh"]


def _dies_with_the_test():
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)          # PR_SET_PDEATHSIG


@functools.lru_cache(1)
def private():
    """Whether this system lets us have namespaces."""
    try:
        done = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        done = subprocess.CompletedProcess([], 1, "", str(error))
    if done.returncode:
        NOTES.add(f"no private namespaces: tests run in process groups ({' '.join(done.stderr.split())[:100]})")
    return done.returncode == 0


class Runtime:
    """An MPI with the Python that it belongs to."""

    def __init__(self, name, python, why_not=""):
        self.name, self.python, self.why_not = name, str(python), why_not
        self.mpiexec = shutil.which("mpiexec", path=f"{Path(python).parent}{os.pathsep}{os.environ.get('PATH', '')}")

    def ranks(self, n, *program):
        """The command that runs a Python program on n ranks, without our launcher."""
        more = ["--oversubscribe", "--bind-to", "none"] if self.name == "openmpi" else []
        return [self.mpiexec, *more, "-n", str(n), self.python, *map(str, program)]


def _name_of(python):
    mpiexec = shutil.which("mpiexec", path=f"{Path(python).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if mpiexec is None:
        return None
    said = subprocess.run([mpiexec, "--version"], capture_output=True, text=True, timeout=30, check=False).stdout
    return "openmpi" if "Open MPI" in said or "OpenRTE" in said else "mpich"


def _runtimes():
    own = _name_of(sys.executable) if importlib.util.find_spec("mpi4py") else None
    found = [Runtime(own, sys.executable)] if own else []
    for python in filter(None, os.environ.get("MPI_PYTHONS", "").split(os.pathsep)):
        found.append(Runtime(_name_of(python), python))
    for name in ("mpich", "openmpi"):
        if name not in [runtime.name for runtime in found]:
            found.append(Runtime(name, sys.executable, f"there is no {name}: name a Python that has it in MPI_PYTHONS"))
    return found


RUNTIMES = _runtimes()


def _parameters(runtimes):
    return [pytest.param(r, id=r.name, marks=[pytest.mark.skip(reason=r.why_not)] if r.why_not else []) for r in runtimes]


every_runtime = pytest.mark.parametrize("runtime", _parameters(RUNTIMES))
one_runtime = pytest.mark.parametrize("runtime", _parameters(RUNTIMES[:1]))         # for what does not depend on it


def environment(**more):
    """One thread a rank, this tree's package."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "ADJOINT_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMPI_ALLOW_RUN_AS_ROOT": "1",
             "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", **more}


@contextlib.contextmanager
def started(command, **more):
    """A process in a private namespace, or in a session of its own; killed with all it has started when the block ends."""
    with tempfile.TemporaryDirectory(prefix="adjoint-test-") as folder:
        # Open MPI names its sockets in TMPDIR by process numbers, which are the same in every namespace; ranks name their memory in a page.
        kept = environment(TMPDIR=folder, **({} if "adjoint" in command else {"ADJOINT_LAUNCH": folder}), **more)
        process = subprocess.Popen([*(UNSHARE if private() else []), *map(str, command)], env=kept, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
                                   preexec_fn=_dies_with_the_test)
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            if not private():
                for name in {name for place in status.places(Path(folder)) for name in place.shared if _SHARED.fullmatch(name)}:
                    Path("/dev/shm", name).unlink(missing_ok=True)


def inside(process):
    """The process number of the command itself, seen from outside the namespace."""
    if not private():
        return process.pid
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])


def run(command, *, seconds=60, **more):
    """(exit status, output) of a command; killed at the deadline."""
    with started(command, **more) as process:
        output, _ = process.communicate(timeout=seconds)
    return process.returncode, output


def launched(runtime, *words, seconds=60, **more):
    """(exit status, lines) of `adjoint launch` with this runtime."""
    status_, output = run([runtime.python, "-m", "adjoint", "launch", *words], seconds=seconds, **more)
    return status_, output.splitlines()


def found(pattern, text):
    """Whether a line of the text matches; a dot may not, and \\n must, go on to the next line."""
    return re.search(pattern, text, re.MULTILINE) is not None
