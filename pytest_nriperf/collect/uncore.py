"""Events of memory controllers and energy meters as sysfs describes them. Pure but for reading the files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from pytest_nriperf.collect.perf_event import Event
from pytest_nriperf.collect.reading import Files

DEVICES = "/sys/bus/event_source/devices"

# PMU -> pattern of its event names -> our name. Some parts count a channel's two schedulers apart: both are added.
WANTED = {
    re.compile(r"uncore_imc(_\d+)?"): {
        re.compile(r"cas_count_read(_sch\d)?"): "memory_read_bytes",
        re.compile(r"cas_count_write(_sch\d)?"): "memory_write_bytes",
    },
    re.compile(r"power"): {
        re.compile(r"energy-pkg"): "package_energy",
        re.compile(r"energy-ram"): "dram_energy",
    },
}
_UNITS = {"MiB": ("B", 2.0**20), "Joules": ("J", 1.0)}
_TERM = re.compile(r"(\w+)(?:=(0x[0-9a-fA-F]+|\d+))?")
_BITS = re.compile(r"(config[12]?):(\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*)")


class UncoreEvent(NamedTuple):
    """An event to open on `cpu`; a count x `scale` is `unit`."""

    name: str
    event: Event
    cpu: int
    socket: int
    scale: float
    unit: str


def find_uncore(files: Files) -> list[UncoreEvent]:
    """Every event of WANTED on each CPU that its PMU names; what is described strangely is left out."""
    return [
        found
        for device in files.names(DEVICES)
        for pattern, wanted in WANTED.items()
        if pattern.fullmatch(device)
        for found in _events_of(files, f"{DEVICES}/{device}", wanted)
    ]


def _events_of(files: Files, folder: str, wanted: dict[re.Pattern[str], str]) -> Iterator[UncoreEvent]:
    kind = files.text(f"{folder}/type")
    mask = files.text(f"{folder}/cpumask")
    formats = {name: files.text(f"{folder}/format/{name}") for name in files.names(f"{folder}/format")}
    if not kind.isdigit() or not re.fullmatch(r"\d+(,\d+)*", mask):
        return
    for name in files.names(f"{folder}/events"):
        ours = next((each for pattern, each in wanted.items() if pattern.fullmatch(name)), None)
        if ours is None:
            continue
        words = compose(files.text(f"{folder}/events/{name}"), formats)
        unit = _UNITS.get(files.text(f"{folder}/events/{name}.unit"))
        scale = _scale(files.text(f"{folder}/events/{name}.scale"))
        if words is None or unit is None or scale is None:
            continue
        for cpu in map(int, mask.split(",")):
            socket = files.text(f"/sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id")
            if socket.isdigit():
                yield UncoreEvent(ours, Event(int(kind), *words), cpu, int(socket), scale * unit[1], unit[0])


def compose(text: str, formats: dict[str, str]) -> tuple[int, int, int] | None:
    """The configuration words of an event such as `event=0x04,umask=0x03`; None when it cannot be understood.

    >>> compose("event=0x05,umask=0xcf", {"event": "config:0-7", "umask": "config:8-15"})
    (52997, 0, 0)
    """
    words = {"config": 0, "config1": 0, "config2": 0}
    for term in text.split(","):
        match = _TERM.fullmatch(term.strip())
        if match is None:
            return None
        value = int(match[2], 0) if match[2] else 1
        if match[1] in words:
            words[match[1]] |= value
            continue
        bits = _BITS.fullmatch(formats.get(match[1], ""))
        if bits is None:
            return None
        for piece in bits[2].split(","):
            first, _, last = piece.partition("-")
            width = int(last or first) - int(first) + 1
            words[bits[1]] |= (value & ((1 << width) - 1)) << int(first)
            value >>= width
        if value:
            return None
    return words["config"], words["config1"], words["config2"]


def _scale(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None
