"""Recordings: what is written is read again, by us and by others; what is damaged is named; a kill loses one run."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from array import array
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_nriperf.errors import RecordingError
from pytest_nriperf.recording import COLUMNS, open_recording, write_document, write_run
from pytest_nriperf.seams import CounterRow, RequestRow, TokenEvents

PROPERTY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def clean(folder: Path) -> Path:
    """The folder, new."""
    folder.mkdir(exist_ok=True)
    for file in folder.iterdir():
        file.unlink()
    return folder


def small_run(run: int, requests: int = 2) -> tuple[list[RequestRow], TokenEvents, list[CounterRow]]:
    """A run of one replica with three events a request."""
    tokens, rows = TokenEvents(), []
    for number in range(requests):
        start = run * 10**9 + number * 1000
        tokens.add(0, number, [start, start + 100, start + 200], [0, 1, 1])
        rows.append(
            RequestRow(0, number, "measure", "p", None, start, start + 100, start + 200, start + 201, 4, 2, "ok")
        )
    return rows, tokens, [CounterRow(run, run, "proc", "cpu_time", "cumulative", run, "ns", cpu=0)]


def write_small(folder: Path, runs: int) -> None:
    write_document(folder, {"test": "test_it"})
    for run in range(1, runs + 1):
        write_run(folder, run, *small_run(run))


# ----------------------------------------------------------------------------------------------------- round trip


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    tokens = TokenEvents()
    tokens.add(0, 0, [10, 20, 30], [0, 1, 2])
    row = RequestRow(0, 0, "measure", "chat", None, 5, 20, 30, 31, 12, 3)
    counter = CounterRow(7, 8, "proc", "cpu_time", "cumulative", 2**60 + 1, "ns", cpu=3)
    write_document(tmp_path, {"test": "test_a", "cpus": frozenset({3, 1})})
    write_run(tmp_path, 1, [row], tokens, [counter])
    recording = open_recording(tmp_path)
    assert recording.runs == (1,)
    assert recording.warnings == ()
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


TIMES = st.integers(-(2**63), 2**63 - 1)
SMALL = st.integers(0, 2**31 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@PROPERTY
@given(
    rows=st.lists(
        st.builds(
            RequestRow,
            replica=SMALL,
            request=SMALL,
            phase=TEXT,
            prompt_id=TEXT,
            scheduled_ns=st.none() | TIMES,
            submit_ns=TIMES,
            first_ns=st.none() | TIMES,
            last_ns=st.none() | TIMES,
            end_ns=st.none() | TIMES,
            prompt_tokens=SMALL,
            output_tokens=SMALL,
            status=TEXT,
            error=TEXT,
        ),
        max_size=5,
    ),
    events=st.lists(st.tuples(SMALL, SMALL, TIMES, SMALL), max_size=30),
    counters=st.lists(
        st.builds(
            CounterRow,
            t_ns=TIMES,
            read_ns=TIMES,
            source=TEXT,
            name=TEXT,
            kind=TEXT,
            value=st.integers(-(2**70), 2**70) | st.floats(allow_nan=False),
            unit=TEXT,
            replica=st.none() | SMALL,
            cpu=st.none() | SMALL,
            core=st.none() | SMALL,
            socket=st.none() | SMALL,
            node=st.none() | SMALL,
            pid=st.none() | SMALL,
        ),
        max_size=5,
    ),
    run=st.integers(1, 5000),
)
def test_any_run_survives_the_round_trip_in_order(
    tmp_path: Path,
    rows: list[RequestRow],
    events: list[tuple[int, int, int, int]],
    counters: list[CounterRow],
    run: int,
) -> None:
    folder = clean(tmp_path / "r")
    write_document(folder, {})
    columns = [array("q", column) for column in zip(*events, strict=True)] or [array("q") for _ in range(4)]
    write_run(folder, run, rows, TokenEvents(*columns), counters)
    recording = open_recording(folder)
    assert recording.runs == (run,)
    read = [(each["replica"], each["request"], each["t_ns"], each["n"]) for each in recording.tokens().to_pylist()]
    assert [each[:3] for each in read] == sorted(each[:3] for each in events)
    assert sorted(read) == sorted(events)
    ordered = sorted(rows, key=lambda row: (row.replica, row.request))
    assert recording.requests().to_pylist() == [{"run": run, **vars(row)} for row in ordered]
    for written, got in zip(counters, recording.counters().to_pylist(), strict=True):
        assert got["value"] == float(written.value)
        integer = isinstance(written.value, int) and -(2**63) <= written.value < 2**63
        assert got["value_int"] == (written.value if integer else None)
        assert {key: got[key] for key in ("t_ns", "read_ns", "name", "cpu", "pid")} == {
            "t_ns": written.t_ns,
            "read_ns": written.read_ns,
            "name": written.name,
            "cpu": written.cpu,
            "pid": written.pid,
        }


def test_undecodable_text_is_kept_as_its_escape(tmp_path: Path) -> None:
    rows, tokens, _ = small_run(1, 1)
    rows[0] = RequestRow(**{**vars(rows[0]), "error": os.fsdecode(b"caf\xe9")})
    write_document(tmp_path, {"test": os.fsdecode(b"caf\xe9")})
    write_run(tmp_path, 1, rows, tokens)
    assert open_recording(tmp_path).requests()["error"].to_pylist() == ["caf\\udce9"]
    assert open_recording(tmp_path).document["test"] == "caf\udce9"


def test_token_columns_reach_arrow_without_a_copy_of_the_times(tmp_path: Path) -> None:
    events = TokenEvents(*(array("q", range(1000)) for _ in range(4)))
    before = np.asarray(events.t_ns).__array_interface__["data"]
    from pytest_nriperf.recording import _token_table

    assert _token_table(1, events)["t_ns"].chunk(0).buffers()[1].address == before[0]


def test_a_token_event_takes_less_than_four_bytes(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    tokens = TokenEvents()
    for number in range(800):
        stamps = np.cumsum(20e6 * random.lognormal(0, 0.05, 49)).astype(np.int64) + number * 10**9
        tokens.add(number // 200, number % 200, stamps.tolist(), [0] + [1] * 48)
    write_document(tmp_path, {})
    write_run(tmp_path, 1, [], tokens)
    assert (tmp_path / "tokens-001.parquet").stat().st_size / len(tokens) < 4


def test_a_finished_run_is_never_overwritten(tmp_path: Path) -> None:
    write_small(tmp_path, 1)
    with pytest.raises(RecordingError, match="run 1 is already recorded"):
        write_run(tmp_path, 1, *small_run(1))


def test_values_that_json_does_not_have_become_plain_and_others_are_refused(tmp_path: Path) -> None:
    write_document(tmp_path, {"ratio": float("nan"), "folder": Path("/models"), "names": {"b", "a"}, "range": range(2)})
    assert open_recording(tmp_path).document == {
        "format": 1,
        "ratio": None,
        "folder": "/models",
        "names": ["a", "b"],
        "range": [0, 1],
    }
    with pytest.raises(TypeError, match="object does not belong into a recording"):
        write_document(tmp_path, {"model": object()})


def test_a_disk_that_refuses_is_an_error_with_the_file_and_leaves_nothing(tmp_path: Path) -> None:
    write_small(tmp_path, 1)
    before = sorted(tmp_path.iterdir())
    with limited_file_size(100), pytest.raises(RecordingError, match=r"counters-002\.parquet cannot be written"):
        write_run(tmp_path, 2, *small_run(2))
    assert sorted(tmp_path.iterdir()) == before


@contextlib.contextmanager
def limited_file_size(limit: int) -> Any:
    """No file may grow beyond `limit` bytes: the kernel's own refusal, as a full disk."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


# ----------------------------------------------------------------------------------------------- killed, damaged


class Killed(BaseException):
    """The process is gone: nothing after it happens."""


class DyingProcess:
    """Lets `steps` operations on the disk happen; after that none does, clean-up included."""

    def __init__(self, patch: pytest.MonkeyPatch, steps: int) -> None:
        self.left = steps
        for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "unlink")):
            patch.setattr(owner, name, self._step(getattr(owner, name)))

    def _step(self, operation: Any) -> Any:
        def step(*arguments: Any, **options: Any) -> Any:
            if self.left <= 0:
                raise Killed
            self.left -= 1
            return operation(*arguments, **options)

        return step


@pytest.mark.parametrize("steps", range(0, 48, 1))
def test_killed_at_any_moment_only_the_running_run_is_lost_and_can_be_repeated(tmp_path: Path, steps: int) -> None:
    write_small(tmp_path, 1)
    document = {"test": "test_it", "runs": {"1": {}}}
    done = [1]
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):
        DyingProcess(patch, steps)
        for run in (2, 3):
            write_run(tmp_path, run, *small_run(run))
            done.append(run)
            write_document(tmp_path, document | {"runs": {str(each): {} for each in done}})
    recording = open_recording(tmp_path)
    assert recording.runs[: len(done)] == tuple(done)
    assert recording.runs in ((1,), (1, 2), (1, 2, 3))
    assert len(recording.tokens()) == 6 * len(recording.runs)
    assert len(recording.counters()) == len(recording.runs)
    for run in {1, 2, 3}.difference(recording.runs):
        write_run(tmp_path, run, *small_run(run))
    write_document(tmp_path, document)
    assert open_recording(tmp_path).runs == (1, 2, 3)
    assert open_recording(tmp_path).warnings == ()
    assert not list(tmp_path.glob(".*"))


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_recording import small_run, write_small, write_run
folder = Path(sys.argv[1])
write_small(folder, 1)
for run in range(2, 100000):
    write_run(folder, run, *small_run(run))
    print(run, flush=True)
"""


def test_after_kill_9_every_finished_run_is_readable(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        reported = [int(writer.stdout.readline()) for _ in range(5)]
        writer.send_signal(signal.SIGKILL)
    recording = open_recording(tmp_path)
    assert set(reported) <= set(recording.runs)
    assert recording.runs == tuple(range(1, len(recording.runs) + 1))
    assert len(recording.tokens()) == 6 * len(recording.runs)


def test_an_unfinished_run_is_left_out_with_a_warning(tmp_path: Path) -> None:
    write_small(tmp_path, 3)
    (tmp_path / "requests-002.parquet").unlink()
    recording = open_recording(tmp_path)
    assert recording.runs == (1, 3)
    assert recording.warnings == ("run 2 is unfinished and left out",)
    assert set(recording.counters()["run"].to_pylist()) == {1, 3}


def test_a_run_that_lost_its_tokens_is_never_mixed_with_a_repetition(tmp_path: Path) -> None:
    write_small(tmp_path, 1)
    (tmp_path / "tokens-001.parquet").unlink()
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):
        DyingProcess(patch, 12)
        write_run(tmp_path, 1, *small_run(1, requests=5))
    assert open_recording(tmp_path).runs == ()


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("intact")
    write_document(folder, {"test": "test_it"})
    write_run(folder, 1, *small_run(1, 200))
    return folder


def tables(folder: Path, optional: bool = True) -> list[Any]:
    """The rows of all tables; `optional` with the columns that may be absent."""
    recording = open_recording(folder)
    columns = {
        table: [name for name, type_ in types.items() if optional or not type_.endswith("?")]
        for table, types in COLUMNS.items()
    }
    return [getattr(recording, table)().select(names).to_pylist() for table, names in columns.items()]


def refused(folder: Path) -> bool:
    try:
        tables(folder)
    except RecordingError:
        return True
    return False


@settings(PROPERTY, max_examples=80)
@given(data=st.data(), table=st.sampled_from(sorted(COLUMNS)))
def test_a_damaged_part_is_refused_by_name_or_harmless(
    tmp_path: Path, intact: Path, data: st.DataObject, table: str
) -> None:
    folder = clean(tmp_path / "r")
    for file in intact.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    part = folder / f"{table}-001.parquet"
    content = bytearray(part.read_bytes())
    if data.draw(st.booleans(), "truncate"):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
            content[place] ^= data.draw(st.integers(1, 255))
    part.write_bytes(content)
    with pytest.raises(RecordingError, match=re.escape(str(part))) if refused(folder) else contextlib.nullcontext():
        # Pages carry checksums. Names in the footer do not: an optional column may be lost, nothing else.
        assert tables(folder, optional=False) == tables(intact, optional=False)


def test_a_truncated_file_is_refused_by_name(tmp_path: Path) -> None:
    write_small(tmp_path, 2)
    part = tmp_path / "tokens-002.parquet"
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(RecordingError, match=r"tokens-002\.parquet is damaged"):
        open_recording(tmp_path).tokens()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b'{"format": "1"}', b'{"format": 1, "runs": []}', b"\xff\xfe", b"[" * 100_000]
)
def test_a_damaged_document_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "recording.json").write_bytes(content)
    with pytest.raises(RecordingError, match=r"recording\.json"):
        open_recording(tmp_path)


def test_an_unknown_version_is_refused_with_the_next_step(tmp_path: Path) -> None:
    (tmp_path / "recording.json").write_text(json.dumps({"format": 2}))
    with pytest.raises(RecordingError, match=r"has format 2.*newer version"):
        open_recording(tmp_path)


@pytest.mark.parametrize("folder", ["absent", "."])
def test_what_is_no_recording_is_named(tmp_path: Path, folder: str) -> None:
    with pytest.raises(RecordingError, match=r"is no recording: it has no recording\.json"):
        open_recording(tmp_path / folder)


def test_rows_of_another_run_are_refused(tmp_path: Path) -> None:
    write_small(tmp_path, 1)
    for table in ("requests", "tokens"):
        part = tmp_path / f"{table}-001.parquet"
        part.rename(tmp_path / f"{table}-002.parquet")
    with pytest.raises(RecordingError, match=r"tokens-002\.parquet is damaged: it holds rows of other runs"):
        open_recording(tmp_path).tokens()


# -------------------------------------------------------------------------------------------- other versions, tools


def test_unknown_columns_and_keys_are_ignored_and_optional_ones_may_be_absent(tmp_path: Path) -> None:
    write_small(tmp_path, 1)
    for table, absent in (("tokens", None), ("requests", "scheduled_ns"), ("counters", "pid")):
        part = tmp_path / f"{table}-001.parquet"
        rows = pq.ParquetFile(part).read().append_column("later", pa.array(range(len(pq.ParquetFile(part).read()))))
        pq.write_table(rows.drop_columns([absent] if absent else []), part)
    recording = open_recording(tmp_path)
    for table, columns in COLUMNS.items():
        assert getattr(recording, table)().column_names == list(columns)
    assert recording.counters()["pid"].to_pylist() == [None]


def test_a_needed_column_that_is_absent_is_named(tmp_path: Path) -> None:
    write_small(tmp_path, 1)
    part = tmp_path / "tokens-001.parquet"
    pq.write_table(pq.ParquetFile(part).read().drop_columns(["n"]), part)
    with pytest.raises(RecordingError, match=r"tokens-001\.parquet is damaged: .*\bn\b"):
        open_recording(tmp_path).tokens()


def test_undivided_tables_are_read_as_well(tmp_path: Path) -> None:
    write_small(tmp_path, 3)
    divided = tables(tmp_path)
    recording = open_recording(tmp_path)
    whole = {table: getattr(recording, table)() for table in COLUMNS}
    for file in tmp_path.glob("*.parquet"):
        file.unlink()
    for table, rows in whole.items():
        pq.write_table(rows, tmp_path / f"{table}.parquet")
    assert open_recording(tmp_path).runs == (1, 2, 3)
    assert tables(tmp_path) == divided


def test_without_counters_the_table_is_empty(tmp_path: Path) -> None:
    write_small(tmp_path, 1)
    (tmp_path / "counters-001.parquet").unlink()
    recording = open_recording(tmp_path)
    assert recording.runs == (1,)
    assert recording.counters().column_names == list(COLUMNS["counters"])


def test_pandas_and_duckdb_read_it_without_us(tmp_path: Path) -> None:
    write_small(tmp_path, 2)
    frame = pd.concat(map(pd.read_parquet, sorted(tmp_path.glob("tokens-*.parquet"))))
    assert frame.t_ns.dtype == np.int64
    gaps = frame[frame.n > 0].groupby(["run", "replica", "request"]).t_ns.diff().dropna()
    assert gaps.tolist() == [100.0] * 4
    query = """
        select run, replica, median(gap)::bigint
        from (select run, replica, t_ns - lag(t_ns) over (partition by run, replica, request order by t_ns) as gap
              from read_parquet(?) where n > 0)
        group by run, replica order by run, replica"""
    rows = duckdb.execute(query, [f"{tmp_path}/tokens-*.parquet"]).fetchall()
    assert rows == [(1, 0, 100), (2, 0, 100)]
    counters = duckdb.execute("select * from read_parquet(?)", [f"{tmp_path}/counters-*.parquet"]).df()
    assert list(counters.columns) == list(COLUMNS["counters"])
