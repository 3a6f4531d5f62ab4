"""The commands that judge: compare, accept, judge, noise."""

from __future__ import annotations

import io
import json
import shlex
from pathlib import Path

import pytest

from pytest_nriperf.cli import main
from tests.recorded import record_session


class Terminal(io.StringIO):
    """Standard input with a person at it."""

    def isatty(self) -> bool:
        return True


STEADY = (10.0, 10.04, 9.96, 10.02, 9.98)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def steady(tmp_path: Path, name: str, factor: float = 1.0, **document: object) -> str:
    values = [value * factor for value in STEADY]
    return str(record_session(tmp_path / ".nriperf", name, values, **document))  # type: ignore[arg-type]


def accepted(tmp_path: Path, count: int) -> None:
    for day in range(1, count + 1):
        assert main(["accept", steady(tmp_path, f"s{day}", 1 + day / 1000, day=day)]) == 0


def test_compare_says_how_far_they_lie_apart_where_nobody_knows_how_sessions_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", steady(tmp_path, "a"), steady(tmp_path, "b", 2.5, day=2)]) == 0
    text = capsys.readouterr().out
    assert "unknown" in text
    assert "+150.0 %" in text
    assert "how much sessions differ is not known" in text


def test_compare_names_what_is_worse_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    accepted(tmp_path, 4)
    status = main(["compare", steady(tmp_path, "a", day=11), steady(tmp_path, "b", 2.5, day=12)])
    text = capsys.readouterr().out
    assert status == 1
    assert "itl" in text
    assert "worse" in text
    assert "+150.0 %" in text


def test_compare_crosses_identity_with_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = {"identity": {"cpu": "y"}, "treatment": {}, "state": {}}
    main(["compare", steady(tmp_path, "a"), steady(tmp_path, "b", 3.0, day=2, fingerprint=other)])
    assert "compared across: cpu x -> y" in capsys.readouterr().out


def test_two_recordings_of_one_session_need_no_spread_between_sessions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = Path(steady(tmp_path, "a"))
    other = Path(steady(tmp_path / "other", "a", 1.1, test="suites/test_chat.py::test_chat[cpus=2]"))
    moved = next(path for path in other.iterdir() if path.is_dir()).rename(session / "second")
    assert main(["compare", str(session / "test_chat"), str(moved), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["verdicts"][0]["outcome"] == "worse"
    assert document["verdicts"][0]["session_spread"] is None


def test_compare_without_a_common_test_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = record_session(tmp_path, "a", STEADY)
    record_session(tmp_path / "x", "a", STEADY, test="suites/test_chat.py::test_more")
    (tmp_path / "x/a/test_more").rename(a / "test_more")
    b = record_session(tmp_path, "b", STEADY, test="suites/test_else.py::test_else")
    assert main(["compare", str(a), str(b)]) == 2
    assert "no test in common" in capsys.readouterr().err


FILE = "baselines/local-12345678/suites/test_chat.json"


def stored(tmp_path: Path) -> list[str]:
    """The accepted sessions of the one test."""
    (sessions,) = json.loads((tmp_path / FILE).read_text())["tests"].values()
    return [one["session"] for one in sessions]


def test_accept_shows_the_session_its_figures_and_the_changed_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["accept", steady(tmp_path, "s1"), "--diff"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "suites/test_chat.py::test_chat"
    assert lines[1] == f"  {FILE}: 0 sessions accepted, 1 with this one"
    assert lines[2] == "  + s1  2026-11-01  5 runs  abc123"
    assert any(line.startswith("  itl ") and line.endswith("missing") for line in lines)
    assert f"+++ {FILE}" in lines
    assert lines[-1] == f"1 of 1 accepted; for a commit: git add {FILE}"
    assert stored(tmp_path) == ["s1"]


def test_accept_shows_before_it_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    session = steady(tmp_path, "s1")
    monkeypatch.setattr("os.fsync", full)
    assert main(["accept", session]) == 3
    captured = capsys.readouterr()
    assert "  + s1  " in captured.out
    assert "cannot be written (No space left on device)" in captured.err
    assert not (tmp_path / FILE).exists()


def test_the_diff_of_a_file_is_what_is_written_for_all_its_tests(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = Path(steady(tmp_path, "s1"))
    other = Path(steady(tmp_path / "x", "s1", test="suites/test_chat.py::test_more"))
    (other / "test_more").rename(session / "test_more")
    assert main(["accept", str(session), "--diff"]) == 0
    lines = capsys.readouterr().out.splitlines()
    added = [line[1:] for line in lines if line.startswith("+") and not line.startswith("+++")]
    assert added == (tmp_path / FILE).read_text().splitlines()


def test_accept_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["accept", steady(tmp_path, "s1"), "--dry-run"]) == 0
    assert "dry run: nothing was written" in capsys.readouterr().out
    assert not (tmp_path / "baselines").exists()


def test_accept_refuses_a_worse_session_until_restarted_and_names_what_that_drops(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accepted(tmp_path, 4)
    worse = steady(tmp_path, "slow", 1.2, day=9)
    capsys.readouterr()
    assert main(["accept", worse]) == 1
    text = capsys.readouterr().out
    assert "refused: session slow of test_chat is worse than the baseline (itl)" in text
    assert "accept --restart" in text
    assert "nothing was written" in text
    assert stored(tmp_path) == ["s1", "s2", "s3", "s4"]
    assert main(["accept", worse, "--restart"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("  - ")] == ["s1", "s2", "s3", "s4"]
    assert "  + slow  2026-11-09  5 runs  abc123" in lines
    assert stored(tmp_path) == ["slow"]


@pytest.mark.parametrize(("answer", "status", "left"), [("n", 1, ["s1"]), ("", 1, ["s1"]), ("y", 0, ["new"])])
def test_a_person_is_asked_before_sessions_are_forgotten(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    status: int,
    left: list[str],
) -> None:
    accepted(tmp_path, 1)
    monkeypatch.setattr("sys.stdin", Terminal(f"{answer}\n"))
    assert main(["accept", steady(tmp_path, "new", day=9), "--restart"]) == status
    assert "forget 1 session? [y/N]" in capsys.readouterr().out
    assert stored(tmp_path) == left


def test_nobody_is_asked_who_said_yes_or_only_adds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(""))
    accepted(tmp_path, 2)
    assert main(["accept", steady(tmp_path, "new", day=9), "--restart", "--yes"]) == 0
    assert main(["accept", steady(tmp_path, "more", day=10), "--restart", "--json"]) == 0
    assert stored(tmp_path) == ["more"]


def test_accept_as_json_says_what_was_dropped_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    accepted(tmp_path, 2)
    new = steady(tmp_path, "new", day=9)
    capsys.readouterr()
    assert main(["accept", new, "--restart", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["sessions_before"], row["sessions"], row["dropped"], row["written"]) == (2, 1, ["s1", "s2"], True)


def test_accept_takes_the_newest_session_and_can_choose_tests(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steady(tmp_path, "s1", test="suites/test_chat.py::test_chat[cpus=1]")
    assert main(["accept", "--test", "*[cpus=2]"]) == 1
    assert main(["accept", "--test", "*[cpus=1]"]) == 0
    assert "s1" not in capsys.readouterr().err


def test_judge_uses_the_accepted_sessions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    accepted(tmp_path, 4)
    assert main(["judge", steady(tmp_path, "now", 1.1, day=9)]) == 1
    assert "5 v 20" in capsys.readouterr().out


def test_rounds_are_judged_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = [str(record_session(tmp_path / "o", f"o{n}", [10 + n / 100], day=n + 1)) for n in range(6)]
    new = [str(record_session(tmp_path / "n", f"n{n}", [10.6 + n / 100], day=n + 11)) for n in range(6)]
    against = [word for folder in old for word in ("--against", folder)]
    assert main(["judge", *new, *against, "--json"]) == 1
    verdict = json.loads(capsys.readouterr().out)["verdicts"][0]
    assert verdict["sessions"] == verdict["baseline_sessions"] == 6
    assert verdict["p"] == pytest.approx(1 / 924)


@pytest.mark.parametrize(
    ("rule", "outcome"), [("sessions", "unknown"), ("runs", "worse"), ("threshold:5%", "same"), ("low", "unknown")]
)
def test_rules_differ_on_one_baseline_session(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rule: str, outcome: str
) -> None:
    accepted(tmp_path, 1)
    capsys.readouterr()
    main(["judge", steady(tmp_path, "now", 1.04, day=9), "--rule", rule, "--json"])
    assert json.loads(capsys.readouterr().out)["verdicts"][0]["outcome"] == outcome


def test_an_unknown_rule_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["judge", steady(tmp_path, "now"), "--rule", "luck"]) == 2
    assert "threshold:PERCENT" in capsys.readouterr().err


def test_noise_of_sessions_is_kept_and_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for day in range(1, 9):
        steady(tmp_path, f"s{day}", 1 + day / 1000, day=day)
    assert main(["noise", str(tmp_path / ".nriperf"), "--save"]) == 0
    text = capsys.readouterr().out
    assert "10v5x5" in text
    assert "itl.low" in text
    assert main(["accept", str(tmp_path / ".nriperf/s1")]) == 0
    capsys.readouterr()
    assert main(["judge", steady(tmp_path, "now", 1.1, day=20), "--json"]) == 1
    assert "noise check" in json.loads(capsys.readouterr().out)["verdicts"][0]["session_spread_source"]


def test_noise_shows_what_the_accepted_sessions_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    accepted(tmp_path, 4)
    capsys.readouterr()
    assert main(["noise", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["node"] == "local-12345678"
    assert found["metrics"][0]["sessions"] == 4


def test_accepted_sessions_are_not_kept_as_a_noise_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    accepted(tmp_path, 4)
    assert main(["noise", "--save"]) == 2
    assert "--sessions 10 -- TESTS" in capsys.readouterr().err
    assert not list(tmp_path.rglob("noise.json"))


def test_noise_of_several_nodes_asks_for_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for node in ("xeon1", "xeon2"):
        assert main(["accept", steady(tmp_path / node, "s1", baseline_node=node)]) == 0
    assert main(["noise"]) == 2
    assert "baselines has several nodes; name one with --node: xeon1, xeon2" in capsys.readouterr().err


def test_noise_without_anything_names_the_next_step(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["noise"]) == 2
    assert "nriperf noise --sessions" in capsys.readouterr().err


def test_a_recording_that_does_not_exist_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["judge", "nowhere"]) == 3
    assert "does not exist" in capsys.readouterr().err


def test_two_variants_of_a_session_are_compared_pair_by_pair(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noisy = [10.0, 13.0, 9.0, 15.0, 11.0, 12.0]
    session = record_session(tmp_path, "a", noisy, variant={"name": "a", "of": ["a", "b"]})
    other = record_session(tmp_path / "x", "a", [gap * 1.04 for gap in noisy], variant={"name": "b", "of": ["a", "b"]})
    (other / "test_chat").rename(session / "second")
    assert main(["compare", str(session / "test_chat"), str(session / "second"), "--json"]) == 1
    verdict = json.loads(capsys.readouterr().out)["verdicts"][0]
    assert verdict["p"] == pytest.approx(1 / 64)
    assert verdict["reason"].startswith("b against a")


def test_a_session_that_could_have_stopped_earlier_is_judged_again_at_the_level_of_its_look(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accepted(tmp_path, 3)
    gate = {"metrics": ["itl"], "tolerance": 0.05, "floor": 0.02, "alpha": 0.05}
    levels = {}
    for most in (5, 20):
        session = steady(tmp_path, f"now{most}", 9.0, day=9, gate={**gate, "runs": [5, most]})
        capsys.readouterr()
        main(["judge", session, "--json"])
        (verdict,) = json.loads(capsys.readouterr().out)["verdicts"]
        assert verdict["alpha"] == 0.05
        levels[most] = float(verdict["reason"].rpartition("level ")[2].rstrip(")"))
    assert levels[20] < levels[5] == 0.05


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--fail-on", "slower"], "'slower' is no verdict"),
        (["--metric", "itll"], "no metric 'itll'"),
        (["--alpha", "5"], "--alpha 5.0 is not between 0 and 1"),
        (["--tolerance", "5"], "--tolerance 5.0 is not between 0 and 1"),
    ],
)
def test_a_word_that_would_judge_nothing_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: list[str], said: str
) -> None:
    assert main(["judge", steady(tmp_path, "now"), *wrong]) == 2
    assert said in capsys.readouterr().err


def test_what_is_missing_names_the_command_that_makes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    now = steady(tmp_path, "now")
    assert main(["judge", now]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "nriperf accept " in line]
    assert main(["accept", *shlex.split(line.partition("nriperf accept ")[2])]) == 0
    capsys.readouterr()
    other = record_session(tmp_path / "x", "x", STEADY, test="a.py::test_a")
    main(["judge", steady(tmp_path, "later", day=2), "--against", str(other)])
    assert "no session of --against has it" in capsys.readouterr().out


def test_a_command_in_a_folder_below_reads_the_settings_of_its_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nriperf.toml").write_text("baselines = 'kept'\nout = 'measured'\n")
    record_session(tmp_path / "measured", "s1", STEADY)
    below = tmp_path / "a/b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert main(["accept"]) == 0
    assert (tmp_path / "kept/local-12345678/suites/test_chat.json").exists()
    assert main(["show"]) == 0
    assert main(["accept", "--baselines", "../mine"]) == 0
    assert (tmp_path / "a/mine/local-12345678/suites/test_chat.json").exists()
