"""Tables for people and programs: one table, written as text, Markdown, CSV or HTML.

Whatever stands in a field is data: escaped for where it goes, never markup, formula or terminal sequence.
"""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_nriperf.sweep.front import FrontCell
from pytest_nriperf.sweep.rows import Row
from pytest_nriperf.sweep.tables import Entry, WisdomTable
from pytest_nriperf.units import format_percent, format_text, format_value

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Field:
    """One field: `text` for people, `value` for programs (empty: the text), and whether it is marked."""

    text: str
    value: str = ""
    marked: bool = False
    note: str = ""


@dataclass(frozen=True)
class TextTable:
    """A titled table; numbers stand to the right. `notes` explain it beneath."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Field, ...], ...]
    notes: tuple[str, ...] = ()
    numeric: frozenset[int] = field(default_factory=frozenset)
    simulated: bool = False

    @property
    def heading(self) -> str:
        """The title, and SIMULATED where it is due."""
        return f"{self.title}{' SIMULATED' if self.simulated else ''}".strip()

    def text(self) -> str:
        """For a terminal: columns aligned, the marked field with a star."""
        cells = [[format_text(word) for word in self.header]]
        cells += [[format_text(_starred(entry)) for entry in row] for row in self.rows]
        widths = [max(len(row[column]) for row in cells) for column in range(len(self.header))]
        lines = [
            "  ".join(
                word.rjust(width) if column in self.numeric else word.ljust(width)
                for column, (word, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in cells
        ]
        rule = "  ".join("-" * width for width in widths)
        return "\n".join([format_text(self.heading), lines[0], rule, *lines[1:], *map(format_text, self.notes)]) + "\n"

    def markdown(self) -> str:
        """For GitHub: the marked field is bold."""
        head = [markdown_text(word) for word in self.header]
        rule = ["---:" if column in self.numeric else "---" for column in range(len(head))]
        body = [[_bold(entry) for entry in row] for row in self.rows]
        lines = [f"| {' | '.join(row)} |" for row in [head, rule, *body]]
        notes = [f"\n{markdown_text(note)}" for note in self.notes]
        return "\n".join([f"**{markdown_text(self.heading)}**", "", *lines, *notes]) + "\n"

    def csv(self) -> str:
        """For programs: values in base units; a text that a spreadsheet would take for a formula is quoted."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        more = (["simulated"], ["yes"]) if self.simulated else ([], [])
        writer.writerow([_harmless(word) for word in self.header] + more[0])
        writer.writerows([[entry.value or _harmless(entry.text) for entry in row] + more[1] for row in self.rows])
        return out.getvalue()

    def html(self) -> str:
        """For the page."""
        head = "".join(
            f'<th scope="col"{_right(column, self.numeric)}>{escaped(word)}</th>'
            for column, word in enumerate(self.header)
        )
        body = "".join(f"<tr>{self._html_row(row)}</tr>" for row in self.rows)
        notes = "".join(f'<p class="note">{escaped(note)}</p>' for note in self.notes)
        caption = f"<caption>{escaped(self.heading)}</caption>" if self.title else ""
        table = f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return f'<div class="wide" tabindex="0" role="region" aria-label="{escaped(self.title)}">{table}</div>{notes}'

    def _html_row(self, row: Sequence[Field]) -> str:
        parts = []
        for column, entry in enumerate(row):
            tag = 'th scope="row"' if column == 0 else "td"
            kind = ' class="best"' if entry.marked else _right(column, self.numeric)
            note = f'<span class="small">{escaped(entry.note)}</span>' if entry.note else ""
            star = '<span class="star" title="best">★</span>' if entry.marked else ""
            parts.append(f"<{tag}{kind}>{star}{escaped(entry.text)}{note}</{tag.split()[0]}>")
        return "".join(parts)


def escaped(text: Any) -> str:
    """Text for HTML, in an element or a quoted attribute.

    >>> escaped('<script>"x"')
    '&lt;script&gt;&quot;x&quot;'
    """
    return html.escape(format_text(text), quote=True)


def markdown_text(text: Any) -> str:
    """Text for a field of a Markdown table: no markup, link, HTML or end of field.

    >>> markdown_text("a|b <i> [x](y) `c`")
    'a\\\\|b &lt;i&gt; \\\\[x\\\\](y) \\\\`c\\\\`'
    """
    safe = html.escape(format_text(text), quote=False)
    return re.sub(r"([\\`*_\[\]|~#!])", r"\\\1", safe)


def _harmless(text: str) -> str:
    clean = format_text(text)
    return f"'{clean}" if clean.startswith(_FORMULA) else clean


def _bold(entry: Field) -> str:
    text = markdown_text(f"{entry.text} ({entry.note})" if entry.note else entry.text)
    return f"**{text}**" if entry.marked else text


def _starred(entry: Field) -> str:
    return ("* " if entry.marked else "") + entry.text + (f" ({entry.note})" if entry.note else "")


def _right(column: int, numeric: Iterable[int]) -> str:
    return ' class="number"' if column in numeric else ""


# ------------------------------------------------------------------------------------------- tables of a sweep


def wisdom_table(table: WisdomTable, *, brief: bool = False) -> TextTable:
    """A table of wisdom: value, spread over runs, runs, and at which value of the other axes it was found.

    `brief` leaves CPUs and spread out, for a terminal's width.
    """
    rows = tuple(
        (Field(str(name)), *(_entry_field(entry, table.unit, brief=brief) for entry in line))
        for name, line in zip(table.rows, table.entries, strict=True)
    )
    header = (
        table.row_axis,
        *(f"{table.column_axis}={name}" if table.column_axis else "best" for name in table.columns),
    )
    found = [entry for line in table.entries for entry in line if entry]
    least, most = min((e.runs for e in found), default=0), max((e.runs for e in found), default=0)
    word = "lowest" if table.better == "lower" else "highest"
    runs = f"{least}" if least == most else f"{least} to {most}"
    spread = "" if brief else ", lowest to highest run"
    notes = [f"Median of {runs} run{'' if most == 1 else 's'} a cell{spread}; star: the {word} of all."]
    if most == 1:
        notes = [f"One run a cell: no spread is known; star: the {word} of all."]
    simulated = any(entry.simulated for entry in found)
    return TextTable(_wisdom_title(table), header, rows, tuple(notes), frozenset(range(1, len(header))), simulated)


def _wisdom_title(table: WisdomTable) -> str:
    words = {"throughput": "Node throughput", "tpot": "Time per output token", "ttft": "Time to first token"}
    return words.get(table.metric, table.metric) + table.title.removeprefix(table.metric)


def _entry_field(entry: Entry | None, unit: str, *, brief: bool) -> Field:
    if entry is None:
        return Field("-")
    notes = [entry.at] if brief else [entry.at, f"{entry.cpus} CPUs"]
    if entry.runs > 1 and not brief:
        notes.append(f"{format_value(entry.low, unit)} to {format_value(entry.high, unit)}, n={entry.runs}")
    return Field(format_value(entry.value, unit), repr(entry.value), entry.best, ", ".join(filter(None, notes)))


def front_table(cells: Sequence[FrontCell], most: int = 20) -> TextTable:
    """The Pareto front, fewest CPUs first, with each cell's probability to be on it."""
    chosen = [cell for cell in cells if cell.on_front or (cell.probability or 0) >= 0.1]
    chosen.sort(key=lambda cell: (cell.row.cpus, cell.row.value("tpot")))
    rows = tuple(_front_row(cell) for cell in chosen[:most])
    notes = [
        "On the front: no other cell is at least as good in TPOT, throughput and CPUs and better in one; ties stay."
    ]
    if any(cell.probability is None for cell in chosen):
        notes.append("No cell was repeated, so no probability can be told: measure the front's cells more than once.")
    if len(chosen) > most:
        notes.append(f"{most} of {len(chosen)} cells are shown; the CSV has all.")
    header = ("cell", "TPOT", "node throughput", "CPUs", "on the front", "probability")
    simulated = any(cell.row.simulated for cell in cells)
    return TextTable("Pareto front", header, rows, tuple(notes), frozenset({1, 2, 3, 5}), simulated)


def _front_row(cell: FrontCell) -> tuple[Field, ...]:
    row = cell.row
    return (
        Field(row.name),
        Field(format_value(row.value("tpot"), "s"), repr(row.value("tpot"))),
        Field(format_value(row.value("throughput"), "token/s"), repr(row.value("throughput"))),
        Field(str(row.cpus)),
        Field("yes" if cell.on_front else "no"),
        Field(format_percent(cell.probability, digits=0), "" if cell.probability is None else str(cell.probability)),
    )


def rows_table(rows: Sequence[Row], metrics: Sequence[str] = ("tpot", "itl", "ttft", "throughput")) -> TextTable:
    """Every cell that was measured, for programs and for looking one up."""
    axes = list(dict.fromkeys(axis for row in rows for axis in [*row.cell, *row.where]))
    header = (*axes, "CPUs allocated", "CPUs visible", "runs", *metrics)
    return TextTable(
        "All cells",
        header,
        tuple(_whole_row(row, axes, metrics) for row in rows),
        numeric=frozenset(range(len(axes), len(header))),
        simulated=any(row.simulated for row in rows),
    )


def _whole_row(row: Row, axes: Sequence[str], metrics: Sequence[str]) -> tuple[Field, ...]:
    labels = {**row.where, **row.cell}
    return (
        *(Field(str(labels.get(axis, "-"))) for axis in axes),
        Field(str(row.cpus)),
        Field(str(row.visible)),
        Field(str(max((len(row.runs(metric)) for metric in metrics), default=0))),
        *(Field(format_value(row.value(name), _unit(name)), repr(row.value(name))) for name in metrics),
    )


def _unit(metric: str) -> str:
    return "token/s" if metric == "throughput" else "s"
