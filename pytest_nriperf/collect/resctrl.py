"""The `resctrl` collector: L3 occupancy and memory bandwidth of each replica's tasks, local and in all.

Every replica gets a monitoring group of its own for the run, which is removed after it. Its name tells whose it is, so
that what a killed session left is found, and removed before the next run: each group holds one of few monitoring ids.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator

from pytest_nriperf.collect.reading import Files, why
from pytest_nriperf.errors import CollectorError
from pytest_nriperf.owner import is_abandoned, own_tag
from pytest_nriperf.seams import Availability, CounterRow, Target, TargetReplica

SOURCE = "resctrl"
FOLDER = "/sys/fs/resctrl"
GROUPS = f"{FOLDER}/mon_groups"
# PCM's, one for each CPU; removed when it ends, unless it is killed.
_OF_PCM = re.compile(r"pcm\d+")

# File of a monitored L3 -> our name, kind.
FILES = {
    "llc_occupancy": ("l3_occupancy", "gauge"),
    "mbm_total_bytes": ("memory_total_bytes", "cumulative"),
    "mbm_local_bytes": ("memory_local_bytes", "cumulative"),
}


class ResctrlCollector:
    """Readings per replica, over all L3 caches."""

    name = SOURCE

    def __init__(
        self,
        root: str = "",
        clock: Callable[[], int] = time.perf_counter_ns,
        make: Callable[[str], None] = os.mkdir,
        remove: Callable[[str], None] = os.rmdir,
    ) -> None:
        self.notes: list[str] = []
        self._files = Files(root)
        self._clock = clock
        self._make = make
        self._remove = remove
        self._groups: dict[int, str] = {}

    def probe(self) -> Availability:
        """Whether it is mounted, monitors something and may be written."""
        features = self._files.text(f"{FOLDER}/info/L3_MON/mon_features").split()
        if not self._files.exists(f"{FOLDER}/schemata"):
            return Availability(False, missing=(f"{FOLDER} is not mounted",))
        if not features:
            return Availability(False, missing=("this CPU or kernel monitors no L3",))
        if not os.access(self._files.root + GROUPS, os.W_OK):
            return Availability(False, missing=(f"{GROUPS} may not be written; needs root",))
        gives = tuple(name for file, (name, _) in FILES.items() if file in features)
        missing = tuple(f"{name} (not monitored)" for name, _ in FILES.values() if name not in gives)
        return Availability(True, gives, missing)

    def start(self, target: Target) -> Iterable[CounterRow]:
        """A group for each replica with all its tasks in it; first readings."""
        self.notes = []
        for group in left_groups(self._files):
            self._take_away(group)
        try:
            for each in target.replicas:
                if each.pid is not None:
                    self._open(each)
        except OSError as error:
            self._close()
            status = self._files.text(f"{FOLDER}/info/last_cmd_status")
            raise CollectorError(
                f"no monitoring group could be made: {why(error)} ({status or 'no reason given'})"
            ) from error
        return self.sample()

    def sample(self) -> Iterable[CounterRow]:
        """One reading of every group; what the hardware cannot tell right now is left out."""
        return [row for replica, group in self._groups.items() for row in self._read(replica, group)]

    def stop(self) -> Iterable[CounterRow]:
        """The last readings; removes the groups."""
        try:
            return self.sample()
        finally:
            self._close()

    def _open(self, replica: TargetReplica) -> None:
        group = f"{GROUPS}/{own_tag()}{replica.replica}"
        # One of ours that could not be removed after the run before is as good as a new one.
        with contextlib.suppress(FileExistsError):
            self._make(self._files.root + group)
        self._groups[replica.replica] = group
        moved: set[str] = set()
        while True:
            tasks = set(self._files.names(f"/proc/{replica.pid}/task")) - moved
            if not tasks:
                return
            for task in sorted(tasks):
                self._move(task, group)
            moved |= tasks

    def _move(self, task: str, group: str) -> None:
        """One task into the group: the kernel takes one number a write, and only that thread moves."""
        try:
            descriptor = os.open(f"{self._files.root}{group}/tasks", os.O_WRONLY | os.O_APPEND)
            try:
                os.write(descriptor, task.encode())
            finally:
                os.close(descriptor)
        except ProcessLookupError:
            return

    def _read(self, replica: int, group: str) -> Iterator[CounterRow]:
        """Sums over the L3 caches; none where one of them cannot tell."""
        domains = [name for name in self._files.names(f"{group}/mon_data") if re.fullmatch(r"mon_L3_\d+", name)]
        for file, (name, kind) in FILES.items():
            try:
                texts = [self._files.read(f"{group}/mon_data/{domain}/{file}").strip() for domain in domains]
            except FileNotFoundError:
                continue
            except OSError as error:
                raise CollectorError(why(error)) from error
            now = self._clock()
            if texts and all(text.isdigit() for text in texts):
                value = sum(map(int, texts))
                yield CounterRow(now, now, SOURCE, name, kind, value, "B", replica=replica)
            else:
                strange = [text.decode("ascii", "replace")[:40] for text in texts if not text.isdigit()]
                self._note(f"{name} was {', '.join(sorted(set(strange))) or 'absent'} at times")

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _close(self) -> None:
        self._files.close()
        for group in self._groups.values():
            self._take_away(group)
        self._groups = {}

    def _take_away(self, group: str) -> None:
        try:
            self._remove(self._files.root + group)
        except OSError as error:
            self.notes.append(f"{group} is left behind ({why(error)}); remove it with rmdir")


def left_groups(files: Files) -> list[str]:
    """Monitoring groups of ours whose process is gone: each holds a monitoring id."""
    return [f"{GROUPS}/{name}" for name in files.names(GROUPS) if is_abandoned(name)]


def groups_of_pcm(files: Files) -> list[str]:
    """Monitoring groups that PCM made: while one runs they are in use, after a kill they are left behind."""
    return [f"{GROUPS}/{name}" for name in files.names(GROUPS) if _OF_PCM.fullmatch(name)]
