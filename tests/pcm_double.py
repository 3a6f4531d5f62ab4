"""A double of pcm-sensor-server: a made-up machine whose counters grow at known rates, served on loopback.

It answers as the real one: paths, Accept rules, header names, keep-alive, text and JSON, the current format and
that of version 202302, and the faults that were seen of it. All numbers are made up.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from types import TracebackType
from typing import Any

THREAD_RATES = {
    "Instructions Retired Any": 4_000_000_000,
    "Clock Unhalted Thread": 3_100_000_000,
    "Clock Unhalted Ref": 2_000_000_000,
    "L3 Cache Misses": 4_700_000,
    "L3 Cache Hits": 22_400_000,
    "L2 Cache Misses": 31_000_000,
    "L2 Cache Hits": 118_000_000,
}
LINKS = 3
PCIE = ("Read Bytes", "Write Bytes", "PCIRdCur", "ItoM", "ItoMCacheNear", "UCRdF", "WiL", "WCiL", "WCiLF")
TSC_HZ = 2_000_000_000
NO_HEADROOM = -2147483648
# Of the counters, what is none: as it is also where differences are served.
GAUGES = ("L3 Cache Occupancy",)
# Answers on one connection, after which it is closed.
MOST_ANSWERS = 100


@dataclass
class Machine:
    """Counters at a time: `busy` tells how much of the full rate a CPU has, the rest is per socket.

    `version` "202302" lacks what came later; `zero` are names printed as 0 since this machine cannot count them;
    `offline` CPUs count nothing, and their ratios are 0/0;
    `invalid` CPUs have an invalid L3 occupancy.
    """

    sockets: int = 2
    cores: int = 2
    threads: int = 2
    version: str = "202604"
    busy: Callable[[int], float] = lambda cpu: 1.0
    read_rate: int = 22_800_000_000
    write_rate: int = 1_900_000_000
    watts: float = 248.0
    dram_watts: float = 20.0
    local_mib: int = 10_000
    remote_mib: int = 200
    zero: frozenset[str] = frozenset()
    invalid: frozenset[int] = frozenset()
    offline: frozenset[int] = frozenset()
    repeated_cores: bool = False
    offset: int = 1_000_000_000_000

    def cpu(self, socket_: int, core: int, thread: int) -> int:
        """Linux number: first threads of all cores, then the second ones."""
        return thread * self.sockets * self.cores + socket_ * self.cores + core

    def share(self, cpu: int) -> float:
        """Of the full rate."""
        return 0.0 if cpu in self.offline else self.busy(cpu)

    def _count(self, name: str, rate: float, seconds: float) -> int:
        return 0 if name in self.zero else self.offset + round(rate * seconds)

    def thread_counters(self, cpu: int, t_us: int) -> dict[str, int]:
        """Counters of one hardware thread `t_us` microseconds after boot."""
        seconds, share = t_us / 1e6, self.share(cpu)
        counters = {name: self._count(name, rate * share, seconds) for name, rate in THREAD_RATES.items()}
        counters["L3 Cache Occupancy"] = 2**64 - 1 if cpu in self.invalid else 21_504
        counters["Invariant TSC"] = round(TSC_HZ * seconds)
        counters["SMI Count"] = 3
        return counters

    def bandwidth_counters(self, cpu: int, t_us: int) -> dict[str, int]:
        """RDT's cumulative MiB of one hardware thread."""
        seconds, share = t_us / 1e6, self.share(cpu)
        both = {"Local Memory Bandwidth": self.local_mib, "Remote Memory Bandwidth": self.remote_mib}
        return {name: 0 if name in self.zero else int(1000 + rate * share * seconds) for name, rate in both.items()}

    def uncore(self, t_us: int) -> dict[str, int | float]:
        """Counters of one socket's uncore."""
        seconds = t_us / 1e6
        counters: dict[str, int | float] = {
            "DRAM Writes": self._count("DRAM Writes", self.write_rate, seconds) // 64 * 64,
            "DRAM Reads": self._count("DRAM Reads", self.read_rate, seconds) // 64 * 64,
            "Persistent Memory Writes": 0,
            "Persistent Memory Reads": 0,
            "Embedded DRAM Writes": 0,
            "Embedded DRAM Reads": 0,
        }
        if self.version != "202302":
            counters |= {"Memory Controller IA Requests": 0, "Memory Controller GT Requests": 0}
        counters["Memory Controller IO Requests"] = 0
        joules = {"Package Joules Consumed": self.watts, "DRAM Joules Consumed": self.dram_watts}
        counters["Package Joules Consumed"] = self._joules("Package Joules Consumed", joules, seconds)
        if self.version != "202302":
            counters |= {"PP0 Joules Consumed": 0.0, "PP1 Joules Consumed": 0.0}
        counters["DRAM Joules Consumed"] = self._joules("DRAM Joules Consumed", joules, seconds)
        return counters

    def _joules(self, name: str, rates: dict[str, float], seconds: float) -> float:
        return 0.0 if name in self.zero else 1000.0 + rates[name] * seconds

    def links(self, t_us: int) -> dict[str, int | float]:
        """UPI counters of one socket."""
        seconds = t_us / 1e6
        counters: dict[str, int | float] = {}
        if self.version != "202302":
            counters |= {"CXL Write Cache": 0, "CXL Write Mem": 0}
        for link in range(LINKS):
            counters[f"Incoming Data Traffic On Link {link}"] = self._count("UPI", 1e8, seconds)
            counters[f"Outgoing Data And Non-Data Traffic On Link {link}"] = self._count("UPI", 2e8, seconds)
            counters[f"Utilization Incoming Data Traffic On Link {link}"] = 0.0
            counters[f"Utilization Outgoing Data And Non-Data Traffic On Link {link}"] = 0.0
        return counters

    def sleeping(self, t_us: int) -> int:
        """Ticks that each core, and each package, slept in its deepest state since boot."""
        return t_us // 10

    def core_label(self, core: int) -> int:
        """The number that a core bears; versions before 202502 can give one number to two cores of a socket."""
        return core // 2 if self.repeated_cores else core

    def threads_of(self, socket_: int) -> list[tuple[int, int, int]]:
        """(core, thread, CPU) of a socket's hardware threads, in document order."""
        return [
            (core, thread, self.cpu(socket_, core, thread))
            for core in range(self.cores)
            for thread in range(self.threads)
        ]


@dataclass
class LastSeconds(Machine):
    """What `/persecond` tells of a machine: by how much its counters grew in so many seconds, gauges as they are. PCIe
    counters stay as they are too."""

    seconds: int = 1

    @classmethod
    def of(cls, machine: Machine, seconds: int) -> LastSeconds:
        """The same machine."""
        return cls(**{each.name: getattr(machine, each.name) for each in fields(machine)}, seconds=seconds)

    def _grown(self, read: Callable[[int], dict[str, Any]], t_us: int) -> dict[str, Any]:
        now, before = read(t_us), read(t_us - self.seconds * 1_000_000)
        return {name: value if name in GAUGES else value - before[name] for name, value in now.items()}

    def thread_counters(self, cpu: int, t_us: int) -> dict[str, int]:
        """Growth of one hardware thread's."""
        whole = super().thread_counters
        return self._grown(lambda t: whole(cpu, t), t_us)

    def bandwidth_counters(self, cpu: int, t_us: int) -> dict[str, int]:
        """Growth of RDT's."""
        whole = super().bandwidth_counters
        return self._grown(lambda t: whole(cpu, t), t_us)

    def uncore(self, t_us: int) -> dict[str, int | float]:
        """Growth of one socket's."""
        return self._grown(super().uncore, t_us)

    def links(self, t_us: int) -> dict[str, int | float]:
        """Growth of the traffic between sockets; utilisation is a share."""
        return self._grown(super().links, t_us)

    def sleeping(self, t_us: int) -> int:
        """Growth of the time asleep."""
        return super().sleeping(t_us) - super().sleeping(t_us - self.seconds * 1_000_000)


def added(parts: list[dict[str, int]]) -> dict[str, int]:
    """Counters added up as the server does, in 64 bits."""
    total = {name: sum(part[name] for part in parts) for name in parts[0]}
    return {name: value - 2**64 if value >= 2**64 - 1 else value for name, value in total.items()}


def text(machine: Machine, t_us: int, interval_us: int | None = None) -> str:
    """The Prometheus text `t_us` after boot."""
    lines = [f"Measurement_Interval_in_us {t_us if interval_us is None else interval_us}"]
    lines.append(f"Number_of_sockets {machine.sockets}")
    whole: list[dict[str, int]] = []
    for socket_ in range(machine.sockets):
        lines.append(f"# Core Counters Socket {socket_}")
        parts = []
        for core, thread, cpu in machine.threads_of(socket_):
            place = f'socket="{socket_}",core="{machine.core_label(core)}",thread="{thread}"'
            lines.append(f"OS_ID{{{place}}} {cpu}")
            counters, bandwidth = machine.thread_counters(cpu, t_us), machine.bandwidth_counters(cpu, t_us)
            raw = {0: counters["Clock Unhalted Ref"], 6: machine.sleeping(t_us)}
            ratio = "-nan" if cpu in machine.offline else ""
            lines.extend(_block(place + ',source="core"', counters, 38, raw, bandwidth, ratio))
            parts.append({**counters, **bandwidth})
        lines.append(f"# Uncore Counters Socket {socket_}")
        lines.extend(_lines(f'socket="{socket_}",source="uncore"', machine.uncore(t_us)))
        lines.extend(_cstates(f'socket="{socket_}",source="uncore"', {0: 0, 6: machine.sleeping(t_us)}))
        lines.append(f"# Core Counters Aggregate Socket {socket_}")
        total = added(parts)
        bandwidth = {name: total.pop(name) for name in list(total) if "Bandwidth" in name}
        raw = {0: total["Clock Unhalted Ref"], 6: machine.sleeping(t_us)}
        place = f'socket="{socket_}",aggregate="socket",source="core"'
        lines.extend(_block(place, total, NO_HEADROOM, raw, bandwidth))
        whole.append({**total, **bandwidth})
    lines.append("# UPI/QPI Counters")
    for socket_ in range(machine.sockets):
        place = f'aggregate="system",source="uncore",socket="{socket_}"'
        lines.extend(_lines(place, machine.links(t_us)))
    lines.append("# Core Counters Aggregate System")
    total = added(whole)
    bandwidth = {name: total.pop(name) for name in list(total) if "Bandwidth" in name}
    raw = {0: total["Clock Unhalted Ref"], 6: machine.sleeping(t_us)}
    lines.extend(_block('aggregate="system",source="core"', total, NO_HEADROOM, raw, bandwidth))
    lines.append("# Uncore Counters Aggregate System")
    system = {name: value * machine.sockets for name, value in machine.uncore(t_us).items()}
    lines.extend(_lines('aggregate="system",source="uncore"', system))
    if machine.version not in ("202302", "202405", "202502"):
        lines.append("# PCIe Bandwidth Counters")
        for socket_ in range(machine.sockets):
            place = f'aggregate="system",source="uncore",socket="{socket_}"'
            lines.extend(_lines(place, {f"PCIe {name}": 4096 * t_us for name in PCIE}))
    return "\n".join(lines) + "\n"


def _block(
    place: str,
    counters: dict[str, int],
    headroom: int,
    raw: dict[int, int],
    bandwidth: dict[str, int],
    ratio: str = "",
) -> Iterator[str]:
    yield from _lines(place, counters)
    yield from _lines(place, {"Thermal Headroom": headroom})
    yield from _cstates(place, raw, ratio)
    yield from _lines(place, bandwidth)


def _cstates(place: str, raw: dict[int, int], ratio: str = "") -> Iterator[str]:
    """`raw` ticks by state; `ratio` instead of the shares of time where there are none."""
    for index in range(11):
        yield f'CStateResidency{{{place},index="{index}"}} {ratio or f"{0.25 if index < 2 else 0:.3f}"}'
        yield f'RawCStateResidency{{{place},index="{index}"}} {raw.get(index, 0)}'


def _lines(place: str, counters: dict[str, Any]) -> Iterator[str]:
    for name, value in counters.items():
        shown = f"{value:.3f}" if isinstance(value, float) else str(value)
        yield f"{name.replace(' ', '_').replace('-', '_')}{{{place}}} {shown}"


def document(machine: Machine, t_us: int, interval_us: int | None = None) -> str:
    """The JSON document `t_us` after boot, with the server's own line ends."""
    sockets = []
    for socket_ in range(machine.sockets):
        cores = []
        for core in range(machine.cores):
            threads = [
                {
                    "Object": "HyperThread",
                    "Thread ID": thread,
                    "OS ID": cpu,
                    "Core Counters": {**machine.thread_counters(cpu, t_us), "Core Frequency": 3.1e9},
                    "Energy Counters": {"Thermal Headroom": 38},
                    "Core Memory Bandwidth Counters": machine.bandwidth_counters(cpu, t_us),
                }
                for number, thread, cpu in machine.threads_of(socket_)
                if number == core
            ]
            cores.append({"Object": "Core", "Threads": threads, "Core ID": core, "Socket ID": socket_})
        uncore = {"Object": "ServerUncore", "Uncore Counters": machine.uncore(t_us)}
        sockets.append({"Object": "Socket", "Socket ID": socket_, "Cores": cores, "Uncore": uncore})
    links = {f"QPI Counters Socket {each}": machine.links(t_us) for each in range(machine.sockets)}
    interval = t_us if interval_us is None else interval_us
    root = {"Interval us": interval, "Object": "SystemRoot", "Number of sockets": machine.sockets, "Sockets": sockets}
    return json.dumps({**root, "QPI/UPI Links": links}, indent=2, separators=(",", " : ")).replace("\n", "\r\n")


PROMETHEUS = "text/plain; version=0.0.4; charset=UTF-8"
JSON = "application/json; charset=UTF-8"
HTML = "text/html; charset=UTF-8"


@dataclass
class PcmDouble:
    """The server, on a free port of loopback while the `with` lasts. `url` is its address.

    `clock_us` is the server's steady clock. `fault(number)` may name what goes wrong with the request of that
    number: `reset`, `truncated`, `slow` (until `release` is set), `garbage`, `error`, `restart` (counters begin
    anew). `requests` lists what was asked for.
    """

    machine: Machine = field(default_factory=Machine)
    clock_us: Callable[[], int] = lambda: time.perf_counter_ns() // 1000
    fault: Callable[[int], str] = lambda number: ""
    requests: list[str] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> PcmDouble:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._open: set[socket.socket] = set()
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._open):
            connection.close()
        for thread in self._threads:
            thread.join(10)

    @property
    def url(self) -> str:
        """Address of the server."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.add(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                for _ in range(MOST_ANSWERS):
                    if not self._answer(connection):
                        break
            except OSError:
                pass
            finally:
                self._open.discard(connection)

    def _answer(self, connection: socket.socket) -> bool:
        """Answer one request; whether the connection stays open. Header names are matched case-sensitively."""
        head = b""
        while b"\r\n\r\n" not in head:
            piece = connection.recv(65536)
            if not piece:
                return False
            head += piece
        first, *lines = head.split(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
        method, path, protocol = first.split(" ")
        headers = dict(line.split(": ", 1) for line in lines)
        self.requests.append(f"{method} {path}")
        fault = self.fault(len(self.requests) - 1)
        if fault == "reset":
            return False
        if fault == "slow":
            self.release.wait(30)
        status, kind, body = self._route(method, path, protocol, headers, fault)
        keep = headers.get("Connection") == "keep-alive"
        answer = [f"HTTP/1.1 {status}", "Server: PCMWebServer 0.1", f"Content-Type: {kind}"]
        answer += [f"Content-Length: {len(body)}"]
        if keep:
            answer += ["Connection: keep-alive", "Keep-Alive: timeout=10, max=100"]
        if fault == "truncated":
            body, keep = body[: len(body) // 2], False
        data = "\r\n".join(answer).encode() + b"\r\n\r\n" + (b"" if method == "HEAD" else body)
        connection.sendall(data)
        return keep

    def _route(
        self, method: str, path: str, protocol: str, headers: dict[str, str], fault: str
    ) -> tuple[str, str, bytes]:
        if protocol == "HTTP/1.1" and "Host" not in headers:
            return "400 Bad Request", "text/plain", b"400 Bad Request. HTTP/1.1: Mandatory Host header is missing."
        if method not in ("GET", "HEAD"):
            return "501 Not Implemented", "text/plain", b"501 Not Implemented."
        if fault == "error":
            return "500 Internal Server Error", "text/plain", b"500"
        if fault == "garbage":
            return "200 OK", PROMETHEUS, b"\x00\xff garbage {\n"
        machine = replace(self.machine, offset=0) if fault == "restart" else self.machine
        accepted = _accepted(headers.get("Accept", ""))
        now = self.clock_us()
        if path == "/metrics":
            return "200 OK", PROMETHEUS, text(machine, now).encode()
        if path == "/":
            if accepted == "json":
                return "200 OK", JSON, document(machine, now).encode()
            if accepted == "prometheus":
                return "200 OK", PROMETHEUS, text(machine, now).encode()
            return "200 OK", HTML, b"<html><head><title>PCM Sensor Server</title></head></html>"
        if path.startswith("/persecond"):
            return self._persecond(path, accepted, machine, now)
        if path.startswith("/dashboard"):
            return "200 OK", JSON, b"{}"
        if path == "/favicon.ico":
            return "200 OK", "image/x-icon", b"\x00\x00\x01\x00"
        return "404 Not Found", "text/plain", b"404 Unknown path."

    def _persecond(self, path: str, accepted: str, machine: Machine, now: int) -> tuple[str, str, bytes]:
        asked = path[len("/persecond") :].strip("/")
        if asked and not (asked.isdigit() and 1 <= int(asked) <= 30):
            return "400 Bad Request", "text/plain", b"400 Bad Request. Seconds must be 1 to 30."
        if not accepted:
            return "406 Not Acceptable", "text/plain", b"406 Not Acceptable."
        seconds = int(asked or 1)
        last = LastSeconds.of(machine, seconds)
        if accepted == "json":
            return "200 OK", JSON, document(last, now, interval_us=seconds * 1_000_000).encode()
        return "200 OK", PROMETHEUS, text(last, now, interval_us=seconds * 1_000_000).encode()


def _accepted(header: str) -> str:
    """What an Accept header asks for, by the server's exact comparison."""
    for part in header.replace(" ", "").split(","):
        name = ";".join(word for word in part.split(";") if not word.startswith("q="))
        if name == "application/json":
            return "json"
        if name == "text/plain;version=0.0.4":
            return "prometheus"
    return ""
