"""Recordings: what is written is read again, by us and by others; what is damaged is named."""

from __future__ import annotations

from pathlib import Path

from pytest_nriperf.recording import open_recording, write_document, write_run
from pytest_nriperf.seams import CounterRow, RequestRow, TokenEvents


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    tokens = TokenEvents()
    tokens.add(0, 0, [10, 20, 30], [0, 1, 2])
    row = RequestRow(0, 0, "measure", "chat", None, 5, 20, 30, 31, 12, 3)
    counter = CounterRow(7, 8, "proc", "cpu_time", "cumulative", 2**60 + 1, "ns", cpu=3)
    write_document(tmp_path, {"test": "test_a", "cpus": frozenset({3, 1})})
    write_run(tmp_path, 1, [row], tokens, [counter])
    recording = open_recording(tmp_path)
    assert recording.runs == (1,)
    assert recording.document == {"format": 1, "test": "test_a", "cpus": [1, 3]}
    assert recording.tokens().to_pydict() == {
        "run": [1, 1, 1],
        "replica": [0, 0, 0],
        "request": [0, 0, 0],
        "t_ns": [10, 20, 30],
        "n": [0, 1, 2],
    }
    assert recording.requests().to_pylist() == [{"run": 1, **vars(row)}]
    assert recording.counters().to_pylist() == [
        {"run": 1, **counter._asdict(), "value": 2.0**60, "value_int": 2**60 + 1}
    ]
