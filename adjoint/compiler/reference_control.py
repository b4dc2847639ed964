"""Repeat and Branch in the reference executor: windows are moved, then the steps inside run one after the other.

May import: steps, errors. Read next: reference.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import CompileError
from .loops import Program
from .steps import Branch, Repeat


def perform(program: Program, steps: Sequence[Any], buffers: list[np.ndarray], leaf: Callable[[Any, list[np.ndarray]], None]) -> None:
    """Run steps over the arrays of the buffers; `leaf` runs a kernel or a product."""
    for step in steps:
        if isinstance(step, Repeat):
            _repeat(program, step, buffers, leaf)
        elif isinstance(step, Branch):
            perform(program, step.on_true if buffers[step.flag][0] else step.on_false, buffers, leaf)
        else:
            leaf(step, buffers)


def _repeat(program: Program, step: Repeat, buffers: list[np.ndarray], leaf: Callable) -> None:
    number = 0
    while True:
        ended = number == step.extent
        if not ended or step.after:
            _move(program, step, buffers, number)
        if ended:
            break
        perform(program, step.test, buffers, leaf)
        if step.extent is None and not buffers[step.flag][0]:
            break
        perform(program, step.body, buffers, leaf)
        number += 1
    perform(program, step.after, buffers, leaf)


def _move(program: Program, step: Repeat, buffers: list[np.ndarray], number: int) -> None:
    for at in step.windows:
        window = program.buffers[at]
        begin, base = window.place(number), buffers[window.base]
        if begin < 0 or begin + window.size > len(base):
            raise CompileError(f"window {at} lies at {begin}..{begin + window.size - 1} of buffer {window.base}, which has {len(base)}")
        buffers[at] = base[begin:begin + window.size]
