"""Training: fit and its open loop, checkpoints that are never half written, run folders, progress in the terminal.

Invariant: nothing that a run needs to go on is lost by a failure, an interrupt or a kill.
May import: L0-L5, data. Read next: fit.py, checkpoint.py, run_folder.py.
"""

from .checkpoint import Checkpoint, CheckpointWarning, load, load_latest, save, save_latest
from .evaluate import Predictor, confusion_matrix, error_rate
from .fit import Fit, fit
from .loop import InputNoise, Step, make_step, steps
from .progress import Progress
from .random_state import restore_generator, save_generator
from .run_folder import RunFolder
from .snapshots import Snapshots
from .stopping import EarlyStopping
from .weights import load_tensors

__all__ = ["Checkpoint", "CheckpointWarning", "EarlyStopping", "Fit", "InputNoise", "Predictor", "Progress", "RunFolder", "Snapshots",
           "Step", "confusion_matrix", "error_rate", "fit", "load", "load_latest", "load_tensors", "make_step", "restore_generator",
           "save", "save_generator", "save_latest", "steps"]
