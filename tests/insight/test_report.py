"""The report: one safe file that says what the run did, whatever the names and numbers in it are."""

import base64
import hashlib
import json
import re
import shutil
import struct
import subprocess
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest

from adjoint.errors import ConfigError
from adjoint.insight import png, render, write_report
from adjoint.insight.report import KEYS, number

EVIL = "</script><img src=x onerror=\"alert('1')\">&\u2028"
VOID = {"meta", "img", "br", "rect", "path", "circle"}


def full_report(epochs=5, classes=3, size=(8, 8), mistakes=4):
    rng = np.random.default_rng(0)
    return {
        "title": "digits", "subtitle": "runs/digits-1",
        "headline": {"name": "Test accuracy", "value": "98.55", "unit": "%", "note": "1771 of 1797"},
        "metrics": {"Parameters": 50826, "Test loss": 0.31271}, "epochs": list(range(1, epochs + 1)),
        "loss": {"training": list(rng.random(epochs)), "validation": list(rng.random(epochs))},
        "error": {"validation": list(rng.random(epochs))},
        "gradient_norms": {name: list(rng.random(epochs)) for name in ("0.weight", "0.bias", "2.weight", "2.bias")},
        "confusion": rng.integers(0, 9, (classes, classes)), "classes": [str(index) for index in range(classes)],
        "mistakes": {"images": rng.random((mistakes, *size)), "labels": rng.integers(0, classes, mistakes),
                     "predicted": rng.integers(0, classes, mistakes), "confidence": rng.random(mistakes), "total": mistakes},
        "config": {"batch": 64, "learning rate": 2e-3, "layers": [64, 256, 10], "shuffle": True, "stop": None},
        "timing": {"steps": 1.5, "validation": 0.25}, "environment": {"numpy": np.__version__},
    }


class Page(HTMLParser):
    """Collects elements, attributes and texts, and checks that every element is closed in order."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.texts, self.blocks = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open and self.open[-1] in ("script", "style"):
            self.blocks.append((self.open[-1], self.elements[-1][1], text))
        else:
            self.texts.append(text)


def test_a_full_report_shows_every_part():
    page = Page(render(full_report()))
    text = " ".join(page.texts)
    for part in ("digits", "98.55", "1771 of 1797", "50\u202f826", "0.3127", "Loss", "Error", "Confusion matrix",
                 "Misclassified images", "Gradient norm of every layer", "Configuration", "64, 256, 10", "0.002", "yes",
                 "none", "Where the time went", "1.75 s in all", "1.50 s · 85.7 %", "250 ms", "Environment"):
        assert part in text, part
    assert [attributes["data-chart"] for tag, attributes in page.elements if "data-chart" in attributes] == \
        ["loss", "error", "norms"]


@pytest.mark.parametrize("key", [key for key in KEYS if key != "title"])
def test_every_part_may_be_missing(key):
    report = full_report()
    del report[key]
    if key == "epochs":
        for curves in ("loss", "error", "gradient_norms"):
            del report[curves]
    Page(render(report))
    Page(render({"title": "nothing else"}))


def test_the_page_fetches_nothing_and_its_policy_lets_in_exactly_its_own_code():
    text = render(full_report())
    page = Page(text)
    policy = next(attributes["content"] for tag, attributes in page.elements
                  if attributes.get("http-equiv") == "Content-Security-Policy")
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    used = {base64.b64encode(hashlib.sha256(block.encode()).digest()).decode() for tag, attributes, block in page.blocks
            if attributes.get("type") != "application/json"}
    assert used == allowed and len(used) == 4
    assert "default-src 'none'" in policy and "unsafe" not in policy
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") or name in ("style", "href", "action") for name in attributes), (tag, attributes)
        assert attributes.get("src", "data:").startswith("data:image/png;base64,") or "src" not in attributes
        assert tag not in ("link", "iframe", "object", "form", "base")
    # one address in all: the comment that names uPlot's home
    assert re.findall(r"https?://[^\s\")]+", text) == ["https://github.com/leeoniya/uPlot"]


def test_texts_cannot_become_markup():
    report = full_report()
    hostile = {**report, "title": EVIL, "subtitle": EVIL, "metrics": {EVIL: EVIL}, "config": {EVIL: [EVIL]},
               "headline": dict.fromkeys(("name", "value", "unit", "note"), EVIL), "classes": [EVIL] * 3,
               "loss": {EVIL: report["loss"]["training"]}, "timing": {EVIL: 1.0}, "environment": {EVIL: EVIL},
               "gradient_norms": {EVIL: report["loss"]["training"]}}
    plain, evil = Page(render(report)), Page(render(hostile))
    assert EVIL in " ".join(evil.texts)
    count = {tag: sum(one == tag for one, _ in plain.elements) for tag in ("script", "img", "style", "section")}
    assert count == {tag: sum(one == tag for one, _ in evil.elements) for tag in count}
    run = next(json.loads(block) for _, attributes, block in evil.blocks if attributes.get("type"))
    assert run["charts"]["loss"]["series"][0]["label"] == EVIL


def test_curves_keep_their_numbers_and_gaps():
    report = full_report(epochs=3)
    report["loss"] = {"training": [1.5, float("nan"), None], "validation": np.array([1, np.inf, 2], np.float32)}
    run = next(json.loads(block) for _, attributes, block in Page(render(report)).blocks if attributes.get("type"))
    assert [one["values"] for one in run["charts"]["loss"]["series"]] == [[1.5, None, None], [1.0, None, 2.0]]
    assert run["epochs"] == [1, 2, 3]
    assert np.allclose(run["charts"]["error"]["series"][0]["values"], 100 * np.array(report["error"]["validation"]))
    norms = run["charts"]["norms"]
    assert [(one["depth"], one["dashed"]) for one in norms["series"]] == [(0, False), (0, True), (1, False), (1, True)]


def test_the_axis_is_logarithmic_only_where_that_is_possible():
    report = full_report(epochs=2)
    for values, scale in (([1.0, 0.01], "log"), ([1.0, 0.5], "linear"), ([1.0, 0.0], "linear"), ([None, None], "linear")):
        report["loss"] = {"training": values}
        assert f'data-chart="loss" data-scale="{scale}"' in render(report)


def decode(content):
    """The pixels of a grey PNG without filters."""
    width, height = struct.unpack(">II", content[16:24])
    length = struct.unpack(">I", content[33:37])[0]
    rows = np.frombuffer(zlib.decompress(content[41:41 + length]), np.uint8).reshape(height, width + 1)
    assert not rows[:, 0].any() and zlib.crc32(content[37:41 + length]) == struct.unpack(
        ">I", content[41 + length:45 + length])[0]
    return rows[:, 1:]


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (1, 1), (3, 200)])
def test_pictures_show_the_images(size):
    grey = np.random.default_rng(1).integers(0, 256, size, np.uint8)
    assert np.array_equal(decode(png.encode(grey)), grey)
    report = full_report(size=size, mistakes=1)
    report["mistakes"]["images"] = grey[None]
    picture = next(attributes for tag, attributes in Page(render(report)).elements if tag == "img")
    assert np.array_equal(decode(base64.b64decode(picture["src"].partition(",")[2])), 255 - grey)
    assert int(picture["width"]) % size[1] == 0 and int(picture["height"]) % size[0] == 0
    report["mistakes"]["images"] = grey[None] / 255
    assert render(report).count(picture["src"]) == 1


def test_many_mistakes_show_the_surest():
    report = full_report(mistakes=200)
    report["mistakes"]["total"] = 1674
    text = render(report)
    assert text.count('class="digit"') == 60 and "the 60 most confident of 1674" in text
    shown = [int(sure) for sure in re.findall(r"(\d+) % sure", text)]
    assert shown == sorted(shown, reverse=True)


def test_no_mistakes_at_all():
    report = full_report(mistakes=0)
    report["confusion"] = np.diag([5, 0, 7])
    text = render(report)
    assert "None at all." in text and "–" in text       # a class without examples has no recall


@pytest.mark.parametrize("change, message", [
    ({"lose": {}}, "Did you mean 'loss'"), ({"xyzzy": 1}, "unknown key"), ({"title": ""}, "title"),
    ({"loss": {"training": [1.0]}}, "1 values for 5 epochs"), ({"confusion": np.ones((2, 3))}, "confusion has shape"),
    ({"classes": ["a"]}, "1 classes"),
    ({"mistakes": {"images": np.ones((2, 8, 8)), "labels": [1], "predicted": [1], "confidence": [1.0]}}, "lengths"),
])
def test_parts_that_do_not_fit(change, message):
    with pytest.raises(ConfigError, match=message) as caught:
        render({**full_report(), **change})
    assert len(str(caught.value).splitlines()) <= 4


def test_numbers_are_readable():
    assert [number(value) for value in (3, 9999, 12345, -1234567, 0.00031234, np.float32(0.5), True, None, "a", (1, 2.5))] \
        == ["3", "9999", "12\u202f345", "-1\u202f234\u202f567", "0.0003123", "0.5", "yes", "none", "a", "1, 2.5"]


def test_the_file_is_written_whole_and_stays_small(tmp_path):
    write_report(tmp_path / "report.html", full_report(epochs=100, classes=10, mistakes=60))
    size = (tmp_path / "report.html").stat().st_size
    assert size < 150_000 and [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert render(full_report()) == render(full_report())


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs a browser")
def test_a_browser_draws_the_curves_and_refuses_nothing(tmp_path):
    write_report(tmp_path / "report.html", full_report())
    done = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr",
         f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000", "--dump-dom",
         (tmp_path / "report.html").as_uri()], capture_output=True, text=True, timeout=60)
    if "Written by Adjoint" not in done.stdout:
        pytest.skip("this browser may not open files of the temporary folder")
    assert done.stdout.count("<canvas") == 3
    assert "CONSOLE" not in done.stderr, done.stderr
