"""docs/mission.md: the rows of the lectures, each with the tests that prove it.

`python -m tools.mission` writes the column of tests from the marks `@pytest.mark.mission(row)`; names of rows, pages and errata are
written by hand. `problems` says what is wrong with a page; tests/test_mission.py holds that it finds nothing, and that it finds
what a mutant breaks. May import: nothing of the package.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "mission.md"
LECTURES = {"S0": range(1, 32), "S1": range(32, 67), "S2": range(67, 97), "S3": range(97, 124), "S4": range(124, 189)}
LATER = "to come"
ROW = re.compile(r"^\| (?P<row>\d+) \| (?P<claim>[^|]*) \| (?P<proof>[^|]*) \|$")
TEST = re.compile(r"`(tests/[\w/.]+::[\w:]+)`")
LINK = re.compile(r"\[[^\]]+\]\(([^)#]+)[^)]*\)")


def sources() -> dict[str, str]:
    """The text of every test file, by its path from the root."""
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in sorted((ROOT / "tests").rglob("test_*.py"))}


def rows_of(node: ast.AST) -> Iterator[int]:
    """The rows of the marks inside a decorator (or a pytestmark)."""
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "mission":
            yield from (ast.literal_eval(argument) for argument in call.args)


def tests_in(path: str, text: str) -> Iterator[tuple[str, set[int]]]:
    """Each test of a file with the rows that it proves; marks of a class and of the whole file count for all inside."""
    tree = ast.parse(text, filename=path)
    whole = {row for node in tree.body if isinstance(node, ast.Assign)
             and any(isinstance(name, ast.Name) and name.id == "pytestmark" for name in node.targets) for row in rows_of(node)}

    def inside(body: list[ast.stmt], prefix: str, marked: set[int]) -> Iterator[tuple[str, set[int]]]:
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                rows = marked | {row for decorator in node.decorator_list for row in rows_of(decorator)}
                if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
                    yield from inside(node.body, f"{prefix}::{node.name}", rows)
                elif isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                    yield f"{prefix}::{node.name}", rows
    yield from inside(tree.body, path, whole)


def marked_tests(texts: dict[str, str]) -> dict[str, set[int]]:
    """The rows of every test of these files, in the order of the files."""
    return {test: rows for path, text in texts.items() for test, rows in tests_in(path, text)}


def rows_of_page(page: str) -> Iterator[tuple[str, int, str, str]]:
    """(lecture, row, claim, proof) of each line of the tables."""
    lecture = ""
    for line in page.splitlines():
        if line.startswith("## "):
            lecture = line[3:5]
        if found := ROW.match(line):
            yield lecture, int(found["row"]), found["claim"].strip(), found["proof"].strip()


def problems(page: str, texts: dict[str, str], due: frozenset[int] = frozenset()) -> list[str]:
    """What is wrong with a page beside these test files: one sentence each. Rows in `due` may not be to come."""
    marked = marked_tests(texts)
    listed = list(rows_of_page(page))
    found = []
    order = [row for _, row, _, _ in listed]
    found += [f"row {row} is missing" for row in range(1, 189) if row not in order]
    found += [f"row {row} stands {order.count(row)} times" for row in sorted(set(order)) if order.count(row) > 1]
    for lecture, row, claim, proof in listed:
        if row not in LECTURES.get(lecture, ()):
            found.append(f"row {row} stands under {lecture!r}")
        if not claim:
            found.append(f"row {row} has no claim")
        found += _problems_of_proof(row, proof, marked, due)
    named = {row: set(TEST.findall(proof)) for _, row, _, proof in listed}
    found += [f"{test} proves row {row}, and the row does not name it" for test, rows in marked.items() for row in sorted(rows)
              if test not in named.get(row, set())]
    return found


def _problems_of_proof(row: int, proof: str, marked: dict[str, set[int]], due: frozenset[int]) -> Iterator[str]:
    tests, pages = TEST.findall(proof), LINK.findall(proof)
    for test in tests:
        if test not in marked:
            yield f"row {row} names {test}, which is no test"
        elif row not in marked[test]:
            yield f"row {row} names {test}, which carries no mark of that row"
    yield from (f"row {row} names the page {name}, which does not exist" for name in pages if not (PAGE.parent / name).is_file())
    if not tests and not pages and proof != LATER:
        yield f"row {row} names neither test nor page"
    if LATER in proof and (tests or pages):
        yield f"row {row} is proven and to come"
    if LATER in proof and row in due:
        yield f"row {row} is due"


def written(page: str, texts: dict[str, str]) -> str:
    """The page with its column of tests as the marks have it; links to pages stay where they are."""
    proofs: dict[int, list[str]] = {}
    for test, rows in marked_tests(texts).items():
        for row in rows:
            proofs.setdefault(row, []).append(f"`{test}`")

    def line(text: str) -> str:
        if not (found := ROW.match(text)):
            return text
        pages = [whole[0] for whole in LINK.finditer(found["proof"])]
        proof = "; ".join([*pages, *proofs.get(int(found["row"]), [])]) or LATER
        return f"| {found['row']} | {found['claim'].strip()} | {proof} |"
    return "\n".join(map(line, page.split("\n")))


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), sources()), encoding="utf-8")
