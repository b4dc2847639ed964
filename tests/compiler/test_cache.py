"""The compile cache: what is stored comes back;

Whatever others could have touched does not, with one warning; no error ever.
"""

import contextlib
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

import adjoint as ad
from adjoint import settings
from adjoint.compiler import cache
from adjoint.compiler.target import host_target

PAYLOAD = b"\x7fELF" + bytes(range(256)) * 20


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(settings.CACHE_DIR, str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_warned", [])
    return tmp_path / "cache"


@pytest.fixture
def stored(folder):
    name = cache.key("graph", "function")
    assert cache.store(name, PAYLOAD) and cache.fetch(name) == PAYLOAD
    return name, folder / (name + ".obj")


def refused(name):
    """fetch gives nothing and warns once; then the entry is computed again and stored again."""
    with pytest.warns(RuntimeWarning, match="adjoint compile cache") as seen:
        assert cache.fetch(name) is None and cache.fetch(name) is None
    assert len(seen) == 1
    return True


def test_round_trip(folder):
    name = cache.key("graph", "float64[3]")
    assert cache.fetch(name) is None        # no folder yet, and no warning
    assert cache.store(name, PAYLOAD) and cache.fetch(name) == PAYLOAD
    assert cache.store(name, b"") and cache.fetch(name) == b""
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in folder.iterdir()] == [0o600]


def test_key_covers_every_part(monkeypatch):
    base = cache.key("ab", "c")
    assert base == cache.key("ab", "c") and len(base) == 64
    others = {cache.key("a", "bc"), cache.key("abc"), cache.key("ab", "c", ""), cache.key("ab", b"c\0")}
    target = host_target()
    for field, value in {"cpu": "other", "features": "+none", "triple": "aarch64-unknown-linux-gnu"}.items():
        changed = replace(target, **{field: value})
        monkeypatch.setattr(cache, "host_target", lambda changed=changed: changed)
        others.add(cache.key("ab", "c"))
    monkeypatch.undo()
    monkeypatch.setattr(cache, "sources", lambda: "edited")
    others.add(cache.key("ab", "c"))
    monkeypatch.undo()
    monkeypatch.setattr(cache.llvm, "llvm_version_info", (99, 0, 0))
    others.add(cache.key("ab", "c"))
    assert base not in others and len(others) == 9


def test_digest_of_the_sources_knows_every_file(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "__file__", str(tmp_path / "compiler" / "cache.py"))
    seen = set()
    for name, text in (("dtypes.py", "a"), ("compiler/cache.py", "a"), ("core/deep/x.py", "a"), ("primitives/y.py", "ab"),
                       ("primitives/z.py", "c"), ("primitives/y.py", "b"), ("compiler/cache.py", "b"), ("dtypes.py", "b")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        if len(list(tmp_path.iterdir())) == 4:
            seen.add(cache.sources.__wrapped__())
    (tmp_path / "primitives" / "z.py").rename(tmp_path / "primitives" / "zz.py")
    seen.add(cache.sources.__wrapped__())
    (tmp_path / "core" / "notes.txt").write_text("nothing that decides code")
    assert len(seen) == 6 and cache.sources.__wrapped__() in seen


@pytest.mark.alone
def test_digest_of_the_sources_is_cheap():
    best = 1.0
    for _ in range(5):
        cache.sources.cache_clear()
        start = time.perf_counter()
        first = cache.sources()
        best = min(best, time.perf_counter() - start)
    assert best < 0.05 and len(first) == 64      # 3-5 ms; the bound allows for a busy machine


def test_every_truncation_is_refused(stored, folder):
    name, path = stored
    data = path.read_bytes()
    for length in (0, 1, 16, 50, 88, 89, 100, len(data) - 1):
        path.write_bytes(data[:length])
        cache._warned.clear()
        assert refused(name)
    path.write_bytes(data + b"x")
    cache._warned.clear()
    assert refused(name)
    assert cache.store(name, PAYLOAD) and cache.fetch(name) == PAYLOAD


def test_every_flipped_bit_is_refused(stored):
    name, path = stored
    data = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for place in [*range(110), 2000, len(data) - 1]:
            for bit in (1, 128):
                path.write_bytes(data[:place] + bytes([data[place] ^ bit]) + data[place + 1:])
                assert cache.fetch(name) is None
        path.write_bytes(data)
        assert cache.fetch(name) == PAYLOAD


def test_entry_of_another_program_or_processor_is_refused(stored, folder):
    _, path = stored
    other = cache.key("another graph")
    os.rename(path, folder / (other + ".obj"))
    assert refused(other)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs the right to give a file away")
def test_file_and_folder_of_another_user_are_refused(stored, folder):
    name, path = stored
    os.chown(path, 12345, -1)
    assert refused(name)
    assert cache.store(name, PAYLOAD) and cache.fetch(name) == PAYLOAD and path.stat().st_uid == os.geteuid()
    os.chown(folder, 12345, -1)
    cache._warned.clear()
    assert refused(name) and not cache.store(name, PAYLOAD)


@pytest.mark.parametrize("who", ["geteuid"])
def test_folder_of_another_user_is_refused(stored, monkeypatch, who):
    name, _ = stored
    mine = os.geteuid()
    monkeypatch.setattr(os, who, lambda: mine + 1)
    assert refused(name) and not cache.store(name, PAYLOAD)


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o720])
def test_folder_that_others_may_write_is_refused(stored, folder, mode):
    name, _ = stored
    folder.chmod(mode)
    assert refused(name) and not cache.store(name, PAYLOAD)


@pytest.mark.parametrize("mode", [0o660, 0o606, 0o666])
def test_file_that_others_may_write_is_refused(stored, mode):
    name, path = stored
    path.chmod(mode)
    assert refused(name)
    assert cache.store(name, PAYLOAD) and cache.fetch(name) == PAYLOAD and path.stat().st_mode & 0o777 == 0o600


def test_links_are_never_followed(stored, folder, tmp_path):
    name, path = stored
    elsewhere = tmp_path / "elsewhere"
    os.rename(path, elsewhere)
    path.symlink_to(elsewhere)
    assert refused(name)
    assert cache.store(name, b"new") and cache.fetch(name) == b"new"
    assert not path.is_symlink() and elsewhere.read_bytes().endswith(PAYLOAD)
    os.rename(folder, tmp_path / "real")
    folder.symlink_to(tmp_path / "real")
    cache._warned.clear()
    assert refused(name) and not cache.store(name, PAYLOAD)


def test_other_things_in_the_place_of_an_entry(stored):
    name, path = stored
    path.unlink()
    os.mkfifo(path, 0o600)
    assert refused(name)
    path.unlink()
    path.mkdir(mode=0o700)
    cache._warned.clear()
    assert refused(name) and not cache.store(name, PAYLOAD)


def test_folder_that_is_a_file_or_cannot_be_made(folder, monkeypatch):
    folder.write_text("not a folder")
    name = cache.key("x")
    assert refused(name) and not cache.store(name, PAYLOAD)
    monkeypatch.setenv(settings.CACHE_DIR, "/proc/nothing/here")
    cache._warned.clear()
    assert cache.fetch(name) is None and not cache.store(name, PAYLOAD)


@pytest.mark.parametrize("call", ["open", "replace"])
def test_read_only_or_full_folder_is_no_error(stored, folder, monkeypatch, call):
    """Without a warning: nothing is wrong with what is there."""
    name, original = cache.key("other"), getattr(os, call)

    def refuse(*args, **options):
        writing = call == "replace" or args[1] & os.O_CREAT
        if writing:
            raise OSError(30, "Read-only file system")
        return original(*args, **options)

    monkeypatch.setattr(os, call, refuse)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not cache.store(name, PAYLOAD) and cache.fetch(name) is None
    assert cache.fetch(stored[0]) == PAYLOAD
    assert not [path for path in folder.iterdir() if path.name.endswith(".tmp")]


def test_full_disk_leaves_nothing_behind(stored, folder, monkeypatch):
    """A write that stops half way: neither a torn entry nor a temporary file."""
    class Full:
        def __init__(self, stream):
            self.stream = stream

        def __enter__(self):
            return self

        def __exit__(self, *raised):
            self.stream.close()

        def write(self, data):
            self.stream.write(data[:100])
            raise OSError(28, "No space left on device")

    name, fdopen = cache.key("other"), os.fdopen
    monkeypatch.setattr(os, "fdopen", lambda file, mode: Full(fdopen(file, mode)) if "w" in mode else fdopen(file, mode))
    assert not cache.store(name, PAYLOAD) and cache.fetch(name) is None
    assert len(list(folder.iterdir())) == 1


def test_size_is_bounded_and_the_unused_go_first(folder, monkeypatch):
    monkeypatch.setattr(cache, "_EVICT_EVERY", 1)
    monkeypatch.setenv(settings.CACHE_BYTES, "60000")
    names = [cache.key("size", str(k)) for k in range(30)]
    for age, name in enumerate(names):
        assert cache.store(name, PAYLOAD)
        os.utime(folder / (name + ".obj"), (age, age))
        if age == 5:
            assert cache.fetch(names[0]) == PAYLOAD      # used: its time is now
    left = [name for name in names if cache.fetch(name)]
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 60000
    assert names[0] in left and left[1:] == names[-len(left) + 1:]


def test_abandoned_temporary_files_are_removed(folder, monkeypatch):
    monkeypatch.setattr(cache, "_EVICT_EVERY", 1)
    cache.store(cache.key("a"), PAYLOAD)
    old, young = folder / ".abandoned.tmp", folder / ".young.tmp"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    cache.store(cache.key("b"), PAYLOAD)
    assert not old.exists() and young.exists()


def test_empty_setting_means_no_cache(monkeypatch):
    monkeypatch.setenv(settings.CACHE_DIR, "")
    assert cache.directory() is None
    assert not cache.store(cache.key("x"), PAYLOAD) and cache.fetch(cache.key("x")) is None


def test_default_folder(monkeypatch, tmp_path):
    monkeypatch.delenv(settings.CACHE_DIR)
    monkeypatch.setitem(sys.modules, "platformdirs", None)      # as if it were not installed
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.directory() == tmp_path / "adjoint"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")            # the rules say: ignore it
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.directory() == tmp_path / ".cache" / "adjoint"


def test_home_may_be_missing(monkeypatch):
    for name in (settings.CACHE_DIR, "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.setitem(sys.modules, "platformdirs", None)
    assert cache.directory() is None


def test_processes_write_the_same_key(folder):
    """Three processes store and fetch one key at once: each sees a whole entry or none."""
    script = """
from adjoint.compiler import cache
name = cache.key("race")
for k in range(50):
    assert cache.store(name, bytes([k]) * 100_000)
    payload = cache.fetch(name)
    assert payload is not None and len(set(payload)) == 1 and len(payload) == 100_000
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    started = [subprocess.Popen([sys.executable, "-W", "error", "-c", script], env=environment) for _ in range(3)]
    try:
        assert [process.wait(60) for process in started] == [0] * 3
    finally:
        for process in started:
            with contextlib.suppress(OSError):
                process.kill()
    assert len(list(folder.iterdir())) == 1


def test_runtime_of_a_torn_cache_is_compiled_again(folder):
    """The whole way: a process with a good entry, one with a torn entry (one warning), one after it, all compute."""
    script = "from adjoint.compiler.runtime import runtime; runtime(); print('ready')"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}

    def run():
        return subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)

    assert run().stdout == "ready\n"
    entry, = folder.iterdir()
    whole = entry.read_bytes()
    assert run().stderr == ""
    entry.write_bytes(whole[:-100])
    second = run()
    assert second.stdout == "ready\n" and second.stderr.count("adjoint compile cache") == 1
    assert entry.read_bytes()[:40] == whole[:40] and run().stderr == ""


@pytest.mark.parametrize("kind", ["garbage", "another program", "text"])
def test_an_entry_that_the_linker_refuses_is_compiled_again(folder, kind):
    """Its checksum is right, so that fetch gives it: whatever wrote it, the function computes, with one warning, and the next is quiet."""
    def run():
        f = ad.compile(lambda x: np.tanh(x) * 3.0 + 0.125)
        assert f(np.zeros(5)).tolist() == [0.125] * 5
        return f
    others = {path.name for path in folder.iterdir()} if folder.exists() else set()
    run()
    entry = next(path for path in folder.iterdir() if path.name not in others and b"\0program\0" in path.read_bytes())
    name, whole = entry.name.removesuffix(".obj"), entry.read_bytes()
    wrong = {"garbage": b"\x7fELF" + b"\xee" * 500, "text": b"hello",
             "another program": whole[whole.index(b"\x7fELF"):].replace(b"\0program\0", b"\0problem\0")}
    assert cache.store(name, wrong[kind])
    with pytest.warns(RuntimeWarning, match="is not used") as seen:
        run()
    assert len(seen) == 1 and entry.read_bytes() == whole
    run()
