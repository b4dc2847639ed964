"""Digits learned on ranks by every strategy, and in one process; under mpiexec, with three ranks: python equality_ranks.py.

n counts the ranks that compute: copies of the model (`data`, `exact`), parts of each Linear (`split`), stages (`stages`), workers
(`server`, which is one rank more).
"""

import functools
import itertools

import numpy as np

from adjoint import data, nn, optim, train
from adjoint.distributed import (
    Alone,
    ColumnLinear,
    DataParallel,
    ParameterServer,
    Pipeline,
    RowLinear,
    all_reduce_in_place,
    make_split_step,
    world,
)
from adjoint.tree import flatten, unflatten

STEPS, MICRO = 200, 3
BATCH, EXACT_BATCH = 95, 96             # 95 examples are no equal shares for 2, 3 or 4 ranks, nor micro-batches; exact shards must be equal
DEEP = (64, 31, 24, 17, 10)             # of up to four stages
RULE = optim.sgd(0.1, momentum=0.9, nesterov=True)
digits = functools.cache(data.load_digits)


def network(dtype, widths=(64, 31, 10), seed=0):
    """Linear layers with tanh between two; no n divides the hidden widths."""
    rng, layers = np.random.default_rng(seed), []
    for pair in itertools.pairwise(widths):
        layers += [nn.Linear(*pair, rng=rng, dtype=dtype), np.tanh]
    return nn.Sequential(*layers[:-1])


def batches(dtype, size):
    """The batches of every step, which all ranks know whole."""
    x, y = digits().train_x.astype(dtype), digits().train_y
    for rows in np.random.default_rng(1).integers(0, len(x), (STEPS, size)):
        yield x[rows], y[rows]


def alone(world, dtype, batch=BATCH, **options):
    """One process; after each step a function that returns the arrays of the whole model, as the generators below."""
    model = network(dtype, **options)
    step, state = train.make_step(nn.cross_entropy, RULE), RULE.init(model)
    for x, y in batches(dtype, batch):
        model, state, *_ = step(model, state, x, y)
        yield lambda model=model: _copies(model)


def shared(parallel, dtype, batch=BATCH):
    """Data parallelism and parameter servers: every rank begins with another model, and gets rank 0's."""
    model = network(dtype, seed=parallel.rank)
    model, state = parallel.agree(model, RULE.init(model))
    step = parallel.make_step(nn.cross_entropy, RULE)
    for x, y in batches(dtype, batch):
        model, state, *_ = step(model, state, *parallel.share(x, y))
        yield lambda model=model: _copies(model)
    parallel.settle(model, state)


def split(world, dtype):
    """The first Linear by columns, the second by rows."""
    first, between, last = network(dtype).layers
    model = nn.Sequential(ColumnLinear(first, world), between, RowLinear(last, world))
    step, state = make_split_step(nn.cross_entropy, RULE, world), RULE.init(model)
    for x, y in batches(dtype, BATCH):
        model, state, _ = step(model, state, x, y)
        yield lambda model=model: [a.copy() for layer in model.layers[::2] for a in flatten(layer.whole())[0]]


def stages(world, dtype):
    """A stage on each rank: a Linear and its activation, or several; the network is deeper."""
    own = slice(*(2 * round(4 * k / world.size) for k in (world.rank, world.rank + 1)))          # of the layers, and of their arrays
    stage = nn.Sequential(*network(dtype, DEEP).layers[own])
    line, state = Pipeline(nn.cross_entropy, RULE, world, micro_batches=MICRO), RULE.init(stage)

    def whole(stage):
        found = [np.zeros_like(a) for a in flatten(network(dtype, DEEP))[0]]
        found[own] = _copies(stage)
        return [all_reduce_in_place(a, world) for a in found]           # all others are 0
    for x, y in batches(dtype, BATCH):
        stage, state, _ = line.step(stage, state, x, y)
        yield functools.partial(whole, stage)


STRATEGIES = {
    "data": lambda c, dtype: shared(DataParallel(c), dtype),
    "exact": lambda c, dtype: shared(DataParallel(c, exact_reduce=True), dtype, EXACT_BATCH),
    "split": split, "stages": stages, "server": lambda c, dtype: shared(ParameterServer(c), dtype)}
REFERENCES = {"exact": {"batch": EXACT_BATCH}, "stages": {"widths": DEEP}}          # what one process does otherwise, too


def _copies(model):
    return [a.copy() for a in flatten(model)[0]]


def trained(strategy, world, dtype):
    """The whole model's arrays after the first step, and after the last; without a world those of one process."""
    found = {}
    steps = STRATEGIES[strategy](world, dtype) if world else alone(world, dtype, **REFERENCES.get(strategy, {}))
    for count, whole in enumerate(steps, 1):
        if count in (1, STEPS):
            found[count] = whole()
    return found[1], found[STEPS]


def distance(found, expected):
    """The largest difference between two lists of arrays."""
    return max(float(np.abs(a - b).max()) for a, b in zip(found, expected, strict=True))


def accuracy(arrays):
    """Per cent of the 1,797 test digits."""
    widths = [arrays[0].shape[1], *(len(bias) for bias in arrays[1::2])]
    model = unflatten(flatten(network(arrays[0].dtype, widths))[1], arrays)
    return 100 * float(np.mean(np.argmax(model(digits().test_x.astype(arrays[0].dtype)), 1) == digits().test_y))


def main():
    """float64: every strategy on all ranks against one process. Sums without rounding: the bits of a world of one rank."""
    c = world()
    for strategy in ("data", "split", "stages", "server"):
        far = distance(trained(strategy, c, np.float64)[1], trained(strategy, None, np.float64)[1])
        print(f"rank {c.rank}: {strategy} {far:.3e}")
    found, alone = (trained("exact", on, np.float32)[1] for on in (c, Alone()))
    same = all(a.tobytes() == b.tobytes() for a, b in zip(found, alone, strict=True))
    print(f"rank {c.rank}: exact {'same bits' if same else 'other bits'}")


if __name__ == "__main__":
    main()
