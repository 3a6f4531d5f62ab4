"""Figures are valid plotly figures, differ by more than colour, and hold no markup of others."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import plotly.graph_objects as go
import pytest

from pytest_nriperf.balloons import BalloonSpec, place
from pytest_nriperf.report import figures
from pytest_nriperf.report.figures import _coloured, front_plot, label, plotly_script, scaling
from pytest_nriperf.report.html import json_for_html
from pytest_nriperf.report.live_dots import series_of
from pytest_nriperf.report.picture import Frame, png, still_picture
from pytest_nriperf.report.placement import placement_map
from pytest_nriperf.sweep.curves import curves
from pytest_nriperf.sweep.front import pareto
from pytest_nriperf.topology import simulated_topology
from tests.report.test_tables import HOSTILE
from tests.sweep.test_sweep_tables import sweep


def test_the_figures_of_a_sweep_are_valid() -> None:
    rows = sweep()
    for figure in (scaling(curves(rows, "throughput", "cpus"), "by CPUs"), front_plot(pareto(rows))):
        go.Figure(_coloured(figure))
        assert figure["layout"]["xaxis"]["title"]["text"]
        assert figure["layout"]["yaxis"]["title"]["text"]


def test_series_differ_by_symbol_or_dash_as_well_as_by_colour() -> None:
    lines = scaling(curves(sweep(), "tpot", "cpus"), "x")["data"][:-1]
    assert len({(line["line"]["dash"], line["marker"]["symbol"]) for line in lines}) == len(lines)


def test_a_name_is_text_for_plotly() -> None:
    assert "<" not in label(HOSTILE)
    assert "%{" not in figures._hover("%{customdata}")


def test_the_script_is_that_of_the_wheel_and_cannot_end_its_element() -> None:
    script = plotly_script()
    assert "plotly.js v" in script[:200]
    assert "</script" not in script.lower()
    assert "<!--" not in script


@pytest.mark.parametrize("text", ["</script>", "<!--", "\u2028", "&lt;"])
def test_json_in_the_page_cannot_end_its_element(text: str) -> None:
    assert not set("<>&\u2028") & set(json_for_html({"a": text}))


def test_the_still_picture_shows_every_series_and_states_its_numbers() -> None:
    random = np.random.default_rng(0)
    time, gap = random.random(2000) * 10, np.exp(random.normal(-3, 0.1, 2000))
    picture = still_picture(time, gap, np.arange(2000) % 2, ["#ff0000", "#0000ff"])
    assert "2000 token gaps: median" in picture
    assert "gap between token events, ms" in picture


def test_the_picture_of_equal_gaps_and_of_no_dots_has_axes() -> None:
    assert "seconds" in still_picture(np.zeros(3), np.full(3, 0.05), np.zeros(3, int), ["#000000"])
    assert "no token gaps" in still_picture(np.empty(0), np.empty(0), np.empty(0, int), ["#000000"])
    assert Frame.around(np.zeros(1), np.zeros(1)).y_low > 0


def test_the_image_is_a_png_that_holds_the_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (5, 7, 4), dtype=np.uint8)
    data = png(pixels)
    assert struct.unpack(">II", data[16:24]) == (7, 5)
    size = struct.unpack(">I", data[33:37])[0]
    lines = np.frombuffer(zlib.decompress(data[41 : 41 + size]), np.uint8).reshape(5, 29)
    assert (lines[:, 1:].reshape(5, 7, 4) == pixels).all()


def test_many_series_fall_into_bands_of_neighbours() -> None:
    numbers = series_of(np.arange(100, dtype=np.int32))
    assert (np.diff(numbers) >= 0).all()
    assert set(numbers.tolist()) == set(range(8))


def test_the_map_draws_every_thread_and_tells_hidden_ones_apart() -> None:
    topology = simulated_topology("sim:2s8c2t-snc2")
    spec = BalloonSpec(cpus=4, hyperthreads="hidden", replicas=2)
    drawn = placement_map(topology, place(spec, topology, allowed=topology.online), "<b>cell</b>")
    assert drawn.count("<title>CPU") == 32
    assert drawn.count("hidden from the workload</title>") == 4
    assert drawn.count('class="on"') == 4
    assert "each 4 allocated / 2 visible" in drawn
    assert "<b>cell" not in drawn
