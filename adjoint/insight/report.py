"""report.html: a training run on one page, complete in itself: curves, confusions, mistakes, gradient norms, facts.

Invariant: every text is escaped; the page's policy allows its own two scripts and nothing else; nothing is fetched.
May import: errors, png, train.files. Read next: assets/report.js.
"""

from __future__ import annotations

import base64
import difflib
import hashlib
import json
import math
import os
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, explain
from ..train import files
from . import png

KEYS = ("title", "subtitle", "headline", "metrics", "epochs", "loss", "error", "gradient_norms", "confusion", "classes",
        "mistakes", "config", "timing", "environment")
MOST_MISTAKES = 60
_ASSETS = Path(__file__).resolve().parent / "assets"
_PICTURE = 84               # pixels on the page that a mistake is wide, rounded to a multiple of its own
_LOGO = ('<svg width="38" height="38" viewBox="0 0 38 38" aria-hidden="true"><rect width="38" height="38" rx="10" '
         'fill="#2f5bea"/><path d="M13 24.5c2.2 2.6 8 2.5 10.3-2.3 2-4.3 1.1-10-3.8-12-1.8-.7-3.5-.5-4.8.3" '
         'fill="none" stroke="#fff" stroke-width="2.5" stroke-linecap="round"/><circle cx="17.6" cy="21.3" r="5" '
         'fill="none" stroke="#fff" stroke-width="2.5"/></svg>')


def _refuse(what: str, remedy: str) -> ConfigError:
    return ConfigError(explain(f"report: {what}", remedy=remedy))


def number(value: object) -> str:
    """A value as the page shows it: integers with thin spaces, floats with four digits, texts as they are."""
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return f"{int(value):,}".replace(",", "\u202f") if abs(int(value)) >= 10_000 else str(int(value))
    if isinstance(value, (float, np.floating)):
        return f"{float(value):.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(number(one) for one in value)
    return "none" if value is None else str(value)


def _text(value: object) -> str:
    return escape(number(value), quote=True)


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"


def _hero(report: dict[str, Any]) -> str:
    headline, metrics = report.get("headline"), report.get("metrics", {})
    if not headline and not metrics:
        return ""
    tiles = "".join(f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>" for name, value in metrics.items())
    figure = ""
    if headline:
        unit = f"<small>{_text(headline['unit'])}</small>" if headline.get("unit") else ""
        note = f'<p class="note">{_text(headline["note"])}</p>' if headline.get("note") else ""
        figure = (f'<div><p class="name">{_text(headline["name"])}</p>'
                  f'<p class="figure">{_text(headline["value"])}{unit}</p>{note}</div>')
    return f'<section class="wide hero">{figure}<dl class="tiles">{tiles}</dl></section>'


def _finite(values: Iterable[float | None]) -> list[float | None]:
    """The values as JSON has them: NaN and infinity become null, a gap in the curve."""
    plain = [None if value is None else float(value) for value in values]
    return [value if value is not None and math.isfinite(value) else None for value in plain]


def _wide_range(series: Sequence[dict[str, Any]]) -> bool:
    """True where a logarithmic axis shows more: every value positive, the largest over twelve times the smallest."""
    values = [value for one in series for value in one["values"] if value is not None and value > 0]
    every = all(value is None or value > 0 for one in series for value in one["values"])
    return every and bool(values) and max(values) > 12 * min(values)


def _curve_chart(curves: dict[str, Sequence[float]], scale: float, unit: str) -> dict[str, Any]:
    series = [{"label": label, "role": "main" if index else "other", "values":
               [None if value is None else scale * value for value in _finite(values)]}
              for index, (label, values) in enumerate(curves.items())]
    if len(series) == 1:
        series[0]["role"] = "main"
    return {"series": series, "unit": unit, "depths": 0}


def _norm_chart(norms: dict[str, Sequence[float]]) -> dict[str, Any]:
    """One curve per parameter: coloured by the depth of its layer, biases and other second parameters dashed."""
    layers = list(dict.fromkeys(name.rpartition(".")[0] or name for name in norms))
    first = {}
    for name in norms:
        first.setdefault(name.rpartition(".")[0] or name, name)
    series = []
    for name, values in norms.items():
        layer = name.rpartition(".")[0] or name
        series.append({"label": name, "values": _finite(values), "depth": layers.index(layer),
                       "dashed": first[layer] != name})
    return {"series": series, "unit": "", "depths": len(layers)}


def _charts(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What report.js draws, after a check that every curve has a value for every epoch."""
    epochs = len(report.get("epochs", ()))
    for key in ("loss", "error", "gradient_norms"):
        for label, values in report.get(key, {}).items():
            if len(values) != epochs:
                raise _refuse(f"{key} {label!r} has {len(values)} values for {epochs} epochs.",
                              "Give one value per epoch; None where there is none.")
    charts = {}
    if report.get("loss"):
        charts["loss"] = _curve_chart(report["loss"], 1, "")
    if report.get("error"):
        charts["error"] = _curve_chart(report["error"], 100, " %")
    if report.get("gradient_norms"):
        charts["norms"] = _norm_chart(report["gradient_norms"])
    return charts


def _lowest(report: dict[str, Any], chart: dict[str, Any]) -> str:
    """Where the last curve of a chart (validation, if there is one) was lowest."""
    last = chart["series"][-1]
    pairs = [(value, epoch) for value, epoch in zip(last["values"], report["epochs"], strict=True) if value is not None]
    if not pairs:
        return ""
    value, epoch = min(pairs)
    return f"Lowest {last['label']} value {value:.4g}{chart['unit']}, at epoch {epoch}"


def _chart_section(name: str, title: str, note: str, log: bool, wide: bool) -> str:
    buttons = "".join(
        f'<button data-scale-of="{name}" data-to="{scale}" aria-pressed="{str(pressed).lower()}">{scale}</button>'
        for scale, pressed in (("linear", not log), ("log", log)))
    return (f'<section{" class=wide" if wide else ""}><div class="head"><div><h2>{escape(title)}</h2>'
            f'<p class="note">{escape(note)}</p></div><div class="switch">{buttons}</div></div>'
            f'<div class="chart" data-chart="{name}" data-scale="{"log" if log else "linear"}"></div></section>')


def _curve_sections(report: dict[str, Any], charts: dict[str, dict[str, Any]]) -> str:
    parts = []
    for name, title in (("loss", "Loss"), ("error", "Error")):
        if name in charts:
            alone = ("error" if name == "loss" else "loss") not in charts
            parts.append(_chart_section(name, title, _lowest(report, charts[name]),
                                        _wide_range(charts[name]["series"]), alone))
    return "".join(parts)


def _norm_section(charts: dict[str, dict[str, Any]]) -> str:
    if "norms" not in charts:
        return ""
    return _chart_section("norms", "Gradient norm of every layer",
                          "Euclidean norm over epochs; blue is the first layer, orange the last, dashes are biases",
                          True, True)


def _cell(count: int, right: bool, largest_wrong: int, row_total: int) -> str:
    if not count:
        return '<td class="zero">0</td>'
    if right:
        share = count / row_total
        return f'<td class="right r{int(np.searchsorted((0.7, 0.9, 0.97), share))}">{count}</td>'
    level = min(3, int(4 * math.sqrt(count / largest_wrong) - 1e-9))
    return f'<td class="w{level}">{count}</td>'


def _pairs(confusion: np.ndarray, names: Sequence[str]) -> str:
    """The most frequent confusions, in words."""
    wrong = confusion - np.diag(np.diag(confusion))
    order = np.argsort(-wrong, axis=None, kind="stable")[:8]
    items = "".join(
        f"<li><div><b>{_text(names[true])}</b> taken for <b>{_text(names[said])}</b></div>"
        f"<span>{wrong[true, said]} of {confusion[true].sum()}</span></li>"
        for true, said in (divmod(int(place), len(names)) for place in order) if wrong[true, said])
    return f'<div class="pairs"><h3>Most frequent confusions</h3><ol>{items or "<li>None at all.</li>"}</ol></div>'


def _confusion_section(report: dict[str, Any]) -> str:
    if report.get("confusion") is None:
        return ""
    confusion = np.asarray(report["confusion"], np.int64)
    names = report.get("classes") or [str(index) for index in range(len(confusion))]
    if confusion.ndim != 2 or confusion.shape != (len(names), len(names)):
        raise _refuse(f"confusion has shape {confusion.shape} for {len(names)} classes.",
                      "Count examples by [true class, predicted class].")
    tall = max(map(len, names)) > 3
    wrong = max(int((confusion - np.diag(np.diag(confusion))).max()), 1)
    head = "".join(f'<th scope="col">{f"<div class=tall>{_text(name)}</div>" if tall else _text(name)}</th>'
                   for name in names)
    rows = []
    for index, name in enumerate(names):
        total = int(confusion[index].sum())
        cells = "".join(_cell(int(count), index == other, wrong, total) for other, count in enumerate(confusion[index]))
        rows.append(f'<tr><th scope="row">{_text(name)}</th>{cells}'
                    f'<td class="share">{_share(confusion[index, index], total)}</td></tr>')
    table = (f'<table class="matrix"><thead><tr><th class="axis">true \\ predicted</th>{head}<th class="axis">recall</th>'
             f'</tr></thead><tbody>{"".join(rows)}</tbody></table>')
    note = f"{number(int(confusion.sum()))} test examples: a row is what they are, a column what the network said"
    return (f'<section class="wide"><div class="head"><div><h2>Confusion matrix</h2><p class="note">{note}</p></div></div>'
            f'<div class="confusions"><div class="scroll">{table}</div>{_pairs(confusion, names)}</div></section>')


def _picture(image: np.ndarray) -> str:
    """An image as a data address; ink dark on white paper. Floats go from 0 to 1, integers from 0 to 255."""
    image = np.asarray(image)
    ink = image * 255.0 if image.dtype.kind == "f" else image.astype(float)
    grey = 255 - np.clip(np.rint(ink), 0, 255).astype(np.uint8)
    scale = max(1, round(_PICTURE / grey.shape[1]))
    address = base64.b64encode(png.encode(grey)).decode()
    return (f'<img width="{grey.shape[1] * scale}" height="{grey.shape[0] * scale}" alt="" '
            f'src="data:image/png;base64,{address}">')


def _mistakes_section(report: dict[str, Any]) -> str:
    mistakes = report.get("mistakes")
    if not mistakes:
        return ""
    images, labels, said = mistakes["images"], mistakes["labels"], mistakes["predicted"]
    confidence = np.asarray(mistakes["confidence"], float)
    if not len(images) == len(labels) == len(said) == len(confidence):
        raise _refuse("mistakes: images, labels, predicted and confidence have different lengths.", "Give one of each.")
    names = report.get("classes") or [str(index) for index in range(int(max([*labels, *said, 0])) + 1)]
    order = np.argsort(-confidence, kind="stable")[:MOST_MISTAKES]
    items = "".join(
        f'<li class="digit">{_picture(images[index])}{_text(names[int(labels[index])])} → '
        f"<b>{_text(names[int(said[index])])}</b><small>{100 * confidence[index]:.0f} % sure</small></li>"
        for index in order)
    total = int(mistakes.get("total", len(images)))
    shown = "all of them" if len(order) == total else f"the {len(order)} most confident of {number(total)}"
    note = f"What it is → what the network said; {shown}, the surest first" if total else "None at all."
    return (f'<section class="wide"><div class="head"><div><h2>Misclassified images</h2><p class="note">{escape(note)}</p>'
            f'</div></div><ul class="digits">{items}</ul></section>')


def _facts(title: str, facts: dict[str, Any]) -> str:
    if not facts:
        return ""
    rows = "".join(f'<tr><th scope="row">{_text(name)}</th><td>{_text(value)}</td></tr>'
                   for name, value in facts.items())
    return f'<section><h2>{escape(title)}</h2><table class="facts">{rows}</table></section>'


def _timing_section(timing: dict[str, float]) -> str:
    total = sum(timing.values())
    if not timing or total <= 0:
        return ""
    bars, rows, left = [], [], 0.0
    for index, (name, seconds) in enumerate(timing.items()):
        kind = min(index, 5)
        bars.append(f'<rect class="t{kind}" x="{left:.3f}%" width="{100 * seconds / total:.3f}%" height="14"/>')
        rows.append(f'<tr><th scope="row"><span class="dot t{kind}"></span>{_text(name)}</th>'
                    f"<td>{_duration(seconds)} · {_share(seconds, total)}</td></tr>")
        left += 100 * seconds / total
    return (f'<section><h2>Where the time went</h2><p class="note">{_duration(total)} in all</p>'
            f'<svg class="bar" role="img" aria-label="shares of the time">{"".join(bars)}</svg>'
            f'<table class="facts">{"".join(rows)}</table></section>')


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _policy(scripts: Iterable[str], styles: Iterable[str]) -> str:
    """The content security policy: exactly these scripts and styles by their hash, pictures from the page itself."""
    def hashes(texts: Iterable[str]) -> str:
        return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in texts)
    return (f"default-src 'none'; script-src {hashes(scripts)}; style-src {hashes(styles)}; img-src data:; "
            "base-uri 'none'; form-action 'none'")


def _embedded(run: dict[str, Any]) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(run, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _check_keys(report: dict[str, Any]) -> None:
    for key in report:
        if key not in KEYS:
            near = difflib.get_close_matches(str(key), KEYS, 1)
            remedy = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(KEYS)}."
            raise _refuse(f"unknown key {key!r:.40}.", remedy)
    if not report.get("title"):
        raise _refuse("the key 'title' is missing.", "Give the run a title.")


def render(report: dict[str, Any]) -> str:
    """The page of a run as text; only "title" is required, every other part appears if its key is there.

    title, subtitle: texts. headline: {name, value, unit, note}. metrics, config, environment: {name: value}.
    timing: {name: seconds}. epochs: [1, 2, ...]; loss: {curve: values}; error: {curve: shares in [0, 1]};
    gradient_norms: {parameter: values}. confusion: counts [true, predicted]; classes: names.
    mistakes: {images [m, height, width], labels [m], predicted [m], confidence [m], total}.
    Raises: ConfigError for an unknown key, and for parts that do not fit together.

    >>> render({"title": "digits", "metrics": {"test accuracy": "98.4 %"}}).startswith("<!doctype html>")
    True
    """
    _check_keys(report)
    charts = _charts(report)
    scripts = [_asset("uPlot.iife.min.js"), _asset("report.js")]
    styles = [_asset("uPlot.min.css"), _asset("report.css")]
    run = {"epochs": [int(epoch) for epoch in report.get("epochs", ())], "charts": charts}
    subtitle = f"<p>{_text(report['subtitle'])}</p>" if report.get("subtitle") else ""
    body = "".join((
        _hero(report), _curve_sections(report, charts), _confusion_section(report), _mistakes_section(report),
        _norm_section(charts), _facts("Configuration", report.get("config", {})), '<div class="column">',
        _timing_section(report.get("timing", {})), _facts("Environment", report.get("environment", {})), "</div>"))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(scripts, styles)}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="referrer" content="no-referrer">\n'
        f"<title>{_text(report['title'])} · Adjoint</title>\n"
        f'{"".join(f"<style>{style}</style>" for style in styles)}\n</head><body>\n'
        f'<header>{_LOGO}<div><h1>{_text(report["title"])}</h1>{subtitle}</div>'
        f'<button id="theme" type="button">Light / dark</button></header>\n<main>{body}</main>\n'
        f"<footer>Written by Adjoint. This page is one file: it opens without a network and sends nothing anywhere. "
        f"Drag over a curve to zoom, double-click to see all of it."
        f"<noscript> The curves need JavaScript.</noscript></footer>\n"
        f'<script type="application/json" id="run">{_embedded(run)}</script>\n'
        f'{"".join(f"<script>{script}</script>" for script in scripts)}\n</body></html>\n')


def write_report(path: str | os.PathLike, report: dict[str, Any]) -> None:
    """Write `render(report)` to a file, whole or not at all. Raises: ConfigError, OSError.

    >>> write_report("report.html", {"title": "digits"})
    """
    files.write_whole(path, render(report).encode("utf-8"))
