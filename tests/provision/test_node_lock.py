"""One measurement on a machine at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_nriperf.errors import NodeBusyError, ProvisionError
from pytest_nriperf.provision.node_lock import lock_path, node_lock

HOLDER = (
    "import sys; from pytest_nriperf.provision.node_lock import node_lock\n"
    "with node_lock('local'):\n    print('held', flush=True); sys.stdin.read()"
)


def test_the_second_is_refused_with_the_name_of_the_first() -> None:
    with (
        node_lock("local"),
        pytest.raises(NodeBusyError, match=rf"being measured by process {os.getpid()} \(.*\) since 20"),
        node_lock("local"),
    ):
        pass


def test_it_is_free_again_after_success_and_after_an_error() -> None:
    with node_lock("local"):
        pass
    with pytest.raises(RuntimeError), node_lock("local"):
        raise RuntimeError
    with node_lock("local"):
        pass


def test_the_kernel_releases_it_when_its_holder_is_killed() -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(NodeBusyError, match=f"process {holder.pid}"), node_lock("local"):
            pass
        holder.send_signal(signal.SIGKILL)
    finally:
        holder.kill()
        holder.communicate()
    with node_lock("local"):
        pass


def test_the_lock_is_for_every_user(own_lock_folder: Path) -> None:
    with node_lock("local"):
        assert lock_path().parent == own_lock_folder
        assert lock_path().stat().st_mode & 0o777 == 0o666


def test_a_lock_that_cannot_be_opened_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NRIPERF_LOCK_DIR", "/proc/no-such-folder")
    with pytest.raises(ProvisionError, match="NRIPERF_LOCK_DIR"), node_lock("local"):
        pass
