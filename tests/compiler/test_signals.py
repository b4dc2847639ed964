"""Signals of a compiled call: which results are finished while it runs, and that it stops when it is told to."""

import threading
import time

import numpy as np
import pytest

import adjoint as ad
from adjoint import nn, train
from adjoint.compiler.llvm import finished_outputs
from adjoint.compiler.signals import Signals
from adjoint.compiler.threads import threads
from adjoint.errors import Cancelled, ConfigError

N = 256


def chain(x, w, count=40):
    """Products one after the other, each a result of its own."""
    found = []
    for _ in range(count):
        x = np.tanh(x @ w)
        found.append(x)
    return found


@pytest.fixture
def matrices(rng):
    return rng.standard_normal((N, N)), rng.standard_normal((N, N)) / np.sqrt(N)


@pytest.mark.parametrize("count", [1, 2])
def test_results_are_those_without_signals(matrices, count):
    signals = Signals()
    with threads(count):
        watched, plain = ad.compile(chain, signals=signals), ad.compile(chain)
        first = watched(*matrices)
        assert signals.ready == 40 and not signals.cancelled and all(signals.finished(j) for j in range(40))
        for found, expected, kept in zip(first, plain(*matrices), signals.outputs, strict=True):
            assert found is kept and np.array_equal(found, expected)
        assert all(a is b for a, b in zip(watched(*matrices), first, strict=True))          # the same arrays at every call
        assert np.array_equal(watched(first[3], matrices[1])[0], plain(plain(*matrices)[3], matrices[1])[0])


@pytest.mark.parametrize("count", [1, 2])
def test_who_waits_is_woken_by_every_result_and_never_looks_by_itself(matrices, count):
    signals, seen = Signals(), []
    watched = ad.compile(chain, signals=signals)
    with threads(count):
        watched(*matrices)
        signals.reset()

        def watch():
            events = signals.events
            for j in range(40):
                while not signals.outputs or not signals.finished(j):
                    before, events = events, signals.wait(events, 30.0)
                    assert events > before
            seen.append(time.perf_counter())
        watcher = threading.Thread(target=watch)
        watcher.start()
        time.sleep(0.05)                                    # it sleeps; a result that does not wake it costs 30 s
        watched(*matrices)
        begin = time.perf_counter()
        watcher.join(60)
    assert seen and seen[0] - begin < 20.0


def test_waiting_ends_after_its_time_and_no_ring_is_lost():
    signals = Signals()
    begin = time.perf_counter()
    assert signals.wait(signals.events, 0.05) == signals.events == 0 and 0.04 < time.perf_counter() - begin < 20.0
    signals.ring()
    assert signals.wait(0, 60.0) == 1                       # it rang before
    count, heard = 20_000, []

    def wait():
        events = signals.events
        while events < count + 1:
            events = signals.wait(events, 60.0 if events % 7 else 1e-6)     # now and then its time ends while it is rung
        heard.append(events)
    waiter = threading.Thread(target=wait)
    waiter.start()
    for k in range(count):
        signals.ring()
        if k % 100 == 0:
            time.sleep(1e-4)
    waiter.join(50)
    assert heard == [count + 1]


@pytest.mark.parametrize("count", [1, 2])
def test_results_are_finished_one_after_the_other_while_the_call_runs(matrices, count):
    """A watcher sees results in order, each already whole, before the call has returned."""
    signals, seen, expected = Signals(), [], ad.compile(chain)(*matrices)
    watched = ad.compile(chain, signals=signals)
    ended = threading.Event()

    def watch():
        for j in range(40):
            while not signals.finished(j):
                if ended.wait(1e-4):
                    return
            seen.append((np.array_equal(signals.outputs[j], expected[j]), ended.is_set()))
    with threads(count):
        watched(*matrices)
        for _ in range(5):
            signals.reset()
            seen.clear()
            ended.clear()
            watcher = threading.Thread(target=watch)
            watcher.start()
            watched(*matrices)
            ended.set()
            watcher.join(10)
            assert all(whole for whole, _ in seen)
            if any(not after for _, after in seen):
                return
    raise AssertionError("no result was seen before its call returned")


def cancelled_once(signals, watched, live, w):
    """Seconds from cancel(), told after the third result, to the end of the call."""
    told = []

    def cancel():
        while not signals.finished(2):
            time.sleep(1e-4)
        told.append(time.perf_counter())
        signals.cancel()
    signals.reset()
    helper = threading.Thread(target=cancel)
    helper.start()
    with pytest.raises(Cancelled, match="a compiled call was cancelled by its Signals"):
        watched(live, w)
    ended = time.perf_counter()
    helper.join(10)
    return ended - told[0]


@pytest.mark.alone
@pytest.mark.parametrize("count", [1, 2])
def test_a_cancelled_call_stops_within_a_kernel_and_changes_nothing(rng, count):
    """60 products; cancelled after three of them, the call ends soon; the donated matrix is as it was."""
    size, signals = 384, Signals()
    x, w = rng.standard_normal((size, size)), rng.standard_normal((size, size)) / np.sqrt(size)

    def update(x, w):
        found = chain(x, w, 60)
        return found[-1], found[0], found[2]
    with threads(count):
        watched = ad.compile(update, donate=0, signals=signals)
        live = watched(x, w)[0]
        kept, late = live.copy(), []
        for _ in range(5):                                                # the machine may have other things to do
            late.append(cancelled_once(signals, watched, live, w))
            assert signals.cancelled and signals.ready == 2 and np.array_equal(live, kept)
        with pytest.raises(Cancelled):                                    # the flag stays
            watched(live, w)
        signals.reset()
        begin = time.perf_counter()
        again = watched(live, w)[0]
        whole = time.perf_counter() - begin
        assert again is live and np.array_equal(live, ad.compile(update)(kept, w)[0])
        assert min(late) < 0.25 * whole


def test_a_cancel_after_the_commit_point_is_too_late(matrices):
    """Donated data is written whole or not at all, whenever the flag comes."""
    signals = Signals()
    step = ad.compile(lambda m, w: ([x + 1.0 for x in m], (m[0] @ w).sum()), donate=0, signals=signals)
    model, cancelled = step([matrices[0].copy() for _ in range(8)], matrices[1])[0], 0
    for k in range(200):
        values = [x[0, 0] for x in model]
        signals.reset()
        timer = threading.Thread(target=lambda k=k: (time.sleep(k % 20 * 2e-5), signals.cancel()))
        timer.start()
        try:
            step(model, matrices[1])
            moved = 1.0
        except Cancelled:
            moved, cancelled = 0.0, cancelled + 1
        timer.join(10)
        assert [x[0, 0] - v for x, v in zip(model, values, strict=True)] == pytest.approx([moved] * 8, abs=1e-9)
    assert cancelled > 0


def test_without_signals_the_code_is_as_it_was(matrices):
    plain, watched = ad.compile(chain), ad.compile(chain, signals=Signals())
    plain(*matrices)
    watched(*matrices)
    assert "store atomic" not in plain.ir() and watched.ir().count("store atomic i64 1") == 40
    program = plain._last().native.built.program
    assert program.signals == -1 and finished_outputs(program, [0]) is None
    kernels = lambda text: text[:text.index("@program")].count("define")
    assert kernels(plain.ir()) == kernels(watched.ir())


def test_gradients_of_late_layers_are_finished_first(rng):
    model = nn.mlp(32, 32, 32, 32, 8, activation=nn.relu, rng=rng)
    gradient = ad.compile(lambda m, x, y: train.loop.objective(nn.cross_entropy, m, x, y), signals=Signals())
    gradient(model, rng.standard_normal((16, 32)).astype(np.float32), rng.integers(0, 8, 16))
    program = gradient._last().native.built.program
    last = {slot: item for item, slots in finished_outputs(program, range(len(program.steps) + 1)).items() for slot in slots}
    weights = [last[1 + 2 * layer] for layer in range(4)]               # result 0 is the loss; weight and bias of each layer follow
    assert weights == sorted(weights, reverse=True) and len(set(weights)) == 4


def test_numbers_and_donated_data_have_no_array_but_are_finished():
    signals = Signals()
    step = ad.compile(lambda m, x: (m * 2.0, x.sum(), x[:0]), donate=0, signals=signals)
    step(np.ones(4), np.ones(5))
    assert signals.ready == 3 and [None if a is None else a.shape for a in signals.outputs] == [None, None, (0,)]
    with pytest.raises(ConfigError, match="4097 results, more than 4096"):
        signals.begin([None] * 4097)
