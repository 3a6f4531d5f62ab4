"""Snapshots: the part of a machine's sysfs that tells its topology, in one small file for bug reports and tests.

A gzipped tar of the kernel's own text files under their own names (`sys/devices/system/cpu/...`), so that it can also
be unpacked and given to other tools (`HWLOC_FSROOT=DIR lstopo`). Only files named here go in: numbers of CPUs, caches
and NUMA nodes, no serial number, no address, no host name. The same machine gives the same bytes.
"""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zlib
from pathlib import Path

from pytest_nriperf.atomic import replaced
from pytest_nriperf.errors import TopologyError
from pytest_nriperf.topology.sysfs import CPU_FOLDER, FILES, NODE_FOLDER, Read

# Beside the files that are read here: the same sets as bit masks and cache details, which hwloc reads; hyperthread
# state; kinds of cores; what the firmware tells of the memory's speed.
MORE_FILES: tuple[str, ...] = (
    f"{CPU_FOLDER}/possible",
    f"{CPU_FOLDER}/nohz_full",
    f"{CPU_FOLDER}/smt/active",
    f"{CPU_FOLDER}/smt/control",
    f"{CPU_FOLDER}/cpu[0-9]*/cpu_capacity",
    f"{CPU_FOLDER}/cpu[0-9]*/cpufreq/base_frequency",
    f"{CPU_FOLDER}/cpu[0-9]*/cpufreq/cpuinfo_max_freq",
    *(
        f"{CPU_FOLDER}/cpu[0-9]*/topology/{name}"
        for name in (
            "cluster_cpus",
            "cluster_id",
            "core_cpus",
            "core_siblings",
            "die_cpus",
            "package_cpus",
            "thread_siblings",
        )
    ),
    *(
        f"{CPU_FOLDER}/cpu[0-9]*/cache/index[0-9]*/{name}"
        for name in (
            "coherency_line_size",
            "number_of_sets",
            "physical_line_partition",
            "shared_cpu_map",
            "size",
            "ways_of_associativity",
        )
    ),
    f"{NODE_FOLDER}/possible",
    f"{NODE_FOLDER}/has_cpu",
    f"{NODE_FOLDER}/has_memory",
    f"{NODE_FOLDER}/node[0-9]*/cpumap",
    f"{NODE_FOLDER}/node[0-9]*/access[0-9]/initiators/read_bandwidth",
    f"{NODE_FOLDER}/node[0-9]*/access[0-9]/initiators/read_latency",
    f"{NODE_FOLDER}/node[0-9]*/access[0-9]/initiators/write_bandwidth",
    f"{NODE_FOLDER}/node[0-9]*/access[0-9]/initiators/write_latency",
    "/sys/devices/cpu_core/cpus",
    "/sys/devices/cpu_atom/cpus",
)
_LARGEST_FILE = 1 << 16
_LARGEST_SNAPSHOT = 1 << 28


def write_snapshot(file: Path, sysfs: Path = Path("/sys")) -> int:
    """Pack a machine's topology files into `file`, atomically; returns how many. Raises TopologyError when there is
    nothing to pack or the file cannot be written."""
    contents = {}
    for pattern in (*FILES, *MORE_FILES):
        for path in sysfs.glob(pattern.removeprefix("/sys/")):
            content = _read(path)
            if content is not None:
                contents[f"sys/{path.relative_to(sysfs)}"] = _steady(path.name, content)
    if not contents:
        raise TopologyError(f"{sysfs} holds no topology", "give the folder of a sysfs tree, for example /sys")
    try:
        with replaced(file) as temporary:
            temporary.write_bytes(_pack(contents))
    except OSError as error:
        raise TopologyError(f"{file} cannot be written: {error.strerror}", "give another file name") from error
    return len(contents)


def open_snapshot(file: Path) -> Read:
    """A reader of the files in a snapshot. Raises TopologyError when it is none, damaged or unreasonably large."""
    contents: dict[str, bytes] = {}
    total = 0
    try:
        with tarfile.open(file, "r:*") as archive:
            for member in archive:
                total += member.size
                if member.size > _LARGEST_FILE or total > _LARGEST_SNAPSHOT:
                    raise TopologyError(f"{file}: {member.name} is larger than any topology file", "make it again")
                stream = archive.extractfile(member) if member.isfile() else None
                if stream is not None:
                    contents[f"/{member.name.removeprefix('./')}"] = stream.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise TopologyError(
            f"{file} is no snapshot of a topology: {str(error).splitlines()[0]}",
            "make one with: nriperf topology --snapshot FILE",
        ) from error
    return contents.get


def _read(path: Path) -> bytes | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    return content if len(content) <= _LARGEST_FILE else None


def _steady(name: str, content: bytes) -> bytes:
    """Only the total of a node's memory: the rest changes from second to second."""
    if name != "meminfo":
        return content
    return b"".join(line + b"\n" for line in content.splitlines() if re.search(rb"\bMemTotal:", line))


def _pack(contents: dict[str, bytes]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(contents):
            member = tarfile.TarInfo(name)
            member.size = len(contents[name])
            archive.addfile(member, io.BytesIO(contents[name]))
    return gzip.compress(raw.getvalue(), 9, mtime=0)
