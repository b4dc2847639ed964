"""Progress: readable on a terminal of any width, sparse elsewhere, and never the reason why training stops."""

import doctest
import io
import re
import subprocess
import sys

import pytest

import adjoint.train.progress
from adjoint.train.progress import Progress, rate, sparkline

ANSI = re.compile(r"\x1b\[[0-9;]*[mK]")


class Terminal(io.StringIO):
    """A terminal of a given width; what stands in its last line can be asked."""

    encoding = "utf-8"

    def __init__(self, width=100, encoding="utf-8"):
        super().__init__()
        self.width, self.encoding = width, encoding

    def isatty(self):
        return True

    def lines(self):
        return [ANSI.sub("", part.split("\r")[-1]) for part in self.getvalue().split("\n")]


class Clock:
    """A clock that a test moves."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def run(stream, epochs=20, seconds=0.5, width=None, monkeypatch=None):
    clock = Clock()
    if width is not None:
        monkeypatch.setattr(Progress, "_width", lambda self: width)
    with Progress(epochs, stream=stream, clock=clock) as progress:
        for epoch in range(1, epochs + 1):
            clock.now += seconds
            progress.update(epoch, 2.0 / epoch, 0.5 / epoch, 3823)
            yield progress


def test_a_terminal_shows_one_live_line():
    stream = Terminal()
    for _ in run(stream, epochs=20):
        pass
    assert len(stream.lines()) == 2 and stream.lines()[1] == ""
    line = stream.lines()[0]
    for part in ("epoch 20/20", "loss 0.1000", "validation error  2.50 %", "7646 examples/s", "done"):
        assert part in line


def test_time_left_comes_from_recent_epochs():
    stream, clock = Terminal(), Clock()
    progress = Progress(100, stream=stream, clock=clock)
    for epoch in range(1, 51):
        clock.now += 2.0
        progress.update(epoch, 1.0)
    assert "1:40 left" in stream.lines()[-1]
    clock.now += 3600                           # the laptop slept
    progress.update(51, 1.0)
    for epoch in range(52, 90):
        clock.now += 2.0
        progress.update(epoch, 1.0)
    assert re.search(r"2\d s left", stream.lines()[-1])


def test_a_resumed_run_counts_only_its_own_epochs():
    stream, clock = Terminal(), Clock()
    progress = Progress(100, done=90, stream=stream, clock=clock)
    clock.now += 1
    progress.update(91, 1.0, examples=1000)
    assert "9.0 s left" in stream.lines()[-1] and "1000 examples/s" in stream.lines()[-1]


def test_a_clock_that_goes_back_shows_no_negative_time():
    stream, clock = Terminal(), Clock()
    progress = Progress(10, stream=stream, clock=clock)
    clock.now -= 3600
    progress.update(1, 1.0, examples=10)
    progress.update(10, 1.0, examples=10)
    assert "-" not in ANSI.sub("", stream.getvalue()).replace("─", "")


@pytest.mark.parametrize("width", [1, 5, 20, 30, 40, 60, 79, 80, 120, 300])
def test_no_line_is_wider_than_the_terminal(width, monkeypatch):
    stream = Terminal()
    for _ in run(stream, width=width, monkeypatch=monkeypatch):
        assert len(stream.lines()[-1]) < max(width, 2)
    if width >= 20:
        assert "epoch 20/20" in stream.lines()[0]


def test_elsewhere_about_ten_plain_lines():
    stream = io.StringIO()
    progresses = list(run(stream, epochs=100))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 10 and "\x1b" not in stream.getvalue() and "\r" not in stream.getvalue()
    assert lines[0].startswith("epoch  10/100  loss 0.2000") and "left" in lines[0] and "done" in lines[-1]
    progresses[0].message("test accuracy 98.50 %")
    assert stream.getvalue().endswith("\ntest accuracy 98.50 %\n")


def test_few_epochs_show_each():
    stream = io.StringIO()
    for _ in run(stream, epochs=3):
        pass
    assert len(stream.getvalue().splitlines()) == 3


def test_messages_leave_the_live_line_below(monkeypatch):
    stream = Terminal()
    progress = Progress(10, stream=stream)
    progress.update(1, 1.0)
    progress.message("checkpoint saved")
    assert stream.lines()[0] == "checkpoint saved" and "epoch  1/10" in stream.lines()[1]
    progress.close()
    progress.close()
    progress.message("done")
    assert stream.lines()[-2:] == ["done", ""]


def test_no_colour_and_dumb_terminals(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    for _ in run(stream):
        pass
    assert not re.search(r"\x1b\[[0-9;]*m", stream.getvalue())
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    for _ in run(stream):
        pass
    assert "\x1b" not in stream.getvalue()


def test_an_encoding_without_bars(monkeypatch):
    stream = Terminal(encoding="ascii")
    for progress in run(stream, width=120, monkeypatch=monkeypatch):
        progress.message("déjà vu")
    assert stream.getvalue().isascii() and "====" in stream.getvalue()


def test_losses_that_are_not_finite():
    stream = Terminal()
    progress = Progress(5, stream=stream)
    for epoch, loss in enumerate([float("nan"), float("inf"), 0.0, -1.0, 3.0], 1):
        progress.update(epoch, loss, float("nan"))
    assert "epoch 5/5" in stream.lines()[-1]


class Broken(Terminal):
    """A terminal whose reader goes away after some characters."""

    def __init__(self, error, after):
        super().__init__()
        self.error, self.after, self.calls = error, after, 0

    def write(self, text):
        self.calls += 1
        if self.calls > self.after:
            raise self.error
        return super().write(text)


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(5, "gone"), ValueError("I/O operation on closed file")])
def test_a_broken_stream_does_not_stop_training(error):
    stream = Broken(error, after=3)
    for progress in run(stream, epochs=50, seconds=1):
        progress.message("hello")
    assert stream.calls == 4                    # tried once more, then never again


def test_closed_and_missing_streams(monkeypatch):
    stream = io.StringIO()
    stream.close()
    for _ in run(stream):
        pass
    monkeypatch.setattr(sys, "stdout", None)
    for progress in run(None):
        progress.message("hello")


def test_a_pipe_closed_by_its_reader_ends_with_success():
    program = ("import sys\nfrom adjoint.train.progress import Progress\n"
               "with Progress(20000) as progress:\n"
               "    for epoch in range(1, 20001): progress.update(epoch, 1.0); progress.message('line ' * 20)\n"
               "sys.stderr.write('finished')")
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child.stdout.read(100)
    child.stdout.close()
    stderr = child.stderr.read()
    child.stderr.close()
    assert child.wait(60) == 0 and stderr == b"finished"


def test_sparkline_and_rate():
    assert sparkline([1, 10, 100]) == "▁▄█" and sparkline([1]) == "" and sparkline([2, 2]) == "▁▁"
    assert len(sparkline(list(range(100)))) == 12 and sparkline([-1, 0, 1]) == "▁▄█"
    assert rate(9999) == "9999" and rate(3.2e9) == "3.2 G"


def test_examples_in_the_docstrings():
    assert doctest.testmod(adjoint.train.progress).failed == 0
