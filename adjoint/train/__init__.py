"""Training: checkpoints that are never half written, run folders, progress in the terminal.

Invariant: nothing that a run needs to go on is lost by a failure, an interrupt or a kill.
May import: errors, data, nn, optim. Read next: checkpoint.py, run_folder.py.
"""

from .checkpoint import Checkpoint, CheckpointWarning, load, load_latest, save, save_latest
from .progress import Progress
from .random_state import restore_generator, save_generator
from .run_folder import RunFolder
from .weights import load_tensors

__all__ = ["Checkpoint", "CheckpointWarning", "Progress", "RunFolder", "load", "load_latest", "load_tensors",
           "restore_generator", "save", "save_generator", "save_latest"]
