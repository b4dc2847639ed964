"""Data parallelism: n ranks train as one process does; exact sums make that hold to the bit."""

import contextlib

import numpy as np
import pytest

import adjoint as ad
from adjoint import nn, optim, train
from adjoint.distributed import Alone, DataParallel, ParameterServer, agree, exact_sum, run_threads
from adjoint.distributed.data_step import layout_of, packed, unpacked
from adjoint.errors import CommunicationError, ConfigError, NonFiniteError, ShapeError
from adjoint.tree import flatten

BATCH = 24
DATA = np.ones((BATCH, 6)), np.zeros(BATCH, np.int64)


def network(dtype=np.float64, seed=0, p=0.0):
    rng = np.random.default_rng(seed)
    return nn.Sequential(nn.Linear(6, 16, rng=rng, dtype=dtype), np.tanh, nn.Dropout(p), nn.Linear(16, 3, rng=rng, dtype=dtype))


def examples(steps, dtype=np.float64):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((steps, BATCH, 6)).astype(dtype)
    return x, np.argmax(x[..., :3] + x[..., 3:] ** 2, axis=-1)


def deal(n, sizes=None):
    """Rows of each rank."""
    sizes = sizes or [BATCH // n] * n
    ends = np.cumsum(sizes)
    return [slice(int(e - s), int(e)) for s, e in zip(sizes, ends, strict=True)]


def train_on(n, steps, *, dtype=np.float64, sizes=None, p=0.0, compiled=False, **options):
    """The parameters and losses of every rank after some steps."""
    x, y, rows = *examples(steps, dtype), deal(n, sizes)
    rule = optim.adam(1e-2)

    def program(c):
        model = network(dtype, seed=c.rank, p=p)                 # every rank begins differently: rank 0's model is handed round
        model, state = agree(c, model, rule.init(model))
        step, losses = DataParallel(c, **options).make_step(nn.cross_entropy, rule, compiled=compiled), []
        for k in range(steps):
            own = rows[c.rank]
            model, state, loss, _, _ = step(model, state, x[k, own], y[k, own], np.array([5, k]) if p else None)
            losses.append(float(loss))
        return flatten(ad.copy(model))[0], losses
    return run_threads(n, program, seconds=30)


def one_process(steps, dtype=np.float64):
    """Parameters and losses."""
    x, y = examples(steps, dtype)
    rule, model = optim.adam(1e-2), network(dtype)
    step, state, losses = train.make_step(nn.cross_entropy, rule, compiled=False), rule.init(model), []
    for k in range(steps):
        model, state, loss, *_ = step(model, state, x[k], y[k])
        losses.append(float(loss))
    return flatten(model)[0], losses


def same_losses(found, expected):
    """A step's loss is that of the whole batch; what has come apart by rounding since the first step is far below 1e-12."""
    return all(losses == pytest.approx(expected, rel=1e-12, abs=0.0) for _, losses in found)


@pytest.mark.mission(60)
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_n_ranks_train_as_one_process(n, figure):
    found, (expected, losses) = train_on(n, 200), one_process(200)
    for parameters, _ in found:
        worst = max(np.abs(a - b).max() for a, b in zip(parameters, expected, strict=True))
        figure.equal(worst, 0.0, abs=1e-10)
    assert all(a.tobytes() == b.tobytes() for ps, _ in found for a, b in zip(ps, found[0][0], strict=True))
    assert same_losses(found, losses) and losses[-1] < 0.8 * losses[0]
    assert all(each == found[0][1] for _, each in found)


def test_one_step_in_float32():
    for parameters, _ in train_on(3, 1, dtype=np.float32):
        for a, b in zip(parameters, one_process(1, np.float32)[0], strict=True):
            assert a.dtype == np.float32 and np.abs(a - b).max() <= 1e-6


def test_ranks_with_different_batches_weigh_by_examples():
    found, (expected, losses) = train_on(3, 20, sizes=[4, 15, 5]), one_process(20)
    assert same_losses(found, losses)
    for parameters, _ in found:
        assert all(np.abs(a - b).max() <= 1e-10 for a, b in zip(parameters, expected, strict=True))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exact_sums_give_the_same_bits_for_every_number_of_ranks(dtype):
    runs = {n: train_on(n, 12, dtype=dtype, p=0.3, exact_reduce=True) for n in (1, 2, 3, 4, 6)}
    for found in runs.values():
        for parameters, losses in found:
            assert losses == runs[1][0][1]
            assert all(a.tobytes() == b.tobytes() for a, b in zip(parameters, runs[1][0][0], strict=True))
    plain = [a.tobytes() for a in train_on(3, 12, dtype=np.float32)[0][0]]
    assert plain != [a.tobytes() for a in train_on(4, 12, dtype=np.float32)[0][0]]         # without them the bits do differ


@pytest.mark.parametrize("scale", [1e-150, 1e8, 1e140])
def test_exact_sums_count_examples_whatever_the_loss_is(scale):
    """Losses beyond 2^62, or below 2^-62 of the number of examples, share no exponent with it."""
    model = nn.Linear(2, 1, rng=np.random.default_rng(0), dtype=np.float64)

    def program(c, exact):
        rule = optim.sgd(0.5)
        parallel = DataParallel(c, exact_reduce=exact)
        x = np.random.default_rng(1).standard_normal((60, 2))
        step = parallel.make_step(nn.squared_error, rule, compiled=False)
        changed, _, loss, _, finite = step(model, rule.init(model), *parallel.share(x, scale * (x @ [[2.0], [3.0]] + 1)))
        return flatten(changed)[0], loss, finite
    (expected, loss, _), *_ = run_threads(1, lambda c: program(c, False))
    for found, exact_loss, finite in run_threads(2, lambda c: program(c, True), seconds=30):
        assert finite and exact_loss == pytest.approx(loss, rel=1e-12)
        assert all(np.allclose(a, b, rtol=1e-12, atol=0.0) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("counts", [(8, 9, 9), (2, 1, 1), (4, 8, 4)])
def test_unequal_shares_are_no_equal_shards_on_any_rank(counts):
    """Also where a rank's own examples could be cut."""
    said = []

    def program(c):
        parallel = DataParallel(c, exact_reduce=True, shards=3 if counts[0] == 2 else 12)
        step = parallel.make_step(nn.squared_error, optim.sgd(0.1), compiled=False)
        with pytest.raises(ShapeError, match=f"exact_reduce: {min(counts)} to {max(counts)} examples a rank") as caught:
            step(network(), (), np.ones((counts[c.rank], 6)), np.ones((counts[c.rank], 3)))
        said.append(str(caught.value))
    run_threads(3, program, seconds=30)
    assert len(said) == 3


@pytest.mark.parametrize("pieces", [2, 4])
def test_micro_batches_are_those_of_the_batch(pieces):
    found, (expected, losses) = train_on(2, 3, accumulate=pieces), one_process(3)
    assert same_losses(found, losses)
    assert all(np.abs(a - b).max() <= 1e-10 for parameters, _ in found for a, b in zip(parameters, expected, strict=True))


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("options", [{"compiled": True}, {"exact_reduce": True}, {"compiled": True, "accumulate": 2}])
def test_losses_are_those_of_the_whole_batch(n, options):
    assert same_losses(train_on(n, 3, **options), one_process(3)[1])


def test_a_compiled_update_writes_where_model_and_state_lie():
    def program(c):
        rule, model = optim.adam(1e-2), network()
        model, state = agree(c, model, rule.init(model))
        parallel = DataParallel(c)
        step = parallel.make_step(nn.cross_entropy, rule)
        model, state, *_ = step(model, state, *parallel.share(*DATA))
        before = flatten((model, state))[0]
        after = flatten(step(model, state, *parallel.share(*DATA))[:2])[0]
        return all(np.shares_memory(a, b) for a, b in zip(before, after, strict=True))
    assert run_threads(2, program, seconds=30) == [True, True]


def test_compiled_halves_and_small_buckets_change_nothing():
    eager, small = train_on(2, 5), train_on(2, 5, bucket_bytes=64)
    native = train_on(2, 5, compiled=True)
    for (a, _), (b, _), (c, _) in zip(eager, small, native, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
        assert all(np.allclose(x, y, rtol=1e-9, atol=1e-12) for x, y in zip(a, c, strict=True))


def test_an_exact_sum_does_not_depend_on_order_or_on_how_parts_are_dealt():
    rng = np.random.default_rng(0)
    parts = list((rng.standard_normal((12, 50)) * 10.0 ** rng.integers(-20, 20, (12, 50))).astype(np.float32))
    expected = exact_sum(parts, Alone(), 12)
    assert np.array_equal(exact_sum(parts[::-1], Alone(), 12), expected)
    for n in (2, 3, 4, 6, 12):
        for found in run_threads(n, lambda c, n=n: exact_sum(parts[c.rank::n], c, 12), seconds=10):
            assert found.tobytes() == expected.tobytes()
    truth = np.sum(np.array(parts, np.longdouble), axis=0)
    assert np.abs(expected - truth).max() <= 2.0 ** -24 * np.abs(truth).max() + 12 * 2.0 ** -58 * np.abs(parts).max()


def test_an_exact_sum_keeps_62_bits_below_the_largest_magnitude():
    x = np.array([1.0, 2.0 ** -60, 2.0 ** -61])
    assert exact_sum([x], Alone(), 1).tolist() == [1.0, 2.0 ** -60, 0.0]
    x = np.array([1.0, 2.0 ** -59, 2.0 ** -60])
    assert exact_sum([x, x], Alone(), 2).tolist() == [2.0, 2.0 ** -58, 0.0]
    assert exact_sum([np.array([1e-30, 3e-300])], Alone(), 1).tolist() == [1e-30, 0.0]
    assert exact_sum([np.array([3e-300]), np.array([1e-300])], Alone(), 2)[0] == 4e-300
    assert exact_sum([np.zeros((0, 2), np.float32)], Alone(), 1).shape == (0, 2)


def test_what_is_not_finite_is_not_finite_on_every_rank():
    assert np.isnan(exact_sum([np.array([1.0, np.inf]), np.ones(2)], Alone(), 2)).all()

    def program(c):
        rule, model = optim.sgd(0.1), network()
        step = DataParallel(c).make_step(nn.squared_error, rule, compiled=False)
        x = np.full((4, 6), np.nan if c.rank == 1 else 1.0)
        after, _, _, _, finite = step(model, rule.init(model), x, np.zeros((4, 3)))
        return bool(finite), np.array_equal(after[0].weight, model[0].weight)
    assert run_threads(3, program, seconds=10) == [(False, True)] * 3


def refused(parallel, bad):
    """What a rank says of its third step, in which examples of some ranks are infinite; of none: the norm of its gradients is."""
    def augment(x, count):
        return np.full_like(x, np.inf) if count == 2 and parallel.rank in bad else x * (1e200 if count == 2 and not bad else 1.0)
    model = nn.Linear(6, 3, rng=np.random.default_rng(0), dtype=np.float64)
    with np.errstate(all="ignore"), pytest.raises(NonFiniteError, match=r"step 3 \(epoch 3, batch 1\) stopped before its upd") as raised:
        train.fit(model, DATA, optimizer=optim.sgd(1e-9), loss=lambda outputs, y: outputs.mean(), epochs=5, batch=BATCH,
                  augment=augment, parallel=parallel, compiled=False)
    return str(raised.value).splitlines()[0].split("not finite, ")[1]


@pytest.mark.parametrize("bad", [(1,), (0, 2), (1, 2), ()])
def test_ranks_where_nothing_is_wrong_say_on_which_it_was_born(bad):
    for rank, said in enumerate(run_threads(3, lambda c: refused(DataParallel(c), bad), seconds=20)):
        other = f"born on rank {bad[0]}, whose own message says in which operation." if bad else "a norm of its gradients overflowed."
        assert said.startswith("born in argument 1: 144 infinite of 144 values") if rank in bad else said == other


def test_ranks_of_a_server_do_not_know_on_which_it_was_born():
    server, own, _ = run_threads(3, lambda c: refused(ParameterServer(c), (1,)), seconds=20)
    assert server == "born on another rank, or a norm of its gradients overflowed." and own.startswith("born in argument 1")


def test_buckets_hold_every_gradient_in_reverse_order():
    tree = {"a": np.arange(3.0), "b": np.arange(4.0).reshape(2, 2), "c": np.arange(5, dtype=np.float32)}
    layout = layout_of(tree, 48)
    assert layout.buckets == ((2,), (1,), (0,))
    again = unpacked(packed(tree, layout), layout)
    assert all(np.array_equal(again[k], tree[k]) and again[k].dtype == tree[k].dtype for k in tree)


def test_the_last_bucket_is_small_where_it_would_be_large():
    gradients = [np.zeros(size, np.float32) for size in (1000, 20_000, 300_000, 300_000)]
    assert layout_of(gradients, 2 ** 30).buckets == ((3, 2), (1, 0))
    assert layout_of(gradients[2:], 2 ** 30).buckets == ((1, 0),) and layout_of(gradients[:2], 2 ** 30).buckets == ((1, 0),)
    assert layout_of([], 64).buckets == ()
    quarter = [np.zeros(65_536, np.float32), np.zeros(196_608, np.float32)]                 # 1 MiB in all: not large yet
    assert layout_of(quarter, 2 ** 30).buckets == ((1, 0),)
    assert layout_of([quarter[0], np.zeros(196_609, np.float32)], 2 ** 30).buckets == ((1,), (0,))


def test_a_bucket_is_filled_to_the_last_byte():
    layout = layout_of({"a": np.ones(4), "b": np.ones((2, 2)), "c": np.ones(9)}, 64)
    assert layout.buckets == ((2,), (1, 0)) and [layout.name(k) for k in (0, 1)] == ["bucket 1 of 2 (c)", "bucket 2 of 2 (a..b)"]
    assert layout_of({"a": np.ones(4), "b": np.ones(5)}, 64).buckets == ((1,), (0,))


def keys_of(c, steps=2, **options):
    """The random keys with which a rank computes."""
    parallel, rule, model, keys = DataParallel(c, **options), optim.sgd(0.1), network(), []
    step, state = parallel.make_step(nn.cross_entropy, rule, compiled=False), rule.init(model)
    gradients = step._gradients
    step._gradients = lambda model, x, y, key: (keys.append(tuple(key)), gradients(model, x, y, key))[1]
    for k in range(steps):
        model, state, *_ = step(model, state, *parallel.share(*DATA), np.array([5, k]))
    return keys


def test_random_numbers_differ_on_every_rank_and_in_every_micro_batch_and_shard():
    found = run_threads(3, lambda c: keys_of(c, accumulate=2), seconds=10)
    assert found == [[(5, (k * 3 + rank) * 2 + piece) for k in range(2) for piece in range(2)] for rank in range(3)]
    assert run_threads(2, keys_of, seconds=10) == [[(5, 2 * k + rank) for k in range(2)] for rank in range(2)]
    assert keys_of(Alone()) == [(5, 0), (5, 1)]
    found = run_threads(2, lambda c: keys_of(c, exact_reduce=True, shards=4), seconds=10)
    assert found == [[(5, 4 * k + 2 * rank + shard) for k in range(2) for shard in range(2)] for rank in range(2)]


def test_programs_are_compared_in_the_first_step_alone():
    def program(c):
        parallel, rule, model, rounds = DataParallel(c), optim.sgd(0.1), network(), []
        step, state = parallel.make_step(nn.cross_entropy, rule), rule.init(model)
        for _ in range(3):
            before = c.counts.rounds
            model, state, *_ = step(model, state, *parallel.share(*DATA))
            rounds.append(c.counts.rounds - before)
        return rounds
    for first, *others in run_threads(2, program, seconds=30):
        assert others == [first - 4] * 2                        # a tree of two ranks, there and back: programs, then models


def test_other_models_are_refused_on_every_rank():
    def program(c):
        rng = np.random.default_rng(0)
        model = nn.Linear(3, 2 + (c.rank == 1), rng=rng)
        with pytest.raises(CommunicationError, match=rf"different models or optimizers: rank {c.rank} of 3 has 2 arrays"):
            agree(c, model, ())
        return True
    assert run_threads(3, program, seconds=10) == [True] * 3


def test_bad_arguments():
    with pytest.raises(CommunicationError, match="12 shards cannot be dealt evenly to 5 ranks") as caught:
        run_threads(5, lambda c: DataParallel(c, exact_reduce=True), seconds=5)
    assert isinstance(caught.value.__cause__, ConfigError)
    with pytest.raises(CommunicationError, match="a batch of 2 examples cannot be shared by 3 ranks"):
        run_threads(3, lambda c: DataParallel(c).share(np.ones(2)), seconds=5)
    rule, model = optim.sgd(0.1), network()
    step = DataParallel(Alone(), exact_reduce=True).make_step(nn.squared_error, rule, compiled=False)
    with pytest.raises(ShapeError, match=r"exact_reduce: 7 examples a rank, expected .* 12 equal shards"):
        step(model, rule.init(model), np.ones((7, 6)), np.ones((7, 3)))
    with pytest.raises(ShapeError, match=r"exact_reduce: 0 examples a rank, expected .* 12 equal shards"):
        step(model, rule.init(model), np.ones((0, 6)), np.ones((0, 3)))
    step = DataParallel(Alone(), accumulate=3).make_step(nn.squared_error, rule, compiled=False)
    with pytest.raises(ShapeError, match="accumulate: 2 examples of rank 0 are not 3 micro-batches"):
        step(model, rule.init(model), np.ones((2, 6)), np.ones((2, 3)))
    assert step(model, rule.init(model), np.ones((3, 6)), np.ones((3, 3)))[4]


@pytest.mark.parametrize("n", [2, 3])
def test_fit_on_ranks_ends_as_fit_alone_and_resumes(n, tmp_path):
    x, y = examples(5)
    x, y = x.reshape(-1, 6), y.reshape(-1)
    options = {"optimizer": optim.adam(1e-2), "epochs": 4, "batch": BATCH, "validation": (x[:20], y[:20]), "compiled": False}
    alone = train.fit(network(), (x, y), **options)

    def program(c, epochs, resume):
        folder = contextlib.nullcontext()
        if c.rank == 0:
            folder = train.RunFolder.create(tmp_path, "run", {}) if not resume else train.RunFolder.open(
                train.RunFolder.latest(tmp_path, "run"))
        with folder as opened:
            return train.fit(network(seed=c.rank), (x, y), **{**options, "epochs": epochs}, folder=opened, resume=resume,
                             parallel=DataParallel(c))
    whole = run_threads(n, lambda c: train.fit(network(seed=c.rank), (x, y), **options, parallel=DataParallel(c)), seconds=30)
    for done in whole:
        assert done.steps == alone.steps == 20
        assert [line["validation_error"] for line in done.history] == [line["validation_error"] for line in alone.history]
        assert [line["loss"] for line in done.history] == pytest.approx([line["loss"] for line in alone.history], rel=1e-12, abs=0.0)
        assert np.abs(done.model[0].weight - alone.model[0].weight).max() < 1e-10
    run_threads(n, lambda c: program(c, 2, False), seconds=30)
    for done in run_threads(n, lambda c: program(c, 4, True), seconds=30):
        assert done.steps == 20 and len(done.history) == 4
        assert all(a.tobytes() == b.tobytes() for a, b in zip(flatten(done.model)[0], flatten(whole[0].model)[0], strict=True))


@pytest.mark.parametrize("call, error, words", [
    (lambda c: DataParallel(c).share(np.ones((6, 2)), np.ones(5)), ShapeError, r"share: arrays of shapes \(6, 2\), \(5,\)"),
    (lambda c: DataParallel(c).share(), ShapeError, "share: arrays of shapes none"),
    (lambda c: DataParallel(c).share(np.float64(3)), ShapeError, r"share: arrays of shapes \(\)"),
    (lambda c: agree(c, network(), (), source=1), ConfigError, "agree: source is 1, expected"),
    (lambda c: exact_sum([], c, 2), ConfigError, "exact_sum: 0 parts on rank 0, 2 on all ranks"),
    (lambda c: exact_sum([np.full(2, 2.0 ** 60)] * 3, c, 2), ConfigError, "exact_sum: 3 parts on rank 0, 2 on all ranks"),
    (lambda c: train.fit(network(), DATA, optimizer=optim.sgd(0.1), epochs=1, parallel=c), ConfigError, "parallel is Alone, expected how"),
    (lambda c: train.fit(network(), DATA, optimizer=optim.sgd(0.1), epochs=1, parallel=True), ConfigError, "parallel is bool, expected"),
])
def test_what_does_not_belong_together_is_said(call, error, words):
    with pytest.raises(error, match=words) as raised:
        call(Alone())
    assert "test_data_parallel.py:" in str(raised.value)
