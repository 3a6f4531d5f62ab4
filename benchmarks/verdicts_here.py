"""Verdicts on this machine, for real: sessions of unchanged code, and slowdowns made by honest means.

Every session is a pytest session of its own with a fresh engine process a run (the dummy model: a real architecture
with random weights). Unchanged sessions are judged one by one against those before them; slowed sessions (a known
pause after every token; one CPU less) against all unchanged ones. The default is a quick look that proves nothing;
`--sessions 24 --runs 5` takes about half an hour.
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
from pathlib import Path

from pytest_nriperf.baselines import Baseline, BaselineKey, Gate, SessionRecord, Verdict, judge
from pytest_nriperf.baselines.evidence import read_evidence
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
"""


def session(
    folder: Path, number: int, options: argparse.Namespace, *, model: str = MODEL, cpus: int = 0
) -> SessionRecord:
    """Run one pytest session and reduce what it recorded."""
    out = folder / f"session-{number:03}"
    here = {"HERE_MODEL": model, "HERE_CPUS": str(cpus or options.cpus), "HERE_TOKENS": str(options.tokens)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder / "test_here.py")]
    command += ["--nri-runs", str(options.runs), "--nri-out", str(out), "--nri-fail-on", "nothing"]
    done = subprocess.run(command, cwd=folder, env={**os.environ, **here}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return read_evidence(out)[0].record


def judged(now: SessionRecord, before: Sequence[SessionRecord], alpha: float) -> list[Verdict]:
    """Verdicts against stored sessions; a slowed session has another key or identity, so they may be crossed."""
    key = BaselineKey("test_here", "balloon", "model", "workload")
    return judge([now], Baseline(key, tuple(before)), GATES, alpha=alpha, across=True)


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
    parser.add_argument("--tokens", type=int, default=24, help="tokens a request (default: 24)")
    parser.add_argument("--cpus", type=int, default=len(os.sched_getaffinity(0)), help="CPUs (default: all)")
    options = parser.parse_args()
    alpha = 0.05 / len(GATES)
    with tempfile.TemporaryDirectory(prefix="nriperf-here-") as name:
        folder = Path(name)
        (folder / "test_here.py").write_text(SUITE)
        (folder / "pytest.ini").write_text("[pytest]\n")
        same = [session(folder, number, options) for number in range(options.sessions)]
        itl = sorted(same[0].values("itl"))[len(same[0].values("itl")) // 2]
        pause = f"{MODEL}?delay={max(1, round(itl * 1e5)) / 100:g}ms"
        paused = [session(folder, 500 + number, options, model=pause) for number in range(options.slowed)]
        fewer = []
        if options.cpus > 1:
            fewer = [session(folder, 700 + number, options, cpus=options.cpus - 1) for number in range(options.slowed)]
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
    count = len(unchanged)
    if count:
        bound = format_percent(1 - 0.05 ** (1 / count))
        print(f"  {count} verdicts without an alarm would show a rate below {bound}, no more")


if __name__ == "__main__":
    main()
