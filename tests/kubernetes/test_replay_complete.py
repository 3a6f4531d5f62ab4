"""Every recorded exchange is replayed, or the reason why not stands here."""

from __future__ import annotations

import re

import pytest

from tests.kubernetes import test_replay, test_replay_lives, test_replay_streams

# Pattern of names -> where else it is held to the recording, or why the double cannot be.
ELSEWHERE = {
    r"vm-(placements|types\d|pod-(a|a2|b|c|none|ok-1|big|composite|device-hint|hide-annotation|loads))": "placements: "
    "test_double_placements",
    r"vm-(replicas-4-balanced|fail-.*)": "test_double_placements",
    r"(b-ghost-.*|ghost-.*|b-recovery-after-free)": "test_double: ghosts, and what comes free",
    r"b-(default-(create|delete|while-grouped)|(node|group)-.*)": "timelines of verdicts: test_double",
    r"(vm-)?b-rapid-changes|b-plugin-.*|plugin-0": "timelines of a plugin: test_double",
    r"vm-reconfig-.*": "live changes below running pods: not made by us, the double moves what it can",
    r"(exec|vm-exec)-oom.*": "a kill by the kernel: test_lost_pods, by order",
    r"exec-(as-client|forbidden|rbac-.*)": "rights: test_cluster_commands, a verb missing at a time",
    r"exec-(client-close.*|tcp-drop-after|pod-deleted)": "connections that end: test_pod_relay, test_lost_pods",
    r"exec-(big-output|many-writes|status-of-affinity|ping|idle-20s)": "size and pace of frames: test_double",
}
NOT_SERVED = {
    r"apiserver-restart-readyz|b-after-apiserver-restart.*": "the double does not restart",
    r"b-nri-mount-private-fails|b-nrt-deleted-by-hand": "mishaps of an installation",
    r"exec-(tty-.*|empty-command|stdin-close-v4|waiting-pod)": "terminals, and commands that are never sent",
    r"misc-0|stop-0|plugin-metrics": "states of the recorder, the plugin's metrics",
    r"python-client": "what the client made of it: the client itself is used",
    r"vm-(besteffort-pile|two-containers|nrt-after-delete)": "pods of others: shared balloons and two containers",
}


@pytest.mark.skipif(test_replay.RECORDED is None, reason="the recordings are not beside the project")
def test_every_recording_is_replayed_or_has_a_reason() -> None:
    assert test_replay.RECORDED is not None
    names = {file.stem for file in test_replay.RECORDED.glob("*.json")}
    replayed = {str(case.id) for cases in (test_replay.recordings(), test_replay.rejections()) for case in cases}
    replayed |= {f"exec-{case.id}" for case in test_replay.executions()}
    replayed |= {*test_replay_lives.names(), *test_replay_lives.REFUSED}
    replayed |= {name for name in names if name.startswith(("watch-", "log-"))} - set(test_replay_streams.NOT_REPLAYED)
    reasons = {*test_replay.NOT_SERVED, *test_replay_lives.NOT_LIVED, *test_replay_streams.NOT_REPLAYED}
    patterns = re.compile("|".join([*ELSEWHERE, *NOT_SERVED]))
    without = {name for name in names - replayed - reasons if not patterns.fullmatch(name)}
    assert not without
    assert not replayed & {name for name in names if patterns.fullmatch(name)}
