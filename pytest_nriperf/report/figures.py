"""The plots of the page as plotly's figures (plain dictionaries), and plotly's own script from its wheel.

The only file that knows plotly. Colours are names here (`series0`, `text`, ...): the page gives them their value for
light and dark. Every series differs by colour and by symbol or dash.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pytest_nriperf.errors import EnvironmentFault
from pytest_nriperf.report.contents import Floats, Part, Strip
from pytest_nriperf.sweep.curves import Curve
from pytest_nriperf.sweep.front import FrontCell
from pytest_nriperf.units import format_percent, format_text, scale_unit

Figure = dict[str, Any]

SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "x", "triangle-down", "star")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "8px 2px 2px 2px", "2px 6px")
MOST_SERIES = 16
LAYERS = 8
TITLES = {
    "tpot": "time per output token",
    "throughput": "node throughput",
    "ttft": "time to first token",
    "itl": "inter-token latency",
}


def plotly_script() -> str:
    """plotly's script, as its wheel ships it. Raises EnvironmentFault when plotly is not installed."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise EnvironmentFault(
            "the report needs plotly, which is not installed", "pip install 'pytest-nriperf[report]'"
        ) from error
    script: str = get_plotlyjs()
    return script


def write_image(figure: Figure, path: Path) -> None:
    """A figure as SVG or PNG, by plotly's kaleido (which needs a Chrome or Chromium on this machine)."""
    layout = figure["layout"]
    width, height = layout.get("width", 1100), layout["height"] if "width" in layout else max(520, layout["height"])
    try:
        import plotly.io
    except ImportError as error:
        raise EnvironmentFault("plotly is not installed", "pip install 'pytest-nriperf[report]'") from error
    try:
        ready = _coloured(figure)
        ready["layout"] |= {"paper_bgcolor": "#ffffff", "plot_bgcolor": "#ffffff"}
        plotly.io.write_image(ready, path, width=width, height=height)
    except (ValueError, RuntimeError, OSError) as error:
        raise EnvironmentFault(
            f"{path.name} cannot be drawn: {str(error).strip().splitlines()[0]}",
            "pip install kaleido and install Chromium, or save plots from the page by their buttons",
        ) from error


def picture(drawing: str) -> Figure:
    """An SVG drawing as a figure, to be written as PNG."""
    width, height = (int(each) for each in drawing.partition('viewBox="0 0 ')[2].partition('"')[0].split())
    source = f"data:image/svg+xml;base64,{base64.b64encode(drawing.encode()).decode()}"
    image = {"source": source, "xref": "paper", "yref": "paper", "x": 0, "y": 1, "sizex": 1, "sizey": 1}
    hidden = {"visible": False}
    layout = {"images": [image | {"sizing": "stretch"}], "xaxis": hidden, "yaxis": hidden}
    return {
        "data": [],
        "layout": layout | {"margin": dict.fromkeys("ltrb", 8), "width": width + 16, "height": height + 16},
    }


def label(text: Any) -> str:
    """A text of ours or of anybody for a plot: plotly reads a little HTML in its texts, so it is escaped.

    >>> label("<b>x</b>")
    '&lt;b&gt;x&lt;/b&gt;'
    """
    return html.escape(format_text(text), quote=False)


def distribution(parts: Sequence[Part], points: int = 400) -> Figure:
    """Cumulative share of inter-token latencies of each measurement; log axis, quantiles of the samples."""
    chosen = [part for part in parts if part.itl.size]
    scale, unit = _scale([float(np.median(part.itl)) for part in chosen], "s")
    traces = []
    for index, part in enumerate(chosen[:MOST_SERIES]):
        share = _shares(part.itl.size, points)
        values = np.quantile(part.itl, share) / scale
        traces.append(
            _line(index, part.short, values, 100 * share, markers=False)
            | {"hovertemplate": f"%{{y:.2f}} % within %{{x:.4g}} {unit}<extra></extra>"}
        )
    layout = _layout("Distribution of inter-token latency", f"inter-token latency, {unit}", "share of tokens within, %")
    layout["xaxis"]["type"] = "log"
    return {"data": traces, "layout": layout}


def _shares(size: int, points: int) -> Floats:
    middle = np.linspace(0, 1, min(points, max(2, size)))
    tails = 1 - np.geomspace(max(1 / size, 1e-6), 0.01, 60)
    shares: Floats = np.unique(np.concatenate([middle, tails]))
    return shares


def scaling(curves: Sequence[Curve], title: str) -> Figure:
    """Scaling curves of one metric with the span of their runs; the knee is marked with a ring."""
    chosen = list(curves)[:MOST_SERIES]
    unit = "token/s" if chosen and chosen[0].metric == "throughput" else "s"
    scale, unit = _scale([value for curve in chosen for value in curve.y], unit)
    traces: list[dict[str, Any]] = []
    for index, curve in enumerate(chosen):
        y = np.array(curve.y) / scale
        up, down = (np.array(curve.high) - curve.y) / scale, (np.array(curve.y) - curve.low) / scale
        trace = _line(index, curve.name, curve.x, y, markers=len(curve.x) <= 40)
        if (up + down).any():
            trace["error_y"] = {"type": "data", "symmetric": False, "array": up.tolist(), "arrayminus": down.tolist()}
            trace["error_y"] |= {"thickness": 1, "width": 2}
        trace["hovertemplate"] = f"{label(curve.axis)} %{{x}}: %{{y:.4g}} {unit}<extra>{_hover(curve.name)}</extra>"
        traces.append(trace)
    traces.extend(_knees(chosen, scale))
    metric = TITLES.get(chosen[0].metric, chosen[0].metric) if chosen else ""
    axis = chosen[0].axis if chosen else ""
    layout = _layout(title, "CPUs allocated to a replica" if axis == "cpus" else label(axis), f"{metric}, {unit}")
    layout["xaxis"]["type"] = "log"
    layout["xaxis"]["dtick"] = 0.30102999566
    layout["yaxis"]["rangemode"] = "tozero"
    return {"data": traces, "layout": layout}


def _knees(curves: Sequence[Curve], scale: float) -> list[dict[str, Any]]:
    if not curves:
        return []
    height = {(index, x): y for index, curve in enumerate(curves) for x, y in zip(curve.x, curve.y, strict=True)}
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "knee: fewest that give 95 % of the best",
            "x": [curve.knee for curve in curves],
            "y": [height[index, curve.knee] / scale for index, curve in enumerate(curves)],
            "marker": {"symbol": "circle-open", "size": 15, "color": "@text", "line": {"width": 2}},
            "hovertemplate": "knee at %{x}: %{y:.4g}<extra></extra>",
        }
    ]


def front_plot(cells: Sequence[FrontCell]) -> Figure:
    """Latency against throughput of every cell; size and hover tell the CPUs, filled marks the front."""
    latency, latency_unit = _scale([cell.row.value("tpot") for cell in cells], "s")
    groups: dict[str, list[FrontCell]] = {}
    for cell in cells:
        groups.setdefault(str(cell.row.cell.get("hyperthreads", "cells")), []).append(cell)
    traces: list[dict[str, Any]] = []
    most = max((cell.row.cpus for cell in cells), default=1)
    for index, (name, group) in enumerate(sorted(groups.items())):
        traces.append(_points(index, name, group, latency, most))
    layout = _layout(
        "Stream latency, node throughput and CPUs (filled: on the front; the larger, the more CPUs)",
        f"time per output token, {latency_unit} (less is better)",
        "node throughput, token/s (more is better)",
    )
    layout["xaxis"]["type"] = layout["yaxis"]["type"] = "log"
    layout["height"] = 500
    return {"data": traces, "layout": layout}


def _points(index: int, name: str, cells: Sequence[FrontCell], scale: float, most: int) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": label(name),
        "x": [cell.row.value("tpot") / scale for cell in cells],
        "y": [cell.row.value("throughput") for cell in cells],
        "marker": {
            "symbol": [SYMBOLS[index % len(SYMBOLS)] + ("" if cell.on_front else "-open") for cell in cells],
            "color": f"@series{index % len(SYMBOLS)}",
            "size": [round(6 + 12 * float(np.sqrt(cell.row.cpus / most)), 1) for cell in cells],
            "line": {"width": 1.5},
        },
        "text": [_point_text(cell) for cell in cells],
        "hovertemplate": "%{text}<br>%{x:.4g} to a token, %{y:.4g} token/s<extra></extra>",
    }


def _point_text(cell: FrontCell) -> str:
    chance = "" if cell.probability is None else f", on the front with {format_percent(cell.probability, digits=0)}"
    return f"{label(cell.row.name)}, {cell.row.cpus} CPUs{chance}"


def dots(groups: Sequence[tuple[str, Floats, Floats]], title: str) -> Figure:
    """Gaps (s, log axis) over time (s), a trace a group; groups take turns in layers, so that none hides another."""
    scale, unit = _scale(np.concatenate([gap for _, _, gap in groups]) if groups else (), "s")
    layers: list[dict[str, Any]] = []
    for index, (name, time, gap) in enumerate(groups):
        order = np.random.default_rng(index).permutation(len(gap))
        for layer, rows in enumerate(np.array_split(order, LAYERS)):
            trace = _line(index, name, time[rows], gap[rows] / scale, markers=True)
            trace |= {"mode": "markers", "legendgroup": str(index), "showlegend": layer == 0}
            trace["marker"] = trace["marker"] | {"size": 4}
            layers.append(trace)
    traces = [layers[index * LAYERS + layer] for layer in range(LAYERS) for index in range(len(groups))]
    layout = _layout(title, "seconds", f"gap between token events, {unit}")
    layout["yaxis"]["type"] = "log"
    layout["legend"]["itemsizing"] = "constant"
    return {"data": traces, "layout": layout}


def strip(strips: Sequence[Strip], title: str) -> Figure:
    """Counters of one name over time, a line a scope; its time axis follows that of the dots."""
    scale, unit = _scale([float(np.max(np.abs(each.value))) for each in strips], strips[0].unit)
    scopes = list(dict.fromkeys(each.scope for each in strips))
    traces = []
    for scope in scopes[:MOST_SERIES]:
        own = [each for each in strips if each.scope == scope]
        time = np.concatenate([np.append(each.time_s, np.nan) for each in own])
        value = np.concatenate([np.append(each.value, np.nan) for each in own]) / scale
        trace = _line(scopes.index(scope), scope, time, value, markers=False)
        traces.append(trace | {"hovertemplate": f"%{{y:.4g}} {label(unit)}<extra>{_hover(scope)}</extra>"})
    layout = _layout(title, "seconds", label(unit))
    layout["height"] = 180
    layout["yaxis"]["rangemode"] = "tozero"
    return {"data": traces, "layout": layout}


def _line(index: int, name: str, x: Any, y: Any, *, markers: bool) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers" if markers else "lines",
        "name": label(name),
        "x": _plain(x),
        "y": _plain(y),
        "line": {
            "color": f"@series{index % len(SYMBOLS)}",
            "dash": DASHES[(index // len(SYMBOLS) + index) % len(DASHES)],
            "width": 2,
        },
        "marker": {"symbol": SYMBOLS[index % len(SYMBOLS)], "size": 7, "color": f"@series{index % len(SYMBOLS)}"},
    }


def _plain(values: Any) -> list[float | None]:
    return [None if not np.isfinite(value) else float(f"{value:.6g}") for value in np.asarray(values, dtype=float)]


def _layout(title: str, x: str, y: str) -> dict[str, Any]:
    axis = {"gridcolor": "@grid", "zerolinecolor": "@grid", "linecolor": "@grid", "automargin": True}
    return {
        "title": {"text": label(title), "x": 0, "xanchor": "left", "font": {"size": 15}},
        "xaxis": axis | {"title": {"text": x}},
        "yaxis": axis | {"title": {"text": y}},
        "font": {"color": "@text", "size": 13, "family": "system-ui, sans-serif"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 65, "r": 15, "t": 45, "b": 50},
        "height": 440,
        "legend": {"orientation": "v", "x": 1.01, "xanchor": "left", "y": 1, "yanchor": "top"},
        "hoverlabel": {"bgcolor": "@panel", "font": {"color": "@text"}, "bordercolor": "@grid"},
        "showlegend": True,
    }


def _scale(values: Iterable[float], unit: str) -> tuple[float, str]:
    finite = [abs(value) for value in values if np.isfinite(value) and value]
    return scale_unit(float(np.median(finite)) if finite else 1.0, unit)


def _hover(text: str) -> str:
    """A text inside a hover template, where `%{` would begin a field."""
    return label(text).replace("%{", "% {")


LIGHT: Mapping[str, str] = {
    "@text": "#1b1f24",
    "@grid": "#d5d9de",
    "@panel": "#ffffff",
    **{
        f"@series{index}": colour
        for index, colour in enumerate(
            ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#5f3b9e", "#444444")
        )
    },
}


def _coloured(value: Any) -> Any:
    """The figure with the colours of the light page, for files."""
    if isinstance(value, str):
        return LIGHT.get(value, value)
    if isinstance(value, dict):
        return {key: _coloured(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_coloured(each) for each in value]
    return value
