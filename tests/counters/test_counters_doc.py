"""docs/counters.md tells of every counter metric, cause and collector, and its examples hold."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

from pytest_nriperf.collect.select import COLLECTORS
from pytest_nriperf.counters import COUNTERS
from pytest_nriperf.explain import CAUSES

DOC = Path(__file__).parents[2] / "docs" / "counters.md"


def section(title: str) -> str:
    return DOC.read_text().partition(f"## {title}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize(
    ("title", "names"), [("Counter metrics", COUNTERS), ("Explaining a change", CAUSES), ("Collectors", COLLECTORS)]
)
def test_every_name_is_told_in_its_section(title: str, names: dict[str, object]) -> None:
    missing = [name for name in names if f"`{name}`" not in section(title)]
    assert missing == []


def test_the_examples_hold() -> None:
    failed, tried = doctest.testfile(str(DOC), module_relative=False)
    assert tried > 0
    assert failed == 0
