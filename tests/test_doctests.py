"""Every example in a docstring is true."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import pytest_nriperf

ROOT = Path(pytest_nriperf.__file__).parent
MODULES = sorted(
    "pytest_nriperf." + ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for file in ROOT.rglob("*.py")
    if ">>> " in file.read_text()
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_hold(name: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert tried > 0
    assert failed == 0
