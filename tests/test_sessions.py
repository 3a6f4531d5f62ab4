"""Sessions: named by time, held by their process, found again, resumed when unfinished."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nriperf.errors import RecordingError
from pytest_nriperf.recording import write_document
from pytest_nriperf.sessions import Session, find_recordings, find_sessions, folder_name

IDS = st.text(st.characters(), min_size=1) | st.sampled_from(["a/b.py::t[x/../y]", "..", "t[\x1b[31m]", "-rf", "CON"])


@given(test=IDS, ordinal=st.integers(1, 3))
def test_any_test_id_gives_a_safe_folder_name(test: str, ordinal: int) -> None:
    name = folder_name(test, ordinal)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name)
    assert len(name) <= 100
    assert folder_name(test, ordinal) == name


@given(one=IDS, other=IDS)
def test_different_tests_have_different_folders(one: str, other: str) -> None:
    assert (folder_name(one) == folder_name(other)) == (one == other)
    assert folder_name(one) != folder_name(one, 2)


def test_a_session_tells_when_where_and_how(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Session.start(out, node="local", command=["pytest", "-x"]) as session:
        running = json.loads((session.folder / "session.json").read_text())
        assert re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{4}", session.folder.name)
        assert (running["node"], running["command"], running["end"]) == ("local", ["pytest", "-x"], None)
        session.finish(tests=3)
    ended = json.loads((session.folder / "session.json").read_text())
    assert ended["finished"]
    assert ended["tests"] == 3
    assert ended["end"] >= ended["start"]
    assert (out / ".gitignore").read_text() == "*\n"


def test_a_folder_that_exists_is_not_given_a_gitignore(tmp_path: Path) -> None:
    with Session.start(tmp_path):
        pass
    assert not (tmp_path / ".gitignore").exists()


def test_only_an_unfinished_session_that_nobody_holds_is_resumed(tmp_path: Path) -> None:
    assert Session.resume(tmp_path) is None
    with Session.start(tmp_path, node="local") as first:
        assert Session.resume(tmp_path) is None
    with Session.start(tmp_path, node="local") as finished:
        finished.finish()
    assert Session.resume(tmp_path, node="xeon1") is None
    resumed = Session.resume(tmp_path, node="local")
    assert resumed is not None
    with resumed:
        assert resumed.folder == first.folder
        assert len(resumed.document["resumed"]) == 1
        resumed.finish()
    assert Session.resume(tmp_path) is None


def test_the_newest_unfinished_session_is_taken(tmp_path: Path) -> None:
    for name in ("20250101T000000Z-aaaa", "20250103T000000Z-bbbb", "20250102T000000Z-cccc"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "session.json").write_text('{"format": 1, "finished": false}')
    resumed = Session.resume(tmp_path)
    assert resumed is not None
    with resumed:
        assert resumed.folder.name == "20250103T000000Z-bbbb"
    assert [folder.name[-4:] for folder in find_sessions(tmp_path)] == ["aaaa", "cccc", "bbbb"]


def test_a_session_killed_with_its_process_can_be_resumed(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from pytest_nriperf.sessions import Session\n"
        "Session.start(Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    resumed = Session.resume(tmp_path)
    assert resumed is not None
    resumed.close()
    resumed.close()


def test_a_measurement_finds_its_folder_again(tmp_path: Path) -> None:
    with Session.start(tmp_path) as session:
        folder = session.recording("a.py::t")
        assert session.recording("a.py::t") == folder
        assert session.recording("a.py::t", 2) != folder


def test_recordings_are_found_from_any_level_newest_session_first(tmp_path: Path) -> None:
    with Session.start(tmp_path / "out") as session:
        folders = [session.recording(f"a.py::t{number}") for number in (2, 1)]
        for age, folder in enumerate(folders):
            write_document(folder, {})
            os.utime(folder / "recording.json", ns=(age, age))
    with Session.start(tmp_path / "out"):
        pass  # nothing measured: not what anyone looks for
    assert find_recordings(tmp_path / "out") == folders
    assert find_recordings(session.folder) == folders
    assert find_recordings(folders[0]) == folders[:1]
    assert find_recordings(folders[0] / "recording.json") == folders[:1]


def test_nothing_found_is_an_error_with_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="holds no recording; name a recording"):
        find_recordings(tmp_path)
    with pytest.raises(RecordingError, match="does not exist"):
        find_recordings(tmp_path / "absent")


def test_an_out_folder_that_cannot_be_made_is_an_error_with_the_option(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordingError, match="--nri-out"):
        Session.start(tmp_path / "file" / "out")
