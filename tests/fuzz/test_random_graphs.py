"""2,000 random programs over four routes: tape, compiled, forward mode, differences; and compiled against the reference, bit for bit.

Nearly all of the time is LLVM's (about 1.5 s a module, 0.1 s where the compile cache has it), so a process per core works on it.
"""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from random_graphs import RandomProgram, random_program

import adjoint as ad
from adjoint.compiler import reference
from adjoint.compiler.pipeline import Built
from adjoint.compiler.threads import default_count

PROGRAMS = 2000
IN_A_MODULE = 25
IN_A_TEST = 250
STEP = 1e-6


def gradients(program: RandomProgram, inputs: tuple) -> list:
    value, bars = ad.value_and_grad(program, argnums=tuple(range(len(inputs))))(*inputs)
    return [value, *bars]


def module(programs: list[RandomProgram]):
    """One function of the inputs of several programs, returning all their values and gradients."""
    counts = [len(p.inputs) for p in programs]

    def together(*inputs):
        found, at = [], 0
        for p, n in zip(programs, counts, strict=True):
            found += gradients(p, inputs[at:at + n])
            at += n
        return found
    return together, [x for p in programs for x in p.inputs]


@pytest.fixture(scope="module")
def workers() -> Iterator[ProcessPoolExecutor]:
    """Processes for whom warnings are errors too."""
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(default_count(), fresh, warnings.simplefilter, ("error",)) as pool:
        yield pool


@pytest.mark.parametrize("first", range(0, PROGRAMS, IN_A_TEST))
def test_four_routes_agree(first: int, workers: ProcessPoolExecutor) -> None:
    list(workers.map(check_module, range(first, first + IN_A_TEST, IN_A_MODULE), timeout=1800))


def check_module(start: int) -> None:
    """All routes of the programs start, start + 1, ..."""
    seeds = range(start, start + IN_A_MODULE)
    programs = [random_program(seed) for seed in seeds]
    together, inputs = module(programs)
    function = ad.compile(together)
    compiled = function(*inputs)
    check_reference(function.programs[-1].native.built, inputs, compiled)
    at = 0
    for seed, p in zip(seeds, programs, strict=True):
        tape = gradients(p, p.inputs)
        check_program(seed, p, tape, compiled[at:at + len(tape)])
        at += len(tape)


def check_program(seed: int, p: RandomProgram, tape: list, native: list) -> None:
    """The four routes of one program, within bounds that come from the size of what was summed."""
    size = 1.0 + sum(float(np.abs(w).sum()) for _, w in p.weights) + max(float(np.abs(g).max(initial=0.0)) for g in tape)
    for a, b in zip(tape, native, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-11, atol=1e-12 * size, err_msg=f"compiled, seed {seed}: {p}")
    rng = np.random.default_rng(seed)
    direction = tuple(np.asarray(rng.standard_normal(x.shape)) for x in p.inputs)
    y, y_dot = ad.jvp(p, p.inputs, direction)
    assert y == tape[0], f"forward value, seed {seed}: {p}"
    along = sum(float((g * d).sum()) for g, d in zip(tape[1:], direction, strict=True))
    terms = sum(float(np.abs(g * d).sum()) for g, d in zip(tape[1:], direction, strict=True))
    assert abs(along - y_dot) <= 1e-11 * (terms + abs(y_dot) + size), f"forward mode, seed {seed}: {p}"
    check_differences(seed, p, direction, along, size)


def check_differences(seed: int, p: RandomProgram, direction: tuple, along: float, size: float) -> None:
    """Central differences, where two step lengths agree (they do not across a kink)."""
    estimates = []
    for h in (STEP, 4 * STEP):
        ahead = p(*[x + h * d for x, d in zip(p.inputs, direction, strict=True)])
        behind = p(*[x - h * d for x, d in zip(p.inputs, direction, strict=True)])
        estimates.append(float(ahead - behind) / (2 * h))
    scale = size + abs(along)
    if abs(estimates[0] - estimates[1]) <= 1e-6 * scale:
        assert abs(estimates[0] - along) <= 1e-5 * scale, f"differences, seed {seed}: {p}"


def check_reference(built: Built, inputs: list, compiled: list) -> None:
    """Native code and the reference executor agree in every bit; temporaries and outputs of the reference start as NaN."""
    given = {i: np.asarray(inputs[b.slot]) for i, b in enumerate(built.program.buffers) if b.role == "input"}
    given |= {i: built.hidden[b.slot] for i, b in enumerate(built.program.buffers) if b.role == "hidden"}
    buffers = reference.buffers_for(built.program, given)
    assert reference.run(built.program, buffers) == 0
    for i, b in enumerate(built.program.buffers):
        if b.role == "output":
            expected, found = buffers[i][:b.size], np.ravel(compiled[b.slot])
            assert expected.tobytes() == found.tobytes() or np.array_equal(expected, found, equal_nan=True), f"output {b.slot}"
