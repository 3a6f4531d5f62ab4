"""Tools and permissions: what cannot be done here, and what is measured instead."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_nriperf.doctor.check import Check, Examined, Finding


def _memory_binding(node: Examined) -> Sequence[Finding]:
    refused, numactl = node.facts.get("bind_memory"), node.facts.get("numactl", "")
    if len(node.topology.nodes) == 1:
        return [Finding("memory binding", "good", "one NUMA node: nothing to bind")]
    if refused is None:
        return [Finding("memory binding", "unknown", "only the node itself can tell")]
    if refused:
        return [
            Finding(
                "memory binding",
                "spoils",
                f"not permitted: {refused}",
                "balloons with memory='local' are refused; without it weights may lie on the wrong NUMA node",
                "certain",
                "in a container: a seccomp profile that allows set_mempolicy, or CAP_SYS_NICE",
            )
        ]
    if not numactl:
        effect = "none on the measurement, memory is bound all the same; where pages lie cannot be looked at by hand"
        mend = "apt-get install numactl"
        found = "by system call; numactl is not installed"
        return [Finding("memory binding", "notice", found, effect, "certain", mend)]
    return [Finding("memory binding", "good", f"with {numactl}")]


def _confinement(node: Examined) -> Sequence[Finding]:
    mechanism = node.facts.get("cpuset")
    if mechanism is None:
        return []
    if mechanism != "affinity":
        return [Finding("confinement", "good", f"{mechanism}: no thread can leave its balloon")]
    return [
        Finding(
            "confinement",
            "notice",
            "affinity: no right to make a cpuset cgroup",
            "an engine that pins its own threads can leave its balloon; that is found out and refused, not prevented",
            "certain",
            "run as root, or in a delegated cgroup: systemd-run --user --scope -p Delegate=yes pytest ...",
        )
    ]


def _lock(node: Examined) -> Sequence[Finding]:
    refused = node.facts.get("lock")
    if not refused:
        return []
    effect = "no measurement can start"
    return [Finding("node lock", "spoils", refused, effect, "certain", "set NRIPERF_LOCK_DIR to a folder of your own")]


RIGHTS_CHECKS = (
    Check("memory binding", "can memory be bound to NUMA nodes?", _memory_binding),
    Check("confinement", "can a thread leave its balloon?", _confinement),
    Check("node lock", "can the node be held?", _lock),
)
