"""Tools of the machine that a test needs. A missing one is a skip for a person and a failure in CI."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def missing(fact: str) -> NoReturn:
    """Skip the test with the fact; with CI=true fail it, so that nothing is left out unseen."""
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"with CI=true nothing may be missing: {fact}", pytrace=False)
    pytest.skip(fact)


def needs(tool: str, *, package: str = "") -> str:
    """The path of a program, else `missing` with the Debian package that brings it."""
    return shutil.which(tool) or missing(f"{tool} is missing: apt-get install {package or tool}")
