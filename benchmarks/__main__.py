"""python -m benchmarks: contestants of every row by turns in one process; prints the table, writes results/latest.json and the README.

Options: --rows TEXT (only rows whose name contains it), --rounds N, --threads N. A peer that is not installed is left out, and said.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np

from .table import RESULTS, write

PAUSE = 0.05                   # seconds in which the threads of the contestant before go to sleep
NEEDS = {"jax": "jax", "torch": "torch", "torch channels_last": "torch", "torch.compile": "torch", "scipy (by hand)": "scipy"}


def use_threads(count: int) -> None:
    """The same number of threads for everyone."""
    os.environ["OMP_NUM_THREADS"] = os.environ["ADJOINT_THREADS"] = str(count)
    os.environ.setdefault("XLA_FLAGS", f"--xla_cpu_multi_thread_eigen=true intra_op_parallelism_threads={count}")
    if importlib.util.find_spec("torch"):
        import torch
        torch.set_num_threads(count)
    if importlib.util.find_spec("jax"):
        import jax
        jax.config.update("jax_enable_x64", True)


def measure(row: Any, rounds: int) -> dict[str, dict]:
    """Median and minimum seconds a call of each contestant, taken in turns, and the largest error against float64."""
    calls, found = {}, {}
    truth = row.truth()
    for name, make in row.contestants.items():
        if NEEDS.get(name) and not importlib.util.find_spec(NEEDS[name]):
            print(f"  {name}: not installed, left out", file=sys.stderr)
            continue
        began = time.perf_counter()
        try:
            call, answer, *restart = made_cold(make)
        except Exception as failure:                     # a peer that cannot run here is said, never silently absent
            print(f"  {name}: {type(failure).__name__}: {str(failure).splitlines()[0][:120]}", file=sys.stderr)
            if name == "adjoint":
                raise
            continue
        found[name] = {"made": time.perf_counter() - began, "seconds": []}
        found[name]["error"] = float(np.max(np.abs(np.asarray(answer(), np.float64) - truth)))
        calls[name] = call, restart
    for call, _ in calls.values():
        for _ in range(max(12, row.repeat // 10)):
            call()
    for _ in range(rounds):
        for name, (call, restart) in calls.items():
            time.sleep(PAUSE)
            for again in (*restart, call, call, call):
                again()
            start = time.perf_counter()
            for _ in range(row.repeat):
                call()
            found[name]["seconds"].append((time.perf_counter() - start) / row.repeat)
    for entry in found.values():
        entry["median"], entry["minimum"] = statistics.median(entry["seconds"]), min(entry["seconds"])
        del entry["seconds"]
    return found


def made_cold(make: Any) -> Any:
    """What make() returns, called once, without the disk cache: its time is that of building, compiling and the first calls."""
    before = os.environ.get("ADJOINT_CACHE_DIR")
    os.environ["ADJOINT_CACHE_DIR"] = ""
    try:
        made = make()
        made[0]()
        return made
    finally:
        if before is None:
            del os.environ["ADJOINT_CACHE_DIR"]
        else:
            os.environ["ADJOINT_CACHE_DIR"] = before


def show(row: Any, found: dict[str, dict], peak: float) -> dict:
    """Print a row; returns it as a record. peak: the machine's float32 flop/s at this number of threads."""
    ours = found["adjoint"]["median"]
    peers = {n: e for n, e in found.items() if n != "adjoint" and "by hand" not in n}     # derivatives written by hand are shown beside
    best = min(peers, key=lambda n: peers[n]["median"]) if peers else None
    ratio = peers[best]["median"] / ours if best else float("nan")
    print(f"\n{row.name}")
    for name, e in sorted(found.items(), key=lambda item: item[1]["median"]):
        share = f"{row.flops / e['median'] / peak:6.1%} of peak" if row.peak else ""
        times = f"{e['median'] * 1e6:12.2f} us  (min {e['minimum'] * 1e6:.2f})  x{e['median'] / ours:6.2f}"
        print(f"  {name:18s} {times}  error {e['error']:.1e}  made in {e['made']:.2f} s  {share}")
    verdict = "reached" if ratio >= row.ratio else "ahead" if ratio > 1 else "behind"
    print(f"  best peer {best}: ratio {ratio:.2f}, wanted {row.ratio}: {verdict}")
    return {"row": row.name, "contestants": found, "best_peer": best, "ratio": ratio, "wanted": row.ratio, "verdict": verdict,
            "flops": row.flops}


def in_new_process(code: str, environment: dict[str, str] | None = None) -> float:
    """Milliseconds that a fresh interpreter reports on its last line."""
    environment = {**os.environ, **(environment or {})}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)         # imports as users have them: from byte code, after the first
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return float(run.stdout.strip().splitlines()[-1])


IMPORT = "import time; t = time.perf_counter(); import numpy{more}; print(1e3 * (time.perf_counter() - t))"
COMPILE = """
import time, sys
import numpy as np
from benchmarks.rows import Problem, adjoint_adam, jax_adam
problem = Problem((784, 512, 512, 10), 256)
import adjoint, adjoint.nn, adjoint.optim, adjoint.compiler.compile
adjoint.compile(lambda x: x)(np.ones(3))
t = time.perf_counter()
{make}(problem)
print(1e3 * (time.perf_counter() - t))
"""


def start_up(folder: str) -> list[dict]:
    """Import and compile times, each in new processes (median of several)."""
    records = []
    in_new_process(IMPORT.format(more=", adjoint"))
    plain = statistics.median(in_new_process(IMPORT.format(more="")) for _ in range(9))
    ours = statistics.median(in_new_process(IMPORT.format(more=", adjoint")) for _ in range(9))
    print(f"\nimport numpy {plain:.0f} ms, with adjoint {ours:.0f} ms: {ours - plain:+.0f} ms (wanted at most +40)")
    records.append({"row": "import adjoint with numpy, ms", "numpy": plain, "adjoint": ours, "wanted": plain + 40})
    environment = {"ADJOINT_CACHE_DIR": folder}
    cold = in_new_process(COMPILE.format(make="adjoint_adam"), environment)
    warm = statistics.median(in_new_process(COMPILE.format(make="adjoint_adam"), environment) for _ in range(3))
    print(f"compile of the 784-512-512-10 step: cold {cold:.0f} ms, from the disk cache in a new process {warm:.0f} ms (wanted 150)")
    records.append({"row": "compile of the 784-512-512-10 step, ms", "cold": cold, "warm": warm, "wanted_warm": 150})
    if importlib.util.find_spec("jax"):
        peer = in_new_process(COMPILE.format(make="jax_adam"))
        print(f"  jax (jit, first call) {peer:.0f} ms")
        records[-1]["jax"] = peer
    return records


def machine() -> dict[str, Any]:
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.processor()) \
        if os.path.exists("/proc/cpuinfo") else platform.processor()
    names = ("numpy", "llvmlite", "jax", "torch", "scipy")
    versions = {n: importlib.metadata.version(n) for n in names if importlib.util.find_spec(n)}
    return {"processor": model, "cores": os.cpu_count(), "python": platform.python_version(), "versions": versions}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rows", default="", help="only rows whose name contains this")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    use_threads(options.threads)
    from .images import image_rows
    from .peak import measured_peak
    from .rows import all_rows
    from .sequences import sequence_rows
    peak = measured_peak(options.threads)
    print(json.dumps(machine()), f"threads {options.threads}, float32 peak {peak / 1e9:.0f} GFLOP/s")
    records = []
    for row in [*all_rows(), *image_rows(), *sequence_rows()]:
        if options.rows in row.name:
            records.append(show(row, measure(row, options.rounds), peak))
    if not options.rows:
        import tempfile
        with tempfile.TemporaryDirectory() as folder:
            records += start_up(folder)
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps({"machine": machine(), "threads": options.threads, "peak": peak, "rows": records}, indent=1) + "\n")
        write()


if __name__ == "__main__":
    main()
