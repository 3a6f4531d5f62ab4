"""Verdicts as text, Markdown, annotations and JSON."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import jsonschema
import pytest

from pytest_nriperf.baselines import OUTCOMES, Difference, Verdict
from pytest_nriperf.report.document import SCHEMA, verdict_document
from pytest_nriperf.report.markdown import markdown_summary, workflow_annotations
from pytest_nriperf.report.unseen import Unjudged, Unseen
from pytest_nriperf.report.verdicts import verdict_table

WORSE = Verdict(
    "itl", "worse", "+5.2 % worse (p = 0.001 of 0.01)", unit="s", now=0.0525, baseline=0.05, effect=0.052,
    interval=(0.03, 0.07), p=0.001, alpha=0.01, mde=0.02, runs=5, baseline_runs=20, sessions=1, baseline_sessions=4,
    suspects=(Difference("torch", "2.12", "2.13"),), test="suites/test_chat.py::test_chat",
)  # fmt: skip
UNKNOWN = Verdict(
    "ttft", "unknown", "may be anything", interval=(-1.0, math.inf), mde=math.inf, test="suites/test_x.py::test_x[a|b]",
    advice="measure 9 runs", simulated=True, warnings=("run 3: steal\n::error::oops",),
)  # fmt: skip
SAME = Verdict("e2e", "same", "inside", test="suites/test_x.py::test_x[a|b]")
UNSEEN = Unseen(
    [
        Unjudged("suites/test_y.py::test_y[<b>]", "skipped", "50 % | of it\n::error::oops", sessions=3),
        Unjudged("suites/test_z.py::test_z", "failed", "ValueError"),
    ],
    asking=5,
    baselines=["suites/test_old.py is *not* there"],
)


def test_the_document_follows_its_schema() -> None:
    schema = json.loads(SCHEMA.read_text())
    document = json.loads(
        verdict_document([WORSE, UNKNOWN, SAME], node="xeon1", facts={"rule": "sessions"}, unseen=UNSEEN)
    )
    jsonschema.Draft202012Validator(schema).validate(document)
    assert document["counts"]["worse"] == 1
    assert document["verdicts"][1]["mde"] is None
    assert [one["why"] for one in document["not_judged"]] == ["skipped", "failed"]
    jsonschema.Draft202012Validator(schema).validate(json.loads(verdict_document([])))


def test_the_schema_knows_every_field_and_outcome() -> None:
    schema = json.loads(SCHEMA.read_text())["$defs"]["verdict"]
    assert set(schema["properties"]) == set(schema["required"]) == set(WORSE.as_dict())
    assert set(schema["properties"]["outcome"]["enum"]) == set(OUTCOMES)


def test_a_damaged_document_does_not_follow_it() -> None:
    document = json.loads(verdict_document([WORSE]))
    document["verdicts"][0]["outcome"] = "fine"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, json.loads(SCHEMA.read_text()))


def test_the_table_has_a_line_a_metric_and_says_why() -> None:
    text = "\n".join(verdict_table([WORSE, UNKNOWN, SAME]))
    assert "since the baseline: torch 2.12 -> 2.13" in text
    assert "SIMULATED" in text
    assert "next: measure 9 runs" in text
    assert text.endswith("1 worse, 1 unknown, 1 same")


def test_markdown_escapes_what_comes_from_outside() -> None:
    text = markdown_summary([WORSE, UNKNOWN, SAME], node="<b>xeon|1</b>")
    assert "&lt;b&gt;xeon\\|1&lt;/b&gt;" in text
    assert "test\\_x\\[a\\|b\\]" in text
    assert "**SIMULATED**" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({row.replace("\\|", "").count("|") for row in rows}) == 1


def test_a_baseline_that_begins_is_stored_and_what_all_metrics_share_is_said_once() -> None:
    begun = replace(SAME, outcome="missing", reason="it begins with this session", stored=True)
    text = markdown_summary([begun, replace(begun, metric="itl", warnings=("steal",))])
    assert text.startswith("## Performance: 2 stored")
    assert text.count("✅ stored") == 2
    assert text.count("it begins with this session") == text.count("steal") == 1
    assert "- **suites/test\\_x.py::test\\_x\\[a\\|b\\] · e2e, itl**" in text


def test_markdown_without_verdicts_says_so() -> None:
    assert "nothing to judge" in markdown_summary([])


def test_a_baseline_that_begins_with_this_session_is_no_annotation() -> None:
    missing = replace(SAME, outcome="missing")
    assert len(list(workflow_annotations([missing], fail_on=["worse"]))) == 1
    assert list(workflow_annotations([replace(missing, stored=True)], fail_on=["missing"])) == []


def test_annotations_mark_what_fails_as_error_and_cannot_be_forged() -> None:
    lines = list(workflow_annotations([WORSE, UNKNOWN, SAME], fail_on=["worse"]))
    assert len(lines) == 2
    assert lines[0].startswith("::error file=suites/test_chat.py,title=itl worse::")
    assert lines[1].startswith("::warning ")
    assert all("\n" not in line for line in lines)
    assert "%0A" in lines[1]


def test_what_was_not_judged_is_in_the_summary_and_on_its_test_and_cannot_be_forged() -> None:
    text = markdown_summary([SAME], unseen=UNSEEN)
    assert "<summary>3 of 5 gated tests judged; 1 skipped, 1 failed</summary>" in text
    assert "- suites/test\\_y.py::test\\_y\\[&lt;b&gt;\\] was skipped (50 % \\| of it ::error::oops): " in text
    assert "- suites/test\\_old.py is \\*not\\* there" in text
    line, other = workflow_annotations([SAME], unseen=UNSEEN, folder="perf, all")
    assert other.startswith("::error file=perf%2C all/suites/test_z.py,title=not judged::")
    assert line.startswith(
        "::warning file=perf%2C all/suites/test_y.py,title=not judged::suites/test_y.py::test_y[<b>]"
    )
    assert "(50 %25 | of it%0A::error::oops)" in line


def test_an_annotation_shows_no_control_characters() -> None:
    (line,) = workflow_annotations([replace(WORSE, reason="\x1b[31m \x00 \u202e red\r\nnext")])
    assert line.isprintable()
    assert "?[31m ? ? red%0D%0Anext" in line
