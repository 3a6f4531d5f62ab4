"""The report as one self-contained HTML page: no network, verdicts first, the dots, and everything that was derived.

Whatever comes from a test, prompt, model or counter is escaped where it enters the page; scripts run only by the
hash of their text, so nothing that slipped through could run.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_nriperf.report import figures
from pytest_nriperf.report.contents import Contents, Strip
from pytest_nriperf.report.picture import still_picture
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
from pytest_nriperf.sweep.rows import Row, ordered, varying
from pytest_nriperf.sweep.tables import wisdom
from pytest_nriperf.sweep.takeaways import takeaways
from pytest_nriperf.units import scale_unit

MOST_DOTS = 2_400_000
SERIES = ("#0072b2", "#d55e00", "#009e73", "#b3568a", "#8a6d00", "#3f8fc5", "#5f3b9e", "#777777")
BANDS = 8
RULE = (
    "At most 50,000 dots are drawn at once: all that are in view when they are fewer; else the lowest and the highest "
    "gap of each of 500 columns of the view, the 5,000 gaps farthest from the median, and a random part of the rest. "
    "Zooming in shows more. Dots are drawn in shuffled layers, so that no replica hides another; the still picture "
    "(printed, and shown first) has all of them in random order."
)


def write_report(contents: Contents, path: Path) -> int:
    """Write the page; returns its size in bytes."""
    page = render(contents).encode("utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        temporary.write_bytes(page)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return len(page)


def render(contents: Contents) -> str:
    """The whole page."""
    page = Page(contents)
    body = page.body()
    scripts = [figures.plotly_script(), _asset("page.js")]
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
        f"<title>{escaped(contents.title)}</title><style>{_asset('page.css')}</style></head><body>{body}"
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


def _asset(name: str) -> str:
    return files("pytest_nriperf.report").joinpath(name).read_text(encoding="utf-8")


class Page:
    """Builds the body section by section and collects what the scripts need: `store`."""

    def __init__(self, contents: Contents) -> None:
        self.contents = contents
        self.rows = contents.rows
        self.front = pareto(self.rows) if len(self.rows) > 2 else []
        self.tables: dict[str, TextTable] = {}
        self.figures: dict[str, figures.Figure] = {}
        self.gaps = contents.gaps.thinned(MOST_DOTS)

    @property
    def store(self) -> dict[str, Any]:
        """What the scripts read."""
        return {
            "figures": self.figures,
            "tables": {name: {"csv": table.csv(), "markdown": table.markdown()} for name, table in self.tables.items()},
            "dots": self._dots(),
            "strips": self._strips(),
        }

    def body(self) -> str:
        """All sections, each with its place in the navigation."""
        sections = [
            ("verdicts", "Verdicts", verdict_section(self.contents, self._table)),
            ("takeaways", "What the sweep says", takeaways_section(takeaways(self.rows), bool(self.rows))),
            ("dots", "Dots", self._dots_section()),
            ("distributions", "Distributions", self._distributions()),
            ("scaling", "Scaling", self._scaling()),
            ("pareto", "Pareto front", self._pareto()),
            ("wisdom", "Tables of wisdom", self._wisdom()),
            ("placement", "Placement", placement_section(self.contents, self._highlights())),
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

    # -------------------------------------------------------------------------------------------- the dots

    def _axes(self) -> dict[str, tuple[list[str], list[int]]]:
        """Axes of the sweeps that can colour the dots: their values, and the place of each part's value among them."""
        found: dict[str, tuple[list[str], list[int]]] = {}
        for axis, values in varying([part.row for part in self.contents.parts if part.sweep]).items():
            labels = [{**part.row.where, **part.row.cell}.get(axis, "-") for part in self.contents.parts]
            words = [*ordered(map(str, values)), *({"-"} if "-" in labels else ())]
            if len(words) <= 16 and axis not in ("part", "run", "replica"):
                found[axis] = (words, [words.index(str(label)) for label in labels])
        return found

    def _keys(self, by: str) -> NDArray[np.int32]:
        """What the colour of each request goes by: a column of the gaps, or the value of an axis."""
        axes = self._axes()
        if by in axes:
            return np.array(axes[by][1], dtype=np.int32)[self.gaps.part]
        keys: NDArray[np.int32] = getattr(self.gaps, by)
        return keys

    def _defaults(self) -> tuple[str, str]:
        """What colours the dots and which clock they stand on, at first."""
        gaps = self.gaps
        if len(np.unique(gaps.part)) > 1:
            axes = self._axes()
            by = next((axis for axis in ("hyperthreads", "replicas", *axes) if axis in axes), "part")
            return by, "session"
        by = "replica" if len(np.unique(gaps.replica)) > 1 else "run"
        return by, "run" if len(np.unique(gaps.run)) > 1 else "session"

    def _dots_section(self) -> str:
        gaps = self.gaps
        if not len(gaps):
            return ""
        by, clock = self._defaults()
        times = gaps.times() - (np.repeat(gaps.origin_s, gaps.count) if clock == "run" else 0.0)
        series = np.repeat(series_of(self._keys(by)), gaps.count)
        picture = still_picture(times, gaps.gap_s.astype(float), series, SERIES)
        fewer = f"The page holds {len(gaps):,} of {gaps.total:,} dots. " if gaps.total > len(gaps) else ""
        return (
            '<p class="quiet">One dot a token: the gap since the token before it, of every measured request.</p>'
            f"{self._controls()}"
            '<div class="stage" id="stage">'
            '<div id="dots-plot" class="live" tabindex="0" role="application" aria-label="dots; plus and minus zoom, '
            f'arrows move, 0 shows all"></div>{picture}<div class="tip" id="tip" hidden></div></div>'
            '<div class="legend" id="legend" role="group" aria-label="series"></div>'
            f"{self._strip_places()}"
            f'<p class="note"><span id="drawn"></span></p><p class="note">{fewer}{RULE}</p>'
        )

    def _controls(self) -> str:
        parts = self.contents.parts
        options = "".join(f'<option value="{index}">{escaped(part.short)}</option>' for index, part in enumerate(parts))
        every = '<option value="-1">all measurements</option>' if len(parts) > 1 else ""
        buttons = "".join(
            f'<button type="button" data-action="{action}">{word}</button>'
            for action, word in (
                ("zoom-in", "zoom in"),
                ("zoom-out", "zoom out"),
                ("left", "&#9664; earlier"),
                ("right", "later &#9654;"),
                ("reset", "show all"),
                ("scale", "linear scale"),
            )
        )
        axes = "".join(f'<option value="{escaped(axis)}">{escaped(axis)}</option>' for axis in self._axes())
        return (
            f'<div class="tools"><label>measurement <select id="part">{every}{options}</select></label>'
            '<label>colour by <select id="by"><option value="replica">replica</option><option value="run">run</option>'
            f'<option value="part">measurement</option>{axes}</select></label>'
            '<label>clock <select id="clock"><option value="run">start of the run</option>'
            f'<option value="session">session</option></select></label>{buttons}</div>'
        )

    def _strip_places(self) -> str:
        places = []
        for key in dict.fromkeys(each.name for each in self.contents.strips):
            own = [each for each in self.contents.strips if each.name == key]
            _, unit = strip_scale(own)
            places.append(
                f'<h3>{escaped(key)}</h3><div class="strip" data-strip="{escaped(key)}" data-unit="{escaped(unit)}" '
                f'role="img" aria-label="{escaped(key)} over time"></div>'
            )
        return "".join(places)

    def _strips(self) -> list[dict[str, Any]]:
        origins = self._origins()
        scales = {
            key: strip_scale([each for each in self.contents.strips if each.name == key])[0]
            for key in {each.name for each in self.contents.strips}
        }
        return [
            {
                "key": strip.name,
                "part": strip.part,
                "scope": strip.scope,
                "origin": origins.get((strip.part, strip.run), 0.0),
                "time": [float(f"{value:.6f}") for value in strip.time_s],
                "value": [float(f"{value / scales[strip.name]:.6g}") for value in strip.value],
            }
            for strip in map(thinned_strip, self.contents.strips)
        ]

    def _origins(self) -> dict[tuple[int, int], float]:
        gaps = self.contents.gaps
        return {
            (int(part), int(run)): float(origin)
            for part, run, origin in zip(gaps.part, gaps.run, gaps.origin_s, strict=True)
        }

    def _dots(self) -> dict[str, Any]:
        gaps = self.gaps
        by, clock = self._defaults() if len(gaps) else ("run", "run")
        scale, unit = scale_unit(float(np.median(gaps.gap_s)) if len(gaps) else 1.0, "s")
        return {
            **{name: _packed(getattr(gaps, name), "<i4") for name in ("part", "run", "replica", "request", "count")},
            "first_s": _packed(gaps.first_s, "<f8"),
            "origin_s": _packed(gaps.origin_s, "<f8"),
            "gap_s": _packed(gaps.gap_s, "<f4"),
            "names": [part.short for part in self.contents.parts],
            "axes": {axis: {"values": words, "of": places} for axis, (words, places) in self._axes().items()},
            "by": by,
            "clock": clock,
            "unit": {"scale": scale, "name": unit},
        }

    # ------------------------------------------------------------------------------------ what was derived

    def _distributions(self) -> str:
        parts = [part for part in self.contents.parts if part.itl.size]
        if not parts:
            return ""
        chosen = parts
        note = ""
        if len(parts) > figures.MOST_SERIES:
            names = self._highlights()
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

    def _highlights(self) -> list[str]:
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


def series_of(keys: NDArray[np.int32]) -> NDArray[np.int64]:
    """The colour's number of each request, as on the live plot: the key's place, in bands when there are many.

    >>> series_of(np.array([5, 3, 5], dtype=np.int32)).tolist()
    [1, 0, 1]
    """
    values, place = np.unique(keys, return_inverse=True)
    numbers: NDArray[np.int64] = place if len(values) <= 16 else place * BANDS // len(values)
    return numbers % len(SERIES)


def strip_scale(strips: Sequence[Strip]) -> tuple[float, str]:
    """Divisor and unit in which all strips of a name read well."""
    return scale_unit(max((float(np.max(np.abs(each.value))) for each in strips), default=1.0), strips[0].unit)


def thinned_strip(strip: Strip, most: int = 600) -> Strip:
    """A long strip by the lowest and the highest reading of each of its pieces, so that no peak is lost."""
    if len(strip.value) <= most:
        return strip
    edges = np.linspace(0, len(strip.value), most // 2 + 1).astype(int)
    keep = {
        int(start + place(strip.value[start:end]))
        for start, end in itertools.pairwise(edges)
        for place in (np.argmin, np.argmax)
    }
    rows = sorted(keep)
    return replace(strip, time_s=strip.time_s[rows], value=strip.value[rows])


def _strongest(found: Sequence[Any], most: int = 10) -> list[Any]:
    """The curves that matter most when there are too many: those that reach the best values, in their order."""
    if len(found) <= most:
        return list(found)
    sign = -1 if found[0].metric == "throughput" else 1
    best = sorted(found, key=lambda curve: min(sign * value for value in curve.y))[:most]
    return [curve for curve in found if curve in best]


def _packed(values: NDArray[Any], kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype=kind).tobytes()).decode()
