"""Whether the counters of this machine can be trusted: what only trying tells."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from pytest_nriperf.collect.pcm import PcmCollector
from pytest_nriperf.collect.perf import EVENTS
from pytest_nriperf.collect.perf_event import SOFTWARE, Counter, open_event
from pytest_nriperf.collect.reading import Files
from pytest_nriperf.collect.resctrl import groups_of_pcm, left_groups

WORK_S = 0.02


def counter_facts(
    pcm_url: str = "",
    *,
    hidden: bool = False,
    root: str = "",
    opener: Callable[..., int] = open_event,
    work_s: float = WORK_S,
) -> dict[str, Any]:
    """`pcm`: its address, whether it was named, what is wrong and what it cannot count; `shared_counters`: hardware
    events that did not have a counter all the time; `left_groups`: resctrl groups of sessions that are gone, none where
    the machine's processes are `hidden` from us; `pcm_groups`: those of PCM where no server answers."""
    collector = PcmCollector(pcm_url, root=root)
    found = collector.probe()
    return {
        "pcm": {
            "address": str(collector.address),
            "named": bool(pcm_url),
            "available": found.available,
            "missing": list(found.missing),
            "notes": list(collector.notes),
        },
        "shared_counters": shared_counters(opener, work_s),
        "left_groups": [] if hidden else left_groups(Files(root)),
        "pcm_groups": [] if found.available else groups_of_pcm(Files(root)),
    }


def shared_counters(opener: Callable[..., int] = open_event, work_s: float = WORK_S) -> list[str] | None:
    """Events that lacked a counter for part of the time while this process worked with all of them open.

    None where the machine gives no hardware events.
    """
    counters: dict[str, Counter] = {}
    try:
        for name, event in EVENTS.items():
            if event.type != SOFTWARE:
                try:
                    counters[name] = Counter(opener(event, os.getpid(), -1, user_only=True))
                except OSError:
                    continue
        end = time.perf_counter() + work_s
        while counters and time.perf_counter() < end:
            pass
        for counter in counters.values():
            counter.read()
        shared = [name for name, counter in counters.items() if counter.shared or counter.waiting]
        return shared if counters else None
    finally:
        for counter in counters.values():
            counter.close()
