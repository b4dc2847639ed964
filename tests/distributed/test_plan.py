"""The plan in words, numbers and a picture; the commands `adjoint plan` and `adjoint probe`."""

import shutil
import xml.etree.ElementTree as ElementTree

import pytest
from click.testing import CliRunner

from adjoint.cli import adjoint
from adjoint.distributed.picture import CURVES, WORKERS, drawing
from adjoint.distributed.plan import LINKS, Work, advise, duration, links_of, report, volume
from adjoint.errors import ConfigError

RESNET = Work(0.25, 102e6, overlap=2 / 3)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ADJOINT_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


def called(*arguments):
    return CliRunner().invoke(adjoint, arguments, catch_exceptions=True)


@pytest.mark.mission(58)
def test_worked_efficiencies(figure):
    """102 MB, 250 ms, two thirds hiding communication, 10 Gbit/s: a ring keeps 97.5, 93.9, 84.1 % of 64, 256, 1024 workers."""
    for n, share, server in ((64, 0.975, 0.0226), (256, 0.939, 0.00563), (1024, 0.841, 0.00141)):
        found = {f.strategy: f.efficiency for f in advise(n, RESNET, LINKS["10gbit"]).forecasts}
        figure.equal(found["ring"], share, abs=5e-4)
        figure.at_least(found["halving_doubling"], 0.97)
        figure.equal(found["parameter_server"], server, rel=0.01)


def test_what_is_advised_and_why():
    assert advise(1, RESNET, LINKS["1gbit"]).reason == "one worker has nobody to exchange gradients with"
    hidden = advise(4, RESNET, LINKS["10gbit"])
    assert hidden.best.strategy == "ring" and "hidden" in hidden.reason
    many = advise(1024, RESNET, LINKS["10gbit"])
    assert many.best.strategy == "halving_doubling" and "2046 rounds" in many.reason
    home = advise(8, Work(1.0, 4e9), LINKS["home"])
    assert home.best.efficiency < 0.01 and "(not in this package) 46 %" in home.reason
    uneven = advise(8, Work(1.0, 1e4, jitter=1.0), LINKS["10gbit"])
    assert uneven.best.wait_for == 6 and "abandon" in uneven.reason
    assert advise(8, Work(1.0, 1e9, jitter=0.1), LINKS["1gbit"]).best.wait_for == 8          # the server's link costs more than the slowest


def test_seconds_and_bytes_in_words():
    words = {3600.0: "1 h", 3599.0: "60 min", 2000.0: "33.3 min", 1000.0: "16.7 min", 999.4: "999 s", 1.0: "1 s", 0.9996: "1 s",
             0.999: "999 ms", 1e-3: "1 ms", 1e-6: "1 us", 5e-7: "0.5 us", 0.0: "0 us"}
    assert {seconds: duration(seconds) for seconds in words} == words
    words = {1e12: "1 TB", 1e9: "1 GB", 1e6: "1 MB", 1e3: "1 kB", 999.0: "999 B", 0.0: "0 B"}
    assert {size: volume(size) for size in words} == words


@pytest.mark.parametrize("every", [False, True])
def test_one_worker_is_advised_no_strategy(every):
    _, _, line, reason = report([1], Work(0.25, 4e6), LINKS["10gbit"], every_strategy=every).splitlines()
    assert line.split()[:5] == ["1", "no", "exchange", "250", "ms"] and "ring" not in line and "*" not in line
    assert reason.strip() == "one worker has nobody to exchange gradients with"


def test_lines_of_every_strategy():
    lines = report([4, 64], Work(0.25, 4e6, jitter=0.9), LINKS["10gbit"], every_strategy=True).splitlines()
    assert sum("parameter_server" in line for line in lines) == 4 and sum("*" in line for line in lines) == 2
    assert all(len(line) < 140 for line in lines)


def test_the_picture_is_a_drawing_of_every_link():
    text = drawing(RESNET, "a <title>")
    root = ElementTree.fromstring(text)
    curves = [element for element in root.iter() if element.tag.endswith("polyline")]
    assert len(curves) == len(LINKS) * (len(CURVES) + 1) and "a &lt;title&gt;" in text and text == drawing(RESNET, "a <title>")
    width, height = float(root.get("width")), float(root.get("height"))
    for curve in curves:
        points = [tuple(map(float, pair.split(","))) for pair in curve.get("points").split()]
        assert len(points) == len(WORKERS) and points[0][1] == pytest.approx(34.0)           # one worker: all of it
        assert all(0 <= x <= width and 0 <= y <= height for x, y in points)


def test_the_command_plan(folder):
    done = called("plan", "--compute", "0.25", "--size", "102e6", "-n", "4,16", "--link", "10gbit", "--svg", str(folder / "plan.svg"))
    assert done.exit_code == 0 and done.output.count("ring") >= 2 and (folder / "plan.svg").read_text().startswith("<svg ")
    measured = called("plan", "--task", "digits", "-n", "2")
    assert measured.exit_code == 0 and "gradients 203 kB" in measured.output
    for arguments, match in (((), "--task digits"), (("--compute", "1", "--size", "1", "-n", "4,none"), "Whole numbers"),
                             (("--compute", "1", "--size", "1", "--link", "string"), "the link is 'string'")):
        failed = called("plan", *arguments)
        assert isinstance(failed.exception, ConfigError) and match in str(failed.exception)


def test_the_command_probe_measures_what_plan_takes(folder):
    done = called("probe", "--threads", "2", "--seconds", "0.3")
    assert done.exit_code == 0 and "2 ranks on 1 host, threads" in done.output and "beyond" in done.output
    profile, = (folder / "cache").glob("world-2-*.json")
    planned = called("plan", "--compute", "0.25", "--size", "1e6", "-n", "2", "--profile", str(profile), "--svg", str(folder / "p.svg"))
    assert planned.exit_code == 0 and "measured here" in (folder / "p.svg").read_text()
    shutil.copy(profile, folder / "damaged.json")
    (folder / "damaged.json").write_bytes(profile.read_bytes()[:-40])
    failed = called("plan", "--compute", "1", "--size", "1", "--profile", str(folder / "damaged.json"))
    assert isinstance(failed.exception, ConfigError) and "Measure again" in str(failed.exception)
    alone = called("probe")
    assert isinstance(alone.exception, ConfigError) and "mpiexec -n 4 adjoint probe" in str(alone.exception)


def test_links_by_name_or_by_numbers():
    assert links_of("2e-6,1e9").bandwidth == 1e9
    for text in ("1,2,3", "fast", "-1,5", "nan,1"):
        with pytest.raises(ConfigError):
            links_of(text)
