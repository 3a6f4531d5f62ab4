"""What runs inside pods, run here: files and tasks are told as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_nriperf.provision import pod


def test_files_are_shown_below_their_roots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/one").write_text("1\n")
    (tmp_path / "a/two").write_bytes(b"\xff\n")
    assert pod.main(["show", str(tmp_path), "a/*", "nothing/*", "--", str(tmp_path / "a"), "one"]) == 0
    groups = json.loads(capsys.readouterr().out)["groups"]
    assert groups == [{"a/one": "1\n", "a/two": "\xff\n"}, {"one": "1\n"}]


def test_tasks_of_a_process_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert pod.main(["tasks", "/proc", "self"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert all(len(entry) == 3 for entry in found.values())
    assert found
