"""What a report is made of, gathered from recordings and verdicts; the page and the tables only draw it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_nriperf.balloons import Placement
from pytest_nriperf.baselines import OUTCOMES, Verdict
from pytest_nriperf.counters import CounterTable, timelines
from pytest_nriperf.metrics import METRICS, Measurement
from pytest_nriperf.recording import read_json
from pytest_nriperf.sessions import SESSION, find_recordings, find_sessions
from pytest_nriperf.sweep.rows import Row, pooled
from pytest_nriperf.topology import Topology
from pytest_nriperf.units import NANOSECONDS

Floats = NDArray[np.float64]
SHOWN = ("ttft", "itl", "tpot", "e2e", "throughput")


@dataclass(frozen=True, eq=False)
class Gaps:
    """Gaps between successive token events of measured requests, request after request.

    Per request: `part` (index of the measurement), `run`, `replica`, `request`, `first_s` (its first token event,
    seconds since the session's first), `origin_s` (start of its run on that clock) and `count` of gaps. `gap_s` are
    the gaps of all requests; the k-th dot of a request stands at first_s plus its first k gaps.
    """

    part: NDArray[np.int32]
    run: NDArray[np.int32]
    replica: NDArray[np.int32]
    request: NDArray[np.int32]
    first_s: Floats
    origin_s: Floats
    count: NDArray[np.int32]
    gap_s: NDArray[np.float32]
    total: int = 0

    def __len__(self) -> int:
        return int(self.count.sum())

    def times(self) -> Floats:
        """When each dot stands, seconds since the session's first measurement."""
        steps = self.gap_s.astype(np.float64)
        total = np.cumsum(steps)
        starts = np.concatenate([[0], np.cumsum(self.count)[:-1]]).astype(int)
        before = np.where(starts > 0, total[np.maximum(starts - 1, 0)], 0.0) if len(total) else np.zeros(len(starts))
        times: Floats = total - np.repeat(before, self.count) + np.repeat(self.first_s, self.count)
        return times

    def thinned(self, most: int, seed: int = 0) -> Gaps:
        """At most about `most` dots: whole requests, those with the most extreme gaps first, the rest by chance."""
        if len(self) <= most:
            return self
        starts = np.concatenate([[0], np.cumsum(self.count)[:-1]]).astype(int)
        some = self.count > 0
        strange = np.zeros(len(self.count))
        logs = np.abs(np.log(np.maximum(self.gap_s, 1e-9) / np.median(self.gap_s)))
        strange[some] = np.maximum.reduceat(logs, starts[some])
        chance = np.random.default_rng(seed).random(len(self.count))
        extreme = np.argsort(-strange, kind="stable")
        half = extreme[np.cumsum(self.count[extreme]) <= most // 2]
        rest = np.setdiff1d(np.argsort(chance), half, assume_unique=True)
        rest = rest[np.argsort(chance[rest])]
        rest = rest[np.cumsum(self.count[rest]) <= most - int(self.count[half].sum())]
        keep = np.sort(np.concatenate([half, rest]))
        mask = np.repeat(np.isin(np.arange(len(self.count)), keep), self.count)
        columns = {
            name: getattr(self, name)[keep]
            for name in ("part", "run", "replica", "request", "first_s", "origin_s", "count")
        }
        return Gaps(**columns, gap_s=self.gap_s[mask], total=self.total or len(self))


@dataclass(frozen=True, eq=False)
class Strip:
    """One counter of one run over time: seconds on the clock of the dots, and values in `unit`."""

    part: int
    run: int
    name: str
    unit: str
    scope: str
    time_s: Floats
    value: Floats


@dataclass(frozen=True, eq=False)
class Part:
    """One measurement (a recording) as the report shows it."""

    name: str
    test: str
    row: Row
    document: Mapping[str, Any]
    measured: int
    warmup: int
    failures: int
    warnings: tuple[str, ...]
    itl: Floats
    topology: Topology | None = None
    placement: Placement | None = None
    sweep: bool = False

    @property
    def short(self) -> str:
        """A name for legends and maps: the cell in words, else the test."""
        return self.row.name if self.sweep else self.name

    @property
    def simulated(self) -> bool:
        """Whether no real machine was measured."""
        return self.row.simulated


@dataclass(frozen=True, eq=False)
class Contents:
    """Everything on the page. `left_out` are cells that were not measured, in words."""

    title: str
    verdicts: tuple[Verdict, ...]
    parts: tuple[Part, ...]
    gaps: Gaps
    strips: tuple[Strip, ...] = ()
    left_out: tuple[str, ...] = ()
    sessions: tuple[Mapping[str, Any], ...] = ()
    sources: tuple[str, ...] = ()
    definitions: Mapping[str, str] = field(default_factory=dict)

    @property
    def simulated(self) -> bool:
        """Whether anything on the page was simulated."""
        return any(part.simulated for part in self.parts) or any(verdict.simulated for verdict in self.verdicts)

    @property
    def rows(self) -> list[Row]:
        """The cells of all sweeps, sessions joined."""
        return pooled([part.row for part in self.parts if part.sweep])

    @property
    def ranked(self) -> list[Verdict]:
        """The verdicts, those that need a reader first."""
        return sorted(self.verdicts, key=lambda verdict: (OUTCOMES.index(verdict.outcome), verdict.test))


def gather(
    paths: Iterable[Path],
    verdicts: Sequence[Verdict] = (),
    *,
    title: str = "",
    left_out: Sequence[str] = (),
    tell: Callable[[int, int], None] | None = None,
) -> Contents:
    """The contents of a report over recordings, sessions or out folders. Raises RecordingError for what is damaged.

    `tell(done, total)` hears of the progress.
    """
    folders = recordings_of(paths)
    sessions = {folder.parent: _session(folder.parent) for folder in folders}
    parts: list[Part] = []
    gaps: list[Gaps] = []
    strips: list[Strip] = []
    clock: dict[str, int] = {}
    for index, folder in enumerate(folders):
        if tell is not None:
            tell(index, len(folders))
        measurement = Measurement.from_recording(folder)
        session = sessions[folder.parent]
        parts.append(make_part(measurement, session))
        start = clock.setdefault(str(folder.parent), _earliest(measurement))
        gaps.append(gaps_of(measurement, index, start))
        strips.extend(strips_of(measurement, index, start))
    words = [*left_out, *(str(line) for session in sessions.values() for line in session.get("left_out", []))]
    return Contents(
        title=title or _title(parts),
        verdicts=tuple(verdicts),
        parts=tuple(parts),
        gaps=joined(gaps),
        strips=tuple(strips),
        left_out=tuple(dict.fromkeys(words)),
        sessions=tuple(sessions.values()),
        sources=tuple(str(folder) for folder in folders),
        definitions={name: kind.definition for name, kind in METRICS.items()},
    )


def recordings_of(paths: Iterable[Path]) -> list[Path]:
    """Folders of the recordings that paths name; of an out folder all sessions, since a report may join nights."""
    return list(dict.fromkeys(folder for path in paths for folder in _recordings(Path(path))))


def _recordings(path: Path) -> list[Path]:
    sessions = find_sessions(path)
    if sessions:
        return [
            folder
            for session in sessions
            if any(session.glob("*/recording.json"))
            for folder in find_recordings(session)
        ]
    return find_recordings(path)


def _session(folder: Path) -> Mapping[str, Any]:
    file = folder / SESSION
    return read_json(file) if file.is_file() else {}


def _title(parts: Sequence[Part]) -> str:
    tests = list(dict.fromkeys(part.test.partition("[")[0].rpartition("::")[2] for part in parts))
    nodes = list(dict.fromkeys(str(part.row.where.get("node", "")) for part in parts))
    return f"{', '.join(tests[:3])}{' ...' if len(tests) > 3 else ''} on {', '.join(filter(None, nodes)) or 'a node'}"


def make_part(measurement: Measurement, session: Mapping[str, Any]) -> Part:
    """One measurement: its row, what the page says of it, and the topology of its session."""
    document = measurement.document
    test = str(document.get("test", measurement.path.name))
    topology = _topology(session)
    return Part(
        test.rpartition("::")[2],
        test,
        make_row(measurement, topology),
        document,
        measurement.measured,
        measurement.warmup,
        measurement.failures,
        measurement.warnings,
        np.sort(measurement.itl.samples),
        topology,
        _placement(document),
        sweep=bool(document.get("cell")),
    )


def make_row(measurement: Measurement, topology: Topology | None) -> Row:
    """A measurement as a row of its sweep; outside of sweeps the test itself is the cell."""
    document = measurement.document
    placement = _placement(document)
    replicas = placement.replicas if placement else ()
    cell = dict(document.get("cell") or {})
    if topology is not None:
        cell.pop("snc", None)  # the boot's mode is a place, whether a sweep named it or not
    return Row(
        cell=cell or {"test": str(document.get("test", "")).rpartition("::")[2]},
        metrics={name: tuple(measurement.metric(name).per_run) for name in SHOWN},
        cpus=sum(len(replica.allocated) for replica in replicas),
        visible=sum(len(replica.visible) for replica in replicas),
        node_cpus=len(topology.online) if topology else 0,
        where=_where(document, topology),
        simulated=bool(document.get("simulated")),
    )


def _where(document: Mapping[str, Any], topology: Topology | None) -> dict[str, Any]:
    where: dict[str, Any] = {"node": str(document.get("node", "-"))}
    if topology is not None:
        where["snc"] = topology.snc
    where["test"] = str(document.get("test", "")).partition("[")[0]
    where["model"] = str(document.get("model", {}).get("choice") or document.get("model", {}).get("name", "-"))
    where["session"] = str(document.get("session", ""))
    return where


def _placement(document: Mapping[str, Any]) -> Placement | None:
    granted = document.get("balloon", {}).get("granted")
    return Placement.from_dict(granted) if isinstance(granted, Mapping) and "replicas" in granted else None


def _topology(session: Mapping[str, Any]) -> Topology | None:
    described = session.get("topology")
    return Topology.from_dict(described) if isinstance(described, Mapping) else None


def _earliest(measurement: Measurement) -> int:
    submits = measurement.requests["submit_ns"].to_numpy()
    return int(submits.min()) if len(submits) else 0


def gaps_of(measurement: Measurement, part: int, start_ns: int) -> Gaps:
    """The gaps of a measurement's measured and successful requests, on a clock that starts at `start_ns`."""
    tokens, requests = measurement.tokens, measurement.requests
    keep = tokens["n"].to_numpy() > 0
    run, replica, request, stamp = (
        tokens[name].to_numpy()[keep].astype(np.int64) for name in ("run", "replica", "request", "t_ns")
    )
    good = _measured(requests)
    key = _key(run, replica, request)
    mask = np.isin(key, good)
    run, replica, request, stamp, key = run[mask], replica[mask], request[mask], stamp[mask], key[mask]
    if not len(key):
        return joined([])
    starts = np.concatenate([[0], np.flatnonzero(np.diff(key)) + 1])
    sizes = np.diff(np.append(starts, len(key)))
    gaps = np.delete(np.diff(stamp, prepend=stamp[0]), starts) / NANOSECONDS
    origins = _origins(requests, start_ns)
    return Gaps(
        part=np.full(len(starts), part, np.int32),
        run=run[starts].astype(np.int32),
        replica=replica[starts].astype(np.int32),
        request=request[starts].astype(np.int32),
        first_s=(stamp[starts] - start_ns) / NANOSECONDS,
        origin_s=np.array([origins[int(each)] for each in run[starts]], dtype=np.float64),
        count=(sizes - 1).astype(np.int32),
        gap_s=gaps.astype(np.float32),
        total=len(gaps),
    )


def _measured(requests: Any) -> NDArray[np.int64]:
    phase = np.array(requests["phase"].to_pylist(), dtype=object) == "measure"
    status = np.array(requests["status"].to_pylist(), dtype=object) == "ok"
    run, replica, request = (requests[name].to_numpy().astype(np.int64) for name in ("run", "replica", "request"))
    good: NDArray[np.int64] = _key(run, replica, request)[phase & status]
    return good


def _key(run: Any, replica: Any, request: Any) -> Any:
    return (run << 44) + (replica << 28) + request


def _origins(requests: Any, start_ns: int) -> dict[int, float]:
    run, submit = requests["run"].to_numpy(), requests["submit_ns"].to_numpy()
    return {int(each): float(submit[run == each].min() - start_ns) / NANOSECONDS for each in np.unique(run)}


def joined(blocks: Sequence[Gaps]) -> Gaps:
    """Blocks one after the other."""

    def column(name: str, kind: Any) -> Any:
        return np.concatenate([np.empty(0, kind), *(getattr(block, name) for block in blocks)]).astype(kind)

    return Gaps(
        part=column("part", np.int32),
        run=column("run", np.int32),
        replica=column("replica", np.int32),
        request=column("request", np.int32),
        first_s=column("first_s", np.float64),
        origin_s=column("origin_s", np.float64),
        count=column("count", np.int32),
        gap_s=column("gap_s", np.float32),
        total=sum(block.total or len(block) for block in blocks),
    )


def strips_of(measurement: Measurement, part: int, start_ns: int) -> list[Strip]:
    """Counters over time, one strip a name and scope: gauges, interval readings, and the rates worth drawing."""
    table = measurement.counters
    if not table.num_rows:
        return []
    kind = np.array(table["kind"].to_pylist(), dtype=object)
    columns = {
        name: np.array(table[name].to_pylist(), dtype=object) for name in ("run", "name", "unit", "socket", "node")
    }
    time_s = (table["t_ns"].to_numpy() - start_ns) / NANOSECONDS
    value = table["value"].to_numpy()
    groups: dict[tuple[Any, ...], list[int]] = {}
    wide = np.array([table[name].to_pylist() for name in ("replica", "cpu", "core", "pid")], dtype=object)
    for index in np.flatnonzero((kind != "cumulative") & (wide == None).all(0)):  # noqa: E711 - elementwise
        groups.setdefault(tuple(columns[name][index] for name in columns), []).append(int(index))
    strips = [
        Strip(part, int(run), str(name), str(unit), _scope(socket, node), time_s[rows], value[rows])
        for (run, name, unit, socket, node), rows in groups.items()
        if len(rows) > 1
    ]
    read = CounterTable.from_arrow(table)
    return strips + [
        Strip(
            part, run, each.label, each.unit, each.where or "machine", (each.t_ns - start_ns) / NANOSECONDS, each.value
        )
        for run in measurement.runs
        for each in timelines(read, run)
    ]


def _scope(socket: Any, node: Any) -> str:
    words = [f"socket {socket}"] if socket is not None else []
    words += [f"NUMA node {node}"] if node is not None else []
    return ", ".join(words) or "machine"
