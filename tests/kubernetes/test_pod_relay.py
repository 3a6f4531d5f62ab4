"""The relay of pods, run here: it loses nothing, keeps results until somebody has them, and ends what it started."""

from __future__ import annotations

import os
import random
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import pytest

from pytest_nriperf.errors import MemoryFault, WorkerError, worker_ended
from pytest_nriperf.provision import pod_relay
from pytest_nriperf.provision.api_errors import ApiFailure
from pytest_nriperf.provision.exec_channel import ConnectionLost
from pytest_nriperf.provision.pod_stream import PodConnection, PodStream
from tests.memory_group import MemoryGroup, memory_group
from tests.tools import needs

RELAY = str(Path(pod_relay.__file__))
ECHO = "import sys\nfor line in sys.stdin:\n    print(line.strip()[::-1], flush=True)\n"


class LocalChannel:
    """An exec channel whose command is a process of this machine."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        )
        self.exit_code: int | None = None

    def send(self, data: bytes) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(data)
        except (OSError, ValueError) as error:
            raise ConnectionLost(str(error)) from error

    def receive(self, timeout_s: float) -> bytes | None:
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], timeout_s)[0]:
            raise TimeoutError
        piece = self.process.stdout.read(7)
        if not piece:
            status = self.process.wait()
            # Killed by a test: the connection broke.
            self.exit_code = None if status < 0 else status
            return None
        return bytes(piece)

    def how_it_ended(self) -> str:
        return f"status {self.exit_code}"

    def close(self) -> None:
        # What was sent arrives; the command finds the end of its input, as behind a closed connection.
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def alive(pid: int) -> bool:
    """Whether a process runs (one that has ended and waits to be collected does not)."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def wait_until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.01)


def poke(stream: PodStream) -> bool:
    """Read what is there of the channel, lines are kept."""
    stream._take_some(0.05)
    return True


def start(
    folder: Path, script: str, name: str = "w", prefix: Sequence[str] = (), **launch: object
) -> tuple[PodStream, list[LocalChannel]]:
    archive = folder / "script.py"
    archive.write_text(script)
    channels: list[LocalChannel] = []

    def open_(command: list[str]) -> LocalChannel:
        channels.append(LocalChannel(command))
        return channels[-1]

    first = {"python": sys.executable, "arguments": [], "environment": {}, "memory": "", "nodes": [], "gone_s": 20}
    connection = PodConnection(
        open=open_,  # type: ignore[arg-type]
        run=[*prefix, sys.executable, RELAY, "run", str(folder), name, str(archive)],
        attach=[sys.executable, RELAY, "attach", str(folder), name],
        launch={**first, **launch},
        why_gone=lambda: None,
        silent_s=10,
        reconnect_s=10,
        name="pod",
    )
    return PodStream(connection), channels


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_line_arrives_once_and_in_order_through_dropped_connections(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    stream, channels = start(tmp_path, ECHO)
    expected: list[bytes] = []
    received: list[bytes] = []
    for number in range(40):
        if rng.random() < 0.1 or number == 20:
            channels[-1].process.kill()
        line = f"{'x' * rng.randrange(300)}line{number}"
        stream.send(line.encode() + b"\n")
        expected.append(line[::-1].encode() + b"\n")
        while len(received) < len(expected) and rng.random() < 0.4:
            received.append(stream.receive(20) or b"")
    received += [stream.receive(20) or b"" for _ in expected[len(received) :]]
    assert received == expected
    assert stream.reconnections >= 1
    assert stream.close() == "ended with status 0"
    assert stream.receive(1) is None
    assert stream.close() == "ended with status 0"


def test_results_of_a_worker_that_has_ended_are_kept_until_they_are_acknowledged(tmp_path: Path) -> None:
    script = "import sys\nsys.stdin.readline()\nfor n in range(2000):\n    print(n)\nsys.exit('done')\n"
    stream, channels = start(tmp_path, script)
    stream.send(b"go\n")
    # The relay confirms a line when it has passed it on.
    wait_until(lambda: poke(stream) and not stream._unsent)
    channels[-1].process.kill()
    wait_until(lambda: not alive(stream.inner_pid))
    assert (tmp_path / "w.sock").exists()
    assert [stream.receive(20) for _ in range(2000)] == [b"%d\n" % number for number in range(2000)]
    assert stream.receive(20) is None
    assert stream.close() == "ended with status 1\ndone"
    wait_until(lambda: not (tmp_path / "w.sock").exists())


def test_a_worker_whose_host_is_gone_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    script = "import subprocess, time\nprint(subprocess.Popen(['sleep', '60']).pid, flush=True)\ntime.sleep(60)\n"
    stream, channels = start(tmp_path, script, gone_s=2)
    line = stream.receive(20)
    assert line is not None
    processes = [stream.inner_pid, int(line)]
    assert all(alive(each) for each in processes)
    channels[-1].process.kill()
    wait_until(lambda: not any(alive(each) for each in processes))
    wait_until(lambda: not (tmp_path / "w.sock").exists())
    with pytest.raises(WorkerError, match=r"cannot be reached: status 4"):
        stream.receive(20)
    stream.close()


def test_a_connection_that_cannot_be_made_again_is_told_also_at_the_end(tmp_path: Path) -> None:
    stream, channels = start(tmp_path, ECHO)
    stream._connection.reconnect_s = 0.2

    def refuse(_: list[str]) -> NoReturn:
        raise ConnectionLost("no route to host")

    stream._connection.open = refuse
    channels[-1].process.kill()
    with pytest.raises(WorkerError, match=r"could not be made again for 0\.2 s \(no route to host\)"):
        stream.receive(20)
    assert "no route to host" in stream.close(grace_s=0.01)
    os.kill(stream.inner_pid, signal.SIGKILL)


@pytest.mark.parametrize("mode", ["bind", "interleave"])
def test_memory_is_bound_or_interleaved_before_the_workers_first_instruction(tmp_path: Path, mode: str) -> None:
    script = "print(open('/proc/self/numa_maps').readline().split()[1], flush=True)\n"
    stream, _ = start(tmp_path, script, memory=mode, nodes=[0])
    assert stream.receive(20) == f"{mode}:0\n".encode()
    stream.close()


def test_memory_that_cannot_be_interleaved_is_refused_with_what_to_do(tmp_path: Path) -> None:
    stream, _ = start(tmp_path, "print('never')\n", memory="interleave", nodes=[1000])
    assert stream.receive(20) is None
    assert re.search(
        r"cannot be bound or interleaved in pod pod \(set_mempolicy: .*use memory='any'", stream.close()
    ), stream.close()


def test_the_end_tells_status_and_last_words(tmp_path: Path) -> None:
    stream, _ = start(tmp_path, "import sys\nprint('out')\nsys.exit('last words')\n")
    assert stream.receive(20) == b"out\n"
    assert stream.receive(20) is None
    assert stream.close() == "ended with status 1\nlast words"


def test_a_worker_that_does_not_end_is_killed(tmp_path: Path) -> None:
    stream, _ = start(
        tmp_path, "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(60)\n"
    )
    assert stream.receive(20) == b"up\n"
    assert stream.close(grace_s=0.1) == "killed by SIGKILL"


def in_container(group: MemoryGroup) -> list[str]:
    """Starts a command in the group, which it sees where a container sees its own."""
    needs("unshare", package="util-linux")
    own = Path("/sys/fs/cgroup/memory")
    view = 'mount --bind "$0" "$1" && shift && exec "$@"'
    where = [str(group.folder), str(own if own.exists() else own.parent)]
    return [*group.command_prefix(), "unshare", "--mount", "/bin/sh", "-c", view, *where]


@pytest.mark.parametrize("script", ["held = bytearray(1 << 30)\n", "import os\nos.kill(os.getpid(), 9)\n"])
def test_a_kill_for_lack_of_memory_is_told_by_the_containers_counters(tmp_path: Path, script: str) -> None:
    with memory_group(96 << 20) as group:
        stream, _ = start(tmp_path, script, prefix=in_container(group))
        assert stream.receive(60) is None
        how = stream.close()
    if "bytearray" in script:
        assert how == "killed by the kernel: out of memory (the container's limit of 96 MiB was reached)"
        assert isinstance(worker_ended("it", how), MemoryFault)
    else:
        assert re.fullmatch("killed by SIGKILL, and the kernel counts no kill for lack of memory: .*", how)
        assert not isinstance(worker_ended("it", how), MemoryFault)


def test_a_worker_that_was_started_before_its_connection_broke_is_not_started_again(tmp_path: Path) -> None:
    first, channels = start(tmp_path, ECHO)
    second, _ = start(tmp_path, ECHO)
    assert second.inner_pid == first.inner_pid
    second.send(b"abc\n")
    assert second.receive(20) == b"cba\n"
    assert second.close() == "ended with status 0"
    channels[0].close()


def test_an_interpreter_that_is_not_there_is_named(tmp_path: Path) -> None:
    stream, _ = start(tmp_path, ECHO, python="/nowhere/python3")
    assert stream.receive(20) is None
    assert "ended with status 127\n" in stream.close()
    assert "/nowhere/python3" in stream.close()


def test_a_relay_leaves_no_file(tmp_path: Path) -> None:
    stream, _ = start(tmp_path, ECHO)
    assert len(list(tmp_path.iterdir())) > 1
    stream.close()
    wait_until(lambda: [path.name for path in tmp_path.iterdir()] == ["script.py"])


def test_a_connection_is_made_again_while_nobody_can_say_what_became_of_the_pod(tmp_path: Path) -> None:
    stream, channels = start(tmp_path, ECHO)

    def unreachable() -> None:
        raise ApiFailure("the API server does not answer")

    stream._connection.why_gone = unreachable
    channels[-1].process.kill()
    stream.send(b"abc\n")
    assert stream.receive(20) == b"cba\n"
    assert stream.reconnections == 1
    assert stream.close() == "ended with status 0"
