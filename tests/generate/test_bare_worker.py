"""The worker's core needs nothing but a bare Python: no site packages, nothing of ours beside its archive."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pytest_nriperf.generate.archive import worker_archive

LISTING = """
import runpy, sys, threading
sys.argv = [{archive!r}]
sys.path.insert(0, {archive!r})
import pytest_nriperf.generate.child.worker, pytest_nriperf.generate.child.sim_engine
known = {{"__main__", "pytest_nriperf", *sys.stdlib_module_names}}
foreign = sorted({{name.split(".")[0] for name in sys.modules}} - known)
print(foreign, sys.modules["pytest_nriperf"].__file__.startswith({archive!r}))
"""


def test_it_is_small_and_always_the_same() -> None:
    assert len(worker_archive()) < 1 << 20
    assert worker_archive() == worker_archive()


def test_it_imports_the_standard_library_and_itself_only(tmp_path: Path) -> None:
    archive = tmp_path / "worker.zip"
    archive.write_bytes(worker_archive())
    code = LISTING.format(archive=str(archive))
    command = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "[] True"
