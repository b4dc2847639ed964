"""python -m benchmarks.stragglers: the law of waiting, measured with slept compute times.

Eight workers sleep for exponential times (the same seeded draws for every policy), and give a gradient of 40 kB to a parameter server that
waits for 8, 7 or 6 of them, with and without cancelling the others; then eight ranks do the same around a ring all-reduce. For each: the
mean step over the mean compute time, the order statistic of the very draws, its expectation, and what the planner says after a probe of
such a world. Only sleeping and waiting is measured: no processor is shared. Options: --mpi (processes under mpiexec; else threads),
--steps N, --mean MILLISECONDS, --seed N, --only TEXT (rows whose name contains it).
"""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from adjoint.distributed import all_reduce_in_place, run_threads, stragglers, world
from adjoint.distributed.launch import mpiexec
from adjoint.distributed.planner import forecast
from adjoint.distributed.probe import probe
from adjoint.distributed.server import Server
from adjoint.distributed.shards import joined, taken
from adjoint.distributed.simulator import Links
from adjoint.distributed.worker import Worker

WORKERS, SIZE = 8, 10_000           # elements of a gradient, float32
PROBE = "probe"
LATENESS = 0.05                     # of the realized order statistic, that a measured step may differ


class Policy(NamedTuple):
    """A row of the table: whom a step waits for, and whether the others abandon their work; ring: no server at all."""

    name: str
    wait_for: int
    cancel: bool = True
    ring: bool = False

    def waits(self, draws: np.ndarray) -> np.ndarray:
        """Durations of the counted steps with these compute times, if nothing else took time."""
        return stragglers.waits(draws, self.wait_for, cancel=self.cancel)[1:]

    @property
    def plannable(self) -> bool:
        """Whether the planner knows it: it knows no late work that goes on."""
        return self.cancel or self.wait_for == WORKERS

    def planned(self, mean: float, links: Links) -> float | None:
        """What the planner says of a step, in units of the mean."""
        if not self.plannable:
            return None
        name = "ring" if self.ring else "parameter_server"
        found = forecast(WORKERS, compute=mean, size=4 * SIZE, links=links, jitter=1.0, wait_for=self.wait_for)
        return next(each.seconds for each in found if each.strategy == name) / mean

    def expected(self) -> float | None:
        """In units of the mean compute time; None where there is no formula."""
        return stragglers.expected_wait(WORKERS, self.wait_for) if self.cancel or self.wait_for == WORKERS else None


POLICIES = (Policy("all 8", 8), Policy("7 of 8", 7), Policy("6 of 8", 6), Policy("ring of 8", 8, ring=True),
            Policy("7 of 8, late work not cancelled", 7, cancel=False), Policy("6 of 8, late work not cancelled", 6, cancel=False))


def serve(communicator: Any, policy: Policy, steps: int) -> np.ndarray:
    """Rank 0: seconds of each of so many updates but the first, from one update's last gradient to the next one's."""
    server = Server(communicator, range(1, WORKERS + 1), wait_for=policy.wait_for, cancel=policy.cancel)
    weights = np.zeros(SIZE, np.float32)
    times = []
    for _ in range(steps):
        answers = server.gradients()
        times.append(time.perf_counter())
        weights -= sum(taken(message, [weights])[0] for _, message in answers.values()) / len(answers)
        server.publish(joined([weights]), list(answers), loss=0.0, finite=True)
    server.settle(joined([weights]), loss=0.0)
    assert (weights == -steps).all()                        # each update is the mean of gradients that are 1
    return np.diff(times)


def work(communicator: Any, policy: Policy, draws: np.ndarray) -> None:
    """A worker: sleep as long as the draw of this version says, or until the server goes on."""
    worker, gradient = Worker(communicator, [0], cancel=policy.cancel and policy.wait_for < WORKERS), np.ones(SIZE, np.float32)
    while worker.version < len(draws):
        with worker.computing() as cancellation:
            late = cancellation.wait(draws[worker.version, communicator.rank - 1])
        if late:
            worker.abandon()
        else:
            worker.give([joined([gradient])], loss=0.0, examples=1.0)
        worker.take()
    worker.settle()


def around_a_ring(communicator: Any, draws: np.ndarray) -> np.ndarray:
    """A rank of the ring: seconds of each of as many steps as there are draws, but the first."""
    gradient, times = np.ones(SIZE, np.float32), []
    for row in draws:
        time.sleep(row[communicator.rank])
        all_reduce_in_place(gradient, communicator, algorithm="ring")
        gradient /= WORKERS
        times.append(time.perf_counter())
    return np.diff(times)


def program(communicator: Any, policy: Policy, draws: np.ndarray) -> np.ndarray:
    """Seconds of the steps; none on a worker of a server."""
    if policy.ring:
        return around_a_ring(communicator, draws)
    if communicator.rank == 0:
        return serve(communicator, policy, len(draws))
    work(communicator, policy, draws)
    return np.empty(0)


def draws_of(steps: int, mean: float, seed: int) -> np.ndarray:
    """Compute times [steps + 1, workers] in seconds; the first step, at whose beginning ranks are not yet there, is not counted."""
    return np.random.default_rng(seed).exponential(mean, (steps + 1, WORKERS))


def probed(communicator: Any) -> Links:
    """What a world's messages cost, beside what sleeps."""
    return probe(communicator, seconds=1.0, keep=False).links()


def in_threads(policy: Policy, draws: np.ndarray) -> np.ndarray:
    """Seconds of the steps, with ranks that are threads of this process."""
    return run_threads(WORKERS + (not policy.ring), lambda c: program(c, policy, draws), seconds=60)[0]


def under_mpi(name: str, ranks: int, draws: np.ndarray, options: list[str]) -> np.ndarray:
    """The numbers that rank 0 prints: this module again, under mpiexec."""
    command = [mpiexec(), "-n", str(ranks), sys.executable, "-m", __spec__.name, "--rank-of", name, *options]
    seconds = 60 + 25 * len(draws) * draws.mean()
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=True)
    return np.array(done.stdout.split(), np.float64)


def as_rank(name: str, draws: np.ndarray) -> None:
    """Under mpiexec: be a rank of a policy, or of the probe."""
    communicator = world()
    if name == PROBE:
        found = dataclasses.astuple(probed(communicator))
    else:
        found = program(communicator, next(p for p in POLICIES if p.name == name), draws)
    if communicator.rank == 0:
        print(*found, flush=True)


class Row(NamedTuple):
    """measured, realized: mean step over the mean compute time; expected: None without formula; sigma: deviation of `realized`."""

    policy: Policy
    measured: float
    realized: float
    expected: float | None
    sigma: float

    @property
    def follows(self) -> bool:
        """Whether the step is that of the draws within LATENESS, and these are within three deviations of the law."""
        lawful = self.expected is None or abs(self.realized - self.expected) <= 3 * self.sigma
        return lawful and abs(self.measured / self.realized - 1) <= LATENESS


def row_of(policy: Policy, draws: np.ndarray, mean: float, run: Callable[[Policy, np.ndarray], np.ndarray]) -> Row:
    """Run a policy and compare."""
    sigma = float(np.sqrt(stragglers.variance_of_wait(WORKERS, policy.wait_for) / (len(draws) - 1)))
    return Row(policy, float(run(policy, draws).mean()) / mean, float(policy.waits(draws).mean()) / mean, policy.expected(), sigma)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mpi", action="store_true")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--mean", type=float, default=40.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--rank-of", help=argparse.SUPPRESS)
    given = parser.parse_args()
    draws = draws_of(given.steps, given.mean / 1000, given.seed)
    options = ["--steps", str(given.steps), "--mean", str(given.mean), "--seed", str(given.seed)]
    if given.rank_of is not None:
        return as_rank(given.rank_of, draws)
    run = (lambda p, d: under_mpi(p.name, WORKERS + (not p.ring), d, options)) if given.mpi else in_threads
    policies, links = [policy for policy in POLICIES if given.only in policy.name], Links(0.0, 1e15)
    if any(policy.plannable for policy in policies):
        links = Links(*under_mpi(PROBE, WORKERS, draws, options)) if given.mpi else run_threads(WORKERS, probed, seconds=60)[0]
    print(f"{WORKERS} workers, {given.steps} steps, compute slept, mean {given.mean:g} ms, {'MPI processes' if given.mpi else 'threads'}; "
          "steps in units of the mean")
    print(f"{'waits for':34} measured  of the draws  ratio  law (sigma)     planned")
    for policy in policies:
        row = row_of(policy, draws, given.mean / 1000, run)
        law = "-" if row.expected is None else f"{row.expected:.3f} ({(row.realized - row.expected) / row.sigma:+.1f})"
        plan = policy.planned(given.mean / 1000, links)
        planned = "-" if plan is None else f"{plan:.3f} ({100 * (plan / row.measured - 1):+.1f} %)"
        print(f"{policy.name:34} {row.measured:8.3f}  {row.realized:12.3f}  {row.measured / row.realized:5.3f}  {law:14}  {planned:15}"
              f"{'' if row.follows else '  OFF'}", flush=True)
    return None


if __name__ == "__main__":
    main()
