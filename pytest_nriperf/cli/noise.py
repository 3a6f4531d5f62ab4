"""`nriperf noise`: what can be detected on a node with how many runs, from sessions of unchanged code (A/A)."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from pytest_nriperf.baselines import BaselineStore
from pytest_nriperf.baselines.evidence import Evidence
from pytest_nriperf.baselines.noise import NodeNoise, load_noise, measured_noise, save_noise
from pytest_nriperf.baselines.noisiness import MetricNoise, noisiness
from pytest_nriperf.baselines.sides import ENOUGH_SESSIONS
from pytest_nriperf.cli.judge import gathered
from pytest_nriperf.errors import EnvironmentFault, UsageError
from pytest_nriperf.report.noise import noise_lines
from pytest_nriperf.sessions import find_sessions
from pytest_nriperf.settings import Settings, settings_here

MORE = """\
With sessions named (DIR, an out folder means all its sessions) these are analysed; with --sessions N the tests
after -- are measured N times, each a pytest session of its own. Else the node's kept noise check or its accepted
sessions are shown. --save keeps the result beside the node's baselines: verdicts on these tests count it beside their
baselines' own sessions, other tests only until their baselines have three.

  nriperf noise --sessions 10 --runs 5 --save -- perf_suites/test_latency.py"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = f"{parser.description}.\n\n{MORE}"
    parser.add_argument("folders", type=Path, nargs="*", metavar="DIR", help="sessions, or pytest arguments after --")
    parser.add_argument("--sessions", type=int, default=0, metavar="N", help="measure N sessions first")
    parser.add_argument("--runs", type=int, default=5, help="runs a session (default: 5)")
    parser.add_argument("--node", help="node to show (default: the only one), or to measure on")
    parser.add_argument("--alpha", type=float, default=0.05, help="false-alarm rate of a verdict (default: 0.05)")
    parser.add_argument("--save", action="store_true", help="keep the result for the node's verdicts")
    parser.add_argument("--baselines", help="folder of baselines")
    parser.add_argument("--json", action="store_true", help="print as JSON")


def run(options: argparse.Namespace) -> int:
    """Measure where asked, analyse, print, keep where asked."""
    if not 0 < options.alpha < 1:
        raise UsageError(f"--alpha {options.alpha} is not between 0 and 1", "write for example 0.05")
    if options.save and not (options.sessions or options.folders):
        raise UsageError("--save has nothing to keep", "name sessions, or measure some: --sessions 10 -- TESTS")
    settings = settings_here(options.baselines)
    if options.sessions:
        with tempfile.TemporaryDirectory(prefix="nriperf-noise-") as folder:
            _measure(options, Path(folder))
            store, noise = _analysed([Path(folder)], settings)
    elif options.folders:
        store, noise = _analysed(options.folders, settings)
    else:
        store = _store_of(options.node, settings)
        noise = load_noise(store)
    found = noisiness(noise, options.alpha)
    _show(noise, found, options)
    if options.save and found:
        path = save_noise(store, noise)
        print(f"kept in {path}", file=sys.stderr)
    return int(not found)


def _show(noise: NodeNoise, found: Sequence[MetricNoise], options: argparse.Namespace) -> None:
    if options.json:
        rows = [one.as_dict() for one in found]
        print(json.dumps({"node": noise.node, "when": noise.when, "alpha": options.alpha, "metrics": rows}, indent=1))
    else:
        print("\n".join(noise_lines(noise, found, options.alpha)))


def _measure(options: argparse.Namespace, out: Path) -> None:
    """Run pytest again and again, each session by itself, as nightly runs would."""
    if options.sessions < ENOUGH_SESSIONS:
        least = f"measure {ENOUGH_SESSIONS} or more, better 10"
        raise UsageError(f"--sessions {options.sessions} tells nothing", least)
    command = [sys.executable, "-m", "pytest", "-q", *map(str, options.folders), "--nri-out", str(out)]
    command += ["--nri-runs", str(options.runs), "--nri-fail-on", "nothing", "--nri-baselines", str(out / "none")]
    command += ["--nri-node", options.node] if options.node else []
    for number in range(options.sessions):
        print(f"session {number + 1} of {options.sessions}", file=sys.stderr, flush=True)
        done = subprocess.run(command, stdout=sys.stderr)
        if done.returncode:
            raise EnvironmentFault(
                f"session {number + 1} ended with status {done.returncode}", f"mend it, see above: {' '.join(command)}"
            )


def _analysed(folders: Sequence[Path], settings: Settings) -> tuple[BaselineStore, NodeNoise]:
    sessions = [session for folder in folders for session in (find_sessions(folder) or [folder])]
    groups = gathered(sessions)
    nodes = {(group[0].node, group[0].record.simulated) for group in groups}
    if len(nodes) > 1:
        raise UsageError(
            f"sessions of several nodes: {', '.join(sorted(node for node, _ in nodes))}", "name one node's"
        )
    _same_treatment([one for group in groups for one in group])
    node, simulated = nodes.pop()
    when = datetime.now(UTC).date().isoformat()
    noise = measured_noise(node, {group[0].key: [one.record for one in group] for group in groups}, when)
    return BaselineStore(settings.path(settings.baselines), node, simulated=simulated), noise


def _same_treatment(measured: Sequence[Evidence]) -> None:
    """An A/A check of two different programs would call their difference noise."""
    kinds = {json.dumps(one.record.fingerprint.get("treatment", {}), sort_keys=True) for one in measured}
    commits = {one.record.commit for one in measured}
    if len(kinds) > len({one.key for one in measured}):
        print("warning: versions changed between these sessions; their change counts as noise here", file=sys.stderr)
    elif len(commits) > 1:
        print("warning: the suite's commit changed between these sessions", file=sys.stderr)


def _store_of(node: str | None, settings: Settings) -> BaselineStore:
    folder = settings.path(settings.baselines)
    nodes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
    wanted = [name for name in nodes if node is None or name == node]
    if len(wanted) != 1:
        known = f"name one with --node: {', '.join(nodes)}"
        step = known if nodes else "measure some: nriperf noise --sessions 10 -- TESTS"
        raise UsageError(f"{folder} has {'several nodes' if wanted else 'no node ' + (node or 'yet')}", step)
    return BaselineStore(folder, wanted[0], simulated=wanted[0].startswith("sim-") or wanted[0].endswith("-simulated"))
