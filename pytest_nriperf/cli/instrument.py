"""`nriperf instrument`: run an unmodified Python program and stamp its tokens."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

from pytest_nriperf.errors import UsageError
from pytest_nriperf.instrument.script import Seen, run_instrumented
from pytest_nriperf.settings import settings_here
from pytest_nriperf.units import NANOSECONDS, format_value


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = (
        "Run a Python program as it is, and stamp every token of every transformers generate() call. "
        "The recording is read by `nriperf show`. Example: nriperf instrument chat.py --model smollm2"
    )
    parser.add_argument(
        "--probe",
        action="append",
        default=[],
        metavar="TARGET",
        help="stamp this too: MODULE:FUNCTION, MODULE:CLASS.METHOD, or MODULE:FACTORY().METHOD for a method of every "
        "object that the factory returns (transformers:TextStreamer().put); repeatable",
    )
    parser.add_argument("--no-generate", action="store_true", help="leave generate() of transformers alone")
    parser.add_argument("--out", type=Path, help="where the recording goes; default: `instrumented` in the out folder")
    parser.add_argument("--json", action="store_true", help="what was seen as JSON, on standard error")
    parser.add_argument("program", nargs=argparse.REMAINDER, help="a script or -m MODULE, and its arguments")


def run(options: argparse.Namespace) -> int:
    """The program's own exit status."""
    program = options.program[1:] if options.program[:1] == ["--"] else options.program
    if not program or program == ["-m"]:
        raise UsageError("no program was named", "write nriperf instrument SCRIPT.py [ARGUMENTS]")
    settings = settings_here()
    out = options.out or settings.path(settings.out) / "instrumented"
    seen = run_instrumented(program, options.probe, out, generate=not options.no_generate)
    lines = [json.dumps(as_dict(seen))] if options.json else describe(seen)
    print("\n".join(lines), file=sys.stderr)
    return seen.status


def as_dict(seen: Seen) -> dict[str, object]:
    """For --json."""
    return {
        "status": seen.status,
        "recording": str(seen.folder),
        "generate_calls": seen.requests,
        "not_stamped": seen.unstamped,
        "events": {probe: len(events) for probe, events in seen.events.items()},
    }


def describe(seen: Seen) -> list[str]:
    """A line for generate(), one for each probe, and where to look."""
    lines = [f"nriperf: {seen.requests} generate() calls stamped"] if seen.requests else []
    if seen.unstamped:
        lines.append(f"nriperf: {seen.unstamped} calls with beam search were not stamped")
    for probe, events in seen.events.items():
        times = [(t_ns - start_ns) / NANOSECONDS for kind, start_ns, t_ns in events if kind == "call"]
        middle = f", median {format_value(statistics.median(times), 's')}" if times else ""
        lines.append(f"nriperf: {probe}: {len(events)} events{middle}")
    look = f"nriperf show {seen.folder}" if seen.requests else f"see {seen.folder}"
    return [*lines, f"nriperf: recorded; {look}"]
