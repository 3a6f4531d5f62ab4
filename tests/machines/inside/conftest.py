"""In a guest: what tests are given, and their reports on the second serial line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from tests.machines.selection import IN_GUEST, RESULTS
from tests.machines.shapes import SHAPES, Shape


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or (report.outcome != "passed"):
        text = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        message: dict[str, Any] = {
            "test": report.nodeid,
            "outcome": report.outcome,
            "seconds": round(report.duration, 2),
            "text": text[-6000:],
            "facts": [value for name, value in report.user_properties if name == "fact"],
            "ran": [value for name, value in report.user_properties if name == "ran"],
        }
        with open(RESULTS, "w") as out:
            print(json.dumps(message), file=out)


@pytest.fixture
def shape() -> Shape:
    """The machine that this guest is."""
    return SHAPES[os.environ[IN_GUEST]]


@pytest.fixture
def fact(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Say something for the summary on the host."""
    return lambda text: record_property("fact", text)


@pytest.fixture
def ran(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Name a case of many in the results that are kept beside the kernel."""
    return lambda text: record_property("ran", text)
