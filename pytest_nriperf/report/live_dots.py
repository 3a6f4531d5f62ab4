"""The dots of the page: every token gap over time, live and as a still picture, with the counters beneath."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_nriperf.report import figures
from pytest_nriperf.report.contents import Contents, Floats, Gaps, Strip
from pytest_nriperf.report.picture import still_picture
from pytest_nriperf.report.tables import escaped
from pytest_nriperf.sweep.rows import ordered, varying
from pytest_nriperf.units import scale_unit

MOST_DOTS = 2_400_000
MOST_DRAWN_IN_FILES = 20_000
SERIES = ("#0072b2", "#d55e00", "#009e73", "#b3568a", "#8a6d00", "#3f8fc5", "#5f3b9e", "#777777")
BANDS = 8
RULE = (
    "At most 50,000 dots are drawn at once: all that are in view when they are fewer; else the lowest and the highest "
    "gap of each of 500 columns of the view, the 5,000 gaps farthest from the median, and a random part of the rest. "
    "Zooming in shows more. Dots are drawn in shuffled layers, so that no replica hides another; the still picture "
    "(printed, and shown first) has all of them in random order."
)


class LiveDots:
    """The section of the dots and what its script reads."""

    def __init__(self, contents: Contents) -> None:
        self.contents = contents
        self.gaps = contents.gaps.thinned(MOST_DOTS)

    def _axes(self) -> dict[str, tuple[list[str], list[int]]]:
        """Axes of the sweeps that can colour the dots: their values, and the place of each part's value among them."""
        found: dict[str, tuple[list[str], list[int]]] = {}
        for axis, values in varying([part.row for part in self.contents.parts if part.sweep]).items():
            labels = [{**part.row.where, **part.row.cell}.get(axis, "-") for part in self.contents.parts]
            words = [*ordered(map(str, values)), *({"-"} if "-" in labels else ())]
            if len(words) <= 16 and axis not in ("part", "run", "replica"):
                found[axis] = (words, [words.index(str(label)) for label in labels])
        return found

    def _keys(self, by: str, gaps: Gaps) -> NDArray[np.int32]:
        """What the colour of each request goes by: a column of the gaps, or the value of an axis."""
        axes = self._axes()
        if by in axes:
            return np.array(axes[by][1], dtype=np.int32)[gaps.part]
        keys: NDArray[np.int32] = getattr(gaps, by)
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

    def section(self) -> str:
        gaps = self.gaps
        if not len(gaps):
            return ""
        by, clock = self._defaults()
        series = np.repeat(series_of(self._keys(by, gaps)), gaps.count)
        picture = still_picture(_on(gaps, clock), gaps.gap_s.astype(float), series, SERIES)
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

    def figures(self) -> dict[str, figures.Figure]:
        """The dots and the counters beneath as plots for files: at most about 20,000 dots, the strangest among them."""
        gaps = self.gaps.thinned(MOST_DRAWN_IN_FILES)
        if not len(gaps):
            return {}
        by, clock = self._defaults()
        fewer = f", {len(gaps):,} of {gaps.total:,} dots" if gaps.total > len(gaps) else ""
        mark = " · SIMULATED" if self.contents.simulated else ""
        zero = "start of the run" if clock == "run" else "start of the session"
        found = {"dots": figures.dots(self._groups(gaps, by, clock), f"Token gaps since the {zero}{fewer}{mark}")}
        for place, name in enumerate(dict.fromkeys(each.name for each in self.contents.strips)):
            own = [thinned_strip(self._on_clock(each, clock)) for each in self.contents.strips if each.name == name]
            found[f"counter-{place}"] = figures.strip(own, f"{name} since the {zero}{mark}")
        return found

    def _groups(self, gaps: Gaps, by: str, clock: str) -> list[tuple[str, Floats, Floats]]:
        """Name, times and gaps of each series, in bands of neighbours when there are many."""
        keys = self._keys(by, gaps)
        values, place = np.unique(keys, return_inverse=True)
        bands = place if len(values) <= figures.MOST_SERIES else place * BANDS // len(values)
        of_dot = np.repeat(bands, gaps.count)
        time, gap = _on(gaps, clock), gaps.gap_s.astype(float)
        return [
            (self._words(by, values[np.unique(place[bands == band])]), time[of_dot == band], gap[of_dot == band])
            for band in np.unique(bands)
        ]

    def _words(self, by: str, keys: NDArray[np.int32]) -> str:
        if by == "part":
            names = [self.contents.parts[key].short for key in keys]
        elif by in ("run", "replica"):
            names = [f"{by} {key}" for key in keys]
        else:
            names = [f"{by} {self._axes()[by][0][key]}" for key in keys]
        return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"

    def _on_clock(self, strip: Strip, clock: str) -> Strip:
        if clock != "run":
            return strip
        return replace(strip, time_s=strip.time_s - self._origins().get((strip.part, strip.run), 0.0))

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
            f'<option value="session">start of the session</option></select></label>{buttons}</div>'
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

    def strips(self) -> list[dict[str, Any]]:
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

    def columns(self) -> dict[str, Any]:
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


def _on(gaps: Gaps, clock: str) -> Floats:
    """When each dot stands: since the session's first measurement, or since the start of its run."""
    times = gaps.times()
    return times - np.repeat(gaps.origin_s, gaps.count) if clock == "run" else times


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


def _packed(values: NDArray[Any], kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype=kind).tobytes()).decode()
