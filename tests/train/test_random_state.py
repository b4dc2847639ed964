"""Generator states: the stream goes on exactly, and nothing foreign is accepted."""

import json

import numpy as np
import pytest

from adjoint.errors import CheckpointError
from adjoint.train.random_state import restore_generator, save_generator


@pytest.mark.parametrize("kind", ["PCG64", "PCG64DXSM", "Philox"])
@pytest.mark.parametrize("drawn", [0, 1, 2, 3, 5])
def test_the_stream_goes_on(kind, drawn):
    generator = np.random.Generator(getattr(np.random, kind)(2**100 + 1))
    generator.integers(0, 2**31, drawn, np.uint32)      # leaves half a word behind after an odd number
    restored = restore_generator(json.loads(json.dumps(save_generator(generator))))
    assert np.array_equal(generator.integers(0, 99, 7, np.uint32), restored.integers(0, 99, 7, np.uint32))
    assert np.array_equal(generator.normal(size=50), restored.normal(size=50))


def test_other_bit_generators_are_refused():
    with pytest.raises(CheckpointError, match="MT19937"):
        save_generator(np.random.Generator(np.random.MT19937(0)))


def changed(**words):
    saved = save_generator(np.random.Generator(np.random.Philox(0)))
    return {**saved, "words": {**saved["words"], **words}}


@pytest.mark.parametrize("saved", [
    None, {}, {"bit_generator": "os.system", "words": {}}, {"bit_generator": ["PCG64"], "words": {}},
    {"bit_generator": "PCG64", "words": {}}, {"bit_generator": "Philox", "words": []},
    {**changed(), "bit_generator": "PCG64"}, {**changed(), "more": 1}, changed(more=["0"]), changed(buffer=["0"] * 3),
    changed(buffer=["0"] * 3 + ["1" + "0" * 16]), changed(buffer=["0"] * 3 + ["-1"]), changed(buffer=["0"] * 3 + [""]),
    changed(buffer=["0"] * 3 + ["0x1"]), changed(buffer=["0"] * 3 + ["1_0"]), changed(buffer=["0"] * 3 + [1]),
    changed(buffer_pos=["5"]), changed(has_uint32=["2"]), changed(uinteger=["100000000"]),
    changed(buffer=["0"] * 3 + ["f" * 5000]), changed(uinteger="0"),
])
def test_foreign_states_are_refused(saved):
    with pytest.raises(CheckpointError, match="random generator"):
        restore_generator(saved)
