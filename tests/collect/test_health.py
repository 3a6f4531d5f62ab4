"""What only trying tells of the counters, and what the doctor makes of it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from pytest_nriperf.collect.health import counter_facts, shared_counters
from pytest_nriperf.doctor.check import Examined, Finding
from pytest_nriperf.doctor.counters import COUNTER_CHECKS
from pytest_nriperf.owner import own_tag
from pytest_nriperf.topology import simulated_topology
from tests.collect.test_perf_events import Opener, prepared
from tests.pcm_double import Machine, PcmDouble

INTEL = b"vendor_id\t: GenuineIntel\nflags\t\t: fpu vme arch_perfmon\n"
GUEST = b"vendor_id\t: GenuineIntel\nflags\t\t: fpu vme hypervisor\n"


def findings(facts: dict[str, Any], cpuinfo: bytes = INTEL) -> list[Finding]:
    node = Examined(
        read={"/proc/cpuinfo": cpuinfo}.get, topology=simulated_topology("sim:1s2c1t"), allowed=frozenset(), facts=facts
    )
    return [finding for check in COUNTER_CHECKS for finding in check.look(node)]


def none_shared(*_: object, **__: object) -> int:
    return prepared((5, 1, 1))


def test_a_server_on_our_clock_is_good_and_one_on_another_is_told() -> None:
    with PcmDouble(Machine(zero=frozenset({"UPI"}))) as server:
        good = findings(counter_facts(server.url, opener=none_shared, work_s=0))
    with PcmDouble(clock_us=lambda: 5) as server:
        off = findings(counter_facts(server.url, opener=none_shared, work_s=0))
    assert [finding.level for finding in good] == ["good", "good"]
    assert good[0].found.endswith("on our clock; UPI traffic (0 in every answer)")
    assert off[0].level == "notice"
    assert "its clock is not ours" in off[0].found


@pytest.mark.parametrize(
    ("cpuinfo", "named", "told"), [(INTEL, False, 1), (GUEST, False, 0), (GUEST, True, 1), (b"", False, 0)]
)
def test_a_missing_server_is_told_where_one_could_be(cpuinfo: bytes, named: bool, told: int) -> None:
    fact = {"address": "x", "named": named, "available": False, "missing": ["nothing listens on x"], "notes": []}
    found = findings({"pcm": fact}, cpuinfo)
    assert len(found) == told
    assert all("pcm-sensor-server" in finding.mend for finding in found)


def test_counters_that_are_shared_are_named() -> None:
    opener = Opener({}, values=((100, 200, 120),))
    shared = shared_counters(opener, work_s=0)
    assert shared == ["cycles", "instructions", "reference_cycles", "last_level_loads", "last_level_load_misses"]
    assert findings({"shared_counters": shared})[0].found.startswith("cycles, instructions")
    assert shared_counters(none_shared, work_s=0) == []


def test_where_there_are_no_hardware_events_nothing_is_shared_and_nothing_stays_open() -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.ENOENT, "")

    before = len(os.listdir("/proc/self/fd"))
    assert shared_counters(refuse, work_s=0) is None
    assert findings({"shared_counters": None})[0].level == "unknown"
    shared_counters(Opener({}), work_s=0)
    assert len(os.listdir("/proc/self/fd")) == before


def test_groups_that_were_left_come_with_the_command_that_removes_them(tmp_path: Path) -> None:
    whose = own_tag().removesuffix("-").rpartition("-")[0]
    (tmp_path / f"sys/fs/resctrl/mon_groups/{whose}-1-0").mkdir(parents=True)
    facts = counter_facts("127.0.0.1:1", root=str(tmp_path), opener=none_shared, work_s=0)
    found = findings(facts)
    assert found[-1].mend == f"rmdir /sys/fs/resctrl/mon_groups/{whose}-1-0"


def test_groups_of_pcm_are_told_where_no_server_answers(tmp_path: Path) -> None:
    for cpu in range(3):
        (tmp_path / f"sys/fs/resctrl/mon_groups/pcm{cpu}").mkdir(parents=True)
    told = findings(counter_facts("127.0.0.1:1", root=str(tmp_path), opener=none_shared, work_s=0))[-1]
    assert (told.check, told.level, told.sure) == ("resctrl groups", "notice", "possible")
    assert told.found == "3 of PCM, and no PCM server answers"
    assert told.mend.endswith("rmdir /sys/fs/resctrl/mon_groups/pcm[0-9]*")
    with PcmDouble() as server:
        alive = findings(counter_facts(server.url, root=str(tmp_path), opener=none_shared, work_s=0))
    assert "resctrl groups" not in [each.check for each in alive]


def test_of_a_snapshot_nothing_is_said() -> None:
    assert findings({}) == []
