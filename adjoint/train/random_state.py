"""The state of NumPy's random generators as plain texts and integers, checked before it is believed.

Invariant: restore(save(generator)) continues the generator's stream exactly; a foreign state raises CheckpointError.
May import: errors. Read next: checkpoint.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import CheckpointError, explain

_BITS = {           # name of a bit generator -> field of its state: (words, bits of a word)
    "PCG64": {"state.state": (1, 128), "state.inc": (1, 128), "has_uint32": (1, 1), "uinteger": (1, 32)},
    "PCG64DXSM": {"state.state": (1, 128), "state.inc": (1, 128), "has_uint32": (1, 1), "uinteger": (1, 32)},
    "Philox": {"state.counter": (4, 64), "state.key": (2, 64), "buffer": (4, 64), "buffer_pos": (1, 3),
               "has_uint32": (1, 1), "uinteger": (1, 32)},
}
_CLASSES = {"PCG64": np.random.PCG64, "PCG64DXSM": np.random.PCG64DXSM, "Philox": np.random.Philox}


def _refuse(what: str) -> CheckpointError:
    return CheckpointError(explain(f"the state of a random generator cannot be restored: {what}.",
                                   remedy="Use the checkpoint as it was saved."))


def save_generator(generator: np.random.Generator) -> dict[str, Any]:
    """The state of a generator for a checkpoint's metadata: words as hexadecimal texts, which JSON keeps exactly.

    >>> save_generator(np.random.Generator(np.random.Philox(5)))['words']['state.counter']
    ['0', '0', '0', '0']
    """
    state = generator.bit_generator.state
    name = state["bit_generator"]
    if name not in _BITS:
        raise _refuse(f"{name} is not one of {', '.join(_BITS)}")
    words = {}
    for field in _BITS[name]:
        first, _, second = field.partition(".")
        value = state[first][second] if second else state[first]
        words[field] = [f"{int(word):x}" for word in np.atleast_1d(np.asarray(value, dtype=object))]
    return {"bit_generator": name, "words": words}


def _words(found: Any, count: int, bits: int, field: str) -> list[int]:
    if not isinstance(found, list) or len(found) != count:
        raise _refuse(f"{field} has the wrong number of words, expected {count}")
    digits = "0123456789abcdef"
    for word in found:
        if not isinstance(word, str) or not 0 < len(word) <= 32 or word.strip(digits) or int(word, 16) >= 1 << bits:
            raise _refuse(f"{field} has a word outside its {bits} bits")
    return [int(word, 16) for word in found]


def restore_generator(saved: dict[str, Any]) -> np.random.Generator:
    """A new generator that goes on where save_generator stood. Raises: CheckpointError for anything else.

    >>> generator = np.random.default_rng(3)
    >>> saved = save_generator(generator)
    >>> restore_generator(saved).integers(100) == generator.integers(100)
    np.True_
    """
    name = saved.get("bit_generator") if isinstance(saved, dict) else None
    if not isinstance(name, str) or name not in _BITS:
        raise _refuse(f"bit generator {name!r:.40} is not one of {', '.join(_BITS)}")
    words = saved.get("words")
    if set(saved) != {"bit_generator", "words"} or not isinstance(words, dict) or set(words) != set(_BITS[name]):
        raise _refuse(f"expected the fields {', '.join(_BITS[name])}")
    bit_generator = _CLASSES[name](0)
    state = bit_generator.state
    for field, (count, bits) in _BITS[name].items():
        values = _words(words[field], count, bits, field)
        first, _, second = field.partition(".")
        value = values[0] if count == 1 else np.array(values, np.uint64)
        if second:
            state[first][second] = value
        else:
            state[first] = value
    if name == "Philox" and state["buffer_pos"] > 4:
        raise _refuse("buffer_pos is past the buffer")
    bit_generator.state = state
    return np.random.Generator(bit_generator)
