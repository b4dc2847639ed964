"""Image, text and table files: what they hold is checked against known facts, and every damage is one clear DataError."""

import gzip
import hashlib
import json

import numpy as np
import pytest
from shared_data import folder

from adjoint.data import Text, load_cifar10, load_fashion_mnist, load_table, load_text, load_tiny_shakespeare
from adjoint.data.idx import read_idx, write_idx
from adjoint.data.tables import _FORMS
from adjoint.errors import ConfigError, DataError


@pytest.fixture
def cifar(tmp_path):
    """A small folder in the form of CIFAR-10: 7 training and 5 test images."""
    rng = np.random.default_rng(0)
    for name, count in (("data_batch_1.bin.gz", 7), ("test_first2500.bin.gz", 5)):
        records = rng.integers(0, 256, (count, 3073), np.uint8)
        records[:, 0] = np.arange(count)
        (tmp_path / name).write_bytes(gzip.compress(records.tobytes()))
    (tmp_path / "batches.meta.txt").write_text("\n".join("abcdefghij") + "\n")
    return tmp_path


def list_in_manifest(path, **changes):
    stored = path.read_bytes()
    entry = {"path": path.name, "bytes": len(stored), "sha256": hashlib.sha256(stored).hexdigest(), **changes}
    (path.parent / "manifest.json").write_text(json.dumps({"datasets": [{"files": [entry]}]}))


def test_cifar_reads_records(cifar):
    dataset = load_cifar10(cifar)
    raw = np.frombuffer(gzip.decompress((cifar / "data_batch_1.bin.gz").read_bytes()), np.uint8).reshape(7, 3073)
    assert dataset.train_x.shape == (7, 3072) and dataset.test_x.shape == (5, 3072) and dataset.image_shape == (3, 32, 32)
    assert np.array_equal(np.round(dataset.train_x * 255), raw[:, 1:]) and dataset.train_y.tolist() == list(range(7))


@pytest.mark.parametrize("content, message", [
    (b"", "no whole number of records"), (gzip.compress(b"x" * 3072), "no whole number of records"),
    (gzip.compress(b"\x0a" + b"x" * 3072), "record 0 has a label 10"), (gzip.compress(b"x" * 3073)[:-9], "damaged"), (b"text", "damaged")])
def test_damaged_cifar_files_are_named(cifar, content, message):
    (cifar / "data_batch_1.bin.gz").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_cifar10(cifar)
    assert "data_batch_1.bin.gz" in str(caught.value)


@pytest.mark.parametrize("name", ["data_batch_1.bin.gz", "test_first2500.bin.gz", "batches.meta.txt"])
def test_missing_cifar_files_are_named(cifar, name):
    (cifar / name).unlink()
    with pytest.raises(DataError, match=name):
        load_cifar10(cifar)


def test_a_manifest_is_believed(tmp_path):
    path = tmp_path / "a.idx.gz"
    write_idx(path, np.arange(12, dtype=np.uint8).reshape(3, 2, 2))
    list_in_manifest(path)
    assert read_idx(path, 3).shape == (3, 2, 2)
    list_in_manifest(path, bytes=5)
    with pytest.raises(DataError, match=r"manifest\.json lists 5"):
        read_idx(path, 3)
    list_in_manifest(path, sha256="0" * 64)
    with pytest.raises(DataError, match="checksum is not the one that manifest"):
        read_idx(path, 3)
    (tmp_path / "manifest.json").write_text("{torn")
    with pytest.raises(DataError, match="manifest cannot be read"):
        read_idx(path, 3)
    for other in ('{"name": "a browser extension"}', "[1, 2]", '{"datasets": [3]}', '{"datasets": [{"files": [{"path": "b"}]}]}'):
        (tmp_path / "manifest.json").write_text(other)
        assert read_idx(path, 3).shape == (3, 2, 2)


def test_text_is_numbered_split_and_written_again(tmp_path):
    content = "to be, or not to be: \u00fc\U0001f600"
    (tmp_path / "a.txt").write_text(content, encoding="utf-8")
    text = load_text(tmp_path / "a.txt", 0.5)
    assert text.vocabulary == "".join(sorted(set(content))) and text.decode(np.r_[text.training, text.held_out]) == content
    assert len(text.training) == len(content) // 2
    with pytest.raises(DataError, match="'x' at 1"):
        text.encode("txb")
    with pytest.raises(DataError, match="numbers go from"):
        text.decode(np.array([len(text.vocabulary)]))
    (tmp_path / "a.txt").write_bytes(b"abc\xff")
    with pytest.raises(DataError, match="byte 3"):
        load_text(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_bytes(b"")
    with pytest.raises(DataError, match="empty"):
        load_text(tmp_path / "a.txt")
    for share in (0, 1.5):
        with pytest.raises(ConfigError):
            Text.split(content, share)


def test_windows_cover_the_held_out_end_without_overlap():
    text = Text.split("".join(chr(65 + k % 7) for k in range(100)), 0.3)
    x, y = text.windows(8)
    assert x.shape == y.shape == (8, 8) and np.array_equal(x.ravel(), text.held_out[:64]) and np.array_equal(y.ravel(), text.held_out[1:65])
    with pytest.raises(ConfigError):
        text.windows(70)


def test_another_text_is_not_tiny_shakespeare(tmp_path):
    (tmp_path / "tinyshakespeare.txt").write_text("First Citizen")
    with pytest.raises(DataError, match="13 characters"):
        load_tiny_shakespeare(tmp_path)


def test_tables_are_checked_cell_by_cell(tmp_path):
    path = tmp_path / "longley.csv"
    rows = [",".join(str(7 * i + j) for j in range(7)) for i in range(16)]

    def refused(changed, message):
        path.write_text("\n".join(changed) + "\n")
        with pytest.raises(DataError, match=message):
            load_table("longley", tmp_path)
    refused(rows[:-1], "15 rows, expected 16")
    refused([*rows[:3], rows[3] + ",1", *rows[4:]], "row 3 has 8 columns")
    refused([*rows[:3], rows[3].replace("21", "a"), *rows[4:]], "column 0 has a cell that is no number")
    path.write_text("\n".join(rows) + "\n")
    table = load_table("longley", tmp_path)
    assert table.x.shape == (16, 6) and table.y.tolist() == [7 * i + 6 for i in range(16)] and table.classes == ()
    with pytest.raises(ConfigError, match="Choose one of abalone"):
        load_table("titanic", tmp_path)


def test_the_shared_images_are_the_published_ones():
    cifar = load_cifar10(folder("cifar10"))
    assert cifar.train_y[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3] and len(cifar.test_x) == 2500
    assert np.bincount(cifar.train_y).tolist() == [1005, 974, 1032, 1016, 999, 937, 1030, 1001, 1025, 981]
    assert np.abs(cifar.train_x.reshape(-1, 3, 1024).mean(axis=(0, 2)) - [0.4914, 0.4822, 0.4465]).max() < 3e-3
    fashion = load_fashion_mnist(folder("fashion-mnist"))
    assert np.bincount(fashion.train_y).tolist() == [6000] * 10 and len(fashion.test_x) == 10_000
    assert abs(fashion.train_x.mean() - 0.2860) < 5e-5 and abs(fashion.train_x.std() - 0.3530) < 5e-5


def test_the_shared_text_is_the_published_one():
    text = load_tiny_shakespeare(folder("text"))
    assert text.decode(text.training[:14]) == "First Citizen:" and (len(text.training), len(text.held_out)) == (1_003_854, 111_540)
    assert text.windows(64)[0].shape == (1742, 64)
    counts = np.ones((65, 65))                  # bigram counts (add one), the figure of the data's README
    np.add.at(counts, (text.training[:-1], text.training[1:]), 1)
    nats = -np.log(counts / counts.sum(axis=1, keepdims=True))[text.held_out[:-1], text.held_out[1:]].mean()
    assert abs(nats - 2.482) < 5e-4


@pytest.mark.parametrize("name", _FORMS)
def test_the_shared_tables_have_their_form(name):
    form, table = _FORMS[name], load_table(name, folder("tabular"))
    assert len(table.x) == len(table.y) == form.rows and np.isnan(table.x).sum() == (16 if name == "breast-cancer" else 0)
    assert table.y.dtype == (np.int64 if form.classes else np.float64)


@pytest.mark.parametrize("name, least", [("housing", 21.894831), ("abalone", 4.802664), ("winequality-red", 0.416767),
                                         ("winequality-white", 0.563154), ("california", 0.483212)])
def test_least_squares_of_the_shared_tables_are_the_known_ones(name, least):
    table = load_table(name, folder("tabular"))
    y = table.y / 1e5 if name == "california" else table.y
    design = np.column_stack([(table.x - table.x.mean(0)) / table.x.std(0), np.ones(len(y))])
    residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    assert abs(np.mean(residual ** 2) - least) < 1e-6


def test_wdbc_is_numbered_benign_0_malignant_1():
    table = load_table("wdbc", folder("tabular"))
    assert table.x.shape == (569, 30) and np.bincount(table.y).tolist() == [357, 212] and table.classes == ("B", "M") and table.y[0] == 1
