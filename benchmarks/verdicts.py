"""How often each rule cries wolf, and what it finds: simulated three-level noise, seeded.

Run by itself it takes half a minute; `--full` gives figures worth quoting (about four minutes on two quiet cores),
line by line as they come in, each with its standard error. `alarm_rate.py` looks closer at this project's alarms.
The values of a run stand around session effects (spread between sessions) with a spread between runs of a
session, in four shapes: normal, autocorrelated from run to run (0.4), with outliers, bimodal. Inside a run stand
20 requests around its median, autocorrelated (0.4). Every rule sees the same data.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from multiprocessing import get_context
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import mannwhitneyu

from pytest_nriperf.baselines import Verdict, judge_values
from pytest_nriperf.baselines.pairs import judge_pairs, turns
from pytest_nriperf.baselines.sides import session_spread, weigh
from pytest_nriperf.stats import NO_SPREAD, SessionSpread, plan_looks, session_means, shift_of_runs, suite_share
from pytest_nriperf.stats.rank import pairwise_shifts

Floats = NDArray[np.float64]
SUITE = 6
ALPHA = suite_share(0.05, SUITE)
FLOOR = math.log1p(0.02)
SPREADS = (0.015, 0.035, 0.12)
SESSIONS = (0.0, 0.01, 0.02, 0.03)
SHAPES = ("normal", "ar 0.4", "outliers", "bimodal")
REQUESTS = 20
LOOKS = plan_looks(5, 12, 20, ALPHA)
# All ways to deal ten runs to two sides of five: a row each, 1 = now.
DEALS = np.array([[float(run in chosen) for run in range(10)] for chosen in combinations(range(10), 5)])


@dataclass(frozen=True)
class Node:
    """A simulated node: spread between runs and between sessions (log scale), and the shape of the run noise."""

    runs: float
    sessions: float
    shape: str = "normal"

    def session(self, rng: np.random.Generator, runs: int, shift: float = 0.0) -> list[float]:
        """Run values of one session."""
        noise = np.exp(shift + rng.normal(0, 1) * self.sessions + self._noise(rng, runs))
        return [float(value) for value in noise]

    def _noise(self, rng: np.random.Generator, runs: int) -> Floats:
        plain = rng.normal(0, self.runs, runs)
        if self.shape == "ar 0.4":
            return autocorrelated(plain)
        if self.shape == "outliers":
            return plain + (rng.random(runs) < 0.1) * rng.exponential(4 * self.runs, runs)
        if self.shape == "bimodal":
            return plain / 2 + (rng.random(runs) < 0.3) * 2 * self.runs
        return plain


def autocorrelated(plain: Floats, correlation: float = 0.4) -> Floats:
    """First-order autoregression along the last axis with the spread of its input."""
    values = plain.copy()
    for step in range(1, values.shape[-1]):
        fresh = math.sqrt(1 - correlation**2) * plain[..., step]
        values[..., step] = correlation * values[..., step - 1] + fresh
    return values


def requests(rng: np.random.Generator, runs: Sequence[float]) -> Floats:
    """Requests of every run: median exactly the run's value, spread 3 %, autocorrelated, skewed to the slow side."""
    noise = autocorrelated(rng.normal(0, 0.03, (len(runs), REQUESTS)))
    noise -= np.median(noise, axis=1, keepdims=True)
    return np.asarray(np.asarray(runs)[:, None] * np.exp(np.where(noise > 0, 1.5 * noise, noise)))


@dataclass(frozen=True)
class Case:
    """What all rules get to judge: four baseline sessions of five runs, one session of five (twelve made) now."""

    node: Node
    now: list[float]
    baseline: list[list[float]]
    now_requests: Floats
    old_requests: Floats
    noise: SessionSpread
    pairs: tuple[list[float], list[float]]
    rounds: tuple[list[list[float]], list[list[float]]]

    @property
    def latest(self) -> list[float]:
        return self.baseline[-1]


def make_case(node: Node, rng: np.random.Generator, shift: float) -> Case:
    """Draw a case; the node's noise check is 20 sessions of 5 runs."""
    baseline = [node.session(rng, 5) for _ in range(4)]
    now = node.session(rng, 12, shift)
    check = session_means([list(np.log(node.session(rng, 5))) for _ in range(20)])
    return Case(
        node,
        now,
        baseline,
        requests(rng, now[:5]),
        requests(rng, baseline[-1]),
        SessionSpread((check,), source="noise check of 20 sessions"),
        make_pairs(node, rng, shift),
        ([node.session(rng, 1, shift) for _ in range(10)], [node.session(rng, 1) for _ in range(10)]),
    )


def make_pairs(node: Node, rng: np.random.Generator, shift: float) -> tuple[list[float], list[float]]:
    """Twelve runs of each variant in one session, in turns; b is slower by `shift`."""
    values = node.session(rng, 24)
    sides: dict[str, list[float]] = {"A": [], "B": []}
    for letter, value in zip(turns(12), values, strict=True):
        sides[letter].append(value * math.exp(shift) if letter == "B" else value)
    return sides["A"], sides["B"]


def pytest_benchmark(statistic: Callable[[Floats], Any], case: Case) -> str:
    """mean:5% or min:5%: one process against the latest stored one."""
    return verdict(float(statistic(case.now_requests[0]) / statistic(case.old_requests[-1])) > 1.05)


def benchstat(case: Case) -> str:
    """Mann-Whitney p < 0.05 on -count=10 of one process each."""
    new, old = case.now_requests[0, :10], case.old_requests[-1, :10]
    return verdict(mannwhitneyu(new, old).pvalue < 0.05 and float(np.median(new)) > float(np.median(old)))


def asv(case: Case) -> str:
    """Mann-Whitney p < 0.002 and factor 1.1 on 2 processes x 10 samples."""
    new, old = case.now_requests[:2, :10].ravel(), case.old_requests[:2, :10].ravel()
    return verdict(mannwhitneyu(new, old).pvalue < 0.002 and float(np.median(new) / np.median(old)) > 1.1)


def permutation(pooled: bool, case: Case) -> str:
    """The exact rank test and a 2 % floor at this suite's share, blind to sessions: 5 v 5, or against all 20."""
    old = np.concatenate(case.baseline) if pooled else case.latest
    shift = shift_of_runs([list(np.log(case.now[:5]))], [list(np.log(old))])
    return verdict(shift.p_above() <= ALPHA and shift.estimate >= FLOOR)


def minima(case: Case) -> str:
    """The bar: exact permutation of process minima, 5 v 5, p <= 0.05, and Hodges and Lehmann's shift above 2 %."""
    new, old = np.log(case.now_requests.min(axis=1)), np.log(case.old_requests.min(axis=1))
    p = float((DEALS @ np.concatenate([new, old]) >= new.sum() - 1e-9).mean())
    return verdict(p <= 0.05 and float(np.median(pairwise_shifts(new, old))) > FLOOR)


def z_bound(case: Case) -> str:
    """The limit: normal noise whose variances are known exactly, 5 v 4 x 5."""
    variance = case.node.runs**2 * (1 / 5 + 1 / 20) + case.node.sessions**2 * (1 + 1 / 4)
    change = float(np.log(case.now[:5]).mean() - np.log(np.concatenate(case.baseline)).mean())
    return verdict(change >= max(FLOOR, -float(ndtri(ALPHA)) * math.sqrt(variance)))


def ours(sessions: int, checked: bool, case: Case) -> str:
    """This project's verdict, 5 runs now; against `sessions` of the baseline, with the noise check or without."""
    return judge_values([case.now[:5]], case.baseline[-sessions:], blank(), case.noise if checked else None).outcome


def ours_adaptive(case: Case) -> str:
    """This project's verdict with --nri-runs 5..12 against four sessions and the noise check."""
    for look in LOOKS:
        found = judge_values([case.now[: look.runs]], case.baseline, blank(), case.noise, level=look.alpha)
        if found.settled:
            break
    return found.outcome


def ours_pairs(case: Case) -> str:
    """This project's verdict on variants: 12 pairs in one session."""
    return judge_pairs(*case.pairs, blank()).outcome


def ours_rounds(case: Case) -> str:
    """This project's verdict on ten rounds of --nri-runs 1 on either side, nothing known beforehand."""
    return judge_values(*case.rounds, blank()).outcome


def blank(alpha: float = ALPHA) -> Verdict:
    """A verdict to be filled in."""
    return Verdict("itl", "unknown", "", unit="s", alpha=alpha)


def verdict(worse: bool) -> str:
    """The outcome of a rule that knows only red and green."""
    return "worse" if worse else "same"


RULES: dict[str, Callable[[Case], str]] = {
    "p-b mean:5%": partial(pytest_benchmark, np.mean),
    "p-b min:5%": partial(pytest_benchmark, np.min),
    "benchstat": benchstat,
    "asv": asv,
    "perm 5v5": partial(permutation, False),
    "perm 20": partial(permutation, True),
    "perm minima": minima,
    "z known": z_bound,
    "4 sess.": partial(ours, 4, False),
    "4 s.+check": partial(ours, 4, True),
    "1 s.+check": partial(ours, 1, True),
    "1 session": partial(ours, 1, False),
    "5..12": ours_adaptive,
    "12 pairs": ours_pairs,
    "10 rounds": ours_rounds,
}
OURS = tuple(RULES)[tuple(RULES).index("z known") + 1 :]
# Of unchanged code that many cases a cell are judged in full, which tells the share of `unknown`.
IN_FULL = 100


def silent(name: str, case: Case) -> bool:
    """Whether one of our rules cannot call this case worse: its p, or that of the looks, is too large."""
    if name == "5..12":
        return not any(significant(case.now[: at.runs], case.baseline, case.noise, at.alpha) for at in LOOKS)
    known = {"4 sess.": (4, None), "4 s.+check": (4, case.noise), "1 s.+check": (1, case.noise), "1 session": (1, None)}
    if name not in known:
        return False
    sessions, noise = known[name]
    return not significant(case.now[:5], case.baseline[-sessions:], noise)


def significant(
    now: Sequence[float],
    baseline: Sequence[Sequence[float]],
    noise: SessionSpread | None,
    level: float = ALPHA,
    *,
    telling: Sequence[Sequence[float]] | None = None,
) -> bool:
    """Whether the p of a verdict is at most `level`: a small part of the work of a verdict.

    The spread between sessions only widens the rank test blind to them, which is asked first.
    """
    new, old = [list(np.log(now))], [list(np.log(session)) for session in baseline]
    if shift_of_runs(new, old).p_above() > level:
        return False
    known = session_spread(new, old if telling is None else [list(np.log(session)) for session in telling], noise)
    return known is not None and weigh(new, old, known, level).shift.p_above() <= level


def outcomes(job: tuple[Node, float, int, int]) -> dict[str, dict[str, float]]:
    """Per rule the share of cases with each outcome; that of `worse` in all cases, the others in those in full."""
    node, shift, cases, seed = job
    rng = np.random.default_rng(seed)
    counts = {name: dict.fromkeys(("worse", "better", "same", "unknown"), 0) for name in RULES}
    judged = dict.fromkeys(RULES, 0)
    for number in range(cases):
        case = make_case(node, rng, shift)
        for name, rule in RULES.items():
            if number >= IN_FULL and name in OURS and silent(name, case):
                continue
            outcome = rule(case)
            if number < IN_FULL or outcome == "worse":
                counts[name][outcome] += 1
            judged[name] += number < IN_FULL
    return {
        name: {outcome: count / (cases if outcome == "worse" else judged[name]) for outcome, count in found.items()}
        for name, found in counts.items()
    }


@dataclass(frozen=True)
class Power:
    """One claim: how often is a slowdown found without a spread between sessions, and in how many runs."""

    spread: float
    least: int
    most: int
    sessions: int
    runs: int
    alpha: float
    goal: float
    known: str

    def found(self, shift: float, cases: int, seed: int) -> tuple[float, float]:
        """Share of cases judged worse and the mean number of runs."""
        node, rng = Node(self.spread, 0.0), np.random.default_rng(seed)
        looks = plan_looks(self.least, self.most, self.sessions * self.runs, self.alpha)
        worse = used = 0
        for _ in range(cases):
            now = node.session(rng, self.most, shift)
            baseline = [node.session(rng, self.runs) for _ in range(self.sessions)]
            noise, spread = self._knowledge(node, rng)
            for look in looks:
                judged = judge_values(
                    [now[: look.runs]], baseline, blank(self.alpha), noise, spread=spread, level=look.alpha
                )
                if judged.settled:
                    break
            worse += judged.outcome == "worse"
            used += look.runs
        return worse / cases, used / cases

    def _knowledge(self, node: Node, rng: np.random.Generator) -> tuple[SessionSpread | None, SessionSpread | None]:
        if self.known == "certain":
            return None, NO_SPREAD
        if self.known == "baseline":
            return None, None
        nights = int(self.known.split("x")[0])
        runs = int(self.known.split("x")[1])
        check = session_means([list(np.log(node.session(rng, runs))) for _ in range(nights)])
        return SessionSpread((check,), source=f"noise check of {nights} sessions"), None

    def bound(self, effect: float) -> float:
        """What a z-test with known variance finds with all runs."""
        error = self.spread * math.sqrt(1 / self.most + 1 / (self.sessions * self.runs))
        limit = max(FLOOR, -float(ndtri(self.alpha)) * error)
        return float(ndtr((math.log1p(effect) - limit) / error))


def powers() -> list[Power]:
    """The claims, each with growing knowledge of the spread between sessions."""
    cells = [
        (0.015, 5, 5, 1, 5, 0.05, 0.90),
        (0.035, 5, 12, 4, 3, 0.05, 0.90),
        (0.035, 5, 12, 5, 4, 0.01, 0.85),
        (0.035, 5, 12, 8, 5, 0.01, 0.93),
    ]
    return [Power(*cell, known) for cell in cells for known in ("certain", "40x12", "20x12", "20x5", "baseline")]


def power_row(job: tuple[Power, int, int]) -> list[tuple[float, float, int]]:
    """Found share, mean runs and cases for +2, +5 and +10 %; the claims are about 5 %, which gets most cases."""
    power, cases, seed = job
    wanted = ((0.02, max(50, cases // 4)), (0.05, cases), (0.10, max(50, cases // 4)))
    return [(*power.found(math.log1p(effect), count, seed), count) for effect, count in wanted]


def throughput(count: int) -> float:
    """Seconds for `count` whole verdicts in this process."""
    rng = np.random.default_rng(1)
    cases = [make_case(Node(0.035, 0.01), rng, 0.0) for _ in range(50)]
    start = time.perf_counter()
    for number in range(count):
        ours(4, True, cases[number % len(cases)])
    return time.perf_counter() - start


def suite_red(share: float) -> float:
    """Share of suites of six tests with at least one alarm."""
    return 1 - (1 - share) ** SUITE


def percent(share: float, cases: int, digits: int = 1) -> str:
    """A share of so many cases in percent, with its standard error."""
    error = math.sqrt(share * (1 - share) / cases)
    return f"{100 * share:.{digits}f}±{100 * error:.{digits}f}"


def percent_red(share: float, cases: int) -> str:
    """Percent of suites red where that share of verdicts alarms, with its standard error."""
    error = SUITE * (1 - share) ** (SUITE - 1) * math.sqrt(share * (1 - share) / cases)
    return f"{100 * suite_red(share):.1f}±{100 * error:.1f}"


def print_alarms(pool: Any, cases: int, cells: Sequence[Node]) -> None:
    """A/A: nothing changed. Percent of six-test suites red; for ours also the share of verdicts `unknown`."""
    print(f"\nA/A, {cases} verdicts a cell: % of six-test suites red ± standard error")
    print("(our columns, from the right of 'z known': red / % of verdicts unknown)")
    print("runs sess. shape     " + "".join(f"{name:>14}" for name in RULES))
    jobs = [(node, 0.0, cases, number) for number, node in enumerate(cells)]
    worst = dict.fromkeys(RULES, 0.0)
    for (node, *_), counts in zip(jobs, pool.imap(outcomes, jobs), strict=True):
        row = ""
        for name, shares in counts.items():
            red = suite_red(shares["worse"])
            worst[name] = max(worst[name], red)
            unknown = f"/{100 * shares['unknown']:.0f}" if name in OURS else ""
            row += f"{percent_red(shares['worse'], cases) + unknown:>14}"
        print(f"{100 * node.runs:4.1f} {100 * node.sessions:4.0f}  {node.shape:10}{row}", flush=True)
    print(f"{'worst cell':21}" + "".join(f"{100 * value:>14.1f}" for value in worst.values()), flush=True)


def print_found(pool: Any, cases: int) -> None:
    """Percent of slowdowns that each rule finds, without and with a spread between sessions."""
    print(f"\nSlowdowns found, % of {cases} cases a cell ± standard error, share of alpha {ALPHA:.4f}")
    print("runs sess. shape     change " + "".join(f"{name:>12}" for name in RULES))
    nodes = [Node(runs, sessions) for runs in SPREADS for sessions in (0.0, 0.02)]
    nodes += [Node(0.035, 0.0, shape) for shape in SHAPES[1:]]
    jobs = [(node, math.log1p(effect), cases, 900) for node in nodes for effect in (0.02, 0.05, 0.10)]
    for (node, shift, *_), counts in zip(jobs, pool.imap(outcomes, jobs), strict=True):
        row = "".join(f"{percent(min(1.0, shares['worse']), cases, 0):>12}" for shares in counts.values())
        change = f"+{100 * math.expm1(shift):.0f} %"
        print(f"{100 * node.runs:4.1f} {100 * node.sessions:4.0f}  {node.shape:10}{change:7}{row}", flush=True)


def print_power(pool: Any, cases: int) -> None:
    """The claims beside the z bound."""
    print("\nWithout a spread between sessions, one verdict: % found ± standard error (mean runs used)")
    print(f"{cases} cases for +5 %, {max(50, cases // 4)} for +2 and +10 %; 'z' is a test that knows the variance")
    print(f"{'spread runs v baseline alpha known':44}{'+2 %':>18}{'+5 %':>18}{'+10 %':>18}   z +5 %  goal")
    jobs = [(power, cases, number) for number, power in enumerate(powers())]
    for (power, *_), row in zip(jobs, pool.imap(power_row, jobs), strict=True):
        runs = f"{power.least}..{power.most}" if power.least < power.most else f"{power.most}"
        sides = f"{runs:>5} v {power.sessions:>2} x {power.runs}"
        head = f"{100 * power.spread:3.1f} %  {sides}  {power.alpha:4}  {power.known}"
        cells = "".join(f"{f'{percent(found, count)} ({used:.1f})':>18}" for found, used, count in row)
        print(f"{head:44}{cells}   {100 * power.bound(0.05):5.1f}  {100 * power.goal:.0f}", flush=True)


def main() -> None:
    """Print the tables; quick by default."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--full", action="store_true", help="figures worth quoting: 1000 verdicts a cell")
    parser.add_argument("--cases", type=int, help="verdicts a cell")
    parser.add_argument("--only", choices=("power", "alarms", "found"), help="one of the tables")
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1), help="default: 2")
    options = parser.parse_args()
    cases = options.cases or (1000 if options.full else 100)
    spreads, sessions, shapes = (SPREADS, SESSIONS, SHAPES) if options.full else ((0.035,), (0.0, 0.02), SHAPES)
    cells = [Node(runs, session, shape) for runs in spreads for session in sessions for shape in shapes]
    began = time.perf_counter()
    with get_context("fork").Pool(options.processes) as pool:
        count = 10_000 if options.full else 1_000
        pool.map(throughput, [count // options.processes] * options.processes)
        seconds = time.perf_counter() - began
        print(f"{count} verdicts in {seconds:.1f} s, {options.processes} processes (goal: 10000 in 60 s)", flush=True)
        if options.only in (None, "power"):
            print_power(pool, 2 * cases)
        if options.only in (None, "alarms"):
            print_alarms(pool, cases, cells)
        if options.only in (None, "found"):
            print_found(pool, max(30, cases // 5))
    print(f"\n{time.perf_counter() - began:.0f} s in all")


if __name__ == "__main__":
    main()
