"""docs/evidence/README.md: one line for each target, what was asked and what was found, written from the records alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .record import FOLDER, read
from .target import NAMES

HEAD = """# Evidence

Each target below was trained in full by `make evidence` and is repeated from its beginning by the tests, which also fail when the model or
optimizer sources are no longer those that a record was made from. The records (`*.json`) hold seeds, versions, machine, commit, sources and
curves. This page is written by `python -m evidence`.

| target | figure | asked | found | minutes | made |
|---|---|---|---|---|---|
"""


def _number(value: float, unit: str) -> str:
    if value >= 1e4 and value % 1 == 0:
        return f"{value:,.0f} {unit}".rstrip()
    text = f"{value:.3g}" if value and abs(value) < 1e-3 else f"{value:.5g}"
    return f"{text} {unit}".rstrip()


def _rows(name: str, record: dict[str, Any] | None) -> list[str]:
    if record is None:
        return [f"| {name} | | | none yet | | |"]
    rows = []
    for number, figure in enumerate(record["figures"]):
        first = f"[{record['title']}](#{name})" if number == 0 else ""
        last = f"{record['seconds'] / 60:.1f} | {record['made']}" if number == 0 else " | "
        found = _number(figure["found"], figure["unit"]) + ("" if figure["reached"] else " (**not reached**)")
        rows.append(f"| {first} | {figure['name']} | {figure['asked']} | {found} | {last} |")
    return rows


def _section(name: str, record: dict[str, Any]) -> list[str]:
    made = record["versions"]
    versions = ", ".join(f"{package} {version}" for package, version in made.items())
    machine = record["machine"]
    lines = ["", f"## {name}", "", record["asked"], "", record["recipe"], "", f"![{record['title']}]({name}.svg)", ""]
    lines += [f"* {key}: {value}" for key, value in record["notes"].items() if isinstance(value, str)]
    lines += [f"* seeds {', '.join(map(str, record['seeds']))}; {record['seconds']:.0f} s on {machine['processor']}, {machine['threads']} "
              f"threads; {versions}; sources of commit {record['commit'][:10]}: {', '.join(record['sources']['modules'])}."]
    return lines


def page(folder: Path = FOLDER) -> str:
    """The text of the page."""
    records = {name: read(name, folder) for name in NAMES}
    rows = [row for name, record in records.items() for row in _rows(name, record)]
    total = sum(record["seconds"] for record in records.values() if record)
    lines = [*rows, "", f"All together: {total / 60:.1f} minutes."]
    for name, record in records.items():
        if record is not None:
            lines += _section(name, record)
    return HEAD + "\n".join(lines) + "\n"


def write(folder: Path = FOLDER) -> None:
    """Write the page."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(page(folder), encoding="utf-8")
