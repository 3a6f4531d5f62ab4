"""One measurement: provision, collect, generate, record - undone in reverse.

`Bench` is a node held for one pytest session; `Balloon` a granted allocation on it; `Llm` the instrumented engine
inside one.
"""

from __future__ import annotations
