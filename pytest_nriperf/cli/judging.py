"""What the judging commands share: their options, the store of a recording's node, and how verdicts are printed."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_nriperf.baselines import BaselineStore, Gate, Verdict
from pytest_nriperf.baselines.evidence import Evidence
from pytest_nriperf.errors import UsageError
from pytest_nriperf.metrics import parse_metric
from pytest_nriperf.report.document import verdict_document
from pytest_nriperf.report.verdicts import verdict_table
from pytest_nriperf.settings import Settings


def add_judging(parser: argparse.ArgumentParser) -> None:
    """Options of every command that judges."""
    parser.add_argument(
        "--metric", action="append", help="judge this metric instead of what the gate named (repeatable)"
    )
    parser.add_argument("--alpha", type=float, help="false-alarm rate of each verdict (default: as the gate had it)")
    parser.add_argument("--tolerance", type=float, help="what counts as the same, a share (default: 0.05)")
    parser.add_argument(
        "--fail-on", default="worse", help="outcomes that make the exit status 1, or 'nothing' (default: worse)"
    )
    parser.add_argument("--json", action="store_true", help="print the verdicts as JSON")


def store_for(settings: Settings, one: Evidence) -> BaselineStore:
    """The baselines of the node that a measurement was made on."""
    return BaselineStore(settings.path(settings.baselines), one.node, simulated=one.record.simulated)


def chosen(one: Evidence, options: argparse.Namespace) -> tuple[list[Gate], float]:
    """Gates and alpha of a measurement as its options ask."""
    alpha = one.alpha if options.alpha is None else float(options.alpha)
    if not 0 < alpha < 1:
        raise UsageError(f"--alpha {alpha} is not between 0 and 1", "write for example 0.05")
    for name in options.metric or ():
        parse_metric(name)
    known = {gate.metric: gate for gate in one.gates}
    gates = [known.get(name, Gate(name)) for name in options.metric or known]
    if options.tolerance is not None:
        if not 0 < options.tolerance < 1:
            raise UsageError(f"--tolerance {options.tolerance} is not between 0 and 1", "write for example 0.05")
        gates = [Gate(gate.metric, options.tolerance, min(gate.floor, options.tolerance)) for gate in gates]
    return gates, alpha


def print_verdicts(
    verdicts: Sequence[Verdict], options: argparse.Namespace, *, node: str = "", facts: Mapping[str, Any] | None = None
) -> int:
    """Print a table or JSON; the exit status."""
    status = exit_status(verdicts, options)
    if options.json:
        print(verdict_document(verdicts, node=node, facts=facts))
    else:
        print("\n".join(verdict_table(verdicts)))
    return status


def exit_status(verdicts: Sequence[Verdict], options: argparse.Namespace) -> int:
    """1 when an outcome is one to fail on. Raises SettingsError for a word that is none: it would never fail."""
    fail_on = Settings().with_values({"fail_on": options.fail_on}).fail_on
    return int(any(verdict.outcome in fail_on for verdict in verdicts))
