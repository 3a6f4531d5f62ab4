"""Every form of a table says the same, and data stays data in each."""

from __future__ import annotations

import csv
import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_nriperf.report.tables import Field, TextTable, escaped, front_table, markdown_text, rows_table, wisdom_table
from pytest_nriperf.sweep.front import pareto
from pytest_nriperf.sweep.rows import Row
from pytest_nriperf.sweep.tables import wisdom

HOSTILE = "<script>alert(1)</script>|\n\x1b[2J[x](javascript:alert(1))`=cmd|"


def rows() -> list[Row]:
    return [
        Row({"replicas": r, "cpus": c}, {"tpot": (0.1 / c, 0.11 / c), "throughput": (10.0 * r * c, 9.0 * r * c)}, r * c)
        for r in (1, 2)
        for c in (4, 8)
    ]


def table(*texts: str) -> TextTable:
    return TextTable("a title", ("name", "value"), tuple((Field(text), Field("1 ms", "0.001")) for text in texts))


def test_the_best_is_marked_in_every_form() -> None:
    made = wisdom_table(wisdom(rows(), "throughput")[0])
    assert made.title == "Node throughput by replicas and cpus"
    assert "* 152 token/s" in made.text()
    assert "**152 token/s (16 CPUs, 144 token/s to 160 token/s, n=2)**" in made.markdown()
    assert "★" in made.html()
    assert made.csv().splitlines()[0] == "replicas,cpus=4,cpus=8"


def test_csv_holds_values_in_base_units_that_read_back() -> None:
    made = list(csv.reader(io.StringIO(rows_table(rows()).csv())))
    assert made[0][:2] == ["replicas", "cpus"]
    assert float(made[1][made[0].index("tpot")]) == pytest.approx(0.105 / 4)


@settings(max_examples=80)
@given(st.text(max_size=40))
def test_a_field_is_one_field_of_one_line_whatever_it_holds(text: str) -> None:
    made = table(text)
    lines = made.markdown().splitlines()
    assert len(lines) == 5
    assert lines[4].replace("\\|", "").count("|") == 3
    assert len(made.text().splitlines()) == 4
    assert all(character.isprintable() for line in made.text().splitlines() for character in line)
    read = list(csv.reader(io.StringIO(made.csv())))
    assert len(read) == 2
    assert not read[1][0].startswith(("=", "+", "-", "@"))


def test_hostile_text_is_inert_in_html_and_markdown() -> None:
    assert "<script" not in table(HOSTILE).html()
    assert "<script" not in markdown_text(HOSTILE)
    assert not re.search(r"(?<!\\)\]\(", markdown_text(HOSTILE))
    assert "\x1b" not in table(HOSTILE).text()
    assert escaped('" onload="x') == "&quot; onload=&quot;x"


def test_the_front_says_when_no_probability_can_be_told() -> None:
    once = [Row(row.cell, {name: values[:1] for name, values in row.metrics.items()}, row.cpus) for row in rows()]
    assert "no probability" in front_table(pareto(once)).notes[1]
    assert len(front_table(pareto(rows())).notes) == 1
