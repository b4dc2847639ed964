"""What users do wrong, on every rank of a world: python misuse.py NAME. See test_misuse.py."""

import os
import signal
import sys
import time

import numpy as np

from adjoint import nn, optim, train
from adjoint.compiler import threads
from adjoint.distributed import DataParallel, all_reduce_in_place, world
from adjoint.errors import AdjointError

name = sys.argv[1]
sys.modules["adjoint.distributed.world"].LEAVE = 0.5
if name == "no binding":
    sys.modules["mpi4py"] = None
w = world()
x = np.linspace(-1, 1, 30, dtype=np.float32)[:, None]


def fitted(batch, width=1, **options):
    model = nn.Sequential(nn.Linear(1, width, rng=np.random.default_rng(0)), nn.Linear(width, 1, rng=np.random.default_rng(1)))
    train.fit(model, (x, 2 * x), optimizer=optim.sgd(0.1), loss=nn.squared_error, epochs=1, batch=batch, compiled=False,
              parallel=DataParallel(w, **options))


def other_optimizers():
    model = nn.Linear(1, 1, rng=np.random.default_rng(0))
    DataParallel(w).agree(model, (optim.adam if w.rank else optim.sgd)(0.1).init(model))


def other_layers():
    DataParallel(w).agree(nn.Sequential(nn.Linear(1, 1, rng=np.random.default_rng(0)), (nn.relu, np.tanh)[w.rank]), ())


REFUSED = {
    "different models": lambda: fitted(6, width=2 + w.rank),
    "different optimizers": other_optimizers,
    "different layers": other_layers,
    "uneven batch": lambda: fitted(7),
    "uneven exact batch": lambda: fitted(10, exact_reduce=True),
    "batch below ranks": lambda: fitted(1),
    "shards not dealt": lambda: fitted(6, exact_reduce=True, shards=7),
    "no array": lambda: all_reduce_in_place([1.0], w),
}
for title, case in REFUSED.items() if name == "refused" else ():
    try:
        case()
        print(f"{title}: taken", flush=True)
    except AdjointError as error:
        print(f"{title}: {type(error).__name__}: {str(error).splitlines()[0]}", flush=True)
if name == "raises" and w.rank == 1:
    raise ValueError("the cat sat on the keyboard")
elif name == "raises everywhere":
    raise ValueError(f"the cat sat on keyboard {w.rank}")
elif name == "leaves" and w.rank == 1:
    sys.exit(0)
elif name == "leaves with a reason" and w.rank == 1:
    sys.exit("there is no data")
elif name == "goes on" and w.rank == 1:
    try:
        sys.exit("caught")
    except SystemExit:
        pass
elif name == "other sizes":
    try:
        w.exchange(None, 0, np.ones(10), 0) if w.rank else w.exchange(np.ones(5), 1, None, 1)
    except AdjointError as error:
        print(error, flush=True)
    all_reduce_in_place(np.ones(10 + 5 * w.rank), w, algorithm="tree")
elif name == "stays":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print("deaf", flush=True)
    time.sleep(100)
elif name == "shares cores":
    print(f"{threads.thread_count()} of {threads.default_count()} threads", flush=True)
elif name == "exits" and w.rank == 1:
    os._exit(7)
all_reduce_in_place(np.ones(1), w)
print("all is well", flush=True)
sys.exit(3 if name == "goes on" else 0)
