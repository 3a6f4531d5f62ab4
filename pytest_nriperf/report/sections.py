"""Sections of the page that are text and tables; `html` puts them in order and adds the plots."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pytest_nriperf.baselines import OUTCOMES, Verdict
from pytest_nriperf.metrics import ENOUGH_SAMPLES
from pytest_nriperf.report.contents import SHOWN, Contents, Part
from pytest_nriperf.report.placement import placement_map
from pytest_nriperf.report.tables import Field, TextTable, escaped
from pytest_nriperf.sweep.takeaways import Takeaway
from pytest_nriperf.units import format_percent, format_value

SYMBOL = {"worse": "▲", "better": "▼", "same": "=", "unknown": "?", "missing": "∅", "incomparable": "≠"}
MOST_MAPS = 8
Keep = Callable[[str, TextTable], None]


def table_block(name: str, table: TextTable, keep: Keep) -> str:
    """A table with its buttons for CSV and Markdown."""
    keep(name, table)
    buttons = "".join(
        f'<button type="button" data-table="{escaped(name)}" data-kind="{kind}">{word}</button>'
        for kind, word in (("csv", "CSV"), ("markdown", "Markdown"))
    )
    return f'{table.html()}<div class="tools">{buttons}</div>'


def verdict_section(contents: Contents, keep: Keep) -> str:
    """What needs a reader first: counts, then a row a verdict with its effect drawn."""
    verdicts = contents.ranked
    if not verdicts:
        return '<p class="quiet">No verdict: nothing was gated, or the baseline was not consulted.</p>'
    counts = Counter(verdict.outcome for verdict in verdicts)
    badges = "".join(f"<span>{_badge(outcome)} {counts[outcome]}</span>" for outcome in OUTCOMES if counts[outcome])
    reach = _reach(verdicts)
    body = "".join(f"<tr>{_verdict_row(verdict, reach)}</tr>" for verdict in verdicts)
    header = ("verdict", "metric", "baseline", "now", "change (interval)", "", "runs / base", "why")
    head = "".join(f'<th scope="col">{word}</th>' for word in header)
    keep("verdicts", verdict_table(verdicts))
    return (
        f'<div class="counts">{badges}</div><div class="wide" tabindex="0" role="region" aria-label="verdicts">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        '<div class="tools"><button type="button" data-table="verdicts" data-kind="csv">CSV</button>'
        '<button type="button" data-table="verdicts" data-kind="markdown">Markdown</button></div>'
        f'<p class="note">The bars span {format_percent(-reach, digits=0)} to +{format_percent(reach, digits=0)}; '
        "the grey band is the tolerance: a change inside it counts as the same. Under the runs: the smallest change "
        "that they find with 80 % probability.</p>"
    )


def verdict_table(verdicts: Sequence[Verdict]) -> TextTable:
    """The verdicts as a table for programs and for Markdown."""
    header = ("verdict", "metric", "test", "baseline", "now", "change", "runs", "why")
    rows = tuple(
        (
            Field(verdict.outcome),
            Field(verdict.metric),
            Field(verdict.test),
            Field(format_value(verdict.baseline, verdict.unit), _raw(verdict.baseline)),
            Field(format_value(verdict.now, verdict.unit), _raw(verdict.now)),
            Field(format_percent(verdict.effect, signed=True), _raw(verdict.effect)),
            Field(str(verdict.runs)),
            Field(verdict.reason),
        )
        for verdict in verdicts
    )
    simulated = any(verdict.simulated for verdict in verdicts)
    return TextTable("Verdicts", header, rows, numeric=frozenset({3, 4, 5, 6}), simulated=simulated)


def _raw(value: float | None) -> str:
    return "" if value is None else repr(value)


def _badge(outcome: str) -> str:
    return f'<span class="badge {outcome}"><span aria-hidden="true">{SYMBOL[outcome]}</span> {outcome}</span>'


def _reach(verdicts: Sequence[Verdict]) -> float:
    limits = [abs(limit) for v in verdicts if v.interval for limit in v.interval if np.isfinite(limit)]
    limits += [abs(verdict.effect) for verdict in verdicts if verdict.effect is not None]
    return float(min(1.0, max(0.1, 1.1 * float(np.quantile(limits, 0.9)) if limits else 0.1)))


def _verdict_row(verdict: Verdict, reach: float) -> str:
    notes = [verdict.advice, *verdict.warnings]
    if verdict.suspects:
        notes.append("since the baseline: " + "; ".join(map(str, verdict.suspects)))
    if verdict.state_differences:
        notes.append("machine state: " + "; ".join(map(str, verdict.state_differences)))
    small = "".join(f'<span class="small">{escaped(note)}</span>' for note in notes if note)
    simulated = '<span class="small">SIMULATED</span>' if verdict.simulated else ""
    detectable = f"finds {format_percent(verdict.mde)}" if verdict.mde is not None else ""
    change = escaped(format_percent(verdict.effect, signed=True))
    cells = [
        _badge(verdict.outcome) + simulated,
        f'<b>{escaped(verdict.metric)}</b><span class="small">{breakable(verdict.test)}</span>',
        escaped(format_value(verdict.baseline, verdict.unit)),
        escaped(format_value(verdict.now, verdict.unit)),
        f'{change}<span class="small">{escaped(_interval(verdict))}</span>',
        _effect_bar(verdict, reach),
        f'{verdict.runs} / {verdict.baseline_runs}<span class="small">{escaped(detectable)}</span>',
        escaped(verdict.reason) + small,
    ]
    kinds = ("", "test", "short", "short", "short", "", "short", "why")
    return "".join(f'<td class="{kind}">{cell}</td>' for kind, cell in zip(kinds, cells, strict=True))


def breakable(test: str) -> str:
    """A test's id for HTML that may break where its parts meet.

    >>> breakable("a/b.py::t[x-y]")
    'a/<wbr>b.py::<wbr>t[<wbr>x-<wbr>y]'
    """
    return re.sub(r"(::|[/\[-])", r"\1<wbr>", escaped(test))


def _interval(verdict: Verdict) -> str:
    if verdict.interval is None:
        return ""
    low, high = (format_percent(limit, signed=True) if np.isfinite(limit) else "open" for limit in verdict.interval)
    return f"{low} to {high}"


def _effect_bar(verdict: Verdict, reach: float) -> str:
    """The change and its interval on a line, the tolerance as a band; a picture of numbers that stand beside it."""
    if verdict.effect is None:
        return ""
    wide, middle = 130.0, 65.0

    def place(value: float) -> float:
        return middle + max(-1.0, min(1.0, value / reach)) * (middle - 5)

    low, high = verdict.interval or (verdict.effect, verdict.effect)
    band = (place(-verdict.tolerance), place(verdict.tolerance))
    return (
        f'<svg width="{wide:.0f}" height="20" aria-hidden="true"><rect class="effect-band" x="{band[0]:.1f}" y="3" '
        f'width="{band[1] - band[0]:.1f}" height="14"/>'
        f'<line class="effect-zero" x1="{middle}" x2="{middle}" y1="1" y2="19"/>'
        f'<line class="effect-line" x1="{place(low):.1f}" x2="{place(high):.1f}" y1="10" y2="10"/>'
        f'<circle class="effect-dot" cx="{place(verdict.effect):.1f}" cy="10" r="4"/></svg>'
    )


def takeaways_section(found: Sequence[Takeaway], swept: bool) -> str:
    """The sweep in plain words."""
    if not swept:
        return ""
    if not found:
        return '<p class="quiet">Nothing that the data carry: no difference between cells is clear.</p>'
    items = "".join(
        f"<li>{escaped(('SIMULATED: ' if item.simulated else '') + item.text)} "
        f'<span class="small">{escaped(item.confidence)}</span></li>'
        for item in found
    )
    return f'<ul class="takeaways">{items}</ul>'


def placements(contents: Contents, names: Sequence[str]) -> list[tuple[Part, list[str]]]:
    """A measurement of each placement among those named, with the names of all that share it."""
    maps: dict[str, tuple[Part, list[str]]] = {}
    for part in contents.parts:
        if part.topology is None or part.placement is None or part.name not in names:
            continue
        key = repr([(sorted(each.allocated), sorted(each.visible)) for each in part.placement.replicas])
        maps.setdefault(key, (part, []))[1].append(part.short)
    return list(maps.values())


def placement_section(contents: Contents, names: Sequence[str]) -> str:
    """Where replicas lay, of the measurements that the page speaks of; the same placement once."""
    maps = placements(contents, names)
    if not maps:
        return ""
    drawn = [
        placement_map(part.topology, part.placement, ", ".join(dict.fromkeys(titles)))
        for part, titles in maps[:MOST_MAPS]
        if part.topology is not None and part.placement is not None
    ]
    more = f'<p class="note">{MOST_MAPS} of {len(maps)} placements are drawn.</p>' if len(maps) > MOST_MAPS else ""
    note = (
        '<p class="note">One square a core, one part of it a thread. Filled and numbered: the replica sees it. '
        "Hatched: allocated, hidden from the workload. Empty: free.</p>"
    )
    return f'<div class="maps">{"".join(drawn)}</div>{note}{more}'


def left_out_section(contents: Contents) -> str:
    """Cells that were not measured, and why."""
    if not contents.left_out:
        return ""
    return f"<ul>{''.join(f'<li>{escaped(line)}</li>' for line in contents.left_out)}</ul>"


def measurements_section(contents: Contents, keep: Keep) -> str:
    """What was measured, one line each: latency, throughput, CPUs, requests."""
    parts = contents.parts
    header = ("measurement", "node", "CPUs allocated / visible", "runs", *SHOWN, "requests", "failed")
    rows = tuple(_measurement_row(part) for part in parts)
    table = TextTable("", header, rows, numeric=frozenset(range(3, len(header))), simulated=contents.simulated)
    block = table_block("measurements", table, keep)
    if len(parts) <= 12:
        return block
    return f"<details><summary>{len(parts)} measurements</summary>{block}</details>"


def _measurement_row(part: Part) -> tuple[Field, ...]:
    row = part.row
    values = [(row.value(name), "token/s" if name == "throughput" else "s") for name in SHOWN]
    return (
        Field(part.name, note="SIMULATED" if part.simulated else ""),
        Field(str(row.where.get("node", "-"))),
        Field(f"{row.cpus} / {row.visible}"),
        Field(str(len(row.runs("throughput")) or len(row.runs("tpot")))),
        *(Field(format_value(value, unit), repr(value)) for value, unit in values),
        Field(f"{part.measured} + {part.warmup} warm-up", str(part.measured)),
        Field(str(part.failures)),
    )


def warnings_section(contents: Contents) -> str:
    """Every warning once, with where it was given."""
    where: dict[str, list[str]] = {}
    for part in contents.parts:
        for text in part.warnings:
            where.setdefault(text, []).append(part.name)
    if not where:
        return ""
    items = "".join(
        f'<li>{escaped(text)} <span class="small">{escaped(_places(names))}</span></li>'
        for text, names in where.items()
    )
    return f"<ul>{items}</ul>"


def _places(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def fingerprint_section(contents: Contents) -> str:
    """Machine and software; fields that differ between measurements show all their values."""
    fields: dict[str, dict[str, Counter[str]]] = {}
    for part in contents.parts:
        for name, group in (part.document.get("fingerprint") or {}).items():
            if isinstance(group, Mapping):
                for key, value in _flat(group):
                    fields.setdefault(str(name), {}).setdefault(key, Counter())[value] += 1
    if not fields:
        return ""
    blocks = []
    for name, entries in fields.items():
        items = "".join(f"<dt>{escaped(key)}</dt><dd>{escaped(_values(count))}</dd>" for key, count in entries.items())
        blocks.append(f"<h3>{escaped(name)}</h3><dl>{items}</dl>")
    return "".join(blocks)


def _flat(group: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for key, value in group.items():
        if isinstance(value, Mapping):
            found.extend(_flat(value, f"{prefix}{key}."))
        else:
            found.append((f"{prefix}{key}", ", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    return found


def _values(counts: Counter[str]) -> str:
    if len(counts) <= 3:
        return " | ".join(counts)
    return " | ".join(list(counts)[:3]) + f" | {len(counts) - 3} more values"


def definitions_section(contents: Contents) -> str:
    """What each number means."""
    items = "".join(f"<dt>{escaped(name)}</dt><dd>{escaped(text)}</dd>" for name, text in contents.definitions.items())
    floors = ", ".join(f"p{percent} {samples}" for percent, samples in ENOUGH_SAMPLES.items())
    rules = (
        "A value is the median over the runs of each run's median (a rate: of each run's rate); a run is a fresh "
        "engine process. Warm-up requests are left out and counted; failed requests are counted and in no latency. "
        f"A pooled percentile wants this many samples: {floors}. CPUs allocated are what is paid for, CPUs visible "
        "what the workload may run on."
    )
    return f'<dl>{items}</dl><p class="note">{escaped(rules)}</p>'
