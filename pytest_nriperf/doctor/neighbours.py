"""Who else uses the CPUs: hypervisor, other processes, and quotas that take CPUs away."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from pytest_nriperf.collect.cgroups import lineage, quota
from pytest_nriperf.doctor.check import Check, Examined, Finding
from pytest_nriperf.units import format_cpus, format_percent

_STEAL_SPOILS = 0.01
_BUSY_DISTURBS, _BUSY_SPOILS = 0.02, 0.10
_CGROUP = "/sys/fs/cgroup"


def _virtual(node: Examined) -> Sequence[Finding]:
    text = node.text("/proc/cpuinfo")
    if text is None:
        return [Finding("virtual machine", "unknown", "/proc/cpuinfo cannot be read")]
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "")
    if "hypervisor" not in flags.split():
        return [Finding("virtual machine", "good", "no")]
    effect = "neighbours on the host take caches, memory bandwidth and turbo, and nothing here shows it"
    mend = "compare only runs on one host; measure on hardware of your own what is to be gated tightly"
    return [Finding("virtual machine", "notice", "yes", effect, "likely", mend)]


def _steal(node: Examined) -> Sequence[Finding]:
    used = _used(node)
    if not used:
        return [Finding("steal", "unknown", "/proc/stat cannot be read")]
    share = sum(max(0, ticks[7]) for ticks in used.values()) / max(1, sum(sum(ticks[:8]) for ticks in used.values()))
    found = f"{format_percent(share)} of the CPUs' time {_over(node)}"
    if share < _STEAL_SPOILS:
        return [Finding("steal", "good", found)]
    effect = "the hypervisor ran somebody else while this machine wanted to run: stalls inside token gaps"
    mend = "use an instance with CPUs of its own, or move the neighbours away"
    return [Finding("steal", "spoils", found, effect, "certain", mend)]


def _load(node: Examined) -> Sequence[Finding]:
    used = _used(node)
    if not used or not node.seconds:
        return _load_average(node)
    busy = {cpu: _busy_share(ticks) for cpu, ticks in used.items() if cpu in node.allowed}
    whole = sum(busy.values()) / max(1, len(busy))
    named = format_cpus(cpu for cpu, share in busy.items() if share >= _BUSY_SPOILS)
    found = f"the CPUs that may be given out are {format_percent(whole)} busy {_over(node)}"
    if whole < _BUSY_DISTURBS and not named:
        return [Finding("load", "good", found)]
    found += f" (more than {format_percent(_BUSY_SPOILS, digits=0)}: CPUs {named})" if named else ""
    effect = "other processes run on the CPUs, or on their siblings and caches, that will be measured"
    level = "spoils" if whole >= _BUSY_SPOILS else "disturbs"
    return [Finding("load", level, found, effect, "certain", "see what runs with: top -H; end it or wait")]


def _load_average(node: Examined) -> Sequence[Finding]:
    text = node.text("/proc/loadavg")
    match = re.match(r"\d+(\.\d+)?(?=\s)", text or "")
    if match is None:
        return [Finding("load", "unknown", "/proc/loadavg cannot be read")]
    average = float(match[0])
    found = f"load average {average:g} on {len(node.topology.cpus)} CPUs over the last minute"
    if average < 0.05 * len(node.topology.cpus) + 0.2:
        return [Finding("load", "good", found)]
    effect = "other processes run beside the measurement"
    return [Finding("load", "disturbs", found, effect, "likely", "see what runs with: top -H; end it or wait")]


def _quota(node: Examined) -> Sequence[Finding]:
    quotas = list(_quotas(node))
    if node.text("/proc/self/cgroup") is None:
        return [Finding("CPU quota", "unknown", "only the node itself can tell")]
    if not quotas:
        return [Finding("CPU quota", "good", "none")]
    cpus, path = min(quotas)
    effect = "the kernel stops all threads for the rest of each period once the quota is used up: gaps of up to 100 ms"
    mend = "leave out the CPU limit (Kubernetes: requests only, or cpuCFSQuota off); " + (
        f"here: echo max > {path}" if path.endswith("cpu.max") else f"here: echo -1 > {path}"
    )
    return [Finding("CPU quota", "spoils", f"{cpus:g} CPUs ({path})", effect, "certain", mend)]


def _quotas(node: Examined) -> Iterator[tuple[float, str]]:
    """CPUs that quotas of our cgroup and of those above it allow, with the file that says so."""
    for line in (node.text("/proc/self/cgroup") or "").splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0":
            roots = [_CGROUP, f"{_CGROUP}/unified"]
        elif "cpu" in controllers.split(","):
            roots = [f"{_CGROUP}/{controllers}", f"{_CGROUP}/cpu"]
        else:
            continue
        found = (quota(node.text, f"{root}{group}") for root in roots for group in lineage(path))
        yield from (each for each in found if each is not None)


def _fewer(node: Examined) -> Sequence[Finding]:
    kept = node.topology.online - node.allowed - node.topology.isolated
    if not kept:
        return []
    return [
        Finding(
            "CPUs of this process",
            "notice",
            f"{len(node.allowed)} of {len(node.topology.cpus)} CPUs may be used; CPUs {format_cpus(kept)} may not",
            "balloons are placed on what is left; what runs on the rest shares caches and memory with them",
            "certain",
            "see the affinity (taskset -p $$) and the cpuset cgroup (cat /proc/self/cgroup) that pytest starts in",
        )
    ]


def _used(node: Examined) -> dict[int, list[int]] | None:
    """Clock ticks (user nice system idle iowait irq softirq steal ...) by CPU, over the interval or since boot."""
    readings = node.before_and_now("/proc/stat")
    if readings is None:
        return None
    before, now = map(_ticks, readings)
    return {cpu: [b - a for a, b in zip(before.get(cpu, [0] * len(t)), t, strict=False)] for cpu, t in now.items()}


def _ticks(text: str) -> dict[int, list[int]]:
    rows = (line.split() for line in text.splitlines() if re.fullmatch(r"cpu\d+( \d+){8,}\s*", line))
    return {int(row[0][3:]): [int(value) for value in row[1:]] for row in rows}


def _busy_share(ticks: Sequence[int]) -> float:
    total = max(1, sum(ticks[:8]))
    return max(0.0, 1 - (ticks[3] + ticks[4]) / total)


def _over(node: Examined) -> str:
    return f"over {node.seconds:g} s" if node.seconds else "since boot"


NEIGHBOUR_CHECKS = (
    Check("virtual machine", "are there neighbours that cannot be seen?", _virtual),
    Check("steal", "does a hypervisor take the CPUs away?", _steal),
    Check("load", "does something else run?", _load),
    Check("CPU quota", "does the kernel stop us?", _quota),
    Check("CPUs of this process", "may all CPUs be used?", _fewer),
)
