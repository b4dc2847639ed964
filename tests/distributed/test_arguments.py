"""Wrong arguments of everything public in adjoint.distributed: an error in the package's own form, never NumPy's, never a wrong answer."""

import numpy as np
import pytest

from adjoint import distributed as dist
from adjoint import nn, optim
from adjoint.distributed import linked, picture, plan, planner, probe, schedules, stragglers
from adjoint.errors import AdjointError, CommunicationError, ConfigError, DtypeError, ShapeError

ALONE, ETHERNET, RULE = dist.Alone(), dist.Links(50e-6, 117.7e6), optim.sgd(0.1)
LAYER, CONVOLUTION = nn.Linear(4, 4, rng=np.random.default_rng(0)), nn.Conv2d(4, 4, 3, rng=np.random.default_rng(0))
SPLITS = (dist.ColumnLinear, dist.RowLinear)
WORK, X, NAN = plan.Work(0.25, 1e6), np.ones((6, 4), np.float32), float("nan")
STALE = {"staleness": 1, "weight": lambda behind: NAN}


def simulated(n=4, size=8, ranks=4, **options):
    return dist.Simulator(ranks, ETHERNET).run(schedules.ring(n, size), **({"bytes_per_element": 4} | options))


def piped(stage=LAYER, x=X, y=X, world=ALONE, **options):
    line = dist.Pipeline(nn.squared_error, RULE, world, **({"micro_batches": 2, "compiled": False} | options))
    return line.step(stage, RULE.init(LAYER), x, y)


def stepped(model=LAYER, x=X, y=X):
    return dist.DataParallel(ALONE).make_step(nn.squared_error, RULE, compiled=False)(model, RULE.init(LAYER), x, y)


def split(model):
    return dist.make_split_step(nn.squared_error, RULE, ALONE, compiled=False)(model, RULE.init(LAYER), X, X)


def served(world, **options):
    """Two steps through a parameter server."""
    parallel, model = dist.ParameterServer(world, **options), LAYER
    step, state = parallel.make_step(nn.squared_error, RULE, compiled=False), RULE.init(model)
    for _ in range(2):
        model, state, *_ = step(model, state, *parallel.share(X, X))
    parallel.settle(model, state)


REFUSED = {                             # what is wrong: (the call, the error, what it says)
    "no stage": (lambda: dist.bubble(0, 4), ConfigError, "stages is 0, expected a whole number from 1"),
    "half a micro-batch": (lambda: dist.bubble(2, 2.5), ConfigError, "micro_batches is 2.5, expected a whole number"),
    "time that runs back": (lambda: dist.bubble(2, 4, transfer=-1.0), ConfigError, "transfer is -1.0, expected a number >= 0"),
    "a pipeline without loss": (lambda: dist.Pipeline("mse", RULE, ALONE, micro_batches=2), ConfigError, "loss is 'mse', expected a func"),
    "an optimizer not made": (lambda: dist.Pipeline(len, optim.sgd, ALONE, micro_batches=2), ConfigError, "optimizer is sgd, expected"),
    "a pipeline without world": (lambda: dist.Pipeline(len, RULE, None, micro_batches=2), ConfigError, "Pipeline: found NoneType"),
    "micro-batches": (lambda: piped(micro_batches=0), ConfigError, "micro_batches is 0, expected a whole number >= 1"),
    "no stage of a model": (lambda: piped(stage=None), ConfigError, "the stage is None, expected a function"),
    "fewer targets": (lambda: piped(y=X[:5]), ShapeError, r"arrays of shapes \(6, 4\), \(5, 4\), expected as many examples"),
    "no examples": (lambda: stepped(x=1.0), ShapeError, r"a training step: arrays of shapes \(\), \(6, 4\), expected as many examples"),
    "targets of other examples": (lambda: stepped(y=X[:5]), ShapeError, r"arrays of shapes \(6, 4\), \(5, 4\), expected as many"),
    "no model": (lambda: stepped(model=None), ConfigError, "model is NoneType, expected a Module"),
    "a split step of no model": (lambda: split(model=3.0), ConfigError, "the model is .*, expected a function"),
    "exactness by name": (lambda: dist.DataParallel(ALONE, exact_reduce="no"), ConfigError, "exact_reduce is 'no', expected True or False"),
    "a stage of two results": (lambda: dist.Pipeline(len, RULE, ALONE, micro_batches=1)._send((X, X), 0, 6), ShapeError, "gives tuple"),
    "columns of a convolution": (lambda: dist.ColumnLinear(CONVOLUTION, ALONE), ConfigError, "ColumnLinear: found Conv2d, expected an nn"),
    "rows of a class": (lambda: dist.RowLinear(nn.Linear, ALONE), ConfigError, "RowLinear: found Linear, expected an nn.Linear"),
    "a layer over no world": (lambda: dist.RowLinear(LAYER, dist.world), ConfigError, "found world, expected the world, a communicator"),
    "columns of other features": (lambda: dist.ColumnLinear(LAYER, ALONE)(X[:, :3]), ShapeError, r"\(6, 3\), its last axis must have 4"),
    "rows of other features": (lambda: dist.RowLinear(LAYER, ALONE)(X[:, :3]), ShapeError, r"\(6, 3\), its last axis must have 4 features"),
    "a split step's loss": (lambda: dist.make_split_step(None, RULE, ALONE), ConfigError, "loss is None, expected a function"),
    "a world of nobody": (lambda: dist.run_threads(0, len), ConfigError, "size is 0, expected a whole number from 1 to 1024"),
    "half a rank": (lambda: dist.run_threads(2.5, len), ConfigError, r"size is 2\.5, expected a whole number"),
    "no program": (lambda: dist.run_threads(2, None), ConfigError, "function is None, expected a function"),
    "no patience": (lambda: dist.run_threads(2, len, seconds=NAN), ConfigError, "seconds is nan, expected a number > 0"),
    "a link of no speed": (lambda: dist.Links(0.0, 0.0), ConfigError, r"Links: bandwidth is 0\.0, expected a number > 0"),
    "a link by name": (lambda: dist.Links("1gbit", 1.0), ConfigError, "Links: latency is '1gbit', expected a number >= 0"),
    "a schedule of other ranks": (lambda: simulated(n=5), ConfigError, "a schedule of 5 ranks in a world of 4"),
    "a schedule of more elements": (lambda: simulated(data=np.ones((4, 5))), ShapeError, "goes up to element 8, data has 5 elements"),
    "a schedule of fewer elements": (lambda: simulated(data=np.ones((4, 9))), ShapeError, "goes up to element 8, data has 9 elements"),
    "data of other ranks": (lambda: simulated(data=np.ones((3, 8))), ShapeError, r"data of shape \(3, 8\) for 4 ranks"),
    "elements of no bytes": (lambda: simulated(bytes_per_element=0), ConfigError, "bytes_per_element is 0"),
    "a schedule not made": (lambda: dist.Simulator(4, ETHERNET).run(schedules.ring, bytes_per_element=4), ConfigError, "is no schedule"),
    "rounds that are none": (lambda: dist.Simulator(4, ETHERNET).run([1], bytes_per_element=4), ConfigError, "1 is no Round"),
    "a simulated nobody": (lambda: dist.Simulator(0, ETHERNET), ConfigError, "ranks is 0"),
    "links by name": (lambda: dist.Simulator(4, "1gbit"), ConfigError, "links is '1gbit', expected Links"),
    "seconds of other ranks": (lambda: dist.Simulator(4, ETHERNET).compute(np.ones(3)), ConfigError, r"float64\[3\], expected .* one or 4"),
    "a ring of nobody": (lambda: list(schedules.ring(0, 8)), ConfigError, "n is 0"),
    "a tree of half a rank": (lambda: list(schedules.tree(2.5, 8)), ConfigError, r"n is 2\.5"),
    "fewer than no elements": (lambda: list(schedules.halving_doubling(4, -1)), ConfigError, "size is -1, expected a whole number >= 0"),
    "no host": (lambda: list(schedules.hierarchical(4, 8, local=0)), ConfigError, "local is 0"),
    "half a worker": (lambda: planner.forecast(2.5, compute=1.0, size=1.0, links=ETHERNET), ConfigError, r"workers is 2\.5, expected a"),
    "no worker": (lambda: plan.advise(0, WORK, ETHERNET), ConfigError, "workers is 0, expected a whole number from 1"),
    "a step of no time": (lambda: plan.Work(NAN, 1e6), ConfigError, "Work: compute is nan, expected a number > 0"),
    "a negative gradient": (lambda: plan.Work(0.25, -1), ConfigError, "Work: size is -1, expected a number >= 0"),
    "more than all of it": (lambda: plan.Work(0.25, 1, jitter=1.5), ConfigError, r"jitter is 1\.5, expected a number >= 0 and <= 1"),
    "work that is a pair": (lambda: plan.report([4], (0.25, 1e6), ETHERNET), ConfigError, r"work is \(0\.25, 1000000\.0\), expected Work"),
    "one number of workers": (lambda: plan.report(4, WORK, ETHERNET), ConfigError, "workers is 4, expected numbers of them"),
    "an average never": (lambda: planner.averaging(4, 0, compute=1.0, size=1.0, links=ETHERNET), ConfigError, "every is 0"),
    "an unknown strategy": (lambda: planner.sent_by_the_busiest("star", 4, 1.0), ConfigError, "strategy is 'star'"),
    "hosts that do not divide": (lambda: planner.hierarchical(3, ETHERNET)(4, 1.0, ETHERNET), ConfigError, "4 ranks with 3 to a host"),
    "a drawing of a number": (lambda: picture.drawing(0.25, "title"), ConfigError, r"drawing: of 0\.25 over"),
    "times of one step": (lambda: stragglers.waits(np.ones(8)), ConfigError, r"times are float64\[8\], expected .*\[steps, workers\]"),
    "times that are none": (lambda: stragglers.waits(np.full((2, 3), NAN)), ConfigError, "some of them negative, infinite or NaN"),
    "times of several lengths": (lambda: stragglers.waits([[1.0], [1.0, 2.0]]), ConfigError, r"times are object\[\]"),
    "the half-th worker": (lambda: stragglers.expected_wait(8, 0.5), ConfigError, r"k is 0\.5, expected a whole number"),
    "parallel over nothing": (lambda: dist.DataParallel(None), ConfigError, "DataParallel: found NoneType, expected the world"),
    "parallel over a class": (lambda: dist.DataParallel(dist.Alone), ConfigError, "DataParallel: found Alone, expected the world"),
    "half a shard": (lambda: dist.DataParallel(ALONE, exact_reduce=True, shards=0.5), ConfigError, r"shards is 0\.5"),
    "a timeline that is true": (lambda: dist.DataParallel(ALONE, timeline=True), ConfigError, "timeline is True, expected a path"),
    "a server's timeline": (lambda: dist.ParameterServer(ALONE, timeline=1), ConfigError, "Server: timeline is 1, expected a path"),
    "no update": (lambda: dist.DataParallel(ALONE).make_step(len, object()), ConfigError, "optimizer is <object.*, expected an Optimizer"),
    "a message of text": (lambda: dist.DataParallel(ALONE).tell("text"), ConfigError, "tell: found str, expected bytes"),
    "told by nobody": (lambda: dist.DataParallel(ALONE).agree(LAYER, (), source=1), ConfigError, "source is 1, expected .* from 0 to 0"),
    "a server of nothing": (lambda: dist.ParameterServer(None), ConfigError, "ParameterServer: found NoneType, expected the world"),
    "a norm over no world": (lambda: dist.synchronized(nn.BatchNorm1d(2), None), ConfigError, "SyncBatchNorm: found NoneType, expected"),
    "parts of several shapes": (lambda: dist.exact_sum([X, X[0]], ALONE, 2), ShapeError, r"float32\[6, 4\], float32\[4\], expected one"),
    "parts that are none": (lambda: dist.exact_sum(None, ALONE, 2), ConfigError, "parts is None, expected arrays"),
    "a sum of objects": (lambda: dist.all_reduce_in_place(np.array([None]), ALONE), DtypeError, "a buffer of object, expected numbers"),
    "a sum of truths": (lambda: dist.all_reduce_in_place(np.array([True]), ALONE), DtypeError, "a buffer of bool, expected numbers"),
    "Python's max": (lambda: dist.all_reduce_in_place(X.copy(), ALONE, combine=max), ConfigError, "combine is <built-in.*expected a ufunc"),
    "a sum over nothing": (lambda: dist.all_reduce(X, None), ConfigError, "found NoneType, expected the world"),
    "half an axis": (lambda: dist.all_gather(X, ALONE, axis=0.5), ShapeError, r"has no axis 0\.5"),
    "half a root": (lambda: dist.broadcast(X, ALONE, root=0.5), ConfigError, r"root is 0\.5"),
    "half a pair": (lambda: dist.send_receive(X, ALONE, [(0, 0.5)]), ConfigError, r"pairs \[\(0, 0\.5\)\] among 1 ranks"),
    "a pair of one": (lambda: dist.send_receive(X, ALONE, [(0,)]), ConfigError, r"pairs \[\(0,\)\] among 1 ranks"),
    "a type that is none": (lambda: dist.per_rank(len, ALONE, varying=None), ConfigError, "varying is None"),
    "no function to trace": (lambda: dist.per_rank(None, ALONE), ConfigError, "function is None, expected a function"),
    "a probe of no time": (lambda: probe.probe(ALONE, seconds=0), ConfigError, "seconds is 0, expected a number > 0"),
    "links of a number": (lambda: linked.Linked(ALONE, 1.0), ConfigError, r"links is 1\.0, expected Links"),
}


@pytest.mark.parametrize("title", REFUSED)
def test_what_is_wrong_is_said_in_three_parts(title):
    call, error, words = REFUSED[title]
    with pytest.raises(AdjointError, match=words) as raised:
        call()
    assert type(raised.value) is error
    _, where, remedy = str(raised.value).splitlines()
    assert where.startswith("  at ") and "test_arguments.py:" in where and remedy.startswith("  ") and remedy.endswith(".")


IN_A_WORLD = {                          # on every one of three ranks: (the program, what the first rank that fails says)
    "a rank too many": (lambda c: c.exchange(X, 3, None, schedules.NOBODY), "a message from rank [012] to rank 3 in a world of 3"),
    "half a server": (lambda c: dist.ParameterServer(c, servers=1.5), "servers is 1.5, expected a whole number"),
    "waiting for half": (lambda c: dist.ParameterServer(c, wait_for=1.5), "wait_for is 1.5, expected a whole number"),
    "no weight": (lambda c: dist.ParameterServer(c, staleness=1, weight=0.5), "weight is 0.5, expected a function"),
    "a weight that is none": (lambda c: served(c, **STALE), "what weight returns is nan, expected a number >= 0"),
    "a batch of no examples": (lambda c: dist.ParameterServer(c).share(), "share: arrays of shapes none"),
    "a server's own gradient": (lambda c: c.rank or dist.ParameterServer(c).cancellation, "rank 0 is a server, and has no gradient"),
    "fewer features than ranks": (lambda c: dist.ColumnLinear(nn.Linear(4, 2, rng=np.random.default_rng(0)), c), "2 features cannot be"),
    "a whole input for rows": (lambda c: dist.RowLinear(nn.Linear(6, 2, rng=np.random.default_rng(0)), c)(np.ones((2, 6))),
                               "its last axis must have 2 features on rank [012] of 3"),
}


@pytest.mark.parametrize("title", IN_A_WORLD)
def test_what_is_wrong_in_a_world_is_said_too(title):
    program, words = IN_A_WORLD[title]
    with pytest.raises(CommunicationError, match=rf"rank \d of 3 failed: \w+: .*{words}") as raised:
        dist.run_threads(3, program, seconds=5)
    assert isinstance(raised.value.__cause__, AdjointError)


# Of what kind an argument is, and what is none of that kind.
NO_WORLD, NO_FLAG, NO_FUNCTION = (None, "world", 0, dist.Alone, dist.world), (None, "no", 1.0, [True]), (None, "f", 1.0)
NO_WHOLE = (None, "four", -1, 2.5, NAN, True, [4], 10 ** 30)
NO_NUMBER = (None, "fast", -1.0, NAN, True, [1.0], object(), 10 ** 400)
NO_LINKS, NO_LOSS = (None, "1gbit", 1.0, (50e-6, 1e8)), (None, "mse", 1.0)
FORECAST = {"workers": 4, "compute": 0.25, "size": 1e6, "links": ETHERNET}
ARGUMENTS = {
    "stages": (lambda v: dist.bubble(v, 4), (*NO_WHOLE, 0)), "micro-batches": (lambda v: dist.bubble(2, v), (*NO_WHOLE, 0)),
    **{f"bubble, {name}": (lambda v, name=name: dist.bubble(2, 4, **{name: v}), NO_NUMBER) for name in ("forward", "backward", "transfer")},
    **{f"{split.__name__} of": (lambda v, split=split: split(v, ALONE), (None, 4, nn.Linear, CONVOLUTION)) for split in SPLITS},
    **{f"{split.__name__}'s world": (lambda v, split=split: split(LAYER, v), NO_WORLD) for split in SPLITS},
    "threads": (lambda v: dist.run_threads(v, len), (*NO_WHOLE, 0)), "patience": (lambda v: dist.run_threads(1, id, seconds=v), NO_NUMBER),
    "a thread's program": (lambda v: dist.run_threads(1, v), NO_FUNCTION),
    **{f"Links' {name}": (lambda v, name=name: dist.Links(**{"latency": 1.0, "bandwidth": 1.0, name: v}), NO_NUMBER)
       for name in ("latency", "bandwidth", "adding")},
    "simulated ranks": (lambda v: dist.Simulator(v, ETHERNET), (*NO_WHOLE, 0)), "its links": (lambda v: dist.Simulator(4, v), NO_LINKS),
    "seconds of ranks": (lambda v: dist.Simulator(4, ETHERNET).compute(v), (None, "long", -1.0, NAN, [1.0, 2.0], X)),
    "data of ranks": (lambda v: simulated(data=v), ("data", 1.0, X, np.ones(8), np.ones((4, 9)))),
    "bytes of elements": (lambda v: simulated(bytes_per_element=v), (*NO_WHOLE, 0)),
    **{f"{name} of n": (lambda v, name=name: list(dist.ALGORITHMS[name](v, 8)), (*NO_WHOLE, 0)) for name in dist.ALGORITHMS},
    **{f"{name} of size": (lambda v, name=name: list(dist.ALGORITHMS[name](4, v)), NO_WHOLE) for name in dist.ALGORITHMS},
    **{f"forecast, {name}": (lambda v, name=name: planner.forecast(**FORECAST | {name: v}), wrong) for name, wrong in (
        ("workers", (*NO_WHOLE, 0)), ("compute", (*NO_NUMBER, 0)), ("size", NO_NUMBER), ("links", NO_LINKS), ("jitter", (*NO_NUMBER, 1.5)),
        ("overlap", (*NO_NUMBER, 1.5)), ("wait_for", ("four", 0, -1, 5, 2.5, NAN)), ("moments", NO_WHOLE),
        ("costs", (None, 1, {"ring": 1})))},
    "best to wait for": (lambda v: planner.best_wait(v, compute=1.0, jitter=0.1), (*NO_WHOLE, 0)),
    "steps between averages": (lambda v: planner.averaging(4, v, compute=1.0, size=1.0, links=ETHERNET), (*NO_WHOLE, 0)),
    "work": (lambda v: plan.advise(4, v, ETHERNET), (None, 0.25, (0.25, 1e6))),
    "a link's text": (plan.links_of, (None, 1.0, "", "1", "a,b")),
    "H_n": (stragglers.harmonic, NO_WHOLE), "waited for": (lambda v: stragglers.expected_wait(8, v), (*NO_WHOLE[1:], 0, 9)),
    "times": (stragglers.waits, (None, "long", 1.0, [1.0], np.ones((2, 0)), np.ones((2, 3, 4)), -X, X * NAN, [[1.0], [1.0, 2.0]])),
    "cancelling": (lambda v: stragglers.waits(X, 2, cancel=v), NO_FLAG),
    "parallel over": (dist.DataParallel, NO_WORLD), "exactness": (lambda v: dist.DataParallel(ALONE, exact_reduce=v), NO_FLAG),
    **{name: (lambda v, name=name: dist.DataParallel(ALONE, **{name: v}), (*NO_WHOLE, 0))
       for name in ("shards", "bucket_bytes", "accumulate")},
    "a timeout": (lambda v: dist.DataParallel(ALONE, timeout=v), (*NO_NUMBER[1:], 0)),
    "a share": (dist.DataParallel(ALONE).share, (None, 1.0, "batch")),
    "a source": (lambda v: dist.agree(ALONE, LAYER, (), v), (*NO_WHOLE, 1)),
    "served by": (dist.ParameterServer, (*NO_WORLD, ALONE)), "a pipeline's world": (lambda v: piped(world=v), NO_WORLD),
    **{f"{what}'s loss": (make, NO_LOSS) for what, make in (
        ("a step", lambda v: dist.DataParallel(ALONE).make_step(v, RULE)), ("a split step", lambda v: dist.make_split_step(v, RULE, ALONE)),
        ("a pipeline", lambda v: dist.Pipeline(v, RULE, ALONE, micro_batches=1)))},
    "synchronized over": (lambda v: dist.synchronized(nn.BatchNorm1d(2), v), NO_WORLD),
    "exact parts": (lambda v: dist.exact_sum(v, ALONE, 1), (None, 1.0, "parts", [], [None], [np.array(["a"])], [X, X])),
    **{f"{name} of": (lambda v, name=name: getattr(dist, f"{name}_in_place")(v, ALONE), (None, 1.0, [1.0], X[:, :2], np.array([None])))
       for name in ("all_reduce", "reduce_scatter", "all_gather", "broadcast")},
    "an algorithm": (lambda v: dist.all_reduce_in_place(X.copy(), ALONE, algorithm=v), (None, "star", 1, X)),
    "a combination": (lambda v: dist.all_reduce_in_place(X.copy(), ALONE, combine=v), (None, "add", max, np.exp)),
    **{f"{name} over": (lambda v, name=name: getattr(dist, name)(X, v), NO_WORLD)
       for name in ("all_reduce", "all_gather", "reduce_scatter", "own_chunk", "broadcast", "replicate_to_varying", "is_varying")},
    **{f"{name} of a value": (lambda v, name=name: getattr(dist, name)(v, ALONE), (None, "x", object(), 10 ** 30, X.astype(np.float16)))
       for name in ("all_reduce", "all_gather", "reduce_scatter", "own_chunk", "broadcast", "replicate_to_varying")},
    **{f"{name}'s axis": (lambda v, name=name: getattr(dist, name)(X, ALONE, axis=v), (None, "rows", 2, -3, 0.5, NAN, True))
       for name in ("all_gather", "reduce_scatter", "own_chunk")},
    "a root": (lambda v: dist.broadcast(X, ALONE, root=v), (*NO_WHOLE, 1)),
    "pairs": (lambda v: dist.send_receive(X, ALONE, v), (None, 1, "ab", [(0, 1)], [0], [(0,)], [(0, 0.5)], [(0, 0), (0, 0)])),
    "traced": (lambda v: dist.per_rank(v, ALONE), NO_FUNCTION),
    "types": (lambda v: dist.per_rank(id, ALONE, varying=v)(X), (None, "yes", 1, (True, False), [True, False])),
    "probed": (lambda v: probe.probe(v, seconds=0.1), (*NO_WORLD, ALONE)),
    "probed for": (lambda v: probe.probe(ALONE, seconds=v), NO_NUMBER),
}


@pytest.mark.parametrize("title", ARGUMENTS)
def test_what_is_of_another_kind_is_refused(title):
    call, wrong = ARGUMENTS[title]
    for value in wrong:
        with pytest.raises(AdjointError):
            raise AssertionError(f"{title}: {value!r:.60} gives {call(value)!r:.60}")
