"""One run as the definitions of counter metrics see it: its readings, its window, its tokens, its CPUs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pytest_nriperf.counters.series import CounterTable, Series, Undefined, Window
from pytest_nriperf.units import parse_cpus


@dataclass(frozen=True, eq=False)
class RunView:
    """`window` is the measured part of the run, `tokens` were put out in it; `visible` and `siblings` are the CPUs
    that the engines may run on and those that are allocated and hidden. `facts` hold what a recording's document says
    of the model (`weight_bytes`, `weight_bytes_per_token`, `kv_bytes_per_token`), of the CPUs (`read_bandwidth`) and of
    the work (`context_tokens`, `decoded_tokens_per_second`)."""

    table: CounterTable
    run: int
    window: Window
    tokens: int
    visible: frozenset[int] = frozenset()
    siblings: frozenset[int] = frozenset()
    facts: Mapping[str, float] = field(default_factory=dict)

    def has(self, source: str, name: str) -> bool:
        """Whether the source counted this here: PCM prints 0 throughout for what it cannot count."""
        found = self.table.series(self.run, source, name)
        return bool(found) and (source != "pcm" or any(series.value.any() for series in found))

    def series(self, source: str, name: str, where: Callable[[Series], bool] = lambda _: True) -> list[Series]:
        """The series of one name that `where` holds for. Raises Undefined without any."""
        if not self.has(source, name):
            raise Undefined(f"{source} does not count {name} here")
        found = [series for series in self.table.series(self.run, source, name) if where(series)]
        if not found:
            raise Undefined(f"{source} has no {name} for the measured CPUs")
        return found

    def rate(self, source: str, name: str, where: Callable[[Series], bool] = lambda _: True) -> float:
        """Growth per second, summed over series."""
        return sum(series.rate(self.window) for series in self.series(source, name, where))

    def mean(self, source: str, name: str, where: Callable[[Series], bool] = lambda _: True) -> float:
        """Mean over time, averaged over series."""
        found = self.series(source, name, where)
        return sum(series.mean(self.window) for series in found) / len(found)

    def on_visible(self, series: Series) -> bool:
        """Whether it belongs to a CPU that the engines run on; to any measured CPU where those are not known."""
        return series.scope["cpu"] is not None and (not self.visible or series.scope["cpu"] in self.visible)

    def on_sibling(self, series: Series) -> bool:
        """Whether it belongs to a hidden sibling."""
        return series.scope["cpu"] in self.siblings

    def on_cpu(self, series: Series) -> bool:
        """Whether it belongs to a CPU."""
        return series.scope["cpu"] is not None

    def on_socket(self, series: Series) -> bool:
        """Whether it belongs to a socket as a whole, and that socket has measured CPUs."""
        socket = series.scope["socket"]
        return series.scope["cpu"] is None and socket is not None and (not self.sockets or socket in self.sockets)

    @cached_property
    def sockets(self) -> frozenset[int]:
        """Sockets of the measured CPUs; empty where no reading tells."""
        found = set()
        for source, name in (("proc", "cpu_busy_time"), ("pcm", "Clock_Unhalted_Ref")):
            for series in self.table.series(self.run, source, name):
                cpu, socket = series.scope["cpu"], series.scope["socket"]
                if cpu is not None and socket is not None:
                    found.add(socket)
        return frozenset(found)

    def fact(self, name: str) -> float:
        """A fact of the document. Raises Undefined when it does not say."""
        value = self.facts.get(name)
        if value is None:
            raise Undefined(f"the recording does not say {name.replace('_', ' ')}")
        return value


def cpus_of(document: Mapping[str, Any]) -> tuple[frozenset[int], frozenset[int]]:
    """Visible CPUs and hidden siblings of all replicas, as the recording's document says; empty where it does not.

    >>> cpus_of({"balloon": {"granted": {"replicas": [{"allocated": "0-3", "visible": "0-1"}]}}})
    (frozenset({0, 1}), frozenset({2, 3}))
    """
    granted = _mapping(_mapping(document, "balloon"), "granted")
    replicas = granted.get("replicas")
    visible: set[int] = set()
    allocated: set[int] = set()
    for replica in replicas if isinstance(replicas, list) else ():
        visible |= _cpus(replica.get("visible"))
        allocated |= _cpus(replica.get("allocated"))
    return frozenset(visible), frozenset(allocated - visible)


def known_facts(document: Mapping[str, Any]) -> dict[str, float]:
    """What the document says of the model in bytes, and of the bytes that its balloon's CPUs read a second.

    >>> known_facts({"model": {"weight_bytes": 7, "name": "x"}, "balloon": {"read_bandwidth": 2e10}})
    {'weight_bytes': 7.0, 'read_bandwidth': 20000000000.0}
    """
    names = {"model": ("weight_bytes", "weight_bytes_per_token", "kv_bytes_per_token"), "balloon": ("read_bandwidth",)}
    found = {name: _mapping(document, part).get(name) for part in names for name in names[part]}
    return {name: float(value) for name, value in found.items() if isinstance(value, int | float)}


def _cpus(value: Any) -> frozenset[int]:
    return parse_cpus(value) if isinstance(value, str) else frozenset(value or ())


def _mapping(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = document.get(key)
    return value if isinstance(value, Mapping) else {}
