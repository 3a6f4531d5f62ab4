"""What a sweep says, for a terminal: takeaways, the front, a table of wisdom for stream latency and for throughput."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_nriperf.report.tables import front_table, wisdom_table
from pytest_nriperf.sweep.front import pareto
from pytest_nriperf.sweep.rows import Row, pooled
from pytest_nriperf.sweep.tables import wisdom
from pytest_nriperf.sweep.takeaways import takeaways

# Rows of the front that a terminal shows; the page and the CSV have all.
FRONT_ROWS = 12


def wisdom_lines(rows: Sequence[Row]) -> Iterator[str]:
    """Lines over all rows of a session, repeats pooled. SIMULATED where anything was."""
    together = pooled(rows)
    if len(together) > 1:
        for metric in ("throughput", "tpot"):
            for table in wisdom(together, metric):
                if any(entry for line in table.entries for entry in line):
                    yield from ("", *wisdom_table(table, brief=True).text().splitlines())
        front = pareto(together)
        if front:
            yield from ("", *front_table(front, FRONT_ROWS).text().splitlines())
    said = takeaways(together)
    if said:
        yield from ("", "Takeaways", *(f"  {item}" for item in said))
    yield ""
