"""`nriperf accept [SESSION]`: take a recorded session into the baselines, showing first what changes there."""

from __future__ import annotations

import argparse
import difflib
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

from pytest_nriperf.baselines import Baseline, BaselineStore, SessionRecord, Verdict, judge
from pytest_nriperf.baselines.evidence import Evidence, read_evidence
from pytest_nriperf.baselines.noise import load_noise
from pytest_nriperf.cli.judging import store_for
from pytest_nriperf.errors import BaselineError
from pytest_nriperf.report.verdicts import printable, verdict_table
from pytest_nriperf.settings import settings_here
from pytest_nriperf.units import short_path

MORE = """\
What changes is shown, then written: the sessions that come (+) and go (-), and how this one lies to the others.
A baseline is a set of sessions: more of them tell better what is usual. A session that is worse is refused; after an
intended change --restart forgets the old ones and begins with this session (a person at a terminal is asked first).
The files are meant to be committed, and --diff shows them as a reviewer will see them."""


@dataclass(frozen=True)
class Step:
    """One measurement to accept: what its verdicts are against what is there, and the baseline before and after.

    `refused` says why it cannot be; then nothing changes.
    """

    evidence: Evidence
    store: BaselineStore
    verdicts: Sequence[Verdict]
    before: Sequence[SessionRecord]
    after: Baseline | None
    refused: str = ""

    @property
    def path(self) -> Path:
        return self.store.path(self.evidence.test_file)

    @property
    def left(self) -> Sequence[SessionRecord]:
        """The sessions that are accepted afterwards."""
        return self.before if self.after is None else self.after.sessions

    @property
    def dropped(self) -> list[SessionRecord]:
        """The sessions that are forgotten."""
        kept = {one.session for one in self.left}
        return [one for one in self.before if one.session not in kept]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = f"{parser.description}.\n\n{MORE}"
    parser.add_argument("session", type=Path, nargs="?", help="session or recording (default: the newest session)")
    parser.add_argument("--restart", action="store_true", help="forget the accepted sessions, begin with this one")
    parser.add_argument("--test", default="*", metavar="PATTERN", help="only tests whose id matches, such as '*chat*'")
    parser.add_argument("--dry-run", action="store_true", help="show, write nothing")
    parser.add_argument("--yes", action="store_true", help="do not ask before sessions are forgotten")
    parser.add_argument("--diff", action="store_true", help="show the changed lines of the files too")
    parser.add_argument("--baselines", help="folder of baselines")
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")


def run(options: argparse.Namespace) -> int:
    """Show what would change, then change it; 1 when something was refused or nobody agreed."""
    settings = settings_here(options.baselines)
    where = options.session or settings.path(settings.out)
    found = [one for one in read_evidence(where) if _wanted(one, options.test)]
    # A variant is judged against the other one: a baseline of it would be read by nobody.
    found = [one for one in found if not one.variant or store_for(settings, one).find(one.test_file, one.key)]
    steps = [_planned(one, store_for(settings, one), restart=options.restart) for one in found]
    if not options.json:
        for line in _shown(steps, options):
            print(line, flush=True)
    agreed = not options.dry_run and _agreed(steps, options)
    written = [step for step in steps if agreed and step.after is not None]
    for step in written:
        _write(step, restart=options.restart)
    if options.json:
        print(json.dumps([_row(step, written=step in written) for step in steps], indent=1))
    else:
        print("\n".join(_done(steps, written, options)))
    return int(not steps or any(step.refused for step in steps) or not (agreed or options.dry_run))


def _wanted(one: Evidence, pattern: str) -> bool:
    """Ids contain brackets, which a pattern would take for a set."""
    return fnmatch(one.test.replace("[", "("), pattern.replace("[", "("))


def _planned(one: Evidence, store: BaselineStore, *, restart: bool) -> Step:
    baseline = store.find(one.test_file, one.key)
    noise, look = load_noise(store), one.level(baseline, one.gates, one.alpha)
    verdicts = judge([one.record], baseline, one.gates, alpha=one.alpha, look=look, noise=noise, test=one.test)
    before = () if baseline is None else baseline.sessions
    try:
        if restart:
            after = store.restarted(one.key, one.record)
        else:
            after = store.grown(one.test_file, one.key, one.record, verdicts)
    except BaselineError as error:
        return Step(one, store, verdicts, before, None, str(error))
    return Step(one, store, verdicts, before, after)


def _write(step: Step, *, restart: bool) -> None:
    one = step.evidence
    if restart:
        step.store.restart(one.test_file, one.key, one.record)
    else:
        step.store.append(one.test_file, one.key, one.record, step.verdicts)


def _agreed(steps: Sequence[Step], options: argparse.Namespace) -> bool:
    """Only what forgets accepted sessions by intention is asked about, and only where a person can answer."""
    count = sum(len(step.dropped) for step in steps)
    if options.yes or options.json or not options.restart or not count or not sys.stdin.isatty():
        return True
    return input(f"forget {_sessions(count)}? [y/N] ").strip().lower() in ("y", "yes")


def _shown(steps: Sequence[Step], options: argparse.Namespace) -> Iterator[str]:
    """The sessions and figures of every step, then the lines of the files where these are asked for."""
    for step in steps:
        # What to do next is being decided here.
        test, *table, _ = verdict_table([replace(verdict, advice="") for verdict in step.verdicts])
        yield test
        yield f"  {short_path(step.path)}: {_sessions(len(step.before))} accepted, {len(step.left)} with this one"
        yield from (f"  - {_named(one)}" for one in step.dropped)
        yield f"  {'x' if step.refused else '+'} {_named(step.evidence.record)}"
        yield from table
        if step.refused:
            yield f"  refused: {printable(step.refused)}"
        elif not options.restart and any(verdict.outcome == "better" for verdict in step.verdicts):
            yield "  better: to hold on to it, forget the slower sessions with --restart"
    if options.diff:
        yield from _diff([step for step in steps if step.after is not None])


def _diff(steps: Sequence[Step]) -> Iterator[str]:
    for path in dict.fromkeys(step.path for step in steps):
        own = [step for step in steps if step.path == path]
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        after = own[0].store.preview(own[0].evidence.test_file, [step.after for step in own if step.after is not None])
        name = short_path(path)
        yield from difflib.unified_diff(before.splitlines(), after.splitlines(), name, name, lineterm="", n=1)


def _named(record: SessionRecord) -> str:
    runs = max((len(metric.runs) for metric in record.metrics.values()), default=0)
    words = [record.session, record.time[:10], f"{runs} runs", record.commit[:8]]
    words += [f"{record.disturbed} of them disturbed"] if record.disturbed else []
    return printable("  ".join(filter(None, words)))


def _sessions(count: int) -> str:
    return "1 session" if count == 1 else f"{count} sessions"


def _done(steps: Sequence[Step], written: Sequence[Step], options: argparse.Namespace) -> Iterator[str]:
    if not steps:
        yield f"nothing to accept: no recorded test matches {options.test!r}, variants left aside"
    elif options.dry_run:
        yield "dry run: nothing was written"
    elif not written:
        yield "nothing was written"
    else:
        files = dict.fromkeys(short_path(step.path) for step in written)
        yield f"{len(written)} of {len(steps)} accepted; for a commit: {shlex.join(['git', 'add', *files])}"


def _row(step: Step, *, written: bool) -> dict[str, object]:
    one = step.evidence
    return {
        "test": one.test,
        "key": str(one.key),
        "file": str(step.path),
        "session": one.record.session,
        "sessions_before": len(step.before),
        "sessions": len(step.left),
        "dropped": [record.session for record in step.dropped],
        "written": written,
        "refused": step.refused,
        "verdicts": [verdict.as_dict() for verdict in step.verdicts],
    }
