"""Frequency, turbo, hyperthreads, isolation, clock: what the processor's settings do to a figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pytest_nriperf.doctor.check import Check, Examined, Finding
from pytest_nriperf.units import format_cpus, format_value

_CPU = "/sys/devices/system/cpu"
_CLOCK = "/sys/devices/system/clocksource/clocksource0"
_STEADY_GOVERNORS = ("performance", "userspace")


def _governor(node: Examined) -> Sequence[Finding]:
    governors = Counter(
        governor
        for cpu in sorted(node.allowed)
        if (governor := node.text(f"{_CPU}/cpu{cpu}/cpufreq/scaling_governor")) is not None
    )
    if not governors:
        return [Finding("governor", "unknown", "this kernel does not set frequencies (usual in a virtual machine)")]
    found = ", ".join(f"{name} on {count} CPUs" for name, count in governors.most_common())
    mend = f"cpupower frequency-set -g performance, or: echo performance | tee {_CPU}/cpu*/cpufreq/scaling_governor"
    if len(governors) > 1:
        effect = "replicas on different CPUs run at different speeds: a figure depends on which CPUs it got"
        return [Finding("governor", "spoils", found, effect, "certain", mend)]
    name = next(iter(governors))
    if name in _STEADY_GOVERNORS:
        return [Finding("governor", "good", found)]
    driver = node.text(f"{_CPU}/cpu{min(node.allowed)}/cpufreq/scaling_driver") or "unknown driver"
    found = f"{found} ({driver})"
    if name == "powersave" and driver in ("intel_pstate", "amd-pstate-epp"):
        effect = "the processor chooses the frequency itself, more slowly upwards: first tokens after a pause are late"
        return [Finding("governor", "disturbs", found, effect, "likely", mend)]
    if name == "powersave":
        effect = "CPUs stay at their lowest frequency: figures are several times too slow"
        return [Finding("governor", "spoils", found, effect, "certain", mend)]
    effect = "the frequency follows the load with a delay: TTFT after a pause depends on the pause"
    return [Finding("governor", "disturbs", found, effect, "likely", mend)]


def _energy_preference(node: Examined) -> Sequence[Finding]:
    preference = node.text(f"{_CPU}/cpu{min(node.allowed)}/cpufreq/energy_performance_preference")
    if preference is None:
        return []
    if preference in ("performance", "0"):
        return [Finding("energy preference", "good", preference)]
    return [
        Finding(
            "energy preference",
            "disturbs" if "power" in preference else "notice",
            preference,
            "the processor trades speed for energy when it thinks that it may",
            "likely",
            f"echo performance | tee {_CPU}/cpu*/cpufreq/energy_performance_preference",
        )
    ]


def _frequency_limit(node: Examined) -> Sequence[Finding]:
    limited: dict[tuple[int, int], list[int]] = {}
    for cpu in sorted(node.allowed):
        limit = node.number(f"{_CPU}/cpu{cpu}/cpufreq/scaling_max_freq")
        highest = node.number(f"{_CPU}/cpu{cpu}/cpufreq/cpuinfo_max_freq")
        if limit is not None and highest is not None and limit < highest:
            limited.setdefault((limit, highest), []).append(cpu)
    mend = f"if it is not meant: for c in {_CPU}/cpu*/cpufreq; do cat $c/cpuinfo_max_freq > $c/scaling_max_freq; done"
    everywhere = len(limited) == 1 and len(next(iter(limited.values()))) == len(node.allowed)
    return [
        Finding(
            "frequency limit",
            "notice" if everywhere else "disturbs",
            f"CPUs {format_cpus(cpus)} are kept at or below {format_value(limit * 1e3, 'Hz')} "
            f"of {format_value(highest * 1e3, 'Hz')}",
            "figures are those of the limit" if everywhere else "some CPUs are slower than others",
            "certain",
            mend,
        )
        for (limit, highest), cpus in limited.items()
    ]


def _turbo(node: Examined) -> Sequence[Finding]:
    off = node.number(f"{_CPU}/intel_pstate/no_turbo")
    boost = node.number(f"{_CPU}/cpufreq/boost")
    if off is None and boost is None:
        return [Finding("turbo", "unknown", "this kernel does not tell")]
    if off == 1 or (off is None and boost == 0):
        return [Finding("turbo", "good", "off: every run has the same base frequency")]
    mend = f"echo 1 > {_CPU}/intel_pstate/no_turbo" if off is not None else f"echo 0 > {_CPU}/cpufreq/boost"
    effect = "the frequency depends on temperature, on how many cores are busy, and on who uses the other ones"
    return [Finding("turbo", "notice", "on", effect, "likely", f"to compare small changes: {mend}")]


def _throttling(node: Examined) -> Sequence[Finding]:
    counts: dict[int, int] = {}
    for socket in node.topology.sockets:
        cpu = min(node.topology.socket_cpus(socket))
        count = node.number(f"{_CPU}/cpu{cpu}/thermal_throttle/package_throttle_count")
        if count is not None:
            counts[socket] = count
    if not counts:
        return []
    hot = {socket: count for socket, count in counts.items() if count}
    if not hot:
        return [Finding("throttling", "good", "no socket was ever too hot since boot")]
    found = ", ".join(f"socket {socket} {count} times since boot" for socket, count in hot.items())
    effect = "when a socket is too hot, everything on it slows down in the middle of a run"
    return [Finding("throttling", "notice", found, effect, "likely", "check fans, air flow and power limits")]


def _hyperthreads(node: Examined) -> Sequence[Finding]:
    control = node.text(f"{_CPU}/smt/control")
    threads = node.topology.threads_per_core
    if threads > 1:
        return [Finding("hyperthreads", "good", f"on, {threads} threads a core")]
    if control in ("off", "forceoff"):
        return [
            Finding(
                "hyperthreads",
                "notice",
                f"switched off ({control})",
                "balloons with hyperthreads='hidden' cannot be measured here",
                "certain",
                "in the BIOS, or without nosmt on the kernel's command line"
                if control == "forceoff"
                else f"echo on > {_CPU}/smt/control",
            )
        ]
    return [Finding("hyperthreads", "good", "one thread a core")]


def _offline(node: Examined) -> Sequence[Finding]:
    if not node.topology.offline:
        return []
    return [
        Finding(
            "offline CPUs",
            "notice",
            f"CPUs {format_cpus(node.topology.offline)} are offline",
            "cores without their sibling are not whole cores: balloons of hidden or paired threads avoid them",
            "certain",
            f"echo 1 | tee {_CPU}/cpu*/online",
        )
    ]


def _isolated(node: Examined) -> Sequence[Finding]:
    isolated = node.topology.isolated & node.topology.online
    if not isolated:
        return [Finding("isolated CPUs", "good", "none")]
    given = isolated & node.allowed
    if not given:
        found = f"CPUs {format_cpus(isolated)} (isolcpus), none of them is given out"
        return [Finding("isolated CPUs", "good", found)]
    return [
        Finding(
            "isolated CPUs",
            "spoils",
            f"CPUs {format_cpus(given)} are isolated (isolcpus) and may be given out",
            "the kernel does not spread threads over isolated CPUs: all threads of an engine stay on the first one",
            "certain",
            f"start pytest with: taskset -c {format_cpus(node.allowed - given) or 'OTHER CPUS'}, "
            "or boot without isolcpus",
        )
    ]


def _clock(node: Examined) -> Sequence[Finding]:
    clock = node.text(f"{_CLOCK}/current_clocksource")
    if clock is None:
        return [Finding("clock source", "unknown", "this kernel does not tell")]
    if clock in ("tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page"):
        return [Finding("clock source", "good", clock)]
    available = (node.text(f"{_CLOCK}/available_clocksource") or "").split()
    mend = (
        f"echo tsc > {_CLOCK}/current_clocksource"
        if "tsc" in available
        else "see dmesg | grep -i tsc: the kernel found the processor's clock unstable (BIOS update, tsc=reliable)"
    )
    effect = "reading the time is a system call that takes microseconds, and is taken for every token"
    return [Finding("clock source", "spoils" if clock == "acpi_pm" else "disturbs", clock, effect, "certain", mend)]


def _watchdog(node: Examined) -> Sequence[Finding]:
    watchdog = node.number("/proc/sys/kernel/nmi_watchdog")
    if watchdog is None:
        return [Finding("NMI watchdog", "unknown", "this kernel does not have it, or does not tell")]
    if watchdog != 1:
        return [Finding("NMI watchdog", "good", "off")]
    effect = "it holds one hardware counter of every CPU and interrupts it now and then; perf counts are multiplexed"
    return [Finding("NMI watchdog", "notice", "on", effect, "certain", "echo 0 > /proc/sys/kernel/nmi_watchdog")]


PROCESSOR_CHECKS = (
    Check("governor", "is the frequency steady?", _governor),
    Check("energy preference", "does the processor save energy?", _energy_preference),
    Check("frequency limit", "are all CPUs allowed the same frequency?", _frequency_limit),
    Check("turbo", "does the frequency depend on heat and neighbours?", _turbo),
    Check("throttling", "was a socket too hot?", _throttling),
    Check("hyperthreads", "which balloons can be measured?", _hyperthreads),
    Check("offline CPUs", "are all CPUs there?", _offline),
    Check("isolated CPUs", "does the scheduler serve every CPU?", _isolated),
    Check("clock source", "is a time stamp cheap?", _clock),
    Check("NMI watchdog", "does the kernel use a hardware counter?", _watchdog),
)
