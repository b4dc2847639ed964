"""Operations among ranks in compiled code: a call back into Python, which performs them on the program's own memory.

Programs call `adjoint_communicate` by symbol, with the number of a communicator of this process (primitives/collective.py). Invariant: no
exception passes through native code: it is kept, the program stops with the error "communication", and the exception is raised after the
call. May import: errors, capi, primitives.collective. Read next: distributed/values.py.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

from ..dtypes import DTYPES
from ..errors import CommunicationError, explain
from ..primitives.collective import OPERATIONS, WORLDS, Ranks
from .capi import address

NAME = "adjoint_communicate"
_raised: dict[int, BaseException] = {}          # by number of communicator, each of which one thread at a time uses
_view = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)(
    address(ctypes.pythonapi.PyMemoryView_FromMemory))
_WRITABLE = 0x200                               # PyBUF_WRITE
_SIGNATURE = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, *[ctypes.c_int64] * 6)


def numbers_of(operation: str, dtype: np.dtype, size: int, ranks: Ranks, peers: tuple[int, int]) -> tuple[int, ...]:
    """What a program hands over beside the memory."""
    return ranks.number, OPERATIONS.index(operation), DTYPES.index(dtype), size, *peers


def perform(memory: np.ndarray, numbers: Sequence[int]) -> bool:
    """Do the operation on a flat array, in place; whether it succeeded."""
    number, operation, _, _, *peers = numbers
    try:
        ranks = WORLDS.get(number)
        if ranks is None:
            raise CommunicationError(explain("the communicator of a compiled function is gone.", where="",
                                             remedy="Keep it as long as the functions that use it."))
        ranks.run(OPERATIONS[operation], memory, tuple(peers))
    except BaseException as error:              # of any kind: it would be lost in native code
        _raised[number] = error
        return False
    return True


def taken(number: int) -> BaseException:
    """The exception that stopped a program."""
    return _raised.pop(number)


@_SIGNATURE
def _call(place: int, *numbers: int) -> int:
    dtype = DTYPES[numbers[2]]
    return 0 if perform(np.frombuffer(_view(place, numbers[3] * dtype.itemsize, _WRITABLE), dtype), numbers) else 1


def needed(image: bytes) -> dict[str, int]:
    """The symbol of this module, if object code names it."""
    return {NAME: address(_call)} if NAME.encode() in image else {}
