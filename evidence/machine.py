"""On what evidence was made: versions, processor, and the commit of the sources."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adjoint.compiler.threads import thread_count

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("numpy", "llvmlite", "adjoint", "torch", "scikit-learn")


def versions() -> dict[str, str]:
    """Python and the packages that are installed, by name."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """The processor's name, cores, and the threads of compiled functions."""
    name = platform.processor()
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = information.read_text(encoding="utf-8").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    return {"processor": name or platform.machine(), "cores": os.cpu_count(), "threads": thread_count()}


def commit_of(files: Sequence[Path]) -> tuple[str, list[str]]:
    """The last commit that changed one of these files, and those that differ from it now."""
    names = [str(path.relative_to(ROOT)) for path in files]

    def git(*words: str) -> str:
        return subprocess.run(["git", *words, "--", *names], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    changed = [line[3:] for line in git("status", "--porcelain").splitlines()]
    return git("log", "-1", "--format=%H").strip(), changed
