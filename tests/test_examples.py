"""The examples run as they are, and print what they promise."""

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "examples"
PROMISED = {"adam_diverges.py": "Adam: x = +1.000000",
            "rosenbrock.py": "Newton: f = 0.0e+00 at [1. 1.]", "open_loop.py": "epoch 10",
            "inside_a_gradient.py": "straight through: [0. 4.]", "logistic.py": "Newton, 8 steps",
            "in_place.py": "its derivative in the strength: [0.   1.   1.   0.75]",
            "custom_rule.py": "rule: [0.5        0.25       0.16666667]"}


def test_every_example_is_tested():
    """Those that print what they promise, and models with a file of tests of their own in tests/examples."""
    models = {path.name.removeprefix("test_") for path in (Path(__file__).parent / "examples").glob("test_*.py")}
    assert {path.name for path in FOLDER.glob("*.py")} == set(PROMISED) | models


@pytest.mark.parametrize("name", sorted(PROMISED))
def test_it_runs(name, tmp_path):
    done = subprocess.run([sys.executable, "-W", "error", str(FOLDER / name)], cwd=tmp_path, capture_output=True, text=True, timeout=120,
                          check=False)
    assert done.returncode == 0, done.stderr
    assert PROMISED[name] in done.stdout and done.stderr == ""
