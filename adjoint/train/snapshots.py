"""Snapshots: every worker's state after each step in a file of its own, so that a killed worker costs no step that any of them has done.

Invariant: a step is committed once one worker's snapshot of it is whole; a snapshot is read by the rules of a checkpoint, or not at all.
A snapshot outlives its process, not a loss of power: that is what checkpoints are for. May import: errors, settings, files, checkpoint.
Read next: fit.py.
"""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError, ConfigError, explain
from ..settings import GENERATION, LAUNCH, integer, text
from . import checkpoint, files

_NAME = re.compile(r"snapshot-(\d{10})-(\d+)\.safetensors")


class Snapshots:
    """A folder in which each worker keeps its newest snapshot, one every `every` steps: fit(..., snapshots=Snapshots("runs/snapshots")).

    The folder may be one for all workers or one on each machine. Writing takes a copy and a checksum of model and optimizer, without
    waiting for a disk. A world started again by `adjoint launch` reads only what this launch has written.

    >>> kept = Snapshots("snapshots")
    >>> kept.save(7, {"weight": np.ones(2)}, {"step": 7})
    >>> kept.load().counter("step")
    7
    """

    def __init__(self, folder: str | os.PathLike, *, every: int = 1) -> None:
        if every < 1:
            raise ConfigError(explain(f"Snapshots: every is {every}, expected a number of steps of at least 1.",
                                      remedy="Write every=1, or more where a step is short."))
        self.folder, self.every, self.rank = Path(folder), every, 0
        self.launch = os.path.basename(text(LAUNCH) or "")
        os.makedirs(self.folder, exist_ok=True)

    def begin(self, rank: int, *, anew: bool) -> None:
        """Write as this worker; anew: forget every snapshot in the folder. Workers call it before they first wait for each other."""
        self.rank = rank
        for path in self.folder.glob(f".snapshot-*-{rank}.safetensors.*{files.PARTIAL}"):      # its writer was killed
            files.remove(path)
        for _, path in self._found() if anew else []:
            with contextlib.suppress(FileNotFoundError):        # another worker was quicker
                files.remove(path)

    def save(self, step: int, tensors: dict[str, np.ndarray], metadata: dict[str, Any]) -> None:
        """Write the state after a step, and then remove this worker's earlier ones. Raises CheckpointError (disk full, ...)."""
        path = self.folder / f"snapshot-{step:010d}-{self.rank}.safetensors"
        checkpoint.save(path, tensors, {**metadata, "launch": self.launch}, durable=False)
        for _, other in self._found(f"*-{self.rank}"):
            if other != path:
                files.remove(other)

    def load(self, expected: dict[str, np.ndarray] | None = None) -> checkpoint.Checkpoint | None:
        """The newest snapshot in the folder that is whole, whoever wrote it; None if there is none.

        Raises CheckpointError if it is of another architecture than `expected`.
        """
        again = integer(GENERATION, 0, least=0) > 0
        for _, path in sorted(self._found(), reverse=True):
            try:
                found = checkpoint.load(path)
            except CheckpointError as error:
                if path.exists():                               # else its worker has just replaced it
                    warnings.warn(f"a snapshot cannot be used: {str(error).splitlines()[0]}", checkpoint.CheckpointWarning, stacklevel=2)
                continue
            if again and found.metadata.get("launch") != self.launch:
                continue
            if expected is not None:
                checkpoint.check_expected(found, expected)
            return found
        return None

    def _found(self, which: str = "*") -> list[tuple[int, Path]]:
        found = ((_NAME.fullmatch(path.name), path) for path in self.folder.glob(f"snapshot-{which}.safetensors"))
        return [(int(match[1]), path) for match, path in found if match]
