"""The command: trains, resumes, reports; errors are one message and a status, never a traceback."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest


def command(*arguments, folder, **options):
    return subprocess.run([sys.executable, "-m", "adjoint", *arguments], cwd=folder, capture_output=True, text=True, timeout=120,
                          check=False, **options)


def test_training_leaves_a_run_behind(tmp_path):
    done = command("train", "digits", "--epochs", "2", "--seed", "5", folder=tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    *_, trained, accuracy, report = done.stdout.splitlines()
    assert re.fullmatch(r"test accuracy \d\d\.\d\d %", accuracy) and float(accuracy.split()[2]) > 80
    assert report == f"report {os.path.join('runs', 'digits-1', 'report.html')}"
    run = tmp_path / "runs" / "digits-1"
    html = (run / "report.html").read_text(encoding="utf-8")
    time_in_report = re.search("Training time</dt><dd>([^<]*)<", html)[1]
    assert "Test accuracy" in html and trained == f"trained 110 steps in {time_in_report}"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2] and set(lines[0]["gradient_norms"]) >= {"0.weight", "4.bias"}
    assert json.loads((run / "config.json").read_text())["seed"] == 5
    assert list(run.glob("checkpoint-*.safetensors"))


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path):
    process = subprocess.Popen([sys.executable, "-m", "adjoint", "train", "digits", "--epochs", "12"], cwd=tmp_path,
                               stdout=subprocess.PIPE, text=True)
    metrics = tmp_path / "runs" / "digits-1" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not metrics.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130 and "interrupted at step" in output and "--resume" in output
    assert command("train", "digits", "--resume", folder=tmp_path).returncode == 0
    assert command("train", "digits", "--epochs", "12", folder=tmp_path).returncode == 0
    found, expected = (sorted((tmp_path / "runs" / f"digits-{n}").glob("checkpoint-*"))[-1] for n in (1, 2))
    script = "import sys, numpy as np; from adjoint import train\n" \
             "a, b = map(train.load, sys.argv[1:])\n" \
             "assert a.tensors.keys() == b.tensors.keys() and a.metadata['step'] == b.metadata['step']\n" \
             "assert all(np.array_equal(a.tensors[k], b.tensors[k]) for k in a.tensors)"
    subprocess.run([sys.executable, "-c", script, str(found), str(expected)], check=True, timeout=60)


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("place", ["adjoint.cli.fit", "adjoint.cli.load_digits"])
def test_an_interrupt_before_the_first_step_says_so_and_leaves_nothing(tmp_path, place):
    assert command("train", "digits", "--epochs", "1", folder=tmp_path).returncode == 0
    module, name = place.rsplit(".", 1)
    script = f"import signal, sys, {module} as module\nfrom adjoint.cli import main\n" \
             f"module.{name} = lambda *a, **k: signal.raise_signal(signal.SIGINT)\n" \
             "sys.argv = ['adjoint', 'train', 'digits', '--epochs', '2']\nmain()"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 130 and done.stderr.splitlines()[-1].startswith("interrupted") and "Traceback" not in done.stderr
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["digits-1"]
    (tmp_path / "runs" / "digits-2").mkdir()
    assert command("train", "digits", "--resume", folder=tmp_path).returncode == 0


@pytest.mark.parametrize("arguments, status, message", [
    (["train", "digits", "--epochs", "0"], 2, "--epochs"),
    (["train", "digits", "--batch", "0"], 2, "--batch"),
    *((["train", "digits", "--learning-rate", rate], 2, "--learning-rate") for rate in ("-1", "0", "nan", "inf", "-inf", "fast")),
    (["train", "digits", "--resume"], 1, "there is no run digits-<number>"),
    (["train", "fashion-mnist"], 2, "--data"),
    (["train", "fashion-mnist", "--data", "."], 1, "train-images-idx3-ubyte.gz is missing"),
    (["train", "mnist"], 2, "mnist"),
])
def test_errors_are_one_message(tmp_path, arguments, status, message):
    done = command(*arguments, folder=tmp_path)
    assert done.returncode == status and message in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 12


def test_resume_takes_no_other_options(tmp_path):
    done = command("train", "digits", "--resume", "--epochs", "3", folder=tmp_path)
    assert done.returncode == 1 and "it was given epochs" in done.stderr


def test_help_and_version(tmp_path):
    assert "fashion-mnist" in command("train", "--help", folder=tmp_path).stdout
    assert re.fullmatch(r"adjoint, version \d+\.\d+\.\d+\s*", command("--version", folder=tmp_path).stdout)


def test_an_error_under_the_command_names_no_line_of_other_packages(tmp_path):
    done = command("train", "digits", "--epochs", "1", "--learning-rate", "1e30", folder=tmp_path)
    assert done.returncode == 1 and "born in " in done.stderr and ".py" not in done.stderr, done.stderr
