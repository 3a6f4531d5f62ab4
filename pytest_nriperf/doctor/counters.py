"""Counters: what will explain a change here, and whether it can be trusted. By the facts of `collect.health`."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_nriperf.doctor.check import Check, Examined, Finding


def _pcm(node: Examined) -> Sequence[Finding]:
    fact = node.facts.get("pcm")
    if fact is None:
        return []
    address, missing = fact["address"], "; ".join(fact["missing"])
    if not fact["available"]:
        if not fact["named"] and not _has_intel_counters(node):
            return []
        return [
            Finding(
                "PCM",
                "notice",
                missing,
                "memory traffic, remote accesses and power of a run are not seen through PCM",
                "certain",
                "modprobe msr && pcm-sensor-server -p 9738 -r",
            )
        ]
    if fact["notes"]:
        effect = "readings bear the time of our request instead of the server's own"
        mend = "run pcm-sensor-server on this node, outside a time namespace"
        return [Finding("PCM", "notice", f"{address}: {'; '.join(fact['notes'])}", effect, "certain", mend)]
    return [Finding("PCM", "good", f"{address}, on our clock{f'; {missing}' if missing else ''}")]


def _has_intel_counters(node: Examined) -> bool:
    """Whether PCM could run: an Intel processor that is no guest."""
    text = node.text("/proc/cpuinfo") or ""
    return "GenuineIntel" in text and " hypervisor" not in text.partition("\nflags")[2].partition("\n")[0]


def _shared(node: Examined) -> Sequence[Finding]:
    if "shared_counters" not in node.facts:
        return []
    shared = node.facts["shared_counters"]
    if shared is None:
        return [Finding("hardware counters", "unknown", "this CPU, or the hypervisor, gives none to perf")]
    if not shared:
        return [Finding("hardware counters", "good", "none is shared")]
    return [
        Finding(
            "hardware counters",
            "notice",
            f"{', '.join(shared)} had a counter for part of the time only",
            "their counts are scaled up: estimates, poor for short runs",
            "certain",
            "stop other users of perf, and: echo 0 > /proc/sys/kernel/nmi_watchdog",
        )
    ]


def _left_groups(node: Examined) -> Sequence[Finding]:
    effect = "each holds one of the few monitoring ids, and PCM does not count tasks in them"
    left = node.facts.get("left_groups")
    found = []
    if left:
        told = f"{len(left)} of sessions that are gone"
        found.append(Finding("resctrl groups", "notice", told, effect, "certain", f"rmdir {' '.join(left)}"))
    left = node.facts.get("pcm_groups")
    if left:
        told = f"{len(left)} of PCM, and no PCM server answers"
        effect = "if none runs they were left by one that was killed: each holds one of the few monitoring ids"
        mend = f"if no PCM tool runs (pgrep -a pcm): rmdir {left[0].rpartition('/')[0]}/pcm[0-9]*"
        found.append(Finding("resctrl groups", "notice", told, effect, "possible", mend))
    return found


COUNTER_CHECKS = (
    Check("PCM", "does a PCM server answer, on our clock?", _pcm),
    Check("hardware counters", "has each event a counter of its own?", _shared),
    Check("resctrl groups", "did killed sessions, or PCM, leave monitoring groups?", _left_groups),
)
