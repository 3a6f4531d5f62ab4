"""Counter metrics of machines whose truth is known: sockets once, sources in order, zero as 'not counted'."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_nriperf.counters import COUNTERS, RunView, Undefined, per_run_counters
from pytest_nriperf.counters.roofline import bytes_per_token, limit, mean_context
from pytest_nriperf.counters.view import cpus_of
from tests.counters.views import WINDOW, level, pcm_rows, steady, view
from tests.pcm_double import LINKS, Machine

ON_0 = frozenset({0, 1})
SECONDS = WINDOW.seconds


def value(name: str, run: RunView) -> float:
    return COUNTERS[name].value(run)


@pytest.fixture
def pcm() -> RunView:
    """A balloon on socket 0 of a machine whose hidden siblings idle at a tenth."""
    machine = Machine(busy=lambda cpu: 1.0 if cpu < 4 else 0.1)
    return view(pcm_rows(machine, frozenset({0, 1, 4, 5})), visible=ON_0, siblings=frozenset({4, 5}))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("memory_read_bandwidth", 22.8e9),
        ("memory_write_bandwidth", 1.9e9),
        ("memory_bandwidth", 24.7e9),
        ("memory_per_token", 24.7e9 * SECONDS / 64),
        ("power", 268.0),
        ("energy_per_token", 268.0 * SECONDS / 64),
        ("ipc", 4.0 / 3.1),
        ("frequency", 3.1e9),
        ("l3_miss_share", 4.7 / 27.1),
        ("upi_bandwidth", LINKS * 1e8),
        ("system_interrupts", 0.0),
    ],
)
def test_pcms_counters_give_the_machines_rates(pcm: RunView, name: str, expected: float) -> None:
    assert value(name, pcm) == pytest.approx(expected, rel=1e-8)


def test_pcms_whole_mebibytes_give_the_share_within_their_grain(pcm: RunView) -> None:
    assert value("remote_share", pcm) == pytest.approx(200 / 10_200, rel=1e-3)
    assert value("l3_occupancy", pcm) == 4 * 21_504 * 1024


def test_a_socket_without_measured_cpus_does_not_count() -> None:
    both = view(pcm_rows(Machine(), frozenset({0, 2})), visible=frozenset({0, 2}))
    assert value("memory_read_bandwidth", both) == pytest.approx(2 * 22.8e9, rel=1e-8)
    assert value("power", both) == pytest.approx(2 * 268, rel=1e-8)


def test_what_pcm_prints_as_zero_throughout_is_undefined_and_the_next_source_is_asked() -> None:
    zero = Machine(zero=frozenset({"DRAM Reads", "DRAM Writes", "Package Joules Consumed"}))
    rows = pcm_rows(zero, ON_0)
    with pytest.raises(Undefined, match="pcm does not count DRAM_Reads here; perf does not count memory_read_bytes"):
        value("memory_read_bandwidth", view(rows))
    rows += steady("perf", {"memory_read_bytes": 5e9, "memory_write_bytes": 1e9}, socket=0)
    rows += steady("perf", {"memory_read_bytes": 9e9}, socket=1)
    rows += steady("energy", {"package_energy": 100e6, "dram_energy": 10e6}, socket=0)
    assert value("memory_bandwidth", view(rows)) == pytest.approx(6e9)
    assert value("power", view(rows)) == pytest.approx(110)


PROC = {
    "on_cpu_time": 1.9e9,
    "run_queue_wait": 0.1e9,
    "involuntary_switches": 30,
    "migrations": 4,
    "major_faults": 2,
}
MACHINE = {
    "machine_busy_time": 2.0e9,
    "machine_steal_time": 0.1e9,
    "machine_idle_time": 1.9e9,
    "cpu_pressure": 0.2e9,
    "memory_pressure": 0,
    "numa_pages_migrated": 7,
    "pgscan_direct": 0,
    "throttled_time": 0.5e9,
}


@pytest.fixture
def proc() -> RunView:
    rows = steady("proc", PROC, replica=0) + steady("proc", PROC, replica=1) + steady("proc", MACHINE)
    for cpu, busy in ((0, 2e9), (1, 2e9), (4, 0.25e9), (5, 0.05e9)):
        rows += steady("proc", {"cpu_busy_time": busy}, cpu=cpu, socket=0)
    rows += level("proc", "local_memory", 690.0, replica=0) + level("proc", "remote_memory", 310.0, replica=0)
    rows += level("proc", "cpu_frequency", 2.5e9, cpu=0)
    return view(rows, visible=ON_0, siblings=frozenset({4, 5}))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("run_queue_wait", 0.05),
        ("foreign_share", 0.05),
        ("sibling_busy", 0.15),
        ("steal_share", 0.025),
        ("cpu_pressure", 0.2),
        ("memory_pressure", 0.0),
        ("involuntary_switches", 60),
        ("migrations", 8),
        ("major_faults", 4),
        ("numa_migrations", 7),
        ("page_reclaims", 0),
        ("throttled_time", 0.5),
        ("remote_memory_share", 0.31),
        ("frequency", 2.5e9),
    ],
)
def test_the_kernels_counters_give_shares_and_rates(proc: RunView, name: str, expected: float) -> None:
    assert value(name, proc) == pytest.approx(expected, rel=1e-6)


def test_cycles_of_the_tasks_give_the_clock_while_they_work(proc: RunView) -> None:
    rows = steady("perf", {"cycles": 3 * 3.8e9, "instructions": 3.8e9}) + steady("proc", {"on_cpu_time": 3.8e9})
    assert value("frequency", view(rows)) == pytest.approx(3e9)
    assert value("ipc", view(rows)) == pytest.approx(1 / 3)


def test_cycles_of_user_space_alone_give_no_clock_but_ratios() -> None:
    """A fifth of the time in the kernel: 2.4e9 of 3e9 cycles a second are seen, the clock is still 3 GHz."""
    rows = steady("perf", {"user_cycles": 2.4e9, "user_instructions": 1.2e9}) + steady("proc", {"on_cpu_time": 1e9})
    rows += steady("perf", {"user_last_level_loads": 100, "user_last_level_load_misses": 25})
    with pytest.raises(Undefined, match="perf does not count cycles here"):
        value("frequency", view(rows))
    assert value("frequency", view(rows + level("proc", "cpu_frequency", 3e9, cpu=0))) == pytest.approx(3e9)
    assert value("ipc", view(rows)) == pytest.approx(0.5)
    assert value("l3_miss_share", view(rows)) == pytest.approx(0.25)


def test_throttles_are_counted_around_the_run_one_is_one_too_many() -> None:
    rows = steady("proc", {"core_throttles": 0}, cpu=0) + steady("proc", {"package_throttles": 0.1}, socket=0)
    assert value("thermal_throttles", view(rows)) == 1


def test_the_share_of_the_memory_roofline_that_is_attained() -> None:
    rows = level("reference", "memory_bandwidth", 20e9, replica=0) + level(
        "reference", "memory_bandwidth", 20e9, replica=1
    )
    facts = {
        "weight_bytes": 1e9,
        "kv_bytes_per_token": 1e6,
        "context_tokens": 100.0,
        "decoded_tokens_per_second": 20.0,
    }
    run = view(rows, tokens=128, facts=facts)
    assert value("bandwidth_attained", run) == pytest.approx(20 * 1.1e9 / 40e9)
    with pytest.raises(Undefined, match="does not say weight bytes"):
        value("bandwidth_attained", replace(run, facts={}))
    with pytest.raises(Undefined, match="no reference load"):
        value("bandwidth_attained", view([], facts=facts))
    assert limit(40e9, bytes_per_token(1e9, 1e6, mean_context(50.0, 100.0))) == pytest.approx(40e9 / 1.1e9)


def test_an_input_embedding_of_its_own_is_not_read_for_a_token() -> None:
    rows = level("reference", "memory_bandwidth", 20e9, replica=0)
    model = {"weight_bytes": 1.5e9, "weight_bytes_per_token": 1e9}
    facts = {**model, "context_tokens": 1.0, "decoded_tokens_per_second": 10.0}
    assert value("bandwidth_attained", view(rows, facts=facts)) == pytest.approx(0.5)
    del facts["weight_bytes_per_token"]
    assert value("bandwidth_attained", view(rows, facts=facts)) == pytest.approx(0.75)


def test_without_a_load_beside_the_run_the_one_of_the_balloon_counts() -> None:
    facts = {"weight_bytes": 1e9, "context_tokens": 1.0, "decoded_tokens_per_second": 10.0, "read_bandwidth": 40e9}
    assert value("bandwidth_attained", view([], facts=facts)) == pytest.approx(0.25)
    beside = view(level("reference", "memory_bandwidth", 20e9, replica=0), facts=facts)
    assert value("bandwidth_attained", beside) == pytest.approx(0.5)


def test_a_run_too_short_for_its_readings_says_what_to_do(pcm: RunView) -> None:
    short = replace(pcm, window=WINDOW._replace(end_ns=WINDOW.start_ns + 400_000_000))
    with pytest.raises(Undefined, match=r"0 readings in 0\.4 s, two are needed: raise --nri-sample-hz"):
        value("ipc", short)


def test_every_metric_is_defined_or_has_its_reason(pcm: RunView, proc: RunView) -> None:
    for run in (pcm, proc, view(level("proc", "cpu_frequency", 1.0, cpu=0))):
        found = per_run_counters([run])
        assert set(found.values) | set(found.reasons) == set(COUNTERS)
        assert all(reason[1] for reason in found.reasons.values())
    assert per_run_counters([view([])]).values == {}


def test_a_run_without_tokens_has_no_share_per_token(pcm: RunView) -> None:
    with pytest.raises(Undefined, match="no tokens in the run"):
        value("energy_per_token", replace(pcm, tokens=0))


def test_a_simulated_machines_bandwidth_is_summed_over_nodes() -> None:
    rows = [
        row._replace(kind="interval")
        for node in (0, 1)
        for row in level("simulated", "memory_read_bandwidth", 3e9, node=node)
    ]
    assert value("memory_bandwidth", view(rows)) == pytest.approx(6e9)


@pytest.mark.parametrize("document", [{}, {"balloon": None}, {"balloon": {"granted": {"replicas": 3}}}])
def test_a_document_without_a_balloon_has_no_cpus(document: dict[str, object]) -> None:
    assert cpus_of(document) == (frozenset(), frozenset())


def test_lists_of_cpus_are_read_too() -> None:
    granted = {"replicas": [{"allocated": [0, 1, 4], "visible": [0, 1]}]}
    assert cpus_of({"balloon": {"granted": granted}}) == (ON_0, frozenset({4}))
