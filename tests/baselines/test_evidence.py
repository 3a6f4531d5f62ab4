"""Evidence from recordings: statistics, reference loads, disturbances."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_nriperf.baselines.evidence import read_evidence
from pytest_nriperf.errors import RecordingError
from pytest_nriperf.recording import write_document, write_run
from pytest_nriperf.seams import CounterRow
from tests.recorded import described, record_session, run_of

SECOND = 1_000_000_000


def reading(t_ns: int, name: str, value: float, source: str = "proc", **scope: int) -> CounterRow:
    kind = "gauge" if source == "reference" else "cumulative"
    return CounterRow(t_ns, t_ns, source, name, kind, value, "ns", **scope)


def session_with(tmp_path: Path, *counters: CounterRow, **document: object) -> Path:
    session = record_session(tmp_path, "s1", [10.0, 11.0], **document)  # type: ignore[arg-type]
    requests, tokens = run_of(12.0)
    write_run(session / "test_chat", 2, requests, tokens, counters)
    return session


def test_a_recording_becomes_run_values(tmp_path: Path) -> None:
    (one,) = read_evidence(record_session(tmp_path, "s1", [10.0, 11.0]))
    assert one.record.values("itl") == pytest.approx((0.010, 0.011))
    assert one.record.values("throughput") == pytest.approx((100, 1000 / 11), rel=0.1)
    assert one.record.values("itl.p95") == pytest.approx((0.010, 0.011))
    assert [gate.metric for gate in one.gates] == ["itl"]
    assert one.test_file == "suites/test_chat.py"


def test_reference_loads_are_averaged_over_replicas_and_both_ends(tmp_path: Path) -> None:
    rows = [
        reading(at, "memory_bandwidth", value, "reference", replica=replica)
        for at, replica, value in ((0, 0, 1e9), (0, 1, 2e9), (9, 0, 3e9), (9, 1, 4e9))
    ]
    (one,) = read_evidence(session_with(tmp_path, *rows))
    assert one.record.reference == {"memory_bandwidth": {2: 2.5e9}}


def test_steal_and_waiting_are_found(tmp_path: Path) -> None:
    rows = [
        reading(0, "cpu_steal_time", 7.0, cpu=0),
        reading(SECOND, "cpu_steal_time", 7.0 + 0.04 * SECOND, cpu=0),
        reading(0, "cpu_steal_time", 0.0, cpu=1),
        reading(SECOND, "cpu_steal_time", 0.02 * SECOND, cpu=1),
        *(reading(at, "on_cpu_time", at * 0.8, pid=3) for at in (0, SECOND)),
        *(reading(at, "run_queue_wait", at * 0.2, pid=3) for at in (0, SECOND)),
    ]
    (one,) = read_evidence(session_with(tmp_path, *rows))
    assert one.record.remarks == {2: "steal 3.0 % of CPU time, engine waited for a CPU 20.0 % of its time"}


def test_throttling_is_found(tmp_path: Path) -> None:
    rows = [
        *(reading(at, "throttled_time", at * 0.1) for at in (0, SECOND)),
        *(reading(at, "core_throttles", at / SECOND * 2, cpu=1) for at in (0, SECOND)),
    ]
    (one,) = read_evidence(session_with(tmp_path, *rows))
    assert one.record.remarks == {2: "CPU quota throttled it 10.0 % of the run, thermal throttling, 2 times"}


def test_a_repeated_run_is_left_out_and_told(tmp_path: Path) -> None:
    rows = [reading(at, "cpu_steal_time", at * 0.5, cpu=0) for at in (0, SECOND)]
    (one,) = read_evidence(session_with(tmp_path, *rows, runs={"2": {"repeated": True}}))
    assert len(one.record.values("itl")) == 2
    assert one.record.remarks == {2: "steal 50.0 % of CPU time; repeated"}


def test_a_recording_that_was_broken_off_before_its_first_run_hides_no_other(tmp_path: Path) -> None:
    session = record_session(tmp_path, "s1", [10.0, 11.0])
    (tmp_path / "s1/test_more").mkdir()
    document = {key: value for key, value in described("a.py::test_more", 1).items() if key != "fingerprint"}
    write_document(tmp_path / "s1/test_more", document)
    assert [one.test for one in read_evidence(session)] == ["suites/test_chat.py::test_chat"]
    with pytest.raises(RecordingError, match=r"test_more has no finished run; go on with it \(pytest --nri-resume\)"):
        read_evidence(tmp_path / "s1/test_more")


def test_a_document_that_lacks_a_field_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="test_chat"):
        read_evidence(record_session(tmp_path, "s1", [10.0], balloon={}))
