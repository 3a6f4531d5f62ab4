"""Energy meters over their wrap-around; resctrl groups made for a run and removed after it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_nriperf.collect.energy import EnergyCollector
from pytest_nriperf.collect.reading import Files
from pytest_nriperf.collect.resctrl import FOLDER, ResctrlCollector, groups_of_pcm, left_groups
from pytest_nriperf.errors import CollectorError
from pytest_nriperf.owner import own_tag
from pytest_nriperf.seams import Target, TargetReplica
from tests.collect.trees import write_tree

NOBODY = Target(())
RANGE = 262_143_328_850


def zone(number: str, name: str, energy: int) -> dict[str, str]:
    folder = f"/sys/class/powercap/intel-rapl:{number}"
    return {
        f"{folder}/name": f"{name}\n",
        f"{folder}/energy_uj": f"{energy}\n",
        f"{folder}/max_energy_range_uj": f"{RANGE}\n",
    }


@pytest.fixture
def meters(tmp_path: Path) -> str:
    files = zone("0", "package-0", RANGE - 10) | zone("0:0", "core", 1) | zone("0:1", "dram", 50)
    files |= zone("1", "package-1", 7) | zone("2", "psys", 8)
    files["/sys/class/powercap/intel-rapl-mmio:0/name"] = "package-0\n"
    return write_tree(tmp_path, files)


def test_packages_dram_and_board_are_metered_once(meters: str) -> None:
    rows = EnergyCollector(meters).start(NOBODY)
    assert [(row.name, row.socket, row.value, row.unit) for row in rows] == [
        ("package_energy", 0, RANGE - 10, "uJ"),
        ("dram_energy", 0, 50, "uJ"),
        ("package_energy", 1, 7, "uJ"),
        ("board_energy", None, 8, "uJ"),
    ]


def test_energy_goes_on_growing_where_the_register_wraps(meters: str) -> None:
    collector = EnergyCollector(meters)
    collector.start(NOBODY)
    file = Path(meters) / "sys/class/powercap/intel-rapl:0/energy_uj"
    file.write_text("5\n")
    assert next(iter(collector.sample())).value == RANGE + 6
    file.write_text("9\n")
    assert next(iter(collector.stop())).value == RANGE + 10
    assert collector.stop() == []


def test_the_dies_of_a_package_are_one_meter_each_over_its_own_wrap_around(tmp_path: Path) -> None:
    files = zone("0", "package-0-die-0", RANGE - 10) | zone("1", "package-0-die-1", 100)
    files |= zone("0:0", "dram", 1) | zone("1:0", "dram", 2) | zone("2", "package-1-die-0", 7)
    root = write_tree(tmp_path, files)
    collector = EnergyCollector(root)
    first = [(row.name, row.socket, row.value) for row in collector.start(NOBODY)]
    assert first == [
        ("package_energy", 0, RANGE + 90),
        ("dram_energy", 0, 3),
        ("package_energy", 1, 7),
    ]
    write_tree(tmp_path, zone("0", "package-0-die-0", 5) | zone("1", "package-0-die-1", 130))
    assert next(iter(collector.stop())).value == RANGE + 90 + 16 + 30


def test_meters_that_only_root_reads_are_said_to_be_missing(meters: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Files, path: str) -> bytes:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(Files, "read", refuse)
    found = EnergyCollector(meters).probe()
    assert not found.available
    assert found.missing[0].endswith("energy_uj: Permission denied; needs root")


def test_a_machine_without_meters_says_so(tmp_path: Path) -> None:
    assert EnergyCollector(str(tmp_path)).probe().missing == ("no RAPL meters in /sys/class/powercap",)


@pytest.fixture
def mounted(tmp_path: Path) -> str:
    files = {
        f"{FOLDER}/schemata": "L3:0=fff\n",
        f"{FOLDER}/info/L3_MON/mon_features": "llc_occupancy\nmbm_total_bytes\nmbm_local_bytes\n",
        f"{FOLDER}/info/last_cmd_status": "ok\n",
        f"{FOLDER}/mon_groups/keep": "",
    }
    return write_tree(tmp_path, files | {f"/proc/7/task/{task}/stat": "" for task in (7, 8)})


def kernel(root: str, readings: dict[str, str]) -> Callable[[str], None]:
    """What the kernel does when a group is made: its files appear."""

    def make(folder: str) -> None:
        os.mkdir(folder)
        files = {"tasks": ""}
        for domain in ("mon_L3_00", "mon_L3_01"):
            files |= {f"mon_data/{domain}/{name}": f"{value}\n" for name, value in readings.items()}
        write_tree(Path(folder), files)

    return make


def remove(folder: str) -> None:
    """What the kernel does when a group's folder is removed."""
    for path in sorted(Path(folder).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    os.rmdir(folder)


TARGET = Target((TargetReplica(2, 7, frozenset(), frozenset()),))
READINGS = {"llc_occupancy": "1000", "mbm_total_bytes": "500", "mbm_local_bytes": "300"}


def test_a_replicas_tasks_are_watched_in_a_group_that_is_gone_afterwards(mounted: str) -> None:
    collector = ResctrlCollector(mounted, make=kernel(mounted, READINGS), remove=remove)
    rows = list(collector.start(TARGET))
    assert [(row.name, row.kind, row.value, row.replica) for row in rows] == [
        ("l3_occupancy", "gauge", 2000, 2),
        ("memory_total_bytes", "cumulative", 1000, 2),
        ("memory_local_bytes", "cumulative", 600, 2),
    ]
    group = Path(f"{mounted}{FOLDER}/mon_groups/{own_tag()}2")
    assert (group / "tasks").read_text() == "78"
    collector.stop()
    assert not group.exists()
    assert collector.notes == []


def test_a_reading_that_is_unavailable_is_left_out_and_said(mounted: str) -> None:
    readings = {**READINGS, "mbm_total_bytes": "Unavailable"}
    collector = ResctrlCollector(mounted, make=kernel(mounted, readings), remove=remove)
    assert {row.name for row in collector.start(TARGET)} == {"l3_occupancy", "memory_local_bytes"}
    collector.stop()
    assert collector.notes == ["memory_total_bytes was Unavailable at times"]


def test_when_no_group_can_be_made_nothing_is_left_and_the_reason_is_the_kernels(mounted: str) -> None:
    write_tree(Path(mounted), {f"{FOLDER}/info/last_cmd_status": "out of RMIDs\n"})
    made = kernel(mounted, READINGS)
    calls: list[str] = []

    def make(folder: str) -> None:
        calls.append(folder)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        made(folder)

    target = Target((*TARGET.replicas, TargetReplica(3, 7, frozenset(), frozenset())))
    with pytest.raises(CollectorError, match="out of RMIDs"):
        ResctrlCollector(mounted, make=make, remove=remove).start(target)
    assert os.listdir(f"{mounted}{FOLDER}/mon_groups") == ["keep"]


def test_a_group_that_cannot_be_removed_is_named(mounted: str) -> None:
    def refuse(folder: str) -> None:
        raise OSError(16, "Device or resource busy")

    collector = ResctrlCollector(mounted, make=kernel(mounted, READINGS), remove=refuse)
    collector.start(TARGET)
    collector.stop()
    assert "is left behind (Device or resource busy)" in collector.notes[0]


def dead_name(replica: int) -> str:
    """A group of a process that had this process's number before it."""
    *whose, _, rest = own_tag().split("-")
    return "-".join([*whose, "1", rest]) + str(replica)


def test_groups_of_dead_sessions_are_found_though_their_number_is_used_again(mounted: str) -> None:
    names = [f"{own_tag()}0", dead_name(1), "nriperf-1-2-3-0", "pcm7"]
    write_tree(Path(mounted), {f"{FOLDER}/mon_groups/{name}/tasks": "" for name in names})
    assert left_groups(Files(mounted)) == [f"{FOLDER}/mon_groups/{dead_name(1)}"]
    assert groups_of_pcm(Files(mounted)) == [f"{FOLDER}/mon_groups/pcm7"]


def test_what_a_killed_session_left_is_removed_and_what_we_could_not_remove_is_used_again(mounted: str) -> None:
    ours = f"{own_tag()}2"
    make = kernel(mounted, READINGS)
    make(f"{mounted}{FOLDER}/mon_groups/{ours}")
    write_tree(Path(mounted), {f"{FOLDER}/mon_groups/{dead_name(1)}/tasks": ""})
    collector = ResctrlCollector(mounted, make=make, remove=remove)
    assert len(list(collector.start(TARGET))) == 3
    assert sorted(os.listdir(f"{mounted}{FOLDER}/mon_groups")) == ["keep", ours]
    collector.stop()
    assert os.listdir(f"{mounted}{FOLDER}/mon_groups") == ["keep"]
    assert collector.notes == []


def test_the_probe_tells_what_is_missing(mounted: str, tmp_path: Path) -> None:
    write_tree(Path(mounted), {f"{FOLDER}/info/L3_MON/mon_features": "llc_occupancy\n"})
    found = ResctrlCollector(mounted).probe()
    assert (found.available, found.gives) == (True, ("l3_occupancy",))
    assert found.missing == ("memory_total_bytes (not monitored)", "memory_local_bytes (not monitored)")
    assert ResctrlCollector(str(tmp_path / "none")).probe().missing == (f"{FOLDER} is not mounted",)
