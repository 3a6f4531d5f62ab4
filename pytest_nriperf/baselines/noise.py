"""What is known of a node's noise: by its noise check, or from the sessions that its other tests accepted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pytest_nriperf.baselines.files import FORMAT, decode, locked, read_json, write_json
from pytest_nriperf.baselines.sessions import REFERENCE, Baseline, BaselineKey, SessionRecord
from pytest_nriperf.baselines.sides import ENOUGH_SESSIONS, logs_of
from pytest_nriperf.baselines.store import BaselineStore
from pytest_nriperf.errors import BaselineError
from pytest_nriperf.stats import SessionMeans, SessionSpread, session_means

NOISE_FILE = "noise.json"
STATISTICS = ("median", "low", "p95")
# Tests of one node differ in how much their sessions differ, often by a factor of ten. So what other tests tell is a
# guess by the most restless of them: no less than this, and as uncertain as five sessions of its own would leave it.
LEAST_BORROWED = 0.03
MOST_BORROWED = 4.0


@dataclass(frozen=True)
class KnownSessions:
    """Sessions of unchanged code of one test, by name, reduced to their means."""

    names: tuple[str, ...]
    means: SessionMeans

    def __post_init__(self) -> None:
        if not len(self.names) == len(self.means.means) == len(self.means.runs):
            raise ValueError(f"{len(self.names)} sessions have {len(self.means.means)} means")

    def without(self, names: Set[str]) -> SessionMeans:
        """The means of all sessions but these."""
        kept = [at for at, name in enumerate(self.names) if name not in names]
        means, runs = self.means.means, self.means.runs
        return SessionMeans(tuple(means[at] for at in kept), tuple(runs[at] for at in kept), self.means.within)


# Metric -> text of the key that the sessions were measured with -> these sessions.
Groups = Mapping[str, Mapping[str, KnownSessions]]


@dataclass(frozen=True)
class NodeNoise:
    """Sessions of unchanged code on one node: of its noise check of the day `when`, or else the accepted ones.

    Beside a noise check, `accepted` are the accepted sessions.
    """

    node: str
    groups: Groups = field(default_factory=dict)
    when: str = ""
    accepted: Groups = field(default_factory=dict)

    def spread(self, metric: str, key: BaselineKey, counted: Set[str] = frozenset()) -> SessionSpread | None:
        """What is known for a metric of a test: of that very test, else guessed from others, else None.

        `counted` are sessions that tell already, on one of the two sides: nothing counts twice.
        """
        checked = self.groups.get(metric, {})
        tests = {**self.accepted.get(metric, {}), **checked}
        own = tests.pop(str(key), None)
        left = None if own is None else own.without(counted)
        if left is not None and len(left.means) >= ENOUGH_SESSIONS:
            origin = f"noise check of {self.when}" if self.when and str(key) in checked else "accepted sessions"
            return SessionSpread((left,), source=f"{origin}, {len(left.means)} of this test")
        return _borrowed([test.means for test in tests.values()])


def _borrowed(tests: Sequence[SessionMeans]) -> SessionSpread | None:
    """A guess by the most restless of other tests, None without any."""
    if not tests:
        return None
    worst = max((SessionSpread((means,)) for means in tests), key=SessionSpread.typical)
    return SessionSpread(
        guess=max(LEAST_BORROWED, worst.typical()),
        guess_degrees=min(MOST_BORROWED, worst.degrees),
        source=f"the most restless of {len(tests)} other tests of this node",
    )


def measured_noise(node: str, sessions: Mapping[BaselineKey, Iterable[SessionRecord]], when: str = "") -> NodeNoise:
    """Reduce sessions of unchanged code to what judging needs. Metrics with too few sessions are left out."""
    groups: dict[str, dict[str, KnownSessions]] = {}
    for key, records in sessions.items():
        known = list(records)
        for metric in _metrics(known):
            values = {record.session: record.values(metric) for record in known}
            logs = {name: logs for name, runs in values.items() if runs and (logs := logs_of(runs, metric))}
            if len(logs) >= ENOUGH_SESSIONS:
                found = KnownSessions(tuple(logs), session_means(list(logs.values())))
                groups.setdefault(metric, {})[str(key)] = found
    return NodeNoise(node, groups, when)


def load_noise(store: BaselineStore) -> NodeNoise:
    """The node's noise check and its accepted sessions; empty when there is nothing."""
    path = noise_path(store)
    sessions: dict[BaselineKey, tuple[SessionRecord, ...]] = {}
    for file in sorted(path.parent.rglob("*.json")) if path.parent.is_dir() else []:
        document = read_json(file)
        if bool(document.get("simulated")) == store.simulated and "tests" in document:
            sessions |= {key: _newest(baseline) for key, baseline in decode(document, file).items()}
    accepted = measured_noise(store.node, sessions)
    return replace(_decode(read_json(path), path), accepted=accepted.groups) if path.exists() else accepted


def save_noise(store: BaselineStore, noise: NodeNoise) -> Path:
    """Keep a noise check beside the node's baselines."""
    groups = {
        metric: {
            text: {
                "sessions": list(group.names),
                "means": list(group.means.means),
                "runs": list(group.means.runs),
                "within": group.means.within,
            }
            for text, group in tests.items()
        }
        for metric, tests in noise.groups.items()
    }
    with locked(store.folder):
        write_json(noise_path(store), {"format": FORMAT, "node": noise.node, "when": noise.when, "noise": groups})
    return noise_path(store)


def noise_path(store: BaselineStore) -> Path:
    """Where a node's noise check is kept."""
    return store.path(NOISE_FILE)


def _decode(document: Mapping[str, Any], path: Path) -> NodeNoise:
    try:
        groups = {
            metric: {
                text: KnownSessions(
                    tuple(map(str, group["sessions"])),
                    SessionMeans(
                        tuple(map(float, group["means"])), tuple(map(int, group["runs"])), float(group["within"])
                    ),
                )
                for text, group in tests.items()
            }
            for metric, tests in document["noise"].items()
        }
        return NodeNoise(str(document["node"]), groups, str(document["when"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BaselineError(
            f"{path} is damaged ({type(error).__name__}: {error})", "run nriperf noise again"
        ) from error


def _newest(baseline: Baseline) -> tuple[SessionRecord, ...]:
    """Sessions of one treatment only: between treatments the code changed."""
    last = baseline.sessions[-1].fingerprint.get("treatment", {})
    return tuple(one for one in baseline.sessions if one.fingerprint.get("treatment", {}) == last)


def _metrics(records: Iterable[SessionRecord]) -> list[str]:
    names: set[str] = set()
    for record in records:
        for name, metric in record.metrics.items():
            found = {statistic for run in metric.runs.values() for statistic in run}
            names |= {name if one == "median" else f"{name}.{one}" for one in found & set(STATISTICS)}
        names |= {f"{REFERENCE}.{name}" for name in record.reference}
    return sorted(names)
