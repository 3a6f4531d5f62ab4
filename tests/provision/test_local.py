"""Balloons on this machine are what was placed, and leave nothing behind."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pytest_nriperf.balloons import BalloonSpec
from pytest_nriperf.errors import NodeBusyError, PlacementError, ProvisionError, WorkerError
from pytest_nriperf.provision.local import LocalProvisioner
from pytest_nriperf.seams import Launch, WorkerStream

CODE = """
import json, os, sys
cpus = sorted(os.sched_getaffinity(0))
print(json.dumps({"cpus": cpus, "set": os.environ.get("SET"), "words": sys.argv[1:]}), flush=True)
sys.stdin.read()
"""


def launch(**more: Any) -> Launch:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("__main__.py", CODE)
    return Launch(archive=content.getvalue(), **more)


def first_line(stream: WorkerStream) -> dict[str, Any]:
    line = stream.receive(20.0)
    assert line is not None, stream.close()
    return dict(json.loads(line))


def test_a_worker_sees_the_cpus_of_its_replica_and_what_it_was_given() -> None:
    node = LocalProvisioner()
    allowed = node.describe().allowed
    with node.provision(BalloonSpec(cpus=1, hyperthreads="spread", replicas=len(allowed))) as grant:
        seen = []
        for replica in range(len(allowed)):
            stream = grant.start_worker(replica, launch(environment={"SET": "x"}, arguments=("a", "b")))
            said = first_line(stream)
            assert said == {
                "cpus": sorted(grant.placement.replicas[replica].visible),
                "set": "x",
                "words": ["a", "b"],
            }
            assert grant.verify(replica, stream)["tasks"] >= 1
            seen += said["cpus"]
        assert sorted(seen) == sorted(allowed)


def test_everything_started_ends_with_the_balloon_also_after_an_error() -> None:
    node = LocalProvisioner()
    pids: list[int] = []

    def use() -> None:
        with node.provision(BalloonSpec()) as grant:
            stream = grant.start_worker(0, launch())
            first_line(stream)
            assert stream.pid is not None
            pids.append(stream.pid)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        use()
    assert not Path(f"/proc/{pids[0]}").exists()


def test_the_archive_is_gone_with_the_balloon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with LocalProvisioner().provision(BalloonSpec()) as grant:
        first_line(grant.start_worker(0, launch()))
        assert list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())


def test_reserved_cpus_are_never_given_out() -> None:
    allowed = LocalProvisioner().describe().allowed
    if len(allowed) < 2:
        pytest.skip("needs two CPUs")
    reserved = frozenset({min(allowed)})
    with LocalProvisioner(reserved=reserved).provision(BalloonSpec(cpus=1, hyperthreads="spread")) as grant:
        assert not grant.placement.replicas[0].allocated & reserved


def test_more_than_there_is_is_refused_with_numbers() -> None:
    node = LocalProvisioner()
    with pytest.raises(PlacementError, match=str(2**20)), node.provision(BalloonSpec(cpus=2**20)):
        pass


def test_only_one_session_holds_the_machine() -> None:
    with LocalProvisioner().session([]), pytest.raises(NodeBusyError), LocalProvisioner().session([]):
        pass


def test_an_interpreter_that_is_not_there_is_named() -> None:
    with (
        LocalProvisioner().provision(BalloonSpec()) as grant,
        pytest.raises(ProvisionError, match="/no/such/python"),
    ):
        grant.start_worker(0, launch(python="/no/such/python"))


def test_our_own_affinity_is_never_touched() -> None:
    before = os.sched_getaffinity(0)
    with LocalProvisioner().provision(BalloonSpec(cpus=1, hyperthreads="spread")) as grant:
        first_line(grant.start_worker(0, launch()))
        assert os.sched_getaffinity(0) == before


def test_a_worker_that_is_gone_when_it_is_verified_is_told_with_how_it_ended() -> None:
    with LocalProvisioner().provision(BalloonSpec(cpus=1, hyperthreads="spread")) as grant:
        stream = grant.start_worker(0, Launch(b"import os; os.kill(os.getpid(), 9)"))
        assert stream.receive(10.0) is None
        stream.close()
        with pytest.raises(
            WorkerError, match="replica 0 ended before it could be verified: killed by SIGKILL, and the"
        ):
            grant.verify(0, stream)
