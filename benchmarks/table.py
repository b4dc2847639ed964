"""python -m benchmarks.table: write the figures of benchmarks/results/latest.json into the marked block of README.md.

tests/test_documents.py holds the block and the file together, so that no figure stands in the README that was not measured.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "latest.json", ROOT / "README.md"
BLOCK = re.compile(r"(?<=<!-- figures: written by python -m benchmarks\.table -->\n).*?(?=<!-- end of figures -->)", re.DOTALL)
LARGE = 1e7            # flop from which a share of the machine's peak says something
COMPILERS = ("adjoint", "jax", "torch.compile")
NOTHING = "No results are stored in `benchmarks/results/latest.json`; `make bench` measures and writes them.\n"


def seconds(value: float) -> str:
    """A time with three digits and its unit.

    >>> seconds(4.567e-7), seconds(1.234e-5), seconds(0.0234), seconds(1.5)
    ('0.457 us', '12.3 us', '23.4 ms', '1.50 s')
    """
    unit, name = (1.0, "s") if value >= 1.0 else (1e-3, "ms") if value >= 1e-3 else (1e-6, "us")
    return f"{value / unit:#.3g}".rstrip(".") + f" {name}"


def measured(record: dict[str, Any], peak: float | None) -> str:
    """One row of the table: ours with its share of the peak, the best peer, their ratio; for a row without peers, ours alone."""
    found = record["contestants"]
    ours, best = found["adjoint"], record["best_peer"]
    peer = f"{seconds(found[best]['median'])} ({best})" if best else "-"
    ratio = f"{record['ratio']:.2f}" if best else "-"
    large = peak and record.get("flops", 0) >= LARGE
    share = f" ({100 * record['flops'] / ours['median'] / peak:.0f} % of peak)" if large else ""
    made = " / ".join(seconds(found[name]["made"]) if "made" in found.get(name, {}) else "-" for name in COMPILERS)
    return f"| {record['row']} | {seconds(ours['median'])}{share} | {peer} | {ratio} | {ours['error']:.0e} | {made} |"


def start_up(record: dict[str, Any]) -> str:
    """A line under the table for a row of the start-up times, in milliseconds."""
    row = record["row"].removesuffix(", ms")
    if "cold" in record:
        peer = f"; JAX's first call {record['jax']:.0f} ms" if "jax" in record else ""
        return f"* {row}: {record['cold']:.0f} ms, from the disk cache in a new process {record['warm']:.0f} ms{peer}."
    return f"* {row}: {record['adjoint']:.0f} ms, `import numpy` alone {record['numpy']:.0f} ms."


def block(results: dict[str, Any] | None) -> str:
    """The text between the marks, ours and peers' medians."""
    if not results:
        return NOTHING
    machine, rows, peak = results["machine"], results["rows"], results.get("peak")
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = ["| problem | Adjoint | best peer | ratio | error against float64 | made: Adjoint / JAX / torch.compile |",
             "|---|---|---|---|---|---|",
             *(measured(r, peak) for r in rows if "contestants" in r), "",
             "Made: built, compiled without any cache, and called for the first times.",
             f"Medians on {machine['processor']}, {results['threads']} threads, Python {machine['python']}, {versions}."
             + (f" Peak: {peak / 1e9:.0f} GFLOP/s in float32, measured in the same run." if peak else ""), "",
             *(start_up(r) for r in rows if "contestants" not in r)]
    return "\n".join(lines).rstrip() + "\n"


def stored() -> dict[str, Any] | None:
    """The results of the last `make bench`, None if there are none."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else None


def write() -> None:
    """Put the stored results into the README."""
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(BLOCK.sub(lambda _: block(stored()), page), encoding="utf-8")


if __name__ == "__main__":
    write()
