"""How often unchanged code is called worse, where that is hardest to keep: seeded, with bounds that chance keeps.

`benchmarks/alarm_rate.py` looks closer, with many more cases. Sessions of these nodes differ more than
their runs do, so a rule that takes the spread between sessions for known alarms in a large part of the cases.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from pytest_nriperf.baselines import Baseline, BaselineKey, Gate, MetricRuns, SessionRecord, Verdict, judge
from pytest_nriperf.baselines.noise import NodeNoise, measured_noise

KEY = BaselineKey("test_chat", "cpus=1", "m", "w")
OTHERS = [BaselineKey(f"test_{number}", "cpus=1", "m", "w") for number in range(3)]
ALPHA, CASES = 0.05, 300
RUNS, SESSIONS = 0.015, 0.03
# Four standard errors above alpha.
MOST = CASES * ALPHA + 4 * math.sqrt(CASES * ALPHA * (1 - ALPHA))


def night(
    rng: np.random.Generator, number: int, *, runs: int = 5, between: float = SESSIONS, shift: float = 0.0
) -> SessionRecord:
    """One session of a node whose runs spread by 1.5 % and whose sessions by `between`."""
    values = np.exp(shift + rng.normal(0, between) + rng.normal(0, RUNS, runs))
    statistics = {run: {"median": float(value)} for run, value in enumerate(values)}
    return SessionRecord(f"s{number:03}", f"{number:05}", {}, {"itl": MetricRuns("s", "lower", statistics)})


def nights(rng: np.random.Generator, count: int, first: int = 0, *, between: float = SESSIONS) -> list[SessionRecord]:
    return [night(rng, first + number, between=between) for number in range(count)]


def verdict(now: Sequence[SessionRecord], baseline: Sequence[SessionRecord], noise: NodeNoise | None = None) -> Verdict:
    pinned = frozenset(one.session for one in baseline[:3])
    (found,) = judge(now, Baseline(KEY, tuple(baseline), pinned), [Gate("itl")], alpha=ALPHA, noise=noise)
    return found


def beside_calmer_tests(rng: np.random.Generator, sessions: int) -> Verdict:
    """The other tests of the node accepted six nights each, which differ a quarter as much."""
    own = nights(rng, sessions)
    calm = {key: nights(rng, 6, between=SESSIONS / 4) for key in OTHERS}
    return verdict([night(rng, 900)], own, measured_noise("node", {KEY: own, **calm}))


def with_a_noise_check_of_the_same_nights(rng: np.random.Generator) -> Verdict:
    own = nights(rng, 3)
    return verdict([night(rng, 900)], own, measured_noise("node", {KEY: own}, "2026-11-24"))


def two_nights_against_four(rng: np.random.Generator) -> Verdict:
    """Judged together; too few to be ranked as sessions."""
    return verdict(nights(rng, 2, 900), nights(rng, 4))


def with_an_anchor(rng: np.random.Generator) -> Verdict:
    return verdict([night(rng, 900)], nights(rng, 13))


@pytest.mark.parametrize(
    "situation",
    [
        lambda rng: beside_calmer_tests(rng, 4),
        lambda rng: beside_calmer_tests(rng, 1),
        with_a_noise_check_of_the_same_nights,
        two_nights_against_four,
        with_an_anchor,
    ],
    ids=["four nights, calmer tests", "one night, calmer tests", "nights checked and accepted", "two nights", "anchor"],
)
def test_unchanged_code_is_called_worse_no_more_often_than_alpha(
    situation: Callable[[np.random.Generator], Verdict],
) -> None:
    rng = np.random.default_rng(7)
    worse = sum(situation(rng).outcome == "worse" for _ in range(CASES))
    assert worse <= MOST


@pytest.mark.parametrize("sessions", [1, 2])
def test_where_nobody_knows_how_sessions_differ_nothing_is_called(sessions: int) -> None:
    rng = np.random.default_rng(3)
    found = verdict([night(rng, 900, shift=1.0)], nights(rng, sessions))
    assert found.outcome == "unknown"
    assert "how much sessions differ is not known" in found.reason
    assert "nriperf noise" in found.advice
    assert found.effect == pytest.approx(math.e - 1, rel=0.2)


def test_sessions_against_sessions_find_what_their_mde_promises() -> None:
    rng = np.random.default_rng(5)
    found = 0
    for _ in range(CASES):
        before = [night(rng, number, runs=1) for number in range(8)]
        promised = verdict([night(rng, 900 + number, runs=1) for number in range(8)], before).mde
        assert promised is not None
        slower = math.log1p(promised)
        now = [night(rng, 900 + number, runs=1, shift=slower) for number in range(8)]
        found += verdict(now, before).outcome == "worse"
    # 80 %, less what two draws of the limit differ by.
    assert 0.66 <= found / CASES <= 0.9


def test_a_drift_of_one_percent_a_week_is_seen_within_two_months() -> None:
    rng = np.random.default_rng(11)
    for _ in range(4):
        drifting = [night(rng, day, between=0.01, shift=0.01 * day / 7) for day in range(60)]
        weekly = [verdict([drifting[day]], [*drifting[:3], *drifting[day - 10 : day]]) for day in range(14, 60, 7)]
        assert "worse" in {found.outcome for found in weekly}
