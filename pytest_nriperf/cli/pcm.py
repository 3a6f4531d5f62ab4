"""`nriperf pcm [URL]`: a live table of what a pcm-sensor-server counts, per socket."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterable, Sequence
from typing import Any

from pytest_nriperf.collect.pcm import PcmCollector
from pytest_nriperf.counters import COUNTERS, CounterTable, RunView, Undefined, Window
from pytest_nriperf.errors import CollectorError, UsageError
from pytest_nriperf.seams import CounterRow, Target, TargetReplica
from pytest_nriperf.units import format_value

# Heading -> counter metric; per socket and interval.
COLUMNS = {
    "read": "memory_read_bandwidth",
    "write": "memory_write_bandwidth",
    "remote": "remote_share",
    "IPC": "ipc",
    "clock": "frequency",
    "L3 miss": "l3_miss_share",
    "L3 held": "l3_occupancy",
    "UPI in": "upi_bandwidth",
    "power": "power",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("url", nargs="?", default="", help="address of the server; default: this machine, port 9738")
    parser.add_argument("--interval", type=float, default=1.0, metavar="S", help="seconds between readings; default: 1")
    parser.add_argument("--count", type=int, default=0, metavar="N", help="intervals to show; default: until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="one JSON object a socket and interval, base units")
    parser.epilog = "what the server prints as 0 throughout it cannot count: shown as -"


def run(options: argparse.Namespace) -> int:
    """Show intervals until they are enough."""
    if not 0.2 <= options.interval <= 3600:
        raise UsageError(f"--interval {options.interval:g}: the server is asked at most 5 times a second", "write 1")
    collector = PcmCollector(options.url, here=False)
    found = collector.probe()
    if not found.available:
        raise CollectorError("; ".join(found.missing), "start pcm-sensor-server there, or name its address")
    rows = list(collector.start(everything(collector)))
    if not options.json:
        print(f"{collector.address}" + "".join(f"\nnot counted: {text}" for text in found.missing))
        print(_line("socket", COLUMNS))
    shown = 0
    try:
        while options.count == 0 or shown < options.count:
            time.sleep(options.interval)
            new = list(collector.sample())
            for number, values in table(rows, new).items():
                print(json.dumps({"socket": number, **values}) if options.json else _shown(number, values), flush=True)
            rows = new or rows
            shown += 1
    except KeyboardInterrupt:
        return 0
    return 0


def everything(collector: PcmCollector) -> Target:
    """All CPUs that the server knows, as one target."""
    cpus = frozenset(collector.known_cpus())
    return Target((TargetReplica(0, None, cpus, cpus),))


def table(before: Sequence[CounterRow], after: Sequence[CounterRow]) -> dict[int, dict[str, float | None]]:
    """Socket -> counter metric -> value between two readings, None where it is not counted."""
    rows = [*before, *after]
    sockets = sorted({row.socket for row in rows if row.socket is not None})
    if not after:
        return {}
    window = Window(before[0].t_ns, after[0].t_ns)
    result = {}
    for socket in sockets:
        mine = CounterTable.from_rows(row for row in rows if row.socket == socket)
        view = RunView(mine, 1, window, tokens=0)
        result[socket] = {name: _value(view, name) for name in COLUMNS.values()}
    return result


def _value(view: RunView, name: str) -> float | None:
    try:
        value = COUNTERS[name].value(view)
    except Undefined:
        return None
    return value if math.isfinite(value) else None


def _shown(socket: int, values: dict[str, Any]) -> str:
    return _line(str(socket), (format_value(values[name], COUNTERS[name].unit) for name in COLUMNS.values()))


def _line(first: str, cells: Iterable[str]) -> str:
    return f"{first:>6}" + "".join(f"{cell:>12}" for cell in cells)
