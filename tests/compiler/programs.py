"""What the compiler's tests share: trace a function, build its program, run it on the reference executor and natively."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from adjoint.compiler import reference
from adjoint.compiler.pipeline import Built, build
from adjoint.core.aval import aval_of
from adjoint.core.graph import Graph
from adjoint.core.trace import trace_graph


def traced(function: Callable, args: Sequence[Any]) -> Graph:
    """The checked graph of a function of arrays that returns a list of arrays."""
    return trace_graph(lambda *xs: list(function(*xs)), [aval_of(x) for x in args]).check()


def run_reference(built: Built, graph: Graph, args: Sequence[Any], donated: dict[int, int] | None = None) -> list[np.ndarray]:
    """The outputs by the reference executor; temporaries and outputs start as NaN, donated inputs are copies."""
    given = {}
    for i, buffer in enumerate(built.program.buffers):
        if buffer.role == "input":
            given[i] = np.array(args[buffer.slot], buffer.dtype)
        elif buffer.role == "hidden":
            given[i] = built.hidden[buffer.slot]
    buffers = reference.buffers_for(built.program, given)
    status = reference.run(built.program, buffers)
    assert status == 0, f"check {status - 1} failed: {built.failures[status - 1]}"
    home = {("output", j): j for j in range(len(graph.outputs))} | {("input", i): j for i, j in (donated or {}).items()}
    found: list = [None] * len(graph.outputs)
    for i, buffer in enumerate(built.program.buffers):
        j = home.get((buffer.role, buffer.slot))
        if j is not None:
            aval = graph.outputs[j].aval
            found[j] = buffers[i][:aval.size].reshape(aval.shape)
    return found


def reference_outputs(function: Callable, args: Sequence[Any], donated: dict[int, int] | None = None) -> list[np.ndarray]:
    """The outputs of a function by way of its program."""
    graph = traced(function, args)
    return run_reference(build(graph, donated), graph, args, donated)
