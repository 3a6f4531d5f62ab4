"""The terminal that progress is written to, past pytest's capturing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest


class Screen:
    """The terminal of a pytest session; nothing is shown where nobody wants to see it (pytest -q)."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
        # Where lines can be rewritten.
        self.terminal = bool(self._reporter and self._reporter.isatty and not os.environ.get("CI"))

    def write(self, text: str) -> None:
        """Text as it is, carriage returns included."""
        with self._seen() as reporter:
            reporter.write(text, flush=True)

    def fresh_line(self) -> None:
        """Make sure that a line begins."""
        with self._seen() as reporter:
            reporter.ensure_newline()

    @contextlib.contextmanager
    def _seen(self) -> Iterator[Any]:
        """The terminal, while pytest does not capture what is written to it."""
        capture: Any = self._config.pluginmanager.get_plugin("capturemanager")
        if self._reporter is None or self._config.get_verbosity() < 0:
            yield _Nowhere()
        elif capture is None:
            yield self._reporter
        else:
            with capture.global_and_fixture_disabled():
                yield self._reporter


class _Nowhere:
    """Where progress goes when nobody wants to see it."""

    def write(self, text: str, *, flush: bool) -> None:
        """Forget it."""

    def ensure_newline(self) -> None:
        """Nothing to end."""
