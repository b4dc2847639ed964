"""What to write instead of a form that NumPy and Python do not let a traced value intercept, read off the user's own source.

Invariant: a rewrite names a form that works. May import: L0. Read next: methods.py, docs/numpy.md.
"""

from __future__ import annotations

import linecache
import opcode
import re
from types import FrameType

from ..errors import user_frame

GENERAL = ("Keep it an array operation: np.where for if, np.stack for np.array, adjoint.numpy.take(table, i, axis=0) for table[i], "
           "adjoint.numpy for constructors.")
_SELECT = "Select with np.where(condition, a, b); combine conditions with & | ~."
_STORE = "A plain array cannot hold it: make it in the function, buf = np.zeros_like(x) of a traced x, or buf = adjoint.numpy.zeros(shape)."
_LOAD = "Index with a traced value by adjoint.numpy.take(table, i, axis=0), or adjoint.numpy.asarray(table)[i]."
COUNT = 'A count must be known: if it is an argument that shapes depend on, make it a static argument, compile(f, static=("n",)).'

_CALLS = (
    (r"^math\.(\w+)\(", "math.{0} takes Python numbers only: write np.{0}."),
    (r"^np\.full(_like)?\(|^numpy\.full(_like)?\(", "Write adjoint.numpy.full(shape, value)."),
    (r"^(np|numpy)\.(array|asarray|asanyarray)\(", "Leave a value as it is; for a list: np.stack([...]) or adjoint.numpy.array([...])."),
    (r"^(range|\w*\.?arange|\w*\.?zeros|\w*\.?ones|\w*\.?empty|\w*\.?eye)\(", COUNT),
    (r"^(np|numpy)\.(take|repeat|pad|select|roll|full_like)\(", "Write adjoint.numpy.{1}, which looks at every argument."),
    (r"^(np|numpy)\.(\w+)\(\s*[\[(]", "Write np.{1}(np.stack([...])), or adjoint.numpy.{1}([...])."),
    (r"^(max|min)\(", "Write np.{0}imum(a, b), or np.{0} of an array."),
    (r"^sorted\(", "Write np.sort(x)."),
    (r"\.(dot|take|repeat|searchsorted)\(", "Write adjoint.numpy.{0}(array, ...), which looks at every argument."),
    (r"\b(rng|random)\b|\.(normal|uniform)\(", "Draw standard numbers outside of the function: mean + std * noise."),
    (r"vectorize", "Call the function on the whole array, or use adjoint.vmap."),
)


def rewrite(otherwise: str = GENERAL) -> str:
    """What to write instead of the expression that the user's code is evaluating; `otherwise` if it is none of the known forms."""
    frame = user_frame()
    if frame is None:
        return otherwise
    operation = opcode.opname[frame.f_code.co_code[_last(frame)]]
    if operation in ("STORE_SUBSCR", "STORE_SLICE"):
        return _STORE
    if "SUBSCR" in operation or "SLICE" in operation or (operation == "BINARY_OP" and expression(frame).endswith("]")):
        return _LOAD
    if "JUMP" in operation or operation in ("UNARY_NOT", "TO_BOOL"):
        return _SELECT
    if operation.startswith("CALL"):
        text = expression(frame)
        for pattern, remedy in _CALLS:
            if match := re.search(pattern, text):
                return remedy.format(*match.groups())
    return otherwise


def _last(frame: FrameType) -> int:
    """Offset of the instruction a frame executes: inside a call, Python points to the cache entries behind it."""
    at, code = frame.f_lasti, frame.f_code.co_code
    while at > 0 and opcode.opname[code[at]] == "CACHE":
        at -= 2
    return at


def expression(frame: FrameType) -> str:
    """The source of the expression that a frame is evaluating, "" if it is not known."""
    at = _last(frame)
    positions = next((p for k, p in enumerate(frame.f_code.co_positions()) if 2 * k == at), None)
    if positions is None or None in positions:
        return ""
    first, last, start, end = positions
    lines = [linecache.getline(frame.f_code.co_filename, n) for n in range(first, last + 1)]
    if not lines or not lines[0]:
        return ""
    raw = "".join(lines).encode()
    tail = len(lines[-1].encode()) - end
    return raw[start:len(raw) - tail].decode(errors="replace")
