"""Which collectors a node gets: by name, or whatever it offers."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

from pytest_nriperf.collect.energy import EnergyCollector
from pytest_nriperf.collect.pcm import PcmCollector
from pytest_nriperf.collect.perf import EVENTS, PerfCollector
from pytest_nriperf.collect.proc import ProcCollector
from pytest_nriperf.collect.resctrl import FILES, ResctrlCollector
from pytest_nriperf.errors import CollectorError, UsageError
from pytest_nriperf.seams import Availability, Collector

# Name -> how to make it, given the address of the node's PCM server and whether the node is this machine.
COLLECTORS: dict[str, Callable[[str, bool], Collector]] = {
    "proc": lambda _url, _here: ProcCollector(),
    "pcm": lambda url, here: PcmCollector(url, here=here),
    "perf": lambda _url, _here: PerfCollector(),
    "resctrl": lambda _url, _here: ResctrlCollector(),
    "energy": lambda _url, _here: EnergyCollector(),
}
# What reaches another node from here; the others read files of the machine that they run on.
REMOTE = ("pcm",)
ELSEWHERE = Availability(False, missing=("the node is not this machine, and no PCM address is given",))


# What of a collector's offer needs to see the measured processes.
OF_TASKS: dict[str, tuple[str, ...]] = {
    "proc": ("scheduling", "faults", "throttling"),
    "perf": tuple(EVENTS),
    "resctrl": tuple(name for name, _ in FILES.values()),
}


def words_of(names: str | Sequence[str]) -> list[str]:
    """The words of `--nri-collect`.

    >>> words_of("proc, pcm")
    ['proc', 'pcm']
    """
    return [word for word in (each.strip() for each in (names.split(",") if isinstance(names, str) else names)) if word]


def choose(
    names: str | Sequence[str], *, pcm_url: str = "", here: bool = True, hidden: str = ""
) -> tuple[list[Collector], str]:
    """The collectors named (`auto`, `none`, or a list such as `proc,pcm`), and one line that says what they give.

    `auto` takes what the node offers. `here`: whether the node is this machine; of another one only a PCM server
    whose address is given can be read. `hidden`: why the measured processes cannot be seen here, empty when they can.
    Raises UsageError for a name that does not exist, CollectorError for a named collector that cannot work here.
    """
    words = words_of(names)
    if words == ["none"]:
        return [], "counters: none, as asked"
    automatic = words in ([], ["auto"])
    chosen, taken, left = [], [], []
    for name in COLLECTORS if automatic else dict.fromkeys(words):
        collector = _make(name, pcm_url, here)
        found = collector.probe() if here or (name in REMOTE and pcm_url) else ELSEWHERE
        found = _without_tasks(name, found, hidden) if hidden else found
        reason = "; ".join(found.missing) or "not here"
        if found.available:
            chosen.append(collector)
            taken.append(_described(name, found))
        elif automatic:
            left.append(f"no {name} ({reason})")
        else:
            raise CollectorError(f"collector {name}: {reason}", "leave it out of --nri-collect, or use 'auto'")
    line = f"counters: {', '.join(taken) or 'none'}"
    return chosen, f"{line}; {', '.join(left)}" if left else line


def make(names: Sequence[str], pcm_url: str = "") -> list[Collector]:
    """Collectors of this machine that were chosen before."""
    return [_make(name, pcm_url, True) for name in names]


def _without_tasks(name: str, found: Availability, hidden: str) -> Availability:
    """What is left of an offer when the measured processes cannot be seen."""
    lost = set(OF_TASKS.get(name, ())).intersection(found.gives)
    if not lost:
        return found
    gives = tuple(each for each in found.gives if each not in lost)
    reason = f"what it tells of each replica's tasks ({hidden})"
    return Availability(bool(gives), gives, (reason, *found.missing) if gives else (f"tells of tasks only: {hidden}",))


def _make(name: str, pcm_url: str, here: bool) -> Collector:
    if name not in COLLECTORS:
        near = difflib.get_close_matches(name, COLLECTORS, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UsageError(
            f"there is no collector {name!r}", f"{hint}write auto, none or some of {', '.join(COLLECTORS)}"
        )
    return COLLECTORS[name](pcm_url, here)


def _described(name: str, found: Availability) -> str:
    missing = f" without {', '.join(found.missing)}" if found.missing else ""
    return f"{name}{missing}"
