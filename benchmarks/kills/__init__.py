"""Ranks in training, killed at random: what each kill cost. See __main__.py; program.py is what the ranks run.

A step is committed when a rank begins the one after it: its snapshot is then whole (adjoint/train/snapshots.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from adjoint.distributed.processes import RANKS, children, environment
from adjoint.settings import GENERATION

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("program.py")
PATIENCE = 60.0                     # seconds after which a world that has not moved is given up
STARTING = 1.5                      # seconds in which a start is disturbed


class Kill(NamedTuple):
    """One SIGKILL: which rank, the steps committed before and found after, and the seconds of each part until the next step."""

    rank: int
    committed: int
    resumed: int
    seconds: float
    parts: dict[str, float]


def lines(folder: Path, ranks: int) -> list[tuple[int, int, int, int, float]]:
    """(generation, step, rank, process, time) of every step that a rank has begun."""
    found = []
    for rank in range(ranks):
        path = folder / f"log-{rank}"
        for text in path.read_text().splitlines() if path.exists() else []:
            if text.startswith("[") and text.endswith("]"):
                again, process, step, at = json.loads(text)
                found.append((again, step, rank, process, at))
    return found


def begun(folder: Path, ranks: int, generation: int, least: int, world: subprocess.Popen) -> list | None:
    """The steps of a generation, once one rank has begun `least` of them; None if the run ended before."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        own = [line for line in lines(folder, ranks) if line[0] == generation]
        if own and max(line[1] for line in own) - min(line[1] for line in own) >= least:
            return own
        if world.poll() is not None:
            return None
        time.sleep(0.01)
    raise RuntimeError(f"generation {generation} has not moved for {PATIENCE:g} s")


def parts_of(folder: Path, rank: int, generation: int, killed: float, ready: float, ended: float) -> dict[str, float]:
    """Where the seconds between a kill and the next committed step went, on one rank."""
    texts = (folder / f"log-{rank}").read_text().splitlines()
    stamps = next(s for s in map(json.loads, texts) if isinstance(s, dict) and s["generation"] == generation)
    times = [killed, stamps["begun"], stamps["imported"], stamps["joined"], ready, ended]
    names = ("end and start", "imports", "MPI", "snapshot", "first step")
    return {name: after - before for name, before, after in zip(names, times[:-1], times[1:], strict=True)}


def surroundings(scratch: Path) -> dict[str, str]:
    """One thread a rank, and byte code as an installed package has it."""
    found = {**os.environ, "ADJOINT_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    if found.pop("PYTHONDONTWRITEBYTECODE", None):
        found["PYTHONPYCACHEPREFIX"] = str(scratch / "pycache")
    return found


def begin(folder: Path, ranks: int, epochs: int, kills: int, scratch: Path) -> subprocess.Popen:
    """Start training on some ranks."""
    folder.mkdir()
    command = [sys.executable, "-m", "adjoint", "launch", "-n", str(ranks), "--max-restarts", str(kills), str(PROGRAM), str(folder),
               str(epochs)]
    return subprocess.Popen(command, env=surroundings(scratch), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def end(world: subprocess.Popen) -> str:
    """What rank 0 prints last."""
    output, _ = world.communicate(timeout=600)
    if world.returncode:
        raise RuntimeError(output)
    return next(line for line in reversed(output.splitlines()) if line.startswith("ended at step"))


def run(folder: Path, ranks: int, epochs: int, kills: int, chance: random.Random, scratch: Path) -> tuple[str, list[Kill]]:
    """Train on some ranks, kill one at a random moment so many times: (what rank 0 printed last, the kills)."""
    world, done = begin(folder, ranks, epochs, kills, scratch), []
    try:
        for generation in range(kills):
            if begun(folder, ranks, generation, 2, world) is None:
                break
            time.sleep(chance.uniform(0, 0.3))
            rank, own = chance.randrange(ranks), [line for line in lines(folder, ranks) if line[0] == generation]
            killed = time.time()
            os.kill(next(line[3] for line in own if line[2] == rank), signal.SIGKILL)
            after = begun(folder, ranks, generation + 1, 1, world)
            if after is None:
                break
            committed = max(line[1] for line in lines(folder, ranks) if line[0] == generation)
            resumed = min(line[1] for line in after)
            at, by = min((line[4], line[2]) for line in after if line[1] == resumed + 1)
            ready = min(line[4] for line in after if line[1] == resumed and line[2] == by)
            done.append(Kill(rank, committed, resumed, at - killed, parts_of(folder, by, generation + 1, killed, ready, at)))
        return end(world), done
    finally:
        world.terminate() if world.poll() is None else None


def started(launcher: subprocess.Popen, generation: int, rank: int) -> int | None:
    """The process of a rank, from its first moment on; None if the run ended before."""
    deadline = time.monotonic() + PATIENCE
    while launcher.poll() is None and time.monotonic() < deadline:
        waiting = [launcher.pid]
        while waiting:
            found = environment(process := waiting.pop())
            if found.get(GENERATION) == str(generation) and str(rank) in map(found.get, RANKS):
                return process
            waiting += children(process)
        time.sleep(0.002)
    return None


def whereabouts(path: Path, process: int) -> str:
    """How far a process has come by its log."""
    texts = path.read_text().splitlines() if path.exists() else []
    own = [line for line in map(json.loads, texts) if process == (line["process"] if isinstance(line, dict) else line[1])]
    return ("before it had joined", "before its first step", "in training")[min(len(own), 2)]


def disturbed_starts(folder: Path, ranks: int, epochs: int, kills: int, chance: random.Random, scratch: Path) -> tuple[str, Counter, int]:
    """Kill a rank of every new world while it starts: (what rank 0 printed last, how many kills came when, committed steps lost)."""
    world, when, lost = begin(folder, ranks, epochs, kills, scratch), Counter(), 0
    try:
        for generation in range(kills):
            rank = chance.randrange(ranks)
            process = started(world, generation, rank)
            time.sleep(chance.uniform(0, STARTING))
            if process is None or world.poll() is not None:
                break
            with contextlib.suppress(ProcessLookupError):           # training has just ended
                os.kill(process, signal.SIGKILL)
                when[whereabouts(folder / f"log-{rank}", process)] += 1
        said = end(world)
    finally:
        world.terminate() if world.poll() is None else None
    committed = -1
    for generation in range(kills + 1):
        if steps := [line[1] for line in lines(folder, ranks) if line[0] == generation]:
            lost += max(0, committed - min(steps))
            committed = max(steps)
    return said, when, lost


def table(kills: list[Kill]) -> str:
    """A line for each kill, and the median and the worst at the end."""
    rows = ["| kill | rank | committed | went on at | next step after, s | " + " | ".join(kills[0].parts) + " |", "|---" * 10 + "|"]
    for number, kill in enumerate(kills, 1):
        rows.append(f"| {number} | {kill.rank} | {kill.committed} | {kill.resumed} | {kill.seconds:.2f} | "
                    + " | ".join(f"{s:.2f}" for s in kill.parts.values()) + " |")
    seconds = [kill.seconds for kill in kills]
    return "\n".join([*rows, f"{len(kills)} kills; committed steps lost: {sum(max(0, k.committed - k.resumed) for k in kills)}; "
                             f"next committed step after {statistics.median(seconds):.2f} s (median), {max(seconds):.2f} s (worst)"])
