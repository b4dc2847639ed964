"""What `adjoint launch`, `adjoint probe` and `adjoint plan` are asked for wrongly: a few lines, one remedy, and the status on the page."""

import shutil
import sys
from pathlib import Path

import msgspec
import pytest
import worlds

from adjoint.cli import main
from adjoint.distributed.profile import VERSION, Line, Profile

PROGRAM, WORK = Path(__file__).with_name("misuse.py"), ("plan", "--compute", "0.25", "--size", "1e6")
LINE = Line(1e-6, 1e9)
PROFILE = Profile(VERSION - 1, "threads", [0, 0], [], LINE, LINE, LINE, 1e9, 1e9, {})
FILES = {"empty": b"", "text": b"for a in b\n", "binary": b"\x00\x01\x02", "list": b"[1, 2]", "old": msgspec.json.encode(PROFILE)}

REFUSED = [
    (2, ("launch", PROGRAM), "-n"), (2, ("launch", "-n", "0", PROGRAM), "0 is not in the range"),
    (2, ("launch", "-n", "two", PROGRAM), "'two' is not a valid integer"), (2, ("launch", "-n", "2"), "PROGRAM"),
    (2, ("launch", "-n", "2", "--max-restarts", "-1", PROGRAM), "--max-restarts"),
    (2, ("launch", "-n", "2", "--hang-seconds", "nan", PROGRAM), "nan is not a finite number"),
    (1, ("launch", "-n", "3", "--nnodes", "2", PROGRAM), "3 ranks cannot be dealt evenly to 2 machines"),
    (1, ("launch", "-n", "2", "--nnodes", "2", "--hosts", "a", PROGRAM), "2 machines are asked for, 1 are named"),
    (1, ("launch", "-n", "2", "nothing.py"), "there is no program 'nothing.py'"),
    (1, ("launch", "-n", "2", "."), "there is no program '.'"),
    (1, ("launch", "-n", "2", "text"), "text is no Python program: line 1: expected ':'"),
    (1, ("launch", "-n", "2", "binary"), "binary is no Python program"),
    (2, ("probe", "--threads", "1"), "1 is not in the range"), (2, ("probe", "--threads", "5000"), "5000 is not in the range"),
    (2, ("probe", "--seconds", "nan"), "nan is not a finite number"), (1, ("probe",), "a world of 1, expected two ranks at least"),
    (1, ("plan",), "how much work a step is was not said"), (1, ("plan", "--compute", "1"), "how much work a step is was not said"),
    (2, ("plan", "--compute", "0"), "--compute"), (2, ("plan", "--size", "-1"), "--size"), (2, ("plan", "--task", "mnist"), "--task"),
    (2, ("plan", "--compute", "nan"), "nan is not a finite number"), (2, (*WORK, "--jitter", "nan"), "nan is not a finite number"),
    (2, (*WORK, "--overlap", "2"), "--overlap"), (2, (*WORK, "--moments", "-1"), "--moments"),
    *((1, (*WORK, "-n", words), f"--workers is '{words}'") for words in ("0", "2.5", "-4", "", "4,", "four")),
    (1, (*WORK, "-n", "99999999999"), "workers is 99999999999, expected a whole number from 1 to 10000000"),
    (1, (*WORK, "--link", "fast"), "the link is 'fast'"), (1, (*WORK, "--link", "nan,1"), "latency is nan, expected a number >= 0"),
    (1, (*WORK, "--link", "1e-6,0"), "bandwidth is 0.0, expected a number > 0"),
    (2, (*WORK, "--profile", "nothing.json"), "'nothing.json' does not exist"), (2, (*WORK, "--profile", "."), "is a directory"),
    (1, (*WORK, "--profile", "empty"), "empty is not used"), (1, (*WORK, "--profile", "text"), "text is not used"),
    (1, (*WORK, "--profile", "binary"), "binary is not used"), (1, (*WORK, "--profile", "list"), "list is not used"),
    (1, (*WORK, "--profile", "old"), "old is not used: version 0, expected 1"),
    (1, (*WORK, "--profile", "old", "--link", "home"), "--link home and --profile old, expected one of them"),
    (1, ("plan", "--compute", "1e308", "--size", "1"), "compute is 1e+308, expected a number > 0 and <= 1e+09"),
    (1, ("plan", "--compute", "1", "--size", "1e300"), "size is 1e+300, expected a number >= 0 and <= 1e+18"),
    (1, (*WORK, "-n", "4", "--svg", "nowhere/plan.svg"), "--svg nowhere/plan.svg cannot be written: No such file or directory"),
]


def test_the_command_without_click_says_what_to_install():
    status, output = worlds.run([sys.executable, "-c", "import sys; sys.modules['click'] = None; import adjoint.__main__"])
    assert status == 1 and "Traceback" not in output and "pip install 'adjoint[cli]'" in output.splitlines()[1], output


@worlds.every_runtime
@pytest.mark.skipif(shutil.which("ssh") is None, reason="there is no ssh on this machine")
def test_machines_that_cannot_be_reached_end_the_launch(runtime):
    status, lines = worlds.launched(runtime, "-n", "2", "--hosts", "nowhere.invalid,elsewhere.invalid", PROGRAM, seconds=60)
    assert status in (255, 1) and any("Could not resolve hostname" in line for line in lines), lines
    assert "launch: no rank was seen from here; each machine must answer ssh without a question: ssh nowhere.invalid true" in lines


@pytest.mark.parametrize(("status", "words", "said"), REFUSED, ids=lambda part: Path(part[0]).name if isinstance(part, tuple) else "")
def test_a_command_says_what_is_wrong_and_what_to_do(status, words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["adjoint", *map(str, words)])
    for name, content in FILES.items():
        Path(name).write_bytes(content)
    with pytest.raises(SystemExit) as ended:
        main()
    lines = capsys.readouterr().err.splitlines()
    assert ended.value.code == status and said in "\n".join(lines) and not any(".py:" in line for line in lines), lines
    if status == 2:
        assert lines[-1].startswith("Error: ") and any("--help" in line or "-h" in line for line in lines)
    else:
        assert len(lines) == 2 and lines[0].startswith("ConfigError: ") and lines[1].startswith("  ") and lines[1].endswith("."), lines
