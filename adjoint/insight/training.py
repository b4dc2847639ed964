"""What the report of a classification run says: made from the finished fit and the test examples.

Invariant: every number is computed from the parameters that the run ended with. May import: L0-L5, train. Read next: report.py.
"""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from ..compiler.threads import thread_count
from ..data import Dataset
from ..nn import named_parameters
from ..train.evaluate import confusion_matrix
from ..train.fit import Fit
from ..train.progress import duration
from .report import MOST_MISTAKES


def training_report(run: Fit, dataset: Dataset, logits: np.ndarray, *, title: str, subtitle: str, config: dict[str, Any]) -> dict[str, Any]:
    """The dict that `write_report` takes: curves, confusion, mistakes with their pictures, gradient norms, facts."""
    said = np.argmax(logits, axis=-1)
    right = int(np.count_nonzero(said == dataset.test_y))
    total = len(dataset.test_y)
    history = run.history
    curve = lambda name: [line[name] for line in history] if history and name in history[0] else []
    held = {"validation": curve("validation_loss")} if curve("validation_loss") else {}
    norms = {name: [line["gradient_norms"][name] for line in history] for name in (history[0]["gradient_norms"] if history else ())}
    parameters = sum(x.size for x in named_parameters(run.model).values())
    return {
        "title": title, "subtitle": subtitle,
        "headline": {"name": "Test accuracy", "value": f"{100 * right / total:.2f}", "unit": "%", "note": f"{right} of {total} right"},
        "metrics": _metrics(run, history, parameters),
        "epochs": curve("epoch"), "loss": {"training": curve("loss"), **held},
        "error": {"validation": curve("validation_error")} if curve("validation_error") else {},
        "gradient_norms": norms, "confusion": confusion_matrix(logits, dataset.test_y, len(dataset.classes)),
        "classes": list(dataset.classes), "mistakes": _mistakes(logits, said, dataset), "config": config, "timing": run.seconds,
        "environment": environment(),
    }


def _metrics(run: Fit, history: list[dict[str, Any]], parameters: int) -> dict[str, Any]:
    found: dict[str, Any] = {"Parameters": parameters, "Steps": run.steps}
    if history:
        found["Training loss"] = history[-1]["loss"]
        if "validation_error" in history[-1]:
            found["Validation error"] = f"{100 * history[-1]['validation_error']:.2f} %"
        found["Training time"] = duration(run.training_seconds)
        found["Examples per second"] = round(float(np.median([line["examples_per_second"] for line in history])))
    return found


def environment() -> dict[str, Any]:
    """What a figure of this run depends on: versions, processor, threads."""
    versions = {name: _version(name) for name in ("adjoint", "numpy", "llvmlite")}
    return {**versions, "python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}",
            "processor": _processor(), "threads": thread_count()}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    """The processor's name, which Linux tells only in a file."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _mistakes(logits: np.ndarray, said: np.ndarray, dataset: Dataset) -> dict[str, Any]:
    """The misclassified test examples, the most confident first."""
    wrong = np.flatnonzero(said != dataset.test_y)
    shifted = np.exp(logits[wrong] - logits[wrong].max(axis=-1, keepdims=True))
    confidence = 1.0 / shifted.sum(axis=-1)
    order = np.argsort(-confidence, kind="stable")[:MOST_MISTAKES]
    shown = wrong[order]
    return {"images": dataset.test_x[shown].reshape(-1, *dataset.image_shape), "labels": dataset.test_y[shown], "predicted": said[shown],
            "confidence": confidence[order], "total": len(wrong)}
