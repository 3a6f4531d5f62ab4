"""What docs/statistics.md claims in code is true."""

from __future__ import annotations

import doctest
from pathlib import Path

DOCUMENT = Path(__file__).parents[1] / "docs" / "statistics.md"


def test_the_examples_of_the_statistics_document_hold() -> None:
    failed, tried = doctest.testfile(str(DOCUMENT), module_relative=False)
    assert tried >= 10
    assert failed == 0
