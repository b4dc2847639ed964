"""When a program looks for a reason to stop: behind what is long, every so many passes of a loop, and never without need."""

import os
import re
import signal
import threading
import time

import numpy as np
import pytest

import adjoint as ad
from adjoint.compiler.sequence import Fork, Step
from adjoint.compiler.signals import Signals


def products(x, w, count=12):
    for _ in range(count):
        x = np.tanh(x @ w)
    return x


def test_an_interrupt_between_the_pieces_of_a_long_step_is_seen_behind_it(rng):
    """On one thread, where nothing but long products stand before the donated result: it is whole or as it was."""
    x, w = rng.standard_normal((400, 400)), rng.standard_normal((400, 400)) / 20
    step, stopped = ad.compile(products, donate=0), 0
    with ad.threads(1):
        held = step(x, w)
        expected = step(x.copy(), w).copy()
        for k in range(40):
            held[...], timer = x, threading.Timer(0.002 * (k % 10), os.kill, (os.getpid(), signal.SIGINT))
            with pytest.raises(KeyboardInterrupt):
                timer.start()
                step(held, w)
                timer.join(10)
                signal.pause()
            assert np.array_equal(held, x) or np.array_equal(held, expected)
            stopped += np.array_equal(held, x)
            if stopped == 3:
                return
    raise AssertionError(f"only {stopped} calls were interrupted")


def test_a_loop_of_short_split_steps_looks_by_itself():
    """On one thread nobody waits at a barrier, and no step is long enough to look: the loop does, or goes on for half a minute."""
    counts = ad.compile(lambda x, stop: ad.while_loop(lambda c: c[0, 0] < stop, lambda c: c + 1.0, x), donate=0)
    with ad.threads(1):
        held = counts(np.zeros((300, 300)), 1.0)
        timer, begin = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)), time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            timer.start()
            counts(held, 4e5)
            signal.pause()
        timer.join(10)
    assert (held == 1.0).all() and time.monotonic() - begin < 10


def passes_between_looks(body, x):
    """The powers of two after which the loop looks, less one, as its code has them (1 is also said to tell odd passes from even)."""
    compiled = ad.compile(lambda x: ad.fori_loop(0, 9, body, x))
    compiled(x)
    return set(map(int, re.findall(r"= and i64 %\S+, (\d+)$", compiled.ir(), re.MULTILINE))) - {1}


def test_a_loop_looks_the_more_often_the_longer_its_passes_are():
    assert passes_between_looks(lambda i, x: x + 1.0, np.float64(0.0)) == {1023}
    some = passes_between_looks(lambda i, x: x * 0.5 + 1.0, np.zeros(500))
    assert len(some) == 1 and 1 < min(some) < 63, some
    assert passes_between_looks(lambda i, x: x * 0.5 + 1.0, np.zeros(20_000)) == {0}


def test_threads_that_meet_look_for_a_cancel_only_where_there_are_signals(rng):
    x = rng.standard_normal((256, 256))
    seen = r"@\"?adjoint_poll\"?\(ptr %control\)\n.*@\"?adjoint_barrier"
    plain, watched = ad.compile(lambda x, w: products(x, w, 3)), ad.compile(lambda x, w: products(x, w, 3), signals=Signals())
    with ad.threads(2):
        plain(x, x / 16)
        watched(x, x / 16)
    assert "adjoint_barrier" in plain.ir() and not re.search(seen, plain.ir()) and re.search(seen, watched.ir())


def test_behind_what_is_short_nothing_looks_for_signals(rng):
    """On one thread, where a poll is asked for nowhere else: long products are looked at, a short sum is not."""
    short, long = ad.compile(lambda x: x + 1.0), ad.compile(lambda x, w: products(x, w, 2))
    short(np.ones(4))
    long(rng.standard_normal((256, 256)), np.eye(256))
    looks = [len(re.findall(r"call i1 @\"?adjoint_poll", each.ir())) for each in (short, long)]
    assert looks[0] == 0 and looks[1] > 0, looks


def test_a_branch_is_walked_by_all_threads_if_one_of_its_sides_is():
    large, small = Step("large", 1000, 1, 1e6), Step("small", 1, 1, 10.0, checks=True)
    assert large.parallel and not small.parallel
    for sides in (((large,), (small,)), ((small,), (large,)), ((), (small, large))):
        fork = Fork(0, *sides)
        assert fork.parallel and fork.checks and fork.cost in (1e6, 1e6 + 10.0)
    assert not Fork(0, (small,), ()).parallel and not Fork(0, (large,), ()).checks
