"""The `pcm` collector: hardware counters of Intel servers from a pcm-sensor-server, over HTTP.

Only `/metrics` is asked: it reads the counters afresh, while `/persecond` repeats snapshots of a clock of its own.
The answer's stamp is the server's monotonic clock at the start of that read, which on one node is our clock too; it
is checked against the begin and end of our request. Each reading has a connection of its own: the server holds one
of its 64 threads for every connection that is kept, and closes kept ones without a word.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple
from urllib.parse import urlsplit

from pytest_nriperf.collect.pcm_text import Answer, PcmParser
from pytest_nriperf.collect.reading import Files, why
from pytest_nriperf.errors import CollectorError, UsageError
from pytest_nriperf.seams import Availability, CounterRow, Target

SOURCE = "pcm"
PORT = 9738
TIMEOUT_S = 2.0
LARGEST = 32 * 1024 * 1024
# The server runs a job on every CPU for each answer: ten a second is its makers' ceiling, and ours half of that.
LEAST_INTERVAL_NS = 200_000_000
# Stamps are whole microseconds; two readings of one clock in two processes differ by far less than this.
CLOCK_SLACK_NS = 1_000_000

# What the derived metrics need -> the families that give it.
GIVES = {
    "instructions": ("Instructions_Retired_Any",),
    "L3 misses": ("L3_Cache_Misses",),
    "L3 occupancy": ("L3_Cache_Occupancy",),
    "memory bandwidth": ("DRAM_Reads", "DRAM_Writes"),
    "local and remote bandwidth": ("Local_Memory_Bandwidth",),
    "power": ("Package_Joules_Consumed",),
    "UPI traffic": ("Incoming_Data_Traffic_On_Link_0",),
}


class Address(NamedTuple):
    """Where the server is."""

    host: str
    port: int
    path: str = "/metrics"
    secure: bool = False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' if self.secure else ''}://{host}:{self.port}{self.path}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """From a URL, `host:port` or a host; empty is this machine, on the port that is registered for PCM.

        >>> str(Address.parse("xeon1")), str(Address.parse("http://[::1]:9000/"))
        ('http://xeon1:9738/metrics', 'http://[::1]:9000/metrics')
        """
        url = text.strip() or "127.0.0.1"
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            port = parts.port
        except ValueError as error:
            raise UsageError(f"PCM address {text!r}: {error}", "write for example http://127.0.0.1:9738") from error
        known = parts.scheme in ("http", "https") and parts.hostname and not parts.username and not parts.query
        if not known or parts.path not in ("", "/", "/metrics"):
            raise UsageError(
                f"PCM address {text!r} is no address of a pcm-sensor-server", "write for example http://127.0.0.1:9738"
            )
        return cls(str(parts.hostname), port or PORT, secure=parts.scheme == "https")


class Fetched(NamedTuple):
    """An answer's text, and when it was asked for and there (our clock)."""

    text: str
    asked_ns: int
    there_ns: int


def fetch(
    address: Address, *, timeout_s: float = TIMEOUT_S, clock: Callable[[], int] = time.perf_counter_ns
) -> Fetched:
    """Ask once. Raises CollectorError when nothing sensible comes back in time.

    `timeout_s` is for every single wait on the socket.
    """
    kind = http.client.HTTPSConnection if address.secure else http.client.HTTPConnection
    connection = kind(address.host, address.port, timeout=timeout_s)
    asked = clock()
    try:
        connection.request("GET", address.path, headers={"Accept": "text/plain;version=0.0.4", "Connection": "close"})
        response = connection.getresponse()
        body = response.read(LARGEST + 1)
        promised = int(response.getheader("Content-Length") or 0)
        there = clock()
    except ConnectionRefusedError as error:
        raise CollectorError(f"nothing listens on {address}", "start pcm-sensor-server there") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise CollectorError(f"{address} does not answer as HTTP does: {why(error)}", "check the server") from error
    finally:
        connection.close()
    if response.status != 200:
        raise CollectorError(f"{address} answers {response.status} {response.reason}", "check the address")
    if len(body) > LARGEST or len(body) < promised:
        raise CollectorError(f"{address} promises {promised} bytes and sends {len(body)}", "check the server")
    return Fetched(body.decode("utf-8", "replace"), asked, there)


class PcmCollector:
    """Counters of the balloon's CPUs and of all sockets.

    `here` tells whether what is measured runs on this machine: then the server's stamp must lie within our request,
    else the request's begin stands in for it. For another node its own stamp is the node's clock, and is kept.
    """

    name = SOURCE

    def __init__(
        self,
        url: str = "",
        *,
        here: bool = True,
        root: str = "",
        clock: Callable[[], int] = time.perf_counter_ns,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self.notes: list[str] = []
        self.address = Address.parse(url)
        self._here = here
        self._files = Files(root)
        self._clock = clock
        self._timeout_s = timeout_s
        self._target = Target(())
        self._parser: PcmParser | None = None
        self._replica_of: dict[int, int] = {}
        self._asked_ns = 0

    def probe(self) -> Availability:
        """Ask once; what the server prints as 0 everywhere it cannot count."""
        try:
            answer, _, _ = self._ask(PcmParser(None))
        except CollectorError as error:
            return Availability(False, missing=(error.fact,))
        seen = {each.name for each in answer.readings if each.value}
        gives = tuple(what for what, families in GIVES.items() if seen.intersection(families))
        missing = tuple(f"{what} (0 in every answer)" for what in GIVES if what not in gives)
        return Availability(bool(gives), gives, missing)

    def known_cpus(self) -> tuple[int, ...]:
        """Every CPU that the server counts. Raises CollectorError."""
        return tuple(sorted(self._ask(PcmParser(None))[0].cpus.values()))

    def start(self, target: Target) -> Iterable[CounterRow]:
        """The first reading, and the NMI watchdog, which takes one counter from PCM."""
        self.notes = []
        self._target = target
        self._replica_of = {cpu: each.replica for each in target.replicas for cpu in each.allocated}
        self._parser = PcmParser(self._replica_of)
        return [*self._watchdog(), *self._read()]

    def sample(self) -> Iterable[CounterRow]:
        """One reading, at most five a second."""
        if self._clock() - self._asked_ns < LEAST_INTERVAL_NS:
            return []
        return self._read()

    def stop(self) -> Iterable[CounterRow]:
        """The last reading."""
        if self._parser is None:
            return []
        try:
            return [*self._read(), *self._watchdog()]
        finally:
            self._parser = None

    def _ask(self, parser: PcmParser) -> tuple[Answer, int, int]:
        """An answer with the time when it was true and when it was there."""
        self._asked_ns = self._clock()
        fetched = fetch(self.address, timeout_s=self._timeout_s, clock=self._clock)
        answer = parser.parse(fetched.text)
        stamp = answer.stamp_us * 1000
        if not self._here:
            return answer, stamp, stamp
        if fetched.asked_ns - CLOCK_SLACK_NS <= stamp <= fetched.there_ns + CLOCK_SLACK_NS:
            return answer, stamp, fetched.there_ns
        off = (stamp - fetched.asked_ns) / 1e9
        self._note(f"its clock is not ours (off by {off:.3g} s): readings bear the time of our request")
        return answer, fetched.asked_ns, fetched.there_ns

    def _read(self) -> list[CounterRow]:
        if self._parser is None:
            return []
        answer, true_ns, there_ns = self._ask(self._parser)
        if self._parser.ambiguous:
            cpus = ", ".join(map(str, sorted(self._parser.ambiguous)))
            self._note(f"two cores bear one number, so CPUs {cpus} cannot be told apart and are left out")
        if answer.strange:
            self._note("some lines of its answers were not understood and are left out")
        sockets = self._sockets(answer)
        return [
            CounterRow(
                true_ns,
                there_ns,
                SOURCE,
                each.name,
                each.kind,
                each.value,
                each.unit,
                replica=None if each.cpu is None else self._replica_of.get(each.cpu),
                cpu=each.cpu,
                socket=sockets.get(each.socket, each.socket),
            )
            for each in answer.readings
        ]

    def _sockets(self, answer: Answer) -> dict[int, int]:
        """PCM's socket number -> the kernel's, by the CPUs in it."""
        known = self._target.socket_of_cpu
        found: dict[int, set[int]] = {}
        for (socket, _, _), cpu in answer.cpus.items():
            if cpu in known:
                found.setdefault(socket, set()).add(known[cpu])
        split = [socket for socket, ours in found.items() if len(ours) > 1]
        if split:
            self._note(f"its socket {split[0]} has CPUs of several sockets of the kernel: sockets are PCM's")
            return {}
        return {socket: ours.pop() for socket, ours in found.items()}

    def _watchdog(self) -> list[CounterRow]:
        text = self._files.text("/proc/sys/kernel/nmi_watchdog") if self._here else ""
        now = self._clock()
        return [CounterRow(now, now, SOURCE, "nmi_watchdog", "gauge", int(text), "")] if text.isdigit() else []

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
