"""The communication thread: sums begin while the backward pass runs, failures come out where they are waited for, by name."""

import gc
import json
import queue
import threading
import time

import numpy as np
import pytest

import adjoint as ad
from adjoint import nn, optim
from adjoint.compiler.signals import Signals
from adjoint.core.primitive import TABLE, bind
from adjoint.distributed import Alone, DataParallel, Links, agree, run_threads
from adjoint.distributed.collectives import all_reduce_in_place
from adjoint.distributed.engine import Abandoned, Engine, Job, check_same
from adjoint.distributed.linked import Linked
from adjoint.distributed.timeline import Timeline
from adjoint.distributed.values import Through
from adjoint.errors import CommunicationError, ConfigError
from adjoint.tree import flatten

SIZES, BYTES = (12, 24, 24, 24, 5), 5000               # four buckets


def network(dtype=np.float64):
    return nn.mlp(*SIZES, activation=np.tanh, rng=np.random.default_rng(0), dtype=dtype)


def examples(count, dtype=np.float64):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((count, SIZES[0])).astype(dtype)
    return x, np.argmax(x[:, :SIZES[-1]], axis=1)


class Failing:
    """A communicator that cannot send messages of some sizes."""

    def __init__(self, inner, *sizes):
        self.inner, self.sizes, self.rank, self.size, self.counts = inner, sizes, inner.rank, inner.size, inner.counts

    def exchange(self, sent, *others):
        if sent is not None and sent.nbytes in self.sizes:
            raise CommunicationError("the cable is broken")
        self.inner.exchange(sent, *others)


def steps(c, count=3, batch=20, loss=nn.cross_entropy, compiled=True, **options):
    """Some steps on this rank's share; the parameters."""
    rule, model = optim.adam(1e-2), network()
    model, state = agree(c, model, rule.init(model))
    parallel = DataParallel(c, **options)
    step = parallel.make_step(loss, rule, compiled=compiled)
    x, y = parallel.share(*examples(batch))
    for _ in range(count):
        model, state, *_ = step(model, state, x, y)
    return [a.copy() for a in flatten(model)[0]]


@pytest.mark.parametrize("n", [2, 3])
def test_overlapped_sums_are_those_of_one_process_and_the_same_bits_as_in_turns(n):
    alone = steps(Alone())
    found = run_threads(n, lambda c: (steps(c, bucket_bytes=BYTES), steps(c, bucket_bytes=BYTES, compiled=False)), seconds=60)
    for overlapped, eager in found:
        for a, b, one in zip(overlapped, eager, alone, strict=True):
            assert np.abs(a - one).max() <= 1e-10 and np.abs(b - one).max() <= 1e-10
            assert a.tobytes() == found[0][0][0].tobytes() or a.shape != found[0][0][0].shape
    assert all(a.tobytes() == b.tobytes() for overlapped, _ in found for a, b in zip(overlapped, found[0][0], strict=True))


class Gate(Through):
    """A place in the middle of a backward pass: the call goes on from there when `opens` is set. x is itself, and so is its cotangent."""

    def __init__(self, communicator):
        super().__init__(communicator)
        self.opens, self.opened = threading.Event(), []

    def __call__(self, x):
        return bind(TABLE["replicate_to_varying"], x, ranks=self)

    def run(self, operation, buffer, peers):
        self.opened.append(self.opens.wait(15.0))
        self.opens.clear()


def test_the_first_bucket_is_summed_before_the_backward_pass_has_finished_the_others():
    def program(c):
        rng, rule, gate, began = np.random.default_rng(0), optim.sgd(0.1), Gate(c), []
        first, middle, last = (nn.Linear(a, b, rng=rng, dtype=np.float64) for a, b in ((12, 24), (24, 24), (24, 5)))
        model, parallel = nn.Sequential(first, np.tanh, gate, middle, np.tanh, last), DataParallel(c, bucket_bytes=1000)
        step, state, add_up = parallel.make_step(nn.cross_entropy, rule), rule.init(model), parallel.engine.add_up

        def opening(array, name):
            if name.startswith("bucket 1 "):
                began.append([step.signals.finished(number) for number in range(1, 1 + len(step._layout.buckets))])
                gate.opens.set()
            return add_up(array, name)
        parallel.engine.add_up = opening
        for _ in range(3):
            model, state, *_ = step(model, state, *parallel.share(*examples(20)))
        return gate.opened, [(finished[0], finished[-1]) for finished in began]
    assert run_threads(2, program, seconds=60) == [([True] * 3, [(True, False)] * 3)] * 2


@pytest.mark.parametrize("compiled", [False, True])
def test_micro_batches_are_added_up_before_ranks_speak(compiled):
    whole = steps(Alone(), compiled=False)

    def program(c):
        found = steps(c, accumulate=3, compiled=compiled)
        return found, c.counts.rounds
    for parameters, rounds in run_threads(2, program, seconds=60):
        assert all(np.abs(a - b).max() <= 1e-10 for a, b in zip(parameters, whole, strict=True))
        assert rounds == run_threads(2, lambda c: (steps(c, compiled=compiled), c.counts.rounds)[1], seconds=60)[0]


def test_statistics_of_layers_are_averaged_beside_the_backward_pass_too():
    """Running means and variances, and the number of batches, which has no memory of its own before the call returns."""
    x, y = examples(20)

    def program(c, compiled, **options):
        rng = np.random.default_rng(0)
        model, rule = nn.Sequential(nn.Linear(SIZES[0], 8, rng=rng, dtype=np.float64), nn.BatchNorm1d(8, dtype=np.float64), np.tanh,
                                    nn.Linear(8, SIZES[-1], rng=rng, dtype=np.float64)), optim.sgd(0.1)
        parallel = DataParallel(c, **options)
        step, state = parallel.make_step(nn.cross_entropy, rule, compiled=compiled), rule.init(model)
        for _ in range(3):
            model, state, *_ = step(model, state, *parallel.share(x, y))
        return [a.copy() for a in flatten(model)[0]]
    for options in ({}, {"accumulate": 2}):
        eager, overlapped = (run_threads(2, lambda c, m=compiled, o=options: program(c, m, **o), seconds=60) for compiled in (False, True))
        for found in overlapped:
            assert any(a.dtype.kind == "i" and a == 3 for a in found)
            assert all(np.allclose(a, b, rtol=1e-12, atol=1e-14) for a, b in zip(found, eager[0], strict=True))


class Idle(nn.Module):
    """A network with a layer that the loss never sees."""

    used: nn.Linear
    idle: nn.Linear

    def __call__(self, x):
        return self.used(x)


@pytest.mark.parametrize("rule", [optim.adam(1e-2), optim.chain(optim.clip_by_global_norm(0.05), optim.sgd(1.0))])
def test_unused_parameters_stay_and_a_norm_is_that_of_the_sum_over_all_ranks(rule):
    x, y = examples(20)

    def train_on(c):
        rng = np.random.default_rng(0)
        model = Idle(*(nn.Linear(SIZES[0], SIZES[-1], rng=rng, dtype=np.float64) for _ in range(2)))
        parallel = DataParallel(c, bucket_bytes=600)
        step, state = parallel.make_step(nn.cross_entropy, rule), rule.init(model)
        for _ in range(3):
            model, state, _, norms, _ = step(model, state, *parallel.share(x, y))
        return [a.copy() for a in flatten(model)[0]], [float(n) for n in norms]
    alone, norms = train_on(Alone())
    start = nn.Linear(SIZES[0], SIZES[-1], rng=np.random.default_rng(0), dtype=np.float64).weight
    assert norms[2:] == [0.0, 0.0] and np.linalg.norm(norms) > 0.05 and not np.array_equal(alone[0], start)
    for parameters, found in run_threads(3, train_on, seconds=60):
        assert all(np.abs(a - b).max() < 1e-10 for a, b in zip(parameters, alone, strict=True))
        assert found == pytest.approx(norms, abs=1e-10)


def test_a_failure_in_the_thread_is_raised_in_the_main_one_with_the_name_of_its_bucket():
    def program(c):
        named = rf"rank {c.rank} of 2, all_reduce of bucket 2 of 4 \(layers\.2\.bias\.\.layers\.4\.weight\): the cable is broken"
        with pytest.raises(CommunicationError, match=named):
            steps(Failing(c, 4800, 2400), count=1, bucket_bytes=BYTES)               # that bucket, or half of it
        return True
    assert run_threads(2, program, seconds=60)


def test_who_waits_in_vain_says_for_whom_and_in_which_bucket():
    def program(c):
        if c.rank == 1:
            time.sleep(1.0)
            return None
        c.seconds = 20.0
        with pytest.raises(CommunicationError, match=r"rank 0 of 2, agreeing on the model: rank 0 has waited 0.2 s for rank 1") as caught:
            DataParallel(c, timeout=0.2).agree(network(), ())
        return str(caught.value)
    run_threads(2, program, seconds=60)


def test_other_programs_are_refused_on_every_rank():
    def program(c):
        loss = nn.cross_entropy if c.rank else lambda outputs, y: nn.cross_entropy(np.tanh(outputs), y)
        with pytest.raises(CommunicationError, match=r"comparing the programs of all ranks: the ranks trace different programs"):
            steps(c, count=1, loss=loss)
        return True
    assert run_threads(2, program, seconds=60) == [True, True]


def test_programs_for_other_numbers_of_examples_may_differ():
    assert run_threads(2, lambda c: check_same(c, 7 + c.rank, 4 + c.rank, "a step"), seconds=10) == [None, None]
    assert run_threads(2, lambda c: check_same(c, 7, 4 + c.rank, "a step"), seconds=10) == [None, None]

    def program(c):
        with pytest.raises(CommunicationError, match=f"programs for a step: rank {c.rank} has hash {7 - c.rank:x}"):
            check_same(c, 7 - c.rank, 4, "a step")
        return True
    assert run_threads(2, program, seconds=10) == [True, True]


def test_jobs_begun_after_one_that_fails_fail_with_it():
    def program(c):
        engine, begin = Engine(c), threading.Event()

        def fails():
            begin.wait(10)
            raise ZeroDivisionError("1/0")
        jobs = [engine.start("a failure", fails), engine.start("what follows", lambda: 3)]
        begin.set()
        for job in jobs:
            with pytest.raises(ZeroDivisionError, match="1/0"):
                job.wait()
        return engine.call("a new one", lambda: 4)
    assert run_threads(2, program, seconds=10) == [4, 4]


def test_a_call_that_fails_ends_its_job(monkeypatch):
    monkeypatch.setattr("adjoint.distributed.engine.PATIENCE", 0.01)
    job = Job("nothing", lambda: None, (), Signals())
    job.abandon()
    with pytest.raises(Abandoned):
        job.until(lambda: False)
    monkeypatch.undo()
    x, y = examples(20)

    def program(c):
        rule, model = optim.sgd(0.1), network()
        step = DataParallel(c, bucket_bytes=BYTES).make_step(nn.cross_entropy, rule)
        state = rule.init(model)
        with pytest.raises(ad.errors.IndexRangeError):
            step(model, state, x, y + 100)
        model, *_ = step(model, state, x, y)                      # nothing was sent, and the thread goes on
        return float(model[0].weight.sum())
    first, second = run_threads(2, program, seconds=60)
    assert first == second


def test_the_thread_ends_with_its_engine():
    def program(c):
        engine = Engine(c)
        engine.call("a sum", all_reduce_in_place, np.ones(3), c)
        thread = engine._thread
        assert thread.is_alive() and thread is not threading.current_thread()
        del engine
        gc.collect()
        thread.join(10)
        return thread.is_alive()
    assert run_threads(2, program, seconds=60) == [False, False]


def test_a_world_of_one_rank_has_no_thread():
    engine = Engine(Alone())
    assert engine.call("nothing", lambda: threading.current_thread()) is threading.current_thread() and engine._thread is None


@pytest.mark.alone
def test_communication_hides_behind_device_like_compute():
    """8 slices slept, a bucket after each, 4/5 of that time on the link: little more than the compute alone (0.125 + 0.0125 s)."""
    compute, slices, size = 0.2, 8, 100_000

    def program(c):
        engine, arrays = Engine(Linked(c, Links(0.0, slices * size / (0.8 * compute)))), [np.ones(size // 8) for _ in range(slices)]
        begin = time.perf_counter()
        jobs = []
        for array in arrays:
            time.sleep(compute / slices)
            jobs.append(engine.sum_of(array, "a bucket"))
        for job in jobs:
            job.wait()
        return time.perf_counter() - begin, arrays[-1][0]
    times = [np.inf]
    while min(times) > 1.35 * compute and len(times) <= 20:                # one after the other it would never be below 1.8: both sleep
        found = run_threads(2, program, seconds=60)
        assert all(value == 2.0 for _, value in found)
        times.append(max(seconds for seconds, _ in found))
    assert min(times) <= 1.35 * compute


def test_a_timeline_has_chromes_form(tmp_path):
    def program(c):
        rule, model = optim.sgd(0.1), network()
        parallel = DataParallel(c, bucket_bytes=BYTES, timeline=tmp_path / "trace")
        step, state = parallel.make_step(nn.cross_entropy, rule), rule.init(model)
        for _ in range(2):
            model, state, *_ = step(model, state, *parallel.share(*examples(20)))
        return parallel.write_timeline()
    for rank, path in enumerate(run_threads(2, program, seconds=60)):
        assert path.name == f"trace.rank{rank}.json"
        content = json.loads(path.read_text())
        events = content["traceEvents"]
        assert content["displayTimeUnit"] == "ms" and {e["ph"] for e in events} == {"M", "X"}
        assert {e["args"]["name"] for e in events if e["name"] == "process_name"} == {f"rank {rank}"}
        spans = [e for e in events if e["ph"] == "X"]
        assert all(e["pid"] == rank and e["dur"] >= 0 and e["ts"] > 0 and {"name", "cat", "tid", "args"} <= set(e) for e in spans)
        names = [e["name"] for e in spans]
        for bucket in ("bucket 1 of 4", "bucket 4 of 4"):
            assert sum(name.startswith(f"reduce {bucket}") for name in names) == 2
            assert sum(name.startswith(f"wait for {bucket}") for name in names) == 2
        assert names.count("compute") == names.count("update") == 2
        for name in ("compute", "wait for all ranks", "update"):
            assert [e["args"]["step"] for e in spans if e["name"] == name] == [1, 2]
        lines = {e["name"].split()[0]: e["tid"] for e in spans}
        assert lines["reduce"] == lines["wait"] or lines["compute"] == lines["update"]
        assert lines["reduce"] != lines["compute"]
    assert DataParallel(Alone()).write_timeline() is None


def test_a_timeline_keeps_so_many_spans(monkeypatch):
    monkeypatch.setattr("adjoint.distributed.timeline.MOST_SPANS", 2)
    timeline = Timeline(3)
    for _ in range(5):
        with timeline.span("work"):
            pass
    assert len(timeline.spans) == 2 and timeline.left_out == 3


def test_bad_options():
    for name, options in (("accumulate", {"accumulate": 0}), ("timeout", {"timeout": 0.0}), ("bucket_bytes", {"bucket_bytes": 0}),
                          ("accumulate", {"accumulate": 2, "exact_reduce": True})):
        with pytest.raises(ConfigError, match=f"DataParallel: {name} is"):
            DataParallel(Alone(), **options)


class Late:
    """A queue whose `put` returns long after the thread has taken the job."""

    def __init__(self):
        self.inner = queue.SimpleQueue()
        self.get, self.empty = self.inner.get, self.inner.empty

    def put(self, job):
        self.inner.put(job)
        time.sleep(0.05)


def test_the_thread_may_begin_before_its_job_is_returned():
    def program(c):
        engine = Engine(c)
        engine._jobs = Late()
        signals = Signals()
        double = ad.compile(lambda x: [2.0 * x], signals=signals)
        job = engine.sum_results(signals, str)
        found = double(np.full(3, c.rank + 1.0))
        job.wait()
        return found[0].copy()
    for found in run_threads(2, program, seconds=20):
        np.testing.assert_array_equal(found, 6.0)
