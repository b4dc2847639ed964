"""The measured tables of docs/distributed.md, written from the stored results of benchmarks.allreduce and benchmarks.network.

`python -m benchmarks.wires` writes them anew; the two commands do so at their end.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "distributed.md"
ALLREDUCE, NETWORK = (ROOT / "benchmarks" / "results" / name for name in ("allreduce.json", "network.json"))
BLOCK = re.compile(r"(?<=<!-- measured: written by python -m benchmarks\.wires -->\n).*?(?=<!-- end of measured -->)", re.DOTALL)


def stored(path: Path) -> dict[str, Any] | None:
    """A stored record, or None."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _allreduce(record: dict[str, Any]) -> list[str]:
    """One table: a row for each contestant, columns by number of ranks: median and minimum, and its ratio to our ring."""
    counts = list(record["rows"])
    machine = record["machine"]
    lines = [f"{record['size'] / 1e6:g} MB of float32, milliseconds (median, minimum), and over our ring in the same worlds; "
             f"{machine['processor']}, {machine['cores']} cores.", "",
             f"| | | {' | '.join(f'{n} ranks | over ours' for n in counts)} |", f"|---|---|{'---:|---:|' * len(counts)}"]
    names = dict.fromkeys((row["version"], row["contestant"]) for rows in record["rows"].values() for row in rows)
    for version, contestant in names:
        cells = []
        for rows in record["rows"].values():
            found = {row["contestant"]: row for row in rows if row["version"] == version}
            row, ours = found.get(contestant), found.get("our ring")
            over = row and ours and row is not ours
            cells.append(f"{row['median'] * 1e3:.1f}, {row['minimum'] * 1e3:.1f}" if row else "-")
            cells.append(f"{row['median'] / ours['median']:.2f}" if over else "")
        lines.append(f"| {version} | {contestant} | {' | '.join(cells)} |")
    lines.append("")
    for verdict in record["verdicts"]:
        lines.append(f"* {verdict['runtime']}, {verdict['ranks']} ranks: its default takes {verdict['over_default']:.2f} times our "
                     f"ring's time (wanted 1.5), its best forced algorithm {verdict['over_best_forced']:.2f} (wanted 1.0): "
                     f"{'reached' if verdict['reached'] else 'behind'}.")
    return lines


def _network(record: dict[str, Any]) -> list[str]:
    """One table: a row for each all-reduce over the shaped links."""
    lines = [f"{record['ranks']} namespaces joined by links of {record['rate']}, {record['size'] / 1e6:g} MB, {record['mpi']}; "
             f"the payload's bound for a ring is {record['bound'] * 1e3:.1f} ms.", "",
             "| | median, ms | interface / payload | planned, ms | error |", "|---|---:|---:|---:|---:|"]
    for name, row in sorted(record["rows"].items(), key=lambda item: item[1]["median"]):
        wire = f"{row['wire']:.3f}" if row["wire"] else "-"
        planned = f"{row['planned'] * 1e3:.1f} | {100 * row['error']:+.1f} %" if "planned" in row else "- | -"
        lines.append(f"| {name} | {row['median'] * 1e3:.1f} | {wire} | {planned} |")
    lines += ["", f"The ring reaches {100 * record['of_the_bound']:.1f} % of the bound; the parameter server takes "
                  f"{record['server_over_ring']:.2f} times as long."]
    return lines


def block(allreduce: dict[str, Any] | None, network: dict[str, Any] | None) -> str:
    """Both tables, or what to run where there are no results."""
    parts = [_allreduce(allreduce) if allreduce else ["No results are stored; run `python -m benchmarks.allreduce`."],
             _network(network) if network else ["No results are stored; run `python -m benchmarks.network`."]]
    return "\n" + "\n\n".join("\n".join(part) for part in parts) + "\n\n"


def write() -> None:
    """Put the stored results into the page."""
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(BLOCK.sub(lambda _: block(stored(ALLREDUCE), stored(NETWORK)), page), encoding="utf-8")


if __name__ == "__main__":
    write()
