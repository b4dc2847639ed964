"""The native runtime: one small module per process with the poll, the barrier, the worker, the run and the entry.

Invariant: workers never touch Python; only the owner of a call does, and it is the one that decides at a barrier, so
that a decision to stop is the same in all threads. May import: control, assembler, capi, jit, entry_native. Read
next: threads.py.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from functools import cache

import llvmlite.binding as llvm
from llvmlite import ir

from . import cache as cache_files
from . import communication, lapack
from . import control as at
from .assembler import I1, I32, I64, NULL, ONE, PTR, VOID, Routine
from .capi import Layout, layout
from .choice import emit_choose, emit_learn
from .entry_native import emit_entry
from .jit import Code, load
from .target import host_target

_YIELD_AFTER = 1024         # spins of a waiting thread before it offers its core to others
_LOOK_EVERY = 64            # spins of the waiting owner between two polls
_LONG_SPIN = 15             # how much longer a worker spins between the steps of a loop


class Machine:
    """The few instructions that differ between processors: clock, pause, floating-point mode."""

    def __init__(self, triple: str):
        self.is_arm = triple.startswith(("aarch64", "arm64"))

    def ticks(self, c: Routine) -> ir.Value:
        """A clock of unknown, constant rate."""
        if not self.is_arm:
            return c.call("llvm.readcyclecounter", I64)
        # The cycle counter of these processors is closed to programs, and LLVM's steady counter is zero there.
        return c.call("llvm.read_volatile_register.i64", I64, c.module.add_metadata(["cntvct_el0"]))

    def pause(self, c: Routine) -> None:
        if self.is_arm:
            c.call("llvm.aarch64.hint", VOID, ir.Constant(I32, 1))
        else:
            c.call("llvm.x86.sse2.pause", VOID)

    def set_mode(self, c: Routine) -> ir.Value:
        """Set rounding to nearest, no flushing of subnormals, no traps; return the mode that was set."""
        if self.is_arm:
            before = c.call("llvm.aarch64.get.fpcr", I64)
            with c.when(c.test("!=", before), likely=False):
                c.call("llvm.aarch64.set.fpcr", VOID, 0)
            return before
        cell = c.variable(I32)
        c.call("llvm.x86.sse.stmxcsr", VOID, cell)
        before = c.body.and_(c.body.load(cell, typ=I32), ir.Constant(I32, 0xFFC0))
        with c.when(c.test("!=", before, 0x1F80), likely=False):      # the low six bits are sticky flags, not the mode
            self.load_mode(c, ir.Constant(I32, 0x1F80))
        return before

    def restore_mode(self, c: Routine, before: ir.Value) -> None:
        if self.is_arm:
            with c.when(c.test("!=", before), likely=False):
                c.call("llvm.aarch64.set.fpcr", VOID, before)
            return
        with c.when(c.test("!=", before, 0x1F80), likely=False):
            self.load_mode(c, before)

    def load_mode(self, c: Routine, mode: ir.Value) -> None:
        cell = c.variable(I32)
        c.body.store(mode, cell)
        c.call("llvm.x86.sse.ldmxcsr", VOID, cell)


def emit_poll(module: ir.Module, machine: Machine) -> None:
    """i1 adjoint_poll(control):

    Is this call cancelled? By its Signals, if it has some; the owner looks for Python's when its deadline has passed.
    """
    c = Routine(module, "adjoint_poll", I1, PTR)
    control, = c.args
    with c.when(c.test("!=", c.get(control, at.CANCEL, order="acquire")), likely=False):
        c.give(1)
    words = c.get(control, at.SIGNALS, PTR)
    with c.when(c.test("!=", words), likely=False), c.when(c.test("!=", c.get(words, order="monotonic")), likely=False):
        c.put(control, at.CANCEL, 1, order="release")
        c.give(1)
    now = machine.ticks(c)
    with c.when(c.test("<", now, c.get(control, at.DEADLINE, order="monotonic")), likely=True):
        c.give(0)
    with c.when(c.test("!=", c.call("PyThread_get_thread_ident", I64), c.get(control, at.OWNER))):
        c.give(0)
    c.put(control, at.DEADLINE, c.body.add(now, c.get(c.external("adjoint_state"), at.POLL_TICKS)), order="monotonic")
    gil = c.call("PyGILState_Ensure", I32)          # right whether or not the owner has released the GIL
    raised = c.body.zext(c.test("!=", c.call("PyErr_CheckSignals", I32)), I64)
    c.call("PyGILState_Release", VOID, gil)
    with c.when(c.test("!=", c.body.or_(raised, c.body.zext(_is_orphan(c, control), I64)))):
        c.put(control, at.CANCEL, 1, order="release")
        c.give(1)
    c.give(0)


def _is_orphan(c: Routine, control: ir.Value) -> ir.Value:
    """Did a signal handler fork during this call, and is this the child? Its workers stayed behind."""
    return c.test("!=", c.get(control, at.BORN), c.get(c.external("adjoint_state"), at.GENERATION))


def _wait(c: Routine, machine: Machine, offset: int, pointer: ir.Value, sign: str, value: ir.Value,
          control: ir.Value | None = None) -> None:
    """Spin until the word at pointer + offset compares with `value`; an owner, which gives its control, polls meanwhile."""
    spins = c.variable(I64, 0)
    with c.forever() as leave_if:
        leave_if(c.test(sign, c.get(pointer, offset, order="acquire"), value))
        machine.pause(c)
        count = c.body.add(c.body.load(spins, typ=I64), ONE)
        c.body.store(count, spins)
        if control is not None:
            with c.when(c.test("==", c.body.and_(count, ir.Constant(I64, _LOOK_EVERY - 1)))):
                c.call("adjoint_poll", I1, control)
            leave_if(_is_orphan(c, control))
        with c.when(c.test(">", count, _YIELD_AFTER), likely=False):
            c.call("sched_yield", I32)


def _decide(c: Routine, control: ir.Value) -> ir.Value:
    cancelled = c.test("!=", c.get(control, at.CANCEL, order="acquire"))
    return c.body.select(cancelled, c.value(at.CANCELLED), c.get(control, at.STATUS, order="acquire"))


def emit_barrier(module: ir.Module, machine: Machine) -> None:
    """i64 adjoint_barrier(control, threads): wait for all threads; 0, or the status with which all of them stop.

    The owner arrives last and decides: it polls while it waits, so no signal can come between its decision and its
    own next step.
    """
    c = Routine(module, "adjoint_barrier", I64, PTR, I64)
    control, threads = c.args
    with c.when(c.test("<=", threads, 1)):
        c.give(_decide(c, control))
    with c.when(c.test("==", c.call("PyThread_get_thread_ident", I64), c.get(control, at.OWNER))):
        others = c.body.sub(threads, ONE)
        _wait(c, machine, at.ARRIVED, control, "==", others, control)
        decision = _decide(c, control)
        c.put(control, at.ARRIVED, 0, order="monotonic")
        c.put(control, at.DECISION, decision, order="monotonic")
        phase = c.get(control, at.PHASE, order="monotonic")
        c.put(control, at.PHASE, c.body.add(phase, ONE), order="release")
        c.give(decision)
    phase = c.get(control, at.PHASE, order="monotonic")
    c.body.atomic_rmw("add", c.at(control, at.ARRIVED), ONE, "acq_rel")
    _wait(c, machine, at.PHASE, control, "!=", phase)
    c.give(c.get(control, at.DECISION, order="monotonic"))


def emit_worker(module: ir.Module, machine: Machine) -> None:
    """void adjoint_worker(pool, thread): do jobs until told to stop; spin between jobs, then park."""
    c = Routine(module, "adjoint_worker", VOID, PTR, I64)
    pool, thread = c.args
    line = c.at(pool, c.body.mul(thread, ir.Constant(I64, at.WORKER)))
    machine.set_mode(c)
    last = c.variable(I64, c.get(line, at.WORKER_DONE))
    patience = c.variable(I64, c.get(c.external("adjoint_state"), at.SPIN_TICKS))
    with c.forever() as leave_if:
        done = c.body.load(last, typ=I64)
        _idle(c, machine, line, done, patience)
        leave_if(c.test("!=", c.get(pool, at.POOL_STOP, order="acquire")))
        sequence = c.get(line, at.WORKER_SEQUENCE, order="acquire")
        buffers, control = c.get(pool, at.JOB_BUFFERS, PTR), c.get(pool, at.JOB_CONTROL, PTR)
        c.call_at(c.get(pool, at.JOB_PROGRAM, PTR), I64, buffers, thread, c.get(pool, at.JOB_THREADS), control)
        c.body.store(sequence, last)
        c.put(line, at.WORKER_DONE, sequence, order="release")
    c.body.atomic_rmw("add", c.at(pool, at.POOL_LEFT), ONE, "acq_rel")
    c.give()


def _idle(c: Routine, machine: Machine, line: ir.Value, done: ir.Value, patience: ir.Value) -> None:
    """Wait until the worker's sequence differs from `done`: spin for `patience` ticks, then park on the lock.

    Waking a parked thread takes about 15 us, so a worker that was woken soon after it parked spins longer next time (a loop
    of steps keeps its workers awake), and one that slept long goes back to SPIN_TICKS.
    """
    spin = c.get(c.external("adjoint_state"), at.SPIN_TICKS)
    long = c.body.mul(spin, ir.Constant(I64, _LONG_SPIN))
    limit = c.variable(I64, c.body.add(machine.ticks(c), c.body.load(patience, typ=I64)))
    with c.forever() as leave_if:
        leave_if(c.test("!=", c.get(line, at.WORKER_SEQUENCE, order="seq_cst"), done))
        machine.pause(c)
        now = machine.ticks(c)
        with c.when(c.test(">", now, c.body.load(limit, typ=I64)), likely=False):
            c.exchange(line, at.WORKER_PARKED, 1)
            # Either the caller sees PARKED and releases the lock, or this thread sees the new sequence.
            asleep = c.test("==", c.get(line, at.WORKER_SEQUENCE, order="seq_cst"), done)
            with c.body.if_else(asleep) as (still, woken):
                with still:
                    c.call("PyThread_acquire_lock", I32, c.get(line, at.WORKER_LOCK, PTR), ir.Constant(I32, 1))
                with woken, c.when(c.test("==", c.exchange(line, at.WORKER_PARKED, 0))):
                    c.call("PyThread_acquire_lock", I32, c.get(line, at.WORKER_LOCK, PTR), ir.Constant(I32, 1))
            slept = c.body.sub(machine.ticks(c), now)
            c.body.store(c.body.select(c.test("<", slept, long), long, spin), patience)


def emit_bell(module: ir.Module) -> None:
    """void adjoint_ring(words): something has happened to these words of a Signals; wakes the thread that waits for it, if one does.

    i64 adjoint_await(words, seen, microseconds): wait until the bell has been rung more than `seen` times; how often it has.
    """
    c = Routine(module, "adjoint_ring", VOID, PTR)
    words, = c.args
    c.body.atomic_rmw("add", c.at(words, at.EVENTS), ONE, "seq_cst")
    with c.when(c.test("!=", c.exchange(words, at.PARKED, 0)), likely=False):
        c.call("PyThread_release_lock", VOID, c.get(words, at.BELL, PTR))
    c.give()
    c = Routine(module, "adjoint_await", I64, PTR, I64, I64)
    words, seen, microseconds = c.args
    bell, rung = c.get(words, at.BELL, PTR), c.variable(I32, 0)
    c.exchange(words, at.PARKED, 1)
    # Either the ringer sees PARKED and releases the lock, or this thread sees the new count.
    with c.when(c.test("==", c.get(words, at.EVENTS, order="seq_cst"), seen)):
        c.body.store(c.call("PyThread_acquire_lock_timed", I32, bell, microseconds, ir.Constant(I32, 0)), rung)
    with c.when(c.test("==", c.body.zext(c.body.load(rung, typ=I32), I64))), c.when(c.test("==", c.exchange(words, at.PARKED, 0))):
        c.call("PyThread_acquire_lock", I32, bell, ir.Constant(I32, 1))
    c.give(c.get(words, at.EVENTS, order="seq_cst"))


def emit_run(module: ir.Module, machine: Machine) -> None:
    """i64 adjoint_run(program, buffers, control, threads, release): one call of a program; the GIL is held before and after."""
    c = Routine(module, "adjoint_run", I64, PTR, PTR, PTR, I64, I64)
    program, buffers, control, wanted, release = c.args
    state = c.external("adjoint_state")
    for field in (at.STATUS, at.CANCEL, at.ARRIVED, at.PHASE, at.DEADLINE):
        c.put(control, field, 0)
    owner = c.call("PyThread_get_thread_ident", I64)
    c.put(control, at.OWNER, owner)
    c.put(control, at.BORN, c.get(state, at.GENERATION))
    threads = c.variable(I64, 1)
    with c.when(c.test(">", wanted, 1)):
        able = c.call("adjoint_prepare", I64, wanted)
        c.body.store(able, threads)
        with c.when(c.test(">", able, 1)):
            c.body.store(c.call("adjoint_choose", I64, control, able), threads)
    saved = c.variable(PTR, NULL)
    with c.when(c.test("!=", release)):
        soon = c.body.add(machine.ticks(c), c.get(state, at.POLL_TICKS))
        reached = c.test("==", owner, c.get(state, at.MAIN))        # no other thread need ever take the GIL to look
        c.put(control, at.DEADLINE, c.body.select(reached, soon, c.value(at.UNTIL_NEVER)))
        c.body.store(c.call("PyEval_SaveThread", PTR), saved)
    before = machine.set_mode(c)
    status = _perform(c, machine, (program, buffers, c.body.load(threads, typ=I64), control), wanted)
    machine.restore_mode(c, before)
    with c.when(c.test("!=", release)):
        c.call("PyEval_RestoreThread", VOID, c.body.load(saved, typ=PTR))
    cancelled = c.test("!=", c.get(control, at.CANCEL))     # whatever the program says: an exception is set
    c.give(c.body.select(cancelled, c.value(at.CANCELLED), status))


def _perform(c: Routine, machine: Machine, job: tuple[ir.Value, ...], wanted: ir.Value) -> ir.Value:
    """Run the job with the pool if it is for several threads and the pool is free, else alone; the status."""
    program, buffers, count, control = job
    pool = c.get(c.external("adjoint_state"), at.POOL, PTR)
    status, used, begin = c.variable(I64), c.variable(I64, 1), c.variable(I64, 0)
    with c.when(c.test(">", wanted, 1)):
        c.body.store(machine.ticks(c), begin)
    with c.when(c.test(">", count, 1)):
        free = c.test("==", c.exchange(pool, at.POOL_BUSY, 1))
        c.body.store(c.body.select(free, count, ONE), used)
    with c.body.if_else(c.test(">", c.body.load(used, typ=I64), 1)) as (together, alone):
        with together:
            c.body.store(_run_together(c, machine, pool, job), status)
        with alone:
            c.body.store(c.call_at(program, I64, buffers, 0, 1, control), status)
    with c.when(c.test(">", wanted, 1)):
        elapsed = c.body.sub(machine.ticks(c), c.body.load(begin, typ=I64))
        c.call("adjoint_learn", VOID, control, c.body.load(used, typ=I64), elapsed)
    return c.body.load(status, typ=I64)


def emit_run_for(module: ir.Module) -> None:
    """i64 adjoint_run_for(special, frame): a run for the Python entry, which marks the specialization as taken meanwhile.

    Marked here, since an exception of a signal handler may end Python code between any two of its instructions.
    """
    c = Routine(module, "adjoint_run_for", I64, PTR, PTR)
    special, frame = c.args
    generation = c.get(c.external("adjoint_state"), at.GENERATION)
    before = c.body.atomic_rmw("xchg", c.at(special, at.TAKEN), generation, "seq_cst")
    taken = c.test("==", before, generation)
    with c.when(c.body.and_(taken, c.test("!=", c.get(special, at.EXCLUSIVE))), likely=False):
        c.give(at.BUSY)
    c.body.atomic_rmw("add", c.at(special, at.CALLS), ONE, "monotonic")
    program, threads, release = c.get(special, at.PROGRAM, PTR), c.get(special, at.THREADS), c.get(special, at.RELEASE)
    status = c.call("adjoint_run", I64, program, c.at(frame, at.CONTROL_BYTES), frame, threads, release)
    with c.when(c.body.not_(taken), likely=True):
        c.put(special, at.TAKEN, 0, order="release")
    c.give(status)


def emit_prepare(module: ir.Module) -> None:
    """i64 adjoint_prepare(wanted):

    The number of threads that a call gets; starts workers where some are missing (GIL held).
    """
    c = Routine(module, "adjoint_prepare", I64, I64, internal=True)
    wanted, = c.args
    state = c.external("adjoint_state")
    limit = c.get(state, at.COUNT)
    threads = c.body.select(c.test("<", limit, wanted), limit, wanted)
    with c.when(c.test("<=", threads, 1), likely=False):
        c.give(1)
    pool = c.get(state, at.POOL, PTR)
    with c.when(c.test("!=", pool), likely=True):
        with c.when(c.test(">=", c.get(pool, at.POOL_STARTED, order="acquire"), c.body.sub(threads, ONE)), likely=True):
            c.give(threads)
    answer = c.call("PyObject_Vectorcall", PTR, c.get(state, at.START, PTR), NULL, 0, NULL)
    with c.when(c.test("==", answer)):
        c.call("PyErr_Clear", VOID)
        c.give(1)
    c.call("Py_DecRef", VOID, answer)
    pool = c.get(state, at.POOL, PTR)
    with c.when(c.test("==", pool)):
        c.give(1)
    present = c.body.add(c.get(pool, at.POOL_STARTED, order="acquire"), ONE)
    c.give(c.body.select(c.test("<", present, threads), present, threads))


def emit_wake(module: ir.Module) -> None:
    """void adjoint_wake(pool, sequence, count): give job `sequence` to the workers 1 .. count-1."""
    c = Routine(module, "adjoint_wake", VOID, PTR, I64, I64)
    pool, sequence, count = c.args
    with c.count(1, count) as thread:
        line = c.at(pool, c.body.mul(thread, ir.Constant(I64, at.WORKER)))
        c.put(line, at.WORKER_SEQUENCE, sequence, order="seq_cst")
        with c.when(c.test("!=", c.exchange(line, at.WORKER_PARKED, 0))):
            c.call("PyThread_release_lock", VOID, c.get(line, at.WORKER_LOCK, PTR))
    c.give()


def _run_together(c: Routine, machine: Machine, pool: ir.Value, job: tuple[ir.Value, ...]) -> ir.Value:
    """Hand the job to the workers, do the caller's share, wait for all of them, give the pool back."""
    program, buffers, count, control = job
    for field, value in zip((at.JOB_PROGRAM, at.JOB_BUFFERS, at.JOB_THREADS, at.JOB_CONTROL), job, strict=True):
        c.put(pool, field, value)
    sequence = c.body.add(c.get(pool, at.POOL_SEQUENCE), ONE)
    c.put(pool, at.POOL_SEQUENCE, sequence)
    c.call("adjoint_wake", VOID, pool, sequence, count)
    status = c.call_at(program, I64, buffers, 0, count, control)
    with c.count(1, count) as thread:
        line = c.at(pool, c.body.mul(thread, ir.Constant(I64, at.WORKER)))
        _wait(c, machine, at.WORKER_DONE, line, "==", sequence, control)
    c.put(pool, at.POOL_BUSY, 0, order="release")
    return status


def emit_module(triple: str, layout: Layout | None) -> ir.Module:
    """The runtime's module; without a layout it has no entry."""
    module = ir.Module("adjoint_runtime")
    module.triple = triple
    state = ir.GlobalVariable(module, ir.ArrayType(I64, at.RUNTIME_WORDS), "adjoint_state")
    state.initializer = ir.Constant(state.value_type, None)
    machine = Machine(triple)
    emit_poll(module, machine)
    emit_barrier(module, machine)
    emit_worker(module, machine)
    emit_choose(module)
    emit_learn(module)
    emit_prepare(module)
    emit_wake(module)
    emit_bell(module)
    emit_run(module, machine)
    emit_run_for(module)
    clock = Routine(module, "adjoint_ticks", I64)
    clock.give(machine.ticks(clock))
    read = Routine(module, "adjoint_read", I64, PTR)        # a word that another thread stores, and all that was stored before it
    read.give(read.get(read.args[0], order="acquire"))
    if layout is not None:
        emit_entry(module, layout)
    return module


class Runtime:
    """The loaded runtime: addresses, the words of the process, and `run` for the Python entry."""

    def __init__(self, code: Code):
        self.code = code
        self.state = code["adjoint_state"]
        self.entry = code["adjoint_entry"] if layout() is not None else 0
        self.symbols = {name: code[name] for name in ("adjoint_poll", "adjoint_barrier", "adjoint_ring")}
        # PYFUNCTYPE: the GIL is held at the call, and an exception set by a signal handler is raised.
        self.run = ctypes.PYFUNCTYPE(ctypes.c_int64, *[ctypes.c_void_p] * 2)(code["adjoint_run_for"])
        self.worker = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(code["adjoint_worker"])
        self.wake = ctypes.PYFUNCTYPE(None, ctypes.c_void_p, *[ctypes.c_int64] * 2)(code["adjoint_wake"])
        self._ticks = ctypes.PYFUNCTYPE(ctypes.c_int64)(code["adjoint_ticks"])
        self.ring = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(code["adjoint_ring"])
        self.wait = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, *[ctypes.c_int64] * 2)(code["adjoint_await"])
        self.read = ctypes.PYFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(code["adjoint_read"])
        rate = self._ticks_per_second()
        self.put(at.SPIN_TICKS, int(rate * SPIN_SECONDS))
        self.put(at.POLL_TICKS, int(rate * POLL_SECONDS))
        self.put(at.COUNT, 1)
        self.put(at.GENERATION, 1)
        self.put(at.MAIN, threading.main_thread().ident or 0)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        """In the child the other threads are gone: what they had taken counts as free, and this thread is the main one."""
        self.put(at.MAIN, threading.get_ident())
        self.put(at.GENERATION, self.get(at.GENERATION) + 1)

    def put(self, field: int, value: int) -> None:
        ctypes.c_int64.from_address(self.state + field).value = value

    def get(self, field: int) -> int:
        return ctypes.c_int64.from_address(self.state + field).value

    def _ticks_per_second(self) -> float:
        """The rate of the processor's clock, measured over a millisecond."""
        start, first = time.perf_counter(), self._ticks()
        while time.perf_counter() - start < 1e-3:
            pass
        return max(1.0, (self._ticks() - first) / (time.perf_counter() - start))


SPIN_SECONDS = 20e-6
POLL_SECONDS = 50e-3


def compile_runtime() -> bytes:
    """Object code of the runtime for this machine: about 0.1 s, once per machine where the cache works.

    Three passes, since all of LLVM's take three times as long and make a call no faster.
    """
    target = host_target()
    module = llvm.parse_assembly(str(emit_module(target.triple, layout())))
    module.verify()
    machine, passes = target.machine(2), llvm.create_new_module_pass_manager()
    passes.add_sroa_pass()
    passes.add_instruction_combine_pass()
    passes.add_simplify_cfg_pass()
    passes.run(module, llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=1)))
    return machine.emit_object(module)


@cache
def runtime() -> Runtime:
    """The runtime of this process, made at the first compiled call."""
    exports = ["adjoint_state", "adjoint_poll", "adjoint_barrier", "adjoint_worker", "adjoint_wake",
               "adjoint_run_for", "adjoint_ticks", "adjoint_read", "adjoint_ring", "adjoint_await"]
    name = cache_files.key("runtime", repr(layout()))
    image = cache_files.fetch(name)
    if image is None:
        image = compile_runtime()
        cache_files.store(name, image)
    code = load([image], exports + (["adjoint_entry"] if layout() is not None else []))
    # Builtins and workers may outlive every module at shutdown, so this code is never unloaded.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(code))
    return Runtime(code)


def load_program(objects: list[bytes], exports: list[str]) -> Code:
    """Link the object code of a program, which may call the runtime's poll and barrier, LAPACK, and other ranks."""
    needed = {name: place for image in objects for module in (lapack, communication) for name, place in module.needed(image).items()}
    return load(objects, exports, runtime().symbols | needed)
