"""What servers and workers say to each other: repeated, told by a signal, refused, cut off, and by letters written out."""

import threading
import types

import numpy as np
import pytest
import server_ranks
import worlds
from server_ranks import distance, examples, network, one_process, trained

import adjoint as ad
from adjoint import nn, optim
from adjoint.distributed import Alone, ParameterServer, run_threads
from adjoint.distributed.server import ABANDONED, ENDED, FINAL, GRADIENT, HEAD, LATE, MODEL, Note, Server
from adjoint.distributed.server_steps import ServerStep
from adjoint.distributed.shards import Shards, dealt, joined, taken
from adjoint.distributed.worker import Worker
from adjoint.errors import CommunicationError, ConfigError
from adjoint.tree import flatten


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
    with pytest.raises(CommunicationError, match=r"waits for 2 of 2 workers to make version 4, but only 1 has not ended\."):
        run_threads(3, server_ranks.fewer_steps, seconds=20)
    with pytest.raises(CommunicationError, match="has a gradient for step 4, but the server has ended after 3"):
        run_threads(3, lambda c: trained(c, 5 if c.rank else 3), seconds=20)


def test_a_model_that_was_not_agreed_on_is_noticed():
    def program(c):
        parallel, rule = ParameterServer(c), optim.sgd(0.1)
        model = nn.Linear(3, 1 + c.rank, rng=np.random.default_rng(0))
        step = parallel.make_step(nn.squared_error, rule, compiled=False)
        step(model, rule.init(model), np.ones((2, 3), np.float32), np.ones((2, 1 + c.rank), np.float32))
    with pytest.raises(CommunicationError, match=r"different models: the sum of \|model.weight\| is from .*\n.*Call agree"):
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

    def flush(self, meanwhile=None):
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
