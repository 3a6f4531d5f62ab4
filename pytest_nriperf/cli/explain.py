"""`nriperf explain A B`: which counters moved between two recordings, and what that usually means."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from pytest_nriperf.counters import COUNTERS
from pytest_nriperf.errors import RecordingError
from pytest_nriperf.explain import Moved, explain, run_values, standing_out
from pytest_nriperf.metrics import METRICS, Measurement
from pytest_nriperf.sessions import find_recordings
from pytest_nriperf.units import format_percent, format_text, format_value

SHOWN = ("ttft", "itl", "tpot", "throughput")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("before", type=Path, help="a recording, or a session with one")
    parser.add_argument("after", type=Path, help="the recording to explain against it")
    parser.add_argument("--json", action="store_true", help="all of it as JSON")
    parser.epilog = "what stands out and why: docs/counters.md"


def run(options: argparse.Namespace) -> int:
    """Print what moved; 0 also when nothing stands out."""
    sides = [_one(path) for path in (options.before, options.after)]
    before, after = (run_values(side) for side in sides)
    moved = standing_out(before, after)
    if options.json:
        print(json.dumps(_as_dict(sides, before, after, moved), indent=1, allow_nan=False))
        return 0
    for word, side in zip(("before", "after "), sides, strict=True):
        simulated = "  SIMULATED" if side.document.get("simulated") else ""
        runs = f"{len(side.runs)} run{'s' * (len(side.runs) != 1)}"
        print(f"{word}  {format_text(side.path)}  {runs}{simulated}")
    print()
    for name in SHOWN:
        a, b = (side.metric(name) for side in sides)
        if math.isfinite(a.value) and math.isfinite(b.value):
            change = format_percent(b.value / a.value - 1, signed=True)
            print(f"  {name:<12}{format_value(a.value, a.unit):>14}  ->  {format_value(b.value, b.unit):<14}{change}")
    print()
    for line in _counters(sides, moved):
        print(line)
    leading = next((name for name in ("tpot", "ttft") if before.get(name) and after.get(name)), "tpot")
    explanation = explain(leading, before, after)
    print(f"\n{explanation}" if explanation else "no counter stands out")
    return 0


def _counters(sides: list[Measurement], moved: tuple[Moved, ...]) -> list[str]:
    lines = []
    for each in moved:
        a, b = format_value(each.before, each.unit), format_value(each.after, each.unit)
        lines.append(f"  {each.name:<24}{a:>14}  ->  {b:<14}{COUNTERS[each.name].definition}")
    for word, side in zip(("before", "after"), sides, strict=True):
        if not side.pcm:
            lines.append(f"  the recording {word} has no counters that span its runs: measure with --nri-collect auto")
    return lines


def _as_dict(sides: list[Measurement], before: Any, after: Any, moved: tuple[Moved, ...]) -> dict[str, Any]:
    def plain(explained: Any) -> Any:
        return None if explained is None else {"text": str(explained), "causes": list(explained.causes)}

    return {
        "before": str(sides[0].path),
        "after": str(sides[1].path),
        "simulated": any(side.document.get("simulated") for side in sides),
        "moved": [
            {"name": m.name, "unit": m.unit, "before": m.before, "after": m.after, "harmful": m.harmful} for m in moved
        ],
        "explained": {
            name: plain(explain(name, before, after)) for name in METRICS if before.get(name) and after.get(name)
        },
    }


def _one(path: Path) -> Measurement:
    """The only recording that a path names."""
    found = find_recordings(path)
    if len(found) > 1:
        names = ", ".join(each.name for each in found[:4])
        raise RecordingError(f"{path} holds {len(found)} recordings", f"name one of them: {names}, ...")
    return Measurement.from_recording(found[0])
