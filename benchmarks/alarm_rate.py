"""How often the gate alarms when nothing changed, with many cases: the nodes of verdicts.py, this project's rules only.

An alarm needs the rank test blind to sessions to be significant at least: the spread between sessions can only widen
it. So cases that fail even this are counted as silent at once, and of the rest those whose p is small enough are judged
in full; that is some hundred times faster. `--cases 20000` over all 48 nodes takes two or three minutes on two cores.

`1 s.+others` is one session of its own on a node where three other tests accepted six sessions each, which differ a
third as much as this test's: evidence that is too good to be true. `anchor` is a baseline of ten sessions whose three
pinned ones have left the window. `--drift` tells instead how long a code that gets slower by 1 % a week goes unseen.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_nriperf.baselines import Baseline, BaselineKey, Gate, MetricRuns, SessionRecord, judge, judge_values
from pytest_nriperf.baselines.judging import ANCHOR_SHARE
from pytest_nriperf.baselines.noise import measured_noise
from pytest_nriperf.baselines.pairs import judge_pairs, turns
from pytest_nriperf.baselines.store import ANCHORS, WINDOW
from pytest_nriperf.stats import SessionSpread, session_means
from pytest_nriperf.stats.rank import rank_sum_masses, sign_masses

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.verdicts import (
    ALPHA,
    LOOKS,
    SESSIONS,
    SHAPES,
    SPREADS,
    SUITE,
    Floats,
    Node,
    autocorrelated,
    blank,
    significant,
    suite_red,
)

BLOCK = 4000
KEY = BaselineKey("test", "balloon", "model", "workload")
OTHERS = [BaselineKey(f"test_{number}", "balloon", "model", "workload") for number in range(3)]


@dataclass(frozen=True)
class Block:
    """Many cases at once, as logs: (case, run) now, (case, session, run) of sessions.

    `calm` are those of other tests, test by test; `long` is a baseline with its anchor, oldest first.
    """

    now: Floats
    baseline: Floats
    check: Floats
    pairs: Floats
    rounds: tuple[Floats, Floats]
    calm: list[Floats]
    long: Floats


def draw(node: Node, rng: np.random.Generator, cases: int) -> Block:
    """What `verdicts.make_case` draws, for many cases."""

    def sessions(count: int, runs: int, restless: float = 1.0) -> Floats:
        shape = (cases, count, runs)
        effects = rng.normal(0, 1, (cases, count, 1)) * node.sessions * restless
        plain = rng.normal(0, node.runs, shape)
        if node.shape == "ar 0.4":
            plain = autocorrelated(plain)
        elif node.shape == "outliers":
            plain = plain + (rng.random(shape) < 0.1) * rng.exponential(4 * node.runs, shape)
        elif node.shape == "bimodal":
            plain = plain / 2 + (rng.random(shape) < 0.3) * 2 * node.runs
        return effects + plain

    order = np.array(list(turns(12)))
    in_turn = sessions(1, 24)[:, 0]
    return Block(
        sessions(1, 12)[:, 0],
        sessions(4, 5),
        sessions(20, 5),
        in_turn[:, order == "B"] - in_turn[:, order == "A"],
        (sessions(10, 1)[:, :, 0], sessions(10, 1)[:, :, 0]),
        [sessions(6, 5, 1 / 3) for _ in OTHERS],
        sessions(ANCHORS + WINDOW, 5),
    )


def blind(now: Floats, baseline: Floats) -> Floats:
    """One-sided p of the rank test of every case."""
    above = (now[:, :, None] > baseline[:, None, :]).sum((1, 2))
    tails = np.cumsum(rank_sum_masses(now.shape[1], baseline.shape[1]))
    return np.asarray(tails[now.shape[1] * baseline.shape[1] - above])


def blind_pairs(differences: Floats) -> Floats:
    """One-sided p of the signed-rank test of every case."""
    ranks = np.argsort(np.argsort(np.abs(differences), axis=1), axis=1) + 1
    count = differences.shape[1]
    reached = np.where(differences > 0, ranks, 0).sum(1)
    return np.asarray(np.cumsum(sign_masses(count))[count * (count + 1) // 2 - reached])


def alarm(now: Floats, baseline: Floats, known: SessionSpread | None, level: float = ALPHA) -> str:
    """The outcome of the verdict on one case; `same` where its p says at once that it is no alarm."""
    new, old = np.exp(np.atleast_2d(now)).tolist(), np.exp(baseline).tolist()
    if len(new) == 1 and not significant(new[0], old, known, level):
        return "same"
    return judge_values(new, old, blank(), known, level=level).outcome


def checked(noise: Floats) -> SessionSpread:
    """What a noise check of the same test tells."""
    return SessionSpread((session_means(noise.tolist()),), source="noise check of 20 sessions")


def adaptive(now: Floats, baseline: Floats, noise: Floats) -> str:
    """The verdict at the first look that settles it."""
    known = checked(noise)
    new, old = np.exp(now), np.exp(baseline).tolist()
    if not any(significant(new[: look.runs].tolist(), old, known, look.alpha) for look in LOOKS):
        return "same"
    for look in LOOKS:
        found = judge_values([new[: look.runs].tolist()], old, blank(), known, level=look.alpha)
        if found.settled:
            break
    return found.outcome


def paired(differences: Floats) -> str:
    """The verdict on pairs."""
    return judge_pairs([1.0] * len(differences), np.exp(differences).tolist(), blank()).outcome


def records(sessions: Floats, first: int = 0) -> list[SessionRecord]:
    """Sessions as a baseline has them."""
    return [
        SessionRecord(f"s{number:02}", f"{number:02}", {}, {"itl": MetricRuns("s", "lower", runs)})
        for number, values in enumerate(np.exp(sessions).tolist(), first)
        for runs in ({run: {"median": value} for run, value in enumerate(values)},)
    ]


def borrowed(calm: Sequence[Floats]) -> SessionSpread | None:
    """What the accepted sessions of the node's other tests tell."""
    noise = measured_noise("node", {key: records(other) for key, other in zip(OTHERS, calm, strict=True)})
    return noise.spread("itl", KEY)


def anchored(now: Floats, baseline: Floats) -> str:
    """The verdict against a whole baseline whose first sessions are pinned and have left the window."""
    new, old = np.exp(now).tolist(), np.exp(baseline).tolist()
    anchor, window = old[:ANCHORS], old[ANCHORS:]
    if not significant(new, window, None, ALPHA * (1 - ANCHOR_SHARE)) and not significant(
        new, anchor, None, ALPHA * ANCHOR_SHARE, telling=window
    ):
        return "same"
    kept = records(baseline)
    pinned = frozenset(one.session for one in kept[:ANCHORS])
    (found,) = judge(records(now[None], 90), Baseline(KEY, tuple(kept), pinned), [Gate("itl")], alpha=ALPHA)
    return found.outcome


def alarms(block: Block) -> Iterator[tuple[str, int]]:
    """Per rule how many of the cases are judged worse."""
    now, old, check, long = block.now, block.baseline, block.check, block.long
    first, flat = now[:, :5], old.reshape(len(now), -1)
    four = blind(first, flat) <= ALPHA
    one = blind(first, old[:, -1]) <= ALPHA
    some = np.any([blind(now[:, : look.runs], flat) <= look.alpha for look in LOOKS], axis=0)
    new, before = block.rounds
    window, anchor = (each.reshape(len(now), -1) for each in (long[:, ANCHORS:], long[:, :ANCHORS]))
    drifted = (blind(first, window) <= ALPHA * (1 - ANCHOR_SHARE)) | (blind(first, anchor) <= ALPHA * ANCHOR_SHARE)

    def count(screened: NDArray[np.bool_], judged: Callable[[int], str]) -> int:
        return sum(judged(int(case)) == "worse" for case in np.flatnonzero(screened))

    yield "4 sess.", count(four, lambda at: alarm(first[at], old[at], None))
    yield "4 s.+check", count(four, lambda at: alarm(first[at], old[at], checked(check[at])))
    yield "1 s.+check", count(one, lambda at: alarm(first[at], old[at, -1:], checked(check[at])))
    yield (
        "1 s.+others",
        count(one, lambda at: alarm(first[at], old[at, -1:], borrowed([calm[at] for calm in block.calm]))),
    )
    yield "anchor", count(drifted, lambda at: anchored(first[at], long[at]))
    yield "5..12", count(some, lambda at: adaptive(now[at], old[at], check[at]))
    yield "12 pairs", count(blind_pairs(block.pairs) <= ALPHA, lambda at: paired(block.pairs[at]))
    yield "10 rounds", count(blind(new, before) <= ALPHA, lambda at: alarm(new[at, :, None], before[at, :, None], None))


def rates(job: tuple[Node, int, int]) -> dict[str, float]:
    """Per rule the share of cases judged worse."""
    node, cases, seed = job
    rng = np.random.default_rng(seed)
    counts: dict[str, int] = {}
    for start in range(0, cases, BLOCK):
        for name, found in alarms(draw(node, rng, min(BLOCK, cases - start))):
            counts[name] = counts.get(name, 0) + found
    return {name: found / cases for name, found in counts.items()}


def weeks_unseen(job: tuple[Node, int]) -> float:
    """Weeks until nightly sessions of a code that gets slower by 1 % a week are called worse; at most 30."""
    node, seed = job
    rng = np.random.default_rng(seed)
    slower = [math.log1p(0.01) * night / 7 for night in range(30 * 7)]
    nights = np.array([np.log(node.session(rng, 5, shift)) for shift in slower])
    anchor, begun = nights[:ANCHORS], ANCHORS + WINDOW
    unseen = (
        night
        for night in range(begun, len(nights))
        if anchored(nights[night], np.concatenate([anchor, nights[night - WINDOW : night]])) == "worse"
    )
    return next(unseen, len(nights)) / 7


def print_drift(pool: Any, histories: int) -> None:
    """The weeks, a node a line."""
    print(f"1 % a week, {histories} histories of a session a night: weeks until it is called worse")
    print("runs sess.   half of them   nine of ten")
    for node in (Node(runs, session) for runs in SPREADS[:2] for session in SESSIONS[1:]):
        weeks = pool.map(weeks_unseen, [(node, 500 + number) for number in range(histories)])
        half, most = np.quantile(weeks, (0.5, 0.9))
        print(f"{100 * node.runs:4.1f} {100 * node.sessions:4.0f} {half:14.1f} {most:13.1f}", flush=True)


def standard_error(share: float, cases: int) -> float:
    """Of the share of red suites, from that of verdicts."""
    return float(SUITE * (1 - share) ** (SUITE - 1) * math.sqrt(share * (1 - share) / cases))


def main() -> None:
    """Print the share of red suites of six tests, a node a line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", type=int, help="verdicts a node (default: 200 on four nodes)")
    parser.add_argument("--spread", type=float, nargs="+", help=f"spreads between runs, some of {SPREADS}")
    parser.add_argument("--between", type=float, nargs="+", help=f"spreads between sessions, some of {SESSIONS}")
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1), help="default: 2")
    parser.add_argument("--drift", action="store_true", help="how long a slow drift goes unseen, and no alarm rates")
    options = parser.parse_args()
    if options.drift:
        with get_context("fork").Pool(options.processes) as pool:
            print_drift(pool, options.cases or 40)
        return
    spreads: Sequence[float] = options.spread or (SPREADS if options.cases else (0.035,))
    sessions: Sequence[float] = options.between or (SESSIONS if options.cases else (0.02,))
    cases = options.cases or 200
    nodes = [Node(runs, session, shape) for runs in spreads for session in sessions for shape in SHAPES]
    began, worst = time.perf_counter(), dict[str, float]()
    print(f"A/A, {cases} verdicts a node, share of alpha {ALPHA:.4f}: % of six-test suites red")
    with get_context("fork").Pool(options.processes) as pool:
        jobs = [(node, cases, 7000 + number) for number, node in enumerate(nodes)]
        for (node, *_), found in zip(jobs, pool.imap(rates, jobs), strict=True):
            if not worst:
                print("runs sess. shape     " + "".join(f"{name:>15}" for name in found))
            row = "".join(
                f"{f'{100 * suite_red(share):.2f} ± {100 * standard_error(share, cases):.2f}':>15}"
                for share in found.values()
            )
            print(f"{100 * node.runs:4.1f} {100 * node.sessions:4.0f}  {node.shape:10}{row}", flush=True)
            worst = {name: max(worst.get(name, 0.0), share) for name, share in found.items()}
    print(f"{'worst node':21}" + "".join(f"{100 * suite_red(share):>15.2f}" for share in worst.values()))
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
