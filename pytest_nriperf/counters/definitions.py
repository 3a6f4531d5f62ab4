"""What counters say of a run, by name: base unit, which direction is better, the definition, and where it comes from.

A metric takes the first source that counts what it needs. All are over the measured part of a run (first submit to
last end), over the CPUs and sockets of the balloon, replicas together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pytest_nriperf.counters.roofline import bytes_per_token
from pytest_nriperf.counters.series import Undefined
from pytest_nriperf.counters.view import RunView

MIB = 1 << 20
KIB = 1 << 10
Reading = Callable[[RunView], float]
# Offsets: a share in parts of the whole, rare events against ten a second, single events against one.
WHOLE, OFTEN, ONCE = 1.0, 10.0, 1.0


@dataclass(frozen=True)
class CounterKind:
    """One counter metric. `sources` are tried in order; each gives the value or raises Undefined.

    `offset` is added on both sides before a verdict takes their ratio, for what is well at nothing: a share that
    moves by 0.03 then moved by 3 % of the whole, not from nothing to infinity.
    """

    unit: str
    better: str
    definition: str
    sources: tuple[Reading, ...]
    offset: float = 0.0

    def value(self, view: RunView) -> float:
        """The run's value. Raises Undefined with every source's reason."""
        reasons = []
        for source in self.sources:
            try:
                return source(view)
            except Undefined as reason:
                reasons.append(str(reason))
        raise Undefined("; ".join(dict.fromkeys(reasons)))


def _memory(view: RunView, direction: str) -> float:
    """Bytes per second that the balloon's memory controllers moved one way."""
    return _first(
        view,
        lambda v: v.rate("pcm", f"DRAM_{'Reads' if direction == 'read' else 'Writes'}", v.on_socket),
        lambda v: v.rate("perf", f"memory_{direction}_bytes", v.on_socket),
        lambda v: _simulated(v, direction),
    )


def _simulated(view: RunView, direction: str) -> float:
    """A simulated machine's: mean rates per NUMA node, reads only."""
    if direction == "write":
        view.series("simulated", "memory_read_bandwidth")
        return 0.0
    return sum(series.mean(view.window) for series in view.series("simulated", "memory_read_bandwidth"))


def _first(view: RunView, *sources: Reading) -> float:
    return CounterKind("", "lower", "", sources).value(view)


def _share(part: float, whole: float, what: str) -> float:
    if whole <= 0:
        raise Undefined(f"no {what} in the run")
    return part / whole


def _pcm_ipc(view: RunView) -> float:
    cycles = view.rate("pcm", "Clock_Unhalted_Thread", view.on_visible)
    return _share(view.rate("pcm", "Instructions_Retired_Any", view.on_visible), cycles, "cycles")


def _pcm_frequency(view: RunView) -> float:
    """Nominal x unhalted cycles / unhalted nominal cycles; the nominal clock is what one thread's TSC grows by."""
    clocks = [series.rate(view.window) for series in view.series("pcm", "Invariant_TSC", view.on_visible)]
    cycles = view.rate("pcm", "Clock_Unhalted_Thread", view.on_visible)
    reference = view.rate("pcm", "Clock_Unhalted_Ref", view.on_visible)
    return sum(clocks) / len(clocks) * _share(cycles, reference, "cycles")


def _perf_frequency(view: RunView) -> float:
    """Cycles of user space alone do not do: time on a CPU has the kernel's part in it."""
    return _share(view.rate("perf", "cycles"), view.rate("proc", "on_cpu_time") / 1e9, "time on a CPU")


def _of_tasks(part: str, whole: str, what: str) -> tuple[Reading, Reading]:
    """The ratio of two perf events; where the kernel may not be counted, that of user space alone."""

    def ratio(space: str) -> Reading:
        return lambda view: _share(view.rate("perf", f"{space}{part}"), view.rate("perf", f"{space}{whole}"), what)

    return ratio(""), ratio("user_")


def _pcm_remote(view: RunView) -> float:
    local = view.rate("pcm", "Local_Memory_Bandwidth", view.on_cpu)
    remote = view.rate("pcm", "Remote_Memory_Bandwidth", view.on_cpu)
    return _share(remote, local + remote, "memory traffic")


def _resctrl_remote(view: RunView) -> float:
    total = view.rate("resctrl", "memory_total_bytes")
    return _share(max(0.0, total - view.rate("resctrl", "memory_local_bytes")), total, "memory traffic")


def _remote_memory(view: RunView) -> float:
    """From the reading after the run: where the pages lie in the end."""
    remote = sum(series.last() for series in view.series("proc", "remote_memory"))
    return _share(remote, remote + sum(series.last() for series in view.series("proc", "local_memory")), "memory")


def _watts(view: RunView) -> float:
    """Packages and their DRAM; DRAM counts where it is metered."""
    meters: Sequence[tuple[str, str, str, float]] = (
        ("pcm", "Package_Joules_Consumed", "DRAM_Joules_Consumed", 1.0),
        ("energy", "package_energy", "dram_energy", 1e-6),
        ("perf", "package_energy", "dram_energy", 1.0),
    )
    reasons = []
    for source, package, dram, joules in meters:
        try:
            watts = view.rate(source, package, view.on_socket)
            return joules * (watts + (view.rate(source, dram, view.on_socket) if view.has(source, dram) else 0.0))
        except Undefined as reason:
            reasons.append(str(reason))
    raise Undefined("; ".join(reasons))


def _per_token(view: RunView, rate: float) -> float:
    return _share(rate * view.window.seconds, view.tokens, "tokens")


def _upi(view: RunView) -> float:
    names = [
        name for source, name in view.table.names(view.run) if source == "pcm" and name.startswith("Incoming_Data")
    ]
    if not any(view.has("pcm", name) for name in names):
        raise Undefined("pcm counts no UPI traffic here")
    return sum(view.rate("pcm", name, view.on_socket) for name in names if view.has("pcm", name))


def _wait(view: RunView) -> float:
    wait = view.rate("proc", "run_queue_wait")
    return _share(wait, wait + view.rate("proc", "on_cpu_time"), "time on a CPU")


def _foreign(view: RunView) -> float:
    """Of the visible CPUs' busy time, what the measured processes did not use. Busy time has a grain of 10 ms."""
    busy = view.rate("proc", "cpu_busy_time", view.on_visible)
    return max(0.0, 1 - _share(view.rate("proc", "on_cpu_time"), busy, "busy time"))


def _sibling_busy(view: RunView) -> float:
    if not view.siblings:
        raise Undefined("the balloon hides no siblings")
    return view.rate("proc", "cpu_busy_time", view.on_sibling) / 1e9 / len(view.siblings)


def _steal(view: RunView) -> float:
    rates = {name: view.rate("proc", f"machine_{name}_time") for name in ("busy", "steal", "idle")}
    return _share(rates["steal"], sum(rates.values()), "time")


def _throttles(view: RunView) -> float:
    """Counted from before the run to after it, warm-up included: one is one too many."""
    series = view.series("proc", "core_throttles")
    more = view.series("proc", "package_throttles") if view.has("proc", "package_throttles") else []
    return sum(each.whole() for each in [*series, *more])


def _system_interrupts(view: RunView) -> float:
    """All threads of a package count the same ones."""
    return max(series.whole() for series in view.series("pcm", "SMI_Count", view.on_cpu))


def _attained(view: RunView) -> float:
    """Bytes a second that decoding had to read, over what the reference load read a second on the same CPUs.

    Of an input embedding that is not tied to the output a token reads one row, so that it is left out of the weights
    where the recording says how much that is.
    """
    weights = view.facts.get("weight_bytes_per_token")
    needed = bytes_per_token(
        view.fact("weight_bytes") if weights is None else weights,
        view.facts.get("kv_bytes_per_token", 0.0),
        view.fact("context_tokens"),
    )
    bandwidth = _reference(view)
    return _share(view.fact("decoded_tokens_per_second") * needed, bandwidth, "reference load")


def _reference(view: RunView) -> float:
    """Bytes per second that the reference load read, all replicas together, in the median over its readings; where
    there is none beside the run, what was measured once in the balloon."""
    found = view.table.series(view.run, "reference", "memory_bandwidth")
    if found:
        return float(sum(np.median(series.value) for series in found))
    once = view.facts.get("read_bandwidth")
    if once is None:
        raise Undefined("no reference load gave a memory bandwidth")
    return once


def _gauge(source: str, name: str) -> Reading:
    return lambda view: view.mean(source, name)


def _counted(source: str, name: str, factor: float = 1.0) -> Reading:
    return lambda view: view.rate(source, name) * factor


COUNTERS: dict[str, CounterKind] = {
    "memory_bandwidth": CounterKind(
        "B/s",
        "higher",
        "bytes read and written by the memory controllers of the balloon's sockets, per second",
        (lambda view: _memory(view, "read") + _memory(view, "write"),),
    ),
    "memory_read_bandwidth": CounterKind(
        "B/s", "higher", "bytes read there, per second", (lambda view: _memory(view, "read"),)
    ),
    "memory_write_bandwidth": CounterKind(
        "B/s", "lower", "bytes written there, per second", (lambda view: _memory(view, "write"),)
    ),
    "memory_per_token": CounterKind(
        "B/token",
        "lower",
        "bytes read and written there for each token",
        (lambda view: _per_token(view, _memory(view, "read") + _memory(view, "write")),),
    ),
    "remote_share": CounterKind(
        "share",
        "lower",
        "memory traffic of the CPUs that goes to another NUMA node",
        (_pcm_remote, _resctrl_remote),
        offset=WHOLE,
    ),
    "remote_memory_share": CounterKind(
        "share",
        "lower",
        "memory of the processes that lies on other nodes than their CPUs, after the run",
        (_remote_memory,),
        offset=WHOLE,
    ),
    "ipc": CounterKind(
        "",
        "higher",
        "instructions per cycle of the visible CPUs",
        (
            _pcm_ipc,
            *_of_tasks("instructions", "cycles", "cycles"),
        ),
    ),
    "frequency": CounterKind(
        "Hz",
        "higher",
        "clock of the visible CPUs while they work",
        (_pcm_frequency, _perf_frequency, _gauge("proc", "cpu_frequency")),
    ),
    "l3_miss_share": CounterKind(
        "share",
        "lower",
        "loads that reach the L3 and miss it",
        (
            lambda view: _share(
                view.rate("pcm", "L3_Cache_Misses", view.on_visible),
                view.rate("pcm", "L3_Cache_Misses", view.on_visible)
                + view.rate("pcm", "L3_Cache_Hits", view.on_visible),
                "loads",
            ),
            *_of_tasks("last_level_load_misses", "last_level_loads", "loads"),
        ),
    ),
    "l3_occupancy": CounterKind(
        "B",
        "higher",
        "bytes of L3 that the replicas hold",
        (
            lambda view: sum(each.mean(view.window) for each in view.series("resctrl", "l3_occupancy")),
            lambda view: sum(
                each.mean(view.window) * KIB for each in view.series("pcm", "L3_Cache_Occupancy", view.on_cpu)
            ),
        ),
    ),
    "upi_bandwidth": CounterKind(
        "B/s", "lower", "bytes that the balloon's sockets receive from other sockets", (_upi,)
    ),
    "power": CounterKind("W", "lower", "packages and DRAM of the balloon's sockets", (_watts,)),
    "energy_per_token": CounterKind(
        "J/token", "lower", "energy of those sockets for each token", (lambda view: _per_token(view, _watts(view)),)
    ),
    "bandwidth_attained": CounterKind(
        "share",
        "higher",
        "bytes of weights and KV cache that decoding reads a second / what the CPUs can read a second (roofline)",
        (_attained,),
    ),
    "run_queue_wait": CounterKind(
        "share",
        "lower",
        "time that runnable threads waited for a CPU / that and their time on one",
        (_wait,),
        offset=WHOLE,
    ),
    "foreign_share": CounterKind(
        "share",
        "lower",
        "busy time of the visible CPUs that was not the engines'",
        (_foreign,),
        offset=WHOLE,
    ),
    "sibling_busy": CounterKind(
        "share", "lower", "time that the hidden siblings were busy", (_sibling_busy,), offset=WHOLE
    ),
    "involuntary_switches": CounterKind(
        "1/s",
        "lower",
        "times a second that a thread was made to leave its CPU",
        (_counted("proc", "involuntary_switches"),),
        offset=OFTEN,
    ),
    "migrations": CounterKind(
        "1/s",
        "lower",
        "times a second that a thread changed its CPU",
        (_counted("perf", "cpu_migrations"), _counted("proc", "migrations")),
        offset=OFTEN,
    ),
    "major_faults": CounterKind(
        "1/s",
        "lower",
        "page faults a second that had to read the disk",
        (_counted("proc", "major_faults"),),
        offset=OFTEN,
    ),
    "numa_migrations": CounterKind(
        "1/s",
        "lower",
        "pages a second that the kernel moved between NUMA nodes",
        (_counted("proc", "numa_pages_migrated"),),
        offset=OFTEN,
    ),
    "page_reclaims": CounterKind(
        "1/s",
        "lower",
        "pages a second that had to be searched for free memory",
        (_counted("proc", "pgscan_direct"),),
        offset=OFTEN,
    ),
    "throttled_time": CounterKind(
        "s/s",
        "lower",
        "time that CPUs were refused by a CPU limit, per second",
        (_counted("proc", "throttled_time", 1e-9),),
        offset=WHOLE,
    ),
    "steal_share": CounterKind(
        "share", "lower", "time of the machine that its hypervisor took", (_steal,), offset=WHOLE
    ),
    "cpu_pressure": CounterKind(
        "share",
        "lower",
        "time in which some task of the machine waited for a CPU",
        (_counted("proc", "cpu_pressure", 1e-9),),
        offset=WHOLE,
    ),
    "memory_pressure": CounterKind(
        "share",
        "lower",
        "time in which some task waited for memory",
        (_counted("proc", "memory_pressure", 1e-9),),
        offset=WHOLE,
    ),
    "thermal_throttles": CounterKind(
        "", "lower", "times that heat or power slowed the CPUs down", (_throttles,), offset=ONCE
    ),
    "system_interrupts": CounterKind(
        "", "lower", "system management interrupts (SMI)", (_system_interrupts,), offset=ONCE
    ),
}
