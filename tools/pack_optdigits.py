"""Make adjoint/data/optdigits/*.idx.gz from the original UCI files: python tools/pack_optdigits.py DIR.

DIR holds optdigits.tra and optdigits.tes as UCI distributes them: 64 numbers 0..16 and a class per line, with or
without one line of column names. Prints the checksums that adjoint/data/datasets.py must list.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from adjoint.data.idx import write_idx

TARGET = Path(__file__).resolve().parents[1] / "adjoint" / "data" / "optdigits"
ROWS = {"train": ("optdigits.tra", 3823), "test": ("optdigits.tes", 1797)}


def read_table(path: Path, rows: int) -> np.ndarray:
    """The table of one original file, checked against what optdigits.names says of it."""
    head = path.read_text().splitlines()[0]
    table = np.loadtxt(path, delimiter=",", skiprows=0 if head[0].isdigit() else 1, dtype=np.int64)
    assert table.shape == (rows, 65), table.shape
    assert table[:, :64].min() == 0 and table[:, :64].max() == 16
    assert set(table[:, 64]) == set(range(10))
    return table.astype(np.uint8)


def main() -> None:
    """Write the four files and print their checksums and sizes."""
    for part, (name, rows) in ROWS.items():
        table = read_table(Path(sys.argv[1]) / name, rows)
        for kind, array in (("images", table[:, :64].reshape(-1, 8, 8)), ("labels", table[:, 64])):
            path = TARGET / f"{part}-{kind}.idx.gz"
            print(f'"{path.name}": "{write_idx(path, array)}",  # {path.stat().st_size} bytes')


if __name__ == "__main__":
    main()
