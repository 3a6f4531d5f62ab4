"""A run on a made-up machine, read as the collectors read it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pytest_nriperf.collect.pcm_text import PcmParser
from pytest_nriperf.counters import CounterTable, RunView, Window
from pytest_nriperf.seams import CounterRow
from tests.pcm_double import Machine, text

S = 10**9
WINDOW = Window(12 * S + 300_000_000, 18 * S + 700_000_000)


def pcm_rows(machine: Machine, cpus: frozenset[int], seconds: Iterable[int] = range(10, 21)) -> list[CounterRow]:
    """A reading of the machine at each second."""
    parser = PcmParser(cpus)
    return [
        CounterRow(
            second * S, second * S, "pcm", each.name, each.kind, each.value, each.unit, cpu=each.cpu, socket=each.socket
        )
        for second in seconds
        for each in parser.parse(text(machine, second * 1_000_000)).readings
    ]


def steady(source: str, rates: Mapping[str, float], unit: str = "", **scope: int) -> list[CounterRow]:
    """Cumulative counters that grow at these rates a second."""
    return [
        CounterRow(second * S, second * S, source, name, "cumulative", round(1000 + rate * second), unit, **scope)
        for second in range(10, 21)
        for name, rate in rates.items()
    ]


def level(source: str, name: str, value: float, **scope: int) -> list[CounterRow]:
    """A gauge that stays where it is."""
    return [CounterRow(t * S, t * S, source, name, "gauge", value, "", **scope) for t in range(10, 21)]


def view(rows: Iterable[CounterRow], tokens: int = 64, **more: object) -> RunView:
    """A run in which these were read."""
    return RunView(CounterTable.from_rows(rows), 1, WINDOW, tokens, **more)  # type: ignore[arg-type]
