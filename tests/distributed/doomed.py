"""A program for `adjoint launch` whose ranks are killed: python doomed.py FOLDER [MOMENT:RANK ...], one kill in each generation.

It trains on digits with exact sums and a snapshot of every step. MOMENT: imports, joined, compiles, writes (half a snapshot), replaces
(a whole one that has not its name yet), last (after the last step), parent (what mpiexec has started it under), mpiexec.
"""

import hashlib
import os
import signal
import sys
from pathlib import Path

RANK = int(os.environ.get("PMI_RANK", os.environ.get("OMPI_COMM_WORLD_RANK", "0")))
GENERATION = int(os.environ.get("ADJOINT_GENERATION", "0"))
STEP = 3 + 2 * GENERATION           # at which snapshots are not finished, or mpiexec ends


def kill(process):
    os.kill(process, signal.SIGKILL)
    signal.pause()                  # until the launcher ends this rank


def reached(moment):
    """Die here if this is the moment and the rank."""
    if sys.argv[2 + GENERATION:3 + GENERATION] == [f"{moment}:{RANK}"]:
        kill(os.getpid())


reached("imports")

import numpy as np  # noqa: E402 (a kill before the imports)

from adjoint import data, distributed, nn, optim, train  # noqa: E402
from adjoint.train import files  # noqa: E402
from adjoint.tree import flatten  # noqa: E402


def observed(call, path):
    """Before every call to a file: a snapshot is written in pieces of 1000 bytes."""
    if f"snapshot-{STEP:010d}-" in path:
        if call == "rename":
            reached("replaces")
        if call == "write":
            if os.path.getsize(path):
                reached("writes")
            return 1000
    return None


def augment(x, step):
    """Nothing is changed; mpiexec may be killed."""
    if sys.argv[2 + GENERATION:3 + GENERATION] == [f"parent:{RANK}"] and step == STEP:
        kill(os.getppid())
    if sys.argv[2 + GENERATION:3 + GENERATION] == [f"mpiexec:{RANK}"] and step == STEP:
        kill(int(Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[1]))
    return x


def loss(outputs, labels):
    if not isinstance(outputs, np.ndarray):
        reached("compiles")
    return nn.cross_entropy(outputs, labels)


def main(folder):
    world = distributed.world()
    reached("joined")
    digits, files.observer = data.load_digits(), observed
    whole = max([int(path.name.split("-")[1]) for path in folder.glob("snapshot-*")], default=0)
    begun = []

    def noted(x, step):
        begun.append(step)
        return augment(x, step)
    model = nn.mlp(64, 16, 10, activation=nn.relu, rng=np.random.default_rng(0))
    done = train.fit(model, (digits.train_x[:480], digits.train_y[:480]), optimizer=optim.adam(1e-2), epochs=2, batch=48, loss=loss,
                     augment=noted, resume=GENERATION > 0, parallel=distributed.DataParallel(world, exact_reduce=True),
                     snapshots=train.Snapshots(folder))
    reached("last")
    if world.rank == 0:
        bits = hashlib.sha256(b"".join(np.ascontiguousarray(x).tobytes() for x in flatten(done.model)[0])).hexdigest()
        print(f"{whole} committed, {done.steps - len(begun)} resumed; ended at step {done.steps} with {bits}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
