"""The way into a compiled function under threads and for long: frames, donated data, rounding, references, memory. Both entries."""

import contextlib
import ctypes
import gc
import os
import sys
import threading
import tracemalloc

import native_programs as programs
import numpy as np
import pytest
from entries import F8, I8, Failed, Tree, entry_of, on_error, plus_one, run_in_thread, slow, step_entry

from adjoint.compiler.entry import Entry, Specialization
from adjoint.compiler.jit import load
from adjoint.compiler.runtime import runtime
from adjoint.compiler.signature import (
    Array,
    Fresh,
    Handle,
    Held,
    Signature,
)
from adjoint.errors import DonationError


def test_second_caller_has_a_frame_of_its_own(route):
    """A call is held inside the program; others finish meanwhile, with their own arena, and both are right."""
    entry = entry_of(route, programs.waiting(6), Signature((Array(I8, (1,), 0),), Fresh(F8, (6,), 1), 2), release_gil=True)
    flag, special = np.zeros(1, I8), entry.specializations[0]
    thread, box = run_in_thread(entry.call, flag)
    while not special.busy:
        pass
    for _ in range(3):
        assert np.array_equal(entry.call(np.ones(1, I8)), np.full(6, 7.0))
    assert special.busy
    flag[0] = 1
    thread.join(10)
    assert np.array_equal(box[0], np.full(6, 7.0)) and not special.busy


def test_removed_specialization_lives_until_its_call_ends(route):
    entry = entry_of(route, programs.waiting(6), Signature((Array(I8, (1,), 0),), Fresh(F8, (6,), 1), 2), release_gil=True)
    flag = np.zeros(1, I8)
    thread, box = run_in_thread(entry.call, flag)
    while not entry.specializations[0].busy:
        pass
    entry.remove(entry.specializations[0])
    gc.collect()
    flag[0] = 1
    thread.join(10)
    assert np.array_equal(box[0], np.full(6, 7.0))


def test_donated_data_is_never_in_two_calls(route):
    signature = Signature((Handle(0), Array(I8, (1,), 0)), (Held(0),), 2, slots=1)
    entry = entry_of(route, programs.waiting(6), signature, exclusive=True, release_gil=True)
    special, model, flag = entry.specializations[0], Tree(np.zeros(6)), np.zeros(1, I8)
    special.hold(0, model, {1: model.leaf})
    thread, box = run_in_thread(entry.call, model, flag)
    while not special.busy:
        pass
    with pytest.raises(Failed) as caught:
        entry.call(model, flag)
    assert caught.value.args == (-2,)
    with pytest.raises(DonationError):
        special.hold(0, model, {1: model.leaf})
    flag[0] = 1
    thread.join(10)
    assert box[0][0] is model and np.array_equal(model.leaf, np.full(6, 7.0))
    assert entry.call(model, flag)[0] is model


def test_eight_threads_call_at_once(route):
    entry = entry_of(route, programs.halves(1000), Signature((Array(F8, (1000,), 0),), Fresh(F8, (1000,), 2), 3, ((1, 0),), 16000),
                     release_gil=True)
    wrong = []

    def work(seed):
        x = np.random.default_rng(seed).random(1000)
        for _ in range(100):
            y = entry.call(x)
            if not np.array_equal(y, ((x[::-1] + 1)[::-1] + 1)[::-1] + 1):
                wrong.append(seed)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert not wrong


def test_rounding_mode_is_set_and_restored():
    """A caller that rounds upwards gets the same bits, and its own mode back."""
    fegetround, fesetround = ctypes.CDLL(None).fegetround, ctypes.CDLL(None).fesetround
    text = programs.add_one(3, "double", "0x3C90000000000000")        # 1 + 2^-54 is 1 to nearest
    f = entry_of(True, text, Signature((Array(F8, (3,), 0),), Fresh(F8, (3,), 1), 2)).call
    upwards, x = 0x800, np.ones(3)
    before = fegetround()
    try:
        fesetround(upwards)
        y, mode = f(x), fegetround()
    finally:
        fesetround(before)
    assert mode == upwards and y.tolist() == [1.0, 1.0, 1.0]


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_no_reference_leaks(route):
    entry, model, state = step_entry(route)
    other = plus_one(route).call
    failing = entry_of(route, programs.check_first(6), Signature((Array(F8, (6,), 0),), [Fresh(F8, (6,), 1), None], 2)).call
    x, strided = np.ones(6), np.ones(12)[::2]
    objects = (x, strided, model, state, F8, None, 0.25)

    def rounds(count):
        for _ in range(count):
            entry.call(model, state, x, 0.25)
            other(x)
            other(strided)
            with contextlib.suppress(Failed):
                failing(-x)

    rounds(200)
    gc.collect()
    counts = [sys.getrefcount(o) for o in objects]
    rounds(2000)
    gc.collect()
    after = [sys.getrefcount(o) for o in objects]
    assert all(abs(a - b) < 20 for a, b in zip(counts, after, strict=True))


def test_no_memory_growth():
    entry, model, state = step_entry(True)
    f, x = plus_one(True).call, np.ones(6)
    for _ in range(1000):
        f(x)
    tracemalloc.start()
    try:
        start, memory = tracemalloc.get_traced_memory()[0], resident()
        for _ in range(100_000):
            f(x)
            entry.call(model, state, x, 0.25)
        assert tracemalloc.get_traced_memory()[0] - start < 4096 and resident() - memory < 5_000_000
    finally:
        tracemalloc.stop()


def test_cycles_of_create_and_close_stay_small():
    """500 compiled functions made, called and dropped: their code and frames go with them."""
    image = programs.object_code(programs.add_one(6))
    runtime()

    def cycle():
        code = load([image], ["program"], runtime().symbols)
        entry = Entry(slow, native=True)
        signature = Signature((Array(F8, (6,), 0),), Fresh(F8, (6,), 1), 2)
        entry.add(Specialization(signature, code["program"], on_error, owner=code))
        made = entry.callable_class("Compiled")()
        assert made(np.zeros(6))[0] == 1

    for _ in range(50):
        cycle()
    gc.collect()
    memory = resident()
    for _ in range(500):
        cycle()
    gc.collect()
    assert resident() - memory < 5_000_000


