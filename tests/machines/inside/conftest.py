"""In a guest: what tests are given."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.machines.selection import IN_GUEST
from tests.machines.shapes import SHAPES, Shape


@pytest.fixture
def shape() -> Shape:
    """The machine that this guest is."""
    return SHAPES[os.environ[IN_GUEST]]


@pytest.fixture
def fact(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Say something for the summary on the host."""
    return lambda text: record_property("fact", text)


@pytest.fixture
def ran(record_property: Callable[[str, object], None], pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Name a case of many in the results that are kept beside the kernel, and on the console, where silence is taken
    for a machine that hangs."""

    def tell(text: str) -> None:
        record_property("ran", text)
        with pytestconfig.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print(f"  {text}", flush=True)

    return tell
