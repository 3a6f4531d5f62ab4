"""Recordings: raw timestamps and counters on disk, Parquet tables and a JSON document in one folder a test.

The file format is described in docs/recording.md. Values are stored as they come (integer nanoseconds, plain
JSON); what they mean is the business of `metrics`. The only file that imports pyarrow, inside functions.

A run is finished when its `requests` and `tokens` parts are in place. Every part is complete before its name
appears, and the `requests` part appears last, so a run that is killed at any moment loses only itself.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pytest_nriperf.atomic import replaced, sync_folder
from pytest_nriperf.errors import RecordingError

if TYPE_CHECKING:
    import pyarrow

FORMAT = 1
DOCUMENT = "recording.json"

# Table -> column -> type. Tables in the order in which a run's parts are written; `?` marks what may be absent.
COLUMNS: dict[str, dict[str, str]] = {
    "counters": {
        "run": "int32",
        "t_ns": "int64",
        "read_ns": "int64",
        "source": "string",
        "name": "string",
        "kind": "string",
        "value": "double",
        "value_int": "int64?",
        "unit": "string",
        "replica": "int32?",
        "cpu": "int32?",
        "core": "int32?",
        "socket": "int32?",
        "node": "int32?",
        "pid": "int32?",
    },
    "tokens": {"run": "int32", "replica": "int32", "request": "int32", "t_ns": "int64", "n": "int32"},
    "requests": {
        "run": "int32",
        "replica": "int32",
        "request": "int32",
        "phase": "string",
        "prompt_id": "string",
        "scheduled_ns": "int64?",
        "submit_ns": "int64",
        "first_ns": "int64?",
        "last_ns": "int64?",
        "end_ns": "int64?",
        "prompt_tokens": "int32",
        "output_tokens": "int32",
        "status": "string",
        "error": "string",
    },
}
_PART = re.compile(r"(requests|tokens|counters)(?:-(\d+))?\.parquet")


class TokenColumns(Protocol):
    """Token events of one run as parallel integer columns (`array("q")`: taken without a copy)."""

    replica: Any
    request: Any
    t_ns: Any
    n: Any


# ------------------------------------------------------------------------------------------------------- writing


def write_document(folder: Path, document: Mapping[str, Any], *, durable: bool = True) -> None:
    """Write recording.json, atomically. Sets become sorted lists, what is not finite null."""
    write_json(folder / DOCUMENT, {"format": FORMAT, **document}, durable=durable)


def write_run(
    folder: Path,
    run: int,
    requests: Iterable[Any],
    tokens: TokenColumns,
    counters: Iterable[Any] = (),
    *,
    durable: bool = True,
) -> None:
    """Write the parts of one run; when this returns, the run is on disk.

    `requests` and `counters` are rows with attributes named as the columns (`run` is added). Not `durable`: whole
    files still, left to the kernel to bring to the disk; for what can be made again at no cost. Raises RecordingError
    when the run is already recorded or the disk refuses.
    """
    if run in finished_runs(folder):
        raise RecordingError(f"{folder}: run {run} is already recorded", "a recording is never overwritten")
    for table in reversed(COLUMNS):
        _part(folder, table, run).unlink(missing_ok=True)
    if durable:
        sync_folder(folder)
    parts = {
        "counters": counter_table(run, list(counters)),
        "tokens": _token_table(run, tokens),
        "requests": _row_table("requests", run, sorted(requests, key=lambda row: (row.replica, row.request))),
    }
    for table, rows in parts.items():
        _write_part(_part(folder, table, run), table, rows, durable=durable)


def _part(folder: Path, table: str, run: int) -> Path:
    return folder / f"{table}-{run:03d}.parquet"


def _schema(table: str) -> pyarrow.Schema:
    import pyarrow as pa

    types = {"int32": pa.int32(), "int64": pa.int64(), "double": pa.float64(), "string": pa.string()}
    return pa.schema([(name, types[kind.rstrip("?")]) for name, kind in COLUMNS[table].items()])


def _row_table(table: str, run: int, rows: Sequence[Any], **more: Sequence[Any]) -> pyarrow.Table:
    import pyarrow as pa

    columns: dict[str, Sequence[Any]] = {"run": [run] * len(rows), **more}
    for name, kind in COLUMNS[table].items():
        if name not in columns:
            values = [getattr(row, name) for row in rows]
            columns[name] = [_text(value) for value in values] if kind == "string" else values
    return pa.table(columns, schema=_schema(table))


def counter_table(run: int, rows: Sequence[Any]) -> pyarrow.Table:
    """The readings of one run as the table of counters has them."""
    exact = [_exact(row.value) for row in rows]
    return _row_table("counters", run, rows, value=[float(row.value) for row in rows], value_int=exact)


def _exact(value: float) -> int | None:
    """The integer itself where the reading was one that 64 bits hold."""
    return int(value) if isinstance(value, int) and -(2**63) <= value < 2**63 else None


def _token_table(run: int, tokens: TokenColumns) -> pyarrow.Table:
    import numpy as np
    import pyarrow as pa

    columns = {name: np.asarray(getattr(tokens, name)) for name in ("replica", "request", "t_ns", "n")}
    if not _in_order(columns["replica"], columns["request"], columns["t_ns"]):
        order = np.lexsort((columns["t_ns"], columns["request"], columns["replica"]))
        columns = {name: column[order] for name, column in columns.items()}
    schema = _schema("tokens")
    arrays = {name: pa.array(column, pa.int64()).cast(schema.field(name).type) for name, column in columns.items()}
    return pa.table({"run": pa.array(np.full(len(columns["n"]), run, np.int32)), **arrays}, schema=schema)


def _in_order(*columns: Any) -> bool:
    """Whether the rows stand in lexicographic order of the columns."""
    tie: Any = True
    for column in columns:
        if (tie & (column[1:] < column[:-1])).any():
            return False
        tie = tie & (column[1:] == column[:-1])
    return True


def _text(value: object) -> str:
    """Text that UTF-8 can hold: a lone surrogate (from undecodable bytes) becomes its escape."""
    return str(value).encode("utf-8", "backslashreplace").decode()


def _write_part(path: Path, table: str, rows: pyarrow.Table, *, durable: bool) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    strings = [name for name, kind in COLUMNS[table].items() if kind.startswith("string")]
    encodings = {
        name: "BYTE_STREAM_SPLIT" if kind == "double" else "DELTA_BINARY_PACKED"
        for name, kind in COLUMNS[table].items()
        if name not in strings
    }

    def write(temporary: Path) -> None:
        try:
            pq.write_table(
                rows.replace_schema_metadata({"nriperf.format": str(FORMAT)}),
                temporary,
                compression="zstd",
                use_dictionary=strings,
                column_encoding=encodings,
                write_page_checksum=True,
                store_schema=False,
            )
        except pa.ArrowException as error:
            raise RecordingError(f"{path}: {error}", "this is a defect, please report it") from error

    _replace(path, write, durable=durable)


def write_json(path: Path, value: Mapping[str, Any], *, durable: bool = True) -> None:
    """Write a JSON document atomically, for people too: indented, in the given order."""
    text = json.dumps(plain(value), indent=1, allow_nan=False) + "\n"

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="ascii")

    _replace(path, write, durable=durable)


def _replace(path: Path, write: Callable[[Path], None], *, durable: bool) -> None:
    """Let `write` fill a file that then takes the name `path`."""
    try:
        with replaced(path, durable=durable) as temporary:
            write(temporary)
    except OSError as error:
        raise RecordingError(
            f"{path} cannot be written: {error.strerror or error}", "make room or name another folder with --nri-out"
        ) from error


def plain(value: Any) -> Any:
    """The value as JSON has it."""
    if isinstance(value, bool | int | str | None):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, AbstractSet):
        return sorted((plain(each) for each in value), key=lambda each: (str(type(each)), each))
    if isinstance(value, Sequence):
        return [plain(each) for each in value]
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} does not belong into a recording: {value!r}")


# ------------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class Recording:
    """An opened recording: `document` is its recording.json, `runs` are the finished ones in order.

    `warnings` says what had to be left out. The tables are read when asked for, finished runs only.
    """

    path: Path
    document: Mapping[str, Any]
    runs: tuple[int, ...]
    warnings: tuple[str, ...] = ()

    def requests(self) -> pyarrow.Table:
        """Table of requests, rows by run, replica, request."""
        return self._read("requests")

    def tokens(self) -> pyarrow.Table:
        """Table of token events, rows by run, replica, request, time."""
        return self._read("tokens")

    def counters(self) -> pyarrow.Table:
        """Table of counter readings; empty where none were collected."""
        return self._read("counters")

    def _read(self, table: str) -> pyarrow.Table:
        import pyarrow as pa

        parts = [
            _read_part(file, table, run)
            for run, file in sorted(_parts(self.path)[table].items())
            if run is WHOLE or run in self.runs
        ]
        return pa.concat_tables(parts) if parts else _schema(table).empty_table()


# The run number of an undivided table such as `tokens.parquet`.
WHOLE = -1


def open_recording(path: Path) -> Recording:
    """Open the folder of a recording (or its recording.json).

    Raises RecordingError naming the file that is missing, damaged or of a version unknown to this one.
    """
    folder = path.parent if path.name == DOCUMENT else path
    file = folder / DOCUMENT
    if not file.exists():
        raise RecordingError(f"{folder} is no recording: it has no {DOCUMENT}", "name the folder of one test")
    document = read_json(file)
    kinds = {"parameters": dict, "runs": dict, "balloon": dict, "model": dict, "fingerprint": dict, "warnings": list}
    for key, kind in kinds.items():
        if not isinstance(document.get(key, kind()), kind):
            raise RecordingError(f"{file} is damaged: {key} is no {'object' if kind is dict else 'list'}")
    runs = finished_runs(folder)
    started = {run for parts in _parts(folder).values() for run in parts if run is not WHOLE}
    started |= {int(run) for run in document.get("runs", {}) if str(run).isdecimal()}
    lost = sorted(started - set(runs))
    warnings = [f"run {run} is unfinished and left out" for run in lost]
    disturbed = _disturbed(document)
    repeated = [run for run in disturbed if run in runs and disturbed[run].repeated and run != runs[-1]]
    kept = [run for run in disturbed if run in runs and run not in repeated]
    for found, what in ((repeated, "left out and made again"), (kept, "kept")):
        if found:
            warnings.append(f"disturbed, {what}: " + ", ".join(f"run {run} ({disturbed[run].why})" for run in found))
    runs = tuple(run for run in runs if run not in repeated)
    return Recording(folder, document, runs, tuple(warnings))


class _Disturbed(NamedTuple):
    """What was wrong with a run, and whether another one took its place."""

    why: str
    repeated: bool


def _disturbed(document: Mapping[str, Any]) -> dict[int, _Disturbed]:
    """The runs that were disturbed, by number."""
    return {
        int(run): _Disturbed(", ".join(map(str, facts["disturbances"])), bool(facts.get("repeated")))
        for run, facts in document.get("runs", {}).items()
        if str(run).isdecimal() and isinstance(facts, dict) and facts.get("disturbances")
    }


def finished_runs(folder: Path) -> tuple[int, ...]:
    """Numbers of the runs whose requests and tokens are in place, in order."""
    parts = _parts(folder)
    runs = parts["requests"].keys() & parts["tokens"].keys()
    if WHOLE in runs:
        column = _read_part(parts["requests"][WHOLE], "requests", WHOLE)["run"]
        runs = runs - {WHOLE} | set(column.unique().to_pylist())
    return tuple(sorted(runs))


def read_json(file: Path) -> dict[str, Any]:
    """A document of ours. Raises RecordingError, by name, when it is damaged or of an unknown version."""
    try:
        document = json.loads(file.read_bytes())
    except OSError as error:
        raise RecordingError(f"{file}: {error.strerror}", "check the path") from error
    except (ValueError, RecursionError) as error:
        raise RecordingError(f"{file} is damaged: {error}", "measure again, or restore the file") from error
    if not isinstance(document, dict):
        raise RecordingError(f"{file} is damaged: it holds no object", "measure again, or restore the file")
    version = document.get("format", FORMAT)
    if not isinstance(version, int) or not 1 <= version <= FORMAT:
        raise RecordingError(
            f"{file} has format {version!r}, this version of pytest-nriperf reads up to {FORMAT}",
            "read it with a newer version",
        )
    return document


def _parts(folder: Path) -> dict[str, dict[int, Path]]:
    """Table -> run -> file of the parts in a folder."""
    parts: dict[str, dict[int, Path]] = {table: {} for table in COLUMNS}
    for file in folder.iterdir():
        if match := _PART.fullmatch(file.name):
            parts[match[1]][int(match[2]) if match[2] else WHOLE] = file
    return parts


def _read_part(file: Path, table: str, run: int) -> pyarrow.Table:
    """Known columns of one part, in the schema's order. Raises RecordingError by name for anything damaged."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    schema = _schema(table)
    try:
        with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
            present = set(parquet.schema_arrow.names)
            rows = parquet.read(columns=[name for name in schema.names if name in present])
        rows.validate(full=True)
        for name, kind in COLUMNS[table].items():
            if name not in present and kind.endswith("?"):
                rows = rows.append_column(name, pa.nulls(len(rows), schema.field(name).type))
        rows = rows.select(schema.names).cast(schema)
    except (pa.ArrowException, OSError, ValueError, KeyError, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RecordingError(f"{file} is damaged: {reason}", "remove this run's parts to read the others") from error
    for name, kind in COLUMNS[table].items():
        if rows[name].null_count and not kind.endswith("?"):
            raise RecordingError(f"{file} is damaged: column {name} has empty rows", "remove this run's parts")
    if run is not WHOLE and len(rows) and not pc.all(pc.equal(rows["run"], run)).as_py():
        raise RecordingError(f"{file} is damaged: it holds rows of other runs", "remove this run's parts")
    return rows
