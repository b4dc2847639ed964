"""Synchronized batch norm beside sums: layers ask other ranks in the middle of a step, between the same buckets on every rank."""

import threading
import time

import numpy as np
import pytest

from adjoint import nn, optim, train
from adjoint.compiler.control import READY
from adjoint.compiler.signals import Signals
from adjoint.distributed import Alone, DataParallel, run_threads
from adjoint.distributed.engine import Engine, Job
from adjoint.distributed.sync_norm import synchronized
from adjoint.distributed.values import ranks_of
from adjoint.errors import CommunicationError, IndexRangeError
from adjoint.tree import flatten

BYTES = 1100            # three buckets


def network():
    rng = np.random.default_rng(0)
    layers = []
    for a, b in ((4, 8), (8, 16)):
        layers += [nn.Linear(a, b, rng=rng, dtype=np.float64), nn.BatchNorm1d(b, dtype=np.float64), np.tanh]
    return nn.Sequential(*layers, nn.Linear(16, 3, rng=rng, dtype=np.float64))


def examples(count):
    rng = np.random.default_rng(1)
    return rng.standard_normal((count, 4)), rng.integers(0, 3, count)


def one_process(count, steps):
    rule, model = optim.sgd(0.1), network()
    step, state = train.make_step(nn.cross_entropy, rule, compiled=False), rule.init(model)
    for _ in range(steps):
        model, state, *_ = step(model, state, *examples(count))
    return flatten(model)[0]


def steps(c, count, number, *, prepare=lambda step: None, labels=lambda y: y, world=lambda c: c, **options):
    """Parameters after some steps, and the spans of this rank: [(name, begin, end)]."""
    rule, own = optim.sgd(0.1), world(c)
    model, parallel = synchronized(network(), own), DataParallel(own, bucket_bytes=BYTES, **options)
    step, state = parallel.make_step(nn.cross_entropy, rule), rule.init(model)
    step._apply = step._update                              # not compiled: that half is not what is tested
    prepare(step)
    x, y = parallel.share(*examples(count))
    for k in range(number):
        model, state, *_ = step(model, state, x, labels(y) if k == number - 1 else y)
    spans = [(name, begin, end) for name, _, begin, end, _ in parallel.engine.timeline.spans]
    return [a.copy() for a in flatten(model)[0]], spans


def order(spans):
    """What the communication thread did with other ranks, step by step."""
    found = [[]]
    for name, *_ in sorted(spans, key=lambda span: span[1]):
        if name == "update":
            found.append([])
        elif name.startswith("reduce bucket"):
            found[-1].append(name.split()[2])
        elif name.endswith("of a layer"):
            found[-1].append("layer")
    return found[:-1]


@pytest.mark.parametrize("n, count", [(1, 12), (2, 12), (3, 13), (4, 12)])
def test_ranks_train_as_one_process_and_do_the_same_things_in_the_same_order(n, count, monkeypatch):
    monkeypatch.setattr("adjoint.distributed.engine.CHUNK", 800)
    expected, found = one_process(count, 4), run_threads(n, lambda c: steps(c, count, 4), seconds=60)
    for parameters, spans in found:
        assert all(np.abs(a - b).max() < 1e-10 for a, b in zip(parameters, expected, strict=True))
        assert all(a.tobytes() == b.tobytes() for a, b in zip(parameters, found[0][0], strict=True))
        assert order(spans) == order(found[0][1])
    for done in order(found[0][1]):
        assert n == 1 or (done[0] == "layer" and sorted(done) == sorted(["layer"] * 8 + list("122") + ["3"]))
        assert [name for name in done if name != "layer"] == sorted(name for name in done if name != "layer")


def heavy():
    """Long products between the layers that ask: the bucket of the last ones is finished early."""
    rng = np.random.default_rng(0)
    products = [nn.Linear(a, b, rng=rng) for a, b in ((8, 8), (8, 900), (900, 900), (900, 900), (900, 8), (8, 3))]
    normal = [nn.BatchNorm1d(8), nn.BatchNorm1d(8)]
    return nn.Sequential(products[0], normal[0], np.tanh, *products[1:5], normal[1], np.tanh, products[5])


def test_sums_begin_while_the_call_runs_and_before_its_last_questions():
    def program(c):
        rule, model = optim.sgd(1e-3), synchronized(heavy(), c)
        parallel = DataParallel(c, bucket_bytes=30_000)
        step, state = parallel.make_step(nn.cross_entropy, rule), rule.init(model)
        step._apply = step._update
        for _ in range(8):
            step(model, state, np.ones((256, 8), np.float32), np.zeros(256, np.int64))
        return order([(name, begin, end) for name, _, begin, end, _ in parallel.engine.timeline.spans])
    first, second = run_threads(2, program, seconds=60)
    assert first == second
    assert any("1" in done and done.index("1") < len(done) - 1 - done[::-1].index("layer") for done in first)       # of all, to be patient


def test_micro_batches_ask_too():
    """Each is a batch of all ranks together: as in one process that accumulates the same ones, of both ranks' rows."""
    whole = run_threads(2, lambda c: steps(c, 12, 3, accumulate=2), seconds=60)
    x, y = (a[[0, 1, 2, 6, 7, 8, 3, 4, 5, 9, 10, 11]] for a in examples(12))          # rank 0 has the first six rows, and begins with three
    rule, model = optim.sgd(0.1), network()
    step, state = DataParallel(Alone(), accumulate=2).make_step(nn.cross_entropy, rule, compiled=False), rule.init(model)
    for _ in range(3):
        model, state, *_ = step(model, state, x, y)
    assert all(np.abs(a - b).max() < 1e-10 for a, b in zip(whole[0][0], flatten(model)[0], strict=True))
    assert any(np.abs(a - b).max() > 1e-6 for a, b in zip(whole[0][0], one_process(12, 3), strict=True))         # with other statistics
    assert all(a.tobytes() == b.tobytes() for a, b in zip(whole[0][0], whole[1][0], strict=True))


class Failing:
    """A communicator that cannot send messages of some sizes, once `after` of them were sent."""

    def __init__(self, inner, after, *sizes):
        self.inner, self.after, self.sizes, self.rank, self.size, self.counts = inner, after, sizes, inner.rank, inner.size, inner.counts

    def exchange(self, sent, *others):
        if sent is not None and sent.nbytes in self.sizes:
            self.after -= 1
            if self.after < 0:
                raise CommunicationError("the cable is broken")
        self.inner.exchange(sent, *others)


LAYER, BUCKET = (64, 72, 128, 136), (544, 1088)         # bytes of the sums of a layer, of a bucket, or of their halves


@pytest.mark.parametrize("sizes, after, what", [             # one bucket a step: the second time beside the call
    (LAYER, 2, "all_reduce in the middle of a step"),
    (BUCKET, 0, r"all_reduce of bucket 2 of 3 \(.*\)"), (BUCKET, 1, r"all_reduce of bucket 2 of 3 \(.*\)")])
def test_a_failure_ends_job_and_call_and_says_what_and_where(sizes, after, what):
    def program(c):
        began = time.monotonic()
        said = rf"rank {c.rank} of 2, {what}: the cable is broken\n  at .*test_sync_overlap.py:"
        with pytest.raises(CommunicationError, match=said) as caught:
            steps(c, 12, 3, world=lambda c: Failing(c, after, *sizes))
        assert str(caught.value).count("rank") == 1
        return time.monotonic() - began
    assert max(run_threads(2, program, seconds=30)) < 25


def test_calls_that_fail_alike_leave_the_next_step_as_it_was():
    def program(c):
        found = []
        rule, model = optim.sgd(0.1), synchronized(network(), c)
        step, state = DataParallel(c, bucket_bytes=BYTES).make_step(nn.cross_entropy, rule), rule.init(model)
        x, y = examples(12)
        for labels in (y, y + 100, y):
            try:
                model, state, loss, *_ = step(model, state, x, labels)
                found.append(float(loss))
            except IndexRangeError:
                found.append("refused")
        return found
    (a, refused, b), other = run_threads(2, program, seconds=60)
    assert other == [a, refused, b] and refused == "refused" and b < a


def test_a_call_that_fails_on_one_rank_ends_the_others():
    began = time.monotonic()
    with pytest.raises(CommunicationError, match="rank 1 of 2 failed: IndexRangeError"):
        run_threads(2, lambda c: steps(c, 12, 3, labels=lambda y: y + 100 * c.rank), seconds=30)
    assert time.monotonic() - began < 25


# ------------------------------------------------------------------------------------------------ jobs alone


class Script(Signals):
    """Signals of a call that is played by a thread: its results are finished when it says so."""

    def finish(self, number):
        self.words[READY // 8 + number] = 1
        self.ring()


def played(c, events, pauses):
    """What the communication thread did, for a call of these events: ("finish", k) and ("ask", j)."""
    engine, script, found = Engine(c), Script(), []
    arrays = [np.full(3, k + 1.0) for k in range(sum(kind == "finish" for kind, _ in events))]
    add_up = engine.add_up
    engine.add_up = lambda array, name: (found.append(name), add_up(array, name))
    job = engine.sum_results(script, str, asks=True)
    script.begin(arrays)
    for (kind, number), pause in zip(events, pauses, strict=True):
        time.sleep(pause)
        if kind == "finish":
            script.finish(number)
        else:
            assert job.ask("a question", lambda number=number: found.append(f"ask {number}") or number) == number
    job.end()
    job.wait()
    assert all((array == (k + 1.0) * c.size).all() for k, array in enumerate(arrays))
    return found


@pytest.mark.parametrize("seed", range(4))
def test_ranks_agree_in_whatever_order_their_programs_finish_results(seed):
    def program(c):
        rng = np.random.default_rng([seed, c.rank])                         # every rank finishes its results at other places
        events = [("finish", int(k)) for k in rng.permutation(6)]
        for j, place in enumerate(sorted(rng.integers(0, 7, 8))):
            events.insert(place + j, ("ask", j))
        return played(c, events, rng.choice([0.0, 0.0, 1e-4, 3e-3], len(events)))
    found = run_threads(3, program, seconds=30)
    assert found[0] == found[1] == found[2]
    assert [name for name in found[0] if name.startswith("ask")] == [f"ask {j}" for j in range(8)]
    assert [name for name in found[0] if not name.startswith("ask")] == list("012345")


def test_a_result_is_added_up_before_a_question_that_comes_much_later():
    events = [("finish", 0), ("ask", 0), ("finish", 1), ("ask", 1)]
    found = [run_threads(2, lambda c: played(c, events, [0.0, 0.2, 0.0, 0.2]), seconds=30)[0] for _ in range(3)]
    assert ["0", "ask 0", "1", "ask 1"] in found


def test_a_rank_that_asks_less_is_told():
    def program(c):
        said = "the calls of other ranks ask for a collective more" if c.rank else "rank 1 has failed"
        with pytest.raises(CommunicationError, match=said):
            played(c, [*[("ask", 0)] * (1 - c.rank), ("finish", 0)], [0.0] * (2 - c.rank))
        raise KeyError("over")
    with pytest.raises(CommunicationError, match="KeyError: 'over'"):
        run_threads(2, program, seconds=20)


def test_who_asks_a_job_that_has_ended_or_ends_gets_its_error():
    for begin in (0.0, 0.05):
        job = Job("", lambda: (time.sleep(0.1), 1 / 0), (), Signals())
        thread = threading.Thread(target=job.run)
        thread.start()
        time.sleep(begin)
        with pytest.raises(ZeroDivisionError):
            job.ask("a question", lambda: None)
        thread.join(10)
        with pytest.raises(ZeroDivisionError):
            job.ask("a question too late", lambda: None)
    failed = Job("", lambda: None, (), Signals())
    failed.fail(KeyError("earlier"))
    with pytest.raises(KeyError, match="earlier"):
        failed.ask("a question", lambda: None)


def test_a_question_that_fails_ends_the_job_with_its_words():
    def raises():
        raise CommunicationError("no answer")
    job = Job("a sum", lambda: job.answer(), (), Signals())
    thread = threading.Thread(target=job.run)
    thread.start()
    with pytest.raises(CommunicationError, match=r"^a question: no answer\n  at .*test_sync_overlap.py:\d+$"):
        job.ask("a question", raises)
    thread.join(10)
    with pytest.raises(CommunicationError, match=r"^a question: no answer"):
        job.wait()


def test_a_question_that_is_interrupted_leaves_the_memory_of_the_call_alone():
    def program(c):
        ranks, left = ranks_of(c), []

        def interrupted(*arguments):
            left.extend(arguments)
            raise KeyboardInterrupt
        ranks.asks, memory = interrupted, np.ones(4)
        with pytest.raises(KeyboardInterrupt):
            ranks.run("all_reduce", memory, (-1, -1))
        operation, function, *arguments = left
        function(*arguments)                                # the other thread ends it later
        return operation, memory.sum(), arguments[1].sum()
    assert run_threads(2, program, seconds=20) == [("all_reduce", 4.0, 8.0)] * 2
