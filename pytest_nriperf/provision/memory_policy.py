"""Where a process may take its memory from: numactl where it is installed, else the system call itself."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import threading
from dataclasses import dataclass

from pytest_nriperf.errors import ProvisionError
from pytest_nriperf.units import format_cpus

# set_mempolicy(2): number by machine, modes of <linux/mempolicy.h>.
_SYSCALL = {"x86_64": 238, "aarch64": 237, "riscv64": 237, "ppc64le": 261, "s390x": 270}
_MODE = {"bind": 2, "interleave": 3}
_NUMACTL = {"bind": "--membind", "interleave": "--interleave"}


@dataclass(frozen=True)
class MemoryPolicy:
    """`mode` is default, bind or interleave; `nodes` the NUMA nodes that bind or interleave name."""

    mode: str
    nodes: frozenset[int]

    def command_prefix(self) -> list[str]:
        """The words that go before the command, empty without numactl or without a policy."""
        numactl = shutil.which("numactl")
        if self.mode == "default" or numactl is None:
            return []
        return [numactl, f"{_NUMACTL[self.mode]}={format_cpus(self.nodes)}", "--"]

    def apply_to_this_thread(self) -> None:
        """Without numactl: set the policy of the calling thread, which the processes that it starts inherit."""
        if self.mode != "default" and shutil.which("numactl") is None:
            self.set_for_this_thread()

    def set_for_this_thread(self) -> None:
        """The system call itself, for bind and interleave. Raises ProvisionError where it is not permitted."""
        number = _SYSCALL.get(platform.machine())
        if number is None:
            raise ProvisionError(f"no memory binding without numactl on {platform.machine()}", "install numactl")
        mask = sum(1 << node for node in self.nodes)
        words = (max(self.nodes) // 64) + 1
        # The kernel reads one bit less than it is told, hence the extra word.
        buffer = (ctypes.c_uint64 * (words + 1))(*((mask >> (64 * word)) & (2**64 - 1) for word in range(words)))
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syscall(number, _MODE[self.mode], buffer, ctypes.c_ulong(64 * words + 1)) != 0:
            error = ctypes.get_errno()
            raise ProvisionError(
                f"memory cannot be bound to NUMA nodes {format_cpus(self.nodes)}: {os.strerror(error)}",
                "allow set_mempolicy (in containers: CAP_SYS_NICE or a seccomp profile), or use memory='any'",
            )


def why_memory_cannot_be_bound(node: int) -> str:
    """Empty when this process may bind memory to a NUMA node, else why not; tried in a thread that ends."""
    refused: list[str] = []

    def attempt() -> None:
        try:
            MemoryPolicy("bind", frozenset({node})).set_for_this_thread()
        except ProvisionError as error:
            refused.append(error.fact)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return refused[0] if refused else ""
