"""Which collectors a node gets: by name, or whatever it offers."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

from pytest_nriperf.collect.proc import ProcCollector
from pytest_nriperf.errors import CollectorError, UsageError
from pytest_nriperf.seams import Availability, Collector

# Name -> how to make it from the address of the node's PCM server.
COLLECTORS: dict[str, Callable[[str], Collector]] = {
    "proc": lambda _: ProcCollector(),
}


def choose(names: str | Sequence[str], *, pcm_url: str = "") -> tuple[list[Collector], str]:
    """The collectors named (`auto`, `none`, or a list such as `proc,pcm`), and one line that says what they give.

    `auto` takes what this machine offers. Raises UsageError for a name that does not exist, CollectorError for a
    named collector that cannot work here.
    """
    words = [word.strip() for word in (names.split(",") if isinstance(names, str) else names)]
    words = [word for word in words if word]
    if words == ["none"]:
        return [], "counters: none, as asked"
    automatic = words in ([], ["auto"])
    chosen, taken, left = [], [], []
    for name in COLLECTORS if automatic else dict.fromkeys(words):
        collector = _make(name, pcm_url)
        found = collector.probe()
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


def _make(name: str, pcm_url: str) -> Collector:
    if name not in COLLECTORS:
        near = difflib.get_close_matches(name, COLLECTORS, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UsageError(
            f"there is no collector {name!r}", f"{hint}write auto, none or some of {', '.join(COLLECTORS)}"
        )
    return COLLECTORS[name](pcm_url)


def _described(name: str, found: Availability) -> str:
    missing = f" without {', '.join(found.missing)}" if found.missing else ""
    return f"{name}{missing}"
