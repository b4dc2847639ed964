"""A program for `adjoint launch`: trains on digits with exact sums, saves every step, resumes after a restart; dies once if told to.

python trains.py RUNS EPOCHS [STEP RANK]: at step STEP of the first generation rank RANK kills itself.
"""

import contextlib
import hashlib
import os
import signal
import sys

import numpy as np

from adjoint import data, distributed, nn, optim, train
from adjoint.distributed.launch import generation
from adjoint.tree import flatten

runs, epochs, *death = sys.argv[1:]
world = distributed.world()
digits = data.load_digits()
count = []


def loss(outputs, labels):
    return nn.cross_entropy(outputs, labels)


def augment(x, step):
    """Nothing is changed; but a doomed rank dies in the middle of a step."""
    if death and generation() == 0 and (step, world.rank) == (int(death[0]), int(death[1])):
        os.kill(os.getpid(), signal.SIGKILL)
    return x


folder = contextlib.nullcontext()
if world.rank == 0:
    folder = train.RunFolder.create(runs, "digits", {})             # started again: the folder that it has made before
model = nn.mlp(64, 16, 10, activation=nn.relu, rng=np.random.default_rng(world.rank))
with folder as opened:
    done = train.fit(model, (digits.train_x[:480], digits.train_y[:480]), optimizer=optim.adam(1e-2), epochs=int(epochs), batch=48,
                     augment=augment, folder=opened, resume=generation() > 0, save_seconds=0.0,
                     parallel=distributed.DataParallel(world, exact_reduce=True))
bits = hashlib.sha256(b"".join(np.ascontiguousarray(x).tobytes() for x in flatten(done.model)[0])).hexdigest()
print(f"ended at step {done.steps} with {bits}", flush=True)
sys.exit(130 if done.interrupted else 0)
