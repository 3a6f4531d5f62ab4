"""The kernel's texts are parsed as they are, and what is none of them is refused."""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_nriperf.collect.procfs import (
    ALL,
    CgroupMount,
    NodeMemory,
    parse_cgroup_mounts,
    parse_cgroups,
    parse_cpu_ticks,
    parse_numa_maps,
    parse_numbers,
    parse_pressure,
    parse_sched,
    parse_schedstat,
    parse_stat,
    parse_switches,
)
from pytest_nriperf.errors import CollectorError

DATA = Path(__file__).parents[1] / "data" / "proc"


def data(name: str) -> bytes:
    return (DATA / name).read_bytes()


def test_pages_are_counted_per_node_in_each_lines_own_page_size() -> None:
    assert parse_numa_maps(data("numa_maps")) == {
        0: NodeMemory(anonymous=(16384 + 3 + 2) * 4096 + 3 * 2 * 1024**2, file=1024 * 4096, code=200 * 4096),
        1: NodeMemory(anonymous=8 * 4096 + 1024**3, file=56 * 4096),
    }


def test_a_command_with_parentheses_and_blanks_does_not_shift_the_fields() -> None:
    stat = parse_stat(data("stat"))
    assert (stat.minor_faults, stat.major_faults, stat.user_ticks, stat.system_ticks) == (13025, 7, 499, 12)
    assert stat.start_ticks == 266758


def test_switches_are_told_apart() -> None:
    assert parse_switches(data("status")) == (458, 63)


def test_one_file_tells_of_switches_and_migrations() -> None:
    assert parse_sched(PARSERS["sched"][1]) == (7, 1, 12)


def test_the_machine_and_each_cpu_have_their_ticks() -> None:
    ticks = parse_cpu_ticks(data("cpu_stat"))
    assert set(ticks) == {ALL, 0, 1}
    assert ticks[1].steal == 395
    assert ticks[ALL].total == ticks[0].total + ticks[1].total


def test_cgroup_paths_and_mounts_of_both_versions_are_found() -> None:
    assert parse_cgroups(b"4:cpu,cpuacct:/a b\n1:name=systemd:/\n0::/kubepods/pod:1\n") == {
        "cpu": "/a b",
        "cpuacct": "/a b",
        "name=systemd": "/",
        "": "/kubepods/pod:1",
    }
    mounts = parse_cgroup_mounts(data("mountinfo"))
    assert mounts[""] == CgroupMount("/sys/fs/cgroup/unified", "/")
    assert mounts["cpu"] == CgroupMount("/sys/fs/cgroup/cpu acct", "/inner")


PARSERS: dict[str, tuple[Callable[[bytes], Any], bytes]] = {
    "schedstat": (parse_schedstat, b"1 2 3\n"),
    "stat": (parse_stat, data("stat")),
    "status": (parse_switches, data("status")),
    "sched": (
        parse_sched,
        b"python (7, #threads: 1)\nse.nr_migrations    :   12\n"
        b"nr_voluntary_switches : 7\nnr_involuntary_switches : 1\n",
    ),
    "cpu": (parse_cpu_ticks, data("cpu_stat")),
    "pressure": (parse_pressure, b"some avg10=0.00 avg60=0.00 avg300=0.00 total=38\n"),
    "numbers": (lambda text: parse_numbers(text, "vmstat"), b"pgfault 1\nnuma_hit 2\n"),
    "numa_maps": (parse_numa_maps, data("numa_maps")),
    "cgroup": (parse_cgroups, b"0::/a\n"),
    "mountinfo": (parse_cgroup_mounts, data("mountinfo")),
}


def numbers_in(value: Any) -> list[int]:
    if isinstance(value, dict):
        return [number for each in value.values() for number in numbers_in(each)]
    if isinstance(value, tuple):
        return [number for each in value for number in numbers_in(each)]
    return [value] if isinstance(value, int) else []


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=60, deadline=None)
@given(
    choice=st.data(),
    noise=st.one_of(st.binary(max_size=40), st.text(string.printable, max_size=40).map(str.encode)),
)
def test_a_damaged_text_is_refused_or_gives_numbers_that_could_be(
    name: str, choice: st.DataObject, noise: bytes
) -> None:
    parse, sound = PARSERS[name]
    begin = choice.draw(st.integers(0, len(sound)))
    end = choice.draw(st.integers(begin, len(sound)))
    try:
        result = parse(sound[:begin] + noise + sound[end:])
    except CollectorError as error:
        refusal = str(error)
    else:
        refusal = "not what the kernel writes"
        assert all(number >= 0 for number in numbers_in(result))
    assert "not what the kernel writes" in refusal
    assert refusal.isprintable()


@pytest.mark.parametrize(
    "name", [name for name in PARSERS if name not in ("numa_maps", "numbers", "cgroup", "mountinfo")]
)
@pytest.mark.parametrize("text", [b"", b"\n", b"-1 -2 -3\n", b"\xff\x00", b"1 2\n"])
def test_what_is_no_such_file_is_refused_by_name(name: str, text: bytes) -> None:
    with pytest.raises(CollectorError):
        PARSERS[name][0](text)


@given(st.lists(st.integers(0, 2**63), min_size=3, max_size=3))
@example([0, 0, 0])
def test_schedstat_comes_back_whole(numbers: list[int]) -> None:
    assert list(parse_schedstat(" ".join(map(str, numbers)).encode() + b"\n")) == numbers


pages = st.dictionaries(st.integers(0, 7), st.integers(1, 2**30), max_size=4)


@settings(max_examples=60)
@given(st.lists(st.tuples(pages, st.sampled_from([4, 2048, 1048576]), st.booleans()), max_size=6))
def test_numa_maps_adds_up_to_all_pages(mappings: list[tuple[dict[int, int], int, bool]]) -> None:
    lines = []
    for index, (nodes, size, mapped) in enumerate(mappings):
        what = "file=/w/model\\040x" if mapped else "anon=1"
        where = " ".join(f"N{node}={count}" for node, count in nodes.items())
        lines.append(f"7f{index:010x} bind:0-1 {what} dirty=1 active=0 {where} kernelpagesize_kB={size}")
    parsed = parse_numa_maps("\n".join(lines).encode())
    assert sum(memory.data + memory.code for memory in parsed.values()) == sum(
        count * size * 1024 for nodes, size, _ in mappings for count in nodes.values()
    )


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("/usr/lib/libtorch_cpu.so", "code"),
        ("/lib/x86_64-linux-gnu/libc.so.6", "code"),
        ("/lib/libstdc++.so.6.0.30", "code"),
        ("/usr/bin/python3.11", "code"),
        ("/models/model.safetensors", "file"),
        ("/models/.so/weights.bin", "file"),
        ("/models/q4.so.gguf", "file"),
        ("/srv/bin/models/weights.bin", "file"),
    ],
)
def test_libraries_and_programs_are_not_taken_for_weights(file: str, kind: str) -> None:
    memory = parse_numa_maps(f"7f0000000000 default file={file} mapped=3 N0=3 kernelpagesize_kB=4\n".encode())[0]
    assert memory._asdict() == {"anonymous": 0, "file": 0, "code": 0, kind: 3 * 4096}
