"""The dots of one run in a terminal: every gap between tokens over time, replica by replica. Pure text.

Each replica has a character of its own. A cell that several replicas share is given to the one that has so far
been shown in the smallest part of its cells, so none hides another, however dense the picture is. Gaps far outside
the others stand in a row of their own above (below) the picture, marked with an arrow. Beneath the time axis, whose
heavy part is the steady window, stands each replica's waiting for first tokens (submit to first token, the TTFT).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytest_nriperf.samples import Floats, Integers, Timeline
from pytest_nriperf.units import format_value, scale_unit

COLOURS = (36, 33, 35, 32, 94, 91, 96, 95)
MANY = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
STRIPS = 8


@dataclass(frozen=True)
class Glyphs:
    """The characters of a picture: replicas (when few), one replica by density, axes, marks."""

    replicas: str
    density: str
    above: str
    below: str
    waiting: str
    failed: str
    axis: str
    steady: str
    bar: str
    tick: str
    corner: str
    time_tick: str
    micro: str


UNICODE = Glyphs("●○◆◇▲△■□", "·•●", "▴", "▾", "▒", "×", "─", "━", "│", "┤", "└", "┬", "µ")
ASCII = Glyphs("ox+*#@%&", ".o@", "^", "v", ":", "!", "-", "=", "|", "+", "+", "+", "u")

Paint = Callable[[str, int], str]


def plain(text: str, _colour: int) -> str:
    """The text without colour."""
    return text


def coloured(text: str, colour: int) -> str:
    """The text in an ANSI colour."""
    return f"\x1b[{colour}m{text}\x1b[0m" if text.strip() else text


@dataclass(frozen=True)
class Scale:
    """A linear axis of `cells` cells from `low` to `high`."""

    low: float
    high: float
    cells: int

    def cell(self, values: Floats) -> Integers:
        """The cell of each value: -1 below the axis, `cells` above it."""
        place = np.floor((values - self.low) / (self.high - self.low) * self.cells)
        place[values == self.high] = self.cells - 1
        return np.clip(place, -1, self.cells).astype(np.int64)

    def cell_of(self, value: float) -> int:
        """The cell of one value on the axis, its ends included."""
        return int(np.clip(self.cell(np.array([value]))[0], 0, self.cells - 1))


def draw(
    timeline: Timeline, *, width: int = 80, height: int = 16, glyphs: Glyphs = UNICODE, paint: Paint = plain
) -> list[str]:
    """Lines of at most `width` columns, with `height` rows of dots; one sentence when the run has nothing to draw."""
    if not len(timeline.replica):
        return [f"run {timeline.run}: nothing to draw, no request was measured"]
    gaps = gap_scale(timeline.gap_s, height)
    divisor, unit = scale_unit(gaps.high, "s")
    labels = {height - 1 - gaps.cell_of(tick): _number(tick / divisor) for tick in ticks(gaps, max(2, height // 2 - 1))}
    margin = max([len("TTFT ●"), len(unit), *map(len, labels.values())]) + 1
    last = max([*timeline.end_s.tolist(), *timeline.gap_at_s.tolist()])
    times = Scale(0.0, last or 1.0, max(10, width - margin - 2))
    lines = _legend(timeline.replicas, unit.rjust(margin - 1), glyphs, paint, width)
    for row, text in _dots(timeline, gaps, times, glyphs, paint).items():
        outside = {-1: glyphs.above, height: glyphs.below}.get(row)
        label = (outside or labels.get(row, "")).rjust(margin - 1)
        lines.append(f"{label} {glyphs.tick if row in labels else glyphs.bar}{text}".rstrip())
    lines += _time_axis(timeline, times, margin, glyphs)
    lines += _strips(timeline, times, margin, glyphs, paint)
    lines += _notes(timeline, gaps, glyphs, width)
    return [line.replace("µ", glyphs.micro) for line in lines]


# ------------------------------------------------------------------------------------------------------- scales


def gap_scale(gaps: Floats, rows: int) -> Scale:
    """The range of gaps worth showing: all, or without those farther from the bulk (1 to 99 %) than it is wide.

    >>> scale = gap_scale(np.array([0.050, 0.052, 0.9] + [0.051] * 200), 10)
    >>> 0.048 < scale.low < 0.050, 0.052 < scale.high < 0.054
    (True, True)
    """
    if not len(gaps) or gaps.max() <= 0:
        return Scale(0.0, 1.0, rows)
    first, last = (float(each) for each in np.percentile(gaps, [1, 99]))
    bulk = max(last - first, 0.02 * last)
    shown = gaps[(gaps >= first - bulk) & (gaps <= last + bulk)]
    low, high = float(shown.min()), float(shown.max())
    pad = 0.05 * (high - low) or 0.02 * high or 1e-9
    return Scale(0.0 if low < 0.3 * high else low - pad, high + pad, rows)


def ticks(scale: Scale, most: int) -> list[float]:
    """About `most` round numbers (1, 2 or 5 times a power of ten apart) inside the scale.

    >>> ticks(Scale(0.0, 17.0, 60), 5)
    [0.0, 5.0, 10.0, 15.0]
    """
    rough = (scale.high - scale.low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.ceil(scale.low / step - 1e-9), math.floor(scale.high / step + 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def _number(value: float) -> str:
    return f"{value:.6g}"


# ------------------------------------------------------------------------------------------------------- the parts


def mark(position: int, count: int, glyphs: Glyphs) -> str:
    """The character of the replica at a position among `count`."""
    if count <= len(glyphs.replicas):
        return glyphs.replicas[position]
    return MANY[position] if position < len(MANY) else "~"


def _legend(replicas: Sequence[int], unit: str, glyphs: Glyphs, paint: Paint, width: int) -> list[str]:
    """The unit of the gaps, and which character is which replica."""
    count = len(replicas)
    if count == 1:
        density = glyphs.density
        return [f"{unit}   {density[0]} one gap, {density[1]} two, {density[2]} more"]
    if count <= len(glyphs.replicas):
        lines, used = [f"{unit}   replica"], len(unit) + 10
        for place, replica in enumerate(replicas):
            name = f"{mark(place, count, glyphs)} {replica}"
            if used + 2 + len(name) > width:
                lines, used = [*lines, " " * (len(unit) + 10)], len(unit) + 10
            lines[-1] += f"  {paint(name, COLOURS[place % len(COLOURS)])}"
            used += 2 + len(name)
        return lines
    shown = [f"{mark(place, count, glyphs)}={replica}" for place, replica in enumerate(replicas)]
    if list(replicas) == list(range(count)) and count <= len(MANY):
        parts = [("0", "9"), ("a", "z"), ("A", "Z")]
        last = MANY[count - 1]
        there = [part for part in parts if MANY.index(part[0]) < count]
        shown = [f"{first}-{min(end, last, key=MANY.index)}".replace(f"{last}-{last}", last) for first, end in there]
        shown = [f"0-{replicas[-1]} as", *shown]
    text = f"{unit}   replicas {' '.join(shown)}"
    return [text if len(text) <= width else f"{text[: width - 3]}..."]


def deal(cells: Integers, replicas: Integers) -> dict[int, int]:
    """Cell -> the replica to show there, for dots given as cells and replica positions.

    Cells of one replica are its own; shared ones go, from left to right, to whoever of those inside has so far been
    shown in the smallest part of its cells.
    """
    pairs = np.unique(np.stack([cells, replicas], axis=1), axis=0)
    inside: dict[int, list[int]] = {}
    for cell, replica in pairs.tolist():
        inside.setdefault(cell, []).append(replica)
    occupied = np.bincount(pairs[:, 1]).tolist() if len(pairs) else []
    shown = [0] * len(occupied)
    result: dict[int, int] = {}
    for cell, there in sorted(inside.items(), key=lambda each: (len(each[1]) > 1, each[0])):
        chosen = min(there, key=lambda replica: (shown[replica] / occupied[replica], replica))
        shown[chosen] += 1
        result[cell] = chosen
    return result


def _dots(timeline: Timeline, gaps: Scale, times: Scale, glyphs: Glyphs, paint: Paint) -> dict[int, str]:
    """Row -> its cells, the longest gaps first. Rows -1 and `gaps.cells` hold what lies beyond, where there is any."""
    replicas = timeline.replicas
    column, row = times.cell(timeline.gap_at_s), gaps.cells - 1 - gaps.cell(timeline.gap_s)
    keys = column * (gaps.cells + 2) + row + 1
    count = dict(zip(*(each.tolist() for each in np.unique(keys, return_counts=True)), strict=True))
    beyond = {int(each) for each in np.unique(row) if each in (-1, gaps.cells)}
    picture = {each: [" "] * times.cells for each in sorted({*range(gaps.cells), *beyond})}
    for key, replica in deal(keys, np.searchsorted(replicas, timeline.gap_replica)).items():
        density = glyphs.density[min(count[key], 3) - 1]
        character = density if len(replicas) == 1 else mark(replica, len(replicas), glyphs)
        at, line = divmod(key, gaps.cells + 2)
        picture[line - 1][at] = paint(character, COLOURS[replica % len(COLOURS)])
    return {each: "".join(cells) for each, cells in picture.items()}


def _time_axis(timeline: Timeline, times: Scale, margin: int, glyphs: Glyphs) -> list[str]:
    """The axis, heavy over the steady window, and its numbers."""
    axis = [glyphs.axis] * times.cells
    if timeline.steady_s is not None:
        first, last = times.cell(np.array(timeline.steady_s)).tolist()
        axis[first : last + 1] = glyphs.steady * (last + 1 - first)
    divisor, unit = scale_unit(times.high, "s")
    numbers = [" "] * (times.cells + 1)
    for tick in ticks(Scale(0.0, times.high / divisor, times.cells), max(2, times.cells // 9)):
        cell = times.cell_of(tick * divisor)
        text = _number(tick) + (f" {unit}" if tick == 0 else "")
        axis[cell] = glyphs.time_tick
        if cell + len(text) <= len(numbers):
            numbers[cell : cell + len(text)] = text
    return [
        " " * margin + glyphs.corner + "".join(axis),
        " " * (margin + 1) + "".join(numbers).rstrip(),
    ]


def _strips(timeline: Timeline, times: Scale, margin: int, glyphs: Glyphs, paint: Paint) -> list[str]:
    """Who waits for a first token when: a line a replica, or for many one line with how many wait."""
    replicas = timeline.replicas
    waits_until = np.where(np.isnan(timeline.first_s), timeline.end_s, timeline.first_s)
    begin, end = times.cell(timeline.submit_s), times.cell(waits_until)
    waiting = np.zeros((len(replicas), times.cells), bool)
    failed: NDArray[np.bool_] = np.zeros((len(replicas), times.cells), bool)
    place = np.searchsorted(replicas, timeline.replica)
    for replica, first, last in zip(place, begin, end, strict=True):
        waiting[replica, first : last + 1] = True
    failed[place[~timeline.ok], times.cell(timeline.end_s)[~timeline.ok]] = True
    title = "TTFT"
    if len(replicas) > STRIPS:
        counts = waiting.sum(axis=0)
        cells = ["." if not n else MANY[n] if n < len(MANY) else "~" for n in counts.tolist()]
        lost = failed.sum(axis=0).tolist()
        text = "".join(glyphs.failed if bad else " " if n == "." else n for n, bad in zip(cells, lost, strict=True))
        return [f"{title.rjust(margin)} {text}".rstrip()]
    lines = []
    for position in range(len(replicas)):
        colour = COLOURS[position % len(COLOURS)]
        cells = [glyphs.waiting if wait else " " for wait in waiting[position]]
        cells = [glyphs.failed if bad else cell for cell, bad in zip(cells, failed[position], strict=True)]
        name = mark(position, len(replicas), glyphs) if len(replicas) > 1 else ""
        head = f"{title if not position else ''} {name}".strip().rjust(margin)
        lines.append((head + " " + paint("".join(cells), colour)).rstrip())
    return lines


def _notes(timeline: Timeline, gaps: Scale, glyphs: Glyphs, width: int) -> list[str]:
    """What the marks mean in this picture, as short as can be."""
    notes = []
    if longer := int((timeline.gap_s > gaps.high).sum()):
        longest = format_value(float(timeline.gap_s.max()), "s")
        notes.append(f"{glyphs.above} {longer} longer gap{'s' * (longer > 1)}, up to {longest}")
    if shorter := int((timeline.gap_s < gaps.low).sum()):
        notes.append(f"{glyphs.below} {shorter} shorter, down to {format_value(float(timeline.gap_s.min()), 's')}")
    many = len(timeline.replicas) > STRIPS
    notes.append("TTFT line: how many replicas wait" if many else f"{glyphs.waiting} waits for its first token")
    if not timeline.ok.all():
        notes.append(f"{glyphs.failed} failed")
    if timeline.steady_s is not None:
        start, end = timeline.steady_s
        notes.append(f"{glyphs.steady} steady window, {format_value(end - start, 's')}")
    lines = [""]
    for note in notes:
        if lines[-1] and len(lines[-1]) + len(note) + 5 > width:
            lines.append("")
        lines[-1] += ("   " if lines[-1] else "  ") + note
    return lines
