"""`nriperf explain` on two recordings, `nriperf pcm` beside a server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_nriperf.cli import main
from pytest_nriperf.collect.pcm import PcmCollector
from pytest_nriperf.counters import COUNTERS
from pytest_nriperf.metrics import Measurement
from pytest_nriperf.recording import write_document, write_run
from pytest_nriperf.report.counters import counter_remarks
from pytest_nriperf.seams import CounterRow
from tests.pcm_double import Machine, PcmDouble
from tests.recorded import described, run_of

MIB = 1 << 20


def record(folder: Path, remote: int, gap_ms: float = 40.0, runs: int = 3, counters: bool = True) -> Path:
    """Runs whose processes have `remote` of 100 MiB on the wrong node."""
    folder.mkdir(parents=True)
    write_document(folder, described("suites/test_chat.py::test_chat", 1))
    for run in range(1, runs + 1):
        rows, tokens = run_of(gap_ms + run / 100)
        begin, end = rows[0].submit_ns, max(row.end_ns or 0 for row in rows)
        found = []
        for index in range(8):
            t = begin - 1000 + (end - begin + 2000) * index // 7
            for name, size in (("remote_memory", remote + run), ("local_memory", 100 - remote - run)):
                found.append(CounterRow(t, t, "proc", name, "gauge", size * MIB, "B", replica=0))
            wait = CounterRow(t, t, "proc", "run_queue_wait", "cumulative", 1_000_000 * index, "ns", replica=0)
            found += [wait, wait._replace(name="on_cpu_time", value=100_000_000 * index)]
        write_run(folder, run, rows, tokens, found if counters else [])
    return folder


def test_pages_on_the_wrong_node_are_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = record(tmp_path / "a", 0), record(tmp_path / "b", 60)
    assert main(["explain", str(before), str(after)]) == 0
    text = capsys.readouterr().out
    assert "remote_memory_share" in text
    assert text.rstrip().endswith("remote memory share 2 % -> 62 %: pages are on the wrong node")
    assert main(["explain", str(before), str(after), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["explained"]["tpot"]["causes"] == ["pages are on the wrong node"]
    assert document["moved"][0]["after"] == pytest.approx(0.62)


def test_two_recordings_of_one_kind_are_met_with_silence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = record(tmp_path / "a", 5), record(tmp_path / "b", 5)
    assert main(["explain", str(before), str(after)]) == 0
    assert capsys.readouterr().out.rstrip().endswith("no counter stands out")


def test_a_recording_without_counters_says_how_to_get_some(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = record(tmp_path / "a", 5), record(tmp_path / "b", 5, counters=False)
    assert main(["explain", str(before), str(after)]) == 0
    assert "the recording after has no counters that span its runs" in capsys.readouterr().out


def test_a_path_with_several_recordings_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(tmp_path / "s" / "a", 5)
    record(tmp_path / "s" / "b", 5)
    assert main(["explain", str(tmp_path / "s"), str(tmp_path / "s" / "a")]) == 3
    assert "name one of them: " in capsys.readouterr().err


def test_counter_metrics_of_a_recording_can_be_named_and_missing_ones_say_why(tmp_path: Path) -> None:
    m = Measurement.from_recording(record(tmp_path / "a", 5))
    assert m.pcm.run_queue_wait.value == pytest.approx(0.01 / 1.01)
    assert m.pcm.run_queue_wait.unit == "share"
    assert m.metric("remote_memory_share").per_run == pytest.approx((0.06, 0.07, 0.08))
    with pytest.raises(AttributeError, match=r"memory_bandwidth' .pcm does not count DRAM_Reads here"):
        _ = m.pcm.memory_bandwidth
    assert m.metric("memory_bandwidth").value != m.metric("memory_bandwidth").value


def test_a_summary_tells_what_counters_say_without_comparison(tmp_path: Path) -> None:
    near, far = (Measurement.from_recording(record(tmp_path / name, remote)) for name, remote in (("a", 2), ("b", 60)))
    assert list(counter_remarks(near)) == []
    assert list(counter_remarks(far)) == ["62 % of the engines' memory lies on other NUMA nodes than their CPUs"]


def test_any_interval_of_a_run_can_be_asked(tmp_path: Path) -> None:
    m = Measurement.from_recording(record(tmp_path / "a", 5))
    first, second = m.requests.slice(0, 2).to_pylist()
    whole = m.counters_between(1, first["submit_ns"], second["end_ns"])
    assert whole["run_queue_wait"] == pytest.approx(m.pcm.run_queue_wait.per_run[0], rel=1e-6)
    short = m.counters_between(1, first["submit_ns"], first["submit_ns"] + 1000)
    assert short["run_queue_wait"] != short["run_queue_wait"]
    assert short.reasons["run_queue_wait"].endswith("two are needed: raise --nri-sample-hz")
    assert set(short.reasons) | {name for name in short if short[name] == short[name]} == set(COUNTERS)
    half = m.counters_between(1, second["submit_ns"], second["end_ns"])
    assert half["run_queue_wait"] == pytest.approx(0.01 / 1.01)


def test_an_interval_of_a_run_without_counters_says_that_nothing_was_collected(tmp_path: Path) -> None:
    m = Measurement.from_recording(record(tmp_path / "a", 5, counters=False))
    found = m.counters_between(1, 0, 10**9)
    assert found["ipc"] != found["ipc"]
    assert found.reasons["ipc"] == "nothing was collected in run 1"


def test_the_live_table_shows_each_socket(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr("pytest_nriperf.collect.pcm.LEAST_INTERVAL_NS", 0)
    clock = iter(range(1_000_000_000, 2_000_000_000, 1_000_000))
    with PcmDouble(Machine(zero=frozenset({"UPI"})), clock_us=lambda: next(clock)) as server:
        assert main(["pcm", server.url, "--count", "2"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert main(["pcm", server.url, "--count", "1", "--json"]) == 0
        objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == "not counted: UPI traffic (0 in every answer)"
    assert lines[2].split()[:3] == ["socket", "read", "write"]
    assert [line.split()[0] for line in lines[3:]] == ["0", "1", "0", "1"]
    assert "22.8 GB/s" in lines[3]
    assert "268 W" in lines[3]
    assert lines[3].split()[-3] == "-"
    assert [each["socket"] for each in objects] == [0, 1]
    assert objects[0]["frequency"] == pytest.approx(3.1e9)
    assert objects[0]["upi_bandwidth"] is None


def test_without_a_server_the_command_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pcm", "http://127.0.0.1:1", "--count", "1"]) == 3
    assert "nothing listens on http://127.0.0.1:1/metrics" in capsys.readouterr().err
    assert main(["pcm", "--interval", "0.01"]) == 2


def test_every_cpu_of_the_server_is_known() -> None:
    with PcmDouble() as server:
        assert PcmCollector(server.url).known_cpus() == tuple(range(8))
