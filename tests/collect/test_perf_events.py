"""Perf events: real software events of this kernel, prepared hardware ones, every refusal in words."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nriperf.collect.perf import EVENTS, PerfCollector
from pytest_nriperf.collect.perf_event import CACHE, HARDWARE, SOFTWARE, Counter, Event, open_event, refusal
from pytest_nriperf.collect.reading import Files
from pytest_nriperf.collect.uncore import compose, find_uncore
from pytest_nriperf.seams import CounterRow, Target, TargetReplica
from tests.collect.trees import write_tree

ME = Target((TargetReplica(0, os.getpid(), frozenset(), frozenset()),))


def prepared(*values: tuple[int, int, int]) -> int:
    """A descriptor that gives these values one after the other."""
    descriptor = os.memfd_create("event")
    os.write(descriptor, b"".join(struct.pack("=QQQ", *value) for value in values))
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


@pytest.fixture
def counter() -> Iterator[Callable[..., Counter]]:
    made: list[Counter] = []

    def make(*values: tuple[int, int, int]) -> Counter:
        made.append(Counter(prepared(*values)))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_a_counter_that_ran_all_the_time_is_taken_as_it_is(counter: Callable[..., Counter]) -> None:
    each = counter((7, 100, 100), (2**62, 200, 200))
    assert [each.read(), each.read()] == [7, 2**62]
    assert not each.shared


def test_a_shared_counter_is_scaled_interval_by_interval(counter: Callable[..., Counter]) -> None:
    each = counter((100, 100, 100), (150, 200, 150), (150, 300, 150), (160, 400, 200))
    assert [each.read() for _ in range(4)] == [100, 200, 200, 200 + 10 * 200 // 50]
    assert each.shared


def test_a_counter_that_never_ran_is_not_zero_but_unknown(counter: Callable[..., Counter]) -> None:
    each = counter((0, 100, 0))
    each.read()
    assert each.waiting


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9)), max_size=8))
def test_a_scaled_counter_never_falls(steps: list[tuple[int, int, int]]) -> None:
    values, sums = [], [0, 0, 0]
    for count, enabled, running in steps:
        run = min(enabled, running)
        sums = [sums[0] + (count if run else 0), sums[1] + enabled, sums[2] + run]
        values.append((sums[0], sums[1], sums[2]))
    each = Counter(prepared(*values))
    totals = [each.read() for _ in values]
    each.close()
    assert totals == sorted(totals)


def real_software_events() -> bool:
    try:
        os.close(open_event(Event(SOFTWARE, 2), os.getpid(), -1, user_only=True))
    except OSError as error:
        return error.errno not in (errno.EPERM, errno.EACCES, errno.ENOSYS)
    return True


@pytest.mark.skipif(not real_software_events(), reason="this container forbids perf_event_open")
def test_the_kernels_page_faults_of_this_process_are_counted() -> None:
    collector = PerfCollector()
    before = {row.name: row.value for row in collector.start(ME)}
    pages = [bytearray(4096) for _ in range(3000)]
    for page in pages:
        page[0] = 1
    after = {row.name: row.value for row in collector.stop()}
    assert after["page_faults"] > before["page_faults"]
    assert collector.stop() == []


@pytest.mark.skipif(not real_software_events(), reason="this container forbids perf_event_open")
def test_nothing_stays_open() -> None:
    before = set(os.listdir("/proc/self/fd"))
    collector = PerfCollector()
    collector.probe()
    collector.start(ME)
    collector.stop()
    assert set(os.listdir("/proc/self/fd")) == before


class Opener:
    """Opens prepared events; `refuse` maps PMU types to the errno that they answer."""

    def __init__(self, refuse: dict[int, int], values: tuple[tuple[int, int, int], ...] = ((5, 1, 1), (9, 2, 2))):
        self.refuse = refuse
        self.values = values
        self.user_only: list[Event] = []
        self.left = 10**6

    def __call__(self, event: Event, pid: int, cpu: int, *, user_only: bool = False) -> int:
        code = self.refuse.get(event.type)
        if code in (errno.EACCES, errno.EPERM) and user_only:
            self.user_only.append(event)
            code = None
        if self.left <= 0:
            code = errno.EMFILE
        self.left -= 1
        if code is not None:
            raise OSError(code, os.strerror(code))
        return prepared(*self.values)


def rows_of(collector: PerfCollector, target: Target = ME) -> list[CounterRow]:
    return [*collector.start(target), *collector.stop()]


def test_each_event_is_summed_over_the_replicas_tasks(tmp_path: Path) -> None:
    root = write_tree(tmp_path, {f"/proc/7/task/{task}/stat": "" for task in (7, 8, 9)})
    collector = PerfCollector(root, opener=Opener({}))
    rows = rows_of(collector, Target((TargetReplica(3, 7, frozenset(), frozenset()),)))
    assert [(row.value, row.replica) for row in rows if row.name == "cycles"] == [(15, 3), (27, 3)]
    assert {row.name for row in rows} == set(EVENTS)
    assert all(row.kind == "cumulative" for row in rows)


def test_where_the_kernel_is_closed_user_space_is_counted_and_what_happens_in_the_kernel_is_not() -> None:
    opener = Opener({HARDWARE: errno.EACCES, SOFTWARE: errno.EACCES, CACHE: errno.EACCES})
    collector = PerfCollector(opener=opener)
    names = {row.name for row in rows_of(collector)}
    assert {"user_cycles", "user_instructions", "user_page_faults"} <= names
    assert not names & {"cycles", "instructions", "cpu_migrations", "context_switches"}
    assert any(
        note.startswith("no cpu_migrations (not permitted: kernel.perf_event_paranoid") for note in collector.notes
    )


def test_when_descriptors_run_out_an_event_counts_all_tasks_or_none(tmp_path: Path) -> None:
    root = write_tree(tmp_path, {f"/proc/7/task/{task}/stat": "" for task in range(10)})
    opener = Opener({})
    opener.left = 15
    collector = PerfCollector(root, opener=opener)
    rows = rows_of(collector, Target((TargetReplica(0, 7, frozenset(), frozenset()),)))
    assert {row.name for row in rows} == {"cycles"}
    assert "no instructions (too many open files: raise `ulimit -n`)" in collector.notes


def test_an_event_that_never_got_a_counter_gives_no_row() -> None:
    collector = PerfCollector(opener=Opener({}, values=((0, 5, 0), (0, 9, 0))))
    assert rows_of(collector) == []
    assert any("no counter was free" in note for note in collector.notes)


def test_the_probe_says_once_that_the_kernels_part_is_not_counted(tmp_path: Path) -> None:
    root = write_tree(tmp_path, {"/proc/sys/kernel/perf_event_paranoid": "2\n"})
    opener = Opener({HARDWARE: errno.ENOENT, CACHE: errno.ENOENT, SOFTWARE: errno.EACCES})
    found = PerfCollector(root, opener=opener).probe()
    assert found.gives == ("page_faults",)
    assert found.missing[1].startswith(
        "cpu_migrations, context_switches, the kernel's part of page_faults (not permitted: kernel.perf_event_paranoid "
    )


TWO = Target(tuple(TargetReplica(number, pid, frozenset(), frozenset()) for number, pid in ((0, 7), (1, 9))))


def test_an_event_that_one_replica_cannot_have_is_left_out_for_all_and_closed(tmp_path: Path) -> None:
    root = write_tree(tmp_path, {f"/proc/{pid}/task/{task}/stat": "" for pid in (7, 9) for task in range(10)})
    opener = Opener({})
    # All cycles; of the instructions all of replica 0 and half of replica 1.
    opener.left = 35
    before = set(os.listdir("/proc/self/fd"))
    collector = PerfCollector(root, opener=opener)
    rows = rows_of(collector, TWO)
    assert {(row.name, row.replica) for row in rows} == {("cycles", 0), ("cycles", 1)}
    assert "no instructions (too many open files: raise `ulimit -n`)" in collector.notes
    assert set(os.listdir("/proc/self/fd")) == before


def test_an_event_that_never_got_a_counter_on_one_replica_gives_no_row_of_any(tmp_path: Path) -> None:
    def starved(event: Event, pid: int, cpu: int, *, user_only: bool = False) -> int:
        never = pid == 9 and event == EVENTS["instructions"]
        return prepared(*(((0, 5, 0), (0, 9, 0)) if never else ((5, 1, 1), (9, 2, 2))))

    root = write_tree(tmp_path, {f"/proc/{pid}/task/{pid}/stat": "" for pid in (7, 9)})
    collector = PerfCollector(root, opener=starved)
    names = {(row.name, row.replica) for row in rows_of(collector, TWO)}
    assert {("cycles", 0), ("cycles", 1)} <= names
    assert not [name for name, _ in names if name == "instructions"]
    assert any(note.startswith("instructions: no counter was free") for note in collector.notes)


def test_the_probe_names_each_refusal_with_its_reason(tmp_path: Path) -> None:
    root = write_tree(tmp_path, {"/proc/sys/kernel/perf_event_paranoid": "4\n"})
    found = PerfCollector(root, opener=Opener({HARDWARE: errno.ENOENT, CACHE: errno.ENOENT})).probe()
    assert found.available
    assert found.missing == ("hardware events (this CPU, or the hypervisor, has no such counter)",)
    nothing = PerfCollector(root, opener=Opener(dict.fromkeys((HARDWARE, SOFTWARE, CACHE), errno.ENOSYS))).probe()
    assert not nothing.available
    assert refusal(OSError(errno.EPERM, ""), Files(root)).startswith("not permitted: kernel.perf_event_paranoid is 4")


IMC = {
    "type": "24\n",
    "cpumask": "0,4\n",
    "format/event": "config:0-7\n",
    "format/umask": "config:8-15\n",
    "events/cas_count_read": "event=0x05,umask=0xcf\n",
    "events/cas_count_read.scale": "6.103515625e-05\n",
    "events/cas_count_read.unit": "MiB\n",
    "events/cas_count_write": "event=0x05,umask=0xf0\n",
    "events/cas_count_write.scale": "6.103515625e-05\n",
    "events/cas_count_write.unit": "MiB\n",
    "events/clockticks": "event=0x00\n",
}
DEVICES = "/sys/bus/event_source/devices"
TREE = {f"{DEVICES}/uncore_imc_{unit}/{file}": text for unit in range(2) for file, text in IMC.items()} | {
    f"/sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id": f"{cpu // 4}\n" for cpu in (0, 4)
}


def test_memory_controllers_give_bytes_a_socket(tmp_path: Path) -> None:
    root = write_tree(tmp_path, TREE)
    found = find_uncore(Files(root))
    assert {(each.name, each.event, each.cpu, each.socket) for each in found} == {
        (name, Event(24, 0x05 | umask << 8), cpu, cpu // 4)
        for name, umask in (("memory_read_bytes", 0xCF), ("memory_write_bytes", 0xF0))
        for cpu in (0, 4)
    }
    rows = rows_of(PerfCollector(root, opener=Opener({}, values=((10, 1, 1), (30, 2, 2)))), Target(()))
    reads = [(row.socket, row.value, row.unit) for row in rows if row.name == "memory_read_bytes"]
    assert reads == [(0, 2 * 640, "B"), (1, 2 * 640, "B"), (0, 2 * 1920, "B"), (1, 2 * 1920, "B")]


def test_a_memory_controller_that_may_not_be_opened_is_left_out_as_a_whole(tmp_path: Path) -> None:
    collector = PerfCollector(write_tree(tmp_path, TREE), opener=Opener({24: errno.EINVAL}))
    assert rows_of(collector, Target(())) == []
    assert collector.notes == [
        "no memory_read_bytes (the kernel does not know this event)",
        "no memory_write_bytes (the kernel does not know this event)",
    ]


@pytest.mark.parametrize("text", ["event=0x1ff", "event", "unknown=1", "event=", "event=0x05;umask=1", ""])
def test_an_event_that_cannot_be_understood_is_none(text: str) -> None:
    understood = compose(text, {"event": "config:0-7"})
    assert understood == ((1, 0, 0) if text == "event" else None)


def test_split_bit_fields_are_filled_from_the_lowest() -> None:
    assert compose("event=0x1ff", {"event": "config:0-7,32"}) == (0xFF | 1 << 32, 0, 0)
    assert compose("config1=0x7,filter=3", {"filter": "config1:4-5"}) == (0, 0x37, 0)
