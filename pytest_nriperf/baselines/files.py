"""Baseline files: small sorted JSON that is pleasant in a diff, read and written without ever being left damaged."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from pytest_nriperf.atomic import replaced
from pytest_nriperf.baselines.sessions import Baseline, BaselineKey, MetricRuns, SessionRecord
from pytest_nriperf.errors import BaselineError

FORMAT = 1
_LINE = 110


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder against other writers; the kernel lets go when the process ends, however it ends.

    Raises BaselineError where the folder cannot be made, or what is in it not be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    except OSError as error:
        raise _unwritable(folder, error) from error
    finally:
        os.close(descriptor)


def _unwritable(folder: Path, error: OSError) -> BaselineError:
    where = error.filename or folder
    return BaselineError(f"baselines: {where} cannot be written ({error.strerror})", "name another folder of baselines")


def is_there(path: Path) -> bool:
    """Whether there is such a file. Raises BaselineError where that cannot be seen, which is not the same as no."""
    try:
        return path.exists()
    except OSError as error:
        raise BaselineError(f"{path} cannot be read: {error.strerror}", "name another folder of baselines") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON document of ours. Raises BaselineError naming the file when it is damaged or of another format."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BaselineError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise BaselineError(f"{path} is damaged ({error})", "restore it, for example: git checkout -- it") from error
    if not isinstance(document, dict) or "format" not in document:
        raise BaselineError(f"{path} is no baseline file", "restore it, or move it away")
    if document["format"] != FORMAT:
        raise BaselineError(f"{path} has format {document['format']!r}, this version reads {FORMAT}", "update nriperf")
    return document


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Replace a file in one step: readers see the old or the new one whole, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path, durable=True) as temporary:
        temporary.write_text(render(document) + "\n", encoding="utf-8")


def render(value: Any, indent: int = 0) -> str:
    """JSON with sorted keys; what fits on a line stays on one, so a changed run is a changed line.

    >>> render({"b": [1, 2], "a": 0.25})
    '{"a": 0.25, "b": [1, 2]}'
    """
    line = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    if len(line) + indent <= _LINE or not isinstance(value, dict | list) or not value:
        return line
    pad = " " * (indent + 1)
    if isinstance(value, list):
        return "[\n" + ",\n".join(pad + render(item, indent + 1) for item in value) + "\n" + " " * indent + "]"
    rows = (f"{pad}{json.dumps(key, ensure_ascii=False)}: {render(value[key], indent + 1)}" for key in sorted(value))
    return "{\n" + ",\n".join(rows) + "\n" + " " * indent + "}"


def encode(baselines: Mapping[BaselineKey, Baseline], node: str, simulated: bool) -> dict[str, Any]:
    """The document of one test file. Fingerprints stand once each, named by their hash."""
    prints: dict[str, Any] = {}
    tests: dict[str, Any] = {}
    for key, baseline in baselines.items():
        rows = []
        for record in baseline.sessions:
            name = _fingerprint_name(record.fingerprint)
            prints[name] = record.fingerprint
            rows.append(_encode_session(record, name, record.session in baseline.pinned))
        tests[str(key)] = rows
    return {"format": FORMAT, "node": node, "simulated": simulated, "fingerprints": prints, "tests": tests}


def decode(document: Mapping[str, Any], path: Path) -> dict[BaselineKey, Baseline]:
    """Baselines of a document. Raises BaselineError naming the file when a field is missing or of a wrong kind."""
    try:
        found = {}
        for text, rows in document["tests"].items():
            key = BaselineKey.parse(text)
            records = [_decode_session(row, document["fingerprints"], bool(document["simulated"])) for row in rows]
            records.sort(key=lambda record: (record.time, record.session))
            found[key] = Baseline(key, tuple(records), frozenset(row["session"] for row in rows if row.get("pinned")))
        return found
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BaselineError(f"{path} is damaged ({type(error).__name__}: {error})", "restore it from git") from error


def _fingerprint_name(fingerprint: Mapping[str, Any]) -> str:
    return sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()[:8]


def _encode_session(record: SessionRecord, fingerprint: str, pinned: bool) -> dict[str, Any]:
    row: dict[str, Any] = {
        "session": record.session,
        "time": record.time,
        "commit": record.commit,
        "fingerprint": fingerprint,
        "metrics": {
            name: {
                "unit": metric.unit,
                "better": metric.better,
                "runs": {str(run): _rounded(values) for run, values in metric.runs.items()},
            }
            for name, metric in record.metrics.items()
        },
    }
    if pinned:
        row["pinned"] = True
    if record.reference:
        row["reference"] = {name: _rounded_runs(values) for name, values in record.reference.items()}
    if record.remarks:
        row["remarks"] = {str(run): text for run, text in record.remarks.items()}
    return row


def _decode_session(row: Mapping[str, Any], prints: Mapping[str, Any], simulated: bool) -> SessionRecord:
    metrics = {
        name: MetricRuns(
            metric["unit"],
            metric["better"],
            {int(run): {key: float(value) for key, value in stats.items()} for run, stats in metric["runs"].items()},
        )
        for name, metric in row["metrics"].items()
    }
    return SessionRecord(
        session=str(row["session"]),
        time=str(row["time"]),
        fingerprint=prints[row["fingerprint"]],
        metrics=metrics,
        commit=str(row.get("commit", "")),
        simulated=simulated,
        reference={
            name: {int(run): float(value) for run, value in values.items()}
            for name, values in row.get("reference", {}).items()
        },
        remarks={int(run): str(text) for run, text in row.get("remarks", {}).items()},
    )


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    """Six significant digits: a hundred times finer than any change that anybody gates."""
    return {name: float(f"{value:.6g}") for name, value in values.items()}


def _rounded_runs(values: Mapping[int, float]) -> dict[str, float]:
    return {str(run): float(f"{value:.6g}") for run, value in values.items()}
