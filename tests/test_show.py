"""`nriperf show`: what people read after a night of measuring."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_nriperf.cli import main
from pytest_nriperf.recording import write_document, write_run
from pytest_nriperf.seams import RequestRow, TokenEvents
from pytest_nriperf.sessions import Session

MS = 1_000_000


def record(folder: Path, *, replicas: int = 2, runs: int = 2, n: int = 1, status: str = "ok", **document: Any) -> Path:
    """A recording of constant gaps: TTFT 100 ms, then a token event every 20 ms (run 2: every 21 ms)."""
    folder.mkdir(exist_ok=True)
    sizes = {"sizes": "16 allocated / 8 visible", "mechanism": "affinity"}
    write_document(folder, {"test": "suite/test_chat.py::test_chat", "node": "local", "balloon": sizes, **document})
    for run in range(1, runs + 1):
        tokens, rows = TokenEvents(), []
        for replica in range(replicas):
            start = 10**12 + replica * MS
            events = [start + 100 * MS + (19 + run) * MS * k for k in range(50)]
            tokens.add(replica, 0, [start, *events], [0] + [n] * 50)
            times = (start, events[0], events[-1], events[-1])
            rows.append(RequestRow(replica, 0, "measure", "p", None, *times, 4, 50 * n, status))
        write_run(folder, run, rows, tokens)
    return folder


def show(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["show", *map(str, arguments)]) == 0
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def _eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_metrics_cpus_and_dots_fit_80_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = show(capsys, record(tmp_path / "r", warnings=["word " * 40]))
    assert "2 × 16 allocated / 8 visible CPUs" in text
    assert "2 finished runs · 4 requests measured, 0 failed" in text
    table = {line.split()[0]: line.split() for line in text.splitlines()[5:] if " ms " in line}
    assert table["TTFT"][1:3] == ["100", "ms"]
    assert table["ITL"][1:7] == ["20.5", "ms", "20.0", "–", "21.0", "ms"]
    assert table["ITL"][-1] == "196"
    assert "run 2" in text
    assert "●" in text
    assert "○" in text
    for line in text.splitlines():
        assert len(line) <= 80 or str(tmp_path) in line


def test_the_definitions_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = show(capsys, record(tmp_path / "r"))
    assert "(t_last - t_first) / (N - n_first)" in text


def test_icl_is_shown_only_where_it_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = [line.split()[0] for line in show(capsys, record(tmp_path / "a")).splitlines() if " ms" in line]
    assert "ICL" not in table
    table = [line.split()[0] for line in show(capsys, record(tmp_path / "b", n=2)).splitlines() if " ms" in line]
    assert "ICL" in table


def test_a_run_can_be_chosen_and_one_that_is_not_there_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = record(tmp_path / "r")
    assert "run 1:" in show(capsys, folder, "--run", 1)
    assert main(["show", str(folder), "--run", "7"]) == 2
    assert "has no finished run 7; finished runs: 1, 2" in capsys.readouterr().err


def test_a_simulated_result_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "SIMULATED" in show(capsys, record(tmp_path / "r", simulated=True)).splitlines()[0]


def test_hostile_text_does_not_reach_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "test_a[\x1b]0;owned\x07\x1b[2J\r\u202e]"
    text = show(
        capsys, record(tmp_path / "r", test=hostile, node=hostile, warnings=[hostile], model={"choice": "\x9b"})
    )
    assert all(line.isprintable() for line in text.splitlines())
    assert "\\x1b]0;owned" in text


def test_a_terminal_without_unicode_gets_ascii(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    out = io.TextIOWrapper(written, encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert main(["show", str(record(tmp_path / "r", node="größe"))]) == 0
    out.flush()
    text = written.getvalue()
    assert b"replica  o 0  x 1" in text
    assert b"gr\\xf6\\xdfe" in text


def test_ascii_can_be_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(capsys, record(tmp_path / "r"), "--ascii").isascii()


def test_json_holds_everything_and_null_where_undefined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shown,) = json.loads(show(capsys, record(tmp_path / "r", replicas=1), "--json"))["recordings"]
    assert shown["metrics"]["itl"]["per_run"] == {"1": pytest.approx(0.020), "2": pytest.approx(0.021)}
    assert shown["metrics"]["itl"]["samples"] == 98
    assert shown["requests"] == {"measured": 2, "failed": 0, "warmup": 0}
    assert shown["balloon"]["sizes"] == "16 allocated / 8 visible"
    (failed,) = json.loads(show(capsys, record(tmp_path / "f", status="failed"), "--json"))["recordings"]
    assert failed["metrics"]["ttft"]["value"] is None


def test_a_recording_without_a_finished_run_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "No run is finished" in show(capsys, record(tmp_path / "r", runs=0))


def test_a_session_is_an_overview_and_all_shows_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Session.start(tmp_path / "out") as session:
        one = record(session.recording("a.py::test_one"))
        two = record(session.recording("a.py::test_two"), status="timeout")
    text = show(capsys, tmp_path / "out")
    assert "2 recordings" in text
    assert one.name in text
    assert "4 failed" in next(line for line in text.splitlines() if "4 failed" in line)
    assert "●" not in text
    assert max(len(line) for line in text.splitlines() if str(tmp_path) not in line) <= 80
    assert show(capsys, session.folder, "--all").count("Gaps between tokens") == 2
    assert two.name in show(capsys, two)


def test_without_a_path_the_newest_session_of_the_configured_out_folder_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nriperf.toml").write_text('out = "nights"\n')
    with Session.start(tmp_path / "nights") as session:
        record(session.recording("a.py::test_one"))
    assert "suite/test_chat.py::test_chat" in show(capsys)


def test_damage_is_named_and_the_rest_still_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Session.start(tmp_path / "out") as session:
        good = record(session.recording("a.py::test_one"))
        bad = record(session.recording("a.py::test_two"))
    part = bad / "tokens-002.parquet"
    part.write_bytes(part.read_bytes()[:100])
    assert main(["show", str(session.folder)]) == 3
    shown = capsys.readouterr()
    assert good.name in shown.out
    assert "tokens-002.parquet is damaged" in shown.err


def test_nothing_to_show_is_an_error_with_the_next_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(tmp_path / "absent")]) == 3
    assert "does not exist; name a recording" in capsys.readouterr().err


def test_colours_only_on_a_terminal_that_wants_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = record(tmp_path / "r")
    assert "\x1b[" not in show(capsys, folder)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[36m●" in show(capsys, folder)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in show(capsys, folder)
