"""From a measurement to verdicts: its evidence, the baseline that it belongs to, and what is accepted."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from pytest_nriperf.baselines import (
    OUTCOMES,
    BaselineKey,
    BaselineStore,
    Gate,
    Verdict,
    judge,
    level_reached,
    looks,
)
from pytest_nriperf.baselines.evidence import baseline_key, session_record
from pytest_nriperf.baselines.noise import load_noise
from pytest_nriperf.baselines.pairs import judge_variants
from pytest_nriperf.baselines.sessions import SessionRecord
from pytest_nriperf.baselines.store import WINDOW
from pytest_nriperf.counters import COUNTERS
from pytest_nriperf.errors import BaselineError
from pytest_nriperf.explain import explain
from pytest_nriperf.marks import GateMark
from pytest_nriperf.metrics import Measurement
from pytest_nriperf.recording import write_document
from pytest_nriperf.settings import RunPlan, Settings
from pytest_nriperf.stats import plan_pair_looks, suite_share
from pytest_nriperf.units import short_path


@dataclass(frozen=True)
class Judged:
    """Verdicts of one measurement, and what was done to the baseline (`stored`, `refused` or nothing) in words.

    `found` are the verdicts whatever shares of alpha there are. `at_look` is False between the planned looks of an
    adaptive number of runs, when nothing may be decided.
    """

    verdicts: tuple[Verdict, ...]
    found: tuple[Verdict, ...]
    stored: str = ""
    refused: str = ""
    at_look: bool = True

    def failing(self, fail_on: Sequence[str], *, accepting: bool = False) -> tuple[Verdict, ...]:
        """The verdicts that fail a test. With `accepting` what is missing is about to begin."""
        return tuple(
            one for one in self.verdicts if one.outcome in fail_on and not (accepting and one.outcome == "missing")
        )

    def joined(self, later: Judged) -> Judged:
        """This and a later check of the same measurement: one verdict a metric, the graver of two."""
        return replace(self, verdicts=_gravest(self.verdicts, later.verdicts), found=_gravest(self.found, later.found))


def judge_measurement(
    measurement: Measurement,
    metrics: Sequence[str],
    gate: GateMark,
    *,
    store: BaselineStore,
    settings: Settings,
    gated_metrics: int,
    uncounted: Set[str] = frozenset(),
) -> Judged:
    """Judge `metrics` at each verdict's share of the suite's alarm rate.

    Variants are judged against each other, and no baseline has a part in it. `uncounted` are metrics that have no
    share of their own: none of them is called worse.
    """
    share = suite_share(settings.alpha, gated_metrics)
    gates = [_gate(name, gate, settings) for name in metrics]
    if measurement.variants:
        pairs = _judge_variants(measurement, gates, share, settings.runs)
        return replace(pairs, verdicts=_without_share(pairs.verdicts, uncounted))
    file, key, record = _filed(measurement)
    baseline = store.find(file, key)
    test = str(measurement.document["test"])
    others = None if baseline is None else baseline.without([record.session])
    plan = looks(others, gates, settings.runs.least, settings.runs.most, share)
    runs = len(measurement.runs)
    level = level_reached(plan, runs, share)
    found = tuple(judge([record], baseline, gates, alpha=share, look=level, noise=load_noise(store), test=test))
    verdicts = _explained(
        [_with_next(_with_reason(one, measurement), measurement, settings) for one in _without_share(found, uncounted)],
        () if others is None else others.sessions[-WINDOW:],
        record,
    )
    return Judged(verdicts, found, at_look=not plan or runs in {look.runs for look in plan})


def accept_measurement(measurement: Measurement, judged: Judged, *, store: BaselineStore, settings: Settings) -> Judged:
    """Do what `--nri-accept` says, once all that a test asks of a measurement was judged.

    A session with a metric that is worse, whatever that metric's share, or incomparable is refused. Raises
    BaselineError where the baselines cannot be written.
    """
    if measurement.variants or not settings.accept:
        return judged
    file, key, record = _filed(measurement)
    begins = any(one.outcome == "missing" for one in judged.found) or store.find(file, key) is None
    if settings.accept == "missing" and not begins:
        return judged
    try:
        store.append(file, key, record, judged.found)
    except BaselineError as error:
        if all(one.outcome not in ("worse", "incomparable") for one in judged.found):
            raise
        return replace(judged, refused=str(error))
    kept = tuple(_stored(verdict) for verdict in judged.verdicts)
    return replace(judged, verdicts=kept, stored=f"stored in {short_path(store.path(file))}{_doubt(record)}")


def _filed(measurement: Measurement) -> tuple[str, BaselineKey, SessionRecord]:
    """Where a measurement belongs in the baselines (test file, key), and what they would keep of it."""
    document = measurement.document
    return str(document["test"]).partition("::")[0], baseline_key(document), session_record(measurement)


def _gravest(verdicts: Sequence[Verdict], later: Sequence[Verdict]) -> tuple[Verdict, ...]:
    found = {one.metric: one for one in verdicts}
    for one in later:
        known = found.setdefault(one.metric, one)
        found[one.metric] = min(known, one, key=lambda verdict: OUTCOMES.index(verdict.outcome))
    return tuple(found.values())


def _without_share(verdicts: Sequence[Verdict], uncounted: Set[str]) -> tuple[Verdict, ...]:
    """An alarm that the suite's rate did not reckon with is none: what it would be is said, and how to count it."""
    advice = "name every metric in the gate mark, and check one measurement a test"
    return tuple(
        replace(one, outcome="unknown", reason=f"{one.reason}, but no share of alpha was set aside", advice=advice)
        if one.outcome == "worse" and one.metric in uncounted
        else one
        for one in verdicts
    )


def remember_gate(measurement: Measurement, metrics: Sequence[str]) -> None:
    """Write into the recording which metrics its test asked about, so that judging it again asks the same."""
    if not measurement.variants:
        gate = dict(measurement.document.get("gate") or {}) | {"metrics": list(metrics)}
        write_document(measurement.path, {**measurement.document, "gate": gate})


def _with_reason(verdict: Verdict, measurement: Measurement) -> Verdict:
    """A counter without a value says why there is none."""
    why = measurement.pcm.reasons.get(verdict.metric) if verdict.metric in COUNTERS and not verdict.runs else None
    return verdict if why is None else replace(verdict, reason=f"{verdict.reason}: {why}")


def _with_next(verdict: Verdict, measurement: Measurement, settings: Settings) -> Verdict:
    """What is missing and what may be meant to be worse: the command that makes the baseline, to be pasted."""
    if verdict.outcome == "missing":
        return replace(verdict, advice=f"accept this session: {settings.accept_command(measurement.path)}")
    if verdict.outcome == "worse":
        command = settings.accept_command(measurement.path, "--restart")
        return replace(verdict, advice=f"if it is meant to be so: {command}")
    return verdict


def _explained(verdicts: Sequence[Verdict], before: Sequence[SessionRecord], now: SessionRecord) -> tuple[Verdict, ...]:
    """The verdicts, each that is worse or better with the counters that moved with it."""

    def with_counters(verdict: Verdict) -> Verdict:
        if verdict.outcome not in ("worse", "better"):
            return verdict
        names = [*COUNTERS, verdict.metric]
        values = {name: [value for record in before for value in record.values(name)] for name in names}
        found = explain(verdict.metric, values, {name: now.values(name) for name in names}, verdict.outcome)
        return verdict if found is None else replace(verdict, explanation=found.counters)

    return tuple(map(with_counters, verdicts))


def _stored(verdict: Verdict) -> Verdict:
    """The verdict on a session that is in the baseline now: it may be the one that was missing."""
    if verdict.outcome != "missing":
        return replace(verdict, stored=True)
    return replace(verdict, stored=True, reason="no baseline until now: it begins with this session", advice="")


def _doubt(record: SessionRecord) -> str:
    """What speaks against a session that was stored."""
    count = record.disturbed
    were = "was" if count == 1 else "were"
    return f", but {count} of its runs {were} disturbed: accept a quieter session with --restart" if count else ""


def _gate(name: str, gate: GateMark, settings: Settings) -> Gate:
    return Gate(
        name,
        tolerance=gate.tolerance if gate.tolerance is not None else settings.tolerance,
        floor=gate.floor if gate.floor is not None else settings.floor,
    )


def _judge_variants(measurement: Measurement, gates: Sequence[Gate], share: float, asked: RunPlan) -> Judged:
    """The second variant against the first, in the pairs of runs that both have."""
    first, second = ((name, session_record(each)) for name, each in measurement.variants.items())
    pairs = len(set.intersection(*(set(each.runs) for each in measurement.variants.values())))
    plan = plan_pair_looks(asked.least, asked.most, share)
    level = level_reached(plan, pairs, share)
    verdicts = judge_variants(first, second, gates, alpha=share, level=level, test=str(measurement.document["test"]))
    explained = _explained(verdicts, [first[1]], second[1])
    return Judged(explained, explained, at_look=pairs in {look.runs for look in plan})


def settled(measurement: Measurement, gate: GateMark, **known: Any) -> bool:
    """Whether more runs are for nothing: at a planned look, every gated metric is settled either way."""
    judged = judge_measurement(measurement, gate.metrics, gate, **known)
    return judged.at_look and all(verdict.settled for verdict in judged.verdicts)
