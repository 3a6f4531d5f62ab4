"""`nriperf show`: what a recording says - metrics, CPUs and the dots - or which recordings a session holds."""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_nriperf.errors import RecordingError, UsageError
from pytest_nriperf.metrics import METRICS, Measurement, Metric
from pytest_nriperf.report.dots import ASCII, UNICODE, Paint, coloured, draw, plain
from pytest_nriperf.sessions import find_recordings
from pytest_nriperf.settings import settings_here
from pytest_nriperf.units import format_text, format_value

TITLES = {"ttft": "TTFT", "itl": "ITL", "icl": "ICL", "tpot": "TPOT", "e2e": "E2E", "throughput": "throughput"}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "recording",
        nargs="?",
        type=Path,
        help="a recording, a session, or an out folder (its newest session); default: the configured out folder",
    )
    parser.add_argument("--run", type=int, metavar="N", help="the run whose dots are drawn; default: the last one")
    parser.add_argument("--all", action="store_true", help="every recording of a session in full, not as a list")
    parser.add_argument("--json", action="store_true", help="all of it as JSON, seconds and tokens per second")
    parser.add_argument("--ascii", action="store_true", help="draw with plain ASCII characters")


def run(options: argparse.Namespace) -> int:
    """Print; 0 when every recording could be read, else 3 with those that could not named on standard error."""
    settings = settings_here()
    where = options.recording or settings.path(settings.out)
    measurements, damaged = read_all(find_recordings(where))
    for error in damaged:
        print(f"nriperf show: {error}", file=sys.stderr)
    if options.json:
        print(json.dumps({"recordings": [as_dict(m) for m in measurements]}, indent=1, allow_nan=False))
        return 3 if damaged else 0
    ascii_only = options.ascii or not _can_print(UNICODE.replicas + UNICODE.steady + "µ·–×")
    width = max(40, min(shutil.get_terminal_size((80, 24)).columns, 160))
    if len(measurements) + len(damaged) > 1 and not options.all:
        lines = overview(measurements, width)
    else:
        lines = []
        for m in measurements:
            lines += [*describe(m, options.run, width, ascii_only, _paint()), ""]
    if lines:
        print("\n".join(to_ascii(line) if ascii_only else line for line in lines).rstrip())
    return 3 if damaged else 0


def read_all(paths: Sequence[Path]) -> tuple[list[Measurement], list[RecordingError]]:
    """What can be read of them, and what went wrong with the others."""
    measurements, damaged = [], []
    for path in paths:
        try:
            measurements.append(Measurement.from_recording(path))
        except RecordingError as error:
            damaged.append(error)
    return measurements, damaged


# ------------------------------------------------------------------------------------------------- one recording


def describe(m: Measurement, wanted: int | None, width: int, ascii_only: bool, paint: Paint) -> list[str]:
    """Everything about one recording, in lines."""
    if wanted is not None and wanted not in m.runs:
        there = ", ".join(map(str, m.runs)) or "none"
        raise UsageError(f"{m.path} has no finished run {wanted}", f"finished runs: {there}")
    lines = [*heading(m), "", *metric_table(m), ""]
    if not m.runs:
        lines.append("No run is finished: there is nothing to show yet.")
    else:
        number = m.runs[-1] if wanted is None else wanted
        lines.append(f"Gaps between tokens over time, run {number}:")
        lines += draw(m.timeline(number), width=width, glyphs=ASCII if ascii_only else UNICODE, paint=paint)
    if m.warnings:
        lines += ["", *(wrapped for text in m.warnings for wrapped in _wrap(f"warning: {format_text(text)}", width))]
    definitions = (f"{TITLES[name]:<11}{kind.definition}" for name, kind in METRICS.items())
    return [*lines, "", *(wrapped for text in definitions for wrapped in _wrap(text, width))]


def heading(m: Measurement) -> list[str]:
    """What was measured, where and how much of it there is."""
    document = m.document
    simulated = "  SIMULATED" if document.get("simulated") else ""
    model = _mapping(document, "model")
    when = str(document.get("time", "")).replace("T", " ").replace("+00:00", " UTC")
    facts = [document.get("node"), model.get("choice", model.get("name")), cpus(m), when]
    runs = f"{len(m.runs)} finished run{'s' * (len(m.runs) != 1)}"
    counts = f"{m.measured} requests measured, {m.failures} failed, {m.warmup} for warm-up"
    return [
        f"{format_text(document.get('test', m.path.name))}{simulated}",
        "  " + " · ".join(format_text(fact) for fact in facts if fact),
        f"  {runs} · {counts}",
        f"  {format_text(m.path)}",
    ]


def cpus(m: Measurement) -> str:
    """CPUs of each replica as a person pays for and as the workload sees them; empty when the recording is silent."""
    sizes = _mapping(m.document, "balloon").get("sizes")
    if not sizes:
        return ""
    replicas = len(set(m.requests["replica"].to_pylist()))
    return f"{replicas} × {sizes} CPUs" if replicas > 1 else f"{sizes} CPUs"


def metric_table(m: Measurement) -> list[str]:
    """One aligned line a metric: value, lowest and highest run, pooled percentiles, samples."""
    rows = [["", "value", "lowest – highest run", "p95", "p99", "samples"]]
    for name, title in TITLES.items():
        metric = m.metric(name)
        if name == "icl" and metric.pool is m.itl.pool:
            continue  # every event was one token: the same numbers once more
        rows.append(metric_row(title, metric, pooled=not METRICS[name].rate))
    rows += [metric_row(format_text(name), metric, pooled=False) for name, metric in m.pcm.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    lines = [_aligned(row, widths) for row in rows]
    if any(cell.endswith("?") for row in rows[1:] for cell in row):
        lines.append("  value: the median over the runs; ? too few samples for this percentile")
    return lines


def metric_row(title: str, metric: Metric, *, pooled: bool) -> list[str]:
    """Cells of one metric."""
    low, high = (format_value(each, metric.unit) for each in metric.spread)
    number, _, unit = low.partition(" ")
    spread = f"{number if high.endswith(f' {unit}') else low} – {high}" if len(metric.runs) > 1 else "-"
    tail = [
        format_value(value, metric.unit) + ("" if metric.enough(percent) or math.isnan(value) else " ?")
        for percent, value in ((95, metric.p95), (99, metric.p99))
    ]
    count = f"{metric.pool.size:,}" if pooled else f"{len(metric.runs)} runs"
    return [title, format_value(metric.value, metric.unit), spread, *(tail if pooled else ["", ""]), count]


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    rest = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
    return "  ".join([f"  {cells[0].ljust(widths[0])}", *rest]).rstrip()


# ------------------------------------------------------------------------------------------------ many recordings


def overview(measurements: Sequence[Measurement], width: int) -> list[str]:
    """One line a recording, oldest first."""
    rows = [["", "CPUs", "runs", "TTFT", "ITL", "throughput", ""]]
    for m in measurements:
        values = [format_value(each.value, each.unit) for each in (m.ttft, m.itl, m.throughput)]
        marks = [f"{m.failures} failed"] * bool(m.failures) + ["SIMULATED"] * bool(m.document.get("simulated"))
        rows.append([m.path.name, cpus(m).replace(" CPUs", ""), str(len(m.runs)), *values, " ".join(marks)])
    widths = [max(len(row[column]) for row in rows) for column in range(7)]
    if not measurements:
        return []
    if sum(widths) + 14 > width:  # names on a line of their own
        lines = [_aligned(["", *rows[0][1:]], [0, *widths[1:]])]
        for row in rows[1:]:
            lines += [f"  {row[0]}", _aligned(["", *row[1:]], [0, *widths[1:]])]
    else:
        lines = [_aligned(row, widths) for row in rows]
    folder = measurements[0].path.parent
    return [f"{format_text(folder)}: {len(measurements)} recordings", *lines, "", f"dots: nriperf show {folder}/NAME"]


# --------------------------------------------------------------------------------------------------------- JSON


def as_dict(m: Measurement) -> dict[str, Any]:
    """The measurement as JSON has it; base units, null for what is undefined."""
    return {
        "path": str(m.path),
        "test": m.document.get("test"),
        "node": m.document.get("node"),
        "simulated": bool(m.document.get("simulated")),
        "balloon": m.document.get("balloon", {}),
        "model": m.document.get("model", {}),
        "runs": list(m.runs),
        "requests": {"measured": m.measured, "failed": m.failures, "warmup": m.warmup},
        "metrics": {name: _metric_dict(m.metric(name)) for name in [*METRICS, *m.pcm]},
        "warnings": list(m.warnings),
    }


def _metric_dict(metric: Metric) -> dict[str, Any]:
    low, high = metric.spread
    values = {"value": metric.value, "lowest_run": low, "highest_run": high}
    values |= {f"p{percent}": getattr(metric, f"p{percent}") for percent in (50, 90, 95, 99)}
    per_run = {str(run): _finite(value) for run, value in zip(metric.runs, metric.per_run, strict=True)}
    kept = {name: _finite(value) for name, value in values.items()}
    return {"unit": metric.unit, "better": metric.better, **kept, "per_run": per_run, "samples": metric.pool.size}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


# ------------------------------------------------------------------------------------------------------ terminal


def to_ascii(line: str) -> str:
    """The line in ASCII, for terminals that have no more."""
    for character, plain_form in (("µ", "u"), ("·", "|"), ("–", "-"), ("×", "x")):
        line = line.replace(character, plain_form)
    return line.encode("ascii", "backslashreplace").decode()


def _can_print(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _paint() -> Paint:
    """Colours on a terminal, unless NO_COLOR asks for none (https://no-color.org)."""
    wanted = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return coloured if wanted else plain


def _wrap(text: str, width: int) -> Iterable[str]:
    line = ""
    for word in text.split(" "):
        if line and len(line) + len(word) + 1 > width:
            yield line
            line = " " * 10
        line += f" {word}" if line else word
    yield line


def _mapping(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = document.get(key)
    return value if isinstance(value, Mapping) else {}
