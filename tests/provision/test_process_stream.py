"""A worker process is bound before it starts, speaks lines, and ends whatever it does."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from pytest_nriperf.errors import ProvisionError, WorkerError
from pytest_nriperf.provision.process import ProcessStream


@contextmanager
def python(code: str, cpus: frozenset[int] | None = None) -> Iterator[ProcessStream]:
    stream = ProcessStream(
        [sys.executable, "-c", code], environment=dict(os.environ), cpus=cpus or frozenset(os.sched_getaffinity(0))
    )
    try:
        yield stream
    finally:
        stream.close(0.1)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_first_instruction_already_runs_with_the_granted_affinity() -> None:
    before = os.sched_getaffinity(0)
    one = frozenset({min(before)})
    with python("import os; print(sorted(os.sched_getaffinity(0)))", one) as stream:
        assert stream.receive(10.0) == f"{sorted(one)}\n".encode()
    assert os.sched_getaffinity(0) == before


def test_lines_arrive_whole_however_they_are_written() -> None:
    code = "import os; [os.write(1, part) for part in (b'a', b'b\\nc', b'\\n', b'd')]"
    with python(code) as stream:
        assert [stream.receive(10.0) for _ in range(4)] == [b"ab\n", b"c\n", b"d", None]


def test_what_is_sent_is_read_by_the_worker() -> None:
    with python("import sys; print(sys.stdin.readline().upper(), end='')") as stream:
        stream.send(b"hello\n")
        assert stream.receive(10.0) == b"HELLO\n"


def test_silence_is_a_timeout_and_not_an_end() -> None:
    with python("import sys; sys.stdin.read()") as stream, pytest.raises(TimeoutError):
        stream.receive(0.01)


def test_sending_to_a_dead_worker_is_an_error_of_ours() -> None:
    with python("pass") as stream:
        assert stream.receive(10.0) is None
        stream.close()
        with pytest.raises(WorkerError, match="no longer reads"):
            stream.send(b"hello\n")


def test_a_worker_that_ignores_its_end_is_ended() -> None:
    code = "import signal, sys, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"
    with python(code) as stream:
        assert stream.receive(10.0) == b"ready\n"
        said = stream.close(0.05)
        assert said.startswith("killed by SIGKILL")
        assert stream.pid is not None
        assert not alive(stream.pid)


def state_of(pid: int) -> str:
    """The letter by which the kernel calls a process's state; empty when it is gone."""
    with suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]
    return ""


def test_what_a_worker_started_ends_with_it() -> None:
    code = (
        "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
        "print(child.pid, flush=True); sys.stdin.read()"
    )
    with python(code) as stream:
        line = stream.receive(10.0)
        assert line is not None
        child = int(line)
        assert alive(child)
        stream.close()
    # The orphan is init's to reap: gone, or a zombie that holds nothing.
    deadline = time.monotonic() + 60
    while state_of(child) not in ("", "Z") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert state_of(child) in ("", "Z")


def test_how_it_ended_comes_with_the_last_words_of_standard_error() -> None:
    with python("import sys; sys.exit('no such model')") as stream:
        assert stream.receive(10.0) is None
        assert stream.close() == "ended with status 1\nno such model"
        assert stream.close() == "ended with status 1\nno such model"


def test_closing_ends_a_reader_in_another_thread() -> None:
    with python("import sys; sys.stdin.read()") as stream:
        seen: list[bytes | None] = []
        reader = threading.Thread(target=lambda: seen.append(stream.receive(60.0)))
        reader.start()
        stream.close()
        reader.join(10.0)
        assert seen == [None]
        assert stream.receive(60.0) is None


def test_a_command_that_does_not_exist_is_an_error_of_ours() -> None:
    with pytest.raises(ProvisionError, match="cannot be started"):
        ProcessStream(["/no/such/program"], environment={}, cpus=frozenset(os.sched_getaffinity(0)))
