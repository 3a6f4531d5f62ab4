"""The command line: one file a command, `COMMAND` in each says how it is called.

A command is added by adding its module to `COMMANDS`; nothing else changes. Modules are imported only when their
command is called, so `nriperf --help` stays quick.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from pytest_nriperf.errors import NriperfError
from pytest_nriperf.units import format_lines

# name -> one line of help; the module pytest_nriperf.cli.<name> offers `arguments(parser)` and `run(options) -> int`.
COMMANDS: dict[str, str] = {
    "topology": "sockets, NUMA nodes, cores and hyperthreads of a node, drawn",
    "plan": "which CPUs a balloon would get, drawn",
    "doctor": "what on this node will spoil a measurement, and how to mend it",
    "show": "metrics and the dots (token gaps over time) of a recording, or what a session holds",
    "report": "an HTML page over recordings and sessions: verdicts, dots, fronts, tables; CSV, Markdown and plots",
    "compare": "how far one recording or session lies from another",
    "accept": "take a session into the baselines",
    "judge": "judge stored sessions again, together, by any rule",
    "noise": "what can be detected on a node, with how many runs",
    "export": "run values for other tools",
    "explain": "which counters moved between two recordings, and what that usually means",
    "instrument": "run an unmodified Python program and stamp its tokens",
    "pcm": "a live table of what a pcm-sensor-server counts",
}

EXIT_STATUS = "exit status: 0 done, 1 the answer is no, 2 wrong usage, 3 the environment cannot do it"


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, call, print. Returns the exit status; a user's mistake is one line on standard error, no traceback."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="nriperf",
        description="Performance regression testing of LLM inference on server CPUs.",
        epilog=EXIT_STATUS,
    )
    parsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, line in COMMANDS.items():
        sub = parsers.add_parser(name, help=line, description=line, epilog=EXIT_STATUS)
        if arguments and arguments[0] == name:
            import_module(f"pytest_nriperf.cli.{name}").arguments(sub)
    options = parser.parse_args(arguments)
    try:
        status: int = import_module(f"pytest_nriperf.cli.{options.command}").run(options)
    except NriperfError as error:
        print(f"nriperf {options.command}: {format_lines(error)}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 141
    return status
