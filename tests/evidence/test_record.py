"""Records: written whole, read back, judged by their own bounds and by the sources; pictures and numbers of the page."""

import dataclasses
import math

import numpy as np
import pytest

from adjoint import nn
from adjoint.compiler.threads import thread_count
from evidence import __main__ as command
from evidence import page, parallel, picture, record, target
from evidence.target import Curve, Figure, Quick, Result, Target


def one(found=0.5, seed=0):
    """A target that takes no time."""
    losses = [1.0 / (k + 1) for k in range(1234)]
    result = Result([Figure("loss", found, most=0.6, unit="nats"), Figure("other", 3.0)], [Curve("adjoint", seed, losses)], (seed,),
                    Quick(losses[:3]), {"said": "a word"})
    return Target("gpt", "A title & more", "at most 0.6", "a recipe", lambda folder: result, lambda folder: Quick(losses[:3]),
                  lambda: [nn.cross_entropy])


@pytest.fixture
def stored(tmp_path):
    """A record on the disk and its target."""
    assert command.run(one(), tmp_path, tmp_path)
    return one(), record.read("gpt", tmp_path), tmp_path


def test_a_record_is_whole_and_current(stored):
    made, found, folder = stored
    found["changed_since"] = []             # of the machine of this test, not of the record
    assert record.problems(made, found) == [] and found["sources"]["modules"] == ["adjoint.nn.losses"]
    assert sorted(path.name for path in folder.iterdir()) == ["gpt.json", "gpt.svg"]
    curve = found["curves"][0]
    assert len(curve["losses"]) == 500 and curve["steps"][-1] == 1234 and len((folder / "gpt.json").read_text().splitlines()) < 100


@pytest.mark.parametrize("change, said", [
    (lambda r: r["sources"].update(digest="0" * 64), "made from other sources"),
    (lambda r: r["changed_since"].append("a.py"), "never committed"),
    (lambda r: r["figures"][0].update(found=0.7, reached=False), "is 0.7, asked at most 0.6 nats"),
    (lambda r: r["figures"][0].update(found=0.7), "not what its own bounds say")])
def test_a_record_that_is_none_is_told(stored, change, said):
    made, found, _ = stored
    found["changed_since"] = []
    change(found)
    assert len(record.problems(made, found)) == 1 and said in record.problems(made, found)[0]
    assert "there is no evidence" in record.problems(made, None)[0]


def test_a_run_that_fails_leaves_the_old_record(stored, monkeypatch):
    made, _, folder = stored
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fails(where):
        raise RuntimeError("out of luck")
    for run in (fails, lambda where: one(found=math.nan).run(where)):
        with pytest.raises((RuntimeError, ValueError)):
            command.run(dataclasses.replace(made, run=run), folder, folder)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_target_that_falls_short_says_so(tmp_path):
    assert not command.run(one(found=0.61), tmp_path, tmp_path)
    assert not record.read("gpt", tmp_path)["figures"][0]["reached"] and "**not reached**" in page.page(tmp_path)


def test_another_beginning_is_told_by_its_step(stored):
    made, found, folder = stored
    assert record.compare(made.quick(folder), found) == []
    assert "step 2" in record.compare(Quick([1.0, 0.51, 1 / 3]), found)[0]
    assert record.compare(Quick([1.0, 0.5 * (1 + 5e-4), 1 / 3]), found) == []
    assert "2 losses, 3 are stored" in record.compare(Quick([1.0, 0.5]), found)[0]
    assert record.compare(Quick([1.0, math.nan, 1 / 3]), found) != []


def test_thinning_keeps_the_mean_of_every_part():
    curve = Curve("a", 0, list(np.arange(1000.0))).thinned(10)
    assert curve.steps == [100 * (k + 1) for k in range(10)] and curve.losses == [100 * k + 49.5 for k in range(10)]
    assert Curve("a", 0, [3.0, 2.0]).thinned().steps == [1, 2]


def test_the_beginning_of_a_training_ends_it():
    steps = []

    def train(most, progress):
        for step in range(1, most + 1):
            steps.append(step)
            progress(step, 1.0 / step)
    assert target.beginning(train, 100, most=3) == [1.0, 0.5, 1 / 3] and steps == [1, 2, 3]
    assert target.beginning(train, 2, most=3) == [1.0, 0.5]


def test_figures_know_their_bounds():
    assert Figure("a", 92.3, least=92.3).reached and not Figure("a", 92.2, least=92.3).reached and not Figure("a", math.nan).reached
    assert Figure("a", 1.0, least=0.0, most=2.0, unit="nats").asked == "at least 0 nats, at most 2 nats"
    assert Figure("a", 1.0).asked == "reported" and Figure("a", 3e6, least=3e6, most=3e6).asked == "exactly 3,000,000"


def test_axes_have_round_numbers():
    assert picture.ticks(0.0, 2000.0) == [0.0, 500.0, 1000.0, 1500.0, 2000.0] and picture.ticks(1.0, 1.0) == [1.0]
    for low, high in ((0.013, 0.71), (-3.0, 1e6), (5.5, 5.500001)):
        marks = picture.ticks(low, high)
        assert 2 <= len(marks) <= 6 and low <= marks[0] and marks[-1] <= high


def test_a_drawing_has_every_curve_and_picture():
    curves = [{"name": "torch <b>", "seed": 0, "steps": [1, 2, 3], "losses": [100.0, 10.0, 1.0]},
              {"name": "adjoint", "seed": 0, "steps": [1, 2, 3], "losses": [3.0, 2.0, 1.0]}]
    svg = picture.drawing("a & b", curves, [("focus", np.eye(4))])
    assert svg.count("<polyline") == 2 and svg.count("data:image/png;base64,") == 1 and "torch &lt;b&gt;" in svg and "a &amp; b" in svg
    assert picture.drawing("a & b", curves, [("focus", np.eye(4))]) == svg and "NaN" not in svg and "nan" not in svg


def test_the_command_refuses_what_it_does_not_know(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["evidence", "titanic"])
    with pytest.raises(SystemExit):
        command.main()
    assert "no target is called titanic" in capsys.readouterr().err
    assert sorted(command.SHORTEST_FIRST) == sorted(target.NAMES)


def test_runs_side_by_side_come_back_in_order():
    assert parallel.side_by_side([(math.sqrt, 4.0)]) == [2.0]
    assert parallel.side_by_side([(math.pow, 2.0, 3.0), (math.sqrt, 9.0), (thread_count,)])[:2] == [8.0, 3.0]
    if thread_count() > 1:
        assert parallel.side_by_side([(thread_count,)] * 3) == [1, 1, 1] and thread_count() > 1
