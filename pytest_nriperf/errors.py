"""Every error that a user can meet. One tree; the message names the thing, the fact and the next step.

    NriperfError
      UsageError              what was asked for cannot be asked for (exit status 2)
        SettingsError           a configuration file or profile
        SpecError               a balloon, llm, gate or sweep argument
      EnvironmentFault        this machine, node or cluster cannot do it (exit status 3)
        TopologyError           the machine's description cannot be read
        PlacementError          the balloons do not fit
        NodeBusyError           another measurement holds the node
        ProvisionError          the allocation could not be made or undone
          NotHonouredError        it was made, and the kernel says otherwise
        WorkerError             the engine's process: died, hung, spoke garbage
          ModelError              the model does not exist or cannot be loaded
          MemoryFault             the kernel ended it for lack of memory
        CollectorError          a counter source cannot be read
      RecordingError          a recording is damaged, truncated or of an unknown version
      BaselineError           a baseline file is damaged or refuses a change

Foreign exceptions are translated where the foreign library is called, `raise ... from error`.
"""

from __future__ import annotations

import re


class NriperfError(Exception):
    """An error with its next step.

    `fact` names the thing and what is true of it; `next_step` says what the reader can do now.

    >>> str(NriperfError("node xeon1 has 12 free CPUs, 16 were asked for", "ask for fewer"))
    'node xeon1 has 12 free CPUs, 16 were asked for; ask for fewer'
    """

    exit_status = 3

    def __init__(self, fact: str, next_step: str = "") -> None:
        super().__init__(f"{fact}; {next_step}" if next_step else fact)
        self.fact = fact
        self.next_step = next_step


class UsageError(NriperfError):
    """What was asked for cannot be asked for."""

    exit_status = 2


class SettingsError(UsageError):
    """A configuration file or node profile is wrong."""


class SpecError(UsageError):
    """An argument of a mark (balloon, llm, gate, sweep, requires_node) is wrong."""


class EnvironmentFault(NriperfError):
    """The machine, node or cluster cannot do it."""


class TopologyError(EnvironmentFault):
    """The machine's description cannot be read."""


class PlacementError(EnvironmentFault):
    """The balloons do not fit on the node."""


class NodeBusyError(EnvironmentFault):
    """Another measurement holds the node."""


class ProvisionError(EnvironmentFault):
    """The allocation could not be made, or not be undone."""


class NotHonouredError(ProvisionError):
    """The allocation was made, and the kernel's own view says otherwise."""


class WorkerError(EnvironmentFault):
    """The engine's process died, hung or spoke garbage."""


class ModelError(WorkerError):
    """The model does not exist or cannot be loaded."""


class MemoryFault(WorkerError):
    """The kernel ended the engine for lack of memory."""


def worker_ended(where: str, how: str) -> WorkerError:
    """The error for a worker that ended by itself, from `how` it ended in words (of `WorkerStream.close`).

    >>> print(worker_ended("the worker of replica 0 ended while loading", "ended with status 3"))
    the worker of replica 0 ended while loading: ended with status 3; run the same model by hand on the node to see more
    """
    verdict = how.partition("\n")[0]  # what follows are the engine's own last words, which prove nothing
    known = re.search(r"out of memory|OOM", verdict)
    excluded = "no kill for lack of memory" in verdict
    if not known and (excluded or not re.search(r"SIGKILL|signal 9|status 137", verdict)):
        return WorkerError(f"{where}: {how}", "run the same model by hand on the node to see more")
    guess = "" if known else " (nobody here sent SIGKILL: most likely the kernel, for lack of memory)"
    return MemoryFault(
        f"{where}: {how}{guess}",
        "raise the limit, use a smaller model or dtype or fewer replicas, or let memory='any' use other NUMA nodes",
    )


class CollectorError(EnvironmentFault):
    """A counter source cannot be read."""


class RecordingError(NriperfError):
    """A recording is damaged, truncated or of an unknown version."""


class BaselineError(NriperfError):
    """A baseline file is damaged, or refuses a change."""
