"""python -m benchmarks.overlap: what communication costs that runs beside the backward pass, and how soon a cancelled call returns.

Parts (--parts, all by default): ready (when each of 8 buckets of the Fashion-MNIST network is finished, one process), cancel, slept (250 ms
of device-like compute with 215 ms of communication: over simulated links, and over MPI between two namespaces with 1 Gbit/s), real (the
compiled Fashion-MNIST step over 1 Gbit/s), ranks (2 ranks of one thread against one, global batch 256; the cost of exact_reduce).
Parts that need namespaces or mpiexec say so where there are none. Options: --rounds N, --rate RATE.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from .network import AGENT, MPICH, PRIVATE, ROOT, UNSHARE, cluster, dies_with_us, why_not

COMPUTE, COMMUNICATION, SLICES = 0.250, 0.215, 8
PAYLOAD = 117.7e6               # bytes a second that 1 Gbit/s of Ethernet carries
PARTS = ("ready", "cancel", "slept", "real", "ranks")
DEADLINE = 300.0                # seconds of a world of ranks


def fashion(rank: int, ranks: int, batch: int, **options: Any) -> tuple:
    """(step, model, state, x, y) of the Fashion-MNIST network on this rank's share of a batch; a bucket for each parameter: 8."""
    from adjoint import nn, optim
    from adjoint.distributed import DataParallel, world
    from examples.lenet import FashionNet
    rng = np.random.default_rng(0)
    model, rule = FashionNet(rng=rng, dropout=False), optim.adam(1e-3)
    x, y = rng.standard_normal((batch, 1, 28, 28)).astype(np.float32), rng.integers(0, 10, batch)
    parallel = DataParallel(world(), bucket_bytes=1, **options)
    return parallel.make_step(nn.cross_entropy, rule), model, rule.init(model), *parallel.share(x, y)


def middle(seconds: list[float]) -> str:
    return f"median {statistics.median(seconds) * 1e3:7.1f} ms  minimum {min(seconds) * 1e3:7.1f}"


# ------------------------------------------------------------------------------------------------ one process


def watched_step(signals: Any) -> tuple:
    """(gradients of the Fashion-MNIST network in 8 buckets, compiled with signals; its arguments; names of the buckets)."""
    import adjoint as ad
    from adjoint import nn
    from adjoint.distributed.data_step import layout_of, packed
    from adjoint.train.loop import objective
    from examples.lenet import FashionNet
    rng, held = np.random.default_rng(0), []

    def gradients(model: Any, x: Any, y: Any) -> tuple:
        (value, found), _ = objective(nn.cross_entropy, model, x, y)
        held[:] = [layout_of(found, 1)]
        return value, packed(found, held[0], 128.0)
    step = ad.compile(gradients, signals=signals)
    arguments = FashionNet(rng=rng, dropout=False), rng.standard_normal((128, 1, 28, 28)).astype(np.float32), rng.integers(0, 10, 128)
    step(*arguments)
    return step, arguments, [held[0].name(k) for k in range(len(held[0].buckets))]


def ready(rounds: int) -> None:
    """When a watcher sees each bucket finished, as a part of the call."""
    import adjoint as ad
    from adjoint.compiler.signals import Signals
    signals = Signals()
    with ad.threads(1):
        step, arguments, names = watched_step(signals)
        fractions, seconds = [], []
        for _ in range(rounds):
            found = []

            def watch(found: list[float] = found) -> None:
                for number in range(1, len(names) + 1):
                    while not signals.finished(number):
                        time.sleep(1e-4)
                    found.append(time.perf_counter())
            signals.reset()
            watcher = threading.Thread(target=watch)
            watcher.start()
            begin = time.perf_counter()
            step(*arguments)
            end = time.perf_counter()
            watcher.join()
            seconds.append(end - begin)
            fractions.append([min(1.0, (at - begin) / (end - begin)) for at in found])
    print(f"ready: gradients of the Fashion-MNIST network, batch 128, one thread: {middle(seconds)}")
    for name, column in zip(names, zip(*fractions, strict=True), strict=True):
        print(f"  {name:32s} finished at {100 * statistics.median(column):5.1f} % of the call")


def cancel(rounds: int) -> None:
    """From cancel() to the end of the call, at random moments, against the longest time between two kernels that a watcher can see."""
    import adjoint as ad
    from adjoint.compiler.signals import Signals
    from adjoint.errors import Cancelled
    signals, rng = Signals(), np.random.default_rng(0)
    with ad.threads(1):
        step, arguments, _ = watched_step(signals)
        begin = time.perf_counter()
        step(*arguments)
        whole, late, kept = time.perf_counter() - begin, [], [np.array(a) for a in ad.tree.flatten(arguments[0])[0]]
        for _ in range(4 * rounds):
            signals.reset()
            told: list[float] = []

            def tell(told: list[float] = told, pause: float = whole * rng.uniform(0.05, 0.8)) -> None:
                time.sleep(pause)
                told.append(time.perf_counter())
                signals.cancel()
            helper = threading.Thread(target=tell)
            helper.start()
            try:
                step(*arguments)
            except Cancelled:
                late.append(time.perf_counter() - told[0])
            helper.join()
    same = all(np.array_equal(a, b) for a, b in zip(kept, ad.tree.flatten(arguments[0])[0], strict=True))
    print(f"cancel: a call of {whole * 1e3:.1f} ms, cancelled {len(late)} times: returns after {middle(late)}  maximum "
          f"{max(late) * 1e3:.1f}; model unchanged: {same}; longest kernel {longest_kernel(step, whole) * 1e3:.1f} ms (estimated)")


def longest_kernel(step: Any, whole: float) -> float:
    """The part of the call that its costliest step is, by the compiler's own estimates."""
    from adjoint.compiler.loops import Contraction, Convolution
    from adjoint.compiler.native import SECONDS_PER_FLOP, SECONDS_PER_OPERATION
    products = lambda s: 2.0 * s.batch * s.m * s.n * s.k * SECONDS_PER_FLOP
    cost = [products(s) if isinstance(s, Contraction | Convolution) else s.cost * SECONDS_PER_OPERATION
            for s in step.programs[-1].native.built.program.steps]
    return whole * max(cost) / sum(cost)


# ------------------------------------------------------------------------------------------------ ranks


def buckets(size: int) -> list[np.ndarray]:
    """8 buckets, `size` numbers in all; the last, which nothing can hide, has a quarter of the others' size."""
    each = int(size / (SLICES - 0.75))
    return [np.ones(each if k < SLICES - 1 else each // 4, np.float32) for k in range(SLICES)]


def slept_on(communicator: Any, size: int, rounds: int) -> list[float]:
    """Seconds of 8 slept slices with the sum of a bucket started after each."""
    from adjoint.distributed.engine import Engine
    engine, seconds = Engine(communicator), []
    arrays = buckets(size)
    for _ in range(rounds):
        engine.sum_of(np.ones(1), "a barrier").wait()
        begin = time.perf_counter()
        jobs = []
        for number, array in enumerate(arrays):
            time.sleep(COMPUTE / SLICES)
            jobs.append(engine.sum_of(array, f"bucket {number + 1}"))
        for job in jobs:
            job.wait()
        seconds.append(time.perf_counter() - begin)
    return seconds


def plain_on(communicator: Any, size: int, rounds: int) -> list[float]:
    """Seconds of the same sums without compute."""
    from adjoint.distributed.engine import Engine
    engine, seconds = Engine(communicator), []
    arrays = buckets(size)
    for _ in range(rounds):
        engine.sum_of(np.ones(1), "a barrier").wait()
        begin = time.perf_counter()
        for job in [engine.sum_of(array, "a bucket") for array in arrays]:
            job.wait()
        seconds.append(time.perf_counter() - begin)
    return seconds


def hidden_on(communicator: Any, rounds: int) -> dict[str, list[float]]:
    """Seconds of the sums alone and beside slept compute; of so many numbers that alone they take COMMUNICATION."""
    from adjoint.distributed.collectives import all_reduce_in_place
    size = int(COMMUNICATION * PAYLOAD / 4)
    for _ in range(2):                                          # once for what the first messages cost
        slowest = all_reduce_in_place(np.array([statistics.median(plain_on(communicator, size, 3))]), communicator, combine=np.maximum)
        size = int(size * COMMUNICATION / slowest[0])
    return {"communication": plain_on(communicator, size, rounds), "together": slept_on(communicator, size, rounds)}


def slept_over_threads(rounds: int) -> None:
    """Two ranks of one process over links that cost no processor time."""
    from adjoint.distributed import Links, run_threads
    from adjoint.distributed.linked import Linked
    found = run_threads(2, lambda c: hidden_on(Linked(c, Links(0.0, PAYLOAD)), rounds))[0]
    verdict("slept, simulated links", COMPUTE, *map(statistics.median, found.values()), 1.05, of="compute", overlap=1 - 1 / SLICES)


def verdict(name: str, compute: float, communication: float, both: float, wanted: float, *, of: str, overlap: float) -> None:
    """What was measured, and what the planner makes of the two times and the share `overlap` of the compute that may hide messages."""
    from adjoint.distributed import Links
    from adjoint.distributed.planner import forecast
    base = compute if of == "compute" else max(compute, communication)
    planned = forecast(2, compute=compute, size=0.0, links=Links(0.0, 1.0), overlap=overlap, costs={"ring": lambda *_: communication})[0]
    print(f"{name}: compute {compute * 1e3:.1f} ms, communication {communication * 1e3:.1f} ms, together {both * 1e3:.1f} ms: "
          f"{both / base:.3f} of {of} (wanted {wanted}; one after the other {(compute + communication) / base:.2f}); "
          f"planned {planned.seconds * 1e3:.1f} ms ({100 * (planned.seconds / both - 1):+.1f} %)")


def rank_slept(rounds: int) -> dict[str, Any]:
    from adjoint.distributed import world
    return hidden_on(world(), rounds)


def rank_real(rounds: int) -> dict[str, Any]:
    """By turns: the step without communication (on the slower rank: a step waits for both), its sums alone, and both."""
    from adjoint.distributed import all_reduce_in_place, world
    communicator = world()
    step, model, state, x, y = fashion(communicator.rank, communicator.size, 256)
    model, state, *_ = step(model, state, x, y)
    engine, found = step.engine, {"compute": [], "communication": [], "together": []}
    total = np.array([1.0, len(x)])
    for _ in range(rounds):
        engine.sum_of(np.ones(1), "a barrier").wait()
        begin = time.perf_counter()
        step.signals.reset()
        _, buckets, taps = step._local(model, x, y, None)
        step._apply(model, state, buckets, taps, total)
        slowest = np.array([time.perf_counter() - begin])
        engine.call("the slower rank", lambda slowest=slowest: all_reduce_in_place(slowest, communicator, combine=np.maximum))
        found["compute"].append(float(slowest[0]))
        arrays = [np.array(a) for a in buckets]
        engine.sum_of(np.ones(1), "a barrier").wait()
        begin = time.perf_counter()
        for job in [engine.sum_of(a, "a bucket") for a in arrays]:
            job.wait()
        found["communication"].append(time.perf_counter() - begin)
        engine.sum_of(np.ones(1), "a barrier").wait()
        begin = time.perf_counter()
        model, state, *_ = step(model, state, x, y)
        found["together"].append(time.perf_counter() - begin)
    return {**found, "overlap": hidden_part(engine.timeline.spans)}


def hidden_part(spans: list[tuple]) -> list[float]:
    """Of each step's compute, the part after the sum of its largest bucket has begun."""
    computing = [(begin, end) for name, _, begin, end, _ in spans if name == "compute"]
    sums = [(begin, facts["bytes"]) for name, _, begin, _, facts in spans if name.startswith("reduce bucket")]
    begun = [begin for begin, size in sums if size == max(size for _, size in sums)]
    return [max(0.0, end - at) / (end - begin) for (begin, end), at in zip(computing, begun, strict=True)]


def rank_steps(rounds: int, examples: int = 256, **options: Any) -> dict[str, Any]:
    """Seconds of whole steps on this rank's share of the examples."""
    from adjoint.distributed import world
    communicator = world()
    step, model, state, x, y = fashion(communicator.rank, communicator.size, examples, **options)
    seconds = []
    for _ in range(rounds + 2):
        begin = time.perf_counter()
        model, state, *_ = step(model, state, x, y)
        seconds.append(time.perf_counter() - begin)
    return {"steps": seconds[2:]}


RANK: dict[str, Callable[[int], dict[str, Any]]] = {
    "slept": rank_slept, "real": rank_real, "ranks": rank_steps, "half": lambda rounds: rank_steps(rounds, 128),
    "exact": lambda rounds: rank_steps(rounds, 264, exact_reduce=True)}         # 12 shards must be equal


def run_ranks(command: list[str], seconds: float = DEADLINE) -> dict[str, Any]:
    """What rank 0 of a world printed last."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", "ADJOINT_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, preexec_fn=dies_with_us, stdout=subprocess.PIPE, text=True)
    try:
        output, _ = process.communicate(timeout=seconds)
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        raise SystemExit(f"the ranks ended with status {process.returncode}:\n{output}")
    return json.loads(output.splitlines()[-1])


def between_namespaces(part: str, options: argparse.Namespace) -> dict[str, Any]:
    """A part on two ranks in namespaces of their own, with links of --rate."""
    with tempfile.TemporaryDirectory(prefix="adjoint-overlap-") as folder:
        words = [sys.executable, "-m", "benchmarks.overlap", "--rounds", str(options.rounds), "--rate", options.rate]
        words += ["--inside", folder, part]
        return run_ranks([*UNSHARE, "sh", "-c", f'{PRIVATE} && exec "$@"', "sh", *words])


def inside(folder: Path, part: str, options: argparse.Namespace) -> None:
    """In the outer namespace: the links, then mpiexec on both ends."""
    cluster(2, options.rate)
    agent = folder / "agent"
    agent.write_text(AGENT)
    agent.chmod(0o700)
    mpiexec = str(Path(sys.executable).parent / "mpiexec")
    words = [mpiexec, *MPICH, "-launcher-exec", str(agent), "-hosts", "10.77.0.1,10.77.0.2", "-n", "2", sys.executable, "-m",
             "benchmarks.overlap", "--rounds", str(options.rounds), "--rank", part]
    os.execv(agent, [str(agent), "10.77.0.1", " ".join(["cd", str(ROOT), "&&", "exec", *words])])


def on_one_machine(part: str, ranks: int, rounds: int) -> dict[str, Any]:
    mpiexec = str(Path(sys.executable).parent / "mpiexec")
    return run_ranks([mpiexec, "-n", str(ranks), sys.executable, "-m", "benchmarks.overlap", "--rounds", str(rounds), "--rank", part])


# ------------------------------------------------------------------------------------------------ parts


def parts(options: argparse.Namespace) -> Iterator[tuple[str, Callable[[], None]]]:
    middles = lambda found: {name: statistics.median(seconds) for name, seconds in found.items()}

    def slept() -> None:
        slept_over_threads(options.rounds)
        if not (reason := why_not()):
            found = middles(between_namespaces("slept", options))
            verdict(f"slept, MPI over {options.rate}", COMPUTE, found["communication"], found["together"], 1.05, of="compute",
                    overlap=1 - 1 / SLICES)
        else:
            print(f"slept, MPI: left out, {reason}")

    def real() -> None:
        if not (reason := why_not()):
            found = middles(between_namespaces("real", options))
            verdict(f"the compiled Fashion-MNIST step, 8 buckets, MPI over {options.rate}", found["compute"], found["communication"],
                    found["together"], 1.15, of="max(compute, communication)", overlap=found["overlap"])
        else:
            print(f"the compiled step: left out, {reason}")

    def ranks() -> None:
        found: dict[tuple[str, int], list[float]] = {}
        for _ in range(2):                                      # by turns: what else the machine does hits all alike
            for part, count in (("ranks", 1), ("ranks", 2), ("half", 1), ("exact", 1), ("exact", 2)):
                found.setdefault((part, count), []).extend(on_one_machine(part, count, options.rounds)["steps"])
            with ThreadPoolExecutor() as both:
                for each in both.map(lambda _: on_one_machine("half", 1, options.rounds)["steps"], range(2)):
                    found.setdefault(("apart", 1), []).extend(each)
        for (part, count), seconds in found.items():
            print(f"  {part:6s} {count} rank(s) of one thread: {middle(seconds)}")
        one, two, half, exact, apart = (statistics.median(found[each]) for each in (("ranks", 1), ("ranks", 2), ("half", 1), ("exact", 2),
                                                                                    ("apart", 1)))
        print(f"2 ranks of one thread: {one / two:.2f} times the throughput of one (wanted 1.8; half the batch on one rank alone: "
              f"{one / half:.2f}, two processes with half of it each that exchange nothing: {one / apart:.2f}); "
              f"exact_reduce takes {exact / two * 256 / 264:.2f} times as long an example")
    known: dict[str, Callable[[], None]] = {
        "ready": lambda: ready(options.rounds), "cancel": lambda: cancel(options.rounds), "slept": slept, "real": real, "ranks": ranks}
    for name in options.parts.split(","):
        yield name, known[name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--rate", default="1gbit")
    parser.add_argument("--inside", nargs=2)
    parser.add_argument("--rank")
    options = parser.parse_args()
    if options.rank:
        found = RANK[options.rank](options.rounds)
        if found and os.environ.get("PMI_RANK", "0") == "0":
            print(json.dumps(found), flush=True)
    elif options.inside:
        inside(Path(options.inside[0]), options.inside[1], options)
    else:
        for _, part in parts(options):
            part()
            sys.stdout.flush()


if __name__ == "__main__":
    main()
