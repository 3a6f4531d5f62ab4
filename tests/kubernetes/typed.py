"""Commands as a person types them, whose kubeconfig names the double."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.kubernetes.double.cluster import Cluster


def typed(
    cluster: Cluster, folder: Path, words: Sequence[str], kubeconfig: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """`python -m WORDS` in a folder, to its end, by an administrator unless a kubeconfig is given. Not as a CI, where a
    missing baseline fails."""
    file = kubeconfig or cluster.kubeconfig()
    environment = {**os.environ, "KUBECONFIG": str(file), "XDG_CACHE_HOME": str(folder / "cache")}
    for name in ("PYTEST_CURRENT_TEST", "CI", "GITHUB_ACTIONS"):
        environment.pop(name, None)
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
