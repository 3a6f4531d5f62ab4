"""The store: several sessions, a window, an anchor; never damaged, never mixed with simulated results."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_nriperf.baselines import BaselineKey, BaselineStore, MetricRuns, SessionRecord, Verdict
from pytest_nriperf.errors import BaselineError

KEY = BaselineKey("TestChat::test_chat", "cpus=1", "smollm2", "new_tokens=8")
FILE = "suites/test_chat.py"


def record(number: int) -> SessionRecord:
    runs = {run: {"low": 0.9, "median": 1.0 + number / 100, "p95": 1.2} for run in range(5)}
    return SessionRecord(
        f"s{number:03}",
        f"2026-11-24T00:{number:02}:00Z",
        {"identity": {"cpu": {"model": "x"}}, "treatment": {}, "state": {}},
        {"itl": MetricRuns("s", "lower", runs)},
        commit="abc",
        reference={"memory_read": {0: 1e10, 1: 1.1e10}},
        remarks={3: "steal 4 %"},
    )


def test_what_was_appended_is_found_again(tmp_path: Path) -> None:
    store = BaselineStore(tmp_path, "xeon1")
    store.append(FILE, KEY, record(1))
    found = store.find(FILE, KEY)
    assert found is not None
    assert found.sessions == (record(1),)
    assert store.path(FILE) == tmp_path / "xeon1/suites/test_chat.json"


def test_the_same_session_is_stored_once(tmp_path: Path) -> None:
    store = BaselineStore(tmp_path, "xeon1")
    store.append(FILE, KEY, record(1))
    assert len(store.append(FILE, KEY, record(1)).sessions) == 1


def test_the_window_rolls_and_the_anchor_stays(tmp_path: Path) -> None:
    store = BaselineStore(tmp_path, "xeon1", window=4, anchors=2)
    for number in range(9):
        store.append(FILE, KEY, record(number))
    found = store.find(FILE, KEY)
    assert found is not None
    assert [one.session for one in found.sessions] == ["s000", "s001", "s005", "s006", "s007", "s008"]
    assert found.pinned == {"s000", "s001"}


def test_a_restart_forgets(tmp_path: Path) -> None:
    store = BaselineStore(tmp_path, "xeon1")
    for number in range(3):
        store.append(FILE, KEY, record(number))
    assert [one.session for one in store.restart(FILE, KEY, record(7)).sessions] == ["s007"]


def test_a_session_judged_worse_can_only_restart(tmp_path: Path) -> None:
    store = BaselineStore(tmp_path, "xeon1")
    with pytest.raises(BaselineError, match="accept --restart"):
        store.append(FILE, KEY, record(1), [Verdict("itl", "worse", "")])


def test_a_session_of_another_machine_can_only_restart(tmp_path: Path) -> None:
    store = BaselineStore(tmp_path, "xeon1")
    store.append(FILE, KEY, record(1))
    with pytest.raises(BaselineError, match=r"another machine .*identity differs: cpu x -> y.*accept --restart"):
        store.append(FILE, KEY, record(2), [Verdict("itl", "incomparable", "identity differs: cpu x -> y")])
    assert [one.session for one in store.restart(FILE, KEY, record(2)).sessions] == ["s002"]


def test_a_file_that_cannot_be_looked_at_is_not_taken_for_none(tmp_path: Path) -> None:
    with pytest.raises(BaselineError, match="cannot be read: File name too long"):
        BaselineStore(tmp_path, "x" * 300).load(FILE)


def test_a_simulated_session_never_enters_a_real_baseline(tmp_path: Path) -> None:
    with pytest.raises(BaselineError, match="SIMULATED"):
        BaselineStore(tmp_path, "xeon1").append(FILE, KEY, replace(record(1), simulated=True))
    BaselineStore(tmp_path, "sim", simulated=True).append(FILE, KEY, replace(record(1), simulated=True))
    with pytest.raises(BaselineError, match="simulated node"):
        BaselineStore(tmp_path, "sim").load(FILE)


def test_a_session_that_measured_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BaselineError, match="measured nothing"):
        BaselineStore(tmp_path, "xeon1").append(FILE, KEY, replace(record(1), metrics={}))


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"format": 1, "tests": {"a": []}}', '{"format": 99}', "\ud800"])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    store = BaselineStore(tmp_path, "xeon1")
    store.append(FILE, KEY, record(1))
    store.path(FILE).write_bytes(damage.encode("utf-8", "surrogatepass"))
    with pytest.raises(BaselineError, match=r"test_chat\.json"):
        store.load(FILE)


def test_every_truncation_is_refused_or_whole(tmp_path: Path) -> None:
    store = BaselineStore(tmp_path, "xeon1")
    store.append(FILE, KEY, record(1))
    whole = store.path(FILE).read_bytes()
    for size in range(0, len(whole) - 2, 37):
        store.path(FILE).write_bytes(whole[:size])
        with pytest.raises(BaselineError):
            store.load(FILE)


def test_a_new_session_is_a_few_added_lines(tmp_path: Path) -> None:
    store = BaselineStore(tmp_path, "xeon1")
    store.append(FILE, KEY, record(1))
    before = store.path(FILE).read_text().splitlines()
    store.append(FILE, KEY, record(2))
    after = store.path(FILE).read_text().splitlines()
    assert len([line for line in before if line.rstrip(",") not in {row.rstrip(",") for row in after}]) == 0
    assert len(after) - len(before) < 25
    assert json.loads("\n".join(after))["format"] == 1


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = BaselineStore(tmp_path, "xeon1")
    store.append(FILE, KEY, record(1))

    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.append(FILE, KEY, record(2))
    assert [one.session for one in store.load(FILE)[KEY].sessions] == ["s001"]
    assert [file.name for file in store.path(FILE).parent.iterdir()] == ["test_chat.json"]


def _append(folder: Path, number: int) -> None:
    BaselineStore(folder, "xeon1").append(FILE, KEY, record(number))


def test_concurrent_writers_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_append, args=(tmp_path, number)) for number in range(6)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [one.session for one in BaselineStore(tmp_path, "xeon1").load(FILE)[KEY].sessions] == [
        f"s{number:03}" for number in range(6)
    ]
