"""Checkpoints: what comes back is what was saved, bit for bit, or one clear error; every flipped bit is noticed."""

import hashlib
import json
import os
import struct
import warnings

import msgspec
import numpy as np
import pytest
import safetensors.numpy

from adjoint.errors import CheckpointError
from adjoint.train import checkpoint, files, weights
from adjoint.train.checkpoint import Checkpoint, CheckpointWarning, load, load_latest, save, save_latest


def make_tensors(seed=0):
    rng = np.random.default_rng(seed)
    return {"model.0.weight": rng.random((4, 3), np.float32), "model.0.bias": rng.random(3, np.float32),
            "state.0.mu": rng.random((4, 3)), "count": np.array(17), "mask": rng.random(5) > 0.5}


METADATA = {"step": 400, "epoch": 6, "batches": {"seed": 3, "epoch": 6, "cursor": 40}, "best": 0.1 + 0.2,
            "name": "déjà"}


def same(found, expected):
    def bits(tensors):
        return {name: (array.dtype, array.shape, array.tobytes()) for name, array in tensors.items()}
    return bits(found) == bits(expected)


def test_what_was_saved_comes_back(tmp_path):
    tensors = make_tensors()
    size = save(tmp_path / "c.safetensors", tensors, METADATA)
    assert os.listdir(tmp_path) == ["c.safetensors"] and (tmp_path / "c.safetensors").stat().st_size == size
    found = load(tmp_path / "c.safetensors", expected=tensors)
    assert same(found.tensors, tensors) and found.metadata == METADATA
    assert all(array.flags.writeable for array in found.tensors.values())


def test_other_programs_read_the_file(tmp_path):
    save(tmp_path / "c.safetensors", make_tensors(), METADATA)
    assert same(safetensors.numpy.load_file(tmp_path / "c.safetensors"), make_tensors())


def test_the_same_content_gives_the_same_bytes(tmp_path):
    save(tmp_path / "a", make_tensors(), METADATA)
    save(tmp_path / "b", dict(reversed(make_tensors().items())), METADATA)
    first, second = load(tmp_path / "a"), load(tmp_path / "b")
    assert same(first.tensors, second.tensors)
    save(tmp_path / "c", make_tensors(), METADATA)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "c").read_bytes()


def test_flipped_bits_all_over_a_small_file_are_noticed(tmp_path):
    path = tmp_path / "c"
    save(path, {"w": np.array([1.5, -2.0], np.float32)}, {"step": 3})
    content = path.read_bytes()
    for bit in range(0, 8 * len(content), 3):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            load(path)


def test_1000_random_flips_of_a_larger_file_are_noticed(tmp_path):
    path, rng = tmp_path / "c", np.random.default_rng(1)
    save(path, {str(i): rng.random((20, 30)) for i in range(5)}, METADATA)
    content = path.read_bytes()
    for bit in rng.integers(0, 8 * len(content), 1000):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << int(bit) % 8
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            load(path)


def test_every_truncation_and_every_extension_is_rejected(tmp_path):
    path = tmp_path / "c"
    save(path, {"w": np.arange(3.0)}, {})
    content = path.read_bytes()
    for torn in [content[:length] for length in range(len(content))] + [content + b"\0", content + content]:
        path.write_bytes(torn)
        with pytest.raises(CheckpointError):
            load(path)


def forge(path, change=None, tensors=None, reseal=True):
    """A checkpoint whose manifest was changed by hand, with a fitting checksum if `reseal`."""
    tensors = make_tensors() if tensors is None else tensors
    manifest = json.loads(msgspec.json.encode({
        "format": 1, "metadata": {"step": 1},
        "tensors": {name: {"dtype": array.dtype.name, "shape": list(array.shape),
                           "sha256": hashlib.sha256(array).hexdigest()} for name, array in tensors.items()}}))
    seal = hashlib.sha256(json.dumps(manifest).encode()).hexdigest()
    manifest = manifest if change is None else change(manifest)
    text = manifest if isinstance(manifest, str) else json.dumps(manifest)
    seal = hashlib.sha256(text.encode()).hexdigest() if reseal else seal
    path.write_bytes(weights.encode(tensors, {"adjoint": f"{seal} {text}"}))


def edited(*keys, value):
    def change(manifest):
        inner = manifest
        for key in keys[:-1]:
            inner = inner[key]
        if value is None:
            del inner[keys[-1]]
        else:
            inner[keys[-1]] = value
        return manifest
    return change


def test_the_forger_makes_sound_files(tmp_path):
    forge(tmp_path / "c")
    assert same(load(tmp_path / "c").tensors, make_tensors())


@pytest.mark.parametrize("change, message", [
    (edited("format", value=2), "newer Adjoint"), (edited("format", value=0), "manifest"),
    (edited("format", value="1"), "manifest"), (edited("format", value=None), "manifest"),
    (edited("extra", value=1), "manifest"),
    (edited("tensors", "model.0.bias", value=None), "only in the file"),
    (edited("tensors", "gone", value={"dtype": "float32", "shape": [], "sha256": ""}), "only in the manifest"),
    (edited("tensors", "model.0.bias", "sha256", value="0" * 64), "damaged"),
    (edited("tensors", "model.0.bias", "shape", value=[3, 1]), "manifest says"),
    (edited("tensors", "model.0.bias", "shape", value="3"), "manifest"),
    (edited("tensors", "model.0.bias", "dtype", value="int32"), "manifest says"),
    (edited("metadata", value=[1]), "manifest"),
    (lambda manifest: "{", "manifest"), (lambda manifest: "[]", "manifest"),
    (lambda manifest: '{"format":' + "[" * 100_000, "manifest"),
])
def test_a_manifest_that_lies(tmp_path, change, message):
    forge(tmp_path / "c", change)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(tmp_path / "c")
    assert len(str(caught.value).splitlines()) == 3


def test_a_manifest_changed_without_its_checksum(tmp_path):
    forge(tmp_path / "c", edited("metadata", "step", value=2), reseal=False)
    with pytest.raises(CheckpointError, match="manifest is damaged"):
        load(tmp_path / "c")


def test_a_plain_weight_file_is_no_checkpoint(tmp_path):
    safetensors.numpy.save_file({"a": np.ones(2)}, tmp_path / "w")
    with pytest.raises(CheckpointError, match="load_tensors"):
        load(tmp_path / "w")


def test_another_architecture_names_the_first_five_differences(tmp_path):
    saved = {f"layer.{i}": np.zeros((3, 2), np.float32) for i in range(8)}
    save(tmp_path / "c", saved, {})
    wanted = {f"layer.{i}": np.zeros((3, 5), np.float64) for i in range(1, 8)} | {"head": np.zeros(4)}
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path / "c", expected=wanted)
    text = str(caught.value)
    assert "9 of 9 tensors differ" in text and "and 4 more" in text and len(text.splitlines()) <= 12
    assert "layer.1: checkpoint float32[3,2], model float64[3,5]" in text


def test_optimizer_state_of_another_optimizer(tmp_path):
    save(tmp_path / "c", make_tensors(), {})
    expected = {name: array for name, array in make_tensors().items() if name != "state.0.mu"}
    with pytest.raises(CheckpointError, match=r"state\.0\.mu: checkpoint float64\[4,3\], model none"):
        load(tmp_path / "c", expected=expected)


@pytest.mark.parametrize("value", [-1, 2**62, 1.0, "1", None, True, [1]])
def test_counters_are_bounded(value):
    with pytest.raises(CheckpointError, match="counter 'step'"):
        Checkpoint({}, {"step": value}, "here").counter("step")
    with pytest.raises(CheckpointError):
        Checkpoint({}, {}, "here").counter("step")
    assert Checkpoint({}, {"step": 2**62 - 1}, "here").counter("step") == 2**62 - 1


@pytest.mark.parametrize("metadata", [
    {"a": float("nan")}, {"a": (1, 2)}, {1: "a"}, {"a": object()}, {"a": np.arange(3)}, {"a": b"bytes"},
    {"a": "x" * 2_000_000}, {"a": float("inf")}, {"a": {1, 2}},
])
def test_metadata_that_json_would_change_is_refused(tmp_path, metadata):
    with pytest.raises(CheckpointError, match="metadata"):
        save(tmp_path / "c", {}, metadata)
    assert not os.listdir(tmp_path)


def test_not_finite_values_load_with_one_warning(tmp_path):
    save(tmp_path / "c", {"a": np.array([1, np.nan, np.inf]), "b": np.array([np.nan])}, {})
    with pytest.warns(CheckpointWarning, match="3 values in 2 tensors are NaN or infinite, the first in a") as caught:
        load(tmp_path / "c")
    assert len(caught) == 1


def test_links_pipes_and_folders_are_refused(tmp_path):
    save(tmp_path / "real", make_tensors(), {})
    (tmp_path / "symbolic").symlink_to(tmp_path / "real")
    os.mkfifo(tmp_path / "pipe")
    for name in ("symbolic", "pipe", ".", "missing", "real/under"):
        with pytest.raises(CheckpointError, match="cannot be read") as caught:
            load(tmp_path / name)
        assert name in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a file away")
def test_a_hard_link_to_a_file_of_another_user_is_refused(tmp_path):
    save(tmp_path / "theirs", make_tensors(), {})
    os.chown(tmp_path / "theirs", 12345, -1)
    os.link(tmp_path / "theirs", tmp_path / "ours")
    with pytest.raises(CheckpointError, match="another user"):
        load(tmp_path / "ours")


def test_latest_keeps_two_and_prefers_the_newest_step(tmp_path):
    for step in (9, 10, 100, 2000):
        save_latest(tmp_path, step, make_tensors(step), {"step": step})
        assert load_latest(tmp_path).counter("step") == step
    assert [step for step, _ in checkpoint.checkpoints(tmp_path)] == [100, 2000]
    os.utime(tmp_path / "checkpoint-0000000100.safetensors")        # order is by step, never by time
    assert load_latest(tmp_path).metadata == {"step": 2000}


def test_going_back_removes_the_abandoned_future(tmp_path):
    for step in (1, 2, 3):
        save_latest(tmp_path, step, make_tensors(), {"step": step}, keep=3)
    save_latest(tmp_path, 2, make_tensors(5), {"step": 2}, keep=3)
    assert [step for step, _ in checkpoint.checkpoints(tmp_path)] == [1, 2]
    assert same(load_latest(tmp_path).tensors, make_tensors(5))


def test_100_ways_to_tear_the_newest_fall_back_and_say_so(tmp_path):
    for step in (1, 2):
        save_latest(tmp_path, step, make_tensors(step), {"step": step})
    newest, rng = tmp_path / "checkpoint-0000000002.safetensors", np.random.default_rng(3)
    content = newest.read_bytes()
    for number, offset in enumerate(rng.integers(0, len(content), 100)):
        damaged = bytearray(content)
        if number % 3 == 0:
            del damaged[offset:]
        elif number % 3 == 1:
            damaged[offset] ^= 0x10
        else:
            damaged[offset:offset + 512] = bytes(len(damaged[offset:offset + 512]))
        if damaged == content:
            continue
        newest.write_bytes(damaged)
        with pytest.warns(CheckpointWarning, match="Going on from step 1"):
            assert same(load_latest(tmp_path).tensors, make_tensors(1))
    assert save_latest(tmp_path, 2, make_tensors(2), {"step": 2}) and load_latest(tmp_path).counter("step") == 2


def test_no_checkpoint_and_none_readable(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_latest(tmp_path)
    (tmp_path / "checkpoint-0000000001.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="none of its 1 checkpoints"):
        load_latest(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_latest(tmp_path / "missing")


def test_another_architecture_does_not_fall_back(tmp_path):
    save_latest(tmp_path, 1, {"a": np.ones(2)}, {})
    save_latest(tmp_path, 2, {"a": np.ones(3)}, {})
    with pytest.raises(CheckpointError, match="architecture"):
        load_latest(tmp_path, expected={"a": np.ones(2)})


def test_stale_partial_files_are_ignored_and_cleaned_after_a_day(tmp_path):
    old, young = (tmp_path / f".checkpoint-{name}.safetensors.1-ab{files.PARTIAL}" for name in ("old", "young"))
    for path in (old, young):
        path.write_bytes(b"torn")
    os.utime(old, (0, 0))
    save_latest(tmp_path, 1, make_tensors(), {})
    assert load_latest(tmp_path) and not old.exists() and young.exists()


def test_200_cycles_leave_no_open_file(tmp_path):
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(200):
            save_latest(tmp_path, step, {"a": np.ones(3)}, {"step": step})
            load_latest(tmp_path)
    after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert before == after and len(os.listdir(tmp_path)) == 2


def test_header_is_padded_as_the_format_asks(tmp_path):
    save(tmp_path / "c", make_tensors(), METADATA)
    assert struct.unpack("<Q", (tmp_path / "c").read_bytes()[:8])[0] % 8 == 0
