"""The `energy` collector: RAPL counters of the powercap tree, continued over their wrap-around."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pytest_nriperf.collect.reading import Files, why
from pytest_nriperf.errors import CollectorError
from pytest_nriperf.seams import Availability, CounterRow, Target

SOURCE = "energy"
FOLDER = "/sys/class/powercap"
# The same meters stand there a second time as intel-rapl-mmio; cores are part of the package.
_ZONE = re.compile(r"intel-rapl:\d+(:\d+)?")
NAMES = {"dram": "dram_energy", "psys": "board_energy"}
_PACKAGE = re.compile(r"package-(\d+)(-die-\d+)?")


@dataclass
class _Meter:
    """A zone; `total_uj` grows on where the register wraps."""

    path: str
    name: str
    socket: int | None
    range_uj: int
    total_uj: int = 0
    last_uj: int | None = None

    def feed(self, reading_uj: int) -> int:
        """Take the register's value; microjoules in all."""
        if self.last_uj is None:
            self.total_uj = reading_uj
        else:
            grown = reading_uj - self.last_uj
            self.total_uj += grown if grown >= 0 else grown + self.range_uj + 1
        self.last_uj = reading_uj
        return self.total_uj


class EnergyCollector:
    """Microjoules of each package and its DRAM, all dies together."""

    name = SOURCE

    def __init__(self, root: str = "", clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self.notes: list[str] = []
        self._files = Files(root)
        self._clock = clock
        self._meters: list[_Meter] = []

    def probe(self) -> Availability:
        """Which meters there are and can be read (since 2020 by root only)."""
        meters = self._find()
        if not meters:
            return Availability(False, missing=(f"no RAPL meters in {FOLDER}",))
        try:
            for meter in meters:
                self._read(meter)
        except (OSError, CollectorError) as error:
            return Availability(False, missing=(f"{why(error)}; needs root",))
        finally:
            self._files.close()
        return Availability(True, tuple(dict.fromkeys(meter.name for meter in meters)))

    def start(self, target: Target) -> Iterable[CounterRow]:  # noqa: ARG002 - the machine has one set of meters
        """Open the meters."""
        self.notes = []
        self._meters = self._find()
        return self.sample()

    def sample(self) -> Iterable[CounterRow]:
        """One reading of each package, of its DRAM and of the board: sums over the meters of its dies."""
        sums: dict[tuple[str, int | None], int] = {}
        for meter in self._meters:
            try:
                value = meter.feed(self._read(meter))
            except OSError as error:
                raise CollectorError(f"{meter.path}: {why(error)}") from error
            sums[meter.name, meter.socket] = sums.get((meter.name, meter.socket), 0) + value
        now = self._clock()
        return [
            CounterRow(now, now, SOURCE, name, "cumulative", total, "uJ", socket=socket)
            for (name, socket), total in sums.items()
        ]

    def stop(self) -> Iterable[CounterRow]:
        """The last reading; closes the files."""
        try:
            return self.sample()
        finally:
            self._meters = []
            self._files.close()

    def _read(self, meter: _Meter) -> int:
        text = self._files.read(meter.path).strip()
        if not text.isdigit():
            raise CollectorError(f"{meter.path} holds {text[:40]!r}, which is no energy")
        return int(text)

    def _find(self) -> list[_Meter]:
        """Packages and their DRAM, and the whole board where it is metered."""
        meters = []
        for zone in filter(_ZONE.fullmatch, self._files.names(FOLDER)):
            own, size = (self._files.text(f"{FOLDER}/{zone}/{file}") for file in ("name", "max_energy_range_uj"))
            outer = re.sub(r"(:\d+):\d+$", r"\1", zone)
            package = _PACKAGE.fullmatch(self._files.text(f"{FOLDER}/{outer}/name"))
            name = "package_energy" if _PACKAGE.fullmatch(own) else NAMES.get(own)
            if name is not None and size.isdigit():
                socket = int(package[1]) if package else None
                meters.append(_Meter(f"{FOLDER}/{zone}/energy_uj", name, socket, int(size)))
        return meters
