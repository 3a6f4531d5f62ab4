"""The worker as one zip: the files that travel into any image with Python 3.9 or newer."""

from __future__ import annotations

import io
import zipfile
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
# Whole folders and single files below the package.
TRAVELS = (
    "generate/child",
    "collect",
    "generate/__init__.py",
    "__init__.py",
    "errors.py",
    "units.py",
    "owner.py",
    "seams.py",
)
_START = """\
import sys

if sys.version_info < (3, 9):
    sys.exit("the worker of pytest-nriperf needs Python 3.9 or newer, this is " + sys.version.split()[0])
if sys.argv[1:] == ["observe"]:
    from pytest_nriperf.collect.observer import main
else:
    from pytest_nriperf.generate.child.start import main

sys.exit(main())
"""
_EPOCH = (1980, 1, 1, 0, 0, 0)


@cache
def worker_archive() -> bytes:
    """The archive, the same bytes for the same files. `python ARCHIVE` is a worker, `... observe` reads counters."""
    files = {
        f"{PACKAGE.name}/{path.relative_to(PACKAGE).as_posix()}": path.read_bytes()
        for name in TRAVELS
        for path in ((PACKAGE / name).rglob("*.py") if (PACKAGE / name).is_dir() else [PACKAGE / name])
    }
    files["__main__.py"] = _START.encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), files[name], zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
