"""The profile of a world: kept whole, distrusted where damaged, and one choice of algorithm on all ranks; the probe that measures it."""

import json
import socket
import threading

import msgspec
import numpy as np
import pytest

from adjoint.distributed import Alone, Links, run_threads, schedules
from adjoint.distributed.collectives import all_reduce_in_place, carry_out
from adjoint.distributed.planner import COSTS
from adjoint.distributed.probe import line_through, probe, timed
from adjoint.distributed.profile import DEFAULT, VERSION, Line, Profile, agreed, chosen, file_of, forget, host_names, load, save
from adjoint.errors import ConfigError

LINE = Line(1e-6, 1e9)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ADJOINT_CACHE_DIR", str(tmp_path))
    return tmp_path


def made(**timings):
    timings = timings or {"tree": [(1024, 1.0), (4096, 4.0)], "ring": [(1024, 2.0), (4096, 3.0)]}
    return Profile(VERSION, "threads", [0, 0, 0], [(8, 1e-6), (4096, 2e-6)], LINE, LINE, LINE, 1e9, 1e9, timings)


def place_of(n):
    """Where the profile of n threads lies."""
    return file_of("threads", run_threads(n, host_names)[0])


def test_the_fastest_at_each_size_and_the_default_far_beyond():
    assert made().table() == ((2048, "tree"), (8192, "ring"), *DEFAULT)
    assert made(tree=[(1 << 22, 1.0)], ring=[(1 << 22, 2.0)]).table() == ((np.iinfo(np.int64).max, "tree"),)
    assert made(mpi=[(1024, 1.0), (4096, 1.0)]).table() == ((8192, "mpi"), *DEFAULT)
    assert Profile(VERSION, "threads", [0], [], LINE, LINE, LINE, 1e9, 1e9, {}).table() == DEFAULT
    assert made(tree=[(16_384, 1.0)]).table() == ((32_768, "tree"), *DEFAULT[1:])               # a border of DEFAULT exactly
    assert made(tree=[(1 << 20, 1.0)]).table() == ((np.iinfo(np.int64).max, "tree"),)           # a large one holds for all larger
    assert made(tree=[(8, 1.0), (32, 1.0), (128, 3.0)], ring=[(8, 1.0), (32, 2.0), (128, 2.0)]).table()[0] == (16, "ring")


def test_what_is_saved_is_loaded(folder):
    save(made(), folder / "a.json")
    assert load(folder / "a.json") == made() and load(folder / "none.json") is None and load(None) is None
    assert not [path for path in folder.iterdir() if path.name != "a.json"]


@pytest.mark.parametrize(("change", "match"), [
    ({"version": 0}, "version 0, expected 1"), ({"timings": {"star": []}}, "unknown algorithms star"),
    ({"adding": 0.0}, "bandwidth that is"), ({"adding": "fast"}, "Expected `float`"),
    ({"rounds": {"latency": -1.0, "bandwidth": 1.0}}, "latency"), ({"extra": 1}, "extra"),
    ({"timings": {"ring": [[8, -1.0]]}}, "a time that is none"), ({"timings": {"ring": [[8, 0.0]]}}, "a time that is none"),
    ({"ladder": [[-1, 1.0]]}, "a time that is none"), ({"hosts": [0]}, "no two ranks"),
    ({"timings": {"ring": [[0, 1.0]]}}, "a time that is none"), ({"hosts": [5, -3, 7]}, "no two ranks"),
    ({"timings": {"ring": [[64, 1.0], [8, 1.0]]}}, "sizes that do not grow"), ({"timings": {"ring": [[8, 1.0], [8, 2.0]]}}, "do not grow"),
    ({"timings": {"ring": [[8 + k, 1.0] for k in range(14)]}}, "too many sizes"), ({"copying": 0.0}, "bandwidth that is"),
    ({"eager": {"latency": 1.0, "bandwidth": 0.0}}, "bandwidth that is")])
def test_a_damaged_file_is_left_aside(folder, change, match):
    damaged = json.loads(msgspec.json.encode(made())) | change
    (folder / "a.json").write_text(json.dumps(damaged))
    with pytest.warns(RuntimeWarning, match=match):
        assert load(folder / "a.json") is None
    (folder / "a.json").write_text("{\"version\": 1")
    with pytest.warns(RuntimeWarning, match="Measure again: adjoint probe"):
        assert load(folder / "a.json") is None


def test_all_ranks_choose_by_rank_zeros_table_and_its_messages_are_not_counted():
    default = run_threads(3, lambda c: [chosen(size, c) for size in (8, 32_768, 32_769, 1_048_576, 1_048_577, 10 ** 9)])
    assert default == [[name for name in ("recursive_doubling", "halving_doubling", "ring") for _ in range(2)]] * 3
    save(made(parameter_server=[(1024, 1.0)], tree=[(1 << 22, 1.0)]), place_of(3))

    def program(c):
        names, counts = [chosen(8, c), chosen(10 ** 9, c)], (c.counts.rounds, c.counts.bytes_sent)
        summed = all_reduce_in_place(np.ones(2), c)
        return names, counts, summed.tolist(), c.counts.rounds
    found = run_threads(3, program)
    assert [each[:3] for each in found] == [(["parameter_server", "tree"], (0, 0), [3.0, 3.0])] * 3
    assert found[0][3] == 4 and found[1][3] == 2               # the server's rounds, and a worker's


def test_a_world_without_mpi_does_not_choose_its_all_reduce():
    save(msgspec.structs.replace(made(mpi=[(1 << 22, 1.0)]), hosts=[0, 0]), place_of(2))
    assert run_threads(2, lambda c: chosen(8, c)) == ["recursive_doubling"] * 2


@pytest.mark.parametrize("combine, dtype, algorithm", [(np.add, np.complex128, "mpi"), (np.maximum, np.int32, "mpi"),
                                                       (np.maximum, np.complex128, "tree"), (np.logical_or, bool, "tree"),
                                                       (np.maximum, bool, "tree"), (np.hypot, np.float64, "tree")])
def test_what_mpi_cannot_combine_goes_by_the_fastest_that_can(combine, dtype, algorithm):
    """The library's all-reduce is the fastest; where it has no operation, the second fastest takes its place, and no error."""
    save(made(mpi=[(1024, 1.0)], tree=[(1024, 2.0)], ring=[(1024, 3.0)]), place_of(3))

    def program(c):
        used = []
        c.all_reduce_natively = lambda buffer, combine: (used.append("mpi"), carry_out(schedules.tree, buffer, c, combine))
        given = np.array([c.rank, 0, 1]).astype(dtype)
        found = all_reduce_in_place(given.copy(), c, combine=combine)
        if algorithm != "mpi":
            with pytest.raises(ConfigError, match=f"'mpi', which has no <ufunc '{combine.__name__}'> of {np.dtype(dtype)}"):
                all_reduce_in_place(given, c, algorithm="mpi", combine=combine)
        return used, np.allclose(found, combine.reduce(np.array([[r, 0, 1] for r in range(3)]).astype(dtype), axis=0)), agreed(c).ours[0][1]
    assert run_threads(3, program, seconds=60.0) == [(["mpi"] * (algorithm == "mpi"), True, "tree")] * 3


def test_the_probe_measures_keeps_and_is_used_from_then_on():
    def program(c):
        before = chosen(8, c)
        profile = probe(c, seconds=0.3)
        return before, profile, chosen(8, c)
    (before, profile, after), (_, other, after_there) = run_threads(2, program)
    assert before == "recursive_doubling" and after == after_there == profile.table()[0][1]
    assert load(place_of(2)) == profile and profile == other and profile.hosts == [0, 0]
    assert set(profile.timings) == {"ring", "recursive_doubling", "halving_doubling", "tree", "parameter_server"}
    assert profile.ladder[0][0] == 8 and profile.links(8).latency == profile.eager.latency


def test_a_profile_that_cannot_be_kept_is_a_warning(folder, monkeypatch):
    (folder / "file").write_text("")
    monkeypatch.setenv("ADJOINT_CACHE_DIR", str(folder / "file"))
    with pytest.warns(RuntimeWarning, match="is not used"), pytest.warns(RuntimeWarning, match="the profile cannot be kept"):
        assert run_threads(2, lambda c: probe(c, seconds=0.1))[1].hosts == [0, 0]


def test_lines_and_times():
    exact = [(size, 2e-6 + size / 1e8) for size in (8, 64, 4096, 1 << 20)]
    line = line_through(exact)
    assert line.latency == pytest.approx(2e-6, rel=1e-6) and line.bandwidth == pytest.approx(1e8, rel=1e-6)
    assert line_through([(1000, 1e-6), (2000, 3e-6)]).latency == 0.0            # no message arrives before it was sent
    falling = line_through([(8, 1e-6), (4096, 0.9e-6)])                         # bytes take a tenth of the largest message's time, at least
    assert falling.bandwidth == pytest.approx(4096 / 0.09e-6) and 0.87e-6 < falling.latency < 1e-6
    clock = []
    assert timed(Alone(), lambda: clock.append(1), 0.01) < 1e-3 and len(clock) > 100


def test_costs_are_those_of_the_lines_that_were_measured():
    profile = Profile(VERSION, "threads", [0, 0], [], LINE, Line(2e-6, 2e9), Line(1e-6, 1e9), 4e9, 8e9, {})
    costs, elsewhere = profile.costs(), Links(1.0, 1.0)
    assert costs["ring"](2, 8e6, elsewhere) == pytest.approx(2 * (1e-6 + 4e6 / 1e9) + 4e6 / 4e9)
    assert costs["parameter_server"](2, 8e6, elsewhere) == pytest.approx(2 * (2e-6 + 8e6 / 2e9) + 8e6 / 8e9)


def profile_of(timings, latency=1e-6):
    return Profile(VERSION, "threads", [0, 0], [], LINE, Line(2e-6, 2e9), Line(latency, 1e9), 4e9, 8e9, timings)


def test_costs_go_through_the_all_reduces_that_were_measured():
    """Where ranks take turns on a processor no line knows it: latencies and bytes are stretched apart, also for other numbers of ranks."""
    profile, elsewhere = profile_of({"ring": [(1000, 5e-6), (70_000, 1.0), (8_000_000, 20e-3)], "tree": []}), Links(1.0, 1.0)
    ring = profile.costs()["ring"]
    formula = lambda n, size: COSTS["ring"](n, size, profile.links())
    assert ring(2, 1000, elsewhere) == pytest.approx(5e-6, rel=1e-12) and ring(2, 8e6, elsewhere) == pytest.approx(20e-3, rel=1e-12)
    volume = (20e-3 - 5e-6) / (formula(2, 8e6) - formula(2, 1000))
    latency = (5e-6 - volume * (formula(2, 1000) - formula(2, 0))) / formula(2, 0)
    for n in (2, 16, 1024):
        assert ring(n, 0, elsewhere) == pytest.approx(latency * formula(n, 0), rel=1e-9)
        assert ring(n, 3e9, elsewhere) - ring(n, 0, elsewhere) == pytest.approx(volume * (formula(n, 3e9) - formula(n, 0)), rel=1e-9)
    for name in ("tree", "halving_doubling"):
        assert profile.costs()[name](2, 8e6, elsewhere) == COSTS[name](2, 8e6, profile.links())


@pytest.mark.parametrize(("pairs", "latency"), [([(1000, 40e-6), (8_000_000, 20e-6)], 1e-6), ([(1000, 1e-9), (8_000_000, 20e-3)], 1e-6),
                                                ([(1000, 5e-6), (8_000_000, 20e-3)], 0.0), ([(8_000_000, 20e-3)], 1e-6)])
def test_times_that_no_line_explains_stretch_all_alike(pairs, latency):
    profile, elsewhere = profile_of({"ring": pairs}, latency), Links(1.0, 1.0)
    ring, formula = profile.costs()["ring"], lambda n, size: COSTS["ring"](n, size, profile.links())
    for n, size in ((2, 1.0), (2, 8e6), (64, 8e6), (64, 1e9)):
        assert ring(n, size, elsewhere) == pytest.approx(formula(n, size) * pairs[-1][1] / formula(2, 8e6), rel=1e-12)


def test_the_profile_of_another_world_is_left_aside(folder):
    save(made(), place_of(2))
    with pytest.warns(RuntimeWarning, match="the profile of 3 ranks is not used: this world has 2"):
        assert run_threads(2, lambda c: chosen(8, c)) == ["recursive_doubling"] * 2


def test_small_messages_have_a_line_of_their_own():
    profile = Profile(VERSION, "threads", [0, 0], [], LINE, Line(2e-6, 2e9), Line(3e-6, 3e9), 4e9, 8e9, {})
    assert profile.links(8192) == Links(1e-6, 1e9, 4e9) and profile.links(8193) == profile.links() == Links(3e-6, 3e9, 4e9)
    assert LINE.seconds(1000) == pytest.approx(2e-6, rel=1e-12)


def test_bad_worlds():
    with pytest.raises(ConfigError, match="probe: a world of 1"):
        probe(Alone())
    forget(Alone())
    assert chosen(8, Alone()) == "ring"


def test_hosts_with_as_many_ranks_each_may_be_summed_up_one_by_one(monkeypatch):
    """Four threads that say they are on two hosts: the hierarchical algorithm is one of those that the probe times."""
    monkeypatch.setattr(socket, "gethostname", lambda: f"host {int(threading.current_thread().name.split()[1]) // 2}")
    given = np.arange(4.0 * 37).reshape(4, 37)
    found = run_threads(4, lambda c: (agreed(c).local, all_reduce_in_place(given[c.rank].copy(), c, algorithm="hierarchical"), c.counts))
    assert all(local == 2 and np.array_equal(x, given.sum(axis=0)) for local, x, _ in found)
    assert [counts.neighbours for _, _, counts in found] == [{1, 2}, {0}, {0, 3}, {2}]            # hosts meet through their first ranks
    profile = run_threads(4, lambda c: probe(c, seconds=0.2))[0]
    assert profile.hosts == [0, 0, 2, 2] and "hierarchical" in profile.timings
