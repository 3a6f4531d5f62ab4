"""What all tests share: a node lock of their own, so that they neither wait for nor disturb a real measurement."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_lock_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("lock")
    monkeypatch.setenv("NRIPERF_LOCK_DIR", str(folder))
    return folder
