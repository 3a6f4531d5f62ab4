"""Verdicts on this machine, for real: sessions of unchanged code, and slowdowns made by honest means.

Every session is a pytest session of its own with a fresh engine process a run (the dummy model: a real architecture
with random weights). Unchanged sessions are judged one by one against those before them; slowed sessions (a known
pause after every token; one CPU less) against the unchanged ones. The same in one session: duets of equal variants,
duets of which one pauses, turns of which one has one CPU less. The default is a quick look that proves nothing;
`--sessions 21 --runs 5 --slowed 3 --duets 20 --pairs 7 --tokens 10 --folder FOLDER --minutes 48` is the real thing.

Kinds of sessions take turns, each is kept in FOLDER as it ends, and the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_nriperf.baselines import Baseline, BaselineKey, Gate, SessionRecord, Verdict, judge
from pytest_nriperf.baselines.evidence import Evidence, read_evidence
from pytest_nriperf.baselines.pairs import judge_variants
from pytest_nriperf.stats import NO_SPREAD, SessionSpread, session_means
from pytest_nriperf.units import format_percent, format_seconds

MODEL = "dummy:gpt-neo-125m"
GATES = [Gate("ttft"), Gate("itl"), Gate("itl.low")]
ALPHA = 0.05 / len(GATES)
SUITE = """
import os

import pytest

MODEL, OTHER = os.environ["HERE_MODEL"], os.environ["HERE_OTHER"]
CPUS, TOKENS = int(os.environ["HERE_CPUS"]), int(os.environ["HERE_TOKENS"])


def measure(llm):
    llm.measure(prompt_tokens=64, max_new_tokens=TOKENS, requests=1)


@pytest.mark.llm(model=MODEL)
@pytest.mark.gate("ttft", "itl", "itl.low")
@pytest.mark.balloon(cpus=CPUS)
def test_stored(llm):
    measure(llm)


@pytest.mark.llm(model=MODEL)
@pytest.mark.gate("ttft", "itl", "itl.low")
@pytest.mark.balloon(cpus=max(1, CPUS // 2))
@pytest.mark.variants(a={}, b={"model": OTHER}, mode="duet")
def test_duet(llm):
    measure(llm)


@pytest.mark.llm(model=MODEL)
@pytest.mark.gate("ttft", "itl", "itl.low")
@pytest.mark.variants(a={"cpus": CPUS}, b={"cpus": max(1, CPUS - 1)})
def test_turns(llm):
    measure(llm)
"""
KINDS = {
    "unchanged": "unchanged, against those before",
    "paused": "a pause after every token",
    "fewer": "one CPU less",
    "duet": "duets, unchanged",
    "paused-duet": "duets, the other one pausing",
    "fewer-turns": "turns, the other one with one CPU less",
}


@dataclass(frozen=True)
class Step:
    """One session to be measured: its kind, and which of these it is."""

    kind: str
    number: int

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.number:03}"

    @property
    def paired(self) -> bool:
        """Whether both sides are in the one session."""
        return "-" in self.kind or self.kind == "duet"


def planned(options: argparse.Namespace) -> list[Step]:
    """All sessions in an order that gives each kind its share whenever it is stopped; slowed ones not at first."""
    several = options.cpus > 1
    counts = {
        "unchanged": options.sessions,
        "paused": options.slowed,
        "fewer": options.slowed if several else 0,
        "duet": options.duets if several else 0,
        "paused-duet": options.slowed if several else 0,
        "fewer-turns": (options.slowed + 1) // 2 if several else 0,
    }
    placed = []
    for kind, count in counts.items():
        for number in range(count):
            at = number / count if kind == "unchanged" else 0.2 + 0.8 * (number + 0.5) / count
            placed.append((at, list(KINDS).index(kind), Step(kind, number)))
    return [step for _, _, step in sorted(placed, key=lambda each: each[:2])]


class Site:
    """The folder of all sessions, and what has been measured so far."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder = folder
        self.options = options
        self.measured: dict[Step, list[Evidence]] = {}
        self.seconds: dict[Step, float] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._same_options()
        (folder / "test_here.py").write_text(SUITE)
        (folder / "pytest.ini").write_text("[pytest]\n")

    def _same_options(self) -> None:
        """Sessions of other runs, tokens or CPUs cannot be compared with these."""
        path = self.folder / "options.json"
        asked = {name: getattr(self.options, name) for name in ("runs", "pairs", "tokens", "cpus")}
        kept = json.loads(path.read_text()) if path.exists() else asked
        if kept != asked:
            raise SystemExit(f"{self.folder} was begun with {kept}, not {asked}: name another --folder")
        path.write_text(json.dumps(asked))

    def of(self, kind: str) -> list[SessionRecord]:
        """Sessions of a kind, in order."""
        found = sorted((step for step in self.measured if step.kind == kind), key=lambda step: step.number)
        return [self.measured[step][0].record for step in found]

    @property
    def pause(self) -> str:
        """About a tenth of what a token takes in the first unchanged session."""
        itl = sorted(self.of("unchanged")[0].values("itl"))
        return f"{max(1, round(itl[len(itl) // 2] * 1e4)) / 100:g}ms"

    def kept(self, step: Step) -> Path:
        """The file that is there once a session has been measured."""
        return self.folder / step.name / "done.json"

    def take(self, step: Step) -> str:
        """Measure a session unless it is there already; returns what went wrong, empty when nothing did."""
        out, done = self.folder / step.name, self.kept(step)
        if not done.exists():
            shutil.rmtree(out, ignore_errors=True)
            began = time.monotonic()
            wrong = self._run(step, out)
            if wrong:
                return wrong
            done.write_text(json.dumps({"seconds": time.monotonic() - began}))
        self.measured[step] = read_evidence(out)
        self.seconds[step] = float(json.loads(done.read_text())["seconds"])
        return ""

    def _run(self, step: Step, out: Path) -> str:
        options = self.options
        slow = f"{MODEL}?delay={self.pause}" if "paused" in step.kind else MODEL
        here = {
            "HERE_MODEL": slow if step.kind == "paused" else MODEL,
            "HERE_OTHER": slow if step.kind == "paused-duet" else MODEL,
            "HERE_TOKENS": str(options.tokens),
            "HERE_CPUS": str(options.cpus - (step.kind == "fewer")),
        }
        test = "test_turns" if "turns" in step.kind else "test_duet" if step.paired else "test_stored"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"test_here.py::{test}"]
        command += ["--nri-runs", str(options.pairs if step.paired else options.runs), "--nri-out", str(out)]
        command += ["--nri-fail-on", "nothing"]
        with subprocess.Popen(
            command,
            cwd=self.folder,
            env={**os.environ, **here},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            try:
                said, _ = process.communicate()
            except BaseException:
                process.terminate()
                raise
        return said[-2000:] if process.returncode else ""

    def lengths(self, step: Step) -> list[float]:
        """What each run took, from the start of its engine to its last reading, seconds."""
        facts = [fact for path in self._documents(step) for fact in json.loads(path.read_text())["runs"].values()]
        return [max(fact["load_ns"]) / 1e9 + fact["cost"]["sampler_wall_s"] for fact in facts]

    def cost(self, step: Step) -> tuple[int, float, float]:
        """Runs that were made (repeated ones too), each one's share of the session's wall time, and the longest
        reference load of one."""
        facts = [fact for path in self._documents(step) for fact in json.loads(path.read_text())["runs"].values()]
        sides = len(self.measured[step]) if "duet" in step.kind else 1
        runs = max(1, len(facts) // sides)
        return runs, self.seconds[step] / runs, max((fact["cost"]["reference_s"] for fact in facts), default=0.0)

    def _documents(self, step: Step) -> list[Path]:
        return [one.path / "recording.json" for one in self.measured[step]]


def stored(
    now: SessionRecord, before: Sequence[SessionRecord], *, blind: bool = False, references: bool = True
) -> list[Verdict]:
    """Verdicts against stored sessions; a slowed session has another key or identity, so they may be crossed.

    Without `references` the drift guard is off: on one CPU less the reference load is another one.
    """
    key = BaselineKey("test_stored", "balloon", "model", "workload")
    spread = NO_SPREAD if blind else None
    kept = Baseline(key, tuple(before))
    return judge([now], kept, GATES, alpha=ALPHA, across=True, references=references, spread=spread)


def paired(recorded: Sequence[Evidence]) -> list[Verdict]:
    """Verdicts on the two variants of a session."""
    found = {str(one.variant["name"]): (str(one.variant["name"]), one.record) for one in recorded}
    return judge_variants(found["a"], found["b"], GATES, alpha=ALPHA)


def verdicts_of(site: Site, step: Step) -> list[Verdict]:
    """Verdicts on one session; none for the first unchanged one."""
    if step.paired:
        return paired(site.measured[step])
    now, same = site.measured[step][0].record, site.of("unchanged")
    before = same[: step.number] if step.kind == "unchanged" else same
    return stored(now, before, references=step.kind != "fewer") if before else []


def line_of(site: Site, step: Step) -> str:
    """What a session gave."""
    runs, each, reference = site.cost(step)
    said = ", ".join(
        f"{verdict.metric} {verdict.outcome} {format_percent(verdict.effect, signed=True)}"
        for verdict in verdicts_of(site, step)
    )
    return f"{step.name}: {runs} runs, {each:.1f} s each, reference load {reference:.2f} s; {said or 'the first'}"


def row(title: str, verdicts: Sequence[Sequence[Verdict]]) -> Iterator[str]:
    """Outcomes and median effect a metric, and for unchanged code what so few verdicts can show."""
    for at, gate in enumerate(GATES):
        found = [each[at] for each in verdicts]
        effects = sorted(verdict.effect or 0.0 for verdict in found)
        counts = ", ".join(f"{count} {outcome}" for outcome, count in Counter(one.outcome for one in found).items())
        middle = format_percent(effects[len(effects) // 2], signed=True) if effects else "-"
        yield f"  {title:42} {gate.metric:8} {counts or 'none':32} median change {middle}"


def bound(verdicts: Sequence[Sequence[Verdict]]) -> str:
    """The alarm rate that so many sessions of unchanged code exclude (exact, 95 %)."""
    alarms = sum(any(verdict.outcome == "worse" for verdict in each) for each in verdicts)
    if not verdicts:
        return "    no session"
    low, high = 0.0, 1.0
    for _ in range(50):
        rate = (low + high) / 2
        at_most = sum(
            math.comb(len(verdicts), k) * rate**k * (1 - rate) ** (len(verdicts) - k) for k in range(alarms + 1)
        )
        low, high = (rate, high) if at_most > 0.05 else (low, rate)
    return f"    {alarms} of {len(verdicts)} sessions raise an alarm: the rate is below {format_percent(high)}, no more"


def results(site: Site) -> Iterator[str]:
    """The tables of what is there."""
    options, same = site.options, site.of("unchanged")
    if not same:
        yield "nothing measured yet"
        return
    known = session_means([[math.log(value) for value in one.values("itl")] for one in same])
    between = format_percent(SessionSpread((known,)).typical()) if len(same) > 1 else "unknown"
    middle = sorted(same[0].values("itl"))[len(same[0].values("itl")) // 2]
    costs = [site.cost(step) for step in site.measured]
    lengths = sorted(length for step in site.measured for length in site.lengths(step))
    yield (
        f"{MODEL}, {options.tokens} tokens, {options.cpus} CPUs; itl {middle * 1e3:.1f} ms; spread between runs "
        f"{format_percent(math.sqrt(known.within))}, between sessions {between}"
    )
    yield (
        f"{sum(runs for runs, *_ in costs)} runs, {lengths[len(lengths) // 2]:.1f} s each (median; at most "
        f"{lengths[-1]:.1f} s), of a session's time at most {max(each for _, each, _ in costs):.1f} s; "
        f"reference load at most {max(reference for *_, reference in costs):.2f} s a run"
    )
    unchanged = [stored(same[at], same[:at]) for at in range(1, len(same))]
    blind = [stored(same[at], same[at - 1 : at], blind=True) for at in range(1, len(same))]
    yield from row(KINDS["unchanged"], unchanged)
    yield bound(unchanged)
    yield from row("the same, blind to sessions, v the last", blind)
    yield bound(blind)
    for kind in list(KINDS)[1:]:
        steps = sorted((step for step in site.measured if step.kind == kind), key=lambda step: step.number)
        found = [verdicts_of(site, step) for step in steps]
        pairs = f" ({options.pairs} pairs)" if steps and steps[0].paired else ""
        pause = f" of {site.pause}" if "paus" in kind else ""
        yield from row(f"{KINDS[kind]}{pause}{pairs}", found)
        if kind == "duet":
            yield bound(found)


def measure_all(site: Site, minutes: float) -> int:
    """Measure what is missing, saying and keeping what comes; the number of sessions that failed."""
    steps, began, failed, longest = planned(site.options), time.monotonic(), 0, 0.0
    for count, step in enumerate(steps, 1):
        if "paus" in step.kind and not site.of("unchanged"):
            continue
        started = time.monotonic()
        if minutes and not site.kept(step).exists() and started - began + longest > 60 * minutes:
            print(f"{minutes:g} minutes are over; the same command goes on", flush=True)
            break
        wrong = site.take(step)
        longest = max(longest, time.monotonic() - started)
        failed += bool(wrong)
        left = (time.monotonic() - began) / count * (len(steps) - count)
        said = f"{step.name} FAILED, left out:\n{wrong}" if wrong else line_of(site, step)
        print(f"[{count}/{len(steps)}, {format_seconds(left)} left] {said}", flush=True)
        (site.folder / "results.txt").write_text("\n".join(results(site)) + "\n")
        if failed > 3:
            print("four sessions failed: giving up", flush=True)
            break
    return failed


def main() -> None:
    """Measure, judge, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sessions", type=int, default=4, help="sessions of unchanged code (default: 4)")
    parser.add_argument("--slowed", type=int, default=1, help="sessions of each slowdown (default: 1)")
    parser.add_argument("--runs", type=int, default=2, help="runs a session (default: 2)")
    parser.add_argument("--duets", type=int, default=1, help="sessions of two equal variants side by side (default: 1)")
    parser.add_argument("--pairs", type=int, default=2, help="pairs in a session; 6 or more can tell (default: 2)")
    parser.add_argument("--tokens", type=int, default=24, help="tokens a request (default: 24)")
    parser.add_argument("--cpus", type=int, default=len(os.sched_getaffinity(0)), help="CPUs (default: all)")
    parser.add_argument("--folder", type=Path, help="keep all sessions there, and go on with what is there")
    parser.add_argument("--minutes", type=float, default=0.0, help="begin no session that would end later")
    options = parser.parse_args()
    # A session that is being measured is ended too, however this is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped; the same command goes on"))
    with contextlib.ExitStack() as undo:
        folder = options.folder or Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="nriperf-here-")))
        site = Site(folder.resolve(), options)
        failed = measure_all(site, options.minutes)
        print("\n".join(results(site)))
    if failed:
        raise SystemExit(f"{failed} sessions failed")


if __name__ == "__main__":
    main()
