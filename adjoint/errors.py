"""Every error that Adjoint raises, as one tree; each message has the four parts of `explain`.

Invariant: a message names things as the user wrote them, says where, found against expected, and one remedy.
May import: nothing of the package. Read next: core/aval.py.

    AdjointError
    ├── ShapeError          (ValueError)        shapes or axes that do not fit
    ├── DtypeError          (TypeError)         a dtype outside bool, uint8, int32, int64, float32, float64
    ├── TreeError           (ValueError)        two trees that should have the same structure
    ├── IndexRangeError     (IndexError)        an index outside its axis
    ├── DivisionError       (ZeroDivisionError) integer division by zero, or MIN // -1
    ├── LinearAlgebraError  (np.linalg.LinAlgError) a singular matrix, one that is not positive definite, no convergence
    ├── TracerError         (TypeError)         a traced value used where a number is needed
    │   ├── EscapedTracerError                  a traced value used after its trace ended
    │   ├── AliasError                          a view read after its base changed by another route
    │   ├── MutationError                       a write that NumPy would do and a trace cannot
    │   └── EffectError                         an effect (random numbers) that a trace would freeze
    ├── NotDifferentiableError (TypeError)      a derivative asked of something that has none
    ├── NoLowering          (NotImplementedError) a primitive without native code
    ├── CompileError        (RuntimeError)      LLVM refused, or a symbol is missing
    ├── DonationError       (ValueError)        donated arrays that overlap or may not be written
    ├── NonFiniteError      (ArithmeticError)   NaN or infinity where training must stop
    ├── CheckpointError     (ValueError)        a checkpoint that is torn, foreign or of another model
    ├── DataError           (ValueError)        data files or batches that are not what they should be
    ├── CommunicationError  (RuntimeError)      a rank that cannot be reached, or has other sizes than this one
    ├── CollectiveError     (TypeError)         a collective of a value that is replicated where it should vary, or the reverse
    ├── Cancelled           (RuntimeError)      a compiled call that Signals.cancel ended early
    └── ConfigError         (ValueError)        an argument or option outside its range
"""

from __future__ import annotations

import os
import sys
import threading
from types import FrameType

import numpy as np

_FRAMEWORKS = (*(os.path.dirname(os.path.abspath(path)) + os.sep for path in (__file__, np.__file__)), threading.__file__)
_COMMAND = os.path.join(os.path.dirname(os.path.abspath(__file__)), "cli.py")


class AdjointError(Exception):
    """Base of all errors of this package."""


class ShapeError(AdjointError, ValueError):
    """Shapes or axes that do not fit together."""


class DtypeError(AdjointError, TypeError):
    """A dtype that the table does not know."""


class TreeError(AdjointError, ValueError):
    """Two trees that should have the same structure have not."""


class IndexRangeError(AdjointError, IndexError):
    """An index outside its axis."""


class DivisionError(AdjointError, ZeroDivisionError):
    """Integer division by zero, or of the smallest integer by -1."""


class LinearAlgebraError(AdjointError, np.linalg.LinAlgError):
    """A matrix that an operation of linear algebra is not defined for; NumPy's LinAlgError too."""


class TracerError(AdjointError, TypeError):
    """A traced value used where a number is needed."""


class EscapedTracerError(TracerError):
    """A traced value used after its trace has ended."""


class AliasError(TracerError):
    """A view read after its base changed by another route."""


class MutationError(TracerError):
    """A write that NumPy would do and a trace cannot reproduce."""


class EffectError(TracerError):
    """An effect that a trace would silently freeze."""


class NotDifferentiableError(AdjointError, TypeError):
    """A derivative asked of a value that has none."""


class NoLowering(AdjointError, NotImplementedError):
    """A primitive that has no native code yet."""


class CompileError(AdjointError, RuntimeError):
    """The native compiler refused a program."""


class DonationError(AdjointError, ValueError):
    """Donated arrays that overlap, or that may not be written."""


class NonFiniteError(AdjointError, ArithmeticError):
    """NaN or infinity where a number is needed to go on."""


class CheckpointError(AdjointError, ValueError):
    """A checkpoint that is torn, foreign, or of another model."""


class DataError(AdjointError, ValueError):
    """Data that is not what it should be."""


class CommunicationError(AdjointError, RuntimeError):
    """A message between ranks that did not arrive, or was not what this rank expected."""


class CollectiveError(AdjointError, TypeError):
    """A collective of a value of the wrong type: replicated where it should vary over the ranks, or the reverse."""


class Cancelled(AdjointError, RuntimeError):
    """A compiled call that its Signals ended; its arguments are as they were."""


class ConfigError(AdjointError, ValueError):
    """An argument or option outside its range."""


def _written(frame: FrameType) -> bool:
    """Whether a frame runs what dataclasses wrote for a record of this package: an __init__ without a file."""
    return frame.f_code.co_filename == "<string>" and str(frame.f_globals.get("__name__")).startswith(f"{__package__}.")


def user_frame() -> FrameType | None:
    """The innermost frame outside this package and outside NumPy; none under the command, whose callers are not the user's code."""
    frame = sys._getframe(1)
    while frame is not None and (frame.f_code.co_filename.startswith(_FRAMEWORKS) or _written(frame)):
        frame = None if frame.f_code.co_filename == _COMMAND else frame.f_back
    return frame


def user_location() -> str:
    """`file:line` of the user's frame, or "" if there is none."""
    frame = user_frame()
    return "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


def explain(what: str, *, where: str | None = None, remedy: str = "") -> str:
    """The message of an error: what happened (found against expected), where, one thing to do."""
    where = user_location() if where is None else where
    lines = [what] + ([f"  at {where}"] if where else []) + ([f"  {remedy}"] if remedy else [])
    return "\n".join(lines)
