"""python -m benchmarks.kills: train the digits network while ranks are killed at random, and say what each kill cost.

For every kill: the step committed last before it, the step at which the next world went on, and the seconds from the kill to the next step
committed, divided into the end of the old world with the start of Python, imports, MPI, reading the snapshot, and the first step. At the
end the bits of the model are compared with those of one process that nobody disturbed. Then, in a second run, a rank of every new world is
killed while it starts. Options: --kills, --starts (kills of the second run), --ranks, --epochs, --seed.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

from . import disturbed_starts, run, table


def main() -> None:
    """Print the table, and whether the bits are those of the undisturbed run."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("--kills", 20), ("--starts", 20), ("--ranks", 3), ("--epochs", 60), ("--seed", 0)):
        options.add_argument(name, type=int, default=default)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        chance = random.Random(given.seed)
        quiet, _ = run(Path(scratch, "quiet"), 1, given.epochs, 0, chance, Path(scratch))
        disturbed, kills = run(Path(scratch, "killed"), given.ranks, given.epochs, given.kills, chance, Path(scratch))
        started, when, lost = disturbed_starts(Path(scratch, "starts"), given.ranks, given.epochs, given.starts, chance, Path(scratch))
    print(table(kills))
    print(f"one process, undisturbed: {quiet}\n{given.ranks} ranks, killed:       {disturbed}")
    told = ", ".join(f"{count} {name}" for name, count in when.items())
    print(f"{when.total()} kills of ranks that start ({told}); committed steps lost: {lost}\n{given.ranks} ranks, killed so: {started}")
    print("the same bits" if quiet == disturbed == started else "THE BITS DIFFER")
    sys.exit(quiet != disturbed or quiet != started or lost > 0 or len(kills) < given.kills or when.total() < given.starts)


if __name__ == "__main__":
    main()
