"""The host's end of the protocol, against real workers and prepared streams."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_nriperf.errors import MemoryFault, WorkerError, worker_ended
from pytest_nriperf.generate.archive import worker_archive
from pytest_nriperf.generate.child.protocol import MAX_LINE, encode
from pytest_nriperf.generate.link import Link
from pytest_nriperf.seams import Launch
from pytest_nriperf.testing import FakeStream
from tests.generate.grants import plain_grant

HELLO = {"seq": 1, "type": "hello", "protocol": 1, "clock_offset_ns": 0, "pid": 1}


class Heard:
    """What a link passes on."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.changed = threading.Condition()

    def __call__(self, replica: int, message: dict[str, Any]) -> None:
        self.messages.append(message)

    def wait_for(self, kind: str) -> dict[str, Any]:
        with self.changed:
            assert self.changed.wait_for(lambda: any(each["type"] == kind for each in self.messages), 10)
            return next(each for each in self.messages if each["type"] == kind)


@pytest.fixture
def link() -> Iterator[tuple[Link, Heard]]:
    heard = Heard()
    with plain_grant() as grant:
        stream = grant.start_worker(0, Launch(worker_archive()))
        link = Link(0, stream, heard, heard.changed)
        yield link, heard
        link.close()


def test_a_worker_reads_files_and_refuses_what_it_does_not_know(link: tuple[Link, Heard], tmp_path: Path) -> None:
    worker, heard = link
    assert worker.call("ping", 10)["t_ns"] > 0
    assert worker.read("/proc/self/comm") == b"python\n" or worker.read("/proc/self/comm") is not None
    large = tmp_path / "large"
    large.write_bytes(bytes(range(256)) * 4096)
    assert worker.read(str(large)) == large.read_bytes()
    assert worker.read("/nowhere") is None
    worker.call("sample", 10, paths=["/proc/uptime"], hz=50)
    assert heard.wait_for("samples")["readings"][0][0] == "/proc/uptime"
    worker.call("unsample", 10)
    assert worker.call("reference", 30)["took_ns"] > 0
    with pytest.raises(WorkerError, match="unknown operation 'dance'"):
        worker.call("dance", 10)
    with pytest.raises(WorkerError, match="no model is loaded"):
        worker.call("start", 10, at_ns=0)
    with pytest.raises(WorkerError, match="longer than"):
        worker.post("prompt", prompt={"text": "x" * MAX_LINE})


def test_last_words_of_an_engine_are_no_proof_that_memory_ran_out() -> None:
    for how, kind in (("ended with status 3\nBLOOM: out of memory", WorkerError), ("OOMKilled\nbye", MemoryFault)):
        assert type(worker_ended("it ended", how)) is kind


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([b"Welcome to this image!\n"], "no message: b'Welcome to this image!"),
        ([encode({**HELLO, "protocol": 9})], "speaks version 9"),
        ([encode({**HELLO, "clock_offset_ns": 10**9})], r"time namespace of its own \(monotonic clock off by 1 s\)"),
        ([encode(HELLO), b'{"seq":2,"type":"be'], "ended while starting: ended with status 0"),
        ([encode({**HELLO, "seq": "one"})], "no message"),
        ([encode({"seq": 1})], "no message"),
        ([encode(HELLO), encode({"seq": 3, "type": "beat", "stage": "x"})], "message 3 after message 1"),
        ([], "ended while starting"),
    ],
)
def test_a_stream_that_is_no_workers_is_named(lines: list[bytes], words: str) -> None:
    heard = Heard()
    link = Link(3, FakeStream(lines), heard, heard.changed)
    with pytest.raises(WorkerError, match=f"replica 3.*{words}"):
        link.call("ping", 10)
    link.close()
