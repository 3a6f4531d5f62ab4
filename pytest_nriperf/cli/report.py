"""`nriperf report DIR...`: one HTML page over recordings, sessions or out folders; tables and plots as files."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytest_nriperf.baselines import Verdict
from pytest_nriperf.cli.judge import gathered, judged
from pytest_nriperf.cli.judging import add_judging, exit_status
from pytest_nriperf.recording import DOCUMENT, finished_runs, read_json
from pytest_nriperf.report.contents import Contents, gather, recordings_of
from pytest_nriperf.report.files import write_files
from pytest_nriperf.report.html import write_report
from pytest_nriperf.settings import settings_here
from pytest_nriperf.sweep.takeaways import takeaways
from pytest_nriperf.units import format_bytes, format_text

MORE = """\
An out folder stands for all its sessions, so that nights, nodes and SNC modes meet on one page. Verdicts are judged
again against the baselines; --no-verdicts leaves them out. --files writes every table as CSV and Markdown and every
plot, the dots and the maps of placements too, as SVG (or PNG) into a folder.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = f"{parser.description}.\n\n{MORE}"
    parser.add_argument("sessions", type=Path, nargs="*", metavar="DIR", help="default: the configured out folder")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="the page (default: report.html)")
    parser.add_argument("--title", default="", help="what stands above it")
    parser.add_argument("--no-verdicts", action="store_true", help="do not judge")
    parser.add_argument("--baselines", help="folder of baselines")
    parser.add_argument("--files", type=Path, metavar="FOLDER", help="also write tables (CSV, Markdown) and plots")
    parser.add_argument("--images", default="svg", choices=("svg", "png", "none"), help="pictures in --files as (svg)")
    add_judging(parser)


def run(options: argparse.Namespace) -> int:
    """Gather, judge, write; 1 when a verdict is one to fail on."""
    settings = settings_here()
    folders = options.sessions or [settings.path(settings.out)]
    verdicts = [] if options.no_verdicts else _verdicts(folders, options)
    contents = gather(folders, verdicts, title=options.title, tell=_progress)
    output = options.output or Path("report.html")
    size = write_report(contents, output)
    written = [str(output)]
    if options.files is not None:
        written += write_files(contents, options.files, options.images)
    facts = _facts(contents, written, size)
    if options.json:
        print(json.dumps(facts, indent=1, allow_nan=False))
    else:
        print("\n".join(_words(contents, facts)))
    return exit_status(verdicts, options)


def _verdicts(folders: Sequence[Path], options: argparse.Namespace) -> list[Verdict]:
    """Verdicts of the measurements that had a gate, sessions of one test together."""
    options.rule, options.against = "sessions", None
    finished = [folder for folder in recordings_of(folders) if finished_runs(folder)]
    gated = [folder for folder in finished if read_json(folder / DOCUMENT).get("gate", {}).get("metrics")]
    return judged(gathered(gated), [], options)


def _facts(contents: Contents, written: Sequence[str], size: int) -> dict[str, Any]:
    return {
        "title": contents.title,
        "simulated": contents.simulated,
        "measurements": len(contents.parts),
        "dots": contents.gaps.total,
        "verdicts": [verdict.as_dict() for verdict in contents.ranked],
        "takeaways": [
            {"text": item.text, "ratio": item.ratio, "low": item.low, "high": item.high, "simulated": item.simulated}
            for item in takeaways(contents.rows)
        ],
        "left_out": list(contents.left_out),
        "files": list(written),
        "bytes": size,
    }


def _words(contents: Contents, facts: dict[str, Any]) -> list[str]:
    lines = [f"{format_text(contents.title)}{'  SIMULATED' if contents.simulated else ''}"]
    lines += [format_text(item) for item in takeaways(contents.rows)]
    size, page = format_bytes(facts["bytes"]), facts["files"][0]
    lines.append(f"{facts['measurements']} measurements, {facts['dots']} dots: {page} ({size})")
    if len(facts["files"]) > 1:
        lines.append(f"{len(facts['files']) - 1} files of tables and plots in {Path(facts['files'][1]).parent}")
    return lines


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty() and total > 20:
        end = "\r" if done + 1 < total else "\r\x1b[K"
        print(f"reading {done + 1} of {total}", end=end, file=sys.stderr, flush=True)
