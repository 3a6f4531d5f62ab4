"""What a figure depends on, in three parts.

identity: the hardware and the question (CPU model, cores, SNC, memory; balloon, workload, model). Unlike identity
    cannot be compared.
treatment: what people change in order to see its effect (kernel, microcode, BIOS, engine and library versions,
    model revision). Unlike treatment is compared, and named beside the change.
state: how the machine happens to be set (governor, turbo, huge pages, NUMA balancing). Unlike state makes a
    verdict unknown.

Everything is read through a callable, so that a far node's files serve as well as our own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_nriperf.errors import SettingsError
from pytest_nriperf.topology import Topology

Read = Callable[[str], bytes | None]

_CPU0 = "/sys/devices/system/cpu/cpu0"

# Of the kernel's command line only words that change performance; the rest names disks and hosts.
_COMMAND_LINE = re.compile(
    r"(isolcpus|nohz_full|rcu_nocbs|irqaffinity|mitigations|transparent_hugepage|default_hugepagesz|hugepagesz|hugepages"
    r"|numa_balancing|numa|intel_pstate|amd_pstate|intel_idle[.\w]*|processor[.\w]*|idle|nosmt|maxcpus|nr_cpus|preempt"
    r"|rdt|psi|skew_tick|tsc|clocksource|nopti|spec_store_bypass_disable)(=|$)"
)

_TREATMENT_FILES = {
    "kernel": "/proc/sys/kernel/osrelease",
    "kernel build": "/proc/sys/kernel/version",
    "bios": "/sys/class/dmi/id/bios_version",
    "bios date": "/sys/class/dmi/id/bios_date",
}

_STATE_FILES = {
    "governor": f"{_CPU0}/cpufreq/scaling_governor",
    "frequency driver": f"{_CPU0}/cpufreq/scaling_driver",
    "frequency limit": f"{_CPU0}/cpufreq/scaling_max_freq",
    "energy preference": f"{_CPU0}/cpufreq/energy_performance_preference",
    "turbo off": "/sys/devices/system/cpu/intel_pstate/no_turbo",
    "boost": "/sys/devices/system/cpu/cpufreq/boost",
    "hyperthreads": "/sys/devices/system/cpu/smt/control",
    "transparent huge pages": "/sys/kernel/mm/transparent_hugepage/enabled",
    "huge page defragmentation": "/sys/kernel/mm/transparent_hugepage/defrag",
    "NUMA balancing": "/proc/sys/kernel/numa_balancing",
    "zone reclaim": "/proc/sys/vm/zone_reclaim_mode",
    "swappiness": "/proc/sys/vm/swappiness",
    "NMI watchdog": "/proc/sys/kernel/nmi_watchdog",
    "address randomisation": "/proc/sys/kernel/randomize_va_space",
    "clock source": "/sys/devices/system/clocksource/clocksource0/current_clocksource",
}


@dataclass(frozen=True)
class Fingerprint:
    """Three flat dictionaries of plain values; `node_identity` is the identity without the question asked."""

    identity: Mapping[str, Any]
    treatment: Mapping[str, Any]
    state: Mapping[str, Any]
    node_identity: Mapping[str, Any]

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """For a recording or baseline."""
        return {"identity": dict(self.identity), "treatment": dict(self.treatment), "state": dict(self.state)}

    @property
    def node_hash(self) -> str:
        """Eight hexadecimal digits of the node's identity: names the baselines of an unnamed machine."""
        canonical = json.dumps(self.node_identity, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:8]

    def with_question(
        self, *, balloon: str, workload: str, model: Mapping[str, Any], versions: Mapping[str, str]
    ) -> Fingerprint:
        """The fingerprint of one measurement on this node: balloon, workload, model and engine added."""
        asked = {"balloon": balloon, "workload": workload, "model": model.get("name"), "dtype": model.get("dtype")}
        used = {f"{name} version": version for name, version in sorted(versions.items())}
        if model.get("revision"):
            used["model revision"] = model["revision"]
        return Fingerprint({**self.identity, **asked}, {**self.treatment, **used}, self.state, self.node_identity)

    def moved(self, *, identity: Iterable[str] = (), treatment: Iterable[str] = ()) -> Fingerprint:
        """With fields moved to another part, as a node profile may ask."""
        parts = self.as_dict()
        for target, names in (("identity", identity), ("treatment", treatment)):
            for name in names:
                source = next((part for part in parts.values() if name in part), None)
                if source is None:
                    raise SettingsError(
                        f"the fingerprint has no field {name!r} to move to {target}",
                        f"known are {', '.join(sorted(set().union(*parts.values())))}",
                    )
                parts[target][name] = source.pop(name)
        return Fingerprint(parts["identity"], parts["treatment"], parts["state"], self.node_identity)


def node_fingerprint(read: Read, topology: Topology, facts: Mapping[str, Any] | None = None) -> Fingerprint:
    """The fingerprint of a node from its files; absent files are recorded as `absent`, never guessed.

    `facts` are added to the treatment (versions of a cluster's parts).
    """
    cpu = _cpuinfo(read)
    virtual = "hypervisor" in cpu.get("flags", "").split()
    memory = {str(node.id): round((node.memory_bytes or 0) / 2**30) for node in topology.nodes}
    identity: dict[str, Any] = {
        "cpu": cpu.get("model name") or cpu.get("CPU part") or "unknown",
        "sockets": len(topology.sockets),
        "cores": len(topology.cores()),
        "cpus": len(topology.online),
        "threads per core": topology.threads_per_core,
        "SNC": topology.snc,
        "NUMA nodes": len(topology.nodes),
        "virtual machine": virtual,
    }
    if topology.simulated:
        identity["simulated"] = True
    treatment: dict[str, Any] = {name: _text(read, path) for name, path in _TREATMENT_FILES.items()}
    # A hypervisor gives and takes memory while a machine runs: there it cannot tell one machine from another.
    (treatment if virtual else identity)["memory GiB"] = memory
    treatment["microcode"] = cpu.get("microcode", "absent")
    treatment["kernel options"] = _kernel_options(_text(read, "/proc/cmdline"))
    treatment |= dict(facts or {})
    state: dict[str, Any] = {name: _chosen(_text(read, path)) for name, path in _STATE_FILES.items()}
    swap = re.search(r"SwapTotal:\s+(\d+)", _text(read, "/proc/meminfo"))
    state["swap GiB"] = round(int(swap[1]) / 2**20) if swap else "absent"
    return Fingerprint(identity, treatment, state, dict(identity))


def _text(read: Read, path: str) -> str:
    content = read(path)
    return "absent" if content is None else content.decode(errors="replace").strip()


def _chosen(text: str) -> str:
    """The bracketed word of a kernel choice file, else the text.

    >>> _chosen("always [madvise] never"), _chosen("0")
    ('madvise', '0')
    """
    match = re.search(r"\[([^\]]+)\]", text)
    return match[1] if match else text


def _kernel_options(command_line: str) -> str:
    """The words of the kernel's command line that change performance.

    >>> _kernel_options("root=/dev/vda ro isolcpus=2-3 quiet mitigations=off")
    'isolcpus=2-3 mitigations=off'
    """
    return " ".join(word for word in command_line.split() if _COMMAND_LINE.match(word))


def _cpuinfo(read: Read) -> dict[str, str]:
    """The first processor's block of /proc/cpuinfo."""
    block = _text(read, "/proc/cpuinfo").split("\n\n", 1)[0]
    pairs = (line.split(":", 1) for line in block.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}
