"""The documents tell the truth: their Python sessions run, their links lead somewhere, and the files they name exist."""

import doctest
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks import table
from tools.mistakes import MISTAKE, PAGE, message_of

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "adjoint").rglob("*.md")])


def name_of(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_sessions_run(path):
    text = path.read_text(encoding="utf-8")
    sessions = [block for block in re.findall(r"```(?:python|pycon)\n(.*?)```", text, re.DOTALL) if ">>>" in block]
    names = {"__name__": "__main__"}
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    printed = []
    with np.printoptions(legacy=False):
        for number, session in enumerate(sessions, 1):
            test = doctest.DocTestParser().get_doctest(session, names, f"{name_of(path)}, session {number}", str(path), 0)
            runner = doctest.DocTestRunner(optionflags=flags)
            runner.run(test, out=printed.append, clear_globs=False)
            names = test.globs
    assert not printed, "".join(printed)


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(path):
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("https://", "#")):
            assert (path.parent / target.partition("#")[0]).exists(), f"{name_of(path)} links to {target}"
        assert not target.startswith("http://"), f"{name_of(path)} links to {target} without TLS"


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_named_files_exist(path):
    text = path.read_text(encoding="utf-8")
    for named in re.findall(r"`((?:adjoint|tests|tools|docs|examples|benchmarks)/[A-Za-z0-9_./-]+)`", text):
        assert list(ROOT.glob(named.rstrip("/"))) or "latest.json" in named, f"{name_of(path)} names {named}"


def test_what_a_repository_needs_is_there():
    for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE", "Makefile", ".ci/run"):
        assert (ROOT / name).stat().st_size > 0


def test_the_catalogue_of_errors_is_what_its_programs_raise():
    text = PAGE.read_text(encoding="utf-8")
    mistakes = list(MISTAKE.finditer(text))
    assert len(mistakes) >= 20
    for mistake in mistakes:
        found = message_of(mistake["code"])
        assert found == mistake["message"], f"{mistake['code']}\nraises\n{found}\nRun python -m tools.mistakes, and read what changed."
        assert len(found.splitlines()) <= 12 and "\n  at " in found


def test_figures_of_the_readme_are_measured():
    block = table.BLOCK.search((ROOT / "README.md").read_text(encoding="utf-8"))
    assert block is not None and block[0] == table.block(table.stored()), "run python -m benchmarks.table"


def test_the_table_of_figures_says_what_the_results_say():
    ours, jax = {"median": 4.4e-7, "error": 1e-16, "made": 0.0234}, {"median": 3.7e-6, "made": 1.5}
    rows = [{"row": "gradient of f", "contestants": {"adjoint": ours, "jax": jax},
             "best_peer": "jax", "ratio": 8.41, "flops": 100.0},
            {"row": "large", "contestants": {"adjoint": {"median": 1e-3, "error": 1e-6}}, "best_peer": None, "ratio": 0.0,
             "flops": 4e8},
            {"row": "import adjoint with numpy, ms", "numpy": 100.2, "adjoint": 130.1}]
    machine = {"processor": "a processor", "python": "3.11.7", "versions": {"numpy": "2.4.1"}}
    text = table.block({"machine": machine, "threads": 2, "rows": rows, "peak": 5e11})
    assert "| gradient of f | 0.440 us | 3.70 us (jax) | 8.41 | 1e-16 | 23.4 ms / 1.50 s / - |" in text
    assert "| large | 1.00 ms (80 % of peak) | - | - | 1e-06 | - / - / - |" in text
    assert "* import adjoint with numpy: 130 ms, `import numpy` alone 100 ms." in text and "a processor, 2 threads" in text


def test_code_shown_from_the_package_is_its_code():
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "adjoint").rglob("*.py")]
    shown = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "how_it_works.md").read_text(encoding="utf-8"), re.DOTALL)
    assert shown and all(any(code in source for source in sources) for code in shown if ">>>" not in code)
