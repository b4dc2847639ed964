"""One thread or all of them: decided by measuring, call by call, since the bits are the same either way.

A program that is worth threads on an idle machine may not be on a busy one, where a barrier waits for a whole time slice. So the first
calls, and a few of every 256, are timed both ways, and the others take the faster. Invariant: only the owner of a call reads or writes
these words. May import: control, assembler. Read next: runtime.py.
"""

from __future__ import annotations

from llvmlite import ir

from . import control as at
from .assembler import I64, ONE, PTR, VOID, Routine

COLD = 2                # first calls that are not counted: caches and workers are still starting
FIRST = 10              # calls that are timed before the first decision
PERIOD = 256            # calls between two reviews; a power of two
REVIEW = 4              # calls of a review


def emit_choose(module: ir.Module) -> None:
    """i64 adjoint_choose(control, threads): how many of `threads` this call uses: one or all."""
    c = Routine(module, "adjoint_choose", I64, PTR, I64)
    control, threads = c.args
    trial = c.get(control, at.TRIAL)
    c.put(control, at.TRIAL, c.body.add(trial, ONE))
    phase = c.body.and_(trial, ir.Constant(I64, PERIOD - 1))
    exploring = c.body.or_(c.test("<", trial, FIRST), c.test("<", phase, REVIEW))
    even = c.test("==", c.body.and_(trial, ONE))
    faster = c.test("<", c.get(control, at.TOGETHER_TICKS), c.get(control, at.ALONE_TICKS))
    c.give(c.body.select(c.body.select(exploring, even, faster), threads, ONE))


def emit_learn(module: ir.Module) -> None:
    """void adjoint_learn(control, used, ticks): a call with this many threads took this long; the last few calls count most."""
    c = Routine(module, "adjoint_learn", VOID, PTR, I64, I64)
    control, used, ticks = c.args
    with c.when(c.test("<=", c.get(control, at.TRIAL), COLD)):
        c.give()
    together = c.test(">", used, 1)
    place = c.body.select(together, c.value(at.TOGETHER_TICKS), c.value(at.ALONE_TICKS))
    cell = c.at(control, place)
    before = c.get(cell, 0)
    bound = c.body.add(before, before)      # one call that was interrupted says little: it counts as twice the mean at most
    ticks = c.body.select(c.body.and_(c.test(">", ticks, bound), c.test("!=", before)), bound, ticks)
    mean = c.body.lshr(c.body.add(c.body.mul(before, ir.Constant(I64, 7)), ticks), ir.Constant(I64, 3))
    c.put(cell, 0, c.body.select(c.test("==", before), ticks, mean))
    c.give()

