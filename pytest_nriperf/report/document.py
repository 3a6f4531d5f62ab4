"""The JSON document of all verdicts (`--nri-json`, `--json`), described by verdicts.schema.json beside this file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_nriperf.baselines import OUTCOMES, Verdict
from pytest_nriperf.report.unseen import ALL_SEEN, Unseen

FORMAT = 1
SCHEMA = Path(__file__).with_name("verdicts.schema.json")


def verdict_document(
    verdicts: Sequence[Verdict], *, node: str = "", facts: Mapping[str, Any] | None = None, unseen: Unseen = ALL_SEEN
) -> str:
    """The document as text: format, node, counts by outcome, verdicts, what was not judged; `facts` beside these."""
    document = {
        **(facts or {}),
        "format": FORMAT,
        "node": node,
        "simulated": any(verdict.simulated for verdict in verdicts),
        "counts": {outcome: sum(one.outcome == outcome for one in verdicts) for outcome in OUTCOMES},
        "verdicts": [verdict.as_dict() for verdict in verdicts],
        **unseen.as_dict(),
    }
    return json.dumps(document, indent=1, allow_nan=False, default=str)
