"""The parameter server: as one process when all workers are waited for; backup workers; bounded staleness; several servers; fit."""

import contextlib
import time

import numpy as np
import pytest
import server_ranks
import worlds
from server_ranks import BATCH, distance, examples, network, one_process, trained

import adjoint as ad
from adjoint import nn, optim, train
from adjoint.distributed import DataParallel, ParameterServer, run_threads
from adjoint.errors import Cancelled
from adjoint.tree import flatten

MPI = {"as_one": 4, "policies": 5}


@pytest.mark.mission(62)
@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_waiting_for_all_is_one_process(workers, figure):
    expected = one_process(200)
    found = run_threads(workers + 1, lambda c: trained(c, 200), seconds=30)
    for parameters, _, losses in found:
        figure.equal(distance(parameters, expected), 0.0, abs=1e-10)
        assert losses == found[0][2]
    assert all(a.tobytes() == b.tobytes() for ps, ss, _ in found for a, b in zip([*ps, *ss], [*found[0][0], *found[0][1]], strict=True))


@pytest.mark.parametrize("workers", [1, 3])
def test_one_step_in_float32(workers):
    for parameters, _, _ in run_threads(workers + 1, lambda c: trained(c, 1, dtype=np.float32), seconds=20):
        assert all(a.dtype == np.float32 for a in parameters) and distance(parameters, one_process(1, np.float32)) <= 1e-6


@pytest.mark.parametrize(("workers", "servers"), [(2, 2), (3, 3), (1, 4)])
def test_several_servers_are_as_one(workers, servers):
    sent = {}

    def program(c):
        found = trained(c, 20, servers=servers)
        sent[c.rank] = c.counts.bytes_sent
        return found
    for parameters, state, _ in run_threads(workers + servers, program, seconds=20):
        assert distance(parameters, one_process(20)) <= 1e-10
        assert int(state[0]) == 20
    assert len(sent) == workers + servers


@worlds.every_runtime
@pytest.mark.parametrize("name", MPI)
def test_under_mpiexec(runtime, name):
    status, output = worlds.run(runtime.ranks(MPI[name], server_ranks.__file__, name))
    assert status == 0 and output.count(": right") == MPI[name], output


@pytest.mark.parametrize("options", [{"wait_for": 2}, {"wait_for": 2, "cancel": False}, {"wait_for": 2, "servers": 2}, {"staleness": 0},
                                     {"staleness": 2}, {"staleness": 2, "servers": 2}], ids=str)
def test_all_ranks_end_with_one_model_and_state(options):
    found = run_threads(3 + options.get("servers", 1), lambda c: trained(c, 40, **options), seconds=20)
    for parameters, state, losses in found:
        assert distance(parameters, found[0][0]) == distance(state, found[0][1]) == 0.0
        assert int(state[0]) == len(losses) == 40
    assert np.mean(found[0][2][-8:]) < np.mean(found[0][2][:8])


# ------------------------------------------------------------------------------------------------ backup workers


def jittered(c, steps, wait_for, *, cancel, seed=0):
    """A run in which every worker sleeps inside its loss; what the server took, and what each worker saw."""
    rng = np.random.default_rng(seed + c.rank)
    parallel, seen = ParameterServer(c, wait_for=wait_for, cancel=cancel), []
    model, rule = {"w": np.zeros(3)}, optim.sgd(1.0)

    def loss(w, y):
        version = parallel.worker.version
        before = w.copy()
        late = parallel.cancellation.wait(rng.exponential(4e-3))
        seen.append((version, late, bool((before == -version).all())))
        if late:
            raise Cancelled
        return w.sum()
    step = parallel.make_step(lambda outputs, y: outputs, rule, compiled=False)
    step.__dict__["_local"] = lambda m, x, y, key: (loss(m["w"], y), (np.full(3, 2.0),), (), True) if parallel.server is None else None
    model, state = parallel.agree(model, rule.init(model))
    taken_versions = []
    if parallel.server:
        gradients = parallel.server.gradients

        def noted():
            answers = gradients()
            taken_versions.append([note.version for note, _ in answers.values()])
            return answers
        parallel.server.gradients = noted
    for _ in range(steps):
        model, state, *_ = step(model, state, np.ones((2, 3)), np.ones(2))
    model, state, _ = parallel.settle(model, state)
    return model["w"], taken_versions, seen


@pytest.mark.mission(63)
@pytest.mark.parametrize("cancel", [True, False])
def test_no_gradient_of_an_old_version_is_ever_applied(cancel, figure):
    steps, workers, wait_for = 60, 5, 3
    found = run_threads(workers + 1, lambda c: jittered(c, steps, wait_for, cancel=cancel), seconds=20)
    for made, versions in enumerate(found[0][1]):
        assert versions == [made] * wait_for
    figure.equal(len(found[0][1]), steps)
    figure.equal(np.array([w for w, _, _ in found]), np.full((workers + 1, 3), -float(steps)))         # each step is -1 exactly
    late = [late for _, _, seen in found[1:] for _, late, _ in seen]
    assert any(late) == cancel
    for _, _, seen in found[1:]:
        assert all(right for _, _, right in seen)                       # the model is that of its version, also after a cancellation
        versions = [version for version, _, _ in seen]
        assert versions == sorted(set(versions))                        # and every next one is newer


def test_a_cancelled_backward_leaves_the_model_and_takes_the_newest():
    """Rank 2 has a thousand times the rows of rank 1, and is hardly ever the first: its compiled backward is cut off while it runs."""
    cut, whole = [], []

    def loss(y, weight):
        for _ in range(6):
            y = np.tanh(y @ weight)
        return np.mean(y)

    def program(c):
        parallel, rule = ParameterServer(c, wait_for=1), optim.sgd(1e-2)
        model = nn.Linear(64, 64, bias=False, rng=np.random.default_rng(0))
        step = parallel.make_step(loss, rule)
        x = np.ones((40_000 if c.rank == 2 else 40, 64), np.float32)
        weight = np.full((64, 64), 0.01, np.float32)
        if parallel.server is None:
            parallel.shards_of(model)
            for _ in range(2):                                          # compiled before anybody waits
                began = time.perf_counter()
                step._local(model, x, weight, None)
            whole.append((time.perf_counter() - began, c.rank))
            compiled = step._local

            def local(m, *rest):
                before, version = ad.copy(m), parallel.worker.version
                try:
                    return compiled(m, *rest)
                except Cancelled:
                    cut.append((version, c.rank, np.array_equal(before.weight, m.weight)))
                    raise
            step._local = local
        model, state = parallel.agree(model, rule.init(model))
        versions = []
        for _ in range(8):
            model, state, *_ = step(model, state, x, weight)
            if parallel.server is None:
                versions.append(parallel.worker.version)
        assert versions == sorted(versions)
        return parallel.settle(model, state)[0].weight
    found = run_threads(3, program, seconds=60)
    assert 2 in {rank for _, rank, _ in cut} and all(same for _, _, same in cut)
    assert all(np.array_equal(w, found[0]) for w in found)


def test_a_cancelled_worker_moves_on_at_once():
    """Three workers, one of which would sleep for 30 seconds in every step: the steps do not wait for it, nor does the end."""
    def program(c):
        parallel, rule = ParameterServer(c, wait_for=2), optim.sgd(0.1)
        model = nn.Linear(2, 1, rng=np.random.default_rng(0))

        def loss(y, t):
            if parallel.server is None and c.rank == 3 and parallel.cancellation.wait(30.0):
                raise Cancelled
            return nn.squared_error(y, t)
        step = parallel.make_step(loss, rule, compiled=False)
        model, state = parallel.agree(model, rule.init(model))
        for _ in range(10):
            model, state, *_ = step(model, state, np.ones((3, 2), np.float32), np.ones((3, 1), np.float32))
        parallel.settle(model, state)
    began = time.monotonic()
    run_threads(4, program, seconds=20)
    assert time.monotonic() - began < 10.0


# ------------------------------------------------------------------------------------------------ bounded staleness


@pytest.mark.parametrize("staleness", [0, 1, 3])
def test_no_worker_is_further_ahead_than_the_bound(staleness):
    """Worker 3 is slow. What an update weighs follows from how old its model was: with gradients of 1 the sum of weights is exact."""
    servers, ahead, behind = [], [], []

    def weight(versions):
        behind.append(versions)
        return 0.5 ** versions

    def program(c):
        parallel, rule = ParameterServer(c, staleness=staleness, weight=weight), optim.sgd(1.0)
        if parallel.server:
            servers.append(parallel.server)

        def loss(w, _):
            clocks = servers[0].clocks
            ahead.append(clocks[c.rank] - min(clocks.values()))
            time.sleep(0.01 if c.rank == 3 else 0.001)
            return np.sum(w)
        step = parallel.make_step(loss, rule, compiled=False)
        model, state = parallel.agree(Weights(np.zeros(2)), rule.init(Weights(np.zeros(2))))
        for _ in range(60):
            model, state, *_ = step(model, state, np.ones((1, 2)), np.ones(1))
        return parallel.settle(model, state)[0].w
    found = run_threads(4, program, seconds=20)
    assert max(ahead) == staleness and len(behind) == 60
    assert max(behind) <= 2 * (2 * staleness + 1)               # two other workers, each at most so many gradients in between
    for w in found:
        assert np.allclose(w, -sum(0.5 ** versions for versions in behind), rtol=1e-12)


class Weights(nn.Module):
    """A model that returns its weights."""

    w: np.ndarray

    def __call__(self, x):
        return self.w


def test_a_gradient_of_weight_zero_is_dropped():
    def program(c):
        parallel, rule = ParameterServer(c, staleness=0, weight=lambda behind: 0.0), optim.adam(0.1)
        step = parallel.make_step(lambda w, _: np.sum(w), rule, compiled=False)
        model, state = parallel.agree(Weights(np.ones(2)), rule.init(Weights(np.ones(2))))
        for _ in range(6):
            model, state, *_ = step(model, state, np.ones((1, 2)), np.ones(1))
        return parallel.settle(model, state)[0].w
    assert all((w == 1.0).all() for w in run_threads(3, program, seconds=20))


# ------------------------------------------------------------------------------------------------ buffers and random numbers


def test_buffers_of_batch_normalization_follow_one_process():
    x, y = examples(8, np.float32)
    rng = np.random.default_rng
    build = lambda: nn.Sequential(nn.Linear(6, 8, rng=rng(0)), nn.BatchNorm1d(8), nn.Linear(8, 3, rng=rng(1)))
    rule = optim.sgd(0.1, momentum=0.9)

    def program(c, **options):
        parallel, model = ParameterServer(c, **options), build()
        step = parallel.make_step(nn.cross_entropy, rule, compiled=False)
        model, state = parallel.agree(model, rule.init(model))
        for k in range(8):
            model, state, *_ = step(model, state, *parallel.share(x[k], y[k]))
        return flatten(parallel.settle(model, state)[0])[0]
    model, step = build(), train.make_step(nn.cross_entropy, rule, compiled=False)
    state = rule.init(model)
    for k in range(8):
        model, state, *_ = step(model, state, x[k], y[k])
    for found in (*run_threads(2, program, seconds=20), *run_threads(3, lambda c: program(c, servers=2), seconds=20)):
        assert distance(found, flatten(model)[0]) < 1e-5
    many = run_threads(4, program, seconds=20)                  # averages over workers' statistics
    assert distance(many[0], many[3]) == 0.0 and [int(a) for a in many[0] if a.dtype.kind == "i"] == [8]


@pytest.mark.parametrize(("workers", "options", "expected"), [
    (1, {}, [[0, 1, 2]]), (2, {}, [[0, 2, 4], [1, 3, 5]]), (2, {"staleness": 0}, [[0, 2], [1]])], ids=str)
def test_random_numbers_differ_on_every_worker(workers, options, expected):
    """Of a batch that workers share each has numbers of its own; whole batches, dealt in turn, keep theirs."""
    def program(c):
        parallel, rule, model, keys = ParameterServer(c, **options), optim.sgd(0.1), network(), []
        step, (x, y) = parallel.make_step(nn.cross_entropy, rule, compiled=False), examples(1)
        if parallel.server is None:
            local = step._local
            step._local = lambda model, x, y, key: (keys.append(key.tolist()), local(model, x, y, key))[1]
        model, state = parallel.agree(model, rule.init(model))
        for k in range(3):
            model, state, *_ = step(model, state, *parallel.share(x[0], y[0]), np.array([5, k]))
        parallel.settle(model, state)
        return keys
    assert run_threads(workers + 1, program, seconds=20)[1:] == [[[5, k] for k in numbers] for numbers in expected]


def test_buffers_move_by_the_weight_of_the_update():
    def program(c):
        parallel, rule = ParameterServer(c, staleness=0, weight=lambda behind: 0.25), optim.sgd(0.1)
        model = nn.BatchNorm1d(3, dtype=np.float64)
        step, state = parallel.make_step(nn.squared_error, rule, compiled=False), rule.init(model)
        model, state, loss, *_ = step(model, state, x, np.zeros((4, 3)))
        return parallel.settle(model, state)[0], float(loss)
    x, rule, layer = np.arange(12.0).reshape(4, 3), optim.sgd(0.1), nn.BatchNorm1d(3, dtype=np.float64)
    whole, _, loss, *_ = train.make_step(nn.squared_error, rule, compiled=False)(layer, rule.init(layer), x, np.zeros((4, 3)))
    for found, value in run_threads(2, program, seconds=10):
        np.testing.assert_allclose(found.running_mean, 0.25 * whole.running_mean, rtol=1e-14)
        np.testing.assert_allclose(found.running_var, 0.75 + 0.25 * whole.running_var, rtol=1e-14)
        np.testing.assert_allclose(found.weight - 1.0, 0.25 * (whole.weight - 1.0), rtol=1e-12)
        assert value == pytest.approx(float(loss), rel=1e-14)


# ------------------------------------------------------------------------------------------------ fit


def fitted(c, options, **more):
    """train.fit through parameter servers."""
    x, y = examples(5)
    x, y = x.reshape(-1, 6), y.reshape(-1)
    settings = {"optimizer": optim.adam(1e-2), "epochs": 4, "batch": BATCH, "validation": (x[:20], y[:20]), "compiled": False, **more}
    parallel = None if c is None else ParameterServer(c, **options)
    return train.fit(network(seed=0 if c is None else c.rank), (x, y), parallel=parallel, **settings)


@pytest.mark.parametrize("options", [{}, {"servers": 2}], ids=str)
def test_fit_through_a_server_is_fit_alone_and_resumes(options, tmp_path):
    alone = fitted(None, {})
    for done in run_threads(4, lambda c: fitted(c, options), seconds=30):
        assert done.steps == 20 and distance(flatten(done.model)[0], flatten(alone.model)[0]) < 1e-10
        assert distance(flatten(done.state)[0], flatten(alone.state)[0]) < 1e-10
        for mine, other in zip(done.history, alone.history, strict=True):
            assert mine["validation_error"] == other["validation_error"]
            assert mine["loss"] == pytest.approx(other["loss"], rel=1e-9)

    def stopped(c, epochs, resume):
        folder = contextlib.nullcontext()
        if c.rank == 0:
            folder = train.RunFolder.create(tmp_path, "run", {}) if not resume else train.RunFolder.open(
                train.RunFolder.latest(tmp_path, "run"))
        with folder as opened:
            return fitted(c, options, epochs=epochs, resume=resume, folder=opened, save_seconds=0.0)
    run_threads(4, lambda c: stopped(c, 2, False), seconds=30)
    for done in run_threads(4, lambda c: stopped(c, 4, True), seconds=30):
        assert done.steps == 20 and distance(flatten(done.model)[0], flatten(alone.model)[0]) < 1e-10


@pytest.mark.parametrize("parallel", [DataParallel, ParameterServer])
def test_every_rank_of_fit_computes_its_share(parallel):
    """Three ranks of data parallelism, or three workers: 8 rows of each batch of 24, and the server none."""
    def program(c):
        rows, x = [], examples(4)[0].reshape(-1, 6)

        def loss(outputs, y):
            rows.append(len(y))
            return nn.squared_error(outputs, y)
        train.fit(network(), (x, x[:, :3]), optimizer=optim.sgd(0.1), loss=loss, epochs=1, batch=BATCH, parallel=parallel(c),
                  compiled=False)
        return rows[1:]                                                 # the first was a rehearsal with one row
    servers = [[]] if parallel is ParameterServer else []
    assert run_threads(3 + len(servers), program, seconds=20) == [*servers, *[[8] * 4] * 3]


@pytest.mark.parametrize("options", [{"wait_for": 2}, {"wait_for": 1, "cancel": False}, {"staleness": 1}, {"staleness": 1, "servers": 2}],
                         ids=str)
def test_fit_with_late_workers_decides_the_same_on_every_rank(options):
    rates = optim.adam(optim.plateau(1e-2, patience=1))
    found = run_threads(3 + options.get("servers", 1), lambda c: fitted(c, options, epochs=6, optimizer=rates, stop=train.EarlyStopping(
        patience=2, metric="validation_loss")), seconds=30)
    for done in found:
        assert len(done.history) == len(found[0].history) and done.steps == found[0].steps
        assert [line["validation_loss"] for line in done.history] == [line["validation_loss"] for line in found[0].history]
        assert [line["loss"] for line in done.history] == [line["loss"] for line in found[0].history]
        assert distance(flatten(done.state)[0], flatten(found[0].state)[0]) == 0.0
    assert found[0].history[-1]["validation_loss"] < found[0].history[0]["validation_loss"]
