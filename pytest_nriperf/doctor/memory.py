"""Huge pages, NUMA balancing, swap, free memory: what can move or slow memory during a run."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pytest_nriperf.doctor.check import Check, Examined, Finding
from pytest_nriperf.units import format_bytes, format_cpus, format_percent

_THP = "/sys/kernel/mm/transparent_hugepage"
_NODE = "/sys/devices/system/node"
_LITTLE_FREE = 0.25
_ROOM = {"MemFree", "MemTotal"}


def _numa_balancing(node: Examined) -> Sequence[Finding]:
    mode = node.number("/proc/sys/kernel/numa_balancing")
    if len(node.topology.nodes) == 1:
        return [Finding("NUMA balancing", "good", "does not apply: one NUMA node")]
    if mode is None:
        return [Finding("NUMA balancing", "unknown", "this kernel does not have it, or does not tell")]
    if mode == 0:
        return [Finding("NUMA balancing", "good", "off")]
    return [
        Finding(
            "NUMA balancing",
            "disturbs",
            f"on ({mode})",
            "the kernel unmaps pages to see who uses them, and moves them during a run: gaps of milliseconds, and "
            "later runs are not like earlier ones; memory bound with memory='local' is left alone",
            "likely",
            "echo 0 > /proc/sys/kernel/numa_balancing",
        )
    ]


def _huge_pages(node: Examined) -> Sequence[Finding]:
    enabled, defrag = node.chosen(f"{_THP}/enabled"), node.chosen(f"{_THP}/defrag")
    if enabled is None:
        return [Finding("huge pages", "unknown", "this kernel has no transparent huge pages, or does not tell")]
    found = f"{enabled}, defragmentation {defrag}"
    if enabled == "always" and defrag == "always":
        effect = "a page fault may stop to make a huge page: stalls while weights and caches are first touched"
        mend = f"echo madvise > {_THP}/defrag"
        return [Finding("huge pages", "disturbs", found, effect, "likely", mend)]
    if enabled == "always":
        effect = "how much of the weights lies in huge pages depends on how fragmented memory is: runs differ by boot"
        mend = "before a session: echo 1 > /proc/sys/vm/compact_memory; the counters thp_* say how it went"
        return [Finding("huge pages", "notice", found, effect, "possible", mend)]
    if enabled == "never":
        effect = "weights in small pages: more address translation, somewhat slower, the same every time"
        return [
            Finding(
                "huge pages", "notice", found, effect, "likely", f"if it is not meant: echo madvise > {_THP}/enabled"
            )
        ]
    return [Finding("huge pages", "good", found)]


def _swap(node: Examined) -> Sequence[Finding]:
    info = _meminfo(node.text("/proc/meminfo"))
    if "SwapTotal" not in info:
        return [Finding("swap", "unknown", "/proc/meminfo cannot be read")]
    total, used = info["SwapTotal"], info["SwapTotal"] - info.get("SwapFree", info["SwapTotal"])
    if total == 0:
        return [Finding("swap", "good", "off")]
    if used > 0.01 * total:
        effect = "pages of weights or caches may lie on disk and are read back in the middle of a run"
        found = f"{format_bytes(used)} of {format_bytes(total)} in use"
        return [Finding("swap", "disturbs", found, effect, "possible", "swapoff -a")]
    effect = "when memory gets tight, weights are written to disk instead of an error"
    return [Finding("swap", "notice", f"{format_bytes(total)}, not in use", effect, "possible", "swapoff -a")]


def _free(node: Examined) -> Sequence[Finding]:
    infos = {numa.id: _meminfo(node.text(f"{_NODE}/node{numa.id}/meminfo")) for numa in node.topology.nodes}
    told = {number: (info["MemFree"], info["MemTotal"]) for number, info in infos.items() if info.keys() >= _ROOM}
    short = {number: (free, total) for number, (free, total) in told.items() if free < _LITTLE_FREE * total}
    if not told:
        return [Finding("free memory", "unknown", "only the node itself can tell")]
    if not short:
        return [Finding("free memory", "good", "more than a quarter of every NUMA node is free")]
    found = ", ".join(
        f"NUMA node {number}: {format_bytes(free)} of {format_bytes(total)} free ({format_percent(free / total)})"
        for number, (free, total) in short.items()
    )
    effect = (
        "weights are loaded after the page cache was emptied for them, in small pages, or on another node where "
        "memory is not bound"
    )
    nodes = format_cpus(short)
    mend = f"sync; echo 3 > /proc/sys/vm/drop_caches; if node {nodes} stays full, see numastat -m"
    return [Finding("free memory", "disturbs", found, effect, "possible", mend)]


def _reclaim(node: Examined) -> Sequence[Finding]:
    mode = node.number("/proc/sys/vm/zone_reclaim_mode")
    if not mode:
        return []
    effect = "a full NUMA node is cleaned up before another one is used: loading stalls"
    return [Finding("zone reclaim", "notice", str(mode), effect, "likely", "echo 0 > /proc/sys/vm/zone_reclaim_mode")]


def _same_page_merging(node: Examined) -> Sequence[Finding]:
    if node.number("/sys/kernel/mm/ksm/run") != 1:
        return []
    effect = "a kernel thread compares and merges pages: CPU time, and replicas that share what should be private"
    return [Finding("same-page merging", "notice", "on", effect, "possible", "echo 2 > /sys/kernel/mm/ksm/run")]


def _meminfo(text: str | None) -> dict[str, int]:
    """Bytes by name, of the machine's or of a NUMA node's meminfo."""
    return {match[1]: int(match[2]) * 1024 for match in re.finditer(r"(\w+):\s+(\d+) kB", text or "")}


MEMORY_CHECKS = (
    Check("NUMA balancing", "does the kernel move pages during a run?", _numa_balancing),
    Check("huge pages", "are page sizes the same every time?", _huge_pages),
    Check("swap", "can weights end up on disk?", _swap),
    Check("free memory", "is there room on every NUMA node?", _free),
    Check("zone reclaim", "does loading stall?", _reclaim),
    Check("same-page merging", "are pages merged behind our back?", _same_page_merging),
)
