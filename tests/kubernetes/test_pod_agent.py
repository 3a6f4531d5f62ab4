"""What runs inside pods, run here: the relay loses nothing and ends what it started."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_nriperf.provision import pod
from pytest_nriperf.provision.pod_stream import PodConnection, PodStream

AGENT = str(Path(pod.__file__))
ECHO = "import sys\nfor line in sys.stdin:\n    print(line.strip()[::-1], flush=True)\n"


class LocalChannel:
    """An exec channel whose command is a process of this machine."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        )
        self.exit_code: int | None = None

    def send(self, data: bytes) -> None:
        from pytest_nriperf.provision.exec_channel import ConnectionLost

        assert self.process.stdin is not None
        try:
            self.process.stdin.write(data)
        except (OSError, ValueError) as error:
            raise ConnectionLost(str(error)) from error

    def receive(self, timeout_s: float) -> bytes | None:
        import select

        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], timeout_s)[0]:
            raise TimeoutError
        piece = self.process.stdout.read(7)
        if not piece:
            self.exit_code = self.process.wait()
            return None
        return bytes(piece)

    def how_it_ended(self) -> str:
        return f"status {self.exit_code}"

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


def start(folder: Path, script: str, name: str = "w", **launch: object) -> tuple[PodStream, list[LocalChannel]]:
    archive = folder / "script.py"
    archive.write_text(script)
    channels: list[LocalChannel] = []

    def open_(command: list[str]) -> LocalChannel:
        channels.append(LocalChannel(command))
        return channels[-1]

    first = {"python": sys.executable, "arguments": [], "environment": {}, "memory": "", "nodes": [], "gone_s": 20}
    connection = PodConnection(
        open=open_,  # type: ignore[arg-type]
        run=[sys.executable, AGENT, "run", str(folder), name, str(archive)],
        attach=[sys.executable, AGENT, "attach", str(folder), name],
        launch={**first, **launch},
        why_gone=lambda: None,
        silent_s=10,
        reconnect_s=10,
        name="pod",
    )
    return PodStream(connection), channels


def test_lines_come_and_go_through_dropped_connections(tmp_path: Path) -> None:
    stream, channels = start(tmp_path, ECHO)
    expected = []
    for number in range(30):
        if number % 10 == 5:
            channels[-1].process.kill()
        line = f"{'x' * number}line{number}"
        stream.send(line.encode() + b"\n")
        expected.append(line[::-1].encode() + b"\n")
    assert [stream.receive(20) for _ in expected] == expected
    assert stream.reconnections >= 1
    assert stream.close() == "ended with status 0"
    assert stream.receive(1) is None
    assert stream.close() == "ended with status 0"


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


def test_files_are_shown_below_their_roots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/one").write_text("1\n")
    (tmp_path / "a/two").write_bytes(b"\xff\n")
    assert pod.main(["show", str(tmp_path), "a/*", "nothing/*", "--", str(tmp_path / "a"), "one"]) == 0
    groups = json.loads(capsys.readouterr().out)["groups"]
    assert groups == [{"a/one": "1\n", "a/two": "\xff\n"}, {"one": "1\n"}]


def test_tasks_of_a_process_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert pod.main(["tasks", "/proc", "self"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert all(len(entry) == 3 for entry in found.values())
    assert found
