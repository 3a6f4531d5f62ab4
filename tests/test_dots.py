"""The dots in a terminal: every replica is seen, nothing leaves the picture, axes and marks tell the truth."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_nriperf.report.dots import ASCII, MANY, UNICODE, Glyphs, coloured, deal, draw, gap_scale, mark, ticks
from pytest_nriperf.samples import Timeline


def timeline(
    gaps: dict[int, list[tuple[float, float]]], *, first: float = 0.3, ok: bool = True, steady: bool = True
) -> Timeline:
    """Replica -> (when, gap); each replica has one request that ends with its last gap."""
    flat = [(replica, at, gap) for replica, each in gaps.items() for at, gap in each]
    replicas = np.array(list(gaps), np.int64)
    end = np.array([max([at for at, _ in each], default=1.0) for each in gaps.values()])
    return Timeline(
        run=1,
        gap_replica=np.array([replica for replica, _, _ in flat], np.int64),
        gap_at_s=np.array([at for _, at, _ in flat]),
        gap_s=np.array([gap for _, _, gap in flat]),
        replica=replicas,
        submit_s=np.zeros(len(replicas)),
        first_s=np.full(len(replicas), first),
        end_s=end,
        ok=np.full(len(replicas), ok),
        steady_s=(0.0, float(end.min())) if steady and gaps else None,
    )


def picture(lines: list[str]) -> list[str]:
    """The rows between the legend and the time axis, without their labels."""
    return [
        re.split("[│┤|+]", line, maxsplit=1)[1] for line in lines[1:] if re.match(r"[ \d.▴▾^v]*[│┤|+][^-=]*$", line)
    ]


def steps(replicas: int, gap: float = 0.05, count: int = 40) -> dict[int, list[tuple[float, float]]]:
    return {replica: [(0.3 + gap * k, gap) for k in range(count)] for replica in range(replicas)}


@pytest.mark.parametrize("glyphs", [UNICODE, ASCII])
@pytest.mark.parametrize("replicas", [2, 4, 8, 20, 62])
def test_replicas_with_the_same_gaps_all_remain_visible(replicas: int, glyphs: Glyphs) -> None:
    rows = "".join(picture(draw(timeline(steps(replicas, count=200)), glyphs=glyphs)))
    shown = [rows.count(mark(position, replicas, glyphs)) for position in range(replicas)]
    assert min(shown) >= 1
    assert max(shown) - min(shown) <= 1


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5)), min_size=1, max_size=60))
def test_a_cell_goes_to_a_replica_that_is_there(dots: list[tuple[int, int]]) -> None:
    cells, replicas = (np.array(column) for column in zip(*dots, strict=True))
    dealt = deal(cells, replicas)
    assert dealt.keys() == set(cells.tolist())
    assert all((cell, replica) in dots for cell, replica in dealt.items())
    for cell in dealt:
        there = {replica for place, replica in dots if place == cell}
        if len(there) == 1:
            assert {dealt[cell]} == there


SECONDS = st.integers(0, 10**13).map(lambda time_ns: time_ns / 1e9)
GAPS = st.lists(st.tuples(SECONDS, SECONDS), max_size=30)


@settings(max_examples=80, deadline=None)
@given(
    gaps=st.dictionaries(st.integers(0, 99), GAPS, min_size=1, max_size=12),
    width=st.integers(40, 160),
    height=st.integers(4, 30),
    glyphs=st.sampled_from([UNICODE, ASCII]),
    ok=st.booleans(),
    first=st.just(float("nan")) | st.floats(0, 1),
)
def test_any_run_fits_into_the_width(
    gaps: dict[int, list[tuple[float, float]]], width: int, height: int, glyphs: Glyphs, ok: bool, first: float
) -> None:
    lines = draw(timeline(gaps, ok=ok, first=first), width=width, height=height, glyphs=glyphs)
    assert max(map(len, lines)) <= width
    assert all(line.isprintable() for line in lines)
    if glyphs is ASCII:
        assert all(line.isascii() for line in lines)
    if not ok:
        assert any(glyphs.failed in line for line in lines)


def test_a_long_gap_stands_in_a_row_of_its_own_and_is_counted() -> None:
    gaps = steps(2)
    gaps[1].append((2.0, 0.9))
    lines = draw(timeline(gaps))
    above = next(line for line in lines if line.strip().startswith("▴ │"))
    assert above.count("○") == 1
    assert "▴ 1 longer gap, up to 900 ms" in "\n".join(lines)


def test_density_shows_how_many_dots_of_one_replica_share_a_cell() -> None:
    dots = [(1.0, 0.05), *[(2.0, 0.05)] * 2, *[(3.0, 0.05)] * 9]
    rows = "".join(picture(draw(timeline({0: dots}))))
    assert rows.replace(" ", "") == "·•●"


def test_the_axis_is_heavy_in_the_steady_window_only() -> None:
    run = timeline({0: [(0.1 * k, 0.1) for k in range(1, 11)], 1: [(0.1 * k, 0.1) for k in range(1, 6)]})
    axis = next(line for line in draw(run) if "└" in line)
    body = axis.split("└")[1]
    heavy = [position for position, character in enumerate(body) if character == "━"]
    assert len(body) // 2 - 2 <= max(heavy) <= len(body) // 2 + 1
    assert "━" not in next(line for line in draw(timeline(steps(2), steady=False)) if "└" in line)


def test_the_waiting_for_the_first_token_is_drawn_from_submit_to_token() -> None:
    lines = draw(timeline({0: [(0.1 * k, 0.1) for k in range(1, 11)]}, first=0.5))
    strip = next(line for line in lines if line.strip().startswith("TTFT"))
    assert abs(strip.count("▒") - (80 - 9) / 2) <= 2


def test_many_replicas_share_one_line_that_counts_who_waits() -> None:
    lines = draw(timeline(steps(12)))
    (strip,) = (line for line in lines if line.strip().startswith("TTFT") and ":" not in line)
    assert set(strip.split()[1]) == {MANY[12]}
    assert any("replicas 0-11 as 0-9 a-b" in line for line in lines)


def test_equal_gaps_are_drawn_in_one_row() -> None:
    rows = [row for row in picture(draw(timeline(steps(1)))) if row.strip()]
    assert len(rows) == 1


def test_a_run_without_gaps_says_so_or_shows_its_requests() -> None:
    empty = timeline({})
    assert draw(empty) == ["run 1: nothing to draw, no request was measured"]
    assert any("▒" in line for line in draw(timeline({0: []})))


def test_colour_adds_nothing_but_escapes() -> None:
    painted = draw(timeline(steps(3)), paint=coloured)
    assert [re.sub(r"\x1b\[\d+m", "", line).rstrip() for line in painted] == draw(timeline(steps(3)))
    assert any("\x1b[33m" in line for line in painted)


@given(st.lists(st.floats(1e-7, 1e3), min_size=1, max_size=300))
def test_the_scale_holds_the_bulk_and_has_round_ticks(gaps: list[float]) -> None:
    scale = gap_scale(np.array(gaps), 16)
    assert 0 <= scale.low < scale.high
    inside = [gap for gap in gaps if scale.low <= gap <= scale.high]
    assert len(inside) >= 0.9 * len(gaps)
    numbers = ticks(scale, 7)
    assert 1 <= len(numbers) <= 8
    assert all(scale.low - 1e-9 * scale.high <= tick <= scale.high * (1 + 1e-9) for tick in numbers)
