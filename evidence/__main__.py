"""python -m evidence [TARGET ...]: run the targets whose record is missing or old, each for itself, and write records, pictures and page.

Options: --data DIR (default ../shared/data), --quick (only the beginning of each, against its record), --force (also what is current),
--list. A target that fails leaves its old record as it was; the others go on, and the status is 1.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
import traceback
from pathlib import Path

from adjoint.train import files

from . import page, picture, record
from .machine import ROOT
from .parallel import say
from .target import NAMES, Target, target

SHORTEST_FIRST = ("adam_divergence", "logistic_regression", "alexnet", "ntm", "char_lstm", "gpt", "resnet20", "fashion_mnist")
DATA = ROOT.parent / "shared" / "data"


def data_folder(target: Target, data: Path, *, quick: bool = False) -> Path:
    """The folder that a target reads; FileNotFoundError names what is missing."""
    if quick and not target.quick_reads:
        return data
    folder = data / target.folder if target.folder else data
    if target.folder and not folder.is_dir():
        raise FileNotFoundError(f"{target.name} reads {folder}, which is not there; name the data with --data")
    return folder


def run(target: Target, data: Path, folder: Path = record.FOLDER) -> bool:
    """Run one target in full and write its record and picture; true if its figures are reached."""
    missing = [name for name in target.needs if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(f"{target.name} needs {', '.join(missing)}: pip install 'adjoint[evidence]'")
    made_of, start = record.sources_of(target), time.perf_counter()
    result = target.run(data_folder(target, data))
    found = record.record_of(target, result, made_of, time.perf_counter() - start)
    if record.sources_of(target) != made_of:
        raise RuntimeError(f"{target.name}: the sources changed while it ran")
    svg = picture.drawing(target.title, found["curves"], [(p.name, p.rows) for p in result.pictures])
    folder.mkdir(parents=True, exist_ok=True)
    files.write_whole(folder / f"{target.name}.svg", svg.encode("utf-8"))
    record.write(found, folder)
    for figure in result.figures:
        say(f"{figure.name}: {figure.found:.6g} {figure.unit} (asked: {figure.asked}){'' if figure.reached else '   NOT REACHED'}")
    return all(figure.reached for figure in result.figures)


def quick(target: Target, data: Path) -> bool:
    """Run the beginning of one target and hold it against its record."""
    stored = record.read(target.name)
    if stored is None:
        say("there is no record to compare with")
        return False
    differences = record.compare(target.quick(data_folder(target, data, quick=True)), stored)
    for line in differences[:5]:
        say(line)
    return not differences


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m evidence", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(NAMES)}; all if none is named")
    parser.add_argument("--data", type=Path, default=DATA, help="the data folder (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="only the first steps, against the stored losses")
    parser.add_argument("--force", action="store_true", help="also those whose record is current")
    parser.add_argument("--list", action="store_true", help="say the state of every record")
    options = parser.parse_args()
    if unknown := set(options.targets) - set(NAMES):
        parser.error(f"no target is called {', '.join(sorted(unknown))}; choose of {', '.join(NAMES)}")
    failed, began = [], time.perf_counter()
    for name in options.targets or SHORTEST_FIRST:
        try:
            one, start = target(name), time.perf_counter()
            why = record.problems(one, record.read(name))
            if options.list or not (why or options.force or options.quick):
                print(f"{name}: {'; '.join(why) or 'current'}", flush=True)
                continue
            print(f"{name}: {one.title}", flush=True)
            right = quick(one, options.data) if options.quick else run(one, options.data)
            print(f"{name}: {'done' if right else 'NOT REACHED'} in {time.perf_counter() - start:.1f} s", flush=True)
        except Exception:                   # the others still have their turn
            traceback.print_exc()
            right = False
        if not right:
            failed.append(name)
        if not options.quick:
            page.write()
    print(f"{(time.perf_counter() - began) / 60:.1f} minutes" + (f"; failed: {', '.join(failed)}" if failed else ""), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
