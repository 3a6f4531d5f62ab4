"""The doctor says nothing against a good node, and names what is wrong with a bad one, worst first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_nriperf.doctor import CHECKS, LEVELS, Examined, Finding, examine
from pytest_nriperf.topology import simulated_topology
from tests.doctor.nodes import CPU, IDLE, examined, good_files

THP = "/sys/kernel/mm/transparent_hugepage"
CLOCK = "/sys/devices/system/clocksource/clocksource0"
CGROUP = "/sys/fs/cgroup"


def finding(node: Examined, check: str) -> Finding:
    (found,) = [each for each in examine(node) if each.check == check]
    return found


def on_every_cpu(name: str, value: str) -> dict[str, str | None]:
    return {f"{CPU}/cpu{cpu}/{name}": value for cpu in range(16)}


def test_a_good_node_has_nothing_but_good_findings() -> None:
    assert {each.level for each in examine(examined())} == {"good"}


@pytest.mark.parametrize(
    ("changes", "check", "level", "words"),
    [
        (on_every_cpu("cpufreq/scaling_governor", "powersave"), "governor", "disturbs", "intel_pstate"),
        (on_every_cpu("cpufreq/scaling_governor", "schedutil"), "governor", "disturbs", "schedutil on 16 CPUs"),
        (
            on_every_cpu("cpufreq/scaling_governor", "powersave")
            | on_every_cpu("cpufreq/scaling_driver", "acpi-cpufreq"),
            "governor",
            "spoils",
            "powersave",
        ),
        (
            {f"{CPU}/cpu3/cpufreq/scaling_governor": "powersave"},
            "governor",
            "spoils",
            "performance on 15 CPUs, powersave on 1",
        ),
        (
            on_every_cpu("cpufreq/energy_performance_preference", "balance_power"),
            "energy preference",
            "disturbs",
            "balance_power",
        ),
        (on_every_cpu("cpufreq/scaling_max_freq", "2000000"), "frequency limit", "notice", "2.00 GHz of 3.80 GHz"),
        ({f"{CPU}/cpu5/cpufreq/scaling_max_freq": "2000000"}, "frequency limit", "disturbs", "CPUs 5 "),
        ({f"{CPU}/intel_pstate/no_turbo": "0"}, "turbo", "notice", "on"),
        ({f"{CPU}/intel_pstate/no_turbo": None, f"{CPU}/cpufreq/boost": "1"}, "turbo", "notice", "on"),
        ({f"{CPU}/intel_pstate/no_turbo": None}, "turbo", "unknown", "does not tell"),
        ({f"{CPU}/cpu4/thermal_throttle/package_throttle_count": "7"}, "throttling", "notice", "socket 1 7 times"),
        ({f"{CLOCK}/current_clocksource": "hpet"}, "clock source", "disturbs", "hpet"),
        ({f"{CLOCK}/current_clocksource": "acpi_pm"}, "clock source", "spoils", "acpi_pm"),
        ({"/proc/sys/kernel/nmi_watchdog": "1"}, "NMI watchdog", "notice", "on"),
        ({"/proc/cpuinfo": "flags : fpu hypervisor\n"}, "virtual machine", "notice", "yes"),
        ({"/proc/sys/kernel/numa_balancing": "1"}, "NUMA balancing", "disturbs", "on"),
        ({f"{THP}/enabled": "[always] madvise never"}, "huge pages", "notice", "always, defragmentation madvise"),
        (
            {f"{THP}/enabled": "[always] madvise never", f"{THP}/defrag": "[always] defer never"},
            "huge pages",
            "disturbs",
            "defragmentation always",
        ),
        ({f"{THP}/enabled": "always madvise [never]"}, "huge pages", "notice", "never"),
        ({"/proc/meminfo": "SwapTotal: 1048576 kB\nSwapFree: 1048576 kB\n"}, "swap", "notice", "1 GiB, not in use"),
        ({"/proc/meminfo": "SwapTotal: 1048576 kB\nSwapFree: 524288 kB\n"}, "swap", "disturbs", "512 MiB of 1 GiB"),
        (
            {"/sys/devices/system/node/node2/meminfo": "Node 2 MemTotal: 2097152 kB\nNode 2 MemFree: 262144 kB\n"},
            "free memory",
            "disturbs",
            "NUMA node 2: 256 MiB of 2 GiB free",
        ),
        ({"/proc/sys/vm/zone_reclaim_mode": "1"}, "zone reclaim", "notice", "1"),
        ({"/sys/kernel/mm/ksm/run": "1"}, "same-page merging", "notice", "on"),
        (
            {f"{CGROUP}/user.slice/cpu.max": "150000 100000"},
            "CPU quota",
            "spoils",
            f"1.5 CPUs ({CGROUP}/user.slice/cpu.max)",
        ),
        (
            {"/proc/self/cgroup": "4:cpu,cpuacct:/pod/box\n0::/\n", f"{CGROUP}/cpu/pod/cpu.cfs_quota_us": "400000"},
            "CPU quota",
            "spoils",
            "4 CPUs",
        ),
        ({"/proc/stat": None}, "steal", "unknown", "cannot be read"),
    ],
)
def test_what_is_wrong_is_found(changes: dict[str, str | None], check: str, level: str, words: str) -> None:
    found = finding(examined(changes), check)
    assert found.level == level
    assert words in found.found
    assert level == "unknown" or (found.effect and found.sure and found.mend)
    assert all(each.level == "good" for each in examine(examined(changes)) if each.check not in (check, "load"))


def test_steal_and_load_are_those_of_the_interval_and_not_of_the_boot() -> None:
    now = "".join(f"cpu{cpu} 130 0 50 100160 10 0 0 10 0 0\n" for cpu in range(16))
    node = examined({"/proc/stat": now})
    assert finding(node, "steal").found == "5.0 % of the CPUs' time over 2 s"
    assert "20.0 % busy over 2 s" in finding(node, "load").found
    since_boot = replace(node, earlier={}, seconds=0.0)
    assert finding(since_boot, "steal").level == "good"
    assert "since boot" in finding(since_boot, "steal").found


def test_only_load_on_cpus_that_may_be_given_out_counts() -> None:
    lines = IDLE.splitlines(keepends=True)
    lines[15] = "cpu15 300 0 50 100000 10 0 0 0 0 0\n"
    rest = [line.replace("100000", "100200") for line in lines[:15]]
    node = examined({"/proc/stat": "".join([*rest, lines[15]])})
    assert "CPUs 15" in finding(node, "load").found
    assert finding(replace(node, allowed=frozenset(range(15))), "load").level == "good"


def test_without_an_interval_the_load_average_speaks() -> None:
    node = examined({"/proc/loadavg": "5.20 5.00 4.00 3/300 4000"}, seconds=0.0, earlier={})
    assert finding(node, "load").level == "disturbs"
    assert "5.2 on 16 CPUs" in finding(node, "load").found


def test_isolated_cpus_that_may_be_given_out_spoil() -> None:
    machine = replace(simulated_topology("sim:2s4c2t-snc2"), isolated=frozenset({2, 10}))
    given = finding(examined(topology=machine), "isolated CPUs")
    assert given.level == "spoils"
    assert "taskset -c 0-1,3-9,11-15" in given.mend
    kept = finding(examined(topology=machine, allowed=machine.online - machine.isolated), "isolated CPUs")
    assert kept.level == "good"


def test_rights_that_are_missing_are_named() -> None:
    facts = {"numactl": None, "bind_memory": "Operation not permitted", "cpuset": "affinity", "lock": "not writable"}
    node = examined(facts=facts)
    assert finding(node, "memory binding").level == "spoils"
    assert finding(node, "confinement").level == "notice"
    assert finding(node, "node lock").level == "spoils"
    tool = finding(examined(facts={**node.facts, "bind_memory": ""}), "memory binding")
    assert (tool.level, tool.mend) == ("notice", "apt-get install numactl")


def test_the_worst_comes_first() -> None:
    changes = {"/proc/sys/kernel/numa_balancing": "1", f"{CLOCK}/current_clocksource": "acpi_pm"}
    levels = [each.level for each in examine(examined(changes))]
    assert levels == sorted(levels, key=LEVELS.index)
    assert levels[:2] == ["spoils", "disturbs"]


def test_a_node_that_tells_nothing_is_unknown_and_not_good_or_bad() -> None:
    blind = replace(examined(), read=lambda _: None, earlier={}, seconds=0.0, facts={})
    levels = {each.check: each.level for each in examine(blind)}
    assert levels["governor"] == levels["steal"] == levels["clock source"] == levels["memory binding"] == "unknown"
    assert "spoils" not in levels.values()
    for check in ("NUMA balancing", "free memory", "NMI watchdog", "CPU quota"):
        assert levels[check] == "unknown", check


def test_a_finding_that_spoils_says_what_it_does_and_what_mends_it() -> None:
    with pytest.raises(ValueError, match="what mends it"):
        Finding("x", "spoils", "y")
    with pytest.raises(ValueError, match="none of"):
        Finding("x", "bad", "y")


def test_names_of_checks_are_used_once() -> None:
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names)


_CONTENTS = st.none() | st.text(alphabet="019 -:[]/.,a\n", max_size=30)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(changes=st.dictionaries(st.sampled_from(sorted(good_files())), _CONTENTS, max_size=6))
def test_no_content_of_a_file_stops_the_doctor(changes: dict[str, str | None]) -> None:
    assert len(examine(examined(changes))) >= 15


def test_every_check_is_documented() -> None:
    document = (Path(__file__).parents[2] / "docs/doctor.md").read_text()
    assert [check.name for check in CHECKS if f"\n| {check.name} |" not in document] == []
