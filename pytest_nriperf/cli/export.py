"""`nriperf export DIR --format F`: run values for other tools; pytest-benchmark's own commands read the first."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pytest_nriperf.baselines.evidence import read_evidence
from pytest_nriperf.errors import UsageError
from pytest_nriperf.report.exports import FORMATS, export

MORE = """\
pytest-benchmark  one session: a benchmark a test and metric, a round a run; rates as seconds a token.
                  Written to .benchmarks/<any folder>/0001_name.json, `pytest-benchmark compare` reads it.
csv, jsonl        one row a run, metric and statistic
openmetrics       one gauge a metric and statistic: the median over runs, of the newest session that is named"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = f"{parser.description}.\n\n{MORE}"
    parser.add_argument("sessions", type=Path, nargs="+", metavar="DIR", help="recording, session or out folder")
    parser.add_argument("--format", choices=FORMATS, default="jsonl", help="default: jsonl")
    parser.add_argument("--out", type=Path, help="file to write (default: standard output)")
    parser.add_argument("--json", action="store_const", dest="format", const="jsonl", help="the same as --format jsonl")


def run(options: argparse.Namespace) -> int:
    """Write the file, or print it."""
    measured = [one for folder in options.sessions for one in read_evidence(folder)]
    sessions = list(dict.fromkeys(one.record.session for one in measured))
    if options.format == "pytest-benchmark" and len(sessions) > 1:
        raise UsageError(
            f"a file of pytest-benchmark holds one session, {len(sessions)} were named",
            f"export them one by one: {', '.join(sessions)}",
        )
    text = export(measured, options.format)
    if options.out is None:
        sys.stdout.write(text)
        return 0
    try:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{options.out} cannot be written: {error.strerror}", "name another --out") from error
    return 0
