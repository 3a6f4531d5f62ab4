"""Make the snapshots of test machines in tests/data/topologies again: python -m tests.machines.snapshots [SHAPE ...]"""

from __future__ import annotations

import base64
import json
import shlex
import sys
from pathlib import Path

from pytest_nriperf.topology import read_topology
from tests.machines.machine import boot
from tests.machines.selection import RESULTS
from tests.machines.shapes import SHAPES, TWO_SOCKETS, Shape

_ROOT = Path(__file__).parents[2]
_DATA = _ROOT / "tests" / "data" / "topologies"


def snapshot(shape: Shape, offline: int | None = None) -> Path:
    """Boot the shape, take a CPU offline when asked, and bring its snapshot out."""
    name = f"qemu-{shape.name}" + ("" if offline is None else "-offline")
    command = shlex.join([sys.executable, "-m", "pytest_nriperf", "topology", "--snapshot", "/tmp/snapshot"])
    lines = [f"cd {shlex.quote(str(_ROOT))}", command, f"base64 /tmp/snapshot > {RESULTS}"]
    if offline is not None:
        lines.insert(0, f"echo 0 > /sys/devices/system/cpu/cpu{offline}/online")
    done = boot(shape, "\n".join(lines), print)
    file = _DATA / f"{name}.tar.gz"
    file.write_bytes(base64.b64decode("".join(done.lines)))
    return file


def main() -> None:
    """All shapes, or those named, and one machine with a CPU offline."""
    names = sys.argv[1:] or list(SHAPES)
    files = [snapshot(SHAPES[name]) for name in names]
    if TWO_SOCKETS.name in names:
        files.append(snapshot(TWO_SOCKETS, offline=TWO_SOCKETS.cpus - 1))
    summaries = json.loads((_DATA / "summaries.json").read_text())
    for file in files:
        summaries[file.name] = read_topology(file, name=file.name).summary()
        print(f"{file.name}: {summaries[file.name]}")
    (_DATA / "summaries.json").write_text(json.dumps(summaries, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
