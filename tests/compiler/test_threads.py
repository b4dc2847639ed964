"""Threads of compiled calls: the same bits for every count, signals, fork, shutdown, two callers, quotas."""

import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import native_programs as programs
import numpy as np
import pytest

from adjoint import settings
from adjoint.compiler import control as at
from adjoint.compiler import threads as threads_module
from adjoint.compiler.entry import Entry, Specialization
from adjoint.compiler.runtime import runtime
from adjoint.compiler.signature import Array, Fresh, Given, Signature
from adjoint.compiler.threads import default_count, thread_count, threads
from adjoint.errors import ConfigError

F8 = np.dtype("f8")
SIZE = 500


def on_error(status):
    raise ArithmeticError(status)


def slow(*args):
    raise AssertionError("the slow path was taken")


def entry_of(text, signature, route=True, count=8, **options):
    code = programs.code_of(text)
    entry = Entry(slow, native=route)
    entry.add(Specialization(signature, code["program"], on_error, owner=code, threads=count, **options))
    return entry


def mirror_entry(route=True, size=SIZE, count=8):
    signature = Signature((Array(F8, (size,), 0),), Fresh(F8, (size,), 2), 3, ((1, 0),), 16 * size)
    return entry_of(programs.halves(size), signature, route, count)


def mirrored(x):
    for _ in range(3):
        x = x[::-1] + 1
    return x


@pytest.fixture(autouse=True)
def count_is_put_back():
    with threads(thread_count()):
        yield


@pytest.fixture(params=["native", "python"])
def route(request):
    return request.param == "native"


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_same_bits_for_every_count(route, count):
    entry, x = mirror_entry(route), np.random.default_rng(0).random(SIZE)
    with threads(count):
        for _ in range(50):
            assert np.array_equal(entry.call(x), mirrored(x))


def test_workers_start_late_and_never_more_than_the_program_is_worth():
    """A process has no worker before a call wants one; then as many as the count says, and they are reused."""
    script = BEGIN + """
def workers():
    return len(os.listdir("/proc/self/task")) - 1
threads(3)
alone, pair = mirror_entry(count=1), mirror_entry(count=8)
x = np.ones(SIZE)
before = workers()
alone.call(x)
assert workers() == before
for _ in range(3):
    pair.call(x)
    assert workers() == before + 2, workers()
threads(4)
pair.call(x)
assert workers() == before + 3
threads(1)
assert np.array_equal(pair.call(x), mirrored(x))
print("done")
"""
    assert run(script) == ("done\n", 0)


def test_parked_workers_wake_up(route):
    entry, x = mirror_entry(route), np.ones(SIZE)
    with threads(2):
        for pause in (0, 1e-5, 1e-4, 1e-3, 1e-2):
            entry.call(x)
            time.sleep(pause)
            assert np.array_equal(entry.call(x), mirrored(x))


def test_second_caller_runs_alone_with_the_same_bits(route):
    """Many Python threads want the one pool; whoever does not get it computes alone."""
    entries = [mirror_entry(route) for _ in range(2)]
    wrong = []

    def work(seed):
        x = np.random.default_rng(seed).random(SIZE)
        for k in range(60):
            if not np.array_equal(entries[k % 2].call(x), mirrored(x)):
                wrong.append(seed)

    with threads(2):
        workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
    assert not wrong and not any(worker.is_alive() for worker in workers)


def endless_entry(route=True, count=2):
    signature = Signature((Array(F8, (6,), 0, donated=True),), Given(0), 1)
    return entry_of(programs.endless(6), signature, route, count)


def interrupt_after(seconds):
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    return timer


@pytest.mark.parametrize("count", [1, 2, 3])
def test_interrupt_stops_before_the_commit(route, count):
    """Ctrl-C inside a long native call:

    KeyboardInterrupt within a moment, the data bit for bit as it was, and ready to go on.
    """
    entry, data = endless_entry(route), np.arange(6.0)
    with threads(count):
        timer, start = interrupt_after(0.1), time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            entry.call(data)
        assert time.monotonic() - start < 2.0
        timer.join()
        assert np.array_equal(data, np.arange(6.0)) and not entry.specializations[0].busy
        assert np.array_equal(mirror_entry(route).call(np.ones(SIZE)), np.full(SIZE, 4.0))


def test_signal_handler_that_does_not_raise_changes_nothing():
    """The handler may even call compiled functions, this one's pool included;

    The call goes on and can still be interrupted.
    """
    entry, other, seen = endless_entry(), mirror_entry(), []

    def handler(*_):
        seen.append(np.array_equal(other.call(np.ones(SIZE)), np.full(SIZE, 4.0)))
        if len(seen) == 3:
            signal.setitimer(signal.ITIMER_REAL, 0)         # no fourth, however slow the machine
            raise InterruptedError("third")

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.15)
    try:
        with threads(2), pytest.raises(InterruptedError, match="third"):
            entry.call(np.arange(6.0))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert seen == [True] * 3


def test_interrupts_at_random_moments_leave_whole_steps(route):
    """Eighty signals over a loop of steps: the data is always that of a whole number of steps, and every step is counted once."""
    signature = Signature((Array(F8, (200,), 0, donated=True),), Given(0), 1)
    entry, data = entry_of(programs.long_step(200, 2000), signature, route), np.zeros(200)
    random, steps, raised = np.random.default_rng(1), 0, 0
    poll_ticks = runtime().get(at.POLL_TICKS)
    runtime().put(at.POLL_TICKS, poll_ticks // 5000)        # look every 10 us, so that most signals arrive inside a call
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        with threads(2):
            while raised < 80:
                try:
                    signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 1e-3))
                    for _ in range(1000):
                        entry.call(data)
                        steps = int(data[0])
                except KeyboardInterrupt:
                    raised += 1
                assert (data == data[0]).all() and steps <= data[0] <= steps + 1
                steps = int(data[0])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        runtime().put(at.POLL_TICKS, poll_ticks)
    assert steps > 0 and not entry.specializations[0].busy


def test_fork_in_a_signal_handler_inside_a_call():
    """The child has no workers to wait for: its call ends with an error, the parent's goes on."""
    script = BEGIN + """
def on_error(status):
    raise ArithmeticError(status)
threads(2)
entry, data, children = endless_entry(), np.arange(6.0), []
def handler(*_):
    if children:
        raise InterruptedError
    children.append(os.fork())
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.1, 0.2)
try:
    entry.call(data)
except ArithmeticError as error:
    right = children == [0] and error.args == (-1,) and np.array_equal(mirror_entry().call(np.ones(SIZE)), np.full(SIZE, 4.0))
    os._exit(7 if right else 1)
except InterruptedError:
    signal.setitimer(signal.ITIMER_REAL, 0)
assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 7
print("done", np.array_equal(data, np.arange(6.0)))
"""
    assert run(script) == ("done True\n", 0)


def test_call_outside_the_main_thread_never_looks_for_signals():
    """Signals reach the main thread only, so no other need ever wait for the GIL inside a call."""
    entry, raised = endless_entry(), []
    control = entry.specializations[0].frame[:at.CONTROL_BYTES].view(np.int64)

    def work():
        try:
            entry.call(np.arange(6.0))
        except ArithmeticError as error:
            raised.append(error.args)

    with threads(1):
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            while not entry.specializations[0].busy:
                time.sleep(0.001)
            time.sleep(0.01)
            deadline = control[at.DEADLINE // 8]
        finally:
            control[at.CANCEL // 8] = 1         # what its owner would do
            thread.join(10)
    assert deadline == at.UNTIL_NEVER and raised == [(at.CANCELLED,)]


def test_interrupt_while_the_owner_waits_at_a_barrier():
    """The owner has nothing to do: it polls while it waits for a worker that only looks at the cancel flag."""
    text = programs.endless(6).replace("icmp eq i64 %thread, 0", "icmp ne i64 %thread, 0")
    entry, data = entry_of(text, Signature((Array(F8, (6,), 0, donated=True),), Given(0), 1)), np.arange(6.0)
    with threads(2):
        timer = interrupt_after(0.1)
        with pytest.raises(KeyboardInterrupt):
            entry.call(data)
        timer.join()
    assert np.array_equal(data, np.arange(6.0))


def test_other_python_threads_run_meanwhile():
    """A long call holds no GIL."""
    entry, ticks = endless_entry(), []

    def tick():
        end = time.monotonic() + 10.0
        while len(ticks) < 20 and time.monotonic() < end:
            ticks.append(1)
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=tick)
    with threads(1), pytest.raises(KeyboardInterrupt):
        thread.start()
        entry.call(np.arange(6.0))
    thread.join()
    assert len(ticks) == 20


HERE = str(Path(__file__).parent)
BEGIN = f"""
import os, signal, sys, threading, time
sys.path.insert(0, {HERE!r})
from test_threads import *
"""


def run(script, *, timeout=60):
    """Output and exit code of a new process."""
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": root, "PYTHONFAULTHANDLER": "1"}
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], env=environment, timeout=timeout, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return done.stdout, done.returncode


def test_child_after_fork_computes():
    """Fork with a pool, in the middle of another thread's call, fifty times; each child makes a pool of its own."""
    script = BEGIN + """
threads(2)
mirror, x = mirror_entry(), np.ones(SIZE)
mirror.call(x)
signature = Signature((Array(np.dtype("i8"), (1,), 0),), Fresh(F8, (6,), 1), 2)
waiting = entry_of(programs.waiting(6), signature, count=1, release_gil=True, exclusive=True)
flag, special = np.zeros(1, np.int64), waiting.specializations[0]
caller = threading.Thread(target=waiting.call, args=(flag,))
caller.start()
while not special.busy:
    pass
for k in range(50):
    child = os.fork()
    if child == 0:
        right = np.array_equal(mirror.call(x), mirrored(x)) and not special.busy
        right = right and np.array_equal(waiting.call(np.ones(1, np.int64)), np.full(6, 7.0))
        os._exit(0 if right else 1)
    assert os.waitpid(child, 0)[1] == 0, k
assert np.array_equal(mirror.call(x), mirrored(x))
flag[0] = 1
caller.join()
print("done")
"""
    assert run(script) == ("done\n", 0)


def test_fork_while_the_pool_works():
    script = BEGIN + """
threads(2)
mirror, x, stop = mirror_entry(), np.ones(SIZE), []
def work():
    while not stop:
        assert np.array_equal(mirror.call(x), mirrored(x))
caller = threading.Thread(target=work)
caller.start()
for k in range(30):
    child = os.fork()
    if child == 0:
        os._exit(0 if all(np.array_equal(mirror.call(x), mirrored(x)) for _ in range(3)) else 1)
    assert os.waitpid(child, 0)[1] == 0
stop.append(1)
caller.join()
print("done")
"""
    assert run(script) == ("done\n", 0)


@pytest.mark.parametrize("ending", ["", "sys.exit(3)", "raise SystemExit(3)", "os._exit(3)", "del mirror, x"])
def test_process_ends_cleanly(ending):
    """Workers spin, park or are gone: the interpreter ends at once, without a message."""
    script = BEGIN + f"""
threads(3)
mirror, x = mirror_entry(), np.ones(SIZE)
mirror.call(x)
time.sleep({0.0 if "sys" in ending else 0.01})
{ending}
"""
    start = time.monotonic()
    assert run(script) == ("", 3 if "3" in ending else 0)
    assert time.monotonic() - start < 20


def test_daemon_thread_inside_a_call_does_not_disturb_the_end():
    script = BEGIN + """
threads(2)
import atexit
mirror, endless = mirror_entry(), endless_entry()
atexit.register(lambda: print(np.array_equal(mirror.call(np.ones(SIZE)), np.full(SIZE, 4.0)), flush=True))
threading.Thread(target=endless.call, args=(np.arange(6.0),), daemon=True).start()
while not endless.specializations[0].busy:
    pass
"""
    assert run(script) == ("True\n", 0)


def test_interrupt_of_a_process():
    """The default way: Ctrl-C ends a script inside a native call with KeyboardInterrupt, so exit status -SIGINT."""
    script = BEGIN + """
threads(2)
endless = endless_entry()
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
endless.call(np.arange(6.0))
"""
    output, code = run(script)
    assert output.rstrip().endswith("KeyboardInterrupt") and code == -signal.SIGINT


def test_threads_checks_its_argument():
    for wrong in (0, -1, 257, 1.0, True, "2", None):
        with pytest.raises(ConfigError, match="expected an integer from 1 to 256"):
            threads(wrong)


def test_threads_nests_and_restores():
    threads(5)
    with threads(2):
        assert thread_count() == 2 and runtime().get(at.COUNT) == 2
        with pytest.raises(KeyError), threads(3):
            assert thread_count() == 3
            raise KeyError
        assert thread_count() == 2
    assert thread_count() == 5


@pytest.fixture
def fresh_default():
    default_count.cache_clear()
    yield
    default_count.cache_clear()


def test_default_count(fresh_default, monkeypatch):
    monkeypatch.delenv(settings.THREADS, raising=False)
    assert 1 <= default_count() <= len(os.sched_getaffinity(0))
    default_count.cache_clear()
    monkeypatch.setattr(threads_module, "_quota", lambda: 1.5)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16))
    assert default_count() == 2
    default_count.cache_clear()
    monkeypatch.setenv(settings.THREADS, "7")
    assert default_count() == 7
    for wrong in ("0", "-1", "many", "1.5"):
        default_count.cache_clear()
        monkeypatch.setenv(settings.THREADS, wrong)
        with pytest.raises(ConfigError, match=settings.THREADS):
            default_count()


@pytest.mark.parametrize("files, membership, quota", [
    ({"cpu.max": "150000 100000"}, "0::/", 1.5),
    ({"cpu.max": "max 100000"}, "0::/", math.inf),
    ({"a/cpu.max": "max 100000", "a/b/cpu.max": "50000 100000"}, "0::/a/b", 0.5),
    ({"a/cpu.max": "200000 100000", "a/b/cpu.max": "900000 100000"}, "0::/a/b", 2.0),
    ({"cpu,cpuacct/x/cpu.cfs_quota_us": "300000", "cpu,cpuacct/x/cpu.cfs_period_us": "100000"},
     "4:memory:/x\n3:cpu,cpuacct:/x", 3.0),
    ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "3:cpu:/", math.inf),
    ({"cpu.max": "nonsense"}, "0::/", math.inf),
    ({}, "torn", math.inf),
    ({}, None, math.inf),
])
def test_quota(tmp_path, files, membership, quota):
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if membership is not None:
        (tmp_path / "membership").write_text(membership)
    assert threads_module._quota(tmp_path / "groups", tmp_path / "membership") == quota


def test_ranks_of_one_machine_share_its_cores_unless_the_number_was_chosen(monkeypatch):
    monkeypatch.setattr(threads_module, "_chosen", [])
    monkeypatch.setattr(threads_module, "default_count", lambda: 8)
    monkeypatch.setattr(os, "cpu_count", lambda: len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 8)
    monkeypatch.delenv("ADJOINT_THREADS", raising=False)
    threads_module.share_cores(3)
    assert thread_count() == 2
    threads_module.share_cores(8)                                     # a number was chosen by now
    assert thread_count() == 2
    for setting in ("4", None):
        threads_module._chosen.clear()
        if setting:
            monkeypatch.setenv("ADJOINT_THREADS", setting)
        else:
            monkeypatch.delenv("ADJOINT_THREADS")
            monkeypatch.setattr(os, "cpu_count", lambda: 10_000)      # the launcher has given this process cores of its own
        threads_module.share_cores(2)
        assert thread_count() == 8
    threads_module._publish()
