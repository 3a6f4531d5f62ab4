"""Mistakes made on purpose are found, with the message that a user needs."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_nriperf.balloons import BalloonSpec
from pytest_nriperf.errors import NotHonouredError, PlacementError
from pytest_nriperf.generate.models import parse_model
from pytest_nriperf.generate.process import WorkerGenerator
from pytest_nriperf.provision.local import LocalProvisioner
from pytest_nriperf.seams import Grant, Launch, Prompt, Work, WorkerInfo, WorkerStream
from pytest_nriperf.units import format_cpus
from tests.machines.inside import kernel_view as kernel
from tests.machines.selection import ROOT, USER, for_machines
from tests.machines.shapes import Shape

_CPU = Path("/sys/devices/system/cpu")


@contextlib.contextmanager
def loaded(model: str, spec: BalloonSpec) -> Iterator[tuple[Grant, WorkerInfo]]:
    """A simulated engine in a balloon of one replica."""
    node = LocalProvisioner()
    with node.session([spec]), node.provision(spec) as grant:
        generator = WorkerGenerator(parse_model(model), silence_s=kernel.PATIENCE_S)
        try:
            yield grant, generator.load(grant)[0]
        finally:
            generator.close()


def shell(grant: Grant, code: bytes) -> WorkerStream:
    stream = grant.start_worker(0, Launch(code, python="/bin/sh"))
    assert stream.receive(kernel.PATIENCE_S) == b"ready\n", stream.close()
    return stream


@for_machines(USER)
def test_a_thread_that_takes_other_cpus_is_named(shape: Shape) -> None:
    with loaded("sim:itl=5ms,fail=repin", BalloonSpec(cpus=2)) as (grant, info):
        assert info.stream is not None
        granted = format_cpus(grant.placement.replicas[0].visible)
        with pytest.raises(NotHonouredError, match=f"may run on CPUs {format_cpus(kernel.online())}") as caught:
            grant.verify(0, info.stream)
        assert f"granted were {granted}" in str(caught.value)
        assert "switch its pinning off" in str(caught.value)


@for_machines(ROOT)
def test_in_a_cgroup_a_thread_cannot_take_other_cpus() -> None:
    with loaded("sim:itl=5ms,fail=repin", BalloonSpec(cpus=2)) as (grant, info):
        assert info.stream is not None
        assert grant.verify(0, info.stream)["cpus"] == format_cpus(grant.placement.replicas[0].visible)


# Touches 4 MiB while bound to another node, binds itself home, and goes on: what was touched stays where it was.
_TOUCHED_BEFORE = """\
import ctypes
call = ctypes.CDLL(None).syscall
def bind(node):
    mask = ctypes.c_ulong(1 << node)
    assert call(238, 2, ctypes.byref(mask), 65) == 0, node
bind({other})
held = b"x" * (4 << 20)
bind({home})
print("ready", flush=True)
input()
"""


@contextlib.contextmanager
def balloon_and_other_memory() -> Iterator[tuple[Grant, frozenset[int], int]]:
    """A balloon of two CPUs, the NUMA nodes of its memory, and another one that has memory."""
    node = LocalProvisioner()
    with node.session([]), node.provision(BalloonSpec(cpus=2)) as grant:
        wanted = kernel.nodes_of(grant.placement.replicas[0].visible) & kernel.has_memory()
        yield grant, wanted, max(kernel.has_memory() - wanted)


@for_machines(USER, shape=lambda shape: shape.nodes > 1)
def test_memory_that_was_touched_before_it_was_bound_is_named_with_its_node() -> None:
    with balloon_and_other_memory() as (grant, wanted, other):
        code = _TOUCHED_BEFORE.format(other=other, home=min(wanted))
        stream = grant.start_worker(0, Launch(code.encode()))
        assert stream.receive(kernel.PATIENCE_S) == b"ready\n", stream.close()
        with pytest.raises(NotHonouredError, match=rf"MiB on NUMA node {other}, bound to {format_cpus(wanted)}"):
            grant.verify(0, stream)


@for_machines(ROOT, shape=lambda shape: shape.nodes > 1)
def test_in_a_cgroup_memory_cannot_be_bound_elsewhere() -> None:
    with balloon_and_other_memory() as (grant, _, other):
        code = f"exec numactl --membind={other} sh -c 'echo ready; read line'\n"
        stream = grant.start_worker(0, Launch(code.encode(), python="/bin/sh"))
        # The engine never starts, instead of running with far memory, and numactl's own words say why.
        assert stream.receive(kernel.PATIENCE_S) == f"<{other}> is invalid\n".encode()
        assert re.match(r"ended with status [1-9]", stream.close())


@for_machines(ROOT)
def test_a_cgroup_that_shrinks_during_a_run_is_named() -> None:
    node = LocalProvisioner()
    with node.session([]), node.provision(BalloonSpec(cpus=2, hyperthreads="spread")) as grant:
        stream = shell(grant, b"echo ready; read line")
        grant.verify(0, stream)
        assert stream.pid is not None
        left = min(grant.placement.replicas[0].visible)
        (kernel.cgroup_folder(stream.pid) / "cpuset.cpus").write_text(str(left))
        with pytest.raises(NotHonouredError, match=f"its cgroup may use CPUs {left}, granted were") as caught:
            grant.verify(0, stream)
        assert "somebody changed cpuset.cpus" in str(caught.value)


@for_machines(ROOT)
def test_a_cpu_that_is_taken_offline_during_a_run_is_named(shape: Shape) -> None:
    last = shape.cpus - 1
    with offline_at_the_end(last):
        for confine in (True, False):
            node = LocalProvisioner(confine=confine, allowed=kernel.siblings(last))
            with node.session([]), node.provision(BalloonSpec()) as grant:
                stream = shell(grant, b"echo ready; read line")
                grant.verify(0, stream)
                (_CPU / f"cpu{last}/online").write_text("0")
                with pytest.raises(NotHonouredError, match=rf"CPUs {last} of the granted .* offline") as caught:
                    grant.verify(0, stream)
                assert f"echo 1 > /sys/devices/system/cpu/cpu{last}/online" in str(caught.value)
                (_CPU / f"cpu{last}/online").write_text("1")


@for_machines(ROOT)
def test_cpus_that_are_offline_are_never_given(shape: Shape) -> None:
    last = shape.cpus - 1
    with offline_at_the_end(last):
        (_CPU / f"cpu{last}/online").write_text("0")
        node = LocalProvisioner()
        assert node.topology().offline == {last}
        assert last not in node.describe().allowed
        with node.session([]), node.provision(BalloonSpec(cpus="all", hyperthreads="spread")) as grant:
            replica = grant.placement.replicas[0]
            assert replica.visible <= kernel.online()
            grant.verify(0, shell(grant, b"echo ready; read line"))
        if shape.threads == 2:
            with node.session([]), node.provision(BalloonSpec(cpus="all")) as grant:
                # The core that has lost a thread is not a whole core.
                assert not grant.placement.replicas[0].allocated & {last - 1, last}
            with pytest.raises(PlacementError), node.provision(BalloonSpec(cpus=shape.cpus)):
                pass


@contextlib.contextmanager
def offline_at_the_end(cpu: int) -> Iterator[None]:
    """Whatever happens inside, the CPU is online afterwards."""
    try:
        yield
    finally:
        if cpu not in kernel.online():
            (_CPU / f"cpu{cpu}/online").write_text("1")


@for_machines(shape=lambda shape: shape.isolated != "")
def test_isolated_cpus_are_never_given_unless_they_are_asked_for(shape: Shape) -> None:
    isolated = kernel.numbers(shape.isolated)
    node = LocalProvisioner()
    with node.session([]), node.provision(BalloonSpec(cpus="all", hyperthreads="spread")) as grant:
        assert not grant.placement.replicas[0].allocated & isolated
    wanted = LocalProvisioner(allowed=isolated)
    with wanted.session([]), wanted.provision(BalloonSpec(cpus=2)) as grant:
        assert grant.placement.replicas[0].allocated <= isolated
        grant.verify(0, shell(grant, b"echo ready; read line"))


def test_an_engine_with_a_thread_per_cpu_of_the_machine_is_named(shape: Shape) -> None:
    node, work = LocalProvisioner(), Work((Prompt("p", tokens=2),), max_new_tokens=2)
    for threads, words in ((shape.cpus, f"computes with {shape.cpus} threads, its balloon shows 2 CPUs"), (2, "")):
        with node.session([]), node.provision(BalloonSpec(cpus=2, hyperthreads="spread")) as grant:
            generator = WorkerGenerator(parse_model(f"sim:itl=5ms,threads={threads}"), silence_s=kernel.PATIENCE_S)
            try:
                generator.load(grant)
                warnings = [line for line in generator.measure(work, lambda _: None).warnings if "threads" in line]
            finally:
                generator.close()
        assert len(warnings) == bool(words)
        assert words in "".join(warnings)
