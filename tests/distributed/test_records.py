"""The stored records of benchmarks.network and benchmarks.allreduce hold their limits; a row that falls short is named so on the page."""

import statistics

import pytest

from benchmarks import wires

DEFAULT, FORCED = 1.5, 1.0              # over our ring: an MPI's all-reduce as it comes, and the best of its algorithms
OF_THE_BOUND, SERVER = 0.95, 3.5        # of the payload's bound that the ring reaches, and what a server takes over it
PAYLOAD = 1e9 / 8 * 1448 / 1538         # bytes a second of TCP over Ethernet of 1 Gbit/s, headers taken off


def medians(rows):
    return {name: statistics.median(row["seconds"]) for name, row in rows.items()}


def test_the_ring_reaches_the_bound_and_the_server_is_slower():
    """By the seconds themselves, not by the ratios stored beside them."""
    record = wires.stored(wires.NETWORK)
    n, found = record["ranks"], medians(record["rows"])
    assert record["rate"] == "1gbit" and n == 4 and len(record["rows"]["ring"]["seconds"]) >= 5
    bound = 2 * (n - 1) / n * record["size"] / PAYLOAD
    assert record["bound"] == pytest.approx(bound, rel=1e-3)
    assert record["of_the_bound"] == pytest.approx(bound / found["ring"], rel=1e-3) and bound / found["ring"] >= OF_THE_BOUND
    assert record["server_over_ring"] == pytest.approx(found["parameter_server"] / found["ring"]) and record["server_over_ring"] >= SERVER


def test_each_default_is_slower_than_our_ring_or_the_page_names_it():
    record, page = wires.stored(wires.ALLREDUCE), wires.PAGE.read_text(encoding="utf-8")
    verdicts = {(each["runtime"], str(each["ranks"])): each for each in record["verdicts"]}
    known = {(row["runtime"], n) for n, rows in record["rows"].items() for row in rows if row["contestant"] == "our ring"}
    assert set(verdicts) == known == {(runtime, n) for runtime in ("MPICH", "Open MPI") for n in ("2", "4")} and record["size"] == 1e8
    for (runtime, n), verdict in verdicts.items():
        found = {row["contestant"]: row["median"] for row in record["rows"][n] if row["runtime"] == runtime}
        ours, default = found.pop("our ring"), found.pop("default")
        assert verdict["over_default"] == pytest.approx(default / ours)
        assert len(found) >= 3 and verdict["over_best_forced"] == pytest.approx(min(found.values()) / ours)
        reached = default >= DEFAULT * ours and min(found.values()) >= FORCED * ours
        line, = [line for line in page.splitlines() if line.startswith(f"* {runtime}, {n} ranks: ")]
        assert verdict["reached"] == reached and line.endswith(": reached." if reached else ": behind."), line
