"""In a guest: a plugin that writes each test's report to the second serial line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.machines.selection import RESULTS


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
