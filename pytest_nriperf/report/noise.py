"""A node's noise as a table of plain text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_nriperf.baselines.noise import NodeNoise
from pytest_nriperf.baselines.noisiness import DESIGNS, MetricNoise
from pytest_nriperf.report.verdicts import printable


def noise_lines(noise: NodeNoise, found: Sequence[MetricNoise], alpha: float) -> Iterator[str]:
    """Spreads and reach by test and metric, what the columns mean, and what to do."""
    origin = f"noise check of {noise.when}" if noise.when else "accepted sessions, no noise check"
    yield f"{printable(noise.node)}: {origin}"
    if not found:
        yield "nothing is known: three sessions of unchanged code are needed (nriperf noise --sessions 10 -- TESTS)"
        return
    heads = [f"{runs}v{sessions}x{each}" for runs, sessions, each in DESIGNS]
    for test in dict.fromkeys(one.test for one in found):
        yield printable(test)
        yield f"  {'metric':20}{'sessions':>9}{'runs':>6}{'run sd':>8}{'sess. sd':>9}" + "".join(
            f"{head:>9}" for head in heads
        )
        rows = [one for one in found if one.test == test]
        for one in rows:
            reach = "".join(f"{design.detectable * 100:>8.1f}%" for design in one.designs)
            spreads = f"{one.run_spread * 100:>7.1f}%{one.session_spread * 100:>8.1f}%"
            yield f"  {printable(one.metric):20}{one.sessions:>9}{one.runs:>6}{spreads}{reach}"
        yield from (f"  {text}" for text in dict.fromkeys(f"{one.advice}" for one in rows))
    yield f"NvSxR: smallest change found with 80 % by N runs against S sessions of R runs, at alpha {alpha:g}"
