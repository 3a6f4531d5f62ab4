"""The report as one self-contained HTML page: no network, verdicts first, the dots, and everything that was derived.

Whatever comes from a test, prompt, model or counter is escaped where it enters the page; scripts run only by the
hash of their text, so nothing that slipped through could run.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from pytest_nriperf.atomic import replaced
from pytest_nriperf.report import figures
from pytest_nriperf.report.contents import Contents
from pytest_nriperf.report.live_dots import LiveDots
from pytest_nriperf.report.sections import (
    definitions_section,
    fingerprint_section,
    left_out_section,
    measurements_section,
    placement_section,
    table_block,
    takeaways_section,
    verdict_section,
    warnings_section,
)
from pytest_nriperf.report.tables import TextTable, escaped, front_table, rows_table, wisdom_table
from pytest_nriperf.sweep.curves import curves
from pytest_nriperf.sweep.front import pareto
from pytest_nriperf.sweep.rows import Row
from pytest_nriperf.sweep.tables import wisdom
from pytest_nriperf.sweep.takeaways import takeaways


def write_report(contents: Contents, path: Path) -> int:
    """Write the page; returns its size in bytes."""
    page = render(contents).encode("utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as temporary:
        temporary.write_bytes(page)
    return len(page)


def render(contents: Contents) -> str:
    """The whole page."""
    page = Page(contents)
    body = page.body()
    scripts = [figures.plotly_script(), asset("page.js")]
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(each.encode()).digest()).decode()}'" for each in scripts
    )
    policy = (
        f"default-src 'none'; script-src {hashes} 'unsafe-eval'; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escaped(contents.title)}</title><style>{asset('page.css')}</style></head><body>{body}"
        f'<script type="application/json" id="nriperf-data">{json_for_html(page.store)}</script>'
        + "".join(f"<script>{each}</script>" for each in scripts)
        + "</body></html>\n"
    )


def json_for_html(value: Any) -> str:
    """JSON that can stand in a script element: nothing in it can end the element or begin a comment.

    >>> json_for_html("</script><!--")
    '"\\\\u003c/script\\\\u003e\\\\u003c!--"'
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def asset(name: str) -> str:
    """A file of the page: its script or its style sheet."""
    return files("pytest_nriperf.report").joinpath(name).read_text(encoding="utf-8")


class Page:
    """Builds the body section by section and collects what the scripts need: `store`."""

    def __init__(self, contents: Contents) -> None:
        self.contents = contents
        self.rows = contents.rows
        self.front = pareto(self.rows) if len(self.rows) > 2 else []
        self.tables: dict[str, TextTable] = {}
        self.figures: dict[str, figures.Figure] = {}
        self.dots = LiveDots(contents)

    @property
    def store(self) -> dict[str, Any]:
        """What the scripts read."""
        return {
            "figures": self.figures,
            "tables": {name: {"csv": table.csv(), "markdown": table.markdown()} for name, table in self.tables.items()},
            "dots": self.dots.columns(),
            "strips": self.dots.strips(),
        }

    def body(self) -> str:
        """All sections, each with its place in the navigation."""
        sections = [
            ("verdicts", "Verdicts", verdict_section(self.contents, self._table)),
            ("takeaways", "What the sweep says", takeaways_section(takeaways(self.rows), bool(self.rows))),
            ("dots", "Dots", self.dots.section()),
            ("distributions", "Distributions", self._distributions()),
            ("scaling", "Scaling", self._scaling()),
            ("pareto", "Pareto front", self._pareto()),
            ("wisdom", "Tables of wisdom", self._wisdom()),
            ("placement", "Placement", placement_section(self.contents, self.highlights())),
            ("left-out", "Left out", left_out_section(self.contents)),
            ("measurements", "Measurements", measurements_section(self.contents, self._table)),
            ("warnings", "Warnings", warnings_section(self.contents)),
            ("fingerprint", "Fingerprint", fingerprint_section(self.contents)),
            ("definitions", "Definitions", definitions_section(self.contents)),
        ]
        there = [(anchor, title, text) for anchor, title, text in sections if text]
        links = "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title, _ in there)
        blocks = "".join(
            f'<section id="{anchor}" aria-labelledby="{anchor}-title"><h2 id="{anchor}-title">{title}</h2>'
            f"{text}</section>"
            for anchor, title, text in there
        )
        return (
            f'<a class="skip" href="#main">to the contents</a><header>{self._head()}<nav>{links}'
            f'<button type="button" id="theme">light / dark</button></nav></header><main id="main">{blocks}</main>'
            f"<footer>{self._foot()}</footer>"
        )

    def _head(self) -> str:
        contents = self.contents
        count, runs = len(contents.parts), sum(len(part.row.runs("tpot")) for part in contents.parts)
        banner = ""
        if contents.simulated and not all(part.simulated for part in contents.parts):
            banner = (
                '<p class="simulated" role="note">SIMULATED <span>What is marked so on this page comes from a model of '
                "a server, not from a server, and is never evidence.</span></p>"
            )
        elif contents.simulated:
            banner = (
                '<p class="simulated" role="note">SIMULATED <span>Times on this page come from a model of a server, '
                "not from a server. They are for trying out and planning, never evidence.</span></p>"
            )
        when = sorted(str(part.document.get("time", "")) for part in contents.parts if part.document.get("time"))
        span = f"{when[0]} to {when[-1]}" if len(when) > 1 and when[0] != when[-1] else "".join(when[:1])
        words = [f"{count} measurement{'' if count == 1 else 's'}", f"{runs} run{'' if runs == 1 else 's'}", span]
        return (
            f'<h1>{escaped(contents.title)}</h1><p class="quiet">{escaped(" · ".join(filter(None, words)))}</p>{banner}'
        )

    def _foot(self) -> str:
        sources = ", ".join(self.contents.sources[:3]) + (" ..." if len(self.contents.sources) > 3 else "")
        return f"<p>pytest-nriperf, from the recordings {escaped(sources)}. Plots: plotly.js (MIT).</p>"

    # ------------------------------------------------------------------------------------ what was derived

    def _distributions(self) -> str:
        parts = [part for part in self.contents.parts if part.itl.size]
        if not parts:
            return ""
        chosen = parts
        note = ""
        if len(parts) > figures.MOST_SERIES:
            names = self.highlights()
            chosen = [part for part in parts if part.name in names] or parts
            few = len(chosen[: figures.MOST_SERIES])
            note = f'<p class="note">{few} of {len(parts)} measurements: those named on this page.</p>'
        return self._figure("distribution", figures.distribution(chosen)) + note

    def _scaling(self) -> str:
        if len(self.rows) < 3:
            return ""
        parts = []
        for metric, words in (("throughput", "Node throughput"), ("tpot", "Stream latency")):
            for axis in ("cpus", "replicas"):
                found = curves(self.rows, metric, axis)
                if found:
                    shown = _strongest(found)
                    more = f", {len(shown)} of {len(found)} curves" if len(shown) < len(found) else ""
                    title = f"{words} by {'CPUs a replica' if axis == 'cpus' else axis}{more}"
                    parts.append(self._figure(f"scaling-{metric}-{axis}", figures.scaling(shown, title)))
        return "".join(parts)

    def _pareto(self) -> str:
        if not self.front:
            return ""
        table = table_block("pareto", front_table(self.front), self._table)
        self.tables["pareto"] = front_table(self.front, most=len(self.front))
        return self._figure("front", figures.front_plot(self.front)) + table

    def _wisdom(self) -> str:
        if not self.rows:
            return ""
        parts = []
        for metric in ("throughput", "tpot", "ttft"):
            for index, found in enumerate(wisdom(self.rows, metric)):
                parts.append(table_block(f"wisdom-{metric}-{index}", wisdom_table(found), self._table))
        self._table("cells", rows_table(self.rows))
        parts.append(
            '<p class="tools"><span>every cell:</span>'
            '<button type="button" data-table="cells" data-kind="csv">CSV</button>'
            '<button type="button" data-table="cells" data-kind="markdown">Markdown</button></p>'
        )
        return "".join(parts)

    def highlights(self) -> list[str]:
        """Names of the measurements that the page speaks of: winners and what they are compared with."""
        names = [part.name for part in self.contents.parts if not part.sweep]
        if self.rows:
            order = sorted(self.rows, key=lambda row: (-row.value("throughput"), row.cpus))
            fast = sorted(self.rows, key=lambda row: (row.value("tpot"), row.cpus))
            largest = sorted(self.rows, key=lambda row: (-row.cpus, str(row.cell.get("replicas", 1)) != "1"))
            cheap = sorted((cell.row for cell in self.front if cell.on_front), key=lambda row: row.cpus)
            chosen: list[Row] = [*order[:2], *fast[:1], *largest[:1], *cheap[:1]]
            cells = [row.cell for row in chosen]
            names += [part.name for part in self.contents.parts if part.sweep and part.row.cell in cells]
        return list(dict.fromkeys(names))

    def _table(self, name: str, table: TextTable) -> None:
        self.tables[name] = table

    def _figure(self, name: str, figure: figures.Figure) -> str:
        self.figures[name] = figure
        if self.contents.simulated:
            figure["layout"]["title"]["text"] += " · SIMULATED"
        title = figure["layout"]["title"]["text"]
        height = figure["layout"]["height"]
        return (
            f'<div class="plot" id="{name}" data-figure="{name}" role="img" aria-label="{title}" '
            f'style="min-height:{height}px"></div>'
        )


def _strongest(found: Sequence[Any], most: int = 10) -> list[Any]:
    """The curves that matter most when there are too many: those that reach the best values, in their order."""
    if len(found) <= most:
        return list(found)
    sign = -1 if found[0].metric == "throughput" else 1
    best = sorted(found, key=lambda curve: min(sign * value for value in curve.y))[:most]
    return [curve for curve in found if curve in best]
