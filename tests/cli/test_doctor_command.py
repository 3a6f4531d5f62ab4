"""`nriperf doctor` prints findings for people and for programs, and its exit status says whether to measure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_nriperf.cli import main
from pytest_nriperf.doctor import CHECKS, LEVELS


def test_json_holds_every_finding_with_its_level(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["doctor", "--json", "--seconds=0"])
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert {finding["check"] for finding in findings} <= {check.name for check in CHECKS}
    assert {finding["level"] for finding in findings} <= set(LEVELS)
    assert status == int("spoils" in {finding["level"] for finding in findings})


def test_what_is_good_is_shown_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--seconds=0"])
    short = capsys.readouterr().out
    main(["doctor", "--seconds=0", "--all"])
    assert len(capsys.readouterr().out.splitlines()) > len(short.splitlines())
    assert "\ngood " not in short


def test_a_snapshot_of_another_node_is_examined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["topology", "--snapshot", str(tmp_path / "node.tar.gz")]) == 0
    assert main(["doctor", "--sysfs", str(tmp_path / "node.tar.gz"), "--all"]) == 0
    assert "cannot be read" in capsys.readouterr().out


def test_the_list_of_checks_is_one_question_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(CHECKS)


def test_a_wrong_interval_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--seconds=-1"]) == 2
    assert "--seconds=2" in capsys.readouterr().err
