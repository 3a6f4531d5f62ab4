"""Boot a machine of a given shape on this machine's own files and run one shell script in it.

The guest sees a read-only copy of the host's file tree with a writable layer in its own memory, so nothing needs to
be built for it and nothing that it does reaches the host. The bind mount that is exported lives in a mount namespace
of QEMU's own and ends with QEMU, however QEMU ends.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.machines.kernel import UP, cache_folder, find_kernel, write_initramfs
from tests.machines.shapes import Shape
from tests.tools import missing, needs

_SILENCE_S = 900.0
# Until the kernel has started `init`. On a busy host an emulated machine now and then hangs before it, and starts the
# next time.
_BOOT_SILENCE_S = 420.0
_BOOTS = 2
_EXIT = "exit status "
# One line for every CPU and feature that software emulation does not have.
_NOISE = "qemu-system-x86_64: warning: TCG doesn't support requested feature"


@dataclass(frozen=True)
class Boot:
    """What a machine left behind: the script's exit status (None: it never came to that), the lines that it wrote to
    its second serial line, its console, and how long all of it took."""

    status: int | None
    lines: list[str]
    console: str
    seconds: float


def boot(shape: Shape, script: str, hear: Callable[[str], None] = lambda _: None) -> Boot:
    """Run a shell script as root in a machine of that shape; `hear` gets each console line as it comes.

    Lines that the script writes to /dev/ttyS1 are the result. A machine that says nothing for 15 minutes is ended;
    one that hangs before its first program runs is booted again.
    """
    qemu = needs("qemu-system-x86_64", package="qemu-system-x86")
    if os.geteuid() != 0:
        missing("test machines need root: the host's files are exported through a bind mount")
    kernel = find_kernel()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="nriperf-machine-") as name:
        folder = Path(name)
        (folder / "root").mkdir()
        write_initramfs(kernel, script, folder / "initramfs")
        results = folder / "results"
        command = [
            *(qemu, *shape.arguments(), "-nographic", "-no-reboot", "-nodefaults", "-serial", "mon:stdio"),
            *("-serial", f"file:{results}"),
            *("-kernel", str(kernel.image), "-initrd", str(folder / "initramfs")),
            *("-append", f"console=ttyS0 quiet panic=-1 {shape.command_line()}"),
            *("-virtfs", _export(folder / "root")),
        ]
        for _ in range(_BOOTS):
            console = _run(_in_own_mounts(command, folder / "root"), hear)
            if UP in console:
                break
        lines = results.read_text(errors="replace").splitlines() if results.exists() else []
    (cache_folder() / f"{shape.name}.console").write_text(console)
    (cache_folder() / f"{shape.name}.results").write_text("\n".join([*lines, ""]))
    status = next((int(line.removeprefix(_EXIT)) for line in lines if line.startswith(_EXIT)), None)
    rest = [line for line in lines if not line.startswith(_EXIT)]
    return Boot(status, rest, console, time.monotonic() - began)


def _export(root: Path) -> str:
    return f"local,path={root},mount_tag=host,security_model=none,readonly=on,multidevs=remap"


def _in_own_mounts(command: Sequence[str], root: Path) -> list[str]:
    """The command in a mount namespace where `root` shows the file system of / and of our own files, and no live
    /proc, /sys or /dev; it is killed when the thread that started it ends."""
    binds = [f"mount --bind / {root}"]
    mounts = {str(_mount_point(path)) for path in (Path.cwd(), Path(sys.prefix), Path(sys.executable).resolve())}
    binds += [f"mount --bind {shlex.quote(point)} {root}{shlex.quote(point)}" for point in sorted(mounts - {"/"})]
    script = " && ".join([*binds, f"exec {shlex.join(command)}"])
    return ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private", "sh", "-ec", script]


def _mount_point(path: Path) -> Path:
    while not path.is_mount():
        path = path.parent
    return path


def _run(command: Sequence[str], hear: Callable[[str], None]) -> str:
    """Run QEMU to its end, or until it falls silent; all that it wrote."""
    for needed in ("setpriv", "unshare"):
        needs(needed, package="util-linux")
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    assert process.stdout is not None
    text, shown = bytearray(), 0
    try:
        while True:
            silence_s = _SILENCE_S if UP.encode() in text else _BOOT_SILENCE_S
            if not select.select([process.stdout], [], [], silence_s)[0]:
                said = f"[nothing for {silence_s:.0f} s: ended]"
                text += f"\n{said}\n".encode()
                hear(said)
                break
            piece = os.read(process.stdout.fileno(), 1 << 16)
            if not piece:
                break
            text += piece
            while (end := text.find(b"\n", shown)) >= 0:
                line = text[shown:end].decode(errors="replace").rstrip()
                if not line.startswith(_NOISE):
                    hear(line)
                shown = end + 1
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    lines = text.decode(errors="replace").replace("\r", "").splitlines()
    return "\n".join(line for line in lines if not line.startswith(_NOISE))
