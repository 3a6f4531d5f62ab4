"""`nriperf compare A B`: how far B lies from A, two recordings or sessions, of whatever machines."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from pytest_nriperf.baselines import Baseline, Verdict, judge
from pytest_nriperf.baselines.evidence import Evidence, read_evidence
from pytest_nriperf.baselines.noise import load_noise
from pytest_nriperf.baselines.pairs import judge_variants
from pytest_nriperf.cli.judging import add_judging, chosen, print_verdicts, store_for
from pytest_nriperf.errors import UsageError
from pytest_nriperf.settings import settings_here
from pytest_nriperf.stats import NO_SPREAD

MORE = """\
Tests that stand in both are compared; of one recording each, the two, whatever they are. Unlike machines,
balloons and models are allowed here and named: this is for looking, a gate refuses them. Two recordings of one
session need no spread between sessions, and two variants are judged pair by pair; else it is what the node's
baselines and noise check tell."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = f"{parser.description}.\n\n{MORE}"
    parser.add_argument("a", type=Path, help="recording, session or out folder: before")
    parser.add_argument("b", type=Path, help="the same: after")
    parser.add_argument("--baselines", help="folder of baselines that tell the node's noise")
    add_judging(parser)


def run(options: argparse.Namespace) -> int:
    """Compare, print, and say by the exit status whether something is worse."""
    pairs = paired(read_evidence(options.a), read_evidence(options.b))
    if not pairs:
        raise UsageError(f"{options.a} and {options.b} have no test in common", "name one recording of each")
    verdicts = [verdict for a, b in pairs for verdict in _compared(a, b, options)]
    return print_verdicts(verdicts, options, node=pairs[0][1].node, facts={"a": str(options.a), "b": str(options.b)})


def paired(before: list[Evidence], after: list[Evidence]) -> list[tuple[Evidence, Evidence]]:
    """Measurements of the same key; of a single one on each side, these two."""
    if len(before) == len(after) == 1:
        return [(before[0], after[0])]
    old = {(one.test_file, one.key): one for one in before}
    return [(old[one.test_file, one.key], one) for one in after if (one.test_file, one.key) in old]


def _compared(a: Evidence, b: Evidence, options: argparse.Namespace) -> list[Verdict]:
    gates, alpha = chosen(b, options)
    if a.variant and b.variant and (a.record.session, a.test) == (b.record.session, b.test):
        first, second = ((str(one.variant["name"]), one.record) for one in (a, b))
        return judge_variants(first, second, gates, alpha=alpha, test=b.test)
    before = replace(a.record, session=f"{a.record.session} (a)")
    one_session = a.record.session == b.record.session
    return judge(
        [b.record],
        Baseline(b.key, (before,)),
        gates,
        alpha=alpha,
        noise=load_noise(store_for(settings_here(options.baselines), b)),
        spread=NO_SPREAD if one_session else None,
        across=True,
        references=a.key.balloon == b.key.balloon,
        test=b.test if a.test == b.test else f"{a.test} -> {b.test}",
    )
