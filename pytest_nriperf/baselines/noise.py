"""What is known of a node's noise: by its noise check, or from the sessions that its other tests accepted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_nriperf.baselines.files import FORMAT, decode, locked, read_json, write_json
from pytest_nriperf.baselines.sessions import Baseline, BaselineKey, SessionRecord
from pytest_nriperf.baselines.store import BaselineStore
from pytest_nriperf.errors import BaselineError
from pytest_nriperf.stats import SessionMeans, SessionSpread, session_means

NOISE_FILE = "noise.json"
STATISTICS = ("median", "low", "p95")
# Another test of the node is a hint, not this test: together such hints count as no more sessions than this.
MOST_BORROWED = 10.0
LEAST_SESSIONS = 3


@dataclass(frozen=True)
class NodeNoise:
    """Session means of unchanged code on one node, by metric and the text of the key that they were measured with.

    `when` is the day of the noise check, empty when nobody made one and other tests' baselines are used.
    """

    node: str
    groups: Mapping[str, Mapping[str, SessionMeans]] = field(default_factory=dict)
    when: str = ""

    def spread(self, metric: str, key: BaselineKey) -> SessionSpread | None:
        """What is known for a metric of a test: of that very test, else borrowed from others, else None."""
        groups = {text: group for text, group in self.groups.get(metric, {}).items() if group.degrees > 0}
        own = groups.pop(str(key), None)
        origin = f"noise check of {self.when}" if self.when else "accepted sessions of other tests"
        if own is not None and self.when:
            return SessionSpread((own,), source=f"{origin}, {len(own.means)} sessions")
        if not groups:
            return None
        # The tests of one night share its session, so k tests are not k times as many sessions.
        degrees = sum(group.degrees for group in groups.values()) / len(groups)
        share = min(1.0, MOST_BORROWED / degrees) / len(groups)
        return SessionSpread(
            tuple(groups.values()), (share,) * len(groups), source=f"{origin}, {len(groups)} tests of this node"
        )

    def spreads(self, metrics: Iterable[str], key: BaselineKey) -> dict[str, SessionSpread]:
        """`spread` of each metric for which something is known."""
        found = {metric: self.spread(metric, key) for metric in metrics}
        return {metric: spread for metric, spread in found.items() if spread is not None}


def measured_noise(node: str, sessions: Mapping[BaselineKey, Iterable[SessionRecord]], when: str = "") -> NodeNoise:
    """Reduce sessions of unchanged code to what judging needs. Metrics with too few sessions are left out."""
    groups: dict[str, dict[str, SessionMeans]] = {}
    for key, records in sessions.items():
        known = list(records)
        for metric in _metrics(known):
            values = [_values(record, metric) for record in known]
            logs = [[math.log(value) for value in runs] for runs in values if runs and min(runs) > 0]
            if len(logs) >= LEAST_SESSIONS:
                groups.setdefault(metric, {})[str(key)] = session_means(logs)
    return NodeNoise(node, groups, when)


def load_noise(store: BaselineStore) -> NodeNoise:
    """The node's noise check, else what its accepted sessions tell; empty when there is nothing."""
    path = noise_path(store)
    if path.exists():
        return _decode(read_json(path), path)
    sessions: dict[BaselineKey, tuple[SessionRecord, ...]] = {}
    for file in sorted(path.parent.rglob("*.json")) if path.parent.is_dir() else []:
        document = read_json(file)
        if bool(document.get("simulated")) == store.simulated and "tests" in document:
            sessions |= {key: _newest(baseline) for key, baseline in decode(document, file).items()}
    return measured_noise(store.node, sessions)


def save_noise(store: BaselineStore, noise: NodeNoise) -> Path:
    """Keep a noise check beside the node's baselines."""
    groups = {
        metric: {
            text: {"means": list(group.means), "runs": list(group.runs), "within": group.within}
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
                text: SessionMeans(
                    tuple(map(float, group["means"])), tuple(map(int, group["runs"])), float(group["within"])
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
        names |= {f"reference.{name}" for name in record.reference}
    return sorted(names)


def _values(record: SessionRecord, metric: str) -> list[float]:
    if metric.startswith("reference."):
        return [value for _, value in sorted(record.reference.get(metric.removeprefix("reference."), {}).items())]
    return list(record.values(metric))
