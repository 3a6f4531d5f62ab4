"""Tools of the machine that a test needs."""

from __future__ import annotations

import os
import shutil

import pytest


def needs(tool: str, *, package: str = "") -> None:
    """Skip the test when a program is missing; with CI=true fail, so that nothing is left out unseen."""
    if shutil.which(tool):
        return
    reason = f"{tool} is missing: apt-get install {package or tool}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
