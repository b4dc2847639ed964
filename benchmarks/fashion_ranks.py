"""python -m benchmarks.fashion_ranks: the Fashion-MNIST convolution network trained in one process and on two ranks, one thread each.

The recipe of evidence/fashion_mnist.py but for batches of 256 in all: 10 epochs of Adam at 1e-3 with a cosine to zero. Without dropout both
runs compute the same function of the same batches, so their accuracies differ by rounding alone; --dropout is the recipe's own, with other
random numbers on every rank. The two runs come one after the other, 8 to 15 minutes each on two cores. Prints both accuracies, the ratio
of the times without the first step (which compiles), and writes benchmarks/results/fashion_ranks.json unless --limit cuts the epochs short.

Options: --data DIR, --epochs N, --limit STEPS (of each epoch), --ranks 1,2, --dropout, --timeline TRACE (files for `adjoint timeline`).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from .network import ROOT, dies_with_us

BATCH, RATE = 256, 1e-3
POINTS = 0.3                    # by which the accuracies may differ
WANTED = 1.8                    # times the throughput of one rank
RESULTS = ROOT / "benchmarks" / "results" / "fashion_ranks.json"
DEADLINE = 7200.0               # seconds of a run


def rank(options: argparse.Namespace) -> None:
    """Train on this rank's share of every batch; rank 0 prints progress, and last what was found."""
    from adjoint import nn, optim, train
    from adjoint.data import Batches, load_fashion_mnist
    from adjoint.distributed import DataParallel, world
    from evidence.fashion_mnist import prepared
    from examples.lenet import FashionNet, accuracy
    data = load_fashion_mnist(options.data)
    x, test_x = prepared(data)
    count = options.limit * BATCH if options.limit else len(x)
    batches = Batches(x[:count], data.train_y[:count], batch=BATCH, seed=0, last="drop")
    parallel = DataParallel(world(), timeline=options.timeline)
    rule, model = optim.adam(optim.schedules.cosine(RATE, options.epochs * len(batches))), FashionNet(
        rng=np.random.default_rng(parallel.rank), dropout=options.dropout)
    model, state = parallel.agree(model, rule.init(model))
    alone = parallel.communicator.size == 1             # the plain step: what a process without ranks does
    step = (train if alone else parallel).make_step(nn.cross_entropy, rule)
    seconds, losses, before = [], [], time.perf_counter()
    for done in train.steps(step, model, state, batches, epochs=options.epochs, share=None if alone else parallel.share):
        losses.append(float(done.loss))
        seconds.append(time.perf_counter() - before)
        before = time.perf_counter()
        if parallel.leads and done.count % len(batches) == 0:
            print(f"  {parallel.communicator.size} rank(s), epoch {done.count // len(batches)}: mean loss "
                  f"{statistics.mean(losses[-len(batches):]):.4f}, {sum(seconds):.0f} s", flush=True)
    parallel.write_timeline()
    if parallel.leads:
        found = {"accuracy": 100 * accuracy(done.model, test_x, data.test_y), "loss": losses[-1], "steps": len(losses),
                 "seconds": sum(seconds[1:]), "step": statistics.median(seconds[1:]), "first": seconds[0]}
        print(json.dumps(found), flush=True)


def trained(ranks: int, options: argparse.Namespace) -> dict[str, Any]:
    """One run on so many ranks of one thread: its progress as it comes, then what rank 0 found."""
    mpiexec = str(Path(sys.executable).parent / "mpiexec")
    words = [mpiexec, "-n", str(ranks), sys.executable, "-m", "benchmarks.fashion_ranks", *sys.argv[1:], "--rank"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", "ADJOINT_THREADS": "1"}
    process = subprocess.Popen(words, env=environment, preexec_fn=dies_with_us, stdout=subprocess.PIPE, text=True)
    killer = threading.Timer(DEADLINE, process.kill)
    killer.start()
    found = {}
    try:
        for line in process.stdout:
            if line.startswith("{"):
                found = json.loads(line)
            else:
                print(line, end="", flush=True)
    finally:
        killer.cancel()
        process.kill()
        process.wait()
    if not found:
        raise SystemExit(f"{ranks} rank(s) of the benchmark did not come to an end")
    return found


def said(found: dict[str, dict[str, Any]]) -> list[str]:
    """What was found, and whether it is what was asked."""
    lines = [f"{ranks} rank(s) of one thread: test accuracy {run['accuracy']:.2f} % after {run['steps']} steps, {run['seconds']:.0f} s "
             f"(median step {1e3 * run['step']:.1f} ms)" for ranks, run in found.items()]
    if {"1", "2"} <= set(found):
        one, two = found["1"], found["2"]
        lines += [f"accuracies {abs(one['accuracy'] - two['accuracy']):.2f} points apart (wanted: at most {POINTS})",
                  f"2 ranks: {one['seconds'] / two['seconds']:.2f} times the throughput of one, in all "
                  f"(median steps {one['step'] / two['step']:.2f}; wanted {WANTED})"]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "fashion-mnist")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--limit", type=int, help="steps of an epoch")
    parser.add_argument("--ranks", default="1,2")
    parser.add_argument("--dropout", action="store_true")
    parser.add_argument("--timeline")
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        rank(options)
        return
    found = {ranks: trained(int(ranks), options) for ranks in options.ranks.split(",")}
    print("\n".join(said(found)))
    if not options.limit:
        from .__main__ import machine
        settings = {"epochs": options.epochs, "batch": BATCH, "dropout": options.dropout}
        RESULTS.write_text(json.dumps({"machine": machine(), **settings, "ranks": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
