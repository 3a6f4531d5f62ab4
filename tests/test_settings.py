"""Settings come from one file, are checked when read, and name what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_nriperf.errors import NriperfError, SettingsError, UsageError
from pytest_nriperf.settings import RunPlan, Settings, read_settings


def written(folder: Path, text: str, name: str = "nriperf.toml") -> Path:
    (folder / name).write_text(text)
    return folder


def test_without_a_file_the_defaults_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    settings = read_settings(tmp_path)
    assert (settings.runs, settings.fail_on, settings.out) == (RunPlan(5, 5), ("worse",), ".nriperf")


def test_ci_also_fails_on_what_was_never_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    assert read_settings(tmp_path).fail_on == ("worse", "missing", "incomparable")


def test_pyproject_and_own_file_are_read_alike(tmp_path: Path) -> None:
    written(tmp_path, "[tool.nriperf]\nruns = '3..9'\nreserved = '0,64'\n", "pyproject.toml")
    settings = read_settings(tmp_path)
    assert settings.runs == RunPlan(3, 9)
    assert settings.reserved == {0, 64}
    written(tmp_path, "runs = 7\nfail-on = ['worse', 'unknown']")
    assert read_settings(tmp_path).runs == RunPlan(7, 7)
    assert read_settings(tmp_path).fail_on == ("worse", "unknown")


def test_a_node_profile_is_read_whole(tmp_path: Path) -> None:
    written(
        tmp_path,
        "[nodes.xeon1]\nimage = 'python:3.12'\npolicy = 'manage'\nballoon-types = {paired = 'dedicated-cpus'}\n"
        "resources = {'example.com/device' = 1}\ntolerations = [{key = 'k', operator = 'Exists'}]\nshared = true",
    )
    profile = read_settings(tmp_path).nodes["xeon1"]
    assert (profile.image, profile.policy, profile.balloon_types["paired"]) == (
        "python:3.12",
        "manage",
        "dedicated-cpus",
    )
    assert profile.resources == {"example.com/device": "1"}
    assert (profile.tolerations, profile.shared) == (({"key": "k", "operator": "Exists"},), True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tolerence = 0.1", "did you mean 'tolerance'"),
        ("alpha = 5", "not between 0 and 1"),
        ("floor = 0.2", "above tolerance"),
        ("fail-on = 'slower'", "'slower' is no verdict"),
        ("runs = '9..3'", "no number of runs"),
        ("accept = 'yes'", "accept = 'yes' is unknown"),
        ("alpha = [", "cannot be read"),
        ("[nodes.a]\nimagee = 'x'", "did you mean 'image'"),
        ("[nodes.a]\npolicy = 'own'", "no policy mode"),
        ("[nodes.a]\nshared = 'yes'", "node profile a: shared = 'yes' has the wrong form; write true or false"),
        ("[nodes.a]\nnamespace = 3", "namespace = 3 has the wrong form; write text in quotes"),
        ("[nodes.a]\ntolerations = {key = 'k'}", "write a list of tables"),
        ("[nodes.a]\ntolerations = ['k']", "write a list of tables"),
        ("[nodes.a]\nballoon-types = 'x'", "write a table of texts"),
        ("[nodes.a]\nballoon-types = {pared = 'x'}", "a type for 'pared'; the kinds are paired, spread, hidden"),
        ("[nodes.a]\nmemory-limit = '64 GB'", "memory_limit = '64 GB' is no quantity"),
        ("[nodes.a]\nresources = {gpu = 'one'}", "gpu = 'one' is no quantity"),
        ("[nodes.a]\nmodel-claim = 'weights'", "model_path = '' is no place to mount the model at"),
        (
            "[nodes.a]\nmodel-path = '/m'\nmodel-claim = 'a'\nmodel-host-path = '/b'",
            "both model_claim and model_host_path",
        ),
        ("nodes = 3", "nodes is no table"),
        ("[nodes]\na = 3", "node profile a is no table"),
        ("reserved = '3-1'", "runs backwards"),
        ("collect = {}", "collect = {} is no text"),
        ("sample-hz = 50", "not in 0..10"),
    ],
)
def test_a_mistake_is_named_with_its_mend(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(NriperfError, match=None) as caught:
        read_settings(written(tmp_path, text))
    assert said in str(caught.value)
    assert isinstance(caught.value, UsageError)
    assert caught.value.exit_status == 2


def test_options_win_over_the_file_and_none_means_not_given() -> None:
    settings = Settings(out="a").with_values({"out": None, "runs": "2", "fail_on": "nothing"})
    assert (settings.out, settings.runs, settings.fail_on) == ("a", RunPlan(2, 2), ())
    with pytest.raises(SettingsError):
        settings.with_values({"unheard": 1})
