"""Records: docs/evidence/<target>.json, written whole or not at all, and what a test asks of them.

A record is current while the digest of the sources it was made from is that of the sources as they stand.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import re
from pathlib import Path
from typing import Any

from adjoint.train import files

from . import sources
from .machine import ROOT, commit_of, machine, versions
from .target import Figure, Quick, Result, Target

FOLDER = ROOT / "docs" / "evidence"


def sources_of(target: Target) -> dict[str, Any]:
    """The modules that the target is made of, and their digest."""
    modules = sources.closure(sources.modules_of(list(target.sources())))
    return {"digest": sources.digest(modules), "modules": modules}


def record_of(target: Target, result: Result, made_of: dict[str, Any], seconds: float) -> dict[str, Any]:
    """All that is kept of a run; made_of: its sources as they stood when it began."""
    commit, changed = commit_of([sources.file_of(name) for name in made_of["modules"]])
    for figure in result.figures:
        if not math.isfinite(figure.found):
            raise ValueError(f"{target.name}: {figure.name} is {figure.found}")
    return {
        "target": target.name, "title": target.title, "asked": target.asked, "recipe": target.recipe,
        "figures": [{**dataclasses.asdict(figure), "asked": figure.asked, "reached": figure.reached} for figure in result.figures],
        "seeds": list(result.seeds), "seconds": round(seconds, 1),
        "made": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": versions(), "machine": machine(), "commit": commit, "changed_since": changed, "sources": made_of,
        "quick": {"losses": [float(x) for x in result.quick.losses], "tolerance": result.quick.tolerance},
        "curves": [dataclasses.asdict(curve.thinned()) for curve in result.curves], "notes": result.notes}


def path_of(name: str, folder: Path = FOLDER) -> Path:
    """Where the record of a target lies."""
    return folder / f"{name}.json"


def write(record: dict[str, Any], folder: Path = FOLDER) -> Path:
    """Write a record; whoever reads sees the old one or the new one."""
    folder.mkdir(parents=True, exist_ok=True)
    path = path_of(record["target"], folder)
    text = json.dumps(record, indent=1, allow_nan=False)
    files.write_whole(path, (_short_lists(text) + "\n").encode("utf-8"))
    return path


def _short_lists(text: str) -> str:
    """The JSON with lists of numbers on one line each: a curve is a line, not five hundred."""
    return re.sub(r"\[\n\s*([-+.\deE,\s]*?)\n\s*\]", lambda found: "[" + " ".join(found[1].split()) + "]", text)


def read(name: str, folder: Path = FOLDER) -> dict[str, Any] | None:
    """The record of a target, None if there is none."""
    path = path_of(name, folder)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def problems(target: Target, record: dict[str, Any] | None) -> list[str]:
    """Why this record is no evidence for the target as it stands; nothing if it is."""
    if record is None:
        return [f"{target.name}: there is no evidence; run python -m evidence {target.name}"]
    found = []
    made_of = sources_of(target)
    if record["sources"]["digest"] != made_of["digest"]:
        other = sorted(set(record["sources"]["modules"]) ^ set(made_of["modules"]))
        found.append(f"{target.name}: made from other sources" + (f" ({', '.join(other)})" if other else ""))
    if record["changed_since"]:
        found.append(f"{target.name}: made from sources that were never committed: {', '.join(record['changed_since'])}")
    found += [f"{target.name}: {f['name']} is {f['found']:.6g}, asked {f['asked']}" for f in record["figures"] if not f["reached"]]
    for figure in record["figures"]:
        if Figure(**{name: figure[name] for name in ("name", "found", "least", "most", "unit")}).reached != figure["reached"]:
            found.append(f"{target.name}: {figure['name']} is not what its own bounds say")
    return found


def compare(found: Quick, record: dict[str, Any]) -> list[str]:
    """Where the beginning of the run differs from the stored one."""
    stored = record["quick"]["losses"]
    if not found.losses or len(found.losses) != len(stored):
        return [f"{record['target']}: {len(found.losses)} losses, {len(stored)} are stored"]
    return [f"{record['target']}: step {step}: loss {ours!r}, stored {theirs!r}"
            for step, (ours, theirs) in enumerate(zip(found.losses, stored, strict=True), 1)
            if not abs(ours - theirs) <= record["quick"]["tolerance"] * abs(theirs)]
