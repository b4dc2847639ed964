"""The parameter server: as one process when all workers are waited for; backup workers; bounded staleness; several servers; bad use."""

import contextlib
import threading
import time
import types

import numpy as np
import pytest
import server_ranks
import worlds
from server_ranks import BATCH, distance, examples, network, one_process, trained

import adjoint as ad
from adjoint import nn, optim, train
from adjoint.distributed import Alone, DataParallel, ParameterServer, run_threads
from adjoint.distributed.server import ABANDONED, ENDED, FINAL, GRADIENT, HEAD, LATE, MODEL, Note, Server
from adjoint.distributed.server_steps import ServerStep
from adjoint.distributed.shards import Shards, dealt, joined, taken
from adjoint.distributed.worker import Worker
from adjoint.errors import Cancelled, CommunicationError, ConfigError
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
    """Rank 2 has a thousand times the rows of rank 1, and is never the first: its compiled backward is cut off while it runs."""
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
    assert cut and {rank for _, rank, _ in cut} == {2} and all(same for _, _, same in cut)
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


# ------------------------------------------------------------------------------------------------ the conversation


@pytest.mark.parametrize("options", [{}, {"wait_for": 2}, {"staleness": 1}, {"servers": 2}], ids=str)
def test_a_repeated_push_changes_nothing(options):
    def program(c):
        parallel, rule = ParameterServer(c, **options), optim.adam(1e-2)
        x, y = examples(12)
        step = parallel.make_step(nn.cross_entropy, rule, compiled=False)
        if parallel.server is None:
            give = parallel.worker.give

            def twice(messages, **note):
                give(messages, **note)
                parallel.worker.step -= 1                       # the same (worker, step) to every shard again
                give(messages, **note)
            parallel.worker.give = twice
        model = network()
        model, state = parallel.agree(model, rule.init(model))
        for k in range(12):
            model, state, *_ = step(model, state, *parallel.share(x[k], y[k]))
        model, state, _ = parallel.settle(model, state)
        return flatten(model)[0], flatten(state)[0]
    found = run_threads(4, program, seconds=20)
    assert all(int(state[0]) == 12 for _, state in found)
    if "wait_for" not in options and "staleness" not in options:
        assert all(distance(parameters, one_process(12)) < 1e-10 for parameters, _ in found)


def test_shards():
    assert dealt([1, 1, 1, 1], 2) == [[0, 2], [1, 3]] and dealt([5], 1) == [[0]]
    arrays = [np.arange(3, dtype=np.float32), np.array(2.5), np.zeros((0, 2)), np.array([[1, 2]])]
    again = taken(joined(arrays), arrays)
    assert all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(again, arrays, strict=True))
    with pytest.raises(CommunicationError, match="sent 12 bytes, expected 24 for 1 arrays"):
        taken(joined(arrays[:1]), [np.zeros(3)])


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


@pytest.mark.parametrize("options", [{}, {"wait_for": 2}, {"staleness": 1}, {"servers": 2}], ids=str)
@pytest.mark.parametrize("who", [0, 3])
def test_a_signal_to_one_rank_ends_all(options, who):
    """The number that one rank tells (a signal, in fit) reaches all."""
    def program(c):
        parallel, rule = ParameterServer(c, **options), optim.sgd(0.1)
        x, y = examples(40)
        step = parallel.make_step(nn.cross_entropy, rule, compiled=False)
        model = network()
        model, state = parallel.agree(model, rule.init(model))
        for k in range(40):
            model, state, *_ = step(model, state, *parallel.share(x[k], y[k]))
            if number := parallel.largest(2 if c.rank == who and k == 10 else 0):
                break
        return number, k, flatten(parallel.settle(model, state)[0])[0]
    found = run_threads(4, program, seconds=20)
    assert all(number == 2 and k < 39 and distance(p, found[0][2]) == 0.0 for number, k, p in found)
    if not options:
        assert len({k for _, k, _ in found}) == 1


# ------------------------------------------------------------------------------------------------ bad use


def everywhere(n, make):
    """The first lines of the errors of every rank."""
    def program(c):
        with pytest.raises(ConfigError) as caught:
            make(c)
        return str(caught.value).splitlines()[0]
    found = run_threads(n, program, seconds=10)
    assert len(set(found)) == 1
    return found[0]


def test_bad_options_are_refused_on_every_rank():
    assert everywhere(4, lambda c: ParameterServer(c, wait_for=4)) == "ParameterServer: wait_for is 4, but there are 3 workers."
    assert "wait_for is 0" in everywhere(4, lambda c: ParameterServer(c, wait_for=0))
    assert "3 servers in a world of 3 leave no worker" in everywhere(3, lambda c: ParameterServer(c, servers=3))
    assert "servers is 0" in everywhere(3, lambda c: ParameterServer(c, servers=0))
    assert "staleness is -1" in everywhere(3, lambda c: ParameterServer(c, staleness=-1))
    assert "staleness is 1, wait_for is 1" in everywhere(3, lambda c: ParameterServer(c, staleness=1, wait_for=1))
    with pytest.raises(ConfigError, match="1 servers in a world of 1 leave no worker"):
        ParameterServer(Alone())
    assert "settle before make_step" in everywhere(2, lambda c: ParameterServer(c).settle((), ()))


def test_what_several_servers_cannot_do_is_refused_on_every_rank():
    def program(c, rule, servers=2):
        parallel, model = ParameterServer(c, servers=servers), network()
        step = parallel.make_step(nn.cross_entropy, rule, compiled=False)
        model, state = parallel.agree(model, rule.init(model))
        return step(model, state, *(part[0] for part in examples(1)))
    clipped = optim.chain(optim.clip_by_global_norm(1.0), optim.sgd(0.1))
    assert "this optimizer looks at all gradients together" in everywhere(4, lambda c: program(c, clipped))
    assert "5 servers for a model of 4 trained arrays" in everywhere(6, lambda c: program(c, optim.sgd(0.1), 5))


def test_other_models_are_refused_on_every_rank():
    found = run_threads(3, server_ranks.other_model, seconds=10)
    assert all(f"different models or optimizers: rank {rank} of 3 has 2 arrays" in line for rank, line in enumerate(found))


def test_a_worker_that_raises_ends_the_world_with_its_error():
    with pytest.raises(CommunicationError, match="rank 3 of 4 failed: ValueError: out of coffee"):
        run_threads(4, server_ranks.raises, seconds=20)
    assert not [t for t in threading.enumerate() if t.name.startswith("rank ")]


def test_a_server_that_runs_out_of_workers_says_so():
    with pytest.raises(CommunicationError, match="waits for 2 of 2 workers to make version 4, but only"):
        run_threads(3, server_ranks.fewer_steps, seconds=20)
    with pytest.raises(CommunicationError, match="has a gradient for step 4, but the server has ended after 3"):
        run_threads(3, lambda c: trained(c, 5 if c.rank else 3), seconds=20)


def test_a_model_that_was_not_agreed_on_is_noticed():
    def program(c):
        parallel, rule = ParameterServer(c), optim.sgd(0.1)
        model = nn.Linear(3, 1 + c.rank, rng=np.random.default_rng(0))
        step = parallel.make_step(nn.squared_error, rule, compiled=False)
        step(model, rule.init(model), np.ones((2, 3), np.float32), np.ones((2, 1 + c.rank), np.float32))
    with pytest.raises(CommunicationError, match="sent 32 bytes, expected 16 for 2 arrays: another model"):
        run_threads(2, program, seconds=10)


def test_what_is_not_finite_changes_nothing():
    def program(c, **options):
        parallel, rule = ParameterServer(c, **options), optim.sgd(0.1)
        step = parallel.make_step(nn.squared_error, rule, compiled=False)
        model = nn.Linear(3, 2, rng=np.random.default_rng(0))
        model, state = parallel.agree(model, rule.init(model))
        before = flatten(ad.copy(model))[0]
        x = np.full((4, 3), np.nan if c.rank == c.size - 1 else 1.0, np.float32)
        after, _, _, _, finite = step(model, state, x, np.zeros((4, 2), np.float32))
        return bool(finite), distance(flatten(after)[0], before)
    assert run_threads(3, program, seconds=10) == [(False, 0.0)] * 3
    assert run_threads(4, lambda c: program(c, servers=2), seconds=10) == [(False, 0.0)] * 4


@worlds.one_runtime
def test_bad_use_under_mpiexec(runtime):
    launch = lambda name: worlds.run(runtime.ranks(3, server_ranks.__file__, name), seconds=30)
    status, output = launch("raises")
    assert status != 0 and "ValueError: out of coffee" in output and "not reached" not in output
    status, output = launch("fewer_steps")
    assert status != 0 and "waits for 2 of 2 workers to make version 4" in output
    status, output = launch("too_many")
    assert status == 0 and output.count("wait_for is 3, but there are 2 workers") == 3
    status, output = launch("other_model")
    assert status == 0 and output.count("different models or optimizers") == 3


# ------------------------------------------------------------------------------------------------ one side alone, by letters written out


class Scripted:
    """A communicator whose letters have all been written: (rank, note, message) in the order of their arrival; it keeps what is posted."""

    def __init__(self, *letters, rank=2):
        self.letters, self.rank, self.size, self.posted, self.flushed = list(letters), rank, 4, [], 0

    def arrived(self, sources, seconds=None):
        return next((source for source, *_ in self.letters if source in sources), None)

    def collect(self, source):
        at = next(k for k, (sender, *_) in enumerate(self.letters) if sender == source)
        _, note, *message = self.letters.pop(at)
        return np.concatenate([np.array(note, np.float64).view(np.uint8), *message])

    def post(self, letter, to):
        self.posted.append((to, Note(*letter[:HEAD].view(np.float64))))

    def flush(self):
        self.flushed += 1


def test_a_worker_takes_no_model_put_together_from_two_versions():
    letters = (0, Note(LATE, version=9)), (0, Note(MODEL, version=1)), (1, Note(MODEL, version=2)), (0, Note(MODEL, version=2, signal=7))
    world = Scripted(*letters)
    worker = Worker(world, (0, 1))
    assert [note.version for note, _ in worker.take()] == [2, 2] and (worker.version, worker.signal, worker.asked) == (2, 7, 7)
    assert world.posted == [(0, Note(ABANDONED, step=1, version=1))] and not world.letters
    world = Scripted(*letters)
    worker = Worker(world, (0, 1), one_version=False)
    assert [note.version for note, _ in worker.take()] == [1, 2] and worker.version == 2
    assert not world.posted and len(world.letters) == 1
    world = Scripted((0, Note(FINAL, version=1)), (1, Note(FINAL, version=2)))          # nothing newer will come
    worker = Worker(world, (0, 1))
    assert [note.version for note, _ in worker.take()] == [1, 2] and not world.posted
    assert [note.version for note, _ in worker.settle()] == [1, 2] and worker.settle() == [] and not world.posted


def test_a_worker_that_ends_tells_the_servers_that_have_not():
    world = Scripted((1, Note(FINAL, version=3, loss=0.5)), (0, Note(MODEL, version=3)), (0, Note(FINAL, version=3, loss=0.5)))
    worker = Worker(world, (0, 1))
    worker.take()
    assert [note.kind for note, _ in worker.settle()] == [FINAL, FINAL] and world.flushed == 1
    assert world.posted == [(0, Note(ENDED, step=1, version=3))] and worker.settle() == [] and world.flushed == 2


def test_a_cancelled_computation_does_not_cancel_the_next():
    worker = Worker(Scripted(), (0,), cancel=False)
    worker.cancellation.cancel()
    with worker.computing() as cancellation:
        assert not cancellation.cancelled and not cancellation.wait(0.0)


def test_a_number_that_is_none_is_no_sign_of_a_norm_over_all_arrays():
    model = {"a": np.array([1.0, np.nan]), "b": np.ones(3)}
    assert len(Shards(model, optim.adamw(0.1), 2).states) == 2


def test_a_server_tells_who_is_late_and_waits_until_its_models_have_left():
    nothing = np.empty(0, np.uint8)
    world = Scripted((2, Note(GRADIENT, step=1)), (1, Note(GRADIENT, step=1)), (1, Note(GRADIENT, step=1)), rank=0)
    server = Server(world, (1, 2, 3), wait_for=2)
    assert list(server.gradients()) == [1, 2] and world.posted == [(3, Note(LATE))]             # by rank, whoever came first
    server.publish(nothing, [1, 2], loss=0.5, finite=False)
    model = Note(MODEL, version=1, loss=0.5, examples=1.0, finite=0.0)
    assert world.posted[1:] == [(2, model), (1, model)] and world.flushed == 1
    world.letters += [(3, Note(ABANDONED, step=1)), *[(k, Note(GRADIENT, step=2, version=1, signal=15)) for k in (1, 2)]]
    assert list(server.gradients()) == [1, 2] and (server.signal, server.version) == (15, 1)
    assert world.posted[3:] == [(3, model), (3, Note(LATE, version=1))]                         # again: it has answered since
    asynchronous = Server(Scripted((1, Note(GRADIENT, step=1)), rank=0), (1, 2), wait_for=1, staleness=1)
    asynchronous.publish(nothing, list(asynchronous.gradients()), loss=0.0, finite=True)
    assert [to for to, _ in asynchronous.communicator.posted] == [1] and asynchronous.communicator.flushed == 0


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


def test_rank_0_takes_the_newest_of_the_other_servers_parts_or_waits_for_this_versions():
    rule, model = optim.sgd(0.1, momentum=0.9), {"a": np.zeros(2), "b": np.zeros(2)}
    state, shards = rule.init(model), Shards(model, rule, 2)
    part = lambda x: shards.packed(1, {name: np.full(2, x) for name in model}, np.full(2, x), state)
    letters = [(1, Note(MODEL, signal=int(x), finite=x - 1.0), part(x)) for x in (1.0, 2.0)]

    def told(staleness, *letters):
        place = types.SimpleNamespace(communicator=Scripted(*letters, rank=0), servers=2, rank=0, staleness=staleness, shards=shards,
                                      norms=np.zeros(2), server=types.SimpleNamespace(asked=0, last={}))
        step = ServerStep.__new__(ServerStep)
        step.place = place
        found, _, finite = step._told(model, state, True)
        mine, = (name for k, name in enumerate(model) if k in shards.owned[0])
        assert (found[mine] == 0.0).all()
        other, = set(model) - {mine}
        left, server = len(place.communicator.letters), place.server
        return found[other][0], bool(finite), server.asked, left, place.norms.max(), list(server.last)
    assert told(0, *letters) == (2.0, False, 2, 0, 2.0, []) and told(0) == (0.0, True, 0, 0, 0.0, [])
    assert told(None, *letters) == (1.0, False, 1, 1, 1.0, [])
    assert told(0, letters[1], (1, Note(FINAL), part(3.0)), letters[0]) == (2.0, True, 2, 1, 2.0, [1])


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
