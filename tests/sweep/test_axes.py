"""Axes are parsed with clear mistakes; cells have pytest's ids; the order is random, blocked and repeatable."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_nriperf.errors import SpecError, UsageError
from pytest_nriperf.sweep.axes import (
    Cell,
    Plan,
    existing,
    make_cells,
    order,
    parse_overrides,
    parse_values,
    sweep_request,
)


def test_an_id_reads_like_the_mark() -> None:
    cells = make_cells({"replicas": [4], "cpus": [8], "hyperthreads": ["hidden"]})
    assert [cell.id for cell in cells] == ["replicas=4-cpus=8-hyperthreads=hidden"]


def test_long_or_odd_values_stand_in_the_id_by_their_place() -> None:
    cells = make_cells({"prompt": ["short", "What happens at KubeCon?", "a" * 50, "[x]\x1b[31m"]})
    assert [cell.id for cell in cells] == ["prompt=short", "prompt=1", "prompt=2", "prompt=3"]


def test_a_cell_knows_balloon_model_and_own_axes() -> None:
    cell = make_cells({"replicas": [4], "model": ["smollm2"], "temperature": [0.5]})[0]
    assert (cell.balloon, cell.llm, cell.own) == ({"replicas": 4}, {"model": "smollm2"}, {"temperature": 0.5})


def test_ranges_powers_words_and_fractions_mix() -> None:
    assert parse_values("cpus", "4..64:20,all,12.5%") == (4, 24, 44, 64, "all", "12.5%")
    assert parse_values("replicas", "3..100*3") == (3, 9, 27, 81)
    assert parse_values("temperature", "0.5,true,false") == (0.5, True, False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8..4", "runs backwards; write 4..8"),
        ("1..8*1", "never reaches its end"),
        ("0..8*2", "never reaches its end"),
        ("4..8:0", "never reaches its end"),
        ("4..", "no value or range"),
        ("4,,8", "no value or range"),
    ],
)
def test_a_range_that_makes_no_sense_is_refused_with_the_mend(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("*", r"\*")):
        parse_values("cpus", text)


@pytest.mark.parametrize("text", ["cpus", "=4", "cpus=", "no axis=4"])
def test_an_override_without_axis_or_values_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--nri-set"):
        parse_overrides([text])


@given(st.integers(0, 500), st.integers(0, 500), st.integers(1, 50))
def test_a_stepped_range_is_pythons_range_with_its_end(first: int, length: int, step: int) -> None:
    assert parse_values("cpus", f"{first}..{first + length}:{step}") == tuple(range(first, first + length + 1, step))


def test_overrides_replace_axes_of_the_mark_and_leave_others_alone() -> None:
    request = sweep_request({"replicas": [1, 2], "cpus": [4]}, {"cpus": (8, 16), "unknown": (1,)})
    assert request.axes == {"replicas": (1, 2), "cpus": (8, 16)}


def test_an_axis_of_the_mark_may_be_text_as_the_option_reads_it() -> None:
    request = sweep_request({"cpus": "4..256:2", "hyperthreads": "hidden"})
    assert request.axes == {"cpus": tuple(range(4, 257, 2)), "hyperthreads": ("hidden",)}


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ({}, "no axis"),
        ({"cpus": "8..4"}, r"cpus: '8..4' runs backwards; write 4..8"),
        ({"cpus": 8}, r"cpus = 8 is no list of values; write cpus=\[8\]"),
        ({"cpus": []}, "cpus has no value"),
        ({"cpus": [1], "strategy": "clever"}, "write full or front"),
        ({"cpus": [1], "repeats": 0}, "repeats must be at least 1"),
    ],
)
def test_a_wrong_mark_is_refused_with_what_to_write(mark: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        sweep_request(mark)


def test_cells_that_cannot_exist_are_counted_by_reason() -> None:
    def impossible(cell: Cell) -> tuple[str, str] | None:
        need = cell.balloon["replicas"] * cell.balloon["cpus"]
        return ("more CPUs than the node has", f"{need} of 16") if need > 16 else None

    kept, left_out = existing(make_cells({"replicas": [1, 2, 4], "cpus": [4, 8, 16]}), impossible)
    assert len(kept) == 6
    assert [str(entry) for entry in left_out] == [
        "3 cells left out: more CPUs than the node has (for example replicas=2-cpus=16: 32 of 16)"
    ]


@settings(max_examples=40)
@given(st.integers(0, 1000), st.integers(1, 3))
def test_every_block_holds_every_cell_once_and_keeps_balloons_together(seed: int, repeats: int) -> None:
    cells = make_cells({"cpus": [1, 2, 3], "prompt": ["a", "b"]})
    run = order(cells, seed, repeats)
    assert run == order(cells, seed, repeats)
    for block in range(repeats):
        part = run[block * 6 : block * 6 + 6]
        assert sorted(cell.id for cell in part) == sorted(cell.id for cell in cells)
        assert [one.balloon for one in part[::2]] == [two.balloon for two in part[1::2]]


def test_the_plan_says_its_cost() -> None:
    cells = tuple(make_cells({"cpus": [1, 2, 3]}))
    assert Plan(cells).cost() == "3 cells"
    assert Plan(cells, repeats=2, seconds_per_cell=60.0).cost() == "3 cells x 2 repeats = 6 measurements, about 6m 00s"
