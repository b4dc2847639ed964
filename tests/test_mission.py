"""docs/mission.md agrees with the marks of the tests, in both directions; checks that find nothing find what is broken on purpose.

How a test proves a row: it carries `@pytest.mark.mission(row)`, takes the fixture `figure` and asserts a number with it (figures.py);
`python -m tools.mission` then names it on the page. Every call of `figure` refuses its own mutants, so the tests below need only show
that those refusals work, and conftest.py fails a marked test that asserted no figure.
"""

import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from figures import NOTES, Figure

from tools import mission

TEXTS = mission.sources()
TEXT = mission.PAGE.read_text(encoding="utf-8")
DUE = frozenset([*range(1, 12), *range(17, 20), 22, 34, *range(41, 44), *range(49, 58), *range(67, 70), *range(72, 78), 80, 82,
                 *range(85, 88), 90, 91, 98, 101, *range(103, 124), *range(126, 129), *range(133, 137), 140, 141, 143, 144, 146, 150, 154,
                 *range(158, 162), *range(169, 172), 174, *range(176, 189)])        # built: these may not be to come again
FIRST = "tests/test_mission_numbers.py::test_the_value_of_the_survey_function"


def test_the_page_agrees_with_the_tests():
    assert mission.problems(TEXT, TEXTS, DUE) == [], "run python -m tools.mission, and read what changed"


def test_the_page_is_what_the_generator_writes():
    assert mission.written(TEXT, TEXTS) == TEXT, "run python -m tools.mission, and read what changed"


def test_every_erratum_is_stated():
    stated = TEXT[TEXT.index("## Errata"):TEXT.index("## S0")]
    rows = " ".join(re.findall(r"^\* \*\*Rows? ([^*]+)\*\*: \S", stated, re.MULTILINE))
    assert set(map(int, re.findall(r"\d+", rows))) == {34, 65, 69, 86, 103, 133, 146, 186}


def line_of(row):
    return next(line for line in TEXT.splitlines() if line.startswith(f"| {row} | ") and mission.ROW.match(line))


def without(row):
    return TEXT.replace(line_of(row) + "\n", "")


MUTANTS = {
    "a row removed": (lambda: (without(99), TEXTS), "row 99 is missing"),
    "the last row removed": (lambda: (without(188), TEXTS), "row 188 is missing"),
    "a row twice": (lambda: (TEXT.replace(line_of(120), line_of(120) + "\n" + line_of(120)), TEXTS), "row 120 stands 2 times"),
    "a row under another lecture": (lambda: (without(40).replace(line_of(67), line_of(67) + "\n" + line_of(40)), TEXTS),
                                    "row 40 stands under 'S2'"),
    "a row without its claim": (lambda: (TEXT.replace(line_of(64), "| 64 |  | to come |"), TEXTS), "row 64 has no claim"),
    "a row without proof": (lambda: (TEXT.replace(line_of(64), "| 64 | H(n) | surely |"), TEXTS), "row 64 names neither test nor page"),
    "a test misnamed": (lambda: (TEXT.replace(f"`{FIRST}`", f"`{FIRST}s`"), TEXTS), f"row 17 names {FIRST}s, which is no test"),
    "a test left out": (lambda: (TEXT.replace(line_of(17), "| 17 | value | to come |"), TEXTS),
                        f"{FIRST} proves row 17, and the row does not name it"),
    "a test of another row": (lambda: (TEXT.replace(line_of(99), f"| 99 | forward | `{FIRST}` |"), TEXTS),
                              f"row 99 names {FIRST}, which carries no mark of that row"),
    "a page that is not there": (lambda: (TEXT.replace("(reading.md#optimization)", "(courses.md#optimization)"), TEXTS),
                                 "row 123 names the page courses.md, which does not exist"),
    "proven and to come": (lambda: (TEXT.replace(line_of(17), line_of(17)[:-2] + "; to come |"), TEXTS), "row 17 is proven and to come"),
    "a mark dropped": (lambda: (TEXT, altered("@pytest.mark.mission(17)\n", "")),
                       f"row 17 names {FIRST}, which carries no mark of that row"),
    "a mark added": (lambda: (TEXT, altered("@pytest.mark.mission(17)\n", "@pytest.mark.mission(17, 99)\n")),
                     f"{FIRST} proves row 99, and the row does not name it"),
    "a test renamed": (lambda: (TEXT, altered("def test_the_value_of_the_survey_function(", "def test_a_value(")),
                       f"row 17 names {FIRST}, which is no test"),
    "a test made a helper": (lambda: (TEXT, altered("def test_the_value_of_the_survey_function(", "def value(")),
                             f"row 17 names {FIRST}, which is no test"),
}


def altered(old, new):
    path = FIRST.partition("::")[0]
    assert old in TEXTS[path]
    return TEXTS | {path: TEXTS[path].replace(old, new)}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_page_is_noticed(name):
    broken, sentence = MUTANTS[name]
    assert sentence in mission.problems(*broken())


def test_a_row_that_is_due_is_noticed():
    page = TEXT.replace(line_of(17), "| 17 | value | to come |")
    assert "row 17 is due" in mission.problems(page, TEXTS, frozenset({17})) and "row 17 is due" not in mission.problems(page, TEXTS)


def test_the_generator_repairs_the_column():
    page = TEXT.replace(line_of(17), "| 17 | The value | to come |")
    assert f"| 17 | The value | `{FIRST}` |" in mission.written(page, TEXTS)


def test_marks_of_classes_files_and_parameters_are_read():
    text = ("pytestmark = pytest.mark.mission(1)\n@pytest.mark.mission(2, 3)\nclass TestA:\n    @pytest.mark.mission(4)\n"
            "    def test_b(self): ...\n@pytest.mark.parametrize('k', [pytest.param(5, marks=pytest.mark.mission(5))])\n"
            "def test_c(k): ...\ndef helper(): ...\n")
    assert mission.marked_tests({"tests/test_x.py": text}) == {"tests/test_x.py::TestA::test_b": {1, 2, 3, 4},
                                                               "tests/test_x.py::test_c": {1, 5}}


def figure():
    return Figure("this test", (0,))


REFUSED = {
    "a wrong figure": lambda f: f.equal(1.0 + 1e-11, 1.0),
    "one wrong element": lambda f: f.equal([1.0, 2.0, 3.1], [1.0, 2.0, 3.0], rel=1e-3),
    "a wrong shape": lambda f: f.equal([1.0, 1.0], 1.0),
    "not a number": lambda f: f.equal(math.nan, 1.0),
    "expecting no number": lambda f: f.equal(math.nan, math.nan),
    "nothing": lambda f: f.equal([], []),
    "a tolerance as wide as the figure": lambda f: f.equal(1e-9, 2e-9, abs=1e-8),
    "a tolerance that takes any order": lambda f: f.equal([1.0, -1.0], [1.0, -1.0], abs=1.5),
    "a wide tolerance beside zero": lambda f: f.equal(0.0, 0.0, abs=0.1),
    "a relative tolerance of all": lambda f: f.equal(1.9, 1.0, rel=1.0),
    "above the limit": lambda f: f.at_most(1.1, 1.0),
    "far below the limit": lambda f: f.at_most(1e-9, 1.0),
    "a negative number below a limit": lambda f: f.at_most(-1.0, 1.0),
    "no limit": lambda f: f.at_most(1.0, math.inf, slack=math.inf),
    "not a number below a limit": lambda f: f.at_most([0.5, math.nan], 1.0),
    "below the least": lambda f: f.at_least(0.9, 1.0),
    "far above the least": lambda f: f.at_least(1.0, 1e-3),
    "not a number above the least": lambda f: f.at_least(math.nan, 1.0),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_figure_that_proves_nothing_is_refused(name):
    with pytest.raises(AssertionError):
        REFUSED[name](figure())


def test_a_figure_that_holds_is_noted():
    one, before = figure(), len(NOTES)
    one.equal(np.float32(0.1), 0.1, rel=1e-7)
    one.equal([0.0, 2.0], [0.0, 2.0])
    one.equal(0.0, 0.0)
    one.at_most(1e-13, 1e-12)
    one.at_most(0.0, 1.0, slack=math.inf)
    one.at_least([3.0, 5.0], 2.5)
    assert one.count == 6 and [note.relation for note in NOTES[before:]] == ["equal"] * 3 + ["at most"] * 2 + ["at least"]
    del NOTES[before:]


def test_a_marked_test_without_a_figure_fails(tmp_path):
    here = Path(__file__).parent
    (tmp_path / "conftest.py").write_text((here / "conftest.py").read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "test_marked.py").write_text("import pytest\n@pytest.mark.mission(1)\ndef test_a(): assert True\n"
                                             "@pytest.mark.mission(1)\ndef test_b(figure): figure.equal(2.0, 2.0)\n"
                                             "@pytest.mark.mission(1)\ndef test_c(figure): pass\n"
                                             "@pytest.mark.mission(1)\ndef test_d(figure): pytest.skip('no data')\n")
    done = subprocess.run([sys.executable, "-m", "pytest", "-o", "pythonpath=" + str(here), "-o", "markers=mission(row): a row",
                           "-p", "no:cacheprovider", "-q", str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "2 failed, 1 passed, 1 skipped" in done.stdout, done.stdout
