"""The digits network on every rank of `adjoint launch`, each step noted: python program.py FOLDER EPOCHS.

Each line of FOLDER/log-RANK is [generation, process, step begun, time], the first of a generation says when what was ready.
"""

import hashlib
import json
import os
import sys
import time
from pathlib import Path

BEGUN = time.time()

import numpy as np  # noqa: E402 (the clock is read before the imports that it measures)

from adjoint import data, distributed, nn, optim, train  # noqa: E402
from adjoint.distributed.launch import generation  # noqa: E402
from adjoint.tree import flatten  # noqa: E402

IMPORTED = time.time()


def main(folder: Path, epochs: int) -> None:
    """Train, resume after a restart, print the bits."""
    world = distributed.world()
    joined, log = time.time(), open(folder / f"log-{world.rank}", "ab", buffering=0)
    digits, again = data.load_digits(), generation()
    ready = {"generation": again, "process": os.getpid(), "begun": BEGUN, "imported": IMPORTED, "joined": joined}
    log.write(json.dumps(ready).encode() + b"\n")

    def noted(x: np.ndarray, step: int) -> np.ndarray:
        log.write(json.dumps([again, os.getpid(), step, time.time()]).encode() + b"\n")
        return x
    model = nn.mlp(64, 256, 128, 10, activation=nn.relu, rng=np.random.default_rng(0))
    rule = optim.adamw(optim.schedules.cosine(2e-3, epochs * (len(digits.train_x) // 96)), weight_decay=0.01)
    done = train.fit(model, (digits.train_x, digits.train_y), optimizer=rule, epochs=epochs, batch=96, noise=0.2, augment=noted,
                     loss=lambda logits, labels: nn.cross_entropy(logits, labels, label_smoothing=0.05), resume=again > 0,
                     parallel=distributed.DataParallel(world, exact_reduce=True), snapshots=train.Snapshots(folder / "snapshots"))
    bits = hashlib.sha256(b"".join(np.ascontiguousarray(x).tobytes() for x in flatten(done.model)[0])).hexdigest()
    wrong = train.error_rate(train.Predictor()(done.model, digits.test_x), digits.test_y)
    if world.rank == 0:
        print(f"ended at step {done.steps} with {bits}, test accuracy {100 * (1 - wrong):.2f} %", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
