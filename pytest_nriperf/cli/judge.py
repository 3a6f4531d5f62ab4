"""`nriperf judge DIR...`: judge stored sessions again, together, against the baselines, by any rule."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pytest_nriperf.baselines import Baseline, Verdict, level_reached
from pytest_nriperf.baselines.evidence import Evidence, read_evidence
from pytest_nriperf.baselines.noise import load_noise
from pytest_nriperf.baselines.pairs import judge_variants
from pytest_nriperf.baselines.rules import RULES, judge_by
from pytest_nriperf.cli.judging import add_judging, chosen, print_verdicts, store_for
from pytest_nriperf.settings import settings_here
from pytest_nriperf.stats import plan_pair_looks

MORE = """\
Several sessions are judged together: rounds of a whole suite, `pytest --nri-runs 1` again and again, make each
session one run. With --against the sessions named there take the baselines' place. Variants of a test are judged
against each other, pair by pair. Rules:
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = f"{parser.description}.\n\n{MORE}" + "\n".join(f"  {k:18} {v}" for k, v in RULES.items())
    parser.add_argument("sessions", type=Path, nargs="+", metavar="DIR", help="recording, session or out folder")
    parser.add_argument("--against", type=Path, action="append", metavar="DIR", help="judge against these (repeatable)")
    parser.add_argument("--rule", default="sessions", help="see above (default: sessions)")
    parser.add_argument("--baselines", help="folder of baselines")
    add_judging(parser)


def run(options: argparse.Namespace) -> int:
    """Judge, print, and say by the exit status whether something is worse."""
    now = gathered(options.sessions)
    verdicts = judged(now, gathered(options.against or []), options)
    return print_verdicts(verdicts, options, node=now[0][0].node, facts={"rule": options.rule})


def gathered(folders: Sequence[Path]) -> list[list[Evidence]]:
    """Measurements by test file and key, each with its sessions in order of time."""
    groups: dict[object, list[Evidence]] = {}
    for folder in folders:
        for one in read_evidence(folder):
            groups.setdefault((one.node, one.test_file, one.key), []).append(one)
    return [sorted(group, key=lambda one: one.record.time) for group in groups.values()]


def judged(groups: list[list[Evidence]], against: list[list[Evidence]], options: argparse.Namespace) -> list[Verdict]:
    """Variants against each other, all else against the baselines (or `against`)."""
    pairs, alone = _divided(groups)
    verdicts = [verdict for group in alone for verdict in _judged_group(group, against, options)]
    return verdicts + [verdict for first, second in pairs for verdict in _judged_pair(first, second, options)]


def _divided(groups: list[list[Evidence]]) -> tuple[list[tuple[Evidence, Evidence]], list[list[Evidence]]]:
    """Variants that were measured together, session by session, and all else."""
    sides: dict[object, dict[str, Evidence]] = {}
    for group in groups:
        for one in group:
            if one.variant:
                sides.setdefault((one.record.session, one.test), {})[str(one.variant["name"])] = one
    pairs = []
    for found in sides.values():
        first, second = next(iter(found.values())).variant["of"]
        if found.keys() >= {first, second}:
            pairs.append((found[first], found[second]))
    taken = {one.path for pair in pairs for one in pair}
    return pairs, [left for group in groups if (left := [one for one in group if one.path not in taken])]


def _judged_pair(first: Evidence, second: Evidence, options: argparse.Namespace) -> list[Verdict]:
    """The second variant against the first, as its test judged it; rules and baselines have no part in it."""
    gates, alpha = chosen(second, options)
    before, now = ((str(one.variant["name"]), one.record) for one in (first, second))
    plan = plan_pair_looks(*second.planned, alpha) if second.planned else ()
    level = level_reached(plan, len(second.record.by_run(gates[0].metric)), alpha)
    return judge_variants(before, now, gates, alpha=alpha, level=level, test=second.test)


def _judged_group(group: list[Evidence], against: list[list[Evidence]], options: argparse.Namespace) -> list[Verdict]:
    """Verdicts on the sessions of one test, judged together."""
    newest = group[-1]
    gates, alpha = chosen(newest, options)
    settings = settings_here(options.baselines)
    store = store_for(settings, newest)
    if options.against:
        others = [one.record for other in against for one in other if one.key == newest.key]
        baseline = Baseline(newest.key, tuple(others))
    else:
        baseline = store.find(newest.test_file, newest.key) or Baseline(newest.key, ())
    records = [one.record for one in group]
    look = newest.level(baseline, gates, alpha) if len(group) == 1 else None
    noise = load_noise(store)
    found = judge_by(options.rule, records, baseline, gates, alpha=alpha, look=look, noise=noise, test=newest.test)
    reason, advice = "no baseline", f"accept this session: {settings.accept_command(newest.path)}"
    if options.against:
        reason, advice = "no session of --against has it", "name one that measured the same there"
    return [replace(one, reason=reason, advice=advice) if one.outcome == "missing" else one for one in found]
