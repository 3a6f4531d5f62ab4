"""Private weights lie on each replica's own NUMA node; shared ones on the node of whoever read them first."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from pytest_nriperf.balloons import BalloonSpec
from pytest_nriperf.generate.models import parse_model
from pytest_nriperf.generate.process import WorkerGenerator
from pytest_nriperf.provision.local import LocalProvisioner
from pytest_nriperf.seams import Prompt, Work
from tests.machines.inside import kernel_view as kernel
from tests.machines.model import model_folder, weight_bytes, write_model
from tests.machines.selection import ROOT, for_machines
from tests.machines.shapes import TWO_SOCKETS

_PAGE = 4096


def pages(pid: int, wanted: Callable[[str], bool]) -> dict[int, int]:
    """Pages by NUMA node of the mappings whose line is wanted."""
    found: dict[int, int] = {}
    for line in Path(f"/proc/{pid}/numa_maps").read_text().splitlines():
        if wanted(line):
            for node, count in re.findall(r" N(\d+)=(\d+)", line):
                found[int(node)] = found.get(int(node), 0) + int(count)
    return found


@for_machines(ROOT, shape=lambda shape: shape == TWO_SOCKETS)
def test_private_weights_are_local_and_shared_ones_are_not(
    fact: Callable[[str], None], ran: Callable[[str], None]
) -> None:
    # The host has written it where it can be seen, but for a cache below /tmp.
    write_model()
    node, whole = LocalProvisioner(), weight_bytes() // _PAGE
    with node.session([]):
        for weights in ("private", "shared"):
            with node.provision(BalloonSpec(cpus=2, replicas="numa")) as grant:
                generator = WorkerGenerator(
                    parse_model(str(model_folder()), weights=weights), silence_s=kernel.PATIENCE_S
                )
                try:
                    foreign, least = 0, whole
                    infos = generator.load(grant)
                    ran(f"weights={weights}: loaded")
                    generator.measure(Work((Prompt("p", tokens=4),), 2, warmup=0, timeout_s=900.0), lambda _: None)
                    ran(f"weights={weights}: measured")
                    for info, replica in zip(infos, grant.placement.replicas, strict=True):
                        assert info.pid is not None
                        assert info.stream is not None
                        grant.verify(info.replica, info.stream)
                        (own,) = kernel.nodes_of(replica.visible)
                        mapped = pages(info.pid, lambda line: "model.safetensors" in line)
                        anonymous = pages(info.pid, lambda line: " file=" not in line)
                        assert set(anonymous) == {own}
                        if weights == "private":
                            assert mapped == {}
                            assert anonymous[own] > whole
                        least = min(least, sum(mapped.values()))
                        foreign += sum(count for at, count in mapped.items() if at != own)
                        fact(f"weights={weights}, replica {info.replica} on node {own}: file pages {mapped}")
                    if weights == "shared":
                        # Every page of the file lies on one of the two nodes, so for one of the two replicas it is far.
                        assert least > whole / 2
                        assert foreign > 0.9 * least
                finally:
                    generator.close()
