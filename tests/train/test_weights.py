"""Weight files: the 34 malformed files of the catalogue, each one clear CheckpointError; what is sound comes back."""

import json
import struct
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

from adjoint.errors import CheckpointError
from adjoint.train import weights

ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def raw(header, body=bytes(8), length=None):
    """A file of given header text (or object) and body; `length` may lie about the header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def entry(**changes):
    return {**ENTRY, **changes}


CASES = {
    "A1 empty": b"",
    "A2 seven bytes": bytes(7),
    "A3 header length 0": raw(b"", b""),
    "A4 length 2^64-1": raw({"a": ENTRY}, length=2**64 - 1),
    "A5 length over the cap": raw({"a": ENTRY}, length=100_000_001),
    "A6 length past the end": raw({"a": ENTRY}, b"", length=10_000),
    "A7 not UTF-8": raw(b'{"\xff":1}'),
    "A8 not JSON": raw(b"{hello}"),
    "A9 an array": raw([ENTRY]),
    "A10 nested deep": raw(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    "A11 duplicate, other extents": raw(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
                                        b'"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}'),
    "A12 duplicate, other dtype": raw(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
                                      b'"a":{"dtype":"I32","shape":[2],"data_offsets":[0,8]}}'),
    "A13 overlap": raw({"a": ENTRY, "b": entry(data_offsets=[4, 12])}, bytes(12)),
    "A14 hole": raw({"a": ENTRY, "b": entry(data_offsets=[12, 20])}, bytes(20)),
    "A15 trailing bytes": raw({"a": ENTRY}, bytes(9)),
    "A16 truncated body": raw({"a": ENTRY}, bytes(7)),
    "A17 begin after end": raw({"a": entry(data_offsets=[8, 0])}),
    "A18 negative offset": raw({"a": entry(data_offsets=[-8, 0])}),
    "A19 shape overflows": raw({"a": entry(shape=[2**31, 2**31, 2**31])}),
    "A20 negative extent": raw({"a": entry(shape=[-2])}),
    "A21 float extent": raw({"a": entry(shape=[2.0])}),
    "A21 bool extent": raw({"a": entry(shape=[True, 2])}),
    "A22 unknown dtype": raw({"a": entry(dtype="Q7")}),
    "A22 unhashable dtype": raw({"a": entry(dtype=["F32"])}),
    "A23 dtype and extent differ": raw({"a": entry(dtype="F64")}),
    "A24 metadata is no text": raw({"__metadata__": {"k": 1}, "a": ENTRY}),
    "A25 byte-order mark": raw(b"\xef\xbb\xbf" + json.dumps({"a": ENTRY}).encode()),
    "A26 leading blank": raw(b" " + json.dumps({"a": ENTRY}).encode()),
    "A28 2^40 columns of nothing": raw({"a": entry(shape=[0, 2**40], data_offsets=[0, 0])}, b""),
    "A29 name is a path": raw({"../../etc/passwd": ENTRY}),
    "A29 absolute name": raw({"/etc/passwd": ENTRY}),
    "A30 NUL": raw({"a\0": ENTRY}),
    "A30 escape": raw({"\x1b[2J": ENTRY}),
    "A30 markup": raw({"<script>": ENTRY}),
    "A31 empty name": raw({"": ENTRY}),
    "A31 long name": raw({"a" * 100_000: ENTRY}),
    "A32 100,000 tensors": raw({str(i): entry(shape=[0], data_offsets=[0, 0]) for i in range(100_000)}, b""),
    "A33 rank 10,000": raw({"a": entry(shape=[1] * 10_000, data_offsets=[0, 4])}, bytes(4)),
    "A34 bool byte 2": raw({"a": {"dtype": "BOOL", "shape": [2], "data_offsets": [0, 2]}}, b"\1\2"),
    "A34 extra field": raw({"a": entry(order="F")}),
    "NaN in the header": raw(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}'),
    "5,000-digit extent": raw(b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,8]}}'),
    "entry is a number": raw({"a": 3}),
    "three offsets": raw({"a": entry(data_offsets=[0, 4, 8])}),
}


@pytest.mark.parametrize("case", CASES)
def test_malformed_file(case, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(CASES[case])
    with pytest.raises(CheckpointError) as caught:
        weights.load_tensors(path)
    text = str(caught.value)
    assert str(path) in text and len(text.splitlines()) == 3 and max(map(len, text.splitlines())) < 300
    assert text.isprintable() or all(line.isprintable() for line in text.splitlines())


def test_every_truncation_is_rejected():
    content = weights.encode({"a": np.arange(5.0), "b": np.arange(3, dtype=np.int32)}, {"k": "v"})
    for length in range(len(content)):
        with pytest.raises(CheckpointError):
            weights.parse(content[:length], "cut")


def test_every_dtype_shape_and_layout_comes_back():
    rng = np.random.default_rng(0)
    tensors = {dtype.name: (rng.random((2, 3, 4)) * 3).astype(dtype) for dtype in weights.DTYPES.values()}
    tensors |= {"scalar": np.array(2.5), "empty": np.zeros((0, 3), np.float32), "none": np.zeros((2, 0, 5)),
                "transposed": tensors["float64"].T, "strided": tensors["float32"][::-1, ::2],
                "special": np.array([np.nan, -0.0, np.inf, 5e-324]), "model.layers[0].weight": np.ones(1)}
    before = {name: array.copy() for name, array in tensors.items()}
    found, metadata = weights.parse(weights.encode(tensors, {"k": "v"}), "here")
    assert metadata == {"k": "v"} and list(found) == sorted(tensors)
    for name, array in before.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes() == tensors[name].tobytes()
        assert found[name].flags.c_contiguous
        assert found[name].flags.writeable or not array.size


def test_a_file_of_another_program_is_read(tmp_path):
    safetensors.numpy.save_file({"0.weight": np.ones((2, 3), np.float32)}, tmp_path / "m.safetensors", {"format": "pt"})
    assert weights.load_tensors(tmp_path / "m.safetensors")["0.weight"].shape == (2, 3)


@pytest.mark.parametrize("tensors", [
    {"../up": np.ones(2)}, {"": np.ones(2)}, {"a b": np.ones(2)}, {"a": np.ones(2, np.float16)}, {"a": np.array(["x"])},
    {"a": np.array([object()])}, {"a": np.ones((1,) * 33)}, {"a": np.ones(2, ">f8")}, {3: np.ones(2)},
    {str(i): np.ones(1) for i in range(50_001)},
])
def test_what_could_not_be_read_back_is_not_written(tensors):
    with pytest.raises(CheckpointError):
        weights.encode(tensors, {})


def test_a_hostile_file_costs_no_memory_and_runs_no_code(tmp_path):
    for number, content in enumerate(CASES.values()):
        (tmp_path / f"{number}.safetensors").write_bytes(content)
    program = """
import resource, sys
from pathlib import Path
from adjoint.errors import CheckpointError
from adjoint.train import weights
import encodings.idna, json.decoder, json.scanner   # whatever decoding may import on first use is here already
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
folder, refused, armed = Path(sys.argv[1]), 0, False
def audit(event, arguments):
    if armed and event in ("exec", "compile", "import", "os.system", "subprocess.Popen", "socket.connect"):
        raise RuntimeError(f"{event} {arguments}")
    if armed and event == "open" and not isinstance(arguments[0], int) and str(folder) not in str(arguments[0]):
        raise RuntimeError(f"{event} {arguments}")
paths = sorted(folder.iterdir())
try:
    weights.load_tensors(paths[0])
except CheckpointError:
    pass
sys.addaudithook(audit)
armed = True
for path in paths:
    try:
        weights.load_tensors(path)
    except CheckpointError:
        refused += 1
armed = False
print(refused)
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == str(len(CASES)), done.stderr[-2000:]
