"""A fingerprint has what a figure depends on, in the part that decides how a difference is treated."""

from __future__ import annotations

import pytest

from pytest_nriperf.errors import SettingsError
from pytest_nriperf.fingerprint import Fingerprint, node_fingerprint
from pytest_nriperf.topology import simulated_topology

FILES = {
    "/proc/cpuinfo": b"processor\t: 0\nmodel name\t: Some Xeon\nmicrocode\t: 0x2b\nflags\t\t: fpu\n\nprocessor\t: 1",
    "/proc/sys/kernel/osrelease": b"6.1.0-18-amd64\n",
    "/proc/cmdline": b"BOOT_IMAGE=/vmlinuz root=UUID=secret-disk isolcpus=2-3 mitigations=off quiet",
    "/proc/meminfo": b"MemTotal: 16 kB\nSwapTotal:       2097152 kB\n",
    "/sys/kernel/mm/transparent_hugepage/enabled": b"always [madvise] never\n",
    "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": b"powersave\n",
}


def fingerprint(files: dict[str, bytes] | None = None, shape: str = "sim:2s4c2t-snc2") -> Fingerprint:
    return node_fingerprint({**FILES, **(files or {})}.get, simulated_topology(shape))


def test_hardware_is_identity_what_people_change_is_treatment_settings_are_state() -> None:
    parts = fingerprint()
    assert parts.identity["cpu"] == "Some Xeon"
    assert (parts.identity["sockets"], parts.identity["SNC"], parts.identity["cpus"]) == (2, 2, 16)
    assert parts.treatment["kernel"] == "6.1.0-18-amd64"
    assert parts.treatment["microcode"] == "0x2b"
    assert parts.state["governor"] == "powersave"
    assert parts.state["transparent huge pages"] == "madvise"
    assert parts.state["swap GiB"] == 2


def test_nothing_that_names_a_disk_or_a_host_is_kept() -> None:
    assert fingerprint().treatment["kernel options"] == "isolcpus=2-3 mitigations=off"
    assert "secret" not in str(fingerprint().as_dict())


def test_what_cannot_be_read_is_absent_and_not_guessed() -> None:
    parts = node_fingerprint(lambda path: None, simulated_topology("sim:1s2c1t"))
    assert parts.identity["cpu"] == "unknown"
    assert parts.state["governor"] == parts.treatment["bios"] == "absent"


def test_a_new_kernel_keeps_the_baselines_folder_other_hardware_does_not() -> None:
    assert fingerprint({"/proc/sys/kernel/osrelease": b"6.12"}).node_hash == fingerprint().node_hash
    assert fingerprint(shape="sim:2s4c2t").node_hash != fingerprint().node_hash


def test_memory_tells_machines_apart_except_virtual_ones_whose_memory_comes_and_goes() -> None:
    virtual = {"/proc/cpuinfo": FILES["/proc/cpuinfo"].replace(b"fpu", b"fpu hypervisor")}
    assert fingerprint(shape="sim:2s4c2t-16g").node_hash != fingerprint(shape="sim:2s4c2t-32g").node_hash
    grown = fingerprint(virtual, shape="sim:2s4c2t-32g")
    assert fingerprint(virtual, shape="sim:2s4c2t-16g").node_hash == grown.node_hash
    assert grown.treatment["memory GiB"] == {"0": 32, "1": 32}


def test_the_question_is_part_of_the_identity_and_not_of_the_node() -> None:
    asked = fingerprint().with_question(
        balloon="cpus=4",
        workload="w",
        model={"name": "m", "dtype": "float32", "revision": "r1"},
        versions={"torch": "2"},
    )
    assert asked.identity["balloon"] == "cpus=4"
    assert asked.identity["dtype"] == "float32"
    assert asked.treatment["torch version"] == "2"
    assert asked.treatment["model revision"] == "r1"
    assert asked.node_hash == fingerprint().node_hash


def test_a_profile_moves_fields_and_cannot_move_what_is_not_there() -> None:
    moved = fingerprint().moved(identity=["microcode"], treatment=["governor"])
    assert moved.identity["microcode"] == "0x2b"
    assert "microcode" not in moved.treatment
    assert moved.treatment["governor"] == "powersave"
    with pytest.raises(SettingsError, match="no field 'govenor'"):
        fingerprint().moved(identity=["govenor"])
