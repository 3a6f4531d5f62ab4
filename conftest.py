"""Root of the test session. The plugin itself is found by its entry point; naming it here again would abort pytest."""

from __future__ import annotations

pytest_plugins = ["pytester"]
