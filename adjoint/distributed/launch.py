"""adjoint launch: start a world of ranks through mpiexec, relay its output and Ctrl-C, start it again when a rank dies or hangs.

Invariant: the launcher computes nothing and imports no MPI; when it ends, no rank is left. Messages between ranks are not encrypted.
May import: errors, settings, status, watch, relay. Read next: watch.py.
"""

from __future__ import annotations

import ast
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import ConfigError, explain
from ..settings import GENERATION, LAUNCH, integer
from . import status
from .relay import TAG
from .watch import HUNG, INTERRUPTED, TERMINATED, watched

HANG_SECONDS = 300.0
NOT_FINISHED = 1            # status where mpiexec reports success and rank 0 has not ended its program
ALLOCATIONS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID")      # set where a resource manager tells mpiexec its machines


def generation() -> int:
    """How often this world was started again after a rank had died: 0 at first. A program resumes where it is greater.

    >>> generation()
    0
    """
    return integer(GENERATION, 0, least=0)


def mpiexec() -> str:
    """The MPI launcher beside this Python, or on the path. Raises ConfigError where there is none."""
    found = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if found is None:
        raise ConfigError(explain("launch: there is no mpiexec.", where="",
                                  remedy="Install a runtime: pip install 'adjoint[mpi]' (on Windows the package mpich is empty: impi-rt)."))
    return found


@functools.lru_cache(4)
def is_open_mpi(launcher: str) -> bool:
    """Whether an mpiexec is Open MPI's. Raises ConfigError where it does not run."""
    try:
        said = subprocess.run([launcher, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError(explain(f"launch: {launcher} does not run: {str(error)[:200]}", where="",
                                  remedy="Install a runtime beside Python: pip install 'adjoint[mpi]'.")) from error
    return "Open MPI" in said or "OpenRTE" in said


def arguments(launcher: str, ranks: int, nodes: int, hosts: Sequence[str]) -> list[str]:
    """What mpiexec is called with, so that each line of output says its rank, and every machine gets as many ranks."""
    each = ranks // nodes
    if is_open_mpi(launcher):
        # Bound to cores, the first rank of every world would have the same one.
        named = ["--host", ",".join(f"{host}:{each}" for host in hosts)] if hosts else []
        exported = [word for name in (GENERATION, LAUNCH) for word in ("-x", name)]
        return [launcher, "--oversubscribe", "--bind-to", "none", "--tag-output", *named, *exported, "-n", str(ranks)]
    return [launcher, "-prepend-pattern", TAG, *(["-hosts", ",".join(hosts)] if hosts else []),
            *(["-ppn", str(each)] if nodes > 1 else []), "-n", str(ranks)]


def _check(program: Sequence[str], ranks: int, nodes: int, hosts: Sequence[str], max_restarts: int, hang_seconds: float) -> None:
    if ranks < 1 or max_restarts < 0 or not hang_seconds > 0:
        raise ConfigError(explain(f"launch: {ranks} ranks, {max_restarts} restarts, {hang_seconds:g} s until a rank hangs.", where="",
                                  remedy="At least one rank: adjoint launch -n 4 train.py."))
    if nodes < 1 or ranks % nodes:
        raise ConfigError(explain(f"launch: {ranks} ranks cannot be dealt evenly to {nodes} machines.", where="",
                                  remedy="Choose -n as a multiple of --nnodes."))
    if len(hosts) < nodes and (hosts or nodes > 1) and not any(os.environ.get(name) for name in ALLOCATIONS):
        raise ConfigError(explain(f"launch: {nodes} machines are asked for, {len(hosts)} are named.", where="",
                                  remedy="Name them: --hosts a,b,c (reached by ssh), or start inside an allocation of Slurm, PBS or LSF."))
    if not program or not Path(program[0]).is_file():
        raise ConfigError(explain(f"launch: there is no program {program[0] if program else ''!r}.", where="",
                                  remedy="Name a Python file: adjoint launch -n 4 train.py."))
    if (fault := _fault(Path(program[0]))):
        raise ConfigError(explain(f"launch: {program[0]} is no Python program: {fault}.", where="",
                                  remedy="Name a Python file that runs by itself too: python train.py."))


def _fault(program: Path) -> str:
    """Why Python cannot read a program, so that it is said once and not by every rank; nothing where it can."""
    try:
        if program.suffix != ".pyc" and not zipfile.is_zipfile(program):
            with warnings.catch_warnings(action="ignore"):
                ast.parse(program.read_bytes())
    except SyntaxError as error:
        return f"line {error.lineno}: {error.msg}"
    except (OSError, ValueError, RecursionError) as error:
        return str(error)
    return ""


def launch(program: Sequence[str], *, ranks: int, nodes: int | None = None, hosts: str | None = None, max_restarts: int = 0,
           hang_seconds: float = HANG_SECONDS, say: Callable[[str], None] = print) -> int:
    """Run `python program...` on every rank until the world has ended; the status.

    A world in which a rank dies is ended as a whole, and started again at most max_restarts times with `generation()` one higher: the
    program then resumes from what it saved. hosts: names with commas between, reached by ssh, of which the first `nodes` (default: all)
    are used; a machine whose rank has hung is left out of the next world if another is left. A rank hangs if others wait in a collective
    that it has not entered, and nothing moves for hang_seconds, or for 10 if all wait for one that has ended its program.
    Status: 0 finished, and rank 0 has written its completion record; 1 not finished, or an error of the launcher; 124 a rank hangs; 130
    after Ctrl-C, 143 after SIGTERM, once every rank has saved and ended; else that of the last world, which is the program's own, or
    the signal that killed a rank (9 under MPICH, 137 under Open MPI). Raises ConfigError.
    """
    named = [name.strip() for name in (hosts or "").split(",") if name.strip()]
    nodes = nodes if nodes is not None else max(1, len(named))
    _check(program, ranks, nodes, named, max_restarts, hang_seconds)
    if named:
        say(f"launch: {ranks} ranks on {', '.join(named[:nodes])}; what they send each other is not encrypted: trust the network")
    launcher = mpiexec()
    with tempfile.TemporaryDirectory(prefix="adjoint-launch-") as folder:
        for start in range(max_restarts + 1):
            command = [*arguments(launcher, ranks, nodes, named[:nodes]), sys.executable, *program]
            world = watched(command, Path(folder), start, ranks, hang_seconds, say, signals_ranks=is_open_mpi(launcher))
            ended = _judged(world.status, Path(folder), say)
            if ended in (0, INTERRUPTED, TERMINATED):
                break
            if named and not status.places(Path(folder)):
                say(f"launch: no rank was seen from here; each machine must answer ssh without a question: ssh {named[0]} true")
            what = "a rank hangs in the world" if ended == HUNG else f"the world has ended with status {ended}{world.first}"
            if start == max_restarts:
                say(f"launch: {what}; it is not started again")
                break
            usable = [name for name in named if name not in world.hung]
            if nodes <= len(usable) < len(named):
                say(f"launch: without {', '.join(name for name in named if name in world.hung)} from now on")
                named = usable
            say(f"launch: {what}; starting it again ({start + 1} of {max_restarts})")
    return ended


def _judged(ended: int, folder: Path, say: Callable[[str], None]) -> int:
    """The status of a world: success only if rank 0, where it could be seen, has written its completion record."""
    if ended == 0 and any(place.rank == 0 for place in status.places(folder)) and 0 not in status.completed(folder):
        say("launch: mpiexec reports success, but rank 0 has not ended its program")
        return NOT_FINISHED
    return ended
