"""The Prometheus text of pcm-sensor-server, parsed for the scopes that are wanted. Pure.

The text has no types, no times and no HELP lines, so kinds and units come from our own table. One name stands in it
for threads, sockets and the whole system at once; what is kept is threads (as CPUs) and sockets, never sums of them,
so that no sum of ours counts twice. What cannot be a reading (nan, the marker of an invalid one) is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from pytest_nriperf.errors import CollectorError

INVALID = -2147483648
# RDT readings that are invalid are 2^64 - 1, alone or in a sum.
TOO_LARGE = 2**63

STAMP = "Measurement_Interval_in_us"
# Ratios that mix counters of different origin, and what only means something between two snapshots of the server.
IGNORED = re.compile(r"CStateResidency|NM_HitRate|Utilization_\w+|OS_ID|Number_of_sockets")

_CUMULATIVE = {
    "Instructions_Retired_Any": "",
    "Clock_Unhalted_Thread": "",
    "Clock_Unhalted_Ref": "",
    "L3_Cache_Misses": "",
    "L3_Cache_Hits": "",
    "L2_Cache_Misses": "",
    "L2_Cache_Hits": "",
    "Invariant_TSC": "",
    "SMI_Count": "",
    "RawCStateResidency": "",
    "Local_Memory_Bandwidth": "MiB",
    "Remote_Memory_Bandwidth": "MiB",
    "DRAM_Reads": "B",
    "DRAM_Writes": "B",
    "Persistent_Memory_Reads": "B",
    "Persistent_Memory_Writes": "B",
    "Embedded_DRAM_Reads": "B",
    "Embedded_DRAM_Writes": "B",
    "Memory_Controller_IA_Requests": "B",
    "Memory_Controller_GT_Requests": "B",
    "Memory_Controller_IO_Requests": "B",
    "NM_Hits": "",
    "NM_Misses": "",
    "NM_Miss_Bw": "B",
    "Package_Joules_Consumed": "J",
    "DRAM_Joules_Consumed": "J",
    "PP0_Joules_Consumed": "J",
    "PP1_Joules_Consumed": "J",
    "CXL_Write_Cache": "B",
    "CXL_Write_Mem": "B",
    "PCIe_Read_Bytes": "B",
    "PCIe_Write_Bytes": "B",
}
_GAUGES = {"L3_Cache_Occupancy": "KiB", "Thermal_Headroom": "K"}
_FAMILIES = (
    (re.compile(r"(Incoming_Data|Outgoing_Data_And_Non_Data)_Traffic_On_Link_\d+"), "B"),
    (re.compile(r"PCIe_\w+"), ""),
)
_LABEL = re.compile(r'(\w+)="([^"\\\n]*)"')
_NUMBER = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,9})?", re.ASCII)
# A literal line end instead of `^`: the search for it is ten times as fast.
_OS_ID = re.compile(r'\nOS_ID\{socket="(\d{1,9})",core="(\d{1,9})",thread="(\d{1,9})"\} (\d{1,9})(?=\n)', re.ASCII)
_INVALID_THREAD = re.compile(r'^(\w+)\{[^}\n]*thread="[^}\n]*\} 18446744073709551615$', re.MULTILINE)
# Above this many different label sets a document is not a machine's.
MOST_SCOPES = 200_000


class Scope(NamedTuple):
    """What a reading belongs to: a CPU (with its socket), or a socket. `state`: the index label."""

    socket: int
    cpu: int | None
    state: str


class Reading(NamedTuple):
    """One reading that is kept. `name` is PCM's, with `/N` for a family that is numbered by index."""

    name: str
    kind: str
    unit: str
    value: float
    cpu: int | None
    socket: int


class Answer(NamedTuple):
    """One document: the server's stamp (microseconds of its monotonic clock at the start of the read), the CPUs by
    PCM's (socket, core, thread), the readings, and how many lines were not understood."""

    stamp_us: int
    cpus: dict[tuple[int, int, int], int]
    readings: list[Reading]
    strange: int


def kind_of(name: str) -> tuple[str, str]:
    """Kind and unit of a family; `untyped` for a name that this table does not know.

    >>> kind_of("DRAM_Reads"), kind_of("Incoming_Data_Traffic_On_Link_2"), kind_of("New_Thing")
    (('cumulative', 'B'), ('cumulative', 'B'), ('untyped', ''))
    """
    if name in _CUMULATIVE:
        return "cumulative", _CUMULATIVE[name]
    if name in _GAUGES:
        return "gauge", _GAUGES[name]
    for pattern, unit in _FAMILIES:
        if pattern.fullmatch(name):
            return "cumulative", unit
    return "untyped", ""


class PcmParser:
    """Parses answers of one server. Label sets are understood once, so a later answer costs little more than a split.

    `cpus`: the hardware threads that are wanted, None for all. Sockets are always kept.
    """

    def __init__(self, cpus: Iterable[int] | None) -> None:
        self._wanted = None if cpus is None else frozenset(cpus)
        self._cpus: dict[tuple[int, int, int], int] = {}
        self._scopes: dict[str, Scope | None] = {}
        self._kinds: dict[str, tuple[str, str] | None] = {}
        self.ambiguous: set[int] = set()

    def parse(self, text: str) -> Answer:
        """The readings of one document. Raises CollectorError when it is not PCM's."""
        self._map_cpus(text)
        scopes, strange, stamp, readings = self._scopes, 0, None, []
        for line in text.split("\n"):
            name, brace, rest = line.partition("{")
            if not brace:
                if line.startswith(STAMP + " "):
                    stamp = _number(line[len(STAMP) + 1 :])
                elif line and line[0] != "#" and not _plain_line(line):
                    strange += 1
                continue
            labels, _, value = rest.partition("} ")
            try:
                scope = scopes[labels]
            except KeyError:
                scope = scopes[labels] = self._scope(labels)
                if len(scopes) > MOST_SCOPES:
                    raise _not_pcm("it has more label sets than any machine") from None
            if scope is None:
                continue
            kind = self._kind(name)
            if kind is None:
                continue
            number = _number(value)
            if number is None:
                strange += value not in ("nan", "-nan", "inf", "-inf")
            elif number != INVALID and number < TOO_LARGE and (number or scope.state == ""):
                full = f"{name}/{scope.state}" if scope.state else name
                readings.append(Reading(full, *kind, number, scope.cpu, scope.socket))
        if not isinstance(stamp, int) or stamp < 0:
            raise _not_pcm(f"it has no {STAMP}")
        return Answer(stamp, dict(self._cpus), self._without_wrapped(text, readings), strange)

    def _map_cpus(self, text: str) -> None:
        """Which hardware thread is which CPU; forgotten scopes are understood anew when that changes.

        Up to version 202412 two cores of a socket may bear one number: the CPUs of such a pair are left out.
        """
        cpus: dict[tuple[int, int, int], int] = {}
        ambiguous = set()
        for match in _OS_ID.finditer(text):
            key = (int(match[1]), int(match[2]), int(match[3]))
            if key in cpus:
                ambiguous |= {cpus[key], int(match[4])}
            cpus[key] = int(match[4])
        if cpus != self._cpus or ambiguous != self.ambiguous:
            self._cpus, self.ambiguous = cpus, ambiguous
            self._scopes.clear()

    def _scope(self, labels: str) -> Scope | None:
        """What a label set means; None for what is not wanted: other threads, sums over the system, accelerators."""
        found = dict(_LABEL.findall(labels))
        socket = found.get("socket", "")
        if not _is_number(socket) or found.get("source") not in ("core", "uncore"):
            return None
        state = found.get("index", "")
        if "thread" not in found:
            return Scope(int(socket), None, state)
        if not (_is_number(found["thread"]) and _is_number(found.get("core", ""))):
            return None
        cpu = self._cpus.get((int(socket), int(found["core"]), int(found["thread"])))
        if cpu is None or cpu in self.ambiguous or (self._wanted is not None and cpu not in self._wanted):
            return None
        return Scope(int(socket), cpu, state)

    def _kind(self, name: str) -> tuple[str, str] | None:
        """Kind and unit, None for what is ignored."""
        if name not in self._kinds:
            if len(self._kinds) > MOST_SCOPES:
                raise _not_pcm("it has more names than any version")
            self._kinds[name] = None if IGNORED.fullmatch(name) or not name.isidentifier() else kind_of(name)
        return self._kinds[name]

    def _without_wrapped(self, text: str, readings: list[Reading]) -> list[Reading]:
        """An invalid thread makes the socket's sum wrap by one, which the sum does not show: such sums are left out."""
        if "18446744073709551615" not in text:
            return readings
        wrapped = set(_INVALID_THREAD.findall(text))
        return [each for each in readings if each.cpu is not None or each.name not in wrapped]


def _number(text: str) -> int | float | None:
    """A number as PCM writes it: an integer in full, or a decimal fraction without exponent."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    return float(text) if match[1] else int(text)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def _plain_line(line: str) -> bool:
    """Whether it is a reading without labels, such as the number of sockets."""
    name, _, value = line.partition(" ")
    return name.isidentifier() and _number(value) is not None


def _not_pcm(why: str) -> CollectorError:
    return CollectorError(
        f"the answer is not pcm-sensor-server's: {why}", "check the address; its usual port is 9738, the path /metrics"
    )
