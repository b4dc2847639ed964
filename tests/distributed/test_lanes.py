"""Timelines drawn: what every rank did when, in lanes; where the time of a step went; files that are none."""

import itertools
import json
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner

from adjoint import nn, optim
from adjoint.cli import adjoint
from adjoint.distributed import DataParallel, ParameterServer, lanes, run_threads
from adjoint.distributed.lanes import HIGH, KINDS, LANE, LEFT, RIGHT, WIDE, Bar
from adjoint.errors import Cancelled, ConfigError

STEP = [Bar(0, 0, "compute", 0.0, 8.0, 7), Bar(0, 1, "wait for bucket 1 of 2 (b)", 0.0, 4.0, None),
        Bar(0, 1, "reduce bucket 1 of 2 (b)", 4.0, 6.0, None), Bar(0, 1, "reduce bucket 2 of 2 (a)", 7.0, 10.0, None),
        Bar(0, 0, "wait for all ranks", 8.0, 10.0, 7), Bar(0, 0, "update", 10.0, 11.0, 7)]


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    """The timelines of four steps on two ranks."""
    trace = tmp_path_factory.mktemp("timelines") / "trace"

    def program(c):
        rng, rule = np.random.default_rng(0), optim.sgd(0.1)
        model = nn.Sequential(nn.Linear(4, 8, rng=rng), np.tanh, nn.Linear(8, 2, rng=rng))
        parallel = DataParallel(c, bucket_bytes=1, timeline=trace)
        step, state = parallel.make_step(nn.cross_entropy, rule), rule.init(model)
        for _ in range(4):
            model, state, *_ = step(model, state, np.ones((6, 4), np.float32), np.zeros(6, int))
        return parallel.write_timeline()
    assert [path.name for path in run_threads(2, program)] == ["trace.rank0.json", "trace.rank1.json"]
    return trace


def bars_of(root):
    return [element for element in root.iter() if element.tag.endswith("rect")][1:]        # the first is the paper


def test_a_step_is_broken_down():
    """8 of computing, 2 of waiting, 1 of the update; of 5 of sums 2 + 1 went on beside the computing."""
    assert lanes.broken_down(STEP) == ("of 11.0 ms a step: compute 8.0, wait for other ranks 2.0, update 1.0; "
                                       "sums take 5.0, 3.0 of them beside compute")
    later = [bar._replace(begin=bar.begin + 20, end=bar.end + 20, step=bar.step and 8) for bar in STEP]
    assert lanes.broken_down([*STEP, *later]).startswith("of 15.5 ms a step: compute 8.0, wait for other ranks 2.0")


def test_bars_lie_where_their_times_are():
    root = ElementTree.fromstring(lanes.drawing(STEP, "a <title>"))
    found = {bar[0].text.partition(":")[0]: bar for bar in bars_of(root)}
    assert set(found) == {bar.name for bar in STEP}
    for bar in STEP:
        drawn, scale = found[bar.name], (WIDE - LEFT - RIGHT) / 11.0
        assert float(drawn.get("x")) == pytest.approx(LEFT + bar.begin * scale, abs=0.06)
        assert float(drawn.get("width")) == pytest.approx((bar.end - bar.begin) * scale, abs=0.06)
        assert drawn.get("fill") == KINDS[bar.name.split()[0]][1]
    assert float(found["compute"].get("y")) + LANE < float(found["reduce bucket 1 of 2 (b)"].get("y"))
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert {"a <title>", "rank 0", "step 7", "1", "2", "0", "10", *(KINDS[bar.kind][0] for bar in STEP)} <= set(texts)
    assert not {KINDS["publish"][0], KINDS["abandon"][0]} & set(texts)


def test_the_last_steps_of_every_rank_are_drawn_from_the_files(trace):
    bars = lanes.within(lanes.read(trace))
    assert {bar.step for bar in bars} == {2, 3, 4, None} and {bar.rank for bar in bars} == {0, 1}
    assert {(bar.kind, bar.lane) for bar in bars} >= {("compute", 0), ("update", 0), ("wait", 0), ("reduce", 1), ("wait", 1)}
    for rank in (0, 1):
        for number in range(1, 5):                      # a rank that is behind may still be at the step before the first
            assert sum(bar.rank == rank and bar.name.startswith(f"reduce bucket {number} of 4") for bar in bars) in (3, 4)
    root = ElementTree.fromstring(lanes.drawing(bars, ""))
    assert len(bars_of(root)) == len(bars)
    width, height = float(root.get("width")), float(root.get("height"))
    for bar in bars_of(root):
        x, y, wide = (float(bar.get(name)) for name in ("x", "y", "width"))
        assert LEFT <= x and x + wide <= width - RIGHT + 0.7 and y + LANE < height
    ranks = [float(e.get("y")) for e in root.iter() if e.text in ("rank 0", "rank 1")]
    assert ranks[1] - ranks[0] == HIGH


def test_steps_are_chosen(trace):
    bars = lanes.read(trace)
    assert {bar.step for bar in lanes.within(bars, (2, 2))} == {2, None}
    for steps in ((0, 1), (3, 5), (3, 2)):
        with pytest.raises(ConfigError, match=rf"have steps 1 to 4 of every rank, not {steps[0]} to {steps[1]}"):
            lanes.within(bars, steps)
    with pytest.raises(ConfigError, match="no step that every rank has taken"):
        lanes.within([bar._replace(step=None) for bar in bars])
    with pytest.raises(ConfigError, match="no step that every rank has taken"):
        lanes.within([])


def test_the_command(trace):
    called = lambda *words: CliRunner().invoke(adjoint, ["timeline", *words])
    done = called(str(trace))
    assert done.exit_code == 0 and [line.partition(":")[0] for line in done.output.splitlines()[:2]] == ["rank 0", "rank 1"]
    assert "steps 2 to 4 of 2 ranks" in trace.with_name("trace.svg").read_text()
    whole = trace.with_name("trace.svg").read_text()
    trace.with_name("trace.svg").unlink()
    completed = called(str(trace.with_name("trace.rank0.json")))                # what a shell makes of "trace"
    assert completed.output == done.output and trace.with_name("trace.svg").read_text() == whole
    other = trace.with_name("other.svg")
    assert called(str(trace), "--steps", "1", "1", "--svg", str(other), "--title", "so & so").exit_code == 0
    assert "so &amp; so" in other.read_text()
    nowhere = str(trace / "folder" / "x.svg")
    for words, match in (([str(trace.with_name("none"))], "there is no file"), ([str(trace), "--svg", nowhere], "cannot be written")):
        failed = called(*words)
        assert isinstance(failed.exception, ConfigError) and match in str(failed.exception)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"traceEvents": [{"ph": "X"}]}', '{"traceEvents": 3}'])
def test_what_is_no_timeline(tmp_path, text):
    (tmp_path / "trace.rank0.json").write_text(text)
    with pytest.raises(ConfigError, match="is no timeline of a rank"):
        lanes.read(tmp_path / "trace")


def test_other_spans_are_left_out(tmp_path):
    events = [{"ph": "X", "name": name, "pid": 0, "tid": 0, "ts": 0.0, "dur": 1000.0, "args": {"step": 1}} for name in ("compute", "mine")]
    (tmp_path / "trace.rank0.json").write_text(json.dumps({"traceEvents": events}))
    assert [bar.name for bar in lanes.read(tmp_path / "trace")] == ["compute"]


def served(trace, *, steps=6, **options):
    """The spans of three workers, the last of which is slow, and of their servers; None in steps that it has not taken."""
    def program(c):
        parallel, rule, model = ParameterServer(c, timeline=trace, **options), optim.sgd(0.1), nn.Linear(2, 1, rng=np.random.default_rng(0))

        def loss(y, t):
            if c.rank == c.size - 1 and parallel.cancellation.wait(0.02):
                raise Cancelled
            return nn.squared_error(y, t)
        step = parallel.make_step(loss, rule, compiled=False)
        model, state = parallel.agree(model, rule.init(model))
        for _ in range(steps):
            model, state, *_ = step(model, state, np.ones((3, 2), np.float32), np.ones((3, 1), np.float32))
        parallel.settle(model, state)
        return parallel.write_timeline()
    n = 3 + options.get("servers", 1)
    assert [path.name for path in run_threads(n, program, seconds=20)] == [f"{trace.name}.rank{rank}.json" for rank in range(n)]
    return lanes.read(trace)


@pytest.mark.parametrize("options", [{}, {"servers": 2}, {"wait_for": 2}, {"staleness": 1}], ids=str)
def test_servers_and_workers_have_timelines(tmp_path, options):
    bars, servers = served(tmp_path / "trace", **options), options.get("servers", 1)
    assert {bar.lane for bar in bars} == {0}
    for rank in range(servers + 3):
        own = [bar for bar in bars if bar.rank == rank]
        steps = [bar.step for bar in own]
        assert steps == sorted(steps) and all(1 <= step <= 6 for step in steps)
        assert all(bar.end <= after.begin + 0.01 for bar, after in itertools.pairwise(own))         # one after the other
        names = [bar.name for bar in own]
        if rank < servers:
            assert names == ["wait for gradients", "update", "publish"] * 6
        elif options == {"wait_for": 2} and rank == 3:
            assert names[0] == "abandon" and set(names) <= {"abandon", "compute", "wait for the model"}
        else:
            assert names == ["compute", "wait for the model"] * (2 if "staleness" in options else len(names) // 2)
    lines = lanes.draw(tmp_path / "trace", tmp_path / "trace.svg")
    assert " publish " in lines[0] and "sums" not in lines[0] and " compute " in lines[servers]
    assert ElementTree.parse(tmp_path / "trace.svg").getroot().tag.endswith("svg")


def test_a_gradient_that_is_abandoned_is_no_compute(tmp_path):
    bars = served(tmp_path / "trace", wait_for=2)
    late = [bar for bar in bars if bar.name == "abandon"]
    assert late and {bar.rank for bar in late} == {3}
    assert "compute in vain" in lanes.drawing(lanes.within(bars), "") and " compute in vain " in lanes.broken_down(late)
