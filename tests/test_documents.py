"""The documents tell the truth: their Python sessions run, their links lead somewhere, and the files they name exist."""

import doctest
import re
from pathlib import Path

import numpy as np
import pytest

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
