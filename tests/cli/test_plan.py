from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

from pytest_nriperf.balloons import BalloonSpec
from pytest_nriperf.cli import main
from pytest_nriperf.topology import Topology, simulated_topology
from tests.sysfs_tree import sysfs_files, write_tree


def test_a_plan_is_drawn_with_both_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    balloon = "cpus=16,hyperthreads=hidden,numa=single,replicas=4"
    assert main(["plan", "--node", "sim:2s64c2t-snc2", "--balloon", balloon]) == 0
    out = capsys.readouterr().out
    assert "SIMULATED" in out
    assert "4 replicas x (16 allocated / 8 visible) = 64 allocated / 32 visible of 256 CPUs" in out
    assert "0-7,128-135" in out
    assert max(map(len, out.splitlines())) <= 100


def test_a_plan_as_json_holds_the_placement_and_the_map(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--node", "sim:1s4c2t", "--balloon", "cpus=2", "--reserved", "0", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["replicas"] == [{"allocated": "1,5", "visible": "1,5", "memory_nodes": [0]}]
    assert data["sizes"] == "2 allocated / 2 visible"
    assert data["map"]["sockets"][0]["nodes"][0]["cores"][0]["threads"][0]["state"] == "reserved"


def test_cores_that_replicas_share_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", "--node", "sim:1s4c2t", "--balloon", "cpus=4,hyperthreads=spread,replicas=2"])
    assert "4 cores are shared by replicas" in capsys.readouterr().out


def test_a_plan_says_how_many_replicas_there_is_room_for(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", "--node", "sim:2s4c2t", "--balloon", "cpus=4,replicas=2"])
    assert "room for 4 such replicas" in capsys.readouterr().out


def test_reserved_cpus_come_from_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "nriperf.toml").write_text('reserved = "0"\n')
    monkeypatch.chdir(tmp_path)
    assert main(["topology", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reserved"] == "0"


def test_only_allowed_cpus_are_planned(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", "--node", "sim:1s8c2t", "--balloon", "cpus=4", "--allowed", "4-7,12-15", "--json"])
    assert json.loads(capsys.readouterr().out)["replicas"][0]["allocated"] == "4-5,12-13"


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--node", "sim:1s2c", "--balloon", "cpus=4"], 3, "what fits: 2 CPUs"),
        (["--node", "sim:1s2c2t", "--balloon", "cpus=3"], 2, "nearest sizes are 2 and 4"),
        (["--node", "sim:1s2c", "--balloon", "cpu=4"], 2, "did you mean 'cpus'"),
        (["--node", "xeon1"], 2, "set KUBECONFIG"),
        (["--node", "sim:oops"], 2, "for example sim:2s64c2t-snc2"),
        (["--node", "sim:1s2c", "--allowed", "x"], 2, "no number or range"),
    ],
)
def test_a_mistake_is_one_line_with_the_next_step(
    arguments: list[str], status: int, says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", "/no/such/file")
    assert main(["plan", *arguments]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert says in captured.err
    assert len(captured.err.splitlines()) == 1


def test_the_topology_of_a_sysfs_tree_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sysfs = write_tree(sysfs_files(simulated_topology("sim:2s4c2t-snc2")), tmp_path)
    assert main(["topology", "--sysfs", str(sysfs)]) == 0
    out = capsys.readouterr().out
    assert "2 sockets x 4 cores x 2 threads = 16 CPUs, 4 NUMA nodes (SNC-2)" in out
    assert "SIMULATED" not in out
    assert "distances" in out


def test_the_topology_as_json_can_be_read_back(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["topology", "--node", "sim:2s4c2t-snc2", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["summary"].endswith("(SNC-2)")
    assert Topology.from_dict(data) == simulated_topology("sim:2s4c2t-snc2")


def test_this_machine_can_be_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["topology"]) == 0
    assert capsys.readouterr().out.startswith("local: ")


def test_the_help_teaches_every_argument_of_a_balloon(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "--help"])
    out = capsys.readouterr().out
    for field in fields(BalloonSpec):
        assert f"\n  {field.name} " in out
    assert "sim:2s64c2t-snc2" in out
