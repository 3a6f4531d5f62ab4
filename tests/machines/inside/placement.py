"""Every combination of a balloon's arguments is what it says, by the guest kernel's own view."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pytest_nriperf.balloons import BalloonSpec, ReplicaPlacement
from pytest_nriperf.errors import PlacementError, SpecError
from pytest_nriperf.generate.models import parse_model
from pytest_nriperf.generate.process import WorkerGenerator
from pytest_nriperf.provision.local import LocalProvisioner
from pytest_nriperf.seams import Grant, Launch, Prompt, Work, WorkerInfo, WorkerStream
from tests.machines.combinations import Combination, combinations, pairwise, sizes, tried
from tests.machines.inside import kernel_view as kernel
from tests.machines.selection import ROOT, for_machines
from tests.machines.shapes import ISOLATED, SNC2, TWO_SOCKETS, Shape

# A worker that touches 512 KiB, made by doubling: quick also on an emulated processor.
_TOUCH = b"""\
x=0123456789abcdef
for doubled in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do x=$x$x; done
echo ready; read line
"""


def test_every_combination_is_what_it_says(
    shape: Shape, fact: Callable[[str], None], ran: Callable[[str], None]
) -> None:
    node, wrong, run, unfit = LocalProvisioner(), [], 0, 0
    everything = bool(os.environ.get("NRIPERF_ALL"))
    wanted = tried(shape, everything=everything)
    with node.session([]):
        for combination in wanted:
            fitted = []
            for cpus in sizes(combination, shape, everything=everything):
                try:
                    with node.provision(BalloonSpec(cpus=cpus, **combination)) as grant:
                        check(grant)
                except (PlacementError, SpecError) as error:
                    if surely_fits(cpus, combination, shape):
                        wrong.append(f"cpus={cpus} {combination}: refused although there is room: {error}")
                    continue
                except AssertionError as error:
                    wrong.append(f"cpus={cpus} {combination}: {error}")
                fitted.append(cpus)
            words = " ".join(f"{axis}={value}" for axis, value in combination.items())
            ran(f"{words}: {'cpus=' + ', '.join(map(str, fitted)) if fitted else 'does not fit'}")
            run, unfit = run + len(fitted), unfit + (not fitted)
    assert not wrong, "\n".join(wrong)
    assert run
    fact(f"placement: {run} balloons of {len(wanted)} combinations run, {unfit} combinations do not fit")
    assert not kernel.groups_of_ours()


def surely_fits(cpus: int, combination: Combination, shape: Shape) -> bool:
    """Whether there is room by arithmetic alone: half of the machine's cores that are not isolated are enough, and
    hidden threads need threads."""
    replicas = combination["replicas"]
    count = shape.cpu_nodes if replicas == "numa" else int(replicas)
    cores = cpus if combination["hyperthreads"] == "spread" else cpus // shape.threads
    isolated = len({kernel.siblings(cpu) for cpu in kernel.numbers(shape.isolated)})
    room = (shape.cpus // shape.threads - isolated) // 2
    return count * cores <= room and not (combination["hyperthreads"] == "hidden" and shape.threads == 1)


def check(grant: Grant) -> None:
    """Start a worker in each replica and compare what the kernel says with what was asked for."""
    placement = grant.placement
    streams = [
        grant.start_worker(number, Launch(_TOUCH, python="/bin/sh")) for number in range(len(placement.replicas))
    ]
    taken: set[int] = set()
    for number, (replica, stream) in enumerate(zip(placement.replicas, streams, strict=True)):
        assert stream.receive(kernel.PATIENCE_S) == b"ready\n", stream.close()
        check_cpus(placement.spec, replica)
        assert not taken & replica.allocated, "replicas share CPUs"
        taken |= replica.allocated
        check_process(grant, number, stream)
        grant.verify(number, stream)
    check_placement(placement.spec, [replica.allocated for replica in placement.replicas])


def check_cpus(spec: BalloonSpec, replica: ReplicaPlacement) -> None:
    allocated, visible = replica.allocated, replica.visible
    assert len(allocated) == spec.cpus
    cores = {kernel.siblings(cpu) for cpu in allocated}
    if spec.hyperthreads == "spread":
        assert len(cores) == len(allocated)
        assert visible == allocated
    else:
        assert frozenset().union(*cores) == allocated, "a core is torn apart"
        expected = allocated if spec.hyperthreads == "paired" else {min(core) for core in cores}
        assert visible == expected
    shares = {node: len(members & allocated) for node, members in kernel.nodes().items() if members & allocated}
    if spec.numa == "single" or spec.replicas == "numa":
        assert len(shares) == 1
    elif spec.numa == "socket":
        socket = {kernel.socket(cpu) for cpu in allocated}
        assert len(socket) == 1
        nodes = [members for members in kernel.nodes().values() if {kernel.socket(cpu) for cpu in members} == socket]
        assert len(shares) == len(nodes)
        assert len(set(shares.values())) == 1
    elif spec.numa == "all":
        assert set(shares) == {node for node, members in kernel.nodes().items() if members}
        assert len(set(shares.values())) == 1


def check_process(grant: Grant, number: int, stream: WorkerStream) -> None:
    replica, memory = grant.placement.replicas[number], grant.placement.spec.memory
    assert stream.pid is not None
    assert kernel.allowed(stream.pid) == [replica.visible]
    if kernel.is_root():
        assert grant.mechanism == "cgroup v2 cpuset"
        assert kernel.cgroup_cpus(stream.pid) == replica.visible
    else:
        assert grant.mechanism == "affinity"
    check_memory(stream.pid, replica, memory)


def check_memory(pid: int, replica: ReplicaPlacement, memory: str) -> None:
    """Where the pages of the largest mapping lie, and by which policy."""
    policy, pages = kernel.largest_mapping(pid)
    assert sum(pages.values()) > 100, "nothing was touched"
    own = kernel.nodes_of(replica.visible) & kernel.has_memory()
    if memory == "local":
        assert set(pages) <= own
    if memory == "local" and own != kernel.has_memory():
        assert policy.startswith("bind:")
        assert kernel.numbers(policy.partition(":")[2]) == own
    elif memory == "interleave" and len(own) > 1:
        assert policy.startswith("interleave")
        assert set(pages) == own
        # In turn, but whole: a huge page more or less.
        assert max(pages.values()) < 2 * min(pages.values()) + kernel.HUGE_PAGES


def check_placement(spec: BalloonSpec, allocated: Sequence[frozenset[int]]) -> None:
    """Balanced replicas go to different sockets, packed ones to as few as hold them unless each has its own node."""
    sockets = [{kernel.socket(cpu) for cpu in cpus} for cpus in allocated]
    if len(allocated) == 2 and all(len(group) == 1 for group in sockets) and len(kernel.nodes()) > 1:
        room = {
            s: sum(kernel.socket(cpu) == s for cpu in os.sched_getaffinity(0)) for s in {kernel.socket(0), *sockets[1]}
        }
        if spec.placement == "balance" and spec.numa != "all":
            assert sockets[0] != sockets[1]
        elif (
            spec.placement == "pack"
            and spec.replicas != "numa"
            and spec.hyperthreads != "spread"
            and sum(map(len, allocated)) <= min(room.values())
        ):
            assert sockets[0] == sockets[1]


@for_machines(ROOT, shape=lambda shape: shape in (SNC2, ISOLATED))
def test_where_the_controller_is_in_version_1_replicas_are_confined_there(shape: Shape) -> None:
    with version_1() as mount:
        node = LocalProvisioner()
        wide = BalloonSpec(cpus=2 * shape.cpu_nodes, hyperthreads="hidden", memory="interleave", numa="all")
        for spec in (BalloonSpec(cpus=4, replicas="numa"), wide):
            with node.session([]), node.provision(spec) as grant:
                assert grant.mechanism == "cgroup v1 cpuset"
                for number, replica in enumerate(grant.placement.replicas):
                    stream = grant.start_worker(number, Launch(_TOUCH, python="/bin/sh"))
                    assert stream.receive(kernel.PATIENCE_S) == b"ready\n"
                    assert stream.pid is not None
                    folder = mount / Path(f"/proc/{stream.pid}/cpuset").read_text().strip().strip("/")
                    assert folder.name.startswith("nriperf-")
                    assert kernel.numbers((folder / "cpuset.effective_cpus").read_text()) == replica.visible
                    assert kernel.numbers((folder / "cpuset.mems").read_text()) == set(replica.memory_nodes)
                    assert kernel.allowed(stream.pid) == [replica.visible]
                    grant.verify(number, stream)
            assert not list(mount.glob("nriperf-*"))


@contextlib.contextmanager
def version_1() -> Iterator[Path]:
    """The controller in a hierarchy of its own, as on machines with both versions."""
    mount = Path("/run/cpuset")
    mount.mkdir()
    subprocess.run(["mount", "-t", "cgroup", "-o", "cpuset", "cpuset", mount], check=True)
    try:
        yield mount
    finally:
        subprocess.run(["umount", mount], check=True)
        mount.rmdir()


def test_the_simulated_engine_runs_inside_its_balloon(
    shape: Shape, fact: Callable[[str], None], ran: Callable[[str], None]
) -> None:
    node, wrong, run = LocalProvisioner(), [], 0
    with node.session([]):
        for asked in simulated(shape):
            try:
                with node.provision(BalloonSpec.from_arguments(asked)) as grant:
                    measure(grant)
            except (PlacementError, SpecError):
                continue
            except AssertionError as error:
                wrong.append(f"{asked}: {error}")
            run += 1
            ran(f"simulated engine: {' '.join(f'{axis}={value}' for axis, value in asked.items())}")
    assert not wrong, "\n".join(wrong)
    assert run > 1
    assert not kernel.groups_of_ours()
    fact(f"simulated engine: {run} balloons measured")


def simulated(shape: Shape) -> Iterator[Combination]:
    """Balloons in which the simulated engine runs: two; in the full matrix every combination on a shape for each way
    to hold replicas, and every pair of values on the others, since each start of Python takes seconds there."""
    hyperthreads = "hidden" if shape.threads == 2 else "paired"
    yield {"cpus": 2, "hyperthreads": hyperthreads, "replicas": "numa" if shape.cpu_nodes > 1 else 2}
    yield {"cpus": 2, "hyperthreads": "spread", "memory": "interleave", "placement": "pack", "replicas": 2}
    if os.environ.get("NRIPERF_ALL"):
        whole = shape == (SNC2 if kernel.is_root() else TWO_SOCKETS)
        for combination in combinations() if whole else pairwise():
            yield {"cpus": next(sizes(combination, shape, everything=False)), **combination}


def measure(grant: Grant) -> None:
    """A run whose workers the kernel sees where they belong, before and after."""
    model = parse_model("sim:itl=5ms,ttft=5ms,memory=8Mi")
    with contextlib.closing(WorkerGenerator(model, silence_s=kernel.PATIENCE_S)) as generator:
        infos = generator.load(grant)
        replicas = grant.placement.replicas
        assert [info.replica for info in infos] == list(range(len(replicas)))
        check_engine(grant, infos)
        data = generator.measure(Work((Prompt("p", tokens=4),), max_new_tokens=4, requests=2), lambda _: None)
        check_engine(grant, infos)
    rows = [row for row in data.requests if row.phase == "measure"]
    assert len(rows) == 2 * len(replicas)
    assert {row.status for row in rows} == {"ok"}


def check_engine(grant: Grant, infos: Sequence[WorkerInfo]) -> None:
    """Every task of every engine is bound as the replica is, for the kernel and for our own verification."""
    for info, replica in zip(infos, grant.placement.replicas, strict=True):
        assert info.pid is not None
        assert info.stream is not None
        assert set(kernel.allowed(info.pid)) == {replica.visible}
        if kernel.is_root():
            assert kernel.cgroup_cpus(info.pid) == replica.visible
        check_memory(info.pid, replica, grant.placement.spec.memory)
        assert grant.verify(info.replica, info.stream)["mechanism"] == grant.mechanism
