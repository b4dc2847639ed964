"""adjoint launch: start a world of ranks through mpiexec, relay its output and Ctrl-C, start it again when a rank dies.

Invariant: the launcher computes nothing and imports no MPI; when it ends, no rank is left. Messages between ranks are not encrypted.
May import: errors, settings. Read next: world.py.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from ..errors import ConfigError, explain
from ..settings import GENERATION, integer

INTERRUPTED = 130
GRACE = 10.0            # seconds that ranks have to save and end after Ctrl-C, before they are killed


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


def _arguments(launcher: str, ranks: int, hosts: str | None) -> list[str]:
    """What the launcher is called with, so that each line of output says its rank."""
    about = subprocess.run([launcher, "--version"], capture_output=True, text=True, timeout=30, check=False).stdout
    if "Open MPI" in about or "OpenRTE" in about:
        return [launcher, "--oversubscribe", "--tag-output", *(["--host", hosts] if hosts else []), "-n", str(ranks)]
    return [launcher, "-prepend-rank", *(["-hosts", hosts] if hosts else []), "-n", str(ranks)]


_TAGGED = re.compile(r"\[(?:\d+,)?(\d+)\](?:<std\w+>:)? ?(.*)", re.DOTALL)


def relayed(line: str) -> str:
    """A line of output as it is shown: rank 0's as it is, another's with its rank before it.

    >>> relayed("[0] loss 0.5"), relayed("[3] loss 0.5"), relayed("[1,2]<stdout>: hello"), relayed("a line of mpiexec")
    ('loss 0.5', 'rank 3: loss 0.5', 'rank 2: hello', 'a line of mpiexec')
    """
    found = _TAGGED.fullmatch(line)
    if found is None:
        return line
    rank, text = found.groups()
    return text if rank == "0" else f"rank {rank}: {text}"


def launch(program: Sequence[str], *, ranks: int, max_restarts: int = 0, hosts: str | None = None,
           say: Callable[[str], None] = print) -> int:
    """Run `python program...` on every rank until the world has ended; the status: 0, 130 after Ctrl-C, else that of the last world.

    A world in which a rank dies is ended as a whole, and started again at most max_restarts times with `generation()` one higher: the
    program then resumes from what it saved. hosts: names with commas between, reached by ssh; traffic between them is not encrypted.
    """
    if ranks < 1 or max_restarts < 0:
        raise ConfigError(explain(f"launch: {ranks} ranks, {max_restarts} restarts.", where="",
                                  remedy="At least one rank: adjoint launch -n 4 train.py."))
    if not program or not Path(program[0]).is_file():
        raise ConfigError(explain(f"launch: there is no program {program[0] if program else ''!r}.", where="",
                                  remedy="Name a Python file: adjoint launch -n 4 train.py."))
    command = [*_arguments(mpiexec(), ranks, hosts), sys.executable, *program]
    status = 0
    for start in range(max_restarts + 1):
        status = _one_world(command, start, say)
        if status in (0, INTERRUPTED) or start == max_restarts:
            break
        say(f"launch: a rank has ended with status {status}; starting the world again ({start + 1} of {max_restarts})")
    return status


def _relay(stream: IO[str], say: Callable[[str], None]) -> None:
    """Say every line until the stream ends."""
    with stream:
        for line in stream:
            say(relayed(line.rstrip("\n")))


def _one_world(command: list[str], start: int, say: Callable[[str], None]) -> int:
    """One world, from its start to its end. Ctrl-C is handed on once, the second kills."""
    environment = {**os.environ, GENERATION: str(start)}
    world = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                             start_new_session=True)
    reader = threading.Thread(target=_relay, args=(world.stdout, say), daemon=True)
    reader.start()
    interrupted = False
    try:
        while True:
            try:
                status = world.wait()
                break
            except KeyboardInterrupt:
                if interrupted:
                    break
                interrupted = True
                world.send_signal(signal.SIGINT)
                try:
                    status = world.wait(GRACE)
                    break
                except subprocess.TimeoutExpired:
                    continue
    finally:
        if world.poll() is None:
            os.killpg(world.pid, signal.SIGKILL)
            status = world.wait()
        reader.join(GRACE)
    return INTERRUPTED if interrupted else status if status >= 0 else 128 - status
