"""Verdicts on this machine, for real: sessions of unchanged code, and slowdowns made by honest means.

Every session is a pytest session of its own with a fresh engine process a run (the dummy model: a real architecture
with random weights). Unchanged sessions are judged one by one against those before them; slowed sessions (a known
pause after every token; one CPU less) against all unchanged ones. The default is a quick look that proves nothing;
`--sessions 24 --runs 5 --slowed 4 --duets 20 --pairs 8` is the real thing (an hour or two).
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_nriperf.baselines import Baseline, BaselineKey, Gate, SessionRecord, Verdict, judge
from pytest_nriperf.baselines.evidence import Evidence, read_evidence
from pytest_nriperf.baselines.pairs import judge_variants
from pytest_nriperf.stats import SessionSpread, session_means
from pytest_nriperf.units import format_percent

MODEL = "dummy:gpt-neo-125m"
GATES = [Gate("itl"), Gate("itl.low")]
SUITE = """
import os

import pytest


@pytest.mark.llm(model=os.environ["HERE_MODEL"])
@pytest.mark.gate("itl", "itl.low")
@pytest.mark.balloon(cpus=int(os.environ["HERE_CPUS"]))
def test_here(llm):
    llm.measure(prompt_tokens=16, max_new_tokens=int(os.environ["HERE_TOKENS"]), requests=1)


@pytest.mark.llm(model=os.environ["HERE_MODEL"])
@pytest.mark.gate("itl", "itl.low")
@pytest.mark.balloon(cpus=max(1, int(os.environ["HERE_CPUS"]) // 2))
@pytest.mark.variants(a={}, b={"model": os.environ["HERE_OTHER"]}, mode="duet")
def test_duet(llm):
    llm.measure(prompt_tokens=16, max_new_tokens=int(os.environ["HERE_TOKENS"]), requests=1)
"""


@dataclass(frozen=True)
class Asked:
    """What a session measures: the model, for a duet the other one, the CPUs."""

    model: str = MODEL
    other: str = ""
    cpus: int = 0


def session(folder: Path, number: int, options: argparse.Namespace, asked: Asked) -> list[Evidence]:
    """Run one pytest session and reduce what it recorded: one recording, or two of a duet."""
    out = folder / f"session-{number:03}"
    here = {"HERE_MODEL": asked.model, "HERE_OTHER": asked.other or asked.model, "HERE_TOKENS": str(options.tokens)}
    here["HERE_CPUS"] = str(asked.cpus or options.cpus)
    test = f"{folder / 'test_here.py'}::test_{'duet' if asked.other else 'here'}"
    runs = options.pairs if asked.other else options.runs
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test]
    command += ["--nri-runs", str(runs), "--nri-out", str(out), "--nri-fail-on", "nothing"]
    done = subprocess.run(command, cwd=folder, env={**os.environ, **here}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    print(".", end="", flush=True, file=sys.stderr)
    return read_evidence(out)


def judged(now: SessionRecord, before: Sequence[SessionRecord], alpha: float) -> list[Verdict]:
    """Verdicts against stored sessions; a slowed session has another key or identity, so they may be crossed."""
    key = BaselineKey("test_here", "balloon", "model", "workload")
    return judge([now], Baseline(key, tuple(before)), GATES, alpha=alpha, across=True)


def judged_duet(recorded: Sequence[Evidence], alpha: float) -> list[Verdict]:
    """Verdicts on the two variants of a session."""
    found = {str(one.variant["name"]): (str(one.variant["name"]), one.record) for one in recorded}
    return judge_variants(found["a"], found["b"], GATES, alpha=alpha)


def show(title: str, verdicts: Sequence[Sequence[Verdict]]) -> None:
    """Outcomes and median effect a metric."""
    for at, gate in enumerate(GATES):
        found = [each[at] for each in verdicts]
        effects = sorted(verdict.effect or 0.0 for verdict in found)
        counts = ", ".join(f"{count} {outcome}" for outcome, count in Counter(one.outcome for one in found).items())
        middle = format_percent(effects[len(effects) // 2], signed=True) if effects else "-"
        print(f"  {title:34} {gate.metric:8} {counts or 'none':32} median change {middle}")


def main() -> None:
    """Measure, judge, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sessions", type=int, default=4, help="sessions of unchanged code (default: 4)")
    parser.add_argument("--slowed", type=int, default=1, help="sessions of each slowdown (default: 1)")
    parser.add_argument("--runs", type=int, default=2, help="runs a session (default: 2)")
    parser.add_argument("--duets", type=int, default=1, help="sessions of two equal variants side by side (default: 1)")
    parser.add_argument("--pairs", type=int, default=2, help="pairs in a duet; 6 or more can tell (default: 2)")
    parser.add_argument("--tokens", type=int, default=24, help="tokens a request (default: 24)")
    parser.add_argument("--cpus", type=int, default=len(os.sched_getaffinity(0)), help="CPUs (default: all)")
    options = parser.parse_args()
    alpha = 0.05 / len(GATES)
    with tempfile.TemporaryDirectory(prefix="nriperf-here-") as name:
        folder = Path(name)
        (folder / "test_here.py").write_text(SUITE)
        (folder / "pytest.ini").write_text("[pytest]\n")
        same = [session(folder, number, options, Asked())[0].record for number in range(options.sessions)]
        itl = sorted(same[0].values("itl"))[len(same[0].values("itl")) // 2]
        pause = f"{MODEL}?delay={max(1, round(itl * 1e4)) / 100:g}ms"
        slowed = range(options.slowed)
        paused = [session(folder, 500 + number, options, Asked(pause))[0].record for number in slowed]
        fewer, duets, paused_duets = [], [], []
        if options.cpus > 1:
            less = Asked(cpus=options.cpus - 1)
            fewer = [session(folder, 600 + number, options, less)[0].record for number in slowed]
            duets = [session(folder, 700 + number, options, Asked(other=MODEL)) for number in range(options.duets)]
            paused_duets = [session(folder, 800 + number, options, Asked(other=pause)) for number in slowed]
    print(file=sys.stderr)
    known = session_means([list(map(math.log, one.values("itl"))) for one in same])
    between = format_percent(SessionSpread((known,)).typical())
    print(
        f"{len(same)} sessions x {options.runs} runs, itl {itl * 1e3:.1f} ms: spread between runs "
        f"{format_percent(math.sqrt(known.within))}, between sessions {between}"
    )
    unchanged = [judged(same[at], same[:at], alpha) for at in range(3, len(same))]
    show("unchanged, against those before", unchanged)
    show(f"+10 %: a pause of {pause.partition('=')[2]} a token", [judged(one, same, alpha) for one in paused])
    show("one CPU less", [judged(one, same, alpha) for one in fewer])
    show(f"duets of {options.pairs} pairs, unchanged", [judged_duet(one, alpha) for one in duets])
    show("duets, the other one pausing", [judged_duet(one, alpha) for one in paused_duets])
    count = len(unchanged)
    if count:
        bound = format_percent(1 - 0.05 ** (1 / count))
        print(f"  {count} verdicts without an alarm would show a rate below {bound}, no more")


if __name__ == "__main__":
    main()
