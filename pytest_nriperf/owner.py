"""Names that tell whose a thing is, so that what a killed owner left can be told from what a living one uses."""

from __future__ import annotations

import os
import re
from pathlib import Path

PREFIX = "nriperf-"
_TAG = re.compile(r"nriperf-(\d+)-(\d+)-(\d+)-")


def own_tag() -> str:
    """The beginning of names of ours: process namespace, process number, start time."""
    return f"{PREFIX}{_namespace()}-{os.getpid()}-{_start_time(os.getpid())}-"


def is_abandoned(name: str) -> bool:
    """Whether a name is one of ours whose owner, a process of our own process namespace, is dead."""
    match = _TAG.match(name)
    if match is None or int(match[1]) != _namespace():
        return False
    return _start_time(int(match[2])) != int(match[3])


def _namespace() -> int:
    """Numbers of processes mean nothing in another namespace, such as that of a neighbouring container."""
    return os.stat("/proc/self/ns/pid").st_ino


def _start_time(pid: int) -> int | None:
    """Clock ticks after boot when a process started, None when there is none of that number or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[19]) if fields and fields[0] not in "ZX" else None
