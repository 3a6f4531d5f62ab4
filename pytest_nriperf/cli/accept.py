"""`nriperf accept [SESSION]`: take a recorded session into the baselines, showing what changes there."""

from __future__ import annotations

import argparse
import difflib
import json
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from pytest_nriperf.baselines import BaselineStore, Verdict, judge
from pytest_nriperf.baselines.evidence import Evidence, read_evidence
from pytest_nriperf.baselines.noise import load_noise
from pytest_nriperf.cli.judging import settings_here, store_for
from pytest_nriperf.errors import BaselineError
from pytest_nriperf.units import format_percent, format_value

MORE = """\
A baseline is a set of sessions: more of them tell better what is usual. A session that is worse is refused;
after an intended change --restart forgets the old ones and begins with this session. The files are meant to be
committed: what changed stands below, and git shows it again."""


@dataclass(frozen=True)
class Step:
    """One measurement to accept: where it goes, what its verdicts are against what is there."""

    evidence: Evidence
    store: BaselineStore
    verdicts: list[Verdict]

    @property
    def path(self) -> Path:
        return self.store.path(self.evidence.test_file)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = f"{parser.description}.\n\n{MORE}"
    parser.add_argument("session", type=Path, nargs="?", help="session or recording (default: the newest session)")
    parser.add_argument("--restart", action="store_true", help="forget the accepted sessions, begin with this one")
    parser.add_argument("--test", default="*", metavar="PATTERN", help="only tests whose id matches, such as '*chat*'")
    parser.add_argument("--dry-run", action="store_true", help="show, write nothing")
    parser.add_argument("--diff", action="store_true", help="show the changed lines of the files too")
    parser.add_argument("--baselines", help="folder of baselines")
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")


def run(options: argparse.Namespace) -> int:
    """Accept what can be accepted; 1 when something was refused."""
    settings = settings_here(options.baselines)
    found = [one for one in read_evidence(options.session or settings.path(settings.out)) if _wanted(one, options.test)]
    # A variant is judged against the other one: a baseline of it would be read by nobody.
    found = [one for one in found if not one.variant or store_for(settings, one).find(one.test_file, one.key)]
    rows = []
    for one in found:
        store = store_for(settings, one)
        rows.append(_accepted(Step(one, store, _verdicts(one, store)), options))
    if options.json:
        print(json.dumps(rows, indent=1))
    elif not rows:
        print(f"nothing to accept: no recorded test matches {options.test!r}, variants left aside")
    return int(not rows or any(row["refused"] for row in rows))


def _wanted(one: Evidence, pattern: str) -> bool:
    """Ids contain brackets, which a pattern would take for a set."""
    return fnmatch(one.test.replace("[", "("), pattern.replace("[", "("))


def _verdicts(one: Evidence, store: BaselineStore) -> list[Verdict]:
    baseline = store.find(one.test_file, one.key)
    noise, look = load_noise(store), one.level(baseline, one.gates, one.alpha)
    return judge([one.record], baseline, one.gates, alpha=one.alpha, look=look, noise=noise, test=one.test)


def _accepted(step: Step, options: argparse.Namespace) -> dict[str, object]:
    """Accept one measurement and print it; returns what happened."""
    one, store = step.evidence, step.store
    before = step.path.read_text() if step.path.exists() else ""
    old = store.find(one.test_file, one.key)
    refused, baseline = "", old
    try:
        if options.restart:
            baseline = store.restarted(one.key, one.record)
        else:
            baseline = store.grown(one.test_file, one.key, one.record, step.verdicts)
        after = store.preview(one.test_file, baseline)
        if not options.dry_run and options.restart:
            store.restart(one.test_file, one.key, one.record)
        elif not options.dry_run:
            store.append(one.test_file, one.key, one.record, step.verdicts)
    except BaselineError as error:
        refused, after = str(error), before
    count = len(baseline.sessions) if baseline else 0
    if not options.json:
        print("\n".join(_lines(step, len(old.sessions) if old else 0, count, refused, options)))
        if options.diff:
            print(
                "".join(difflib.unified_diff(before.splitlines(True), after.splitlines(True), "before", "after", n=1))
            )
    return {
        "test": one.test,
        "key": str(one.key),
        "file": str(step.path),
        "session": one.record.session,
        "sessions_before": len(old.sessions) if old else 0,
        "sessions": count,
        "written": not refused and not options.dry_run,
        "refused": refused,
        "verdicts": [verdict.as_dict() for verdict in step.verdicts],
    }


def _lines(step: Step, before: int, after: int, refused: str, options: argparse.Namespace) -> list[str]:
    head = f"{step.evidence.test}{'  SIMULATED' if step.evidence.record.simulated else ''}"
    if refused:
        return [head, f"  refused: {refused}"]
    verb = "would be" if options.dry_run else "are"
    lines = [head, f"  {step.path}: {before} accepted sessions before, {after} {verb} accepted now"]
    for verdict in step.verdicts:
        change = f"{format_value(verdict.baseline, verdict.unit)} -> {format_value(verdict.now, verdict.unit)}"
        lines.append(
            f"  {verdict.metric:12} {change:>24}  {format_percent(verdict.effect, signed=True):>8}  {verdict.outcome}"
        )
    if any(verdict.outcome == "better" for verdict in step.verdicts) and not options.restart:
        lines.append("  better: to hold on to it, forget the slower sessions with --restart")
    return lines
