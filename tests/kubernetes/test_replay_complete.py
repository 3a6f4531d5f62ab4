"""Every recorded exchange is replayed, or the reason why not stands here."""

from __future__ import annotations

import re

import pytest

from tests.kubernetes import (
    test_replay,
    test_replay_exec,
    test_replay_lives,
    test_replay_streams,
    test_replay_timelines,
)

# Pattern of names -> where else it is held to the recording, or why the double cannot be.
ELSEWHERE = {
    r"vm-pod-(a|a2|b|c|none|ok-1|big|composite|device-hint|hide-annotation|loads)": "test_double_placements",
    r"vm-(replicas-4-balanced|fail-.*)": "test_double_placements",
    r"b-ghost-.*|b-recovery-after-free": "test_double: ghosts, and what comes free",
    r"b-group-unlabel": "test_replay_timelines, by another act than a write",
    r"(vm-)?b-rapid-changes": "the pace of a plugin: the double may pass over a change that another one has overtaken",
    r"b-plugin-.*": "a plugin's process: test_double, test_verification",
    r"vm-exec-oom.*": "a kill by the kernel is made by order: test_lost_pods",
}
NOT_SERVED = {
    r"apiserver-restart-readyz": "the double's process does not restart; a server that is away: test_lease",
    r"b-nri-mount-private-fails|b-nrt-deleted-by-hand": "mishaps of an installation",
    r"python-client": "what the official client makes of the answers: it is itself the double's client in test_double",
    r"vm-(besteffort-pile|two-containers|nrt-after-delete)": "pods of others: shared balloons and two containers",
}


@pytest.mark.skipif(test_replay.RECORDED is None, reason="the recordings are not beside the project")
def test_every_recording_is_replayed_or_has_a_reason() -> None:
    assert test_replay.RECORDED is not None
    names = {file.stem for file in test_replay.RECORDED.glob("*.json")}
    replayed = {str(case.id) for cases in (test_replay.recordings(), test_replay.rejections()) for case in cases}
    replayed |= {str(case.id) for case in test_replay_exec.recordings()} | {*test_replay_timelines.names()}
    replayed |= {*test_replay_lives.names(), *test_replay_lives.REFUSED}
    replayed |= {name for name in names if name.startswith(("watch-", "log-"))} - set(test_replay_streams.NOT_REPLAYED)
    reasons = {*test_replay.NOT_SERVED, *test_replay_lives.NOT_LIVED, *test_replay_streams.NOT_REPLAYED}
    reasons |= {*test_replay_exec.NOT_SPOKEN}
    patterns = re.compile("|".join([*ELSEWHERE, *NOT_SERVED]))
    without = {name for name in names - replayed - reasons if not patterns.fullmatch(name)}
    assert not without
    assert not replayed & {name for name in names if patterns.fullmatch(name)}
