"""A kernel for test machines: Debian's, unpacked into a cache and never installed, and a first root for it."""

from __future__ import annotations

import gzip
import lzma
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.tools import missing, needs

_PACKAGE = "linux-image-amd64"

# In the order in which they are loaded. Names that a kernel has built in or no longer has are left out.
_MODULES = (
    *("virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci"),
    *("netfs", "fscache", "9pnet", "9pnet_virtio", "9p", "overlay"),
)

# What the first program says first.
UP = "machine is up"
# busybox takes over as the first process, lays a writable layer over the host's files and runs one command in it.
_INIT = """#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
echo "machine is up" > /dev/ttyS0
for module in $(cat /modules/order); do insmod /modules/$module.ko; done
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro host /host
mount -t tmpfs -o size=50% upper /upper
mkdir /upper/files /upper/work
mount -t overlay -o lowerdir=/host,upperdir=/upper/files,workdir=/upper/work overlay /root
for kind in proc sysfs devtmpfs; do
    case $kind in proc) at=proc;; sysfs) at=sys;; devtmpfs) at=dev;; esac
    mount -t $kind $kind /root/$at
done
mkdir -p /root/dev/pts /root/dev/shm
mount -t devpts devpts /root/dev/pts
mount -t tmpfs -o mode=1777 shm /root/dev/shm
mount -t tmpfs -o mode=1777 tmp /root/tmp
# A checkout below /tmp would be hidden by that.
checkout=$(cat /checkout)
case $checkout in /tmp/*)
    mkdir -p /upper/checkout /upper/checking /root$checkout
    mount -t overlay -o lowerdir=/host$checkout,upperdir=/upper/checkout,workdir=/upper/checking overlay /root$checkout
esac
mount -t tmpfs -o mode=755 run /root/run
mount -t cgroup2 cgroup2 /root/sys/fs/cgroup
ip link set lo up
cat /command > /root/tmp/command
chroot /root /bin/bash /tmp/command > /dev/ttyS0 2>&1
echo "exit status $?" > /dev/ttyS1
poweroff -f
"""


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel: its image and the folder of its modules."""

    release: str
    image: Path
    modules: Path


def cache_folder() -> Path:
    """Where unpacked kernels and the consoles of the last boots are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "nriperf-machines"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def find_kernel() -> Kernel:
    """The newest unpacked kernel, else the distribution's current one, downloaded and unpacked."""
    return _unpacked() or _download()


def _unpacked() -> Kernel | None:
    for folder in sorted(cache_folder().glob("linux-image-*-amd64"), reverse=True):
        images = list(folder.glob("boot/vmlinuz-*"))
        if images:
            release = images[0].name.removeprefix("vmlinuz-")
            modules = next(path for path in (folder / "lib", folder / "usr/lib") if path.exists())
            return Kernel(release, images[0], modules / "modules" / release / "kernel")
    return None


def _download() -> Kernel:
    needs("apt-get", package="apt")
    depends = subprocess.run(["apt-cache", "depends", _PACKAGE], capture_output=True, text=True, check=False).stdout
    match = re.search(r"Depends: (linux-image-\S+)", depends)
    if match is None:
        missing(f"no kernel for test machines: apt knows no {_PACKAGE}; apt-get update")
    with tempfile.TemporaryDirectory(dir=cache_folder()) as folder:
        done = subprocess.run(
            # Without the sandbox user, who may not write into root's cache.
            ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", match[1]],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        packages = list(Path(folder).glob("*.deb"))
        if not packages:
            missing(f"{match[1]} cannot be downloaded: {done.stderr.strip()[-300:]}")
        subprocess.run(["dpkg", "-x", packages[0], f"{folder}/tree"], check=True)
        os.replace(f"{folder}/tree", cache_folder() / match[1])
    kernel = _unpacked()
    assert kernel is not None
    return kernel


def write_initramfs(kernel: Kernel, command: str, target: Path) -> None:
    """The first root of a guest: busybox, modules, `init`, and the shell script that it runs on the host's files."""
    busybox = needs("busybox", package="busybox-static")
    if "=>" in subprocess.run(["ldd", busybox], capture_output=True, text=True, check=False).stdout:
        missing(f"{busybox} needs a dynamic loader: apt-get install busybox-static")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("bin", "proc", "sys", "dev", "host", "upper", "root", "modules"):
            (folder / part).mkdir()
        shutil.copy(busybox, folder / "bin/busybox")
        order = [module for module in _MODULES if _copy_module(kernel, module, folder / "modules")]
        (folder / "modules/order").write_text("\n".join(order) + "\n")
        (folder / "command").write_text(command)
        (folder / "checkout").write_text(str(Path(__file__).resolve().parents[2]))
        (folder / "init").write_text(_INIT)
        (folder / "init").chmod(0o755)
        names = "\n".join(sorted(str(path.relative_to(folder)) for path in folder.rglob("*")))
        packed = subprocess.run(
            [needs("cpio", package="cpio"), "--quiet", "-o", "-H", "newc"],
            cwd=folder,
            input=names.encode(),
            capture_output=True,
            check=True,
        )
        target.write_bytes(gzip.compress(packed.stdout, 1))


def _copy_module(kernel: Kernel, name: str, folder: Path) -> bool:
    for file in kernel.modules.rglob(f"{name}.ko*"):
        content = file.read_bytes()
        (folder / f"{name}.ko").write_bytes(lzma.decompress(content) if file.suffix == ".xz" else content)
        return True
    return False
