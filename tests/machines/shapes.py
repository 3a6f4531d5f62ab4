"""Shapes of test machines, and how QEMU is asked for them."""

from __future__ import annotations

from dataclasses import dataclass

# Its CPUID leaves let a guest kernel see siblings and shared caches; `max` and the default model do not.
_CPU_MODEL = "Skylake-Server"


@dataclass(frozen=True)
class Shape:
    """A machine: `cores` per socket, `snc` NUMA nodes per socket, `memory_only` NUMA nodes without CPUs.

    `near` and `far` are the firmware's distances inside a socket and across, `isolated` CPUs for `isolcpus` on the
    guest's kernel command line.

    >>> Shape("small", sockets=2, cores=2, threads=2).cpus
    8
    """

    name: str
    sockets: int
    cores: int
    threads: int
    snc: int = 1
    node_mib: int = 512
    memory_only: int = 0
    isolated: str = ""
    near: int = 12
    far: int = 21

    @property
    def cpus(self) -> int:
        """Logical CPUs of the machine."""
        return self.sockets * self.cores * self.threads

    @property
    def cpu_nodes(self) -> int:
        """NUMA nodes with CPUs."""
        return self.sockets * self.snc

    @property
    def nodes(self) -> int:
        """All NUMA nodes."""
        return self.cpu_nodes + self.memory_only

    def arguments(self) -> list[str]:
        """QEMU's options for processors, memory and distances."""
        words = ["-accel", "tcg,thread=multi", "-cpu", _CPU_MODEL, "-m", str(self.nodes * self.node_mib)]
        words += ["-smp", f"{self.cpus},sockets={self.sockets},dies=1,cores={self.cores},threads={self.threads}"]
        share = self.cpus // self.cpu_nodes
        for node in range(self.nodes):
            words += ["-object", f"memory-backend-ram,id=m{node},size={self.node_mib}M"]
            cpus = f",cpus={node * share}-{(node + 1) * share - 1}" if node < self.cpu_nodes else ""
            words += ["-numa", f"node,nodeid={node}{cpus},memdev=m{node}"]
        for one in range(self.nodes):
            for other in range(one):
                words += ["-numa", f"dist,src={one},dst={other},val={self.distance(one, other)}"]
        return words

    def distance(self, one: int, other: int) -> int:
        """What the firmware says of two nodes; memory-only ones lie a little behind socket 0."""
        if one == other:
            return 10
        behind = any(node >= self.cpu_nodes for node in (one, other))
        sockets = {0 if node >= self.cpu_nodes else node // self.snc for node in (one, other)}
        return (self.near if len(sockets) == 1 else self.far) + (5 if behind else 0)

    def command_line(self) -> str:
        """What the guest's kernel is told beside the console. Cgroups wait for grace periods of RCU, which last long
        on many emulated processors; mitigations change page tables with every system call, which empties the emulated
        TLB."""
        return f"rcupdate.rcu_expedited=1 mitigations=off{f' isolcpus={self.isolated}' if self.isolated else ''}"


SNC2 = Shape("2s4c2t-snc2", sockets=2, cores=4, threads=2, snc=2)
TWO_SOCKETS = Shape("2s3c2t", sockets=2, cores=3, threads=2, node_mib=1536)
NO_HYPERTHREADS = Shape("1s4c1t", sockets=1, cores=4, threads=1, node_mib=1024)
MEMORY_ONLY = Shape("2s2c2t-cxl", sockets=2, cores=2, threads=2, memory_only=1)
ISOLATED = Shape("2s4c2t-isolated", sockets=2, cores=4, threads=2, isolated="2-3,12-13")
LARGE = Shape("2s32c2t", sockets=2, cores=32, threads=2, node_mib=1536)

SHAPES = {shape.name: shape for shape in (SNC2, TWO_SOCKETS, NO_HYPERTHREADS, MEMORY_ONLY, ISOLATED, LARGE)}
