"""The pcm collector beside a double of the server, over real HTTP."""

from __future__ import annotations

import http.client
import itertools
import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_nriperf.collect.pcm import Address, PcmCollector, fetch
from pytest_nriperf.counters import COUNTERS, CounterTable, RunView, Undefined, Window
from pytest_nriperf.errors import CollectorError, UsageError
from pytest_nriperf.seams import CounterRow, Target, TargetReplica
from tests.pcm_double import Machine, PcmDouble

TARGET = Target(
    (TargetReplica(0, None, frozenset({0, 4}), frozenset({0})), TargetReplica(1, None, frozenset({2}), frozenset({2}))),
    {cpu: cpu % 4 // 2 for cpu in range(8)},
)


def no_fault(_: int) -> str:
    return ""


class Steps:
    """A clock that moves a second each time it is asked."""

    def __init__(self) -> None:
        self.now_ns = 10**12

    def __call__(self) -> int:
        self.now_ns += 10**9
        return self.now_ns


def rows_of(collector: PcmCollector, target: Target = TARGET) -> list[CounterRow]:
    rows = list(collector.start(target))
    return [*rows, *collector.stop()]


def test_readings_bear_the_servers_stamp_and_our_sockets_cpus_and_replicas() -> None:
    with PcmDouble() as server:
        before = time.perf_counter_ns()
        collector = PcmCollector(server.url)
        rows = [row for row in collector.start(TARGET) if row.name == "Instructions_Retired_Any"]
        after = time.perf_counter_ns()
    assert [(row.cpu, row.socket, row.replica) for row in rows] == [
        (0, 0, 0),
        (4, 0, 0),
        (None, 0, None),
        (2, 1, 1),
        (None, 1, None),
    ]
    assert all(before - 1000 <= row.t_ns <= row.read_ns <= after for row in rows)
    assert all(row.t_ns % 1000 == 0 for row in rows)
    assert collector.notes == []


def test_each_reading_has_a_connection_of_its_own_and_asks_for_metrics_only() -> None:
    with PcmDouble() as server:
        collector = PcmCollector(server.url, clock=Steps())
        collector.start(TARGET)
        collector.sample()
        collector.stop()
        assert collector.stop() == []
        assert server.requests == ["GET /metrics"] * 3


def test_a_server_on_another_clock_is_found_out_and_our_own_time_is_used() -> None:
    with PcmDouble(clock_us=lambda: 5_000_000) as server:
        collector = PcmCollector(server.url)
        before = time.perf_counter_ns()
        rows = list(collector.start(TARGET))
    assert all(before <= row.t_ns <= row.read_ns for row in rows)
    assert len(collector.notes) == 1
    assert collector.notes[0].startswith("its clock is not ours (off by -")


def test_another_nodes_stamp_is_that_nodes_clock() -> None:
    with PcmDouble(clock_us=lambda: 5_000_000) as server:
        collector = PcmCollector(server.url, here=False)
        rows = rows_of(collector)
    assert {(row.t_ns, row.read_ns) for row in rows} == {(5_000_000_000, 5_000_000_000)}
    assert collector.notes == []


def test_no_more_than_five_readings_a_second_are_asked_for() -> None:
    now = [10**12]
    with PcmDouble() as server:
        collector = PcmCollector(server.url, clock=lambda: now[0])
        collector.start(TARGET)
        now[0] += 100_000_000
        assert list(collector.sample()) == []
        now[0] += 100_000_000
        assert list(collector.sample()) != []


def test_what_the_server_prints_as_zero_everywhere_is_said_to_be_missing() -> None:
    zero = frozenset({"DRAM Reads", "DRAM Writes", "Package Joules Consumed", "Local Memory Bandwidth"})
    with PcmDouble(Machine(zero=zero)) as server:
        found = PcmCollector(server.url).probe()
    assert found.available
    assert "instructions" in found.gives
    assert found.missing == tuple(
        f"{what} (0 in every answer)" for what in ("memory bandwidth", "local and remote bandwidth", "power")
    )


def test_where_nothing_listens_the_probe_says_so() -> None:
    with PcmDouble() as server:
        url = server.url
    found = PcmCollector(url).probe()
    assert not found.available
    assert found.missing == (f"nothing listens on {url}/metrics",)


@pytest.mark.parametrize(
    ("fault", "said"),
    [("reset", "does not answer as HTTP"), ("truncated", "promises"), ("garbage", "not pcm"), ("error", "500")],
)
def test_each_fault_of_the_server_is_an_error_in_words(fault: str, said: str) -> None:
    with PcmDouble(fault=lambda _: fault) as server:
        collector = PcmCollector(server.url)
        with pytest.raises(CollectorError, match=said):
            collector.start(TARGET)
        assert not collector.probe().available


def test_a_server_that_does_not_answer_in_time_is_left_waiting() -> None:
    with PcmDouble(fault=lambda _: "slow") as server:
        collector = PcmCollector(server.url, timeout_s=0.05)
        with pytest.raises(CollectorError, match="timed out"):
            collector.start(TARGET)


def test_after_a_fault_the_next_reading_works() -> None:
    faults = ["", "reset", ""]
    with PcmDouble(fault=lambda number: faults[number]) as server:
        collector = PcmCollector(server.url, clock=Steps())
        collector.start(TARGET)
        with pytest.raises(CollectorError):
            collector.sample()
        assert list(collector.sample()) != []


def test_a_server_that_restarts_costs_one_pair_of_readings_and_no_rate() -> None:
    """Its counters begin anew in the middle of a run: the pair that falls is left out, the rest has the true rates."""
    stamps = itertools.count(10**9, 10**6)
    with PcmDouble(clock_us=lambda: next(stamps), fault=lambda number: "restart" if number > 9 else "") as server:
        collector = PcmCollector(server.url, here=False, clock=Steps())
        rows = list(collector.start(TARGET))
        for _ in range(20):
            rows += collector.sample()
        rows += collector.stop()
    assert collector.notes == []
    table = CounterTable.from_rows(rows)
    begin, end = min(row.t_ns for row in rows), max(row.t_ns for row in rows)
    (reads,) = [each for each in table.series(1, "pcm", "DRAM_Reads") if each.scope["socket"] == 0]
    assert (reads.growth < 0).sum() == 1
    run = RunView(table, 1, Window(begin, end), 1, visible=frozenset({0, 2}))
    assert COUNTERS["memory_read_bandwidth"].value(run) == pytest.approx(2 * 22.8e9, rel=1e-6)
    assert COUNTERS["ipc"].value(run) == pytest.approx(4.0 / 3.1)
    short = replace(run, window=Window(begin + 8 * 10**9, begin + 12 * 10**9))
    with pytest.raises(Undefined, match="readings cover 75 % of the interval"):
        COUNTERS["memory_read_bandwidth"].value(short)


def test_shares_that_are_no_number_on_a_cpu_that_is_off_reach_no_reading() -> None:
    with PcmDouble(Machine(offline=frozenset({1}))) as server:
        assert b"-nan" in ask(server, "/metrics", {})[2]
        rows = list(PcmCollector(server.url).start(TARGET))
    assert rows != []
    assert all(math.isfinite(row.value) for row in rows)


def test_the_watchdog_that_takes_a_counter_is_recorded_before_and_after(tmp_path: Path) -> None:
    file = tmp_path / "proc/sys/kernel/nmi_watchdog"
    file.parent.mkdir(parents=True)
    file.write_text("1\n")
    with PcmDouble() as server:
        collector = PcmCollector(server.url, root=str(tmp_path))
        first = [row.value for row in collector.start(TARGET) if row.name == "nmi_watchdog"]
        file.write_text("0\n")
        last = [row.value for row in collector.stop() if row.name == "nmi_watchdog"]
    assert (first, last) == ([1], [0])


def test_sockets_that_pcm_numbers_otherwise_get_the_kernels_number() -> None:
    swapped = Target(TARGET.replicas, {cpu: 1 - cpu % 4 // 2 for cpu in range(8)})
    with PcmDouble() as server:
        rows = list(PcmCollector(server.url).start(swapped))
    assert {row.cpu: row.socket for row in rows if row.cpu is not None} == {0: 1, 4: 1, 2: 0}


@pytest.mark.parametrize("text", ["ftp://a", "http://u:p@a", "http://a/persecond", "http://a:x", "http://"])
def test_an_address_that_is_none_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="PCM address"):
        Address.parse(text)


def ask(server: PcmDouble, path: str, headers: dict[str, str], method: str = "GET") -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection(server.url.partition("://")[2], timeout=10)
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, response.getheader("Content-Type") or "", body


JSON = {"Accept": "application/json"}
TEXT = {"Accept": "text/plain;version=0.0.4"}


@pytest.mark.parametrize(
    ("path", "headers", "status", "kind"),
    [
        ("/", {}, 200, "text/html"),
        ("/", JSON, 200, "application/json"),
        ("/", TEXT, 200, "text/plain"),
        ("/", {"Accept": "*/*"}, 200, "text/html"),
        ("/", {"Accept": "text/html, application/json; q=0.5"}, 200, "application/json"),
        ("/", {"accept": "application/json"}, 200, "text/html"),
        ("/metrics", {}, 200, "text/plain"),
        ("/metrics/", {}, 404, "text/plain"),
        ("/persecond", {"Accept": "*/*"}, 406, "text/plain"),
        ("/persecond", TEXT, 200, "text/plain"),
        ("/persecond/31", TEXT, 400, "text/plain"),
        ("/persecond/5", JSON, 200, "application/json"),
        ("/dashboard/prometheus", {}, 200, "application/json"),
        ("/favicon.ico", {}, 200, "image/x-icon"),
        ("/other", {}, 404, "text/plain"),
    ],
)
def test_the_double_answers_every_path_as_the_server_does(
    path: str, headers: dict[str, str], status: int, kind: str
) -> None:
    with PcmDouble() as server:
        found = ask(server, path, headers)
    assert (found[0], found[1].split(";")[0]) == (status, kind)
    if kind == "application/json" and path == "/":
        assert json.loads(found[2])["Number of sockets"] == 2


def test_the_double_knows_methods_and_kept_connections() -> None:
    with PcmDouble() as server:
        assert ask(server, "/", {}, "HEAD")[2] == b""
        assert ask(server, "/", {}, "POST")[0] == 501
        connection = http.client.HTTPConnection(server.url.partition("://")[2], timeout=10)
        for _ in range(2):
            connection.request("GET", "/", headers={"Connection": "keep-alive"})
            response = connection.getresponse()
            response.read()
            assert response.getheader("Keep-Alive") == "timeout=10, max=100"
        connection.close()


def values_of(body: bytes) -> dict[str, float]:
    """Each line of a text by its name with labels."""
    lines = [line.rpartition(" ") for line in body.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def test_the_double_serves_what_grew_in_the_last_seconds() -> None:
    with PcmDouble(clock_us=lambda: 10**9) as server:
        second, three = (values_of(ask(server, path, TEXT)[2]) for path in ("/persecond", "/persecond/3"))
        since_boot = values_of(ask(server, "/metrics", {})[2])
        parsed = json.loads(ask(server, "/persecond/3", JSON)[2])
    reads, occupancy = 'DRAM_Reads{socket="0",source="uncore"}', "L3_Cache_Occupancy"
    assert (second["Measurement_Interval_in_us"], three["Measurement_Interval_in_us"]) == (1e6, 3e6)
    assert (second[reads], three[reads]) == (22.8e9, 3 * 22.8e9)
    assert since_boot[reads] > 1e13
    assert parsed["Interval us"] == 3_000_000
    assert parsed["Sockets"][0]["Uncore"]["Uncore Counters"]["DRAM Reads"] == 3 * 22_800_000_000
    assert three['Package_Joules_Consumed{socket="0",source="uncore"}'] == 3 * 248.0
    gauges = {name: value for name, value in three.items() if name.startswith((occupancy, "OS_ID"))}
    assert gauges
    assert gauges.items() <= since_boot.items()
    assert {value for name, value in three.items() if "PCIe" in name} == {4096 * 1e9}


def test_the_double_closes_a_kept_connection_after_a_hundred_answers() -> None:
    def ask_again() -> None:
        connection.request("GET", "/", headers={"Connection": "keep-alive"})
        connection.getresponse().read()

    with PcmDouble() as server:
        connection = http.client.HTTPConnection(server.url.partition("://")[2], timeout=10)
        for _ in range(100):
            ask_again()
        with pytest.raises(ConnectionError):
            ask_again()
        connection.close()
        assert len(server.requests) == 100


@pytest.mark.parametrize("clock", [Steps()])
def test_an_answer_comes_with_the_times_around_it(clock: Callable[[], int]) -> None:
    with PcmDouble() as server:
        fetched = fetch(Address.parse(server.url), clock=clock)
    assert fetched.there_ns - fetched.asked_ns == 10**9
